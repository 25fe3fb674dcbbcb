/* worker.c: the thread of a client. The only file that uses curl_multi_*.
 *
 * One turn: take what others left under the mutex, step the ops whose time has come, begin
 * requests, let libcurl work, step the ops whose requests are done, sleep until something is due.
 * Ops are stepped here only, one at a time, in the order they came. */
#include "hf_int.h"

#include <stddef.h>

/* Commands in flight at once: with the long poll and the renewal that makes at most four
 * connections to Consul, however many locks there are. */
#define COMMANDS 2
#define PAUSE_MAX 2000 /* ms */

/* ---- the list of ops ---------------------------------------------------------------------- */

static void append(struct hf_client *client, struct hf_op *op)
{
	op->state = HF_NEW;
	op->next = NULL;
	op->prev = client->last_op;
	*(client->last_op ? &client->last_op->next : &client->ops) = op;
	client->last_op = op;
}

static void unlink_op(struct hf_client *client, struct hf_op *op)
{
	*(op->prev ? &op->prev->next : &client->ops) = op->next;
	*(op->next ? &op->next->prev : &client->last_op) = op->prev;
}

void hf_worker_add(struct hf_client *client, struct hf_op *op)
{
	append(client, op);
}

/* ---- transfers ---------------------------------------------------------------------------- */

static CURL *take_easy(struct hf_client *client)
{
	return client->idle_count ? client->idle[--client->idle_count] : hf_http_new_easy();
}

static void give_easy(struct hf_client *client, CURL *easy)
{
	if (client->idle_count < sizeof client->idle / sizeof *client->idle)
		client->idle[client->idle_count++] = easy;
	else
		hf_http_free_easy(easy);
}

static void end_transfer(struct hf_client *client, struct hf_op *op, CURL *easy)
{
	hf_http_end(&op->http, easy);
	curl_multi_remove_handle(client->multi, easy);
	give_easy(client, easy);
	client->in_flight[op->lane]--;
	op->http.easy = NULL;
	op->state = HF_NEW;
}

/* Answers false, with the error in op->http, when the request cannot begin. */
static bool begin_transfer(struct hf_client *client, struct hf_op *op)
{
	const struct hf_http_context context = {&client->opts, client->headers, client->connect_to,
						&client->connections};
	CURL *easy = take_easy(client);

	if (!easy) {
		op->http.error = HF_NOMEM;
		return false;
	}
	op->http.fresh = op->retry_delay != 0; /* the last attempt failed */
	if (hf_http_start(&op->http, easy, &context)) {
		give_easy(client, easy);
		return false;
	}
	if (curl_multi_add_handle(client->multi, easy) != CURLM_OK) {
		hf_http_done(&op->http, CURLE_OUT_OF_MEMORY);
		give_easy(client, easy);
		return false;
	}
	op->state = HF_SENDING;
	op->lane = op->http.lane; /* op->http may be the next request when this one ends */
	client->in_flight[op->lane]++;
	pthread_mutex_lock(&client->mutex);
	client->stats.requests++;
	pthread_mutex_unlock(&client->mutex);
	return true;
}

/* ---- steps -------------------------------------------------------------------------------- */

static void retire(struct hf_client *client, struct hf_op *op)
{
	if (op->state == HF_SENDING)
		end_transfer(client, op, op->http.easy);
	unlink_op(client, op);
	hf_op_unref(op);
}

/* Does what a kind answered. The op may be gone afterwards. */
static void follow(struct hf_client *client, struct hf_op *op, enum hf_step step)
{
	if (step == HF_STAY)
		return;
	if (op->state == HF_SENDING)
		end_transfer(client, op, op->http.easy);
	if (step == HF_FINISH)
		retire(client, op);
	else
		op->state = step == HF_SEND ? HF_WAITING : HF_SLEEPING;
}

static void step(struct hf_client *client, struct hf_op *op)
{
	op->state = HF_NEW;
	op->parked_on = NULL;
	follow(client, op, op->kind->next(op));
}

