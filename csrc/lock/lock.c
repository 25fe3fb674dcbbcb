/* lock.c: lock objects: what they are, what they say of themselves, and how a hold begins. Their
 * ops are in acquire.c, giveback.c and destroy.c. */
#include "lock/lock.h"

#include "base/alloc.h"
#include "base/config.h"
#include "net/process.h"

#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Messages name so many further keys of a lock. */
#define NAMED 3

/* ---- lock objects --------------------------------------------------------------------------- */

static void free_more(struct hf_more *more)
{
	if (!more)
		return;
	for (size_t i = 0; i < more->count; i++)
		hf_lock_unref(more->locks[i]);
	hf_free(more->name);
	hf_free(more);
}

static void lock_free(struct hf_lock *lock)
{
	struct hf_client *client = lock->client;

	free_more(lock->more);
	if (lock->session_opts) {
		hf_session_opts_free(lock->session_opts);
		hf_free(lock->session_opts);
	}
	if (lock->fd >= 0)
		close(lock->fd);
	hf_session_unref(lock->session);
	hf_free(lock->session_id);
	hf_free(lock);
	hf_engine_unref(&client->engine);
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

/* An object of another client's is a session made elsewhere. */
static bool use_handle(struct hf_lock *lock, struct hf_handle *handle, struct hf_session *session)
{
	if (!handle)
		return true;
	if (session->client != lock->client) {
		lock->session_id = hf_strdup(session->id);
		return lock->session_id != NULL;
	}
	hf_session_ref(session);
	lock->session = session;
	hf_handle_keep(handle);
	lock->handle = handle;
	return true;
}

/* The object of one key, with that and its value behind it: locks are many. */
static struct hf_lock *make(struct hf_client *client, const struct hf_lock_opts *opts,
			    const char *key)
{
	size_t key_size = strlen(key) + 1;
	struct hf_lock *lock = hf_calloc(1, sizeof *lock + key_size + opts->value_len);

	if (!lock)
		return NULL;
	lock->key = (char *)(lock + 1);
	memcpy(lock->key, key, key_size);
	lock->value = lock->key + key_size;
	lock->value_len = opts->value_len;
	if (opts->value_len)
		memcpy(lock->value, opts->value, opts->value_len);
	lock->ephemeral = opts->ephemeral;
	lock->flags = opts->flags ? opts->flags : HF_LOCK_FLAGS;
	lock->client = client;
	hf_engine_ref(&client->engine);
	hf_process_count(HF_LOCKS, 1);
	lock->refs = 1;
	lock->fd = -1;
	return lock;
}

/* The keys, as they are to stand between double quotes; of many only how many there are. */
static char *join_keys(const struct hf_lock_opts *opts)
{
	size_t shown = opts->more.count <= NAMED ? opts->more.count : 0;
	size_t size = strlen(opts->key) + sizeof "\" and \"64 more";
	char *name, *end;

	for (size_t i = 0; i < shown; i++)
		size += strlen(opts->more.items[i]) + strlen("\", \"");
	name = hf_malloc(size);
	if (!name)
		return NULL;
	end = stpcpy(name, opts->key);
	for (size_t i = 0; i < shown; i++)
		end = stpcpy(stpcpy(end, "\", \""), opts->more.items[i]);
	if (!shown)
		snprintf(end, size - (size_t)(end - name), "\" and \"%zu more", opts->more.count);
	return name;
}

static bool add_more(struct hf_lock *lock, const struct hf_lock_opts *opts)
{
	size_t count = opts->more.count;
	struct hf_more *more;

	if (!count)
		return true;
	more = hf_calloc(1, sizeof *more + count * sizeof *more->locks);
	if (!more)
		return false;
	lock->more = more;
	more->name = join_keys(opts);
	for (; more->count < count; more->count++) {
		more->locks[more->count] = make(lock->client, opts, opts->more.items[more->count]);
		if (!more->locks[more->count])
			return false;
	}
	return more->name != NULL;
}

static bool fill(struct hf_lock *lock, const struct hf_lock_opts *opts, struct hf_session *session)
{
	lock->max_hold = opts->max_hold;
	lock->monitor_key = opts->monitor_key;
	lock->session_id = hf_strdup(opts->session);
	return (!opts->session || lock->session_id) &&
	       copy_session_opts(lock, opts->session_opts) && add_more(lock, opts) &&
	       use_handle(lock, opts->handle, session);
}

static bool has_twice(const struct hf_lock_opts *opts)
{
	for (size_t i = 0; i < opts->more.count; i++) {
		if (!strcmp(opts->more.items[i], opts->key))
			return true;
		for (size_t j = 0; j < i; j++)
			if (!strcmp(opts->more.items[i], opts->more.items[j]))
				return true;
	}
	return false;
}

static enum hf_err check(struct hf_client *client, const struct hf_lock_opts *opts,
			 struct hf_error *err)
{
	err->code = HF_OK;
	if (opts->more.count >= HF_LOCK_KEYS_MAX)
		return hf_err_set(err, HF_TOO_LARGE, "more than %d keys at once", HF_LOCK_KEYS_MAX);
	if (has_twice(opts))
		return hf_err_set(err, HF_INVALID, "a key is there twice");
	pthread_mutex_lock(&client->engine.mutex);
	hf_engine_closed_locked(&client->engine, err);
	pthread_mutex_unlock(&client->engine.mutex);
	return err->code;
}

enum hf_err hf_lock_new(struct hf_client *client, const struct hf_lock_opts *opts,
			struct hf_lock **out, struct hf_error *err)
{
	struct hf_session *session = opts->handle ? hf_handle_session(opts->handle) : NULL;
	struct hf_lock *lock;

	if (!hf_engine_here(&client->engine, err) || check(client, opts, err))
		return err->code;
	if (opts->handle && !session)
		return hf_err_set(err, HF_SESSION, "the session has not been made");
	lock = make(client, opts, opts->key);
	if (!lock || !fill(lock, opts, session)) {
		hf_lock_unref(lock);
		return hf_err_set(err, HF_NOMEM, "out of memory");
	}
	*out = lock;
	return HF_OK;
}

size_t hf_lock_count(const struct hf_lock *lock)
{
	return lock->more ? lock->more->count + 1 : 1;
}

struct hf_lock *hf_lock_part(struct hf_lock *lock, size_t i)
{
	return i ? lock->more->locks[i - 1] : lock;
}

struct hf_client *hf_lock_client(struct hf_lock *lock)
{
	return lock->client;
}

const char *hf_lock_key(struct hf_lock *lock)
{
	return lock->key;
}

/* ---- what it says of itself ----------------------------------------------------------------- */

bool hf_lock_held_locked(struct hf_lock *lock)
{
	/* Looking at the session may end the hold. */
	if (!lock->hold || !hf_session_alive_locked(lock->hold->session))
		return false;
	if (hf_now() >= lock->hold->guard.ends)
		hf_hold_end_locked(lock->hold, HF_BY_EXPIRED);
	return lock->hold != NULL;
}

void hf_lock_state(struct hf_lock *lock, struct hf_lock_state *out)
{
	*out = (struct hf_lock_state){.reason = HF_BY_FORKED, .lost = true};
	if (!hf_engine_here(&lock->client->engine, NULL))
		return;
	pthread_mutex_lock(&lock->client->engine.mutex);
	out->held = hf_lock_held_locked(lock);
	out->lost = lock->lost;
	out->reason = lock->reason;
	if (out->held) {
		out->token = lock->hold->token;
		out->until = atomic_load(&lock->hold->session->deadline);
		if (lock->hold->guard.ends < out->until)
			out->until = lock->hold->guard.ends;
	}
	pthread_mutex_unlock(&lock->client->engine.mutex);
}

void hf_lock_session(struct hf_lock *lock, char *out, size_t size)
{
	const char *id;

	*out = '\0';
	if (!hf_engine_here(&lock->client->engine, NULL))
		return;
	pthread_mutex_lock(&lock->client->engine.mutex);
	id = hf_lock_held_locked(lock) ? lock->hold->session->id
	     : lock->session	       ? lock->session->id
				       : lock->session_id;
	snprintf(out, size, "%s", id ? id : "");
	pthread_mutex_unlock(&lock->client->engine.mutex);
}

enum hf_err hf_lock_not_held_locked(struct hf_lock *lock, struct hf_error *err)
{
	if (lock->lost)
		return hf_err_set(err, HF_LOST, "the %s on \"%s\" has been lost: %s",
				  hf_lock_noun(lock), hf_lock_name(lock),
				  hf_reason_text(lock->reason));
	return hf_err_set(err, HF_NOT_HELD, "the %s on \"%s\" is not held", hf_lock_noun(lock),
			  hf_lock_name(lock));
}

int hf_lock_fd(struct hf_lock *lock, struct hf_error *err)
{
	int fd;

	if (!hf_engine_here(&lock->client->engine, err))
		return -1;
	pthread_mutex_lock(&lock->client->engine.mutex);
	fd = hf_fd_demand_locked(&lock->fd, !lock->hold, err);
	pthread_mutex_unlock(&lock->client->engine.mutex);
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

/* ---- the beginning of it --------------------------------------------------------------------- */

enum hf_err hf_lock_start_locked(struct hf_lock *lock, struct hf_op *op, struct hf_error *err)
{
	struct hf_engine *engine = &lock->client->engine;

	if (hf_engine_closed_locked(engine, err))
		return err->code;
	if (hf_lock_held_locked(lock))
		return hf_err_set(err, HF_HELD, "this object holds the %s on \"%s\" already",
				  hf_lock_noun(lock), hf_lock_name(lock));
	if (lock->acquiring)
		return hf_err_set(err, HF_HELD,
				  "another call on this object is acquiring the %s on \"%s\"",
				  hf_lock_noun(lock), hf_lock_name(lock));
	if (hf_engine_submit_locked(engine, op, err))
		return err->code;
	lock->acquiring = op;
	lock->lost = false;
	lock->reason = HF_NO_REASON;
	return HF_OK;
}

/* ---- holds ---------------------------------------------------------------------------------- */

void hf_lock_begin_hold_locked(struct hf_hold *hold, int64_t sent)
{
	struct hf_lock *lock = hold->lock;
	struct hf_client *client = lock->client;
	struct hf_session *session = hold->session;
	int64_t lease = sent + hf_session_lease(session);
	eventfd_t ignored;

	hf_op_ref(&hold->op);
	lock->hold = hold;
	lock->lost = false;
	lock->reason = HF_NO_REASON;
	hold->guard.until = &session->deadline;
	if (lock->max_hold)
		hold->guard.ends = hf_now() + lock->max_hold;
	hold->was_held = true;
	/* The lease of an external session begins with the first hold, and has no other proof yet.
	 */
	if (session->external && (!session->held || lease > atomic_load(&session->deadline)))
		atomic_store(&session->deadline, lease);
	hf_link_append(&session->holds, &hold->place);
	session->held++;
	if (lock->fd >= 0)
		eventfd_read(lock->fd, &ignored);
	client->stats.acquired++;
	client->stats.locks_held++;
}

/* ---- the end of it -------------------------------------------------------------------------- */

enum hf_err hf_lock_release(struct hf_lock *lock, int64_t timeout, struct hf_op **out,
			    struct hf_error *err)
{
	struct hf_engine *engine = &lock->client->engine;

	if (!hf_engine_here(engine, err))
		return err->code;
	err->code = HF_OK;
	pthread_mutex_lock(&engine->mutex);
	if (hf_engine_closed_locked(engine, err)) {
		;
	} else if (!hf_lock_held_locked(lock)) {
		hf_lock_not_held_locked(lock, err);
	} else {
		*out = hf_hold_release_locked(lock, timeout);
	}
	pthread_mutex_unlock(&engine->mutex);
	return err->code;
}

static void let_go_locked(struct hf_lock *lock, struct hf_op **giveback)
{
	if (hf_lock_held_locked(lock))
		*giveback = hf_hold_release_locked(lock, -1);
	else if (lock->acquiring)
		hf_op_stop_locked(lock->acquiring, HF_CANCELED);
}

/* In one go: an acquire that wins meanwhile would have nobody to give its hold back. */
void hf_lock_let_go(struct hf_lock *lock)
{
	struct hf_engine *engine = &lock->client->engine;
	struct hf_op *giveback = NULL;

	if (!hf_engine_here(engine, NULL))
		return;
	pthread_mutex_lock(&engine->mutex);
	if (!engine->closing)
		let_go_locked(lock, &giveback);
	pthread_mutex_unlock(&engine->mutex);
	hf_op_unref(giveback);
}

void hf_lock_drop(struct hf_lock *lock)
{
	if (!lock)
		return;
	hf_lock_let_go(lock);
	hf_handle_drop(lock->handle);
	hf_lock_unref(lock);
}

void hf_lock_cancel(struct hf_lock *lock)
{
	struct hf_engine *engine = &lock->client->engine;

	if (!hf_engine_here(engine, NULL))
		return;
	pthread_mutex_lock(&engine->mutex);
	if (lock->acquiring && !engine->closing)
		hf_op_stop_locked(lock->acquiring, HF_CANCELED);
	pthread_mutex_unlock(&engine->mutex);
}
