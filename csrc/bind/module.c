/* module.c: the table that require "holdfast.core" answers, and helpers of the bindings. */
#include "bind/util.h"

#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

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
	struct hf_bind_fds list = hf_bind_fds(L, 1);

	if (hf_poll(list.fds, list.count, timeout, list.ready) < 0)
		return luaL_error(L, "poll: %s", strerror(errno));
	return hf_bind_ready(L, &list);
}

static int l_is_network(lua_State *L)
{
	size_t len;
	const char *text = luaL_checklstring(L, 1, &len);

	lua_pushboolean(L, strlen(text) == len && hf_network_valid(text));
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
	{"is_network", l_is_network},
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
	hf_bind_session(L);
	hf_bind_op(L);
	lua_newtable(L);
	hf_bind_functions(L, functions);
	hf_bind_child(L);
	hf_bind_client(L);
	hf_bind_semaphore(L);
	hf_bind_set(L);
	hf_bind_signal(L);
	hf_bind_json(L);
	lua_pushliteral(L, HF_VERSION);
	lua_setfield(L, -2, "_VERSION");
	return 1;
}
