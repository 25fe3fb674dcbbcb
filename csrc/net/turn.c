/* turn.c: it, transfer.c and sockets.c are the only files that use curl_multi_*. */
#include "net/turn.h"

#include "net/transfer.h"

/* In flight at once, HF_CONNECTIONS of them, which bounds what a client has open to its server
 * (docs/consul.md). Held locks need two commands, one watch and one renewal, however many they are.
 * Watches and polls are what waits: each has a lane, so that neither keeps the other waiting. */
static const size_t limits[HF_LANES] = {[HF_COMMAND] = 2,
					[HF_WATCH] = 4,
					[HF_POLL] = 28,
					[HF_RENEW] = 6,
					/* not for locks */
					[HF_USER] = SIZE_MAX,
					[HF_CALL] = 8,
					[HF_LONG_CALL] = 16};

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
	hf_link_append(&op->engine->lanes[op->lane].waiting, &op->place);
	op->state = HF_QUEUED;
}

void hf_engine_follow(struct hf_op *op, enum hf_step step)
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
	hf_engine_follow(op, op->kind->next(op));
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
		hf_engine_follow(op, op->kind->cancel(op, why));
		return;
	}
	hf_op_why(op, why, &err);
	hf_op_finish(op, &err);
	hf_engine_follow(op, HF_FINISH);
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
	hf_engine_follow(op, next);
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
	engine->woken = false;
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
		hf_engine_follow(op, op->kind->reply(op, &none));
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
			struct hf_link *link = hf_link_first(&lane->waiting);

			if (!link)
				break;
			launch(HF_OF(struct hf_op, place, link));
		}
	}
}

static bool goes_again(struct hf_op *op)
{
	struct hf_http *http = op->http;

	/* What stood on a guard may have been aborted by libcurl, at our word. */
	if (!http->peer || (op->guard && !hf_guard_stands(op->guard)) ||
	    !op->engine->hooks->again(op->engine, http))
		return false;
	hf_http_again(http);
	return hf_transfer_begin(op);
}

/* A request is over. */
static void complete(struct hf_op *op, CURLcode result)
{
	hf_http_done(op->http, result);
	hf_transfer_end(op);
	if (!goes_again(op))
		take_reply(op);
}

static CURLMsg *next_message(struct hf_engine *engine)
{
	CURLMsg *message = NULL;
	int left;

	for (int i = 0; i < HF_POOLS && !message; i++)
		if (engine->pools[i])
			message = curl_multi_info_read(engine->pools[i], &left);
	return message;
}

/* Hands out what is done. Answers whether there was something. */
static bool deliver(struct hf_engine *engine)
{
	bool any = false;
	CURLMsg *message;

	while ((message = next_message(engine))) {
		if (message->msg != CURLMSG_DONE)
			continue;
		complete(hf_http_owner(message->easy_handle), message->data.result);
		any = true;
	}
	return any;
}

/* Without memory libcurl does not go on with some request, nor tell with which; and what it has
 * noted of that one's socket makes it crash later. So all of them fail. */
static void fail_all(struct hf_engine *engine)
{
	struct hf_link *link = hf_link_first(&engine->ops);

	while (link) {
		struct hf_op *op = HF_OF(struct hf_op, all, link);

		if (op->state == HF_FLYING) {
			complete(op, CURLE_OUT_OF_MEMORY);
			link = hf_link_first(&engine->ops); /* it may be gone, and others */
		} else {
			link = hf_link_after(&engine->ops, link);
		}
	}
}

/* Lets libcurl work. Answers false when something has come of it: then there may be more to do. */
static bool transfer(struct hf_engine *engine, bool look)
{
	bool rang, ok = hf_sockets_work(&engine->sockets, engine->pools, look, &rang);
	bool calm = !deliver(engine) && !rang && ok;

	if (!ok) {
		fail_all(engine);
		engine->broken = true;
	}
	return calm && hf_sockets_due(&engine->sockets) > hf_now();
}

static int64_t next_due(const struct hf_engine *engine, int64_t close_by)
{
	const struct hf_timer *timer = hf_heap_first(&engine->timers);
	int64_t due = close_by, sockets = hf_sockets_due(&engine->sockets);

	if (!hf_link_alone(&engine->ready))
		return 0;
	if (timer && timer->at < due)
		due = timer->at;
	return sockets < due ? sockets : due;
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
	struct hf_op *op;
	enum hf_err stop;

	engine->hooks->closing(engine, 0);
	collect(engine);
	while ((link = hf_link_first(&engine->ops)) != NULL) {
		op = HF_OF(struct hf_op, all, link);
		hf_op_why(op, HF_CLOSED, &closed);
		hf_op_finish(op, &closed); /* if it has no result yet */
		hf_engine_follow(op, HF_FINISH);
	}
	engine->hooks->ended(engine);
	hf_transfer_free(engine);
	pthread_mutex_lock(&engine->mutex);
	engine->takes = false;
	hf_sockets_ring(&engine->sockets); /* for everybody */
	hf_engine_call_locked(engine);
	pthread_mutex_unlock(&engine->mutex);
	hf_transfer_close(engine);
	while ((op = take(engine, &engine->stops, &stop)) != NULL)
		hf_op_unref(op); /* it has ended */
	while ((op = take(engine, &engine->leavers, &stop)) != NULL) {
		hf_op_finish(op, &ok);
		hf_op_unref(op);
	}
}

/* What was suspended for long finds out here, before anything is sent. Answers false when nothing
 * is to be sent any more. */
static bool step_all(struct hf_engine *engine, int64_t *close_by)
{
	struct turn turn;

	do {
		turn = collect(engine);
		if (turn.closing && !engine->said_closing && !turn.over)
			begin_to_close(engine, turn.close_by);
		engine->said_closing |= turn.closing;
		run_ready(engine);
	} while (anything_left(engine));
	*close_by = turn.close_by;
	return !turn.over && !(engine->said_closing && hf_link_alone(&engine->ops));
}

static bool turn(struct hf_engine *engine, bool look, int64_t *due)
{
	int64_t close_by;
	bool calm;

	do {
		if (!step_all(engine, &close_by)) {
			end(engine);
			return false;
		}
		launch_all(engine);
		calm = transfer(engine, look);
		look = false;
	} while (!calm);
	*due = next_due(engine, close_by);
	return true;
}

bool hf_turn(struct hf_engine *engine, bool look, int64_t *due)
{
	bool goes_on;

	pthread_mutex_lock(&engine->turn);
	goes_on = engine->takes && turn(engine, look, due);
	pthread_mutex_unlock(&engine->turn);
	return goes_on;
}
