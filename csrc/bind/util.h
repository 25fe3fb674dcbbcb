/* util.h: what the binding files share. They see Lua and hf.h, never the inside of the core. */
#ifndef HF_BIND_UTIL_H
#define HF_BIND_UTIL_H

#include "hf.h"

#include <lauxlib.h>
#include <lua.h>

#if LUA_VERSION_NUM < 502
#define lua_rawlen(L, i) lua_objlen(L, i)
#endif

#define HF_CLIENT_CLASS "holdfast.client"
#define HF_LOCK_CLASS "holdfast.lock"
#define HF_SESSION_CLASS "holdfast.session"
#define HF_SEMAPHORE_CLASS "holdfast.semaphore"
#define HF_OP_CLASS "holdfast.op"
#define HF_SET_CLASS "holdfast.set"
#define HF_SIGNALS_CLASS "holdfast.signals"

/* Makes the metatable of a class: its __index is a methods table that the Lua layer may add to.
 * Leaves the methods table on the stack. Idempotent: a second load finds the first one. */
void hf_bind_class(lua_State *L, const char *class, const luaL_Reg *meta, const luaL_Reg *methods);
/* Adds functions to the table on top of the stack (luaL_setfuncs is not in 5.1). */
void hf_bind_functions(lua_State *L, const luaL_Reg *functions);
/* Pushes nil, message, code; answers 3. */
int hf_bind_fail(lua_State *L, const struct hf_error *err);
/* The answer to a wait: true, nil when it is not over, or the failure. */
int hf_bind_waited(lua_State *L, bool over, const struct hf_error *err);
/* The answer to a question for a descriptor: fd, or the failure when there is none (-1). */
int hf_bind_fd(lua_State *L, int fd, const struct hf_error *err);
/* Descriptors to wait for; the arrays are on the stack, to live as long as they are needed. */
struct hf_bind_fds {
	int *fds;
	bool *ready;
	size_t count;
};

/* Reads the array of descriptors at index. */
struct hf_bind_fds hf_bind_fds(lua_State *L, int index);
/* Pushes a table { [fd] = true } of those that are ready; answers 1. */
int hf_bind_ready(lua_State *L, const struct hf_bind_fds *fds);
/* Reads an optional number of seconds at index as milliseconds; absent or nil is -1. */
int64_t hf_bind_timeout(lua_State *L, int index);
/* Pushes an index or token: an integer on 5.4, a number (exact to 2^53) before. */
void hf_bind_push_index(lua_State *L, uint64_t value);

/* Each makes the metatable of its class; hf_bind_client leaves the functions client and counters,
 * hf_bind_set the function set, hf_bind_signal the function signals, hf_bind_json what there is for
 * JSON, hf_bind_child the table process, hf_bind_semaphore the function semaphore in the table on
 * top of the stack. */
void hf_bind_child(lua_State *L);
void hf_bind_client(lua_State *L);
void hf_bind_json(lua_State *L);
void hf_bind_lock(lua_State *L);
void hf_bind_session(lua_State *L);
void hf_bind_semaphore(lua_State *L);
/* A method of clients: the next event, as a table; nil when there is none. */
int hf_bind_event(lua_State *L);
void hf_bind_op(lua_State *L);
void hf_bind_set(lua_State *L);
void hf_bind_signal(lua_State *L);
/* The number of the signal whose name is at index; raises for anything else. */
int hf_bind_check_signal(lua_State *L, int index);
#define HF_SIGNALS_MAX 32
/* Reads the list of names at index; answers how many. */
size_t hf_bind_check_signals(lua_State *L, int index, int numbers[HF_SIGNALS_MAX]);
/* Pushes its name and its number; answers 2. */
int hf_bind_push_signal(lua_State *L, int number);

/* The object at index 1, of whichever class of lock objects. */
struct hf_lock *hf_bind_check_lock(lua_State *L);
/* Starts an op of it with the timeout at index 2, and pushes it. Answers the number of results. */
typedef enum hf_err hf_bind_start_fn(struct hf_lock *lock, int64_t timeout, struct hf_op **out,
				     struct hf_error *err);
int hf_bind_start(lua_State *L, hf_bind_start_fn *begin);
/* Makes the metatable of a class of lock objects: what they all have, and methods. */
void hf_bind_lock_class(lua_State *L, const char *class, const luaL_Reg *methods);

/* What is in a box of a class; raises for anything else. */
void *hf_bind_check(lua_State *L, int index, const char *class);
/* The same; NULL for anything else, and for what has been collected. */
void *hf_bind_test(lua_State *L, int index, const char *class);
/* Reads fields of the table at index. Strings belong to the table. Durations are in seconds. Each
 * raises when the type is wrong; only hf_bind_need_text also when the field is absent. */
const char *hf_bind_text(lua_State *L, int index, const char *name, size_t *len);
const char *hf_bind_need_text(lua_State *L, int index, const char *name, size_t *len);
int64_t hf_bind_duration(lua_State *L, int index, const char *name, int64_t absent);
bool hf_bind_flag(lua_State *L, int index, const char *name);
/* A number of 64 bits, as decimal text; 0 when it is absent. */
uint64_t hf_bind_u64(lua_State *L, int index, const char *name);
/* The array of the list is left on the stack, to live as long as it is needed. */
struct hf_list hf_bind_list(lua_State *L, int index, const char *name);
/* Reads a table of session options; may leave values on the stack. */
void hf_bind_session_opts(lua_State *L, int index, struct hf_session_opts *opts);
/* Reads the request at index, starts it and pushes its op. Answers the number of results. */
int hf_bind_request(lua_State *L, struct hf_client *client, struct hf_lock *guard, int index);

/* Pushes a box for an op or lock that is stored in *slot afterwards (NULL until then), so that
 * nothing leaks when Lua raises out of memory. */
void **hf_bind_box(lua_State *L, const char *class);

#endif
