/* alive.h: the check that a session of ours may stand on, and that the engine keeps passing: it
 * goes critical, and the session with it, when the process does not live any more. */
#ifndef HF_ALIVE_H
#define HF_ALIVE_H

#include "lock/session.h"

/* Makes the op that registers the check, passes it and, once the session is over, takes it away
 * again. NULL when memory is out. */
struct hf_op *hf_alive_new(struct hf_session *session);
/* The id of a check for a session of this name: new memory, the caller's. NULL when memory is out.
 */
char *hf_alive_id(const char *name);

#endif
