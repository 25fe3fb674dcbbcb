/* test_client.c: clients, ops and locks as the bindings use them, against a small Consul in a
 * thread of this program (fake.h). What a real one does is for spec/04-consul; here is what a real
 * one will not do on demand, and what a Lua program cannot do: fork, threads, exit. */
#include "check.h"
#include "fake.h"
#include "hf.h"
#include "hold.h"

#include <dirent.h>
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
	CHECK_INT(hf_client_close(client, true, &err), HF_OK);
}

static void a_closed_client_leaves_no_thread_and_no_descriptor(void)
{
	int threads, fds;

	with_client();
	threads = entries("/proc/self/task");
	CHECK_INT(start_get(client, NULL, "/first", &op), HF_OK); /* libcrypto may open something */
	CHECK_INT(finish(op), HF_OK);
	op = NULL;
	CHECK_INT(hf_client_close(client, true, &err), HF_OK);
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
	CHECK_INT(hf_client_close(client, true, &err), HF_OK);
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
	CHECK_INT(hf_client_close(client, true, &err), HF_OK);
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
	CHECK_INT(hf_client_close(client, false, &err), HF_OK);
	CHECK_INT(fake_seen("\"unlock\""), 0);
	CHECK_INT(fake_seen("/v1/session/destroy/"), 0);
	CHECK(fake_held("k"));
	CHECK(!state_of(lock).held);
	CHECK(state_of(lock).lost);
}

static void a_closed_client_refuses_and_may_be_closed_again(void)
{
	const struct hf_lock_opts lock_opts = {.key = "k"};
	struct hf_lock *made = NULL;

	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(hf_client_close(client, true, &err), HF_OK);
	CHECK_INT(hf_client_close(client, true, &err), HF_OK);
	CHECK_INT(acquire(lock, -1), HF_CLOSED);
	CHECK_INT(release(lock, -1), HF_CLOSED);
	CHECK_INT(destroy(lock, -1), HF_CLOSED);
	CHECK_INT(start_get(client, NULL, "/", &op), HF_CLOSED);
	CHECK_INT(hf_lock_new(client, &lock_opts, &made, &err), HF_CLOSED);
	CHECK(!op && !made);
}

