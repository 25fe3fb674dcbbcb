#include "net/op.h"

#include "base/alloc.h"
#include "base/random.h"
#include "net/drive.h"
#include "net/process.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* ---- life ----------------------------------------------------------------------------------- */

void *hf_op_new(struct hf_engine *engine, const struct hf_kind *kind, size_t size)
{
	struct hf_op *op = hf_calloc(1, size);

	if (!op)
		return NULL;
	op->kind = kind;
	op->engine = engine;
	hf_engine_ref(engine);
	op->refs = 1;
	op->fd = -1;
	op->deadline = op->wake_at = HF_NEVER;
	hf_link_init(&op->post);
	hf_link_init(&op->all);
	hf_link_init(&op->place);
	hf_link_init(&op->guarded);
	hf_link_init(&op->seated);
	hf_process_count(HF_OPS, 1);
	return op;
}

void hf_op_ref(struct hf_op *op)
{
	atomic_fetch_add(&op->refs, 1);
}

void hf_op_unref(struct hf_op *op)
{
	struct hf_engine *engine;
	struct hf_guard *guard;

	if (!op || atomic_fetch_sub(&op->refs, 1) > 1)
		return;
	if (op->kind->cleanup)
		op->kind->cleanup(op);
	if (op->owns_http) {
		hf_http_free(op->http);
		hf_free(op->http);
	}
	if (op->fd >= 0)
		close(op->fd);
	engine = op->engine;
	guard = op->guard;
	hf_free(op->message);
	hf_free(op);
	if (guard)
		hf_op_unref(guard->owner);
	hf_engine_unref(engine);
	hf_process_count(HF_OPS, -1);
}

void hf_op_stand_on(struct hf_op *op, struct hf_guard *guard)
{
	hf_op_ref(guard->owner);
	op->guard = guard;
}

static void signal_fd(int fd)
{
	if (fd >= 0)
		eventfd_write(fd, 1); /* cannot fail: nobody reads, and one write is not too many */
}

void hf_op_finish_locked(struct hf_op *op, const struct hf_error *result)
{
	if (op->done)
		return;
	op->code = result->code;
	/* Without memory for the sentence the code's general one has to do. */
	op->message = result->code ? hf_strdup(result->message) : NULL;
	op->done = true;
	signal_fd(op->fd);
	if (op->seat)
		hf_seat_finished_locked(op);
}

void hf_op_finish(struct hf_op *op, const struct hf_error *result)
{
	pthread_mutex_lock(&op->engine->mutex);
	hf_op_finish_locked(op, result);
	pthread_mutex_unlock(&op->engine->mutex);
}

int64_t hf_op_deadline(int64_t timeout)
{
	/* The clock is read in whole milliseconds, rounded down: never early. */
	return timeout > 0 ? hf_now() + timeout + 1 : HF_NEVER;
}

enum hf_err hf_op_why(const struct hf_op *op, enum hf_err why, struct hf_error *err)
{
	if (why == HF_LOST && op->guard)
		hf_guard_explain(op->guard, err);
	else if (why == HF_CLOSED)
		hf_err_set(err, why, "the client of %s is closed", op->engine->name);
	else
		hf_err_set(err, why, "%s", hf_err_text(why));
	return why;
}

/* ---- for the caller ------------------------------------------------------------------------- */

bool hf_op_done(struct hf_op *op)
{
	bool done;

	if (!hf_engine_here(op->engine, NULL))
		return true;
	pthread_mutex_lock(&op->engine->mutex);
	done = op->done;
	pthread_mutex_unlock(&op->engine->mutex);
	return done;
}

int hf_fd_demand_locked(int *fd, bool readable, struct hf_error *err)
{
	if (*fd < 0)
		*fd = eventfd(readable, EFD_CLOEXEC | EFD_NONBLOCK);
	if (*fd < 0)
		hf_err_set(err, HF_NOMEM, "no file descriptor: %s", strerror(errno));
	return *fd;
}

int hf_op_fd(struct hf_op *op, struct hf_error *err)
{
	int fd;

	if (!hf_engine_here(op->engine, err))
		return -1;
	pthread_mutex_lock(&op->engine->mutex);
	fd = hf_fd_demand_locked(&op->fd, op->done, err);
	hf_engine_call_locked(op->engine);
	pthread_mutex_unlock(&op->engine->mutex);
	return fd;
}

