/* monitor.c:
 *
 *  watch   one long poll on the session: it is invalidated for whatever reason
 *  audit   check-session operations for everything held, 64 per request, three times a TTL:
 *          a key was deleted, or released by somebody else
 *  key     the watch on one key, for locks that ask for it
 */
#include "lock/monitor.h"

#include "base/random.h"
#include "consul/session.h"
#include "consul/txn.h"
#include "lock/watch.h"

#include <string.h>

/* What an audit finds may be the session's end, which a renewal tells, within so many ms. */
#define CONFIRM 500

/* ---- watch ---------------------------------------------------------------------------------- */

struct watch {
	struct hf_op op;
	struct hf_session *session; /* counted */
	uint64_t index;
	unsigned quick;
};

static void watch_free(struct hf_op *op)
{
	hf_session_unref(((struct watch *)op)->session);
}

static enum hf_step watch_next(struct hf_op *op)
{
	struct watch *w = (struct watch *)op;

	if (!w->session->made_at || w->session->unwatched)
		return hf_op_sleep(op, HF_NEVER);
	if (op->fresh) /* it has been told to begin anew */
		w->index = 0;
	/* With more sessions than watches at once they take turns: their renewals tell too. */
	return hf_op_send(op, HF_WATCH);
}

static bool watch_request(struct hf_op *op, struct hf_http *http)
{
	struct watch *w = (struct watch *)op;

	hf_session_look(http, &hf_client_of(op)->consul, w->session->id, w->index);
	return true;
}

static enum hf_step watch_reply(struct hf_op *op, const struct hf_http *http)
{
	struct watch *w = (struct watch *)op;
	struct hf_session *session = w->session;
	struct hf_session_info info;
	struct hf_error err;
	uint64_t before = w->index;

	switch (hf_session_read_look(http, &hf_client_of(op)->consul, &info, &err)) {
	case HF_V_OK:
		break;
	case HF_V_AGAIN:
		w->index = 0;
		return hf_op_backoff(op, HF_NEVER);
	default: /* not allowed to look: the renewals and the audit have to do */
		return hf_op_sleep(op, hf_now() + hf_session_interval(session));
	}
	hf_op_recovered(op);
	w->index = hf_call_index(http);
	if (!info.exists) { /* gone, or hidden from us by an ACL: only a renewal can tell */
		hf_session_doubt(session);
		w->index = 0;
		return hf_op_sleep(op, hf_now() + hf_session_interval(session));
	}
	if (w->index < before) { /* the server's data has been replaced */
		w->index = 0;
		hf_session_retire(session);
	}
	return hf_op_sleep(op, hf_watch_next(&w->quick, http, false));
}

static enum hf_step watch_cancel(struct hf_op *op, enum hf_err why)
{
	(void)why;
	((struct watch *)op)->session->watch = NULL;
	return HF_FINISH;
}

static const struct hf_kind watch_kind = {"watch",     watch_next,   watch_request,
					  watch_reply, watch_cancel, watch_free};

struct hf_op *hf_monitor_session(struct hf_session *session)
{
	struct watch *w = hf_op_new(&session->client->engine, &watch_kind, sizeof *w);

	if (!w)
		return NULL;
	w->op.internal = true;
	w->session = session;
	hf_session_ref(session);
	return &w->op;
}

/* ---- audit ---------------------------------------------------------------------------------- */

struct audit {
	struct hf_op op;
	struct hf_session *session; /* counted */
	size_t left; /* of this round; what is held rotates */
	bool doubted; /* the round has begun because an external session seems to be gone */
	struct hf_hold *batch[HF_TXN_MAX]; /* counted */
	enum hf_verdict verdicts[HF_TXN_MAX];
	size_t count;
	bool confirming;
};

static void put_batch(struct audit *a)
{
	while (a->count)
		hf_op_unref(&a->batch[--a->count]->op);
}

static void audit_free(struct hf_op *op)
{
	struct audit *a = (struct audit *)op;

	put_batch(a);
	hf_session_unref(a->session);
}

static enum hf_step audit_rest(struct audit *a)
{
	int64_t interval = hf_session_interval(a->session);

	put_batch(a);
	a->left = 0;
	if (a->session->external && a->session->doubted)
		return hf_op_sleep(&a->op, hf_now());
	return hf_op_sleep(&a->op, hf_now() + hf_jitter(interval * 9 / 10, interval * 11 / 10));
}

/* Takes the hold that has not been looked at for longest, and moves it to the end. */
static struct hf_hold *take_hold(struct audit *a)
{
	struct hf_session *session = a->session;
	struct hf_hold *hold = NULL;
	struct hf_link *link;

	pthread_mutex_lock(&a->op.engine->mutex);
	link = hf_link_first(&session->holds);
	if (link) {
		hold = HF_OF(struct hf_hold, place, link);
		hf_link_remove(link);
		hf_link_append(&session->holds, link);
		hf_op_ref(&hold->op);
	}
	pthread_mutex_unlock(&a->op.engine->mutex);
	return hold;
}

static bool is_loss(enum hf_verdict verdict)
{
	return verdict == HF_V_ABSENT || verdict == HF_V_NOT_OURS;
}

static enum hf_step judge(struct audit *a)
{
	for (size_t i = 0; i < a->count; i++) {
		enum hf_reason reason = a->verdicts[i] == HF_V_ABSENT ? HF_BY_KEY : HF_BY_STOLEN;

		if (is_loss(a->verdicts[i]))
			hf_hold_lose(a->batch[i], a->doubted ? HF_BY_SESSION : reason);
	}
	put_batch(a);
	return a->left ? hf_op_send(&a->op, HF_COMMAND) : audit_rest(a);
}

