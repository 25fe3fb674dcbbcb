/* acquire.c: takes a lock. Its turn among the locks of this client for the key → the session → the
 * key's flags, the first time → a transaction that takes the lock or says why not → when somebody
 * has it, a long poll on the key, and again.
 *
 * Once a transaction may have been acted on, the op does not leave before it holds the lock or is
 * sure not to. */
#include "consul.h"
#include "hf_int.h"

#include <string.h>

/* A caller that cancels waits so long for the transaction in flight to be undone, ms. */
#define GRACE 500
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

	if (!a->maybe_held || hf_session_over(a->session))
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
	bool unsure = hf_now() < a->unsure_until && !hf_client_is_closing(a->op.client);

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
	return HF_SEND;
}

static enum hf_step watch(struct acquire *a, uint64_t index)
{
	if (a->once)
		return refuse(a, HF_TIMEOUT, a->last.message);
	a->poll.index = index;
	hf_consul_get(&a->op.http, &a->op.client->opts, a->lock->key, index, false);
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
		hf_lock_begin_hold_locked(lock, a->session, token);
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
		return hf_client_is_closing(op->client) && a->phase != UNDONE ? undo(a) : HF_STAY;
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
	if (hf_lock_held_locked(lock))
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
	spare = hf_release_new(lock->client);
	a = hf_op_new(lock->client, &acquire_kind, sizeof *a);
	if (!a || !spare) {
		hf_op_unref(spare);
		hf_op_unref(a ? &a->op : NULL);
		return hf_err_set(err, HF_NOMEM, "out of memory");
	}
	hf_lock_ref(lock);
	a->lock = lock;
	a->once = timeout == 0;
	a->op.deadline = hf_op_deadline(timeout);
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
