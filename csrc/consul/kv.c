#include "consul/kv.h"

#include "base/json.h"

#include <string.h>

void hf_kv_get(struct hf_http *http, const struct hf_consul *consul, const char *key,
	       uint64_t index, bool consistent)
{
	hf_call_begin(http, consul, "GET", "/v1/kv/");
	hf_buf_escape(&http->url, key, "/");
	hf_call_where(http, consul);
	hf_call_query(http, "consistent", consistent ? "" : NULL);
	hf_call_blocking(http, index);
}

bool hf_kv_parse(const struct cJSON *json, struct hf_kv *kv)
{
	const char *session = hf_json_text(hf_json_field(json, "Session"));

	*kv = (struct hf_kv){0};
	if (!hf_json_u64(hf_json_field(json, "Flags"), &kv->flags) ||
	    !hf_json_u64(hf_json_field(json, "ModifyIndex"), &kv->index) || !kv->index)
		return false;
	if (session && strlen(session) >= sizeof kv->session)
		return false;
	kv->exists = true;
	if (session)
		memcpy(kv->session, session, strlen(session) + 1);
	return true;
}

enum hf_verdict hf_kv_read(const struct hf_http *http, const struct hf_consul *consul,
			   struct hf_kv *kv, struct hf_error *err)
{
	enum hf_verdict verdict = hf_call_common(http, consul, err);
	uint64_t at = hf_call_index(http);
	struct cJSON *json;

	*kv = (struct hf_kv){.at = at};
	/* Only Consul's own 404 says that the key is absent; a proxy's has no index. */
	if (verdict == HF_V_ABSENT)
		return at ? HF_V_OK : HF_V_AGAIN;
	if (verdict != HF_V_OK)
		return verdict;
	json = hf_json_parse(http->reply.data, http->reply.len);
	if (!hf_kv_parse(hf_json_item(json, 0), kv))
		verdict = hf_call_garbled(http, consul, err);
	kv->at = at;
	hf_json_free(json);
	return verdict;
}
