#include "net/transfer.h"

#include "base/alloc.h"

struct hf_http *hf_transfer_http(struct hf_engine *engine)
{
	struct hf_http *http = engine->spare;

	if (!http)
		return hf_calloc(1, sizeof *http);
	engine->spare = http->next;
	return http;
}

void hf_transfer_give(struct hf_op *op, struct hf_http *http)
{
	if (!http || op->owns_http)
		return;
	op->http = NULL;
	hf_http_reset(http);
	/* Megabytes were an exception: their memory is not kept. */
	if (http->reply.size + http->body.size + http->url.size > 64 * 1024)
		hf_http_free(http);
	http->next = op->engine->spare;
	op->engine->spare = http;
}

/* One that has served another request of the user's, NULL when there is none. */
static CURL *take_easy(struct hf_engine *engine)
{
	CURL *easy = engine->idle;

	if (easy)
		engine->idle = hf_http_owner(easy);
	return easy;
}

/* A request of the user's goes away, and its easy handle serves the next one, unless there was an
 * error: see hf_http_reset. */
static void give_easy(struct hf_op *op)
{
	CURL *easy = op->http->easy;

	if (!op->owns_http || !easy)
		return;
	op->http->easy = NULL;
	if (op->http->error) {
		hf_http_free_easy(easy);
		return;
	}
	hf_http_own(easy, op->engine->idle);
	op->engine->idle = easy;
}

void hf_transfer_end(struct hf_op *op)
{
	struct hf_engine *engine = op->engine;

	curl_multi_remove_handle(engine->multi, op->http->easy);
	give_easy(op);
	engine->lanes[op->lane].flying--;
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

static bool begin(struct hf_op *op)
{
	struct hf_engine *engine = op->engine;
	struct hf_http *http = op->http;

	http->fresh = op->fresh;
	http->guard = op->guard;
	if (op->owns_http)
		http->easy = take_easy(engine);
	if (!engine->broken || mend(engine)) {
		if (hf_http_start(http, &engine->connections))
			return false;
		hf_http_own(http->easy, op);
		if (curl_multi_add_handle(engine->multi, http->easy) == CURLM_OK)
			return true;
	}
	hf_http_no_memory(http);
	return false;
}

static size_t flying_for_the_user(const struct hf_engine *engine)
{
	size_t flying = 0;

	for (int lane = HF_USER; lane < HF_LANES; lane++)
		flying += engine->lanes[lane].flying;
	return flying;
}

bool hf_transfer_begin(struct hf_op *op)
{
	struct hf_engine *engine = op->engine;

	if (!begin(op)) {
		give_easy(op);
		return false;
	}
	op->state = HF_FLYING;
	engine->lanes[op->lane].flying++;
	if (op->lane >= HF_USER && flying_for_the_user(engine) > engine->most) {
		engine->most = flying_for_the_user(engine);
		keep(engine, engine->multi);
	}
	pthread_mutex_lock(&engine->mutex);
	engine->requests++;
	pthread_mutex_unlock(&engine->mutex);
	return true;
}

void hf_transfer_free(struct hf_engine *engine)
{
	while (engine->idle)
		hf_http_free_easy(take_easy(engine));
	while (engine->spare) {
		struct hf_http *http = hf_transfer_http(engine);

		hf_http_free(http);
		hf_free(http);
	}
}
