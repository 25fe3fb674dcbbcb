/* guard.h: what ops stand on that must not outlive something: when the guard breaks, they end with
 * LOST. It also has times after which it does not stand, known or not: nothing is sent any more.
 *
 * A guard belongs to an op, whose reference keeps it. That op is submitted when the guard has been
 * broken, and ends what stands on it (hf_guard_clear). */
#ifndef HF_GUARD_H
#define HF_GUARD_H

#include "base/list.h"
#include "hf.h"

#include <stdatomic.h>

struct hf_op;

struct hf_guard {
	struct hf_op *owner; /* const */
	const char *what; /* const: for messages; lives as long as the owner */
	const _Atomic int64_t *until; /* const: the time (hf_now) that it does not outlive */
	int64_t ends; /* const: another one, of its own */
	atomic_bool broken;
	const char *_Atomic why; /* a constant: how it broke */
	struct hf_link ops; /* thread */
};

void hf_guard_init(struct hf_guard *guard, struct hf_op *owner, const char *what);
/* Whether it stands at this moment. Any thread, no lock. */
bool hf_guard_stands(const struct hf_guard *guard);
/* Any thread. Whoever breaks it submits the owner. */
void hf_guard_break(struct hf_guard *guard, const char *why);
/* The engine's thread: ends the ops that stand on it, once it is broken. */
void hf_guard_clear(struct hf_guard *guard);
/* Fills *err the way an op answers that stood on it. */
void hf_guard_explain(const struct hf_guard *guard, struct hf_error *err);

#endif
