/* trying.c: the tries of acquiring.h: what they are conditional on, what comes of them, and which
 * copies of them may still be carried out. */
#include "base/random.h"
#include "lock/acquiring.h"
#include "lock/monitor.h"
#include "lock/stray.h"
#include "lock/together.h"

#include <string.h>

/* A try in vain is an entry in every server's log: so many of them may follow each other, then one
 * in so many ms. */
#define TRIES_BURST 4
#define TRIES_EACH 25
/* With timeout 0: so many tries, each of which somebody else was faster than. */
#define ONCE_MAX 5
/* Between tries at an index that the server shows as free and refuses, ms. */
#define ODD_MIN 100
#define ODD_MAX 300

static struct hf_session *session_of(const struct hf_acquiring *a)
{
	return hf_acquiring_session_of(a);
}

/* ---- how many ------------------------------------------------------------------------------- */

bool hf_acquiring_too_many(struct hf_acquiring *a, enum hf_step *step)
{
	int64_t at = hf_acquiring_key(a)->paid - TRIES_BURST * TRIES_EACH;

	if (at <= hf_now())
		return false;
	*step = hf_acquiring_later(a, at + hf_jitter(0, TRIES_EACH));
	return true;
}

/* ---- copies --------------------------------------------------------------------------------- */

void hf_acquiring_forget_copies(struct hf_acquiring *a)
{
	for (size_t i = 0; i < a->count; i++) {
		a->holds[i]->copies = 0;
		a->holds[i]->copies_make = false;
	}
}

/* Copies that are conditional on less than this are dead, and one that makes the key is so for as
 * long as it exists. A try is all or nothing, so one key is enough. If the key is ours, one of them
 * has been carried out, and is to be taken over or to be given back. */
void hf_acquiring_bury(struct hf_acquiring *a)
{
	for (size_t i = 0; i < a->count; i++)
		if (!strcmp(a->holds[i]->key->seen.session, session_of(a)->id))
			return;
	for (size_t i = 0; i < a->count; i++) {
		const struct hf_kv *seen = &a->holds[i]->key->seen;
		uint64_t copies = a->holds[i]->copies;

		if (!seen->exists || (!copies && !a->holds[i]->copies_make))
			continue;
		if (seen->index > copies) {
			hf_acquiring_forget_copies(a);
			return;
		}
		a->holds[i]->copies_make = false;
	}
}

/* A try that was not granted says nothing about copies of it: libcurl makes one when a kept
 * connection turns out to be dead, and who knows what is between us and the server. */
void hf_acquiring_note_copies(struct hf_acquiring *a)
{
	for (size_t i = 0; i < a->count; i++) {
		struct hf_hold *hold = a->holds[i];

		if (hold->index > hold->copies)
			hold->copies = hold->index;
		if (!hold->index)
			hold->copies_make = true;
	}
}

/* ---- the try --------------------------------------------------------------------------------- */

void hf_acquiring_aim(struct hf_acquiring *a)
{
	a->makes = false;
	for (size_t i = 0; i < a->count; i++) {
		struct hf_hold *hold = a->holds[i];
		const struct hf_kv *seen = &hold->key->seen;

		hold->index = seen->exists ? seen->index : 0;
		a->makes |= !hold->index;
		hold->ours = !strcmp(seen->session, session_of(a)->id);
	}
}

/* Whatever comes of it, a copy of it may come once more. One that is conditional on an index is
 * dead when the index is seen to have moved, which leaving looks to; one that makes the key is not,
 * as long as somebody may delete that, and it takes the other keys with it. */
size_t hf_acquiring_fill(struct hf_acquiring *a, struct hf_hold *hold, struct hf_http *http)
{
	struct hf_txn_op txn = {.key = hold->lock->key,
				.session = session_of(a)->id,
				.value = a->lock->value,
				.value_len = a->lock->value_len,
				.flags = a->lock->flags};

	if (!hold->index)
		hold->key->ephemeral = a->lock->ephemeral;
	if (a->makes)
		hf_stray_note(session_of(a), hold->key, hold->index);
	txn.verb = hold->index ? HF_CHECK_INDEX : HF_CHECK_NOT_EXISTS;
	txn.index = hold->index;
	hf_txn_add(http, &txn);
	/* What is ours already gets a new index: an unlock that is under way must not find the one
	 * it is conditional on, and no token is given twice. */
	if (hold->ours) {
		txn.verb = HF_UNLOCK;
		hf_txn_add(http, &txn);
	}
	txn.verb = HF_LOCK;
	hf_txn_add(http, &txn);
	return hold->ours ? 3 : 2;
}

/* The holds begin, unless the op is to end or the session has: why. */
static enum hf_err begin_locked(struct hf_acquiring *a, int64_t sent)
{
	const struct hf_error ok = {HF_OK, ""};

