#include "lock/renewal.h"

#include "base/random.h"
#include "consul/session.h"
#include "lock/keeper.h"

/* Renewals in a lease or TTL, so that no two of them in a row have to come through. */
#define RENEWALS 6
#define ATTEMPTS_MAX 4 /* in flight at once */
#define ATTEMPT_MIN 500 /* how long one may take at least */

struct attempt {
	struct hf_op op;
	struct hf_session *session; /* counted */
	struct hf_link mine; /* session->attempts */
	int64_t sent;
};

int64_t hf_renewal_interval(const struct hf_session *session)
{
	int64_t interval = hf_session_span(session) / RENEWALS;

	return hf_jitter(interval * 9 / 10, interval * 11 / 10);
}

void hf_renewal_ask(const struct hf_session *session, struct hf_http *http)
{
	int64_t left = atomic_load(&session->deadline) - hf_now();
	int64_t limit = hf_session_span(session) / RENEWALS * 3;

	hf_session_renew(http, &session->client->consul, session->id);
	if (limit < ATTEMPT_MIN)
		limit = ATTEMPT_MIN;
	if (left < limit)
		limit = left > 1 ? left : 1;
	if (limit < http->timeout)
		http->timeout = limit;
}

/* ---- one of them ---------------------------------------------------------------------------- */

static void attempt_free(struct hf_op *op)
{
	hf_session_unref(((struct attempt *)op)->session);
}

static enum hf_step attempt_next(struct hf_op *op)
{
	return hf_op_send(op, HF_RENEW);
}

static bool attempt_request(struct hf_op *op, struct hf_http *http)
{
	struct attempt *a = (struct attempt *)op;

	a->sent = hf_now();
	hf_renewal_ask(a->session, http);
	return true;
}

static enum hf_step attempt_over(struct attempt *a)
{
	hf_link_remove(&a->mine);
	return HF_FINISH;
}

static enum hf_step attempt_reply(struct hf_op *op, const struct hf_http *http)
{
	struct attempt *a = (struct attempt *)op;
	struct hf_error err;

	hf_keeper_heard(a->session, http, a->sent, &err);
	return attempt_over(a);
}

static enum hf_step attempt_cancel(struct hf_op *op, enum hf_err why)
{
	(void)why;
	return attempt_over((struct attempt *)op);
}

static const struct hf_kind attempt_kind = {"renewal",	   attempt_next,   attempt_request,
					    attempt_reply, attempt_cancel, attempt_free};

/* ---- all of them ---------------------------------------------------------------------------- */

static size_t count_attempts(const struct hf_session *session)
{
	const struct hf_link *list = &session->attempts;
	size_t count = 0;

	for (struct hf_link *link = hf_link_first(list); link; link = hf_link_after(list, link))
		count++;
	return count;
}

void hf_renewal_send(struct hf_session *session, bool fresh)
{
	struct hf_engine *engine = &session->client->engine;
	struct attempt *a;

	if (count_attempts(session) >= ATTEMPTS_MAX)
		return;
	a = hf_op_new(engine, &attempt_kind, sizeof *a);
	if (!a)
		return;
	a->op.internal = true;
	a->op.fresh = fresh;
	a->session = session;
	hf_session_ref(session);
	hf_link_init(&a->mine);
	hf_link_append(&session->attempts, &a->mine);
	hf_engine_add(engine, &a->op);
}

void hf_renewals_stop(struct hf_session *session)
{
	struct hf_link *link;

	while ((link = hf_link_first(&session->attempts)) != NULL)
		hf_engine_stop(&HF_OF(struct attempt, mine, link)->op, HF_CLOSED);
}
