/* renewal.h: the renewals of a session that are under way; when one is sent, and what comes of it,
 * is the keeper's to say. The engine's thread only. */
#ifndef HF_RENEWAL_H
#define HF_RENEWAL_H

#include "lock/session.h"

/* How long from one renewal to the next, ms; a little more or less each time. */
int64_t hf_renewal_interval(const struct hf_session *session);
/* Fills one. */
void hf_renewal_ask(const struct hf_session *session, struct hf_http *http);
/* Sends one, unless too many are under way; fresh: on a new connection. The keeper hears what comes
 * of it. Without memory for it the next one has to do. */
void hf_renewal_send(struct hf_session *session, bool fresh);
/* Gives up those that are under way. */
void hf_renewals_stop(struct hf_session *session);

#endif
