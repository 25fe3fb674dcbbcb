#include "lock/acquiring.h"

#include "lock/expiry.h"
#include "lock/together.h"
#include "lock/watch.h"

#include <string.h>

/* A caller that cancels waits so long for what it may have got to be given back, ms. */
#define GRACE 500
/* Sessions in a row that turn out to be gone before they were renewed once. */
#define SESSIONS_MAX 3
/* Without memory for a watch, ms. */
#define LOOK_EACH 1000

static struct hf_session *session_of(const struct hf_acquiring *a)
{
	return hf_acquiring_session_of(a);
}

static bool is_mine(const struct hf_hold *hold)
{
	return hold->key && hold->key->owner == hold;
}

/* ---- leaving -------------------------------------------------------------------------------- */

void hf_acquiring_free(struct hf_op *op)
{
	struct hf_acquiring *a = (struct hf_acquiring *)op;

	hf_op_unref(a->expiry);
	hf_op_unref(a->together);
	for (size_t i = 0; i < a->count; i++)
		hf_op_unref(&a->holds[i]->op);
	hf_outcome_free(&a->so_far);
	hf_lock_unref(a->lock);
}

void hf_acquiring_note(struct hf_acquiring *a, enum hf_err code, const char *text)
{
	hf_outcome_note(&a->so_far, code, text);
}

static void publish(struct hf_acquiring *a)
{
	hf_outcome_publish(&a->so_far, &a->op, a->lock, a->why);
}

void hf_acquiring_unwatch(struct hf_acquiring *a)
{
	if (a->watched)
		hf_watch_end(a->watched);
	a->watched = NULL;
}

static void leave_session(struct hf_acquiring *a, struct hf_hold *hold)
{
	struct hf_session *session = hold->session;

	hold->session = NULL;
	if (is_mine(hold))
		hold->key->owner_session = NULL;
	if (session && a->lock->session_opts)
		hf_session_retire(session);
	hf_session_leave(session);
}

static void leave_sessions(struct hf_acquiring *a)
{
	for (size_t i = 0; i < a->count; i++)
		leave_session(a, a->holds[i]);
}

static void leave_key(struct hf_acquiring *a, struct hf_hold *hold)
{
	struct hf_key *key = hold->key;

	hold->key = NULL;
	if (!key)
		return;
	if (key == a->queued) {
		hf_key_leave(key, &a->op);
		a->queued = NULL;
	}
	hf_key_pass(key, hold);
	hf_key_put(key);
}

/* A copy that makes the key is looked for anyway (stray.c), but not at once. */
static bool is_unsure(const struct hf_hold *hold)
{
	return hold->copies || hold->copies_make || hold->token;
}

bool hf_acquiring_unsure(const struct hf_acquiring *a)
{
	for (size_t i = 0; i < a->count; i++)
		if (is_unsure(a->holds[i]))
			return true;
	return false;
}

static void take_back(struct hf_hold *hold)
{
	hf_op_ref(&hold->op);
	hf_hold_undo(hold);
}

enum hf_step hf_acquiring_undo(struct hf_acquiring *a)
{
	for (size_t i = 0; i < a->count; i++)
		if (a->holds[i]->key)
			return hf_op_park(&a->op, &a->holds[i]->over, HF_NEVER);
	publish(a);
	return HF_FINISH;
}

enum hf_step hf_acquiring_leave(struct hf_acquiring *a, enum hf_err why)
{
	bool undo = hf_acquiring_unsure(a) && session_of(a) && !hf_session_ended(session_of(a));

	a->why = why;
	hf_acquiring_unwatch(a);
	if (!undo)
		publish(a);
	for (size_t i = 0; i < a->count; i++) {
		struct hf_hold *hold = a->holds[i];

		if (undo && is_unsure(hold)) {
			take_back(hold);
			continue;
		}
		leave_session(a, hold);
		leave_key(a, hold);
	}
	if (!undo)
		return HF_FINISH;
	a->phase = HF_AT_UNDO;
	a->op.deadline = hf_now() + GRACE;
	return hf_acquiring_undo(a);
}

