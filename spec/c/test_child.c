/* test_child.c: a command in a process group of its own. */
#include "base/alloc.h"
#include "check.h"
#include "hf.h"

#include <signal.h>
#include <sys/wait.h>

static struct hf_listener *signals;
static struct hf_error err;

/* Runs words (NULL after the last). */
static enum hf_err start(int *pid, const char **words, const char **env)
{
	struct hf_command command = {.argv = {words, 0}, .env = {env, 0}};

	while (words[command.argv.count])
		command.argv.count++;
	while (env && env[command.env.count])
		command.env.count++;
	return hf_child_start(&command, pid, &err);
}

static enum hf_err shell(int *pid, const char *script)
{
	return start(pid, (const char *[]){"sh", "-c", script, NULL}, NULL);
}

/* Waits for the next news of a child. */
static enum hf_end news(int pid, int *number)
{
	enum hf_end end;

	while ((end = hf_child_look(pid, number)) == HF_END_NONE) {
		hf_listener_wait(signals, -1, &err);
		while (hf_listener_next(signals, &err))
			;
	}
	return end;
}

static void a_status_is_told_as_it_is(void)
{
	int pid, number = 0;

	REQUIRE(!shell(&pid, "exit 77"));
	CHECK_INT(news(pid, &number), HF_END_EXITED);
	CHECK_INT(number, 77);
	CHECK_INT(news(pid, &number), HF_END_ALL);
}

static void a_signal_goes_to_the_whole_group(void)
{
	int pid, number = 0;

	REQUIRE(!shell(&pid, "sleep 1000 & sleep 1000"));
	CHECK(hf_child_signal(pid, SIGTERM));
	CHECK_INT(news(pid, &number), HF_END_KILLED);
	CHECK_INT(number, SIGTERM);
	CHECK_INT(news(pid, &number), HF_END_ALL);
	CHECK(!hf_child_signal(pid, SIGTERM));
}

static void who_is_left_in_the_group_is_waited_for(void)
{
	int pid, number = 0;

	REQUIRE(!shell(&pid, "sleep 1000 & exit 3"));
	CHECK_INT(news(pid, &number), HF_END_EXITED);
	CHECK_INT(number, 3);
	CHECK_INT(hf_child_look(pid, &number), HF_END_NONE);
	CHECK(hf_child_signal(pid, SIGKILL));
	CHECK_INT(news(pid, &number), HF_END_ALL);
}

static void a_stop_is_told(void)
{
	int pid, number = 0;

	REQUIRE(!shell(&pid, "kill -STOP $$; exit 4"));
	CHECK_INT(news(pid, &number), HF_END_STOPPED);
	CHECK_INT(number, SIGSTOP);
	CHECK(hf_child_signal(pid, SIGCONT));
	CHECK_INT(news(pid, &number), HF_END_EXITED);
	CHECK_INT(number, 4);
}

static void the_environment_has_the_changes_in_it(void)
{
	const char *words[] = {"sh", "-c", "[ \"$A-${B-gone}-$C-$AA\" = 2-gone-x=y-1 ]", NULL};
	const char *env[] = {"A=2", "B", "C=x=y", NULL};
	int pid, number = 0;

	setenv("A", "1", 1);
	setenv("AA", "1", 1);
	setenv("B", "1", 1);
	REQUIRE(!start(&pid, words, env));
	CHECK_INT(news(pid, &number), HF_END_EXITED);
	CHECK_INT(number, 0);
}

static void no_input_is_an_empty_one_and_no_signal_is_blocked(void)
{
	int pid, number = 0;

	REQUIRE(!shell(&pid, "cat; read -r _ blocked <<-E\n$(grep SigBlk /proc/self/status)\nE\n"
			     "[ \"$blocked\" = 0000000000000000 ]"));
	CHECK_INT(news(pid, &number), HF_END_EXITED);
	CHECK_INT(number, 0);
}

static void what_cannot_run_is_told_apart(void)
{
	int pid;

	CHECK_INT(start(&pid, (const char *[]){"no-such-command", NULL}, NULL), HF_NOT_FOUND);
	CHECK_INT(start(&pid, (const char *[]){"/etc/passwd", NULL}, NULL), HF_DENIED);
	CHECK_INT(start(&pid, (const char *[]){"/etc/passwd/x", NULL}, NULL), HF_NOT_FOUND);
	CHECK_INT(waitpid(-1, NULL, 0), -1);
}

static void nothing_runs_without_memory(void)
{
	int pid;

	hf_alloc_fail(1, 0);
	CHECK_INT(shell(&pid, "true"), HF_NOMEM);
	hf_alloc_fail(0, 0);
	CHECK_INT(waitpid(-1, NULL, 0), -1);
}

static const struct check_test tests[] = {
	TEST(a_status_is_told_as_it_is),
	TEST(a_signal_goes_to_the_whole_group),
	TEST(who_is_left_in_the_group_is_waited_for),
	TEST(a_stop_is_told),
	TEST(the_environment_has_the_changes_in_it),
	TEST(no_input_is_an_empty_one_and_no_signal_is_blocked),
	TEST(what_cannot_run_is_told_apart),
	TEST(nothing_runs_without_memory),
};

int main(int argc, char **argv)
{
	int failed;

	if (hf_listener_new((const int[]){SIGCHLD}, 1, false, &signals, &err))
		return 2;
	failed = check_main(argc, argv, tests, CHECK_COUNT(tests), NULL);
	hf_listener_free(signals);
	return failed;
}
