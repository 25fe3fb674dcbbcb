/* call.h: what every request to Consul and every reply have in common. Pure like its neighbours
 * session, kv and txn: builds requests, reads replies; no network, and no state but the token.
 * Builders fill an hf_http that is empty; out of memory shows in its buffers. Facts about the
 * server: docs/consul.md. */
#ifndef HF_CALL_H
#define HF_CALL_H

#include "hf.h"
#include "net/http.h"

/* How long a long poll waits, ms. Servers go on with a poll that a client has given up, and a
 * waiter whose server is suspended finds out after this. */
#define HF_POLL_WAIT 10000

/* A Consul, and how to reach it. const once it has been made, but for the token. */
struct hf_consul {
	const struct hf_client_opts *opts;
	struct hf_peer peer;
	int64_t token_read_at; /* thread: when opts->token_file was last read; 0: not here */
};

/* Makes what is to be made of opts, which live as long as consul. False when memory is out, with
 * *consul emptied. */
bool hf_consul_init(struct hf_consul *consul, const struct hf_client_opts *opts);
void hf_consul_free(struct hf_consul *consul);
/* thread: a server has refused a request, which may be because the token was replaced: reads its
 * file again, if there is one and it was not read a moment ago. What the file has to say by then
 * counts from the next request on; when that is nothing, the token stays. */
void hf_consul_renew_token(struct hf_consul *consul);

/* What a reply comes down to. */
enum hf_verdict {
	HF_V_OK,
	HF_V_HELD, /* another session has the lock */
	HF_V_DELAY, /* nobody has it, but its last holder died less than the lock-delay ago */
	HF_V_NO_SESSION, /* our session is not there any more */
	HF_V_ABSENT, /* no such key or session */
	HF_V_MOVED, /* the key is not what the request was conditional on */
	HF_V_NOT_OURS, /* the key is not locked by our session */
	HF_V_AGAIN, /* passing trouble: no connection, timeout, 429, 5xx */
	HF_V_FINAL, /* refused, and will be again */
};

/* ---- requests ---- */

void hf_call_begin(struct hf_http *http, const struct hf_consul *consul, const char *method,
		   const char *path);
/* Adds name=value to the query; value NULL: nothing, "": the name alone. */
void hf_call_query(struct hf_http *http, const char *name, const char *value);
void hf_call_query_index(struct hf_http *http, const char *name, uint64_t value);
/* Adds datacenter, namespace and partition. */
void hf_call_where(struct hf_http *http, const struct hf_consul *consul);
/* Makes a read a long poll, unless index is 0. */
void hf_call_blocking(struct hf_http *http, uint64_t index);
/* Adds ,"name":"value" to a JSON object; nothing when value is NULL. */
void hf_call_field(struct hf_buf *body, const char *name, const char *value);

/* Any request: what the user wants, and where, unless that says. The timeout of a long poll is what
 * the server may take for it, and some more for the answer to travel. */
void hf_call_any(struct hf_http *http, const struct hf_consul *consul, const struct hf_call *call,
		 const struct curl_slist *headers);
/* The headers of such a request, but for the token. False when memory is out; the list is the
 * caller's even so. */
bool hf_call_headers(struct curl_slist **list, const struct hf_call *call);

/* ---- replies ---- */

/* Trouble on the way, and statuses that mean the same for all. Fills *err unless it answers OK.
 * ABSENT: 404, of whomever. */
enum hf_verdict hf_call_common(const struct hf_http *http, const struct hf_consul *consul,
			       struct hf_error *err);
/* Whether an ACL has refused the request, or a part of it. */
bool hf_call_denied(const struct hf_http *http);
/* The answer to a reply that is not what it should be: AGAIN. */
enum hf_verdict hf_call_garbled(const struct hf_http *http, const struct hf_consul *consul,
				struct hf_error *err);
/* The same for a request to whatever: 2xx is success, and 404 the failure NOT_FOUND. */
enum hf_err hf_call_outcome(const struct hf_http *http, const struct hf_consul *consul,
			    struct hf_error *err);
/* Whether the server has certainly not carried out a request that has failed. */
bool hf_call_unheard(const struct hf_http *http);
/* X-Consul-Index, 0 when there is none or it is no number. */
uint64_t hf_call_index(const struct hf_http *http);
/* Whether the server's own words contain text: what is in double quotes are keys and ids. */
bool hf_call_says(const char *words, const char *text);

#endif
