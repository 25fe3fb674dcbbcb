/* lock.c: lock objects and their ops: acquire, release, destroy.
 *
 * acquire: its turn among the locks of this client for the key → the session → the key's flags,
 * the first time → a transaction that takes the lock or says why not → when somebody has it, a
 * long poll on the key, and again. Once a transaction may have been acted on, the op does not
 * leave before it holds the lock or is sure not to.
 *
 * release: a transaction that gives it back, repeated until the server has answered or the
 * session is over, also when the caller has stopped waiting. */
#include "alloc.h"
#include "config.h"
#include "consul.h"
#include "hf_int.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A caller that cancels waits so long for the transaction in flight to be undone. */
#define GRACE 500
/* So long a release may take when the client closes. */
#define CLOSING 1500
/* A server may act on a request so long after the connection has broken (it waits up to 7 s for
 * a leader), so "not held" is believed only from then on. */
#define UNSURE 8000
/* With nobody on the key, its last holder has died within the lock-delay. */
#define DELAY_MIN 200
#define DELAY_MAX 2000
/* When a key becomes free its waiters do not all come at once. */
#define RUSH 50
/* New sessions that an acquire tries when the last one turns out to be gone. */
#define SESSIONS_MAX 3

/* ---- lock objects ------------------------------------------------------------------------- */

static void lock_free(struct hf_lock *lock)
{
	struct hf_client *client = lock->client;

	if (lock->session_opts) {
		hf_session_opts_free(lock->session_opts);
		hf_free(lock->session_opts);
	}
	hf_session_unref(lock->session);
	hf_op_unref(lock->spare);
	if (lock->fd >= 0)
		close(lock->fd);
	hf_free(lock->session_id);
	hf_free(lock->key);
	hf_free(lock->value);
	hf_free(lock);
	hf_client_unref(client);
	hf_process_count(HF_LOCKS, -1);
}

void hf_lock_ref(struct hf_lock *lock)
{
	atomic_fetch_add(&lock->refs, 1);
}

void hf_lock_unref(struct hf_lock *lock)
{
	if (lock && atomic_fetch_sub(&lock->refs, 1) == 1)
		lock_free(lock);
}

static bool copy_session_opts(struct hf_lock *lock, const struct hf_session_opts *opts)
{
	if (!opts)
		return true;
	lock->session_opts = hf_calloc(1, sizeof *lock->session_opts);
	return lock->session_opts && hf_session_opts_copy(lock->session_opts, opts);
}

enum hf_err hf_lock_new(struct hf_client *client, const struct hf_lock_opts *opts,
			struct hf_lock **out, struct hf_error *err)
{
	struct hf_lock *lock;

	if (!hf_client_here(client, err))
		return err->code;
	err->code = HF_OK;
	pthread_mutex_lock(&client->mutex);
	hf_client_closed_locked(client, err);
	pthread_mutex_unlock(&client->mutex);
	if (err->code)
		return err->code;
	lock = hf_calloc(1, sizeof *lock);
	if (!lock)
		return hf_err_set(err, HF_NOMEM, "out of memory");
	lock->client = client;
	hf_client_ref(client);
	hf_process_count(HF_LOCKS, 1);
	lock->refs = 1;
	lock->fd = -1;
	lock->key = hf_strdup(opts->key);
	lock->value = hf_memdup(opts->value, opts->value_len);
	lock->value_len = opts->value_len;
	lock->session_id = hf_strdup(opts->session);
	lock->monitor_key = opts->monitor_key;
	if (!lock->key || !lock->value || (opts->session && !lock->session_id) ||
	    !copy_session_opts(lock, opts->session_opts)) {
		lock_free(lock);
		return hf_err_set(err, HF_NOMEM, "out of memory");
	}
	*out = lock;
	return HF_OK;
}

struct hf_client *hf_lock_client(struct hf_lock *lock)
{
	return lock->client;
}

const char *hf_lock_key(struct hf_lock *lock)
{
	return lock->key;
}

/* ---- what it says of itself --------------------------------------------------------------- */

static bool held_locked(struct hf_lock *lock)
{
	return lock->held && hf_session_alive_locked(lock->session);
}

