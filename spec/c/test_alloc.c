/* test_alloc.c: every allocation fails once, and then all from it on, while a client goes through
 * its life. Whatever happens, each call answers, nothing crashes, hangs or leaks. cJSON's memory
 * fails too, and libcurl's in a test of its own. */
#include "base/alloc.h"
#include "check.h"
#include "fake.h"
#include "hf.h"
#include "hold.h"

#include <cjson/cJSON.h>
#include <curl/curl.h>
#include <errno.h>
#include <sys/wait.h>

/* Lives go on in so many processes at once: most of their time they wait for the next try. */
#define PROCESSES 64

static atomic_bool curl_fails;

static void *curl_malloc(size_t size)
{
	return atomic_load(&curl_fails) ? hf_malloc(size) : malloc(size);
}

static void *curl_calloc(size_t count, size_t size)
{
	return atomic_load(&curl_fails) ? hf_calloc(count, size) : calloc(count, size);
}

static void *curl_realloc(void *old, size_t size)
{
	return atomic_load(&curl_fails) ? hf_realloc(old, size) : realloc(old, size);
}

static char *curl_strdup(const char *text)
{
	return atomic_load(&curl_fails) ? hf_strdup(text) : strdup(text);
}

/* ---- the scenario ------------------------------------------------------------------------- */

struct life {
	long n; /* the allocation that fails; 0: none */
	bool lasting; /* and all after it */
	int64_t timeout; /* of acquire, release and destroy */
	bool guarded, monitored, external, own;
	bool object; /* the session is one */
	bool alive; /* and stands on a check of ours */
	bool limited; /* max_hold, and an ephemeral key */
	bool together; /* several keys in one step */
	bool contended; /* somebody has the key at first */
	bool unanswered; /* the try that takes it is not answered */
	bool several; /* locks at once, whose transactions are shared */
	bool refused; /* the first of these, because of one of them */
	bool semaphore; /* not a lock */
	bool watched; /* no lock is taken: somebody else's key is waited for */
};

#define SEVERAL 5

#define EXTERNAL "5e551014-0000-0000-0000-000000000077"

/* Says what is wrong with a result, and for which allocation. */
static bool allowed(const struct life *life, const char *call, enum hf_err code)
{
	char text[600];

	if (!code)
		return true;
	switch (life->n ? code : HF_OK) {
	case HF_NOMEM:
	case HF_PROTOCOL: /* cJSON had no memory: a reply that was not understood */
		return true;
	case HF_CONNECT: /* libcurl's way of saying it, now and then */
	case HF_TLS:
		if (atomic_load(&curl_fails))
			return true;
		break;
	case HF_TIMEOUT: /* the worker tried again until the time was up */
		if (life->timeout > 0)
			return true;
		break;
	default:
		break;
	}
	snprintf(text, sizeof text, "allocation %ld: %s answers %s: %s", life->n, call,
		 hf_err_code(code), err.message);
	return check_that(false, __FILE__, __LINE__, text);
}

/* While it is held. Answers whether it has been given back. */
static bool use(const struct life *life)
{
	enum hf_err code;

	CHECK(state_of(lock).held && state_of(lock).token);
	if (life->guarded)
		allowed(life, "request", start_get(client, lock, "/", &op) ? err.code : finish(op));
	op = NULL;
	code = release(lock, life->timeout);
	allowed(life, "release", code);
	CHECK(!state_of(lock).held);
	return !code;
}

/* Somebody lets go when it is known that there is a key to wait for. */
static enum hf_err acquire_contended(const struct life *life)
{
	fake_set("k", "somebody");
	if (hf_lock_acquire(lock, life->timeout, &op, &err)) {
		fake_set("k", "");
		return err.code;
	}
	while (!hf_op_wait(op, 1, &err) && !err.code && !fake_seen("GET /v1/kv/k"))
		;
	fake_set("k", "");
	err.code = finish(op);
	op = NULL;
	return err.code;
}

static enum hf_err acquire_unanswered(const struct life *life)
{
	fake_on("\"lock\"", 1, "swallow");
	CHECK(acquire(lock, 50) != HF_OK);
	if (err.code != HF_TIMEOUT)
		allowed(life, "acquire", err.code);
	return acquire(lock, life->timeout);
}

