/* engine.c: it and transfer.c are the only files that use curl_multi_*. */
#include "net/engine.h"

#include "net/process.h"
#include "net/transfer.h"

/* In flight at once, HF_CONNECTIONS of them, which bounds what a client has open to its server
 * (docs/consul.md). Held locks need two commands, one watch and one renewal, however many they are.
 * Watches and polls are what waits: each has a lane, so that neither keeps the other waiting. */
static const size_t limits[HF_LANES] = {
	[HF_COMMAND] = 2, [HF_WATCH] = 4, [HF_POLL] = 28, [HF_RENEW] = 6, [HF_USER] = SIZE_MAX};
#define PAUSE_MAX 2000 /* ms */

/* ---- for everybody -------------------------------------------------------------------------- */

void hf_engine_init(struct hf_engine *engine, const struct hf_hooks *hooks, const char *name)
{
	engine->hooks = hooks;
	engine->name = name;
	engine->generation = hf_process_generation();
	engine->refs = 1;
	pthread_mutex_init(&engine->mutex, NULL);
	hf_link_init(&engine->arrivals);
	hf_link_init(&engine->stops);
	hf_link_init(&engine->leavers);
	hf_link_init(&engine->ops);
	hf_link_init(&engine->ready);
	for (int i = 0; i < HF_LANES; i++) {
		hf_link_init(&engine->lanes[i].urgent);
		hf_link_init(&engine->lanes[i].normal);
	}
}

void hf_engine_ref(struct hf_engine *engine)
{
	atomic_fetch_add(&engine->refs, 1);
}

void hf_engine_unref(struct hf_engine *engine)
{
	if (!engine || atomic_fetch_sub(&engine->refs, 1) > 1)
		return;
	pthread_mutex_destroy(&engine->mutex);
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
	if (engine->multi)
		curl_multi_wakeup(engine->multi);
}

static bool start_locked(struct hf_engine *engine)
{
	engine->multi = curl_multi_init();
	if (!engine->multi)
		return false;
	hf_transfer_keep(engine, 0);
	engine->thread = hf_process_start(engine);
	if (engine->thread)
		return true;
	curl_multi_cleanup(engine->multi);
	engine->multi = NULL;
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
}

