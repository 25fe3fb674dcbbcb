/* alive.c: it goes by this table.
 *
 *   phase       asks         answer                        then
 *   REGISTER    register     done                          PASS; the keeper makes the session
 *                            trouble                       REGISTER, later
 *                            refused                       the same; there is no session if it has
 *                                                          not been made yet
 *   PASS        pass         done                          PASS, a third of its TTL later
 *                            not known (a new agent)       REGISTER
 *                            trouble, refused              PASS, soon
 *   DEREGISTER  deregister   done, not known, refused      the end
 *                            trouble                       DEREGISTER, later, for a TTL at most:
 *                                                          then the agent clears it away
 *   any         (the keeper is at its end)                 DEREGISTER, or the end when there is
 *                                                          nothing to take away */
#include "lock/alive.h"

#include "base/alloc.h"
#include "base/random.h"
#include "consul/alive.h"
#include "lock/keeper.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PASSES 3 /* in a TTL */
#define ATTEMPT_MIN 500 /* how long one may take at least, ms */

enum phase { REGISTER, PASS, DEREGISTER };

struct alive {
	struct hf_op op;
	struct hf_session *session; /* counted */
	enum phase phase;
	bool registered; /* or may have been */
	int64_t until; /* to deregister */
};

char *hf_alive_id(const char *name)
{
	size_t size = strlen(name ? name : "") + 2 + 2 * sizeof(uint64_t);
	uint64_t unique;
	char *id = hf_random(&unique, sizeof unique) ? hf_malloc(size) : NULL;

	if (id)
		snprintf(id, size, "%s-%016" PRIx64, name ? name : "", unique);
	return id;
}

static enum hf_step alive_next(struct hf_op *op)
{
	struct alive *a = (struct alive *)op;

	if (!a->session->keeper && !a->registered)
		return HF_FINISH;
	if (!a->session->keeper && a->phase != DEREGISTER) {
		a->phase = DEREGISTER;
		a->until = hf_now() + a->session->opts.alive;
	}
	return hf_op_send(op, a->phase == PASS ? HF_RENEW : HF_COMMAND);
}

static bool alive_request(struct hf_op *op, struct hf_http *http)
{
	struct alive *a = (struct alive *)op;
	const struct hf_session *session = a->session;
	const struct hf_consul *consul = &session->client->consul;
	int64_t limit = session->opts.alive / PASSES;

	if (!session->keeper && a->phase != DEREGISTER)
		return false;
	if (a->phase == REGISTER)
		hf_alive_register(http, consul, session->check, &session->opts);
	else if (a->phase == PASS)
		hf_alive_pass(http, consul, session->check);
	else
		hf_alive_deregister(http, consul, session->check);
	a->registered = true;
	if (limit < ATTEMPT_MIN)
		limit = ATTEMPT_MIN;
	if (limit < http->timeout)
		http->timeout = limit;
	return true;
}

static enum hf_step passed(struct alive *a, int64_t sent)
{
	int64_t interval = a->session->opts.alive / PASSES;

	hf_op_recovered(&a->op);
	a->phase = PASS;
	return hf_op_sleep(&a->op, sent + hf_jitter(interval * 8 / 10, interval));
}

static enum hf_step registered(struct alive *a, enum hf_verdict verdict, int64_t sent)
{
	struct hf_session *session = a->session;

	if (verdict == HF_V_OK && !session->checked) {
		session->checked = true;
		hf_wake(session->keeper);
	}
	if (verdict == HF_V_OK)
		return passed(a, sent);
	if (!session->checked)
		hf_keeper_not_made(session, verdict == HF_V_FINAL);
	return hf_op_backoff(&a->op, HF_NEVER);
}

static enum hf_step alive_reply(struct hf_op *op, const struct hf_http *http)
{
	struct alive *a = (struct alive *)op;
	struct hf_session *session = a->session;
	struct hf_error err;
	enum hf_verdict verdict = hf_alive_read(http, &session->client->consul, &err);

	if (!session->keeper && a->phase != DEREGISTER)
		return alive_next(op);
	switch (a->phase) {
	case REGISTER:
		if (verdict != HF_V_OK && !session->checked)
			session->create_error = err;
		return registered(a, verdict, http->sent);
	case PASS:
		if (verdict == HF_V_OK)
			return passed(a, http->sent);
		if (verdict != HF_V_ABSENT)
			return hf_op_backoff(op, HF_NEVER);
		a->phase = REGISTER;
		return hf_op_send(op, HF_COMMAND);
	case DEREGISTER:
		break;
	}
	if (verdict != HF_V_AGAIN || hf_now() > a->until)
		return HF_FINISH;
	return hf_op_backoff(op, HF_NEVER);
}

static void alive_free(struct hf_op *op)
{
	hf_session_unref(((struct alive *)op)->session);
}

static const struct hf_kind alive_kind = {"alive",     alive_next, alive_request,
					  alive_reply, NULL,	   alive_free};

struct hf_op *hf_alive_new(struct hf_session *session)
{
	struct alive *a = hf_op_new(&session->client->engine, &alive_kind, sizeof *a);

	if (!a)
		return NULL;
	a->op.internal = true;
	a->session = session;
	hf_session_ref(session);
	return &a->op;
}