	if (a->op.engine->closing)
		return HF_CLOSED;
	if (a->op.stop)
		return a->op.stop;
	if (!hf_session_alive_locked(session_of(a)))
		return HF_SESSION;
	for (size_t i = 0; i < a->count; i++) {
		hf_lock_begin_hold_locked(a->holds[i], sent);
		if (a->together)
			hf_together_add_locked(a->together, a->holds[i]);
	}
	hf_op_finish_locked(&a->op, &ok);
	a->lock->acquiring = NULL;
	return HF_OK;
}

/* The server says that the lock is ours. */
static enum hf_step won(struct hf_acquiring *a, uint64_t token, int64_t sent)
{
	struct hf_engine *engine = a->op.engine;
	struct hf_kv ours = {.exists = true, .flags = a->lock->flags, .index = token, .at = token};
	enum hf_err why;

	memcpy(ours.session, session_of(a)->id, sizeof ours.session - 1);
	hf_acquiring_unwatch(a);
	for (size_t i = 0; i < a->count; i++)
		hf_key_saw(a->holds[i]->key, &ours, INT64_MAX);
	pthread_mutex_lock(&engine->mutex);
	why = begin_locked(a, sent);
	pthread_mutex_unlock(&engine->mutex);
	if (why)
		return why == HF_SESSION ? a->way->go(a) : hf_acquiring_leave(a, why);
	for (size_t i = 0; i < a->count && a->lock->monitor_key; i++)
		hf_monitor_key(a->holds[i]);
	if (a->expiry)
		hf_engine_add(engine, a->expiry);
	a->expiry = NULL;
	return HF_FINISH;
}

static uint64_t sum_of_indexes(const struct hf_acquiring *a)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < a->count; i++)
		sum += a->holds[i]->index;
	return sum;
}

static enum hf_step in_vain(struct hf_acquiring *a, const struct hf_error *err)
{
	struct hf_key *key = hf_acquiring_key(a);
	uint64_t sum = sum_of_indexes(a);
	int64_t now = hf_now();
	enum hf_step step;

	key->paid = (key->paid > now ? key->paid : now) + TRIES_EACH;
	if (a->once && ++a->tries >= ONCE_MAX)
		return hf_acquiring_refuse(a, HF_TIMEOUT, "others were faster");
	hf_acquiring_note(a, HF_TIMEOUT, err->message);
	if (sum && sum == a->vain)
		return hf_acquiring_later(a, now + hf_jitter(ODD_MIN, ODD_MAX));
	a->vain = sum;
	return hf_acquiring_too_many(a, &step) ? step : a->way->look(a);
}

/* Refused by what may not be there when a copy comes: that is looked for, in its time. */
static void note_strays(struct hf_acquiring *a)
{
	for (size_t i = 0; i < a->count; i++)
		if (a->holds[i]->index)
			hf_stray_note(session_of(a), a->holds[i]->key, a->holds[i]->index);
}

static enum hf_step not_granted(struct hf_acquiring *a, const struct hf_answer *answer)
{
	const struct hf_error *err = &answer->err;

	switch (answer->verdict) {
	case HF_V_AGAIN:
		return hf_acquiring_retry(a, err);
	case HF_V_HELD:
	case HF_V_MOVED:
	case HF_V_ABSENT:
	case HF_V_NOT_OURS:
		return in_vain(a, err);
	case HF_V_DELAY:
		if (a->once)
			return hf_acquiring_refuse(a, HF_TIMEOUT, err->message);
		hf_acquiring_note(a, HF_TIMEOUT, err->message);
		hf_acquiring_unwatch(a); /* nothing changes on the key */
		return hf_acquiring_later(a, hf_key_undelayed());
	case HF_V_NO_SESSION:
		return a->way->go(a);
	default:
		return hf_acquiring_refuse(a, err->code, err->message);
	}
}

enum hf_step hf_acquiring_tried(struct hf_acquiring *a, const struct hf_answer *answer)
{
	enum hf_verdict verdict = answer->verdict;

	if (verdict == HF_V_OK) { /* and any copy is dead: the index has moved, the key exists */
		for (size_t i = 0; i < a->count; i++)
			a->holds[i]->token = answer->kv.index;
		return a->why ? hf_acquiring_leave(a, a->why)
			      : won(a, answer->kv.index, answer->sent);
	}
	if (verdict == HF_V_AGAIN && !answer->unheard)
		hf_session_retire(session_of(a));
	if (verdict == HF_V_DELAY || verdict == HF_V_FINAL)
		note_strays(a);
	else if (!answer->unheard)
		hf_acquiring_note_copies(a);
	if (verdict == HF_V_NO_SESSION)
		hf_session_gone(session_of(a));
	if (a->why)
		return hf_acquiring_leave(a, a->why);
	if (verdict != HF_V_AGAIN) /* a read alone is no recovery: what fails may be the writes */
		hf_op_recovered(&a->op);
	return not_granted(a, answer);
}
