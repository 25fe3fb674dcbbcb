/* Between fork and exec the child calls only what is safe after a fork of a process with threads:
 * what it needs is made ready before. */
#include "base/alloc.h"
#include "hf.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define FAILED 127 /* nobody sees it: the parent hears why by the pipe */

/* ---- the terminal --------------------------------------------------------------------------- */

bool hf_terminal_ours(void)
{
	return tcgetpgrp(STDIN_FILENO) == getpgrp();
}

/* A background process that sets the foreground is sent SIGTTOU, unless it is blocked. */
void hf_terminal_give(int group)
{
	sigset_t set, before;

	sigemptyset(&set);
	sigaddset(&set, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &set, &before);
	tcsetpgrp(STDIN_FILENO, group ? group : getpgrp());
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* ---- a child -------------------------------------------------------------------------------- */

/* The environment with changes put over it, in one allocation; the strings stay where they are. */
static char **environment(const struct hf_list *changes)
{
	size_t count = 0, used = 0;
	char **env;

	while (environ[count])
		count++;
	env = hf_malloc((count + changes->count + 1) * sizeof *env);
	if (!env)
		return NULL;
	for (size_t i = 0; i < count; i++) {
		size_t name = strcspn(environ[i], "="), j = 0;

		while (j < changes->count && (strcspn(changes->items[j], "=") != name ||
					      strncmp(changes->items[j], environ[i], name) != 0))
			j++;
		if (j == changes->count)
			env[used++] = environ[i];
	}
	for (size_t i = 0; i < changes->count; i++) {
		if (strchr(changes->items[i], '='))
			env[used++] = (char *)(uintptr_t)changes->items[i];
	}
	env[used] = NULL;
	return env;
}

/* What the child does before it becomes the command. False, with errno, when it cannot. */
static bool prepare(const struct hf_command *command, pid_t parent)
{
	sigset_t none;
	int fd;

	setpgid(0, 0);
	/* Who has died before the prctl sends no signal. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
		return false;
	if (command->terminal)
		hf_terminal_give(getpid());
	if (!command->pass_stdin) {
		fd = open("/dev/null", O_RDONLY);
		if (fd < 0 || (fd && (dup2(fd, STDIN_FILENO) < 0 || close(fd))))
			return false;
	}
	sigemptyset(&none);
	return !pthread_sigmask(SIG_SETMASK, &none, NULL);
}

static void become(const struct hf_command *command, char **env, pid_t parent, int tell)
{
	if (prepare(command, parent)) {
		environ = env;
		execvp(command->argv.items[0], (char **)(uintptr_t)command->argv.items);
	}
	(void)!write(tell, &errno, sizeof errno);
	_exit(FAILED);
}

static enum hf_err failed_to_run(const struct hf_command *command, int why, struct hf_error *err)
{
	enum hf_err code = why == ENOENT || why == ENOTDIR ? HF_NOT_FOUND : HF_DENIED;

	return hf_err_set(err, code, "%.200s: %s", command->argv.items[0], strerror(why));
}

static enum hf_err no_process(struct hf_error *err)
{
	return hf_err_set(err, HF_NOMEM, "no process to be had: %s", strerror(errno));
}

/* Waits until the child has become the command, or could not. */
static enum hf_err hear(const struct hf_command *command, pid_t pid, int fd, struct hf_error *err)
{
	int why;
	ssize_t got;

	do
		got = read(fd, &why, sizeof why);
	while (got < 0 && errno == EINTR);
	if (got != sizeof why)
		return HF_OK;
	waitpid(pid, NULL, 0);
	return failed_to_run(command, why, err);
}

enum hf_err hf_child_start(const struct hf_command *command, int *out, struct hf_error *err)
{
	char **env = environment(&command->env);
	pid_t pid, parent = getpid();
	sigset_t all, before;
	enum hf_err code;
	int ends[2];

	if (!env)
		return hf_err_set(err, HF_NOMEM, "%s", hf_err_text(HF_NOMEM));
	if (pipe2(ends, O_CLOEXEC)) {
		code = no_process(err);
		goto err0;
	}
	/* Whoever forks away from the command comes to us when its parent ends, so that the end of
	 * the whole group can be waited for. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid = fork();
	if (pid == 0)
		become(command, env, parent, ends[1]);
	code = pid < 0 ? no_process(err) : HF_OK;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	close(ends[1]);
	if (!code) {
		setpgid(pid, pid);
		code = hear(command, pid, ends[0], err);
	}
	close(ends[0]);
	if (!code)
		*out = pid;
err0:
	hf_free(env);
	return code;
}

/* Those that came to us when their parents ended: as many as the command likes to leave behind. */
static void bury_adopted(int pid)
{
	siginfo_t info = {0};

	while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid &&
	       info.si_pid != pid) {
		waitpid(info.si_pid, NULL, 0);
		info.si_pid = 0;
	}
}

enum hf_end hf_child_look(int pid, int *number)
{
	int status;
	pid_t found;

	bury_adopted(pid);
	found = waitpid(pid, &status, WNOHANG | WUNTRACED);
	if (found == 0)
		return HF_END_NONE;
	if (found < 0) {
		do
			found = waitpid(-pid, NULL, WNOHANG);
		while (found > 0);
		return found == 0 ? HF_END_NONE : HF_END_ALL;
	}
	if (WIFEXITED(status)) {
		*number = WEXITSTATUS(status);
		return HF_END_EXITED;
	}
	*number = WIFSTOPPED(status) ? WSTOPSIG(status) : WTERMSIG(status);
	return WIFSTOPPED(status) ? HF_END_STOPPED : HF_END_KILLED;
}

bool hf_child_signal(int pid, int number)
{
	siginfo_t info;

	if (kill(-pid, number) == 0)
		return true;
	/* It has left its group. While it is our child its number is nobody else's. */
	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
	       kill(pid, number) == 0;
}
