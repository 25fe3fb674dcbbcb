#include "net/http.h"

#include "net/trouble.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_HEADERS (64 * 1024)
#define KEEPALIVE 15L /* seconds: a long poll across a dead NAT entry must not wait for ever */

/* ---- headers -------------------------------------------------------------------------------- */

bool hf_http_add_header(struct curl_slist **list, const char *line)
{
	struct curl_slist *longer = curl_slist_append(*list, line);

	if (longer)
		*list = longer;
	return longer != NULL;
}

void hf_http_free_headers(struct curl_slist *list)
{
	curl_slist_free_all(list);
}

/* ---- callbacks of libcurl ------------------------------------------------------------------- */

/* Whether an address is out of reach; then it is noted. */
static bool refuses(struct hf_http *http, const char *address)
{
	const char *what = http->reach ? hf_address_refused(address, http->reach) : NULL;

	if (what)
		snprintf(http->refused, sizeof http->refused, "%s, which is %s", address, what);
	return what != NULL;
}

/* Called for each address of a name, before the connection is begun: whatever the name means later,
 * this is where it goes. Sockets must not leak into programs that the process starts, and they are
 * counted. */
static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	struct hf_http *http = arg;
	char text[64] = "";
	int fd;

	(void)purpose;
	hf_address_text(&address->addr, text, sizeof text);
	if (refuses(http, text))
		return CURL_SOCKET_BAD;
	http->tried = true;
	fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
	if (fd < 0)
		return CURL_SOCKET_BAD;
	http->opened[1] = http->opened[0];
	http->opened[0] = (struct hf_opened){fd, hf_gauge_opened(http->gauge, fd)};
	return fd;
}

/* arg is the gauge itself: a connection outlives the request that opened it. */
static int close_socket(void *arg, curl_socket_t fd)
{
	hf_gauge_closed(arg, fd);
	return close(fd);
}

static void none_opened(struct hf_http *http)
{
	http->opened[0] = http->opened[1] = (struct hf_opened){0};
}

/* Called when a connection is there, before the request is sent. The process may have been
 * suspended since the engine looked at the guard; and a connection that was kept may be one of a
 * request that went further. */
static int before_sending(void *arg, char *to_ip, char *from_ip, int to_port, int from_port)
{
	struct hf_http *http = arg;

	(void)from_ip, (void)to_port, (void)from_port;
	none_opened(http);
	if (refuses(http, to_ip) || (http->guard && !hf_guard_stands(http->guard)))
		return CURL_PREREQFUNC_ABORT;
	http->sendings++;
	return CURL_PREREQFUNC_OK;
}

static size_t take_body(char *data, size_t size, size_t count, void *arg)
{
	struct hf_http *http = arg;
	size_t len = size * count;
	size_t room = http->max_body - http->reply.len;

	http->truncated = len > room;
	if (http->truncated)
		len = room;
	return hf_buf_add(&http->reply, data, len) && !http->truncated ? size * count : 0;
}

static size_t take_header(char *data, size_t size, size_t count, void *arg)
{
	struct hf_http *http = arg;
	size_t len = size * count;

	/* Only the last response counts: 100 Continue and the like come before it. */
	if (len > 5 && !memcmp(data, "HTTP/", 5)) {
		hf_buf_reset(&http->reply_headers);
		return len;
	}
	if (http->reply_headers.len + len > MAX_HEADERS)
		return 0;
	return hf_buf_add(&http->reply_headers, data, len) ? len : 0;
}

/* ---- the request ---------------------------------------------------------------------------- */

