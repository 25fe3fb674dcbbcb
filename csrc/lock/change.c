/* change.c: waits until a key is not any more as somebody has seen it: a look, then the watch that
 * locks wait by, so that any number of these need no more connections. What it says is a hint: the
 * caller looks again. */
#include "lock/batch.h"
#include "lock/watch.h"

#include "base/alloc.h"

struct change {
	struct hf_op op;
	struct hf_part part;
	char *name; /* const */
	struct hf_key *key; /* thread: counted; NULL: not known yet */
	uint64_t index; /* const: of the change that is known */
	bool looked, watching; /* thread */
};

static void change_free(struct hf_op *op)
{
	hf_free(((struct change *)op)->name);
}

static enum hf_step end(struct change *c, enum hf_err code, const char *why)
{
	struct hf_error result;

	hf_err_set(&result, code, "key \"%s\": %s", c->name, why);
	hf_op_finish(&c->op, &result);
	hf_batch_leave(&c->op);
	if (c->watching)
		hf_watch_end(c->key);
	hf_key_put(c->key);
	return HF_FINISH;
}

static enum hf_step look(struct change *c)
{
	c->looked = false;
	return hf_batch_join(&c->op, HF_LOOK);
}

static enum hf_step watch(struct change *c)
{
	const struct hf_key *key = c->key;

	if (key->failure && key->refused)
		return end(c, key->failure->code, key->failure->message);
	if (!key->failure && !key->known)
		return look(c);
	if (!key->failure && (!key->seen.exists || key->seen.index != c->index))
		return end(c, HF_OK, "");
	if (!c->watching)
		c->watching = hf_watch_begin(c->key);
	if (!c->watching)
		return end(c, HF_NOMEM, "out of memory");
	return hf_watch_wait(c->key, &c->op);
}

static enum hf_step change_next(struct hf_op *op)
{
	struct change *c = (struct change *)op;

	if (c->looked)
		return watch(c);
	if (!c->key)
		c->key = hf_key_get(hf_client_of(op), c->name);
	if (!c->key)
		return end(c, HF_NOMEM, "out of memory");
	return look(c);
}

static size_t change_fill(struct hf_op *op, struct hf_http *http)
{
	return hf_batch_look(http, ((struct change *)op)->key);
}

static enum hf_step change_answer(struct hf_op *op, const struct hf_answer *a)
{
	struct change *c = (struct change *)op;

	if (a->verdict == HF_V_AGAIN)
		return hf_op_backoff(op, HF_NEVER);
	if (a->verdict != HF_V_OK)
		return end(c, a->err.code, a->err.message);
	hf_op_recovered(op);
	hf_key_saw(c->key, &a->kv, a->sent);
	c->looked = true;
	return watch(c);
}

static enum hf_step change_cancel(struct hf_op *op, enum hf_err why)
{
	struct hf_error err;

	hf_op_why(op, why, &err);
	return end((struct change *)op, why, err.message);
}

static struct hf_key *change_key(const struct hf_op *op)
{
	return ((const struct change *)op)->key;
}

static const struct hf_part_kind change_kind = {
	{"change", change_next, NULL, NULL, change_cancel, change_free},
	offsetof(struct change, part),
	change_key,
	change_fill,
	change_answer};

enum hf_err hf_key_change(struct hf_client *client, const char *key, uint64_t index,
			  int64_t timeout, struct hf_op **out, struct hf_error *err)
{
	struct hf_engine *engine = &client->engine;
	struct change *c;

	if (!hf_engine_here(engine, err))
		return err->code;
	err->code = HF_OK;
	c = hf_op_new(engine, &change_kind.op, sizeof *c);
	if (!c)
		return hf_err_set(err, HF_NOMEM, "out of memory");
	c->name = hf_strdup(key);
	c->index = index;
	c->op.deadline = hf_op_deadline(timeout);
	pthread_mutex_lock(&engine->mutex);
	if (!c->name)
		hf_err_set(err, HF_NOMEM, "out of memory");
	else if (!hf_engine_closed_locked(engine, err))
		hf_engine_submit_locked(engine, &c->op, err);
	pthread_mutex_unlock(&engine->mutex);
	if (err->code)
		hf_op_unref(&c->op);
	else
		*out = &c->op;
	return err->code;
}
