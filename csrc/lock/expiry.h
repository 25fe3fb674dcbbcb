/* expiry.h: the longest that a hold may go on, for locks that have one. */
#ifndef HF_EXPIRY_H
#define HF_EXPIRY_H

#include "lock/lock.h"

/* Makes what ends a hold when its time is over (hold->guard.ends). It is to be added to the engine
 * when the hold has begun, and ends with it. NULL when memory is out. */
struct hf_op *hf_expiry_new(struct hf_hold *hold);

#endif
