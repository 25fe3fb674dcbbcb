/* tree.h: what a client knows of a semaphore's prefix: what it has seen of it, who of its ops may
 * try for a slot, and one long poll for all that want to know. The engine's thread only. */
#ifndef HF_TREE_H
#define HF_TREE_H

#include "consul/semaphore.h"
#include "lock/client.h"

struct hf_tree {
	struct hf_client *client;
	char *prefix, *lock; /* "jobs/" and "jobs/.lock"; behind this struct */
	size_t refs;

	const struct hf_op *owner; /* whose turn it is to try; NULL: nobody's */
	struct hf_link turn; /* ops that wait for their turn, in order */

	struct hf_semaphore seen; /* if known */
	bool known;
	int64_t seen_at; /* when it was known here */

	struct hf_link changed; /* ops that wait for a change */
	size_t waiters, holders; /* ops that want to know of one: for a slot, and of one */
	struct hf_op *poll; /* NULL: not running */
};

/* Finds or makes the entry for a prefix, and counts the caller. NULL when memory is out. */
struct hf_tree *hf_tree_get(struct hf_client *client, const char *prefix);
/* NULL is fine. */
void hf_tree_put(struct hf_tree *tree);
/* Takes the turn for op if it is nobody's, or has come for it. */
bool hf_tree_take(struct hf_tree *tree, const struct hf_op *op);
/* Waits for the turn. Answers HF_SLEEP. */
enum hf_step hf_tree_queue(struct hf_tree *tree, struct hf_op *op);
/* Ends op's turn, and begins that of whoever is next. Harmless when it is not op's. */
void hf_tree_pass(struct hf_tree *tree, const struct hf_op *op);
/* Notes what a request, which was sent at a time, has told, wakes who waits for a change, and
 * leaves *seen empty. Answers false when there was nothing new in it. */
bool hf_tree_saw(struct hf_tree *tree, struct hf_semaphore *seen, int64_t sent);
/* Begins to watch for one more op, which waits by hf_tree_wait: of one that waits for a slot, or of
 * one that looks after one, which begins a little later, since a brief hold needs no poll. False
 * when memory is out. */
bool hf_tree_watch(struct hf_tree *tree, bool waits);
void hf_tree_unwatch(struct hf_tree *tree, bool waits);
/* Parks an op of those until something changes. Answers HF_SLEEP. */
enum hf_step hf_tree_wait(struct hf_tree *tree, struct hf_op *op);
/* Frees them all. Nobody refers to one any more. */
void hf_trees_free(struct hf_client *client);

#endif
