#include "bind/util.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What is longer than 3,000 years is for ever. */
#define SECONDS_MAX 1e11

void hf_bind_functions(lua_State *L, const luaL_Reg *functions)
{
	for (; functions->name; functions++) {
		lua_pushcfunction(L, functions->func);
		lua_setfield(L, -2, functions->name);
	}
}

void hf_bind_class(lua_State *L, const char *class, const luaL_Reg *meta, const luaL_Reg *methods)
{
	if (luaL_newmetatable(L, class)) {
		hf_bind_functions(L, meta);
		lua_pushstring(L, class);
		lua_setfield(L, -2, "__name");
		lua_newtable(L);
		hf_bind_functions(L, methods);
		lua_setfield(L, -2, "__index");
	}
	lua_pop(L, 1);
}

int hf_bind_fail(lua_State *L, const struct hf_error *err)
{
	lua_pushnil(L);
	lua_pushstring(L, err->message);
	lua_pushstring(L, hf_err_code(err->code));
	return 3;
}

int hf_bind_waited(lua_State *L, bool over, const struct hf_error *err)
{
	if (!over && err->code)
		return hf_bind_fail(L, err);
	if (over)
		lua_pushboolean(L, 1);
	else
		lua_pushnil(L);
	return 1;
}

int hf_bind_fd(lua_State *L, int fd, const struct hf_error *err)
{
	if (fd < 0)
		return hf_bind_fail(L, err);
	lua_pushinteger(L, fd);
	return 1;
}

int64_t hf_bind_timeout(lua_State *L, int index)
{
	double seconds = luaL_optnumber(L, index, -1);

	if (lua_isnoneornil(L, index) || seconds > SECONDS_MAX)
		return -1;
	luaL_argcheck(L, seconds >= 0, index, "a timeout is not negative");
	return (int64_t)ceil(seconds * 1000);
}

void hf_bind_push_index(lua_State *L, uint64_t value)
{
#if LUA_VERSION_NUM >= 503
	lua_pushinteger(L, (lua_Integer)value);
#else
	lua_pushnumber(L, (lua_Number)value);
#endif
}

void **hf_bind_box(lua_State *L, const char *class)
{
#if LUA_VERSION_NUM >= 504
	void **slot = lua_newuserdatauv(L, sizeof *slot, 0);
#else
	void **slot = lua_newuserdata(L, sizeof *slot);
#endif

	*slot = NULL;
	luaL_getmetatable(L, class);
	lua_setmetatable(L, -2);
	return slot;
}

void *hf_bind_check(lua_State *L, int index, const char *class)
{
	void **slot = luaL_checkudata(L, index, class);

	if (!*slot)
		luaL_argerror(L, index, "already collected");
	return *slot;
}

void *hf_bind_test(lua_State *L, int index, const char *class)
{
	void **slot = lua_touserdata(L, index);
	bool same;

	if (!slot || !lua_getmetatable(L, index))
		return NULL;
	luaL_getmetatable(L, class);
	same = lua_rawequal(L, -1, -2);
	lua_pop(L, 2);
	return same ? *slot : NULL;
}

/* ---- descriptors ---- */

struct hf_bind_fds hf_bind_fds(lua_State *L, int index)
{
	struct hf_bind_fds list = {0};

	luaL_checktype(L, index, LUA_TTABLE);
	list.count = lua_rawlen(L, index);
	if (!list.count)
		return list;
	list.fds = lua_newuserdata(L, list.count * sizeof *list.fds);
	list.ready = lua_newuserdata(L, list.count * sizeof *list.ready);
	for (size_t i = 0; i < list.count; i++) {
		lua_rawgeti(L, index, (int)i + 1);
		list.fds[i] = (int)lua_tointeger(L, -1);
		lua_pop(L, 1);
	}
	return list;
}

int hf_bind_ready(lua_State *L, const struct hf_bind_fds *fds)
{
	lua_newtable(L);
	for (size_t i = 0; i < fds->count; i++) {
		if (!fds->ready[i])
			continue;
		lua_pushboolean(L, 1);
		lua_rawseti(L, -2, fds->fds[i]);
	}
	return 1;
}

/* ---- fields of tables ---- */

uint64_t hf_bind_u64(lua_State *L, int index, const char *name)
{
	const char *text = hf_bind_text(L, index, name, NULL);
	uint64_t value;
	char *end;

	if (!text)
		return 0;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || *end || text[0] < '0' || text[0] > '9')
		luaL_error(L, "%s: a whole number of 64 bits expected, as text", name);
	return value;
}

const char *hf_bind_text(lua_State *L, int index, const char *name, size_t *len)
{
	const char *text = NULL;
	int type;

	lua_getfield(L, index, name);
	type = lua_type(L, -1);
	if (type == LUA_TSTRING)
		text = lua_tolstring(L, -1, len);
	else if (type != LUA_TNIL)
		luaL_error(L, "%s: a string expected", name);
	lua_pop(L, 1);
	return text;
}

const char *hf_bind_need_text(lua_State *L, int index, const char *name, size_t *len)
{
	const char *text = hf_bind_text(L, index, name, len);

	if (!text)
		luaL_error(L, "%s is missing", name);
	return text;
}

int64_t hf_bind_duration(lua_State *L, int index, const char *name, int64_t absent)
{
	int64_t ms = absent;

	lua_getfield(L, index, name);
	if (!lua_isnil(L, -1)) {
		double seconds = luaL_checknumber(L, -1);

		if (!(seconds >= 0))
			luaL_error(L, "%s: a number of seconds expected", name);
		if (seconds > SECONDS_MAX)
			seconds = SECONDS_MAX;
		ms = (int64_t)ceil(seconds * 1000);
	}
	lua_pop(L, 1);
	return ms;
}

bool hf_bind_flag(lua_State *L, int index, const char *name)
{
	bool flag;

	lua_getfield(L, index, name);
	flag = lua_toboolean(L, -1);
	lua_pop(L, 1);
	return flag;
}

struct hf_list hf_bind_list(lua_State *L, int index, const char *name)
{
	struct hf_list list = {NULL, 0};
	int table;

	lua_getfield(L, index, name);
	if (lua_isnil(L, -1))
		return list;
	table = lua_gettop(L);
	luaL_checktype(L, table, LUA_TTABLE);
	list.count = lua_rawlen(L, table);
	list.items = lua_newuserdata(L, (list.count + 1) * sizeof *list.items);
	for (size_t i = 0; i < list.count; i++) {
		lua_rawgeti(L, table, (int)i + 1);
		if (lua_type(L, -1) != LUA_TSTRING)
			luaL_error(L, "%s: a list of strings expected", name);
		list.items[i] = lua_tostring(L, -1); /* the table has it */
		lua_pop(L, 1);
	}
	return list;
}
