/* bind.h: what the binding files share. Only bind_*.c include it; they see Lua and hf.h, never
 * the inside of the core. */
#ifndef HF_BIND_H
#define HF_BIND_H

#include "hf.h"

#include <lauxlib.h>
#include <lua.h>

#if LUA_VERSION_NUM < 502
#define lua_rawlen(L, i) lua_objlen(L, i)
#endif

#define HF_CLIENT_CLASS "holdfast.client"
#define HF_LOCK_CLASS "holdfast.lock"
#define HF_OP_CLASS "holdfast.op"

/* Makes the metatable of a class: its __index is a methods table that the Lua layer may add to.
 * Leaves the methods table on the stack. Idempotent: a second load finds the first one. */
void hf_bind_class(lua_State *L, const char *class, const luaL_Reg *meta, const luaL_Reg *methods);
/* Adds functions to the table on top of the stack (luaL_setfuncs is not in 5.1). */
void hf_bind_functions(lua_State *L, const luaL_Reg *functions);
/* Pushes nil, message, code; answers 3. */
int hf_bind_fail(lua_State *L, const struct hf_error *err);
/* Reads an optional number of seconds at index as milliseconds; absent or nil is -1. */
int64_t hf_bind_timeout(lua_State *L, int index);
/* Pushes an index or token: an integer on 5.4, a number (exact to 2^53) before. */
void hf_bind_push_index(lua_State *L, uint64_t value);

/* Each leaves a class's methods table on the stack. */
void hf_bind_client(lua_State *L);
void hf_bind_lock(lua_State *L);
void hf_bind_op(lua_State *L);

/* Pushes a box for an op or lock that is stored in *slot afterwards (NULL until then), so that
 * nothing leaks when Lua raises out of memory. */
void **hf_bind_box(lua_State *L, const char *class);

#endif
