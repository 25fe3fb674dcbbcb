/* stray.c: keys that a session may come to hold without anybody's knowledge: a copy of a lock that
 * is carried out late, or once more by something between us and the server. Whoever sent it has
 * left, or believes that the key is given back. Until the session ends they are looked at in turns,
 * many at once, and what is ours and nobody's is freed.
 *
 *   warden  one for a session: check-session operations, up to 64 a request
 *   stray   one for a key that was found: looks, and unlocks it */
#include "lock/stray.h"

#include "base/alloc.h"
#include "base/random.h"
#include "lock/batch.h"
#include "lock/lock.h"

#include <string.h>

/* With so many to look after a session is retired: it is not to be asked about them for ever. */
#define SUSPECTS_MAX 4096
/* Looks a second at most, however many there are. */
#define PACE 400

/* ---- a key that was found ------------------------------------------------------------------- */

struct stray {
	struct hf_op op;
	struct hf_part part;
	struct hf_session *session; /* counted */
	struct hf_key *key; /* counted */
	uint64_t index; /* what its unlock is conditional on; 0: look first */
	uint64_t flags; /* what the look has found */
};

/* Whether somebody has the key's turn who sees to what this session has: holds it, gives it back,
 * or looks before trying. */
static bool in_good_hands(const struct hf_key *key, const struct hf_session *session)
{
	return key->owner && (!key->owner_session || key->owner_session == session);
}

static void stray_free(struct hf_op *op)
{
	hf_session_unref(((struct stray *)op)->session);
}

static enum hf_step stray_end(struct stray *s)
{
	hf_batch_leave(&s->op);
	s->key->stray = false;
	hf_key_put(s->key);
	return HF_FINISH;
}

static enum hf_step stray_ask(struct stray *s, uint64_t index)
{
	s->index = index;
	return hf_batch_join(&s->op, index ? HF_WRITE | HF_FIRST : HF_LOOK | HF_CONSISTENT);
}

static enum hf_step stray_next(struct hf_op *op)
{
	struct stray *s = (struct stray *)op;

	if (hf_session_over(s->session))
		return stray_end(s);
	return stray_ask(s, s->index);
}

static size_t stray_fill(struct hf_op *op, struct hf_http *http)
{
	struct stray *s = (struct stray *)op;
	struct hf_txn_op txn = {.verb = HF_CHECK_INDEX,
				.key = s->key->name,
				.session = s->session->id,
				.index = s->index,
				.flags = s->flags};

	if (hf_session_over(s->session))
		return 0;
	if (!s->index)
		return hf_batch_look(http, s->key);
	hf_txn_add(http, &txn);
	txn.verb = s->key->ephemeral ? HF_DELETE : HF_UNLOCK;
	hf_txn_add(http, &txn);
	return 2;
}

static enum hf_step stray_unlocked(struct stray *s, const struct hf_answer *a)
{
	switch (a->verdict) {
	case HF_V_OK:
		if (s->key->ephemeral)
			hf_key_deleted(s->key);
		else
			hf_key_unlocked(s->key, s->flags, a->kv.index);
		return stray_end(s);
	case HF_V_MOVED:
	case HF_V_ABSENT:
	case HF_V_NOT_OURS:
		return stray_ask(s, 0);
	case HF_V_AGAIN:
		return hf_op_backoff(&s->op, HF_NEVER);
	default: /* the next look finds it again */
		return stray_end(s);
	}
}

static enum hf_step stray_answer(struct hf_op *op, const struct hf_answer *a)
{
	struct stray *s = (struct stray *)op;

	if (s->index)
		return stray_unlocked(s, a);
	if (a->verdict != HF_V_OK)
		return hf_op_backoff(op, HF_NEVER);
	hf_key_saw(s->key, &a->kv, a->sent);
	if (strcmp(a->kv.session, s->session->id) != 0 || in_good_hands(s->key, s->session))
		return stray_end(s);
	s->flags = a->kv.flags;
	return stray_ask(s, a->kv.index);
}

static enum hf_step stray_cancel(struct hf_op *op, enum hf_err why)
{
	(void)why;
	return stray_end((struct stray *)op);
}

static struct hf_key *stray_key(const struct hf_op *op)
{
	return ((const struct stray *)op)->key;
}

static const struct hf_part_kind stray_kind = {
	{"stray", stray_next, NULL, NULL, stray_cancel, stray_free},
	offsetof(struct stray, part),
	stray_key,
	stray_fill,
	stray_answer};

/* Without memory it is found again in the next round. */
static void found(struct hf_session *session, struct hf_key *key)
{
	struct stray *s;

	if (key->stray || in_good_hands(key, session))
		return;
	s = hf_op_new(&session->client->engine, &stray_kind.op, sizeof *s);
	if (!s)
		return;
	s->session = session;
	hf_session_ref(session);
	s->key = key;
	hf_key_ref(key);
	key->stray = true;
	hf_engine_add(&session->client->engine, &s->op);
}

/* ---- all of a session ----------------------------------------------------------------------- */

struct suspect {
	struct hf_link place; /* session->suspects */
	struct hf_session *session; /* whose it is */
	struct hf_key *key; /* counted */
	uint64_t index; /* what the copy is conditional on; 0: the key's absence */
};

