/* slot.h: a hold of a semaphore: a key of its session below the prefix, and its name in .lock. The
 * key is looked after as that of any hold is (monitor.c); this is about the name. The engine's
 * thread only, but for hf_slot_new. */
#ifndef HF_SLOT_H
#define HF_SLOT_H

#include "lock/lock.h"
#include "lock/tree.h"

struct hf_slot {
	struct hf_hold hold; /* its key is the session's own below the prefix */
	struct hf_tree *tree; /* counted; NULL: not known yet, or given back */
	struct hf_semaphore next; /* what the write under way makes of .lock */
	unsigned looks; /* how often a giveback has looked */
	bool rested; /* and has waited before the next time */
};

/* Makes a hold that has not begun; the lock is a semaphore's. NULL when memory is out. */
struct hf_slot *hf_slot_new(struct hf_lock *lock);
/* Begins to watch over the name of one that is held. Without memory for it the audit has to do. */
void hf_slot_watch(struct hf_slot *slot);
/* Adds the write of .lock to a transaction, conditional on what has been seen: those who are alive,
 * without the session, or with it. fence: its index moves in any case. */
void hf_slot_write(struct hf_slot *slot, struct hf_http *http, bool with, bool fence);
/* Reads the reply to a transaction of count operations that began so; what has been carried out has
 * been seen. */
enum hf_verdict hf_slot_written(struct hf_slot *slot, const struct hf_http *http, size_t count,
				uint64_t *index, struct hf_error *err);
/* Reads the reply to hf_semaphore_get, which has been seen then. */
enum hf_verdict hf_slot_saw(struct hf_tree *tree, const struct hf_http *http, struct hf_error *err);

#endif
