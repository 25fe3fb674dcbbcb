/* test_drive.c: who takes an engine's turns (net/drive.h): what a waiting thread does for others
 * and they for it, signals, sets, and what goes on while nobody waits. Against the small Consul of
 * fake.h. libcurl's memory is this program's, so that a turn can be made to do what a library may
 * do. */
#include "base/alloc.h"
#include "lock/lock.h"

#include "check.h"
#include "fake.h"
#include "hf.h"
#include "hold.h"

#include <curl/curl.h>
#include <dirent.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define CROWD 8

static const char *program;
static struct hf_set *set;

static void begin(void)
{
	fake_start();
	default_opts();
}

static void with_client(void)
{
	begin();
	client = new_client();
}

/* With op, a request that is not answered. */
static void with_op(void)
{
	with_client();
	fake_on("GET /slow", -1, "hold");
	CHECK_INT(start_get(client, NULL, "/slow", &op), HF_OK);
}

static void end(void)
{
	hf_set_free(set);
	set = NULL;
	close_all();
	fake_stop();
}

static bool driven(void)
{
	bool so;

	pthread_mutex_lock(&client->engine.mutex);
	so = client->engine.driven;
	pthread_mutex_unlock(&client->engine.mutex);
	return so;
}

static void *wait_for_op(void *arg)
{
	hf_op_wait(op, -1, &err);
	CHECK_INT(err.code, HF_OK);
	return arg;
}

/* Starts a thread that drives, until op has finished. */
static pthread_t start_driver(void)
{
	pthread_t thread;

	CHECK(!pthread_create(&thread, NULL, wait_for_op, NULL));
	EVENTUALLY(driven());
	return thread;
}

static void end_driver(pthread_t thread)
{
	hf_op_cancel(op);
	pthread_join(thread, NULL);
}

/* Waits until the set has one that has finished. */
static const void *next_of_set(void)
{
	int64_t limit = hf_now() + WAIT;
	const void *next;

	while (!(next = hf_set_next(set)) && hf_now() < limit)
		if (hf_set_wait(set, NULL, 0, WAIT, NULL, &err))
			return NULL;
	return next;
}

static int descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = 0;

	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

/* ---- signals ------------------------------------------------------------------------------ */

static atomic_int signals;
static pthread_t waiter;

static void count_signal(int signal)
{
	(void)signal;
	atomic_fetch_add(&signals, 1);
}

static void catch_signals(void)
{
	struct sigaction action = {.sa_handler = count_signal};

	sigaction(SIGUSR1, &action, NULL);
	atomic_store(&signals, 0);
	waiter = pthread_self();
}

static void *signal_the_driver(void *arg)
{
	EVENTUALLY(driven());
	pthread_kill(waiter, SIGUSR1);
	return arg;
}

static void a_signal_ends_a_wait(void)
{
	pthread_t thread;

	with_op();
	catch_signals();
	REQUIRE(!pthread_create(&thread, NULL, signal_the_driver, NULL));
	CHECK(!hf_op_wait(op, -1, &err));
	CHECK_INT(err.code, HF_OK);
	CHECK_INT(atomic_load(&signals), 1);
	pthread_join(thread, NULL);
	CHECK(!hf_op_done(op));
}

/* Has the turn, so that the driver waits for it with all signals blocked. */
static void *signal_before_the_turn(void *arg)
{
	pthread_mutex_lock(&client->engine.turn);
	sem_post(arg);
	EVENTUALLY(driven());
	pthread_kill(waiter, SIGUSR1);
	CHECK_INT(atomic_load(&signals), 0);
	pthread_mutex_unlock(&client->engine.turn);
	return arg;
}

static void a_signal_that_comes_in_a_turn_is_not_missed(void)
{
	pthread_t thread;
	sem_t has_it;

	with_op();
	catch_signals();
	sem_init(&has_it, 0, 0);
	REQUIRE(!pthread_create(&thread, NULL, signal_before_the_turn, &has_it));
	sem_wait(&has_it);
	CHECK(!hf_op_wait(op, -1, &err));
	CHECK_INT(err.code, HF_OK);
	CHECK_INT(atomic_load(&signals), 1);
	pthread_join(thread, NULL);
	sem_destroy(&has_it);
}

static void *wait_for_a_signal(void *arg)
{
	waiter = pthread_self();
	sem_post(arg);
	CHECK(!hf_op_wait(op, -1, &err));
	CHECK_INT(err.code, HF_OK);
	return arg;
}

