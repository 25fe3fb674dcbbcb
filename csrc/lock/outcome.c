#include "lock/outcome.h"

#include "base/alloc.h"

void hf_outcome_note(struct hf_outcome *outcome, enum hf_err code, const char *text)
{
	hf_free(outcome->text);
	outcome->text = hf_strdup(text);
	outcome->code = code;
}

/* When its time is up the caller should hear what stood in the way: a holder, a lock-delay, or no
 * way to Consul. */
static void describe(const struct hf_outcome *outcome, const struct hf_op *op,
		     const struct hf_lock *lock, enum hf_err why, struct hf_error *err)
{
	const char *noun = hf_lock_noun(lock), *name = hf_lock_name(lock);
	struct hf_error stopped;

	if (why == HF_TIMEOUT && outcome->code) {
		hf_err_set(err, outcome->code, "%s \"%s\": %s", noun, name,
			   outcome->text ? outcome->text : hf_err_text(outcome->code));
	} else if (why == HF_TIMEOUT) {
		hf_err_set(err, HF_TIMEOUT, "%s \"%s\": no turn in the time given", noun, name);
	} else {
		hf_op_why(op, why, &stopped);
		hf_err_set(err, why, "%s \"%s\": %s", noun, name, stopped.message);
	}
}

void hf_outcome_publish(const struct hf_outcome *outcome, struct hf_op *op, struct hf_lock *lock,
			enum hf_err why)
{
	struct hf_error result;

	describe(outcome, op, lock, why, &result);
	pthread_mutex_lock(&op->engine->mutex);
	hf_op_finish_locked(op, &result);
	if (lock->acquiring == op)
		lock->acquiring = NULL;
	pthread_mutex_unlock(&op->engine->mutex);
}

void hf_outcome_free(struct hf_outcome *outcome)
{
	hf_free(outcome->text);
}
