/* engine.h: the thread that steps ops and carries out their requests. It knows time, HTTP and
 * threads; what the ops are about is their owner's business, whom it tells three things.
 *
 * One turn: take what others left under the mutex, step the ops whose time has come, begin
 * requests, let libcurl work, step the ops whose requests are done, sleep until something is due.
 * What a turn costs depends on what has happened, not on how many ops there are. */
#ifndef HF_ENGINE_H
#define HF_ENGINE_H

#include "net/op.h"

#include <pthread.h>

struct hf_engine;
struct hf_thread;

/* Connections to the server that an engine has open at most: the lanes' limits together. */
#define HF_CONNECTIONS 40

struct hf_hooks {
	/* thread: the engine is to close by close_by: begin to say goodbye. Ops that are not
	 * internal are being stopped with CLOSED. 0: there is no time left for anything; this may
	 * come after the other, and always comes. */
	void (*closing)(struct hf_engine *engine, int64_t close_by);
	/* thread: there are no more ops, and there will be none. */
	void (*ended)(struct hf_engine *engine);
	/* any thread: the last reference is gone; frees the memory that the engine is in. */
	void (*free)(struct hf_engine *engine);
};

struct hf_lane_state {
	struct hf_link urgent, normal; /* ops that wait for their turn */
	size_t flying;
};

/* The first member of its owner's struct. */
struct hf_engine {
	const struct hf_hooks *hooks; /* const */
	const char *name; /* const: for messages */
	unsigned long generation; /* const: a child after fork must not touch the mutex */
	atomic_int refs;
	pthread_mutex_t mutex;

	bool closing, abandoned; /* lock */
	int64_t close_by; /* lock */
	struct hf_thread *thread; /* lock; NULL: not started, or it has been joined */
	CURLM *multi; /* lock to wake it; otherwise thread. NULL: nobody would take an op */
	struct hf_link arrivals, stops; /* lock: ops that are new, and to be stopped; counted */
	struct hf_link leavers; /* lock: ops that wait for the end of it all; counted */
	uint64_t requests; /* lock */

	struct hf_link ops, ready; /* thread */
	struct hf_heap timers; /* thread */
	struct hf_lane_state lanes[HF_LANES]; /* thread */
	CURL *idle[64]; /* thread: easy handles for the next requests */
	struct hf_http *spare[64]; /* thread: requests without an op */
	size_t idle_count, spare_count; /* thread */
	size_t most; /* thread: requests of the user's that have been in flight at once */
	atomic_long connections;
};

/* Makes an engine in zeroed memory, with one reference. name is not copied. */
void hf_engine_init(struct hf_engine *engine, const struct hf_hooks *hooks, const char *name);
void hf_engine_ref(struct hf_engine *engine);
/* Never takes the mutex. */
void hf_engine_unref(struct hf_engine *engine);
/* Whether calls on it make sense: not in a forked child. Fills *err with FORKED if not. Needs no
 * mutex. */
bool hf_engine_here(const struct hf_engine *engine, struct hf_error *err);
/* Fills *err with CLOSED, and answers that, once the engine is closing. */
enum hf_err hf_engine_closed_locked(const struct hf_engine *engine, struct hf_error *err);
bool hf_engine_is_closing(struct hf_engine *engine);
/* Hands a new op to the thread, which is started if need be, and takes a reference on it for the
 * engine. CLOSED after close; NOMEM when no thread can be had. */
enum hf_err hf_engine_submit_locked(struct hf_engine *engine, struct hf_op *op,
				    struct hf_error *err);
/* The same for an op that must be carried out, and whose engine has a thread. */
void hf_engine_post_locked(struct hf_engine *engine, struct hf_op *op);
/* Makes the thread look at what has changed. */
void hf_engine_wake_locked(struct hf_engine *engine);
/* thread: begins an internal op from the thread itself. Takes over the caller's reference. */
void hf_engine_add(struct hf_engine *engine, struct hf_op *op);
/* Asks the thread to end within limit ms; does not wait for it. tell false: at once. */
void hf_engine_shut(struct hf_engine *engine, bool tell, int64_t limit);
/* The same as an op, which is done when the thread is at its end. *out belongs to the caller. */
enum hf_err hf_engine_close(struct hf_engine *engine, bool tell, int64_t limit, struct hf_op **out,
			    struct hf_error *err);
/* Waits for the thread, if it is at its end and nobody else does. */
void hf_engine_join(struct hf_engine *engine);
/* thread: ends an op early, the way hf_op_stop_locked asks for. */
void hf_engine_stop(struct hf_op *op, enum hf_err why);
/* thread: gives up the request of an op, if it has one in flight, and steps the op anew; what it
 * sends next goes on a new connection. */
void hf_engine_again(struct hf_op *op);
/* thread: the way an op goes that was woken. */
void hf_engine_ready(struct hf_op *op);
/* The thread's life: runs until the engine is closing and its ops have ended. */
void hf_engine_run(struct hf_engine *engine);

#endif
