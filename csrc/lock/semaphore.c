/* semaphore.c: semaphore objects, which are lock objects with a limit, and the end of a semaphore:
 * a look, then a delete of its .lock that is conditional on what was seen. */
#include "lock/slot.h"

struct destroy {
	struct hf_op op;
	struct hf_lock *sem; /* counted */
	struct hf_tree *tree; /* thread: counted; NULL: not known yet */
	bool once; /* const */
	uint64_t index; /* thread: what the delete is conditional on; 0: look first */
};

static void destroy_free(struct hf_op *op)
{
	hf_lock_unref(((struct destroy *)op)->sem);
}

static enum hf_step end(struct destroy *d, enum hf_err code, const char *why)
{
	struct hf_error result;

	hf_err_set(&result, code, "destroy \"%s\": %s", d->sem->key, why);
	hf_op_finish(&d->op, &result);
	hf_tree_put(d->tree);
	return HF_FINISH;
}

static enum hf_step ask(struct destroy *d, uint64_t index)
{
	d->index = index;
	return hf_op_send(&d->op, HF_COMMAND);
}

static enum hf_step destroy_next(struct hf_op *op)
{
	struct destroy *d = (struct destroy *)op;

	if (!d->tree)
		d->tree = hf_tree_get(hf_client_of(op), d->sem->key);
	return d->tree ? ask(d, 0) : end(d, HF_NOMEM, "out of memory");
}

static bool destroy_request(struct hf_op *op, struct hf_http *http)
{
	struct destroy *d = (struct destroy *)op;
	const struct hf_consul *consul = &hf_client_of(op)->consul;

	if (!d->index) {
		hf_semaphore_get(http, consul, d->tree->prefix, 0, true);
		return true;
	}
	hf_txn_begin(http, consul, false);
	hf_txn_add(http,
		   &(struct hf_txn_op){.verb = HF_DELETE, .key = d->tree->lock, .index = d->index});
	hf_txn_end(http);
	return true;
}

static enum hf_step trouble(struct destroy *d, enum hf_verdict verdict, const struct hf_error *err)
{
	if (d->once || (verdict != HF_V_AGAIN && verdict != HF_V_MOVED))
		return end(d, err->code, err->message);
	return hf_op_backoff(&d->op, HF_NEVER);
}

/* Another limit is no reason to refuse: who destroys it may want to make it anew. */
static enum hf_step looked(struct destroy *d)
{
	const struct hf_semaphore *seen = &d->tree->seen;

	if (!seen->exists)
		return end(d, HF_OK, "");
	if (seen->foreign)
		return end(d, HF_CONFLICT, hf_err_text(HF_CONFLICT));
	if (hf_semaphore_taken(seen, ""))
		return end(d, HF_IN_USE, hf_err_text(HF_IN_USE));
	return ask(d, seen->index);
}

static enum hf_step destroy_reply(struct hf_op *op, const struct hf_http *http)
{
	struct destroy *d = (struct destroy *)op;
	struct hf_error err;
	uint64_t index;
	enum hf_verdict verdict = d->index ? hf_semaphore_written(http, &hf_client_of(op)->consul,
								  d->tree->lock, 1, &index, &err)
					   : hf_slot_saw(d->tree, http, &err);

	if (verdict != HF_V_OK)
		return trouble(d, verdict, &err);
	return d->index ? end(d, HF_OK, "") : looked(d);
}

static enum hf_step destroy_cancel(struct hf_op *op, enum hf_err why)
{
	struct hf_error err;

	hf_op_why(op, why, &err);
	return end((struct destroy *)op, why, err.message);
}

static const struct hf_kind destroy_kind = {"destroy",	   destroy_next,   destroy_request,
					    destroy_reply, destroy_cancel, destroy_free};

/* ---- for the caller ------------------------------------------------------------------------- */

enum hf_err hf_semaphore_new(struct hf_client *client, const struct hf_semaphore_opts *opts,
			     struct hf_lock **out, struct hf_error *err)
{
	const struct hf_lock_opts lock = {
		.key = opts->prefix,
		.value = opts->value,
		.value_len = opts->value_len,
		.session = opts->session,
		.session_opts = opts->session ? NULL : opts->session_opts,
	};

	if (!hf_lock_new(client, &lock, out, err))
		(*out)->limit = opts->limit;
	return err->code;
}

enum hf_err hf_semaphore_destroy(struct hf_lock *sem, int64_t timeout, struct hf_op **out,
				 struct hf_error *err)
{
	struct hf_engine *engine = &sem->client->engine;
	struct destroy *d;

	if (!hf_engine_here(engine, err))
		return err->code;
	err->code = HF_OK;
	d = hf_op_new(engine, &destroy_kind, sizeof *d);
	if (!d)
		return hf_err_set(err, HF_NOMEM, "out of memory");
	hf_lock_ref(sem);
	d->sem = sem;
	d->once = timeout == 0;
	d->op.deadline = hf_op_deadline(timeout);
	pthread_mutex_lock(&engine->mutex);
	if (!hf_engine_closed_locked(engine, err) && hf_lock_held_locked(sem))
		hf_err_set(err, HF_HELD, "destroy \"%s\": this object holds a slot", sem->key);
	if (!err->code)
		hf_engine_submit_locked(engine, &d->op, err);
	pthread_mutex_unlock(&engine->mutex);
	if (err->code)
		hf_op_unref(&d->op);
	else
		*out = &d->op;
	return err->code;
}
