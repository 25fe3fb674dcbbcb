/* test_change.c: waiting until a key has changed, against the small Consul of fake.h. */
#include "check.h"
#include "fake.h"
#include "hf.h"
#include "hold.h"

#define MANY 40

static void begin(void)
{
	fake_start();
	default_opts();
	client = new_client();
}

static void end(void)
{
	close_all();
	fake_stop();
}

/* Makes a key and answers the index of its last change. */
static uint64_t make_key(const char *key, const char *holder)
{
	uint64_t index;

	fake_set(key, holder);
	pthread_mutex_lock(&fake.mutex);
	index = fake_key(key, strlen(key))->changed;
	pthread_mutex_unlock(&fake.mutex);
	return index;
}

static struct hf_op *start(const char *key, uint64_t index, int64_t timeout)
{
	struct hf_op *made = NULL;

	CHECK_INT(hf_key_change(client, key, index, timeout, &made, &err), HF_OK);
	return made;
}

/* One that has found the key unchanged, and waits. */
static void start_waiting(void)
{
	begin();
	op = start("k", make_key("k", "somebody"), -1);
	CHECK(fake_wait("GET /v1/kv/k?index=", 1));
	CHECK(!hf_op_done(op));
}

static enum hf_err take_result(void)
{
	struct hf_op *of = op;

	op = NULL;
	return finish(of);
}

static void it_ends_at_once_when_the_key_is_absent(void)
{
	begin();
	op = start("k", 7, -1);
	CHECK_INT(take_result(), HF_OK);
	CHECK_INT(fake_seen("GET /v1/kv/k"), 1);
}

static void it_ends_at_once_when_the_key_has_changed_already(void)
{
	begin();
	op = start("k", make_key("k", "somebody") - 1, -1);
	CHECK_INT(take_result(), HF_OK);
	CHECK_INT(fake_seen("GET /v1/kv/k"), 1);
}

static void it_ends_when_the_key_is_deleted(void)
{
	start_waiting();
	fake_set("k", NULL);
	CHECK_INT(take_result(), HF_OK);
}

static void it_ends_when_the_key_changes(void)
{
	start_waiting();
	fake_set("k", "");
	CHECK_INT(take_result(), HF_OK);
}

static void it_ends_at_its_timeout(void)
{
	begin();
	op = start("k", make_key("k", "somebody"), 50);
	CHECK_INT(take_result(), HF_TIMEOUT);
}

static void it_ends_when_it_is_canceled(void)
{
	start_waiting();
	hf_op_cancel(op);
	CHECK_INT(take_result(), HF_CANCELED);
}

static void a_dropped_one_leaves_no_poll(void)
{
	start_waiting();
	hf_op_drop(op);
	op = NULL;
	EVENTUALLY(fake_connections(false) <= 1);
}

static void it_ends_when_its_client_closes(void)
{
	start_waiting();
	CHECK_INT(close_client(client, true), HF_OK);
	CHECK_INT(take_result(), HF_CLOSED);
	CHECK_INT(hf_key_change(client, "k", 1, -1, &op, &err), HF_CLOSED);
}

static void it_outlasts_trouble(void)
{
	start_waiting();
	fake_on("GET /v1/kv/k", 2, "500 no leader");
	fake_set("k",
		 NULL); /* the poll's answer comes, or the next one is refused: both are fine */
	CHECK_INT(take_result(), HF_OK);
	fake_on("GET /v1/kv/j", 1, "500 no leader");
	op = start("j", 7, -1);
	CHECK_INT(take_result(), HF_OK);
	CHECK_INT(fake_seen("GET /v1/kv/j"), 2);
}

static void it_ends_when_the_key_may_not_be_read(void)
{
	begin();
	fake_on("GET /v1/kv/k", 1, "403 Permission denied");
	op = start("k", 7, -1);
	CHECK_INT(take_result(), HF_DENIED);
}

static void it_ends_when_the_key_may_not_be_read_any_more(void)
{
	begin();
	fake_on("GET /v1/kv/k?index=", 1, "403 Permission denied");
	op = start("k", make_key("k", "somebody"), -1);
	CHECK_INT(take_result(), HF_DENIED);
}

static void many_of_one_key_share_a_poll(void)
{
	struct hf_op *ops[MANY];
	uint64_t index;

	begin();
	index = make_key("k", "somebody");
	for (int i = 0; i < MANY; i++)
		ops[i] = start("k", index, -1);
	CHECK(fake_wait("GET /v1/kv/k?index=", 1));
	fake_set("k", "");
	for (int i = 0; i < MANY; i++)
		CHECK_INT(finish(ops[i]), HF_OK);
	CHECK(fake_connections(true) <= 4);
}

static void many_of_many_keys_need_few_connections(void)
{
	struct hf_op *ops[MANY];
	char keys[MANY][8];

	begin();
	for (int i = 0; i < MANY; i++) {
		snprintf(keys[i], sizeof keys[i], "k%d", i);
		ops[i] = start(keys[i], make_key(keys[i], "somebody"), -1);
	}
	CHECK(fake_wait("\"get\"", 2)); /* those without a poll are read in turns */
	for (int i = 0; i < MANY; i++) {
		fake_set(keys[i], i % 2 ? "" : NULL);
		CHECK_INT(finish(ops[i]), HF_OK);
	}
	CHECK(fake_connections(true) <= 32);
}

static const struct check_test tests[] = {
	TEST(it_ends_at_once_when_the_key_is_absent),
	TEST(it_ends_at_once_when_the_key_has_changed_already),
	TEST(it_ends_when_the_key_is_deleted),
	TEST(it_ends_when_the_key_changes),
	TEST(it_ends_at_its_timeout),
	TEST(it_ends_when_it_is_canceled),
	TEST(a_dropped_one_leaves_no_poll),
	TEST(it_ends_when_its_client_closes),
	TEST(it_outlasts_trouble),
	TEST(it_ends_when_the_key_may_not_be_read),
	TEST(it_ends_when_the_key_may_not_be_read_any_more),
	TEST(many_of_one_key_share_a_poll),
	TEST(many_of_many_keys_need_few_connections),
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests, CHECK_COUNT(tests), end);
}
