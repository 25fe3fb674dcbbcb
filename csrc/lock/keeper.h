/* keeper.h: what a session asks of the server: to be made, renewed and destroyed. The engine's
 * thread only. */
#ifndef HF_KEEPER_H
#define HF_KEEPER_H

#include "lock/session.h"

/* Begins to make and keep a session, with what watches over it. False when memory is out. */
bool hf_keeper_start(struct hf_session *session);
/* The session could not be made so far: session->create_error, which is final or not. */
void hf_keeper_not_made(struct hf_session *session, bool final);
/* What came of a renewal that was sent at a time: a new lease, the end of the session (ABSENT), or
 * another renewal soon. Fills *err unless it answers OK. */
enum hf_verdict hf_keeper_heard(struct hf_session *session, const struct hf_http *http,
				int64_t sent, struct hf_error *err);

#endif
