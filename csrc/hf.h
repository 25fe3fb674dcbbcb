/* hf.h: the API of the holdfast core. No Lua in here, and no libcurl: this is all that the
 * bindings (bind_*.c) and the C tests may include.
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

/* ---- errors ----------------------------------------------------------------------------- */

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

/* ---- primitives (no client) --------------------------------------------------------------- */

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
bool hf_ed25519_verify(const unsigned char pub[HF_ED25519_PUBLIC_LEN], const void *data,
		       size_t len, const unsigned char sig[HF_ED25519_SIGNATURE_LEN]);
/* Compares in a time that depends on len only. */
bool hf_equal(const void *a, const void *b, size_t len);
/* Standard alphabet. out holds HF_BASE64_ENCODED(len) bytes, no NUL; answers the length. */
#define HF_BASE64_ENCODED(len) (((len) + 2) / 3 * 4)
size_t hf_base64_encode(const void *data, size_t len, char *out);
/* out holds len / 4 * 3 + 3 bytes. Padding may be missing and left-over bits are ignored, as other
 * Standard Webhooks libraries do; any other character answers false. */
bool hf_base64_decode(const char *text, size_t len, unsigned char *out, size_t *out_len);

#endif
