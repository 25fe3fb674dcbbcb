/* admit.c: takes a slot of a semaphore: wait until it is my turn among the semaphores of this
 * client, look who holds slots, wait until one may be free, try. It goes by this table.
 *
 *   phase    asks                        answer                then
 *   TURN     (waits for its turn)                              LOOK
 *   LOOK     get all below the prefix    not a semaphore's     refused: CONFLICT
 *                                        another limit         refused: LIMIT_CONFLICT
 *                                        all slots taken       WAIT
 *                                        one is free, or ours  SESSION
 *                                        trouble               LOOK, later
 *   WAIT     (waits for a change; with   one is free           SESSION; a little later when tries
 *            a session in hand)                                have been in vain
 *   SESSION  (waits for a session)       made                  TRY, unless all are taken by now
 *                                        cannot be made        refused
 *   TRY      [cas .lock with us, lock    done                  it is ours
 *            our key]                    moved                 LOOK, a little later
 *                                        no session            SESSION, with a new one
 *                                        trouble               LOOK, later
 *   UNDO     (waits for the giveback, for a moment)            the answer
 *
 * So who waits has written nothing, and the write that takes a slot shows at once that its holder
 * is alive. It is conditional on the index of .lock that was seen: whatever copy is carried out
 * late finds another one, or no session. */
#include "base/random.h"
#include "lock/outcome.h"
#include "lock/slot.h"
#include "lock/stray.h"

#include <inttypes.h>
#include <string.h>

/* A caller that cancels waits so long for what it may have got to be given back, ms. */
#define GRACE 500
/* Between tries in vain, ms: at most so long after the first, twice that after the second ... */
#define VAIN 25
#define VAIN_DOUBLINGS 4
/* With timeout 0: so many tries, each of which somebody else was faster than. */
#define ONCE_MAX 5
/* Sessions in a row that turn out to be gone before they were renewed once. */
#define SESSIONS_MAX 3
/* Without memory for a watch, ms. */
#define LOOK_EACH 1000

enum phase { TURN, LOOK, WAIT, PAUSE, SESSION, TRY, UNDO };

struct acquire {
	struct hf_op op;
	struct hf_lock *sem; /* counted */
	struct hf_slot *slot; /* counted: what it is going to be */
	enum phase phase;
	bool watching;
	bool once; /* timeout 0: one try */
	bool unsure; /* a try may have been carried out, or may still be */
	bool was_unsure; /* the same, before the try that is under way */
	bool queued; /* waits until no other object uses the session */
	enum hf_err why; /* it is being undone, and will answer this */
	unsigned failures, sessions, vain;
	struct hf_outcome so_far;
};

static void acquire_free(struct hf_op *op)
{
	struct acquire *a = (struct acquire *)op;

	if (a->slot)
		hf_op_unref(&a->slot->hold.op);
	hf_outcome_free(&a->so_far);
	hf_lock_unref(a->sem);
}

static struct hf_tree *tree_of(const struct acquire *a)
{
	return a->slot->tree;
}

static struct hf_session *session_of(const struct acquire *a)
{
	return a->slot->hold.session;
}

/* ---- leaving -------------------------------------------------------------------------------- */

static void note(struct acquire *a, enum hf_err code, const char *text)
{
	hf_outcome_note(&a->so_far, code, text);
}

static void answer(struct acquire *a)
{
	hf_outcome_publish(&a->so_far, &a->op, a->sem, a->why);
}

static void stop_watching(struct acquire *a)
{
	if (a->watching)
		hf_tree_unwatch(tree_of(a), true);
	a->watching = false;
}

static void leave_session(struct acquire *a)
{
	struct hf_hold *hold = &a->slot->hold;
	struct hf_session *session = hold->session;

	if (a->queued)
		hf_key_leave(hold->key, &a->op);
	else if (hold->key)
		hf_key_pass(hold->key, hold);
	a->queued = false;
	hf_key_put(hold->key);
	hold->key = NULL;
	hold->session = NULL;
	if (session && a->sem->session_opts)
		hf_session_retire(session);
	hf_session_leave(session);
}

