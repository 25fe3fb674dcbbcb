/* acquire.c: takes a lock: wait until it is my turn among the locks of this client, wait until the
 * key may be free, try. It goes by this table.
 *
 *   phase    asks                    answer                 then
 *   TURN     (waits for its turn)                           SESSION
 *   SESSION  (waits for a session)   made                   TRY, if the last unlock was ours and
 *                                                           nobody was seen since; else READ
 *                                    cannot be made         refused
 *   READ     get                     not a lock's flags     refused: CONFLICT
 *                                    another's              WAIT
 *                                    free, absent, ours     TRY
 *                                    trouble                SESSION, later
 *   TRY      [check, lock]           done                   it is ours
 *                                    moved, held            READ
 *                                    lock-delay             SESSION, later
 *                                    no session             SESSION, with a new one
 *                                    trouble                SESSION, later; unless it was surely
 *                                                           not carried out the session retires
 *   WAIT     (waits for a change)    free, absent, ours     TRY, or READ a little later when too
 *                                                           many tries have been in vain
 *   UNDO     (waits for the giveback, for a moment)         the answer
 *
 * The check is on the index that was seen, or on absence: whatever copy of a try is carried out
 * late finds another index. An acquire that leaves with a try unanswered hands its hold over to be
 * taken back (giveback.c), which makes sure of that. */
#include "base/alloc.h"
#include "base/random.h"
#include "lock/batch.h"
#include "lock/expiry.h"
#include "lock/lock.h"
#include "lock/monitor.h"
#include "lock/stray.h"
#include "lock/watch.h"

#include <string.h>

/* A caller that cancels waits so long for what it may have got to be given back, ms. */
#define GRACE 500
/* A try in vain is an entry in every server's log: so many of them may follow each other, then one
 * in so many ms. */
#define TRIES_BURST 4
#define TRIES_EACH 25
/* With timeout 0: so many tries, each of which somebody else was faster than. */
#define ONCE_MAX 5
/* Sessions in a row that turn out to be gone before they were renewed once. */
#define SESSIONS_MAX 3
/* Between tries at an index that the server shows as free and refuses, ms. */
#define ODD_MIN 100
#define ODD_MAX 300
/* Without memory for a watch, ms. */
#define LOOK_EACH 1000

enum phase { TURN, SESSION, READ, TRY, WAIT, UNDO };

struct acquire {
	struct hf_op op;
	struct hf_part part;
	struct hf_lock *lock; /* counted */
	struct hf_hold *hold; /* counted: what it is going to be */
	struct hf_op *expiry; /* counted: what is to end that; NULL: nothing */
	enum phase phase;
	bool queued, mine; /* waits for the turn; has it */
	bool watching;
	bool once; /* timeout 0: one try */
	enum hf_err why; /* it is being undone, and will answer this */
	uint64_t index; /* what the try is conditional on; 0: absence */
	bool ours; /* the session of the try has the key already */
	uint64_t vain; /* the same of the last one that was in vain */
	unsigned failures, sessions, tries;
	enum hf_err last_code; /* why it has not got the lock so far */
	char *last; /* NULL: nothing to say, or no memory to say it */
};

static enum hf_step use_session(struct acquire *a);

static void acquire_free(struct hf_op *op)
{
	struct acquire *a = (struct acquire *)op;

	hf_op_unref(a->expiry);
	if (a->hold)
		hf_op_unref(&a->hold->op);
	hf_free(a->last);
	hf_lock_unref(a->lock);
}

static struct hf_key *key_of(const struct acquire *a)
{
	return a->hold->key;
}

static struct hf_session *session_of(const struct acquire *a)
{
	return a->hold->session;
}

/* ---- leaving -------------------------------------------------------------------------------- */

static void note(struct acquire *a, enum hf_err code, const char *text)
{
	hf_free(a->last);
	a->last = hf_strdup(text);
	a->last_code = code;
}

/* Sets the result; from now on the lock object is free for another acquire. */
static void publish(struct acquire *a, const struct hf_error *result)
{
	pthread_mutex_lock(&a->op.engine->mutex);
	hf_op_finish_locked(&a->op, result);
	if (a->lock->acquiring == &a->op)
		a->lock->acquiring = NULL;
	pthread_mutex_unlock(&a->op.engine->mutex);
}

