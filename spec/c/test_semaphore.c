/* test_semaphore.c: what is read out of a semaphore's keys, and what is written, to the byte.
 * Nothing goes over a network. */
#include "base/alloc.h"
#include "check.h"
#include "consul/semaphore.h"
#include "consul/txn.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define A "aaaaaaaa-0000-4000-8000-000000000001"
#define B "bbbbbbbb-0000-4000-8000-000000000002"
#define C "cccccccc-0000-4000-8000-000000000003"
#define FLAGS "16210313421097356768"

static const struct hf_client_opts opts = {.base = "http://127.0.0.1:8500", .timeout = 10000};
static struct hf_consul consul;
static struct hf_http http;
static struct hf_buf text;
static struct hf_error err;
static struct hf_semaphore sem, next;

static void forget(void)
{
	hf_alloc_fail(0, 0);
	hf_http_free(&http);
	http = (struct hf_http){0};
	hf_buf_free(&text);
	hf_semaphore_free(&sem);
	hf_semaphore_free(&next);
	err = (struct hf_error){0};
}

/* ---- replies ------------------------------------------------------------------------------ */

/* Begins a reply to a read; its keys are added one by one. */
static void begin(long status)
{
	hf_http_reset(&http);
	http.status = status;
	hf_buf_puts(&http.reply_headers, "X-Consul-Index: 77\r\n\r\n");
	hf_buf_puts(&http.reply, status == 200 ? "[" : "");
}

static void add_key(const char *key, const char *flags, uint64_t index, const char *session,
		    const char *value)
{
	hf_buf_puts(&http.reply, http.reply.len > 1 ? ",{\"Key\":" : "{\"Key\":");
	hf_buf_json(&http.reply, key);
	hf_buf_printf(&http.reply, ",\"Flags\":%s,\"ModifyIndex\":%" PRIu64, flags, index);
	if (session)
		hf_buf_printf(&http.reply, ",\"Session\":\"%s\"", session);
	hf_buf_puts(&http.reply, ",\"Value\":");
	if (value) {
		hf_buf_puts(&http.reply, "\"");
		hf_buf_base64(&http.reply, value, strlen(value));
		hf_buf_puts(&http.reply, "\"}");
	} else {
		hf_buf_puts(&http.reply, "null}");
	}
}

static enum hf_verdict read_it(void)
{
	if (http.status == 200)
		hf_buf_puts(&http.reply, "]");
	hf_semaphore_free(&sem);
	return hf_semaphore_read(&http, &consul, "p/", &sem, &err);
}

/* Reads a prefix whose .lock says this, with A and B alive. */
static enum hf_verdict read_lock(const char *value)
{
	begin(200);
	add_key("p/.lock", FLAGS, 50, NULL, value);
	add_key("p/" A, FLAGS, 40, A, "");
	add_key("p/" B, FLAGS, 41, B, NULL);
	return read_it();
}

static void reads_who_holds_a_slot_and_is_alive(void)
{
	CHECK_INT(read_lock("{\"Limit\":3,\"Holders\":{\"" C "\":true,\"" A "\":true}}"), HF_V_OK);
	CHECK(sem.exists && !sem.foreign && !sem.newline);
	CHECK_U64(sem.index, 50);
	CHECK_U64(sem.at, 77);
	CHECK_U64(sem.limit, 3);
	CHECK_U64(sem.count, 2);
	REQUIRE(hf_semaphore_find(&sem, A) && hf_semaphore_find(&sem, C));
	CHECK(hf_semaphore_find(&sem, A)->alive);
	CHECK(!hf_semaphore_find(&sem, C)->alive);
	CHECK(!hf_semaphore_find(&sem, B));
	CHECK(!hf_semaphore_find(&sem, ""));
	CHECK_U64(hf_semaphore_taken(&sem, ""), 1);
	CHECK_U64(hf_semaphore_taken(&sem, A), 0);
	CHECK_U64(hf_semaphore_taken(&sem, B), 1);
}

/* Go: whoever has any key below the prefix is alive. */
static void whoever_has_any_key_is_alive(void)
{
	begin(200);
	add_key("p/+", "0", 3, A, NULL);
	add_key("p/.lock", FLAGS, 50, B,
		"{\"Limit\":1,\"Holders\":{\"" A "\":true,\"" B "\":true}}");
	CHECK_INT(read_it(), HF_V_OK);
	CHECK_U64(hf_semaphore_taken(&sem, ""), 2);
}

