/* http.h: one HTTP request and what came of it. The only file that uses curl_easy_*. Everything
 * here belongs to the engine's thread, except that an op's maker may fill a request beforehand and
 * read a reply afterwards. */
#ifndef HF_HTTP_H
#define HF_HTTP_H

#include "base/address.h"
#include "base/buf.h"
#include "hf.h"
#include "net/gauge.h"
#include "net/guard.h"

#include <curl/curl.h>

/* How to reach a server: what all requests to it share. const once it has been made, but for the
 * one header: thread. */
struct hf_peer {
	const struct hf_route *route;
	const char *auth;
	bool multiplex; /* over TLS: requests that go together may share a connection */
	struct curl_slist *headers, *connect_to;
	char *header; /* one more, which may be replaced; NULL: none */
	unsigned edition; /* rises when it is */
};

struct hf_http {
	/* the request */
	const struct hf_peer *peer; /* NULL: wherever the URL says, */
	const struct hf_route *route; /* by this route, which is the op's, */
	const struct hf_reach *reach; /* to these addresses; the op's. NULL: to any, and by the
				       * proxy of the environment */
	const char *method; /* a constant, or the op's */
	struct hf_buf url, body;
	bool has_body;
	struct curl_slist *headers, *connect_to; /* without a peer; freed with the rest */
	const struct curl_slist *instead; /* of the peer's headers; the op's. NULL: the peer's */
	bool bare; /* without the peer's one header that may be replaced */
	int64_t timeout; /* ms */
	size_t max_body; /* of the reply; more is not read */
	bool cut; /* a reply that is longer is not an error */
	bool fresh; /* on a new connection: the pooled ones may be dead without knowing */
	bool together; /* with others on one connection, if the server speaks HTTP/2 */
	const struct hf_guard *guard; /* the request does not leave once it is broken; NULL: none */

	/* the reply */
	enum hf_err error; /* HF_OK: there is a reply, of whatever status */
	char message[256]; /* what went wrong */
	bool maybe_sent; /* failed, but the server may have acted on it */
	unsigned sendings; /* libcurl sends again when a kept connection turns out to be dead */
	long status;
	struct hf_buf reply, reply_headers;
	bool truncated;
	int64_t sent, elapsed; /* when it was sent (hf_now) and how long it took, ms */

	/* private */
	CURL *easy; /* what carries it out. It stays for the next request to the same peer */
	const struct hf_peer *set_up; /* easy has what all requests to this peer share */
	struct curl_slist *shared; /* its headers to a peer: a copy of the peer's, */
	unsigned edition; /* of this edition, */
	bool apart; /* or of what was given instead */
	struct hf_http *next; /* of those that wait for a request */
	char detail[CURL_ERROR_SIZE];
	char refused[128]; /* an address that is out of reach, and what it is; "": none was */
	bool tried; /* another address */
	struct hf_gauge *gauge; /* counts the sockets */
	struct hf_opened {
		int fd;
		uint64_t serial; /* 0: none */
	} opened[2]; /* sockets for this request, which has not been on any of them */
};

/* Adds a line to a list that may be NULL; on failure the old list stays as it is. */
bool hf_http_add_header(struct curl_slist **list, const char *line);
void hf_http_free_headers(struct curl_slist *list);

/* Forgets the last request and reply, keeps memory, and the easy handle when there was no
 * error. */
void hf_http_reset(struct hf_http *http);
/* Makes http->easy ready to be added to the multi handle; makes one, unless there is one. Counts
 * the sockets it opens in *gauge. */
enum hf_err hf_http_start(struct hf_http *http, struct hf_gauge *gauge);
/* To be called when a transfer has ended in whatever way, and its handle is removed. */
void hf_http_end(struct hf_http *http);
/* Reads off http->easy what came of the transfer. */
void hf_http_done(struct hf_http *http, CURLcode result);
/* It has been refused, and goes once more: forgets the reply. */
void hf_http_again(struct hf_http *http);
/* Whether this libcurl speaks HTTP/2. */
bool hf_http_multiplexes(void);
/* Whether it went together with others, and the server has not let it share its connection. */
bool hf_http_went_apart(const struct hf_http *http);
/* The request fails for want of memory before it began. */
void hf_http_no_memory(struct hf_http *http);
/* The value of a header of the reply up to its line end, NULL when there is none. name is in lower
 * case and ends in a colon. */
const char *hf_http_header(const struct hf_http *http, const char *name);
/* Sets what is handed to whoever finds the easy handle finished, and finds it. */
void hf_http_own(CURL *easy, void *owner);
void *hf_http_owner(CURL *easy);
/* Frees what is in it, and leaves it empty. */
void hf_http_free(struct hf_http *http);

void hf_http_free_easy(CURL *easy);

#endif