/* Once it sleeps, which only its descriptor tells. */
static bool has_descriptor(struct hf_op *of)
{
	bool so;

	pthread_mutex_lock(&client->engine.mutex);
	so = of->fd >= 0;
	pthread_mutex_unlock(&client->engine.mutex);
	return so;
}

static void a_signal_ends_the_wait_beside_a_driver(void)
{
	pthread_t driver, thread;
	sem_t ready;

	with_op();
	catch_signals();
	driver = start_driver();
	sem_init(&ready, 0, 0);
	REQUIRE(!pthread_create(&thread, NULL, wait_for_a_signal, &ready));
	sem_wait(&ready);
	EVENTUALLY(has_descriptor(op));
	pthread_kill(waiter, SIGUSR1);
	pthread_join(thread, NULL);
	CHECK_INT(atomic_load(&signals), 1);
	end_driver(driver);
	sem_destroy(&ready);
}

static void a_signal_gets_through_to_who_waits_with_a_set(void)
{
	pthread_t thread;

	with_op();
	catch_signals();
	set = hf_set_new();
	CHECK_INT(hf_set_add(set, op, &err), HF_OK);
	REQUIRE(!pthread_create(&thread, NULL, signal_the_driver, NULL));
	while (!atomic_load(&signals) && !atomic_load(&check_failures))
		CHECK_INT(hf_set_wait(set, NULL, 0, WAIT, NULL, &err), HF_OK);
	pthread_join(thread, NULL);
	CHECK(!hf_set_next(set));
}

/* What OpenSSL does when it writes to a connection that is gone. How often this thread has done it
 * while it drove. */
static atomic_bool breaks_pipes;
static _Thread_local int broken;

static void break_a_pipe(void)
{
	if (atomic_load(&breaks_pipes) && !pthread_kill(pthread_self(), SIGPIPE))
		broken++;
}

static void *curl_malloc(size_t size)
{
	break_a_pipe();
	return malloc(size);
}

static void *curl_calloc(size_t count, size_t size)
{
	break_a_pipe();
	return calloc(count, size);
}

static char *curl_strdup(const char *text)
{
	break_a_pipe();
	return strdup(text);
}

static bool is_pending(int signal)
{
	sigset_t pending;

	sigpending(&pending);
	return sigismember(&pending, signal);
}

static void finish_with_broken_pipes(struct hf_op *of)
{
	atomic_store(&breaks_pipes, true);
	CHECK_INT(finish(of), HF_OK);
	atomic_store(&breaks_pipes, false);
}

/* All that a client does, with a broken pipe wherever libcurl asks for memory. */
static void drive_with_broken_pipes(void)
{
	struct hf_op *mine = NULL;

	broken = 0;
	lock = new_lock(client, "k");
	CHECK_INT(hf_lock_acquire(lock, -1, &mine, &err), HF_OK);
	finish_with_broken_pipes(mine);
	CHECK_INT(start_get(client, lock, "/", &mine), HF_OK);
	finish_with_broken_pipes(mine);
	CHECK_INT(hf_client_close(client, true, &mine, &err), HF_OK);
	finish_with_broken_pipes(mine);
	CHECK(broken > 0);
}

static void a_broken_pipe_in_a_turn_is_no_concern_of_who_drives(void)
{
	struct sigaction disposition;
	sigset_t before, after;

	with_client();
	pthread_sigmask(SIG_SETMASK, NULL, &before);
	CHECK(!sigismember(&before, SIGPIPE));
	drive_with_broken_pipes();
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	for (int signal = 1; signal < NSIG; signal++)
		CHECK_INT(sigismember(&after, signal), sigismember(&before, signal));
	sigaction(SIGPIPE, NULL, &disposition);
	CHECK(disposition.sa_handler == SIG_DFL);
	CHECK(!is_pending(SIGPIPE));
}