static void stop(struct hf_client *client, struct hf_op *op, enum hf_err why)
{
	struct hf_error err;

	if (op->kind->cancel) {
		follow(client, op, op->kind->cancel(op, why));
		return;
	}
	hf_op_why(op, why, &err);
	hf_op_finish(op, &err);
	follow(client, op, HF_FINISH);
}

/* ---- one turn ----------------------------------------------------------------------------- */

struct turn {
	bool swept, closing, over;
	int64_t close_by;
};

/* Takes what others left. */
static struct turn collect(struct hf_client *client)
{
	struct turn turn = {0};
	struct hf_op *inbox;

	pthread_mutex_lock(&client->mutex);
	inbox = client->inbox;
	client->inbox = NULL;
	client->inbox_end = &client->inbox;
	turn.swept = client->sweep;
	client->sweep = false;
	turn.closing = client->closing;
	turn.close_by = client->closing ? client->close_by : HF_NEVER;
	turn.over = client->abandoned || hf_now() >= turn.close_by;
	pthread_mutex_unlock(&client->mutex);
	while (inbox) {
		struct hf_op *next = inbox->inbox_next;

		append(client, inbox);
		inbox = next;
	}
	return turn;
}

/* Clears up after holds that ended, and stops the ops that somebody wants to end or that were
 * guarded by such a hold. */
static void sweep(struct hf_client *client)
{
	struct hf_lock *lock;
	struct hf_op *next;

	do {
		pthread_mutex_lock(&client->mutex);
		lock = client->ended;
		if (lock)
			client->ended = lock->ended_next;
		pthread_mutex_unlock(&client->mutex);
		if (lock)
			hf_lock_cleared(lock);
	} while (lock);
	pthread_mutex_lock(&client->mutex);
	for (struct hf_op *op = client->ops; op; op = op->next) {
		if (op->guard && op->guard->hold != op->guard_hold && !op->stop)
			op->stop = HF_LOST;
		op->stopping = op->stop;
		op->stop = HF_OK;
	}
	pthread_mutex_unlock(&client->mutex);
	for (struct hf_op *op = client->ops; op; op = next) {
		next = op->next;
		if (op->stopping)
			stop(client, op, op->stopping);
	}
}

/* Steps what is due; answers when the next thing is. */
static int64_t timers(struct hf_client *client)
{
	int64_t now = hf_now(), due = HF_NEVER;
	struct hf_op *next;

	for (struct hf_op *op = client->ops; op; op = next) {
		next = op->next;
		if (op->deadline <= now) {
			op->deadline = HF_NEVER; /* unless the kind sets another one */
			stop(client, op, HF_TIMEOUT);
		} else if (op->state == HF_NEW ||
			   (op->state == HF_SLEEPING && op->wake_at <= now)) {
			step(client, op);
		}
	}
	for (struct hf_op *op = client->ops; op; op = op->next) {
		int64_t at = op->state == HF_SLEEPING ? op->wake_at : HF_NEVER;

		if (op->state == HF_NEW)
			at = now;
		if (op->deadline < at)
			at = op->deadline;
		if (at < due)
			due = at;
	}
	return due;
}

static bool may_begin(const struct hf_client *client, enum hf_lane lane)
{
	return lane != HF_COMMAND || client->in_flight[lane] < COMMANDS;
}

/* Answers false when an op was stepped because its request could not begin. */
static bool launch(struct hf_client *client)
{
	struct hf_op *next;
	bool calm = true;

	for (struct hf_op *op = client->ops; op; op = next) {
		next = op->next;
		if (op->state != HF_WAITING || !may_begin(client, op->http.lane))
			continue;
		if (!begin_transfer(client, op)) {
			step(client, op);
			calm = false;
		}
	}
	return calm;
}

