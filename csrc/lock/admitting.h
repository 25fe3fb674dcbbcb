/* admitting.h: an op that takes a slot of a semaphore (admit.c): the session it has in hand, and
 * how it leaves. The engine's thread only. */
#ifndef HF_ADMITTING_H
#define HF_ADMITTING_H

#include "lock/outcome.h"
#include "lock/slot.h"

enum hf_admit_phase {
	HF_ADMIT_TURN,
	HF_ADMIT_LOOK,
	HF_ADMIT_WAIT,
	HF_ADMIT_PAUSE,
	HF_ADMIT_SESSION,
	HF_ADMIT_TRY,
	HF_ADMIT_UNDO
};

struct hf_admitting {
	struct hf_op op;
	struct hf_lock *sem; /* counted */
	struct hf_slot *slot; /* counted: what it is going to be */
	enum hf_admit_phase phase;
	bool watching;
	bool once; /* timeout 0: one try */
	bool unsure; /* a try may have been carried out, or may still be */
	bool was_unsure; /* the same, before the try that is under way */
	bool queued; /* waits until no other object uses the session */
	enum hf_err why; /* it is being undone, and will answer this */
	unsigned failures, sessions, vain;
	struct hf_outcome so_far;
};

static inline struct hf_tree *hf_admitting_tree(const struct hf_admitting *a)
{
	return a->slot->tree;
}

static inline struct hf_session *hf_admitting_session_of(const struct hf_admitting *a)
{
	return a->slot->hold.session;
}

/* For cleanup, and for cancel. */
void hf_admitting_free(struct hf_op *op);
enum hf_step hf_admitting_cancel(struct hf_op *op, enum hf_err why);

/* Notes why there is no slot so far. */
void hf_admitting_note(struct hf_admitting *a, enum hf_err code, const char *text);
/* Ends for this reason. What a try may have got is taken back first, and the caller waits for that,
 * but not for long. */
enum hf_step hf_admitting_leave(struct hf_admitting *a, enum hf_err why);
/* Ends with this answer. */
enum hf_step hf_admitting_refuse(struct hf_admitting *a, enum hf_err code, const char *why);
/* The phase UNDO of next: what was to be waited for is over. */
enum hf_step hf_admitting_end(struct hf_admitting *a);
/* After passing trouble: anew, later. */
enum hf_step hf_admitting_retry(struct hf_admitting *a, const struct hf_error *err);
void hf_admitting_unwatch(struct hf_admitting *a);

/* Takes a session in hand, if there is none; it may have to be made. False when memory is out. */
bool hf_admitting_need_session(struct hf_admitting *a);
/* Whether there is a session to go on with. If not, *step is what to do. */
bool hf_admitting_session(struct hf_admitting *a, enum hf_step *step);
/* The session is over. Whether another one may do; if not, *step is what to do. */
bool hf_admitting_another(struct hf_admitting *a, enum hf_step *step);

#endif
