/* acquire.c: takes the lock of one key: wait until it is my turn among the locks of this client,
 * wait until the key may be free, try. It goes by this table.
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
#include "lock/acquiring.h"
#include "lock/batch.h"
#include "lock/watch.h"

struct acquire {
	struct hf_acquiring a;
	struct hf_hold *hold;
	struct hf_part part;
};

static enum hf_step read_key(struct hf_acquiring *a)
{
	a->phase = HF_AT_READ;
	return hf_batch_join(&a->op, hf_acquiring_unsure(a) ? HF_LOOK | HF_CONSISTENT : HF_LOOK);
}

static enum hf_step try_it(struct hf_acquiring *a)
{
	/* Two of a transaction get one index, and what is no plain lock stands in line by it. */
	unsigned how = a->lock->flags == HF_LOCK_FLAGS ? HF_WRITE : HF_WRITE | HF_ALONE;

	hf_acquiring_aim(a);
	a->phase = HF_AT_TRY;
	return hf_batch_join(&a->op, how);
}

static enum hf_step use_session(struct hf_acquiring *a)
{
	const struct hf_key *key = hf_acquiring_key(a);
	enum hf_step step;

	if (!hf_acquiring_session(a, &step))
		return step;
	return hf_key_fresh(key, a->lock->flags) && !hf_acquiring_unsure(a) ? try_it(a)
									    : read_key(a);
}

static enum hf_step take_turn(struct hf_acquiring *a)
{
	struct hf_hold *hold = a->holds[0];

	if (!hold->key)
		hold->key = hf_key_get(hf_client_of(&a->op), a->lock->key);
	if (!hold->key)
		return hf_acquiring_refuse(a, HF_NOMEM, "out of memory");
	a->queued = NULL;
	if (hf_key_take(hold->key, &a->op, hold))
		return use_session(a);
	if (a->once)
		return hf_acquiring_refuse(
			a, HF_TIMEOUT,
			"in use by this client: held, waited for, or being given back");
	a->queued = hold->key;
	return hf_key_queue(hold->key, &a->op);
}

/* ---- what the key says ---------------------------------------------------------------------- */

static enum hf_step decide(struct hf_acquiring *a)
{
	struct hf_key *key = hf_acquiring_key(a);
	struct hf_error held;

	hf_acquiring_bury(a);
	if (key->seen.exists && key->seen.flags != a->lock->flags)
		return hf_acquiring_refuse(a, HF_CONFLICT, hf_err_text(HF_CONFLICT));
	if (!hf_key_taken(key, hf_acquiring_session_of(a)->id))
		return try_it(a);
	hf_err_set(&held, HF_TIMEOUT, "held by session %s", key->seen.session);
	hf_acquiring_note(a, HF_TIMEOUT, held.message);
	return hf_acquiring_wait(a);
}

static enum hf_step looked(struct hf_acquiring *a, const struct hf_answer *answer)
{
	if (answer->verdict == HF_V_AGAIN)
		return hf_acquiring_retry(a, &answer->err);
	if (answer->verdict != HF_V_OK)
		return hf_acquiring_refuse(a, answer->err.code, answer->err.message);
	if (!hf_key_saw(hf_acquiring_key(a), &answer->kv, answer->sent))
		hf_session_retire(hf_acquiring_session_of(a));
	return decide(a);
}

static enum hf_step look_again(struct hf_acquiring *a)
{
	struct hf_key *key = hf_acquiring_key(a);
	enum hf_step step;

	if (key->failure) {
		hf_acquiring_note(a, key->failure->code, key->failure->message);
		return key->refused ? hf_acquiring_leave(a, HF_TIMEOUT) : hf_acquiring_wait(a);
	}
	if (!hf_acquiring_has_session(a))
		return use_session(a);
	if (!key->known)
		return read_key(a);
	if (!hf_key_taken(key, hf_acquiring_session_of(a)->id) && hf_acquiring_too_many(a, &step))
		return step;
	return decide(a);
}

/* ---- the op --------------------------------------------------------------------------------- */

static enum hf_step acquire_next(struct hf_op *op)
{
	struct hf_acquiring *a = (struct hf_acquiring *)op;

	if (a->phase == HF_AT_UNDO)
		return hf_acquiring_undo(a);
	if (a->why) /* stopped, and not to be sent once more */
		return hf_acquiring_leave(a, a->why);
	if (a->phase == HF_AT_TURN)
		return take_turn(a);
	return a->phase == HF_AT_WAIT ? look_again(a) : use_session(a);
}

/* A try that waits to go once more, and will not. */
static void note_sent(struct acquire *one)
{
	if (one->a.phase == HF_AT_TRY && one->part.resent)
		hf_acquiring_note_copies(&one->a);
}

static size_t acquire_fill(struct hf_op *op, struct hf_http *http)
{
	struct acquire *one = (struct acquire *)op;
	struct hf_acquiring *a = &one->a;

	if (a->why || hf_session_over(hf_acquiring_session_of(a))) {
		note_sent(one);
		return 0;
	}
	return a->phase == HF_AT_TRY ? hf_acquiring_fill(a, one->hold, http)
				     : hf_batch_look(http, one->hold->key);
}

static enum hf_step acquire_answer(struct hf_op *op, const struct hf_answer *answer)
{
	struct hf_acquiring *a = (struct hf_acquiring *)op;

	return a->phase == HF_AT_TRY ? hf_acquiring_tried(a, answer) : looked(a, answer);
}

static struct hf_key *acquire_key(const struct hf_op *op)
{
	return hf_acquiring_key((const struct hf_acquiring *)op);
}

static enum hf_step acquire_cancel(struct hf_op *op, enum hf_err why)
{
	struct acquire *one = (struct acquire *)op;
	bool trying = one->a.phase == HF_AT_TRY && one->part.batch;
	bool first = !one->a.why;

	if (first)
		note_sent(one);
	if (!first || !trying)
		hf_batch_leave(op);
	return hf_acquiring_cancel(&one->a, why, trying);
}

static const struct hf_part_kind acquire_kind = {
	{"acquire", acquire_next, NULL, NULL, acquire_cancel, hf_acquiring_free},
	offsetof(struct acquire, part),
	acquire_key,
	acquire_fill,
	acquire_answer};

enum hf_err hf_lock_acquire(struct hf_lock *lock, int64_t timeout, struct hf_op **out,
			    struct hf_error *err)
{
	static const struct hf_way way = {use_session, read_key};
	struct hf_engine *engine = &lock->client->engine;
	struct acquire *one;

	if (!hf_engine_here(engine, err))
		return err->code;
	if (hf_lock_count(lock) > 1)
		return hf_lock_acquire_all(lock, timeout, out, err);
	one = hf_op_new(engine, &acquire_kind.op, sizeof *one);
	if (!one)
		return hf_err_set(err, HF_NOMEM, "out of memory");
	one->a.way = &way;
	return hf_acquiring_start(&one->a, lock, &one->hold, timeout, out, err);
}