/* How it answers that was stopped. When its time is up the caller should hear what stood in the
 * way: a holder, a lock-delay, or no way to Consul. */
static void outcome(const struct acquire *a, struct hf_error *err)
{
	const char *key = a->lock->key;
	struct hf_error why;

	if (a->why == HF_TIMEOUT && a->last_code) {
		hf_err_set(err, a->last_code, "lock \"%s\": %s", key,
			   a->last ? a->last : hf_err_text(a->last_code));
	} else if (a->why == HF_TIMEOUT) {
		hf_err_set(err, HF_TIMEOUT, "lock \"%s\": no turn in the time given", key);
	} else {
		hf_op_why(&a->op, a->why, &why);
		hf_err_set(err, a->why, "lock \"%s\": %s", key, why.message);
	}
}

static void stop_watching(struct acquire *a)
{
	if (a->watching)
		hf_watch_end(key_of(a));
	a->watching = false;
}

static void leave_session(struct acquire *a)
{
	struct hf_session *session = session_of(a);

	a->hold->session = NULL;
	if (a->mine)
		key_of(a)->owner_session = NULL;
	if (session && a->lock->session_opts)
		hf_session_retire(session);
	hf_session_leave(session);
}

static void leave_key(struct acquire *a)
{
	struct hf_key *key = key_of(a);

	a->hold->key = NULL;
	if (!key)
		return;
	if (a->mine)
		hf_key_pass(key, a->hold);
	else if (a->queued)
		hf_key_leave(key, &a->op);
	hf_key_put(key);
}

/* Whether a try may have been carried out, or may still be, that nobody would know of. A copy that
 * makes the key is looked for anyway (stray.c), but not at once. */
static bool unsure(const struct acquire *a)
{
	return a->hold->copies || a->hold->copies_make || a->hold->token;
}

/* Ends for this reason. What a try may have got is taken back first, and the caller waits for that,
 * but not for long. */
static enum hf_step leave(struct acquire *a, enum hf_err why)
{
	struct hf_error err;

	a->why = why;
	hf_batch_leave(&a->op);
	if (a->hold->key)
		stop_watching(a);
	if (!a->mine || !session_of(a) || !unsure(a) || hf_session_ended(session_of(a))) {
		outcome(a, &err);
		publish(a, &err);
		leave_session(a);
		leave_key(a);
		return HF_FINISH;
	}
	hf_op_ref(&a->hold->op);
	hf_hold_undo(a->hold);
	a->phase = UNDO;
	a->op.deadline = hf_now() + GRACE;
	return hf_op_park(&a->op, &a->hold->over, HF_NEVER);
}

static enum hf_step refuse(struct acquire *a, enum hf_err code, const char *why)
{
	note(a, code, why);
	return leave(a, HF_TIMEOUT);
}

/* After passing trouble: anew, later. A key that nobody waits for is not to be watched: while it is
 * absent, nothing could be read together with it. */
static enum hf_step retry(struct acquire *a, const struct hf_error *err)
{
	if (a->once)
		return refuse(a, err->code, err->message);
	note(a, err->code, err->message);
	stop_watching(a);
	a->phase = SESSION;
	return hf_op_backoff(&a->op, HF_NEVER);
}

static enum hf_step later(struct acquire *a, int64_t at)
{
	a->phase = SESSION;
	return hf_op_sleep(&a->op, at);
}

/* ---- turn ----------------------------------------------------------------------------------- */

static enum hf_step take_turn(struct acquire *a)
{
	struct hf_hold *hold = a->hold;

	if (!hold->key)
		hold->key = hf_key_get(hf_client_of(&a->op), a->lock->key);
	if (!hold->key)
		return refuse(a, HF_NOMEM, "out of memory");
	a->mine = hf_key_take(hold->key, &a->op, hold);
	if (!a->mine && a->once)
		return refuse(a, HF_TIMEOUT,
			      "in use by this client: held, waited for, or being given back");
	a->queued = !a->mine;
	return a->mine ? use_session(a) : hf_key_queue(hold->key, &a->op);
}

