/* call.c: any request to Consul, for the user. */
#include "lock/client.h"

#include "base/alloc.h"
#include "base/config.h"

struct call {
	struct hf_responding base;
	struct hf_call what; /* const; its own */
	struct curl_slist *headers; /* const */
	char *head, *body; /* of the reply */
};

static void call_free(struct hf_op *op)
{
	struct call *c = (struct call *)op;

	hf_call_free(&c->what);
	hf_http_free_headers(c->headers);
	hf_free(c->head);
	hf_free(c->body);
}

static enum hf_step end(struct call *c, enum hf_err code, const char *why)
{
	struct hf_error result;

	hf_err_set(&result, code, "%s %s: %s", c->what.method, c->what.path, why);
	hf_op_finish(&c->base.op, &result);
	return HF_FINISH;
}

/* A poll waits elsewhere than a call, which may be what brings the poll its answer. */
static enum hf_step call_next(struct hf_op *op)
{
	return hf_op_send(op, ((struct call *)op)->what.wait ? HF_LONG_CALL : HF_CALL);
}

static bool call_request(struct hf_op *op, struct hf_http *http)
{
	struct call *c = (struct call *)op;

	hf_call_any(http, &hf_client_of(op)->consul, &c->what, c->headers);
	return true;
}

/* The reply goes with its struct hf_http, which has Consul's credentials and stays. */
static bool keep(struct call *c, const struct hf_http *http)
{
	c->head = hf_memdup(http->reply_headers.data, http->reply_headers.len);
	c->body = hf_memdup(http->reply.data, http->reply.len);
	c->base.response = (struct hf_response){
		.status = http->status,
		.headers = c->head,
		.headers_len = http->reply_headers.len,
		.body = c->body,
		.body_len = http->reply.len,
		.elapsed = http->elapsed,
	};
	return c->head && c->body;
}

static enum hf_step call_reply(struct hf_op *op, const struct hf_http *http)
{
	struct call *c = (struct call *)op;
	struct hf_error err;

	hf_call_outcome(http, &hf_client_of(op)->consul, &err);
	if (!http->error && !keep(c, http))
		return end(c, HF_NOMEM, "out of memory");
	op->responds = !http->error;
	return end(c, err.code, err.code ? err.message : "");
}

static enum hf_step call_cancel(struct hf_op *op, enum hf_err why)
{
	struct hf_error err;

	hf_op_why(op, why, &err);
	return end((struct call *)op, why, err.message);
}

static const struct hf_kind call_kind = {"call",     call_next,	  call_request,
					 call_reply, call_cancel, call_free};

enum hf_err hf_call_start(struct hf_client *client, const struct hf_call *call, struct hf_op **out,
			  struct hf_error *err)
{
	struct hf_engine *engine = &client->engine;
	struct call *c;

	if (!hf_engine_here(engine, err))
		return err->code;
	err->code = HF_OK;
	c = hf_op_new(engine, &call_kind, sizeof *c);
	if (!c || !hf_call_copy(&c->what, call) || !hf_call_headers(&c->headers, call)) {
		if (c)
			hf_op_unref(&c->base.op);
		return hf_err_set(err, HF_NOMEM, "out of memory");
	}
	c->base.op.deadline = hf_op_deadline(call->timeout);
	pthread_mutex_lock(&engine->mutex);
	hf_engine_submit_locked(engine, &c->base.op, err);
	pthread_mutex_unlock(&engine->mutex);
	if (err->code)
		hf_op_unref(&c->base.op);
	else
		*out = &c->base.op;
	return err->code;
}