void hf_lock_state(struct hf_lock *lock, struct hf_lock_state *out)
{
	int64_t left;

	*out = (struct hf_lock_state){.reason = HF_BY_FORKED, .lost = true};
	if (!hf_client_here(lock->client, NULL))
		return;
	pthread_mutex_lock(&lock->client->mutex);
	out->held = held_locked(lock);
	out->lost = lock->lost;
	out->reason = lock->reason;
	if (out->held) {
		left = lock->session->deadline - hf_now();
		out->remaining = lock->session->deadline == HF_NEVER ? HF_NEVER : left;
		out->token = lock->token;
		memcpy(out->session, lock->session->id, sizeof out->session);
	} else if (lock->session_id) {
		strncpy(out->session, lock->session_id, sizeof out->session - 1);
	}
	pthread_mutex_unlock(&lock->client->mutex);
}

enum hf_err hf_lock_not_held_locked(struct hf_lock *lock, struct hf_error *err)
{
	if (lock->lost)
		return hf_err_set(err, HF_LOST, "the lock on \"%s\" has been lost: %s", lock->key,
				  hf_reason_text(lock->reason));
	return hf_err_set(err, HF_NOT_HELD, "the lock on \"%s\" is not held", lock->key);
}

int hf_lock_fd(struct hf_lock *lock, struct hf_error *err)
{
	int fd;

	if (!hf_client_here(lock->client, err))
		return -1;
	pthread_mutex_lock(&lock->client->mutex);
	if (lock->fd < 0)
		lock->fd = eventfd(!lock->held, EFD_CLOEXEC | EFD_NONBLOCK);
	fd = lock->fd;
	pthread_mutex_unlock(&lock->client->mutex);
	if (fd < 0)
		hf_err_set(err, HF_NOMEM, "no file descriptor: %s", strerror(errno));
	return fd;
}

bool hf_lock_wait(struct hf_lock *lock, int64_t timeout, struct hf_error *err)
{
	struct hf_lock_state state;

	err->code = HF_OK;
	hf_lock_state(lock, &state);
	if (!state.held)
		return true;
	if (timeout != 0)
		hf_fd_wait(hf_lock_fd(lock, err), timeout, err);
	hf_lock_state(lock, &state);
	return !state.held;
}

/* ---- holds -------------------------------------------------------------------------------- */

static void begin_hold_locked(struct hf_lock *lock, struct hf_session *session, uint64_t token)
{
	struct hf_session *before = lock->session;
	eventfd_t ignored;

	hf_lock_ref(lock); /* the hold's, handed on when it ends */
	atomic_fetch_add(&session->refs, 1);
	lock->session = session;
	lock->held = true;
	lock->lost = false;
	lock->reason = HF_NO_REASON;
	lock->token = token;
	lock->hold++;
	lock->hold_prev = NULL;
	lock->hold_next = session->holds;
	if (session->holds)
		session->holds->hold_prev = lock;
	session->holds = lock;
	if (lock->fd >= 0)
		eventfd_read(lock->fd, &ignored);
	lock->client->stats.acquired++;
	lock->client->stats.locks_held++;
	hf_session_unref(before);
}

/* Guarded requests find out by the changed number, whoever waits for the loss by the fd. The
 * hold's reference on the lock is the caller's now. */
static void end_hold_locked(struct hf_lock *lock, enum hf_reason reason)
{
	struct hf_client *client = lock->client;
	struct hf_session *session = lock->session;

	*(lock->hold_prev ? &lock->hold_prev->hold_next : &session->holds) = lock->hold_next;
	if (lock->hold_next)
		lock->hold_next->hold_prev = lock->hold_prev;
	lock->held = false;
	lock->lost = reason != HF_BY_RELEASED;
	lock->reason = reason;
	lock->token = 0;
	lock->hold++;
	if (lock->fd >= 0)
		eventfd_write(lock->fd, 1);
	client->stats.locks_held--;
	if (lock->lost)
		client->stats.losses[reason]++;
	client->sweep = true;
	hf_worker_wake_locked(client);
}

void hf_lock_end_locked(struct hf_lock *lock, enum hf_reason reason)
{
	if (!lock->held)
		return;
	end_hold_locked(lock, reason);
	lock->ended_next = lock->client->ended;
	lock->client->ended = lock;
}

/* A session that was made for one hold goes with it. */
static void session_after_hold(const struct hf_lock *lock, struct hf_session *session)
{
	if (lock->session_opts)
		hf_session_close(session);
	else
		hf_session_settle(session);
}