static void with_a_lock(const struct life *life)
{
	bool given_back = true;

	if (!(life->contended	 ? acquire_contended(life)
	      : life->unanswered ? acquire_unanswered(life)
				 : acquire(lock, life->timeout))) {
		given_back = use(life);
	} else {
		allowed(life, "acquire", err.code);
		CHECK(!state_of(lock).held);
		CHECK_INT(release(lock, 0), HF_NOT_HELD);
	}
	if (destroy(lock, life->timeout) != HF_IN_USE || given_back)
		allowed(life, "destroy", err.code);
}

/* What is to be done with one of several locks. */
typedef enum hf_err start_fn(struct hf_lock *lock, int64_t timeout, struct hf_op **out,
			     struct hf_error *err);

/* Does it with all at once that are there, and forgets those with which it does not succeed. */
static void at_once(const struct life *life, const char *call, start_fn *start,
		    struct hf_lock **locks)
{
	struct hf_op *ops[SEVERAL] = {NULL};

	for (int i = 0; i < SEVERAL; i++)
		if (locks[i] && start(locks[i], life->timeout, &ops[i], &err))
			allowed(life, call, err.code);
	for (int i = 0; i < SEVERAL; i++) {
		if (ops[i] && !finish(ops[i]))
			continue;
		if (ops[i])
			allowed(life, call, err.code);
		hf_lock_drop(locks[i]);
		locks[i] = NULL;
	}
}

static void with_several_locks(const struct life *life)
{
	struct hf_lock *locks[SEVERAL] = {NULL};

	for (int i = 0; i < SEVERAL; i++) {
		char key[] = {'s', (char)('0' + i), '\0'};
		const struct hf_lock_opts lock_opts = {.key = key, .value = "v", .value_len = 1};

		if (hf_lock_new(client, &lock_opts, &locks[i], &err))
			CHECK_INT(err.code, HF_NOMEM);
	}
	if (life->refused)
		fake_on("check-not-exists", 1,
			"409 {\"Errors\":[{\"OpIndex\":1,\"What\":\"lock is already held\"}]}");
	/* They all wait for the session, so what follows on that goes together. */
	at_once(life, "acquire", hf_lock_acquire, locks);
	if (!life->n) { /* one look and one write; the others once more, and then the refused one */
		CHECK_INT(fake_seen("\"get\""), 1);
		CHECK_INT(fake_seen("check-not-exists"), life->refused ? 3 : 1);
	}
	at_once(life, "release", hf_lock_release, locks);
	at_once(life, "destroy", hf_lock_destroy, locks);
	for (int i = 0; i < SEVERAL; i++)
		hf_lock_drop(locks[i]);
}

static struct hf_handle *handle;

/* Makes the object of a session. Answers false when nothing has come of it. */
static bool make_session(const struct life *life)
{
	if (!life->object)
		return true;
	if (hf_handle_new(client, &opts.session, &handle, &err)) {
		CHECK_INT(err.code, HF_NOMEM);
		return false;
	}
	err.code = hf_handle_open(handle, &op, &err) ? err.code : finish(op);
	op = NULL;
	return allowed(life, "open", err.code) && !err.code;
}

static void end_session(const struct life *life)
{
	if (!handle)
		return;
	err.code = hf_handle_renew(handle, 0, &op, &err) ? err.code : finish(op);
	allowed(life, "renew", err.code);
	err.code = hf_handle_destroy(handle, life->timeout, &op, &err) ? err.code : finish(op);
	allowed(life, "destroy of the session", err.code);
	op = NULL;
	hf_handle_drop(handle);
	handle = NULL;
	if (!life->n)
		CHECK_INT(hf_client_event(client)->kind, HF_SESSION_MADE);
	while (hf_client_event(client))
		;
}

/* The only slot is somebody's, until it is known that there is one to wait for. */
static enum hf_err acquire_slot(const struct life *life)
{
	if (life->contended) {
		fake_fill("p/.lock", "16210313421097356768",
			  "eyJMaW1pdCI6MSwiSG9sZGVycyI6eyJzb21lYm9keSI6dHJ1ZX19");
		fake_set("p/somebody", "somebody");
	}
	if (life->unanswered)
		fake_on("\"cas\"", 1, "swallow");
	err.code = hf_semaphore_acquire(lock, life->timeout, &op, &err);
	while (life->contended && op && !hf_op_wait(op, 1, &err) && !err.code &&
	       !fake_seen("&recurse"))
		;
	fake_set("p/somebody", NULL);
	if (op)
		finish(op);
	op = NULL;
	return err.code;
}

