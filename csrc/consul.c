#include "consul.h"

#include "json.h"

#include <inttypes.h>
#include <string.h>

#define MAX_REPLY (8 * 1024 * 1024)
/* A server lets a poll wait up to a sixteenth longer than asked, then the answer must travel. */
#define POLL_TIMEOUT (HF_POLL_WAIT + HF_POLL_WAIT / 16 + 5000)

/* ---- requests ----------------------------------------------------------------------------- */

static void begin(struct hf_http *http, const struct hf_client_opts *opts, const char *method,
		  const char *path)
{
	hf_http_reset(http);
	http->lane = HF_COMMAND;
	http->method = method;
	http->timeout = opts->timeout;
	http->max_body = MAX_REPLY;
	hf_buf_puts(&http->url, opts->base);
	hf_buf_puts(&http->url, path);
}

static void query(struct hf_http *http, const char *name, const char *value)
{
	const char *url = hf_buf_text(&http->url);

	if (!value)
		return;
	hf_buf_puts(&http->url, strchr(url, '?') ? "&" : "?");
	hf_buf_puts(&http->url, name);
	if (*value) {
		hf_buf_puts(&http->url, "=");
		hf_buf_escape(&http->url, value, "");
	}
}

static void where(struct hf_http *http, const struct hf_client_opts *opts)
{
	query(http, "dc", opts->datacenter);
	query(http, "ns", opts->ns);
	query(http, "partition", opts->partition);
}

/* Makes a read a long poll. */
static void blocking(struct hf_http *http, uint64_t index)
{
	if (!index)
		return;
	hf_buf_printf(&http->url, "%cindex=%" PRIu64 "&wait=%dms",
		      strchr(hf_buf_text(&http->url), '?') ? '&' : '?', index, HF_POLL_WAIT);
	http->lane = HF_POLL;
	http->timeout = POLL_TIMEOUT;
}

static void body_field(struct hf_buf *body, const char *name, const char *value)
{
	if (!value)
		return;
	hf_buf_printf(body, ",\"%s\":", name);
	hf_buf_json(body, value);
}

/* A list that was not given is left out: Consul reads an empty one as "none". */
static void body_list(struct hf_buf *body, const char *name, const struct hf_list *list, bool ids)
{
	if (!list->items)
		return;
	hf_buf_printf(body, ",\"%s\":[", name);
	for (size_t i = 0; i < list->count; i++) {
		hf_buf_puts(body, i ? "," : "");
		hf_buf_puts(body, ids ? "{\"ID\":" : "");
		hf_buf_json(body, list->items[i]);
		hf_buf_puts(body, ids ? "}" : "");
	}
	hf_buf_puts(body, "]");
}

void hf_consul_create(struct hf_http *http, const struct hf_client_opts *opts,
		      const struct hf_session_opts *session)
{
	begin(http, opts, "PUT", "/v1/session/create");
	where(http, opts);
	http->has_body = true;
	/* Numbers would be read as seconds or as nanoseconds, depending on their size. */
	hf_buf_printf(&http->body, "{\"TTL\":\"%" PRId64 "ms\",\"LockDelay\":\"%" PRId64 "ms\"",
		      session->ttl, session->lock_delay);
	body_field(&http->body, "Name", session->name);
	body_field(&http->body, "Behavior", session->behavior);
	body_field(&http->body, "Node", session->node);
	body_list(&http->body, "NodeChecks", &session->checks, false);
	body_list(&http->body, "ServiceChecks", &session->service_checks, true);
	hf_buf_puts(&http->body, "}");
}

static void session_path(struct hf_http *http, const struct hf_client_opts *opts,
			 const char *method, const char *path, const char *id)
{
	begin(http, opts, method, path);
	hf_buf_escape(&http->url, id, "");
	where(http, opts);
}

void hf_consul_renew(struct hf_http *http, const struct hf_client_opts *opts, const char *id)
{
	session_path(http, opts, "PUT", "/v1/session/renew/", id);
	http->lane = HF_RENEW;
}

void hf_consul_destroy(struct hf_http *http, const struct hf_client_opts *opts, const char *id)
{
	session_path(http, opts, "PUT", "/v1/session/destroy/", id);
}

void hf_consul_info(struct hf_http *http, const struct hf_client_opts *opts, const char *id,
		    uint64_t index)
{
	session_path(http, opts, "GET", "/v1/session/info/", id);
	query(http, "consistent", "");
	blocking(http, index);
}

