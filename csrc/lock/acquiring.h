/* acquiring.h: what taking the lock of one key (acquire.c) and of several at once (acquire_all.c)
 * have in common: a session, tries and what comes of them, and leaving. The engine's thread only,
 * unless something else is said. */
#ifndef HF_ACQUIRING_H
#define HF_ACQUIRING_H

#include "lock/lock.h"
#include "lock/outcome.h"

enum hf_acquiring_phase {
	HF_AT_TURN,
	HF_AT_SESSION,
	HF_AT_READ,
	HF_AT_CLEAR, /* acquire_all.c */
	HF_AT_TRY,
	HF_AT_WAIT,
	HF_AT_UNDO
};

struct hf_acquiring;

/* What differs. */
struct hf_way {
	enum hf_step (*go)(struct hf_acquiring *a); /* on from a session */
	enum hf_step (*look)(struct hf_acquiring *a); /* reads what is to be locked */
};

/* The first member of its kind's struct. */
struct hf_acquiring {
	struct hf_op op;
	const struct hf_way *way; /* const */
	struct hf_lock *lock; /* const: counted */
	struct hf_hold **holds; /* const: what it is going to be, one for each key; counted */
	size_t count; /* const */
	struct hf_op *expiry; /* counted: what is to end that; NULL: nothing */
	struct hf_op *together; /* counted: what is to hold several together; NULL: there is one */
	enum hf_acquiring_phase phase;
	size_t at; /* which key stands in the way */
	struct hf_key *queued, *watched; /* it waits for this turn, or for this to change */
	bool once; /* const: timeout 0, one try */
	bool makes; /* the try is conditional on the absence of a key */
	enum hf_err why; /* it is being undone, and will answer this */
	uint64_t vain; /* what the last try in vain was conditional on: the sum of the indexes */
	unsigned failures, sessions, tries;
	struct hf_outcome so_far;
};

static inline struct hf_session *hf_acquiring_session_of(const struct hf_acquiring *a)
{
	return a->holds[0]->session;
}

/* The key that stands in the way. */
static inline struct hf_key *hf_acquiring_key(const struct hf_acquiring *a)
{
	return a->holds[a->at]->key;
}

/* Any thread: makes what a new op is to become, for which it has the room, and hands it to the
 * engine. Takes over the caller's reference, and gives it back in *out. */
enum hf_err hf_acquiring_start(struct hf_acquiring *a, struct hf_lock *lock, struct hf_hold **holds,
			       int64_t timeout, struct hf_op **out, struct hf_error *err);
/* For cleanup. */
void hf_acquiring_free(struct hf_op *op);
/* For cancel: under_way says whether a try is. */
enum hf_step hf_acquiring_cancel(struct hf_acquiring *a, enum hf_err why, bool under_way);
/* The phases WAIT, when there is no news for it, and UNDO of next. */
enum hf_step hf_acquiring_undo(struct hf_acquiring *a);

/* Notes why there is no lock so far. */
void hf_acquiring_note(struct hf_acquiring *a, enum hf_err code, const char *text);
/* Ends for this reason. What a try may have got is taken back first, and the caller waits for that,
 * but not for long. */
enum hf_step hf_acquiring_leave(struct hf_acquiring *a, enum hf_err why);
/* Ends with this answer. */
enum hf_step hf_acquiring_refuse(struct hf_acquiring *a, enum hf_err code, const char *why);
/* After passing trouble: anew, later. */
enum hf_step hf_acquiring_retry(struct hf_acquiring *a, const struct hf_error *err);
/* Anew, at a time. */
enum hf_step hf_acquiring_later(struct hf_acquiring *a, int64_t at);
void hf_acquiring_unwatch(struct hf_acquiring *a);

/* Whether there is a session to go on with. If not, *step is what to do. */
bool hf_acquiring_session(struct hf_acquiring *a, enum hf_step *step);
/* Whether a session that can be relied on is there already. */
bool hf_acquiring_has_session(struct hf_acquiring *a);
/* Whether a try may have been carried out, or may still be, that nobody would know of. */
bool hf_acquiring_unsure(const struct hf_acquiring *a);
/* Forgets all copies of tries. */
void hf_acquiring_forget_copies(struct hf_acquiring *a);
/* Forgets the copies that what has been seen of the keys shows to be dead. */
void hf_acquiring_bury(struct hf_acquiring *a);
/* Waits for a change of the key that stands in the way, which another has. */
enum hf_step hf_acquiring_wait(struct hf_acquiring *a);

/* ---- tries (trying.c) ---- */

/* Tries in vain have come faster than they may: *step waits. */
bool hf_acquiring_too_many(struct hf_acquiring *a, enum hf_step *step);

/* Decides on what is seen now what the try is conditional on: what is seen until the request leaves
 * does not count. */
void hf_acquiring_aim(struct hf_acquiring *a);
/* The operations of the try for one key, and how many. */
size_t hf_acquiring_fill(struct hf_acquiring *a, struct hf_hold *hold, struct hf_http *http);
/* Notes that copies of the try may be carried out whatever it is answered. */
void hf_acquiring_note_copies(struct hf_acquiring *a);
/* What came of the try; the index in answer->kv is that of all keys. */
enum hf_step hf_acquiring_tried(struct hf_acquiring *a, const struct hf_answer *answer);

#endif