static void with_a_semaphore(const struct life *life)
{
	bool given_back = true;

	if (!acquire_slot(life)) {
		given_back = use(life);
	} else {
		allowed(life, "acquire", err.code);
		CHECK(!state_of(lock).held);
		CHECK_INT(release(lock, 0), HF_NOT_HELD);
	}
	if (!hf_semaphore_destroy(lock, life->timeout, &op, &err))
		finish(op);
	op = NULL;
	if (err.code != HF_IN_USE || given_back)
		allowed(life, "destroy", err.code);
}

static void with_a_key_to_wait_for(const struct life *life)
{
	enum hf_err code;

	fake_set("w", "somebody");
	code = hf_key_change(client, "w", fake.index, life->timeout, &op, &err) ? err.code : HF_OK;
	while (!code && !hf_op_wait(op, 1, &err) && !err.code && !fake_seen("GET /v1/kv/w?index="))
		;
	fake_set("w", NULL);
	allowed(life, "change", code ? code : finish(op));
	op = NULL;
}

static bool all_are_free(void)
{
	return !fake_held_below("p/") && !fake_held("k") && !fake_held("s0") && !fake_held("s1") &&
	       !fake_held("s2") && !fake_held("s3") && !fake_held("s4");
}

/* The object that the life is about, and the lease of which is longer than the life. */
static enum hf_err make_lock(const struct life *life)
{
	const struct hf_session_opts session = {.name = "own", .ttl = 20000};
	const struct hf_session_opts slot = {.name = "own", .ttl = 20000, .behavior = "delete"};
	const char *id = life->external ? EXTERNAL : NULL, *more[] = {"s0", "s1"};
	const struct hf_lock_opts lock_opts = {
		.key = "k",
		.value = "v",
		.value_len = 1,
		.session = id,
		.session_opts = life->own ? &session : NULL,
		.handle = handle,
		.monitor_key = life->monitored,
		.ephemeral = life->limited,
		.max_hold = life->limited ? 60000 : 0,
		.more = {more, life->together ? 2 : 0},
	};
	const struct hf_semaphore_opts semaphore_opts = {
		.prefix = "p/",
		.limit = 1,
		.value = "v",
		.value_len = 1,
		.session = id,
		.session_opts = &slot,
	};

	return life->semaphore ? hf_semaphore_new(client, &semaphore_opts, &lock, &err)
			       : hf_lock_new(client, &lock_opts, &lock, &err);
}

/* Answers false when nothing failed: the end has been reached. */
static bool live(const struct life *life)
{
	bool failed;

	fake_forget();
	fake_make(77);
	opts.timeout = life->unanswered ? 500 : 20000;
	opts.session.alive = life->alive ? 20000 : 0;
	opts.events = life->object;
	hf_alloc_fail(life->n, life->lasting);
	if (hf_client_new(&opts, &client, &err)) {
		CHECK_INT(err.code, HF_NOMEM);
	} else if (make_session(life) && make_lock(life)) {
		CHECK_INT(err.code, HF_NOMEM);
	} else if (lock) {
		if (life->watched)
			with_a_key_to_wait_for(life);
		else if (life->semaphore)
			with_a_semaphore(life);
		else if (life->several)
			with_several_locks(life);
		else
			with_a_lock(life);
		end_session(life);
		/* Saying goodbye without memory is tried for three seconds. */
		allowed(life, "close", close_client(client, !life->lasting));
	}
	failed = life->n && hf_alloc_count() >= life->n;
	hf_alloc_fail(0, 0);
	hf_handle_drop(handle);
	handle = NULL;
	close_all();
	if (!life->lasting)
		check_that(all_are_free(), __FILE__, __LINE__, "the keys are free afterwards");
	return failed;
}

static void begin(void)
{
	fake_start();
	default_opts();
	CHECK(nothing_is_left());
}

static void end(void)
{
	atomic_store(&curl_fails, false);
	hf_alloc_fail(0, 0);
	close_all();
	fake_stop();
}