void hf_lock_cleared(struct hf_lock *lock)
{
	struct hf_session *session;

	pthread_mutex_lock(&lock->client->mutex);
	session = lock->session;
	atomic_fetch_add(&session->refs, 1);
	pthread_mutex_unlock(&lock->client->mutex);
	hf_key_put(lock->slot, true);
	lock->slot = NULL;
	session_after_hold(lock, session);
	hf_session_unref(session);
	hf_lock_unref(lock);
}

static bool is_closing(struct hf_client *client)
{
	bool closing;

	pthread_mutex_lock(&client->mutex);
	closing = client->closing;
	pthread_mutex_unlock(&client->mutex);
	return closing;
}

/* ---- release ------------------------------------------------------------------------------ */

struct release {
	struct hf_op op;
	struct hf_lock *lock; /* counted while in use */
	struct hf_session *session; /* counted */
	struct hf_key *slot;
	bool begun, once;
	bool unsure; /* a try that failed may have been acted on */
};

static void release_free(struct hf_op *op)
{
	struct release *r = (struct release *)op;

	hf_session_unref(r->session);
	hf_lock_unref(r->lock);
}

static void release_answer(struct release *r, enum hf_err code, const char *why)
{
	struct hf_error result;

	hf_err_set(&result, code, "unlock \"%s\": %s", r->lock->key, why);
	hf_op_finish(&r->op, &result);
}

static enum hf_step release_end(struct release *r, enum hf_err code, const char *why)
{
	struct hf_session *session = r->session;
	struct hf_client *client = r->op.client;

	pthread_mutex_lock(&client->mutex);
	client->stats.released += code == HF_OK;
	session->releasing--;
	pthread_mutex_unlock(&client->mutex);
	release_answer(r, code, why);
	hf_key_put(r->slot, true);
	r->slot = NULL;
	session_after_hold(r->lock, session);
	return HF_FINISH;
}

static bool session_over(struct hf_session *session)
{
	bool alive;

	pthread_mutex_lock(&session->client->mutex);
	alive = hf_session_alive_locked(session);
	pthread_mutex_unlock(&session->client->mutex);
	return !alive;
}

static enum hf_step release_send(struct release *r)
{
	const struct hf_lock *lock = r->lock;

	if (session_over(r->session))
		return release_end(r, HF_LOST, "the session ended before the lock was released");
	hf_consul_lock(&r->op.http, &r->op.client->opts, "unlock", lock->key, r->session->id,
		       lock->value, lock->value_len);
	r->op.http.fresh = r->op.retry_delay != 0;
	return HF_SEND;
}

static enum hf_step release_reply(struct release *r)
{
	const struct hf_http *http = &r->op.http;
	struct hf_error err;
	uint64_t ignored;

	switch (hf_consul_read_lock(http, &r->op.client->opts, &ignored, &err)) {
	case HF_V_OK:
		return release_end(r, HF_OK, "");
	case HF_V_NOT_OURS:
		if (r->unsure || http->sendings > 1)
			return release_end(r, HF_OK, "");
		return release_end(r, HF_LOST, "the lock had been lost before it was released");
	case HF_V_AGAIN:
		r->unsure |= !http->error || http->maybe_sent;
		if (r->once)
			release_answer(r, err.code, err.message); /* and go on without the caller */
		return hf_op_backoff(&r->op, HF_NEVER);
	case HF_V_NO_SESSION:
		hf_session_doubt(r->session);
		return release_end(r, HF_LOST, err.message);
	default:
		return release_end(r, err.code, err.message);
	}
}

static enum hf_step release_next(struct hf_op *op)
{
	struct release *r = (struct release *)op;

	r->begun = !r->begun;
	if (!r->begun)
		return release_reply(r);
	if (!r->slot) {
		r->slot = r->lock->slot;
		r->lock->slot = NULL;
	}
	return release_send(r);
}

/* Whoever stops waiting is told so; the lock has to be given back all the same. Only the client's
 * close does not wait for ever: it has the session to destroy, and that frees the lock too. */
static enum hf_step release_cancel(struct hf_op *op, enum hf_err why)
{
	struct hf_error err;

	hf_op_why(op, why, &err);
	if (why == HF_TIMEOUT && is_closing(op->client))
		return release_end((struct release *)op, HF_CLOSED, err.message);
	release_answer((struct release *)op, why, err.message);
	if (why == HF_CLOSED)
		op->deadline = hf_now() + CLOSING;
	return HF_STAY;
}

static const struct hf_kind release_kind = {"release", release_next, release_cancel, release_free};

/* Ends the hold here and hands out the op that ends it on the server. */
static struct release *begin_release_locked(struct hf_lock *lock, enum hf_reason reason)
{
	struct release *r = (struct release *)lock->spare;

