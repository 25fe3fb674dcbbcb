/* hf_int.h: the inside of the core, for its C files only.
 *
 * Who may touch a field is written beside it:
 *   const   set before the object is shared, never changed
 *   lock    only with client->mutex held
 *   worker  only by the client's worker thread, without the mutex
 * Everything whose name ends in _locked is called with the mutex held; everything declared under
 * "worker" runs on the worker thread without it. */
#ifndef HF_INT_H
#define HF_INT_H

#include "buf.h"
#include "hf.h"
#include "http.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

struct hf_session;
struct hf_key;
struct hf_thread;

#define HF_NEVER INT64_MAX
/* How long a close may take. */
#define HF_CLOSE_MS 3000
/* Delays between attempts that failed for a passing reason, ms. */
#define HF_RETRY_MIN 200
#define HF_RETRY_MAX 2000

/* A random time between two. Any thread. */
int64_t hf_jitter(int64_t least, int64_t most);

/* ---- ops (op.c) --------------------------------------------------------------------------- */

enum hf_step {
	HF_SEND, /* op->http has the next request */
	HF_SLEEP, /* until op->wake_at, or until somebody wakes what it is parked on */
	HF_STAY, /* go on with what it is at (an answer to cancel only) */
	HF_FINISH /* nothing more to do; its result has been set */
};

/* What an op does. Called on the worker thread, mutex not held. */
struct hf_kind {
	const char *name;
	/* Looks at what came of the last step and fills the next request, or sets the result. */
	enum hf_step (*next)(struct hf_op *op);
	/* It is to end early because of why (CANCELED, CLOSED, LOST, or TIMEOUT at its deadline).
	 * NULL: drop the request in flight and answer why. */
	enum hf_step (*cancel)(struct hf_op *op, enum hf_err why);
	/* Frees what the kind put into the op; the op's own memory is next. May be NULL. Any
	 * thread. */
	void (*cleanup)(struct hf_op *op);
};

enum hf_op_state { HF_NEW, HF_WAITING, HF_SENDING, HF_SLEEPING };

struct hf_op {
	const struct hf_kind *kind; /* const */
	struct hf_client *client; /* const; counted */
	struct hf_lock *guard; /* const; counted: ends when this lock's hold does */
	uint64_t guard_hold; /* const */
	bool internal; /* const: belongs to a session, ends with it and not by itself */
	atomic_int refs; /* the caller's and the worker's */

	bool done; /* lock */
	struct hf_error result; /* lock until done, const afterwards */
	int fd; /* lock; -1 until asked for */
	enum hf_err stop; /* lock: somebody wants it to end early */
	struct hf_op *inbox_next; /* lock */

	struct hf_op *next, *prev; /* worker */
	enum hf_op_state state; /* worker */
	enum hf_err stopping; /* worker: cancel has been, or is to be, called with this */
	int64_t deadline; /* const for an op of the caller's, else worker */
	int64_t wake_at; /* worker */
	const void *parked_on; /* worker; NULL: a plain sleep */
	int64_t retry_delay; /* worker: the last hf_op_backoff */
	enum hf_lane lane; /* worker: of the request in flight */
	struct hf_http http; /* worker; its reply is const once done */
};

/* Makes an op of a kind in size bytes whose first member is the struct hf_op. Takes a reference
 * on client. NULL when memory is out. */
void *hf_op_new(struct hf_client *client, const struct hf_kind *kind, size_t size);
/* Gives one reference back; the last one frees. Never takes the mutex. NULL is fine. */
void hf_op_unref(struct hf_op *op);
/* The eventfd in *fd, made when it is first asked for (*fd is -1 until then), readable from the
 * start or not. -1: see *err. */
