/* together.h: what a caller waits for who gives several keys back: the end of all their givebacks.
 */
#ifndef HF_TOGETHER_H
#define HF_TOGETHER_H

#include "lock/lock.h"

/* Makes the op, with room for so many holds: before it is needed. NULL when memory is out. */
struct hf_op *hf_together_new(struct hf_engine *engine, size_t count);
/* Has it wait for one more hold, which it counts. */
void hf_together_add(struct hf_op *op, struct hf_hold *hold);

#endif
