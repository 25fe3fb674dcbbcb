/* events.h: what happens in a client, noted for whoever wants to tell it (hf_client_event). Nothing
 * is kept unless the client was made with it. */
#ifndef HF_EVENTS_H
#define HF_EVENTS_H

#include "lock/client.h"

struct hf_session;
struct hf_hold;

/* Makes room for them. False when memory is out. */
bool hf_events_init(struct hf_client *client);
/* The last reference on its client is gone. NULL is fine. */
void hf_events_free(struct hf_events *events);

/* About a session: how it ended, or what went wrong (NULL: nothing). */
void hf_events_session_locked(struct hf_session *session, enum hf_event_kind kind,
			      const struct hf_error *err);
/* The same, for who does not have the mutex. */
void hf_events_session(struct hf_session *session, enum hf_event_kind kind,
		       const struct hf_error *err);
/* A hold that has been lost. */
void hf_events_hold_locked(const struct hf_hold *hold, enum hf_reason reason);
/* thread: a request of the client's own is over: the connection may be in trouble, or be so no
 * more. */
void hf_events_heard(struct hf_client *client, const struct hf_http *http);

#endif
