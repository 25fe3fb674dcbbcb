#include "lock/together.h"

struct together {
	struct hf_op op;
	size_t count; /* lock, const once all have begun */
	size_t heard; /* thread: so many have their result */
	struct hf_error result; /* thread: of those */
	struct hf_hold *holds[]; /* the same; counted */
};

static void together_free(struct hf_op *op)
{
	struct together *t = (struct together *)op;

	while (t->count)
		hf_op_unref(&t->holds[--t->count]->op);
}

/* A loss is the worst, then comes what was first. False: it has no result yet. */
static bool hear(struct together *t, struct hf_op *giveback)
{
	struct hf_error err;

	if (!hf_op_done(giveback))
		return false;
	if (hf_op_result(giveback, &err) &&
	    (!t->result.code || (err.code == HF_LOST && t->result.code != HF_LOST)))
		t->result = err;
	return true;
}

static enum hf_step together_next(struct hf_op *op)
{
	struct together *t = (struct together *)op;

	for (; t->heard < t->count; t->heard++) {
		struct hf_hold *hold = t->holds[t->heard];

		if (!hear(t, &hold->op))
			return hf_op_park(op, &hold->over, HF_NEVER);
	}
	hf_op_finish(op, &t->result);
	return HF_FINISH;
}

static const struct hf_kind together_kind = {"together", together_next, NULL,
					     NULL,	 NULL,		together_free};

struct hf_op *hf_together_new(struct hf_engine *engine, size_t count)
{
	struct together *t;

	t = hf_op_new(engine, &together_kind, sizeof *t + count * sizeof *t->holds);
	return t ? &t->op : NULL;
}

void hf_together_add_locked(struct hf_op *op, struct hf_hold *hold)
{
	struct together *t = (struct together *)op;

	hf_op_ref(&hold->op);
	t->holds[t->count++] = hold;
	hf_op_ref(op);
	hold->together = op;
}

struct hf_hold *hf_together_hold(const struct hf_op *op, size_t i)
{
	const struct together *t = (const struct together *)op;

	return i < t->count ? t->holds[i] : NULL;
}
