/* giveback.c: gives back what is held, or what an acquire may have got (undo). It goes by this
 * table; whatever the caller was told meanwhile, it goes on until the server has answered or the
 * time is over that nobody else can have the key in.
 *
 *   phase      asks                       answer               then
 *   UNLOCKING  [check-index, unlock]      done                 the end: OK
 *              (an ephemeral key:
 *              [check-index, delete])
 *                                         moved, not ours      LOOKING
 *                                         no session           the end: SESSION
 *                                         anything else        UNLOCKING, later
 *   LOOKING    get                        ours                 UNLOCKING, with that index
 *                                         not ours: of a hold  CONFIRMING, or the end: OK when an
 *                                                              unlock may have been carried out
 *                                         not ours: undo       the end when the index is past that
 *                                                              of every copy, or the client
 *                                                              closes, else FENCING
 *                                         trouble              LOOKING, later
 *   CONFIRMING (waits for a renewal)        gone                 the end: SESSION
 *                                         there, no answer     the end: LOST
 *   FENCING    [check, lock, unlock]      done                 the end: the copies are dead
 *                                         moved, held,         LOOKING, later
 *                                         lock-delay, trouble
 *                                         no session           the end: the copies are dead
 *   any        (session gone)                                  the end: SESSION
 *   any        (time over)                                     the end: what the trouble was;
 *                                                              the session is retired
 */
#include "lock/lock.h"
#include "lock/stray.h"

#include "base/alloc.h"
#include "lock/batch.h"

#include <string.h>

/* How long a renewal may take to tell whether the session is there, ms. */
#define CONFIRM 500

/* ---- the end -------------------------------------------------------------------------------- */

static void tell(struct hf_hold *h, enum hf_err code, const char *why)
{
	struct hf_error result;

	hf_err_set(&result, code, "%s \"%s\": %s", h->lock->limit ? "release" : "unlock",
		   h->lock->key, why);
	hf_op_finish(&h->op, &result);
	hf_wake_all(&h->over);
}

/* A session that was made for one hold goes with it. */
static void leave_session(struct hf_hold *h)
{
	struct hf_session *session = h->session;

	h->session = NULL;
	if (h->lock->session_opts)
		hf_session_retire(session);
	hf_session_leave(session);
}

static enum hf_step end(struct hf_hold *h, enum hf_err code, const char *why)
{
	struct hf_engine *engine = h->op.engine;

	hf_batch_leave(&h->op);
	pthread_mutex_lock(&engine->mutex);
	hf_client_of(&h->op)->stats.released += h->was_held && code == HF_OK;
	pthread_mutex_unlock(&engine->mutex);
	tell(h, code, why);
	hf_key_pass(h->key, h);
	hf_key_put(h->key);
	h->key = NULL;
	leave_session(h);
	hf_wake_all(&h->over);
	return HF_FINISH;
}

static enum hf_step lost(struct hf_hold *h);

/* It was held until the caller gave it back, so it has not been lost: it could not be told to
 * Consul. The key may be ours for as long as the session lives. */
static enum hf_step give_up(struct hf_hold *h)
{
	struct hf_session *session = h->session;

	if (!hf_session_ended(session)) {
		hf_stray_note(session, h->key, 0);
		hf_session_retire(session);
	}
	if (session->gone)
		return lost(h);
	if (!h->trouble)
		return end(h, HF_TIMEOUT, "no answer before the lease was over");
	return end(h, h->trouble->code, h->trouble->message);
}

/* ---- what goes wrong ------------------------------------------------------------------------ */

static void note(struct hf_hold *h, const struct hf_error *err)
{
	if (!h->trouble)
		h->trouble = hf_malloc(sizeof *h->trouble);
	if (h->trouble)
		*h->trouble = *err;
	if (h->once)
		tell(h, err->code, err->message); /* and go on without the caller */
}

static enum hf_step again(struct hf_hold *h, enum hf_giveback phase, const struct hf_error *err)
{
	note(h, err);
	h->phase = phase;
	return hf_op_backoff(&h->op, h->until);
}

/* ---- asking --------------------------------------------------------------------------------- */

static enum hf_step ask(struct hf_hold *h, enum hf_giveback phase)
{
	h->phase = phase;
	if (h->ask)
		return h->ask(h, phase);
	return hf_batch_join(&h->op, phase == HF_LOOKING ? HF_LOOK | HF_FIRST | HF_CONSISTENT
							 : HF_WRITE | HF_FIRST);
}

