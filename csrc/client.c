#include "alloc.h"
#include "config.h"
#include "hf_int.h"

#include <unistd.h>

bool hf_client_here(struct hf_client *client, struct hf_error *err)
{
	if (client->pid == getpid())
		return true;
	hf_err_set(err, HF_FORKED,
		   "the client was made before a fork, by process %ld: make one in the child",
		   (long)client->pid);
	return false;
}

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
	client->headers = hf_http_consul_headers(&client->opts);
	if (!client->headers)
		goto err2;
	client->connect_to = hf_http_connect_to(&client->opts);
	if (opts->connect_to && !client->connect_to)
		goto err3;
	client->pid = getpid();
	client->refs = 1;
	client->inbox_end = &client->inbox;
	pthread_mutex_init(&client->mutex, NULL);
	hf_process_count(HF_CLIENTS, 1);
	*out = client;
	return HF_OK;
err3:
	hf_http_free_headers(client->headers);
err2:
	hf_client_opts_free(&client->opts);
err1:
	hf_free(client);
err0:
	return hf_err_set(err, HF_NOMEM, "out of memory");
}

void hf_client_ref(struct hf_client *client)
{
	atomic_fetch_add(&client->refs, 1);
}

void hf_client_unref(struct hf_client *client)
{
	if (!client || atomic_fetch_sub(&client->refs, 1) > 1)
		return;
	pthread_mutex_destroy(&client->mutex);
	hf_http_free_headers(client->headers);
	hf_http_free_headers(client->connect_to);
	hf_client_opts_free(&client->opts);
	hf_free(client);
	hf_process_count(HF_CLIENTS, -1);
}

enum hf_err hf_client_closed_locked(struct hf_client *client, struct hf_error *err)
{
	if (!client->closing)
		return HF_OK;
	return hf_err_set(err, HF_CLOSED, "the client of %s is closed", client->opts.base);
}

bool hf_client_is_closing(struct hf_client *client)
{
	bool closing;

	pthread_mutex_lock(&client->mutex);
	closing = client->closing;
	pthread_mutex_unlock(&client->mutex);
	return closing;
}

enum hf_err hf_client_submit_locked(struct hf_client *client, struct hf_op *op,
				    struct hf_error *err)
{
	if (hf_client_closed_locked(client, err))
		return err->code;
	if (!client->thread && !hf_worker_start_locked(client))
		return hf_err_set(err, HF_NOMEM, "the client's thread could not be started");
	atomic_fetch_add(&op->refs, 1);
	*client->inbox_end = op;
	client->inbox_end = &op->inbox_next;
	hf_worker_wake_locked(client);
	return HF_OK;
}

static void shut_locked(struct hf_client *client, bool tell, int64_t limit)
{
	int64_t close_by = hf_now() + limit;

	if (!client->closing || client->close_by > close_by)
		client->close_by = close_by;
	client->closing = true;
	client->abandoned |= !tell;
	hf_worker_wake_locked(client);
}

void hf_client_shut(struct hf_client *client, bool tell, int64_t limit)
{
	pthread_mutex_lock(&client->mutex);
	shut_locked(client, tell, limit);
	pthread_mutex_unlock(&client->mutex);
}

enum hf_err hf_client_close(struct hf_client *client, bool tell, struct hf_error *err)
{
	struct hf_thread *thread;

	if (!hf_client_here(client, err))
		return err->code;
	pthread_mutex_lock(&client->mutex);
	shut_locked(client, tell, HF_CLOSE_MS);
	/* In one go: the worker may end, and be gone, as soon as it may have the mutex. */
	thread = client->thread;
	if (thread && !hf_process_claim(thread))
		thread = NULL;
	pthread_mutex_unlock(&client->mutex);
	if (thread)
		hf_process_join(thread);
	return HF_OK;
}

void hf_client_drop(struct hf_client *client)
{
	if (client && hf_client_here(client, NULL)) {
		hf_client_shut(client, true, HF_CLOSE_MS);
		hf_process_reap();
	}
	hf_client_unref(client);
}

const char *hf_client_base(const struct hf_client *client)
{
	return client->opts.base;
}

enum hf_err hf_client_stats(struct hf_client *client, struct hf_stats *out, struct hf_error *err)
{
	long connections;

	if (!hf_client_here(client, err))
		return err->code;
	connections = atomic_load(&client->connections);
	pthread_mutex_lock(&client->mutex);
	*out = client->stats;
	pthread_mutex_unlock(&client->mutex);
	out->connections = connections > 0 ? (uint64_t)connections : 0;
	return HF_OK;
}