enum hf_step hf_acquiring_refuse(struct hf_acquiring *a, enum hf_err code, const char *why)
{
	hf_acquiring_note(a, code, why);
	return hf_acquiring_leave(a, HF_TIMEOUT);
}

/* A key that nobody waits for is not to be watched: while it is absent, nothing could be read
 * together with it. */
enum hf_step hf_acquiring_retry(struct hf_acquiring *a, const struct hf_error *err)
{
	if (a->once)
		return hf_acquiring_refuse(a, err->code, err->message);
	hf_acquiring_note(a, err->code, err->message);
	hf_acquiring_unwatch(a);
	a->phase = HF_AT_SESSION;
	return hf_op_backoff(&a->op, HF_NEVER);
}

enum hf_step hf_acquiring_later(struct hf_acquiring *a, int64_t at)
{
	a->phase = HF_AT_SESSION;
	return hf_op_sleep(&a->op, at);
}

/* The caller has been told. What may come of the try is taken back without waiting for its reply,
 * and nobody new should lean on a session that may hold what it does not know of. */
static enum hf_step abandon_try(struct hf_acquiring *a)
{
	hf_acquiring_note_copies(a);
	hf_session_retire(session_of(a));
	hf_acquiring_unwatch(a);
	for (size_t i = 0; i < a->count; i++)
		take_back(a->holds[i]);
	return HF_FINISH;
}

enum hf_step hf_acquiring_cancel(struct hf_acquiring *a, enum hf_err why, bool under_way)
{
	bool undoing = a->phase == HF_AT_UNDO;

	if (undoing || a->why) { /* the grace is over, or the client closes */
		publish(a);
		return undoing ? HF_FINISH : abandon_try(a);
	}
	if (why == HF_TIMEOUT && !a->so_far.code && a->phase != HF_AT_TURN)
		hf_acquiring_note(a, HF_TIMEOUT, "no answer in the time given");
	if (a->phase != HF_AT_TRY || !under_way)
		return hf_acquiring_leave(a, why);
	/* A try in flight is waited for: giving it up leaves the outcome unknown. */
	a->why = why;
	a->op.deadline = hf_now() + GRACE;
	return HF_STAY;
}

/* ---- session -------------------------------------------------------------------------------- */

/* Whether it may go on with another session: nothing may have come of this one, and it is shared.
 */
static bool is_replaceable(const struct hf_acquiring *a)
{
	return !hf_acquiring_unsure(a) && !a->lock->session_opts && !a->lock->session_id &&
	       !a->lock->session;
}

static bool need_session(struct hf_acquiring *a)
{
	struct hf_session *session = session_of(a);

	if (session && session->retired && session->made_at && is_replaceable(a))
		leave_sessions(a);
	if (session_of(a))
		return true;
	session = a->lock->session;
	if (!session)
		session = hf_session_for(hf_client_of(&a->op), a->lock->session_opts,
					 a->lock->session_id);
	if (!session)
		return false;
	a->failures = session->failures;
	for (size_t i = 0; i < a->count; i++) {
		if (i > 0 || a->lock->session)
			hf_session_join(session);
		a->holds[i]->session = session;
	}
	return true;
}

/* The session could not be made so far. */
static enum hf_step no_session_yet(struct hf_acquiring *a)
{
	struct hf_session *session = session_of(a);

	if (a->failures != session->failures) {
		a->failures = session->failures;
		hf_acquiring_note(a, session->create_error.code, session->create_error.message);
		if (session->create_final || a->once)
			return hf_acquiring_leave(a, HF_TIMEOUT);
	}
	hf_acquiring_unwatch(a);
	a->phase = HF_AT_SESSION;
	return hf_op_park(&a->op, &session->made, HF_NEVER);
}

/* What a dead session held is free, or will be, and no copy of a try can take it any more. One that
 * was made elsewhere may be there still when our lease is over. */
static void forget_session(struct hf_acquiring *a)
{
	bool there = session_of(a)->external && !session_of(a)->gone;

	a->sessions = session_of(a)->renewed ? 0 : a->sessions + 1;
	leave_sessions(a);
	if (there)
		return;
	hf_acquiring_forget_copies(a);
	for (size_t i = 0; i < a->count; i++)
		a->holds[i]->token = 0;
}

