/* session.c: what a session is to those that lean on it, and its lease. The rules and their reasons
 * are in docs/consul.md; what it asks of the server is in keeper.c. */
#include "lock/session.h"

#include "base/alloc.h"
#include "base/config.h"
#include "consul/session.h"
#include "lock/alive.h"
#include "lock/events.h"
#include "lock/keeper.h"
#include "lock/lock.h"
#include "lock/stray.h"
#include "net/process.h"

#include <string.h>

/* Consul holds a key back for no longer than this, whatever was asked for. */
#define DELAY_MAX 60000
/* A lease of less cannot be kept up: such a lock-delay is as good as none. */
#define DELAY_LEAST 1000
/* Clocks may differ in speed by one percent, and the holder gets some time to stop. */
#define DRIFT 0.99
#define MARGIN_MAX 1000
#define AUDIT_MAX 5000 /* between looks at the holds of an external session */

/* ---- life ----------------------------------------------------------------------------------- */

/* Has the session stand on a check of ours. */
static bool add_check(struct hf_session *session)
{
	struct hf_list *list = &session->opts.service_checks;
	const char **items = hf_realloc(list->items, (list->count + 1) * sizeof *items);

	if (!items)
		return false;
	list->items = items;
	items[list->count] = session->check = hf_alive_id(session->opts.name);
	list->count += session->check != NULL;
	return session->check != NULL;
}

static struct hf_session *make(struct hf_client *client, const struct hf_session_opts *opts,
			       const char *id)
{
	struct hf_session *session = hf_calloc(1, sizeof *session);

	if (!session)
		return NULL;
	if (!hf_session_opts_copy(&session->opts, opts)) {
		hf_free(session);
		return NULL;
	}
	if (opts->alive && !id && !add_check(session)) {
		hf_session_opts_free(&session->opts);
		hf_free(session);
		return NULL;
	}
	session->client = client;
	hf_engine_ref(&client->engine);
	session->refs = 1; /* the list's */
	session->ttl = opts->ttl;
	atomic_init(&session->deadline, HF_NEVER);
	session->external = id != NULL;
	if (id)
		strncpy(session->id, id, sizeof session->id - 1);
	hf_link_init(&session->holds);
	hf_link_init(&session->attempts);
	hf_link_init(&session->made);
	hf_link_init(&session->confirmed);
	hf_link_init(&session->ended);
	hf_link_init(&session->suspects);
	hf_link_init(&session->mine);
	hf_process_count(HF_SESSIONS, 1);
	return session;
}

void hf_session_ref(struct hf_session *session)
{
	atomic_fetch_add(&session->refs, 1);
}

void hf_session_unref(struct hf_session *session)
{
	if (!session || atomic_fetch_sub(&session->refs, 1) > 1)
		return;
	hf_stray_free(session);
	hf_session_opts_free(&session->opts);
	hf_engine_unref(&session->client->engine);
	hf_free(session);
	hf_process_count(HF_SESSIONS, -1);
}

static void enlist(struct hf_session *session)
{
	struct hf_client *client = session->client;

	hf_link_append(&client->sessions, &session->mine);
	pthread_mutex_lock(&client->engine.mutex);
	client->stats.sessions++;
	pthread_mutex_unlock(&client->engine.mutex);
}

void hf_session_forget(struct hf_session *session)
{
	struct hf_client *client = session->client;

	if (hf_link_alone(&session->mine))
		return;
	hf_link_remove(&session->mine);
	if (client->shared == session)
		client->shared = NULL;
	pthread_mutex_lock(&client->engine.mutex);
	client->stats.sessions--;
	pthread_mutex_unlock(&client->engine.mutex);
	hf_session_unref(session);
}

/* ---- how long things are -------------------------------------------------------------------- */

/* Whatever ends a session, nobody else has its keys before the lock-delay is over. Without one,
 * which is a renunciation, only its expiry is to be reckoned with, and that is not before the TTL.
 */
static int64_t base_of_lease(const struct hf_session *session)
{
	int64_t delay = session->opts.lock_delay, ttl = session->opts.ttl;

	if (delay >= DELAY_LEAST)
		return delay < DELAY_MAX ? delay : DELAY_MAX;
	if (session->ttl > 0 && session->ttl < ttl)
		ttl = session->ttl;
	return ttl > 0 ? ttl : HF_LOCK_DELAY_DEFAULT;
}

int64_t hf_session_lease(const struct hf_session *session)
{
	int64_t base = base_of_lease(session);
	int64_t margin = base / 10 < MARGIN_MAX ? base / 10 : MARGIN_MAX;

	return (int64_t)((double)base * DRIFT) - margin;
}

/* The shorter of what must not run out: the lease here, the session there. */
int64_t hf_session_span(const struct hf_session *session)
{
	int64_t base = base_of_lease(session);

	return session->ttl > 0 && session->ttl < base ? session->ttl : base;
}

int64_t hf_session_interval(const struct hf_session *session)
{
	int64_t interval = hf_session_span(session) / 3;

	return session->external && interval > AUDIT_MAX ? AUDIT_MAX : interval;
}

/* ---- the end of it -------------------------------------------------------------------------- */