static enum hf_step audit_next(struct hf_op *op)
{
	struct audit *a = (struct audit *)op;
	struct hf_session *session = a->session;

	if (!session->made_at)
		return hf_op_sleep(op, HF_NEVER);
	if (a->confirming) {
		a->confirming = false;
		return judge(a);
	}
	if (!a->left) {
		pthread_mutex_lock(&op->engine->mutex);
		a->left = session->held;
		pthread_mutex_unlock(&op->engine->mutex);
		a->doubted = session->external && session->doubted;
		if (a->doubted)
			session->doubted = false;
	}
	return a->left ? hf_op_send(op, HF_COMMAND) : audit_rest(a);
}

static bool audit_request(struct hf_op *op, struct hf_http *http)
{
	struct audit *a = (struct audit *)op;
	struct hf_hold *hold;

	put_batch(a);
	hf_txn_begin(http, &hf_client_of(op)->consul, true);
	for (; a->left && hf_txn_room(http, a->count) && (hold = take_hold(a)); a->left--) {
		hf_txn_add(http, &(struct hf_txn_op){.verb = HF_CHECK_SESSION,
						     .key = hold->key->name,
						     .session = a->session->id});
		a->batch[a->count++] = hold;
	}
	hf_txn_end(http);
	if (!a->count)
		a->left = 0;
	return a->count > 0;
}

static enum hf_step audit_reply(struct hf_op *op, const struct hf_http *http)
{
	struct audit *a = (struct audit *)op;
	struct hf_session *session = a->session;
	struct hf_error err;
	size_t good = 0, losses = 0;

	if (hf_txn_read_checks(http, &hf_client_of(op)->consul, a->count, a->verdicts, &err) !=
	    HF_V_OK)
		return audit_rest(a);
	for (size_t i = 0; i < a->count; i++) {
		good += a->verdicts[i] == HF_V_OK;
		losses += is_loss(a->verdicts[i]);
	}
	if (good)
		hf_session_proved(session, http->sent);
	if (!losses || session->external)
		return judge(a);
	/* The end of the session would look the same; a renewal knows, and comes first. */
	a->confirming = true;
	hf_session_doubt(session);
	return hf_op_park(op, &session->confirmed, hf_now() + CONFIRM);
}

static enum hf_step audit_cancel(struct hf_op *op, enum hf_err why)
{
	(void)why;
	((struct audit *)op)->session->audit = NULL;
	return HF_FINISH;
}

static const struct hf_kind audit_kind = {"audit",     audit_next,   audit_request,
					  audit_reply, audit_cancel, audit_free};

struct hf_op *hf_monitor_holds(struct hf_session *session)
{
	struct audit *a = hf_op_new(&session->client->engine, &audit_kind, sizeof *a);

	if (!a)
		return NULL;
	a->op.internal = true;
	a->session = session;
	hf_session_ref(session);
	return &a->op;
}

/* ---- key ------------------------------------------------------------------------------------ */

/* Stands on the hold's guard, so it ends with it. */
struct key_watch {
	struct hf_op op;
	struct hf_hold *hold; /* the guard's owner, which the op counts */
	struct hf_key *key; /* counted */
};

static bool looks_lost(const struct key_watch *w, const struct hf_kv *kv)
{
	if (kv->exists && kv->index < w->hold->token)
		return false; /* from before the hold */
	return strcmp(kv->session, w->hold->session->id) != 0;
}

/* What is seen in passing may be older than the hold; what is asked for now is not. */
static enum hf_step key_next(struct hf_op *op)
{
	struct key_watch *w = (struct key_watch *)op;

	if (w->key->known && !w->key->failure && looks_lost(w, &w->key->seen))
		return hf_op_send(op, HF_COMMAND);
	return hf_watch_wait(w->key, op);
}

static bool key_request(struct hf_op *op, struct hf_http *http)
{
	hf_kv_get(http, &hf_client_of(op)->consul, ((struct key_watch *)op)->key->name, 0, true);
	return true;
}

static enum hf_step key_reply(struct hf_op *op, const struct hf_http *http)
{
	struct key_watch *w = (struct key_watch *)op;
	struct hf_error err;
	struct hf_kv kv;

	if (hf_kv_read(http, &hf_client_of(op)->consul, &kv, &err) != HF_V_OK)
		return hf_op_backoff(op, HF_NEVER);
	hf_op_recovered(op);
	hf_key_saw(w->key, &kv, http->sent);
	if (looks_lost(w, &kv))
		hf_hold_lose(w->hold, kv.exists ? HF_BY_STOLEN : HF_BY_KEY);
	return hf_watch_wait(w->key, op);
}

static enum hf_step key_cancel(struct hf_op *op, enum hf_err why)
{
	struct key_watch *w = (struct key_watch *)op;

	(void)why;
	hf_watch_end(w->key);
	hf_key_put(w->key);
	return HF_FINISH;
}

static const struct hf_kind key_kind = {"key", key_next, key_request, key_reply, key_cancel, NULL};

void hf_monitor_key(struct hf_hold *hold)
{
	struct key_watch *w;

	if (!hf_watch_begin(hold->key))
		return;
	w = hf_op_new(hold->op.engine, &key_kind, sizeof *w);
	if (!w) {
		hf_watch_end(hold->key);
		return;
	}
	w->op.internal = true;
	w->hold = hold;
	w->key = hold->key;
	hf_key_ref(w->key);
	hf_op_stand_on(&w->op, &hold->guard);
	hf_engine_add(hold->op.engine, &w->op);
}
