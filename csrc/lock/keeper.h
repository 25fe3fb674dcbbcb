/* keeper.h: what a session asks of the server: to be made, renewed and destroyed. The engine's
 * thread only. */
#ifndef HF_KEEPER_H
#define HF_KEEPER_H

#include "lock/session.h"

/* Begins to make and keep a session, with what watches over it. False when memory is out. */
bool hf_keeper_start(struct hf_session *session);

#endif
