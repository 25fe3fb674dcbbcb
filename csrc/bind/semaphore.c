/* semaphore.c: semaphores as Lua sees them: lock objects, with a beginning and an end of their own.
 */
#include "bind/util.h"

static int l_start_acquire(lua_State *L)
{
	return hf_bind_start(L, hf_semaphore_acquire);
}

static int l_start_release(lua_State *L)
{
	return hf_bind_start(L, hf_lock_release);
}

static int l_start_destroy(lua_State *L)
{
	return hf_bind_start(L, hf_semaphore_destroy);
}

/* semaphore(client, { prefix=, limit=, value=, session=, session_opts= }) */
static int l_semaphore(lua_State *L)
{
	struct hf_client *client = hf_bind_check(L, 1, HF_CLIENT_CLASS);
	struct hf_session_opts session;
	struct hf_semaphore_opts opts = {.session_opts = &session};
	struct hf_lock *sem;
	struct hf_error err;
	void **slot;

	luaL_checktype(L, 2, LUA_TTABLE);
	opts.prefix = hf_bind_need_text(L, 2, "prefix", NULL);
	opts.value = hf_bind_text(L, 2, "value", &opts.value_len);
	opts.session = hf_bind_text(L, 2, "session", NULL);
	lua_getfield(L, 2, "limit");
	opts.limit = (uint64_t)luaL_checknumber(L, -1);
	lua_getfield(L, 2, "session_opts");
	luaL_checktype(L, -1, LUA_TTABLE);
	hf_bind_session_opts(L, lua_gettop(L), &session);
	slot = hf_bind_box(L, HF_SEMAPHORE_CLASS);
	if (hf_semaphore_new(client, &opts, &sem, &err))
		return hf_bind_fail(L, &err);
	*slot = sem;
	return 1;
}

void hf_bind_semaphore(lua_State *L)
{
	static const luaL_Reg methods[] = {
		{"start_acquire", l_start_acquire},
		{"start_release", l_start_release},
		{"start_destroy", l_start_destroy},
		{NULL, NULL},
	};
	static const luaL_Reg functions[] = {
		{"semaphore", l_semaphore},
		{NULL, NULL},
	};

	hf_bind_lock_class(L, HF_SEMAPHORE_CLASS, methods);
	hf_bind_functions(L, functions);
}
