/* together.h: holds that began and are to end together. It is also the op that their caller waits
 * for when they are given back: the end of all their givebacks. */
#ifndef HF_TOGETHER_H
#define HF_TOGETHER_H

#include "lock/lock.h"

/* Makes it, with room for so many holds: before it is needed. NULL when memory is out. */
struct hf_op *hf_together_new(struct hf_engine *engine, size_t count);
/* Adds a hold that has begun. Each counts the other, until hf_hold_end_locked. */
void hf_together_add_locked(struct hf_op *op, struct hf_hold *hold);
/* The ith of them; NULL: there are no more. */
struct hf_hold *hf_together_hold(const struct hf_op *op, size_t i);

#endif
