/* destroy.c: deletes the key of a lock that nobody holds. */
#include "consul.h"
#include "hf_int.h"

struct destroy {
	struct hf_op op;
	struct hf_lock *lock; /* counted */
	bool once;
	enum { READ, READING, DELETING } phase;
};

static void destroy_free(struct hf_op *op)
{
	hf_lock_unref(((struct destroy *)op)->lock);
}

static enum hf_step destroy_end(struct destroy *d, enum hf_err code, const char *why)
{
	struct hf_error result;

	hf_err_set(&result, code, "destroy \"%s\": %s", d->lock->key, why);
	hf_op_finish(&d->op, &result);
	return HF_FINISH;
}

static enum hf_step destroy_trouble(struct destroy *d, enum hf_verdict verdict,
				    const struct hf_error *err)
{
	if (d->once || verdict != HF_V_AGAIN)
		return destroy_end(d, err->code, err->message);
	d->phase = READ;
	return hf_op_backoff(&d->op, HF_NEVER);
}

static enum hf_step destroy_read(struct destroy *d)
{
	struct hf_error err;
	struct hf_kv kv;
	enum hf_verdict verdict = hf_consul_read_key(&d->op.http, &d->op.client->opts, &kv, &err);

	if (verdict != HF_V_OK)
		return destroy_trouble(d, verdict, &err);
	if (!kv.exists)
		return destroy_end(d, HF_OK, "");
	if (kv.flags != HF_LOCK_FLAGS)
		return destroy_end(d, HF_CONFLICT, hf_err_text(HF_CONFLICT));
	if (kv.session[0])
		return destroy_end(d, HF_IN_USE, hf_err_text(HF_IN_USE));
	hf_consul_delete(&d->op.http, &d->op.client->opts, d->lock->key, kv.modify_index);
	d->phase = DELETING;
	return HF_SEND;
}

static enum hf_step destroy_next(struct hf_op *op)
{
	struct destroy *d = (struct destroy *)op;
	struct hf_error err;
	enum hf_verdict verdict;

	switch (d->phase) {
	case READ:
		hf_consul_get(&op->http, &op->client->opts, d->lock->key, 0, true);
		d->phase = READING;
		return HF_SEND;
	case READING:
		return destroy_read(d);
	case DELETING:
		break;
	}
	verdict = hf_consul_read_delete(&op->http, &op->client->opts, &err);
	if (verdict == HF_V_OK)
		return destroy_end(d, HF_OK, "");
	return destroy_trouble(d, verdict, &err);
}

static const struct hf_kind destroy_kind = {"destroy", destroy_next, NULL, destroy_free};

enum hf_err hf_lock_destroy(struct hf_lock *lock, int64_t timeout, struct hf_op **out,
			    struct hf_error *err)
{
	struct destroy *d;

	if (!hf_client_here(lock->client, err))
		return err->code;
	err->code = HF_OK;
	d = hf_op_new(lock->client, &destroy_kind, sizeof *d);
	if (!d)
		return hf_err_set(err, HF_NOMEM, "out of memory");
	hf_lock_ref(lock);
	d->lock = lock;
	d->once = timeout == 0;
	d->op.deadline = hf_op_deadline(timeout);
	pthread_mutex_lock(&lock->client->mutex);
	if (!hf_client_closed_locked(lock->client, err) && hf_lock_held_locked(lock))
		hf_err_set(err, HF_HELD, "destroy \"%s\": this object holds it", lock->key);
	if (!err->code)
		hf_client_submit_locked(lock->client, &d->op, err);
	pthread_mutex_unlock(&lock->client->mutex);
	if (err->code)
		hf_op_unref(&d->op);
	else
		*out = &d->op;
	return err->code;
}
