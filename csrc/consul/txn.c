#include "consul/txn.h"

#include "base/json.h"

#include <inttypes.h>
#include <stdlib.h>
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
		[HF_DELETE] = "delete-cas",
		[HF_CAS] = "cas",
		[HF_ERASE] = "delete",
	};
	struct hf_buf *body = &http->body;
	bool locks = op->verb == HF_LOCK || op->verb == HF_UNLOCK;

	hf_buf_puts(body, body->len > 1 ? ",{\"KV\":{" : "{\"KV\":{");
	hf_buf_printf(body, "\"Verb\":\"%s\"", verbs[op->verb]);
	hf_call_field(body, "Key", op->key);
	if (locks || op->verb == HF_CHECK_SESSION)
		hf_call_field(body, "Session", op->session);
	if (op->verb == HF_CHECK_INDEX || op->verb == HF_DELETE || op->verb == HF_CAS)
		hf_buf_printf(body, ",\"Index\":%" PRIu64, op->index);
	if (locks || op->verb == HF_CAS) {
		hf_buf_printf(body, ",\"Flags\":%" PRIu64 ",\"Value\":\"",
			      op->flags ? op->flags : HF_LOCK_FLAGS);
		hf_buf_base64(body, op->value, op->value_len);
		hf_buf_puts(body, "\"");
	}
	hf_buf_puts(body, "}}");
}

bool hf_txn_room(const struct hf_http *http, size_t count)
{
	return count < HF_TXN_MAX && http->body.len < MAX_BODY / 2;
}

bool hf_txn_fits(const struct hf_http *http)
{
	return http->body.len < MAX_BODY; /* the end is one byte */
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
		{"index is stale", HF_V_MOVED, HF_IN_USE},
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

/* Notes each refusal with its operation. */
static bool parse_errors(struct hf_txn_reply *reply, size_t count)
{
	const struct cJSON *errors = hf_json_field(reply->json, "Errors"), *error;
	uint64_t index;

	for (size_t i = 0; (error = hf_json_item(errors, i)); i++) {
		if (!hf_json_u64(hf_json_field(error, "OpIndex"), &index) || index >= count)
			return false;
		reply->errors[index] = error;
		reply->refused = true;
	}
	return reply->refused;
}

enum hf_verdict hf_txn_open(struct hf_txn_reply *reply, const struct hf_http *http,
			    const struct hf_consul *consul, size_t count, struct hf_error *err)
{
	enum hf_verdict verdict = hf_call_common(http, consul, err);

	*reply = (struct hf_txn_reply){0};
	if (!http->error && http->status >= 500 &&
	    hf_call_says(hf_buf_text(&http->reply), "invalid session"))
		return refusal(hf_buf_text(&http->reply), err);
	if (http->error || (http->status != 200 && http->status != 409))
		return verdict == HF_V_ABSENT ? HF_V_FINAL : verdict;
	reply->json = hf_json_parse(http->reply.data, http->reply.len);
	if (!reply->json || (http->status == 409 && !parse_errors(reply, count)))
		return hf_call_garbled(http, consul, err);
	return HF_V_OK;
}

void hf_txn_close(struct hf_txn_reply *reply)
{
	hf_json_free(reply->json);
}

static enum hf_verdict refused_at(const struct hf_txn_reply *reply, size_t index,
				  struct hf_error *err)
{
	const struct cJSON *error = reply->errors[index];

	return error ? refusal(hf_json_text(hf_json_field(error, "What")), err) : HF_V_OK;
}

/* The next result; NULL: there are no more. */
static const struct cJSON *result(const struct hf_txn_reply *reply)
{
	return hf_json_item(hf_json_field(reply->json, "Results"), reply->next);
}

/* A server leaves out what an ACL hides, so results tell by themselves what they are about. One
 * that does not is garbage, and spoils what is being read. */
static bool is_about(const struct cJSON *item, const char *key)
{
	const char *name = hf_json_text(hf_json_field(hf_json_field(item, "KV"), "Key"));

	return item && (!name || !strcmp(name, key));
}

enum hf_verdict hf_txn_read_part(struct hf_txn_reply *reply, const char *key, size_t first,
				 size_t count, struct hf_kv *kv, struct hf_error *err)
{
	enum hf_verdict verdict = HF_V_OK;

	*kv = (struct hf_kv){0};
	for (size_t i = first; i < first + count && verdict == HF_V_OK; i++)
		verdict = refused_at(reply, i, err);
	for (; count && is_about(result(reply), key); count--, reply->next++)
		hf_kv_parse(hf_json_field(result(reply), "KV"), kv);
	return verdict;
}

size_t hf_txn_limit(const struct hf_http *http)
{
	const char *text = hf_buf_text(&http->reply), *limit;

	if (http->error || http->status != 413 || !hf_call_says(text, "too many operations"))
		return 0;
	limit = strchr(text, '>');
	return limit ? strtoul(limit + 1, NULL, 10) : 0;
}

/* ---- replies to operations of one kind ------------------------------------------------------ */

enum hf_verdict hf_txn_read_checks(const struct hf_http *http, const struct hf_consul *consul,
				   size_t count, enum hf_verdict *verdicts, struct hf_error *err)
{
	struct hf_txn_reply reply;
	enum hf_verdict verdict = hf_txn_open(&reply, http, consul, count, err);
	struct hf_error ignored;

	for (size_t i = 0; i < count; i++)
		verdicts[i] = refused_at(&reply, i, &ignored);
	if (verdict == HF_V_OK && !reply.refused && !hf_json_field(reply.json, "Results"))
		verdict = hf_call_garbled(http, consul, err);
	hf_txn_close(&reply);
	return verdict;
}
