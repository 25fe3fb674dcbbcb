/* test_ending.c: processes that end by a signal, whatever their threads are at: what they hold has
 * been given back by then, and who worked under it was stopped before. */
#include "base/alloc.h"
#include "hold.h"

#include <sys/wait.h>

#define RUNS 40

static const int term = SIGTERM;

static pthread_t owner;

/* Makes a client that closes when the process is told to end, and takes a key. */
static void hold(const char *key)
{
	default_opts();
	client = new_client();
	lock = new_lock(client, key);
	if (hf_client_close_on(client, &term, 1, false, &err) || acquire(lock, WAIT))
		_exit(1);
}

/* A process that does something. It is made before there is a thread, which ThreadSanitizer wants,
 * and hears where the fake is then. */
static pid_t start_process(void (*work)(void))
{
	int ends[2];
	pid_t pid;

	if (pipe(ends))
		exit(1);
	pid = fork();
	if (pid == 0) {
		if (read(ends[0], fake.base, sizeof fake.base) > 0)
			work();
		_exit(2);
	}
	fake_start();
	CHECK(write(ends[1], fake.base, sizeof fake.base) == sizeof fake.base);
	close(ends[0]);
	close(ends[1]);
	return pid;
}

static void (*work_under_it)(void);

static void hold_and_work(void)
{
	hold("k");
	work_under_it();
}

/* A process that holds the key k and does something. */
static pid_t start(void (*work)(void))
{
	pid_t pid;

	work_under_it = work;
	pid = start_process(hold_and_work);
	CHECK(fake_wait_held("k", true));
	return pid;
}

/* The signal that it has ended by; minus its exit status. */
static int fate(pid_t pid)
{
	int status = 0;

	waitpid(pid, &status, 0);
	return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
}

static void expect_end(void (*work)(void))
{
	pid_t pid = start(work);

	kill(pid, SIGTERM);
	CHECK_INT(fate(pid), SIGTERM);
	CHECK(!fake_held("k"));
	fake_stop();
}

/* ThreadSanitizer lets a signal in where its own functions are called. */
static void compute(void)
{
	for (volatile unsigned long n = 0;; n++)
		if (n % 10000 == 0)
			free(malloc(1));
}

/* As many in its own memory, and so much of it, that the lock of that is taken all the time. */
static void allocate(void)
{
	void *kept[64] = {NULL};

	for (size_t n = 1;; n++) {
		free(kept[n % 64]);
		kept[n % 64] = malloc(2000 + n * 7 % 5000);
	}
}

static void ask(void)
{
	struct hf_stats stats;

	for (;;) {
		hf_client_stats(client, &stats, &err);
		state_of(lock);
	}
}

static void wait_for_time(void)
{
	for (;;)
		pause();
}

static void wait_for_consul(void)
{
	struct hf_lock *second = new_lock(client, "k");

	acquire(second, -1);
}

static void whatever_it_is_at(void)
{
	void (*const all[])(void) = {compute, ask, wait_for_time, wait_for_consul};

	for (size_t i = 0; i < CHECK_COUNT(all); i++)
		expect_end(all[i]);
}

/* Whether that lock is to be had can be seen of the allocator of libc only, which the one of
 * AddressSanitizer is not: the process ends then, maybe with its key. */
static void who_has_the_lock_of_memory_is_let_go_a_bit(void)
{
#ifdef __SANITIZE_ADDRESS__
	for (int i = 0; i < RUNS; i++) {
		pid_t pid = start(allocate);
		int number;

		kill(pid, SIGTERM);
		number = fate(pid);
		CHECK(number == SIGTERM || number == SIGKILL);
		fake_stop();
	}
#else
	for (int i = 0; i < RUNS; i++)
		expect_end(allocate);
#endif
}

/* An engine of its own, whose key is b, and which another thread works under. */
static void *work_beside(void *arg)
{
	struct hf_client *own = new_client();
	struct hf_lock *second = new_lock(own, "b");

	(void)arg;
	if (hf_client_close_on(own, &term, 1, false, &err) || acquire(second, WAIT))
		_exit(1);
	compute();
	return NULL;
}

