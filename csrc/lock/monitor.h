/* monitor.h: how a loss is noticed that the lease does not show. Trouble on the way is never a
 * loss: that is for the lease to say. The engine's thread only. */
#ifndef HF_MONITOR_H
#define HF_MONITOR_H

#include "lock/lock.h"

/* Makes the op that watches over a session by one long poll, and the one that audits the keys held
 * through it. NULL when memory is out. */
struct hf_op *hf_monitor_session(struct hf_session *session);
struct hf_op *hf_monitor_holds(struct hf_session *session);
/* Begins to watch the key of one hold. Without memory for it the audit has to do. */
void hf_monitor_key(struct hf_hold *hold);

#endif
