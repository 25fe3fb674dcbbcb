/* test_signals.c: listeners: who hears what, what happens to whoever had a handler before, in a
 * child, and with threads that come and go. */
#include "base/alloc.h"
#include "check.h"
#include "hf.h"

#include <pthread.h>
#include <sys/wait.h>

static struct hf_error err;
static atomic_int handled; /* by a handler that is not ours */

static struct hf_listener *listen_to(int number)
{
	struct hf_listener *listener = NULL;

	CHECK_INT(hf_listener_new(&number, 1, false, &listener, &err), HF_OK);
	return listener;
}

static void handle(int number)
{
	atomic_fetch_add(&handled, number);
}

/* What a signal does: SIG_DFL and so on. */
static void *action_of(int number)
{
	struct sigaction now;

	sigaction(number, NULL, &now);
	return (void *)(uintptr_t)now.sa_handler;
}

#define CHECK_ACTION(number, handler) CHECK(action_of(number) == (void *)(uintptr_t)(handler))

static void signals_have_names(void)
{
	CHECK_INT(hf_signal_number("TERM"), SIGTERM);
	CHECK_STR(hf_signal_name(SIGKILL), "KILL");
	CHECK_INT(hf_signal_number("NONSENSE"), 0);
	CHECK(!hf_signal_name(1000));
}

static void what_has_come_is_read_as_often_as_it_came(void)
{
	struct hf_listener *listener = listen_to(SIGUSR1);

	CHECK(!hf_listener_wait(listener, 0, &err));
	CHECK_INT(hf_listener_next(listener, &err), 0);
	raise(SIGUSR1);
	raise(SIGUSR1);
	CHECK(hf_listener_wait(listener, -1, &err));
	CHECK_INT(hf_listener_next(listener, &err), SIGUSR1);
	CHECK_INT(hf_listener_next(listener, &err), SIGUSR1);
	CHECK_INT(hf_listener_next(listener, &err), 0);
	CHECK(!hf_listener_wait(listener, 0, &err));
	hf_listener_free(listener);
}

static void everybody_hears_it_and_the_last_one_restores(void)
{
	struct hf_listener *a = listen_to(SIGTERM), *b = listen_to(SIGTERM);

	raise(SIGTERM);
	CHECK_INT(hf_listener_next(a, &err), SIGTERM);
	CHECK_INT(hf_listener_next(b, &err), SIGTERM);
	hf_listener_free(a);
	raise(SIGTERM);
	CHECK_INT(hf_listener_next(b, &err), SIGTERM);
	hf_listener_free(b);
	CHECK_ACTION(SIGTERM, SIG_DFL);
}

static void who_had_a_handler_is_called_too(void)
{
	struct hf_listener *listener;

	signal(SIGUSR1, handle);
	listener = listen_to(SIGUSR1);
	atomic_store(&handled, 0);
	raise(SIGUSR1);
	CHECK_INT(atomic_load(&handled), SIGUSR1);
	CHECK_INT(hf_listener_next(listener, &err), SIGUSR1);
	hf_listener_free(listener);
	CHECK_ACTION(SIGUSR1, handle);
	signal(SIGUSR1, SIG_DFL);
}

static void only_an_interpreter_is_not_at_ctrl_c(void)
{
	struct hf_listener *alone, *other;

	signal(SIGINT, handle);
	signal(SIGUSR1, handle);
	atomic_store(&handled, 0);
	REQUIRE(!hf_listener_new((const int[]){SIGINT, SIGUSR1}, 2, true, &alone, &err));
	other = listen_to(SIGINT);
	raise(SIGINT);
	CHECK_INT(atomic_load(&handled), 0);
	raise(SIGUSR1);
	CHECK_INT(atomic_load(&handled), SIGUSR1);
	hf_listener_free(alone);
	raise(SIGINT);
	CHECK_INT(atomic_load(&handled), SIGUSR1 + SIGINT);
	hf_listener_free(other);
	signal(SIGINT, SIG_DFL);
	signal(SIGUSR1, SIG_DFL);
}

static void who_comes_later_keeps_his_handler(void)
{
	struct hf_listener *listener = listen_to(SIGUSR1);

	signal(SIGUSR1, handle);
	hf_listener_free(listener);
	CHECK_ACTION(SIGUSR1, handle);
	signal(SIGUSR1, SIG_DFL);
}

