/* hold.h: short ways to do with the core what most tests do. What a test makes is global, so that
 * the leak checkers find it in a child process too. Include it once per program. */
#ifndef HOLD_H
#define HOLD_H

#include "check.h"
#include "fake.h"
#include "hf.h"

#define WAIT (FAKE_LIMIT * 1000) /* ms */

/* For what no descriptor and no reply tells: looks again and again, for so long. */
#define EVENTUALLY(cond) \
	do { \
		for (int64_t limit_ = hf_now() + WAIT; !(cond) && hf_now() < limit_;) \
			hf_poll(NULL, 0, 1, NULL); \
		CHECK(cond); \
	} while (0)

static _Thread_local struct hf_error err;
static struct hf_client_opts opts;
static struct hf_client *client;
static struct hf_lock *lock;
static struct hf_op *op;

/* The options of a client of the fake, for a test to change. */
static inline void default_opts(void)
{
	opts = (struct hf_client_opts){
		.base = fake.base,
		.route = {.verify = true},
		.timeout = 20000,
		.session = {.name = "test", .ttl = 20000, .lock_delay = 20000},
	};
}

static inline struct hf_client *new_client(void)
{
	struct hf_client *made = NULL;

	CHECK_INT(hf_client_new(&opts, &made, &err), HF_OK);
	return made;
}

static inline struct hf_lock *new_lock(struct hf_client *of, const char *key)
{
	const struct hf_lock_opts lock_opts = {.key = key, .value = "v", .value_len = 1};
	struct hf_lock *made = NULL;

	CHECK_INT(hf_lock_new(of, &lock_opts, &made, &err), HF_OK);
	return made;
}

/* Waits for an op, drops it and answers its result, which is in err too. A signal ends a wait
 * before its time. */
static inline enum hf_err finish(struct hf_op *of)
{
	int64_t until = hf_now() + WAIT, left = WAIT;

	if (!of)
		return err.code;
	while (!hf_op_wait(of, left, &err) && !err.code && left > 0)
		left = until > hf_now() ? until - hf_now() : 0;
	CHECK(hf_op_done(of));
	hf_op_result(of, &err);
	hf_op_drop(of);
	return err.code;
}

static inline enum hf_err acquire(struct hf_lock *of, int64_t timeout)
{
	struct hf_op *made = NULL;

	return hf_lock_acquire(of, timeout, &made, &err) ? err.code : finish(made);
}

static inline enum hf_err release(struct hf_lock *of, int64_t timeout)
{
	struct hf_op *made = NULL;

	return hf_lock_release(of, timeout, &made, &err) ? err.code : finish(made);
}

static inline enum hf_err destroy(struct hf_lock *of, int64_t timeout)
{
	struct hf_op *made = NULL;

	return hf_lock_destroy(of, timeout, &made, &err) ? err.code : finish(made);
}

/* Starts a GET of a path on the fake. */
static inline enum hf_err start_get(struct hf_client *of, struct hf_lock *guard, const char *path,
				    struct hf_op **out)
{
	char url[200];
	const struct hf_request req = {
		.method = "GET", .url = url, .timeout = -1, .max_body = 1000};

	snprintf(url, sizeof url, "%s%s", fake.base, path);
	return hf_request_start(of, guard, &req, out, &err);
}

static inline struct hf_lock_state state_of(struct hf_lock *of)
{
	struct hf_lock_state state;

	hf_lock_state(of, &state);
	return state;
}

static inline bool nothing_is_left(void)
{
	struct hf_counters left;

	hf_counters(&left);
	return !left.clients && !left.locks && !left.ops && !left.sessions && !left.threads;
}

/* Closes a client and waits until it is closed. */
static inline enum hf_err close_client(struct hf_client *of, bool tell)
{
	struct hf_op *made = NULL;

	if (hf_client_close(of, tell, &made, &err))
		return err.code;
	finish(made);
	hf_client_join(of);
	return err.code;
}

/* Drops the globals and closes the client: afterwards nothing of the core may be alive. */
static inline void close_all(void)
{
	hf_op_drop(op);
	op = NULL;
	hf_lock_drop(lock);
	lock = NULL;
	if (client)
		CHECK_INT(close_client(client, true), HF_OK);
	hf_client_drop(client);
	client = NULL;
	EVENTUALLY(nothing_is_left());
}

#endif
