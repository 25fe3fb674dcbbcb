#include "consul/txn.h"

#include "base/json.h"

#include <inttypes.h>
#include <string.h>

#define MAX_BODY (512 * 1024) /* txn_max_req_len; one key takes a quarter of it at most */

/* ---- requests ------------------------------------------------------------------------------- */

void hf_txn_begin(struct hf_http *http, const struct hf_consul *consul, bool consistent)
{
	hf_call_begin(http, consul, "PUT", "/v1/txn");
	hf_call_where(http, consul);
	hf_call_query(http, "consistent", consistent ? "" : NULL);
	http->has_body = true;
	hf_buf_puts(&http->body, "[");
}

void hf_txn_add(struct hf_http *http, const struct hf_txn_op *op)
{
	static const char *const verbs[] = {
		[HF_GET] = "get",
		[HF_CHECK_SESSION] = "check-session",
		[HF_CHECK_INDEX] = "check-index",
		[HF_CHECK_NOT_EXISTS] = "check-not-exists",
		[HF_LOCK] = "lock",
		[HF_UNLOCK] = "unlock",
	};
	struct hf_buf *body = &http->body;
	bool write = op->verb == HF_LOCK || op->verb == HF_UNLOCK;

	hf_buf_puts(body, body->len > 1 ? ",{\"KV\":{" : "{\"KV\":{");
	hf_buf_printf(body, "\"Verb\":\"%s\"", verbs[op->verb]);
	hf_call_field(body, "Key", op->key);
	if (write || op->verb == HF_CHECK_SESSION)
		hf_call_field(body, "Session", op->session);
	if (op->verb == HF_CHECK_INDEX)
		hf_buf_printf(body, ",\"Index\":%" PRIu64, op->index);
	if (write) {
		hf_buf_printf(body, ",\"Flags\":%" PRIu64 ",\"Value\":\"", HF_LOCK_FLAGS);
		hf_buf_base64(body, op->value, op->value_len);
		hf_buf_puts(body, "\"");
	}
	hf_buf_puts(body, "}}");
}

bool hf_txn_room(const struct hf_http *http, size_t count)
{
	return count < HF_TXN_MAX && http->body.len < MAX_BODY / 2;
}

void hf_txn_end(struct hf_http *http)
{
	hf_buf_puts(&http->body, "]");
}

/* ---- replies -------------------------------------------------------------------------------- */

/* What a refused operation says. Texts are matched by substring: an agent that asks a server puts
 * its own words before them. */
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
		{"failed index check", HF_V_MOVED, HF_TIMEOUT},
		{"failed to check index", HF_V_MOVED, HF_TIMEOUT},
		{" exists", HF_V_MOVED, HF_TIMEOUT},
		{"doesn't exist", HF_V_ABSENT, HF_NOT_FOUND},
		{"held by another session", HF_V_NOT_OURS, HF_LOST},
		{"failed session check", HF_V_NOT_OURS, HF_LOST},
	};

	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		if (!hf_call_says(what, table[i].text))
			continue;
		hf_err_set(err, table[i].code, "%s", what);
		return table[i].verdict;
	}
	hf_err_set(err, HF_HTTP, "the transaction was refused: %s",
		   what ? what : "no reason given");
	return HF_V_FINAL;
}

/* The first refusal in a reply: the others may follow from it. */
static enum hf_verdict first_refusal(const struct cJSON *json, struct hf_error *err)
{
	const struct cJSON *first = hf_json_item(hf_json_field(json, "Errors"), 0);

	return refusal(hf_json_text(hf_json_field(first, "What")), err);
}

/* The key as the last operation has left it: what comes before it are checks. */
static bool parse_write(const struct cJSON *json, uint64_t *index)
{
	const struct cJSON *results = hf_json_field(json, "Results"), *last = NULL, *item;

	for (size_t i = 0; (item = hf_json_item(results, i)) != NULL; i++)
		last = item;
	return hf_json_u64(hf_json_field(hf_json_field(last, "KV"), "ModifyIndex"), index) &&
	       *index;
}

enum hf_verdict hf_txn_read_write(const struct hf_http *http, const struct hf_consul *consul,
				  uint64_t *index, struct hf_error *err)
{
	enum hf_verdict verdict = hf_call_common(http, consul, err);
	struct cJSON *json;

	if (!http->error && http->status >= 500 &&
	    hf_call_says(hf_buf_text(&http->reply), "invalid session"))
		return refusal(hf_buf_text(&http->reply), err);
	if (http->error || (http->status != 200 && http->status != 409))
		return verdict == HF_V_ABSENT ? HF_V_FINAL : verdict;
	json = hf_json_parse(http->reply.data, http->reply.len);
	if (!json)
		verdict = hf_call_garbled(http, consul, err);
	else if (http->status == 409)
		verdict = first_refusal(json, err);
	else if (!parse_write(json, index))
		verdict = hf_call_garbled(http, consul, err);
	hf_json_free(json);
	return verdict;
}

static bool parse_errors(const struct cJSON *json, size_t count, enum hf_verdict *verdicts)
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

/* What replies to several operations have in common. HF_V_OK: *json has the results, and is the
 * caller's to free. HF_V_ABSENT: some were refused, and verdicts tells which. */
static enum hf_verdict read_many(const struct hf_http *http, const struct hf_consul *consul,
				 size_t count, enum hf_verdict *verdicts, struct cJSON **json,
				 struct hf_error *err)
{
	enum hf_verdict verdict = hf_call_common(http, consul, err);

	*json = NULL;
	for (size_t i = 0; i < count; i++)
		verdicts[i] = HF_V_OK;
	if (http->error || (http->status != 200 && http->status != 409))
		return verdict == HF_V_ABSENT ? HF_V_FINAL : verdict;
	*json = hf_json_parse(http->reply.data, http->reply.len);
	if (http->status == 200)
		return HF_V_OK;
	verdict = parse_errors(*json, count, verdicts) ? HF_V_ABSENT
						       : hf_call_garbled(http, consul, err);
	hf_json_free(*json);
	*json = NULL;
	return verdict;
}

enum hf_verdict hf_txn_read_checks(const struct hf_http *http, const struct hf_consul *consul,
				   size_t count, enum hf_verdict *verdicts, struct hf_error *err)
{
	struct cJSON *json;
	enum hf_verdict verdict = read_many(http, consul, count, verdicts, &json, err);

	if (verdict == HF_V_ABSENT)
		return HF_V_OK;
	if (verdict == HF_V_OK && !hf_json_field(json, "Results"))
		verdict = hf_call_garbled(http, consul, err);
	hf_json_free(json);
	return verdict;
}

static bool parse_gets(const struct cJSON *json, size_t count, struct hf_kv *kvs)
{
	const struct cJSON *results = hf_json_field(json, "Results");

	for (size_t i = 0; i < count; i++)
		if (!hf_kv_parse(hf_json_field(hf_json_item(results, i), "KV"), &kvs[i]))
			return false;
	return true;
}

enum hf_verdict hf_txn_read_gets(const struct hf_http *http, const struct hf_consul *consul,
				 size_t count, struct hf_kv *kvs, enum hf_verdict *verdicts,
				 struct hf_error *err)
{
	struct cJSON *json;
	enum hf_verdict verdict = read_many(http, consul, count, verdicts, &json, err);

	if (verdict == HF_V_OK && !parse_gets(json, count, kvs))
		verdict = hf_call_garbled(http, consul, err);
	hf_json_free(json);
	return verdict;
}
