/* outcome.h: why an acquire has not got its lock or slot so far, and how it answers. */
#ifndef HF_OUTCOME_H
#define HF_OUTCOME_H

#include "lock/lock.h"

/* What stood in the way last. thread. */
struct hf_outcome {
	enum hf_err code;
	char *text; /* NULL: nothing to say, or no memory to say it */
};

/* thread: copies text. */
void hf_outcome_note(struct hf_outcome *outcome, enum hf_err code, const char *text);
/* thread: sets the result of an op that was stopped, or has given up (why: TIMEOUT). From now on
 * the object is free for another acquire. */
void hf_outcome_publish(const struct hf_outcome *outcome, struct hf_op *op, struct hf_lock *lock,
			enum hf_err why);
void hf_outcome_free(struct hf_outcome *outcome);

#endif
