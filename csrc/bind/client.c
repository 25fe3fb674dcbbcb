/* client.c: clients as Lua sees them, and requests. Options come from lua/holdfast/options.lua
 * as one flat table that has been checked there. */
#include "bind/util.h"

#include <string.h>

static struct hf_client *check_client(lua_State *L)
{
	return hf_bind_check(L, 1, HF_CLIENT_CLASS);
}

/* Whoever says nothing of it means that a server's certificate is looked at. */
static bool verifies(lua_State *L, int index)
{
	bool verify;

	lua_getfield(L, index, "verify");
	verify = lua_isnil(L, -1) || lua_toboolean(L, -1);
	lua_pop(L, 1);
	return verify;
}

static struct hf_route route_of(lua_State *L, int index)
{
	return (struct hf_route){
		.unix_socket = hf_bind_text(L, index, "unix_socket", NULL),
		.connect_to = hf_bind_text(L, index, "connect_to", NULL),
		.ca_file = hf_bind_text(L, index, "ca_file", NULL),
		.ca_path = hf_bind_text(L, index, "ca_path", NULL),
		.cert_file = hf_bind_text(L, index, "cert_file", NULL),
		.key_file = hf_bind_text(L, index, "key_file", NULL),
		.verify = verifies(L, index),
	};
}

void hf_bind_session_opts(lua_State *L, int index, struct hf_session_opts *opts)
{
	*opts = (struct hf_session_opts){
		.name = hf_bind_text(L, index, "name", NULL),
		.ttl = hf_bind_duration(L, index, "ttl", 10000),
		.lock_delay = hf_bind_duration(L, index, "lock_delay", 25000),
		.behavior = hf_bind_text(L, index, "behavior", NULL),
		.node = hf_bind_text(L, index, "node", NULL),
		.alive = hf_bind_duration(L, index, "alive", 0),
	};
	opts->checks = hf_bind_list(L, index, "checks");
	opts->service_checks = hf_bind_list(L, index, "service_checks");
}

static int l_client(lua_State *L)
{
	struct hf_client_opts opts;
	struct hf_client *client;
	struct hf_error err;
	void **slot;

	luaL_checktype(L, 1, LUA_TTABLE);
	opts = (struct hf_client_opts){
		.base = hf_bind_need_text(L, 1, "base", NULL),
		.route = route_of(L, 1),
		.token = hf_bind_text(L, 1, "token", NULL),
		.token_file = hf_bind_text(L, 1, "token_file", NULL),
		.auth = hf_bind_text(L, 1, "auth", NULL),
		.datacenter = hf_bind_text(L, 1, "datacenter", NULL),
		.ns = hf_bind_text(L, 1, "namespace", NULL),
		.partition = hf_bind_text(L, 1, "partition", NULL),
		.events = hf_bind_flag(L, 1, "events"),
		.timeout = hf_bind_duration(L, 1, "timeout", 10000),
	};
	lua_getfield(L, 1, "session");
	luaL_checktype(L, -1, LUA_TTABLE);
	hf_bind_session_opts(L, lua_gettop(L), &opts.session);
	slot = hf_bind_box(L, HF_CLIENT_CLASS);
	if (hf_client_new(&opts, &client, &err))
		return hf_bind_fail(L, &err);
	*slot = client;
	return 1;
}

static int l_lock_object(lua_State *L)
{
	struct hf_client *client = check_client(L);
	struct hf_session_opts session;
	struct hf_lock_opts opts = {0};
	struct hf_lock *lock;
	struct hf_error err;
	const char *monitor;
	void **slot;

	luaL_checktype(L, 2, LUA_TTABLE);
	opts.key = hf_bind_need_text(L, 2, "key", NULL);
	opts.more = hf_bind_list(L, 2, "more");
	opts.value = hf_bind_text(L, 2, "value", &opts.value_len);
	lua_getfield(L, 2, "session");
	opts.handle = hf_bind_test(L, -1, HF_SESSION_CLASS);
	if (!opts.handle)
		opts.session = hf_bind_text(L, 2, "session", NULL);
	monitor = hf_bind_text(L, 2, "monitor", NULL);
	opts.monitor_key = monitor && !strcmp(monitor, "key");
	opts.ephemeral = hf_bind_flag(L, 2, "ephemeral");
	opts.max_hold = hf_bind_duration(L, 2, "max_hold", 0);
	opts.flags = hf_bind_u64(L, 2, "flags");
	lua_getfield(L, 2, "session_opts");
	if (!lua_isnil(L, -1)) {
		luaL_checktype(L, -1, LUA_TTABLE);
		hf_bind_session_opts(L, lua_gettop(L), &session);
		opts.session_opts = &session;
	}
	slot = hf_bind_box(L, HF_LOCK_CLASS);
	if (hf_lock_new(client, &opts, &lock, &err))
		return hf_bind_fail(L, &err);
	*slot = lock;
	return 1;
}