/* ---- session -------------------------------------------------------------------------------- */

/* The session could not be made so far. */
static enum hf_step no_session_yet(struct acquire *a)
{
	struct hf_session *session = session_of(a);

	if (a->failures != session->failures) {
		a->failures = session->failures;
		note(a, session->create_error.code, session->create_error.message);
		if (session->create_final || a->once)
			return leave(a, HF_TIMEOUT);
	}
	stop_watching(a);
	a->phase = SESSION;
	return hf_op_park(&a->op, &session->made, HF_NEVER);
}

/* What a dead session held is free, or will be, and no copy of a try can take it any more. One that
 * was made elsewhere may be there still when our lease is over. */
static void forget_session(struct acquire *a)
{
	bool there = session_of(a)->external && !session_of(a)->gone;

	a->sessions = session_of(a)->renewed ? 0 : a->sessions + 1;
	leave_session(a);
	if (there)
		return;
	a->hold->copies = 0;
	a->hold->copies_make = false;
	a->hold->token = 0;
}

static enum hf_step read_key(struct acquire *a)
{
	a->phase = READ;
	return hf_batch_join(&a->op, unsure(a) ? HF_LOOK | HF_CONSISTENT : HF_LOOK);
}

/* What is seen until the request leaves does not count: this has been decided on what is seen now.
 */
static enum hf_step try_it(struct acquire *a)
{
	const struct hf_kv *seen = &key_of(a)->seen;

	a->index = seen->exists ? seen->index : 0;
	a->ours = !strcmp(seen->session, session_of(a)->id);
	a->phase = TRY;
	return hf_batch_join(&a->op, HF_WRITE);
}

/* Whether it may go on with another session: nothing may have come of this one, and it is shared.
 */
static bool is_replaceable(const struct acquire *a)
{
	return !unsure(a) && !a->lock->session_opts && !a->lock->session_id && !a->lock->session;
}

static bool need_session(struct acquire *a)
{
	struct hf_hold *hold = a->hold;
	struct hf_session *session = hold->session;

	if (session && session->retired && session->made_at && is_replaceable(a))
		leave_session(a);
	if (!hold->session && a->lock->session) {
		hold->session = a->lock->session;
		hf_session_join(hold->session);
	}
	if (!hold->session) {
		hold->session = hf_session_for(hf_client_of(&a->op), a->lock->session_opts,
					       a->lock->session_id);
		a->failures = hold->session ? hold->session->failures : 0;
	}
	return hold->session != NULL;
}

static enum hf_step use_session(struct acquire *a)
{
	enum hf_session_state state;
	struct hf_session *session;
	bool gone;

	if (hf_engine_is_closing(a->op.engine)) /* a session made now would see no end */
		return leave(a, HF_CLOSED);
	if (!need_session(a))
		return refuse(a, HF_NOMEM, "out of memory");
	session = session_of(a);
	pthread_mutex_lock(&a->op.engine->mutex);
	hf_session_alive_locked(session);
	state = session->state;
	pthread_mutex_unlock(&a->op.engine->mutex);
	key_of(a)->owner_session = session;
	if (state == HF_SESSION_ALIVE)
		return hf_key_fresh(key_of(a), a->lock->flags) && !unsure(a) ? try_it(a)
									     : read_key(a);
	if (state == HF_SESSION_NEW || session->create_final)
		return no_session_yet(a);
	gone = session->gone;
	hf_session_retire(session); /* over, and not to be found again: the next one looks anew */
	forget_session(a);
	if (a->lock->session || (a->lock->session_id && gone) || a->sessions > SESSIONS_MAX)
		return refuse(a, HF_SESSION, "the session is not there any more");
	return use_session(a);
}

/* ---- what the key says ---------------------------------------------------------------------- */

static enum hf_step wait_for_change(struct acquire *a)
{
	if (a->once)
		return leave(a, HF_TIMEOUT);
	if (!a->watching)
		a->watching = hf_watch_begin(key_of(a));
	if (!a->watching)
		return later(a, hf_now() + LOOK_EACH);
	a->phase = WAIT;
	hf_op_recovered(&a->op);
	if (is_replaceable(a)) /* who only waits keeps no session alive */
		leave_session(a);
	return hf_watch_wait(key_of(a), &a->op);
}

