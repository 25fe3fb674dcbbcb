#include "consul/call.h"

#include "base/alloc.h"
#include "consul/token.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_REPLY (8 * 1024 * 1024)
#define TOKEN_EACH 1000 /* ms between two looks at the token's file, however much is refused */
/* A server lets a poll wait up to a sixteenth longer than asked, then the answer must travel. */
#define POLL_TIMEOUT(wait) ((wait) + (wait) / 16 + 5000)
/* The whole catalog of a large cluster may be asked for. */
#define MAX_ANY_REPLY (64 * 1024 * 1024)

/* ---- the server ----------------------------------------------------------------------------- */

/* Has requests from now on carry another token. Without memory they go on with the one they had. */
static bool use_token(struct hf_peer *peer, const char *token)
{
	struct hf_buf line = {0};

	hf_buf_puts(&line, "X-Consul-Token: ");
	if (!hf_buf_puts(&line, token)) {
		hf_buf_free(&line);
		return false;
	}
	if (peer->header && !strcmp(peer->header, line.data)) {
		hf_buf_free(&line);
		return true;
	}
	hf_free(peer->header);
	peer->header = line.data;
	peer->edition++;
	return true;
}

bool hf_consul_init(struct hf_consul *consul, const struct hf_client_opts *opts)
{
	*consul = (struct hf_consul){
		.opts = opts,
		.peer = {.route = &opts->route,
			 .auth = opts->auth,
			 .multiplex = !strncmp(opts->base, "https:", 6) && hf_http_multiplexes()},
	};
	if (hf_http_add_header(&consul->peer.headers, "Content-Type: application/json") &&
	    hf_http_add_header(&consul->peer.headers, "Expect:") &&
	    (!opts->token || use_token(&consul->peer, opts->token)) &&
	    (!opts->route.connect_to ||
	     hf_http_add_header(&consul->peer.connect_to, opts->route.connect_to)))
		return true;
	hf_consul_free(consul);
	return false;
}

void hf_consul_free(struct hf_consul *consul)
{
	hf_http_free_headers(consul->peer.headers);
	hf_http_free_headers(consul->peer.connect_to);
	consul->peer.headers = consul->peer.connect_to = NULL;
	hf_free(consul->peer.header);
	consul->peer.header = NULL;
}

void hf_consul_renew_token(struct hf_consul *consul)
{
	struct hf_buf token = {0};

	if (!consul->opts->token_file ||
	    (consul->token_read_at && hf_now() < consul->token_read_at + TOKEN_EACH))
		return;
	consul->token_read_at = hf_now();
	if (hf_token_read(consul->opts->token_file, &token))
		use_token(&consul->peer, token.data);
	hf_buf_free(&token);
}

/* ---- requests ------------------------------------------------------------------------------- */

void hf_call_begin(struct hf_http *http, const struct hf_consul *consul, const char *method,
		   const char *path)
{
	http->peer = &consul->peer;
	http->method = method;
	http->timeout = consul->opts->timeout;
	http->max_body = MAX_REPLY;
	hf_buf_puts(&http->url, consul->opts->base);
	hf_buf_puts(&http->url, path);
}

static void separate(struct hf_http *http)
{
	hf_buf_puts(&http->url, strchr(hf_buf_text(&http->url), '?') ? "&" : "?");
}

void hf_call_query(struct hf_http *http, const char *name, const char *value)
{
	if (!value)
		return;
	separate(http);
	hf_buf_puts(&http->url, name);
	if (*value) {
		hf_buf_puts(&http->url, "=");
		hf_buf_escape(&http->url, value, "");
	}
}

void hf_call_query_index(struct hf_http *http, const char *name, uint64_t value)
{
	separate(http);
	hf_buf_printf(&http->url, "%s=%" PRIu64, name, value);
}

void hf_call_where(struct hf_http *http, const struct hf_consul *consul)
{
	hf_call_query(http, "dc", consul->opts->datacenter);
	hf_call_query(http, "ns", consul->opts->ns);
	hf_call_query(http, "partition", consul->opts->partition);
}

void hf_call_blocking(struct hf_http *http, uint64_t index)
{
	if (!index)
		return;
	hf_call_query_index(http, "index", index);
	hf_buf_printf(&http->url, "&wait=%dms", HF_POLL_WAIT);
	http->timeout = POLL_TIMEOUT(HF_POLL_WAIT);
}

void hf_call_field(struct hf_buf *body, const char *name, const char *value)
{
	if (!value)
		return;
	hf_buf_printf(body, ",\"%s\":", name);
	hf_buf_json(body, value);
}

/* ---- any request ---- */

/* Whether one of the lines begins with name and end. */
static bool names(const struct hf_list *lines, const char *name, char end)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < lines->count; i++)
		if (!strncasecmp(lines->items[i], name, len) && lines->items[i][len] == end)
			return true;
	return false;
}

static void add_pair(struct hf_http *http, const char *pair)
{
	const char *value = strchr(pair, '=');

	separate(http);
	hf_buf_add(&http->url, pair, value ? (size_t)(value - pair) : strlen(pair));
	if (value) {
		hf_buf_puts(&http->url, "=");
		hf_buf_escape(&http->url, value + 1, "");
	}
}

static void where_unless(struct hf_http *http, const struct hf_list *query, const char *name,
			 const char *value)
{
	if (!names(query, name, '='))
		hf_call_query(http, name, value);
}