/* Remembers the first option that libcurl refuses. */
#define SET(option, value) \
	do { \
		if (!result) \
			result = curl_easy_setopt(easy, CURLOPT_##option, value); \
	} while (0)

/* What is the same for all requests to a peer, or nobody's. */
static CURLcode set_common(struct hf_http *http)
{
	CURL *easy = http->easy;
	CURLcode result = CURLE_OK;

	SET(NOSIGNAL, 1L);
	SET(QUICK_EXIT, 1L); /* a resolver thread that hangs must not hang the worker */
	SET(PROTOCOLS_STR, "http,https");
	SET(FOLLOWLOCATION, 0L);
	SET(NOPROGRESS, 1L);
	SET(ERRORBUFFER, http->detail);
	SET(OPENSOCKETFUNCTION, open_socket);
	SET(OPENSOCKETDATA, http);
	SET(PREREQFUNCTION, before_sending);
	SET(PREREQDATA, http);
	SET(CLOSESOCKETFUNCTION, close_socket);
	SET(CLOSESOCKETDATA, http->gauge);
	SET(WRITEFUNCTION, take_body);
	SET(WRITEDATA, http);
	SET(HEADERFUNCTION, take_header);
	SET(HEADERDATA, http);
	SET(TCP_KEEPALIVE, 1L);
	SET(TCP_KEEPIDLE, KEEPALIVE);
	SET(TCP_KEEPINTVL, KEEPALIVE);
	return result;
}

static CURLcode set_route(CURL *easy, const struct hf_route *route, struct curl_slist *connect_to)
{
	CURLcode result = CURLE_OK;

	SET(CONNECT_TO, connect_to);
	SET(UNIX_SOCKET_PATH, route->unix_socket);
	if (route->ca_file || route->ca_path) {
		SET(CAINFO, route->ca_file);
		SET(CAPATH, route->ca_path); /* or the system's would do as well */
	}
	SET(SSLCERT, route->cert_file);
	SET(SSLKEY, route->key_file);
	SET(SSL_VERIFYPEER, (long)route->verify);
	SET(SSL_VERIFYHOST, route->verify ? 2L : 0L);
	return result;
}

static CURLcode set_peer(CURL *easy, const struct hf_peer *peer)
{
	CURLcode result = set_route(easy, peer->route, peer->connect_to);

	SET(PROXY, ""); /* what http_proxy names rarely knows the way to an agent on this host */
	SET(USERPWD, peer->auth);
	return result;
}

/* What a proxy connects to cannot be known here. */
static CURLcode set_user(const struct hf_http *http)
{
	CURL *easy = http->easy;
	CURLcode result = set_route(easy, http->route, http->connect_to);

	if (http->reach || http->route->unix_socket)
		SET(PROXY, "");
	return result;
}

/* What each request has of its own, all of it every time. */
static CURLcode set_request(struct hf_http *http)
{
	bool write = !strcmp(http->method, "POST") || !strcmp(http->method, "PUT");
	bool head = !strcmp(http->method, "HEAD");
	CURL *easy = http->easy;
	CURLcode result = CURLE_OK;

	SET(URL, hf_buf_text(&http->url));
	SET(HTTPHEADER, http->peer ? http->shared : http->headers);
	SET(TIMEOUT_MS, (long)http->timeout);
	SET(CONNECTTIMEOUT_MS, (long)http->timeout);
	SET(FRESH_CONNECT, (long)http->fresh);
	SET(HTTP_VERSION,
	    http->together ? (long)CURL_HTTP_VERSION_2TLS : (long)CURL_HTTP_VERSION_1_1);
	SET(PIPEWAIT, (long)http->together); /* for the first one's handshake, which will tell */
	SET(HTTPGET, 1L); /* what the last one was is over: a body, or NOBODY */
	if (head) {
		SET(NOBODY, 1L);
	} else if (http->has_body || write) {
		SET(POSTFIELDSIZE_LARGE, (curl_off_t)http->body.len);
		SET(POSTFIELDS, hf_buf_text(&http->body));
	}
	SET(CUSTOMREQUEST, head ? NULL : http->method);
	return result;
}

static void drop_headers(struct hf_http *http)
{
	hf_http_free_headers(http->shared);
	http->shared = NULL;
}

static void drop_easy(struct hf_http *http)
{
	curl_easy_cleanup(http->easy);
	http->easy = NULL;
	http->set_up = NULL;
	drop_headers(http);
}

/* libcurl does not copy them, and those of the peer may change while a request is under way. */
static bool copy_headers(struct hf_http *http)
{
	const struct hf_peer *peer = http->peer;
	const struct curl_slist *line = http->instead ? http->instead : peer->headers;
	bool ok = true;

	if (http->shared && !http->apart && !http->instead && http->edition == peer->edition)
		return true;
	drop_headers(http);
	for (; line && ok; line = line->next)
		ok = hf_http_add_header(&http->shared, line->data);
	if (ok && peer->header && !http->bare)
		ok = hf_http_add_header(&http->shared, peer->header);
	if (!ok)
		drop_headers(http);
	http->apart = http->instead != NULL;
	http->edition = peer->edition;
	return ok;
}

/* What is to stay begins with a new handle: a reset does not tell when memory is out, and leaves
 * defaults unset. */
static CURLcode set_up(struct hf_http *http)
{
	CURL *easy;
	CURLcode result;

	if (http->peer)
		drop_easy(http);
	if (http->easy)
		curl_easy_reset(http->easy);
	else
		http->easy = curl_easy_init();
	easy = http->easy;
	result = easy ? set_common(http) : CURLE_OUT_OF_MEMORY;
	if (!result)
		result = http->peer ? set_peer(easy, http->peer) : set_user(http);
	http->set_up = result ? NULL : http->peer;
	return result;
}

void hf_http_no_memory(struct hf_http *http)
{
	hf_http_done(http, CURLE_OUT_OF_MEMORY);
}

enum hf_err hf_http_start(struct hf_http *http, struct hf_gauge *gauge)
{
	CURLcode result = CURLE_OK;

	http->gauge = gauge;
	none_opened(http);
	http->sent = hf_now();
	if (http->url.failed || http->body.failed) {
		hf_http_no_memory(http);
		return http->error;
	}
	if (!http->peer || http->set_up != http->peer)
		result = set_up(http);
	if (!result && http->peer && !copy_headers(http))
		result = CURLE_OUT_OF_MEMORY;
	if (!result)
		result = set_request(http);
	if (result)
		hf_http_done(http, result);
	return result ? http->error : HF_OK;
}

/* ---- the reply ------------------------------------------------------------------------------ */

const char *hf_http_header(const struct hf_http *http, const char *name)
{
	const char *line = hf_buf_text(&http->reply_headers);
	size_t len = strlen(name);

	while (*line) {
		if (!strncasecmp(line, name, len))
			return line + len + strspn(line + len, " ");
		line += strcspn(line, "\n");
		line += *line == '\n';
	}
	return NULL;
}

static void describe(struct hf_http *http, CURLcode result)
{
	const char *why = http->detail[0] ? http->detail : curl_easy_strerror(result);
	struct hf_error text;

	hf_err_set(&text, http->error, "%s", why);
	memcpy(http->message, text.message, sizeof http->message - 1);
	http->message[sizeof http->message - 1] = '\0';
}

void hf_http_done(struct hf_http *http, CURLcode result)
{
	bool no_memory = http->reply.failed || http->reply_headers.failed;

	http->elapsed = hf_now() - http->sent;
	if (no_memory)
		result = CURLE_OUT_OF_MEMORY;
	else if (result == CURLE_WRITE_ERROR && http->truncated && http->cut)
		result = CURLE_OK;
	http->error = hf_trouble_code(http, result);
	if (result && http->refused[0] && !http->tried && !no_memory) {
		http->error = HF_DENIED;
		snprintf(http->message, sizeof http->message, "will not connect to %s",
			 http->refused);
	} else if (http->error) {
		http->maybe_sent = http->sendings > 0;
		describe(http, result);
	} else {
		curl_easy_getinfo(http->easy, CURLINFO_RESPONSE_CODE, &http->status);
	}
}

/* Two at a time are being connected at most, of two families: of an earlier one libcurl has told.
 */
void hf_http_end(struct hf_http *http)
{
	for (size_t i = 0; i < 2; i++)
		hf_gauge_gone(http->gauge, http->opened[i].fd, http->opened[i].serial);
	none_opened(http);
}

bool hf_http_multiplexes(void)
{
	return curl_version_info(CURLVERSION_NOW)->features & CURL_VERSION_HTTP2;
}

bool hf_http_went_apart(const struct hf_http *http)
{
	long version = 0;

	if (http->together && !http->error && http->status)
		curl_easy_getinfo(http->easy, CURLINFO_HTTP_VERSION, &version);
	return version && version < CURL_HTTP_VERSION_2_0;
}

void hf_http_own(CURL *easy, void *owner)
{
	curl_easy_setopt(easy, CURLOPT_PRIVATE, owner);
}

void *hf_http_owner(CURL *easy)
{
	char *owner = NULL;

	curl_easy_getinfo(easy, CURLINFO_PRIVATE, &owner);
	return owner;
}

/* What was refused has not been carried out; copies that were sent before it may have been. */
void hf_http_again(struct hf_http *http)
{
	hf_buf_reset(&http->reply);
	hf_buf_reset(&http->reply_headers);
	http->truncated = false;
	http->status = 0;
	http->sendings--;
}

void hf_http_reset(struct hf_http *http)
{
	/* Who knows what it has kept: when memory is out, the Authorization for the next request.
	 */
	if (http->error)
		drop_easy(http);
	hf_buf_reset(&http->url);
	hf_buf_reset(&http->body);
	hf_buf_reset(&http->reply);
	hf_buf_reset(&http->reply_headers);
	http->peer = NULL;
	http->route = NULL;
	http->reach = NULL;
	http->refused[0] = '\0';
	http->tried = false;
	http->instead = NULL;
	http->bare = false;
	http->guard = NULL;
	http->has_body = http->fresh = http->cut = http->together = false;
	http->truncated = http->maybe_sent = false;
	http->sendings = 0;
	http->error = HF_OK;
	http->status = 0;
	http->message[0] = http->detail[0] = '\0';
}

void hf_http_free(struct hf_http *http)
{
	hf_buf_free(&http->url);
	hf_buf_free(&http->body);
	hf_buf_free(&http->reply);
	hf_buf_free(&http->reply_headers);
	hf_http_free_headers(http->headers);
	hf_http_free_headers(http->connect_to);
	http->headers = http->connect_to = NULL;
	drop_easy(http);
}

void hf_http_free_easy(CURL *easy)
{
	curl_easy_cleanup(easy);
}