int hf_fd_demand_locked(int *fd, bool readable, struct hf_error *err);
/* Waits until fd is readable; fd < 0 is none, and false. */
bool hf_fd_wait(int fd, int64_t timeout, struct hf_error *err);
/* Sets the result, once; later calls change nothing. */
void hf_op_finish_locked(struct hf_op *op, const struct hf_error *result);
void hf_op_finish(struct hf_op *op, const struct hf_error *result);
/* Fills *err the way an op answers that was stopped because of why. */
enum hf_err hf_op_why(const struct hf_op *op, enum hf_err why, struct hf_error *err);
/* The deadline of an op that begins now. A timeout of 0 is one try, which has none. */
int64_t hf_op_deadline(int64_t timeout);
/* Asks it to end early: takes effect on the worker, which gets woken. */
void hf_op_stop_locked(struct hf_op *op, enum hf_err why);

/* worker */
/* Sleeps until at, or until hf_wake_* names on (NULL: nobody can). Answers HF_SLEEP. */
enum hf_step hf_op_sleep(struct hf_op *op, int64_t at, const void *on);
/* Sleeps for a growing, jittered while, but not beyond the time limit. Answers HF_SLEEP. */
enum hf_step hf_op_backoff(struct hf_op *op, int64_t limit);
/* Wakes ops that sleep on something: the first one that began to, or all. */
void hf_wake_first(struct hf_client *client, const void *on);
void hf_wake_all(struct hf_client *client, const void *on);

/* ---- client (client.c), its thread (worker.c) and the process (process.c) ------------------ */

struct hf_client {
	struct hf_client_opts opts; /* const */
	pid_t pid; /* const: who made it; a child after fork must not touch the mutex */
	atomic_int refs;
	pthread_mutex_t mutex;

	bool closing, abandoned; /* lock */
	int64_t close_by; /* lock */
	struct hf_thread *thread; /* lock; NULL: not started, or it has ended */
	CURLM *multi; /* lock to wake it; otherwise worker */
	struct hf_op *inbox, **inbox_end; /* lock */
	bool sweep; /* lock: the worker should look for ops to stop and holds that ended */
	struct hf_lock *ended; /* lock: holds that ended, for the worker to clear up; counted */
	struct hf_stats stats; /* lock */

	struct hf_op *ops, *last_op; /* worker: all ops, oldest first */
	size_t in_flight[HF_LANES]; /* worker */
	struct hf_session *sessions; /* worker; counted */
	struct hf_session *shared; /* worker: the one of them that locks use by default */
	void *keys; /* worker (keys.c) */
	size_t key_count; /* worker */
	struct curl_slist *headers, *connect_to; /* const */
	CURL *idle[8]; /* worker: easy handles for the next requests */
	size_t idle_count; /* worker */
	atomic_long connections;
};

/* Whether calls on it make sense: not in a forked child. Fills *err with FORKED if not. Needs no
 * mutex. */
bool hf_client_here(struct hf_client *client, struct hf_error *err);
void hf_client_ref(struct hf_client *client);
/* Never takes the mutex. */
void hf_client_unref(struct hf_client *client);
/* Fills *err with CLOSED, and answers that, once the client is closing. */
enum hf_err hf_client_closed_locked(struct hf_client *client, struct hf_error *err);
bool hf_client_is_closing(struct hf_client *client);
/* Asks the worker to end within limit ms; does not wait for it. */
void hf_client_shut(struct hf_client *client, bool tell, int64_t limit);
/* Hands a new op to the worker, which is started if need be, and takes a reference on it for the
 * worker. CLOSED after close; NOMEM when no thread can be had. */
enum hf_err hf_client_submit_locked(struct hf_client *client, struct hf_op *op,
				    struct hf_error *err);
/* Starts the worker. False when there is no memory or thread for it. */
bool hf_worker_start_locked(struct hf_client *client);
/* Makes the worker look at what has changed. */
void hf_worker_wake_locked(struct hf_client *client);
/* The worker thread's life: runs until the client is closing and its ops have ended. */
void hf_worker_run(struct hf_client *client);
/* worker: begins an op from the worker itself. Takes over the caller's reference. */
void hf_worker_add(struct hf_client *client, struct hf_op *op);