static void whoever_is_named_is_a_holder(void)
{
	CHECK_INT(read_lock("{\"Holders\":{\"" A "\":false,\"" B "\":null},\"Limit\":2}"), HF_V_OK);
	CHECK_U64(hf_semaphore_taken(&sem, ""), 2);
}

static void who_is_named_by_no_id_is_not_alive(void)
{
	CHECK_INT(read_lock("{\"Limit\":2,\"Holders\":{\"\":true,\"" A B "\":true,\"x\":true}}"),
		  HF_V_OK);
	CHECK_U64(hf_semaphore_taken(&sem, "-"), 0);
}

static void nobody_may_hold_a_slot(void)
{
	CHECK_INT(read_lock("{\"Limit\":2,\"Holders\":null}"), HF_V_OK);
	CHECK_U64(sem.count, 0);
	CHECK_INT(read_lock("{\"Limit\":2}\n"), HF_V_OK);
	CHECK(sem.newline);
	CHECK_U64(sem.count, 0);
}

static void a_limit_is_exact(void)
{
	CHECK_INT(read_lock("{\"Limit\":9007199254740993}"), HF_V_OK);
	CHECK_U64(sem.limit, UINT64_C(9007199254740993));
}

static void without_lock_there_is_none(void)
{
	begin(200);
	add_key("p/" A, FLAGS, 40, A, NULL);
	add_key("p/.lock/x", FLAGS, 41, A, "{");
	CHECK_INT(read_it(), HF_V_OK);
	CHECK(!sem.exists);
	CHECK_U64(sem.index, 0);
	begin(404);
	CHECK_INT(read_it(), HF_V_OK);
	CHECK(!sem.exists);
	CHECK_U64(sem.at, 77);
}

static void a_404_without_an_index_is_passing_trouble(void)
{
	hf_http_reset(&http);
	http.status = 404;
	CHECK_INT(read_it(), HF_V_AGAIN);
}

static void what_has_other_flags_is_foreign(void)
{
	begin(200);
	add_key("p/.lock", "3304740253564472344", 50, NULL, "whatever");
	CHECK_INT(read_it(), HF_V_OK);
	CHECK(sem.exists && sem.foreign);
	CHECK_U64(sem.index, 50);
}

static void what_makes_no_sense_is_passing_trouble(void)
{
	static const char *const values[] = {"",
					     "[]",
					     "{}",
					     "{\"Limit\":\"3\"}",
					     "{\"Limit\":-1}",
					     "{\"Limit\":1.5}",
					     "{\"Limit\":2"};

	for (size_t i = 0; i < CHECK_COUNT(values); i++) {
		CHECK_INT(read_lock(values[i]), HF_V_AGAIN);
		CHECK_INT(err.code, HF_PROTOCOL);
		CHECK(!sem.holders);
	}
	CHECK_INT(read_lock(NULL), HF_V_AGAIN);
	begin(200);
	hf_buf_puts(&http.reply, "{\"Key\":\"p/x\"}");
	CHECK_INT(read_it(), HF_V_AGAIN);
	hf_http_reset(&http);
	http.status = 200;
	hf_buf_puts(&http.reply, "{");
	hf_semaphore_free(&sem);
	CHECK_INT(hf_semaphore_read(&http, &consul, "p/", &sem, &err), HF_V_AGAIN);
}

static void a_refusal_is_one(void)
{
	begin(403);
	hf_buf_puts(&http.reply, "Permission denied");
	CHECK_INT(read_it(), HF_V_FINAL);
	CHECK_INT(err.code, HF_DENIED);
}

/* ---- changes ------------------------------------------------------------------------------ */

static void change(const char *without, const char *with, const char *want)
{
	hf_semaphore_free(&next);
	CHECK(hf_semaphore_change(&next, &sem, 3, without, with));
	hf_buf_reset(&text);
	hf_semaphore_write(&text, &next);
	CHECK_STR(hf_buf_text(&text), want);
}

