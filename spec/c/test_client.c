/* test_client.c: what only C can say of clients, ops and locks: threads, forks, descriptors, drops
 * at the worst moment, exit. Against a small Consul in a thread of this program (fake.h): what
 * locks are and do is for spec/02-core and spec/04-consul. */
#include "lock/lock.h"

#include "check.h"
#include "fake.h"
#include "hf.h"
#include "hold.h"

#include <dirent.h>
#include <malloc.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#endif

static const char *program;

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

static void with_lock(void)
{
	with_client();
	lock = new_lock(client, "k");
}

static void end(void)
{
	close_all();
	fake_stop();
}

/* The number of entries of a directory of /proc/self. */
static int entries(const char *path)
{
	DIR *dir = opendir(path);
	int count = 0;

	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

static bool readable(int fd)
{
	bool ready = false;

	return hf_poll(&fd, 1, 0, &ready) == 1 && ready;
}

static bool finished(void)
{
	return hf_op_wait(op, WAIT, &err);
}

/* ---- clients ------------------------------------------------------------------------------ */

static void a_client_without_ops_starts_no_thread_and_opens_nothing(void)
{
	int threads, fds;

	with_client(); /* what a process does once is done now */
	threads = entries("/proc/self/task");
	fds = entries("/proc/self/fd");
	hf_client_drop(client);
	client = new_client();
	lock = new_lock(client, "k");
	CHECK_INT(entries("/proc/self/task"), threads);
	CHECK_INT(entries("/proc/self/fd"), fds);
	CHECK_INT(close_client(client, true), HF_OK);
}

static void a_closed_client_leaves_no_thread_and_no_descriptor(void)
{
	int threads, fds;

	with_client();
	threads = entries("/proc/self/task");
	CHECK_INT(start_get(client, NULL, "/first", &op), HF_OK); /* libcrypto may open something */
	CHECK_INT(finish(op), HF_OK);
	op = NULL;
	CHECK_INT(close_client(client, true), HF_OK);
	EVENTUALLY(fake_connections(false) == 0);
	fds = entries("/proc/self/fd");
	hf_client_drop(client);
	client = new_client();
	lock = new_lock(client, "k");
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK(hf_lock_fd(lock, &err) >= 0);
	hf_lock_drop(lock);
	lock = NULL;
	close_all();
	EVENTUALLY(fake_connections(false) == 0);
	CHECK_INT(entries("/proc/self/task"), threads);
	CHECK_INT(entries("/proc/self/fd"), fds);
}

static void close_answers_closed_to_ops_in_flight(void)
{
	struct hf_op *ops[3] = {NULL};
	struct hf_lock *other;

	with_lock();
	other = new_lock(client, "other");
	fake_set("k", "somebody");
	fake_on("/v1/kv/other", -1, "hold");
	fake_on("GET /slow", -1, "hold");
	hf_lock_acquire(lock, -1, &ops[0], &err);
	hf_lock_destroy(other, -1, &ops[1], &err);
	start_get(client, NULL, "/slow", &ops[2]);
	CHECK(fake_wait("GET /v1/kv/k?index", 1) && fake_wait("GET /v1/kv/other", 1) &&
	      fake_wait("GET /slow", 1));
	CHECK_INT(close_client(client, true), HF_OK);
	for (int i = 0; i < 3; i++) {
		CHECK(ops[i] && hf_op_done(ops[i]));
		CHECK_INT(finish(ops[i]), HF_CLOSED);
	}
	hf_lock_drop(other);
}

static void close_releases_and_destroys_and_leaves_nothing(void)
{
	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(close_client(client, true), HF_OK);
	CHECK_INT(fake_seen("\"unlock\""), 1);
	CHECK_INT(fake_seen("/v1/session/destroy/"), 1);
	CHECK_INT(fake_sessions(), 0);
	CHECK(!state_of(lock).held);
	CHECK_INT(state_of(lock).reason, HF_BY_CLOSED);
	hf_lock_drop(lock);
	lock = NULL;
	hf_client_drop(client);
	client = NULL;
	CHECK(nothing_is_left());
}

static void close_that_does_not_tell_says_nothing(void)
{
	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(close_client(client, false), HF_OK);
	CHECK_INT(fake_seen("\"unlock\""), 0);
	CHECK_INT(fake_seen("/v1/session/destroy/"), 0);
	CHECK(fake_held("k"));
	CHECK(!state_of(lock).held);
	CHECK(state_of(lock).lost);
}

/* Whatever became of the try, the end of the session is the end of what it got. */
static void close_with_a_try_unanswered_leaves_nothing(void)
{
	with_lock();
	fake_on("\"lock\"", 1, "swallow");
	CHECK_INT(hf_lock_acquire(lock, -1, &op, &err), HF_OK);
	CHECK(fake_wait_held("k", true));
	CHECK_INT(close_client(client, true), HF_OK);
	CHECK_INT(hf_op_result(op, &err), HF_CLOSED);
	CHECK_INT(fake_sessions(), 0);
	CHECK(!fake_held("k"));
}

static void close_soon_after_a_try_unanswered_leaves_nothing(void)
{
	with_lock();
	fake_on("\"lock\"", 1, "swallow");
	fake_on("\"unlock\"", -1, "hold");
	CHECK_INT(hf_lock_acquire(lock, -1, &op, &err), HF_OK);
	CHECK(fake_wait_held("k", true));
	hf_lock_cancel(lock);
	CHECK(finished());
	CHECK_INT(hf_op_result(op, &err), HF_CANCELED);
	CHECK(fake_wait("\"unlock\"", 1) && fake_held("k"));
	CHECK_INT(close_client(client, true), HF_OK);
	CHECK_INT(fake_sessions(), 0);
	CHECK(!fake_held("k"));
}

static void a_closed_client_refuses_and_may_be_closed_again(void)
{
	const struct hf_lock_opts lock_opts = {.key = "k"};
	struct hf_lock *made = NULL;

	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(close_client(client, true), HF_OK);
	CHECK_INT(close_client(client, true), HF_OK);
	CHECK_INT(close_client(client, false), HF_OK);
	CHECK_INT(acquire(lock, -1), HF_CLOSED);
	CHECK_INT(release(lock, -1), HF_CLOSED);
	CHECK_INT(destroy(lock, -1), HF_CLOSED);
	CHECK_INT(start_get(client, NULL, "/", &op), HF_CLOSED);
	CHECK_INT(hf_lock_new(client, &lock_opts, &made, &err), HF_CLOSED);
	CHECK(!op && !made);
}

static void close_is_an_op_that_others_may_wait_for(void)
{
	struct hf_op *first = NULL, *second = NULL;

	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	fake_on("\"unlock\"", 1, "hold");
	CHECK_INT(hf_client_close(client, true, &first, &err), HF_OK);
	REQUIRE(first);
	CHECK(!hf_op_done(first) && !readable(hf_op_fd(first, &err)));
	CHECK_INT(hf_client_close(client, true, &second, &err), HF_OK);
	CHECK(hf_op_wait(first, WAIT, &err) && readable(hf_op_fd(first, &err)));
	CHECK_INT(finish(first), HF_OK);
	CHECK_INT(finish(second), HF_OK);
}

/* Whoever closes does not have to wait, nor to want to know. */
static void a_close_that_nobody_waits_for_leaves_nothing(void)
{
	begin();
	for (int i = 0; i < 1000; i++) {
		struct hf_op *closing = NULL;

		client = new_client();
		REQUIRE(!start_get(client, NULL, "/", &op) && !finish(op));
		op = NULL;
		REQUIRE(!hf_client_close(client, i % 2, &closing, &err));
		for (int turns = i % 50; turns > 0; turns--)
			sched_yield();
		hf_op_drop(closing);
		hf_client_drop(client);
		client = NULL;
	}
	EVENTUALLY(nothing_is_left());
}

static void an_op_canceled_while_its_client_ends_leaves_nothing(void)
{
	begin();
	fake_on("GET /slow", -1, "hold");
	for (int i = 0; i < 300; i++) {
		struct hf_op *closing = NULL;

		client = new_client();
		REQUIRE(!start_get(client, NULL, "/slow", &op));
		CHECK(fake_wait("GET /slow", (size_t)i + 1));
		REQUIRE(!hf_client_close(client, false, &closing, &err));
		for (int turns = i % 50; turns > 0; turns--)
			sched_yield();
		hf_op_drop(op);
		op = NULL;
		hf_op_drop(closing);
		hf_client_drop(client);
		client = NULL;
	}
	EVENTUALLY(nothing_is_left());
}

static void a_close_is_not_canceled(void)
{
	struct hf_op *closing = NULL;

	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	fake_on("\"unlock\"", 1, "hold");
	CHECK_INT(hf_client_close(client, true, &closing, &err), HF_OK);
	REQUIRE(closing);
	hf_op_cancel(closing);
	CHECK_INT(finish(closing), HF_OK);
	hf_client_join(client);
}

static void close_that_does_not_tell_ends_one_that_does(void)
{
	struct hf_op *closing = NULL;
	int64_t begun;

	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	fake_on("/", -1, "hold");
	begun = hf_now();
	CHECK_INT(hf_client_close(client, true, &closing, &err), HF_OK);
	CHECK_INT(close_client(client, false), HF_OK);
	CHECK(hf_now() - begun < HF_CLOSE_MS);
	CHECK_INT(finish(closing), HF_OK);
}

/* The thread may be over before close comes to look for it. */
static void close_has_joined_the_thread_when_it_returns(void)
{
	begin();
	for (int i = 0; i < 300; i++) {
		client = new_client();
		REQUIRE(!start_get(client, NULL, "/", &op) && !finish(op));
		op = NULL;
		close_client(client, true);
		hf_client_drop(client);
		client = NULL;
		REQUIRE(nothing_is_left());
	}
}

static void a_dropped_client_closes_by_itself(void)
{
	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	hf_lock_drop(lock);
	lock = NULL;
	hf_client_drop(client);
	client = NULL;
	CHECK(fake_wait("/v1/session/destroy/", 1));
	CHECK(!fake_held("k"));
	EVENTUALLY(nothing_is_left());
}

static void an_op_outlives_its_client(void)
{
	with_client();
	fake_on("GET /slow", -1, "hold");
	CHECK_INT(start_get(client, NULL, "/slow", &op), HF_OK);
	CHECK(fake_wait("GET /slow", 1));
	hf_client_drop(client);
	client = NULL;
	CHECK(finished());
	CHECK_INT(hf_op_result(op, &err), HF_CLOSED);
	CHECK(readable(hf_op_fd(op, &err)));
}

static void a_lock_outlives_its_client(void)
{
	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	hf_client_drop(client);
	client = NULL;
	CHECK(hf_lock_wait(lock, WAIT, &err));
	CHECK_INT(state_of(lock).reason, HF_BY_CLOSED);
	CHECK_INT(acquire(lock, -1), HF_CLOSED);
	CHECK_STR(hf_lock_key(lock), "k");
}

/* ---- ops ---------------------------------------------------------------------------------- */

static void an_op_is_not_done_before_it_is(void)
{
	with_client();
	fake_on("GET /slow", -1, "hold");
	CHECK_INT(start_get(client, NULL, "/slow", &op), HF_OK);
	CHECK(!hf_op_done(op));
	CHECK(!hf_op_wait(op, 0, &err) && !err.code);
	CHECK(!hf_op_wait(op, 1, &err) && !err.code);
	CHECK_INT(hf_op_result(op, &err), HF_TIMEOUT);
	CHECK(!hf_op_response(op));
	CHECK(!readable(hf_op_fd(op, &err)));
}

static void the_descriptor_of_an_op_is_readable_for_ever_once_it_is_done(void)
{
	int fd;

	with_client();
	CHECK_INT(start_get(client, NULL, "/", &op), HF_OK);
	fd = hf_op_fd(op, &err);
	CHECK(fd >= 0);
	CHECK(finished());
	CHECK(readable(fd) && readable(fd));
	CHECK_INT(hf_op_fd(op, &err), fd);
	CHECK(hf_op_wait(op, -1, &err));
}

static void a_descriptor_asked_for_afterwards_is_readable_at_once(void)
{
	with_client();
	CHECK_INT(start_get(client, NULL, "/", &op), HF_OK);
	EVENTUALLY(hf_op_done(op));
	CHECK(readable(hf_op_fd(op, &err)));
}

static void cancel_ends_a_request_at_once(void)
{
	with_client();
	fake_on("GET /slow", -1, "hold");
	CHECK_INT(start_get(client, NULL, "/slow", &op), HF_OK);
	CHECK(fake_wait("GET /slow", 1));
	hf_op_cancel(op);
	CHECK(finished());
	CHECK_INT(hf_op_result(op, &err), HF_CANCELED);
	hf_op_cancel(op);
	CHECK_INT(hf_op_result(op, &err), HF_CANCELED);
}

static void cancel_changes_nothing_once_it_is_done(void)
{
	with_client();
	CHECK_INT(start_get(client, NULL, "/", &op), HF_OK);
	CHECK(finished());
	hf_op_cancel(op);
	CHECK_INT(hf_op_result(op, &err), HF_OK);
}

static void a_dropped_request_is_given_up(void)
{
	struct hf_counters left;

	with_client();
	fake_on("GET /slow", -1, "hold");
	CHECK_INT(start_get(client, NULL, "/slow", &op), HF_OK);
	CHECK(fake_wait("GET /slow", 1));
	hf_op_drop(op);
	op = NULL;
	EVENTUALLY((hf_counters(&left), left.ops == 0));
	EVENTUALLY(fake_connections(false) == 0);
}

static void a_request_that_is_left_goes_on(void)
{
	with_client();
	CHECK_INT(start_get(client, NULL, "/left", &op), HF_OK);
	hf_op_leave(op);
	op = NULL;
	CHECK(fake_wait("GET /left", 1));
}

static void the_descriptor_of_an_op_is_closed_when_its_result_is_read(void)
{
	struct hf_op *ops[20];
	int before;

	with_client();
	CHECK_INT(start_get(client, NULL, "/", &op), HF_OK);
	CHECK_INT(finish(op), HF_OK);
	op = NULL;
	before = entries("/proc/self/fd");
	for (int i = 0; i < 20; i++) {
		REQUIRE(!start_get(client, NULL, "/", &ops[i]));
		CHECK(hf_op_fd(ops[i], &err) >= 0 && hf_op_wait(ops[i], WAIT, &err));
		CHECK_INT(hf_op_result(ops[i], &err), HF_OK);
	}
	CHECK(entries("/proc/self/fd") <= before + 2); /* a connection to the fake has two ends */
	for (int i = 0; i < 20; i++) {
		CHECK(hf_op_wait(ops[i], -1, &err));
		CHECK_INT(hf_op_result(ops[i], &err), HF_OK);
		CHECK(hf_op_response(ops[i]) != NULL);
		hf_op_drop(ops[i]);
	}
}

/* Lowers the limit so that no descriptor is to be had; answers the old one. */
static struct rlimit no_more_descriptors(void)
{
	struct rlimit before, none;

	getrlimit(RLIMIT_NOFILE, &before);
	none = before;
	none.rlim_cur = 0;
	setrlimit(RLIMIT_NOFILE, &none);
	return before;
}

static void without_descriptors_a_wait_says_so(void)
{
	struct rlimit before;

	with_lock();
	fake_on("GET /slow", -1, "hold");
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(start_get(client, NULL, "/slow", &op), HF_OK);
	CHECK(fake_wait("GET /slow", 1));
	before = no_more_descriptors();
	CHECK_INT(hf_op_fd(op, &err), -1);
	CHECK_INT(err.code, HF_NOMEM);
	CHECK(!hf_op_wait(op, -1, &err));
	CHECK_INT(err.code, HF_NOMEM);
	CHECK_INT(hf_lock_fd(lock, &err), -1);
	CHECK_INT(err.code, HF_NOMEM);
	CHECK(!hf_lock_wait(lock, -1, &err));
	CHECK_INT(err.code, HF_NOMEM);
	CHECK(state_of(lock).held);
	setrlimit(RLIMIT_NOFILE, &before);
	CHECK(!hf_op_wait(op, 1, &err) && !err.code);
}

/* ---- locks -------------------------------------------------------------------------------- */

static void the_descriptor_of_a_lock_is_readable_while_it_is_not_held(void)
{
	int fd;

	with_lock();
	fd = hf_lock_fd(lock, &err);
	CHECK(fd >= 0 && readable(fd));
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK(!readable(fd));
	CHECK(!hf_lock_wait(lock, 0, &err) && !hf_lock_wait(lock, 1, &err));
	CHECK_INT(release(lock, -1), HF_OK);
	CHECK(readable(fd));
	CHECK(hf_lock_wait(lock, -1, &err));
}

static void a_dropped_lock_is_released(void)
{
	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	hf_lock_drop(lock);
	lock = NULL;
	CHECK(fake_wait("\"unlock\"", 1));
	CHECK(fake_wait_held("k", false));
}

static void an_acquire_dropped_while_it_waits_never_gets_the_lock(void)
{
	with_lock();
	fake_set("k", "somebody");
	CHECK_INT(hf_lock_acquire(lock, -1, &op, &err), HF_OK);
	CHECK(fake_wait("GET /v1/kv/k?index", 1));
	hf_op_drop(op);
	op = NULL;
	EVENTUALLY(fake_connections(false) <= 2); /* its poll is gone */
	fake_set("k", "");
	close_all();
	CHECK_INT(fake_seen("\"lock\""), 0);
}

static void an_acquire_dropped_in_flight_gives_the_lock_back(void)
{
	begin();
	opts.timeout = 200;
	client = new_client();
	lock = new_lock(client, "k");
	fake_on("\"lock\"", 1, "swallow");
	CHECK_INT(hf_lock_acquire(lock, -1, &op, &err), HF_OK);
	CHECK(fake_wait_held("k", true));
	hf_op_drop(op);
	op = NULL;
	CHECK(fake_wait("\"unlock\"", 1));
	CHECK(fake_wait_held("k", false));
}

/* ---- drops at the worst moment ------------------------------------------------------------ */

#define RACES 3000

static uint32_t seed = 1;

/* Lets a random time pass, up to twice of what an acquire takes here: the other thread is to be
 * found at every step of it. */
static void some_time_of_an_acquire(int64_t typical)
{
	double until;

	seed = seed * 1664525 + 1013904223;
	until = hf_clock_seconds() + (double)typical / 1e6 * 2 * (seed >> 8) / (1 << 24);
	while (hf_clock_seconds() < until)
		sched_yield();
}

/* What an uncontended acquire takes, in microseconds. */
static int64_t time_of_an_acquire(void)
{
	double begun = hf_clock_seconds();

	for (int i = 0; i < 20; i++) {
		CHECK_INT(acquire(lock, -1), HF_OK);
		CHECK_INT(release(lock, -1), HF_OK);
	}
	return (int64_t)((hf_clock_seconds() - begun) * 1e6 / 40);
}

static bool nothing_is_held(void)
{
	struct hf_stats stats;

	CHECK_INT(hf_client_stats(client, &stats, &err), HF_OK);
	return !stats.locks_held && !fake_held("k") && !fake_held("other");
}

static struct hf_lock *racing_lock(int i)
{
	return new_lock(client, i % 3 ? "k" : "other");
}

/* Acquires again and again; give_up lets go of lock and op, which it drops both. */
static void race(void (*give_up)(struct hf_lock *mine, struct hf_op *acquiring, int i))
{
	int64_t typical;

	with_lock();
	typical = time_of_an_acquire();
	for (int i = 0; i < RACES && !atomic_load(&check_failures); i++) {
		struct hf_lock *mine = racing_lock(i);
		struct hf_op *acquiring = NULL;

		REQUIRE(mine && !hf_lock_acquire(mine, -1, &acquiring, &err));
		some_time_of_an_acquire(typical);
		give_up(mine, acquiring, i);
	}
	EVENTUALLY(nothing_is_held());
	/* And everybody's turn has come to an end. */
	CHECK_INT(acquire(lock, WAIT), HF_OK);
}

static void drop_both(struct hf_lock *mine, struct hf_op *acquiring, int i)
{
	if (i & 1)
		hf_op_drop(acquiring);
	hf_lock_drop(mine);
	if (!(i & 1))
		hf_op_drop(acquiring);
}

static void an_acquire_dropped_with_its_lock_gives_back_what_it_gets(void)
{
	race(drop_both);
}

static void drop_the_lock(struct hf_lock *mine, struct hf_op *acquiring, int i)
{
	(void)i;
	hf_lock_drop(mine);
	finish(acquiring);
	CHECK(err.code == HF_OK || err.code == HF_CANCELED);
}

static void a_lock_dropped_while_it_acquires_gives_back_what_it_gets(void)
{
	race(drop_the_lock);
}

/* Nobody has read the result, so nobody knows that it is held, but the lock does. */
static void drop_the_op(struct hf_lock *mine, struct hf_op *acquiring, int i)
{
	enum hf_err released;

	(void)i;
	hf_op_drop(acquiring);
	released = release(mine, -1);
	CHECK(released == HF_OK || released == HF_NOT_HELD);
	hf_lock_drop(mine);
}

static void a_lock_whose_acquire_is_dropped_says_whether_it_holds(void)
{
	race(drop_the_op);
}

static void cancel_and_look(struct hf_lock *mine, struct hf_op *acquiring, int i)
{
	if (i & 1)
		hf_lock_cancel(mine);
	else
		hf_op_cancel(acquiring);
	finish(acquiring);
	CHECK(err.code == HF_OK || err.code == HF_CANCELED);
	CHECK_INT(state_of(mine).held, err.code == HF_OK);
	hf_lock_drop(mine);
}

static void a_canceled_acquire_says_whether_it_holds(void)
{
	race(cancel_and_look);
}

static void let_go(struct hf_lock *mine, struct hf_op *acquiring, int i)
{
	(void)i;
	hf_lock_let_go(mine);
	finish(acquiring);
	CHECK(err.code == HF_OK || err.code == HF_CANCELED);
	CHECK(!state_of(mine).held && !state_of(mine).lost);
	hf_lock_drop(mine);
}

static void a_lock_that_is_let_go_while_it_acquires_is_not_held(void)
{
	race(let_go);
}

static void a_client_dropped_while_it_acquires_leaves_nothing(void)
{
	int64_t typical;

	with_lock();
	typical = time_of_an_acquire();
	close_all();
	for (int i = 0; i < RACES / 10 && !atomic_load(&check_failures); i++) {
		client = new_client();
		lock = new_lock(client, "k");
		REQUIRE(!hf_lock_acquire(lock, -1, &op, &err));
		some_time_of_an_acquire(typical * 2); /* the session has to be made */
		hf_client_drop(client);
		client = NULL;
		CHECK(finished());
		CHECK(hf_op_result(op, &err) == HF_OK || err.code == HF_CLOSED);
		CHECK(hf_lock_wait(lock, WAIT, &err));
		close_all();
		CHECK(!fake_held("k"));
		CHECK_INT(fake_sessions(), 0);
	}
}

/* ---- sizes -------------------------------------------------------------------------------- */

#define MANY 200

static void an_op_is_small(void)
{
	CHECK(sizeof(struct hf_op) < 400);
}

static void a_lock_that_is_held_is_small(void)
{
	static const char name[] = "service/web/leader/of/some/length";
	const size_t node = 5 * sizeof(void *); /* of the tree of keys */

	CHECK(sizeof(struct hf_lock) + sizeof(struct hf_hold) + sizeof(struct hf_key) + node +
		      2 * sizeof name + 64 <
	      1024);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
static size_t memory_in_use(void)
{
	struct mallinfo2 info = mallinfo2();

	return info.uordblks + info.hblkhd;
}

/* What the allocator gives for each of many, when libcurl has all that it wants. */
static void many_locks_that_are_held_need_a_kilobyte_each(void)
{
	static struct hf_lock *locks[MANY];
	size_t before = 0;
	char key[40];

	with_client();
	for (int i = 0; i < MANY; i++) {
		if (i == MANY / 2)
			before = memory_in_use();
		snprintf(key, sizeof key, "service/web/leader/%d", i);
		locks[i] = new_lock(client, key);
		CHECK_INT(acquire(locks[i], -1), HF_OK);
	}
	CHECK((memory_in_use() - before) / (MANY / 2) < 1024);
	for (int i = 0; i < MANY; i++)
		hf_lock_drop(locks[i]);
}
#endif

/* ---- fork, exit, threads ------------------------------------------------------------------ */

static void close_is_bounded_at_a_silent_server(void)
{
	int64_t begun;

	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	fake_on("/", -1, "hold");
	begun = hf_now();
	CHECK_INT(close_client(client, true), HF_OK);
	CHECK(hf_now() - begun < 15000); /* a request may take 20 s */
	CHECK(!state_of(lock).held);
}

/* Waits for a child and answers its exit status, -1 when a signal ended it. */
static int status_of(pid_t child)
{
	int status = -1;

	CHECK(waitpid(child, &status, 0) == child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static bool forked;

/* AddressSanitizer asks before it looks for leaks. */
int __lsan_is_turned_off(void);
__attribute__((visibility("default"))) int __lsan_is_turned_off(void)
{
	return forked;
}

/* A child counts its own failures and does not hang for ever. It has not got the worker's thread,
 * so what libcurl and libcrypto keep for that thread is lost there: nobody should look for leaks.
 */
static pid_t fork_here(void)
{
	pid_t child = fork();

	if (child == 0) {
		forked = true;
#ifdef VALGRIND_CLO_CHANGE
		VALGRIND_CLO_CHANGE("--leak-check=no");
#endif
		atomic_store(&check_failures, 0);
		signal(SIGALRM, SIG_DFL);
		alarm(CHECK_LIMIT / 2);
	}
	return child;
}

static void child_calls_everything(void)
{
	const struct hf_lock_opts lock_opts = {.key = "x"};
	struct hf_stats stats;
	struct hf_lock *made;
	struct hf_op *none = NULL;

	CHECK_INT(acquire(lock, -1), HF_FORKED);
	CHECK_INT(release(lock, -1), HF_FORKED);
	CHECK_INT(destroy(lock, -1), HF_FORKED);
	CHECK_INT(hf_lock_new(client, &lock_opts, &made, &err), HF_FORKED);
	CHECK_INT(start_get(client, NULL, "/", &none), HF_FORKED);
	CHECK_INT(hf_client_stats(client, &stats, &err), HF_FORKED);
	CHECK_INT(hf_client_close(client, true, &none, &err), HF_FORKED);
	hf_client_join(client);
	CHECK(!none);
	CHECK_INT(hf_lock_fd(lock, &err), -1);
	CHECK_INT(err.code, HF_FORKED);
	CHECK(hf_lock_wait(lock, -1, &err));
	CHECK(!state_of(lock).held && state_of(lock).reason == HF_BY_FORKED);
	CHECK_STR(hf_reason_text(state_of(lock).reason), "forked");
	CHECK_INT(start_get(client, lock, "/", &none), HF_FORKED);
	CHECK_STR(hf_lock_key(lock), "k");
	CHECK_STR(hf_client_base(client), fake.base);
	hf_lock_cancel(lock);
	hf_lock_let_go(lock);
	CHECK_INT(hf_op_fd(op, &err), -1);
	CHECK_INT(err.code, HF_FORKED);
	CHECK(hf_op_done(op) && hf_op_wait(op, -1, &err));
	CHECK_INT(hf_op_result(op, &err), HF_FORKED);
	CHECK(!hf_op_response(op));
	hf_op_cancel(op);
}

static void with_hold_and_op(void)
{
	with_lock();
	fake_on("GET /slow", -1, "hold");
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(start_get(client, NULL, "/slow", &op), HF_OK);
	CHECK(fake_wait("GET /slow", 1));
}

static void the_parent_goes_on(void)
{
	CHECK(state_of(lock).held);
	CHECK(!hf_op_done(op));
	CHECK(fake_held("k"));
	CHECK_INT(release(lock, -1), HF_OK);
}

static void every_call_in_a_child_answers_forked(void)
{
	pid_t child;

	with_hold_and_op();
	child = fork_here();
	if (child == 0) {
		child_calls_everything();
		exit(atomic_load(&check_failures) != 0);
	}
	CHECK_INT(status_of(child), 0);
	the_parent_goes_on();
}

static void a_child_may_drop_what_its_parent_holds(void)
{
	pid_t child;

	with_hold_and_op();
	child = fork_here();
	if (child == 0) {
		hf_op_drop(op);
		hf_lock_drop(lock);
		hf_client_drop(client);
		exit(0);
	}
	CHECK_INT(status_of(child), 0);
	the_parent_goes_on();
}

/* ThreadSanitizer cannot start a thread in a child of several. */
#ifndef __SANITIZE_THREAD__
static void a_child_has_a_client_of_its_own(void)
{
	pid_t child;

	with_hold_and_op();
	child = fork_here();
	if (child == 0) {
		struct hf_client *parents = client;

		client = new_client();
		CHECK(client != parents);
		lock = new_lock(client, "other");
		CHECK_INT(acquire(lock, -1), HF_OK);
		exit(atomic_load(&check_failures) != 0); /* with an open client */
	}
	CHECK_INT(status_of(child), 0);
	CHECK(fake_wait_held("other", false));
	the_parent_goes_on();
}
#endif

/* ---- the same with process id 1 ---- */

#ifndef __SANITIZE_THREAD__
/* Ends this process with the status of what run does as process 1 of a new namespace. */
static _Noreturn void as_process_one(void (*run)(void))
{
	pid_t child;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (unshare(CLONE_NEWPID))
		_exit(77);
	child = fork_here();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		CHECK_INT(getpid(), 1);
		run();
		_exit(atomic_load(&check_failures) != 0);
	}
	_exit(status_of(child));
}

static void hold_as_process_one(void)
{
	pid_t child;

	client = new_client();
	lock = new_lock(client, "k");
	fake_on("GET /slow", -1, "hold");
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(start_get(client, NULL, "/slow", &op), HF_OK);
	child = fork_here();
	if (child == 0)
		as_process_one(child_calls_everything);
	CHECK_INT(status_of(child), 0);
	CHECK(state_of(lock).held && !hf_op_done(op));
	CHECK_INT(release(lock, -1), HF_OK);
	close_all();
}

/* Process ids do not tell a child from its parent. Needs root; for others there is nothing to see.
 */
static void a_child_with_its_parents_process_id_is_a_child(void)
{
	pid_t child;
	int status;

	begin();
	fake_on("GET /slow", -1, "hold");
	child = fork_here();
	if (child == 0)
		as_process_one(hold_as_process_one);
	status = status_of(child);
	if (status == 77)
		printf("%s: skipped, no new process id namespace to be had\n", check_name);
	else
		CHECK_INT(status, 0);
	CHECK(!fake_held("k"));
}
#endif

static void a_fork_of_a_fork_is_forked_too(void)
{
	pid_t child;

	with_hold_and_op();
	child = fork_here();
	if (child == 0) {
		pid_t grandchild = fork_here();

		if (grandchild == 0) {
			child_calls_everything();
			exit(atomic_load(&check_failures) != 0);
		}
		CHECK_INT(status_of(grandchild), 0);
		exit(atomic_load(&check_failures) != 0);
	}
	CHECK_INT(status_of(child), 0);
	the_parent_goes_on();
}

/* ---- exit ---- */

static atomic_int cycles;

/* Locks and unlocks with a client of its own, for as long as the process lives. */
static void *cycle_for_ever(void *arg)
{
	char key[20];
	struct hf_client *mine = new_client();
	struct hf_lock *own;

	snprintf(key, sizeof key, "key%d", *(int *)arg);
	own = new_lock(mine, key);
	while (!acquire(own, -1) && !release(own, -1))
		atomic_fetch_add(&cycles, 1);
	for (;;)
		pause();
	return arg;
}

/* exit() takes down what other threads use: libcrypto, libcurl. */
static int exit_beside_threads(void)
{
	static int numbers[4] = {0, 1, 2, 3};
	pthread_t thread;

	for (int i = 0; i < 4; i++)
		if (pthread_create(&thread, NULL, cycle_for_ever, &numbers[i]))
			return 2;
	while (atomic_load(&cycles) < 20)
		sched_yield();
	exit(0);
}

/* What this program does when it is started with a mode and the fake's address. */
static int run_and_exit(const char *mode, const char *base)
{
	default_opts();
	opts.base = base;
	if (!strcmp(mode, "--threads"))
		return exit_beside_threads();
	client = new_client();
	lock = new_lock(client, "k");
	if (acquire(lock, -1))
		return 2;
	if (!strcmp(mode, "--exit"))
		exit(0);
	if (!strcmp(mode, "--waiting")) {
		struct hf_lock *second = new_lock(client, "k");

		if (hf_lock_acquire(second, -1, &op, &err))
			return 2;
	}
	return 0;
}

/* Whether the last one had its time to say goodbye, which is a second, pauses included. */
static bool in_time;

static int started_with(const char *mode)
{
	int64_t begun = hf_now();
	pid_t child = fork();
	int status;

	if (child == 0) {
		execl(program, program, mode, fake.base, (char *)NULL);
		_exit(127);
	}
	status = status_of(child);
	in_time = hf_now() - begun < 1000;
	return status;
}

/* What it said last may be under way still. */
static void nothing_is_left_of_it(void)
{
	if (!in_time)
		return;
	EVENTUALLY(!fake_held("k"));
	EVENTUALLY(fake_sessions() == 0);
}

static void exit_with_an_open_client_releases(void)
{
	begin();
	CHECK_INT(started_with("--exit"), 0);
	if (in_time)
		CHECK(fake_wait("\"unlock\"", 1));
	nothing_is_left_of_it();
}

static void returning_from_main_with_an_op_in_flight_ends_quietly(void)
{
	begin();
	CHECK_INT(started_with("--waiting"), 0);
	nothing_is_left_of_it();
}

static void an_unlock_that_stalls_at_exit_leaves_time_for_the_session(void)
{
	begin();
	fake_on("\"unlock\"", -1, "hold");
	CHECK_INT(started_with("--exit"), 0);
	nothing_is_left_of_it();
}

static void exit_is_bounded_at_a_silent_server(void)
{
	int64_t begun;

	begin();
	fake_on("\"unlock\"", -1, "hold");
	fake_on("/v1/session/destroy/", -1, "hold");
	begun = hf_now();
	CHECK_INT(started_with("--exit"), 0);
	CHECK(hf_now() - begun < 15000);
	CHECK(fake_held("k"));
}

static void exit_beside_threads_that_use_clients_ends_quietly(void)
{
	bool all = true;

	begin();
	for (int i = 0; i < 20; i++) {
		REQUIRE(CHECK_INT(started_with("--threads"), 0));
		all = all && in_time;
	}
	in_time = all;
	nothing_is_left_of_it();
}

#define TURNS 20
#define CROWD 8
static atomic_int inside, overlaps;

static void *take_turns(void *arg)
{
	struct hf_client *mine = client ? client : new_client();
	struct hf_lock *own = new_lock(mine, "k");

	for (int i = 0; i < TURNS; i++) {
		CHECK_INT(acquire(own, -1), HF_OK);
		atomic_fetch_add(&overlaps, atomic_fetch_add(&inside, 1));
		atomic_fetch_sub(&inside, 1);
		CHECK_INT(release(own, -1), HF_OK);
	}
	hf_lock_drop(own);
	if (mine != client) {
		CHECK_INT(close_client(mine, true), HF_OK);
		hf_client_drop(mine);
	}
	return arg;
}

/* Runs one function in several threads; what is NULL for all but their number. */
static void in_threads(int count, void *(*run)(void *))
{
	pthread_t threads[CROWD];

	for (int i = 0; i < count; i++)
		REQUIRE(!pthread_create(&threads[i], NULL, run, NULL));
	for (int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
}

static void clients_of_several_threads_exclude_each_other(void)
{
	begin();
	in_threads(4, take_turns);
	CHECK_INT(overlaps, 0);
	CHECK_INT(fake_seen("/v1/session/destroy/"), 4);
}

static void threads_that_share_a_client_exclude_each_other(void)
{
	with_client();
	in_threads(CROWD, take_turns);
	CHECK_INT(overlaps, 0);
	CHECK_INT(fake_sessions(), 1);
}

static void *try_one_lock(void *arg)
{
	for (int i = 0; i < 10 * TURNS; i++) {
		if (!acquire(lock, -1)) {
			CHECK_INT(atomic_fetch_add(&inside, 1), 0);
			atomic_fetch_sub(&inside, 1);
			CHECK_INT(release(lock, -1), HF_OK);
		} else {
			CHECK_INT(err.code, HF_HELD);
		}
	}
	return arg;
}

/* One of them has it, the others hear so. */
static void threads_that_share_a_lock_exclude_each_other(void)
{
	with_lock();
	in_threads(CROWD, try_one_lock);
	CHECK_INT(acquire(lock, -1), HF_OK);
}

static void *wait_for_the_op(void *arg)
{
	CHECK(hf_op_wait(op, WAIT, &err));
	return arg;
}

static void threads_that_wait_for_one_op_all_hear_of_it(void)
{
	pthread_t threads[CROWD];

	with_client();
	fake_on("GET /slow", -1, "hold");
	CHECK_INT(start_get(client, NULL, "/slow", &op), HF_OK);
	for (int i = 0; i < CROWD; i++)
		REQUIRE(!pthread_create(&threads[i], NULL, wait_for_the_op, NULL));
	hf_op_cancel(op);
	for (int i = 0; i < CROWD; i++)
		pthread_join(threads[i], NULL);
	CHECK_INT(hf_op_result(op, &err), HF_CANCELED);
}

static void *cycle_until_closed(void *arg)
{
	struct hf_lock *own = NULL;
	const struct hf_lock_opts lock_opts = {.key = arg ? "k" : "other"};

	while (!hf_lock_new(client, &lock_opts, &own, &err)) {
		atomic_fetch_add(&cycles, 1);
		if (!acquire(own, -1) && !state_of(own).lost)
			release(own, -1);
		CHECK(err.code == HF_OK || err.code == HF_CLOSED || err.code == HF_LOST);
		CHECK(err.code != HF_LOST || state_of(own).reason == HF_BY_CLOSED);
		hf_lock_drop(own);
	}
	CHECK_INT(err.code, HF_CLOSED);
	return arg;
}

static void a_client_may_be_closed_while_threads_use_it(void)
{
	pthread_t threads[CROWD];

	begin();
	for (int round = 0; round < 20 && !atomic_load(&check_failures); round++) {
		client = new_client();
		atomic_store(&cycles, 0);
		for (intptr_t i = 0; i < CROWD; i++)
			REQUIRE(!pthread_create(&threads[i], NULL, cycle_until_closed,
						(void *)(i % 2)));
		while (atomic_load(&cycles) < 5 * round)
			sched_yield();
		CHECK_INT(close_client(client, true), HF_OK);
		for (int i = 0; i < CROWD; i++)
			pthread_join(threads[i], NULL);
		close_all();
		CHECK(!fake_held("k") && !fake_held("other"));
		CHECK_INT(fake_sessions(), 0);
	}
}

static void *use_and_drop(void *arg)
{
	struct hf_op *mine = NULL;

	char path[40];

	for (int i = 0; i < TURNS; i++) {
		snprintf(path, sizeof path, "/%d-%lu", i, (unsigned long)pthread_self());
		CHECK_INT(start_get(client, NULL, path, &mine), HF_OK);
		CHECK_INT(finish(mine), HF_OK);
		CHECK_INT(fake_seen(path), 1);
	}
	return arg;
}

static void threads_that_share_a_client_get_their_own_answers(void)
{
	with_client();
	in_threads(CROWD, use_and_drop);
	CHECK_INT(fake_seen("GET /"), CROWD * TURNS);
}

static const struct check_test tests[] = {
	TEST(a_client_without_ops_starts_no_thread_and_opens_nothing),
	TEST(a_closed_client_leaves_no_thread_and_no_descriptor),
	TEST(close_answers_closed_to_ops_in_flight),
	TEST(close_releases_and_destroys_and_leaves_nothing),
	TEST(close_that_does_not_tell_says_nothing),
	TEST(close_with_a_try_unanswered_leaves_nothing),
	TEST(close_soon_after_a_try_unanswered_leaves_nothing),
	TEST(a_closed_client_refuses_and_may_be_closed_again),
	TEST(close_is_an_op_that_others_may_wait_for),
	TEST(a_close_that_nobody_waits_for_leaves_nothing),
	TEST(an_op_canceled_while_its_client_ends_leaves_nothing),
	TEST(a_close_is_not_canceled),
	TEST(close_that_does_not_tell_ends_one_that_does),
	TEST(close_has_joined_the_thread_when_it_returns),
	TEST(a_dropped_client_closes_by_itself),
	TEST(an_op_outlives_its_client),
	TEST(a_lock_outlives_its_client),
	TEST(an_op_is_not_done_before_it_is),
	TEST(the_descriptor_of_an_op_is_readable_for_ever_once_it_is_done),
	TEST(a_descriptor_asked_for_afterwards_is_readable_at_once),
	TEST(cancel_ends_a_request_at_once),
	TEST(cancel_changes_nothing_once_it_is_done),
	TEST(a_dropped_request_is_given_up),
	TEST(a_request_that_is_left_goes_on),
	TEST(the_descriptor_of_an_op_is_closed_when_its_result_is_read),
	TEST(without_descriptors_a_wait_says_so),
	TEST(the_descriptor_of_a_lock_is_readable_while_it_is_not_held),
	TEST(a_dropped_lock_is_released),
	TEST(an_acquire_dropped_while_it_waits_never_gets_the_lock),
	TEST(an_acquire_dropped_in_flight_gives_the_lock_back),
	TEST(an_acquire_dropped_with_its_lock_gives_back_what_it_gets),
	TEST(a_lock_dropped_while_it_acquires_gives_back_what_it_gets),
	TEST(a_lock_whose_acquire_is_dropped_says_whether_it_holds),
	TEST(a_canceled_acquire_says_whether_it_holds),
	TEST(a_lock_that_is_let_go_while_it_acquires_is_not_held),
	TEST(a_client_dropped_while_it_acquires_leaves_nothing),
	TEST(an_op_is_small),
	TEST(a_lock_that_is_held_is_small),
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	TEST(many_locks_that_are_held_need_a_kilobyte_each),
#endif
	TEST(close_is_bounded_at_a_silent_server),
	TEST(every_call_in_a_child_answers_forked),
	TEST(a_child_may_drop_what_its_parent_holds),
#ifndef __SANITIZE_THREAD__
	TEST(a_child_has_a_client_of_its_own),
#endif
#ifndef __SANITIZE_THREAD__
	TEST(a_child_with_its_parents_process_id_is_a_child),
#endif
	TEST(a_fork_of_a_fork_is_forked_too),
	TEST(exit_with_an_open_client_releases),
	TEST(returning_from_main_with_an_op_in_flight_ends_quietly),
	TEST(an_unlock_that_stalls_at_exit_leaves_time_for_the_session),
	TEST(exit_is_bounded_at_a_silent_server),
	TEST(exit_beside_threads_that_use_clients_ends_quietly),
	TEST(clients_of_several_threads_exclude_each_other),
	TEST(threads_that_share_a_client_exclude_each_other),
	TEST(threads_that_share_a_lock_exclude_each_other),
	TEST(threads_that_wait_for_one_op_all_hear_of_it),
	TEST(a_client_may_be_closed_while_threads_use_it),
	TEST(threads_that_share_a_client_get_their_own_answers),
};

int main(int argc, char **argv)
{
	program = argv[0];
	if (argc == 3)
		return run_and_exit(argv[1], argv[2]);
	return check_main(argc, argv, tests, CHECK_COUNT(tests), end);
}
