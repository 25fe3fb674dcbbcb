#include "net/transfer.h"

#include "base/alloc.h"
#include "net/turn.h"

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

static CURLM **pool_of(struct hf_op *op)
{
	return &op->engine->pools[op->http->together ? HF_TOGETHER : HF_APART];
}

void hf_transfer_end(struct hf_op *op)
{
	struct hf_engine *engine = op->engine;

	curl_multi_remove_handle(*pool_of(op), op->http->easy);
	hf_http_end(op->http);
	engine->apart |= hf_http_went_apart(op->http);
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

/* A pool in place of the one that there may be, in which nothing is in flight. */
static bool make_pool(struct hf_engine *engine, enum hf_pool which)
{
	CURLM *multi = curl_multi_init();

	if (!multi)
		return false;
	curl_multi_cleanup(engine->pools[which]);
	engine->pools[which] = multi;
	hf_sockets_serve(&engine->sockets, which, multi);
	keep(engine, multi);
	return true;
}

bool hf_transfer_open(struct hf_engine *engine)
{
	return make_pool(engine, HF_APART);
}

void hf_transfer_close(struct hf_engine *engine)
{
	for (int i = 0; i < HF_POOLS; i++) {
		curl_multi_cleanup(engine->pools[i]);
		engine->pools[i] = NULL;
	}
	hf_gauge_free(&engine->connections);
}

/* After libcurl has run out of memory. Nothing is in flight. */
static bool mend(struct hf_engine *engine)
{
	engine->broken = !make_pool(engine, HF_APART) ||
			 (engine->pools[HF_TOGETHER] && !make_pool(engine, HF_TOGETHER));
	return !engine->broken;
}

/* What waits goes together over TLS, on one connection when the server speaks HTTP/2. Renewals and
 * commands never do: they neither queue behind it nor end with it. */
static bool goes_together(const struct hf_op *op)
{
	return op->http->peer && op->http->peer->multiplex &&
	       (op->lane == HF_WATCH || op->lane == HF_POLL);
}

static void begin_anew(struct hf_engine *engine)
{
	struct hf_link *link;

	for (link = hf_link_first(&engine->ops); link; link = hf_link_after(&engine->ops, link)) {
		struct hf_op *op = HF_OF(struct hf_op, all, link);

		if (op->state == HF_FLYING && op->http->together)
			hf_engine_again(op);
	}
}

/* Sees to it that there is a pool to go together in. Who wants a new connection gets a new pool,
 * and so do all who are in the old one: what made one of them doubt it is true for them too. */
static bool join(struct hf_op *op)
{
	struct hf_engine *engine = op->engine;
	bool doubts = op->fresh && op->pooling == engine->poolings && !engine->apart;

	if (doubts || !engine->pools[HF_TOGETHER]) {
		begin_anew(engine);
		if (!make_pool(engine, HF_TOGETHER))
			return false;
		engine->poolings++;
	}
	op->pooling = engine->poolings;
	return true;
}

static bool begin(struct hf_op *op)
{
	struct hf_engine *engine = op->engine;
	struct hf_http *http = op->http;

	http->together = goes_together(op);
	http->fresh = op->fresh && (!http->together || engine->apart);
	http->guard = op->guard;
	if (op->owns_http)
		http->easy = take_easy(engine);
	if ((!engine->broken || mend(engine)) && (!http->together || join(op))) {
		if (hf_http_start(http, &engine->connections))
			return false;
		hf_http_own(http->easy, op);
		if (curl_multi_add_handle(*pool_of(op), http->easy) == CURLM_OK)
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
		keep(engine, engine->pools[HF_APART]);
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