static void writes_those_who_are_alive(void)
{
	read_lock("{\"Limit\":3,\"Holders\":{\"" C "\":true,\"" B "\":true,\"" A "\":true}}");
	change(NULL, NULL, "{\"Limit\":3,\"Holders\":{\"" A "\":true,\"" B "\":true}}");
	change(A, NULL, "{\"Limit\":3,\"Holders\":{\"" B "\":true}}");
	change(NULL, C, "{\"Limit\":3,\"Holders\":{\"" A "\":true,\"" B "\":true,\"" C "\":true}}");
	change(NULL, B, "{\"Limit\":3,\"Holders\":{\"" A "\":true,\"" B "\":true}}");
	CHECK(next.exists);
	CHECK_U64(hf_semaphore_taken(&next, ""), 2);
}

static void writes_a_line_end_that_was_there(void)
{
	read_lock("{\"Limit\":3,\"Holders\":{}}\n");
	change(NULL, A, "{\"Limit\":3,\"Holders\":{\"" A "\":true}}\n");
}

static void makes_one_where_there_is_none(void)
{
	change(NULL, A, "{\"Limit\":3,\"Holders\":{\"" A "\":true}}");
	change(A, NULL, "{\"Limit\":3,\"Holders\":{}}");
}

static void what_it_writes_it_reads(void)
{
	read_lock("{\"Limit\":3,\"Holders\":{\"" A "\":true}}");
	change(NULL, B, "{\"Limit\":3,\"Holders\":{\"" A "\":true,\"" B "\":true}}");
	CHECK_INT(read_lock(hf_buf_text(&text)), HF_V_OK);
	CHECK_U64(hf_semaphore_taken(&sem, ""), 2);
	CHECK_U64(sem.limit, 3);
}

static void without_memory_there_is_no_change(void)
{
	read_lock("{\"Limit\":3,\"Holders\":{\"" A "\":true}}");
	hf_alloc_fail(1, 1);
	CHECK(!hf_semaphore_change(&next, &sem, 3, NULL, B));
}

static void every_allocation_of_a_read_may_fail(void)
{
	long count;

	begin(200);
	add_key("p/.lock", FLAGS, 50, NULL, "{\"Limit\":3,\"Holders\":{\"" A "\":true}}");
	hf_buf_puts(&http.reply, "]");
	hf_alloc_fail(0, 0);
	CHECK_INT(hf_semaphore_read(&http, &consul, "p/", &sem, &err), HF_V_OK);
	count = hf_alloc_count();
	CHECK(count > 0);
	for (long n = 1; n <= count; n++) {
		hf_semaphore_free(&sem);
		hf_alloc_fail(n, 0);
		CHECK_INT(hf_semaphore_read(&http, &consul, "p/", &sem, &err), HF_V_AGAIN);
		CHECK(!sem.holders && !sem.exists);
	}
}

/* ---- requests ----------------------------------------------------------------------------- */

static void asks_for_all_below_a_prefix(void)
{
	hf_semaphore_get(&http, &consul, "a b/", 0, true);
	CHECK_STR(hf_buf_text(&http.url), "http://127.0.0.1:8500/v1/kv/a%20b/?consistent&recurse");
	hf_http_reset(&http);
	hf_semaphore_get(&http, &consul, "p/", 7, false);
	CHECK_STR(hf_buf_text(&http.url),
		  "http://127.0.0.1:8500/v1/kv/p/?index=7&wait=10000ms&recurse");
	CHECK(http.timeout > HF_POLL_WAIT);
}

static void writes_by_comparison(void)
{
	hf_txn_begin(&http, &consul, false);
	hf_txn_add(&http, &(struct hf_txn_op){.verb = HF_CAS,
					      .key = "p/.lock",
					      .index = 50,
					      .value = "{}",
					      .value_len = 2,
					      .flags = HF_SEMAPHORE_FLAGS});
	hf_txn_add(&http, &(struct hf_txn_op){.verb = HF_LOCK,
					      .key = "p/" A,
					      .session = A,
					      .flags = HF_SEMAPHORE_FLAGS});
	hf_txn_add(&http, &(struct hf_txn_op){.verb = HF_ERASE, .key = "p/" B});
	hf_txn_end(&http);
	CHECK_STR(hf_buf_text(&http.body),
		  "[{\"KV\":{\"Verb\":\"cas\",\"Key\":\"p/.lock\",\"Index\":50,\"Flags\":" FLAGS
		  ",\"Value\":\"e30=\"}},"
		  "{\"KV\":{\"Verb\":\"lock\",\"Key\":\"p/" A "\",\"Session\":\"" A
		  "\",\"Flags\":" FLAGS ",\"Value\":\"\"}},"
		  "{\"KV\":{\"Verb\":\"delete\",\"Key\":\"p/" B "\"}}]");
}

