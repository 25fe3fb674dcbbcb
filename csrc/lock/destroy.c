/* destroy.c: deletes the key of a lock that nobody holds: a look, then a delete that is conditional
 * on what was seen. */
#include "lock/lock.h"

#include "consul/kv.h"

struct destroy {
	struct hf_op op;
	struct hf_lock *lock; /* counted */
	bool once;
	uint64_t index; /* what the delete is conditional on; 0: look first */
};

static void destroy_free(struct hf_op *op)
{
	hf_lock_unref(((struct destroy *)op)->lock);
}

static enum hf_step end(struct destroy *d, enum hf_err code, const char *why)
{
	struct hf_error result;

	hf_err_set(&result, code, "destroy \"%s\": %s", d->lock->key, why);
	hf_op_finish(&d->op, &result);
	return HF_FINISH;
}

static enum hf_step trouble(struct destroy *d, enum hf_verdict verdict, const struct hf_error *err)
{
	if (d->once || (verdict != HF_V_AGAIN && verdict != HF_V_MOVED))
		return end(d, err->code, err->message);
	d->index = 0;
	return hf_op_backoff(&d->op, HF_NEVER);
}

static enum hf_step destroy_next(struct hf_op *op)
{
	return hf_op_send(op, HF_COMMAND, false);
}

static bool destroy_request(struct hf_op *op, struct hf_http *http)
{
	struct destroy *d = (struct destroy *)op;
	const struct hf_consul *consul = &hf_client_of(op)->consul;

	if (d->index)
		hf_kv_delete(http, consul, d->lock->key, d->index);
	else
		hf_kv_get(http, consul, d->lock->key, 0, true);
	return true;
}

static enum hf_step looked(struct destroy *d, const struct hf_http *http)
{
	struct hf_error err;
	struct hf_kv kv;
	enum hf_verdict verdict = hf_kv_read(http, &hf_client_of(&d->op)->consul, &kv, &err);

	if (verdict != HF_V_OK)
		return trouble(d, verdict, &err);
	if (!kv.exists)
		return end(d, HF_OK, "");
	if (kv.flags != HF_LOCK_FLAGS)
		return end(d, HF_CONFLICT, hf_err_text(HF_CONFLICT));
	if (kv.session[0])
		return end(d, HF_IN_USE, hf_err_text(HF_IN_USE));
	d->index = kv.index;
	return hf_op_send(&d->op, HF_COMMAND, false);
}

static enum hf_step destroy_reply(struct hf_op *op, const struct hf_http *http)
{
	struct destroy *d = (struct destroy *)op;
	struct hf_error err;
	enum hf_verdict verdict;

	if (!d->index)
		return looked(d, http);
	verdict = hf_kv_read_delete(http, &hf_client_of(op)->consul, &err);
	if (verdict != HF_V_OK)
		return trouble(d, verdict, &err);
	return end(d, HF_OK, "");
}

static const struct hf_kind destroy_kind = {"destroy",	   destroy_next, destroy_request,
					    destroy_reply, NULL,	 destroy_free};

enum hf_err hf_lock_destroy(struct hf_lock *lock, int64_t timeout, struct hf_op **out,
			    struct hf_error *err)
{
	struct hf_engine *engine = &lock->client->engine;
	struct destroy *d;

	if (!hf_engine_here(engine, err))
		return err->code;
	err->code = HF_OK;
	d = hf_op_new(engine, &destroy_kind, sizeof *d);
	if (!d)
		return hf_err_set(err, HF_NOMEM, "out of memory");
	hf_lock_ref(lock);
	d->lock = lock;
	d->once = timeout == 0;
	d->op.deadline = hf_op_deadline(timeout);
	pthread_mutex_lock(&engine->mutex);
	if (!hf_engine_closed_locked(engine, err) && hf_lock_held_locked(lock))
		hf_err_set(err, HF_HELD, "destroy \"%s\": this object holds it", lock->key);
	if (!err->code)
		hf_engine_submit_locked(engine, &d->op, err);
	pthread_mutex_unlock(&engine->mutex);
	if (err->code)
		hf_op_unref(&d->op);
	else
		*out = &d->op;
	return err->code;
}
