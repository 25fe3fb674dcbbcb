/* http.h: one HTTP request and what came of it. The only file that uses curl_easy_*. Everything
 * here belongs to the worker thread, except that an op's maker may fill a request beforehand and
 * read a reply afterwards. */
#ifndef HF_HTTP_H
#define HF_HTTP_H

#include "buf.h"
#include "hf.h"

#include <curl/curl.h>
#include <stdatomic.h>

/* Requests of one lane share a limit of how many are in flight (worker.c). */
enum hf_lane { HF_COMMAND, HF_POLL, HF_RENEW, HF_USER, HF_LANES };

struct hf_http {
	/* the request */
	enum hf_lane lane; /* all but HF_USER: with the client's token, address and TLS */
	const char *method; /* a constant, or the op's */
	struct hf_buf url, body;
	bool has_body;
	struct curl_slist *headers; /* HF_USER only; freed with the rest */
	int64_t timeout; /* ms */
	size_t max_body; /* of the reply; more is not read */
	bool fresh; /* on a new connection: the pooled ones may be dead without knowing */

	/* the reply */
	enum hf_err error; /* HF_OK: there is a reply, of whatever status */
	char message[256]; /* what went wrong */
	bool maybe_sent; /* failed, but the server may have acted on it */
	unsigned sendings; /* libcurl sends again when a kept connection turns out to be dead */
	long status;
	uint64_t index; /* X-Consul-Index, 0 when absent */
	struct hf_buf reply, reply_headers;
	bool truncated;
	int64_t sent, elapsed; /* when it was sent (hf_now) and how long it took, ms */

	/* private */
	CURL *easy;
	char detail[CURL_ERROR_SIZE];
	bool opened; /* a socket was opened for it and is not counted yet */
	atomic_long *connections; /* gauge of open connections, counted by the socket callbacks */
};

/* The header lists that all Consul requests share. NULL when memory runs out. */
struct curl_slist *hf_http_consul_headers(const struct hf_client_opts *opts);
struct curl_slist *hf_http_connect_to(const struct hf_client_opts *opts);
/* Adds a line to a list that may be NULL; on failure the old list stays as it is. */
bool hf_http_add_header(struct curl_slist **list, const char *line);
void hf_http_free_headers(struct curl_slist *list);

struct hf_http_context {
	const struct hf_client_opts *opts;
	struct curl_slist *headers, *connect_to;
	atomic_long *connections;
};

/* Forgets the last request and reply, keeps memory. */
void hf_http_reset(struct hf_http *http);
/* Makes easy ready to be added to the multi handle. http->easy is easy from now on. */
enum hf_err hf_http_start(struct hf_http *http, CURL *easy, const struct hf_http_context *context);
/* To be called when a transfer ends in whatever way, before its handle is removed. */
void hf_http_end(struct hf_http *http, CURL *easy);
/* Reads off easy what came of the transfer; the handle is the caller's again. */
void hf_http_done(struct hf_http *http, CURLcode result);
/* The hf_http that an easy handle works for. */
void *hf_http_owner(CURL *easy);
void hf_http_free(struct hf_http *http);

CURL *hf_http_new_easy(void);
void hf_http_free_easy(CURL *easy);

#endif
