/* slot.c: how a slot of a semaphore is given back, and how it is noticed that it is lost.
 *
 * Giving back goes by the table of giveback.c, where "ours" is to be read as "our session is named
 * in .lock", and the index is that of .lock:
 *
 *   UNLOCKING  [cas .lock without us, delete our key]
 *   LOOKING    get all below the prefix
 *   FENCING    [cas .lock as it is, but for a line end that means nothing, delete our key]: the
 *              index moves, so every copy of a try is dead. With a session of our own its end,
 *              which comes next, does as much
 *
 * The watch over the name:
 *
 *   WATCH      (waits for a change)     named, alive          WATCH
 *                                       not                   CONFIRM
 *   CONFIRM    get, consistent          named, alive          WATCH
 *                                       not                   ASK
 *   ASK        (waits for a renewal)    gone                  lost: session
 *                                       there, no answer      lost: key (our key is gone, or
 * .lock), stolen (we have been taken out of it)
 */
#include "lock/slot.h"

#include "base/random.h"

#include <string.h>

/* Between looks when others have written faster, ms. */
#define VAIN 50
/* How long a renewal may take to tell whether the session is there, ms. */
#define CONFIRM_MS 500

/* ---- .lock ---------------------------------------------------------------------------------- */

static const char *id_of(const struct hf_slot *s)
{
	return s->hold.session->id;
}

void hf_slot_write(struct hf_slot *slot, struct hf_http *http, bool with, bool fence)
{
	const char *id = id_of(slot);
	struct hf_buf text = {0};

	hf_semaphore_free(&slot->next);
	text.failed = !hf_semaphore_change(&slot->next, &slot->tree->seen, slot->hold.lock->limit,
					   with ? NULL : id, with ? id : NULL);
	slot->next.newline ^= fence;
	hf_semaphore_write(&text, &slot->next);
	hf_txn_add(http, &(struct hf_txn_op){.verb = HF_CAS,
					     .key = slot->tree->lock,
					     .index = slot->tree->seen.index,
					     .value = hf_buf_text(&text),
					     .value_len = text.len,
					     .flags = HF_SEMAPHORE_FLAGS});
	http->body.failed |= text.failed;
	hf_buf_free(&text);
}

enum hf_verdict hf_slot_written(struct hf_slot *slot, const struct hf_http *http, size_t count,
				uint64_t *index, struct hf_error *err)
{
	const struct hf_consul *consul = &hf_client_of(&slot->hold.op)->consul;
	enum hf_verdict verdict = hf_semaphore_written(http, consul, slot->tree->lock, count, index,
						       err);

	if (verdict == HF_V_OK && !*index)
		verdict = hf_call_garbled(http, consul, err);
	slot->next.index = *index;
	if (verdict == HF_V_OK)
		hf_tree_saw(slot->tree, &slot->next, http->sent);
	else
		hf_semaphore_free(&slot->next);
	return verdict;
}

enum hf_verdict hf_slot_saw(struct hf_tree *tree, const struct hf_http *http, struct hf_error *err)
{
	struct hf_semaphore seen;
	enum hf_verdict verdict = hf_semaphore_read(http, &tree->client->consul, tree->prefix,
						    &seen, err);

	if (verdict == HF_V_OK)
		hf_tree_saw(tree, &seen, http->sent);
	return verdict;
}

/* ---- giving back ---------------------------------------------------------------------------- */

static bool is_named(const struct hf_slot *s)
{
	const struct hf_tree *tree = s->tree;

	return tree->known && tree->seen.exists && !tree->seen.foreign &&
	       hf_semaphore_find(&tree->seen, id_of(s));
}

/* What is not known to be ours is looked at first; who looks again has been outrun. */
static enum hf_step ask(struct hf_hold *h, enum hf_giveback phase)
{
	struct hf_slot *s = (struct hf_slot *)h;

	if (phase == HF_UNLOCKING && !is_named(s))
		h->phase = HF_LOOKING;
	if (h->phase == HF_LOOKING && s->looks && !s->rested) {
		s->rested = true;
		return hf_op_sleep(&h->op, hf_now() + hf_jitter(0, VAIN));
	}
	s->rested = false;
	s->looks += h->phase == HF_LOOKING;
	return hf_op_send(&h->op, HF_COMMAND);
}

static bool slot_request(struct hf_op *op, struct hf_http *http)
{
	struct hf_slot *s = (struct hf_slot *)op;
	struct hf_tree *tree = s->tree;
	const struct hf_consul *consul = &hf_client_of(op)->consul;

	if (hf_now() >= s->hold.until || hf_session_ended(s->hold.session))
		return false;
	if (s->hold.phase == HF_LOOKING) {
		hf_semaphore_get(http, consul, tree->prefix, 0, true);
		return true;
	}
	hf_txn_begin(http, consul, false);
	hf_slot_write(s, http, false, s->hold.phase == HF_FENCING);
	hf_txn_add(http, &(struct hf_txn_op){.verb = HF_ERASE, .key = s->hold.key->name});
	hf_txn_end(http);
	return true;
}

/* As the answer to a lock's giveback: .lock is the key, and who is named in it has it. */
static void look_at(const struct hf_slot *s, struct hf_kv *kv)
{
	const struct hf_semaphore *seen = &s->tree->seen;

	*kv = (struct hf_kv){.exists = seen->exists, .index = seen->index, .at = seen->at};
	if (is_named(s))
		memcpy(kv->session, id_of(s), strlen(id_of(s)) + 1);
}