/* Lets libcurl work. Answers false when an op was stepped because its request is done. */
static bool transfer(struct hf_client *client)
{
	int running, left;
	bool calm = true;
	CURLMsg *message;

	curl_multi_perform(client->multi, &running);
	while ((message = curl_multi_info_read(client->multi, &left))) {
		CURLcode result = message->data.result;
		CURL *easy = message->easy_handle;
		char *owner = hf_http_owner(easy);
		struct hf_op *op = (struct hf_op *)(owner - offsetof(struct hf_op, http));

		if (message->msg != CURLMSG_DONE)
			continue;
		hf_http_done(&op->http, result);
		end_transfer(client, op, easy);
		step(client, op);
		calm = false;
	}
	return calm;
}

/* Ends what should not outlive the client; the rest (releases, sessions) says goodbye. */
static void begin_to_close(struct hf_client *client)
{
	struct hf_session *session, *next;

	pthread_mutex_lock(&client->mutex);
	for (struct hf_op *op = client->ops; op; op = op->next)
		if (!op->internal)
			hf_op_stop_locked(op, HF_CLOSED);
	pthread_mutex_unlock(&client->mutex);
	for (session = client->sessions; session; session = next) {
		next = session->next;
		hf_session_join(session);
		hf_lock_release_all(session);
		hf_session_close(session);
		hf_session_leave(session);
	}
}

/* Sleeps until something is due, or libcurl or another thread has something to say. */
static void pause_until(struct hf_client *client, int64_t due)
{
	int64_t ms = due - hf_now();

	/* poll(2) does not count the time that the machine is suspended; the lease does. */
	if (ms > PAUSE_MAX)
		ms = PAUSE_MAX;
	if (ms > 0 && curl_multi_poll(client->multi, NULL, 0, (int)ms, NULL) != CURLM_OK)
		hf_poll(NULL, 0, 10, NULL);
}

/* Abandoned, or late: what is still held is over for us, whatever Consul thinks. */
static void end_holds(struct hf_client *client)
{
	pthread_mutex_lock(&client->mutex);
	for (struct hf_session *session = client->sessions; session; session = session->next)
		while (session->holds)
			hf_lock_end_locked(session->holds, HF_BY_CLOSED);
	pthread_mutex_unlock(&client->mutex);
}

static void end(struct hf_client *client)
{
	struct hf_error closed;

	while (client->ops) {
		hf_op_why(client->ops, HF_CLOSED, &closed);
		hf_op_finish(client->ops, &closed); /* if it has no result yet */
		retire(client, client->ops);
	}
	while (client->idle_count)
		hf_http_free_easy(client->idle[--client->idle_count]);
	end_holds(client);
	sweep(client);
	while (client->sessions)
		hf_session_forget(client->sessions);
	hf_keys_free(client);
	pthread_mutex_lock(&client->mutex);
	curl_multi_cleanup(client->multi);
	client->multi = NULL;
	client->thread = NULL;
	pthread_mutex_unlock(&client->mutex);
}

bool hf_worker_start_locked(struct hf_client *client)
{
	client->multi = curl_multi_init();
	if (!client->multi)
		return false;
	client->thread = hf_process_start(client);
	if (client->thread)
		return true;
	curl_multi_cleanup(client->multi);
	client->multi = NULL;
	return false;
}

void hf_worker_wake_locked(struct hf_client *client)
{
	if (client->multi)
		curl_multi_wakeup(client->multi);
}

void hf_worker_run(struct hf_client *client)
{
	bool closing = false;

	for (;;) {
		struct turn turn = collect(client);
		int64_t due;

		if (turn.closing && !closing) {
			closing = true;
			if (!turn.over)
				begin_to_close(client);
			turn.swept = true;
		}
		if (turn.swept)
			sweep(client);
		due = timers(client);
		if (turn.over || (closing && !client->ops))
			break;
		if (launch(client) && transfer(client))
			pause_until(client, due < turn.close_by ? due : turn.close_by);
	}
	end(client);
}
