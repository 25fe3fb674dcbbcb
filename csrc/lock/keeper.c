/* keeper.c: it goes by this table; the rules and their reasons are in docs/consul.md.
 *
 *   phase       asks                  answer                  then
 *   START       (waits for its check, alive.c)                START
 *               create                made                    KEEP
 *                                     trouble                 START, later
 *                                     refused                 the end
 *   (external)  look at the session   seen, or not to be seen KEEP
 *                                     trouble                 START, later
 *   KEEP        nothing itself: it    renewed                 a new lease
 *               sends renewals, which trouble                 another one soon
 *               overlap               not there (404)         all is lost, the end
 *               (lease over)                                  all is lost, DESTROY
 *               (retired and unused)                          DESTROY
 *   DESTROY     destroy               gone                    the end
 *                                     trouble                 DESTROY, later
 */
#include "lock/keeper.h"

#include "consul/session.h"
#include "lock/alive.h"
#include "lock/events.h"
#include "lock/monitor.h"
#include "lock/renewal.h"
#include "lock/watch.h"

#include <string.h>

#define LATE 2000 /* a renewal that is not answered by then is followed by another one */
#define RESTART_EACH 10000 /* between restarts of what waits: an abandoned poll goes on so long */

enum phase { START, KEEP, DESTROY };

struct keeper {
	struct hf_op op; /* its deadline is the lease's */
	struct hf_session *session; /* counted */
	enum phase phase;
	int64_t renew_at;
	int64_t refused; /* when destroy was first refused, 0: not yet */
};

/* ---- renewals ------------------------------------------------------------------------------- */

static void renewed(struct hf_session *session, const struct hf_session_info *info, int64_t sent)
{
	struct keeper *k = (struct keeper *)session->keeper;
	int64_t next;

	session->renewed = true;
	session->ttl = info->ttl > 0 ? info->ttl : session->opts.ttl;
	hf_session_extend(session, sent);
	pthread_mutex_lock(&session->client->engine.mutex);
	session->client->stats.renewals++;
	pthread_mutex_unlock(&session->client->engine.mutex);
	next = sent + hf_renewal_interval(session);
	if (k->op.retry_delay)
		hf_events_session(session, HF_SESSION_RENEWED, NULL);
	if (next > k->renew_at || k->op.retry_delay)
		k->renew_at = next;
	hf_op_recovered(&k->op);
}

/* A server that does not answer may be suspended, and what waits there with it. An answer, of
 * whatever kind, is no reason to leave a poll behind, which the server keeps to its end. */
static void not_renewed(struct hf_session *session, bool unanswered, const struct hf_error *err)
{
	struct keeper *k = (struct keeper *)session->keeper;
	int64_t at;

	pthread_mutex_lock(&session->client->engine.mutex);
	session->client->stats.renew_failures++;
	pthread_mutex_unlock(&session->client->engine.mutex);
	if (unanswered && hf_now() > session->restarted_at + RESTART_EACH) {
		session->restarted_at = hf_now();
		hf_watch_restart(session->client);
		if (session->watch)
			hf_engine_again(session->watch);
	}
	if (!k->op.retry_delay)
		hf_events_session(session, HF_SESSION_NOT_RENEWED, err);
	k->op.broken = unanswered;
	at = hf_op_delay(&k->op);
	if (at < k->renew_at)
		k->renew_at = at;
}

enum hf_verdict hf_keeper_heard(struct hf_session *session, const struct hf_http *http,
				int64_t sent, struct hf_error *err)
{
	struct hf_session_info info;
	enum hf_verdict verdict = hf_session_read(http, &session->client->consul, &info, err);

	if (!session->keeper || ((struct keeper *)session->keeper)->phase != KEEP)
		return verdict;
	switch (verdict) {
	case HF_V_OK:
		renewed(session, &info, sent);
		hf_wake_all(&session->confirmed);
		hf_wake(session->keeper);
		break;
	case HF_V_ABSENT: /* Consul's own 404: the only final answer to a renewal */
		hf_session_gone(session);
		break;
	default: /* whoever waits for an answer waits for that of another one */
		not_renewed(session, http->error != HF_OK, err);
		hf_wake(session->keeper);
	}
	return verdict;
}

static void renew(struct keeper *k)
{
	int64_t interval = hf_renewal_interval(k->session);

	k->session->doubted = false;
	k->renew_at = hf_now() + (interval < LATE ? interval : LATE);
	hf_renewal_send(k->session, k->op.fresh);
}

