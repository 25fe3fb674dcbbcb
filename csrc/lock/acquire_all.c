/* acquire_all.c: takes the locks of several keys in one step: all of them, or none. It goes by this
 * table; what is said in acquire.c of single tries goes for these.
 *
 *   phase    asks                    answer                 then
 *   TURN     (waits for a turn)                             TURN, until all turns are to be had
 *   SESSION  (waits for a session)   made                   TRY, if all last unlocks were ours and
 *                                                           nobody was seen since; else READ
 *   READ     get, of those that are  some are absent        READ the rest
 *            not known               not a lock's flags     refused: CONFLICT
 *                                    one is another's       WAIT
 *                                    all free               TRY, or CLEAR
 *   CLEAR    [check, unlock] of      whatever               SESSION
 *            those that are ours
 *   TRY      [check, lock] of all    done                   they are ours
 *                                    moved, held            READ
 *                                    lock-delay             SESSION, later
 *                                    no session             SESSION, with a new one
 *                                    trouble                SESSION, later
 *   WAIT     (for a change of one)   free, absent, ours     SESSION
 *   UNDO     (waits for the givebacks, for a moment)        the answer
 *
 * Whoever waits for one key has the turn of no other, unless a try may still be carried out: single
 * locks of this client go on meanwhile, and no two wait for each other. CLEAR is for what an
 * earlier try has left to us when the TRY would have too many operations with that. */
#include "lock/acquiring.h"
#include "lock/watch.h"

#include <string.h>

struct acquire_all {
	struct hf_acquiring a;
	uint64_t unseen; /* READ: a bit for each key that has not been looked at */
	size_t operations; /* of the try */
	struct hf_hold *holds[];
};

static enum hf_step go(struct hf_acquiring *a);

static struct hf_key *key_at(const struct acquire_all *all, size_t i)
{
	return all->holds[i]->key;
}

/* The refusal of one of several keys says which. */
static enum hf_step refuse_key(struct acquire_all *all, size_t i, enum hf_err code, const char *why)
{
	struct hf_error err;

	hf_err_set(&err, code, "\"%s\": %s", all->holds[i]->lock->key, why);
	return hf_acquiring_refuse(&all->a, code, err.message);
}

static enum hf_step too_large(struct acquire_all *all)
{
	size_t max = hf_client_of(&all->a.op)->operations_max;
	struct hf_error err;

	hf_err_set(&err, HF_TOO_LARGE,
		   "%zu keys are too many: the server takes %zu operations at once, %zu are needed",
		   all->a.count, max, all->operations);
	return hf_acquiring_refuse(&all->a, HF_TOO_LARGE, err.message);
}

/* ---- turns ---------------------------------------------------------------------------------- */

/* Gives up all turns but that of the key which stands in the way, unless copies of a try have to be
 * minded. */
static void keep_one_turn(struct acquire_all *all)
{
	if (hf_acquiring_unsure(&all->a))
		return;
	for (size_t i = 0; i < all->a.count; i++)
		if (i != all->a.at)
			hf_key_pass(key_at(all, i), all->holds[i]);
}

static enum hf_step wait_for_turn(struct acquire_all *all, size_t i)
{
	struct hf_acquiring *a = &all->a;
	struct hf_key *come = a->queued;

	if (a->once)
		return refuse_key(all, i, HF_TIMEOUT,
				  "in use by this client: held, waited for, or being given back");
	for (size_t j = 0; j < a->count; j++)
		hf_key_pass(key_at(all, j), all->holds[j]);
	if (come)
		hf_key_pass(come, &a->op);
	hf_acquiring_unwatch(a);
	a->phase = HF_AT_TURN;
	a->at = i;
	a->queued = key_at(all, i);
	return hf_key_queue(a->queued, &a->op);
}

static bool need_keys(struct acquire_all *all)
{
	for (size_t i = 0; i < all->a.count; i++) {
		struct hf_hold *hold = all->holds[i];

		if (!hold->key)
			hold->key = hf_key_get(hf_client_of(&all->a.op), hold->lock->key);
		if (!hold->key)
			return false;
	}
	return true;
}