/* Who blocks it looks after it, and after others that are blocked. */
static void what_a_caller_has_blocked_stays_blocked_and_pending(void)
{
	const struct timespec now = {0};
	sigset_t mine, before, after;

	with_client();
	sigemptyset(&mine);
	sigaddset(&mine, SIGPIPE);
	sigaddset(&mine, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &mine, &before);
	pthread_kill(pthread_self(), SIGPIPE);
	pthread_kill(pthread_self(), SIGUSR1);
	drive_with_broken_pipes();
	pthread_sigmask(SIG_SETMASK, NULL, &after);
	CHECK(sigismember(&after, SIGPIPE) && sigismember(&after, SIGUSR1));
	CHECK(is_pending(SIGPIPE) && is_pending(SIGUSR1));
	while (sigtimedwait(&mine, NULL, &now) > 0)
		;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* ---- several threads ---------------------------------------------------------------------- */

/* So many that a test takes too long in which each is told only when something is due anyway, which
 * is about 200 ms later. */
#define ROUNDS 1500

/* With one processor for all, who wakes somebody else has gone on before that one comes. */
static cpu_set_t share_a_processor(void)
{
	cpu_set_t before, one;
	int cpu = 0;

	sched_getaffinity(0, sizeof before, &before);
	while (!CPU_ISSET(cpu, &before))
		cpu++;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	sched_setaffinity(0, sizeof one, &one);
	return before;
}

static void threads_that_wait_on_one_client_are_each_told(void)
{
	cpu_set_t before = share_a_processor();
	pthread_t driver;

	with_op();
	driver = start_driver();
	for (int round = 0; round < ROUNDS && !atomic_load(&check_failures); round++) {
		struct hf_op *mine = NULL;

		CHECK_INT(start_get(client, NULL, "/quick", &mine), HF_OK);
		CHECK_INT(finish(mine), HF_OK);
	}
	end_driver(driver);
	sched_setaffinity(0, sizeof before, &before);
}

static void what_others_start_and_cancel_goes_to_who_drives(void)
{
	struct hf_op *mine = NULL;
	pthread_t driver;

	with_op();
	driver = start_driver();
	CHECK_INT(start_get(client, NULL, "/quick", &mine), HF_OK);
	EVENTUALLY(hf_op_done(mine));
	hf_op_drop(mine);
	fake_on("GET /other", -1, "hold");
	CHECK_INT(start_get(client, NULL, "/other", &mine), HF_OK);
	CHECK(fake_wait("GET /other", 1));
	hf_op_cancel(mine);
	EVENTUALLY(hf_op_done(mine));
	hf_op_drop(mine);
	CHECK(driven() && !hf_op_done(op));
	end_driver(driver);
}

static void *wait_for(void *arg)
{
	CHECK(hf_op_wait(arg, WAIT, &err));
	return arg;
}

static void who_comes_second_goes_on_when_the_driver_leaves(void)
{
	struct hf_op *mine = NULL;
	pthread_t driver, thread;

	with_op();
	driver = start_driver();
	fake_set("k", "somebody");
	lock = new_lock(client, "k");
	CHECK_INT(hf_lock_acquire(lock, -1, &mine, &err), HF_OK);
	REQUIRE(!pthread_create(&thread, NULL, wait_for, mine));
	EVENTUALLY(has_descriptor(mine));
	end_driver(driver);
	fake_set("k", "");
	pthread_join(thread, NULL);
	CHECK_INT(finish(mine), HF_OK);
}

static void without_descriptors_who_comes_second_says_so(void)
{
	struct rlimit before, none;
	struct hf_op *mine = NULL;
	pthread_t driver;

	with_op();
	CHECK_INT(start_get(client, NULL, "/slow", &mine), HF_OK);
	CHECK(fake_wait("GET /slow", 2));
	driver = start_driver();
	set = hf_set_new();
	CHECK_INT(hf_set_add(set, op, &err), HF_OK);
	getrlimit(RLIMIT_NOFILE, &before);
	none = before;
	none.rlim_cur = 3;
	setrlimit(RLIMIT_NOFILE, &none);
	CHECK(!hf_op_wait(mine, -1, &err));
	CHECK_INT(err.code, HF_NOMEM);
	CHECK_INT(hf_set_wait(set, NULL, 0, -1, NULL, &err), HF_NOMEM);
	setrlimit(RLIMIT_NOFILE, &before);
	end_driver(driver);
	CHECK(next_of_set() == op);
	hf_op_drop(mine);
}

/* ---- while nobody waits ------------------------------------------------------------------- */

static void who_leaves_in_the_middle_leaves_the_rest_to_the_worker(void)
{
	struct hf_op *acquiring = NULL;

	with_op();
	fake_set("k", "somebody");
	lock = new_lock(client, "k");
	CHECK_INT(hf_lock_acquire(lock, -1, &acquiring, &err), HF_OK);
	CHECK(!hf_op_wait(op, 50, &err));
	CHECK(fake_wait("GET /v1/kv/k?index", 1));
	fake_set("k", "");
	CHECK(fake_wait("\"lock\"", 1));
	EVENTUALLY(hf_op_done(acquiring));
	CHECK_INT(finish(acquiring), HF_OK);
}

/* The first round finds the worker asleep, the others while it stands back. */
static void what_nobody_waits_for_is_done_all_the_same(void)
{
	struct hf_op *mine = NULL;

	with_client();
	lock = new_lock(client, "k");
	fake_on("GET /slow", -1, "hold");
	for (unsigned i = 1; i <= 10; i++) {
		CHECK_INT(start_get(client, NULL, "/slow", &mine), HF_OK);
		CHECK(fake_wait("GET /slow", i));
		if (i % 2) {
			hf_op_cancel(mine);
			EVENTUALLY(hf_op_done(mine));
		}
		hf_op_drop(mine);
		CHECK_INT(acquire(lock, -1), HF_OK);
		hf_lock_drop(lock);
		CHECK(fake_wait_held("k", false));
		lock = new_lock(client, "k");
		CHECK_INT(start_get(client, NULL, "/quick", &mine), HF_OK);
		CHECK_INT(finish(mine), HF_OK);
	}
	hf_client_drop(client);
	client = NULL;
	CHECK(fake_wait("/v1/session/destroy/", 1));
}

static void without_descriptors_a_client_says_so_when_it_begins(void)
{
	struct rlimit before, none;
	int fds;

	with_client();
	lock = new_lock(client, "k");
	fds = descriptors();
	getrlimit(RLIMIT_NOFILE, &before);
	for (int room = 0; room < 2; room++) { /* none for the epoll; none for its bell */
		none = before;
		none.rlim_cur = (rlim_t)(dup(0) + room);
		close((int)none.rlim_cur - room);
		setrlimit(RLIMIT_NOFILE, &none);
		CHECK_INT(acquire(lock, -1), HF_NOMEM);
		CHECK_INT(start_get(client, NULL, "/", &op), HF_NOMEM);
		setrlimit(RLIMIT_NOFILE, &before);
		CHECK_INT(descriptors(), fds);
	}
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(release(lock, -1), HF_OK);
}

/* ---- renewal and loss --------------------------------------------------------------------- */

/* Renewed every second, about. */
static void with_short_session(void)
{
	begin();
	opts.session.ttl = opts.session.lock_delay = 6000;
	client = new_client();
	lock = new_lock(client, "k");
	CHECK_INT(acquire(lock, -1), HF_OK);
	fake_on("GET /slow", -1, "hold");
	CHECK_INT(start_get(client, NULL, "/slow", &op), HF_OK);
}

static void locks_are_renewed_while_somebody_drives(void)
{
	pthread_t driver;

	with_short_session();
	driver = start_driver();
	CHECK(fake_wait("/v1/session/renew/", 3));
	CHECK(driven() && state_of(lock).held);
	end_driver(driver);
	CHECK(fake_wait("/v1/session/renew/", 6));
	CHECK(state_of(lock).held);
}

static void a_loss_is_noticed_while_somebody_drives(void)
{
	struct hf_op *guarded = NULL;
	char session[64];
	pthread_t driver;

	with_short_session();
	CHECK_INT(start_get(client, lock, "/slow?guarded", &guarded), HF_OK);
	CHECK(fake_wait("GET /slow?guarded", 1) && fake_wait("/v1/session/info/", 1));
	driver = start_driver();
	hf_lock_session(lock, session, sizeof session);
	fake_kill(session);
	EVENTUALLY(hf_op_done(guarded));
	CHECK(driven());
	CHECK_INT(hf_op_result(guarded, &err), HF_LOST);
	CHECK_INT(state_of(lock).reason, HF_BY_SESSION);
	hf_op_drop(guarded);
	end_driver(driver);
}

/* ---- close -------------------------------------------------------------------------------- */

static void a_client_that_is_closed_ends_the_wait_of_who_drives(void)
{
	pthread_t driver;

	with_op();
	driver = start_driver();
	CHECK_INT(close_client(client, true), HF_OK);
	pthread_join(driver, NULL);
	CHECK_INT(hf_op_result(op, &err), HF_CLOSED);
}

static void a_client_that_is_abandoned_ends_the_wait_of_who_drives(void)
{
	pthread_t driver;

	with_op();
	driver = start_driver();
	CHECK_INT(close_client(client, false), HF_OK);
	pthread_join(driver, NULL);
	CHECK_INT(hf_op_result(op, &err), HF_CLOSED);
}

static int64_t cpu_used(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
	       (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000;
}

/* It takes three seconds, in which there is nothing to do. */
static void a_close_that_waits_for_a_silent_server_does_not_spin(void)
{
	int64_t before;

	with_client();
	lock = new_lock(client, "k");
	CHECK_INT(acquire(lock, -1), HF_OK);
	fake_on("\"unlock\"", -1, "hold");
	fake_on("/v1/session/destroy/", -1, "hold");
	before = cpu_used();
	CHECK_INT(close_client(client, true), HF_OK);
	CHECK(cpu_used() - before < 1000);
}

/* ---- fork --------------------------------------------------------------------------------- */

static bool forked;

/* AddressSanitizer asks before it looks for leaks: a child has lost its parent's threads. */
int __lsan_is_turned_off(void);
__attribute__((visibility("default"))) int __lsan_is_turned_off(void)
{
	return forked;
}

static int status_of(pid_t child)
{
	int status = -1;

	CHECK(waitpid(child, &status, 0) == child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static pid_t fork_here(void)
{
	pid_t child = fork();

	if (child == 0) {
		forked = true;
		atomic_store(&check_failures, 0);
		alarm(CHECK_LIMIT / 2);
	}
	return child;
}

static void a_child_of_a_driven_client_answers_forked(void)
{
	pthread_t driver;
	pid_t child;

	with_op();
	driver = start_driver();
	child = fork_here();
	if (child == 0) {
		CHECK(hf_op_wait(op, -1, &err));
		CHECK_INT(hf_op_result(op, &err), HF_FORKED);
		exit(atomic_load(&check_failures) != 0);
	}
	CHECK_INT(status_of(child), 0);
	CHECK(driven() && !hf_op_done(op));
	end_driver(driver);
	CHECK_INT(hf_op_result(op, &err), HF_CANCELED);
}

static void a_set_in_a_child_forgets_what_is_its_parents(void)
{
	pid_t child;

	with_op();
	set = hf_set_new();
	CHECK_INT(hf_set_add(set, op, &err), HF_OK);
	CHECK_INT(hf_set_wait(set, NULL, 0, 0, NULL, &err), HF_OK);
	child = fork_here();
	if (child == 0) {
		CHECK_INT(hf_set_add(set, op, &err), HF_FORKED);
		CHECK(!hf_set_next(set));
		CHECK_INT(hf_set_wait(set, NULL, 0, -1, NULL, &err), HF_FORKED);
		hf_set_remove(set, op);
		CHECK_INT(hf_set_wait(set, NULL, 0, 0, NULL, &err), HF_OK);
		CHECK(!hf_set_next(set));
		exit(atomic_load(&check_failures) != 0);
	}
	CHECK_INT(status_of(child), 0);
	hf_op_cancel(op);
	CHECK(next_of_set() == op);
}

/* ThreadSanitizer cannot start a thread in a child of several. */
#ifndef __SANITIZE_THREAD__
static void a_set_in_a_child_takes_what_is_the_childs(void)
{
	pid_t child;

	with_op();
	set = hf_set_new();
	CHECK_INT(hf_set_add(set, op, &err), HF_OK);
	child = fork_here();
	if (child == 0) {
		client = new_client();
		CHECK_INT(start_get(client, NULL, "/child", &op), HF_OK);
		CHECK_INT(hf_set_add(set, op, &err), HF_OK);
		CHECK_INT(hf_set_wait(set, NULL, 0, -1, NULL, &err), HF_FORKED);
		CHECK(next_of_set() == op);
		CHECK_INT(finish(op), HF_OK);
		exit(atomic_load(&check_failures) != 0);
	}
	CHECK_INT(status_of(child), 0);
	hf_op_cancel(op);
	CHECK(next_of_set() == op);
}
#endif

/* It has the parent's sockets too. What the parent closes, and the server then says something on,
 * must not keep it awake. */
static void connections_that_a_child_has_inherited_cost_nothing(void)
{
	struct hf_op *acquiring = NULL;
	int64_t before;
	pid_t child;

	with_op();
	fake_set("k", "somebody");
	lock = new_lock(client, "k");
	CHECK_INT(hf_lock_acquire(lock, -1, &acquiring, &err), HF_OK);
	CHECK(fake_wait("GET /v1/kv/k?index", 1));
	child = fork_here();
	if (child == 0)
		for (;;)
			pause();
	hf_op_cancel(acquiring);
	CHECK_INT(finish(acquiring), HF_CANCELED);
	fake_set("k", "");
	before = cpu_used();
	CHECK(!hf_op_wait(op, 1000, &err));
	CHECK(cpu_used() - before < 300);
	kill(child, SIGKILL);
	CHECK_INT(status_of(child), -1);
}

/* ---- exit --------------------------------------------------------------------------------- */

static void exit_here(int signal)
{
	(void)signal;
	exit(0);
}

/* What this program does when it is started with a mode and the fake's address: it ends by exit()
 * while somebody drives. */
static int run_and_exit(const char *mode, const char *base)
{
	pthread_t thread;

	snprintf(fake.base, sizeof fake.base, "%s", base);
	default_opts();
	client = new_client();
	lock = new_lock(client, "k");
	if (acquire(lock, -1) || start_get(client, NULL, "/slow", &op))
		return 2;
	if (!strcmp(mode, "--beside")) {
		pthread_detach(start_driver());
		exit(0);
	}
	signal(SIGUSR1, exit_here);
	waiter = pthread_self();
	if (!pthread_create(&thread, NULL, signal_the_driver, NULL))
		hf_op_wait(op, -1, &err);
	return 2;
}

static int started_with(const char *mode)
{
	pid_t child = fork();

	if (child == 0) {
		execl(program, program, mode, fake.base, (char *)NULL);
		_exit(127);
	}
	return status_of(child);
}

static void exit_beside_a_driver_says_goodbye(void)
{
	begin();
	fake_on("GET /slow", -1, "hold");
	CHECK_INT(started_with("--beside"), 0);
	CHECK(fake_wait("\"unlock\"", 1) && fake_wait("/v1/session/destroy/", 1));
}

/* ThreadSanitizer rightly says that this is not to be done. It is done. */
#ifndef __SANITIZE_THREAD__
static void exit_in_a_signal_handler_of_a_driver_says_goodbye(void)
{
	begin();
	fake_on("GET /slow", -1, "hold");
	CHECK_INT(started_with("--handler"), 0);
	CHECK(fake_wait("\"unlock\"", 1) && fake_wait("/v1/session/destroy/", 1));
}
#endif

/* ---- sets --------------------------------------------------------------------------------- */

static void a_set_tells_of_each_op_once(void)
{
	struct hf_op *ops[3] = {NULL};

	with_client();
	set = hf_set_new();
	for (int i = 0; i < 3; i++)
		CHECK_INT(start_get(client, NULL, "/", &ops[i]), HF_OK);
	CHECK(hf_op_wait(ops[0], WAIT, &err)); /* before it is added */
	for (int i = 0; i < 3; i++) {
		CHECK_INT(hf_set_add(set, ops[i], &err), HF_OK);
		CHECK_INT(hf_set_add(set, ops[i], &err), HF_OK); /* once is enough */
	}
	for (int found = 0; found < 3; found++) {
		const void *next = next_of_set();

		for (int i = 0; i < 3; i++) {
			if (next != ops[i])
				continue;
			CHECK_INT(finish(ops[i]), HF_OK);
			ops[i] = NULL;
		}
	}
	CHECK(!ops[0] && !ops[1] && !ops[2]);
	CHECK_INT(hf_set_wait(set, NULL, 0, 0, NULL, &err), HF_OK);
	CHECK(!hf_set_next(set));
}

static void a_set_drives_several_clients_and_looks_at_descriptors(void)
{
	struct hf_client *other;
	struct hf_op *second = NULL;
	bool ready = false;
	int bell = eventfd(1, EFD_CLOEXEC);

	with_op();
	other = new_client();
	CHECK_INT(start_get(other, NULL, "/", &second), HF_OK);
	set = hf_set_new();
	CHECK_INT(hf_set_add(set, op, &err), HF_OK);
	CHECK_INT(hf_set_add(set, second, &err), HF_OK);
	CHECK_INT(hf_set_wait(set, &bell, 1, -1, &ready, &err), HF_OK);
	CHECK(ready);
	CHECK(next_of_set() == second);
	CHECK_INT(finish(second), HF_OK);
	CHECK_INT(close_client(other, true), HF_OK);
	hf_client_drop(other);
	hf_op_cancel(op);
	CHECK(next_of_set() == op);
	close(bell);
}

static void a_set_waits_beside_a_driver(void)
{
	struct hf_op *acquiring = NULL;
	pthread_t driver;

	with_op();
	driver = start_driver();
	lock = new_lock(client, "k");
	set = hf_set_new();
	for (unsigned round = 0; round < 150; round++) {
		fake_set("k", "somebody");
		CHECK_INT(hf_lock_acquire(lock, -1, &acquiring, &err), HF_OK);
		CHECK_INT(hf_set_add(set, acquiring, &err), HF_OK);
		CHECK_INT(hf_set_wait(set, NULL, 0, 1, NULL, &err), HF_OK);
		CHECK(fake_wait("GET /v1/kv/k?index", round + 1));
		fake_set("k", "");
		CHECK(next_of_set() == acquiring);
		CHECK_INT(finish(acquiring), HF_OK);
		CHECK_INT(release(lock, -1), HF_OK);
	}
	end_driver(driver);
}

static void an_op_that_is_taken_off_a_set_is_not_told(void)
{
	with_op();
	set = hf_set_new();
	hf_set_remove(set, op); /* it is not in there */
	CHECK_INT(hf_set_add(set, op, &err), HF_OK);
	hf_set_remove(set, op);
	hf_op_cancel(op);
	CHECK(hf_op_wait(op, WAIT, &err));
	CHECK_INT(hf_set_wait(set, NULL, 0, 0, NULL, &err), HF_OK);
	CHECK(!hf_set_next(set));
	CHECK_INT(hf_set_add(set, op, &err), HF_OK);
	hf_set_remove(set, op); /* finished */
	CHECK(!hf_set_next(set));
}

static void a_set_is_freed_with_what_is_in_it(void)
{
	struct hf_op *done = NULL;

	with_op();
	set = hf_set_new();
	CHECK_INT(start_get(client, NULL, "/", &done), HF_OK);
	CHECK(hf_op_wait(done, WAIT, &err));
	CHECK_INT(hf_set_add(set, done, &err), HF_OK);
	CHECK_INT(hf_set_add(set, op, &err), HF_OK);
	hf_op_drop(done); /* it stays in the set */
	hf_set_free(set);
	set = NULL;
}

static void a_set_outlives_its_client(void)
{
	with_op();
	set = hf_set_new();
	CHECK_INT(hf_set_add(set, op, &err), HF_OK);
	CHECK_INT(close_client(client, true), HF_OK);
	hf_client_drop(client);
	client = NULL;
	CHECK(next_of_set() == op);
	CHECK_INT(hf_op_result(op, &err), HF_CLOSED);
	CHECK_INT(hf_set_wait(set, NULL, 0, 0, NULL, &err), HF_OK);
}

static void a_set_without_memory_says_so(void)
{
	int fds[65];
	bool ready[65];

	with_op();
	for (int i = 0; i < 65; i++)
		fds[i] = -1;
	hf_alloc_fail(1, 0);
	CHECK(!hf_set_new());
	hf_alloc_fail(0, 0);
	set = hf_set_new();
	for (long n = 1; n <= 2; n++) { /* the list, the seat */
		hf_alloc_fail(n, 0);
		CHECK_INT(hf_set_add(set, op, &err), HF_NOMEM);
		hf_alloc_fail(0, 0);
		CHECK(!hf_set_next(set));
	}
	CHECK_INT(hf_set_add(set, op, &err), HF_OK);
	hf_alloc_fail(1, 0);
	CHECK_INT(hf_set_wait(set, fds, 65, -1, ready, &err), HF_NOMEM);
	hf_alloc_fail(0, 0);
	CHECK_INT(hf_set_wait(set, fds, 65, 0, ready, &err), HF_OK);
	hf_op_cancel(op);
	CHECK(next_of_set() == op);
}

/* ---- all of it at random ------------------------------------------------------------------ */

#define STEPS 60

/* What one thread of the crowd has. */
struct one {
	unsigned seed;
	struct hf_lock *lock;
	struct hf_set *set;
};

static unsigned chance(struct one *one, unsigned n)
{
	return (unsigned)rand_r(&one->seed) % n;
}

/* With the set: it may have others that finish first. */
static void wait_in_set(struct one *one, struct hf_op *mine)
{
	const void *next;

	if (hf_set_add(one->set, mine, &err))
		return;
	do {
		CHECK_INT(hf_set_wait(one->set, NULL, 0, WAIT, NULL, &err), HF_OK);
		while ((next = hf_set_next(one->set)) && next != mine)
			;
	} while (!next && !atomic_load(&check_failures));
}

/* Does something with an op, and gives it away. */
static void end_somehow(struct one *one, struct hf_op *mine)
{
	switch (chance(one, 7)) {
	case 0:
		hf_op_leave(mine);
		return;
	case 1:
		hf_op_cancel(mine);
		CHECK(hf_op_wait(mine, WAIT, &err));
		break;
	case 2:
		hf_op_wait(mine, 1, &err);
		break;
	case 3:
		hf_set_add(one->set, mine, &err); /* which keeps it */
		hf_op_cancel(mine);
		hf_op_leave(mine);
		return;
	case 4:
		wait_in_set(one, mine);
		CHECK(hf_op_done(mine));
		break;
	case 5:
		hf_op_cancel(mine);
		wait_in_set(one, mine);
		break;
	default:
		break;
	}
	hf_op_drop(mine);
}

static void take_a_step(struct one *one)
{
	static const char *paths[] = {"/quick", "/slow"};
	static const int64_t timeouts[] = {0, 1, 20, 5000};
	struct hf_op *made = NULL;
	unsigned what = chance(one, 8);

	if (what < 3)
		start_get(client, what == 0 ? one->lock : NULL, paths[what == 2], &made);
	else if (what < 6)
		hf_lock_acquire(one->lock, timeouts[chance(one, 4)], &made, &err);
	else if (what == 6)
		hf_lock_release(one->lock, timeouts[chance(one, 4)], &made, &err);
	else
		hf_lock_let_go(one->lock);
	if (made && what == 2) { /* it would not end by itself */
		hf_op_wait(made, chance(one, 3), &err);
		hf_op_drop(made);
	} else if (made) {
		end_somehow(one, made);
	}
}

static void *take_steps(void *arg)
{
	static const char *keys[] = {"a", "b", "c"};
	struct one *one = arg;

	one->set = hf_set_new();
	for (int i = 0; i < STEPS && !atomic_load(&check_failures); i++) {
		if (i % 20 == 0) {
			hf_lock_drop(one->lock);
			one->lock = new_lock(client, keys[chance(one, 3)]);
		}
		take_a_step(one);
	}
	hf_set_free(one->set);
	hf_lock_drop(one->lock);
	return arg;
}

static void a_crowd_does_everything_at_random(void)
{
	struct one crowd[CROWD] = {0};
	pthread_t threads[CROWD];

	with_client();
	fake_on("GET /slow", -1, "hold");
	for (unsigned i = 0; i < CROWD; i++) {
		crowd[i].seed = i + 1;
		REQUIRE(!pthread_create(&threads[i], NULL, take_steps, &crowd[i]));
	}
	for (int i = 0; i < CROWD; i++)
		pthread_join(threads[i], NULL);
	close_all();
	CHECK(!fake_held("a") && !fake_held("b") && !fake_held("c"));
	CHECK_INT(fake_sessions(), 0);
}

/* Children start threads, under ThreadSanitizer too. */
const char *__tsan_default_options(void);
__attribute__((visibility("default"))) const char *__tsan_default_options(void)
{
	return "die_after_fork=0";
}

static const struct check_test tests[] = {
	TEST(a_signal_ends_a_wait),
	TEST(a_signal_that_comes_in_a_turn_is_not_missed),
	TEST(a_signal_ends_the_wait_beside_a_driver),
	TEST(a_signal_gets_through_to_who_waits_with_a_set),
	TEST(a_broken_pipe_in_a_turn_is_no_concern_of_who_drives),
	TEST(what_a_caller_has_blocked_stays_blocked_and_pending),
	TEST(threads_that_wait_on_one_client_are_each_told),
	TEST(what_others_start_and_cancel_goes_to_who_drives),
	TEST(who_comes_second_goes_on_when_the_driver_leaves),
	TEST(without_descriptors_who_comes_second_says_so),
	TEST(who_leaves_in_the_middle_leaves_the_rest_to_the_worker),
	TEST(what_nobody_waits_for_is_done_all_the_same),
	TEST(without_descriptors_a_client_says_so_when_it_begins),
	TEST(locks_are_renewed_while_somebody_drives),
	TEST(a_loss_is_noticed_while_somebody_drives),
	TEST(a_client_that_is_closed_ends_the_wait_of_who_drives),
	TEST(a_client_that_is_abandoned_ends_the_wait_of_who_drives),
	TEST(a_close_that_waits_for_a_silent_server_does_not_spin),
	TEST(a_child_of_a_driven_client_answers_forked),
	TEST(a_set_in_a_child_forgets_what_is_its_parents),
#ifndef __SANITIZE_THREAD__
	TEST(a_set_in_a_child_takes_what_is_the_childs),
#endif
	TEST(connections_that_a_child_has_inherited_cost_nothing),
	TEST(exit_beside_a_driver_says_goodbye),
#ifndef __SANITIZE_THREAD__
	TEST(exit_in_a_signal_handler_of_a_driver_says_goodbye),
#endif
	TEST(a_set_tells_of_each_op_once),
	TEST(a_set_drives_several_clients_and_looks_at_descriptors),
	TEST(a_set_waits_beside_a_driver),
	TEST(an_op_that_is_taken_off_a_set_is_not_told),
	TEST(a_set_is_freed_with_what_is_in_it),
	TEST(a_set_outlives_its_client),
	TEST(a_set_without_memory_says_so),
	TEST(a_crowd_does_everything_at_random),
};

int main(int argc, char **argv)
{
	program = argv[0];
	if (curl_global_init_mem(CURL_GLOBAL_DEFAULT, curl_malloc, free, realloc, curl_strdup,
				 curl_calloc))
		return 1;
	if (argc == 3)
		return run_and_exit(argv[1], argv[2]);
	return check_main(argc, argv, tests, CHECK_COUNT(tests), end);
}
