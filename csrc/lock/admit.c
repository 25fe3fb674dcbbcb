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
#include "lock/admitting.h"
#include "lock/stray.h"

#include <inttypes.h>

/* Between tries in vain, ms: at most so long after the first, twice that after the second ... */
#define VAIN 25
#define VAIN_DOUBLINGS 4
/* With timeout 0: so many tries, each of which somebody else was faster than. */
#define ONCE_MAX 5
/* Without memory for a watch, ms. */
#define LOOK_EACH 1000

static struct hf_tree *tree_of(const struct hf_admitting *a)
{
	return hf_admitting_tree(a);
}

static struct hf_session *session_of(const struct hf_admitting *a)
{
	return hf_admitting_session_of(a);
}

static enum hf_step look(struct hf_admitting *a)
{
	a->phase = HF_ADMIT_LOOK;
	return hf_op_send(&a->op, HF_COMMAND);
}

static enum hf_step look_later(struct hf_admitting *a, int64_t at)
{
	a->phase = HF_ADMIT_LOOK;
	return hf_op_sleep(&a->op, at);
}

/* ---- turn ----------------------------------------------------------------------------------- */

/* One op of a client tries at a time, so that its others do not outrun each other. */
static enum hf_step take_turn(struct hf_admitting *a)
{
	if (!tree_of(a))
		a->slot->tree = hf_tree_get(hf_client_of(&a->op), a->sem->key);
	if (!tree_of(a))
		return hf_admitting_refuse(a, HF_NOMEM, "out of memory");
	if (hf_tree_take(tree_of(a), &a->op))
		return look(a);
	if (a->once)
		return hf_admitting_refuse(a, HF_TIMEOUT, "others of this client wait for a slot");
	return hf_tree_queue(tree_of(a), &a->op);
}

/* ---- what the prefix says ------------------------------------------------------------------- */

static uint64_t taken(const struct hf_admitting *a)
{
	return hf_semaphore_taken(&tree_of(a)->seen, session_of(a) ? session_of(a)->id : "");
}

static bool has_room(const struct hf_admitting *a)
{
	return !tree_of(a)->known || taken(a) < a->sem->limit;
}

static enum hf_step wait_for_change(struct hf_admitting *a)
{
	if (a->once)
		return hf_admitting_leave(a, HF_TIMEOUT);
	if (!a->watching)
		a->watching = hf_tree_watch(tree_of(a), true);
	if (!a->watching)
		return look_later(a, hf_now() + LOOK_EACH);
	if (!hf_engine_is_closing(a->op.engine)) /* a session made now would see no end */
		hf_admitting_need_session(a);
	a->phase = HF_ADMIT_WAIT;
	hf_op_recovered(&a->op);
	return hf_tree_wait(tree_of(a), &a->op);
}

static enum hf_step use_session(struct hf_admitting *a);

static enum hf_step decide(struct hf_admitting *a)
{
	const struct hf_semaphore *seen = &tree_of(a)->seen;
	struct hf_error why;

	if (!tree_of(a)->known)
		return look(a);
	if (seen->foreign)
		return hf_admitting_refuse(a, HF_CONFLICT, hf_err_text(HF_CONFLICT));
	if (seen->exists && seen->limit != a->sem->limit) {
		hf_err_set(&why, HF_LIMIT_CONFLICT,
			   "semaphore limit conflict (lock: %" PRIu64 ", local: %" PRIu64 ")",
			   seen->limit, a->sem->limit);
		return hf_admitting_refuse(a, HF_LIMIT_CONFLICT, why.message);
	}
	if (has_room(a))
		return use_session(a);
	hf_err_set(&why, HF_TIMEOUT, "all slots are held (%" PRIu64 ")", seen->limit);
	hf_admitting_note(a, HF_TIMEOUT, why.message);
	return wait_for_change(a);
}

/* What is conditional on less than this index is dead. */
static void bury_copies(struct hf_admitting *a)
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

static enum hf_step looked(struct hf_admitting *a, const struct hf_http *http)
{
	struct hf_error err;
	enum hf_verdict verdict = hf_slot_saw(tree_of(a), http, &err);

	if (verdict == HF_V_AGAIN)
		return hf_admitting_retry(a, &err);
	if (verdict != HF_V_OK)
		return hf_admitting_refuse(a, err.code, err.message);
	bury_copies(a);
	return decide(a);
}

/* The longer it tries in vain, the more it stays out of others' way. */
static int64_t aside(const struct hf_admitting *a)
{
	unsigned doublings = a->vain < VAIN_DOUBLINGS ? a->vain : VAIN_DOUBLINGS;

	return hf_now() + hf_jitter(0, VAIN << doublings);
}

static enum hf_step woken(struct hf_admitting *a)
{
	if (!a->vain || !has_room(a))
		return decide(a);
	a->phase = HF_ADMIT_PAUSE;
	return hf_op_sleep(&a->op, aside(a));
}

/* ---- session -------------------------------------------------------------------------------- */

static struct hf_key *key_of(struct hf_admitting *a)
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
static enum hf_step try_it(struct hf_admitting *a)
{
	struct hf_hold *hold = &a->slot->hold;
	struct hf_key *key = key_of(a);

