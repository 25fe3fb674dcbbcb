/* op.h: an op is something that takes time: a state machine that is stepped in the engine's turns,
 * and a result that anybody may wait for. It finishes once.
 *
 * Who may touch a field is written beside it:
 *   const   set before the op is submitted, never changed
 *   lock    only with engine->mutex held
 *   thread  only by whoever has the engine's turn, without the mutex
 * Everything whose name ends in _locked is called with the mutex held. */
#ifndef HF_OP_H
#define HF_OP_H

#include "base/heap.h"
#include "base/list.h"
#include "hf.h"
#include "net/http.h"

struct hf_engine;
struct hf_op;

/* Delays between attempts that failed for a passing reason, ms. */
#define HF_RETRY_MIN 200
#define HF_RETRY_MAX 2000

/* Requests of one lane share a limit of how many are in flight (engine.c). */
enum hf_lane {
	HF_COMMAND,
	HF_WATCH,
	HF_POLL,
	HF_RENEW,
	HF_USER, /* from here on: what the user sends */
	HF_CALL,
	HF_LONG_CALL,
	HF_LANES
};

enum hf_step {
	HF_SEND, /* in its lane (hf_op_send), until its request may be built */
	HF_SLEEP, /* until op->wake_at, or until what it is parked on wakes it */
	HF_STAY, /* go on with what it is at (an answer to cancel only) */
	HF_FINISH /* nothing more to do; its result has been set */
};

/* What an op does. Called on the thread, mutex not held. */
struct hf_kind {
	const char *name;
	/* It is new, or was woken: what now? */
	enum hf_step (*next)(struct hf_op *op);
	/* Its turn in the lane: fills the request, which is empty. False: none is to be sent any
	 * more; next is asked again. */
	bool (*request)(struct hf_op *op, struct hf_http *http);
	/* What came of the request, which is gone afterwards. Also when there was no memory for
	 * one, so that none has been filled. */
	enum hf_step (*reply)(struct hf_op *op, const struct hf_http *http);
	/* It is to end early because of why (CANCELED, CLOSED, LOST, or TIMEOUT at its deadline).
	 * NULL: drop the request in flight and answer why. */
	enum hf_step (*cancel)(struct hf_op *op, enum hf_err why);
	/* Frees what the kind put into the op; the op's own memory is next. May be NULL. Any
	 * thread, once nobody else knows the op. */
	void (*cleanup)(struct hf_op *op);
};

enum hf_op_state { HF_NEW, HF_READY, HF_QUEUED, HF_FLYING, HF_PARKED, HF_ENDED };

struct hf_op {
	const struct hf_kind *kind; /* const */
	struct hf_engine *engine; /* const; counted */
	struct hf_guard *guard; /* const; its owner is counted. NULL: stands on nothing */
	bool internal; /* const: ends with what it serves, not with the closing engine */
	atomic_int refs; /* the caller's and the engine's */

	bool done, posted; /* lock */
	enum hf_err stop; /* lock: somebody wants it to end early */
	int fd; /* lock; -1 until asked for */
	enum hf_err code; /* lock until done, const afterwards: the result */
	char *message; /* the same; NULL: the general text of the code */
	struct hf_link post; /* lock: among the new, or among those to stop */
	struct hf_seat *seat; /* lock: of the set that waits for it (drive.c) */
	struct hf_link seated; /* lock: seat->waiting, then seat->finished */

	enum hf_op_state state; /* thread */
	enum hf_lane lane; /* thread */
	bool broken; /* thread: the last request got no answer */
	bool fresh; /* thread: the next request wants a new connection */
	unsigned pooling; /* thread: the pool that the last one went together with others in */
	struct hf_link all; /* thread: engine->ops */
	struct hf_link place; /* thread: the list of its state */
	struct hf_link guarded; /* thread: guard->ops */
	struct hf_timer timer; /* thread: the earlier of the next two */
	int64_t deadline; /* const until submitted, then thread */
	int64_t wake_at; /* thread */
	int64_t retry_delay; /* thread: the last hf_op_backoff */
	struct hf_http *http; /* thread: in flight; or the op's own from the start */
	bool owns_http; /* const */
	bool responds; /* thread until done, const afterwards: it is a struct hf_responding */
};

/* An op with a response. */
struct hf_responding {
	struct hf_op op;
	struct hf_response response; /* as op.responds */
};

/* Makes an op of a kind in size bytes whose first member is the struct hf_op. Takes a reference on
 * engine. NULL when memory is out. */
void *hf_op_new(struct hf_engine *engine, const struct hf_kind *kind, size_t size);
void hf_op_ref(struct hf_op *op);
/* Gives one reference back; the last one frees. Never takes the mutex. NULL is fine. */
void hf_op_unref(struct hf_op *op);
/* Puts an op that has not been submitted on a guard, whose owner it counts. */
void hf_op_stand_on(struct hf_op *op, struct hf_guard *guard);
/* The deadline of an op that begins now. A timeout of 0 is one try, which has none. */
int64_t hf_op_deadline(int64_t timeout);
/* Sets the result, once; later calls change nothing. */
void hf_op_finish_locked(struct hf_op *op, const struct hf_error *result);
void hf_op_finish(struct hf_op *op, const struct hf_error *result);
/* Fills *err the way an op answers that was stopped because of why. */
enum hf_err hf_op_why(const struct hf_op *op, enum hf_err why, struct hf_error *err);
/* Asks it to end early: takes effect in a turn, and whoever takes it gets woken. */
void hf_op_stop_locked(struct hf_op *op, enum hf_err why);

/* The eventfd in *fd, made when it is first asked for (*fd is -1 until then), readable from the
 * start or not. -1: see *err. */
int hf_fd_demand_locked(int *fd, bool readable, struct hf_error *err);
/* Waits until fd is readable; fd < 0 is none, and false. */
bool hf_fd_wait(int fd, int64_t timeout, struct hf_error *err);

/* ---- for kinds, on the thread ---- */

/* Queues for a request. Answers HF_SEND. */
enum hf_step hf_op_send(struct hf_op *op, enum hf_lane lane);
/* Sleeps until at. Answers HF_SLEEP. */
enum hf_step hf_op_sleep(struct hf_op *op, int64_t at);
/* Sleeps until at, or until the list it waits on is woken (hf_wake_*). Answers HF_SLEEP. */
enum hf_step hf_op_park(struct hf_op *op, struct hf_link *waiting, int64_t at);
/* Sleeps for a growing, jittered while, but not beyond the time limit. After one without an answer
 * the next request wants a new connection, but not twice running: where none is to be had, an old
 * one has to do. */
enum hf_step hf_op_backoff(struct hf_op *op, int64_t limit);
/* The time until which that would be, for who notes it for another op: nothing else happens. */
int64_t hf_op_delay(struct hf_op *op);
/* The last request was answered: back to short delays. */
void hf_op_recovered(struct hf_op *op);
/* Wakes the op that has waited longest on a list, and answers it (NULL: none waits); or all. */
struct hf_op *hf_wake_first(struct hf_link *waiting);
void hf_wake_all(struct hf_link *waiting);
/* Wakes one op that sleeps; harmless when it does not. NULL is fine. */
void hf_wake(struct hf_op *op);

#endif