void hf_session_expire_locked(struct hf_session *session, enum hf_reason reason)
{
	enum hf_reason why = reason == HF_BY_RELEASED ? HF_BY_SESSION : reason;
	struct hf_link *link;

	session->state = HF_SESSION_DEAD;
	session->reason = reason;
	if (reason != HF_BY_RELEASED)
		hf_events_session_locked(session, HF_SESSION_LOST, NULL);
	while ((link = hf_link_first(&session->holds)) != NULL)
		hf_hold_end_locked(HF_OF(struct hf_hold, place, link), why);
}

bool hf_session_alive_locked(struct hf_session *session)
{
	if (session->state == HF_SESSION_ALIVE && hf_now() >= atomic_load(&session->deadline))
		hf_session_expire_locked(session, HF_BY_DEADLINE);
	return session->state == HF_SESSION_ALIVE;
}

enum hf_session_state hf_session_check(struct hf_session *session)
{
	enum hf_session_state state;

	pthread_mutex_lock(&session->client->engine.mutex);
	hf_session_alive_locked(session);
	state = session->state;
	pthread_mutex_unlock(&session->client->engine.mutex);
	return state;
}

bool hf_session_over(struct hf_session *session)
{
	return hf_session_check(session) != HF_SESSION_ALIVE;
}

bool hf_session_ended(struct hf_session *session)
{
	return session->external ? session->gone : hf_session_over(session);
}

void hf_session_lost(struct hf_session *session, enum hf_reason reason)
{
	pthread_mutex_lock(&session->client->engine.mutex);
	if (session->state == HF_SESSION_ALIVE)
		hf_session_expire_locked(session, reason);
	pthread_mutex_unlock(&session->client->engine.mutex);
	hf_wake_all(&session->made);
	hf_wake_all(&session->confirmed);
	hf_session_retire(session);
}

void hf_session_gone(struct hf_session *session)
{
	session->gone = true;
	hf_session_lost(session, HF_BY_SESSION);
	hf_wake(session->keeper);
}

void hf_session_retire(struct hf_session *session)
{
	session->retired = true;
	if (session->client->shared == session)
		session->client->shared = NULL;
	hf_session_settle(session);
}

bool hf_session_in_use(struct hf_session *session)
{
	bool held;

	pthread_mutex_lock(&session->client->engine.mutex);
	held = session->held > 0;
	pthread_mutex_unlock(&session->client->engine.mutex);
	return session->users || held;
}

void hf_session_settle(struct hf_session *session)
{
	if (hf_session_in_use(session))
		return;
	if (session->external)
		session->retired = true;
	if (session->retired)
		hf_wake(session->keeper);
}

void hf_session_unkeep(struct hf_session *session)
{
	if (!session->kept)
		return;
	session->kept = false;
	hf_session_leave(session);
}

void hf_session_doubt(struct hf_session *session)
{
	session->doubted = true;
	hf_wake(session->external ? session->audit : session->keeper);
}

/* ---- the lease ------------------------------------------------------------------------------ */

/* Answers may come in another order than the requests were sent in: the last that was counts. */
void hf_session_extend(struct hf_session *session, int64_t sent)
{
	if (sent < session->proved_at)
		return;
	session->proved_at = sent;
	pthread_mutex_lock(&session->client->engine.mutex);
	if (session->state == HF_SESSION_NEW)
		session->state = HF_SESSION_ALIVE;
	/* An external session that nothing is held through has no lease to lose. */
	if (session->state == HF_SESSION_ALIVE && (!session->external || session->held))
		atomic_store(&session->deadline, sent + hf_session_lease(session));
	pthread_mutex_unlock(&session->client->engine.mutex);
}

void hf_session_proved(struct hf_session *session, int64_t sent)
{
	if (!session->external)
		return;
	hf_session_extend(session, sent);
	hf_wake(session->keeper); /* which minds the deadline */
}

/* ---- for locks ------------------------------------------------------------------------------ */

static struct hf_session *find_external(const struct hf_client *client, const char *id)
{
	const struct hf_link *list = &client->sessions;

	for (struct hf_link *link = hf_link_first(list); link; link = hf_link_after(list, link)) {
		struct hf_session *session = HF_OF(struct hf_session, mine, link);

		if (session->external && !session->retired && !strcmp(session->id, id))
			return session;
	}
	return NULL;
}

struct hf_session *hf_session_for(struct hf_client *client, const struct hf_session_opts *own,
				  const char *id)
{
	struct hf_session *session = own ? NULL : id ? find_external(client, id) : client->shared;

	if (!session) {
		session = make(client, own ? own : &client->opts.session, id);
		if (!session)
			return NULL;
		if (!hf_keeper_start(session)) {
			hf_session_unref(session);
			return NULL;
		}
		enlist(session);
		if (!own && !id)
			client->shared = session;
	}
	hf_session_join(session);
	return session;
}

void hf_session_join(struct hf_session *session)
{
	session->users++;
	hf_session_ref(session);
}

void hf_session_leave(struct hf_session *session)
{
	if (!session)
		return;
	session->users--;
	hf_session_settle(session);
	hf_session_unref(session);
}
