/* json.c: JSON as Lua sees it. Integers are exact: what this Lua's numbers do not hold is a decimal
 * string. */
#include "bind/util.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HF_JSON_CLASS "holdfast.json"
#define EXACT_MAX 9007199254740992.0 /* 2^53 */
#define DEPTH_MAX 200

/* What an array without elements is written for. */
static const char empty_array = 0;

/* ---- reading ---- */

static bool holds(long long value)
{
#if LUA_VERSION_NUM >= 503
	(void)value;
	return true;
#else
	return value >= -(long long)EXACT_MAX && value <= (long long)EXACT_MAX;
#endif
}

static void push_integer(lua_State *L, const char *digits)
{
	long long value;

	errno = 0;
	value = strtoll(digits, NULL, 10);
	if (errno == 0 && holds(value))
		lua_pushinteger(L, (lua_Integer)value);
	else
		lua_pushstring(L, digits);
}

static void push_number(lua_State *L, double value)
{
	if (value == floor(value) && fabs(value) <= EXACT_MAX)
		lua_pushinteger(L, (lua_Integer)value);
	else
		lua_pushnumber(L, value);
}

static void push(lua_State *L, const struct cJSON *json);

static void push_array(lua_State *L, const struct cJSON *item)
{
	lua_newtable(L);
	for (int i = 1; item; item = hf_json_next(item), i++) {
		push(L, item);
		lua_rawseti(L, -2, i);
	}
}

static void push_object(lua_State *L, const struct cJSON *item)
{
	lua_newtable(L);
	for (; item; item = hf_json_next(item)) {
		lua_pushstring(L, hf_json_name(item));
		push(L, item);
		lua_rawset(L, -3);
	}
}

/* As deep as the parser lets it be. */
static void push(lua_State *L, const struct cJSON *json)
{
	struct hf_json_value value;

	luaL_checkstack(L, 4, "JSON");
	hf_json_look(json, &value);
	switch (value.kind) {
	case HF_JSON_ARRAY:
		push_array(L, value.first);
		break;
	case HF_JSON_OBJECT:
		push_object(L, value.first);
		break;
	case HF_JSON_STRING:
		lua_pushstring(L, value.text);
		break;
	case HF_JSON_INTEGER:
		push_integer(L, value.text);
		break;
	case HF_JSON_NUMBER:
		push_number(L, value.number);
		break;
	case HF_JSON_NULL:
		lua_pushnil(L);
		break;
	default:
		lua_pushboolean(L, value.kind == HF_JSON_TRUE);
	}
}

static int l_free(lua_State *L)
{
	void **slot = luaL_checkudata(L, 1, HF_JSON_CLASS);

	hf_json_free(*slot);
	*slot = NULL;
	return 0;
}

/* json_decode(text): the value (nil for null, which is nothing in a table either); nil, message,
 * "PROTOCOL" when it is no JSON. */
static int l_json_decode(lua_State *L)
{
	const struct hf_error err = {HF_PROTOCOL, "not JSON"};
	size_t len;
	const char *text = luaL_checklstring(L, 1, &len);
	void **slot = hf_bind_box(L, HF_JSON_CLASS);

	*slot = hf_json_parse(text, len);
	if (!*slot)
		return hf_bind_fail(L, &err);
	push(L, *slot);
	hf_json_free(*slot);
	*slot = NULL;
	return 1;
}

/* ---- writing ---- */

/* A text that grows; its memory is a userdata, so that nothing leaks when Lua raises. */
struct text {
	lua_State *L;
	int slot; /* where on the stack */
	char *data;
	size_t len, size;
};

/* Room for len bytes more. */
static char *reserve(struct text *t, size_t len)
{
	if (t->size - t->len < len) {
		size_t size = t->size * 2 + len;
		char *more = lua_newuserdata(t->L, size);

		memcpy(more, t->data, t->len);
		lua_replace(t->L, t->slot);
		t->data = more;
		t->size = size;
	}
	return t->data + t->len;
}

static void add(struct text *t, const char *piece)
{
	size_t len = strlen(piece);

	memcpy(reserve(t, len), piece, len);
	t->len += len;
}

static void add_string(struct text *t, int index)
{
	size_t len, written;
	const char *string = lua_tolstring(t->L, index, &len);

	written = hf_json_quote(string, len, reserve(t, HF_JSON_QUOTED(len)));
	if (!written)
		luaL_error(t->L, "JSON: a string that is not UTF-8");
	t->len += written;
}

