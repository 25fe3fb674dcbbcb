/* engine.h: steps ops and carries out their requests. It knows time, HTTP and threads; what the ops
 * are about is their owner's business, whom it tells three things and asks one.
 *
 * It goes on in turns (turn.h), and whoever waits for an op takes them; the engine's own thread
 * stands back meanwhile, and comes back by itself (drive.h). "Thread" beside a function or a field
 * means: whoever has the turn. */
#ifndef HF_ENGINE_H
#define HF_ENGINE_H

#include "net/op.h"
#include "net/sockets.h"

#include <pthread.h>

struct hf_engine;
struct hf_thread;

/* Connections to the server that an engine has open at most for locks: the limits of their lanes
 * together. */
#define HF_CONNECTIONS 40

struct hf_hooks {
	/* thread: the engine is to close by close_by: begin to say goodbye. Ops that are not
	 * internal are being stopped with CLOSED. 0: there is no time left for anything; this may
	 * come after the other, and always comes. */
	void (*closing)(struct hf_engine *engine, int64_t close_by);
	/* thread: there are no more ops, and there will be none. */
	void (*ended)(struct hf_engine *engine);
	/* thread: a request to the server is over, in whatever way. Whether it is to go once more,
	 * since what all requests share has changed. */
	bool (*again)(struct hf_engine *engine, const struct hf_http *http);
	/* any thread: the last reference is gone; frees the memory that the engine is in. */
	void (*free)(struct hf_engine *engine);
};

/* What the engine's own thread is at. */
enum hf_worker {
	HF_AWAKE,
	HF_ASLEEP, /* until something is due, or the sockets or the bell wake it */
	HF_STANDING_BACK, /* for a moment: somebody has driven just now */
	HF_RESTING, /* until nobody drives any more */
	HF_LEFT /* for good */
};

struct hf_lane_state {
	struct hf_link waiting; /* ops, for their turn */
	size_t flying;
};

/* The first member of its owner's struct. */
struct hf_engine {
	const struct hf_hooks *hooks; /* const */
	const char *name; /* const: for messages */
	unsigned long generation; /* const: a child after fork must not touch the mutex */
	atomic_int refs;
	pthread_mutex_t turn; /* whose turn it is. Taken before the mutex, held by nobody asleep */
	pthread_mutex_t mutex;
	pthread_cond_t back; /* with the mutex: the worker is to come back */

	enum hf_worker worker; /* lock */
	bool driven; /* lock: somebody takes the turns because he waits */
	int64_t driven_at; /* lock: when the last one left */
	bool woken; /* lock: there is something to look at that no turn has seen */
	bool closing, abandoned; /* lock */
	bool exiting; /* lock: whoever drives may never come back */
	int64_t close_by; /* lock */
	struct hf_thread *thread; /* lock; NULL: not started, or it has been joined */
	struct hf_sockets
		sockets; /* thread; descriptors open while there is a worker or a driver */
	bool takes; /* written by the thread and with lock: ops are taken in */
	struct hf_link arrivals, stops; /* lock: ops that are new, and to be stopped; counted */
	struct hf_link leavers; /* lock: ops that wait for the end of it all; counted */
	uint64_t requests; /* lock */

	bool said_closing; /* thread: everything has been told */
	struct hf_link ops, ready; /* thread */
	struct hf_heap timers; /* thread */
	struct hf_lane_state lanes[HF_LANES]; /* thread */
	CURLM *pools[HF_POOLS]; /* thread (transfer.c); NULL: there is none */
	unsigned poolings; /* thread: how many pools there were of what goes together */
	bool apart; /* thread: its server does not speak HTTP/2 */
	bool broken; /* thread: the pools are of no use any more */
	CURL *idle; /* thread: easy handles without a request, each of which owns the next one */
	struct hf_http *spare; /* thread: requests without an op, each with its easy handle */
	size_t most; /* thread: requests and calls of the user's that were in flight at once */
	struct hf_gauge connections; /* thread (gauge.h) */
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
/* Has somebody look at what has changed: whoever sleeps is woken, and a worker that stands back
 * comes soon. */
void hf_engine_wake_locked(struct hf_engine *engine);
/* Has the worker come back at once: the caller is going to wait elsewhere. */
void hf_engine_call_locked(struct hf_engine *engine);
/* Asks the engine to end within limit ms; does not wait for it. exiting: the process does, and the
 * worker sees to it, whoever drives. */
void hf_engine_shut(struct hf_engine *engine, bool exiting, int64_t limit);
/* The same as an op, which is done when it has ended. tell false: at once. *out belongs to the
 * caller. */
enum hf_err hf_engine_close(struct hf_engine *engine, bool tell, int64_t limit, struct hf_op **out,
			    struct hf_error *err);
/* Waits for the worker, if it is at its end and nobody else does. */
void hf_engine_join(struct hf_engine *engine);

#endif