/* The thread may be over before close comes to look for it. */
static void close_has_joined_the_thread_when_it_returns(void)
{
	begin();
	for (int i = 0; i < 300; i++) {
		client = new_client();
		REQUIRE(!start_get(client, NULL, "/", &op) && !finish(op));
		op = NULL;
		hf_client_close(client, true, &err);
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

static void counts_what_it_does(void)
{
	struct hf_stats stats;

	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(hf_client_stats(client, &stats, &err), HF_OK);
	CHECK_U64(stats.acquired, 1);
	CHECK_U64(stats.released, 0);
	CHECK_U64(stats.locks_held, 1);
	CHECK_U64(stats.sessions, 1);
	CHECK(stats.requests >= 3 && stats.connections >= 1);
	CHECK_INT(release(lock, -1), HF_OK);
	CHECK_INT(hf_client_stats(client, &stats, &err), HF_OK);
	CHECK_U64(stats.released, 1);
	CHECK_U64(stats.locks_held, 0);
	CHECK_INT(hf_client_close(client, true, &err), HF_OK);
	CHECK_INT(hf_client_stats(client, &stats, &err), HF_OK);
	CHECK_U64(stats.sessions, 0);
	CHECK_U64(stats.connections, 0);
}

/* ---- requests ----------------------------------------------------------------------------- */

static void a_request_gets_its_response(void)
{
	const struct hf_response *response;

	with_client();
	fake_on("GET /page", 1, "418 short and stout");
	CHECK_INT(start_get(client, NULL, "/page", &op), HF_OK);
	CHECK(finished());
	response = hf_op_response(op);
	REQUIRE(response);
	CHECK_INT(response->status, 418);
	CHECK_STR(response->body, "short and stout");
	CHECK_INT(response->body_len, 15);
	CHECK(strcasestr(response->headers, "content-length: 15") != NULL);
	CHECK(!response->truncated);
}

static void a_long_response_is_cut_and_says_so(void)
{
	char url[100];
	struct hf_request req = {.method = "GET", .url = url, .timeout = -1, .max_body = 5};

	with_client();
	snprintf(url, sizeof url, "%s/page", fake.base);
	fake_on("GET /page", 1, "200 0123456789");
	CHECK_INT(hf_request_start(client, NULL, &req, &op, &err), HF_OK);
	CHECK(finished());
	REQUIRE(hf_op_response(op));
	CHECK(hf_op_response(op)->truncated);
	CHECK_STR(hf_op_response(op)->body, "01234");
}

static void a_request_sends_method_headers_and_body(void)
{
	const char *headers[] = {"X-One: 1"};
	char url[100];
	struct hf_request req = {.method = "POST",
				 .url = url,
				 .headers = {headers, 1},
				 .body = "a b",
				 .body_len = 3,
				 .timeout = -1,
				 .max_body = 100};

	with_client();
	snprintf(url, sizeof url, "%s/hook", fake.base);
	CHECK_INT(hf_request_start(client, NULL, &req, &op, &err), HF_OK);
	CHECK_INT(finish(op), HF_OK);
	op = NULL;
	CHECK_INT(fake_seen("POST /hook a b"), 1);
}

static void a_request_has_its_own_timeout(void)
{
	char url[100];
	struct hf_request req = {.method = "GET", .url = url, .timeout = 50, .max_body = 5};

	with_client();
	snprintf(url, sizeof url, "%s/slow", fake.base);
	fake_on("GET /slow", -1, "hold");
	CHECK_INT(hf_request_start(client, NULL, &req, &op, &err), HF_OK);
	CHECK(finished());
	CHECK_INT(hf_op_result(op, &err), HF_TIMEOUT);
	CHECK(!hf_op_response(op));
}

static void a_request_that_cannot_connect_says_so(void)
{
	with_client();
	fake_stop(); /* nobody listens there now */
	CHECK_INT(start_get(client, NULL, "/", &op), HF_OK);
	CHECK(finished());
	CHECK_INT(hf_op_result(op, &err), HF_CONNECT);
}

static void a_request_with_an_impossible_url_is_invalid(void)
{
	struct hf_request req = {.method = "GET", .url = "gopher://x/", .timeout = -1};

	with_client();
	CHECK_INT(hf_request_start(client, NULL, &req, &op, &err), HF_OK);
	CHECK(finished());
	CHECK_INT(hf_op_result(op, &err), HF_INVALID);
}

static void a_guarded_request_is_refused_without_the_lock(void)
{
	with_lock();
	CHECK_INT(start_get(client, lock, "/", &op), HF_NOT_HELD);
	CHECK(!op);
}

static void a_guarded_request_goes_through_while_the_lock_is_held(void)
{
	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(start_get(client, lock, "/", &op), HF_OK);
	CHECK(finished());
	CHECK_INT(hf_op_result(op, &err), HF_OK);
}

static void a_guarded_request_is_aborted_when_the_lock_is_lost(void)
{
	with_lock();
	fake_on("GET /slow", -1, "hold");
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(start_get(client, lock, "/slow", &op), HF_OK);
	CHECK(fake_wait("GET /slow", 1));
	fake_kill(state_of(lock).session);
	CHECK(finished());
	CHECK_INT(hf_op_result(op, &err), HF_LOST);
	hf_op_drop(op);
	op = NULL;
	CHECK_INT(start_get(client, lock, "/", &op), HF_LOST);
}

static void a_guarded_request_is_aborted_when_the_lock_is_released(void)
{
	with_lock();
	fake_on("GET /slow", -1, "hold");
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(start_get(client, lock, "/slow", &op), HF_OK);
	CHECK(fake_wait("GET /slow", 1));
	CHECK_INT(release(lock, -1), HF_OK);
	CHECK(finished());
	CHECK_INT(hf_op_result(op, &err), HF_LOST);
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

/* ---- locks -------------------------------------------------------------------------------- */

static void acquires_and_releases(void)
{
	struct hf_lock_state state;

	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK(fake_held("k"));
	state = state_of(lock);
	CHECK(state.held && !state.lost && state.token > 10);
	CHECK_INT(state.reason, HF_NO_REASON);
	CHECK(state.remaining > 10000 && state.remaining < 20000);
	CHECK_INT(strlen(state.session), 36);
	CHECK_INT(release(lock, -1), HF_OK);
	CHECK(!fake_held("k"));
	state = state_of(lock);
	CHECK(!state.held && !state.lost && !state.token && !state.remaining);
	CHECK_INT(state.reason, HF_BY_RELEASED);
}

static void a_second_hold_has_a_greater_token(void)
{
	uint64_t first;

	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	first = state_of(lock).token;
	CHECK_INT(release(lock, -1), HF_OK);
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK(state_of(lock).token > first);
}

static void a_cycle_on_a_known_key_takes_two_requests(void)
{
	struct hf_stats before, after;

	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(release(lock, -1), HF_OK);
	CHECK(fake_wait("/v1/session/info/", 2)); /* the poll is under way */
	CHECK_INT(hf_client_stats(client, &before, &err), HF_OK);
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(release(lock, -1), HF_OK);
	CHECK_INT(hf_client_stats(client, &after, &err), HF_OK);
	CHECK_U64(after.requests - before.requests, 2);
}

static void refuses_what_its_state_does_not_allow(void)
{
	with_lock();
	CHECK_INT(release(lock, -1), HF_NOT_HELD);
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(acquire(lock, -1), HF_HELD);
	CHECK_INT(destroy(lock, -1), HF_HELD);
	CHECK_INT(release(lock, -1), HF_OK);
	CHECK_INT(release(lock, -1), HF_NOT_HELD);
}

static void refuses_a_second_acquire_while_one_is_in_flight(void)
{
	struct hf_op *second = NULL;

	with_lock();
	fake_set("k", "somebody");
	CHECK_INT(hf_lock_acquire(lock, -1, &op, &err), HF_OK);
	CHECK_INT(hf_lock_acquire(lock, -1, &second, &err), HF_HELD);
	CHECK(!second);
}

static void one_try_says_that_somebody_holds_it(void)
{
	with_lock();
	fake_set("k", "somebody");
	CHECK_INT(acquire(lock, 0), HF_TIMEOUT);
	CHECK_HAS(err.message, "somebody");
	CHECK_INT(fake_seen("?index="), 0);
}

static void waits_until_the_holder_lets_go(void)
{
	with_lock();
	fake_set("k", "somebody");
	CHECK_INT(hf_lock_acquire(lock, -1, &op, &err), HF_OK);
	CHECK(fake_wait("GET /v1/kv/k?index", 1));
	CHECK(!hf_op_done(op));
	fake_set("k", "");
	CHECK(finished());
	CHECK_INT(hf_op_result(op, &err), HF_OK);
}

static void waits_no_longer_than_it_should(void)
{
	int64_t begun;

	with_lock();
	fake_set("k", "somebody");
	begun = hf_now();
	CHECK_INT(acquire(lock, 100), HF_TIMEOUT);
	CHECK(hf_now() - begun >= 99);
	CHECK_HAS(err.message, "somebody");
}

static void cancel_ends_a_wait_for_the_holder(void)
{
	with_lock();
	fake_set("k", "somebody");
	CHECK_INT(hf_lock_acquire(lock, -1, &op, &err), HF_OK);
	CHECK(fake_wait("GET /v1/kv/k?index", 1));
	hf_lock_cancel(lock);
	CHECK(finished());
	CHECK_INT(hf_op_result(op, &err), HF_CANCELED);
	hf_op_drop(op);
	op = NULL;
	fake_set("k", "");
	CHECK_INT(acquire(lock, -1), HF_OK);
}

static void locks_of_one_client_take_turns_on_a_key(void)
{
	struct hf_lock *second;

	with_lock();
	second = new_lock(client, "k");
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(acquire(second, 0), HF_TIMEOUT);
	CHECK_INT(hf_lock_acquire(second, -1, &op, &err), HF_OK);
	CHECK(!hf_op_wait(op, 1, &err));
	CHECK_INT(release(lock, -1), HF_OK);
	CHECK(finished());
	CHECK_INT(hf_op_result(op, &err), HF_OK);
	CHECK_INT(fake_seen("GET /v1/kv/k?index"), 0);
	hf_lock_drop(second);
}

static void many_locks_need_few_connections(void)
{
	struct hf_lock *locks[30];
	struct hf_op *ops[30];
	char key[10];

	with_client();
	for (int i = 0; i < 30; i++) {
		snprintf(key, sizeof key, "key%d", i);
		locks[i] = new_lock(client, key);
		REQUIRE(!hf_lock_acquire(locks[i], -1, &ops[i], &err));
	}
	for (int i = 0; i < 30; i++)
		CHECK_INT(finish(ops[i]), HF_OK);
	CHECK(fake_connections(true) <= 4);
	CHECK_INT(fake_sessions(), 1);
	for (int i = 0; i < 30; i++)
		hf_lock_drop(locks[i]);
}

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
	fake_on("\"lock\"", 1, "hold");
	CHECK_INT(hf_lock_acquire(lock, -1, &op, &err), HF_OK);
	CHECK(fake_wait("\"lock\"", 1));
	fake_set("k", "5e551014-0000-0000-0000-000000000001"); /* it was served all the same */
	hf_op_drop(op);
	op = NULL;
	CHECK(fake_wait("\"unlock\"", 1));
	CHECK(fake_wait_held("k", false));
}

static void a_key_that_is_no_lock_is_a_conflict(void)
{
	with_lock();
	fake_on("GET /v1/kv/k", -1, "200 [{\"Key\":\"k\",\"Flags\":0,\"ModifyIndex\":7}]");
	CHECK_INT(acquire(lock, -1), HF_CONFLICT);
	CHECK_INT(destroy(lock, -1), HF_CONFLICT);
	CHECK_INT(fake_seen("\"lock\"") + fake_seen("DELETE"), 0);
}

static void flags_that_differ_in_the_last_bit_are_a_conflict(void)
{
	with_lock();
	fake_on("GET /v1/kv/k", -1,
		"200 [{\"Key\":\"k\",\"Flags\":3304740253564472345,\"ModifyIndex\":7}]");
	CHECK_INT(acquire(lock, -1), HF_CONFLICT);
}

static void destroys_a_key_that_nobody_holds(void)
{
	with_lock();
	CHECK_INT(destroy(lock, -1), HF_OK); /* it is not there */
	fake_set("k", "");
	CHECK_INT(destroy(lock, -1), HF_OK);
	CHECK_INT(fake_seen("DELETE /v1/kv/k?cas="), 1);
}

static void does_not_destroy_a_key_that_somebody_holds(void)
{
	with_lock();
	fake_set("k", "somebody");
	CHECK_INT(destroy(lock, -1), HF_IN_USE);
	CHECK_INT(fake_seen("DELETE"), 0);
}

static void a_lock_with_an_external_session_leaves_it_alone(void)
{
	const char *id = "5e551014-0000-0000-0000-000000000077";
	const struct hf_lock_opts lock_opts = {.key = "k", .session = id};

	with_client();
	fake_make(77);
	CHECK_INT(hf_lock_new(client, &lock_opts, &lock, &err), HF_OK);
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_STR(state_of(lock).session, id);
	CHECK(state_of(lock).remaining == INT64_MAX);
	CHECK_INT(release(lock, -1), HF_OK);
	CHECK_INT(hf_client_close(client, true, &err), HF_OK);
	CHECK_INT(fake_seen("/v1/session/create") + fake_seen("/v1/session/renew") +
			  fake_seen("/v1/session/destroy"),
		  0);
}

static void a_session_of_its_own_goes_with_the_hold(void)
{
	const struct hf_session_opts session = {.name = "own", .ttl = 20000};
	const struct hf_lock_opts lock_opts = {.key = "k", .session_opts = &session};

	with_client();
	CHECK_INT(hf_lock_new(client, &lock_opts, &lock, &err), HF_OK);
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(fake_seen("\"Name\":\"own\""), 1);
	CHECK_INT(release(lock, -1), HF_OK);
	CHECK(fake_wait("/v1/session/destroy/", 1));
}

/* ---- trouble ------------------------------------------------------------------------------ */

static void passing_trouble_is_ridden_out(void)
{
	with_lock();
	fake_on("/v1/session/create", 1, "500 No cluster leader");
	fake_on("GET /v1/kv/k", 1, "close");
	fake_on("\"lock\"", 1, "429 rate limit exceeded");
	fake_on("\"unlock\"", 1, "503 rate limit exceeded");
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(release(lock, -1), HF_OK);
	CHECK(!fake_held("k"));
}

static void one_try_reports_passing_trouble(void)
{
	with_lock();
	fake_on("/v1/session/create", -1, "500 No cluster leader");
	CHECK_INT(acquire(lock, 0), HF_HTTP);
	CHECK_HAS(err.message, "No cluster leader");
}

static void one_try_reports_trouble_with_the_lock_itself(void)
{
	with_lock();
	fake_on("\"lock\"", -1, "429 rate limit exceeded");
	CHECK_INT(acquire(lock, 0), HF_HTTP);
	CHECK_HAS(err.message, "rate limit exceeded");
}

/* Nobody can have acted on it, so there is nothing to take back. */
static void a_try_that_was_never_sent_is_not_undone(void)
{
	struct hf_counters left;
	int64_t begun;

	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(release(lock, -1), HF_OK);
	fake_stop();
	begun = hf_now();
	CHECK_INT(acquire(lock, 0), HF_CONNECT);
	EVENTUALLY((hf_counters(&left), left.ops <= 3)); /* those of the session */
	CHECK(hf_now() - begun < 5000);
}

static void a_denial_is_final(void)
{
	with_lock();
	fake_on("\"lock\"", -1,
		"409 {\"Errors\":[{\"OpIndex\":0,\"What\":\"Permission denied\"}]}");
	CHECK_INT(acquire(lock, -1), HF_DENIED);
	CHECK_INT(fake_seen("\"lock\""), 1);
}

static void a_session_that_cannot_be_made_is_final(void)
{
	with_lock();
	fake_on("/v1/session/create", -1, "500 Missing check 'x' registration");
	CHECK_INT(acquire(lock, -1), HF_SESSION);
	CHECK_HAS(err.message, "Missing check");
	CHECK_INT(fake_seen("/v1/session/create"), 1);
}

static void a_session_that_has_gone_is_replaced(void)
{
	with_lock();
	fake_on("\"lock\"", 1,
		"409 {\"Errors\":[{\"OpIndex\":0,\"What\":\"invalid session \\\"x\\\"\"}]}");
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(fake_seen("/v1/session/create"), 2);
}

static void a_lock_delay_is_waited_out(void)
{
	with_lock();
	fake_on("\"lock\"", 1,
		"409 {\"Errors\":[{\"OpIndex\":0,\"What\":\"k due to lock delay\"}]}");
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(fake_seen("\"lock\""), 2);
}

static void a_lost_session_is_a_lost_lock(void)
{
	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	fake_kill(state_of(lock).session);
	CHECK(hf_lock_wait(lock, WAIT, &err));
	CHECK(state_of(lock).lost);
	CHECK_INT(state_of(lock).reason, HF_BY_SESSION);
	CHECK_INT(release(lock, -1), HF_LOST);
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK(!state_of(lock).lost);
}

static void with_monitored_key(void)
{
	const struct hf_lock_opts lock_opts = {.key = "k", .monitor_key = true};

	with_client();
	CHECK_INT(hf_lock_new(client, &lock_opts, &lock, &err), HF_OK);
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK(fake_wait("GET /v1/kv/k?consistent&index", 1));
}

static void a_monitored_key_that_is_stolen_is_a_lost_lock(void)
{
	with_monitored_key();
	fake_set("k", "somebody");
	CHECK(hf_lock_wait(lock, WAIT, &err));
	CHECK_INT(state_of(lock).reason, HF_BY_STOLEN);
}

static void a_monitored_key_that_is_deleted_is_a_lost_lock(void)
{
	with_monitored_key();
	fake_set("k", NULL);
	CHECK(hf_lock_wait(lock, WAIT, &err));
	CHECK_INT(state_of(lock).reason, HF_BY_KEY);
}

static void an_audit_finds_a_key_that_was_stolen(void)
{
	begin();
	opts.session.ttl = 600;
	client = new_client();
	lock = new_lock(client, "k");
	CHECK_INT(acquire(lock, -1), HF_OK);
	fake_set("k", "somebody");
	CHECK(hf_lock_wait(lock, WAIT, &err));
	CHECK_INT(state_of(lock).reason, HF_BY_STOLEN);
}

static void renewals_keep_a_lock_beyond_its_ttl(void)
{
	begin();
	opts.session.ttl = 300;
	client = new_client();
	lock = new_lock(client, "k");
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK(fake_wait("/v1/session/renew/", 6));
	CHECK(state_of(lock).held);
}

/* Acquires with a short lease, lets the server fall silent and waits for the end of the lease. */
static void lose_by_deadline(int64_t ttl)
{
	begin();
	opts.session.ttl = ttl;
	client = new_client();
	lock = new_lock(client, "k");
	CHECK_INT(acquire(lock, -1), HF_OK);
	fake_on("/v1/", -1, "hold");
	CHECK(hf_lock_wait(lock, WAIT, &err));
	CHECK_INT(state_of(lock).reason, HF_BY_DEADLINE);
}

static void a_lease_that_is_not_renewed_ends_in_time(void)
{
	int64_t begun = hf_now();

	lose_by_deadline(400);
	CHECK(state_of(lock).lost);
	CHECK(hf_now() - begun < 5000);
	CHECK_INT(hf_client_close(client, false, &err), HF_OK);
}

/* With this TTL the second renewal is in flight when the lease ends. */
static void a_client_goes_on_after_a_lease_ended_with_a_renewal_in_flight(void)
{
	lose_by_deadline(1200);
	fake_kill("5e551014-0000-0000-0000-000000000001"); /* as the server would, in time */
	CHECK(fake_seen("/v1/session/renew/") >= 2);
	fake_recover();
	CHECK_INT(acquire(lock, 5000), HF_OK);
	CHECK_INT(hf_client_close(client, false, &err), HF_OK);
}

/* ---- a server that never answers ---------------------------------------------------------- */

static void with_silence(int64_t timeout)
{
	begin();
	opts.timeout = timeout;
	fake_on("/", -1, "hold");
	client = new_client();
	lock = new_lock(client, "k");
}

static void one_try_at_a_silent_server_ends_with_the_request(void)
{
	with_silence(100);
	CHECK_INT(acquire(lock, 0), HF_TIMEOUT);
	CHECK_INT(destroy(lock, 0), HF_TIMEOUT);
}

static void a_time_limit_holds_at_a_silent_server(void)
{
	int64_t begun;

	with_silence(20000);
	begun = hf_now();
	CHECK_INT(acquire(lock, 100), HF_TIMEOUT);
	CHECK_INT(destroy(lock, 100), HF_TIMEOUT);
	CHECK(hf_now() - begun < 5000);
	CHECK_INT(hf_client_close(client, false, &err), HF_OK);
}

static void a_time_limit_holds_with_a_lock_in_flight(void)
{
	int64_t begun;

	with_lock();
	fake_on("\"lock\"", -1, "hold");
	fake_on("\"unlock\"", -1, "hold");
	begun = hf_now();
	CHECK_INT(acquire(lock, 100), HF_TIMEOUT);
	CHECK(hf_now() - begun < 5000);
	CHECK_INT(hf_client_close(client, false, &err), HF_OK);
}

static void cancel_works_at_a_silent_server(void)
{
	with_silence(20000);
	CHECK_INT(hf_lock_acquire(lock, -1, &op, &err), HF_OK);
	CHECK(fake_wait("/v1/session/create", 1));
	hf_op_cancel(op);
	CHECK(finished());
	CHECK_INT(hf_op_result(op, &err), HF_CANCELED);
	CHECK_INT(hf_client_close(client, false, &err), HF_OK);
}

static void a_time_limit_of_a_release_holds_at_a_silent_server(void)
{
	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	fake_on("\"unlock\"", 1, "hold");
	CHECK_INT(release(lock, 100), HF_TIMEOUT);
	CHECK(!state_of(lock).held);
	CHECK_INT(hf_client_close(client, false, &err), HF_OK);
}

static void a_release_goes_on_when_nobody_waits_for_it(void)
{
	begin();
	opts.timeout = 100;
	client = new_client();
	lock = new_lock(client, "k");
	CHECK_INT(acquire(lock, -1), HF_OK);
	fake_on("\"unlock\"", 1, "hold");
	CHECK_INT(release(lock, 50), HF_TIMEOUT);
	CHECK(fake_wait("\"unlock\"", 2));
	CHECK(fake_wait_held("k", false));
}

static void close_is_bounded_at_a_silent_server(void)
{
	int64_t begun;

	with_lock();
	CHECK_INT(acquire(lock, -1), HF_OK);
	fake_on("/", -1, "hold");
	begun = hf_now();
	CHECK_INT(hf_client_close(client, true, &err), HF_OK);
	CHECK(hf_now() - begun < 6000);
	CHECK(!state_of(lock).held);
}

/* ---- fork, exit, threads ------------------------------------------------------------------ */

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
	struct hf_op *none;

	CHECK_INT(acquire(lock, -1), HF_FORKED);
	CHECK_INT(release(lock, -1), HF_FORKED);
	CHECK_INT(destroy(lock, -1), HF_FORKED);
	CHECK_INT(hf_lock_new(client, &lock_opts, &made, &err), HF_FORKED);
	CHECK_INT(start_get(client, NULL, "/", &none), HF_FORKED);
	CHECK_INT(hf_client_stats(client, &stats, &err), HF_FORKED);
	CHECK_INT(hf_client_close(client, true, &err), HF_FORKED);
	CHECK_INT(hf_lock_fd(lock, &err), -1);
	CHECK_INT(err.code, HF_FORKED);
	CHECK(hf_lock_wait(lock, -1, &err));
	CHECK(!state_of(lock).held && state_of(lock).reason == HF_BY_FORKED);
	hf_lock_cancel(lock);
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

/* What this program does when it is started with a mode and the fake's address. */
static int run_and_exit(const char *mode, const char *base)
{
	default_opts();
	opts.base = base;
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

static int started_with(const char *mode)
{
	pid_t child = fork();

	if (child == 0) {
		execl(program, program, mode, fake.base, (char *)NULL);
		_exit(127);
	}
	return status_of(child);
}

static void exit_with_an_open_client_releases(void)
{
	begin();
	CHECK_INT(started_with("--exit"), 0);
	CHECK_INT(fake_seen("\"unlock\""), 1);
	CHECK(!fake_held("k"));
	CHECK_INT(fake_sessions(), 0);
}

static void returning_from_main_with_an_op_in_flight_ends_quietly(void)
{
	begin();
	CHECK_INT(started_with("--waiting"), 0);
	CHECK(!fake_held("k"));
	CHECK_INT(fake_sessions(), 0);
}

static void exit_is_bounded_at_a_silent_server(void)
{
	int64_t begun;

	begin();
	fake_on("\"unlock\"", -1, "hold");
	begun = hf_now();
	CHECK_INT(started_with("--exit"), 0);
	CHECK(hf_now() - begun < 5000);
	CHECK(fake_held("k"));
}

#define TURNS 20
static atomic_int inside, overlaps;

static void *take_turns(void *arg)
{
	struct hf_client *mine = new_client();
	struct hf_lock *own = new_lock(mine, "k");

	for (int i = 0; i < TURNS; i++) {
		CHECK_INT(acquire(own, -1), HF_OK);
		atomic_fetch_add(&overlaps, atomic_fetch_add(&inside, 1));
		atomic_fetch_sub(&inside, 1);
		CHECK_INT(release(own, -1), HF_OK);
	}
	hf_lock_drop(own);
	CHECK_INT(hf_client_close(mine, true, &err), HF_OK);
	hf_client_drop(mine);
	return arg;
}

static void clients_in_two_threads_exclude_each_other(void)
{
	pthread_t threads[2];

	begin();
	for (int i = 0; i < 2; i++)
		REQUIRE(!pthread_create(&threads[i], NULL, take_turns, NULL));
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	CHECK_INT(overlaps, 0);
	CHECK_INT(fake_seen("/v1/session/destroy/"), 2);
}

static void *use_and_drop(void *arg)
{
	struct hf_op *mine = NULL;

	for (int i = 0; i < TURNS; i++) {
		CHECK_INT(start_get(client, NULL, "/", &mine), HF_OK);
		CHECK_INT(finish(mine), HF_OK);
	}
	return arg;
}

static void two_threads_may_share_a_client(void)
{
	pthread_t threads[2];

	with_client();
	for (int i = 0; i < 2; i++)
		REQUIRE(!pthread_create(&threads[i], NULL, use_and_drop, NULL));
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	CHECK_INT(fake_seen("GET /"), 2 * TURNS);
}

static const struct check_test tests[] = {
	TEST(a_client_without_ops_starts_no_thread_and_opens_nothing),
	TEST(a_closed_client_leaves_no_thread_and_no_descriptor),
	TEST(close_answers_closed_to_ops_in_flight),
	TEST(close_releases_and_destroys_and_leaves_nothing),
	TEST(close_that_does_not_tell_says_nothing),
	TEST(a_closed_client_refuses_and_may_be_closed_again),
	TEST(close_has_joined_the_thread_when_it_returns),
	TEST(a_dropped_client_closes_by_itself),
	TEST(an_op_outlives_its_client),
	TEST(a_lock_outlives_its_client),
	TEST(counts_what_it_does),
	TEST(a_request_gets_its_response),
	TEST(a_long_response_is_cut_and_says_so),
	TEST(a_request_sends_method_headers_and_body),
	TEST(a_request_has_its_own_timeout),
	TEST(a_request_that_cannot_connect_says_so),
	TEST(a_request_with_an_impossible_url_is_invalid),
	TEST(a_guarded_request_is_refused_without_the_lock),
	TEST(a_guarded_request_goes_through_while_the_lock_is_held),
	TEST(a_guarded_request_is_aborted_when_the_lock_is_lost),
	TEST(a_guarded_request_is_aborted_when_the_lock_is_released),
	TEST(an_op_is_not_done_before_it_is),
	TEST(the_descriptor_of_an_op_is_readable_for_ever_once_it_is_done),
	TEST(a_descriptor_asked_for_afterwards_is_readable_at_once),
	TEST(cancel_ends_a_request_at_once),
	TEST(cancel_changes_nothing_once_it_is_done),
	TEST(a_dropped_request_is_given_up),
	TEST(a_request_that_is_left_goes_on),
	TEST(acquires_and_releases),
	TEST(a_second_hold_has_a_greater_token),
	TEST(a_cycle_on_a_known_key_takes_two_requests),
	TEST(refuses_what_its_state_does_not_allow),
	TEST(refuses_a_second_acquire_while_one_is_in_flight),
	TEST(one_try_says_that_somebody_holds_it),
	TEST(waits_until_the_holder_lets_go),
	TEST(waits_no_longer_than_it_should),
	TEST(cancel_ends_a_wait_for_the_holder),
	TEST(locks_of_one_client_take_turns_on_a_key),
	TEST(many_locks_need_few_connections),
	TEST(the_descriptor_of_a_lock_is_readable_while_it_is_not_held),
	TEST(a_dropped_lock_is_released),
	TEST(an_acquire_dropped_while_it_waits_never_gets_the_lock),
	TEST(an_acquire_dropped_in_flight_gives_the_lock_back),
	TEST(a_key_that_is_no_lock_is_a_conflict),
	TEST(flags_that_differ_in_the_last_bit_are_a_conflict),
	TEST(destroys_a_key_that_nobody_holds),
	TEST(does_not_destroy_a_key_that_somebody_holds),
	TEST(a_lock_with_an_external_session_leaves_it_alone),
	TEST(a_session_of_its_own_goes_with_the_hold),
	TEST(passing_trouble_is_ridden_out),
	TEST(one_try_reports_passing_trouble),
	TEST(one_try_reports_trouble_with_the_lock_itself),
	TEST(a_try_that_was_never_sent_is_not_undone),
	TEST(a_denial_is_final),
	TEST(a_session_that_cannot_be_made_is_final),
	TEST(a_session_that_has_gone_is_replaced),
	TEST(a_lock_delay_is_waited_out),
	TEST(a_lost_session_is_a_lost_lock),
	TEST(a_monitored_key_that_is_stolen_is_a_lost_lock),
	TEST(a_monitored_key_that_is_deleted_is_a_lost_lock),
	TEST(an_audit_finds_a_key_that_was_stolen),
	TEST(renewals_keep_a_lock_beyond_its_ttl),
	TEST(a_lease_that_is_not_renewed_ends_in_time),
	TEST(a_client_goes_on_after_a_lease_ended_with_a_renewal_in_flight),
	TEST(one_try_at_a_silent_server_ends_with_the_request),
	TEST(a_time_limit_holds_at_a_silent_server),
	TEST(a_time_limit_holds_with_a_lock_in_flight),
	TEST(cancel_works_at_a_silent_server),
	TEST(a_time_limit_of_a_release_holds_at_a_silent_server),
	TEST(a_release_goes_on_when_nobody_waits_for_it),
	TEST(close_is_bounded_at_a_silent_server),
	TEST(every_call_in_a_child_answers_forked),
	TEST(a_child_may_drop_what_its_parent_holds),
#ifndef __SANITIZE_THREAD__
	TEST(a_child_has_a_client_of_its_own),
#endif
	TEST(exit_with_an_open_client_releases),
	TEST(returning_from_main_with_an_op_in_flight_ends_quietly),
	TEST(exit_is_bounded_at_a_silent_server),
	TEST(clients_in_two_threads_exclude_each_other),
	TEST(two_threads_may_share_a_client),
};

int main(int argc, char **argv)
{
	program = argv[0];
	if (argc == 3)
		return run_and_exit(argv[1], argv[2]);
	return check_main(argc, argv, tests, CHECK_COUNT(tests), end);
}