/* In a process of its own: every so manieth allocation, from n on. */
static void live_on(struct life life, int step)
{
	long first = life.n;

	atomic_store(&check_failures, 0);
	begin();
	while (live(&life) && !atomic_load(&check_failures))
		life.n += step;
	CHECK(life.n > first || first > 8); /* something failed at all */
	end();
	exit(atomic_load(&check_failures) != 0);
}

static bool under_valgrind(void)
{
	const char *mode = getenv("HF_MODE");

	return mode && !strcmp(mode, "valgrind");
}

/* From the first allocation to the last. A life without failure comes first; it also has valgrind
 * translate, once for all children, what they will run. */
static void live_through(struct life life)
{
	struct life whole = life;
	pid_t children[PROCESSES];
	bool slow = under_valgrind();
	int status, count = slow ? PROCESSES / 3 : PROCESSES;
	int step = slow && atomic_load(&curl_fails) ? 7 : 1; /* there are many */

	begin();
	whole.timeout = life.unanswered ? 10000 : -1;
	CHECK(!live(&whole));
	fake_stop();

	for (int i = 0; i < count; i++) {
		life.n = 1 + i * step;
		children[i] = fork();
		if (children[i] == 0)
			live_on(life, count * step);
	}
	for (int i = 0; i < count; i++)
		CHECK(waitpid(children[i], &status, 0) == children[i] && status == 0);
}

/* ---- tests -------------------------------------------------------------------------------- */

static void one_failure_is_survived(void)
{
	live_through((struct life){.guarded = true});
}

static void one_failure_is_made_good_by_another_try(void)
{
	live_through((struct life){.timeout = 5000});
}

static void one_failure_with_a_monitored_key_is_survived(void)
{
	live_through((struct life){.monitored = true});
}

static void one_failure_with_max_hold_and_an_ephemeral_key_is_survived(void)
{
	live_through((struct life){.limited = true});
}

static void one_failure_with_several_keys_is_survived(void)
{
	live_through((struct life){.together = true, .guarded = true, .monitored = true});
}

static void one_failure_of_a_waiter_for_several_keys_is_made_good(void)
{
	live_through((struct life){.together = true, .timeout = 10000, .contended = true});
}

static void one_failure_with_a_try_for_several_keys_that_is_not_answered_is_survived(void)
{
	live_through((struct life){.together = true, .timeout = 10000, .unanswered = true});
}

static void lasting_failure_with_several_keys_ends_in_time(void)
{
	live_through((struct life){.together = true, .timeout = 20, .lasting = true});
}

static void one_failure_with_an_external_session_is_survived(void)
{
	live_through((struct life){.external = true});
}

static void one_failure_with_a_session_of_its_own_is_survived(void)
{
	live_through((struct life){.own = true});
}

static void one_failure_with_a_session_object_is_survived(void)
{
	live_through((struct life){.timeout = 5000, .object = true});
}

static void one_failure_with_a_session_that_is_alive_is_survived(void)
{
	live_through((struct life){.timeout = 5000, .object = true, .alive = true});
}

static void lasting_failure_with_a_session_object_ends_in_time(void)
{
	live_through((struct life){.lasting = true, .timeout = 20, .object = true});
}

static void one_failure_of_a_waiter_is_made_good_by_another_look(void)
{
	live_through((struct life){.timeout = 10000, .contended = true});
}

static void one_failure_with_a_try_that_is_not_answered_is_survived(void)
{
	live_through((struct life){.timeout = 10000, .unanswered = true});
}

static void one_failure_among_several_locks_is_survived(void)
{
	live_through((struct life){.several = true});
}

static void one_failure_among_several_locks_is_made_good_by_another_try(void)
{
	live_through((struct life){.timeout = 5000, .several = true, .refused = true});
}

static void lasting_failure_among_several_locks_ends_in_time(void)
{
	live_through((struct life){.lasting = true, .timeout = 20, .several = true});
}

static void one_failure_with_a_semaphore_is_survived(void)
{
	live_through((struct life){.semaphore = true, .guarded = true});
}

static void one_failure_with_a_semaphore_is_made_good_by_another_try(void)
{
	live_through((struct life){.semaphore = true, .timeout = 5000});
}

static void one_failure_with_a_semaphore_of_an_external_session_is_survived(void)
{
	live_through((struct life){.semaphore = true, .external = true});
}

static void one_failure_of_a_waiter_for_a_slot_is_made_good_by_another_look(void)
{
	live_through((struct life){.semaphore = true, .timeout = 10000, .contended = true});
}