void hf_consul_get(struct hf_http *http, const struct hf_client_opts *opts, const char *key,
		   uint64_t index, bool consistent)
{
	begin(http, opts, "GET", "/v1/kv/");
	hf_buf_escape(&http->url, key, "/");
	where(http, opts);
	query(http, "consistent", consistent ? "" : NULL);
	blocking(http, index);
}

void hf_consul_delete(struct hf_http *http, const struct hf_client_opts *opts, const char *key,
		      uint64_t modify_index)
{
	begin(http, opts, "DELETE", "/v1/kv/");
	hf_buf_escape(&http->url, key, "/");
	where(http, opts);
	hf_buf_printf(&http->url, "%ccas=%" PRIu64,
		      strchr(hf_buf_text(&http->url), '?') ? '&' : '?', modify_index);
}

static void txn(struct hf_http *http, const struct hf_client_opts *opts)
{
	begin(http, opts, "PUT", "/v1/txn");
	where(http, opts);
	http->has_body = true;
}

static void operation(struct hf_buf *body, const char *verb, const char *key, const char *session)
{
	hf_buf_puts(body, body->len > 1 ? ",{\"KV\":{" : "{\"KV\":{");
	hf_buf_printf(body, "\"Verb\":\"%s\"", verb);
	body_field(body, "Key", key);
	body_field(body, "Session", session);
}

void hf_consul_lock(struct hf_http *http, const struct hf_client_opts *opts, const char *verb,
		    const char *key, const char *session, const char *value, size_t value_len)
{
	txn(http, opts);
	hf_buf_puts(&http->body, "[");
	operation(&http->body, verb, key, session);
	hf_buf_printf(&http->body, ",\"Flags\":%" PRIu64 ",\"Value\":\"", HF_LOCK_FLAGS);
	hf_buf_base64(&http->body, value, value_len);
	hf_buf_puts(&http->body, "\"}}]");
}

void hf_consul_audit_begin(struct hf_http *http, const struct hf_client_opts *opts)
{
	txn(http, opts);
	query(http, "consistent", "");
	hf_buf_puts(&http->body, "[");
}

void hf_consul_audit_check(struct hf_http *http, const char *key, const char *session)
{
	operation(&http->body, "check-session", key, session);
	hf_buf_puts(&http->body, "}}");
}

void hf_consul_audit_end(struct hf_http *http)
{
	hf_buf_puts(&http->body, "]");
}

/* ---- replies ------------------------------------------------------------------------------ */

/* The first line of a body, without what a terminal would not like. */
static void excerpt(const struct hf_http *http, char *out, size_t size)
{
	const char *text = hf_buf_text(&http->reply);
	size_t n = 0;

	while (n + 1 < size && text[n] && text[n] != '\n' && text[n] != '\r') {
		out[n] = (unsigned char)text[n] < 0x20 || text[n] == 0x7f ? '?' : text[n];
		n++;
	}
	out[n] = '\0';
}

static bool says(const struct hf_http *http, const char *text)
{
	return strstr(hf_buf_text(&http->reply), text) != NULL;
}

static enum hf_verdict garbled(const struct hf_client_opts *opts, const struct hf_http *http,
			       struct hf_error *err)
{
	char body[120];

	excerpt(http, body, sizeof body);
	hf_err_set(err, HF_PROTOCOL, "%s: reply not understood: \"%s\"", opts->base, body);
	return HF_V_AGAIN;
}

/* What every reply has in common: trouble on the way, and statuses that mean the same for all. */
static enum hf_verdict common(const struct hf_http *http, const struct hf_client_opts *opts,
			      struct hf_error *err)
{
	char body[200];
	enum hf_err code = HF_HTTP;
	bool passing = http->status == 429 || http->status >= 500;