/* Copies that are conditional on less than this are dead, and one that makes the key is so for as
 * long as it exists. If the key is ours, one of them has been carried out, and is to be taken over
 * or to be given back. */
static void bury_copies(struct acquire *a)
{
	const struct hf_kv *seen = &key_of(a)->seen;

	if (!seen->exists || !strcmp(seen->session, session_of(a)->id))
		return;
	a->hold->copies_make = false;
	if (seen->index > a->hold->copies)
		a->hold->copies = 0;
}

static enum hf_step decide(struct acquire *a)
{
	struct hf_key *key = key_of(a);
	struct hf_error held;

	bury_copies(a);
	if (key->seen.exists && key->seen.flags != a->lock->flags)
		return refuse(a, HF_CONFLICT, hf_err_text(HF_CONFLICT));
	if (!hf_key_taken(key, session_of(a)->id))
		return try_it(a);
	hf_err_set(&held, HF_TIMEOUT, "held by session %s", key->seen.session);
	note(a, HF_TIMEOUT, held.message);
	return wait_for_change(a);
}

static enum hf_step looked(struct acquire *a, const struct hf_answer *answer)
{
	if (answer->verdict == HF_V_AGAIN)
		return retry(a, &answer->err);
	if (answer->verdict != HF_V_OK)
		return refuse(a, answer->err.code, answer->err.message);
	if (!hf_key_saw(key_of(a), &answer->kv, answer->sent))
		hf_session_retire(session_of(a));
	return decide(a);
}

/* Whether tries in vain have come faster than they may. */
static bool too_many(const struct hf_key *key)
{
	return key->paid - TRIES_BURST * TRIES_EACH > hf_now();
}

static enum hf_step spaced(struct acquire *a)
{
	return later(a, key_of(a)->paid - TRIES_BURST * TRIES_EACH + hf_jitter(0, TRIES_EACH));
}

static enum hf_step look_again(struct acquire *a)
{
	struct hf_key *key = key_of(a);
	if (key->failure) {
		note(a, key->failure->code, key->failure->message);
		return key->refused ? leave(a, HF_TIMEOUT) : wait_for_change(a);
	}
	if (hf_engine_is_closing(a->op.engine) || !need_session(a) || !session_of(a)->made_at ||
	    hf_session_over(session_of(a)))
		return use_session(a);
	key->owner_session = session_of(a);
	if (!key->known)
		return read_key(a);
	if (too_many(key) && !hf_key_taken(key, session_of(a)->id))
		return spaced(a);
	return decide(a);
}

/* ---- tries ---------------------------------------------------------------------------------- */

/* The server says that the lock is ours. It is, unless the op is to end or the session has. */
static enum hf_step won(struct acquire *a, uint64_t token, int64_t sent)
{
	struct hf_engine *engine = a->op.engine;
	struct hf_hold *hold = a->hold;
	struct hf_kv ours = {.exists = true, .flags = a->lock->flags, .index = token, .at = token};
	const struct hf_error ok = {HF_OK, ""};
	enum hf_err why;

	hold->token = token;
	memcpy(ours.session, hold->session->id, sizeof ours.session - 1);
	stop_watching(a);
	hf_key_saw(hold->key, &ours, INT64_MAX);
	pthread_mutex_lock(&engine->mutex);
	why = engine->closing ? HF_CLOSED : a->op.stop;
	if (!why && !hf_session_alive_locked(hold->session))
		why = HF_SESSION;
	if (!why) {
		hf_lock_begin_hold_locked(hold, sent);
		hf_op_finish_locked(&a->op, &ok);
		a->lock->acquiring = NULL;
	}
	pthread_mutex_unlock(&engine->mutex);
	if (why)
		return why == HF_SESSION ? use_session(a) : leave(a, why);
	if (a->lock->monitor_key)
		hf_monitor_key(hold);
	if (a->expiry)
		hf_engine_add(engine, a->expiry);
	a->expiry = NULL;
	return HF_FINISH;
}