static void stop_asking(struct hf_session *session)
{
	if (session->watch)
		hf_engine_stop(session->watch, HF_CLOSED);
	if (session->audit)
		hf_engine_stop(session->audit, HF_CLOSED);
	if (session->warden)
		hf_engine_stop(session->warden, HF_CLOSED);
	hf_renewals_stop(session);
}

/* ---- the keeper ----------------------------------------------------------------------------- */

static void keeper_free(struct hf_op *op)
{
	hf_session_unref(((struct keeper *)op)->session);
}

/* Nothing is held through it, or this has been told. */
static void bury(struct keeper *k)
{
	struct hf_session *session = k->session;

	pthread_mutex_lock(&k->op.engine->mutex);
	session->state = HF_SESSION_DEAD;
	if (!session->reason)
		session->reason = HF_BY_RELEASED;
	pthread_mutex_unlock(&k->op.engine->mutex);
}

static enum hf_step finish(struct keeper *k)
{
	const struct hf_error ok = {HF_OK, ""};
	struct hf_session *session = k->session;

	hf_op_finish(&k->op, &ok);
	session->keeper = NULL;
	bury(k);
	session->retired = true;
	if (session->client->shared == session)
		session->client->shared = NULL;
	stop_asking(session);
	hf_session_unkeep(session);
	hf_wake(session->alive);
	hf_wake_all(&session->made);
	hf_wake_all(&session->ended);
	hf_session_forget(session);
	return HF_FINISH;
}

static enum hf_step begin_to_destroy(struct keeper *k)
{
	struct hf_session *session = k->session;

	bury(k);
	if (session->external)
		return finish(k);
	stop_asking(session);
	k->phase = DESTROY;
	k->op.deadline = HF_NEVER;
	hf_op_recovered(&k->op);
	return hf_op_send(&k->op, HF_COMMAND);
}

/* While it is needed: renew in time. Afterwards: destroy it. */
static enum hf_step keep(struct keeper *k)
{
	struct hf_session *session = k->session;
	bool over = hf_session_over(session);

	if (over && session->external) {
		hf_session_lost(session, HF_BY_DEADLINE);
		return finish(k);
	}
	if (over) {
		hf_session_lost(session, HF_BY_DEADLINE);
		return begin_to_destroy(k);
	}
	if (session->retired && !hf_session_in_use(session))
		return begin_to_destroy(k);
	k->op.deadline = atomic_load(&session->deadline);
	if (session->external)
		return hf_op_sleep(&k->op, HF_NEVER);
	if (session->doubted || hf_now() >= k->renew_at)
		renew(k);
	return hf_op_sleep(&k->op, k->renew_at);
}

static enum hf_step keeper_next(struct hf_op *op)
{
	struct keeper *k = (struct keeper *)op;
	struct hf_session *session = k->session;

	switch (k->phase) {
	case START:
		if (session->create_final ||
		    ((session->retired || session->failures) && !hf_session_in_use(session)))
			return finish(k);
		if (session->check && !session->checked)
			return hf_op_sleep(op, HF_NEVER);
		return hf_op_send(op, HF_COMMAND);
	case KEEP:
		return session->gone ? finish(k) : keep(k);
	case DESTROY:
		break;
	}
	return hf_op_send(op, HF_COMMAND);
}

static bool keeper_request(struct hf_op *op, struct hf_http *http)
{
	struct keeper *k = (struct keeper *)op;
	struct hf_session *session = k->session;
	const struct hf_consul *consul = &session->client->consul;

	if (k->phase == DESTROY)
		hf_session_destroy(http, consul, session->id);
	else if (session->external)
		hf_session_look(http, consul, session->id, 0);
	else
		hf_session_create(http, consul, &session->opts);
	return true;
}

static void begin_to_keep(struct keeper *k, int64_t sent)
{
	struct hf_session *session = k->session;

	k->phase = KEEP;
	k->renew_at = sent + hf_renewal_interval(session);
	session->made_at = hf_now();
	hf_op_recovered(&k->op);
	if (session->external) {
		pthread_mutex_lock(&k->op.engine->mutex);
		session->state = HF_SESSION_ALIVE;
		pthread_mutex_unlock(&k->op.engine->mutex);
	} else {
		hf_session_extend(session, sent);
	}
	hf_wake(session->watch);
	hf_wake(session->audit);
	hf_wake_all(&session->made);
}