	lock->spare = NULL;
	r->lock = lock;
	atomic_fetch_add(&lock->session->refs, 1);
	r->session = lock->session;
	r->session->releasing++;
	end_hold_locked(lock, reason);
	return r;
}

static int64_t deadline_of(int64_t timeout)
{
	return timeout > 0 ? hf_now() + timeout : HF_NEVER;
}

enum hf_err hf_lock_release(struct hf_lock *lock, int64_t timeout, struct hf_op **out,
			    struct hf_error *err)
{
	struct hf_client *client = lock->client;
	struct release *r;

	if (!hf_client_here(client, err))
		return err->code;
	err->code = HF_OK;
	pthread_mutex_lock(&client->mutex);
	if (hf_client_closed_locked(client, err))
		;
	else if (!held_locked(lock)) {
		hf_lock_not_held_locked(lock, err);
	} else {
		r = begin_release_locked(lock, HF_BY_RELEASED);
		r->once = timeout == 0;
		r->op.deadline = deadline_of(timeout);
		*out = &r->op;
		/* It has a thread, or it would not be held. */
		hf_client_submit_locked(client, &r->op, err);
	}
	pthread_mutex_unlock(&client->mutex);
	return err->code;
}

void hf_lock_release_all(struct hf_session *session)
{
	struct hf_client *client = session->client;
	struct release *r;

	do {
		r = NULL;
		pthread_mutex_lock(&client->mutex);
		if (session->holds)
			r = begin_release_locked(session->holds, HF_BY_CLOSED);
		pthread_mutex_unlock(&client->mutex);
		if (r) {
			r->op.internal = true;
			r->op.deadline = hf_now() + CLOSING;
			hf_worker_add(client, &r->op);
		}
	} while (r);
}

void hf_lock_drop(struct hf_lock *lock)
{
	struct hf_error ignored;
	struct hf_op *op = NULL;

	if (!lock)
		return;
	if (!hf_lock_release(lock, -1, &op, &ignored))
		hf_op_leave(op);
	else
		hf_lock_cancel(lock);
	hf_lock_unref(lock);
}

/* ---- acquire ------------------------------------------------------------------------------ */

enum phase { TURN, SESSION, CHECK, TRY, WATCH, AGAIN, LOOK, UNDO, UNDONE };

struct acquire {
	struct hf_op op;
	struct hf_lock *lock; /* counted */
	struct hf_session *session; /* joined */
	struct hf_key *slot;
	bool mine; /* the slot is */
	bool once; /* timeout 0: one try */
	enum phase phase;
	enum hf_err why; /* it is being undone, and will answer this */
	bool maybe_held; /* a try was sent whose outcome is not known to be a refusal */
	int64_t unsure_until; /* ... and until then "not held" proves nothing */
	unsigned failures, sessions;
	struct hf_longpoll poll;
	struct hf_error last; /* why it has not got the lock so far */
};

static enum hf_step use_session(struct acquire *a);
static enum hf_step contend(struct acquire *a);
static enum hf_step undo(struct acquire *a);

static void acquire_free(struct hf_op *op)
{
	struct acquire *a = (struct acquire *)op;

	if (a->session)
		hf_session_unref(a->session);
	hf_lock_unref(a->lock);
}

/* Sets the result; from now on the lock object is free for another acquire. */
static void publish(struct acquire *a, const struct hf_error *result)
{
	struct hf_op *spare = NULL;

	pthread_mutex_lock(&a->op.client->mutex);
	hf_op_finish_locked(&a->op, result);
	if (a->lock->acquiring == &a->op) {
		a->lock->acquiring = NULL;
		spare = a->lock->spare;
		a->lock->spare = NULL;
	}
	pthread_mutex_unlock(&a->op.client->mutex);
	hf_op_unref(spare);
}

static void leave_session(struct acquire *a)
{
	struct hf_session *session = a->session;

	if (!session)
		return;
	a->session = NULL;
	if (a->lock->session_opts)
		hf_session_close(session);
	hf_session_leave(session);
}

static enum hf_step fail(struct acquire *a, const struct hf_error *result)
{
	publish(a, result);
	leave_session(a);
	hf_key_put(a->slot, a->mine);
	a->slot = NULL;
	return HF_FINISH;
}

/* Fails with a message about this key. */
static enum hf_step refuse(struct acquire *a, enum hf_err code, const char *why)
{
	struct hf_error err;