static void leave_tree(struct acquire *a)
{
	hf_tree_put(tree_of(a));
	a->slot->tree = NULL;
}

/* Takes back what a try may have got. The end of a session of its own, which comes next, sees to
 * copies that are carried out later; with another one they have to be outdated. */
static void undo(struct acquire *a)
{
	struct hf_hold *hold = &a->slot->hold;

	if (a->sem->session_opts) {
		hold->copies = 0;
		hold->copies_make = false;
	}
	hf_op_ref(&hold->op);
	hf_hold_undo(hold);
}

/* Ends for this reason. What a try may have got is taken back first, and the caller waits for that,
 * but not for long. */
static enum hf_step leave(struct acquire *a, enum hf_err why)
{
	a->why = why;
	if (tree_of(a)) {
		stop_watching(a);
		hf_tree_pass(tree_of(a), &a->op);
	}
	if (!a->unsure || !a->slot->hold.key || hf_session_ended(session_of(a))) {
		answer(a);
		leave_session(a);
		leave_tree(a);
		return HF_FINISH;
	}
	undo(a);
	a->phase = UNDO;
	a->op.deadline = hf_now() + GRACE;
	return hf_op_park(&a->op, &a->slot->hold.over, HF_NEVER);
}

static enum hf_step refuse(struct acquire *a, enum hf_err code, const char *why)
{
	note(a, code, why);
	return leave(a, HF_TIMEOUT);
}

static enum hf_step look(struct acquire *a)
{
	a->phase = LOOK;
	return hf_op_send(&a->op, HF_COMMAND);
}

static enum hf_step look_later(struct acquire *a, int64_t at)
{
	a->phase = LOOK;
	return hf_op_sleep(&a->op, at);
}

/* After passing trouble: anew, later. */
static enum hf_step retry(struct acquire *a, const struct hf_error *err)
{
	if (a->once)
		return refuse(a, err->code, err->message);
	note(a, err->code, err->message);
	a->phase = LOOK;
	return hf_op_backoff(&a->op, HF_NEVER);
}

/* ---- turn ----------------------------------------------------------------------------------- */

/* One op of a client tries at a time, so that its others do not outrun each other. */
static enum hf_step take_turn(struct acquire *a)
{
	if (!tree_of(a))
		a->slot->tree = hf_tree_get(hf_client_of(&a->op), a->sem->key);
	if (!tree_of(a))
		return refuse(a, HF_NOMEM, "out of memory");
	if (hf_tree_take(tree_of(a), &a->op))
		return look(a);
	if (a->once)
		return refuse(a, HF_TIMEOUT, "others of this client wait for a slot");
	return hf_tree_queue(tree_of(a), &a->op);
}

/* ---- what the prefix says ------------------------------------------------------------------- */

static uint64_t taken(const struct acquire *a)
{
	return hf_semaphore_taken(&tree_of(a)->seen, session_of(a) ? session_of(a)->id : "");
}

static bool has_room(const struct acquire *a)
{
	return !tree_of(a)->known || taken(a) < a->sem->limit;
}

static bool need_session(struct acquire *a)
{
	struct hf_hold *hold = &a->slot->hold;

	if (hold->session)
		return true;
	hold->session = hf_session_for(hf_client_of(&a->op), a->sem->session_opts,
				       a->sem->session_id);
	if (!hold->session)
		return false;
	a->failures = hold->session->failures;
	/* With its end our key goes, which the poll on the prefix tells (slot.c). */
	hold->session->unwatched = a->sem->session_opts != NULL;
	return true;
}

static enum hf_step wait_for_change(struct acquire *a)
{
	if (a->once)
		return leave(a, HF_TIMEOUT);
	if (!a->watching)
		a->watching = hf_tree_watch(tree_of(a), true);
	if (!a->watching)
		return look_later(a, hf_now() + LOOK_EACH);
	if (!hf_engine_is_closing(a->op.engine)) /* a session made now would see no end */
		need_session(a);
	a->phase = WAIT;
	hf_op_recovered(&a->op);
	return hf_tree_wait(tree_of(a), &a->op);
}