/* Takes all turns, or none. If not, *step waits for one of them. */
static bool take_turns(struct acquire_all *all, enum hf_step *step)
{
	struct hf_op *op = &all->a.op;

	if (!need_keys(all)) {
		*step = hf_acquiring_refuse(&all->a, HF_NOMEM, "out of memory");
		return false;
	}
	for (size_t i = 0; i < all->a.count; i++) {
		const void *owner = key_at(all, i)->owner;

		if (!owner || owner == op || owner == all->holds[i])
			continue;
		*step = wait_for_turn(all, i);
		return false;
	}
	for (size_t i = 0; i < all->a.count; i++)
		hf_key_take(key_at(all, i), op, all->holds[i]);
	all->a.queued = NULL;
	return true;
}

/* ---- what the keys say ---------------------------------------------------------------------- */

static bool is_fresh(const struct acquire_all *all, size_t i)
{
	return hf_key_fresh(key_at(all, i), all->a.lock->flags) && !hf_acquiring_unsure(&all->a);
}

static enum hf_step read_rest(struct acquire_all *all)
{
	all->a.phase = HF_AT_READ;
	return hf_op_send(&all->a.op, HF_COMMAND);
}

static enum hf_step look(struct hf_acquiring *a)
{
	struct acquire_all *all = (struct acquire_all *)a;

	all->unseen = ~UINT64_C(0) >> (64 - a->count);
	return read_rest(all);
}

static enum hf_step try_all(struct acquire_all *all)
{
	struct hf_acquiring *a = &all->a;
	size_t max = hf_client_of(&a->op)->operations_max;

	hf_acquiring_aim(a);
	all->operations = 0;
	for (size_t i = 0; i < a->count; i++)
		all->operations += all->holds[i]->ours ? 3 : 2;
	a->phase = HF_AT_TRY;
	if (all->operations > max) {
		/* A session made elsewhere may hold them for somebody who believes so. */
		if (2 * a->count > max || hf_acquiring_session_of(a)->external)
			return too_large(all);
		a->phase = HF_AT_CLEAR;
	}
	return hf_op_send(&a->op, HF_COMMAND);
}

static enum hf_step wait_for_key(struct acquire_all *all, size_t i)
{
	struct hf_error held;

	all->a.at = i;
	hf_err_set(&held, HF_TIMEOUT, "\"%s\" is held by session %s", all->holds[i]->lock->key,
		   key_at(all, i)->seen.session);
	hf_acquiring_note(&all->a, HF_TIMEOUT, held.message);
	keep_one_turn(all);
	return hf_acquiring_wait(&all->a);
}

static enum hf_step decide(struct acquire_all *all)
{
	struct hf_acquiring *a = &all->a;
	const char *session = hf_acquiring_session_of(a)->id;

	hf_acquiring_bury(a);
	for (size_t i = 0; i < a->count; i++) {
		const struct hf_kv *seen = &key_at(all, i)->seen;

		if (seen->exists && seen->flags != a->lock->flags)
			return refuse_key(all, i, HF_CONFLICT, hf_err_text(HF_CONFLICT));
	}
	for (size_t i = 0; i < a->count; i++)
		if (hf_key_taken(key_at(all, i), session))
			return wait_for_key(all, i);
	return try_all(all);
}

static enum hf_step go(struct hf_acquiring *a)
{
	struct acquire_all *all = (struct acquire_all *)a;
	enum hf_step step;

	if (!take_turns(all, &step) || !hf_acquiring_session(a, &step))
		return step;
	all->unseen = 0;
	for (size_t i = 0; i < a->count; i++)
		if (!is_fresh(all, i))
			all->unseen |= UINT64_C(1) << i;
	return all->unseen ? read_rest(all) : try_all(all);
}

/* Something has happened to the key that it waits for. */
static enum hf_step look_again(struct acquire_all *all)
{
	struct hf_acquiring *a = &all->a;
	struct hf_key *key = hf_acquiring_key(a);
	enum hf_step step;

	if (key->failure) {
		hf_acquiring_note(a, key->failure->code, key->failure->message);
		return key->refused ? hf_acquiring_leave(a, HF_TIMEOUT) : hf_acquiring_wait(a);
	}
	if (!hf_acquiring_has_session(a) || !key->known)
		return go(a);
	if (hf_key_taken(key, hf_acquiring_session_of(a)->id))
		return wait_for_key(all, a->at);
	return hf_acquiring_too_many(a, &step) ? step : go(a);
}

