/* bind_module.c: the table that require "holdfast.core" answers, and helpers of the bindings. */
#include "bind.h"

#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

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

	if (lua_isnoneornil(L, index) || seconds > 1e12)
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

/* ---- fields of tables ---- */

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

		if (!(seconds >= 0 && seconds < 1e12))
			luaL_error(L, "%s: a number of seconds expected", name);
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

/* ---- functions ---- */

static int l_now(lua_State *L)
{
	lua_pushnumber(L, hf_clock_seconds());
	return 1;
}

static int l_time(lua_State *L)
{
	lua_pushnumber(L, hf_wall_seconds());
	return 1;
}

static int l_random(lua_State *L)
{
	lua_Integer n = luaL_checkinteger(L, 1);
	char bytes[256];

	luaL_argcheck(L, n >= 0 && n <= (lua_Integer)sizeof bytes, 1, "0 to 256 bytes");
	if (!hf_random(bytes, (size_t)n))
		return luaL_error(L, "no random bytes to be had");
	lua_pushlstring(L, bytes, (size_t)n);
	return 1;
}

static int l_base64_encode(lua_State *L)
{
	size_t len;
	const char *text = luaL_checklstring(L, 1, &len);
	char *out = lua_newuserdata(L, HF_BASE64_ENCODED(len) + 1);

	lua_pushlstring(L, out, hf_base64_encode(text, len, out));
	return 1;
}

static int l_base64_decode(lua_State *L)
{
	size_t len, out_len;
	const char *text = luaL_checklstring(L, 1, &len);
	unsigned char *out = lua_newuserdata(L, len / 4 * 3 + 3);

	if (!hf_base64_decode(text, len, out, &out_len))
		return 0;
	lua_pushlstring(L, (const char *)out, out_len);
	return 1;
}

static int l_hmac_sha256(lua_State *L)
{
	size_t key_len, len;
	const char *key = luaL_checklstring(L, 1, &key_len);
	const char *data = luaL_checklstring(L, 2, &len);
	unsigned char out[HF_HMAC_LEN];

	if (!hf_hmac_sha256(key, key_len, data, len, out))
		return luaL_error(L, "HMAC-SHA256 failed");
	lua_pushlstring(L, (const char *)out, sizeof out);
	return 1;
}

static const unsigned char *check_bytes(lua_State *L, int index, size_t want)
{
	size_t len;
	const char *bytes = luaL_checklstring(L, index, &len);

	luaL_argcheck(L, len == want, index, "wrong length");
	return (const unsigned char *)bytes;
}

static int l_ed25519_sign(lua_State *L)
{
	size_t len;
	const unsigned char *seed = check_bytes(L, 1, HF_ED25519_SEED_LEN);
	const char *data = luaL_checklstring(L, 2, &len);
	unsigned char out[HF_ED25519_SIGNATURE_LEN];

	if (!hf_ed25519_sign(seed, data, len, out))
		return luaL_error(L, "ed25519 signing failed");
	lua_pushlstring(L, (const char *)out, sizeof out);
	return 1;
}

static int l_ed25519_verify(lua_State *L)
{
	size_t len, sig_len;
	const unsigned char *pub = check_bytes(L, 1, HF_ED25519_PUBLIC_LEN);
	const char *data = luaL_checklstring(L, 2, &len);
	const char *sig = luaL_checklstring(L, 3, &sig_len);

	lua_pushboolean(L, sig_len == HF_ED25519_SIGNATURE_LEN &&
				   hf_ed25519_verify(pub, data, len, (const unsigned char *)sig));
	return 1;
}

static int l_equal(lua_State *L)
{
	size_t a_len, b_len;
	const char *a = luaL_checklstring(L, 1, &a_len);
	const char *b = luaL_checklstring(L, 2, &b_len);

	lua_pushboolean(L, a_len == b_len && hf_equal(a, b, a_len));
	return 1;
}

static int l_poll(lua_State *L)
{
	int64_t timeout = hf_bind_timeout(L, 2);
	size_t n;
	int *fds;
	bool *ready;

	luaL_checktype(L, 1, LUA_TTABLE);
	n = lua_rawlen(L, 1);
	fds = lua_newuserdata(L, n * sizeof *fds + 1);
	ready = lua_newuserdata(L, n * sizeof *ready + 1);
	for (size_t i = 0; i < n; i++) {
		lua_rawgeti(L, 1, (int)i + 1);
		fds[i] = (int)lua_tointeger(L, -1);
		lua_pop(L, 1);
	}
	if (hf_poll(fds, n, timeout, ready) < 0)
		return luaL_error(L, "poll: %s", strerror(errno));
	lua_newtable(L);
	for (size_t i = 0; i < n; i++) {
		if (ready[i]) {
			lua_pushboolean(L, 1);
			lua_rawseti(L, -2, fds[i]);
		}
	}
	return 1;
}

static const luaL_Reg functions[] = {
	{"now", l_now},
	{"time", l_time},
	{"random", l_random},
	{"base64_encode", l_base64_encode},
	{"base64_decode", l_base64_decode},
	{"hmac_sha256", l_hmac_sha256},
	{"ed25519_sign", l_ed25519_sign},
	{"ed25519_verify", l_ed25519_verify},
	{"equal", l_equal},
	{"poll", l_poll},
	{NULL, NULL},
};

/* A worker thread runs this code for as long as it lives, and lua_close unloads a module without
 * asking. LuaRocks' builtin build cannot pass -z nodelete, so the library takes a reference on
 * itself that nobody gives back. */
static void pin(void)
{
	Dl_info info;
	void *self;

	if (!dladdr((void *)&pin, &info) || !info.dli_fname)
		return;
	self = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
	if (self)
		dlclose(self);
}

EXPORT int luaopen_holdfast_core(lua_State *L);

int luaopen_holdfast_core(lua_State *L)
{
	pin();
#if LUA_VERSION_NUM >= 502
	luaL_checkversion(L);
#endif
	hf_bind_lock(L);
	hf_bind_op(L);
	lua_newtable(L);
	hf_bind_functions(L, functions);
	hf_bind_client(L);
	lua_pushliteral(L, HF_VERSION);
	lua_setfield(L, -2, "_VERSION");
	return 1;
}