	if (!key)
		return hf_admitting_refuse(a, HF_NOMEM, "out of memory");
	if (key->owner != hold && !hf_key_take(key, &a->op, hold)) {
		hf_admitting_note(a, HF_TIMEOUT,
				  "another object of this client holds a slot by this session");
		if (a->once)
			return hf_admitting_leave(a, HF_TIMEOUT);
		a->queued = true;
		a->phase = HF_ADMIT_PAUSE;
		return hf_key_queue(key, &a->op);
	}
	a->queued = false;
	key->owner_session = hold->session;
	a->was_unsure = a->unsure;
	a->phase = HF_ADMIT_TRY;
	return hf_op_send(&a->op, HF_COMMAND);
}

static enum hf_step use_session(struct hf_admitting *a)
{
	enum hf_step step;

	return hf_admitting_session(a, &step) ? try_it(a) : step;
}

static enum hf_step another_session(struct hf_admitting *a)
{
	enum hf_step step;

	return hf_admitting_another(a, &step) ? use_session(a) : step;
}

/* ---- tries ---------------------------------------------------------------------------------- */

/* The server says that a slot is ours. It is, unless the op is to end or the session has. */
static enum hf_step won(struct hf_admitting *a, int64_t sent)
{
	struct hf_engine *engine = a->op.engine;
	struct hf_hold *hold = &a->slot->hold;
	const struct hf_error ok = {HF_OK, ""};
	enum hf_err why;

	hf_admitting_unwatch(a);
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
		return why == HF_SESSION ? use_session(a) : hf_admitting_leave(a, why);
	hf_tree_pass(tree_of(a), &a->op);
	hf_slot_watch(a->slot);
	return HF_FINISH;
}

/* Whatever comes of a try, a copy of it may come once more. */
static void note_copies(struct hf_admitting *a)
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

static enum hf_step in_vain(struct hf_admitting *a, const struct hf_error *err)
{
	a->vain++;
	if (a->once && a->vain >= ONCE_MAX)
		return hf_admitting_refuse(a, HF_TIMEOUT, "others were faster");
	hf_admitting_note(a, HF_TIMEOUT, err->message);
	return look_later(a, aside(a));
}

/* Whether nothing can have come of a try with a session of our own, whose end sees to later copies:
 * it was refused, and libcurl has not sent it before. */
static bool surely_refused(const struct hf_admitting *a, enum hf_verdict verdict,
			   const struct hf_http *http)
{
	if (!a->sem->session_opts)
		return false;
	return hf_call_unheard(http) || (verdict != HF_V_AGAIN && http->sendings <= 1);
}

static enum hf_step tried(struct hf_admitting *a, const struct hf_http *http)
{
	struct hf_error err;
	uint64_t index;
	enum hf_verdict verdict = hf_slot_written(a->slot, http, 2, &index, &err);

	if (verdict == HF_V_OK) {
		a->slot->hold.token = index;
		return a->why ? hf_admitting_leave(a, a->why) : won(a, http->sent);
	}
	if (verdict == HF_V_NO_SESSION)
		hf_session_gone(session_of(a));
	if (surely_refused(a, verdict, http))
		a->unsure = a->was_unsure;
	if (a->why)
		return hf_admitting_leave(a, a->why);
	switch (verdict) {
	case HF_V_AGAIN:
		return hf_admitting_retry(a, &err);
	case HF_V_NO_SESSION:
		return another_session(a);
	case HF_V_DELAY:
	case HF_V_MOVED:
	case HF_V_ABSENT:
		hf_op_recovered(&a->op);
		return in_vain(a, &err);
	default:
		return hf_admitting_refuse(a, err.code, err.message);
	}
}

/* ---- the op --------------------------------------------------------------------------------- */

static enum hf_step acquire_next(struct hf_op *op)
{
	struct hf_admitting *a = (struct hf_admitting *)op;

	switch (a->phase) {
	case HF_ADMIT_TURN:
		return take_turn(a);
	case HF_ADMIT_LOOK:
		return look(a);
	case HF_ADMIT_WAIT:
		return woken(a);
	case HF_ADMIT_UNDO:
		return hf_admitting_end(a);
	default:
		return decide(a);
	}
}

static bool acquire_request(struct hf_op *op, struct hf_http *http)
{
	struct hf_admitting *a = (struct hf_admitting *)op;
	const struct hf_consul *consul = &hf_client_of(op)->consul;

	if (a->phase == HF_ADMIT_LOOK) {
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
	struct hf_admitting *a = (struct hf_admitting *)op;

	return a->phase == HF_ADMIT_TRY ? tried(a, http) : looked(a, http);
}

static const struct hf_kind acquire_kind = {"slots",	   acquire_next,	acquire_request,
					    acquire_reply, hf_admitting_cancel, hf_admitting_free};

/* ---- for the caller ------------------------------------------------------------------------- */

enum hf_err hf_semaphore_acquire(struct hf_lock *sem, int64_t timeout, struct hf_op **out,
				 struct hf_error *err)
{
	struct hf_engine *engine = &sem->client->engine;
	struct hf_admitting *a;

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
