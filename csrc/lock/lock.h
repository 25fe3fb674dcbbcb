/* lock.h: lock objects and their holds. A hold is also the op that gives it back: made before it
 * is needed, submitted when it ends. */
#ifndef HF_LOCK_H
#define HF_LOCK_H

#include "lock/batch.h"
#include "lock/handle.h"

/* The keys of a lock that has several. */
struct hf_more {
	char *name; /* all of them, for messages */
	size_t count;
	struct hf_lock *locks[]; /* of each but the first; counted */
};

struct hf_lock {
	struct hf_client *client; /* const; counted */
	char *key, *value; /* const: behind this struct */
	struct hf_more *more; /* const: further keys; NULL: there are none */
	size_t value_len; /* const */
	struct hf_session_opts *session_opts; /* const: a session of its own, or NULL */
	char *session_id; /* const: an external session, or NULL */
	struct hf_session *session; /* const: that of an object of the user's; counted. Or NULL */
	struct hf_handle *handle; /* that object, kept until the lock is dropped. Or NULL */
	uint64_t flags; /* const: its key's */
	int64_t max_hold; /* const: ms; 0: none */
	uint64_t limit; /* const: of the semaphore that it is a slot of, whose prefix is the key; 0:
			   it is a lock */
	bool monitor_key, ephemeral; /* const */
	bool lost; /* lock */
	atomic_int refs;

	struct hf_op *acquiring; /* lock; not counted: the op takes itself out */
	struct hf_hold *hold; /* lock; counted. NULL: not held */
	enum hf_reason reason; /* lock: how the last hold ended */
	int fd; /* lock; -1 until asked for */
};

enum hf_giveback { HF_START, HF_UNLOCKING, HF_LOOKING, HF_CONFIRMING, HF_FENCING };

struct hf_hold {
	struct hf_op op; /* gives it back (giveback.c) */
	struct hf_part part;
	/* const: asks what a phase asks, and answers by hf_giveback_answer; NULL: as for a lock */
	enum hf_step (*ask)(struct hf_hold *hold, enum hf_giveback phase);
	struct hf_guard guard; /* what ends with it */
	struct hf_lock *lock; /* const; counted */
	struct hf_session *session; /* const once held; counted and joined until given back */
	struct hf_key *key; /* thread; its turn is ours, or we wait for it. NULL: given back */
	struct hf_link place; /* lock: session->holds */
	struct hf_op *together; /* lock: what it is held and ends together with; NULL: alone */
	uint64_t token; /* const once held: the index of its acquisition */
	uint64_t copies; /* thread: the highest index that a try is conditional on whose outcome is
			    not known, or that may come once more; 0: none */
	uint64_t index; /* thread: what the next write is conditional on; 0: absence */
	int64_t until; /* thread: not at any price */
	struct hf_error *trouble; /* thread: what went wrong last, NULL: nothing */
	struct hf_link over; /* thread: ops that wait for its result, or its end */
	enum hf_giveback phase; /* thread */
	bool was_held; /* const once submitted: an unlock; else an acquire takes back its tries */
	bool lost; /* const once submitted: nothing is ours to give back */
	bool once; /* const once submitted: the caller wants to hear of the first try */
	bool ours; /* thread: the session of the try has the key already */
	bool copies_make; /* thread: one of the tries is conditional on the key's absence */
	bool unsure; /* thread: an unlock that failed may have been carried out */
};

/* Its key or keys, for messages. */
static inline const char *hf_lock_name(const struct hf_lock *lock)
{
	return lock->more ? lock->more->name : lock->key;
}

/* What it is, for messages. */
static inline const char *hf_lock_noun(const struct hf_lock *lock)
{
	return lock->limit ? "semaphore" : "lock";
}

void hf_lock_ref(struct hf_lock *lock);
/* NULL is fine. Never takes the mutex. */
void hf_lock_unref(struct hf_lock *lock);
/* Whether it is held at this moment; looks at the lease and at max_hold, and ends what is over. */
bool hf_lock_held_locked(struct hf_lock *lock);
/* Begins a hold, which the lock counts, and which the server has granted to a request that was sent
 * at a time. */
void hf_lock_begin_hold_locked(struct hf_hold *hold, int64_t sent);
/* Hands in the op that acquires it. HELD when it is held, or another such op is under way. */
enum hf_err hf_lock_start_locked(struct hf_lock *lock, struct hf_op *op, struct hf_error *err);
/* Fills *err with LOST or NOT_HELD, whichever it is, and answers that. */
enum hf_err hf_lock_not_held_locked(struct hf_lock *lock, struct hf_error *err);

/* hf_lock_acquire of several keys (acquire_all.c). */
enum hf_err hf_lock_acquire_all(struct hf_lock *lock, int64_t timeout, struct hf_op **out,
				struct hf_error *err);

/* ---- holds (hold.c, giveback.c) ---- */

/* Makes a hold that has not begun. NULL when memory is out. */
struct hf_hold *hf_hold_new(struct hf_lock *lock);
/* The same of another kind, whose functions call those below, in size bytes whose first member is
 * the struct hf_hold. */
struct hf_hold *hf_hold_make(struct hf_lock *lock, const struct hf_part_kind *kind, size_t size);
enum hf_step hf_giveback_next(struct hf_op *op);
enum hf_step hf_giveback_answer(struct hf_op *op, const struct hf_answer *answer);
enum hf_step hf_giveback_cancel(struct hf_op *op, enum hf_err why);
void hf_giveback_free(struct hf_op *op);
/* What the server has said of a hold: it is lost, if it has not ended meanwhile. */
void hf_hold_lose(struct hf_hold *hold, enum hf_reason reason);
/* Ends a hold here, and those that are held together with it: what is guarded by it is over, and a
 * loss is latched unless reason is released. What the server has to be told is told in the
 * background. */
void hf_hold_end_locked(struct hf_hold *hold, enum hf_reason reason);
/* The same because it is given back: answers the op to wait for, which is the caller's. timeout is
 * that of an unlock. */
struct hf_op *hf_hold_release_locked(struct hf_lock *lock, int64_t timeout);
/* thread: takes back what an acquire may have got, by a hold that never began. Takes over the
 * caller's reference. */
void hf_hold_undo(struct hf_hold *hold);

#endif
