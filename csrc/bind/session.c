/* session.c: sessions that are objects, as Lua sees them. What takes time answers an op;
 * lua/holdfast/session.lua waits for it. */
#include "bind/util.h"

static struct hf_handle *check_handle(lua_State *L)
{
	return hf_bind_check(L, 1, HF_SESSION_CLASS);
}

static int l_start_open(lua_State *L)
{
	struct hf_handle *handle = check_handle(L);
	void **slot = hf_bind_box(L, HF_OP_CLASS);
	struct hf_op *op;
	struct hf_error err;

	if (hf_handle_open(handle, &op, &err))
		return hf_bind_fail(L, &err);
	*slot = op;
	return 1;
}

typedef enum hf_err start_fn(struct hf_handle *handle, int64_t timeout, struct hf_op **out,
			     struct hf_error *err);

static int start(lua_State *L, start_fn *begin)
{
	struct hf_handle *handle = check_handle(L);
	int64_t timeout = hf_bind_timeout(L, 2);
	void **slot = hf_bind_box(L, HF_OP_CLASS);
	struct hf_op *op;
	struct hf_error err;

	if (begin(handle, timeout, &op, &err))
		return hf_bind_fail(L, &err);
	*slot = op;
	return 1;
}

static int l_start_renew(lua_State *L)
{
	return start(L, hf_handle_renew);
}

static int l_start_destroy(lua_State *L)
{
	return start(L, hf_handle_destroy);
}

static int l_id(lua_State *L)
{
	struct hf_handle_state state;

	hf_handle_state(check_handle(L), &state);
	if (state.id[0])
		lua_pushstring(L, state.id);
	else
		lua_pushnil(L);
	return 1;
}

static int l_alive(lua_State *L)
{
	struct hf_handle_state state;

	hf_handle_state(check_handle(L), &state);
	lua_pushboolean(L, state.alive);
	if (!state.reason)
		return 1;
	lua_pushstring(L, hf_reason_text(state.reason));
	return 2;
}

static int l_remaining(lua_State *L)
{
	struct hf_handle_state state;
	int64_t left;

	hf_handle_state(check_handle(L), &state);
	left = state.until - hf_now();
	lua_pushnumber(L, left > 0 ? (lua_Number)left / 1000 : 0);
	return 1;
}

static int l_drop(lua_State *L)
{
	void **slot = luaL_checkudata(L, 1, HF_SESSION_CLASS);

	hf_handle_drop(*slot);
	*slot = NULL;
	return 0;
}

/* The variable goes out of scope; locks that use it may live on. */
static int l_close(lua_State *L)
{
	hf_handle_let_go(check_handle(L));
	return 0;
}

static int l_tostring(lua_State *L)
{
	void **slot = luaL_checkudata(L, 1, HF_SESSION_CLASS);
	struct hf_handle_state state;

	if (!*slot) {
		lua_pushfstring(L, "%s (collected)", HF_SESSION_CLASS);
		return 1;
	}
	hf_handle_state(*slot, &state);
	lua_pushfstring(L, "%s: %s (%s)", HF_SESSION_CLASS, state.id,
			state.alive    ? "alive"
			: state.reason ? hf_reason_text(state.reason)
				       : "not made");
	return 1;
}

void hf_bind_session(lua_State *L)
{
	static const luaL_Reg meta[] = {
		{"__gc", l_drop},
		{"__close", l_close},
		{"__tostring", l_tostring},
		{NULL, NULL},
	};
	static const luaL_Reg methods[] = {
		{"start_open", l_start_open},
		{"start_renew", l_start_renew},
		{"start_destroy", l_start_destroy},
		{"id", l_id},
		{"alive", l_alive},
		{"remaining", l_remaining},
		{NULL, NULL},
	};

	hf_bind_class(L, HF_SESSION_CLASS, meta, methods);
}