static enum hf_step use_session(struct acquire *a);

static enum hf_step decide(struct acquire *a)
{
	const struct hf_semaphore *seen = &tree_of(a)->seen;
	struct hf_error why;

	if (!tree_of(a)->known)
		return look(a);
	if (seen->foreign)
		return refuse(a, HF_CONFLICT, hf_err_text(HF_CONFLICT));
	if (seen->exists && seen->limit != a->sem->limit) {
		hf_err_set(&why, HF_LIMIT_CONFLICT,
			   "semaphore limit conflict (lock: %" PRIu64 ", local: %" PRIu64 ")",
			   seen->limit, a->sem->limit);
		return refuse(a, HF_LIMIT_CONFLICT, why.message);
	}
	if (has_room(a))
		return use_session(a);
	hf_err_set(&why, HF_TIMEOUT, "all slots are held (%" PRIu64 ")", seen->limit);
	note(a, HF_TIMEOUT, why.message);
	return wait_for_change(a);
}

/* What is conditional on less than this index is dead. */
static void bury_copies(struct acquire *a)
{
	const struct hf_semaphore *seen = &tree_of(a)->seen;
	struct hf_hold *hold = &a->slot->hold;

	if (!a->unsure || !hold->session || !seen->exists || seen->index <= hold->copies ||
	    hf_semaphore_find(seen, hold->session->id))
		return;
	hold->copies = 0;
	hold->copies_make = false;
	a->unsure = false;
}

static enum hf_step looked(struct acquire *a, const struct hf_http *http)
{
	struct hf_error err;
	enum hf_verdict verdict = hf_slot_saw(tree_of(a), http, &err);

	if (verdict == HF_V_AGAIN)
		return retry(a, &err);
	if (verdict != HF_V_OK)
		return refuse(a, err.code, err.message);
	bury_copies(a);
	return decide(a);
}

/* The longer it tries in vain, the more it stays out of others' way. */
static int64_t aside(const struct acquire *a)
{
	unsigned doublings = a->vain < VAIN_DOUBLINGS ? a->vain : VAIN_DOUBLINGS;

	return hf_now() + hf_jitter(0, VAIN << doublings);
}

static enum hf_step woken(struct acquire *a)
{
	if (!a->vain || !has_room(a))
		return decide(a);
	a->phase = PAUSE;
	return hf_op_sleep(&a->op, aside(a));
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
	a->phase = SESSION;
	return hf_op_park(&a->op, &session->made, HF_NEVER);
}

/* No copy of a try can be carried out with a session that is gone. */
static enum hf_step another_session(struct acquire *a)
{
	struct hf_session *session = session_of(a);
	bool gone = session->gone;

	hf_session_retire(session);
	a->sessions = session->renewed ? 0 : a->sessions + 1;
	leave_session(a);
	a->unsure = a->unsure && !gone && a->sem->session_id;
	if ((a->sem->session_id && gone) || a->sessions > SESSIONS_MAX)
		return refuse(a, HF_SESSION, "the session is not there any more");
	return use_session(a);
}

static struct hf_key *key_of(struct acquire *a)
{
	struct hf_hold *hold = &a->slot->hold;
	struct hf_buf name = {0};

	if (hold->key)
		return hold->key;
	hf_buf_puts(&name, a->sem->key);
	if (hf_buf_puts(&name, hold->session->id))
		hold->key = hf_key_get(hf_client_of(&a->op), name.data);
	hf_buf_free(&name);
	if (hold->key)
		hold->key->fleeting = true;
	return hold->key;
}

/* Of a session made elsewhere one object at a time has the slot. */
static enum hf_step try_it(struct acquire *a)
{
	struct hf_hold *hold = &a->slot->hold;
	struct hf_key *key = key_of(a);