static void one_failure_with_a_slot_whose_try_is_not_answered_is_survived(void)
{
	live_through((struct life){.semaphore = true, .timeout = 10000, .unanswered = true});
}

static void lasting_failure_with_a_semaphore_ends_in_time(void)
{
	live_through((struct life){
		.semaphore = true, .lasting = true, .timeout = 50, .contended = true});
}

static void one_failure_of_who_waits_for_a_change_is_survived(void)
{
	live_through((struct life){.timeout = 10000, .watched = true});
}

static void lasting_failure_of_who_waits_for_a_change_ends_in_time(void)
{
	live_through((struct life){.lasting = true, .timeout = 50, .watched = true});
}

static void lasting_failure_of_a_waiter_ends_in_time(void)
{
	live_through((struct life){.lasting = true, .timeout = 50, .contended = true});
}

static void lasting_failure_is_survived(void)
{
	live_through((struct life){.lasting = true, .guarded = true});
}

static void lasting_failure_ends_in_time(void)
{
	live_through((struct life){.lasting = true, .timeout = 20});
}

static void one_failure_inside_libcurl_is_survived(void)
{
	atomic_store(&curl_fails, true);
	live_through((struct life){.guarded = true});
}

static void one_failure_inside_libcurl_is_made_good_by_another_try(void)
{
	atomic_store(&curl_fails, true);
	live_through((struct life){.timeout = 5000});
}

static void lasting_failure_inside_libcurl_is_survived(void)
{
	atomic_store(&curl_fails, true);
	live_through((struct life){.lasting = true, .guarded = true});
}

static void close_without_memory_is_bounded(void)
{
	struct hf_stats stats;
	int64_t begun;

	begin();
	client = new_client();
	lock = new_lock(client, "k");
	CHECK_INT(acquire(lock, -1), HF_OK);
	hf_alloc_fail(1, 1);
	begun = hf_now();
	CHECK_INT(close_client(client, true), HF_NOMEM);
	CHECK(!hf_client_stats(client, &stats, &err));
	hf_lock_drop(lock);
	hf_client_drop(client);
	lock = NULL;
	client = NULL;
	EVENTUALLY(nothing_is_left());
	CHECK(hf_now() - begun < 15000);
}

static void options_are_copied_whole_or_not_at_all(void)
{
	const char *list[] = {"a", "b"};
	long n = 0;

	begin();
	opts.token = opts.auth = opts.datacenter = opts.ns = opts.partition = "x";
	opts.route = (struct hf_route){"y", "::127.0.0.1:1", "y", "y", "y", "y", true};
	opts.session.behavior = opts.session.node = "z";
	opts.session.checks = opts.session.service_checks = (struct hf_list){list, 2};
	atomic_store(&curl_fails, true);
	do {
		hf_alloc_fail(++n, 0);
		if (hf_client_new(&opts, &client, &err))
			CHECK_INT(err.code, HF_NOMEM);
		hf_client_drop(client);
		client = NULL;
		CHECK(nothing_is_left());
	} while (hf_alloc_count() >= n);
	CHECK(n > 25);
}

static void a_request_is_copied_whole_or_not_at_all(void)
{
	const char *headers[] = {"A: 1", "B: 2"}, *networks[] = {"127.0.0.0/8"};
	char url[100];
	struct hf_request req = {.method = "POST",
				 .url = url,
				 .headers = {headers, 2},
				 .body = "body",
				 .body_len = 4,
				 .timeout = -1,
				 .max_body = 10,
				 .route = {.connect_to = "a:1:b:2", .ca_file = "x", .verify = true},
				 .public_only = true,
				 .allow = {networks, 1}};
	long n = 0;

	begin();
	client = new_client();
	snprintf(url, sizeof url, "%s/", fake.base);
	atomic_store(&curl_fails, true);
	do {
		hf_alloc_fail(++n, 0);
		allowed(&(struct life){.n = n}, "request",
			hf_request_start(client, NULL, &req, &op, &err) ? err.code : finish(op));
		op = NULL;
	} while (hf_alloc_count() >= n);
	CHECK(n > 10);
}