static size_t fill_write(const struct hf_hold *h, struct hf_http *http)
{
	struct hf_txn_op txn = {.verb = h->index ? HF_CHECK_INDEX : HF_CHECK_NOT_EXISTS,
				.key = h->lock->key,
				.session = h->session->id,
				.index = h->index,
				.value = h->lock->value,
				.value_len = h->lock->value_len,
				.flags = h->lock->flags};
	bool fence = h->phase == HF_FENCING;

	hf_txn_add(http, &txn);
	if (fence) {
		txn.verb = HF_LOCK;
		hf_txn_add(http, &txn);
	}
	txn.verb = h->lock->ephemeral && !fence ? HF_DELETE : HF_UNLOCK;
	hf_txn_add(http, &txn);
	return fence ? 3 : 2;
}

static size_t giveback_fill(struct hf_op *op, struct hf_http *http)
{
	struct hf_hold *h = (struct hf_hold *)op;

	if (hf_now() >= h->until || hf_session_ended(h->session))
		return 0;
	return h->phase == HF_LOOKING ? hf_batch_look(http, h->key) : fill_write(h, http);
}

static struct hf_key *giveback_key(const struct hf_op *op)
{
	return ((const struct hf_hold *)op)->key;
}

/* ---- answers -------------------------------------------------------------------------------- */

static enum hf_step done(struct hf_hold *h, const struct hf_answer *a)
{
	if (h->lock->ephemeral && h->phase == HF_UNLOCKING)
		hf_key_deleted(h->key);
	else
		hf_key_unlocked(h->key, h->lock->flags, a->kv.index);
	return end(h, HF_OK, "");
}

/* Whatever the last of its copies is told, an earlier one may have been carried out. */
static enum hf_step unlocked(struct hf_hold *h, const struct hf_answer *a)
{
	h->unsure |= a->copied;
	switch (a->verdict) {
	case HF_V_OK:
		return done(h, a);
	case HF_V_MOVED:
	case HF_V_ABSENT:
	case HF_V_NOT_OURS:
		return ask(h, HF_LOOKING);
	case HF_V_FINAL: /* a token may be on its way, but nobody new should lean on this session */
		hf_session_retire(h->session);
		return again(h, HF_UNLOCKING, &a->err);
	case HF_V_NO_SESSION:
		hf_session_doubt(h->session);
		return end(h, HF_LOST, a->err.message);
	default:
		h->unsure |= !a->unheard;
		return again(h, HF_UNLOCKING, &a->err);
	}
}

/* The lease stood when it was given back, so a session that had ended has protected it to the end:
 * nobody can have had the key before the lock-delay was over. */
static enum hf_step lost(struct hf_hold *h)
{
	if (h->session->gone)
		return end(h, HF_SESSION, "the session had ended before the lock was released");
	return end(h, HF_LOST, "the lock had been lost before it was released");
}

/* Whether no copy of a lock that is under way can be carried out any more. An ephemeral key that is
 * absent stays so: every copy that makes it is looked for until the session ends (stray.c). */
static bool copies_are_dead(const struct hf_hold *h, const struct hf_kv *kv)
{
	if (!kv->exists)
		return !h->copies_make || h->lock->ephemeral;
	return kv->index > h->copies;
}

static enum hf_step looked(struct hf_hold *h, const struct hf_answer *a)
{
	const struct hf_kv *kv = &a->kv;

	if (a->verdict != HF_V_OK)
		return again(h, HF_LOOKING, &a->err);
	if (!hf_key_saw(h->key, kv, a->sent))
		hf_session_retire(h->session);
	h->index = kv->index;
	if (!strcmp(kv->session, h->session->id))
		return ask(h, HF_UNLOCKING);
	if (!h->was_held) {
		/* At the close the end of the session, which comes next, sees to the copies. */
		bool dead = copies_are_dead(h, kv) ||
			    (!h->session->external && hf_engine_is_closing(h->op.engine));

		return dead ? end(h, HF_OK, "") : ask(h, HF_FENCING);
	}
	if (h->unsure)
		return end(h, HF_OK, "");
	if (h->session->external)
		return lost(h);
	/* The end of the session would look the same; a renewal knows. */
	h->phase = HF_CONFIRMING;
	hf_session_doubt(h->session);
	return hf_op_park(&h->op, &h->session->confirmed, hf_now() + CONFIRM);
}

