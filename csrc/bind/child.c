/* child.c: running a command, as Lua sees it: the table "process" of the core. */
#include "bind/util.h"

#include <signal.h>
#include <unistd.h>

/* spawn({ argv =, env =, pass_stdin =, terminal = }): the pid. */
static int l_spawn(lua_State *L)
{
	struct hf_command command = {0};
	struct hf_error err;
	int pid;

	luaL_checktype(L, 1, LUA_TTABLE);
	command.argv = hf_bind_list(L, 1, "argv");
	luaL_argcheck(L, command.argv.count > 0, 1, "argv is empty");
	command.argv.items[command.argv.count] = NULL; /* there is room for it */
	command.env = hf_bind_list(L, 1, "env");
	command.pass_stdin = hf_bind_flag(L, 1, "pass_stdin");
	command.terminal = hf_bind_flag(L, 1, "terminal");
	if (hf_child_start(&command, &pid, &err))
		return hf_bind_fail(L, &err);
	lua_pushinteger(L, pid);
	return 1;
}

/* look(pid): "exited", status; "killed" or "stopped", name and number of the signal; "all" when
 * nobody is left in its group; nothing when there is nothing new. */
static int l_look(lua_State *L)
{
	static const char *const words[] = {NULL, "exited", "killed", "stopped", "all"};
	int number = 0;
	enum hf_end end = hf_child_look((int)luaL_checkinteger(L, 1), &number);

	if (end == HF_END_NONE)
		return 0;
	lua_pushstring(L, words[end]);
	if (end == HF_END_ALL)
		return 1;
	if (end != HF_END_EXITED)
		return 1 + hf_bind_push_signal(L, number);
	lua_pushinteger(L, number);
	return 2;
}

/* signal(pid, name): to the group of a child. */
static int l_signal(lua_State *L)
{
	lua_pushboolean(L,
			hf_child_signal((int)luaL_checkinteger(L, 1), hf_bind_check_signal(L, 2)));
	return 1;
}

/* terminal(): whether we are in the foreground of the terminal that is standard input.
 * terminal(pid): gives it to that group; 0 takes it back. */
static int l_terminal(lua_State *L)
{
	if (lua_isnoneornil(L, 1)) {
		lua_pushboolean(L, hf_terminal_ours());
		return 1;
	}
	hf_terminal_give((int)luaL_checkinteger(L, 1));
	return 0;
}

/* stop(): stops this process until it is continued. */
static int l_stop(lua_State *L)
{
	(void)L;
	kill(getpid(), SIGSTOP);
	return 0;
}

void hf_bind_child(lua_State *L)
{
	static const luaL_Reg functions[] = {
		{"spawn", l_spawn},	  {"look", l_look}, {"signal", l_signal},
		{"terminal", l_terminal}, {"stop", l_stop}, {NULL, NULL},
	};

	lua_newtable(L);
	hf_bind_functions(L, functions);
	lua_setfield(L, -2, "process");
}