void hf_call_any(struct hf_http *http, const struct hf_consul *consul, const struct hf_call *call,
		 const struct curl_slist *headers)
{
	hf_call_begin(http, consul, call->method, call->path);
	for (size_t i = 0; i < call->query.count; i++)
		add_pair(http, call->query.items[i]);
	where_unless(http, &call->query, "dc", consul->opts->datacenter);
	where_unless(http, &call->query, "ns", consul->opts->ns);
	where_unless(http, &call->query, "partition", consul->opts->partition);
	hf_buf_add(&http->body, call->body, call->body_len);
	http->has_body = call->body != NULL;
	http->max_body = MAX_ANY_REPLY;
	http->instead = headers;
	http->bare = names(&call->headers, "X-Consul-Token", ':');
	if (call->wait)
		http->timeout = POLL_TIMEOUT(call->wait);
	else if (call->timeout >= 0)
		http->timeout = call->timeout + 1; /* the op's deadline comes first */
}

bool hf_call_headers(struct curl_slist **list, const struct hf_call *call)
{
	bool typed = names(&call->headers, "Content-Type", ':');

	for (size_t i = 0; i < call->headers.count; i++)
		if (!hf_http_add_header(list, call->headers.items[i]))
			return false;
	if (!typed && !hf_http_add_header(list, call->body ? "Content-Type: application/json"
							   : "Content-Type:"))
		return false;
	return hf_http_add_header(list, "Expect:");
}

/* ---- replies -------------------------------------------------------------------------------- */

/* The beginning of a body, on one line and without what a terminal would not like. */
static void excerpt(const struct hf_http *http, char *out, size_t size)
{
	const unsigned char *text = (const unsigned char *)hf_buf_text(&http->reply);
	size_t n = 0;

	for (; n + 1 < size && *text; text++) {
		if (!isspace(*text))
			out[n++] = (char)(*text < 0x20 || *text == 0x7f ? '?' : *text);
		else if (n && out[n - 1] != ' ')
			out[n++] = ' ';
	}
	out[n && out[n - 1] == ' ' ? n - 1 : n] = '\0';
}

/* Consul quotes keys and ids the way Go does: with a backslash before quotes in them. */
bool hf_call_says(const char *words, const char *text)
{
	char own[400];
	size_t n = 0;
	bool quoted = false;

	for (; words && *words && n + 1 < sizeof own; words++) {
		if (quoted && *words == '\\' && words[1])
			words++;
		else if (*words == '"')
			quoted = !quoted;
		else if (!quoted)
			own[n++] = *words;
	}
	own[n] = '\0';
	return strstr(own, text) != NULL;
}

static bool says(const struct hf_http *http, const char *text)
{
	return hf_call_says(hf_buf_text(&http->reply), text);
}

enum hf_verdict hf_call_garbled(const struct hf_http *http, const struct hf_consul *consul,
				struct hf_error *err)
{
	char body[120];

	excerpt(http, body, sizeof body);
	hf_err_set(err, HF_PROTOCOL, "%s: reply not understood: \"%s\"", consul->opts->base, body);
	return HF_V_AGAIN;
}

/* A transaction says in its list of errors what it was refused for. A key may be named like that
 * too, so this is good for asking again, not for an answer. */
bool hf_call_denied(const struct hf_http *http)
{
	if (http->error || http->status == 200)
		return false;
	return http->status == 403 || says(http, "ACL not found") ||
	       strstr(hf_buf_text(&http->reply), "Permission denied") != NULL;
}

static bool rate_limited(const struct hf_http *http)
{
	return http->status == 429 || (http->status == 503 && says(http, "rate limit exceeded"));
}

/* What libcurl sent twice may have been carried out the first time. */
bool hf_call_unheard(const struct hf_http *http)
{
	return http->error ? !http->maybe_sent : http->sendings <= 1 && rate_limited(http);
}

enum hf_verdict hf_call_common(const struct hf_http *http, const struct hf_consul *consul,
			       struct hf_error *err)
{
	char body[200];
	enum hf_err code = HF_HTTP;
	bool passing = http->status == 429 || http->status >= 500;

	if (http->error) {
		hf_err_set(err, http->error, "%s: %s", consul->opts->base, http->message);
		return http->error == HF_INVALID ? HF_V_FINAL : HF_V_AGAIN;
	}
	if (http->status == 200)
		return HF_V_OK;
	excerpt(http, body, sizeof body);
	if (http->status == 403 || says(http, "Permission denied") || says(http, "ACL not found")) {
		code = HF_DENIED;
		passing = false;
	} else if (http->status == 413) {
		code = HF_TOO_LARGE;
	} else if (says(http, "invalid key name")) {
		code = HF_INVALID;
		passing = false;
	}
	hf_err_set(err, code, "%s: HTTP status %ld: %s", consul->opts->base, http->status, body);
	if (http->status == 404)
		return HF_V_ABSENT;
	return passing ? HF_V_AGAIN : HF_V_FINAL;
}

enum hf_err hf_call_outcome(const struct hf_http *http, const struct hf_consul *consul,
			    struct hf_error *err)
{
	err->code = HF_OK;
	if (!http->error && http->status / 100 == 2)
		return HF_OK;
	if (hf_call_common(http, consul, err) == HF_V_ABSENT && err->code == HF_HTTP)
		err->code = HF_NOT_FOUND;
	return err->code;
}

uint64_t hf_call_index(const struct hf_http *http)
{
	const char *value = http->error ? NULL : hf_http_header(http, "x-consul-index:");

	return value && isdigit((unsigned char)*value) ? strtoull(value, NULL, 10) : 0;
}