static enum hf_step after(struct hf_slot *s, enum hf_step step)
{
	if (step == HF_FINISH) {
		hf_tree_put(s->tree);
		s->tree = NULL;
	}
	return step;
}

static enum hf_step slot_reply(struct hf_op *op, const struct hf_http *http)
{
	struct hf_slot *s = (struct hf_slot *)op;
	struct hf_answer a = {
		.sent = http->sent, .copied = http->sendings > 1, .unheard = hf_call_unheard(http)};

	if (s->hold.phase == HF_LOOKING)
		a.verdict = hf_slot_saw(s->tree, http, &a.err);
	else
		a.verdict = hf_slot_written(s, http, 2, &a.kv.index, &a.err);
	if (a.verdict == HF_V_OK && s->hold.phase == HF_LOOKING)
		look_at(s, &a.kv);
	return after(s, hf_giveback_answer(&s->hold.op, &a));
}

static enum hf_step slot_next(struct hf_op *op)
{
	return after((struct hf_slot *)op, hf_giveback_next(op));
}

static enum hf_step slot_cancel(struct hf_op *op, enum hf_err why)
{
	return after((struct hf_slot *)op, hf_giveback_cancel(op, why));
}

static void slot_free(struct hf_op *op)
{
	hf_semaphore_free(&((struct hf_slot *)op)->next);
	hf_giveback_free(op);
}

static const struct hf_part_kind slot_kind = {
	{"slot", slot_next, slot_request, slot_reply, slot_cancel, slot_free},
	offsetof(struct hf_hold, part),
	NULL,
	NULL,
	NULL};

struct hf_slot *hf_slot_new(struct hf_lock *lock)
{
	struct hf_hold *hold = hf_hold_make(lock, &slot_kind, sizeof(struct hf_slot));

	if (hold)
		hold->ask = ask;
	return (struct hf_slot *)hold;
}

/* ---- whether it is lost --------------------------------------------------------------------- */

/* Stands on the hold's guard, so it ends with it. */
struct watch {
	struct hf_op op;
	struct hf_slot *slot; /* the guard's owner, which the op counts */
	struct hf_tree *tree; /* watched; the slot has put it when this one ends */
	enum hf_reason reason; /* what it seems to be lost by, and is to be asked about */
};

/* What is seen may be from before the hold. */
static enum hf_reason seems_lost(const struct watch *w)
{
	const struct hf_semaphore *seen = &w->tree->seen;
	const struct hf_holder *holder;

	if (!w->tree->known || (seen->exists && seen->index < w->slot->hold.token))
		return HF_NO_REASON;
	holder = seen->foreign ? NULL : hf_semaphore_find(seen, id_of(w->slot));
	if (holder && holder->alive)
		return HF_NO_REASON;
	return seen->exists && !holder ? HF_BY_STOLEN : HF_BY_KEY;
}

static enum hf_step watch_next(struct hf_op *op)
{
	struct watch *w = (struct watch *)op;

	if (w->reason) {
		hf_hold_lose(&w->slot->hold, w->reason);
		w->reason = HF_NO_REASON;
	} else if (seems_lost(w)) {
		return hf_op_send(op, HF_COMMAND);
	}
	return hf_tree_wait(w->tree, op);
}

static bool watch_request(struct hf_op *op, struct hf_http *http)
{
	hf_semaphore_get(http, &hf_client_of(op)->consul, ((struct watch *)op)->tree->prefix, 0,
			 true);
	return true;
}

static enum hf_step watch_reply(struct hf_op *op, const struct hf_http *http)
{
	struct watch *w = (struct watch *)op;
	struct hf_session *session = w->slot->hold.session;
	struct hf_error err;

	if (hf_slot_saw(w->tree, http, &err) != HF_V_OK)
		return hf_op_backoff(op, HF_NEVER);
	hf_op_recovered(op);
	w->reason = seems_lost(w);
	if (!w->reason)
		return hf_tree_wait(w->tree, op);
	if (session->external)
		return watch_next(op);
	/* The end of the session looks the same; a renewal knows, and comes first. */
	hf_session_doubt(session);
	return hf_op_park(op, &session->confirmed, hf_now() + CONFIRM_MS);
}

static enum hf_step watch_cancel(struct hf_op *op, enum hf_err why)
{
	struct watch *w = (struct watch *)op;

	(void)why;
	hf_tree_unwatch(w->tree, false);
	hf_tree_put(w->tree);
	return HF_FINISH;
}

static const struct hf_kind watch_kind = {"name",      watch_next,   watch_request,
					  watch_reply, watch_cancel, NULL};

void hf_slot_watch(struct hf_slot *slot)
{
	struct watch *w = hf_op_new(slot->hold.op.engine, &watch_kind, sizeof *w);

	if (!w)
		return;
	if (!hf_tree_watch(slot->tree, false)) {
		hf_op_unref(&w->op);
		return;
	}
	w->op.internal = true;
	w->slot = slot;
	w->tree = slot->tree;
	w->tree->refs++;
	hf_op_stand_on(&w->op, &slot->hold.guard);
	hf_engine_add(slot->hold.op.engine, &w->op);
}
