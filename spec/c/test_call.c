/* test_call.c: calls: what is answered, how they end early, and that they keep nothing waiting. */
#include "lock/lock.h"

#include "check.h"
#include "fake.h"
#include "hf.h"
#include "hold.h"

#define CALLS 8 /* at once, and so many long polls */
#define LONG_CALLS 16

static struct hf_op *ops[CALLS + LONG_CALLS];

static void with_client(void)
{
	fake_start();
	default_opts();
	client = new_client();
}

static void end(void)
{
	for (size_t i = 0; i < CHECK_COUNT(ops); i++) {
		hf_op_drop(ops[i]);
		ops[i] = NULL;
	}
	close_all();
	fake_stop();
}

static enum hf_err start_call(const char *path, int64_t timeout, int64_t wait, struct hf_op **out)
{
	const struct hf_call call = {
		.method = "GET", .path = path, .timeout = timeout, .wait = wait};

	return hf_call_start(client, &call, out, &err);
}

static enum hf_err call_result(const char *path)
{
	CHECK_INT(start_call(path, -1, 0, &op), HF_OK);
	CHECK(hf_op_wait(op, WAIT, &err));
	return hf_op_result(op, &err);
}

static void a_call_answers_status_headers_and_body(void)
{
	const struct hf_response *response;

	with_client();
	CHECK_INT(call_result("/v1/anything"), HF_OK);
	response = hf_op_response(op);
	REQUIRE(response);
	CHECK_INT(response->status, 200);
	CHECK_STR(response->body, "hello");
	CHECK_INT(response->body_len, 5);
	CHECK_HAS(response->headers, "X-Consul-Index: 10\r\n");
	CHECK_INT(strlen(response->headers), response->headers_len);
}

static void a_refused_call_answers_what_came_with_the_refusal(void)
{
	with_client();
	fake_on("GET /v1/no", -1, "403 Permission denied");
	CHECK_INT(call_result("/v1/no"), HF_DENIED);
	CHECK_HAS(err.message, "GET /v1/no: ");
	REQUIRE(hf_op_response(op));
	CHECK_INT(hf_op_response(op)->status, 403);
	CHECK_STR(hf_op_response(op)->body, "Permission denied");
}

static void a_call_without_an_answer_has_no_response(void)
{
	with_client();
	fake_on("GET /v1/no", -1, "close");
	CHECK_INT(call_result("/v1/no"), HF_CONNECT);
	CHECK(!hf_op_response(op));
}

static void a_call_that_takes_too_long_is_a_timeout(void)
{
	with_client();
	fake_on("GET /v1/slow", -1, "hold");
	CHECK_INT(start_call("/v1/slow", 30, 0, &op), HF_OK);
	CHECK(hf_op_wait(op, WAIT, &err));
	CHECK_INT(hf_op_result(op, &err), HF_TIMEOUT);
	CHECK_HAS(err.message, "GET /v1/slow: not within the time given");
	EVENTUALLY(fake_connections(false) == 0);
}

static void a_canceled_call_ends_at_once(void)
{
	with_client();
	fake_on("GET /v1/slow", -1, "hold");
	CHECK_INT(start_call("/v1/slow", -1, 60000, &op), HF_OK);
	CHECK(fake_wait("GET /v1/slow", 1));
	hf_op_cancel(op);
	CHECK(hf_op_wait(op, WAIT, &err));
	CHECK_INT(hf_op_result(op, &err), HF_CANCELED);
	CHECK(!hf_op_response(op));
}

static void a_close_ends_calls_in_flight(void)
{
	with_client();
	fake_on("GET /v1/slow", -1, "hold");
	CHECK_INT(start_call("/v1/slow", -1, 60000, &op), HF_OK);
	CHECK(fake_wait("GET /v1/slow", 1));
	CHECK_INT(close_client(client, true), HF_OK);
	CHECK_INT(hf_op_result(op, &err), HF_CLOSED);
	CHECK_INT(start_call("/v1/x", -1, 0, &ops[0]), HF_CLOSED);
}

static void a_dropped_call_is_given_up(void)
{
	struct hf_counters left;

	with_client();
	fake_on("GET /v1/slow", -1, "hold");
	CHECK_INT(start_call("/v1/slow", -1, 0, &op), HF_OK);
	CHECK(fake_wait("GET /v1/slow", 1));
	hf_op_drop(op);
	op = NULL;
	EVENTUALLY((hf_counters(&left), left.ops == 0));
	EVENTUALLY(fake_connections(false) == 0);
}

/* As many calls and polls as there may be, and none is answered. */
static void fill_the_lanes(void)
{
	for (int i = 0; i < CALLS + LONG_CALLS; i++)
		REQUIRE(!start_call("/v1/slow", -1, i < CALLS ? 0 : 60000, &ops[i]));
	CHECK(fake_wait("GET /v1/slow", CALLS + LONG_CALLS));
}

static void calls_keep_neither_locks_nor_renewals_waiting(void)
{
	with_client();
	fake_on("GET /v1/slow", -1, "hold");
	fill_the_lanes();
	lock = new_lock(client, "k");
	CHECK_INT(acquire(lock, -1), HF_OK);
	CHECK_INT(start_call("/v1/next", 30, 0, &op), HF_OK);
	CHECK(hf_op_wait(op, WAIT, &err));
	CHECK_INT(hf_op_result(op, &err), HF_TIMEOUT);
	CHECK_INT(fake_seen("GET /v1/next"), 0);
	CHECK_INT(release(lock, -1), HF_OK);
}

static void a_call_begins_when_another_has_ended(void)
{
	with_client();
	fake_on("GET /v1/slow", -1, "hold");
	fill_the_lanes();
	CHECK_INT(start_call("/v1/next", -1, 0, &op), HF_OK);
	hf_op_cancel(ops[0]);
	CHECK(hf_op_wait(op, WAIT, &err));
	CHECK_INT(hf_op_result(op, &err), HF_OK);
}

static void polls_keep_no_call_waiting(void)
{
	with_client();
	fake_on("GET /v1/slow", -1, "hold");
	for (int i = 0; i < LONG_CALLS; i++)
		REQUIRE(!start_call("/v1/slow", -1, 60000, &ops[i]));
	CHECK_INT(call_result("/v1/next"), HF_OK);
}

static const struct check_test tests[] = {
	TEST(a_call_answers_status_headers_and_body),
	TEST(a_refused_call_answers_what_came_with_the_refusal),
	TEST(a_call_without_an_answer_has_no_response),
	TEST(a_call_that_takes_too_long_is_a_timeout),
	TEST(a_canceled_call_ends_at_once),
	TEST(a_close_ends_calls_in_flight),
	TEST(a_dropped_call_is_given_up),
	TEST(calls_keep_neither_locks_nor_renewals_waiting),
	TEST(a_call_begins_when_another_has_ended),
	TEST(polls_keep_no_call_waiting),
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests, CHECK_COUNT(tests), end);
}