void hf_engine_shut(struct hf_engine *engine, bool tell, int64_t limit)
{
	pthread_mutex_lock(&engine->mutex);
	shut_locked(engine, tell, limit);
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
	if (op && engine->multi) {
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

/* ---- steps ---------------------------------------------------------------------------------- */

void hf_engine_ready(struct hf_op *op)
{
	hf_link_remove(&op->place);
	hf_link_append(&op->engine->ready, &op->place);
	op->state = HF_READY;
	hf_heap_set(&op->engine->timers, &op->timer, op->deadline);
}

static void retire(struct hf_op *op)
{
	hf_link_remove(&op->place);
	hf_link_remove(&op->all);
	hf_link_remove(&op->guarded);
	hf_heap_remove(&op->engine->timers, &op->timer);
	op->state = HF_ENDED;
	hf_op_unref(op);
}

static void enqueue(struct hf_op *op)
{
	struct hf_lane_state *lane = &op->engine->lanes[op->lane];

	hf_link_append(op->urgent ? &lane->urgent : &lane->normal, &op->place);
	op->state = HF_QUEUED;
}

/* Does what a kind answered. The op may be gone afterwards. */
static void follow(struct hf_op *op, enum hf_step step)
{
	int64_t at = HF_NEVER;

	if (step != HF_STAY && op->state == HF_FLYING)
		hf_transfer_abort(op);
	if (step == HF_FINISH) {
		retire(op);
		return;
	}
	if (step == HF_SEND)
		enqueue(op);
	else if (step == HF_SLEEP)
		op->state = HF_PARKED;
	if (op->state == HF_PARKED)
		at = op->wake_at;
	hf_heap_set(&op->engine->timers, &op->timer, op->deadline < at ? op->deadline : at);
}

static void step(struct hf_op *op)
{
	hf_link_remove(&op->place);
	op->state = HF_NEW;
	follow(op, op->kind->next(op));
}

void hf_engine_again(struct hf_op *op)
{
	if (op->state != HF_FLYING)
		return;
	hf_transfer_abort(op);
	op->fresh = true;
	hf_engine_ready(op);
}

void hf_engine_stop(struct hf_op *op, enum hf_err why)
{
	struct hf_error err;

	if (op->state == HF_ENDED)
		return;
	if (op->kind->cancel) {
		follow(op, op->kind->cancel(op, why));
		return;
	}
	hf_op_why(op, why, &err);
	hf_op_finish(op, &err);
	follow(op, HF_FINISH);
}

static void take_reply(struct hf_op *op)
{
	struct hf_http *http = op->http;
	enum hf_step next;

	/* What stood on a guard may have been aborted by libcurl, at our word. */
	if (op->guard && !hf_guard_stands(op->guard)) {
		hf_transfer_give(op, http);
		hf_engine_stop(op, HF_LOST);
		return;
	}
	op->broken = http->error != HF_OK;
	op->fresh = op->fresh && op->broken;
	next = op->kind->reply(op, http);
	hf_transfer_give(op, http);
	follow(op, next);
}

void hf_engine_add(struct hf_engine *engine, struct hf_op *op)
{
	hf_link_append(&engine->ops, &op->all);
	if (op->guard)
		hf_link_append(&op->guard->ops, &op->guarded);
	hf_engine_ready(op);
}

/* ---- one turn ------------------------------------------------------------------------------- */

struct turn {
	bool closing, over;
	int64_t close_by;
};

static void stop_reference(struct hf_op *op, enum hf_err why)
{
	hf_engine_stop(op, why);
	hf_op_unref(op);
}

/* Takes in one op that somebody has left. */
static void arrive(struct hf_op *op, enum hf_err stop)
{
	hf_op_ref(op); /* it may end at once */
	hf_engine_add(op->engine, op);
	if (!stop && op->guard && !hf_guard_stands(op->guard))
		stop = HF_LOST;
	if (stop)
		hf_engine_stop(op, stop);
	hf_op_unref(op);
}

/* The next op that somebody has left, NULL when there is none. */
static struct hf_op *take(struct hf_engine *engine, struct hf_link *list, enum hf_err *stop)
{
	struct hf_link *link;
	struct hf_op *op = NULL;

	pthread_mutex_lock(&engine->mutex);
	link = hf_link_first(list);
	if (link) {
		hf_link_remove(link);
		op = HF_OF(struct hf_op, post, link);
		op->posted = false;
		*stop = op->stop;
		op->stop = HF_OK;
	}
	pthread_mutex_unlock(&engine->mutex);
	return op;
}

/* Takes what others left. What comes after closing has been seen is refused, so nothing arrives
 * that begin_to_close would not find. */
static struct turn collect(struct hf_engine *engine)
{
	struct turn turn;
	struct hf_op *op;
	enum hf_err stop;

	pthread_mutex_lock(&engine->mutex);
	turn.closing = engine->closing;
	turn.close_by = engine->closing ? engine->close_by : HF_NEVER;
	turn.over = engine->abandoned || hf_now() >= turn.close_by;
	pthread_mutex_unlock(&engine->mutex);
	while ((op = take(engine, &engine->arrivals, &stop)) != NULL)
		arrive(op, stop);
	while ((op = take(engine, &engine->stops, &stop)) != NULL)
		stop_reference(op, stop);
	return turn;
}

static bool anything_left(struct hf_engine *engine)
{
	bool left;

	pthread_mutex_lock(&engine->mutex);
	left = !hf_link_alone(&engine->arrivals) || !hf_link_alone(&engine->stops);
	pthread_mutex_unlock(&engine->mutex);
	return left;
}

/* Steps what is due, and what that makes ready. */
static void run_ready(struct hf_engine *engine)
{
	int64_t now = hf_now();
	struct hf_timer *timer;
	struct hf_link *link;

	while ((timer = hf_heap_first(&engine->timers)) && timer->at <= now) {
		struct hf_op *op = HF_OF(struct hf_op, timer, timer);

		if (op->deadline <= now) {
			op->deadline = HF_NEVER; /* unless the kind sets another one */
			hf_heap_remove(&engine->timers, timer);
			hf_engine_stop(op, HF_TIMEOUT);
		} else {
			hf_engine_ready(op);
		}
	}
	while ((link = hf_link_first(&engine->ready)) != NULL)
		step(HF_OF(struct hf_op, place, link));
}

/* Begins the request of an op whose turn in its lane has come. */
static void launch(struct hf_op *op)
{
	struct hf_http none = {0};

	hf_link_remove(&op->place);
	op->state = HF_NEW;
	if (!op->http)
		op->http = hf_transfer_http(op->engine);
	if (!op->http) { /* as if it had failed on the way, which it has */
		hf_http_no_memory(&none);
		follow(op, op->kind->reply(op, &none));
		return;
	}
	if (!op->kind->request(op, op->http)) {
		hf_transfer_give(op, op->http);
		hf_engine_ready(op);
		return;
	}
	if (!hf_transfer_begin(op))
		take_reply(op);
}

static void launch_all(struct hf_engine *engine)
{
	for (int i = 0; i < HF_LANES; i++) {
		struct hf_lane_state *lane = &engine->lanes[i];

		while (lane->flying < limits[i]) {
			struct hf_link *link = hf_link_first(&lane->urgent);

			if (!link)
				link = hf_link_first(&lane->normal);
			if (!link)
				break;
			launch(HF_OF(struct hf_op, place, link));
		}
	}
}

/* Lets libcurl work, and hands out what is done. Answers false when there was something: then
 * there may be more to send. */
static bool transfer(struct hf_engine *engine)
{
	int running, left;
	bool calm = true;
	CURLMsg *message;

	curl_multi_perform(engine->multi, &running);
	while ((message = curl_multi_info_read(engine->multi, &left))) {
		CURLcode result = message->data.result;
		struct hf_op *op = hf_http_owner(message->easy_handle);

		if (message->msg != CURLMSG_DONE)
			continue;
		hf_http_done(op->http, result);
		op->http->easy = message->easy_handle;
		hf_transfer_end(op);
		take_reply(op);
		calm = false;
	}
	return calm;
}

/* Sleeps until something is due, or libcurl or another thread has something to say. */
static void pause_until(struct hf_engine *engine, int64_t close_by)
{
	struct hf_timer *timer = hf_heap_first(&engine->timers);
	int64_t due = timer && timer->at < close_by ? timer->at : close_by;
	int64_t ms = due - hf_now();

	if (!hf_link_alone(&engine->ready))
		return;
	/* poll(2) does not count the time that the machine is suspended; the lease does. */
	if (ms > PAUSE_MAX)
		ms = PAUSE_MAX;
	if (ms > 0 && curl_multi_poll(engine->multi, NULL, 0, (int)ms, NULL) != CURLM_OK)
		hf_poll(NULL, 0, 10, NULL);
}

/* Everything that should not outlive the engine is stopped; the rest says goodbye. */
static void begin_to_close(struct hf_engine *engine, int64_t close_by)
{
	struct hf_link *link;

	pthread_mutex_lock(&engine->mutex);
	for (link = hf_link_first(&engine->ops); link; link = hf_link_after(&engine->ops, link)) {
		struct hf_op *op = HF_OF(struct hf_op, all, link);

		if (!op->internal)
			hf_op_stop_locked(op, HF_CLOSED);
	}
	pthread_mutex_unlock(&engine->mutex);
	engine->hooks->closing(engine, close_by);
}

static void end(struct hf_engine *engine)
{
	const struct hf_error ok = {HF_OK, ""};
	struct hf_error closed;
	struct hf_link *link;
	CURLM *multi = engine->multi;
	struct hf_op *op;
	enum hf_err stop;

	engine->hooks->closing(engine, 0);
	collect(engine);
	while ((link = hf_link_first(&engine->ops)) != NULL) {
		op = HF_OF(struct hf_op, all, link);
		hf_op_why(op, HF_CLOSED, &closed);
		hf_op_finish(op, &closed); /* if it has no result yet */
		follow(op, HF_FINISH);
	}
	engine->hooks->ended(engine);
	hf_transfer_free(engine);
	pthread_mutex_lock(&engine->mutex);
	engine->multi = NULL;
	pthread_mutex_unlock(&engine->mutex);
	curl_multi_cleanup(multi);
	while ((op = take(engine, &engine->stops, &stop)) != NULL)
		hf_op_unref(op); /* it has ended */
	while ((op = take(engine, &engine->leavers, &stop)) != NULL) {
		hf_op_finish(op, &ok);
		hf_op_unref(op);
	}
}

void hf_engine_run(struct hf_engine *engine)
{
	bool closing = false;

	for (;;) {
		struct turn turn;

		/* What was suspended for long finds out here, before anything is sent. */
		do {
			turn = collect(engine);
			if (turn.closing && !closing && !turn.over)
				begin_to_close(engine, turn.close_by);
			closing |= turn.closing;
			run_ready(engine);
		} while (anything_left(engine));
		if (turn.over || (closing && hf_link_alone(&engine->ops)))
			break;
		launch_all(engine);
		if (transfer(engine))
			pause_until(engine, turn.close_by);
	}
	end(engine);
}
