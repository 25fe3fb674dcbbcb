/* set.c: sets of ops as Lua sees them: what the built-in loop waits with. An op is known by its
 * address, a light userdata. */
#include "bind/util.h"

static struct hf_set *check_set(lua_State *L)
{
	return hf_bind_check(L, 1, HF_SET_CLASS);
}

static int l_set(lua_State *L)
{
	const struct hf_error err = {HF_NOMEM, "out of memory"};
	void **slot = hf_bind_box(L, HF_SET_CLASS);

	*slot = hf_set_new();
	return *slot ? 1 : hf_bind_fail(L, &err);
}

/* Answers nil for what is no op: that is waited for by its descriptor. */
static int l_add(lua_State *L)
{
	struct hf_set *set = check_set(L);
	struct hf_op *op = hf_bind_test(L, 2, HF_OP_CLASS);
	struct hf_error err;

	if (!op)
		return 0;
	if (hf_set_add(set, op, &err))
		return hf_bind_fail(L, &err);
	lua_pushlightuserdata(L, op);
	return 1;
}

static int l_remove(lua_State *L)
{
	struct hf_set *set = check_set(L);
	struct hf_op *op = hf_bind_test(L, 2, HF_OP_CLASS);

	if (op)
		hf_set_remove(set, op);
	return 0;
}

static int l_next(lua_State *L)
{
	const void *op = hf_set_next(check_set(L));

	if (!op)
		return 0;
	lua_pushlightuserdata(L, (void *)(uintptr_t)op);
	return 1;
}

static int l_wait(lua_State *L)
{
	struct hf_set *set = check_set(L);
	int64_t timeout = hf_bind_timeout(L, 3);
	struct hf_bind_fds list = hf_bind_fds(L, 2);
	struct hf_error err;

	if (hf_set_wait(set, list.fds, list.count, timeout, list.ready, &err))
		return hf_bind_fail(L, &err);
	return hf_bind_ready(L, &list);
}

static int l_drop(lua_State *L)
{
	void **slot = luaL_checkudata(L, 1, HF_SET_CLASS);

	hf_set_free(*slot);
	*slot = NULL;
	return 0;
}

void hf_bind_set(lua_State *L)
{
	static const luaL_Reg meta[] = {{"__gc", l_drop}, {NULL, NULL}};
	static const luaL_Reg methods[] = {
		{"add", l_add},	  {"remove", l_remove}, {"next", l_next},
		{"wait", l_wait}, {NULL, NULL},
	};
	static const luaL_Reg functions[] = {{"set", l_set}, {NULL, NULL}};

	hf_bind_class(L, HF_SET_CLASS, meta, methods);
	hf_bind_functions(L, functions);
}
