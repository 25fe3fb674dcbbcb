/* destroy.c: deletes the key of a lock that nobody holds: a look, then a delete that is conditional
 * on what was seen. */
#include "lock/lock.h"

#include "lock/batch.h"

struct destroy {
	struct hf_op op;
	struct hf_part part;
	struct hf_lock *lock; /* counted */
	struct hf_key *key; /* thread: counted; NULL: not known yet */
	bool once; /* const */
	uint64_t index; /* thread: what the delete is conditional on; 0: look first */
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
	hf_batch_leave(&d->op);
	hf_key_put(d->key);
	return HF_FINISH;
}

static enum hf_step trouble(struct destroy *d, const struct hf_answer *a)
{
	if (d->once || (a->verdict != HF_V_AGAIN && a->verdict != HF_V_MOVED))
		return end(d, a->err.code, a->err.message);
	return hf_op_backoff(&d->op, HF_NEVER);
}

static enum hf_step ask(struct destroy *d, uint64_t index)
{
	d->index = index;
	return hf_batch_join(&d->op, index ? HF_WRITE : HF_LOOK | HF_CONSISTENT);
}

static enum hf_step destroy_next(struct hf_op *op)
{
	struct destroy *d = (struct destroy *)op;

	if (!d->key)
		d->key = hf_key_get(hf_client_of(op), d->lock->key);
	if (!d->key)
		return end(d, HF_NOMEM, "out of memory");
	return ask(d, 0);
}

static size_t destroy_fill(struct hf_op *op, struct hf_http *http)
{
	struct destroy *d = (struct destroy *)op;

	if (!d->index)
		return hf_batch_look(http, d->key);
	hf_txn_add(http,
		   &(struct hf_txn_op){.verb = HF_DELETE, .key = d->lock->key, .index = d->index});
	return 1;
}

static enum hf_step looked(struct destroy *d, const struct hf_kv *kv)
{
	if (!kv->exists)
		return end(d, HF_OK, "");
	if (kv->flags != d->lock->flags)
		return end(d, HF_CONFLICT, hf_err_text(HF_CONFLICT));
	if (kv->session[0])
		return end(d, HF_IN_USE, hf_err_text(HF_IN_USE));
	return ask(d, kv->index);
}

static enum hf_step destroy_answer(struct hf_op *op, const struct hf_answer *a)
{
	struct destroy *d = (struct destroy *)op;

	if (a->verdict != HF_V_OK)
		return trouble(d, a);
	return d->index ? end(d, HF_OK, "") : looked(d, &a->kv);
}

static enum hf_step destroy_cancel(struct hf_op *op, enum hf_err why)
{
	struct hf_error err;

	hf_op_why(op, why, &err);
	return end((struct destroy *)op, why, err.message);
}

static struct hf_key *destroy_key(const struct hf_op *op)
{
	return ((const struct destroy *)op)->key;
}

static const struct hf_part_kind destroy_kind = {
	{"destroy", destroy_next, NULL, NULL, destroy_cancel, destroy_free},
	offsetof(struct destroy, part),
	destroy_key,
	destroy_fill,
	destroy_answer};

enum hf_err hf_lock_destroy(struct hf_lock *lock, int64_t timeout, struct hf_op **out,
			    struct hf_error *err)
{
	struct hf_engine *engine = &lock->client->engine;
	struct destroy *d;

	if (!hf_engine_here(engine, err))
		return err->code;
	err->code = HF_OK;
	d = hf_op_new(engine, &destroy_kind.op, sizeof *d);
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