	if (!key)
		return refuse(a, HF_NOMEM, "out of memory");
	if (key->owner != hold && !hf_key_take(key, &a->op, hold)) {
		note(a, HF_TIMEOUT, "another object of this client holds a slot by this session");
		if (a->once)
			return leave(a, HF_TIMEOUT);
		a->queued = true;
		a->phase = PAUSE;
		return hf_key_queue(key, &a->op);
	}
	a->queued = false;
	key->owner_session = hold->session;
	a->was_unsure = a->unsure;
	a->phase = TRY;
	return hf_op_send(&a->op, HF_COMMAND);
}

static enum hf_step use_session(struct acquire *a)
{
	enum hf_session_state state;
	struct hf_session *session;

	if (hf_engine_is_closing(a->op.engine))
		return leave(a, HF_CLOSED);
	if (!need_session(a))
		return refuse(a, HF_NOMEM, "out of memory");
	session = session_of(a);
	pthread_mutex_lock(&a->op.engine->mutex);
	hf_session_alive_locked(session);
	state = session->state;
	pthread_mutex_unlock(&a->op.engine->mutex);
	if (state == HF_SESSION_ALIVE)
		return try_it(a);
	if (state == HF_SESSION_NEW || session->create_final)
		return no_session_yet(a);
	return another_session(a);
}

/* ---- tries ---------------------------------------------------------------------------------- */

/* The server says that a slot is ours. It is, unless the op is to end or the session has. */
static enum hf_step won(struct acquire *a, int64_t sent)
{
	struct hf_engine *engine = a->op.engine;
	struct hf_hold *hold = &a->slot->hold;
	const struct hf_error ok = {HF_OK, ""};
	enum hf_err why;

	stop_watching(a);
	pthread_mutex_lock(&engine->mutex);
	why = engine->closing ? HF_CLOSED : a->op.stop;
	if (!why && !hf_session_alive_locked(hold->session))
		why = HF_SESSION;
	if (!why) {
		hf_lock_begin_hold_locked(hold, sent);
		hf_op_finish_locked(&a->op, &ok);
		a->sem->acquiring = NULL;
	}
	pthread_mutex_unlock(&engine->mutex);
	if (why)
		return why == HF_SESSION ? use_session(a) : leave(a, why);
	hf_tree_pass(tree_of(a), &a->op);
	hf_slot_watch(a->slot);
	return HF_FINISH;
}

/* Whatever comes of a try, a copy of it may come once more. */
static void note_copies(struct acquire *a)
{
	struct hf_hold *hold = &a->slot->hold;
	uint64_t index = tree_of(a)->seen.index;

	a->unsure = true;
	if (index > hold->copies)
		hold->copies = index;
	hold->copies_make |= !index;
	if (a->sem->session_id)
		hf_stray_note(session_of(a), hold->key, 0);
}

static enum hf_step in_vain(struct acquire *a, const struct hf_error *err)
{
	a->vain++;
	if (a->once && a->vain >= ONCE_MAX)
		return refuse(a, HF_TIMEOUT, "others were faster");
	note(a, HF_TIMEOUT, err->message);
	return look_later(a, aside(a));
}

/* Whether nothing can have come of a try with a session of our own, whose end sees to later copies:
 * it was refused, and libcurl has not sent it before. */
static bool surely_refused(const struct acquire *a, enum hf_verdict verdict,
			   const struct hf_http *http)
{
	if (!a->sem->session_opts)
		return false;
	return hf_call_unheard(http) || (verdict != HF_V_AGAIN && http->sendings <= 1);
}

static enum hf_step tried(struct acquire *a, const struct hf_http *http)
{
	struct hf_error err;
	uint64_t index;
	enum hf_verdict verdict = hf_slot_written(a->slot, http, 2, &index, &err);

	if (verdict == HF_V_OK) {
		a->slot->hold.token = index;
		return a->why ? leave(a, a->why) : won(a, http->sent);
	}
	if (verdict == HF_V_NO_SESSION)
		hf_session_gone(session_of(a));
	if (surely_refused(a, verdict, http))
		a->unsure = a->was_unsure;
	if (a->why)
		return leave(a, a->why);
	switch (verdict) {
	case HF_V_AGAIN:
		return retry(a, &err);
	case HF_V_NO_SESSION:
		return another_session(a);
	case HF_V_DELAY:
	case HF_V_MOVED:
	case HF_V_ABSENT:
		hf_op_recovered(&a->op);
		return in_vain(a, &err);
	default:
		return refuse(a, err.code, err.message);
	}
}