	if (http->error) {
		hf_err_set(err, http->error, "%s: %s", opts->base, http->message);
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
	hf_err_set(err, code, "%s: HTTP status %ld: %s", opts->base, http->status, body);
	if (http->status == 404)
		return HF_V_ABSENT;
	return passing ? HF_V_AGAIN : HF_V_FINAL;
}

/* Milliseconds of a duration as Go prints it: "15s", "1m30s", "1.5s", "500ms". 0: none. */
static int64_t duration(const char *text)
{
	double total = 0;

	while (text && *text) {
		double number = 0, scale = 1;

		if (*text < '0' || *text > '9')
			return 0;
		for (; *text >= '0' && *text <= '9'; text++)
			number = number * 10 + (*text - '0');
		if (*text == '.')
			for (text++; *text >= '0' && *text <= '9'; text++)
				number += (*text - '0') * (scale /= 10);
		if (!strncmp(text, "ms", 2))
			total += number, text += 2;
		else if (*text == 's' || *text == 'm' || *text == 'h')
			total += number * (*text == 's' ? 1e3 : *text == 'm' ? 6e4 : 36e5), text++;
		else
			return 0;
	}
	return total < 1e15 ? (int64_t)total : 0;
}

/* Answers to create have an ID only; those to renew are a list of one session. */
static bool parse_session(const struct cJSON *json, char *id, int64_t *ttl)
{
	const struct cJSON *session = hf_json_is_array(json) ? hf_json_item(json, 0) : json;
	const char *text = hf_json_text(hf_json_field(session, "ID"));

	if (!text || !*text || strlen(text) >= 64)
		return false;
	memcpy(id, text, strlen(text) + 1);
	*ttl = duration(hf_json_text(hf_json_field(session, "TTL")));
	return true;
}

/* These are of the request's making; a server that has no leader says something else. */
static bool refused_for_good(const struct hf_http *http)
{
	return says(http, "Invalid Session TTL") || says(http, "Session TTL") ||
	       says(http, "Missing check") || says(http, "Missing node registration") ||
	       says(http, "is in critical state") || says(http, "Invalid Behavior") ||
	       says(http, "No path to datacenter");
}

enum hf_verdict hf_consul_read_session(const struct hf_http *http,
				       const struct hf_client_opts *opts, char *id, int64_t *ttl,
				       struct hf_error *err)
{
	enum hf_verdict verdict = common(http, opts, err);
	struct cJSON *json;

	if (verdict == HF_V_AGAIN && !http->error && refused_for_good(http)) {
		err->code = HF_SESSION;
		return HF_V_FINAL;
	}
	if (verdict != HF_V_OK)
		return verdict;
	json = hf_json_parse(http->reply.data, http->reply.len);
	if (!parse_session(json, id, ttl))
		verdict = garbled(opts, http, err);
	hf_json_free(json);
	return verdict;
}

enum hf_verdict hf_consul_read_info(const struct hf_http *http, const struct hf_client_opts *opts,
				    struct hf_error *err)
{
	enum hf_verdict verdict = common(http, opts, err);
	struct cJSON *json;

	if (verdict != HF_V_OK)
		return verdict == HF_V_ABSENT ? HF_V_FINAL : verdict;
	json = hf_json_parse(http->reply.data, http->reply.len);
	if (!hf_json_is_array(json))
		verdict = garbled(opts, http, err);
	else if (!hf_json_item(json, 0))
		verdict = HF_V_ABSENT;
	hf_json_free(json);
	return verdict;
}

static bool parse_kv(const struct cJSON *json, struct hf_kv *kv)
{
	const char *session = hf_json_text(hf_json_field(json, "Session"));

	if (!hf_json_u64(hf_json_field(json, "Flags"), &kv->flags) ||
	    !hf_json_u64(hf_json_field(json, "ModifyIndex"), &kv->modify_index))
		return false;
	if (session && strlen(session) >= sizeof kv->session)
		return false;
	kv->exists = true;
	if (session)
		memcpy(kv->session, session, strlen(session) + 1);
	return true;
}

enum hf_verdict hf_consul_read_key(const struct hf_http *http, const struct hf_client_opts *opts,
				   struct hf_kv *kv, struct hf_error *err)
{
	enum hf_verdict verdict = common(http, opts, err);
	struct cJSON *json;

	*kv = (struct hf_kv){0};
	/* Only Consul's own 404 says that the key is absent; a proxy's has no index. */
	if (verdict == HF_V_ABSENT)
		return http->index ? HF_V_OK : HF_V_FINAL;
	if (verdict != HF_V_OK)
		return verdict;
	json = hf_json_parse(http->reply.data, http->reply.len);
	if (!parse_kv(hf_json_item(json, 0), kv))
		verdict = garbled(opts, http, err);
	hf_json_free(json);
	return verdict;
}

enum hf_verdict hf_consul_read_delete(const struct hf_http *http, const struct hf_client_opts *opts,
				      struct hf_error *err)
{
	enum hf_verdict verdict = common(http, opts, err);

