/* consul.h: builds Consul requests and reads Consul replies. Pure: no state, no network.
 * Builders fill an hf_http that hf_http_reset has emptied; out of memory shows in its buffers.
 * Facts about the server: docs/consul.md. */
#ifndef HF_CONSUL_H
#define HF_CONSUL_H

#include "hf.h"
#include "http.h"

/* What Go's client and `consul lock` write into the flags of a lock's key. */
#define HF_LOCK_FLAGS UINT64_C(3304740253564472344)
/* How many operations a transaction may have: servers before 1.14 take 64. */
#define HF_TXN_MAX 64
/* How long a long poll waits, ms. Servers go on with a poll that a client has given up. */
#define HF_POLL_WAIT 30000

/* What a reply comes down to. */
enum hf_verdict {
	HF_V_OK,
	HF_V_HELD, /* another session has the lock */
	HF_V_DELAY, /* nobody has it, but its last holder died less than the lock-delay ago */
	HF_V_NO_SESSION, /* our session is not there any more */
	HF_V_ABSENT, /* no such key */
	HF_V_NOT_OURS, /* the key is not locked by our session */
	HF_V_AGAIN, /* passing trouble: no connection, timeout, 429, 5xx */
	HF_V_FINAL, /* refused, and will be again */
};

struct hf_kv {
	bool exists;
	uint64_t flags, modify_index;
	char session[64]; /* "" when nobody holds it */
};

/* ---- requests ---- */

void hf_consul_create(struct hf_http *http, const struct hf_client_opts *opts,
		      const struct hf_session_opts *session);
void hf_consul_renew(struct hf_http *http, const struct hf_client_opts *opts, const char *id);
void hf_consul_destroy(struct hf_http *http, const struct hf_client_opts *opts, const char *id);
/* A read of a session: a long poll when index is not 0. */
void hf_consul_info(struct hf_http *http, const struct hf_client_opts *opts, const char *id,
		    uint64_t index);
/* A read of a key: a long poll when index is not 0. consistent asks the leader to be sure. */
void hf_consul_get(struct hf_http *http, const struct hf_client_opts *opts, const char *key,
		   uint64_t index, bool consistent);
/* Deletes a key unless it has changed since modify_index. */
void hf_consul_delete(struct hf_http *http, const struct hf_client_opts *opts, const char *key,
		      uint64_t modify_index);
/* verb is "lock" or "unlock". */
void hf_consul_lock(struct hf_http *http, const struct hf_client_opts *opts, const char *verb,
		    const char *key, const char *session, const char *value, size_t value_len);
/* A transaction of check-session operations: begin, up to HF_TXN_MAX checks, end. */
void hf_consul_audit_begin(struct hf_http *http, const struct hf_client_opts *opts);
void hf_consul_audit_check(struct hf_http *http, const char *key, const char *session);
void hf_consul_audit_end(struct hf_http *http);

/* ---- replies: each fills *err unless it answers HF_V_OK ---- */

/* id holds 64 bytes; *ttl gets what the server made of it, in ms. 404 is HF_V_ABSENT. */
enum hf_verdict hf_consul_read_session(const struct hf_http *http,
				       const struct hf_client_opts *opts, char *id, int64_t *ttl,
				       struct hf_error *err);
/* HF_V_ABSENT: no such session, or none that we may see. */
enum hf_verdict hf_consul_read_info(const struct hf_http *http, const struct hf_client_opts *opts,
				    struct hf_error *err);
/* An absent key is HF_V_OK with !kv->exists. */
enum hf_verdict hf_consul_read_key(const struct hf_http *http, const struct hf_client_opts *opts,
				   struct hf_kv *kv, struct hf_error *err);
/* HF_V_NOT_OURS: it had changed, and was not deleted. */
enum hf_verdict hf_consul_read_delete(const struct hf_http *http, const struct hf_client_opts *opts,
				      struct hf_error *err);
/* *token gets the raft index of the write that took the lock. */
enum hf_verdict hf_consul_read_lock(const struct hf_http *http, const struct hf_client_opts *opts,
				    uint64_t *token, struct hf_error *err);
/* verdicts[i] says what became of operation i of count: OK, ABSENT, NOT_OURS or FINAL. Answers
 * HF_V_OK when the verdicts count, HF_V_AGAIN or HF_V_FINAL when there is no answer. */
enum hf_verdict hf_consul_read_audit(const struct hf_http *http, const struct hf_client_opts *opts,
				     size_t count, enum hf_verdict *verdicts, struct hf_error *err);

#endif