/* Does what a process needs once: libcurl, atexit, atfork. */
bool hf_process_init(void);
/* Starts the worker thread of a client, with all signals blocked. NULL when none can be had. The
 * client's mutex may be held: the registry's own is a leaf. */
struct hf_thread *hf_process_start(struct hf_client *client);
/* Answers whether the caller is the one to join a thread. Like start, with the mutex held. */
bool hf_process_claim(struct hf_thread *thread);
/* Waits for a claimed thread to end and frees it. */
void hf_process_join(struct hf_thread *thread);
/* Joins threads that have ended and that nobody waits for. */
void hf_process_reap(void);
enum hf_object { HF_CLIENTS, HF_LOCKS, HF_OPS, HF_SESSIONS, HF_THREADS, HF_OBJECTS };
/* Counts objects alive, for hf_counters. */
void hf_process_count(enum hf_object object, int change);

/* ---- keys (keys.c): one contender per key per client; worker ------------------------------- */

struct hf_key {
	char *name;
	struct hf_client *client;
	size_t refs; /* ops and locks that refer to it */
	bool busy; /* an op contends for it, or a lock holds it */
	bool checked; /* it is known to be used as a lock */
};

/* Finds or makes the entry for a key and takes a reference on it. NULL when memory is out. */
struct hf_key *hf_key_get(struct hf_client *client, const char *name);
/* Gives a reference back, and with it the key if it is the caller's (mine): then the next op that
 * waits for it is woken. NULL is fine. */
void hf_key_put(struct hf_key *key, bool mine);
void hf_keys_free(struct hf_client *client);

/* ---- sessions (session.c) ------------------------------------------------------------------ */

enum hf_session_state { HF_SESSION_NEW, HF_SESSION_ALIVE, HF_SESSION_DEAD };

struct hf_session {
	struct hf_client *client; /* const; counted */
	struct hf_session_opts opts; /* const */
	bool external; /* const: made elsewhere; never renewed nor destroyed by us */
	atomic_int refs;

	enum hf_session_state state; /* lock */
	char id[64]; /* lock until ALIVE, const afterwards */
	int64_t deadline; /* lock: the lease is over at this time; HF_NEVER when external */
	struct hf_lock *holds; /* lock: locks held through it */
	size_t releasing; /* lock: releases that have not come to their end */

	bool closing; /* worker: to be destroyed when no longer in use */
	bool confirm; /* worker: somebody doubts that it exists: renew, or audit, now */
	size_t users; /* worker: ops that lean on it */
	struct hf_op *keeper, *watch, *audit; /* worker; NULL when not running */
	unsigned failures; /* worker: creates that failed so far */
	struct hf_error create_error; /* worker: why the last one did */
	bool create_final; /* worker: and it is of no use to try again */
	struct hf_session *next; /* worker: client->sessions */
};

/* worker: finds or makes the session that a lock asks for, counts the caller as a user and takes a
 * reference for it (hf_session_leave gives both back). NULL when memory is out. The caller looks
 * at its state; while it is NEW, ops park on the session. */
struct hf_session *hf_session_for(struct hf_lock *lock);
/* worker: counts one more user, with its reference. */
void hf_session_join(struct hf_session *session);
void hf_session_leave(struct hf_session *session);
/* worker: it has no more use: it is destroyed when its users have left. */
void hf_session_close(struct hf_session *session);
/* worker: to be called when a user or a hold of it is gone. An external session that nobody uses
 * any more is closed. */
void hf_session_settle(struct hf_session *session);
/* worker: it is gone. Every lock held through it is lost. */
void hf_session_lost(struct hf_session *session, enum hf_reason reason);
/* worker: somebody saw a sign that it is gone. Its keeper asks the server. */
void hf_session_doubt(struct hf_session *session);
/* Looks at the lease: when it is over, everything held through it is lost. Answers whether the
 * session can be relied on at this moment. */