static void add_number(struct text *t, int index)
{
	double value = lua_tonumber(t->L, index);
	char digits[64], *comma;

#if LUA_VERSION_NUM >= 503
	if (lua_isinteger(t->L, index)) {
		snprintf(digits, sizeof digits, "%lld", (long long)lua_tointeger(t->L, index));
		add(t, digits);
		return;
	}
#endif
	if (!isfinite(value))
		luaL_error(t->L, "JSON: a number that is not finite");
	snprintf(digits, sizeof digits,
		 fabs(value) <= EXACT_MAX && value == floor(value) ? "%.0f" : "%.17g", value);
	comma = strchr(digits, ','); /* what some locales have for a point */
	if (comma)
		*comma = '.';
	add(t, digits);
}

static void add_value(struct text *t, int index, int depth);

static void add_array(struct text *t, int index, int depth)
{
	size_t count = lua_rawlen(t->L, index);

	add(t, "[");
	for (size_t i = 1; i <= count; i++) {
		if (i > 1)
			add(t, ",");
		lua_rawgeti(t->L, index, (int)i);
		add_value(t, lua_gettop(t->L), depth);
		lua_pop(t->L, 1);
	}
	add(t, "]");
}

static void add_object(struct text *t, int index, int depth)
{
	const char *comma = "";

	add(t, "{");
	lua_pushnil(t->L);
	while (lua_next(t->L, index)) {
		int value = lua_gettop(t->L);

		add(t, comma);
		add_string(t, value - 1);
		add(t, ":");
		add_value(t, value, depth);
		lua_pop(t->L, 1);
		comma = ",";
	}
	add(t, "}");
}

/* Whether all keys of a table are numbers from 1 on, or all of them strings: an object. */
static bool is_array(lua_State *L, int index)
{
	size_t count = 0, names = 0, len = lua_rawlen(L, index);

	lua_pushnil(L);
	while (lua_next(L, index)) {
		lua_pop(L, 1);
		count++;
		names += lua_type(L, -1) == LUA_TSTRING;
	}
	if (names != count && (names || len != count))
		luaL_error(L, "JSON: a table that is neither a list without holes nor has "
			      "names only");
	return names != count;
}

static void add_value(struct text *t, int index, int depth)
{
	int type = lua_type(t->L, index);

	luaL_checkstack(t->L, 6, "JSON");
	if (type == LUA_TSTRING) {
		add_string(t, index);
	} else if (type == LUA_TNUMBER) {
		add_number(t, index);
	} else if (type == LUA_TBOOLEAN) {
		add(t, lua_toboolean(t->L, index) ? "true" : "false");
	} else if (lua_touserdata(t->L, index) == &empty_array) {
		add(t, "[]");
	} else if (type != LUA_TTABLE) {
		luaL_error(t->L, "JSON: a %s", lua_typename(t->L, type));
	} else if (depth == DEPTH_MAX) {
		luaL_error(t->L, "JSON: a table that is too deep, or in itself");
	} else if (is_array(t->L, index)) {
		add_array(t, index, depth + 1);
	} else {
		add_object(t, index, depth + 1);
	}
}

/* json_encode(value): its text. Raises for what has none. An empty table is an object, and
 * core.empty_array an array. */
static int l_json_encode(lua_State *L)
{
	struct text t = {.L = L, .slot = 2};

	luaL_checkany(L, 1);
	lua_settop(L, 1);
	t.size = 256;
	t.data = lua_newuserdata(L, t.size);
	add_value(&t, 1, 0);
	lua_pushlstring(L, t.data, t.len);
	return 1;
}

void hf_bind_json(lua_State *L)
{
	static const luaL_Reg meta[] = {{"__gc", l_free}, {NULL, NULL}};
	static const luaL_Reg methods[] = {{NULL, NULL}};
	static const luaL_Reg functions[] = {
		{"json_decode", l_json_decode},
		{"json_encode", l_json_encode},
		{NULL, NULL},
	};

	hf_bind_class(L, HF_JSON_CLASS, meta, methods);
	hf_bind_functions(L, functions);
	lua_pushlightuserdata(L, (void *)(uintptr_t)&empty_array);
	lua_setfield(L, -2, "empty_array");
}