static void what_was_ignored_is_heard_and_then_ignored(void)
{
	struct hf_listener *listener;

	signal(SIGHUP, SIG_IGN);
	listener = listen_to(SIGHUP);
	raise(SIGHUP);
	CHECK_INT(hf_listener_next(listener, &err), SIGHUP);
	hf_listener_free(listener);
	CHECK_ACTION(SIGHUP, SIG_IGN);
	signal(SIGHUP, SIG_DFL);
}

static void nobody_hears_a_kill_or_a_fault(void)
{
	const int all[] = {SIGTERM, SIGKILL, SIGSEGV};
	struct hf_listener *listener;

	CHECK_INT(hf_listener_new(all, 2, false, &listener, &err), HF_INVALID);
	CHECK_HAS(err.message, "KILL");
	CHECK_INT(hf_listener_new(all + 2, 1, false, &listener, &err), HF_INVALID);
	CHECK_ACTION(SIGTERM, SIG_DFL);
}

/* How a child that does this ends: the number of the signal, or 100 + its status. */
static int fate(void (*child)(struct hf_listener *), struct hf_listener *listener)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		child(listener);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	return WIFSIGNALED(status) ? WTERMSIG(status) : 100 + WEXITSTATUS(status);
}

static void terminate(struct hf_listener *listener)
{
	(void)listener;
	raise(SIGTERM);
}

static void ask(struct hf_listener *listener)
{
	struct hf_listener *own;
	bool forked = hf_listener_fd(listener, &err) < 0 && err.code == HF_FORKED &&
		      !hf_listener_next(listener, &err) && err.code == HF_FORKED &&
		      !hf_listener_wait(listener, 0, &err) && err.code == HF_FORKED;

	hf_listener_free(listener);
	own = listen_to(SIGTERM);
	raise(SIGTERM);
	_exit(forked && hf_listener_next(own, &err) == SIGTERM ? 7 : 1);
}

static void a_child_is_as_if_nobody_had_listened(void)
{
	struct hf_listener *listener = listen_to(SIGTERM);

	CHECK_INT(fate(terminate, listener), SIGTERM);
	CHECK_INT(fate(ask, listener), 107);
	CHECK_INT(hf_listener_next(listener, &err), 0);
	hf_listener_free(listener);
}

static void nothing_is_taken_without_memory(void)
{
	struct hf_listener *listener = NULL;

	hf_alloc_fail(1, 0);
	CHECK_INT(hf_listener_new((const int[]){SIGTERM}, 1, false, &listener, &err), HF_NOMEM);
	hf_alloc_fail(0, 0);
	CHECK(!listener);
	CHECK_ACTION(SIGTERM, SIG_DFL);
}

#define ROUNDS 2000

static atomic_bool over;

/* Listeners come and go beside one that stays, so that the signal is never deadly. */
static void *come_and_go(void *arg)
{
	(void)arg;
	for (int i = 0; i < ROUNDS; i++)
		hf_listener_free(listen_to(SIGUSR1));
	atomic_store(&over, true);
	return NULL;
}

static void listeners_come_and_go_under_fire(void)
{
	struct hf_listener *listener = listen_to(SIGUSR1);
	pthread_t thread;
	int sent = 0, got = 0;

	atomic_store(&over, false);
	REQUIRE(!pthread_create(&thread, NULL, come_and_go, NULL));
	for (; !atomic_load(&over); sent++) {
		if (sent % 2)
			raise(SIGUSR1);
		else
			pthread_kill(thread, SIGUSR1);
		while (hf_listener_next(listener, &err))
			got++;
	}
	pthread_join(thread, NULL);
	while (hf_listener_next(listener, &err))
		got++;
	CHECK(got > sent / 4); /* those for one thread that come together are one */
	CHECK(got <= sent);
	hf_listener_free(listener);
	CHECK_ACTION(SIGUSR1, SIG_DFL);
}

static const struct check_test tests[] = {
	TEST(signals_have_names),
	TEST(what_has_come_is_read_as_often_as_it_came),
	TEST(everybody_hears_it_and_the_last_one_restores),
	TEST(who_had_a_handler_is_called_too),
	TEST(only_an_interpreter_is_not_at_ctrl_c),
	TEST(who_comes_later_keeps_his_handler),
	TEST(what_was_ignored_is_heard_and_then_ignored),
	TEST(nobody_hears_a_kill_or_a_fault),
	TEST(a_child_is_as_if_nobody_had_listened),
	TEST(nothing_is_taken_without_memory),
	TEST(listeners_come_and_go_under_fire),
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests, CHECK_COUNT(tests), NULL);
}
