/* signal.c: listeners as Lua sees them: holdfast.signals. */
#include "bind/util.h"

int hf_bind_check_signal(lua_State *L, int index)
{
	const char *name = luaL_checkstring(L, index);
	int number = hf_signal_number(name);

	if (!number)
		luaL_error(L, "\"%s\" is not the name of a signal", name);
	return number;
}

size_t hf_bind_check_signals(lua_State *L, int index, int numbers[HF_SIGNALS_MAX])
{
	size_t count;

	luaL_checktype(L, index, LUA_TTABLE);
	count = lua_rawlen(L, index);
	luaL_argcheck(L, count <= HF_SIGNALS_MAX, index, "too many");
	for (size_t i = 0; i < count; i++) {
		lua_rawgeti(L, index, (int)i + 1);
		numbers[i] = hf_bind_check_signal(L, -1);
		lua_pop(L, 1);
	}
	return count;
}

int hf_bind_push_signal(lua_State *L, int number)
{
	const char *name = hf_signal_name(number);

	if (name)
		lua_pushstring(L, name);
	else
		lua_pushfstring(L, "%d", number);
	lua_pushinteger(L, number);
	return 2;
}

static struct hf_listener *check(lua_State *L)
{
	void **slot = luaL_checkudata(L, 1, HF_SIGNALS_CLASS);

	return *slot;
}

static int closed(lua_State *L)
{
	const struct hf_error err = {HF_CLOSED, "these signals are closed"};

	return hf_bind_fail(L, &err);
}

/* signals({ "INT", ... }, alone) */
static int l_signals(lua_State *L)
{
	int numbers[HF_SIGNALS_MAX];
	size_t count = hf_bind_check_signals(L, 1, numbers);
	struct hf_listener *listener;
	struct hf_error err;
	void **slot;

	slot = hf_bind_box(L, HF_SIGNALS_CLASS);
	if (hf_listener_new(numbers, count, lua_toboolean(L, 2), &listener, &err))
		return hf_bind_fail(L, &err);
	*slot = listener;
	return 1;
}

/* signal_number(name): nil when there is no such signal. */
static int l_signal_number(lua_State *L)
{
	int number = hf_signal_number(luaL_checkstring(L, 1));

	if (!number)
		return 0;
	lua_pushinteger(L, number);
	return 1;
}

/* take(): name and number of the next one that has come; nil when there is none. */
static int l_take(lua_State *L)
{
	struct hf_listener *listener = check(L);
	struct hf_error err;
	int number;

	if (!listener)
		return closed(L);
	number = hf_listener_next(listener, &err);
	if (number)
		return hf_bind_push_signal(L, number);
	return hf_bind_waited(L, false, &err);
}

static int l_wait(lua_State *L)
{
	struct hf_listener *listener = check(L);
	int64_t timeout = hf_bind_timeout(L, 2);
	struct hf_error err;

	if (!listener)
		return closed(L);
	return hf_bind_waited(L, hf_listener_wait(listener, timeout, &err), &err);
}

static int l_pollfd(lua_State *L)
{
	struct hf_listener *listener = check(L);
	struct hf_error err;

	if (!listener)
		return closed(L);
	return hf_bind_fd(L, hf_listener_fd(listener, &err), &err);
}

static int l_close(lua_State *L)
{
	void **slot = luaL_checkudata(L, 1, HF_SIGNALS_CLASS);

	hf_listener_free(*slot);
	*slot = NULL;
	lua_pushboolean(L, 1);
	return 1;
}

static int l_tostring(lua_State *L)
{
	lua_pushfstring(L, "%s: %s", HF_SIGNALS_CLASS, check(L) ? "open" : "closed");
	return 1;
}

void hf_bind_signal(lua_State *L)
{
	static const luaL_Reg meta[] = {
		{"__gc", l_close},
		{"__close", l_close},
		{"__tostring", l_tostring},
		{NULL, NULL},
	};
	static const luaL_Reg methods[] = {
		{"take", l_take},	   {"wait", l_wait}, {"pollfd", l_pollfd},
		{"close_object", l_close}, {NULL, NULL},
	};
	static const luaL_Reg functions[] = {
		{"signals", l_signals},
		{"signal_number", l_signal_number},
		{NULL, NULL},
	};

	hf_bind_class(L, HF_SIGNALS_CLASS, meta, methods);
	hf_bind_functions(L, functions);
}
