#include "net/guard.h"

#include "net/turn.h"

void hf_guard_init(struct hf_guard *guard, struct hf_op *owner, const char *what)
{
	guard->owner = owner;
	guard->what = what;
	guard->ends = HF_NEVER;
	hf_link_init(&guard->ops);
}

bool hf_guard_stands(const struct hf_guard *guard)
{
	int64_t now = hf_now();

	return !atomic_load(&guard->broken) && now < guard->ends &&
	       (!guard->until || now < atomic_load(guard->until));
}

void hf_guard_break(struct hf_guard *guard, const char *why)
{
	if (atomic_load(&guard->broken))
		return;
	atomic_store(&guard->why, why);
	atomic_store(&guard->broken, true);
}

void hf_guard_clear(struct hf_guard *guard)
{
	struct hf_link *link;

	while ((link = hf_link_first(&guard->ops)) != NULL) {
		hf_link_remove(link);
		hf_engine_stop(HF_OF(struct hf_op, guarded, link), HF_LOST);
	}
}

void hf_guard_explain(const struct hf_guard *guard, struct hf_error *err)
{
	const char *why = atomic_load(&guard->why);

	if (!why)
		why = hf_now() < guard->ends ? "deadline" : "expired";
	hf_err_set(err, HF_LOST, "the hold of \"%s\" has ended: %s", guard->what, why);
}
