#include "lock/client.h"

#include "base/alloc.h"
#include "base/config.h"
#include "lock/batch.h"
#include "lock/events.h"
#include "lock/lock.h"
#include "lock/tree.h"
#include "net/ending.h"
#include "net/process.h"
#include "net/request.h"

static struct hf_client *of(struct hf_engine *engine)
{
	return HF_OF(struct hf_client, engine, engine);
}

/* ---- what the engine tells ------------------------------------------------------------------ */

static void give_back_all(struct hf_session *session, bool silently)
{
	struct hf_engine *engine = &session->client->engine;
	struct hf_link *holds = &session->holds, *link;

	pthread_mutex_lock(&engine->mutex);
	for (link = hf_link_first(holds); link; link = hf_link_after(holds, link)) {
		struct hf_hold *hold = HF_OF(struct hf_hold, place, link);

		hold->op.internal = true;
		hold->lost = silently;
	}
	while ((link = hf_link_first(holds)) != NULL)
		hf_hold_end_locked(HF_OF(struct hf_hold, place, link), HF_BY_CLOSED);
	pthread_mutex_unlock(&engine->mutex);
}

/* Everything held is given back, and the sessions go when that is done. */
static void closing(struct hf_engine *engine, int64_t close_by)
{
	struct hf_client *client = of(engine);
	struct hf_link *link, *next;

	for (link = hf_link_first(&client->sessions); link; link = next) {
		struct hf_session *session = HF_OF(struct hf_session, mine, link);

		next = hf_link_after(&client->sessions, link);
		hf_session_join(session);
		give_back_all(session, close_by == 0);
		hf_session_retire(session);
		hf_session_unkeep(session);
		hf_session_leave(session);
	}
}

static void ended(struct hf_engine *engine)
{
	struct hf_client *client = of(engine);
	struct hf_link *link;

	hf_ending_disarm(engine);
	while ((link = hf_link_first(&client->sessions)) != NULL)
		hf_session_forget(HF_OF(struct hf_session, mine, link));
	hf_trees_free(client);
	hf_keys_free(client);
}

/* Whether a refusal was for a token that has been replaced meanwhile, also for another request. */
static bool again(struct hf_engine *engine, const struct hf_http *http)
{
	struct hf_consul *consul = &of(engine)->consul;

	hf_events_heard(of(engine), http);
	if (http->error || !hf_call_denied(http))
		return false;
	hf_consul_renew_token(consul);
	return http->edition != consul->peer.edition;
}

static void client_free(struct hf_engine *engine)
{
	struct hf_client *client = of(engine);

	hf_events_free(client->events);
	hf_consul_free(&client->consul);
	hf_client_opts_free(&client->opts);
	hf_free(client);
	hf_process_count(HF_CLIENTS, -1);
}

static const struct hf_hooks hooks = {closing, ended, again, client_free};

/* ---- for the caller ------------------------------------------------------------------------- */

enum hf_err hf_client_new(const struct hf_client_opts *opts, struct hf_client **out,
			  struct hf_error *err)
{
	struct hf_client *client;

	if (!hf_process_init())
		return hf_err_set(err, HF_NOMEM, "libcurl could not be initialized");
	hf_process_reap();
	client = hf_calloc(1, sizeof *client);
	if (!client)
		goto err0;
	if (!hf_client_opts_copy(&client->opts, opts))
		goto err1;
	if (!hf_consul_init(&client->consul, &client->opts))
		goto err2;
	if (!hf_events_init(client))
		goto err3;
	hf_engine_init(&client->engine, &hooks, client->opts.base);
	hf_link_init(&client->sessions);
	hf_keys_init(client);
	hf_batches_init(client);
	hf_process_count(HF_CLIENTS, 1);
	*out = client;
	return HF_OK;
err3:
	hf_consul_free(&client->consul);
err2:
	hf_client_opts_free(&client->opts);
err1:
	hf_free(client);
err0:
	return hf_err_set(err, HF_NOMEM, "out of memory");
}

enum hf_err hf_client_close_on(struct hf_client *client, const int *numbers, size_t count,
			       bool alone, struct hf_error *err)
{
	return hf_ending_arm(&client->engine, numbers, count, alone, err);
}

/* An engine that has never been started does not tell its end. */
static void disarm(struct hf_engine *engine)
{
	bool idle;

	pthread_mutex_lock(&engine->mutex);
	idle = engine->closing && !engine->takes;
	pthread_mutex_unlock(&engine->mutex);
	if (idle)
		hf_ending_disarm(engine);
}

enum hf_err hf_client_close(struct hf_client *client, bool tell, struct hf_op **out,
			    struct hf_error *err)
{
	enum hf_err code = hf_engine_close(&client->engine, tell, HF_CLOSE_MS, out, err);

	if (code != HF_FORKED)
		disarm(&client->engine);
	return code;
}

void hf_client_join(struct hf_client *client)
{
	if (hf_engine_here(&client->engine, NULL))
		hf_engine_join(&client->engine);
}

void hf_client_drop(struct hf_client *client)
{
	if (!client)
		return;
	if (hf_engine_here(&client->engine, NULL)) {
		hf_engine_shut(&client->engine, false, HF_CLOSE_MS);
		disarm(&client->engine);
		hf_process_reap();
	}
	hf_engine_unref(&client->engine);
}

const char *hf_client_base(const struct hf_client *client)
{
	return client->opts.base;
}

enum hf_err hf_client_stats(struct hf_client *client, struct hf_stats *out, struct hf_error *err)
{
	long connections;

	if (!hf_engine_here(&client->engine, err))
		return err->code;
	connections = atomic_load(&client->engine.connections.open);
	pthread_mutex_lock(&client->engine.mutex);
	*out = client->stats;
	out->requests = client->engine.requests;
	pthread_mutex_unlock(&client->engine.mutex);
	out->connections = connections > 0 ? (uint64_t)connections : 0;
	return HF_OK;
}

/* ---- requests ------------------------------------------------------------------------------- */

static enum hf_err guard_locked(struct hf_op *op, struct hf_lock *guard, struct hf_error *err)
{
	if (!hf_lock_held_locked(guard))
		return hf_lock_not_held_locked(guard, err);
	hf_op_stand_on(op, &guard->hold->guard);
	return HF_OK;
}

enum hf_err hf_request_start(struct hf_client *client, struct hf_lock *guard,
			     const struct hf_request *req, struct hf_op **out, struct hf_error *err)
{
	struct hf_engine *engine = &client->engine;
	struct hf_op *op;

	if (!hf_engine_here(engine, err))
		return err->code;
	if (hf_request_new(engine, req, client->opts.timeout, &op, err))
		return err->code;
	err->code = HF_OK;
	pthread_mutex_lock(&engine->mutex);
	if (!hf_engine_closed_locked(engine, err) && (!guard || !guard_locked(op, guard, err)))
		hf_engine_submit_locked(engine, op, err);
	pthread_mutex_unlock(&engine->mutex);
	if (err->code)
		hf_op_unref(op);
	else
		*out = op;
	return err->code;
}
