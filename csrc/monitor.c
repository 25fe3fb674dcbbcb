/* monitor.c: how a loss is noticed that the lease does not show.
 *
 *  watch   one long poll on the session: it is invalidated for whatever reason
 *  audit   check-session operations for everything held, 64 per request, at the pace of renewals:
 *          a key was deleted, or released by somebody else
 *  key     a long poll on one key, for locks that ask for it
 *
 * Trouble on the way is never a loss: that is for the lease deadline to say. */
#include "alloc.h"
#include "consul.h"
#include "hf_int.h"

#include <string.h>

/* Polls that come back sooner than this are quick; after a few in a row the next one waits. */
#define QUICK 100
#define QUICK_MAX 3
#define SPACING_MIN 200
#define SPACING_MAX 1000

/* ---- long polls --------------------------------------------------------------------------- */

int64_t hf_longpoll_next(struct hf_longpoll *poll, const struct hf_http *http)
{
	int64_t now = hf_now();

	/* An index that went back means that the server's history has changed: start afresh. */
	poll->index = http->index < poll->index ? 0 : http->index;
	poll->quick = http->elapsed < QUICK ? poll->quick + 1 : 0;
	if (poll->quick <= QUICK_MAX)
		return now;
	return now + hf_jitter(SPACING_MIN, SPACING_MAX);
}

/* ---- watch -------------------------------------------------------------------------------- */

struct watch {
	struct hf_op op;
	struct hf_session *session; /* counted */
	bool asked; /* a reply is there to be looked at */
	struct hf_longpoll poll;
};

static void watch_free(struct hf_op *op)
{
	struct hf_session *session = ((struct watch *)op)->session;

	if (session->watch == op)
		session->watch = NULL;
	hf_session_unref(session);
}

static enum hf_step watch_reply(struct watch *w)
{
	struct hf_session *session = w->session;
	struct hf_error err;

	switch (hf_consul_read_info(&w->op.http, &w->op.client->opts, &err)) {
	case HF_V_OK:
		w->op.retry_delay = 0;
		return hf_op_sleep(&w->op, hf_longpoll_next(&w->poll, &w->op.http), NULL);
	case HF_V_ABSENT: /* gone, or hidden from us by an ACL: only a renewal can tell */
		hf_session_doubt(session);
		w->poll.index = 0;
		return hf_op_sleep(&w->op, hf_now() + hf_session_interval(session), NULL);
	case HF_V_AGAIN:
		w->poll.index = 0;
		return hf_op_backoff(&w->op, HF_NEVER);
	default: /* not allowed to look: the renewals and the audit have to do */
		return hf_op_sleep(&w->op, hf_now() + hf_session_interval(session), NULL);
	}
}

static enum hf_step watch_next(struct hf_op *op)
{
	struct watch *w = (struct watch *)op;

	w->asked = !w->asked;
	if (!w->asked)
		return watch_reply(w);
	hf_consul_info(&op->http, &op->client->opts, w->session->id, w->poll.index);
	return HF_SEND;
}

static const struct hf_kind watch_kind = {"watch", watch_next, NULL, watch_free};

struct hf_op *hf_monitor_session(struct hf_session *session)
{
	struct watch *w = hf_op_new(session->client, &watch_kind, sizeof *w);

	if (!w)
		return NULL;
	w->op.internal = true;
	w->session = session;
	atomic_fetch_add(&session->refs, 1);
	hf_worker_add(session->client, &w->op);
	return &w->op;
}

/* ---- audit -------------------------------------------------------------------------------- */

struct suspect {
	struct hf_lock *lock; /* counted */
	uint64_t hold;
};

struct audit {
	struct hf_op op;
	struct hf_session *session; /* counted */
	struct suspect *suspects; /* what was held when the round began */
	size_t count, done, batch;
	bool asked;
	bool doubted; /* the round has begun because the session seems to be gone */
};

static void forget_suspects(struct audit *a)
{
	for (size_t i = 0; i < a->count; i++)
		hf_lock_unref(a->suspects[i].lock);
	hf_free(a->suspects);
	a->suspects = NULL;
	a->count = a->done = a->batch = 0;
}

static void audit_free(struct hf_op *op)
{
	struct audit *a = (struct audit *)op;

	forget_suspects(a);
	if (a->session->audit == op)
		a->session->audit = NULL;
	hf_session_unref(a->session);
}

static enum hf_step audit_rest(struct audit *a)
{
	int64_t interval = hf_session_interval(a->session);

	forget_suspects(a);
	return hf_op_sleep(&a->op, hf_now() + hf_jitter(interval * 9 / 10, interval * 11 / 10),
			   &a->session->audit);
}

/* Notes what is held now. Allocates outside the mutex, so more may be held by then: that has its
 * turn in the next round. */
