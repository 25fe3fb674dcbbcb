/* handle.c: a session as an object: it is made, renewed now, destroyed; what goes on by itself is
 * the keeper's. The object is one of the session's users (session->kept) from when it has been made
 * to its end, of which there are two kinds: destroyed, and let go.
 *
 * The handle is also the op of its end: made before it is needed, so that a drop cannot fail. */
#include "lock/handle.h"

#include "base/config.h"
#include "lock/keeper.h"
#include "lock/renewal.h"

#include <string.h>

struct hf_handle {
	struct hf_op op; /* ends it */
	struct hf_session_opts opts; /* const */
	atomic_int keepers; /* the caller, and lock objects */
	bool opened; /* lock: there is, or was, an op that makes it */
	bool ending; /* lock: let go or destroyed */
	struct hf_session *session; /* lock until it has been made, const afterwards; counted */
};

/* An op about a handle. */
struct asking {
	struct hf_op op;
	struct hf_handle *handle; /* counted */
	struct hf_session *session; /* thread while it opens, else const; counted. NULL: not yet */
	bool once; /* const */
	unsigned failures; /* thread: of the session, that have been seen */
	int64_t sent; /* thread */
	struct hf_error trouble; /* thread: what went wrong last */
};

static struct hf_client *client_of(struct hf_handle *h)
{
	return hf_client_of(&h->op);
}

/* ---- the end -------------------------------------------------------------------------------- */

static void end_session(struct hf_session *session)
{
	hf_session_retire(session);
	hf_session_unkeep(session);
	if (hf_session_over(session)) {
		hf_wake_all(&session->confirmed);
		hf_wake(session->keeper);
	}
}

static enum hf_step end_next(struct hf_op *op)
{
	end_session(((struct hf_handle *)op)->session);
	return HF_FINISH;
}

static enum hf_step end_cancel(struct hf_op *op, enum hf_err why)
{
	(void)op, (void)why;
	return HF_FINISH;
}

static void end_free(struct hf_op *op)
{
	struct hf_handle *h = (struct hf_handle *)op;

	hf_session_opts_free(&h->opts);
	hf_session_unref(h->session);
}

static const struct hf_kind end_kind = {"end", end_next, NULL, NULL, end_cancel, end_free};

/* At the client's close the session goes anyway. */
static void end_locked(struct hf_handle *h)
{
	struct hf_engine *engine = h->op.engine;

	if (h->ending)
		return;
	h->ending = true;
	if (h->session && !engine->closing)
		hf_engine_post_locked(engine, &h->op);
}

void hf_handle_let_go(struct hf_handle *handle)
{
	if (!hf_engine_here(handle->op.engine, NULL))
		return;
	pthread_mutex_lock(&handle->op.engine->mutex);
	end_locked(handle);
	pthread_mutex_unlock(&handle->op.engine->mutex);
}

void hf_handle_keep(struct hf_handle *handle)
{
	hf_op_ref(&handle->op);
	atomic_fetch_add(&handle->keepers, 1);
}

void hf_handle_drop(struct hf_handle *handle)
{
	if (!handle)
		return;
	if (atomic_fetch_sub(&handle->keepers, 1) == 1)
		hf_handle_let_go(handle);
	hf_op_unref(&handle->op);
}

/* ---- what it says of itself ----------------------------------------------------------------- */

struct hf_session *hf_handle_session(struct hf_handle *handle)
{
	struct hf_session *session = NULL;

	if (!hf_engine_here(handle->op.engine, NULL))
		return NULL;
	pthread_mutex_lock(&handle->op.engine->mutex);
	session = handle->session;
	pthread_mutex_unlock(&handle->op.engine->mutex);
	return session;
}

static void state_locked(struct hf_handle *h, struct hf_handle_state *out)
{
	struct hf_session *session = h->session;
	bool closing = h->op.engine->closing;

	if (!session)
		return;
	memcpy(out->id, session->id, sizeof out->id);
	out->alive = hf_session_alive_locked(session) && !closing;
	if (out->alive)
		out->until = atomic_load(&session->deadline);
	else if (closing && (!session->reason || (session->reason == HF_BY_RELEASED && !h->ending)))
		out->reason = HF_BY_CLOSED;
	else
		out->reason = session->reason;
}

void hf_handle_state(struct hf_handle *handle, struct hf_handle_state *out)
{
	*out = (struct hf_handle_state){.reason = HF_BY_FORKED};
	if (!hf_engine_here(handle->op.engine, NULL))
		return;
	out->reason = HF_NO_REASON;
	pthread_mutex_lock(&handle->op.engine->mutex);
	state_locked(handle, out);
	pthread_mutex_unlock(&handle->op.engine->mutex);
}

