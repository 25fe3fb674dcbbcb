#include "lock/events.h"

#include "base/alloc.h"
#include "lock/lock.h"

#include <stdio.h>

/* So many wait at most; who comes for them is told how many more there were. */
#define EVENTS_MAX 256

struct hf_events {
	struct hf_event ring[EVENTS_MAX]; /* lock */
	size_t first, count; /* lock */
	uint64_t dropped; /* lock */
	struct hf_event told; /* the caller's: the last one that was handed out */
	bool troubled; /* thread: the last word was that there is no answer */
	int64_t since; /* thread: when that was */
	int64_t heard; /* thread: when the last request was sent that has been answered */
};

bool hf_events_init(struct hf_client *client)
{
	if (client->opts.events)
		client->events = hf_calloc(1, sizeof *client->events);
	return client->events || !client->opts.events;
}

static void event_free(struct hf_event *event)
{
	hf_free(event->key);
	hf_free(event->message);
	event->key = event->message = NULL;
}

/* ---- noting --------------------------------------------------------------------------------- */

/* Room for one, NULL when there is none. */
static struct hf_event *add_locked(struct hf_events *events, enum hf_event_kind kind)
{
	struct hf_event *event;

	if (events->count == EVENTS_MAX) {
		events->dropped++;
		return NULL;
	}
	event = &events->ring[(events->first + events->count++) % EVENTS_MAX];
	*event = (struct hf_event){.kind = kind, .at = hf_now()};
	return event;
}

static void explain(struct hf_event *event, const struct hf_error *err)
{
	event->code = err->code;
	event->message = hf_strdup(err->message);
}

void hf_events_session_locked(struct hf_session *session, enum hf_event_kind kind,
			      const struct hf_error *err)
{
	struct hf_events *events = session->client->events;
	struct hf_event *event = events ? add_locked(events, kind) : NULL;

	if (!event)
		return;
	snprintf(event->session, sizeof event->session, "%s", session->id);
	event->key = hf_strdup(session->opts.name);
	event->reason = session->reason;
	event->ttl = session->opts.ttl;
	event->lock_delay = session->opts.lock_delay;
	if (err)
		explain(event, err);
}

void hf_events_session(struct hf_session *session, enum hf_event_kind kind,
		       const struct hf_error *err)
{
	pthread_mutex_lock(&session->client->engine.mutex);
	hf_events_session_locked(session, kind, err);
	pthread_mutex_unlock(&session->client->engine.mutex);
}

void hf_events_hold_locked(const struct hf_hold *hold, enum hf_reason reason)
{
	struct hf_events *events = hold->lock->client->events;
	struct hf_event *event = events ? add_locked(events, HF_LOCK_LOST) : NULL;

	if (!event)
		return;
	snprintf(event->session, sizeof event->session, "%s", hold->session->id);
	event->key = hf_strdup(hold->lock->key);
	event->token = hold->token;
	event->reason = reason;
}

static void note_connection(struct hf_client *client, enum hf_event_kind kind,
			    const struct hf_http *http, int64_t lasted)
{
	struct hf_event *event;
	struct hf_error err;

	hf_err_set(&err, http->error, "%s", http->error ? http->message : "");
	pthread_mutex_lock(&client->engine.mutex);
	event = add_locked(client->events, kind);
	if (event) {
		event->lasted = lasted;
		explain(event, &err);
	}
	pthread_mutex_unlock(&client->engine.mutex);
}

/* A request that was sent before the last one that has been answered says nothing of now: an old
 * connection that has died is no trouble as long as a new one is to be had. */
void hf_events_heard(struct hf_client *client, const struct hf_http *http)
{
	struct hf_events *events = client->events;

	if (http->error == HF_NOMEM || http->error == HF_INVALID)
		return; /* which is our doing */
	if (!events || (http->error && (events->troubled || http->sent < events->heard)))
		return;
	if (http->error) {
		events->troubled = true;
		events->since = hf_now();
		note_connection(client, HF_TROUBLE, http, 0);
		return;
	}
	if (http->sent > events->heard)
		events->heard = http->sent;
	if (!events->troubled)
		return;
	events->troubled = false;
	note_connection(client, HF_TROUBLE_OVER, http, hf_now() - events->since);
}

/* ---- handing out ---------------------------------------------------------------------------- */

static bool take_locked(struct hf_events *events, struct hf_event *out)
{
	if (events->count) {
		*out = events->ring[events->first];
		events->first = (events->first + 1) % EVENTS_MAX;
		events->count--;
		return true;
	}
	if (!events->dropped)
		return false;
	*out = (struct hf_event){.kind = HF_DROPPED, .at = hf_now(), .count = events->dropped};
	events->dropped = 0;
	return true;
}

const struct hf_event *hf_client_event(struct hf_client *client)
{
	struct hf_events *events = client->events;
	bool any;

	if (!events || !hf_engine_here(&client->engine, NULL))
		return NULL;
	event_free(&events->told);
	pthread_mutex_lock(&client->engine.mutex);
	any = take_locked(events, &events->told);
	pthread_mutex_unlock(&client->engine.mutex);
	return any ? &events->told : NULL;
}

void hf_events_free(struct hf_events *events)
{
	if (!events)
		return;
	do
		event_free(&events->told);
	while (take_locked(events, &events->told));
	hf_free(events);
}
