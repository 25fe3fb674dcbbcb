/* client.h: a client: an engine, a Consul, and what it knows of sessions and keys.
 *
 * Who may touch a field is written beside it, here and in the other headers of this folder, as in
 * net/op.h: const, lock or thread. */
#ifndef HF_CLIENT_H
#define HF_CLIENT_H

#include "consul/call.h"
#include "net/turn.h"

struct hf_session;
struct hf_key;
struct hf_events;

/* How long a close may take, ms. */
#define HF_CLOSE_MS 3000

struct hf_keys {
	void *tree; /* all of them, by name */
	struct hf_link idle; /* those that are only remembered, longest first */
	size_t idle_count;
	struct hf_link polled, rotation; /* those that somebody watches, by how (watch.c) */
	size_t polled_count, rotation_count;
	struct hf_op *reader; /* reads those in rotation; NULL: not running */
};

/* Parts that wait for a transaction (batch.c). */
struct hf_queue {
	struct hf_link first, rest;
	struct hf_op *waiting; /* the batch that is going to take them; NULL: see flying */
	size_t flying; /* batches that are under way */
};

struct hf_client {
	struct hf_engine engine; /* first: its references are the client's */
	struct hf_client_opts opts; /* const */
	struct hf_consul consul; /* const, but for the token: thread */
	struct hf_stats stats; /* lock */
	struct hf_events *events; /* const: where they are noted (events.c); NULL: nowhere */
	struct hf_link sessions; /* thread: struct hf_session.mine; counted */
	struct hf_session *shared; /* thread: the one of them that locks use by default */
	struct hf_keys keys; /* thread */
	void *trees; /* thread: struct hf_tree, by prefix */
	size_t trees_polled; /* thread: those that have a long poll; keys.polled_count has them too
			      */
	struct hf_queue queues[2]; /* thread: of looks, and of writes */
	unsigned batches; /* thread: how many there have been */
	size_t operations_max; /* thread: of a transaction, as far as the server has said */
};

static inline struct hf_client *hf_client_of(struct hf_op *op)
{
	return HF_OF(struct hf_client, engine, op->engine);
}

#endif
