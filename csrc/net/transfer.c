#include "net/transfer.h"

#include "base/alloc.h"

struct hf_http *hf_transfer_http(struct hf_engine *engine)
{
	if (engine->spare_count)
		return engine->spare[--engine->spare_count];
	return hf_calloc(1, sizeof(struct hf_http));
}

static void drop_http(struct hf_http *http)
{
	hf_http_free(http);
	hf_free(http);
}

void hf_transfer_give(struct hf_op *op, struct hf_http *http)
{
	struct hf_engine *engine = op->engine;

	if (!http || op->owns_http)
		return;
	op->http = NULL;
	hf_http_reset(http);
	/* Megabytes were an exception: their memory is not kept. */
	if (http->reply.size + http->body.size + http->url.size <= 64 * 1024 &&
	    engine->spare_count < sizeof engine->spare / sizeof *engine->spare)
		engine->spare[engine->spare_count++] = http;
	else
		drop_http(http);
}

static void give_easy(struct hf_engine *engine, CURL *easy)
{
	if (engine->idle_count < sizeof engine->idle / sizeof *engine->idle)
		engine->idle[engine->idle_count++] = easy;
	else
		hf_http_free_easy(easy);
}

void hf_transfer_end(struct hf_op *op)
{
	struct hf_engine *engine = op->engine;
	CURL *easy = op->http->easy;

	hf_http_end(op->http, easy);
	curl_multi_remove_handle(engine->multi, easy);
	give_easy(engine, easy);
	engine->lanes[op->lane].flying--;
	op->http->easy = NULL;
	op->state = HF_NEW;
}

void hf_transfer_abort(struct hf_op *op)
{
	struct hf_http *http = op->http;

	hf_transfer_end(op);
	hf_transfer_give(op, http);
}

/* No more connections are kept open than all lanes may use. */
static void keep(const struct hf_engine *engine, CURLM *multi)
{
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long)(HF_CONNECTIONS + engine->most));
}

CURLM *hf_transfer_multi(struct hf_engine *engine)
{
	CURLM *multi = curl_multi_init();

	if (!multi)
		return NULL;
	hf_sockets_serve(&engine->sockets, multi);
	keep(engine, multi);
	return multi;
}

/* After libcurl has run out of memory. Nothing is in flight. */
static bool mend(struct hf_engine *engine)
{
	CURLM *fresh = hf_transfer_multi(engine), *old = engine->multi;

	if (!fresh)
		return false;
	pthread_mutex_lock(&engine->mutex);
	engine->multi = fresh;
	pthread_mutex_unlock(&engine->mutex);
	curl_multi_cleanup(old);
	engine->broken = false;
	return true;
}

bool hf_transfer_begin(struct hf_op *op)
{
	struct hf_engine *engine = op->engine;
	CURL *easy = NULL;

	if (!engine->broken || mend(engine))
		easy = engine->idle_count ? engine->idle[--engine->idle_count] : hf_http_new_easy();
	if (!easy) {
		hf_http_no_memory(op->http);
		return false;
	}
	op->http->fresh = op->fresh;
	op->http->guard = op->guard;
	if (hf_http_start(op->http, easy, &engine->connections)) {
		give_easy(engine, easy);
		return false;
	}
	hf_http_own(easy, op);
	if (curl_multi_add_handle(engine->multi, easy) != CURLM_OK) {
		hf_http_no_memory(op->http);
		give_easy(engine, easy);
		return false;
	}
	op->http->easy = easy;
	op->state = HF_FLYING;
	if (++engine->lanes[op->lane].flying > engine->most && op->lane == HF_USER) {
		engine->most = engine->lanes[HF_USER].flying;
		keep(engine, engine->multi);
	}
	pthread_mutex_lock(&engine->mutex);
	engine->requests++;
	pthread_mutex_unlock(&engine->mutex);
	return true;
}

void hf_transfer_free(struct hf_engine *engine)
{
	while (engine->idle_count)
		hf_http_free_easy(engine->idle[--engine->idle_count]);
	while (engine->spare_count)
		drop_http(engine->spare[--engine->spare_count]);
}
