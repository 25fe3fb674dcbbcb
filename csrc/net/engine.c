#include "net/engine.h"

#include "net/process.h"
#include "net/transfer.h"

#define NEVER_DRIVEN (INT64_MIN / 2)

void hf_engine_init(struct hf_engine *engine, const struct hf_hooks *hooks, const char *name)
{
	pthread_condattr_t attr;

	engine->hooks = hooks;
	engine->name = name;
	engine->generation = hf_process_generation();
	engine->refs = 1;
	engine->driven_at = NEVER_DRIVEN;
	pthread_mutex_init(&engine->turn, NULL);
	pthread_mutex_init(&engine->mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&engine->back, &attr);
	pthread_condattr_destroy(&attr);
	hf_link_init(&engine->arrivals);
	hf_link_init(&engine->stops);
	hf_link_init(&engine->leavers);
	hf_link_init(&engine->ops);
	hf_link_init(&engine->ready);
	for (int i = 0; i < HF_LANES; i++)
		hf_link_init(&engine->lanes[i].waiting);
}

void hf_engine_ref(struct hf_engine *engine)
{
	atomic_fetch_add(&engine->refs, 1);
}

void hf_engine_unref(struct hf_engine *engine)
{
	if (!engine || atomic_fetch_sub(&engine->refs, 1) > 1)
		return;
	pthread_cond_destroy(&engine->back);
	pthread_mutex_destroy(&engine->mutex);
	pthread_mutex_destroy(&engine->turn);
	engine->hooks->free(engine);
}

bool hf_engine_here(const struct hf_engine *engine, struct hf_error *err)
{
	if (engine->generation == hf_process_generation())
		return true;
	hf_err_set(err, HF_FORKED, "the client was made before a fork: make one in the child");
	return false;
}

enum hf_err hf_engine_closed_locked(const struct hf_engine *engine, struct hf_error *err)
{
	if (!engine->closing)
		return HF_OK;
	return hf_err_set(err, HF_CLOSED, "the client of %s is closed", engine->name);
}

bool hf_engine_is_closing(struct hf_engine *engine)
{
	bool closing;

	pthread_mutex_lock(&engine->mutex);
	closing = engine->closing;
	pthread_mutex_unlock(&engine->mutex);
	return closing;
}

void hf_engine_wake_locked(struct hf_engine *engine)
{
	if (!engine->takes || engine->woken)
		return;
	engine->woken = true;
	if (engine->worker == HF_ASLEEP || engine->driven)
		hf_sockets_ring(&engine->sockets);
}

void hf_engine_call_locked(struct hf_engine *engine)
{
	engine->driven_at = NEVER_DRIVEN;
	if (engine->worker == HF_STANDING_BACK || engine->worker == HF_RESTING)
		pthread_cond_signal(&engine->back);
}

static bool start_locked(struct hf_engine *engine)
{
	if (!hf_sockets_open(&engine->sockets))
		goto err0;
	if (!hf_transfer_open(engine))
		goto err1;
	engine->takes = true;
	engine->thread = hf_process_start(engine);
	if (engine->thread)
		return true;
	engine->takes = false;
	hf_transfer_close(engine);
err1:
	hf_sockets_close(&engine->sockets);
err0:
	return false;
}

void hf_engine_post_locked(struct hf_engine *engine, struct hf_op *op)
{
	hf_op_ref(op);
	op->posted = true;
	hf_link_append(&engine->arrivals, &op->post);
	hf_engine_wake_locked(engine);
}

enum hf_err hf_engine_submit_locked(struct hf_engine *engine, struct hf_op *op,
				    struct hf_error *err)
{
	if (hf_engine_closed_locked(engine, err))
		return err->code;
	if (!engine->thread && !start_locked(engine))
		return hf_err_set(err, HF_NOMEM, "the client's thread could not be started");
	hf_engine_post_locked(engine, op);
	return HF_OK;
}

static void shut_locked(struct hf_engine *engine, bool tell, int64_t limit)
{
	int64_t close_by = hf_now() + limit;

	if (!engine->closing || engine->close_by > close_by)
		engine->close_by = close_by;
	engine->closing = true;
	engine->abandoned |= !tell;
	hf_engine_wake_locked(engine);
	hf_engine_call_locked(engine);
}

void hf_engine_shut(struct hf_engine *engine, bool exiting, int64_t limit)
{
	pthread_mutex_lock(&engine->mutex);
	engine->exiting |= exiting;
	shut_locked(engine, true, limit);
	pthread_mutex_unlock(&engine->mutex);
}

enum hf_err hf_engine_close(struct hf_engine *engine, bool tell, int64_t limit, struct hf_op **out,
			    struct hf_error *err)
{
	static const struct hf_kind kind = {.name = "close"};
	const struct hf_error ok = {HF_OK, ""};
	struct hf_op *op;

	if (!hf_engine_here(engine, err))
		return err->code;
	op = hf_op_new(engine, &kind, sizeof *op);
	pthread_mutex_lock(&engine->mutex);
	shut_locked(engine, tell, limit);
	if (op && engine->takes) {
		hf_op_ref(op);
		op->posted = true; /* nobody can stop it */
		hf_link_append(&engine->leavers, &op->post);
	} else if (op) {
		hf_op_finish_locked(op, &ok);
	}
	pthread_mutex_unlock(&engine->mutex);
	if (!op)
		return hf_err_set(err, HF_NOMEM, "out of memory; the client closes all the same");
	*out = op;
	return HF_OK;
}

void hf_engine_join(struct hf_engine *engine)
{
	struct hf_thread *thread;

	/* In one go: the thread may end, and be gone, as soon as it may have the mutex. */
	pthread_mutex_lock(&engine->mutex);
	thread = engine->thread;
	if (thread && !hf_process_claim(thread))
		thread = NULL;
	pthread_mutex_unlock(&engine->mutex);
	if (thread)
		hf_process_join(thread);
	else
		hf_process_reap();
}