	hf_err_set(&err, code, "lock \"%s\": %s", a->lock->key, why);
	return fail(a, &err);
}

static enum hf_step no_memory(struct acquire *a)
{
	return refuse(a, HF_NOMEM, "out of memory");
}

/* How an acquire answers that was stopped. When its time is up the caller should hear what stood
 * in the way: a holder, a lock-delay, or no way to Consul. */
static void outcome(const struct acquire *a, struct hf_error *err)
{
	const char *key = a->lock->key;
	struct hf_error why;

	if (a->why == HF_TIMEOUT && a->last.code) {
		hf_err_set(err, a->last.code, "lock \"%s\": %s", key, a->last.message);
	} else if (a->why == HF_TIMEOUT) {
		hf_err_set(err, HF_TIMEOUT, "lock \"%s\": no turn in the time given", key);
	} else {
		hf_op_why(&a->op, a->why, &why);
		hf_err_set(err, a->why, "lock \"%s\": %s", key, why.message);
	}
}

static enum hf_step give_up(struct acquire *a)
{
	struct hf_error err;

	outcome(a, &err);
	return fail(a, &err);
}

/* After passing trouble: in phase again, later. */
static enum hf_step retry(struct acquire *a, const struct hf_error *err, enum phase again)
{
	if (a->once)
		return refuse(a, err->code, err->message);
	a->last = *err;
	a->phase = again;
	return hf_op_backoff(&a->op, HF_NEVER);
}

/* Takes back what a try may have got. The caller waits for that, but not for long. */
static enum hf_step begin_undo(struct acquire *a, enum hf_err why)
{
	a->why = why;
	a->op.deadline = hf_now() + GRACE;
	return undo(a);
}

static enum hf_step undo(struct acquire *a)
{
	const struct hf_lock *lock = a->lock;

	if (!a->maybe_held || session_over(a->session))
		return give_up(a);
	hf_consul_lock(&a->op.http, &a->op.client->opts, "unlock", lock->key, a->session->id,
		       lock->value, lock->value_len);
	a->phase = UNDONE;
	return HF_SEND;
}

/* At the client's close one "not held" is enough: the end of the session sees to the rest. */
static enum hf_step undone(struct acquire *a)
{
	struct hf_error err;
	uint64_t ignored;
	enum hf_verdict verdict = hf_consul_read_lock(&a->op.http, &a->op.client->opts, &ignored,
						      &err);
	bool unsure = hf_now() < a->unsure_until && !is_closing(a->op.client);

	if (verdict != HF_V_AGAIN && !(verdict == HF_V_NOT_OURS && unsure))
		return give_up(a);
	a->phase = UNDO;
	return hf_op_backoff(&a->op, HF_NEVER);
}

/* Waits for its turn among the locks of this client. */
static enum hf_step take_turn(struct acquire *a)
{
	if (!a->slot)
		a->slot = hf_key_get(a->op.client, a->lock->key);
	if (!a->slot)
		return no_memory(a);
	if (a->slot->busy && a->once)
		return refuse(a, HF_TIMEOUT,
			      "in use by this client: held, waited for, or being given back");
	if (a->slot->busy)
		return hf_op_sleep(&a->op, HF_NEVER, a->slot);
	a->slot->busy = a->mine = true;
	return use_session(a);
}

/* The session could not be made so far. */
static enum hf_step no_session_yet(struct acquire *a)
{
	struct hf_session *session = a->session;

	if (a->failures != session->failures) {
		a->failures = session->failures;
		a->last = session->create_error;
		if (session->create_final || a->once)
			return refuse(a, a->last.code, a->last.message);
	}
	a->phase = SESSION;
	return hf_op_sleep(&a->op, HF_NEVER, session);
}

static enum hf_step use_session(struct acquire *a)
{
	enum hf_session_state state;

	if (!a->session) {
		a->session = hf_session_for(a->lock);
		a->failures = a->session ? a->session->failures : 0;
	}
	if (!a->session)
		return no_memory(a);
	pthread_mutex_lock(&a->op.client->mutex);
	hf_session_alive_locked(a->session);
	state = a->session->state;
	pthread_mutex_unlock(&a->op.client->mutex);
	if (state == HF_SESSION_ALIVE)
		return contend(a);
	if (state == HF_SESSION_NEW || a->session->create_final)
		return no_session_yet(a);
	leave_session(a);
	a->maybe_held = false; /* what a dead session held is free, or will be */
	if (a->lock->session_id || ++a->sessions > SESSIONS_MAX)
		return refuse(a, HF_SESSION, "the session is not there any more");
	return use_session(a);
}