/* ---- answers -------------------------------------------------------------------------------- */

static void saw(struct acquire_all *all, size_t i, const struct hf_kv *kv, int64_t sent)
{
	all->unseen &= ~(UINT64_C(1) << i);
	if (!hf_key_saw(key_at(all, i), kv, sent))
		hf_session_retire(hf_acquiring_session_of(&all->a));
}

/* One of the keys that were read. What an ACL hides has no result. False: it is refused. */
static bool read_one(struct acquire_all *all, struct hf_txn_reply *reply, size_t i, size_t first,
		     const struct hf_http *http, struct hf_error *err)
{
	struct hf_kv kv;
	enum hf_verdict verdict = hf_txn_read_part(reply, all->holds[i]->lock->key, first, 1, &kv,
						   err);

	kv.at = kv.index; /* a transaction says no more */
	if (verdict == HF_V_OK && reply->refused)
		return true; /* it is to be read again */
	if (verdict == HF_V_OK && !kv.exists) {
		hf_err_set(err, HF_DENIED, "permission denied to read it");
		return false;
	}
	if (verdict != HF_V_OK && verdict != HF_V_ABSENT)
		return false;
	saw(all, i, &kv, http->sent);
	return true;
}

static enum hf_step looked(struct acquire_all *all, const struct hf_http *http)
{
	const struct hf_consul *consul = &hf_client_of(&all->a.op)->consul;
	size_t count = all->operations, first = 0, bad = all->a.count;
	uint64_t asked = all->unseen;
	struct hf_txn_reply reply;
	struct hf_error err;
	enum hf_verdict verdict = hf_txn_open(&reply, http, consul, count, &err);

	for (size_t i = 0; verdict == HF_V_OK && i < all->a.count && bad == all->a.count; i++)
		if (asked >> i & 1 && !read_one(all, &reply, i, first++, http, &err))
			bad = i;
	hf_txn_close(&reply);
	if (verdict == HF_V_AGAIN)
		return hf_acquiring_retry(&all->a, &err);
	if (verdict != HF_V_OK)
		return hf_acquiring_refuse(&all->a, err.code, err.message);
	if (bad < all->a.count)
		return refuse_key(all, bad, err.code, err.message);
	return all->unseen ? read_rest(all) : decide(all);
}

/* The worse of two refusals counts: what is final before what passes. */
static int weight(enum hf_verdict verdict)
{
	switch (verdict) {
	case HF_V_OK:
		return 0;
	case HF_V_DELAY:
		return 1;
	case HF_V_FINAL:
		return 3;
	case HF_V_NO_SESSION:
		return 4;
	default:
		return 2;
	}
}

static void read_try(struct acquire_all *all, struct hf_txn_reply *reply, struct hf_answer *answer)
{
	size_t first = 0;

	for (size_t i = 0; i < all->a.count; i++) {
		size_t count = all->holds[i]->ours ? 3 : 2;
		struct hf_error err;
		struct hf_kv kv;
		enum hf_verdict verdict = hf_txn_read_part(reply, all->holds[i]->lock->key, first,
							   count, &kv, &err);

		first += count;
		if (kv.exists)
			answer->kv = kv;
		if (weight(verdict) <= weight(answer->verdict))
			continue;
		answer->verdict = verdict;
		answer->err = err;
		all->a.at = i;
	}
}

static enum hf_step tried(struct acquire_all *all, const struct hf_http *http)
{
	struct hf_client *client = hf_client_of(&all->a.op);
	struct hf_answer answer = {.sent = http->sent, .unheard = hf_call_unheard(http)};
	size_t limit = hf_txn_limit(http);
	struct hf_txn_reply reply;
	enum hf_step step;

	answer.verdict = hf_txn_open(&reply, http, &client->consul, all->operations, &answer.err);
	if (answer.verdict == HF_V_OK) {
		read_try(all, &reply, &answer);
		if (answer.verdict == HF_V_OK && !answer.kv.exists)
			answer.verdict = hf_call_garbled(http, &client->consul, &answer.err);
	}
	hf_txn_close(&reply);
	if (limit && limit < all->operations) { /* nothing has been carried out */
		client->operations_max = limit;
		return all->a.why ? hf_acquiring_leave(&all->a, all->a.why) : go(&all->a);
	}
	step = hf_acquiring_tried(&all->a, &answer);
	if (answer.verdict == HF_V_DELAY && step == HF_SLEEP && all->a.phase == HF_AT_SESSION)
		keep_one_turn(all);
	return step;
}

