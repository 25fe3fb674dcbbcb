/* session.c: a session and its keeper, the op that makes it, renews it in time and destroys it
 * when it has no more use. The rules and their reasons: docs/consul.md. */
#include "alloc.h"
#include "config.h"
#include "consul.h"
#include "hf_int.h"

#include <string.h>

/* Of an external session we know no TTL. */
#define EXTERNAL_INTERVAL 5000
/* Clocks may differ in speed by one percent, and the holder gets some time to stop. */
#define DRIFT 0.99
#define MARGIN_MAX 1000

enum phase { START, CREATING, KEEPING, RENEWING, DESTROYING };

struct keeper {
	struct hf_op op;
	struct hf_session *session; /* counted */
	enum phase phase;
	int64_t ttl; /* what the server made of it, ms */
	int64_t renew_at;
};

static void keeper_free(struct hf_op *op)
{
	struct hf_session *session = ((struct keeper *)op)->session;

	if (session->keeper == op)
		session->keeper = NULL;
	hf_session_unref(session);
}

/* ---- life --------------------------------------------------------------------------------- */

static struct hf_session *create(struct hf_client *client, const struct hf_session_opts *opts,
				 const char *id)
{
	struct hf_session *session = hf_calloc(1, sizeof *session);

	if (!session)
		return NULL;
	if (!hf_session_opts_copy(&session->opts, opts)) {
		hf_free(session);
		return NULL;
	}
	session->client = client;
	hf_client_ref(client);
	session->refs = 1; /* the list's */
	session->deadline = HF_NEVER;
	session->external = id != NULL;
	if (id) {
		strncpy(session->id, id, sizeof session->id - 1);
		session->state = HF_SESSION_ALIVE;
	}
	session->next = client->sessions;
	client->sessions = session;
	pthread_mutex_lock(&client->mutex);
	client->stats.sessions++;
	pthread_mutex_unlock(&client->mutex);
	hf_process_count(HF_SESSIONS, 1);
	return session;
}

void hf_session_unref(struct hf_session *session)
{
	if (!session || atomic_fetch_sub(&session->refs, 1) > 1)
		return;
	hf_session_opts_free(&session->opts);
	hf_client_unref(session->client);
	hf_free(session);
	hf_process_count(HF_SESSIONS, -1);
}

void hf_session_forget(struct hf_session *session)
{
	struct hf_client *client = session->client;
	struct hf_session **link = &client->sessions;

	while (*link && *link != session)
		link = &(*link)->next;
	if (!*link)
		return;
	*link = session->next;
	if (client->shared == session)
		client->shared = NULL;
	pthread_mutex_lock(&client->mutex);
	client->stats.sessions--;
	pthread_mutex_unlock(&client->mutex);
	hf_session_unref(session);
}

int64_t hf_session_interval(const struct hf_session *session)
{
	return session->external ? EXTERNAL_INTERVAL : session->opts.ttl / 3;
}

/* ---- the end of it ------------------------------------------------------------------------ */

static void expire_locked(struct hf_session *session, enum hf_reason reason)
{
	session->state = HF_SESSION_DEAD;
	while (session->holds)
		hf_lock_end_locked(session->holds, reason);
	/* The keeper has work to do now. */
	session->client->sweep = true;
	hf_worker_wake_locked(session->client);
}

bool hf_session_alive_locked(struct hf_session *session)
{
	if (session->state == HF_SESSION_ALIVE && hf_now() >= session->deadline)
		expire_locked(session, HF_BY_DEADLINE);
	return session->state == HF_SESSION_ALIVE;
}

static void stop_monitors(struct hf_session *session)
{
	pthread_mutex_lock(&session->client->mutex);
	if (session->watch)
		hf_op_stop_locked(session->watch, HF_CLOSED);
	if (session->audit)
		hf_op_stop_locked(session->audit, HF_CLOSED);
	pthread_mutex_unlock(&session->client->mutex);
}

void hf_session_lost(struct hf_session *session, enum hf_reason reason)
{
	pthread_mutex_lock(&session->client->mutex);
	if (session->state == HF_SESSION_ALIVE)
		expire_locked(session, reason);
	pthread_mutex_unlock(&session->client->mutex);
	hf_session_close(session);
	hf_wake_all(session->client, session);
}

void hf_session_close(struct hf_session *session)
{
	session->closing = true;
	if (session->client->shared == session)
		session->client->shared = NULL;
	stop_monitors(session);
	hf_wake_all(session->client, &session->keeper);
	hf_session_settle(session);
}

