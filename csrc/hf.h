/* hf.h: the API of the holdfast core. No Lua in here, and no libcurl: this is all that the
 * bindings (bind/) and the C tests may include.
 *
 * Rules that hold for every function below unless its comment says otherwise:
 *  - any thread may call it; it takes and releases the client's mutex itself and never waits
 *    for the network;
 *  - strings given to it are copied; strings it hands out belong to the object they came from;
 *  - on failure it fills *err (code and a sentence) and answers the code, HF_OK otherwise;
 *  - in a child process after fork every call answers HF_FORKED and touches nothing else. */
#ifndef HF_H
#define HF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HF_VERSION "0.1.0"

/* ---- errors --------------------------------------------------------------------------------- */

#define HF_ERRORS(X) \
	X(TIMEOUT, "not within the time given") \
	X(CANCELED, "canceled") \
	X(HELD, "this object holds it already") \
	X(NOT_HELD, "this object does not hold it") \
	X(IN_USE, "somebody holds it") \
	X(CONFLICT, "the key exists and is not used as this kind of lock") \
	X(LIMIT_CONFLICT, "semaphore holders disagree on the limit") \
	X(LOST, "it was held and has been lost") \
	X(SESSION, "the session is invalid, expired or could not be created") \
	X(DENIED, "permission denied") \
	X(CONNECT, "could not connect") \
	X(TLS, "TLS handshake failed") \
	X(HTTP, "unexpected HTTP status") \
	X(PROTOCOL, "reply not understood") \
	X(NOT_FOUND, "not found") \
	X(TOO_LARGE, "over a limit") \
	X(INVALID, "a value was refused") \
	X(CLOSED, "closed") \
	X(FORKED, "used in a child process after fork") \
	X(NOMEM, "out of memory or file descriptors")

enum hf_err {
	HF_OK = 0,
#define HF_ENUM(name, text) HF_##name,
	HF_ERRORS(HF_ENUM)
#undef HF_ENUM
};

struct hf_error {
	enum hf_err code;
	char message[400];
};

