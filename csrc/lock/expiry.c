#include "lock/expiry.h"

#include "net/turn.h"

/* Stands on the hold's guard, so it ends with it. */
struct expiry {
	struct hf_op op;
	struct hf_hold *hold; /* the guard's owner, which the op counts */
};

static enum hf_step expiry_next(struct hf_op *op)
{
	struct hf_hold *hold = ((struct expiry *)op)->hold;
	const struct hf_error ok = {HF_OK, ""};

	if (hf_now() < hold->guard.ends)
		return hf_op_sleep(op, hold->guard.ends);
	pthread_mutex_lock(&op->engine->mutex);
	hf_lock_held_locked(hold->lock); /* which ends it */
	hf_op_finish_locked(op, &ok);
	pthread_mutex_unlock(&op->engine->mutex);
	return HF_FINISH;
}

static const struct hf_kind expiry_kind = {"expiry", expiry_next, NULL, NULL, NULL, NULL};

struct hf_op *hf_expiry_new(struct hf_hold *hold)
{
	struct expiry *e = hf_op_new(hold->op.engine, &expiry_kind, sizeof *e);

	if (!e)
		return NULL;
	e->op.internal = true;
	e->hold = hold;
	hf_op_stand_on(&e->op, &hold->guard);
	return &e->op;
}