static int l_session_object(lua_State *L)
{
	struct hf_client *client = check_client(L);
	struct hf_session_opts opts;
	struct hf_handle *handle;
	struct hf_error err;
	void **slot;

	luaL_checktype(L, 2, LUA_TTABLE);
	hf_bind_session_opts(L, 2, &opts);
	slot = hf_bind_box(L, HF_SESSION_CLASS);
	if (hf_handle_new(client, &opts, &handle, &err))
		return hf_bind_fail(L, &err);
	*slot = handle;
	return 1;
}

int hf_bind_request(lua_State *L, struct hf_client *client, struct hf_lock *guard, int index)
{
	struct hf_request req = {0};
	struct hf_op *op;
	struct hf_error err;
	void **slot;

	luaL_checktype(L, index, LUA_TTABLE);
	req.method = hf_bind_need_text(L, index, "method", NULL);
	req.url = hf_bind_need_text(L, index, "url", NULL);
	req.body = hf_bind_text(L, index, "body", &req.body_len);
	req.timeout = hf_bind_duration(L, index, "timeout", -1);
	lua_getfield(L, index, "max_body");
	req.max_body = (size_t)luaL_checknumber(L, -1);
	req.headers = hf_bind_list(L, index, "headers");
	req.route = route_of(L, index);
	req.public_only = hf_bind_flag(L, index, "public_only");
	req.allow = hf_bind_list(L, index, "allow");
	slot = hf_bind_box(L, HF_OP_CLASS);
	if (hf_request_start(client, guard, &req, &op, &err))
		return hf_bind_fail(L, &err);
	*slot = op;
	return 1;
}

static int l_start_request(lua_State *L)
{
	return hf_bind_request(L, check_client(L), NULL, 2);
}

static int l_start_call(lua_State *L)
{
	struct hf_client *client = check_client(L);
	struct hf_call call = {0};
	struct hf_op *op;
	struct hf_error err;
	void **slot;

	luaL_checktype(L, 2, LUA_TTABLE);
	call.method = hf_bind_need_text(L, 2, "method", NULL);
	call.path = hf_bind_need_text(L, 2, "path", NULL);
	call.body = hf_bind_text(L, 2, "body", &call.body_len);
	call.timeout = hf_bind_duration(L, 2, "timeout", -1);
	call.wait = hf_bind_duration(L, 2, "wait", 0);
	call.query = hf_bind_list(L, 2, "query");
	call.headers = hf_bind_list(L, 2, "headers");
	slot = hf_bind_box(L, HF_OP_CLASS);
	if (hf_call_start(client, &call, &op, &err))
		return hf_bind_fail(L, &err);
	*slot = op;
	return 1;
}

/* start_change(key, index, timeout) */
static int l_start_change(lua_State *L)
{
	struct hf_client *client = check_client(L);
	const char *key = luaL_checkstring(L, 2);
	uint64_t index = (uint64_t)luaL_checknumber(L, 3);
	int64_t timeout = hf_bind_timeout(L, 4);
	void **slot = hf_bind_box(L, HF_OP_CLASS);
	struct hf_op *op;
	struct hf_error err;

	if (hf_key_change(client, key, index, timeout, &op, &err))
		return hf_bind_fail(L, &err);
	*slot = op;
	return 1;
}

static void push_count(lua_State *L, const char *name, uint64_t value)
{
	hf_bind_push_index(L, value);
	lua_setfield(L, -2, name);
}