/* "TIMEOUT" and so on: the stable code; "OK" for HF_OK. */
const char *hf_err_code(enum hf_err code);
/* The general sentence for a code. */
const char *hf_err_text(enum hf_err code);
/* Fills *err (which may be NULL) and answers code. Long messages are cut. */
enum hf_err hf_err_set(struct hf_error *err, enum hf_err code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* ---- primitives (no client) ----------------------------------------------------------------- */

/* Milliseconds on a clock that never jumps and goes on while the machine is suspended
 * (CLOCK_BOOTTIME): the clock of every deadline in the library. */
int64_t hf_now(void);
/* The same in seconds with full resolution, and the wall clock. */
double hf_clock_seconds(void);
double hf_wall_seconds(void);

/* Waits until one of n descriptors is readable or hung up; ready[i] says which. timeout_ms < 0
 * waits for ever. Answers how many are ready; 0 after the timeout or a signal; -1 (errno) when
 * poll(2) fails. */
int hf_poll(const int *fds, size_t n, int64_t timeout_ms, bool *ready);

#define HF_HMAC_LEN 32
#define HF_ED25519_SEED_LEN 32
#define HF_ED25519_PUBLIC_LEN 32
#define HF_ED25519_SIGNATURE_LEN 64

bool hf_random(void *out, size_t len);
bool hf_hmac_sha256(const void *key, size_t key_len, const void *data, size_t len,
		    unsigned char out[HF_HMAC_LEN]);
bool hf_ed25519_sign(const unsigned char seed[HF_ED25519_SEED_LEN], const void *data, size_t len,
		     unsigned char out[HF_ED25519_SIGNATURE_LEN]);
bool hf_ed25519_verify(const unsigned char pub[HF_ED25519_PUBLIC_LEN], const void *data, size_t len,
		       const unsigned char sig[HF_ED25519_SIGNATURE_LEN]);
/* Compares in a time that depends on len only. */
bool hf_equal(const void *a, const void *b, size_t len);
/* Standard alphabet. out holds HF_BASE64_ENCODED(len) bytes, no NUL; answers the length. */
#define HF_BASE64_ENCODED(len) (((len) + 2) / 3 * 4)
size_t hf_base64_encode(const void *data, size_t len, char *out);
/* out holds len / 4 * 3 + 3 bytes. Padding may be missing and left-over bits are ignored, as other
 * Standard Webhooks libraries do; any other character answers false. */
bool hf_base64_decode(const char *text, size_t len, unsigned char *out, size_t *out_len);

/* ---- JSON ----------------------------------------------------------------------------------- */

struct cJSON; /* a value, with all that is in it */

enum hf_json_kind {
	HF_JSON_NULL,
	HF_JSON_FALSE,
	HF_JSON_TRUE,
	HF_JSON_NUMBER, /* as a double */
	HF_JSON_INTEGER, /* of more than 15 digits, as text */
	HF_JSON_STRING,
	HF_JSON_ARRAY,
	HF_JSON_OBJECT
};

struct hf_json_value {
	enum hf_json_kind kind;
	double number;
	const char *text; /* of a string or integer; belongs to the value */
	const struct cJSON *first; /* of an array or object; NULL: it is empty */
};

/* NULL when it is no JSON, or too deep (1000), or memory is out. Freed with hf_json_free. A
 * character 0 in a string becomes U+FFFD, since C's strings end there. */
struct cJSON *hf_json_parse(const char *text, size_t len);
void hf_json_free(struct cJSON *json);
void hf_json_look(const struct cJSON *json, struct hf_json_value *out);
/* What follows it in its array or object, NULL: it is the last one. */
const struct cJSON *hf_json_next(const struct cJSON *json);
/* Its name in its object. */
const char *hf_json_name(const struct cJSON *json);
/* Writes a JSON string with its quotes. out holds HF_JSON_QUOTED(len) bytes, no NUL; answers the
 * length, 0 when text is not UTF-8. */
#define HF_JSON_QUOTED(len) ((len)*6 + 2)
size_t hf_json_quote(const char *text, size_t len, char *out);

/* ---- client --------------------------------------------------------------------------------- */

struct hf_client;
struct hf_lock;
struct hf_handle;
struct hf_op;

/* A list of strings. items NULL means "not given", which Consul tells from an empty list. */
struct hf_list {
	const char **items;
	size_t count;
};

/* How a session is made. NULL means absent; name, ttl and lock_delay are always sent. */
struct hf_session_opts {
	const char *name;
	int64_t ttl, lock_delay; /* ms */
	const char *behavior, *node;
	struct hf_list checks, service_checks;
	int64_t alive; /* ms: the TTL of a check that says that the process lives; 0: none */
};

/* How to get to a server, apart from what its URL says. NULL: absent. */
struct hf_route {
	const char *unix_socket; /* the path of one, in place of an address */
	const char *connect_to; /* "host:port:host:port": to go to the last two for the first two,
				 * which may be empty: whatever they are */
	const char *ca_file, *ca_path; /* what is trusted, in place of what the system trusts */
	const char *cert_file, *key_file; /* what is shown to it */
	bool verify; /* false: anybody is trusted */
};

struct hf_client_opts {
	const char *base; /* http://host:port/prefix, no slash at the end */
	struct hf_route route;
	const char *token,
		*token_file; /* what it holds; the file is read again when a token is refused */
	const char *auth, *datacenter, *ns, *partition;
	int64_t timeout; /* ms, of a request that is not a long poll */
	struct hf_session_opts session;
	bool events; /* what happens is noted for hf_client_event */
};

#define HF_REASONS(X) \
	X(SESSION, "session") \
	X(KEY, "key") \
	X(STOLEN, "stolen") \
	X(DEADLINE, "deadline") \
	X(EXPIRED, "expired") \
	X(RELEASED, "released") \
	X(CLOSED, "closed") \
	X(FORKED, "forked")

/* Why a hold ended. */
enum hf_reason {
	HF_NO_REASON = 0,
#define HF_ENUM(name, text) HF_BY_##name,
	HF_REASONS(HF_ENUM)
#undef HF_ENUM
		HF_REASON_COUNT
};

/* "session" and so on; "" for HF_NO_REASON. */
const char *hf_reason_text(enum hf_reason reason);

/* Counters since the client was made, except locks_held, sessions and connections: now. */
struct hf_stats {
	uint64_t requests, renewals, renew_failures, acquired, released;
	uint64_t losses[HF_REASON_COUNT];
	uint64_t locks_held, sessions, connections;
};

/* Objects alive in this process: what a test looks at to see that nothing leaks. */
struct hf_counters {
	long clients, locks, ops, sessions, threads;
};

/* Makes a client. Opens no socket and starts no thread; the first op does. *out belongs to the
 * caller (hf_client_drop). */
enum hf_err hf_client_new(const struct hf_client_opts *opts, struct hf_client **out,
			  struct hf_error *err);
/* Ends ops in flight with CLOSED, releases what is held and destroys the client's sessions, all
 * within about three seconds: *out, the caller's, is done then. With tell false Consul hears
 * nothing of it: what a crash would do. Idempotent. */
enum hf_err hf_client_close(struct hf_client *client, bool tell, struct hf_op **out,
			    struct hf_error *err);
/* From now on each of these signals closes the client, and all others that have asked for it, and
 * then ends the process by its default action; from a thread of the core, whatever others are at.
 * The calling thread is stopped first, since what it works under may be somebody else's then, and
 * does not go on: where it cannot be stopped within 3 s nothing is given back. It ends with the
 * client. Signals that the process ignores stay ignored. INVALID for those that end no process.
 * alone: as in hf_listener_new. */
enum hf_err hf_client_close_on(struct hf_client *client, const int *numbers, size_t count,
			       bool alone, struct hf_error *err);
/* Joins the thread of a client whose close is done. Waits for a moment at most. */
void hf_client_join(struct hf_client *client);
/* Gives the caller's reference back. Starts a close, but does not wait for it. */
void hf_client_drop(struct hf_client *client);
/* Where its Consul is. */
const char *hf_client_base(const struct hf_client *client);
enum hf_err hf_client_stats(struct hf_client *client, struct hf_stats *out, struct hf_error *err);
void hf_counters(struct hf_counters *out);

/* What may happen in a client that nobody has asked for. */
#define HF_EVENTS(X) \
	X(SESSION_MADE, "session_made") \
	X(SESSION_NOT_MADE, "session_not_made") /* at the first try */ \
	X(SESSION_NOT_RENEWED, "session_not_renewed") /* the first time in a row */ \
	X(SESSION_RENEWED, "session_renewed") /* after that */ \
	X(SESSION_LOST, "session_lost") \
	X(LOCK_LOST, "lock_lost") \
	X(TROUBLE, "trouble") /* no answer from Consul */ \
	X(TROUBLE_OVER, "trouble_over") \
	X(DROPPED, "dropped") /* events, since nobody came for them */

enum hf_event_kind {
#define HF_ENUM(name, text) HF_##name,
	HF_EVENTS(HF_ENUM)
#undef HF_ENUM
};

struct hf_event {
	enum hf_event_kind kind;
	int64_t at; /* when (hf_now) */
	enum hf_reason reason; /* LOST */
	enum hf_err code; /* NOT_MADE, NOT_RENEWED, TROUBLE: what went wrong */
	char *message; /* the same in a sentence; NULL: no memory for it */
	char session[64]; /* its id; "": none yet, or it is about none */
	char *key; /* LOCK_LOST: the key; of a session: its name; NULL: none, or no memory */
	uint64_t token; /* LOCK_LOST */
	uint64_t count; /* DROPPED: how many */
	int64_t ttl, lock_delay; /* ms: of a session */
	int64_t lasted; /* ms: TROUBLE_OVER */
};

/* "session_made" and so on. */
const char *hf_event_text(enum hf_event_kind kind);
/* The next event that has been noted, oldest first; NULL: none. It lives until the next call, for
 * which one thread comes at a time. */
const struct hf_event *hf_client_event(struct hf_client *client);

/* ---- ops ------------------------------------------------------------------------------------ */

/* An HTTP response: what comes of hf_request_start and hf_call_start. It lives as long as its op.
 */
struct hf_response {
	long status;
	const char *headers; /* "Name: value" lines, each with its line end */
	size_t headers_len;
	const char *body;
	size_t body_len;
	bool truncated; /* body was longer than max_body */
	int64_t elapsed; /* ms */
};

/* Whether it has finished. Final once true. In a forked child: true. */
bool hf_op_done(struct hf_op *op);
/* Waits until it has finished: true; false after timeout ms (< 0: no limit) or a signal, so that
 * the caller can look at what the signal was for; false with *err filled when it cannot wait.
 * Whoever waits does the engine's work meanwhile (net/drive.h). */
bool hf_op_wait(struct hf_op *op, int64_t timeout, struct hf_error *err);
/* A descriptor that is readable from the finish on. It is closed when the result is read, or with
 * the op. -1: see *err. */
int hf_op_fd(struct hf_op *op, struct hf_error *err);
/* Its result: HF_OK or a failure. TIMEOUT in *err while it has not finished. */
enum hf_err hf_op_result(struct hf_op *op, struct hf_error *err);
/* The response of a request that ended with HF_OK, or of a call that was answered, whatever its
 * result; else NULL. */
const struct hf_response *hf_op_response(struct hf_op *op);
/* Asks it to end with CANCELED. It may have succeeded already. */
void hf_op_cancel(struct hf_op *op);
/* Gives the caller's reference back, and cancels what has not finished: nobody would know what
 * came of it. NULL is fine. */
void hf_op_drop(struct hf_op *op);
/* Gives the caller's reference back, and lets it go on. */
void hf_op_leave(struct hf_op *op);

/* ---- sets ----------------------------------------------------------------------------------- */

/* Ops that one thread waits for together, and needs no descriptor for: what an event loop has. A
 * set is used by one thread at a time. */
struct hf_set;

/* NULL when memory is out. */
struct hf_set *hf_set_new(void);
void hf_set_free(struct hf_set *set);
/* Puts an op into the set, which keeps it until it has finished or is removed. An op is in one set
 * only. */
enum hf_err hf_set_add(struct hf_set *set, struct hf_op *op, struct hf_error *err);
/* Harmless when it is not in there. */
void hf_set_remove(struct hf_set *set, struct hf_op *op);
/* Waits until an op in the set has finished, one of n descriptors is readable (ready[i] says
 * which), timeout ms are over (< 0: no limit), a signal came, or for no reason. Does the work of
 * the ops' engines meanwhile. A child after fork is told FORKED once, and the set forgets what its
 * parent has put in. */
enum hf_err hf_set_wait(struct hf_set *set, const int *fds, size_t n, int64_t timeout, bool *ready,
			struct hf_error *err);
/* The next op that has finished, which the set forgets: its address, to know it by. NULL: none. */
const void *hf_set_next(struct hf_set *set);

/* ---- requests ------------------------------------------------------------------------------- */

struct hf_request {
	const char *method, *url;
	struct hf_list headers; /* "Name: value" */
	const char *body; /* NULL: none */
	size_t body_len;
	int64_t timeout; /* ms, of the whole request; < 0: the client's */
	size_t max_body; /* of the response; the rest is not read */
	struct hf_route route;
	bool public_only; /* nothing is sent to an address that is not public, */
	struct hf_list allow; /* except in these networks: "10.1.0.0/16" */
};

/* Whether it is an address or a network as in hf_request.allow. */
bool hf_network_valid(const char *text);

/* Starts an HTTP request. With a guard it is aborted the moment that lock's hold ends, and
 * it is refused with NOT_HELD or LOST when it is not held now. *out belongs to the caller. */
enum hf_err hf_request_start(struct hf_client *client, struct hf_lock *guard,
			     const struct hf_request *req, struct hf_op **out,
			     struct hf_error *err);

/* Any request to the Consul of a client, as its API describes them. */
struct hf_call {
	const char *method;
	const char *path; /* from /v1/ on, escaped, without a query */
	struct hf_list query; /* "name=value" or "name", not escaped */
	struct hf_list headers; /* "Name: value"; a token here takes the place of the client's */
	const char *body; /* NULL: none. It is JSON unless a header says otherwise */
	size_t body_len;
	int64_t timeout; /* ms, until it is answered; < 0: the client's, from when it is sent */
	int64_t wait; /* ms for which the server holds a long poll back; 0: it is none */
};

/* Starts a call. What of datacenter, namespace and partition its query does not name is the
 * client's. Any status but 2xx is a failure; hf_op_response tells what came with it. Calls have
 * connections of their own, so that they keep no lock waiting. *out belongs to the caller. */
enum hf_err hf_call_start(struct hf_client *client, const struct hf_call *call, struct hf_op **out,
			  struct hf_error *err);

/* ---- sessions ------------------------------------------------------------------------------- */

/* Makes an object that is going to be a session of its own (hf_handle_open); no network. *out
 * belongs to the caller (hf_handle_drop). */
enum hf_err hf_handle_new(struct hf_client *client, const struct hf_session_opts *opts,
			  struct hf_handle **out, struct hf_error *err);
/* Gives the caller's reference back. The session is destroyed in the background when no lock object
 * uses it any more, and what was held through it has been given back. NULL is fine. */
void hf_handle_drop(struct hf_handle *handle);
/* The end of the object as if it had been dropped, without giving back the reference. */
void hf_handle_let_go(struct hf_handle *handle);
/* Each starts an op; *out belongs to the caller. open: the session is made, once, within the
 * client's timeout. renew: Consul is asked now; with timeout 0 once. destroy: what is held through
 * it is lost, at once, and the op is done when Consul has answered. */
enum hf_err hf_handle_open(struct hf_handle *handle, struct hf_op **out, struct hf_error *err);
enum hf_err hf_handle_renew(struct hf_handle *handle, int64_t timeout, struct hf_op **out,
			    struct hf_error *err);
enum hf_err hf_handle_destroy(struct hf_handle *handle, int64_t timeout, struct hf_op **out,
			      struct hf_error *err);

/* What a session says of itself at this moment; the lease deadline is looked at by the call. */
struct hf_handle_state {
	bool alive;
	enum hf_reason reason; /* how it ended; HF_NO_REASON: it is alive, or has not been made */
	char id[64]; /* "" before it has been made */
	int64_t until; /* the lease deadline (hf_now); 0: not alive */
};

void hf_handle_state(struct hf_handle *handle, struct hf_handle_state *out);

/* ---- keys ----------------------------------------------------------------------------------- */

/* Starts waiting until a key is not there, or its last change is another one than index. What it
 * costs is bounded, however many wait. The op ends with HF_OK, which is a hint: look again. DENIED
 * when the key may not be read; TIMEOUT after timeout ms (< 0: no limit). Passing trouble does not
 * end it. *out belongs to the caller. */
enum hf_err hf_key_change(struct hf_client *client, const char *key, uint64_t index,
			  int64_t timeout, struct hf_op **out, struct hf_error *err);

/* ---- locks ---------------------------------------------------------------------------------- */

struct hf_lock_opts {
	const char *key;
	struct hf_list more; /* further keys, all different: all are held, or none */
	const char *value;
	size_t value_len;
	const char *session; /* id of one made elsewhere, or NULL */
	const struct hf_session_opts *session_opts; /* a session of its own, or NULL */
	struct hf_handle *handle; /* a session that is an object, or NULL */
	bool monitor_key; /* one long poll on this key */
	bool ephemeral; /* giving it back deletes the key */
	int64_t max_hold; /* ms after which a hold ends by itself; 0: none */
	uint64_t flags; /* of the key, others are a CONFLICT; 0: those of a lock */
};

/* Ends a hold, or an acquire in flight, the way a drop does, but the object lives on. */
void hf_lock_let_go(struct hf_lock *lock);
/* Makes a lock object; no network. *out belongs to the caller (hf_lock_drop). */
enum hf_err hf_lock_new(struct hf_client *client, const struct hf_lock_opts *opts,
			struct hf_lock **out, struct hf_error *err);
/* Gives the caller's reference back; an acquire in flight is canceled, and what is held or got
 * gets released in the background. */
void hf_lock_drop(struct hf_lock *lock);
/* The client that the lock was made with. */
struct hf_client *hf_lock_client(struct hf_lock *lock);
/* Each starts an op with a timeout in ms (< 0: none; 0: one try). *out belongs to the caller.
 * acquire answers HELD, release NOT_HELD or LOST, destroy HELD at once. */
enum hf_err hf_lock_acquire(struct hf_lock *lock, int64_t timeout, struct hf_op **out,
			    struct hf_error *err);
enum hf_err hf_lock_release(struct hf_lock *lock, int64_t timeout, struct hf_op **out,
			    struct hf_error *err);
enum hf_err hf_lock_destroy(struct hf_lock *lock, int64_t timeout, struct hf_op **out,
			    struct hf_error *err);
/* Ends an acquire that is in flight with CANCELED. */
void hf_lock_cancel(struct hf_lock *lock);

/* ---- semaphores ----------------------------------------------------------------------------- */

/* A semaphore is a lock object whose key is the prefix: whatever else there is for locks is for it
 * too. It has a session of its own, or one made elsewhere, with which nothing but the TTL protects
 * a slot. */
struct hf_semaphore_opts {
	const char *prefix; /* with a slash at its end */
	uint64_t limit; /* how many may hold a slot at once; 1 at least */
	const char *value; /* of the key that shows who holds one */
	size_t value_len;
	const char *session; /* id of one made elsewhere, or NULL: session_opts */
	const struct hf_session_opts *session_opts;
};

/* Like hf_lock_new and so on; a slot is given back by hf_lock_release. */
enum hf_err hf_semaphore_new(struct hf_client *client, const struct hf_semaphore_opts *opts,
			     struct hf_lock **out, struct hf_error *err);
enum hf_err hf_semaphore_acquire(struct hf_lock *sem, int64_t timeout, struct hf_op **out,
				 struct hf_error *err);
/* Deletes .lock when nobody who is alive holds a slot. */
enum hf_err hf_semaphore_destroy(struct hf_lock *sem, int64_t timeout, struct hf_op **out,
				 struct hf_error *err);

/* ---- what they say -------------------------------------------------------------------------- */

/* What a lock says of itself at this moment; the lease deadline is looked at by the call. */
struct hf_lock_state {
	bool held;
	bool lost; /* latched until the next acquire */
	enum hf_reason reason; /* how the last hold ended; HF_NO_REASON: held, or never was */
	uint64_t token; /* 0: not held */
	int64_t until; /* it ends by then: the lease deadline (hf_now), or max_hold; 0: not held */
};

void hf_lock_state(struct hf_lock *lock, struct hf_lock_state *out);
/* The id of the session that it is held with, or that it was given; "" when there is none. */
void hf_lock_session(struct hf_lock *lock, char *out, size_t size);
const char *hf_lock_key(struct hf_lock *lock);
/* How many keys it has, and the lock of one of them: the first is the lock itself, the others live
 * as long as it does, and are for hf_lock_key and hf_lock_destroy only. */
#define HF_LOCK_KEYS_MAX 64
size_t hf_lock_count(const struct hf_lock *lock);
struct hf_lock *hf_lock_part(struct hf_lock *lock, size_t i);
/* A descriptor that is readable while it is not held (lost, released, or never was). The lock
 * closes it. -1: see *err. */
int hf_lock_fd(struct hf_lock *lock, struct hf_error *err);
/* Waits until it is not held, like hf_op_wait. */
bool hf_lock_wait(struct hf_lock *lock, int64_t timeout, struct hf_error *err);

/* ---- signals -------------------------------------------------------------------------------- */

/* "TERM" and so on. 0, NULL: unknown. */
int hf_signal_number(const char *name);
const char *hf_signal_name(int number);

/* Hears signals of the process, beside any number of others. While there is one that hears it, a
 * signal does not do what it did, except that a handler which somebody had set is called too; when
 * the last one goes it does again what it did. After a fork it answers FORKED in the child, where
 * signals do what they did before. One thread uses a listener at a time. */
struct hf_listener;

/* INVALID: SIGKILL, SIGSTOP, and faults. alone: the handler of SIGINT is a Lua interpreter's, which
 * raises an error at Ctrl-C, and is not called. *out belongs to the caller. */
enum hf_err hf_listener_new(const int *numbers, size_t count, bool alone, struct hf_listener **out,
			    struct hf_error *err);
/* NULL is fine. */
void hf_listener_free(struct hf_listener *listener);
/* A descriptor that is readable while there is a signal to be read; the listener closes it. -1: see
 * *err. */
int hf_listener_fd(const struct hf_listener *listener, struct hf_error *err);
/* The next signal that has come; 0 when there is none now, or *err says why not. */
int hf_listener_next(struct hf_listener *listener, struct hf_error *err);
/* Waits until there is one: true; false after timeout ms (< 0: no limit), for no reason, or with
 * *err filled. */
bool hf_listener_wait(const struct hf_listener *listener, int64_t timeout, struct hf_error *err);

/* ---- a command, for programs that run one under a lock -------------------------------------- */

/* Whether standard input is a terminal, and this process in its foreground. */
bool hf_terminal_ours(void);
/* Puts a process group into the foreground of that terminal; 0: the caller's own. */
void hf_terminal_give(int group);

struct hf_command {
	struct hf_list argv; /* at least one, and NULL after the last; found by PATH */
	struct hf_list env; /* "NAME=value" over what the process has; "NAME" takes away */
	bool pass_stdin; /* else it reads from /dev/null */
	bool terminal; /* its group goes into the foreground */
};

/* Starts a command in a process group of its own, with no signal blocked. The kernel kills it
 * when the calling thread ends. Waits until it runs: NOT_FOUND when there is no such command,
 * DENIED when it cannot be executed. To be called by the first thread of the process, which takes
 * over what children leave behind (PR_SET_CHILD_SUBREAPER). */
enum hf_err hf_child_start(const struct hf_command *command, int *pid, struct hf_error *err);

enum hf_end {
	HF_END_NONE, /* nothing new */
	HF_END_EXITED, /* by itself: *number is its status */
	HF_END_KILLED, /* by the signal *number */
	HF_END_STOPPED, /* by the signal *number, for now */
	HF_END_ALL, /* it has ended, and nobody is left in its group */
};

/* Answers what has become of it since the last call. A SIGCHLD says when to look. */
enum hf_end hf_child_look(int pid, int *number);
/* Sends a signal to its group, which must not be known to be empty. */
bool hf_child_signal(int pid, int number);

#endif
