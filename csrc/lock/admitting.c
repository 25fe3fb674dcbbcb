#include "lock/admitting.h"

/* A caller that cancels waits so long for what it may have got to be given back, ms. */
#define GRACE 500
/* Sessions in a row that turn out to be gone before they were renewed once. */
#define SESSIONS_MAX 3

void hf_admitting_free(struct hf_op *op)
{
	struct hf_admitting *a = (struct hf_admitting *)op;

	if (a->slot)
		hf_op_unref(&a->slot->hold.op);
	hf_outcome_free(&a->so_far);
	hf_lock_unref(a->sem);
}

static struct hf_tree *tree_of(const struct hf_admitting *a)
{
	return hf_admitting_tree(a);
}

static struct hf_session *session_of(const struct hf_admitting *a)
{
	return hf_admitting_session_of(a);
}

/* ---- leaving -------------------------------------------------------------------------------- */

void hf_admitting_note(struct hf_admitting *a, enum hf_err code, const char *text)
{
	hf_outcome_note(&a->so_far, code, text);
}

static void answer(struct hf_admitting *a)
{
	hf_outcome_publish(&a->so_far, &a->op, a->sem, a->why);
}

void hf_admitting_unwatch(struct hf_admitting *a)
{
	if (a->watching)
		hf_tree_unwatch(tree_of(a), true);
	a->watching = false;
}

static void leave_session(struct hf_admitting *a)
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

static void leave_tree(struct hf_admitting *a)
{
	hf_tree_put(tree_of(a));
	a->slot->tree = NULL;
}

/* Takes back what a try may have got. The end of a session of its own, which comes next, sees to
 * copies that are carried out later; with another one they have to be outdated. */
static void undo(struct hf_admitting *a)
{
	struct hf_hold *hold = &a->slot->hold;

	if (a->sem->session_opts) {
		hold->copies = 0;
		hold->copies_make = false;
	}
	hf_op_ref(&hold->op);
	hf_hold_undo(hold);
}

enum hf_step hf_admitting_end(struct hf_admitting *a)
{
	answer(a);
	return HF_FINISH;
}

enum hf_step hf_admitting_leave(struct hf_admitting *a, enum hf_err why)
{
	a->why = why;
	if (tree_of(a)) {
		hf_admitting_unwatch(a);
		hf_tree_pass(tree_of(a), &a->op);
	}
	if (!a->unsure || !a->slot->hold.key || hf_session_ended(session_of(a))) {
		answer(a);
		leave_session(a);
		leave_tree(a);
		return HF_FINISH;
	}
	undo(a);
	a->phase = HF_ADMIT_UNDO;
	a->op.deadline = hf_now() + GRACE;
	return hf_op_park(&a->op, &a->slot->hold.over, HF_NEVER);
}

enum hf_step hf_admitting_refuse(struct hf_admitting *a, enum hf_err code, const char *why)
{
	hf_admitting_note(a, code, why);
	return hf_admitting_leave(a, HF_TIMEOUT);
}

enum hf_step hf_admitting_retry(struct hf_admitting *a, const struct hf_error *err)
{
	if (a->once)
		return hf_admitting_refuse(a, err->code, err->message);
	hf_admitting_note(a, err->code, err->message);
	a->phase = HF_ADMIT_LOOK;
	return hf_op_backoff(&a->op, HF_NEVER);
}

enum hf_step hf_admitting_cancel(struct hf_op *op, enum hf_err why)
{
	struct hf_admitting *a = (struct hf_admitting *)op;

	if (a->phase == HF_ADMIT_UNDO) /* the grace is over, or the client closes */
		return hf_admitting_end(a);
	if (a->why) { /* and what came of the try is still not known */
		answer(a);
		undo(a);
		return HF_FINISH;
	}
	if (why == HF_TIMEOUT && !a->so_far.code && a->phase != HF_ADMIT_TURN)
		hf_admitting_note(a, HF_TIMEOUT, "no answer in the time given");
	if (a->phase != HF_ADMIT_TRY || op->state != HF_FLYING)
		return hf_admitting_leave(a, why);
	/* A try in flight is waited for: giving it up leaves the outcome unknown. */
	a->why = why;
	op->deadline = hf_now() + GRACE;
	return HF_STAY;
}

/* ---- session -------------------------------------------------------------------------------- */

bool hf_admitting_need_session(struct hf_admitting *a)
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

/* The session could not be made so far. */
static enum hf_step no_session_yet(struct hf_admitting *a)
{
	struct hf_session *session = session_of(a);

	if (a->failures != session->failures) {
		a->failures = session->failures;
		hf_admitting_note(a, session->create_error.code, session->create_error.message);
		if (session->create_final || a->once)
			return hf_admitting_leave(a, HF_TIMEOUT);
	}
	a->phase = HF_ADMIT_SESSION;
	return hf_op_park(&a->op, &session->made, HF_NEVER);
}

/* No copy of a try can be carried out with a session that is gone. */
bool hf_admitting_another(struct hf_admitting *a, enum hf_step *step)
{
	struct hf_session *session = session_of(a);
	bool gone = session->gone;

	hf_session_retire(session);
	a->sessions = session->renewed ? 0 : a->sessions + 1;
	leave_session(a);
	a->unsure = a->unsure && !gone && a->sem->session_id;
	if ((!a->sem->session_id || !gone) && a->sessions <= SESSIONS_MAX)
		return true;
	*step = hf_admitting_refuse(a, HF_SESSION, "the session is not there any more");
	return false;
}

bool hf_admitting_session(struct hf_admitting *a, enum hf_step *step)
{
	enum hf_session_state state;

	do {
		if (hf_engine_is_closing(a->op.engine)) {
			*step = hf_admitting_leave(a, HF_CLOSED);
			return false;
		}
		if (!hf_admitting_need_session(a)) {
			*step = hf_admitting_refuse(a, HF_NOMEM, "out of memory");
			return false;
		}
		state = hf_session_check(session_of(a));
		if (state == HF_SESSION_ALIVE)
			return true;
		if (state == HF_SESSION_NEW || session_of(a)->create_final) {
			*step = no_session_yet(a);
			return false;
		}
	} while (hf_admitting_another(a, step));
	return false;
}