static enum hf_verdict written(long status, const char *body, uint64_t *index)
{
	hf_http_reset(&http);
	http.status = status;
	hf_buf_puts(&http.reply, body);
	return hf_semaphore_written(&http, &consul, "p/.lock", 2, index, &err);
}

static void a_write_tells_the_index_of_lock(void)
{
	uint64_t index;

	CHECK_INT(written(200,
			  "{\"Results\":[{\"KV\":{\"Key\":\"p/"
			  ".lock\",\"Flags\":1,\"ModifyIndex\":90}},"
			  "{\"KV\":{\"Key\":\"p/" A "\",\"Flags\":1,\"ModifyIndex\":91}}]}",
			  &index),
		  HF_V_OK);
	CHECK_U64(index, 90);
	/* a deletion has no result */
	CHECK_INT(written(200,
			  "{\"Results\":[{\"KV\":{\"Key\":\"p/"
			  ".lock\",\"Flags\":1,\"ModifyIndex\":92}}]}",
			  &index),
		  HF_V_OK);
	CHECK_U64(index, 92);
	CHECK_INT(written(200, "{\"Results\":[]}", &index), HF_V_OK);
	CHECK_U64(index, 0);
}

static void a_refused_write_says_why(void)
{
#define STALE "{\"OpIndex\":0,\"What\":\"failed to set key \\\"p/.lock\\\", index is stale\"}"
#define GONE "{\"OpIndex\":1,\"What\":\"invalid session \\\"" A "\\\"\"}"
	uint64_t index;

	CHECK_INT(written(409, "{\"Errors\":[" STALE "]}", &index), HF_V_MOVED);
	CHECK_INT(written(409, "{\"Errors\":[" GONE "]}", &index), HF_V_NO_SESSION);
	CHECK_INT(written(409, "{\"Errors\":[" STALE "," GONE "]}", &index), HF_V_NO_SESSION);
	CHECK_INT(err.code, HF_SESSION);
	CHECK_INT(written(500, "rpc error: invalid session", &index), HF_V_NO_SESSION);
	CHECK_INT(written(500, "no leader", &index), HF_V_AGAIN);
	CHECK_INT(written(403, "Permission denied", &index), HF_V_FINAL);
	CHECK_INT(written(200, "nonsense", &index), HF_V_AGAIN);
}

static const struct check_test tests[] = {
	TEST(reads_who_holds_a_slot_and_is_alive),
	TEST(whoever_has_any_key_is_alive),
	TEST(whoever_is_named_is_a_holder),
	TEST(who_is_named_by_no_id_is_not_alive),
	TEST(nobody_may_hold_a_slot),
	TEST(a_limit_is_exact),
	TEST(without_lock_there_is_none),
	TEST(a_404_without_an_index_is_passing_trouble),
	TEST(what_has_other_flags_is_foreign),
	TEST(what_makes_no_sense_is_passing_trouble),
	TEST(a_refusal_is_one),
	TEST(writes_those_who_are_alive),
	TEST(writes_a_line_end_that_was_there),
	TEST(makes_one_where_there_is_none),
	TEST(what_it_writes_it_reads),
	TEST(without_memory_there_is_no_change),
	TEST(every_allocation_of_a_read_may_fail),
	TEST(asks_for_all_below_a_prefix),
	TEST(writes_by_comparison),
	TEST(a_write_tells_the_index_of_lock),
	TEST(a_refused_write_says_why),
};

int main(int argc, char **argv)
{
	int status;

	if (!hf_consul_init(&consul, &opts))
		return 1;
	status = check_main(argc, argv, tests, CHECK_COUNT(tests), forget);
	hf_consul_free(&consul);
	return status;
}