static void two_threads(void)
{
	pthread_create(&owner, NULL, work_beside, NULL);
	compute();
}

static void all_clients_and_their_threads(void)
{
	pid_t pid = start(two_threads);

	CHECK(fake_wait_held("b", true));
	kill(pid, SIGTERM);
	CHECK_INT(fate(pid), SIGTERM);
	CHECK(!fake_held("k"));
	CHECK(!fake_held("b"));
	fake_stop();
}

static void *hear_it(void *arg)
{
	(void)arg;
	wait_for_time();
	return NULL;
}

/* The signal comes to another thread than the one that is to be stopped. */
static void refuse_to_stop(void)
{
	sigset_t set;

	pthread_create(&owner, NULL, hear_it, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	acquire(new_lock(client, "ready"), WAIT);
	compute();
}

static void who_cannot_be_stopped_gives_nothing_back(void)
{
	pid_t pid = start(refuse_to_stop);

	CHECK(fake_wait_held("ready", true));
	kill(pid, SIGTERM);
	CHECK_INT(fate(pid), SIGTERM);
	CHECK(fake_held("k"));
	fake_stop();
}

/* Its fate is the process's. */
static void have_a_child(void)
{
	pid_t pid = fork();

	if (pid == 0)
		wait_for_time();
	kill(pid, SIGTERM);
	_exit(fate(pid) == SIGTERM ? 7 : 1);
}

static void a_child_of_it_ends_as_any_other(void)
{
	CHECK_INT(fate(start(have_a_child)), -7);
	CHECK(fake_held("k"));
	fake_stop();
}

static bool is_default(int number)
{
	struct sigaction now;

	sigaction(number, NULL, &now);
	return !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_DFL;
}

static void it_is_over_with_the_client(void)
{
	const int winch = SIGWINCH;

	default_opts();
	client = new_client();
	CHECK_INT(hf_client_close_on(client, &winch, 1, false, &err), HF_INVALID);
	CHECK_INT(hf_client_close_on(client, &term, 1, false, &err), HF_OK);
	CHECK_INT(hf_client_close_on(client, &term, 1, false, &err), HF_OK);
	CHECK(!is_default(SIGTERM));
	hf_client_drop(client);
	CHECK(is_default(SIGTERM));
	client = new_client();
	CHECK_INT(close_client(client, true), HF_OK);
	CHECK_INT(hf_client_close_on(client, &term, 1, false, &err), HF_CLOSED);
	CHECK(is_default(SIGTERM));
	close_all();
}

static void nothing_is_taken_without_memory(void)
{
	long n = 0;

	default_opts();
	client = new_client();
	do {
		hf_alloc_fail(++n, 0);
		hf_client_close_on(client, &term, 1, false, &err);
		if (hf_alloc_count() < n)
			break;
		CHECK_INT(err.code, HF_NOMEM);
		CHECK(is_default(SIGTERM));
	} while (n < 100);
	CHECK(n > 2);
	hf_alloc_fail(0, 0);
	CHECK(!is_default(SIGTERM));
	close_all();
	CHECK(is_default(SIGTERM));
}

static void without_memory_it_ends_all_the_same(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		default_opts();
		client = new_client();
		hf_client_close_on(client, &term, 1, false, &err);
		hf_alloc_fail(1, 1);
		raise(SIGTERM);
		wait_for_time();
	}
	CHECK_INT(fate(pid), SIGTERM);
}

/* Children start threads, under ThreadSanitizer too. */
const char *__tsan_default_options(void);
__attribute__((visibility("default"))) const char *__tsan_default_options(void)
{
	return "die_after_fork=0";
}

static const struct check_test tests[] = {
	TEST(whatever_it_is_at),
	TEST(who_has_the_lock_of_memory_is_let_go_a_bit),
	TEST(all_clients_and_their_threads),
	TEST(who_cannot_be_stopped_gives_nothing_back),
	TEST(a_child_of_it_ends_as_any_other),
	TEST(without_memory_it_ends_all_the_same),
	TEST(it_is_over_with_the_client), /* from here on a thread may be left that is ending */
	TEST(nothing_is_taken_without_memory),
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests, CHECK_COUNT(tests), NULL);
}