void hf_keeper_not_made(struct hf_session *session, bool final)
{
	if (!session->failures++)
		hf_events_session(session, HF_SESSION_NOT_MADE, &session->create_error);
	session->create_final = final;
	hf_wake_all(&session->made);
	hf_wake(session->keeper);
}

static enum hf_step not_made(struct keeper *k, bool final)
{
	struct hf_session *session = k->session;

	hf_keeper_not_made(session, final);
	if (final || !session->users)
		return finish(k);
	return hf_op_backoff(&k->op, HF_NEVER);
}

static enum hf_step created(struct keeper *k, const struct hf_http *http)
{
	struct hf_session *session = k->session;
	struct hf_session_info info;
	enum hf_verdict verdict = hf_session_read(http, &session->client->consul, &info,
						  &session->create_error);

	if (verdict == HF_V_ABSENT)
		verdict = HF_V_FINAL;
	if (verdict != HF_V_OK)
		return not_made(k, verdict == HF_V_FINAL);
	pthread_mutex_lock(&k->op.engine->mutex);
	memcpy(session->id, info.id, sizeof session->id);
	pthread_mutex_unlock(&k->op.engine->mutex);
	begin_to_keep(k, http->sent);
	hf_events_session(session, HF_SESSION_MADE, NULL);
	return keep(k);
}

/* That it is not to be seen may be an ACL's doing: the transactions will tell. */
static enum hf_step looked(struct keeper *k, const struct hf_http *http)
{
	struct hf_session *session = k->session;
	struct hf_session_info info;

	if (hf_session_read_look(http, &session->client->consul, &info, &session->create_error) ==
	    HF_V_AGAIN)
		return not_made(k, false);
	session->opts.lock_delay = info.exists ? info.lock_delay : HF_LOCK_DELAY_DEFAULT;
	session->opts.ttl = session->ttl = info.exists ? info.ttl : 0;
	begin_to_keep(k, http->sent);
	return keep(k);
}

static enum hf_step destroyed(struct keeper *k, const struct hf_http *http)
{
	struct hf_session *session = k->session;
	enum hf_verdict verdict = hf_session_read_destroy(http, &session->client->consul,
							  &session->create_error);

	if (verdict == HF_V_OK)
		return finish(k);
	session->failures++;
	hf_wake_all(&session->ended);
	if (verdict != HF_V_AGAIN && !k->refused)
		k->refused = hf_now();
	/* Nobody renews it: by then it has expired. */
	if (k->refused && hf_now() > k->refused + 2 * session->opts.ttl)
		return finish(k);
	return hf_op_backoff(&k->op, HF_NEVER);
}

static enum hf_step keeper_reply(struct hf_op *op, const struct hf_http *http)
{
	struct keeper *k = (struct keeper *)op;

	if (k->phase == DESTROY)
		return destroyed(k, http);
	return k->session->external ? looked(k, http) : created(k, http);
}

/* Its deadline is the lease's; nobody else stops it. */
static enum hf_step keeper_cancel(struct hf_op *op, enum hf_err why)
{
	struct keeper *k = (struct keeper *)op;

	if (why != HF_TIMEOUT || k->phase != KEEP)
		return HF_STAY;
	return keep(k); /* there may be a later one by now */
}

static const struct hf_kind keeper_kind = {"session",	 keeper_next,	keeper_request,
					   keeper_reply, keeper_cancel, keeper_free};

/* ---- for sessions --------------------------------------------------------------------------- */

bool hf_keeper_start(struct hf_session *session)
{
	struct hf_engine *engine = &session->client->engine;
	struct keeper *k = hf_op_new(engine, &keeper_kind, sizeof *k);
	struct hf_op *watch = hf_monitor_session(session);
	struct hf_op *audit = hf_monitor_holds(session);
	struct hf_op *alive = session->check ? hf_alive_new(session) : NULL;

	if (!k || !watch || !audit || (session->check && !alive)) {
		hf_op_unref(alive);
		hf_op_unref(audit);
		hf_op_unref(watch);
		hf_op_unref(k ? &k->op : NULL);
		return false;
	}
	k->op.internal = true;
	k->session = session;
	hf_session_ref(session);
	session->keeper = &k->op;
	session->watch = watch;
	session->audit = audit;
	session->alive = alive;
	hf_engine_add(engine, &k->op);
	hf_engine_add(engine, watch);
	hf_engine_add(engine, audit);
	if (alive)
		hf_engine_add(engine, alive);
	return true;
}