bool hf_fd_wait(int fd, int64_t timeout, struct hf_error *err)
{
	bool ready = false;

	if (fd >= 0 && hf_poll(&fd, 1, timeout, &ready) < 0)
		hf_err_set(err, HF_NOMEM, "poll: %s", strerror(errno));
	return ready;
}

void hf_op_leave(struct hf_op *op)
{
	hf_op_unref(op);
}

enum hf_err hf_op_result(struct hf_op *op, struct hf_error *err)
{
	if (!hf_engine_here(op->engine, err))
		return err->code;
	err->code = HF_OK;
	pthread_mutex_lock(&op->engine->mutex);
	if (!op->done)
		hf_err_set(err, HF_TIMEOUT, "not finished yet");
	else if (op->code)
		hf_err_set(err, op->code, "%s", op->message ? op->message : hf_err_text(op->code));
	if (op->done && op->fd >= 0) { /* nobody waits any more, and descriptors are few */
		close(op->fd);
		op->fd = -1;
	}
	pthread_mutex_unlock(&op->engine->mutex);
	return err->code;
}

const struct hf_response *hf_op_response(struct hf_op *op)
{
	if (!hf_engine_here(op->engine, NULL) || !hf_op_done(op) || !op->responds)
		return NULL;
	return &((const struct hf_responding *)op)->response;
}

void hf_op_stop_locked(struct hf_op *op, enum hf_err why)
{
	if (op->stop || !op->engine->takes) /* without that all of them have ended */
		return;
	op->stop = why;
	if (op->posted) /* it is new: the thread will see */
		return;
	hf_op_ref(op);
	op->posted = true;
	hf_link_append(&op->engine->stops, &op->post);
	hf_engine_wake_locked(op->engine);
}

void hf_op_cancel(struct hf_op *op)
{
	if (!hf_engine_here(op->engine, NULL))
		return;
	pthread_mutex_lock(&op->engine->mutex);
	if (!op->done)
		hf_op_stop_locked(op, HF_CANCELED);
	pthread_mutex_unlock(&op->engine->mutex);
}

void hf_op_drop(struct hf_op *op)
{
	if (!op)
		return;
	hf_op_cancel(op);
	hf_op_unref(op);
}

/* ---- for kinds, on the thread --------------------------------------------------------------- */

enum hf_step hf_op_send(struct hf_op *op, enum hf_lane lane)
{
	hf_link_remove(&op->place);
	op->lane = lane;
	return HF_SEND;
}

enum hf_step hf_op_sleep(struct hf_op *op, int64_t at)
{
	hf_link_remove(&op->place);
	op->wake_at = at;
	return HF_SLEEP;
}

enum hf_step hf_op_park(struct hf_op *op, struct hf_link *waiting, int64_t at)
{
	hf_op_sleep(op, at);
	hf_link_append(waiting, &op->place);
	return HF_SLEEP;
}

int64_t hf_op_delay(struct hf_op *op)
{
	int64_t delay = op->retry_delay * 2;

	if (delay < HF_RETRY_MIN)
		delay = HF_RETRY_MIN;
	if (delay > HF_RETRY_MAX)
		delay = HF_RETRY_MAX;
	op->retry_delay = delay;
	op->fresh = op->broken && !op->fresh;
	return hf_now() + hf_jitter(delay / 2, delay);
}

enum hf_step hf_op_backoff(struct hf_op *op, int64_t limit)
{
	int64_t at = hf_op_delay(op);

	return hf_op_sleep(op, at < limit ? at : limit);
}

void hf_op_recovered(struct hf_op *op)
{
	op->retry_delay = 0;
	op->fresh = false;
}

struct hf_op *hf_wake_first(struct hf_link *waiting)
{
	struct hf_link *link = hf_link_first(waiting);

	if (!link)
		return NULL;
	hf_engine_ready(HF_OF(struct hf_op, place, link));
	return HF_OF(struct hf_op, place, link);
}

void hf_wake_all(struct hf_link *waiting)
{
	while (hf_wake_first(waiting))
		;
}

void hf_wake(struct hf_op *op)
{
	if (op && op->state == HF_PARKED)
		hf_engine_ready(op);
}
