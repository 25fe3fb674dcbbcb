#include "consul/alive.h"

#include <inttypes.h>

/* What nobody has passed for so long is cleared away by the agent; it takes no less. */
#define CLEARED "1m"

void hf_alive_register(struct hf_http *http, const struct hf_consul *consul, const char *id,
		       const struct hf_session_opts *session)
{
	struct hf_buf *body = &http->body;

	hf_call_begin(http, consul, "PUT", "/v1/agent/service/register");
	hf_call_where(http, consul);
	http->has_body = true;
	hf_buf_puts(body, "{\"Name\":\"" HF_ALIVE_SERVICE "\"");
	hf_call_field(body, "ID", id);
	hf_buf_puts(body, ",\"Check\":{\"Status\":\"passing\"");
	hf_call_field(body, "CheckID", id);
	hf_call_field(body, "Name", "the process of this session lives");
	hf_call_field(body, "Notes", session->name);
	hf_call_field(body, "DeregisterCriticalServiceAfter", CLEARED);
	hf_buf_printf(body, ",\"TTL\":\"%" PRId64 "ms\"}}", session->alive);
}

static void begin(struct hf_http *http, const struct hf_consul *consul, const char *path,
		  const char *id)
{
	hf_call_begin(http, consul, "PUT", path);
	hf_buf_escape(&http->url, id, "");
	hf_call_where(http, consul);
}

void hf_alive_pass(struct hf_http *http, const struct hf_consul *consul, const char *id)
{
	begin(http, consul, "/v1/agent/check/pass/", id);
}

void hf_alive_deregister(struct hf_http *http, const struct hf_consul *consul, const char *id)
{
	begin(http, consul, "/v1/agent/service/deregister/", id);
}

/* 500 until 1.8, 404 later. */
enum hf_verdict hf_alive_read(const struct hf_http *http, const struct hf_consul *consul,
			      struct hf_error *err)
{
	enum hf_verdict verdict = hf_call_common(http, consul, err);
	const char *words = hf_buf_text(&http->reply);

	if (verdict == HF_V_AGAIN && !http->error &&
	    (hf_call_says(words, "does not have associated TTL") ||
	     hf_call_says(words, "Unknown check") || hf_call_says(words, "Unknown service")))
		return HF_V_ABSENT;
	return verdict;
}