static enum hf_session_state look_at_session(struct hf_acquiring *a)
{
	struct hf_session *session = session_of(a);
	enum hf_session_state state = hf_session_check(session);

	for (size_t i = 0; i < a->count; i++)
		if (is_mine(a->holds[i]))
			a->holds[i]->key->owner_session = session;
	return state;
}

/* The session is over. Answers whether another one may do. */
static bool another_session(struct hf_acquiring *a, enum hf_step *step)
{
	bool gone = session_of(a)->gone;

	hf_session_retire(session_of(a)); /* not to be found again: the next one looks anew */
	forget_session(a);
	if (!a->lock->session && (!a->lock->session_id || !gone) && a->sessions <= SESSIONS_MAX)
		return true;
	*step = hf_acquiring_refuse(a, HF_SESSION, "the session is not there any more");
	return false;
}

bool hf_acquiring_session(struct hf_acquiring *a, enum hf_step *step)
{
	enum hf_session_state state;

	do {
		if (hf_engine_is_closing(a->op.engine)) { /* one made now would see no end */
			*step = hf_acquiring_leave(a, HF_CLOSED);
			return false;
		}
		if (!need_session(a)) {
			*step = hf_acquiring_refuse(a, HF_NOMEM, "out of memory");
			return false;
		}
		state = look_at_session(a);
		if (state == HF_SESSION_ALIVE)
			return true;
		if (state == HF_SESSION_NEW || session_of(a)->create_final) {
			*step = no_session_yet(a);
			return false;
		}
	} while (another_session(a, step));
	return false;
}

bool hf_acquiring_has_session(struct hf_acquiring *a)
{
	return !hf_engine_is_closing(a->op.engine) && need_session(a) && session_of(a)->made_at &&
	       look_at_session(a) == HF_SESSION_ALIVE;
}

/* ---- waiting -------------------------------------------------------------------------------- */

enum hf_step hf_acquiring_wait(struct hf_acquiring *a)
{
	struct hf_key *key = hf_acquiring_key(a);

	if (a->once)
		return hf_acquiring_leave(a, HF_TIMEOUT);
	if (a->watched != key) {
		hf_acquiring_unwatch(a);
		a->watched = hf_watch_begin(key) ? key : NULL;
	}
	if (!a->watched)
		return hf_acquiring_later(a, hf_now() + LOOK_EACH);
	a->phase = HF_AT_WAIT;
	hf_op_recovered(&a->op);
	if (is_replaceable(a)) /* who only waits keeps no session alive */
		leave_sessions(a);
	return hf_watch_wait(key, &a->op);
}

/* ---- starting ------------------------------------------------------------------------------- */

static bool make_holds(struct hf_acquiring *a)
{
	for (; a->count < hf_lock_count(a->lock); a->count++) {
		a->holds[a->count] = hf_hold_new(hf_lock_part(a->lock, a->count));
		if (!a->holds[a->count])
			return false;
	}
	if (a->lock->max_hold)
		a->expiry = hf_expiry_new(a->holds[0]);
	if (a->count > 1)
		a->together = hf_together_new(a->op.engine, a->count);
	return (!a->lock->max_hold || a->expiry) && (a->count == 1 || a->together);
}

enum hf_err hf_acquiring_start(struct hf_acquiring *a, struct hf_lock *lock, struct hf_hold **holds,
			       int64_t timeout, struct hf_op **out, struct hf_error *err)
{
	err->code = HF_OK;
	hf_lock_ref(lock);
	a->lock = lock;
	a->holds = holds;
	a->once = timeout == 0;
	a->op.deadline = hf_op_deadline(timeout);
	if (make_holds(a)) {
		pthread_mutex_lock(&a->op.engine->mutex);
		hf_lock_start_locked(lock, &a->op, err);
		pthread_mutex_unlock(&a->op.engine->mutex);
	} else {
		hf_err_set(err, HF_NOMEM, "out of memory");
	}
	if (err->code)
		hf_op_unref(&a->op);
	else
		*out = &a->op;
	return err->code;
}