static enum hf_step contend(struct acquire *a)
{
	const struct hf_lock *lock = a->lock;
	const struct hf_client_opts *opts = &a->op.client->opts;

	if (!a->slot->checked) {
		hf_consul_get(&a->op.http, opts, lock->key, 0, false);
		a->phase = CHECK;
	} else {
		hf_consul_lock(&a->op.http, opts, "lock", lock->key, a->session->id, lock->value,
			       lock->value_len);
		a->maybe_held = true;
		a->phase = TRY;
	}
	a->op.http.fresh = a->op.retry_delay != 0;
	return HF_SEND;
}

static enum hf_step watch(struct acquire *a, uint64_t index)
{
	if (a->once)
		return refuse(a, HF_TIMEOUT, a->last.message);
	a->poll.index = index;
	hf_consul_get(&a->op.http, &a->op.client->opts, a->lock->key, index, false);
	a->op.http.fresh = a->op.retry_delay != 0;
	a->phase = WATCH;
	return HF_SEND;
}

static bool somebody_elses(const struct acquire *a, const struct hf_kv *kv)
{
	return kv->session[0] && strcmp(kv->session, a->session->id) != 0;
}

/* Reads a reply about the key. Answers HF_STAY when *kv is a lock's, or no key. */
static enum hf_step read_key(struct acquire *a, struct hf_kv *kv)
{
	struct hf_error err;
	enum hf_verdict verdict = hf_consul_read_key(&a->op.http, &a->op.client->opts, kv, &err);

	if (verdict == HF_V_AGAIN)
		return retry(a, &err, a->phase == CHECK ? AGAIN : LOOK);
	if (verdict != HF_V_OK)
		return refuse(a, err.code, err.message);
	a->op.retry_delay = 0;
	if (kv->session[0])
		hf_err_set(&a->last, HF_TIMEOUT, "held by session %s", kv->session);
	if (kv->exists && kv->flags != HF_LOCK_FLAGS)
		return refuse(a, HF_CONFLICT, hf_err_text(HF_CONFLICT));
	a->slot->checked = true;
	return HF_STAY;
}

static enum hf_step checked(struct acquire *a)
{
	struct hf_kv kv;
	enum hf_step step = read_key(a, &kv);

	if (step != HF_STAY)
		return step;
	return somebody_elses(a, &kv) ? watch(a, a->op.http.index) : use_session(a);
}

static enum hf_step watched(struct acquire *a)
{
	struct hf_kv kv;
	enum hf_step step = read_key(a, &kv);
	int64_t at;

	if (step != HF_STAY)
		return step;
	at = hf_longpoll_next(&a->poll, &a->op.http);
	if (!somebody_elses(a, &kv)) {
		a->phase = AGAIN;
		return hf_op_sleep(&a->op, at + hf_jitter(0, RUSH), NULL);
	}
	if (at > hf_now()) {
		a->phase = LOOK;
		return hf_op_sleep(&a->op, at, NULL);
	}
	return watch(a, a->poll.index);
}

/* The server says that the lock is ours. It is, unless the op is to end or the session has. */
static enum hf_step won(struct acquire *a, uint64_t token)
{
	struct hf_client *client = a->op.client;
	struct hf_lock *lock = a->lock;
	const struct hf_error ok = {HF_OK, ""};
	enum hf_err why;
	uint64_t hold;

	pthread_mutex_lock(&client->mutex);
	why = client->closing ? HF_CLOSED : a->op.stop;
	if (!why && !hf_session_alive_locked(a->session))
		why = HF_SESSION;
	if (!why) {
		begin_hold_locked(lock, a->session, token);
		hold = lock->hold;
		hf_op_finish_locked(&a->op, &ok);
		lock->acquiring = NULL;
	}
	pthread_mutex_unlock(&client->mutex);
	if (why)
		return why == HF_SESSION ? use_session(a) : begin_undo(a, why);
	lock->slot = a->slot;
	a->slot = NULL;
	if (lock->monitor_key)
		hf_monitor_key(lock, hold, a->session);
	hf_session_leave(a->session);
	a->session = NULL;
	return HF_FINISH;
}