/* ---- ops about it --------------------------------------------------------------------------- */

static void asking_free(struct hf_op *op)
{
	struct asking *a = (struct asking *)op;

	hf_session_unref(a->session);
	hf_op_unref(&a->handle->op);
}

static enum hf_step answer(struct asking *a, enum hf_err code, const char *why)
{
	const char *name = a->handle->opts.name;
	struct hf_error result;

	hf_err_set(&result, code, "session \"%s\": %s", name ? name : "", why);
	hf_op_finish(&a->op, &result);
	return HF_FINISH;
}

/* When its time is up the caller should hear what stood in the way. */
static enum hf_step stopped(struct asking *a, enum hf_err why)
{
	struct hf_error err;

	if (why == HF_TIMEOUT && a->trouble.code)
		return answer(a, a->trouble.code, a->trouble.message);
	hf_op_why(&a->op, why, &err);
	return answer(a, why, err.message);
}

static struct asking *ask(struct hf_handle *h, const struct hf_kind *kind, int64_t timeout,
			  struct hf_error *err)
{
	struct asking *a;

	if (!hf_engine_here(h->op.engine, err))
		return NULL;
	a = hf_op_new(h->op.engine, kind, sizeof *a);
	if (!a) {
		hf_err_set(err, HF_NOMEM, "out of memory");
		return NULL;
	}
	hf_op_ref(&h->op);
	a->handle = h;
	a->once = timeout == 0;
	a->op.deadline = hf_op_deadline(timeout);
	err->code = HF_OK;
	return a;
}

/* For who has asked while the session was there. */
static void about_session_locked(struct asking *a, struct hf_error *err)
{
	struct hf_handle *h = a->handle;

	if (hf_engine_closed_locked(h->op.engine, err))
		return;
	if (!h->session) {
		hf_err_set(err, HF_SESSION, "the session has not been made");
		return;
	}
	hf_session_ref(h->session);
	a->session = h->session;
	hf_engine_submit_locked(h->op.engine, &a->op, err);
}

static enum hf_err begun(struct asking *a, struct hf_op **out, struct hf_error *err)
{
	if (err->code)
		hf_op_unref(&a->op);
	else
		*out = &a->op;
	return err->code;
}

/* ---- open ----------------------------------------------------------------------------------- */

static void leave_session(struct asking *a)
{
	struct hf_session *session = a->session;

	a->session = NULL;
	if (!session)
		return;
	hf_session_retire(session);
	hf_session_leave(session);
}

/* The object has it now, with the op's place among its users; unless that has been dropped. */
static enum hf_step opened(struct asking *a)
{
	struct hf_handle *h = a->handle;
	struct hf_session *session = a->session;
	bool wanted;

	pthread_mutex_lock(&a->op.engine->mutex);
	wanted = !h->ending;
	hf_session_ref(session);
	h->session = session;
	pthread_mutex_unlock(&a->op.engine->mutex);
	session->kept = true;
	a->session = NULL;
	if (!wanted)
		end_session(session);
	return answer(a, HF_OK, "");
}

static enum hf_step open_next(struct hf_op *op)
{
	struct asking *a = (struct asking *)op;
	struct hf_session *session = a->session;

	if (hf_engine_is_closing(op->engine))
		return stopped(a, HF_CLOSED);
	if (!session)
		session = a->session = hf_session_for(hf_client_of(op), &a->handle->opts, NULL);
	if (!session)
		return answer(a, HF_NOMEM, "out of memory");
	if (session->made_at && !hf_session_over(session))
		return opened(a);
	if (a->failures != session->failures) {
		a->failures = session->failures;
		a->trouble = session->create_error;
	}
	if (session->create_final || session->made_at) {
		leave_session(a);
		return answer(a, a->trouble.code ? a->trouble.code : HF_SESSION,
			      a->trouble.code ? a->trouble.message : hf_err_text(HF_SESSION));
	}
	return hf_op_park(op, &session->made, HF_NEVER);
}

static enum hf_step open_cancel(struct hf_op *op, enum hf_err why)
{
	struct asking *a = (struct asking *)op;

	leave_session(a);
	return stopped(a, why);
}

static const struct hf_kind open_kind = {"open", open_next, NULL, NULL, open_cancel, asking_free};

