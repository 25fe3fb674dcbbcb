/* lock.c: lock objects as Lua sees them. What takes time answers an op; lua/holdfast/init.lua
 * waits for it. */
#include "bind/util.h"

/* Semaphores are lock objects too, of another class. */
static const char *class_of(lua_State *L)
{
	bool same = false;

	if (lua_touserdata(L, 1) && lua_getmetatable(L, 1)) {
		luaL_getmetatable(L, HF_SEMAPHORE_CLASS);
		same = lua_rawequal(L, -1, -2);
		lua_pop(L, 2);
	}
	return same ? HF_SEMAPHORE_CLASS : HF_LOCK_CLASS;
}

static void **box(lua_State *L)
{
	return luaL_checkudata(L, 1, class_of(L));
}

struct hf_lock *hf_bind_check_lock(lua_State *L)
{
	void **slot = box(L);

	if (!*slot)
		luaL_argerror(L, 1, "already collected");
	return *slot;
}

static int start(lua_State *L, struct hf_lock *lock, hf_bind_start_fn *begin)
{
	int64_t timeout = hf_bind_timeout(L, 2);
	void **slot = hf_bind_box(L, HF_OP_CLASS);
	struct hf_op *op;
	struct hf_error err;

	if (begin(lock, timeout, &op, &err))
		return hf_bind_fail(L, &err);
	*slot = op;
	return 1;
}

int hf_bind_start(lua_State *L, hf_bind_start_fn *begin)
{
	return start(L, hf_bind_check_lock(L), begin);
}

static int l_start_lock(lua_State *L)
{
	return hf_bind_start(L, hf_lock_acquire);
}

static int l_start_unlock(lua_State *L)
{
	return hf_bind_start(L, hf_lock_release);
}

/* The key of a lock that has several is the third argument. */
static int l_start_destroy(lua_State *L)
{
	struct hf_lock *lock = hf_bind_check_lock(L);
	lua_Integer i = luaL_optinteger(L, 3, 1);

	luaL_argcheck(L, i >= 1 && (size_t)i <= hf_lock_count(lock), 3, "no such key");
	return start(L, hf_lock_part(lock, (size_t)i - 1), hf_lock_destroy);
}

static int l_start_request(lua_State *L)
{
	struct hf_lock *lock = hf_bind_check_lock(L);

	return hf_bind_request(L, hf_lock_client(lock), lock, 2);
}

static int l_held(lua_State *L)
{
	struct hf_lock_state state;

	hf_lock_state(hf_bind_check_lock(L), &state);
	lua_pushboolean(L, state.held);
	if (state.held || !state.reason)
		return 1;
	lua_pushstring(L, hf_reason_text(state.reason));
	return 2;
}

static int l_lost(lua_State *L)
{
	struct hf_lock_state state;

	hf_lock_state(hf_bind_check_lock(L), &state);
	lua_pushboolean(L, state.lost);
	if (!state.lost)
		return 1;
	lua_pushstring(L, hf_reason_text(state.reason));
	return 2;
}

static int l_token(lua_State *L)
{
	struct hf_lock_state state;

	hf_lock_state(hf_bind_check_lock(L), &state);
	if (!state.held) {
		lua_pushnil(L);
		return 1;
	}
	hf_bind_push_index(L, state.token);
	return 1;
}

static int l_remaining(lua_State *L)
{
	struct hf_lock_state state;
	int64_t left;

	hf_lock_state(hf_bind_check_lock(L), &state);
	left = state.until - hf_now();
	lua_pushnumber(L, left > 0 ? (lua_Number)left / 1000 : 0);
	return 1;
}

static int l_session(lua_State *L)
{
	char id[64];

	hf_lock_session(hf_bind_check_lock(L), id, sizeof id);
	if (!id[0]) {
		lua_pushnil(L);
		return 1;
	}
	lua_pushstring(L, id);
	return 1;
}

static int l_key(lua_State *L)
{
	lua_pushstring(L, hf_lock_key(hf_bind_check_lock(L)));
	return 1;
}

static int l_keys(lua_State *L)
{
	struct hf_lock *lock = hf_bind_check_lock(L);

	lua_newtable(L);
	for (size_t i = 0; i < hf_lock_count(lock); i++) {
		lua_pushstring(L, hf_lock_key(hf_lock_part(lock, i)));
		lua_rawseti(L, -2, (int)i + 1);
	}
	return 1;
}

static int l_cancel(lua_State *L)
{
	hf_lock_cancel(hf_bind_check_lock(L));
	return 0;
}

static int l_pollfd(lua_State *L)
{
	struct hf_error err;
	int fd = hf_lock_fd(hf_bind_check_lock(L), &err);

	return hf_bind_fd(L, fd, &err);
}

static int l_wait(lua_State *L)
{
	struct hf_lock *lock = hf_bind_check_lock(L);
	int64_t timeout = hf_bind_timeout(L, 2);
	struct hf_error err;

	return hf_bind_waited(L, hf_lock_wait(lock, timeout, &err), &err);
}

static int l_drop(lua_State *L)
{
	void **slot = box(L);

	hf_lock_drop(*slot);
	*slot = NULL;
	return 0;
}

/* The variable goes out of scope; the object may live on. */
static int l_close(lua_State *L)
{
	hf_lock_let_go(hf_bind_check_lock(L));
	return 0;
}

static int l_tostring(lua_State *L)
{
	const char *class = class_of(L);
	void **slot = box(L);
	struct hf_lock_state state;

	if (!*slot) {
		lua_pushfstring(L, "%s (collected)", class);
		return 1;
	}
	hf_lock_state(*slot, &state);
	lua_pushfstring(L, "%s: %s (%s)", class, hf_lock_key(*slot),
			state.held   ? "held"
			: state.lost ? "lost"
				     : "not held");
	return 1;
}

void hf_bind_lock_class(lua_State *L, const char *class, const luaL_Reg *methods)
{
	static const luaL_Reg meta[] = {
		{"__gc", l_drop},
		{"__close", l_close},
		{"__tostring", l_tostring},
		{NULL, NULL},
	};
	static const luaL_Reg common[] = {
		{"start_request", l_start_request},
		{"held", l_held},
		{"lost", l_lost},
		{"token", l_token},
		{"remaining", l_remaining},
		{"session", l_session},
		{"key", l_key},
		{"keys", l_keys},
		{"cancel", l_cancel},
		{"start_cancel", l_cancel}, /* for whoever puts another cancel over that */
		{"pollfd", l_pollfd},
		{"wait", l_wait},
		{NULL, NULL},
	};

	hf_bind_class(L, class, meta, common);
	luaL_getmetatable(L, class);
	lua_getfield(L, -1, "__index");
	/* The Lua layer may have put a function there, over the table that it keeps. */
	if (lua_istable(L, -1))
		hf_bind_functions(L, methods);
	lua_pop(L, 2);
}

void hf_bind_lock(lua_State *L)
{
	static const luaL_Reg methods[] = {
		{"start_lock", l_start_lock},
		{"start_unlock", l_start_unlock},
		{"start_destroy", l_start_destroy},
		{NULL, NULL},
	};

	hf_bind_lock_class(L, HF_LOCK_CLASS, methods);
}