static enum hf_step fenced(struct hf_hold *h, const struct hf_answer *a)
{
	switch (a->verdict) {
	case HF_V_OK:
		return done(h, a);
	case HF_V_NO_SESSION:
		hf_session_gone(h->session);
		return end(h, HF_OK, "");
	case HF_V_FINAL: /* and so would the copies be, as long as nobody changes what we may do */
		hf_stray_note(h->session, h->key, h->copies_make ? 0 : h->copies);
		hf_session_retire(h->session);
		return end(h, a->err.code, a->err.message);
	case HF_V_DELAY:
		h->phase = HF_LOOKING;
		return hf_op_sleep(&h->op, hf_key_undelayed());
	case HF_V_MOVED:
	case HF_V_HELD:
	case HF_V_ABSENT:
	case HF_V_NOT_OURS: /* also a server whose indexes have gone back would say so, at any pace
			     */
		h->phase = HF_LOOKING;
		return hf_op_backoff(&h->op, h->until);
	default:
		return again(h, HF_LOOKING, &a->err);
	}
}

enum hf_step hf_giveback_answer(struct hf_op *op, const struct hf_answer *answer)
{
	struct hf_hold *h = (struct hf_hold *)op;

	switch (h->phase) {
	case HF_UNLOCKING:
		return unlocked(h, answer);
	case HF_LOOKING:
		return looked(h, answer);
	default:
		return fenced(h, answer);
	}
}

/* ---- the op --------------------------------------------------------------------------------- */

/* At the client's close it has half of the time: the session's end needs the other. */
static void hurry(struct hf_hold *h)
{
	struct hf_engine *engine = h->op.engine;
	int64_t now = hf_now(), half;

	pthread_mutex_lock(&engine->mutex);
	half = now + (engine->close_by - now) / 2;
	pthread_mutex_unlock(&engine->mutex);
	if (half < h->until)
		h->until = half;
	h->op.deadline = h->until;
}

static enum hf_step begin(struct hf_hold *h)
{
	int64_t deadline = atomic_load(&h->session->deadline);

	hf_guard_clear(&h->guard);
	h->until = h->session->external ? HF_NEVER : deadline;
	if (h->session->external &&
	    h->op.deadline == HF_NEVER) /* nobody waits longer than a lease */
		h->op.deadline = hf_now() + hf_session_lease(h->session);
	if (h->op.deadline > h->until)
		h->op.deadline = h->until;
	if (hf_engine_is_closing(h->op.engine))
		hurry(h);
	if (h->lost)
		return end(h, HF_LOST, "the lock has been lost");
	h->index = h->token;
	return ask(h, h->token ? HF_UNLOCKING : HF_LOOKING);
}

enum hf_step hf_giveback_next(struct hf_op *op)
{
	struct hf_hold *h = (struct hf_hold *)op;

	if (h->phase == HF_START)
		return begin(h);
	if (h->phase == HF_CONFIRMING)
		return lost(h);
	if (hf_now() >= h->until || hf_session_ended(h->session))
		return give_up(h);
	return ask(h, h->phase);
}

/* Whoever stops waiting is told so; the lock has to be given back all the same. */
enum hf_step hf_giveback_cancel(struct hf_op *op, enum hf_err why)
{
	struct hf_hold *h = (struct hf_hold *)op;
	struct hf_error err;

	if (why == HF_TIMEOUT && h->phase != HF_START && hf_now() >= h->until)
		return give_up(h);
	hf_op_why(op, why, &err);
	if (why == HF_TIMEOUT && h->trouble && h->trouble->code == HF_DENIED)
		tell(h, HF_DENIED, h->trouble->message);
	else
		tell(h, why, err.message);
	if (h->phase != HF_START)
		op->deadline = h->until;
	if (why == HF_CLOSED)
		hurry(h);
	return HF_STAY;
}

void hf_giveback_free(struct hf_op *op)
{
	struct hf_hold *h = (struct hf_hold *)op;

	hf_free(h->trouble);
	hf_session_unref(h->session);
	hf_lock_unref(h->lock);
}

static const struct hf_part_kind giveback_kind = {
	{"giveback", hf_giveback_next, NULL, NULL, hf_giveback_cancel, hf_giveback_free},
	offsetof(struct hf_hold, part),
	giveback_key,
	giveback_fill,
	hf_giveback_answer};

struct hf_hold *hf_hold_new(struct hf_lock *lock)
{
	return hf_hold_make(lock, &giveback_kind, sizeof(struct hf_hold));
}

struct hf_hold *hf_hold_make(struct hf_lock *lock, const struct hf_part_kind *kind, size_t size)
{
	struct hf_hold *h = hf_op_new(&lock->client->engine, &kind->op, size);

	if (!h)
		return NULL;
	hf_lock_ref(lock);
	h->lock = lock;
	hf_guard_init(&h->guard, &h->op, hf_lock_name(lock));
	hf_link_init(&h->place);
	hf_link_init(&h->over);
	return h;
}

void hf_hold_undo(struct hf_hold *hold)
{
	hf_engine_add(hold->op.engine, &hold->op);
}
