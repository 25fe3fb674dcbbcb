#include "consul/session.h"

#include "base/json.h"

#include <inttypes.h>
#include <string.h>

/* ---- requests ------------------------------------------------------------------------------- */

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

void hf_session_create(struct hf_http *http, const struct hf_consul *consul,
		       const struct hf_session_opts *session)
{
	hf_call_begin(http, consul, "PUT", "/v1/session/create");
	hf_call_where(http, consul);
	http->has_body = true;
	/* Numbers would be read as seconds or as nanoseconds, depending on their size. */
	hf_buf_printf(&http->body, "{\"TTL\":\"%" PRId64 "ms\",\"LockDelay\":\"%" PRId64 "ms\"",
		      session->ttl, session->lock_delay);
	hf_call_field(&http->body, "Name", session->name);
	hf_call_field(&http->body, "Behavior", session->behavior);
	hf_call_field(&http->body, "Node", session->node);
	body_list(&http->body, "NodeChecks", &session->checks, false);
	body_list(&http->body, "ServiceChecks", &session->service_checks, true);
	hf_buf_puts(&http->body, "}");
}

static void begin(struct hf_http *http, const struct hf_consul *consul, const char *method,
		  const char *path, const char *id)
{
	hf_call_begin(http, consul, method, path);
	hf_buf_escape(&http->url, id, "");
	hf_call_where(http, consul);
}

void hf_session_renew(struct hf_http *http, const struct hf_consul *consul, const char *id)
{
	begin(http, consul, "PUT", "/v1/session/renew/", id);
}

void hf_session_destroy(struct hf_http *http, const struct hf_consul *consul, const char *id)
{
	begin(http, consul, "PUT", "/v1/session/destroy/", id);
}

void hf_session_look(struct hf_http *http, const struct hf_consul *consul, const char *id,
		     uint64_t index)
{
	begin(http, consul, "GET", "/v1/session/info/", id);
	hf_call_query(http, "consistent", "");
	hf_call_blocking(http, index);
}

/* ---- replies -------------------------------------------------------------------------------- */

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

static bool parse(const struct cJSON *session, struct hf_session_info *info)
{
	const char *id = hf_json_text(hf_json_field(session, "ID"));
	uint64_t delay = 0; /* ns */

	if (!id || !*id || strlen(id) >= sizeof info->id)
		return false;
	memcpy(info->id, id, strlen(id) + 1);
	info->ttl = duration(hf_json_text(hf_json_field(session, "TTL")));
	hf_json_u64(hf_json_field(session, "LockDelay"), &delay);
	info->lock_delay = (int64_t)(delay / 1000000);
	info->exists = true;
	return true;
}

/* These are of the request's making, and will be said again. That a node or a check is not there,
 * or is critical, may be over in a moment. */
static bool refused_for_good(const struct hf_http *http)
{
	static const char *const texts[] = {
		"Invalid Session TTL", "Session TTL", "Invalid Behavior", "No path to datacenter",
		"cross datacenter lock must be created at server agent"};

	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		if (hf_call_says(hf_buf_text(&http->reply), texts[i]))
			return true;
	return false;
}

/* What a server says that cannot make a session, now or ever. */
static bool about_the_session(const struct hf_http *http)
{
	static const char *const texts[] = {"Missing check", "Missing node registration",
					    "is in critical state"};

	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
		if (hf_call_says(hf_buf_text(&http->reply), texts[i]))
			return true;
	return refused_for_good(http);
}

enum hf_verdict hf_session_read(const struct hf_http *http, const struct hf_consul *consul,
				struct hf_session_info *info, struct hf_error *err)
{
	enum hf_verdict verdict = hf_call_common(http, consul, err);
	struct cJSON *json;

	*info = (struct hf_session_info){0};
	if (verdict == HF_V_AGAIN && !http->error && about_the_session(http)) {
		err->code = HF_SESSION;
		return refused_for_good(http) ? HF_V_FINAL : HF_V_AGAIN;
	}
	/* A gateway's 404 says nothing about the session. */
	if (verdict == HF_V_ABSENT && !(hf_call_says(hf_buf_text(&http->reply), "Session id") &&
					hf_call_says(hf_buf_text(&http->reply), "not found")))
		return HF_V_AGAIN;
	if (verdict != HF_V_OK)
		return verdict;
	/* Answers to create have an ID only; those to renew are a list of one session. */
	json = hf_json_parse(http->reply.data, http->reply.len);
	if (!parse(hf_json_is_array(json) ? hf_json_item(json, 0) : json, info))
		verdict = hf_call_garbled(http, consul, err);
	hf_json_free(json);
	return verdict;
}

enum hf_verdict hf_session_read_look(const struct hf_http *http, const struct hf_consul *consul,
				     struct hf_session_info *info, struct hf_error *err)
{
	enum hf_verdict verdict = hf_call_common(http, consul, err);
	struct cJSON *json;

	*info = (struct hf_session_info){0};
	/* What is no id at all is refused with a 500 by servers before 1.14. */
	if (!http->error && hf_call_says(hf_buf_text(&http->reply), "UUID must be"))
		return HF_V_FINAL;
	if (verdict != HF_V_OK)
		return verdict == HF_V_ABSENT ? HF_V_FINAL : verdict;
	json = hf_json_parse(http->reply.data, http->reply.len);
	if (!hf_json_is_array(json) ||
	    (hf_json_item(json, 0) && !parse(hf_json_item(json, 0), info)))
		verdict = hf_call_garbled(http, consul, err);
	hf_json_free(json);
	return verdict;
}

/* Consul says true, also of a session that it does not know. */
enum hf_verdict hf_session_read_destroy(const struct hf_http *http, const struct hf_consul *consul,
					struct hf_error *err)
{
	enum hf_verdict verdict = hf_call_common(http, consul, err);

	if (verdict == HF_V_OK && !hf_call_says(hf_buf_text(&http->reply), "true"))
		verdict = hf_call_garbled(http, consul, err);
	return verdict;
}
