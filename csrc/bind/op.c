/* op.c: ops as Lua sees them: wait, pollfd, done, result, cancel. */
#include "bind/util.h"

static struct hf_op *check_op(lua_State *L)
{
	return hf_bind_check(L, 1, HF_OP_CLASS);
}

static int l_wait(lua_State *L)
{
	struct hf_op *op = check_op(L);
	int64_t timeout = hf_bind_timeout(L, 2);
	struct hf_error err;

	return hf_bind_waited(L, hf_op_wait(op, timeout, &err), &err);
}

static int l_pollfd(lua_State *L)
{
	struct hf_error err;
	int fd = hf_op_fd(check_op(L), &err);

	return hf_bind_fd(L, fd, &err);
}

static int l_done(lua_State *L)
{
	lua_pushboolean(L, hf_op_done(check_op(L)));
	return 1;
}

static int push_response(lua_State *L, const struct hf_response *response)
{
	lua_pushinteger(L, response->status);
	lua_pushlstring(L, response->headers, response->headers_len);
	lua_pushlstring(L, response->body, response->body_len);
	lua_pushboolean(L, response->truncated);
	lua_pushnumber(L, (lua_Number)response->elapsed / 1000);
	return 5;
}

/* What came with the status that made a call fail follows on nil, message, code. */
static int l_result(lua_State *L)
{
	struct hf_op *op = check_op(L);
	struct hf_error err;
	bool failed = hf_op_result(op, &err) != HF_OK;
	const struct hf_response *response = hf_op_response(op);

	if (failed && !response)
		return hf_bind_fail(L, &err);
	if (failed)
		return hf_bind_fail(L, &err) + push_response(L, response);
	if (response)
		return push_response(L, response);
	lua_pushboolean(L, 1);
	return 1;
}

static int l_cancel(lua_State *L)
{
	hf_op_cancel(check_op(L));
	return 0;
}

static int l_drop(lua_State *L)
{
	void **slot = luaL_checkudata(L, 1, HF_OP_CLASS);

	hf_op_drop(*slot);
	*slot = NULL;
	return 0;
}

static int l_tostring(lua_State *L)
{
	void **slot = luaL_checkudata(L, 1, HF_OP_CLASS);

	lua_pushfstring(L, "%s: %p", HF_OP_CLASS, *slot);
	return 1;
}

void hf_bind_op(lua_State *L)
{
	static const luaL_Reg meta[] = {
		{"__gc", l_drop},
		{"__close", l_drop},
		{"__tostring", l_tostring},
		{NULL, NULL},
	};
	static const luaL_Reg methods[] = {
		{"wait", l_wait},     {"pollfd", l_pollfd}, {"done", l_done},
		{"result", l_result}, {"cancel", l_cancel}, {NULL, NULL},
	};

	hf_bind_class(L, HF_OP_CLASS, meta, methods);
}
