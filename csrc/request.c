/* request.c: an HTTP request of the user's, guarded by a lock or not. */
#include "alloc.h"
#include "hf_int.h"

#include <string.h>

struct request {
	struct hf_op op;
	char *method;
	bool asked;
	struct hf_response response;
};

static void request_free(struct hf_op *op)
{
	hf_free(((struct request *)op)->method);
}

/* A URL for a message: what comes before the @ may be a password. */
static void describe(struct hf_error *result, const struct request *r)
{
	const char *url = hf_buf_text(&r->op.http.url), *host = strstr(url, "://"), *at;
	int scheme;

	host = host ? host + 3 : url;
	scheme = (int)(host - url);
	at = memchr(host, '@', strcspn(host, "/?#"));
	hf_err_set(result, r->op.http.error, "%s %.*s%s: %s", r->method, scheme, url,
		   at ? at + 1 : host, r->op.http.message);
}

static enum hf_step request_next(struct hf_op *op)
{
	struct request *r = (struct request *)op;
	struct hf_http *http = &op->http;
	struct hf_error result = {HF_OK, ""};

	r->asked = !r->asked;
	if (r->asked && !http->error)
		return HF_SEND;
	if (http->error)
		describe(&result, r);
	r->response = (struct hf_response){
		.status = http->status,
		.headers = hf_buf_text(&http->reply_headers),
		.headers_len = http->reply_headers.len,
		.body = hf_buf_text(&http->reply),
		.body_len = http->reply.len,
		.truncated = http->truncated,
		.elapsed = http->elapsed,
	};
	hf_op_finish(op, &result);
	return HF_FINISH;
}

static const struct hf_kind request_kind = {"request", request_next, NULL, request_free};

const struct hf_response *hf_op_response(struct hf_op *op)
{
	struct request *r = (struct request *)op;

	if (!hf_client_here(op->client, NULL) || op->kind != &request_kind || !hf_op_done(op) ||
	    op->result.code)
		return NULL;
	return &r->response;
}

/* libcurl calls a body a form unless told what it is, and asks before it sends a long one. */
static bool add_headers(struct hf_http *http, const struct hf_list *headers)
{
	bool typed = false;

	for (size_t i = 0; i < headers->count; i++) {
		typed |= !strncasecmp(headers->items[i], "content-type:", 13);
		if (!hf_http_add_header(&http->headers, headers->items[i]))
			return false;
	}
	return (typed || hf_http_add_header(&http->headers, "Content-Type:")) &&
	       hf_http_add_header(&http->headers, "Expect:");
}

static bool fill(struct request *r, const struct hf_client_opts *opts, const struct hf_request *req)
{
	struct hf_http *http = &r->op.http;

	r->method = hf_strdup(req->method);
	http->lane = HF_USER;
	http->method = r->method;
	http->has_body = req->body != NULL;
	http->timeout = req->timeout < 0 ? opts->timeout : req->timeout;
	if (http->timeout == 0)
		http->timeout = 1; /* libcurl's 0 is "no limit" */
	http->max_body = req->max_body;
	return r->method && hf_buf_puts(&http->url, req->url) &&
	       hf_buf_add(&http->body, req->body, req->body_len) &&
	       add_headers(http, &req->headers);
}

static enum hf_err guard_locked(struct request *r, struct hf_lock *guard, struct hf_error *err)
{
	if (guard->held && hf_session_alive_locked(guard->session)) {
		r->op.guard_hold = guard->hold;
		return HF_OK;
	}
	return hf_lock_not_held_locked(guard, err);
}

enum hf_err hf_request_start(struct hf_client *client, struct hf_lock *guard,
			     const struct hf_request *req, struct hf_op **out, struct hf_error *err)
{
	struct request *r;

	if (!hf_client_here(client, err))
		return err->code;
	r = hf_op_new(client, &request_kind, sizeof *r);
	if (!r)
		return hf_err_set(err, HF_NOMEM, "out of memory");
	if (!fill(r, &client->opts, req)) {
		hf_op_unref(&r->op);
		return hf_err_set(err, HF_NOMEM, "out of memory");
	}
	if (guard) {
		hf_lock_ref(guard);
		r->op.guard = guard;
	}
	err->code = HF_OK;
	pthread_mutex_lock(&client->mutex);
	if (!hf_client_closed_locked(client, err) && (!guard || !guard_locked(r, guard, err)))
		hf_client_submit_locked(client, &r->op, err);
	pthread_mutex_unlock(&client->mutex);
	if (err->code)
		hf_op_unref(&r->op);
	else
		*out = &r->op;
	return err->code;
}