/* A try that was refused, or that never went out, got nothing; others may have. */
static void note_outcome(struct acquire *a, enum hf_verdict verdict)
{
	const struct hf_http *http = &a->op.http;
	bool refused = verdict != HF_V_AGAIN;
	bool unheard = http->error ? !http->maybe_sent : http->status == 429;

	if (refused)
		a->unsure_until = 0;
	else if (!unheard)
		a->unsure_until = http->sent + UNSURE;
	a->maybe_held = a->unsure_until != 0;
}

static enum hf_step tried(struct acquire *a)
{
	struct hf_error err;
	uint64_t token = 0;
	enum hf_verdict verdict = hf_consul_read_lock(&a->op.http, &a->op.client->opts, &token,
						      &err);

	if (verdict == HF_V_OK)
		return a->why ? undo(a) : won(a, token);
	note_outcome(a, verdict);
	if (a->why)
		return undo(a);
	if (a->once && a->maybe_held) {
		a->last = err;
		return begin_undo(a, HF_TIMEOUT);
	}
	switch (verdict) {
	case HF_V_AGAIN:
		return retry(a, &err, AGAIN);
	case HF_V_HELD:
		a->last = err;
		return watch(a, 0);
	case HF_V_DELAY:
		a->last = err;
		if (a->once)
			return refuse(a, HF_TIMEOUT, err.message);
		a->phase = AGAIN;
		return hf_op_sleep(&a->op, hf_now() + hf_jitter(DELAY_MIN, DELAY_MAX), NULL);
	case HF_V_NO_SESSION:
		hf_session_lost(a->session, HF_BY_SESSION);
		return use_session(a);
	default:
		return refuse(a, err.code, err.message);
	}
}

static enum hf_step acquire_next(struct hf_op *op)
{
	struct acquire *a = (struct acquire *)op;

	switch (a->phase) {
	case TURN:
		return take_turn(a);
	case SESSION:
	case AGAIN:
		return use_session(a);
	case CHECK:
		return checked(a);
	case TRY:
		return tried(a);
	case LOOK:
		return watch(a, a->poll.index);
	case WATCH:
		return watched(a);
	case UNDO:
		return undo(a);
	case UNDONE:
		break;
	}
	return undone(a);
}

static enum hf_step acquire_cancel(struct hf_op *op, enum hf_err why)
{
	struct acquire *a = (struct acquire *)op;
	struct hf_error err;

	if (a->why) { /* being undone: the grace is over, or the client closes */
		outcome(a, &err);
		publish(a, &err);
		/* A client that closes does not wait for a reply that does not come. */
		return is_closing(op->client) && a->phase != UNDONE ? undo(a) : HF_STAY;
	}
	if (a->phase != TRY)
		return begin_undo(a, why);
	/* A transaction in flight is waited for: giving it up leaves the outcome unknown. */
	a->why = why;
	op->deadline = hf_now() + GRACE;
	return HF_STAY;
}

static const struct hf_kind acquire_kind = {"acquire", acquire_next, acquire_cancel, acquire_free};

static enum hf_err start_acquire_locked(struct acquire *a, struct hf_op **spare,
					struct hf_error *err)
{
	struct hf_lock *lock = a->lock;

	if (hf_client_closed_locked(lock->client, err))
		return err->code;
	if (held_locked(lock))
		return hf_err_set(err, HF_HELD, "this object holds the lock on \"%s\" already",
				  lock->key);
	if (lock->acquiring)
		return hf_err_set(err, HF_HELD,
				  "another call on this object is acquiring the lock on \"%s\"",
				  lock->key);
	if (hf_client_submit_locked(lock->client, &a->op, err))
		return err->code;
	lock->acquiring = &a->op;
	if (!lock->spare) { /* a hold that was lost has left its own behind */
		lock->spare = *spare;
		*spare = NULL;
	}
	lock->lost = false;
	lock->reason = HF_NO_REASON;
	return HF_OK;
}

enum hf_err hf_lock_acquire(struct hf_lock *lock, int64_t timeout, struct hf_op **out,
			    struct hf_error *err)
{
	struct acquire *a;
	struct hf_op *spare;

	if (!hf_client_here(lock->client, err))
		return err->code;
	err->code = HF_OK;
	spare = hf_op_new(lock->client, &release_kind, sizeof(struct release));
	a = hf_op_new(lock->client, &acquire_kind, sizeof *a);
	if (!a || !spare) {
		hf_op_unref(spare);
		hf_op_unref(a ? &a->op : NULL);
		return hf_err_set(err, HF_NOMEM, "out of memory");
	}
	hf_lock_ref(lock);
	a->lock = lock;
	a->once = timeout == 0;
	a->op.deadline = deadline_of(timeout);
	pthread_mutex_lock(&lock->client->mutex);
	start_acquire_locked(a, &spare, err);
	pthread_mutex_unlock(&lock->client->mutex);
	hf_op_unref(spare);
	if (err->code)
		hf_op_unref(&a->op);
	else
		*out = &a->op;
	return err->code;
}