static int l_stats(lua_State *L)
{
	struct hf_client *client = check_client(L);
	struct hf_stats stats;
	struct hf_error err;

	if (hf_client_stats(client, &stats, &err))
		return hf_bind_fail(L, &err);
	lua_newtable(L);
	push_count(L, "requests", stats.requests);
	push_count(L, "renewals", stats.renewals);
	push_count(L, "renew_failures", stats.renew_failures);
	push_count(L, "acquired", stats.acquired);
	push_count(L, "released", stats.released);
	push_count(L, "locks_held", stats.locks_held);
	push_count(L, "sessions", stats.sessions);
	push_count(L, "connections", stats.connections);
	lua_newtable(L);
	for (int reason = HF_BY_SESSION; reason < HF_REASON_COUNT; reason++)
		if (reason != HF_BY_RELEASED && reason != HF_BY_FORKED)
			push_count(L, hf_reason_text(reason), stats.losses[reason]);
	lua_setfield(L, -2, "losses");
	return 1;
}

/* start_close([tell]): tell false is what a crash would do. */
static int l_start_close(lua_State *L)
{
	struct hf_client *client = check_client(L);
	bool tell = lua_isnoneornil(L, 2) || lua_toboolean(L, 2);
	void **slot = hf_bind_box(L, HF_OP_CLASS);
	struct hf_op *op;
	struct hf_error err;

	if (hf_client_close(client, tell, &op, &err))
		return hf_bind_fail(L, &err);
	*slot = op;
	return 1;
}

/* start_close_on({ "TERM", ... }, alone) */
static int l_start_close_on(lua_State *L)
{
	struct hf_client *client = check_client(L);
	int numbers[HF_SIGNALS_MAX];
	size_t count = hf_bind_check_signals(L, 2, numbers);
	struct hf_error err;

	if (hf_client_close_on(client, numbers, count, lua_toboolean(L, 3), &err))
		return hf_bind_fail(L, &err);
	lua_pushboolean(L, 1);
	return 1;
}

static int l_join(lua_State *L)
{
	hf_client_join(check_client(L));
	return 0;
}

/* The variable goes out of scope: nothing runs that could be told to wait, so this blocks. */
static int l_close(lua_State *L)
{
	struct hf_client *client = check_client(L);
	struct hf_op *op;
	struct hf_error err;

	if (hf_client_close(client, true, &op, &err))
		return 0;
	while (!hf_op_wait(op, -1, &err) && !err.code)
		;
	hf_op_drop(op);
	hf_client_join(client);
	return 0;
}

static int l_drop(lua_State *L)
{
	void **slot = luaL_checkudata(L, 1, HF_CLIENT_CLASS);

	hf_client_drop(*slot);
	*slot = NULL;
	return 0;
}

static int l_tostring(lua_State *L)
{
	void **slot = luaL_checkudata(L, 1, HF_CLIENT_CLASS);

	lua_pushfstring(L, "%s: %s", HF_CLIENT_CLASS, *slot ? hf_client_base(*slot) : "collected");
	return 1;
}

static int l_counters(lua_State *L)
{
	struct hf_counters counters;

	hf_counters(&counters);
	lua_newtable(L);
	push_count(L, "clients", (uint64_t)counters.clients);
	push_count(L, "locks", (uint64_t)counters.locks);
	push_count(L, "ops", (uint64_t)counters.ops);
	push_count(L, "sessions", (uint64_t)counters.sessions);
	push_count(L, "threads", (uint64_t)counters.threads);
	return 1;
}

void hf_bind_client(lua_State *L)
{
	static const luaL_Reg meta[] = {
		{"__gc", l_drop},
		{"__close", l_close},
		{"__tostring", l_tostring},
		{NULL, NULL},
	};
	static const luaL_Reg methods[] = {
		{"lock_object", l_lock_object},
		{"session_object", l_session_object},
		{"start_request", l_start_request},
		{"start_call", l_start_call},
		{"start_change", l_start_change},
		{"stats", l_stats},
		{"next_event", hf_bind_event},
		{"start_close", l_start_close},
		{"start_close_on", l_start_close_on},
		{"join", l_join},
		{NULL, NULL},
	};
	static const luaL_Reg functions[] = {
		{"client", l_client},
		{"counters", l_counters},
		{NULL, NULL},
	};

	hf_bind_class(L, HF_CLIENT_CLASS, meta, methods);
	hf_bind_functions(L, functions);
}
