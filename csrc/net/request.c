#include "net/request.h"

#include "base/alloc.h"
#include "base/config.h"

#include <string.h>

struct request {
	struct hf_responding base; /* its op owns the struct hf_http that the response is in */
	char *method;
	struct hf_route route;
	struct hf_reach reach;
};

static void request_free(struct hf_op *op)
{
	struct request *r = (struct request *)op;

	hf_free(r->method);
	hf_route_free(&r->route);
	hf_reach_free(&r->reach);
}

/* A URL for a message: what comes before the @ may be a password. */
static void describe(struct hf_error *result, const struct request *r, const struct hf_http *http)
{
	const char *url = hf_buf_text(&http->url), *host = strstr(url, "://"), *at;
	int scheme;

	host = host ? host + 3 : url;
	scheme = (int)(host - url);
	at = memchr(host, '@', strcspn(host, "/?#"));
	hf_err_set(result, http->error, "%s %.*s%s: %s", r->method, scheme, url, at ? at + 1 : host,
		   http->message);
}

static enum hf_step request_next(struct hf_op *op)
{
	return hf_op_send(op, HF_USER);
}

static bool request_ready(struct hf_op *op, struct hf_http *http)
{
	(void)op, (void)http;
	return true;
}

static enum hf_step request_reply(struct hf_op *op, const struct hf_http *http)
{
	struct request *r = (struct request *)op;
	struct hf_error result = {HF_OK, ""};

	if (http->error)
		describe(&result, r, http);
	r->base.response = (struct hf_response){
		.status = http->status,
		.headers = hf_buf_text(&http->reply_headers),
		.headers_len = http->reply_headers.len,
		.body = hf_buf_text(&http->reply),
		.body_len = http->reply.len,
		.truncated = http->truncated,
		.elapsed = http->elapsed,
	};
	op->responds = !http->error;
	hf_op_finish(op, &result);
	return HF_FINISH;
}

static const struct hf_kind request_kind = {"request",	   request_next, request_ready,
					    request_reply, NULL,	 request_free};

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

static bool fill(struct request *r, const struct hf_request *req, int64_t timeout)
{
	struct hf_http *http = r->base.op.http;

	r->method = hf_strdup(req->method);
	http->method = r->method;
	http->has_body = req->body != NULL;
	http->timeout = req->timeout < 0 ? timeout : req->timeout;
	if (http->timeout == 0)
		http->timeout = 1; /* libcurl's 0 is "no limit" */
	http->max_body = req->max_body;
	http->cut = true;
	http->route = &r->route;
	return r->method && hf_route_copy(&r->route, &req->route) &&
	       (!req->route.connect_to ||
		hf_http_add_header(&http->connect_to, req->route.connect_to)) &&
	       hf_buf_puts(&http->url, req->url) &&
	       hf_buf_add(&http->body, req->body, req->body_len) &&
	       add_headers(http, &req->headers);
}

/* False: *err says why it goes nowhere. */
static bool limit_reach(struct request *r, const struct hf_request *req, struct hf_error *err)
{
	if (!req->public_only)
		return true;
	if (req->route.unix_socket) {
		hf_err_set(err, HF_INVALID, "unix_socket %s is no public address",
			   req->route.unix_socket);
		return false;
	}
	r->base.op.http->reach = &r->reach;
	return hf_reach_read(&r->reach, &req->allow, err);
}

enum hf_err hf_request_new(struct hf_engine *engine, const struct hf_request *req, int64_t timeout,
			   struct hf_op **out, struct hf_error *err)
{
	struct request *r = hf_op_new(engine, &request_kind, sizeof *r);

	hf_err_set(err, HF_NOMEM, "out of memory");
	if (!r)
		return err->code;
	r->base.op.http = hf_calloc(1, sizeof *r->base.op.http);
	r->base.op.owns_http = r->base.op.http != NULL;
	if (r->base.op.http && fill(r, req, timeout) && limit_reach(r, req, err)) {
		*out = &r->base.op;
		return HF_OK;
	}
	hf_op_unref(&r->base.op);
	return err->code;
}
