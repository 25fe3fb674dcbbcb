/* release.c: gives a lock back: a transaction, repeated until the server has answered or the
 * session is over, also when the caller has stopped waiting. */
#include "consul.h"
#include "hf_int.h"

/* So long a release may take when the client closes, ms. */
#define CLOSING 1500

struct release {
	struct hf_op op;
	struct hf_lock *lock; /* counted while in use */
	struct hf_session *session; /* counted */
	struct hf_key *slot;
	bool begun, once;
	bool unsure; /* a try that failed may have been acted on */
};

static void release_free(struct hf_op *op)
{
	struct release *r = (struct release *)op;

	hf_session_unref(r->session);
	hf_lock_unref(r->lock);
}

static void release_answer(struct release *r, enum hf_err code, const char *why)
{
	struct hf_error result;

	hf_err_set(&result, code, "unlock \"%s\": %s", r->lock->key, why);
	hf_op_finish(&r->op, &result);
}

static enum hf_step release_end(struct release *r, enum hf_err code, const char *why)
{
	struct hf_session *session = r->session;
	struct hf_client *client = r->op.client;

	pthread_mutex_lock(&client->mutex);
	client->stats.released += code == HF_OK;
	session->releasing--;
	pthread_mutex_unlock(&client->mutex);
	release_answer(r, code, why);
	hf_key_put(r->slot, true);
	r->slot = NULL;
	hf_lock_after_hold(r->lock, session);
	return HF_FINISH;
}

static enum hf_step release_send(struct release *r)
{
	const struct hf_lock *lock = r->lock;

	if (hf_session_over(r->session))
		return release_end(r, HF_LOST, "the session ended before the lock was released");
	hf_consul_lock(&r->op.http, &r->op.client->opts, "unlock", lock->key, r->session->id,
		       lock->value, lock->value_len);
	return HF_SEND;
}

static enum hf_step release_reply(struct release *r)
{
	const struct hf_http *http = &r->op.http;
	struct hf_error err;
	uint64_t ignored;

	switch (hf_consul_read_lock(http, &r->op.client->opts, &ignored, &err)) {
	case HF_V_OK:
		return release_end(r, HF_OK, "");
	case HF_V_NOT_OURS:
		if (r->unsure || http->sendings > 1)
			return release_end(r, HF_OK, "");
		return release_end(r, HF_LOST, "the lock had been lost before it was released");
	case HF_V_AGAIN:
		r->unsure |= !http->error || http->maybe_sent;
		if (r->once)
			release_answer(r, err.code, err.message); /* and go on without the caller */
		return hf_op_backoff(&r->op, HF_NEVER);
	case HF_V_NO_SESSION:
		hf_session_doubt(r->session);
		return release_end(r, HF_LOST, err.message);
	default:
		return release_end(r, err.code, err.message);
	}
}

static enum hf_step release_next(struct hf_op *op)
{
	struct release *r = (struct release *)op;

	r->begun = !r->begun;
	if (!r->begun)
		return release_reply(r);
	if (!r->slot) {
		r->slot = r->lock->slot;
		r->lock->slot = NULL;
	}
	return release_send(r);
}

/* Whoever stops waiting is told so; the lock has to be given back all the same. Only the client's
 * close does not wait for ever: it has the session to destroy, and that frees the lock too. */
static enum hf_step release_cancel(struct hf_op *op, enum hf_err why)
{
	struct hf_error err;

	hf_op_why(op, why, &err);
	if (why == HF_TIMEOUT && hf_client_is_closing(op->client))
		return release_end((struct release *)op, HF_CLOSED, err.message);
	release_answer((struct release *)op, why, err.message);
	if (why == HF_CLOSED)
		op->deadline = hf_now() + CLOSING;
	return HF_STAY;
}

static const struct hf_kind release_kind = {"release", release_next, release_cancel, release_free};

struct hf_op *hf_release_new(struct hf_client *client)
{
	return hf_op_new(client, &release_kind, sizeof(struct release));
}

/* Ends the hold here and hands out the op that ends it on the server. */
static struct release *begin_release_locked(struct hf_lock *lock, enum hf_reason reason)
{
	struct release *r = (struct release *)lock->spare;

	lock->spare = NULL;
	r->lock = lock;
	atomic_fetch_add(&lock->session->refs, 1);
	r->session = lock->session;
	r->session->releasing++;
	hf_lock_end_hold_locked(lock, reason);
	return r;
}

enum hf_err hf_lock_release(struct hf_lock *lock, int64_t timeout, struct hf_op **out,
			    struct hf_error *err)
{
	struct hf_client *client = lock->client;
	struct release *r;

	if (!hf_client_here(client, err))
		return err->code;
	err->code = HF_OK;
	pthread_mutex_lock(&client->mutex);
	if (hf_client_closed_locked(client, err))
		;
	else if (!hf_lock_held_locked(lock)) {
		hf_lock_not_held_locked(lock, err);
	} else {
		r = begin_release_locked(lock, HF_BY_RELEASED);
		r->once = timeout == 0;
		r->op.deadline = hf_op_deadline(timeout);
		*out = &r->op;
		/* It has a thread, or it would not be held. */
		hf_client_submit_locked(client, &r->op, err);
	}
	pthread_mutex_unlock(&client->mutex);
	return err->code;
}

void hf_lock_release_all(struct hf_session *session)
{
	struct hf_client *client = session->client;
	struct release *r;

	do {
		r = NULL;
		pthread_mutex_lock(&client->mutex);
		if (session->holds)
			r = begin_release_locked(session->holds, HF_BY_CLOSED);
		pthread_mutex_unlock(&client->mutex);
		if (r) {
			r->op.internal = true;
			r->op.deadline = hf_now() + CLOSING;
			hf_worker_add(client, &r->op);
		}
	} while (r);
}