/* A try that was not granted says nothing about copies of it: libcurl makes one when a kept
 * connection turns out to be dead, and who knows what is between us and the server. */
static void note_copies(struct acquire *a)
{
	if (a->index > a->hold->copies)
		a->hold->copies = a->index;
	if (!a->index)
		a->hold->copies_make = true;
}

/* A try that waits to go once more, and will not. */
static void note_sent(struct acquire *a)
{
	if (a->phase == TRY && a->part.resent)
		note_copies(a);
}

static enum hf_step in_vain(struct acquire *a, const struct hf_error *err)
{
	struct hf_key *key = key_of(a);
	int64_t now = hf_now();

	key->paid = (key->paid > now ? key->paid : now) + TRIES_EACH;
	if (a->once && ++a->tries >= ONCE_MAX)
		return refuse(a, HF_TIMEOUT, "others were faster");
	note(a, HF_TIMEOUT, err->message);
	if (a->index && a->index == a->vain)
		return later(a, now + hf_jitter(ODD_MIN, ODD_MAX));
	a->vain = a->index;
	return too_many(key) ? spaced(a) : read_key(a);
}

static enum hf_step tried(struct acquire *a, const struct hf_answer *answer)
{
	const struct hf_error *err = &answer->err;
	enum hf_verdict verdict = answer->verdict;

	if (verdict == HF_V_OK) { /* and any copy is dead: the index has moved, the key exists */
		a->hold->token = answer->kv.index;
		return a->why ? leave(a, a->why) : won(a, answer->kv.index, answer->sent);
	}
	if (verdict == HF_V_AGAIN && !answer->unheard)
		hf_session_retire(session_of(a));
	/* Refused by what may not be there when a copy comes: that is looked for, in its time. */
	if ((verdict == HF_V_DELAY || verdict == HF_V_FINAL) && a->index)
		hf_stray_note(session_of(a), key_of(a), a->index);
	else if (verdict != HF_V_DELAY && verdict != HF_V_FINAL && !answer->unheard)
		note_copies(a);
	if (verdict == HF_V_NO_SESSION)
		hf_session_gone(session_of(a));
	if (a->why)
		return leave(a, a->why);
	if (verdict != HF_V_AGAIN) /* a read alone is no recovery: what fails may be the writes */
		hf_op_recovered(&a->op);
	switch (verdict) {
	case HF_V_AGAIN:
		return retry(a, err);
	case HF_V_HELD:
	case HF_V_MOVED:
	case HF_V_ABSENT:
	case HF_V_NOT_OURS:
		return in_vain(a, err);
	case HF_V_DELAY:
		if (a->once)
			return refuse(a, HF_TIMEOUT, err->message);
		note(a, HF_TIMEOUT, err->message);
		stop_watching(a); /* nothing changes on the key */
		return later(a, hf_key_undelayed());
	case HF_V_NO_SESSION:
		return use_session(a);
	default:
		return refuse(a, err->code, err->message);
	}
}

/* ---- the op --------------------------------------------------------------------------------- */

static enum hf_step acquire_next(struct hf_op *op)
{
	struct acquire *a = (struct acquire *)op;
	struct hf_error err;

	if (a->why && a->phase != UNDO) /* stopped, and not to be sent once more */
		return leave(a, a->why);
	switch (a->phase) {
	case TURN:
		return take_turn(a);
	case WAIT:
		return look_again(a);
	case UNDO:
		outcome(a, &err);
		publish(a, &err);
		return HF_FINISH;
	default:
		return use_session(a);
	}
}

/* Whatever comes of it, a copy of it may come once more. One that is conditional on an index is
 * dead when the index is seen to have moved, which leaving looks to; one that makes the key is not,
 * as long as somebody may delete that. */