enum hf_err hf_handle_open(struct hf_handle *handle, struct hf_op **out, struct hf_error *err)
{
	struct hf_engine *engine = handle->op.engine;
	struct asking *a = ask(handle, &open_kind, client_of(handle)->opts.timeout, err);

	if (!a)
		return err->code;
	pthread_mutex_lock(&engine->mutex);
	if (handle->opened)
		hf_err_set(err, HF_HELD, "the session has been made, or is being made");
	else
		handle->opened = !hf_engine_submit_locked(engine, &a->op, err);
	pthread_mutex_unlock(&engine->mutex);
	return begun(a, out, err);
}

enum hf_err hf_handle_new(struct hf_client *client, const struct hf_session_opts *opts,
			  struct hf_handle **out, struct hf_error *err)
{
	struct hf_handle *h;

	if (!hf_engine_here(&client->engine, err))
		return err->code;
	h = hf_op_new(&client->engine, &end_kind, sizeof *h);
	if (!h)
		return hf_err_set(err, HF_NOMEM, "out of memory");
	h->op.internal = true;
	h->keepers = 1;
	if (!hf_session_opts_copy(&h->opts, opts)) {
		hf_op_unref(&h->op);
		return hf_err_set(err, HF_NOMEM, "out of memory");
	}
	*out = h;
	return HF_OK;
}

/* ---- renew ---------------------------------------------------------------------------------- */

static enum hf_step renew_next(struct hf_op *op)
{
	struct asking *a = (struct asking *)op;

	if (hf_session_over(a->session))
		return answer(a, HF_SESSION, "it has ended");
	return hf_op_send(op, HF_RENEW);
}

static bool renew_request(struct hf_op *op, struct hf_http *http)
{
	struct asking *a = (struct asking *)op;

	if (hf_session_over(a->session))
		return false;
	a->sent = hf_now();
	hf_renewal_ask(a->session, http);
	return true;
}

static enum hf_step renew_reply(struct hf_op *op, const struct hf_http *http)
{
	struct asking *a = (struct asking *)op;
	enum hf_verdict verdict = hf_keeper_heard(a->session, http, a->sent, &a->trouble);

	if (verdict == HF_V_OK)
		return answer(a, HF_OK, "");
	if (verdict == HF_V_ABSENT)
		return answer(a, HF_SESSION, "Consul does not know it any more");
	if (verdict == HF_V_FINAL || a->once)
		return answer(a, a->trouble.code, a->trouble.message);
	return hf_op_backoff(op, HF_NEVER);
}

static enum hf_step asking_cancel(struct hf_op *op, enum hf_err why)
{
	return stopped((struct asking *)op, why);
}

static const struct hf_kind renew_kind = {"renew",     renew_next,    renew_request,
					  renew_reply, asking_cancel, asking_free};

enum hf_err hf_handle_renew(struct hf_handle *handle, int64_t timeout, struct hf_op **out,
			    struct hf_error *err)
{
	struct asking *a = ask(handle, &renew_kind, timeout, err);

	if (!a)
		return err->code;
	pthread_mutex_lock(&a->op.engine->mutex);
	about_session_locked(a, err);
	pthread_mutex_unlock(&a->op.engine->mutex);
	return begun(a, out, err);
}

/* ---- destroy -------------------------------------------------------------------------------- */

static enum hf_step destroy_next(struct hf_op *op)
{
	struct asking *a = (struct asking *)op;
	struct hf_session *session = a->session;

	if (!a->sent) {
		a->sent = hf_now();
		a->failures = session->failures;
		end_session(session);
	}
	if (!session->keeper)
		return answer(a, HF_OK, "");
	if (a->failures != session->failures) {
		a->failures = session->failures;
		a->trouble = session->create_error;
		if (a->once)
			return answer(a, a->trouble.code, a->trouble.message);
	}
	return hf_op_park(op, &session->ended, HF_NEVER);
}

static const struct hf_kind destroy_kind = {"destroy", destroy_next,  NULL,
					    NULL,      asking_cancel, asking_free};

enum hf_err hf_handle_destroy(struct hf_handle *handle, int64_t timeout, struct hf_op **out,
			      struct hf_error *err)
{
	struct asking *a = ask(handle, &destroy_kind, timeout, err);

	if (!a)
		return err->code;
	pthread_mutex_lock(&a->op.engine->mutex);
	about_session_locked(a, err);
	if (!err->code && hf_session_alive_locked(a->session))
		hf_session_expire_locked(a->session, HF_BY_RELEASED);
	if (!err->code)
		end_locked(handle);
	pthread_mutex_unlock(&a->op.engine->mutex);
	return begun(a, out, err);
}