struct warden {
	struct hf_op op;
	struct hf_session *session; /* counted */
	size_t count; /* how many, from the end of the list, the request in flight is about */
	bool begun;
};

static void warden_free(struct hf_op *op)
{
	hf_session_unref(((struct warden *)op)->session);
}

static void forget(struct hf_session *session, struct suspect *suspect)
{
	hf_link_remove(&suspect->place);
	if (suspect->key->suspect == suspect)
		suspect->key->suspect = NULL;
	hf_key_put(suspect->key);
	hf_free(suspect);
	session->suspect_count--;
}

static enum hf_step warden_end(struct warden *w)
{
	struct hf_session *session = w->session;
	struct hf_link *link;

	while ((link = hf_link_first(&session->suspects)) != NULL)
		forget(session, HF_OF(struct suspect, place, link));
	session->warden = NULL;
	return HF_FINISH;
}

/* The index has moved: no copy can be carried out any more. One that makes the key can, whenever
 * that has been deleted. */
static bool is_dead(const struct suspect *suspect)
{
	const struct hf_kv *seen = &suspect->key->seen;

	return suspect->index && seen->exists && seen->index > suspect->index;
}

static enum hf_step warden_rest(struct warden *w)
{
	int64_t interval = hf_session_interval(w->session);
	size_t batches = w->session->suspect_count / HF_TXN_MAX + 1;
	int64_t pause = interval / (int64_t)batches;

	if (pause < PACE)
		pause = PACE;
	return hf_op_sleep(&w->op, hf_now() + hf_jitter(pause * 9 / 10, pause * 11 / 10));
}

static enum hf_step warden_next(struct hf_op *op)
{
	struct warden *w = (struct warden *)op;

	if (hf_session_over(w->session) || !w->session->suspect_count)
		return warden_end(w);
	if (!w->begun) {
		w->begun = true;
		return warden_rest(w);
	}
	return hf_op_send(op, HF_COMMAND);
}

static bool warden_request(struct hf_op *op, struct hf_http *http)
{
	struct warden *w = (struct warden *)op;
	struct hf_session *session = w->session;
	size_t left = session->suspect_count;

	w->count = 0;
	hf_txn_begin(http, &hf_client_of(op)->consul, true);
	for (; left && hf_txn_room(http, w->count); left--) {
		struct hf_link *link = hf_link_first(&session->suspects);
		struct suspect *suspect = HF_OF(struct suspect, place, link);

		if (is_dead(suspect)) {
			forget(session, suspect);
			continue;
		}
		hf_link_remove(link);
		hf_link_append(&session->suspects, link);
		hf_txn_add(http, &(struct hf_txn_op){.verb = HF_CHECK_SESSION,
						     .key = suspect->key->name,
						     .session = session->id});
		w->count++;
	}
	hf_txn_end(http);
	return w->count > 0;
}

static enum hf_step warden_reply(struct hf_op *op, const struct hf_http *http)
{
	struct warden *w = (struct warden *)op;
	struct hf_session *session = w->session;
	enum hf_verdict verdicts[HF_TXN_MAX];
	struct hf_link *link = &session->suspects;
	struct hf_error ignored;

	if (hf_txn_read_checks(http, &hf_client_of(op)->consul, w->count, verdicts, &ignored) !=
	    HF_V_OK)
		return warden_rest(w);
	for (size_t i = w->count; i-- > 0;) {
		link = link->prev;
		if (verdicts[i] == HF_V_OK)
			found(session, HF_OF(struct suspect, place, link)->key);
	}
	return warden_rest(w);
}

static enum hf_step warden_cancel(struct hf_op *op, enum hf_err why)
{
	(void)why;
	return warden_end((struct warden *)op);
}

static const struct hf_kind warden_kind = {"warden",	 warden_next,	warden_request,
					   warden_reply, warden_cancel, warden_free};

static bool need_warden(struct hf_session *session)
{
	struct warden *w;

	if (session->warden)
		return true;
	w = hf_op_new(&session->client->engine, &warden_kind, sizeof *w);
	if (!w)
		return false;
	w->session = session;
	hf_session_ref(session);
	session->warden = &w->op;
	hf_engine_add(&session->client->engine, &w->op);
	return true;
}

static bool suspect(struct hf_session *session, struct hf_key *key, uint64_t index)
{
	struct suspect *known = key->suspect;

	if (!known || known->session != session) {
		known = need_warden(session) ? hf_calloc(1, sizeof *known) : NULL;
		if (!known)
			return false;
		hf_key_ref(key);
		known->key = key;
		known->session = session;
		known->index = index;
		hf_link_prepend(&session->suspects, &known->place);
		session->suspect_count++;
		key->suspect = known;
	}
	if (!index || (known->index && index > known->index))
		known->index = index;
	return true;
}

void hf_stray_note(struct hf_session *session, struct hf_key *key, uint64_t index)
{
	if (!suspect(session, key, index) || session->suspect_count >= SUSPECTS_MAX)
		hf_session_retire(session);
}

void hf_stray_free(struct hf_session *session)
{
	struct hf_link *link;

	while ((link = hf_link_first(&session->suspects)) != NULL) {
		hf_link_remove(link);
		hf_free(HF_OF(struct suspect, place, link));
	}
}