static bool in_use(struct hf_session *session)
{
	bool held;

	pthread_mutex_lock(&session->client->mutex);
	held = session->holds != NULL || session->releasing;
	pthread_mutex_unlock(&session->client->mutex);
	return session->users || held;
}

void hf_session_settle(struct hf_session *session)
{
	if (in_use(session))
		return;
	if (session->external && !session->closing) {
		hf_session_close(session); /* and comes back here */
		return;
	}
	hf_wake_all(session->client, &session->keeper);
	if (session->closing && !session->keeper)
		hf_session_forget(session);
}

void hf_session_doubt(struct hf_session *session)
{
	session->confirm = true;
	hf_wake_all(session->client, session->external ? &session->audit : &session->keeper);
}

/* ---- the keeper --------------------------------------------------------------------------- */

/* The lease counts from when the request was sent, whenever the answer came (docs/consul.md). */
static int64_t lease(const struct keeper *k)
{
	int64_t ttl = k->session->opts.ttl, margin;

	if (k->ttl > 0 && k->ttl < ttl)
		ttl = k->ttl;
	margin = ttl / 10 < MARGIN_MAX ? ttl / 10 : MARGIN_MAX;
	return k->op.http.sent + (int64_t)((double)ttl * DRIFT) - margin;
}

static void extend(struct keeper *k, const char *id)
{
	struct hf_session *session = k->session;
	struct hf_client *client = session->client;
	int64_t interval = hf_session_interval(session), deadline = lease(k);

	pthread_mutex_lock(&client->mutex);
	if (session->state == HF_SESSION_NEW) {
		strncpy(session->id, id, sizeof session->id - 1);
		session->state = HF_SESSION_ALIVE;
	} else {
		client->stats.renewals++;
	}
	if (session->state == HF_SESSION_ALIVE)
		session->deadline = deadline;
	pthread_mutex_unlock(&client->mutex);
	k->op.deadline = deadline;
	k->op.retry_delay = 0;
	k->renew_at = k->op.http.sent + hf_jitter(interval * 9 / 10, interval * 11 / 10);
	k->phase = KEEPING;
}

static enum hf_step finish(struct keeper *k)
{
	struct hf_error ok = {HF_OK, ""};
	struct hf_session *session = k->session;

	hf_op_finish(&k->op, &ok);
	session->keeper = NULL;
	hf_session_close(session);
	return HF_FINISH;
}

static enum hf_step begin_create(struct keeper *k)
{
	if (k->session->closing && !in_use(k->session))
		return finish(k);
	hf_consul_create(&k->op.http, &k->op.client->opts, &k->session->opts);
	k->phase = CREATING;
	return HF_SEND;
}

static enum hf_step renew(struct keeper *k)
{
	const struct hf_client_opts *opts = &k->op.client->opts;
	int64_t third = hf_session_interval(k->session), left = k->op.deadline - hf_now();

	hf_consul_renew(&k->op.http, opts, k->session->id);
	if (third < k->op.http.timeout)
		k->op.http.timeout = third;
	if (left < k->op.http.timeout)
		k->op.http.timeout = left > 1 ? left : 1;
	k->session->confirm = false;
	k->phase = RENEWING;
	return HF_SEND;
}

static enum hf_step destroy(struct keeper *k)
{
	struct hf_session *session = k->session;

	pthread_mutex_lock(&session->client->mutex);
	session->state = HF_SESSION_DEAD;
	pthread_mutex_unlock(&session->client->mutex);
	hf_consul_destroy(&k->op.http, &session->client->opts, session->id);
	k->op.deadline = HF_NEVER;
	k->phase = DESTROYING;
	return HF_SEND;
}

bool hf_session_over(struct hf_session *session)
{
	bool alive;

	pthread_mutex_lock(&session->client->mutex);
	alive = hf_session_alive_locked(session);
	pthread_mutex_unlock(&session->client->mutex);
	return !alive;
}

/* While it is needed: renew in time. Afterwards: destroy it. */
static enum hf_step keep(struct keeper *k)
{
	struct hf_session *session = k->session;

	if (hf_session_over(session)) {
		hf_session_lost(session, HF_BY_DEADLINE);
		return destroy(k);
	}
	if (session->closing && !in_use(session))
		return destroy(k);
	if (session->confirm || hf_now() >= k->renew_at)
		return renew(k);
	k->phase = KEEPING;
	return hf_op_sleep(&k->op, k->renew_at, &session->keeper);
}

