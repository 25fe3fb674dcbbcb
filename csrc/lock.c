/* lock.c: lock objects: what they are, what they say of themselves, and how a hold begins and ends
 * on this side. Their ops are in acquire.c, release.c and destroy.c. */
#include "alloc.h"
#include "config.h"
#include "hf_int.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* ---- lock objects ------------------------------------------------------------------------- */

static void lock_free(struct hf_lock *lock)
{
	struct hf_client *client = lock->client;

	if (lock->session_opts) {
		hf_session_opts_free(lock->session_opts);
		hf_free(lock->session_opts);
	}
	hf_session_unref(lock->session);
	hf_op_unref(lock->spare);
	if (lock->fd >= 0)
		close(lock->fd);
	hf_free(lock->session_id);
	hf_free(lock->key);
	hf_free(lock->value);
	hf_free(lock);
	hf_client_unref(client);
	hf_process_count(HF_LOCKS, -1);
}

void hf_lock_ref(struct hf_lock *lock)
{
	atomic_fetch_add(&lock->refs, 1);
}

void hf_lock_unref(struct hf_lock *lock)
{
	if (lock && atomic_fetch_sub(&lock->refs, 1) == 1)
		lock_free(lock);
}

static bool copy_session_opts(struct hf_lock *lock, const struct hf_session_opts *opts)
{
	if (!opts)
		return true;
	lock->session_opts = hf_calloc(1, sizeof *lock->session_opts);
	return lock->session_opts && hf_session_opts_copy(lock->session_opts, opts);
}

enum hf_err hf_lock_new(struct hf_client *client, const struct hf_lock_opts *opts,
			struct hf_lock **out, struct hf_error *err)
{
	struct hf_lock *lock;

	if (!hf_client_here(client, err))
		return err->code;
	err->code = HF_OK;
	pthread_mutex_lock(&client->mutex);
	hf_client_closed_locked(client, err);
	pthread_mutex_unlock(&client->mutex);
	if (err->code)
		return err->code;
	lock = hf_calloc(1, sizeof *lock);
	if (!lock)
		return hf_err_set(err, HF_NOMEM, "out of memory");
	lock->client = client;
	hf_client_ref(client);
	hf_process_count(HF_LOCKS, 1);
	lock->refs = 1;
	lock->fd = -1;
	lock->key = hf_strdup(opts->key);
	lock->value = hf_memdup(opts->value, opts->value_len);
	lock->value_len = opts->value_len;
	lock->session_id = hf_strdup(opts->session);
	lock->monitor_key = opts->monitor_key;
	if (!lock->key || !lock->value || (opts->session && !lock->session_id) ||
	    !copy_session_opts(lock, opts->session_opts)) {
		lock_free(lock);
		return hf_err_set(err, HF_NOMEM, "out of memory");
	}
	*out = lock;
	return HF_OK;
}

struct hf_client *hf_lock_client(struct hf_lock *lock)
{
	return lock->client;
}

const char *hf_lock_key(struct hf_lock *lock)
{
	return lock->key;
}

/* ---- what it says of itself --------------------------------------------------------------- */

bool hf_lock_held_locked(struct hf_lock *lock)
{
	return lock->held && hf_session_alive_locked(lock->session);
}

void hf_lock_state(struct hf_lock *lock, struct hf_lock_state *out)
{
	int64_t left;

	*out = (struct hf_lock_state){.reason = HF_BY_FORKED, .lost = true};
	if (!hf_client_here(lock->client, NULL))
		return;
	pthread_mutex_lock(&lock->client->mutex);
	out->held = hf_lock_held_locked(lock);
	out->lost = lock->lost;
	out->reason = lock->reason;
	if (out->held) {
		left = lock->session->deadline - hf_now();
		out->remaining = lock->session->deadline == HF_NEVER ? HF_NEVER : left;
		out->token = lock->token;
		memcpy(out->session, lock->session->id, sizeof out->session);
	} else if (lock->session_id) {
		strncpy(out->session, lock->session_id, sizeof out->session - 1);
	}
	pthread_mutex_unlock(&lock->client->mutex);
}

enum hf_err hf_lock_not_held_locked(struct hf_lock *lock, struct hf_error *err)
{
	if (lock->lost)
		return hf_err_set(err, HF_LOST, "the lock on \"%s\" has been lost: %s", lock->key,
				  hf_reason_text(lock->reason));
	return hf_err_set(err, HF_NOT_HELD, "the lock on \"%s\" is not held", lock->key);
}