static void a_call_is_copied_whole_or_not_at_all(void)
{
	const char *headers[] = {"A: 1"}, *query[] = {"x", "y=1"};
	const struct hf_call call = {.method = "PUT",
				     .path = "/v1/x",
				     .query = {query, 2},
				     .headers = {headers, 1},
				     .body = "body",
				     .body_len = 4,
				     .timeout = -1};
	long n = 0;

	begin();
	opts.token = "secret";
	client = new_client();
	atomic_store(&curl_fails, true);
	do {
		hf_alloc_fail(++n, 0);
		allowed(&(struct life){.n = n}, "call",
			hf_call_start(client, &call, &op, &err) ? err.code : finish(op));
		op = NULL;
	} while (hf_alloc_count() >= n);
	CHECK(n > 20);
}

static void polling_many_descriptors_may_fail(void)
{
	int fds[65];
	bool ready[65];

	for (int i = 0; i < 65; i++)
		fds[i] = -1;
	hf_alloc_fail(1, 0);
	errno = 0;
	CHECK_INT(hf_poll(fds, 65, 0, ready), -1);
	CHECK_INT(errno, ENOMEM);
	CHECK_INT(hf_poll(fds, 65, 0, ready), 0);
}

/* Children start threads, under ThreadSanitizer too. */
const char *__tsan_default_options(void);
__attribute__((visibility("default"))) const char *__tsan_default_options(void)
{
	return "die_after_fork=0";
}

static const struct check_test tests[] = {
	TEST(one_failure_is_survived),
	TEST(one_failure_is_made_good_by_another_try),
	TEST(one_failure_with_a_monitored_key_is_survived),
	TEST(one_failure_with_max_hold_and_an_ephemeral_key_is_survived),
	TEST(one_failure_with_several_keys_is_survived),
	TEST(one_failure_of_a_waiter_for_several_keys_is_made_good),
	TEST(one_failure_with_a_try_for_several_keys_that_is_not_answered_is_survived),
	TEST(lasting_failure_with_several_keys_ends_in_time),
	TEST(one_failure_with_an_external_session_is_survived),
	TEST(one_failure_with_a_session_of_its_own_is_survived),
	TEST(one_failure_with_a_session_object_is_survived),
	TEST(one_failure_with_a_session_that_is_alive_is_survived),
	TEST(lasting_failure_with_a_session_object_ends_in_time),
	TEST(one_failure_of_a_waiter_is_made_good_by_another_look),
	TEST(one_failure_with_a_try_that_is_not_answered_is_survived),
	TEST(one_failure_among_several_locks_is_survived),
	TEST(one_failure_among_several_locks_is_made_good_by_another_try),
	TEST(one_failure_with_a_semaphore_is_survived),
	TEST(one_failure_with_a_semaphore_is_made_good_by_another_try),
	TEST(one_failure_with_a_semaphore_of_an_external_session_is_survived),
	TEST(one_failure_of_a_waiter_for_a_slot_is_made_good_by_another_look),
	TEST(one_failure_with_a_slot_whose_try_is_not_answered_is_survived),
	TEST(lasting_failure_with_a_semaphore_ends_in_time),
	TEST(lasting_failure_among_several_locks_ends_in_time),
	TEST(one_failure_of_who_waits_for_a_change_is_survived),
	TEST(lasting_failure_of_who_waits_for_a_change_ends_in_time),
	TEST(lasting_failure_of_a_waiter_ends_in_time),
	TEST(lasting_failure_is_survived),
	TEST(lasting_failure_ends_in_time),
	TEST(one_failure_inside_libcurl_is_survived),
	TEST(one_failure_inside_libcurl_is_made_good_by_another_try),
	TEST(lasting_failure_inside_libcurl_is_survived),
	TEST(close_without_memory_is_bounded),
	TEST(options_are_copied_whole_or_not_at_all),
	TEST(a_request_is_copied_whole_or_not_at_all),
	TEST(a_call_is_copied_whole_or_not_at_all),
	TEST(polling_many_descriptors_may_fail),
};

int main(int argc, char **argv)
{
	cJSON_Hooks hooks = {hf_malloc, hf_free};

	cJSON_InitHooks(&hooks);
	if (curl_global_init_mem(CURL_GLOBAL_DEFAULT, curl_malloc, hf_free, curl_realloc,
				 curl_strdup, curl_calloc))
		return 1;
	return check_main(argc, argv, tests, CHECK_COUNT(tests), end);
}