bool hf_session_alive_locked(struct hf_session *session);
/* The opposite, for who does not have the mutex. */
bool hf_session_over(struct hf_session *session);
/* How often to ask after the session and its holds, ms. */
int64_t hf_session_interval(const struct hf_session *session);
void hf_session_unref(struct hf_session *session);
/* worker: takes it off the client's list. */
void hf_session_forget(struct hf_session *session);

/* ---- locks (lock.c, acquire.c, release.c, destroy.c) ---------------------------------------- */

struct hf_lock {
	struct hf_client *client; /* const; counted */
	char *key; /* const */
	char *value; /* const */
	size_t value_len; /* const */
	struct hf_session_opts *session_opts; /* const: a session of its own, or NULL */
	char *session_id; /* const: an external session, or NULL */
	bool monitor_key; /* const */
	atomic_int refs;

	struct hf_op *acquiring; /* lock; not counted: the op takes itself out */
	struct hf_op *spare; /* lock: the op that will release, made beforehand */
	bool held; /* lock */
	bool lost; /* lock */
	enum hf_reason reason; /* lock */
	uint64_t token; /* lock */
	uint64_t hold; /* lock: counts up when a hold begins and when it ends */
	struct hf_session *session; /* lock; counted: that of the hold, or of the last one */
	struct hf_lock *hold_next, *hold_prev; /* lock: session->holds */
	struct hf_lock *ended_next; /* lock: client->ended */
	int fd; /* lock; -1 until asked for */

	struct hf_key *slot; /* worker: the key's entry while it is ours */
};

/* Whether it is held at this moment; looks at the lease. */
bool hf_lock_held_locked(struct hf_lock *lock);
/* Begins a hold, which has a reference on the lock. */
void hf_lock_begin_hold_locked(struct hf_lock *lock, struct hf_session *session, uint64_t token);
/* Ends one: aborts what is guarded by it, and latches a loss unless reason is released. The hold's
 * reference is the caller's then. */
void hf_lock_end_hold_locked(struct hf_lock *lock, enum hf_reason reason);
/* Ends one because it was lost, and queues the worker's part. Does nothing when it is not held. */
void hf_lock_end_locked(struct hf_lock *lock, enum hf_reason reason);
/* worker: what becomes of the session: one that was made for a hold goes with it. */
void hf_lock_after_hold(const struct hf_lock *lock, struct hf_session *session);
/* An op that will release a lock, made before it is needed. NULL when memory is out. */
struct hf_op *hf_release_new(struct hf_client *client);
/* Fills *err with LOST or NOT_HELD, whichever it is, and answers that. */
enum hf_err hf_lock_not_held_locked(struct hf_lock *lock, struct hf_error *err);
void hf_lock_ref(struct hf_lock *lock);
/* NULL is fine. Never takes the mutex. */
void hf_lock_unref(struct hf_lock *lock);
/* worker: clears up after a hold that was lost. Takes over the hold's reference. */
void hf_lock_cleared(struct hf_lock *lock);
/* worker: begins to release everything that is held, because the client closes. */
void hf_lock_release_all(struct hf_session *session);

/* ---- monitors (monitor.c) ------------------------------------------------------------------ */

/* worker: each begins an op that watches over a session, or over the locks held through it. NULL
 * when memory is out. */
struct hf_op *hf_monitor_session(struct hf_session *session);
struct hf_op *hf_monitor_holds(struct hf_session *session);
/* worker: begins to watch the key of one hold. */
void hf_monitor_key(struct hf_lock *lock, uint64_t hold, const struct hf_session *session);

/* worker: the index rules of long polls. Answers the time to send the next one at: now, or a
 * little later when polls come back much faster than anything should change. */
struct hf_longpoll {
	uint64_t index;
	unsigned quick;
};
int64_t hf_longpoll_next(struct hf_longpoll *poll, const struct hf_http *http);

#endif
