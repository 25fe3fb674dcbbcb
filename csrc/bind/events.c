/* events.c: what happens in a client, as lua/holdfast/log.lua hears of it. */
#include "bind/util.h"

static void set_text(lua_State *L, const char *name, const char *text)
{
	if (!text || !*text)
		return;
	lua_pushstring(L, text);
	lua_setfield(L, -2, name);
}

static void set_count(lua_State *L, const char *name, uint64_t count)
{
	if (!count)
		return;
	hf_bind_push_index(L, count);
	lua_setfield(L, -2, name);
}

static void set_seconds(lua_State *L, const char *name, int64_t ms)
{
	lua_pushnumber(L, (lua_Number)ms / 1000);
	lua_setfield(L, -2, name);
}

static bool is_about_a_session(const struct hf_event *event)
{
	return event->kind <= HF_SESSION_LOST;
}

int hf_bind_event(lua_State *L)
{
	const struct hf_event *event = hf_client_event(hf_bind_check(L, 1, HF_CLIENT_CLASS));

	if (!event)
		return 0;
	lua_newtable(L);
	set_text(L, "event", hf_event_text(event->kind));
	set_text(L, "reason", hf_reason_text(event->reason));
	set_text(L, "code", event->code ? hf_err_code(event->code) : NULL);
	set_text(L, "error", event->message);
	set_text(L, "session", event->session);
	set_text(L, is_about_a_session(event) ? "name" : "key", event->key);
	set_count(L, "token", event->token);
	set_count(L, "count", event->count);
	set_seconds(L, "time", (int64_t)(hf_wall_seconds() * 1000) - (hf_now() - event->at));
	if (event->kind == HF_SESSION_MADE) {
		set_seconds(L, "ttl", event->ttl);
		set_seconds(L, "lock_delay", event->lock_delay);
	}
	if (event->kind == HF_TROUBLE_OVER)
		set_seconds(L, "lasted", event->lasted);
	return 1;
}