void hf_lock_cancel(struct hf_lock *lock)
{
	struct hf_client *client = lock->client;

	if (!hf_client_here(client, NULL))
		return;
	pthread_mutex_lock(&client->mutex);
	if (lock->acquiring && !client->closing)
		hf_op_stop_locked(lock->acquiring, HF_CANCELED);
	pthread_mutex_unlock(&client->mutex);
}

/* ---- destroy ------------------------------------------------------------------------------ */

struct destroy {
	struct hf_op op;
	struct hf_lock *lock; /* counted */
	bool once;
	enum { READ, READING, DELETING } phase;
};

static void destroy_free(struct hf_op *op)
{
	hf_lock_unref(((struct destroy *)op)->lock);
}

static enum hf_step destroy_end(struct destroy *d, enum hf_err code, const char *why)
{
	struct hf_error result;

	hf_err_set(&result, code, "destroy \"%s\": %s", d->lock->key, why);
	hf_op_finish(&d->op, &result);
	return HF_FINISH;
}

static enum hf_step destroy_trouble(struct destroy *d, enum hf_verdict verdict,
				    const struct hf_error *err)
{
	if (d->once || verdict != HF_V_AGAIN)
		return destroy_end(d, err->code, err->message);
	d->phase = READ;
	return hf_op_backoff(&d->op, HF_NEVER);
}

static enum hf_step destroy_read(struct destroy *d)
{
	struct hf_error err;
	struct hf_kv kv;
	enum hf_verdict verdict = hf_consul_read_key(&d->op.http, &d->op.client->opts, &kv, &err);

	if (verdict != HF_V_OK)
		return destroy_trouble(d, verdict, &err);
	if (!kv.exists)
		return destroy_end(d, HF_OK, "");
	if (kv.flags != HF_LOCK_FLAGS)
		return destroy_end(d, HF_CONFLICT, hf_err_text(HF_CONFLICT));
	if (kv.session[0])
		return destroy_end(d, HF_IN_USE, hf_err_text(HF_IN_USE));
	hf_consul_delete(&d->op.http, &d->op.client->opts, d->lock->key, kv.modify_index);
	d->phase = DELETING;
	return HF_SEND;
}

static enum hf_step destroy_next(struct hf_op *op)
{
	struct destroy *d = (struct destroy *)op;
	struct hf_error err;
	enum hf_verdict verdict;

	switch (d->phase) {
	case READ:
		hf_consul_get(&op->http, &op->client->opts, d->lock->key, 0, true);
		d->phase = READING;
		return HF_SEND;
	case READING:
		return destroy_read(d);
	case DELETING:
		break;
	}
	verdict = hf_consul_read_delete(&op->http, &op->client->opts, &err);
	if (verdict == HF_V_OK)
		return destroy_end(d, HF_OK, "");
	return destroy_trouble(d, verdict, &err);
}

static const struct hf_kind destroy_kind = {"destroy", destroy_next, NULL, destroy_free};

enum hf_err hf_lock_destroy(struct hf_lock *lock, int64_t timeout, struct hf_op **out,
			    struct hf_error *err)
{
	struct destroy *d;

	if (!hf_client_here(lock->client, err))
		return err->code;
	err->code = HF_OK;
	d = hf_op_new(lock->client, &destroy_kind, sizeof *d);
	if (!d)
		return hf_err_set(err, HF_NOMEM, "out of memory");
	hf_lock_ref(lock);
	d->lock = lock;
	d->once = timeout == 0;
	d->op.deadline = deadline_of(timeout);
	pthread_mutex_lock(&lock->client->mutex);
	if (!hf_client_closed_locked(lock->client, err) && held_locked(lock))
		hf_err_set(err, HF_HELD, "destroy \"%s\": this object holds it", lock->key);
	if (!err->code)
		hf_client_submit_locked(lock->client, &d->op, err);
	pthread_mutex_unlock(&lock->client->mutex);
	if (err->code)
		hf_op_unref(&d->op);
	else
		*out = &d->op;
	return err->code;
}