static size_t fill_try(struct acquire *a, struct hf_http *http)
{
	struct hf_txn_op txn = {.key = a->lock->key,
				.session = session_of(a)->id,
				.value = a->lock->value,
				.value_len = a->lock->value_len,
				.flags = a->lock->flags};

	if (!a->index) {
		key_of(a)->ephemeral = a->lock->ephemeral;
		hf_stray_note(session_of(a), key_of(a), 0);
	}
	txn.verb = a->index ? HF_CHECK_INDEX : HF_CHECK_NOT_EXISTS;
	txn.index = a->index;
	hf_txn_add(http, &txn);
	/* What is ours already gets a new index: an unlock that is under way must not find the one
	 * it is conditional on, and no token is given twice. */
	if (a->ours) {
		txn.verb = HF_UNLOCK;
		hf_txn_add(http, &txn);
	}
	txn.verb = HF_LOCK;
	hf_txn_add(http, &txn);
	return a->ours ? 3 : 2;
}

static size_t acquire_fill(struct hf_op *op, struct hf_http *http)
{
	struct acquire *a = (struct acquire *)op;

	if (a->why || hf_session_over(session_of(a))) {
		note_sent(a);
		return 0;
	}
	return a->phase == TRY ? fill_try(a, http) : hf_batch_look(http, key_of(a));
}

static enum hf_step acquire_answer(struct hf_op *op, const struct hf_answer *answer)
{
	struct acquire *a = (struct acquire *)op;

	return a->phase == TRY ? tried(a, answer) : looked(a, answer);
}

static struct hf_key *acquire_key(const struct hf_op *op)
{
	return key_of((const struct acquire *)op);
}

/* The caller has been told. What may come of the try is taken back without waiting for its reply,
 * and nobody new should lean on a session that may hold what it does not know of. */
static enum hf_step abandon_try(struct acquire *a)
{
	note_copies(a);
	hf_session_retire(session_of(a));
	hf_batch_leave(&a->op);
	stop_watching(a);
	hf_op_ref(&a->hold->op);
	hf_hold_undo(a->hold);
	return HF_FINISH;
}

static enum hf_step acquire_cancel(struct hf_op *op, enum hf_err why)
{
	struct acquire *a = (struct acquire *)op;
	bool undoing = a->phase == UNDO;
	struct hf_error err;

	if (undoing || a->why) { /* the grace is over, or the client closes */
		outcome(a, &err);
		publish(a, &err);
		return undoing ? HF_FINISH : abandon_try(a);
	}
	if (why == HF_TIMEOUT && !a->last_code && a->phase != TURN)
		note(a, HF_TIMEOUT, "no answer in the time given");
	note_sent(a);
	if (a->phase != TRY || !a->part.batch)
		return leave(a, why);
	/* A try in flight is waited for: giving it up leaves the outcome unknown. */
	a->why = why;
	op->deadline = hf_now() + GRACE;
	return HF_STAY;
}

static const struct hf_part_kind acquire_kind = {
	{"acquire", acquire_next, NULL, NULL, acquire_cancel, acquire_free},
	offsetof(struct acquire, part),
	acquire_key,
	acquire_fill,
	acquire_answer};

enum hf_err hf_lock_acquire(struct hf_lock *lock, int64_t timeout, struct hf_op **out,
			    struct hf_error *err)
{
	struct hf_engine *engine = &lock->client->engine;
	struct acquire *a;

	if (!hf_engine_here(engine, err))
		return err->code;
	err->code = HF_OK;
	a = hf_op_new(engine, &acquire_kind.op, sizeof *a);
	if (!a)
		return hf_err_set(err, HF_NOMEM, "out of memory");
	hf_lock_ref(lock);
	a->lock = lock;
	a->hold = hf_hold_new(lock);
	a->once = timeout == 0;
	a->op.deadline = hf_op_deadline(timeout);
	if (a->hold && lock->max_hold)
		a->expiry = hf_expiry_new(a->hold);
	if (!a->hold || (lock->max_hold && !a->expiry)) {
		hf_op_unref(&a->op);
		return hf_err_set(err, HF_NOMEM, "out of memory");
	}
	pthread_mutex_lock(&engine->mutex);
	hf_lock_start_locked(lock, &a->op, err);
	pthread_mutex_unlock(&engine->mutex);
	if (err->code)
		hf_op_unref(&a->op);
	else
		*out = &a->op;
	return err->code;
}