static enum hf_step cleared(struct acquire_all *all, const struct hf_http *http)
{
	struct hf_txn_reply reply;
	struct hf_error err;
	enum hf_verdict verdict = hf_txn_open(&reply, http, &hf_client_of(&all->a.op)->consul,
					      all->operations, &err);

	hf_txn_close(&reply);
	if (verdict == HF_V_AGAIN)
		return hf_acquiring_retry(&all->a, &err);
	if (verdict != HF_V_OK)
		return hf_acquiring_refuse(&all->a, err.code, err.message);
	return look(&all->a);
}

/* ---- the op --------------------------------------------------------------------------------- */

static enum hf_step all_next(struct hf_op *op)
{
	struct hf_acquiring *a = (struct hf_acquiring *)op;

	if (a->phase == HF_AT_UNDO)
		return hf_acquiring_undo(a);
	if (a->phase == HF_AT_WAIT)
		return look_again((struct acquire_all *)op);
	return go(a);
}

static void fill_clear(struct acquire_all *all, struct hf_http *http)
{
	all->operations = 0;
	for (size_t i = 0; i < all->a.count; i++) {
		const struct hf_hold *hold = all->holds[i];
		struct hf_txn_op txn = {.verb = HF_CHECK_INDEX,
					.key = hold->lock->key,
					.session = hf_acquiring_session_of(&all->a)->id,
					.index = hold->index,
					.flags = all->a.lock->flags};

		if (!hold->ours)
			continue;
		hf_txn_add(http, &txn);
		txn.verb = HF_UNLOCK;
		hf_txn_add(http, &txn);
		all->operations += 2;
	}
}

static void fill_look(struct acquire_all *all, struct hf_http *http)
{
	all->operations = 0;
	for (size_t i = 0; i < all->a.count; i++)
		if (all->unseen >> i & 1)
			all->operations += hf_batch_look(http, key_at(all, i));
}

static bool all_request(struct hf_op *op, struct hf_http *http)
{
	struct acquire_all *all = (struct acquire_all *)op;
	struct hf_acquiring *a = &all->a;

	if (hf_session_over(hf_acquiring_session_of(a)))
		return false;
	hf_txn_begin(http, &hf_client_of(op)->consul,
		     a->phase == HF_AT_READ && hf_acquiring_unsure(a));
	if (a->phase == HF_AT_READ)
		fill_look(all, http);
	else if (a->phase == HF_AT_CLEAR)
		fill_clear(all, http);
	for (size_t i = 0; a->phase == HF_AT_TRY && i < a->count; i++)
		hf_acquiring_fill(a, all->holds[i], http);
	hf_txn_end(http);
	return true;
}

static enum hf_step all_reply(struct hf_op *op, const struct hf_http *http)
{
	struct acquire_all *all = (struct acquire_all *)op;

	switch (all->a.phase) {
	case HF_AT_TRY:
		return tried(all, http);
	case HF_AT_CLEAR:
		return cleared(all, http);
	default:
		return looked(all, http);
	}
}

static enum hf_step all_cancel(struct hf_op *op, enum hf_err why)
{
	return hf_acquiring_cancel((struct hf_acquiring *)op, why, op->state == HF_FLYING);
}

static const struct hf_kind all_kind = {"acquire all", all_next,   all_request,
					all_reply,     all_cancel, hf_acquiring_free};

enum hf_err hf_lock_acquire_all(struct hf_lock *lock, int64_t timeout, struct hf_op **out,
				struct hf_error *err)
{
	static const struct hf_way way = {go, look};
	struct acquire_all *all;

	all = hf_op_new(&lock->client->engine, &all_kind,
			sizeof *all + hf_lock_count(lock) * sizeof *all->holds);
	if (!all)
		return hf_err_set(err, HF_NOMEM, "out of memory");
	all->a.way = &way;
	return hf_acquiring_start(&all->a, lock, all->holds, timeout, out, err);
}