	if (verdict != HF_V_OK || says(http, "true"))
		return verdict;
	if (!says(http, "false"))
		return garbled(opts, http, err);
	hf_err_set(err, HF_IN_USE, "the key has changed meanwhile");
	return HF_V_NOT_OURS;
}

/* What a refused operation of a transaction says. Texts are matched by substring: an agent that
 * asks a server puts its own words before them. */
static enum hf_verdict refusal(const char *what, struct hf_error *err)
{
	static const struct {
		const char *text;
		enum hf_verdict verdict;
		enum hf_err code;
	} table[] = {
		{"already held", HF_V_HELD, HF_TIMEOUT},
		{"due to lock delay", HF_V_DELAY, HF_TIMEOUT},
		{"invalid session", HF_V_NO_SESSION, HF_SESSION},
		{"failed session lookup", HF_V_NO_SESSION, HF_SESSION},
		{"missing session", HF_V_NO_SESSION, HF_SESSION},
		{"Permission denied", HF_V_FINAL, HF_DENIED},
		{"doesn't exist", HF_V_ABSENT, HF_NOT_FOUND},
		{"held by another session", HF_V_NOT_OURS, HF_LOST},
		{"failed session check", HF_V_NOT_OURS, HF_LOST},
	};

	for (size_t i = 0; what && i < sizeof table / sizeof *table; i++) {
		if (!strstr(what, table[i].text))
			continue;
		hf_err_set(err, table[i].code, "%s", what);
		return table[i].verdict;
	}
	hf_err_set(err, HF_HTTP, "the transaction was refused: %s",
		   what ? what : "no reason given");
	return HF_V_FINAL;
}

/* The first refusal in a reply. */
static enum hf_verdict first_refusal(const struct cJSON *json, struct hf_error *err)
{
	const struct cJSON *first = hf_json_item(hf_json_field(json, "Errors"), 0);

	return refusal(hf_json_text(hf_json_field(first, "What")), err);
}

static bool parse_lock(const struct cJSON *json, uint64_t *token)
{
	const struct cJSON *result = hf_json_item(hf_json_field(json, "Results"), 0);

	return hf_json_u64(hf_json_field(hf_json_field(result, "KV"), "ModifyIndex"), token);
}

enum hf_verdict hf_consul_read_lock(const struct hf_http *http, const struct hf_client_opts *opts,
				    uint64_t *token, struct hf_error *err)
{
	enum hf_verdict verdict = common(http, opts, err);
	struct cJSON *json;

	if (!http->error && http->status >= 500 && says(http, "invalid session"))
		return refusal(hf_buf_text(&http->reply), err);
	if (http->error || (http->status != 200 && http->status != 409))
		return verdict == HF_V_ABSENT ? HF_V_FINAL : verdict;
	json = hf_json_parse(http->reply.data, http->reply.len);
	if (!json)
		verdict = garbled(opts, http, err);
	else if (http->status == 409)
		verdict = first_refusal(json, err);
	else if (!parse_lock(json, token))
		verdict = garbled(opts, http, err);
	hf_json_free(json);
	return verdict;
}

static bool parse_audit(const struct cJSON *json, size_t count, enum hf_verdict *verdicts)
{
	const struct cJSON *errors = hf_json_field(json, "Errors"), *error;
	struct hf_error ignored;
	uint64_t index;

	if (!hf_json_item(errors, 0))
		return false;
	for (size_t i = 0; (error = hf_json_item(errors, i)); i++) {
		if (!hf_json_u64(hf_json_field(error, "OpIndex"), &index) || index >= count)
			return false;
		verdicts[index] = refusal(hf_json_text(hf_json_field(error, "What")), &ignored);
	}
	return true;
}

enum hf_verdict hf_consul_read_audit(const struct hf_http *http, const struct hf_client_opts *opts,
				     size_t count, enum hf_verdict *verdicts, struct hf_error *err)
{
	enum hf_verdict verdict = common(http, opts, err);
	struct cJSON *json;

	for (size_t i = 0; i < count; i++)
		verdicts[i] = HF_V_OK;
	if (http->error || http->status != 409)
		return verdict == HF_V_ABSENT ? HF_V_FINAL : verdict;
	json = hf_json_parse(http->reply.data, http->reply.len);
	verdict = parse_audit(json, count, verdicts) ? HF_V_OK : garbled(opts, http, err);
	hf_json_free(json);
	return verdict;
}
