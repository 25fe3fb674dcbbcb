/* batch.h: many ops' operations on keys in one transaction. What an op would ask alone is a *part*:
 * a look at a key, or a write with its checks. Parts wait in queues, one for looks and one for
 * writes; when a slot of the command lane is free, whatever waits by then goes together (batch.c).
 * So a lone part leaves at once, and under load a request carries many. The engine's thread only.
 */
#ifndef HF_BATCH_H
#define HF_BATCH_H

#include "consul/txn.h"
#include "lock/key.h"

struct hf_batch;

/* How a part goes. */
enum {
	HF_LOOK = 0, /* a read of its key */
	HF_WRITE = 1,
	HF_FIRST = 2, /* before others */
	HF_CONSISTENT = 4, /* of a look: the leader is to be sure */
	HF_ALONE = 8, /* in a transaction of its own */
};

/* A member of the op that takes part, at the place that its kind tells. */
struct hf_part {
	struct hf_batch *batch; /* it is under way in this one; NULL: it waits, or is none */
	unsigned char how;
	bool alone; /* the next transaction is to have nothing else in it */
	bool resent; /* it goes once more, after one that was refused because of others: a copy of
			that may still be carried out */
};

/* What became of a part. */
struct hf_answer {
	enum hf_verdict verdict;
	struct hf_error err; /* unless verdict is HF_V_OK */
	struct hf_kv kv; /* if it is: the key as the look has found or the write has left it */
	int64_t sent; /* when */
	bool copied; /* it has been sent more than once, and any of these may come to be carried out
		      */
	bool unheard; /* it failed, and has certainly not been carried out */
};

/* The kind of an op that takes part; op.request and op.reply are never called. */
struct hf_part_kind {
	struct hf_kind op;
	size_t part; /* where in the op its struct hf_part is */
	/* What the part is about; the op counts it. */
	struct hf_key *(*key)(const struct hf_op *op);
	/* Its turn: adds its operations (hf_txn_add, or hf_batch_look), which are all on that key,
	 * and answers how many. 0: there is nothing to be sent any more; next is asked. */
	size_t (*fill)(struct hf_op *op, struct hf_http *http);
	/* What came of it. */
	enum hf_step (*answer)(struct hf_op *op, const struct hf_answer *answer);
};

/* Queues the op's part. Answers HF_SLEEP, or what the op answers to being told that there is no
 * memory. */
enum hf_step hf_batch_join(struct hf_op *op, unsigned how);
/* For fill: a look at a key. */
size_t hf_batch_look(struct hf_http *http, const struct hf_key *key);
/* An op whose part is under way goes on without its answer, or ends. Harmless when it is not. */
void hf_batch_leave(struct hf_op *op);
void hf_batches_init(struct hf_client *client);

#endif