int hf_lock_fd(struct hf_lock *lock, struct hf_error *err)
{
	int fd;

	if (!hf_client_here(lock->client, err))
		return -1;
	pthread_mutex_lock(&lock->client->mutex);
	fd = hf_fd_demand_locked(&lock->fd, !lock->held, err);
	pthread_mutex_unlock(&lock->client->mutex);
	return fd;
}

bool hf_lock_wait(struct hf_lock *lock, int64_t timeout, struct hf_error *err)
{
	struct hf_lock_state state;

	err->code = HF_OK;
	hf_lock_state(lock, &state);
	if (!state.held)
		return true;
	if (timeout != 0)
		hf_fd_wait(hf_lock_fd(lock, err), timeout, err);
	hf_lock_state(lock, &state);
	return !state.held;
}

/* ---- holds -------------------------------------------------------------------------------- */

void hf_lock_begin_hold_locked(struct hf_lock *lock, struct hf_session *session, uint64_t token)
{
	struct hf_session *before = lock->session;
	eventfd_t ignored;

	hf_lock_ref(lock); /* the hold's, handed on when it ends */
	atomic_fetch_add(&session->refs, 1);
	lock->session = session;
	lock->held = true;
	lock->lost = false;
	lock->reason = HF_NO_REASON;
	lock->token = token;
	lock->hold++;
	lock->hold_prev = NULL;
	lock->hold_next = session->holds;
	if (session->holds)
		session->holds->hold_prev = lock;
	session->holds = lock;
	if (lock->fd >= 0)
		eventfd_read(lock->fd, &ignored);
	lock->client->stats.acquired++;
	lock->client->stats.locks_held++;
	hf_session_unref(before);
}

/* Guarded requests find out by the changed number, whoever waits for the loss by the fd. The
 * hold's reference on the lock is the caller's now. */
void hf_lock_end_hold_locked(struct hf_lock *lock, enum hf_reason reason)
{
	struct hf_client *client = lock->client;
	struct hf_session *session = lock->session;

	*(lock->hold_prev ? &lock->hold_prev->hold_next : &session->holds) = lock->hold_next;
	if (lock->hold_next)
		lock->hold_next->hold_prev = lock->hold_prev;
	lock->held = false;
	lock->lost = reason != HF_BY_RELEASED;
	lock->reason = reason;
	lock->token = 0;
	lock->hold++;
	if (lock->fd >= 0)
		eventfd_write(lock->fd, 1);
	client->stats.locks_held--;
	if (lock->lost)
		client->stats.losses[reason]++;
	client->sweep = true;
	hf_worker_wake_locked(client);
}

void hf_lock_end_locked(struct hf_lock *lock, enum hf_reason reason)
{
	if (!lock->held)
		return;
	hf_lock_end_hold_locked(lock, reason);
	lock->ended_next = lock->client->ended;
	lock->client->ended = lock;
}

/* A session that was made for one hold goes with it. */
void hf_lock_after_hold(const struct hf_lock *lock, struct hf_session *session)
{
	if (lock->session_opts)
		hf_session_close(session);
	else
		hf_session_settle(session);
}

void hf_lock_cleared(struct hf_lock *lock)
{
	struct hf_session *session;

	pthread_mutex_lock(&lock->client->mutex);
	session = lock->session;
	atomic_fetch_add(&session->refs, 1);
	pthread_mutex_unlock(&lock->client->mutex);
	hf_key_put(lock->slot, true);
	lock->slot = NULL;
	hf_lock_after_hold(lock, session);
	hf_session_unref(session);
	hf_lock_unref(lock);
}

/* ---- the end of it ------------------------------------------------------------------------ */

void hf_lock_drop(struct hf_lock *lock)
{
	struct hf_error ignored;
	struct hf_op *op = NULL;

	if (!lock)
		return;
	if (!hf_lock_release(lock, -1, &op, &ignored))
		hf_op_leave(op);
	else
		hf_lock_cancel(lock);
	hf_lock_unref(lock);
}

void hf_lock_cancel(struct hf_lock *lock)
{
	struct hf_client *client = lock->client;

	if (!hf_client_here(client, NULL))
		return;
	pthread_mutex_lock(&client->mutex);
	if (lock->acquiring && !client->closing)
		hf_op_stop_locked(lock->acquiring, HF_CANCELED);
	pthread_mutex_unlock(&client->mutex);
}
