#include "alloc.h"
#include "hf_int.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* ---- life --------------------------------------------------------------------------------- */

void *hf_op_new(struct hf_client *client, const struct hf_kind *kind, size_t size)
{
	struct hf_op *op = hf_calloc(1, size);

	if (!op)
		return NULL;
	op->kind = kind;
	op->client = client;
	hf_client_ref(client);
	op->refs = 1;
	op->fd = -1;
	op->deadline = HF_NEVER;
	hf_process_count(HF_OPS, 1);
	return op;
}

void hf_op_unref(struct hf_op *op)
{
	struct hf_client *client;
	struct hf_lock *guard;

	if (!op || atomic_fetch_sub(&op->refs, 1) > 1)
		return;
	if (op->kind->cleanup)
		op->kind->cleanup(op);
	hf_http_free(&op->http);
	if (op->fd >= 0)
		close(op->fd);
	client = op->client;
	guard = op->guard;
	hf_free(op);
	hf_lock_unref(guard);
	hf_client_unref(client);
	hf_process_count(HF_OPS, -1);
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
	op->result = *result;
	op->done = true;
	signal_fd(op->fd);
}

void hf_op_finish(struct hf_op *op, const struct hf_error *result)
{
	pthread_mutex_lock(&op->client->mutex);
	hf_op_finish_locked(op, result);
	pthread_mutex_unlock(&op->client->mutex);
}

void hf_op_stop_locked(struct hf_op *op, enum hf_err why)
{
	if (!op->stop)
		op->stop = why;
	op->client->sweep = true;
	hf_worker_wake_locked(op->client);
}

int64_t hf_op_deadline(int64_t timeout)
{
	/* The clock is read in whole milliseconds, rounded down: never early. */
	return timeout > 0 ? hf_now() + timeout + 1 : HF_NEVER;
}

/* ---- for the caller ----------------------------------------------------------------------- */

bool hf_op_done(struct hf_op *op)
{
	bool done;

	if (!hf_client_here(op->client, NULL))
		return true;
	pthread_mutex_lock(&op->client->mutex);
	done = op->done;
	pthread_mutex_unlock(&op->client->mutex);
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

	if (!hf_client_here(op->client, err))
		return -1;
	pthread_mutex_lock(&op->client->mutex);
	fd = hf_fd_demand_locked(&op->fd, op->done, err);
	pthread_mutex_unlock(&op->client->mutex);
	return fd;
}

bool hf_fd_wait(int fd, int64_t timeout, struct hf_error *err)
{
	bool ready = false;

	if (fd >= 0 && hf_poll(&fd, 1, timeout, &ready) < 0)
		hf_err_set(err, HF_NOMEM, "poll: %s", strerror(errno));
	return ready;
}

bool hf_op_wait(struct hf_op *op, int64_t timeout, struct hf_error *err)
{
	err->code = HF_OK;
	if (hf_op_done(op))
		return true;
	if (timeout != 0)
		hf_fd_wait(hf_op_fd(op, err), timeout, err);
	return hf_op_done(op);
}

void hf_op_leave(struct hf_op *op)
{
	hf_op_unref(op);
}

enum hf_err hf_op_result(struct hf_op *op, struct hf_error *err)
{
	if (!hf_client_here(op->client, err))
		return err->code;
	pthread_mutex_lock(&op->client->mutex);
	if (op->done)
		*err = op->result;
	else
		hf_err_set(err, HF_TIMEOUT, "not finished yet");
	pthread_mutex_unlock(&op->client->mutex);
	return err->code;
}

void hf_op_cancel(struct hf_op *op)
{
	if (!hf_client_here(op->client, NULL))
		return;
	pthread_mutex_lock(&op->client->mutex);
	if (!op->done)
		hf_op_stop_locked(op, HF_CANCELED);
	pthread_mutex_unlock(&op->client->mutex);
}

void hf_op_drop(struct hf_op *op)
{
	if (!op)
		return;
	hf_op_cancel(op);
	hf_op_unref(op);
}

/* ---- for kinds, on the worker ------------------------------------------------------------- */

int64_t hf_jitter(int64_t least, int64_t most)
{
	uint32_t random = UINT32_MAX / 2;

	hf_random(&random, sizeof random);
	return least + (int64_t)((double)random / UINT32_MAX * (double)(most - least));
}

enum hf_err hf_op_why(const struct hf_op *op, enum hf_err why, struct hf_error *err)
{
	enum hf_reason reason;

	switch (why) {
	case HF_CLOSED:
		return hf_err_set(err, why, "the client of %s is closed", op->client->opts.base);
	case HF_LOST:
		pthread_mutex_lock(&op->client->mutex);
		reason = op->guard->reason;
		pthread_mutex_unlock(&op->client->mutex);
		return hf_err_set(err, why, "the hold of \"%s\" has ended: %s",
				  hf_lock_key(op->guard), hf_reason_text(reason));
	default:
		return hf_err_set(err, why, "%s", hf_err_text(why));
	}
}

enum hf_step hf_op_sleep(struct hf_op *op, int64_t at, const void *on)
{
	op->wake_at = at;
	op->parked_on = on;
	return HF_SLEEP;
}

enum hf_step hf_op_backoff(struct hf_op *op, int64_t limit)
{
	int64_t delay = op->retry_delay * 2, at;

	if (delay < HF_RETRY_MIN)
		delay = HF_RETRY_MIN;
	if (delay > HF_RETRY_MAX)
		delay = HF_RETRY_MAX;
	op->retry_delay = delay;
	at = hf_now() + hf_jitter(delay / 2, delay);
	return hf_op_sleep(op, at < limit ? at : limit, NULL);
}

static bool wake(struct hf_op *op, const void *on)
{
	if (op->state != HF_SLEEPING || op->parked_on != on)
		return false;
	op->wake_at = 0;
	op->parked_on = NULL;
	return true;
}

void hf_wake_first(struct hf_client *client, const void *on)
{
	for (struct hf_op *op = client->ops; op; op = op->next)
		if (wake(op, on))
			return;
}

void hf_wake_all(struct hf_client *client, const void *on)
{
	for (struct hf_op *op = client->ops; op; op = op->next)
		wake(op, on);
}