static bool note_holds(struct audit *a)
{
	struct hf_client *client = a->op.client;
	struct hf_lock *lock;
	size_t room = 0;

	pthread_mutex_lock(&client->mutex);
	for (lock = a->session->holds; lock; lock = lock->hold_next)
		room++;
	pthread_mutex_unlock(&client->mutex);
	a->suspects = room ? hf_calloc(room, sizeof *a->suspects) : NULL;
	if (!a->suspects)
		return false;
	pthread_mutex_lock(&client->mutex);
	for (lock = a->session->holds; lock && a->count < room; lock = lock->hold_next) {
		hf_lock_ref(lock);
		a->suspects[a->count++] = (struct suspect){lock, lock->hold};
	}
	pthread_mutex_unlock(&client->mutex);
	return a->count > 0;
}

static enum hf_step audit_send(struct audit *a)
{
	size_t left = a->count - a->done;

	if (!left)
		return audit_rest(a);
	a->batch = left < HF_TXN_MAX ? left : HF_TXN_MAX;
	hf_consul_audit_begin(&a->op.http, &a->op.client->opts);
	for (size_t i = 0; i < a->batch; i++)
		hf_consul_audit_check(&a->op.http, hf_lock_key(a->suspects[a->done + i].lock),
				      a->session->id);
	hf_consul_audit_end(&a->op.http);
	a->asked = true;
	return HF_SEND;
}

static void lose(struct suspect *suspect, enum hf_reason reason)
{
	struct hf_client *client = suspect->lock->client;

	pthread_mutex_lock(&client->mutex);
	if (suspect->lock->hold == suspect->hold)
		hf_lock_end_locked(suspect->lock, reason);
	pthread_mutex_unlock(&client->mutex);
}

static enum hf_step audit_reply(struct audit *a)
{
	enum hf_verdict verdicts[HF_TXN_MAX];
	struct hf_error err;

	a->asked = false;
	if (hf_consul_read_audit(&a->op.http, &a->op.client->opts, a->batch, verdicts, &err) !=
	    HF_V_OK)
		return audit_rest(a);
	for (size_t i = 0; i < a->batch; i++) {
		enum hf_reason reason = verdicts[i] == HF_V_ABSENT ? HF_BY_KEY : HF_BY_STOLEN;

		if (verdicts[i] == HF_V_ABSENT || verdicts[i] == HF_V_NOT_OURS)
			lose(&a->suspects[a->done + i], a->doubted ? HF_BY_SESSION : reason);
	}
	a->done += a->batch;
	return audit_send(a);
}

static enum hf_step audit_next(struct hf_op *op)
{
	struct audit *a = (struct audit *)op;

	if (a->asked)
		return audit_reply(a);
	a->doubted = a->session->external && a->session->confirm;
	if (a->doubted)
		a->session->confirm = false;
	return note_holds(a) ? audit_send(a) : audit_rest(a);
}

static const struct hf_kind audit_kind = {"audit", audit_next, NULL, audit_free};

struct hf_op *hf_monitor_holds(struct hf_session *session)
{
	struct audit *a = hf_op_new(session->client, &audit_kind, sizeof *a);

	if (!a)
		return NULL;
	a->op.internal = true;
	a->session = session;
	atomic_fetch_add(&session->refs, 1);
	hf_worker_add(session->client, &a->op);
	return &a->op;
}

/* ---- key ---------------------------------------------------------------------------------- */

/* Guarded by the hold that it watches, so it ends with it. */
struct key_watch {
	struct hf_op op;
	bool asked;
	char session[64];
	struct hf_longpoll poll;
};

static enum hf_step key_reply(struct key_watch *w)
{
	struct suspect suspect = {w->op.guard, w->op.guard_hold};
	struct hf_error err;
	struct hf_kv kv;
	enum hf_verdict verdict = hf_consul_read_key(&w->op.http, &w->op.client->opts, &kv, &err);

	if (verdict != HF_V_OK) {
		w->poll.index = 0;
		return hf_op_backoff(&w->op, HF_NEVER);
	}
	w->op.retry_delay = 0;
	if (!strcmp(kv.session, w->session))
		return hf_op_sleep(&w->op, hf_longpoll_next(&w->poll, &w->op.http), NULL);
	lose(&suspect, kv.exists ? HF_BY_STOLEN : HF_BY_KEY);
	return hf_op_sleep(&w->op, HF_NEVER, NULL); /* until the end of the hold ends it */
}

static enum hf_step key_next(struct hf_op *op)
{
	struct key_watch *w = (struct key_watch *)op;

	w->asked = !w->asked;
	if (!w->asked)
		return key_reply(w);
	hf_consul_get(&op->http, &op->client->opts, hf_lock_key(op->guard), w->poll.index, true);
	return HF_SEND;
}

static const struct hf_kind key_kind = {"key", key_next, NULL, NULL};

void hf_monitor_key(struct hf_lock *lock, uint64_t hold, const struct hf_session *session)
{
	struct key_watch *w = hf_op_new(lock->client, &key_kind, sizeof *w);

	if (!w)
		return; /* the audit is there still */
	hf_lock_ref(lock);
	w->op.internal = true;
	w->op.guard = lock;
	w->op.guard_hold = hold;
	memcpy(w->session, session->id, sizeof w->session);
	hf_worker_add(lock->client, &w->op);
}