/* ---- the op --------------------------------------------------------------------------------- */

static enum hf_step acquire_next(struct hf_op *op)
{
	struct acquire *a = (struct acquire *)op;

	switch (a->phase) {
	case TURN:
		return take_turn(a);
	case LOOK:
		return look(a);
	case WAIT:
		return woken(a);
	case UNDO:
		answer(a);
		return HF_FINISH;
	default:
		return decide(a);
	}
}

static bool acquire_request(struct hf_op *op, struct hf_http *http)
{
	struct acquire *a = (struct acquire *)op;
	const struct hf_consul *consul = &hf_client_of(op)->consul;

	if (a->phase == LOOK) {
		hf_semaphore_get(http, consul, tree_of(a)->prefix, 0, a->unsure);
		return true;
	}
	if (!has_room(a) || hf_session_over(session_of(a)))
		return false;
	note_copies(a);
	hf_txn_begin(http, consul, false);
	hf_slot_write(a->slot, http, true, false);
	hf_txn_add(http, &(struct hf_txn_op){.verb = HF_LOCK,
					     .key = a->slot->hold.key->name,
					     .session = session_of(a)->id,
					     .value = a->sem->value,
					     .value_len = a->sem->value_len,
					     .flags = HF_SEMAPHORE_FLAGS});
	hf_txn_end(http);
	return true;
}

static enum hf_step acquire_reply(struct hf_op *op, const struct hf_http *http)
{
	struct acquire *a = (struct acquire *)op;

	return a->phase == TRY ? tried(a, http) : looked(a, http);
}

static enum hf_step acquire_cancel(struct hf_op *op, enum hf_err why)
{
	struct acquire *a = (struct acquire *)op;

	if (a->phase == UNDO) { /* the grace is over, or the client closes */
		answer(a);
		return HF_FINISH;
	}
	if (a->why) { /* and what came of the try is still not known */
		answer(a);
		undo(a);
		return HF_FINISH;
	}
	if (why == HF_TIMEOUT && !a->so_far.code && a->phase != TURN)
		note(a, HF_TIMEOUT, "no answer in the time given");
	if (a->phase != TRY || op->state != HF_FLYING)
		return leave(a, why);
	/* A try in flight is waited for: giving it up leaves the outcome unknown. */
	a->why = why;
	op->deadline = hf_now() + GRACE;
	return HF_STAY;
}

static const struct hf_kind acquire_kind = {"slots",	   acquire_next,   acquire_request,
					    acquire_reply, acquire_cancel, acquire_free};

/* ---- for the caller ------------------------------------------------------------------------- */

enum hf_err hf_semaphore_acquire(struct hf_lock *sem, int64_t timeout, struct hf_op **out,
				 struct hf_error *err)
{
	struct hf_engine *engine = &sem->client->engine;
	struct acquire *a;

	if (!hf_engine_here(engine, err))
		return err->code;
	err->code = HF_OK;
	a = hf_op_new(engine, &acquire_kind, sizeof *a);
	if (!a)
		return hf_err_set(err, HF_NOMEM, "out of memory");
	hf_lock_ref(sem);
	a->sem = sem;
	a->slot = hf_slot_new(sem);
	a->once = timeout == 0;
	a->op.deadline = hf_op_deadline(timeout);
	if (!a->slot) {
		hf_op_unref(&a->op);
		return hf_err_set(err, HF_NOMEM, "out of memory");
	}
	pthread_mutex_lock(&engine->mutex);
	hf_lock_start_locked(sem, &a->op, err);
	pthread_mutex_unlock(&engine->mutex);
	if (err->code)
		hf_op_unref(&a->op);
	else
		*out = &a->op;
	return err->code;
}