static enum hf_step created(struct keeper *k)
{
	struct hf_session *session = k->session;
	struct hf_client *client = session->client;
	char id[64] = "";
	enum hf_verdict verdict = hf_consul_read_session(&k->op.http, &client->opts, id, &k->ttl,
							 &session->create_error);

	if (verdict == HF_V_OK) {
		extend(k, id);
		if (!session->closing) {
			session->watch = hf_monitor_session(session);
			session->audit = hf_monitor_holds(session);
		}
		hf_wake_all(client, session);
		return keep(k);
	}
	session->failures++;
	session->create_final = verdict != HF_V_AGAIN;
	hf_wake_all(client, session);
	if (session->create_final || !session->users) {
		pthread_mutex_lock(&client->mutex);
		session->state = HF_SESSION_DEAD;
		pthread_mutex_unlock(&client->mutex);
		return finish(k);
	}
	k->phase = START;
	hf_op_backoff(&k->op, HF_NEVER);
	return hf_op_sleep(&k->op, k->op.wake_at, &session->keeper);
}

static enum hf_step renewed(struct keeper *k)
{
	struct hf_session *session = k->session;
	struct hf_error err;
	char id[64];
	enum hf_verdict verdict = hf_consul_read_session(&k->op.http, &session->client->opts, id,
							 &k->ttl, &err);

	if (verdict == HF_V_ABSENT) { /* 404: the only final answer to a renewal */
		hf_session_lost(session, HF_BY_SESSION);
		return finish(k);
	}
	if (verdict == HF_V_OK) {
		extend(k, id);
		return keep(k);
	}
	pthread_mutex_lock(&session->client->mutex);
	session->client->stats.renew_failures++;
	pthread_mutex_unlock(&session->client->mutex);
	k->phase = KEEPING;
	hf_op_backoff(&k->op, k->op.deadline);
	k->renew_at = k->op.wake_at;
	return keep(k);
}

static enum hf_step keeper_next(struct hf_op *op)
{
	struct keeper *k = (struct keeper *)op;

	switch (k->phase) {
	case START:
		return begin_create(k);
	case CREATING:
		return created(k);
	case KEEPING:
		return keep(k);
	case RENEWING:
		return renewed(k);
	case DESTROYING:
		break;
	}
	return finish(k);
}

/* Its deadline is the lease's; nobody else stops it. */
static enum hf_step keeper_cancel(struct hf_op *op, enum hf_err why)
{
	struct keeper *k = (struct keeper *)op;

	if (why != HF_TIMEOUT || (k->phase != KEEPING && k->phase != RENEWING))
		return HF_STAY;
	hf_session_lost(k->session, HF_BY_DEADLINE);
	return destroy(k);
}

static const struct hf_kind keeper_kind = {"session", keeper_next, keeper_cancel, keeper_free};

static bool start_keeper(struct hf_session *session)
{
	struct keeper *k = hf_op_new(session->client, &keeper_kind, sizeof *k);

	if (!k)
		return false;
	k->op.internal = true;
	k->session = session;
	atomic_fetch_add(&session->refs, 1);
	session->keeper = &k->op;
	hf_worker_add(session->client, &k->op);
	return true;
}

/* ---- for locks ---------------------------------------------------------------------------- */

static bool start(struct hf_session *session)
{
	if (!session->external)
		return start_keeper(session);
	session->watch = hf_monitor_session(session);
	session->audit = hf_monitor_holds(session);
	return session->watch && session->audit;
}

static struct hf_session *find(const struct hf_lock *lock)
{
	struct hf_session *session;

	if (lock->session_opts)
		return NULL;
	if (!lock->session_id)
		return lock->client->shared;
	for (session = lock->client->sessions; session; session = session->next)
		if (session->external && !session->closing &&
		    !strcmp(session->id, lock->session_id))
			return session;
	return NULL;
}

struct hf_session *hf_session_for(struct hf_lock *lock)
{
	struct hf_client *client = lock->client;
	struct hf_session *session = find(lock);
	const struct hf_session_opts *opts = &client->opts.session;

	if (!session) {
		session = create(client, lock->session_opts ? lock->session_opts : opts,
				 lock->session_id);
		if (!session)
			return NULL;
		if (!start(session)) {
			hf_session_close(session);
			return NULL;
		}
		if (!lock->session_opts && !lock->session_id)
			client->shared = session;
	}
	hf_session_join(session);
	return session;
}

void hf_session_join(struct hf_session *session)
{
	session->users++;
	atomic_fetch_add(&session->refs, 1);
}

void hf_session_leave(struct hf_session *session)
{
	if (!session)
		return;
	session->users--;
	hf_session_settle(session);
	hf_session_unref(session);
}
