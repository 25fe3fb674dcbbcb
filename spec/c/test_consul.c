/* test_consul.c: the requests that are made, to the byte, and what is read out of replies. Nothing
 * goes over a network: requests are looked at, replies are filled in by hand. */
#include "base/alloc.h"
#include "base/json.h"
#include "check.h"
#include "consul/alive.h"
#include "consul/kv.h"
#include "consul/session.h"
#include "consul/txn.h"

#define BASE "http://127.0.0.1:8500"
#define SID "0cd5e2b1-9d5a-4f3e-8b7a-1c2d3e4f5a6b"
#define FLAGS "\"Flags\":3304740253564472344"

static const struct hf_client_opts plain_opts = {.base = BASE, .timeout = 10000};
static const struct hf_client_opts elsewhere_opts = {
	.base = BASE "/consul",
	.timeout = 7000,
	.datacenter = "d c",
	.ns = "n&s",
	.partition = "p/1",
};
#define ELSEWHERE "dc=d%20c&ns=n%26s&partition=p%2F1"

static struct hf_consul plain, elsewhere;
static struct hf_http http;
static struct hf_error err;

static void forget(void)
{
	hf_alloc_fail(0, 0);
	hf_http_free(&http);
	http = (struct hf_http){0};
	err = (struct hf_error){0};
}

/* ---- requests ----------------------------------------------------------------------------- */

/* For the next request. */
static struct hf_http *empty(void)
{
	hf_http_reset(&http);
	return &http;
}

#define SENDS(method, url, body) sends(__LINE__, method, url, body)

static void sends(int line, const char *method, const char *url, const char *body)
{
	check_str(http.method, method, __FILE__, line, "method");
	check_str(hf_buf_text(&http.url), url, __FILE__, line, "url");
	check_str(hf_buf_text(&http.body), body ? body : "", __FILE__, line, "body");
	check_int(http.has_body, body != NULL, __FILE__, line, "has a body");
}

static struct hf_session_opts session_opts(void)
{
	return (struct hf_session_opts){.name = "n", .ttl = 15000, .lock_delay = 15000};
}

static void creates_a_session_with_name_ttl_and_lock_delay(void)
{
	struct hf_session_opts opts = session_opts();

	hf_session_create(empty(), &plain, &opts);
	SENDS("PUT", BASE "/v1/session/create",
	      "{\"TTL\":\"15000ms\",\"LockDelay\":\"15000ms\",\"Name\":\"n\"}");
	CHECK_INT(http.timeout, 10000);
}

static void sends_a_lock_delay_of_zero(void)
{
	struct hf_session_opts opts = session_opts();

	opts.lock_delay = 0;
	hf_session_create(empty(), &plain, &opts);
	CHECK_HAS(hf_buf_text(&http.body), "\"LockDelay\":\"0ms\"");
}

static void creates_a_session_with_every_option(void)
{
	struct hf_session_opts opts = session_opts();
	const char *checks[] = {"serfHealth", "a \"b\""}, *services[] = {"s1", "s2"};

	opts.behavior = "delete";
	opts.node = "node-1";
	opts.checks = (struct hf_list){checks, 2};
	opts.service_checks = (struct hf_list){services, 2};
	hf_session_create(empty(), &elsewhere, &opts);
	SENDS("PUT", BASE "/consul/v1/session/create?" ELSEWHERE,
	      "{\"TTL\":\"15000ms\",\"LockDelay\":\"15000ms\",\"Name\":\"n\","
	      "\"Behavior\":\"delete\",\"Node\":\"node-1\","
	      "\"NodeChecks\":[\"serfHealth\",\"a \\\"b\\\"\"],"
	      "\"ServiceChecks\":[{\"ID\":\"s1\"},{\"ID\":\"s2\"}]}");
}

static void asks_after_the_check_of_a_process(void)
{
	struct hf_session_opts opts = session_opts();

	opts.alive = 10000;
	hf_alive_register(empty(), &plain, "n-1", &opts);
	SENDS("PUT", BASE "/v1/agent/service/register",
	      "{\"Name\":\"holdfast\",\"ID\":\"n-1\",\"Check\":{\"Status\":\"passing\",\"CheckID\":"
	      "\"n-1\","
	      "\"Name\":\"the process of this session lives\",\"Notes\":\"n\","
	      "\"DeregisterCriticalServiceAfter\":\"1m\",\"TTL\":\"10000ms\"}}");
	hf_alive_pass(empty(), &plain, "n 1/2");
	SENDS("PUT", BASE "/v1/agent/check/pass/n%201%2F2", NULL);
	hf_alive_deregister(empty(), &elsewhere, "n");
	SENDS("PUT", BASE "/consul/v1/agent/service/deregister/n?" ELSEWHERE, NULL);
}

static void sends_empty_lists_of_checks_but_not_absent_ones(void)
{
	struct hf_session_opts opts = session_opts();
	const char *none[1] = {NULL};

	opts.checks = opts.service_checks = (struct hf_list){none, 0};
	hf_session_create(empty(), &plain, &opts);
	SENDS("PUT", BASE "/v1/session/create",
	      "{\"TTL\":\"15000ms\",\"LockDelay\":\"15000ms\",\"Name\":\"n\","
	      "\"NodeChecks\":[],\"ServiceChecks\":[]}");
}

static void renews_a_session(void)
{
	hf_session_renew(empty(), &elsewhere, SID);
	SENDS("PUT", BASE "/consul/v1/session/renew/" SID "?" ELSEWHERE, NULL);
	CHECK_INT(http.timeout, 7000);
}

static void destroys_a_session(void)
{
	hf_session_destroy(empty(), &plain, SID);
	SENDS("PUT", BASE "/v1/session/destroy/" SID, NULL);
}

static void escapes_a_session_id_that_somebody_made_up(void)
{
	hf_session_renew(empty(), &plain, "../kv/a?b");
	SENDS("PUT", BASE "/v1/session/renew/..%2Fkv%2Fa%3Fb", NULL);
}

static void reads_a_session_from_the_leader(void)
{
	hf_session_look(empty(), &plain, SID, 0);
	SENDS("GET", BASE "/v1/session/info/" SID "?consistent", NULL);
	hf_session_look(empty(), &elsewhere, SID, 0);
	SENDS("GET", BASE "/consul/v1/session/info/" SID "?" ELSEWHERE "&consistent", NULL);
}

static void polls_a_session_with_an_index(void)
{
	hf_session_look(empty(), &plain, SID, 42);
	SENDS("GET", BASE "/v1/session/info/" SID "?consistent&index=42&wait=10000ms", NULL);
}

static void a_poll_outlasts_what_the_server_may_wait(void)
{
	hf_kv_get(empty(), &plain, "k", 1, false);
	CHECK(http.timeout > HF_POLL_WAIT + HF_POLL_WAIT / 16);
}

static void reads_a_key(void)
{
	hf_kv_get(empty(), &plain, "a/b", 0, false);
	SENDS("GET", BASE "/v1/kv/a/b", NULL);
	hf_kv_get(empty(), &plain, "a/b", 0, true);
	SENDS("GET", BASE "/v1/kv/a/b?consistent", NULL);
	hf_kv_get(empty(), &elsewhere, "a/b", 0, true);
	SENDS("GET", BASE "/consul/v1/kv/a/b?" ELSEWHERE "&consistent", NULL);
}

static void polls_a_key_with_an_index_of_64_bits(void)
{
	hf_kv_get(empty(), &plain, "k", UINT64_MAX, false);
	SENDS("GET", BASE "/v1/kv/k?index=18446744073709551615&wait=10000ms", NULL);
	hf_kv_get(empty(), &elsewhere, "k", 7, true);
	SENDS("GET", BASE "/consul/v1/kv/k?" ELSEWHERE "&consistent&index=7&wait=10000ms", NULL);
}

static void a_read_after_a_poll_is_no_poll(void)
{
	hf_kv_get(empty(), &plain, "k", 7, false);
	hf_kv_get(empty(), &plain, "k", 0, false);
	CHECK_INT(http.timeout, 10000);
}

static void escapes_keys_in_urls(void)
{
	hf_kv_get(empty(), &plain, "a b/100%/what?/#1+2&3=4/\xc3\xa4/", 0, false);
	SENDS("GET", BASE "/v1/kv/a%20b/100%25/what%3F/%231%2B2%263%3D4/%C3%A4/", NULL);
}

static void txn(const struct hf_consul *consul, const struct hf_txn_op *ops, size_t count)
{
	hf_txn_begin(empty(), consul, false);
	for (size_t i = 0; i < count; i++)
		hf_txn_add(&http, &ops[i]);
	hf_txn_end(&http);
}

static void locks_what_has_not_changed(void)
{
	const struct hf_txn_op ops[] = {
		{.verb = HF_CHECK_INDEX, .key = "a/b", .session = SID, .index = 23},
		{.verb = HF_LOCK,
		 .key = "a/b",
		 .session = SID,
		 .index = 23,
		 .value = "foob",
		 .value_len = 4},
	};

	txn(&plain, ops, 2);
	SENDS("PUT", BASE "/v1/txn",
	      "[{\"KV\":{\"Verb\":\"check-index\",\"Key\":\"a/b\",\"Index\":23}},"
	      "{\"KV\":{\"Verb\":\"lock\",\"Key\":\"a/b\",\"Session\":\"" SID "\"," FLAGS
	      ",\"Value\":\"Zm9vYg==\"}}]");
}

static void locks_what_is_not_there(void)
{
	const struct hf_txn_op ops[] = {
		{.verb = HF_CHECK_NOT_EXISTS, .key = "k", .session = SID, .index = 5},
		{.verb = HF_LOCK, .key = "k", .session = SID},
	};

	txn(&plain, ops, 2);
	SENDS("PUT", BASE "/v1/txn",
	      "[{\"KV\":{\"Verb\":\"check-not-exists\",\"Key\":\"k\"}},"
	      "{\"KV\":{\"Verb\":\"lock\",\"Key\":\"k\",\"Session\":\"" SID "\"," FLAGS
	      ",\"Value\":\"\"}}]");
}

static void unlocks_what_has_not_changed(void)
{
	const struct hf_txn_op ops[] = {
		{.verb = HF_CHECK_INDEX, .key = "k", .index = UINT64_MAX},
		{.verb = HF_UNLOCK, .key = "k", .session = SID, .value = "v", .value_len = 1},
	};

	txn(&elsewhere, ops, 2);
	SENDS("PUT", BASE "/consul/v1/txn?" ELSEWHERE,
	      "[{\"KV\":{\"Verb\":\"check-index\",\"Key\":\"k\","
	      "\"Index\":18446744073709551615}},"
	      "{\"KV\":{\"Verb\":\"unlock\",\"Key\":\"k\",\"Session\":\"" SID "\"," FLAGS
	      ",\"Value\":\"dg==\"}}]");
}

static void deletes_a_key_unless_it_has_changed(void)
{
	const struct hf_txn_op op = {
		.verb = HF_DELETE, .key = "k", .session = SID, .index = UINT64_MAX};

	txn(&plain, &op, 1);
	SENDS("PUT", BASE "/v1/txn",
	      "[{\"KV\":{\"Verb\":\"delete-cas\",\"Key\":\"k\","
	      "\"Index\":18446744073709551615}}]");
}

static void makes_sure_by_locking_and_unlocking(void)
{
	const struct hf_txn_op ops[] = {
		{.verb = HF_CHECK_NOT_EXISTS, .key = "k"},
		{.verb = HF_LOCK, .key = "k", .session = SID},
		{.verb = HF_UNLOCK, .key = "k", .session = SID},
	};

	txn(&plain, ops, 3);
	SENDS("PUT", BASE "/v1/txn",
	      "[{\"KV\":{\"Verb\":\"check-not-exists\",\"Key\":\"k\"}},"
	      "{\"KV\":{\"Verb\":\"lock\",\"Key\":\"k\",\"Session\":\"" SID "\"," FLAGS
	      ",\"Value\":\"\"}},"
	      "{\"KV\":{\"Verb\":\"unlock\",\"Key\":\"k\",\"Session\":\"" SID "\"," FLAGS
	      ",\"Value\":\"\"}}]");
}

static void escapes_keys_in_bodies(void)
{
	const struct hf_txn_op op = {
		.verb = HF_LOCK, .key = "a \"b\"\\%?#\n\xc3\xa4", .session = SID};

	txn(&plain, &op, 1);
	SENDS("PUT", BASE "/v1/txn",
	      "[{\"KV\":{\"Verb\":\"lock\",\"Key\":\"a \\\"b\\\"\\\\%?#\\u000a\xc3\xa4\","
	      "\"Session\":\"" SID "\"," FLAGS ",\"Value\":\"\"}}]");
}

static void locks_with_a_value_of_any_bytes(void)
{
	const struct hf_txn_op op = {
		.verb = HF_LOCK, .key = "k", .session = SID, .value = "\0\xff\0", .value_len = 3};

	txn(&plain, &op, 1);
	CHECK_HAS(hf_buf_text(&http.body), "\"Value\":\"AP8A\"");
}

static void checks_several_keys_in_one_transaction(void)
{
	hf_txn_begin(empty(), &plain, true);
	hf_txn_add(&http,
		   &(struct hf_txn_op){.verb = HF_CHECK_SESSION, .key = "a", .session = SID});
	hf_txn_add(&http,
		   &(struct hf_txn_op){.verb = HF_CHECK_SESSION, .key = "b", .session = SID});
	hf_txn_end(&http);
	SENDS("PUT", BASE "/v1/txn?consistent",
	      "[{\"KV\":{\"Verb\":\"check-session\",\"Key\":\"a\",\"Session\":\"" SID "\"}},"
	      "{\"KV\":{\"Verb\":\"check-session\",\"Key\":\"b\",\"Session\":\"" SID "\"}}]");
	hf_txn_begin(empty(), &elsewhere, true);
	hf_txn_end(&http);
	SENDS("PUT", BASE "/consul/v1/txn?" ELSEWHERE "&consistent", "[]");
}

static void reads_several_keys_in_one_transaction(void)
{
	const struct hf_txn_op ops[] = {
		{.verb = HF_GET, .key = "a", .session = SID, .index = 7},
		{.verb = HF_GET, .key = "b \"c\""},
	};

	txn(&plain, ops, 2);
	SENDS("PUT", BASE "/v1/txn",
	      "[{\"KV\":{\"Verb\":\"get\",\"Key\":\"a\"}},"
	      "{\"KV\":{\"Verb\":\"get\",\"Key\":\"b \\\"c\\\"\"}}]");
}

static void a_key_of_any_length_is_sent_whole(void)
{
	static char key[3000], want[sizeof key + 100];

	memset(key, '/', sizeof key - 1);
	snprintf(want, sizeof want, BASE "/v1/kv/%s", key);
	hf_kv_get(empty(), &plain, key, 0, false);
	SENDS("GET", want, NULL);
}

static void a_request_forgets_the_reply_before(void)
{
	http.status = 409;
	http.error = HF_CONNECT;
	http.fresh = http.truncated = http.maybe_sent = true;
	hf_buf_puts(&http.reply, "old");
	hf_buf_puts(&http.reply_headers, "X-Consul-Index: 5\r\n");
	hf_kv_get(empty(), &plain, "k", 0, false);
	CHECK_INT(http.status, 0);
	CHECK_U64(hf_call_index(&http), 0);
	CHECK_INT(http.error, HF_OK);
	CHECK(!http.fresh && !http.truncated && !http.maybe_sent);
	CHECK_STR(hf_buf_text(&http.reply), "");
}

static void shows_in_its_buffers_that_memory_is_out(void)
{
	struct hf_session_opts opts = session_opts();

	for (long n = 1; n <= 2; n++) {
		forget();
		hf_alloc_fail(n, 0);
		hf_session_create(empty(), &plain, &opts);
		CHECK(http.url.failed || http.body.failed);
	}
	forget();
	hf_session_create(empty(), &plain, &opts);
	CHECK(!http.url.failed && !http.body.failed);
}

static bool has_header(const struct hf_consul *consul, const char *line)
{
	const struct curl_slist *at = consul->peer.headers;

	while (at && strcmp(at->data, line))
		at = at->next;
	return at != NULL || (consul->peer.header && !strcmp(consul->peer.header, line));
}

static void the_token_is_a_header_of_every_request(void)
{
	struct hf_client_opts opts = {
		.base = BASE, .token = "secret", .route = {.connect_to = "::a:1"}};
	struct hf_consul consul;

	REQUIRE(hf_consul_init(&consul, &opts));
	CHECK(has_header(&consul, "X-Consul-Token: secret"));
	CHECK(!has_header(&plain, "X-Consul-Token: secret"));
	CHECK_STR(consul.peer.connect_to->data, "::a:1");
	hf_kv_get(empty(), &consul, "k", 0, false);
	CHECK(http.peer == &consul.peer);
	hf_consul_free(&consul);
	CHECK(!consul.peer.headers && !consul.peer.connect_to && !consul.peer.header);
}

static void put_token(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	REQUIRE(file);
	fputs(text, file);
	fclose(file);
}

static void a_new_token_needs_memory_and_a_moment_since_the_last_look(void)
{
	char path[] = "/tmp/hf-token-XXXXXX";
	int fd = mkstemp(path);
	struct hf_client_opts opts = {.base = BASE, .token = "old", .token_file = path};
	struct hf_consul consul;

	REQUIRE(fd >= 0);
	close(fd);
	REQUIRE(hf_consul_init(&consul, &opts));
	put_token(path, "new\n");
	for (long n = 1; n <= 2; n++) {
		unsigned before = consul.peer.edition;

		hf_alloc_fail(n, 0);
		consul.token_read_at = 0;
		hf_consul_renew_token(&consul);
		CHECK(has_header(&consul, "X-Consul-Token: old"));
		CHECK(consul.peer.edition == before);
	}
	hf_alloc_fail(0, 0);
	consul.token_read_at = hf_now() + 60000; /* a moment ago, however slow this machine is */
	hf_consul_renew_token(&consul);
	CHECK(has_header(&consul, "X-Consul-Token: old"));
	consul.token_read_at = 0;
	hf_consul_renew_token(&consul);
	CHECK(has_header(&consul, "X-Consul-Token: new"));
	hf_consul_free(&consul);
	remove(path);
}

/* ---- any request ---- */

static void any_request_has_its_method_path_query_and_body(void)
{
	const char *query[] = {"recurse", "filter=A == \"b c\"", "dc=", "separator=/"};
	const struct hf_call call = {.method = "PUT",
				     .path = "/v1/kv/a%20b",
				     .query = {query, 4},
				     .body = "x\0y",
				     .body_len = 3,
				     .timeout = -1};

	hf_call_any(empty(), &plain, &call, NULL);
	SENDS("PUT", BASE "/v1/kv/a%20b?recurse&filter=A%20%3D%3D%20%22b%20c%22&dc=&separator=%2F",
	      "x");
	CHECK_INT(http.body.len, 3);
	CHECK_INT(http.timeout, 10000);
	hf_call_any(empty(), &plain, &(struct hf_call){.method = "GET", .path = "/v1/x"}, NULL);
	SENDS("GET", BASE "/v1/x", NULL);
}

static void any_request_goes_where_the_client_is_unless_it_says_otherwise(void)
{
	const char *own[] = {"ns=other", "partition=", "dcx=1"};
	struct hf_call call = {.method = "GET", .path = "/v1/x", .timeout = -1};

	hf_call_any(empty(), &elsewhere, &call, NULL);
	SENDS("GET", BASE "/consul/v1/x?" ELSEWHERE, NULL);
	call.query = (struct hf_list){own, 3};
	hf_call_any(empty(), &elsewhere, &call, NULL);
	SENDS("GET", BASE "/consul/v1/x?ns=other&partition=&dcx=1&dc=d%20c", NULL);
}

static void a_long_poll_has_time_for_what_the_server_may_take(void)
{
	struct hf_call call = {.method = "GET", .path = "/v1/x", .timeout = -1, .wait = 16000};

	hf_call_any(empty(), &plain, &call, NULL);
	CHECK_INT(http.timeout, 22000);
	call = (struct hf_call){.method = "GET", .path = "/v1/x", .timeout = 500};
	hf_call_any(empty(), &plain, &call, NULL);
	CHECK(http.timeout >= 500 && http.timeout < 10000);
}

/* The headers of a call as one text. */
static const char *headers_of(const struct hf_call *call)
{
	static char text[500];
	struct curl_slist *list = NULL;

	text[0] = '\0';
	CHECK(hf_call_headers(&list, call));
	for (const struct curl_slist *line = list; line; line = line->next)
		snprintf(text + strlen(text), sizeof text - strlen(text), "%s|", line->data);
	hf_call_any(empty(), &plain, call, list);
	CHECK(http.instead == list);
	hf_http_reset(&http);
	hf_http_free_headers(list);
	return text;
}

static void the_headers_of_a_call_take_the_place_of_the_usual_ones(void)
{
	const char *own[] = {"content-type: text/plain", "X-CONSUL-TOKEN: mine", "X-Other: 1"};
	struct hf_call call = {.method = "GET", .path = "/v1/x"};

	CHECK_STR(headers_of(&call), "Content-Type:|Expect:|");
	call.body = "";
	CHECK_STR(headers_of(&call), "Content-Type: application/json|Expect:|");
	hf_call_any(empty(), &plain, &call, NULL);
	CHECK(!http.bare);
	call.headers = (struct hf_list){own, 3};
	CHECK_STR(headers_of(&call),
		  "content-type: text/plain|X-CONSUL-TOKEN: mine|X-Other: 1|Expect:|");
	hf_call_any(empty(), &plain, &call, NULL); /* has a token of its own */
	CHECK(http.bare);
}

/* ---- replies ------------------------------------------------------------------------------ */

static void reply_bytes(long status, uint64_t index, const char *body, size_t len)
{
	hf_http_reset(&http);
	err = (struct hf_error){0};
	http.status = status;
	hf_buf_puts(&http.reply_headers, "Vary: Accept-Encoding\r\n");
	if (index)
		hf_buf_printf(&http.reply_headers, "X-Consul-Index: %" PRIu64 "\r\n", index);
	hf_buf_puts(&http.reply_headers, "\r\n");
	hf_buf_add(&http.reply, body, len);
}

static void reply(long status, const char *body)
{
	reply_bytes(status, 0, body, strlen(body));
}

static void a_check_that_the_agent_does_not_know_is_absent(void)
{
	static const struct {
		long status;
		const char *body;
		enum hf_verdict verdict;
	} cases[] = {
		{200, "", HF_V_OK},
		{404, "Unknown check \"n\"", HF_V_ABSENT},
		{500, "CheckID \"n\" does not have associated TTL", HF_V_ABSENT},
		{500, "CheckID \"Unknown check\": no", HF_V_AGAIN},
		{403, "Permission denied", HF_V_FINAL},
	};

	for (size_t i = 0; i < CHECK_COUNT(cases); i++) {
		reply(cases[i].status, cases[i].body);
		CHECK_INT(hf_alive_read(&http, &plain, &err), cases[i].verdict);
	}
}

static void trouble(enum hf_err code)
{
	reply(0, "");
	http.error = code;
	snprintf(http.message, sizeof http.message, "what libcurl said");
}

/* Checks a verdict and, unless it is OK, the error that goes with it. */
#define SAYS(verdict, want, want_code) says(__LINE__, verdict, want, want_code)

static void says(int line, enum hf_verdict verdict, enum hf_verdict want, enum hf_err code)
{
	check_int(verdict, want, __FILE__, line, "the verdict");
	if (want == HF_V_OK)
		return;
	check_str(hf_err_code(err.code), hf_err_code(code), __FILE__, line, "the error");
	check_that(err.message[0] != '\0', __FILE__, line, "there is a message");
}

static enum hf_verdict read_session(void)
{
	struct hf_session_info info;

	return hf_session_read(&http, &plain, &info, &err);
}

static enum hf_verdict read_look(void)
{
	struct hf_session_info info;

	return hf_session_read_look(&http, &plain, &info, &err);
}

static enum hf_verdict read_destroy(void)
{
	return hf_session_read_destroy(&http, &plain, &err);
}

static enum hf_verdict read_key(void)
{
	struct hf_kv kv;

	return hf_kv_read(&http, &plain, &kv, &err);
}

/* One part of three operations, on the key "k". */
static enum hf_verdict read_part(struct hf_kv *kv)
{
	struct hf_txn_reply parts;
	enum hf_verdict verdict = hf_txn_open(&parts, &http, &plain, 3, &err);

	if (verdict == HF_V_OK)
		verdict = hf_txn_read_part(&parts, "k", 0, 3, kv, &err);
	hf_txn_close(&parts);
	return verdict;
}

static enum hf_verdict read_write(void)
{
	struct hf_kv kv;

	return read_part(&kv);
}

static enum hf_verdict read_checks(void)
{
	enum hf_verdict verdicts[4];

	return hf_txn_read_checks(&http, &plain, 4, verdicts, &err);
}

static enum hf_verdict (*const readers[])(void) = {
	read_session, read_look, read_destroy, read_key, read_write, read_checks,
};

static void every_reader(long status, const char *body, enum hf_verdict want, enum hf_err code)
{
	for (size_t i = 0; i < CHECK_COUNT(readers); i++) {
		reply(status, body);
		says((int)i, readers[i](), want, code);
	}
}

static void trouble_on_the_way_is_passing(void)
{
	static const enum hf_err codes[] = {HF_CONNECT, HF_TIMEOUT, HF_TLS, HF_PROTOCOL, HF_NOMEM};

	for (size_t i = 0; i < CHECK_COUNT(codes); i++)
		for (size_t r = 0; r < CHECK_COUNT(readers); r++) {
			trouble(codes[i]);
			SAYS(readers[r](), HF_V_AGAIN, codes[i]);
			CHECK_STR(err.message, BASE ": what libcurl said");
		}
}

static void a_request_that_libcurl_refuses_is_refused_for_good(void)
{
	for (size_t r = 0; r < CHECK_COUNT(readers); r++) {
		trouble(HF_INVALID);
		SAYS(readers[r](), HF_V_FINAL, HF_INVALID);
	}
}

static void statuses_403_and_400_are_final(void)
{
	every_reader(403, "Permission denied", HF_V_FINAL, HF_DENIED);
	every_reader(403, "ACL not found", HF_V_FINAL, HF_DENIED);
	every_reader(403, "", HF_V_FINAL, HF_DENIED);
	every_reader(400, "Invalid index", HF_V_FINAL, HF_HTTP);
	every_reader(405, "method PUT not allowed", HF_V_FINAL, HF_HTTP);
	every_reader(301, "", HF_V_FINAL, HF_HTTP);
}

static void a_body_that_is_too_large_is_final(void)
{
	every_reader(413, "Request body(524289 bytes) too large, max size: 524288 bytes",
		     HF_V_FINAL, HF_TOO_LARGE);
}

static void denials_of_a_server_behind_the_agent_are_final(void)
{
	every_reader(500, "rpc error making call: Permission denied", HF_V_FINAL, HF_DENIED);
	every_reader(500, "rpc error making call: ACL not found", HF_V_FINAL, HF_DENIED);
	every_reader(500, "invalid key name, not allowed: \"a b\"", HF_V_FINAL, HF_INVALID);
}

static void limits_and_elections_are_passing(void)
{
	every_reader(429, "Your IP is issuing too many concurrent connections", HF_V_AGAIN,
		     HF_HTTP);
	every_reader(429, "rate limit exceeded, try again later or against a different server",
		     HF_V_AGAIN, HF_HTTP);
	every_reader(503,
		     "rate limit exceeded for operation that can only be performed by the "
		     "leader, try again later",
		     HF_V_AGAIN, HF_HTTP);
	every_reader(500, "No cluster leader", HF_V_AGAIN, HF_HTTP);
	every_reader(500, "rpc error making call: No cluster leader", HF_V_AGAIN, HF_HTTP);
	every_reader(500, "No known Consul servers", HF_V_AGAIN, HF_HTTP);
	every_reader(500, "leadership lost while committing log", HF_V_AGAIN, HF_HTTP);
	every_reader(500, "Not ready to serve consistent reads", HF_V_AGAIN, HF_HTTP);
	every_reader(502, "<html>bad gateway</html>", HF_V_AGAIN, HF_HTTP);
	every_reader(504, "", HF_V_AGAIN, HF_HTTP);
}

static void knows_what_was_certainly_not_carried_out(void)
{
	reply(429, "Your IP is issuing too many concurrent connections");
	CHECK(hf_call_unheard(&http));
	reply(503, "rate limit exceeded for operation that can only be performed by the leader, "
		   "try again later");
	CHECK(hf_call_unheard(&http));
	reply(503, "<html>try again later</html>");
	CHECK(!hf_call_unheard(&http));
	reply(500, "rpc error making call: No cluster leader");
	CHECK(!hf_call_unheard(&http));
	reply(200, "{}");
	CHECK(!hf_call_unheard(&http));
	reply(409, "{}");
	CHECK(!hf_call_unheard(&http));
	trouble(HF_CONNECT);
	CHECK(hf_call_unheard(&http));
	trouble(HF_TIMEOUT);
	http.maybe_sent = true;
	CHECK(!hf_call_unheard(&http));
}

static void a_name_in_quotes_is_not_the_servers_word(void)
{
	CHECK(hf_call_says("failed: Permission denied", "Permission denied"));
	CHECK(!hf_call_says("failed: \"Permission denied\"", "Permission denied"));
	CHECK(hf_call_says("\"a\" Permission denied \"b\"", "Permission denied"));
	CHECK(!hf_call_says("key \"a\\\" Permission denied\" is bad", "Permission denied"));
	CHECK(hf_call_says("key \"a\\\\\" Permission denied", "Permission denied"));
	CHECK(!hf_call_says("\"never closed Permission denied", "Permission denied"));
	CHECK(!hf_call_says("", "x") && !hf_call_says(NULL, "x"));
	CHECK(hf_call_says("anything", ""));
}

static void a_long_name_in_quotes_does_not_hide_what_comes_after_it(void)
{
	static char words[6000];

	memset(words, 'x', 5000);
	words[0] = words[4999] = '"';
	snprintf(words + 5000, sizeof words - 5000, " Permission denied");
	CHECK(hf_call_says(words, "Permission denied"));
}

static void reads_the_index_of_a_reply(void)
{
	reply_bytes(200, UINT64_MAX, "", 0);
	CHECK_U64(hf_call_index(&http), UINT64_MAX);
	reply(200, "");
	CHECK_U64(hf_call_index(&http), 0);
	hf_buf_puts(&http.reply_headers, "x-consul-index:7\r\n");
	CHECK_U64(hf_call_index(&http), 7);
	reply(200, "");
	hf_buf_puts(&http.reply_headers, "X-Consul-Index: -7\r\n");
	CHECK_U64(hf_call_index(&http), 0);
	reply(200, "");
	hf_buf_puts(&http.reply_headers, "X-Consul-Indexes: 7\r\n");
	CHECK_U64(hf_call_index(&http), 0);
	reply_bytes(200, 9, "", 0);
	http.error = HF_TIMEOUT;
	CHECK_U64(hf_call_index(&http), 0);
}

static void outcome_of(long status, const char *body, enum hf_err want)
{
	reply(status, body);
	check_int(hf_call_outcome(&http, &plain, &err), want, __FILE__, __LINE__, body);
	CHECK_INT(err.code, want);
}

static void the_outcome_of_any_request_is_told_by_its_status(void)
{
	outcome_of(200, "", HF_OK);
	outcome_of(204, "Permission denied", HF_OK);
	outcome_of(301, "moved", HF_HTTP);
	outcome_of(400, "Invalid index", HF_HTTP);
	outcome_of(403, "Permission denied", HF_DENIED);
	outcome_of(403, "ACL not found", HF_DENIED);
	outcome_of(404, "", HF_NOT_FOUND);
	outcome_of(409, "{\"Errors\":[]}", HF_HTTP);
	outcome_of(413, "too large", HF_TOO_LARGE);
	outcome_of(429, "rate limit exceeded", HF_HTTP);
	outcome_of(500, "invalid key name", HF_INVALID);
	CHECK_HAS(err.message, "HTTP status 500: invalid key name");
	http.error = HF_CONNECT;
	CHECK_INT(hf_call_outcome(&http, &plain, &err), HF_CONNECT);
}

static void a_message_quotes_a_body_on_one_line(void)
{
	reply(500, "\r\nNo\x1b[31m leader\n\t second line\n");
	SAYS(read_destroy(), HF_V_AGAIN, HF_HTTP);
	CHECK_STR(err.message, BASE ": HTTP status 500: No?[31m leader second line");
}

static void a_message_about_a_long_body_is_cut(void)
{
	static char body[5000];

	memset(body, 'x', sizeof body - 1);
	reply(500, body);
	SAYS(read_destroy(), HF_V_AGAIN, HF_HTTP);
	CHECK(strlen(err.message) < sizeof err.message - 1);
	CHECK_HAS(err.message, "xxxx");
}

/* ---- sessions ---- */

static void reads_the_id_of_a_new_session(void)
{
	struct hf_session_info info;

	reply(200, "{\"ID\":\"" SID "\"}\n");
	SAYS(hf_session_read(&http, &plain, &info, &err), HF_V_OK, HF_OK);
	CHECK(info.exists);
	CHECK_STR(info.id, SID);
	CHECK_INT(info.ttl, 0);
	CHECK_INT(info.lock_delay, 0);
}

static int64_t ttl_of(const char *text)
{
	struct hf_session_info info;
	char body[200];

	snprintf(body, sizeof body, "[{\"ID\":\"" SID "\",\"TTL\":\"%s\"}]", text);
	reply(200, body);
	SAYS(hf_session_read(&http, &plain, &info, &err), HF_V_OK, HF_OK);
	CHECK_STR(info.id, SID);
	return info.ttl;
}

/* In nanoseconds, as a number. */
static void reads_the_lock_delay_of_a_session(void)
{
	struct hf_session_info info;

	reply(200, "[{\"ID\":\"" SID "\",\"Node\":\"n\",\"LockDelay\":15000000000,"
		   "\"Behavior\":\"release\",\"TTL\":\"15s\",\"NodeChecks\":[\"serfHealth\"]}]");
	SAYS(hf_session_read_look(&http, &plain, &info, &err), HF_V_OK, HF_OK);
	CHECK_INT(info.lock_delay, 15000);
	CHECK_INT(info.ttl, 15000);
	SAYS(hf_session_read(&http, &plain, &info, &err), HF_V_OK, HF_OK);
	CHECK_INT(info.lock_delay, 15000);
	reply(200, "[{\"ID\":\"" SID "\",\"LockDelay\":0,\"TTL\":\"\"}]");
	SAYS(hf_session_read_look(&http, &plain, &info, &err), HF_V_OK, HF_OK);
	CHECK_INT(info.lock_delay, 0);
	CHECK_INT(info.ttl, 0);
}

static void reads_the_ttl_that_the_server_chose(void)
{
	CHECK_INT(ttl_of("15s"), 15000);
	CHECK_INT(ttl_of("15000ms"), 15000);
	CHECK_INT(ttl_of("1m30s"), 90000);
	CHECK_INT(ttl_of("24h"), 86400000);
	CHECK_INT(ttl_of("24h0m0s"), 86400000);
	CHECK_INT(ttl_of("1.5s"), 1500);
	CHECK_INT(ttl_of("10.25s"), 10250);
	CHECK_INT(ttl_of("2s500ms"), 2500);
}

static void reads_no_ttl_where_there_is_none(void)
{
	CHECK_INT(ttl_of(""), 0);
	CHECK_INT(ttl_of("15"), 0);
	CHECK_INT(ttl_of("s"), 0);
	CHECK_INT(ttl_of("-15s"), 0);
	CHECK_INT(ttl_of("15us"), 0);
	CHECK_INT(ttl_of("99999999999999999999999h"), 0);
}

static void a_renewal_of_an_unknown_session_is_absent(void)
{
	reply(404, "Session id '" SID "' not found");
	SAYS(read_session(), HF_V_ABSENT, HF_HTTP);
}

static void a_404_of_a_gateway_says_nothing_of_a_session(void)
{
	static const char *const bodies[] = {"", "404 page not found", "not found",
					     "<html>Not Found</html>",
					     "\"Session id 'x' not found\""};

	for (size_t i = 0; i < CHECK_COUNT(bodies); i++) {
		reply(404, bodies[i]);
		SAYS(read_session(), HF_V_AGAIN, HF_HTTP);
	}
}

static void a_session_that_makes_no_sense_is_passing_trouble(void)
{
	static const char *const bodies[] = {
		"",
		"{",
		"{}",
		"[]",
		"null",
		"{\"ID\":5}",
		"{\"ID\":\"\"}",
		"<html>hello</html>",
		"{\"ID\":\"",
		"{\"id\":\"x\"}",
		"[[]]",
		"\xff\xfe\x00",
	};

	for (size_t i = 0; i < CHECK_COUNT(bodies); i++) {
		reply(200, bodies[i]);
		SAYS(read_session(), HF_V_AGAIN, HF_PROTOCOL);
	}
}

static void a_session_id_fits_or_is_not_taken(void)
{
	char body[200], want[65];
	struct hf_session_info info;

	memset(want, 'x', sizeof want - 1);
	want[64] = '\0';
	snprintf(body, sizeof body, "{\"ID\":\"%s\"}", want);
	reply(200, body);
	SAYS(read_session(), HF_V_AGAIN, HF_PROTOCOL);
	want[63] = '\0';
	snprintf(body, sizeof body, "{\"ID\":\"%s\"}", want);
	reply(200, body);
	SAYS(hf_session_read(&http, &plain, &info, &err), HF_V_OK, HF_OK);
	CHECK_STR(info.id, want);
}

static void session_answers(const char *const *texts, size_t count, enum hf_verdict want)
{
	char text[200];

	for (size_t i = 0; i < count; i++) {
		reply(500, texts[i]);
		SAYS(read_session(), want, HF_SESSION);
		CHECK_HAS(err.message, texts[i]);
		snprintf(text, sizeof text, "rpc error making call: %s", texts[i]);
		reply(500, text);
		SAYS(read_session(), want, HF_SESSION);
	}
}

static void sessions_that_cannot_be_made_are_refused_for_good(void)
{
	static const char *const texts[] = {
		"Invalid Session TTL '5000000000', must be between [10s=24h0m0s]",
		"Session TTL 'abc' invalid: time: invalid duration abc",
		"apply failed: Invalid Behavior setting 'x'",
		"No path to datacenter",
		"cross datacenter lock must be created at server agent",
	};

	session_answers(texts, CHECK_COUNT(texts), HF_V_FINAL);
}

/* A check may recover, a node may register. */
static void what_stands_in_a_sessions_way_may_pass(void)
{
	static const char *const texts[] = {
		"Missing check 'x' registration",
		"Missing node registration",
		"Check 'serfHealth' is in critical state",
	};

	session_answers(texts, CHECK_COUNT(texts), HF_V_AGAIN);
}

static void a_malformed_id_in_a_renewal_is_passing(void)
{
	reply(500, "failed session lookup: index error: UUID must be 36 characters");
	SAYS(read_session(), HF_V_AGAIN, HF_HTTP);
}

static void a_look_tells_a_session_from_none(void)
{
	struct hf_session_info info = {.exists = false};

	reply(200, "[{\"ID\":\"" SID "\"}]");
	SAYS(hf_session_read_look(&http, &plain, &info, &err), HF_V_OK, HF_OK);
	CHECK(info.exists);
	reply(200, "[]");
	SAYS(hf_session_read_look(&http, &plain, &info, &err), HF_V_OK, HF_OK);
	CHECK(!info.exists);
}

static void a_look_that_makes_no_sense_is_passing_trouble(void)
{
	static const char *const bodies[] = {
		"", "{}", "null", "[", "[{\"ID\":", "oops", "true", "[{}]", "[{\"ID\":7}]"};

	for (size_t i = 0; i < CHECK_COUNT(bodies); i++) {
		reply(200, bodies[i]);
		SAYS(read_look(), HF_V_AGAIN, HF_PROTOCOL);
	}
}

static void a_look_answered_404_is_no_word_of_the_session(void)
{
	reply(404, "page not found");
	SAYS(read_look(), HF_V_FINAL, HF_HTTP);
}

static void reads_whether_a_session_was_destroyed(void)
{
	reply(200, "true\n");
	SAYS(read_destroy(), HF_V_OK, HF_OK);
	reply(200, "false\n");
	SAYS(read_destroy(), HF_V_AGAIN, HF_PROTOCOL);
	reply(200, "<html>hello</html>");
	SAYS(read_destroy(), HF_V_AGAIN, HF_PROTOCOL);
}

/* ---- keys ---- */

#define KV(flags, index, more) \
	"[{\"LockIndex\":1,\"Key\":\"k\",\"Flags\":" flags ",\"Value\":null" more \
	",\"CreateIndex\":5,\"ModifyIndex\":" index "}]"

static enum hf_verdict key_is(const char *body, struct hf_kv *kv)
{
	reply_bytes(200, 77, body, strlen(body));
	return hf_kv_read(&http, &plain, kv, &err);
}

static void reads_a_key_that_is_held(void)
{
	struct hf_kv kv;

	SAYS(key_is(KV("3304740253564472344", "23", ",\"Session\":\"" SID "\""), &kv), HF_V_OK,
	     HF_OK);
	CHECK(kv.exists);
	CHECK_U64(kv.flags, HF_LOCK_FLAGS);
	CHECK_U64(kv.index, 23);
	CHECK_U64(kv.at, 77);
	CHECK_STR(kv.session, SID);
}

static void reads_a_key_that_nobody_holds(void)
{
	struct hf_kv kv;

	SAYS(key_is(KV("0", "9007199254740993", ""), &kv), HF_V_OK, HF_OK);
	CHECK(kv.exists);
	CHECK_U64(kv.flags, 0);
	CHECK_U64(kv.index, UINT64_C(9007199254740993));
	CHECK_STR(kv.session, "");
}

static void tells_flags_that_differ_in_the_last_bit_only(void)
{
	struct hf_kv kv;

	SAYS(key_is(KV("3304740253564472345", "1", ""), &kv), HF_V_OK, HF_OK);
	CHECK_U64(kv.flags, HF_LOCK_FLAGS + 1);
	CHECK(kv.flags != HF_LOCK_FLAGS);
	SAYS(key_is(KV("16210313421097356768", "1", ""), &kv), HF_V_OK, HF_OK);
	CHECK_U64(kv.flags, UINT64_C(0xe0f69a2baa414de0));
}

static void an_absent_key_is_known_by_the_index_of_its_404(void)
{
	struct hf_kv kv = {.exists = true, .index = 5, .session = "x"};

	reply_bytes(404, 7, "", 0);
	SAYS(hf_kv_read(&http, &plain, &kv, &err), HF_V_OK, HF_OK);
	CHECK(!kv.exists);
	CHECK_U64(kv.index, 0);
	CHECK_U64(kv.at, 7);
	CHECK_STR(kv.session, "");
}

static void a_404_without_index_is_not_consuls(void)
{
	reply(404, "404 page not found");
	SAYS(read_key(), HF_V_AGAIN, HF_HTTP);
}

static void a_key_that_makes_no_sense_is_passing_trouble(void)
{
	static const char *const bodies[] = {
		"",
		"[]",
		"{}",
		"[{}]",
		"null",
		"[null]",
		"[{\"Flags\":0}]",
		"[{\"ModifyIndex\":1}]",
		"[{\"Flags\":-1,\"ModifyIndex\":1}]",
		"[{\"Flags\":1e20,\"ModifyIndex\":1}]",
		"[{\"Flags\":18446744073709551616,\"ModifyIndex\":1}]",
		"[{\"Flags\":\"0\",\"ModifyIndex\":1}]",
		"[{\"Flags\":0,\"ModifyIndex\":1.5}]",
		"[{\"Flags\":0,\"ModifyIndex\":0}]",
		"<html>",
	};
	struct hf_kv kv;

	for (size_t i = 0; i < CHECK_COUNT(bodies); i++) {
		SAYS(key_is(bodies[i], &kv), HF_V_AGAIN, HF_PROTOCOL);
		CHECK(!kv.exists);
	}
}

static void a_truncated_key_is_passing_trouble(void)
{
	static const char body[] = KV("3304740253564472344", "23", ",\"Session\":\"" SID "\"");

	for (size_t len = 0; len < sizeof body - 1; len++) {
		reply_bytes(200, 7, body, len);
		REQUIRE(read_key() == HF_V_AGAIN && err.code == HF_PROTOCOL);
	}
}

static void a_holder_that_does_not_fit_is_a_holder_still(void)
{
	char body[400], session[101];
	struct hf_kv kv;
	enum hf_verdict verdict;

	memset(session, 'x', sizeof session - 1);
	session[100] = '\0';
	snprintf(body, sizeof body, KV("0", "1", ",\"Session\":\"%s\""), session);
	verdict = key_is(body, &kv);
	CHECK(verdict != HF_V_OK || kv.session[0]);
}

/* ---- locks ---- */

#define RESULT(index) \
	"{\"KV\":{\"LockIndex\":3,\"Key\":\"k\"," FLAGS ",\"Value\":null,\"Session\":\"" SID \
	"\",\"CreateIndex\":5,\"ModifyIndex\":" index "}}"

static void written(const char *body, uint64_t want)
{
	struct hf_kv kv;

	reply(200, body);
	SAYS(read_part(&kv), HF_V_OK, HF_OK);
	CHECK_U64(kv.index, want);
}

static void the_token_is_the_index_of_the_write(void)
{
	written("{\"Results\":[" RESULT("9007199254740993") "],\"Errors\":null,\"Index\":1}",
		UINT64_C(9007199254740993));
}

/* A check may answer the key as it was. */
static void the_last_result_of_a_write_counts(void)
{
	written("{\"Results\":[" RESULT("7") "," RESULT("9") "],\"Errors\":null}", 9);
	written("{\"Results\":[" RESULT("7") "," RESULT("9") "," RESULT("12") "],\"Errors\":null}",
		12);
	written("{\"Results\":[" RESULT("7") ",{}],\"Errors\":null}", 0);
	written("{\"Results\":[" RESULT("7") "," RESULT("-1") "],\"Errors\":null}", 0);
}

static void refused(const char *what)
{
	char body[800];

	snprintf(body, sizeof body,
		 "{\"Results\":null,\"Errors\":[{\"OpIndex\":0,\"What\":\"%s\"}],\"Index\":0}",
		 what);
	reply(409, body);
}

struct refusal {
	const char *what;
	enum hf_verdict verdict;
	enum hf_err code;
};

/* name: of the key, as it stands in JSON within Go's quotes. */
static void reads_refusals(const char *prefix, const char *name)
{
	static const struct refusal table[] = {
		{"failed to lock key \\\"%s\\\", lock is already held", HF_V_HELD, HF_TIMEOUT},
		{"failed to lock key \\\"%s\\\" due to lock delay", HF_V_DELAY, HF_TIMEOUT},
		{"invalid session \\\"" SID "\\\"", HF_V_NO_SESSION, HF_SESSION},
		{"failed session lookup: index error: UUID must be 36 characters", HF_V_NO_SESSION,
		 HF_SESSION},
		{"missing session", HF_V_NO_SESSION, HF_SESSION},
		{"failed to unlock key \\\"%s\\\", lock isn't held, or is held by another session",
		 HF_V_NOT_OURS, HF_LOST},
		{"failed session check for key \\\"%s\\\", current session \\\"x\\\" != \\\"y\\\"",
		 HF_V_NOT_OURS, HF_LOST},
		{"failed to check session, key \\\"%s\\\" doesn't exist", HF_V_ABSENT,
		 HF_NOT_FOUND},
		{"key \\\"%s\\\" doesn't exist", HF_V_ABSENT, HF_NOT_FOUND},
		{"failed index check for key \\\"%s\\\", current modify index 16 != 1", HF_V_MOVED,
		 HF_TIMEOUT},
		{"failed to check index, key \\\"%s\\\" doesn't exist", HF_V_MOVED, HF_TIMEOUT},
		{"key \\\"%s\\\" exists", HF_V_MOVED, HF_TIMEOUT},
		{"failed to delete key \\\"%s\\\", index is stale", HF_V_MOVED, HF_IN_USE},
		{"Permission denied", HF_V_FINAL, HF_DENIED},
		{"Permission denied: token with AccessorID 'x' lacks permission 'key:write' on "
		 "\\\"%s\\\"",
		 HF_V_FINAL, HF_DENIED},
		{"something new about \\\"%s\\\"", HF_V_FINAL, HF_HTTP},
	};
	char what[600];

	for (size_t i = 0; i < CHECK_COUNT(table); i++) {
		const char *text = table[i].what, *hole = strstr(text, "%s");
		int before = (int)(hole ? hole - text : (ptrdiff_t)strlen(text));

		snprintf(what, sizeof what, "%s%.*s%s%s", prefix, before, text, hole ? name : "",
			 hole ? hole + 2 : "");
		refused(what);
		says((int)i, read_write(), table[i].verdict, table[i].code);
	}
}

static void tells_the_refusals_of_a_lock_apart(void)
{
	reads_refusals("", "k");
}

static void knows_refusals_with_a_prefix_of_newer_servers(void)
{
	reads_refusals("rpc error making call: raft apply failed: ", "k");
	reads_refusals("apply failed: ", "k");
}

/* As Go writes it, and JSON once more. */
static void a_key_that_reads_like_a_refusal_is_no_refusal(void)
{
	static const char *const names[] = {
		"p/invalid session",
		"p/Permission denied",
		"p/already held",
		"p/due to lock delay",
		"it doesn't exist",
		"what exists",
		"failed index check",
		"failed session check",
		"held by another session",
		"a \\\\\\\" invalid session",
		"a\\\\\\\\",
		"\\\\\\\"",
	};

	for (size_t i = 0; i < CHECK_COUNT(names); i++) {
		reads_refusals("", names[i]);
		reads_refusals("rpc error making call: ", names[i]);
	}
}

static void the_first_refusal_counts(void)
{
	reply(409,
	      "{\"Results\":null,\"Errors\":[{\"OpIndex\":0,\"What\":\"key \\\"k\\\" exists\"},"
	      "{\"OpIndex\":1,\"What\":\"failed to lock key \\\"k\\\", lock is already "
	      "held\"}]}");
	SAYS(read_write(), HF_V_MOVED, HF_TIMEOUT);
}

static void a_dead_session_is_known_from_a_500_too(void)
{
	reply(500, "rpc error making call: raft apply failed: invalid session \"" SID "\"");
	SAYS(read_write(), HF_V_NO_SESSION, HF_SESSION);
}

static void a_lock_answered_404_is_refused_for_good(void)
{
	reply(404, "404 page not found");
	SAYS(read_write(), HF_V_FINAL, HF_HTTP);
}

static void a_refusal_without_reason_is_final(void)
{
	reply(409, "{\"Errors\":[{\"OpIndex\":0}]}");
	SAYS(read_write(), HF_V_FINAL, HF_HTTP);
	reply(409, "{\"Errors\":[{\"OpIndex\":0,\"What\":5}]}");
	SAYS(read_write(), HF_V_FINAL, HF_HTTP);
}

static void a_refusal_of_nothing_is_passing_trouble(void)
{
	reply(409, "<html>conflict</html>");
	SAYS(read_write(), HF_V_AGAIN, HF_PROTOCOL);
	reply(409, "");
	SAYS(read_write(), HF_V_AGAIN, HF_PROTOCOL);
	reply(409, "{\"Results\":null,\"Errors\":null}");
	SAYS(read_write(), HF_V_AGAIN, HF_PROTOCOL);
	reply(409, "{\"Results\":null,\"Errors\":[{\"OpIndex\":0,\"What\":\"failed to lo");
	SAYS(read_write(), HF_V_AGAIN, HF_PROTOCOL);
}

static void a_lock_that_is_no_json_is_passing_trouble(void)
{
	static const char *const bodies[] = {"", "<html>",
					     "{\"Results\":[{\"KV\":{\"ModifyIndex\":12}}]"};

	for (size_t i = 0; i < CHECK_COUNT(bodies); i++) {
		reply(200, bodies[i]);
		SAYS(read_write(), HF_V_AGAIN, HF_PROTOCOL);
	}
}

static void a_lock_that_makes_no_sense_tells_nothing_of_the_key(void)
{
	static const char *const bodies[] = {
		"{}",
		"[]",
		"true",
		"{\"Errors\":null}",
		"{\"Results\":null}",
		"{\"Results\":[]}",
		"{\"Results\":{}}",
		"{\"Results\":[{}]}",
		"{\"Results\":[{\"KV\":{}}]}",
		"{\"Results\":[{\"KV\":{\"Key\":\"k\",\"ModifyIndex\":-1}}]}",
		"{\"Results\":[{\"KV\":{\"Key\":5," FLAGS ",\"ModifyIndex\":\"12\"}}]}",
	};
	struct hf_kv kv;

	for (size_t i = 0; i < CHECK_COUNT(bodies); i++) {
		reply(200, bodies[i]);
		SAYS(read_part(&kv), HF_V_OK, HF_OK);
		CHECK(!kv.exists);
	}
}

/* ---- many keys in one reply ---- */

#define RESULT_OF(key, index) \
	"{\"KV\":{\"Key\":\"" key "\"," FLAGS ",\"Value\":null,\"ModifyIndex\":" index "}}"

static struct hf_txn_reply parts;

static enum hf_verdict open_parts(long status, const char *body, size_t count)
{
	hf_txn_close(&parts);
	reply(status, body);
	return hf_txn_open(&parts, &http, &plain, count, &err);
}

static enum hf_verdict part_at(const char *key, size_t first, size_t count, struct hf_kv *kv)
{
	return hf_txn_read_part(&parts, key, first, count, kv, &err);
}

static void close_parts(void)
{
	hf_txn_close(&parts);
	parts = (struct hf_txn_reply){0};
}

static void each_part_has_its_own_index(void)
{
	struct hf_kv kv;

	SAYS(open_parts(
		     200,
		     "{\"Results\":[" RESULT_OF("a", "7") "," RESULT_OF(
			     "a",
			     "9007199254740993") "," RESULT_OF("c\\u003cd\\\"",
							       "5") "," RESULT_OF("c\\u003cd\\\"",
										  "1844674407370955"
										  "1615") "],"
											  "\"Errors"
											  "\":"
											  "null}",
		     5),
	     HF_V_OK, HF_OK);
	CHECK(!parts.refused);
	SAYS(part_at("a", 0, 2, &kv), HF_V_OK, HF_OK);
	CHECK_U64(kv.index, UINT64_C(9007199254740993));
	SAYS(part_at("deleted", 2, 1, &kv), HF_V_OK, HF_OK);
	CHECK(!kv.exists);
	SAYS(part_at("c<d\"", 3, 2, &kv), HF_V_OK, HF_OK);
	CHECK_U64(kv.index, UINT64_MAX);
	close_parts();
}

/* The first refusal of each: what comes after may follow from it. */
static void each_part_has_its_own_refusal(void)
{
	struct hf_kv kv;

	SAYS(open_parts(
		     409,
		     "{\"Results\":null,\"Errors\":["
		     "{\"OpIndex\":5,\"What\":\"failed to lock key \\\"c\\\" due to lock delay\"},"
		     "{\"OpIndex\":1,\"What\":\"failed to lock key \\\"a\\\", lock is already "
		     "held\"},{\"OpIndex\":0,\"What\":\"key \\\"a\\\" exists\"}]}",
		     6),
	     HF_V_OK, HF_OK);
	CHECK(parts.refused);
	SAYS(part_at("a", 0, 2, &kv), HF_V_MOVED, HF_TIMEOUT);
	SAYS(part_at("b", 2, 2, &kv), HF_V_OK, HF_OK);
	CHECK(!kv.exists);
	SAYS(part_at("c", 4, 2, &kv), HF_V_DELAY, HF_TIMEOUT);
	close_parts();
}

/* What an ACL hides is left out, and what comes after it moves up. */
static void a_result_that_is_missing_is_not_taken_from_others(void)
{
	struct hf_kv kv;

	SAYS(open_parts(200, "{\"Results\":[" RESULT_OF("a", "7") "," RESULT_OF("c", "8") "]}", 4),
	     HF_V_OK, HF_OK);
	SAYS(part_at("a", 0, 1, &kv), HF_V_OK, HF_OK);
	CHECK_U64(kv.index, 7);
	SAYS(part_at("b", 1, 1, &kv), HF_V_OK, HF_OK);
	CHECK(!kv.exists);
	SAYS(part_at("c", 2, 1, &kv), HF_V_OK, HF_OK);
	CHECK_U64(kv.index, 8);
	SAYS(part_at("d", 3, 1, &kv), HF_V_OK, HF_OK);
	CHECK(!kv.exists);
	close_parts();
}

static void a_part_takes_no_more_results_than_it_has_operations(void)
{
	struct hf_kv kv;

	SAYS(open_parts(200,
			"{\"Results\":[" RESULT_OF("a", "7") "," RESULT_OF("a", "8") "," RESULT_OF(
				"a", "9") "]}",
			2),
	     HF_V_OK, HF_OK);
	SAYS(part_at("a", 0, 2, &kv), HF_V_OK, HF_OK);
	CHECK_U64(kv.index, 8);
	close_parts();
}

static void a_reply_about_operations_that_were_not_sent_is_passing_trouble(void)
{
	static const char *const positions[] = {"2",   "-1", "18446744073709551615", "\"0\"",
						"1.5", "{}", "9007199254740993",     "null"};
	char body[200];

	for (size_t i = 0; i < CHECK_COUNT(positions); i++) {
		snprintf(body, sizeof body,
			 "{\"Errors\":[{\"OpIndex\":1,\"What\":\"x\"},{\"OpIndex\":%s,\"What\":"
			 "\"doesn't exist\"}]}",
			 positions[i]);
		SAYS(open_parts(409, body, 2), HF_V_AGAIN, HF_PROTOCOL);
	}
	close_parts();
}

static void a_whole_that_is_refused_says_how_many_operations_fit(void)
{
	reply(413, "Transaction contains too many operations (65 > 64)");
	CHECK_INT(hf_txn_limit(&http), 64);
	reply(413, "Transaction contains too many operations (129 > 128)\n");
	CHECK_INT(hf_txn_limit(&http), 128);
	reply(413, "Request body(600044 bytes) too large, max size: 524288 bytes.");
	CHECK_INT(hf_txn_limit(&http), 0);
	reply(413, "too many operations > many");
	CHECK_INT(hf_txn_limit(&http), 0);
	reply(200, "too many operations (65 > 64)");
	CHECK_INT(hf_txn_limit(&http), 0);
	trouble(HF_CONNECT);
	CHECK_INT(hf_txn_limit(&http), 0);
}

static void a_body_fits_to_the_byte(void)
{
	hf_txn_begin(empty(), &plain, false);
	CHECK(hf_txn_fits(&http));
	while (http.body.len < 512 * 1024 - 1)
		hf_buf_add(&http.body, " ", 1);
	CHECK(hf_txn_fits(&http));
	hf_buf_add(&http.body, " ", 1);
	CHECK(!hf_txn_fits(&http));
	hf_buf_cut(&http.body, 512 * 1024 - 1);
	CHECK(hf_txn_fits(&http));
	CHECK_INT(strlen(http.body.data), 512 * 1024 - 1);
}

/* ---- audits ---- */

static void audit(const char *body, enum hf_verdict want)
{
	static const enum hf_verdict fresh[3] = {HF_V_FINAL, HF_V_FINAL, HF_V_FINAL};
	enum hf_verdict verdicts[3];

	memcpy(verdicts, fresh, sizeof fresh);
	reply(409, body);
	SAYS(hf_txn_read_checks(&http, &plain, 3, verdicts, &err), want, HF_PROTOCOL);
}

static void an_audit_that_finds_nothing_is_good_for_all(void)
{
	enum hf_verdict verdicts[3] = {HF_V_FINAL, HF_V_FINAL, HF_V_FINAL};

	reply(200, "{\"Results\":[],\"Errors\":null,\"Index\":0}");
	SAYS(hf_txn_read_checks(&http, &plain, 3, verdicts, &err), HF_V_OK, HF_OK);
	for (int i = 0; i < 3; i++)
		CHECK_INT(verdicts[i], HF_V_OK);
}

static void an_audit_names_the_operations_that_failed(void)
{
	enum hf_verdict verdicts[5];

	reply(409, "{\"Results\":null,\"Errors\":["
		   "{\"OpIndex\":1,\"What\":\"failed session check for key \\\"b\\\", current "
		   "session \\\"\\\" != \\\"x\\\"\"},"
		   "{\"OpIndex\":3,\"What\":\"failed to check session, key \\\"d\\\" doesn't "
		   "exist\"},"
		   "{\"OpIndex\":4,\"What\":\"Permission denied\"}]}");
	SAYS(hf_txn_read_checks(&http, &plain, 5, verdicts, &err), HF_V_OK, HF_OK);
	CHECK_INT(verdicts[0], HF_V_OK);
	CHECK_INT(verdicts[1], HF_V_NOT_OURS);
	CHECK_INT(verdicts[2], HF_V_OK);
	CHECK_INT(verdicts[3], HF_V_ABSENT);
	CHECK_INT(verdicts[4], HF_V_FINAL);
}

static void an_audit_of_an_operation_that_was_not_asked_is_passing_trouble(void)
{
	audit("{\"Errors\":[{\"OpIndex\":3,\"What\":\"doesn't exist\"}]}", HF_V_AGAIN);
	audit("{\"Errors\":[{\"OpIndex\":-1,\"What\":\"doesn't exist\"}]}", HF_V_AGAIN);
	audit("{\"Errors\":[{\"OpIndex\":18446744073709551615,\"What\":\"doesn't exist\"}]}",
	      HF_V_AGAIN);
	audit("{\"Errors\":[{\"OpIndex\":\"0\",\"What\":\"doesn't exist\"}]}", HF_V_AGAIN);
	audit("{\"Errors\":[{\"What\":\"doesn't exist\"}]}", HF_V_AGAIN);
	audit("{\"Errors\":[{\"OpIndex\":2,\"What\":\"doesn't exist\"}]}", HF_V_OK);
}

static void an_audit_that_makes_no_sense_is_passing_trouble(void)
{
	audit("", HF_V_AGAIN);
	audit("<html>", HF_V_AGAIN);
	audit("{}", HF_V_AGAIN);
	audit("{\"Errors\":null}", HF_V_AGAIN);
	audit("{\"Errors\":[]}", HF_V_AGAIN);
	audit("{\"Errors\":[{\"OpIndex\":0,\"What\":\"doesn't", HF_V_AGAIN);
}

static void an_audit_answered_404_says_nothing(void)
{
	reply(404, "404 page not found");
	SAYS(read_checks(), HF_V_FINAL, HF_HTTP);
}

static void checks_of_keys_whose_names_read_like_refusals(void)
{
	enum hf_verdict verdicts[3];

	reply(409, "{\"Results\":null,\"Errors\":["
		   "{\"OpIndex\":0,\"What\":\"failed to check session, key \\\"p/invalid "
		   "session\\\" doesn't exist\"},"
		   "{\"OpIndex\":1,\"What\":\"failed session check for key \\\"it doesn't "
		   "exist\\\", current session \\\"\\\" != \\\"x\\\"\"}]}");
	SAYS(hf_txn_read_checks(&http, &plain, 3, verdicts, &err), HF_V_OK, HF_OK);
	CHECK_INT(verdicts[0], HF_V_ABSENT);
	CHECK_INT(verdicts[1], HF_V_NOT_OURS);
	CHECK_INT(verdicts[2], HF_V_OK);
}

static const struct check_test tests[] = {
	TEST(creates_a_session_with_name_ttl_and_lock_delay),
	TEST(sends_a_lock_delay_of_zero),
	TEST(creates_a_session_with_every_option),
	TEST(asks_after_the_check_of_a_process),
	TEST(a_check_that_the_agent_does_not_know_is_absent),
	TEST(sends_empty_lists_of_checks_but_not_absent_ones),
	TEST(renews_a_session),
	TEST(destroys_a_session),
	TEST(escapes_a_session_id_that_somebody_made_up),
	TEST(reads_a_session_from_the_leader),
	TEST(polls_a_session_with_an_index),
	TEST(a_poll_outlasts_what_the_server_may_wait),
	TEST(reads_a_key),
	TEST(polls_a_key_with_an_index_of_64_bits),
	TEST(a_read_after_a_poll_is_no_poll),
	TEST(escapes_keys_in_urls),
	TEST(deletes_a_key_unless_it_has_changed),
	TEST(locks_what_has_not_changed),
	TEST(locks_what_is_not_there),
	TEST(unlocks_what_has_not_changed),
	TEST(makes_sure_by_locking_and_unlocking),
	TEST(escapes_keys_in_bodies),
	TEST(locks_with_a_value_of_any_bytes),
	TEST(checks_several_keys_in_one_transaction),
	TEST(reads_several_keys_in_one_transaction),
	TEST(a_key_of_any_length_is_sent_whole),
	TEST(a_request_forgets_the_reply_before),
	TEST(shows_in_its_buffers_that_memory_is_out),
	TEST(the_token_is_a_header_of_every_request),
	TEST(a_new_token_needs_memory_and_a_moment_since_the_last_look),
	TEST(trouble_on_the_way_is_passing),
	TEST(a_request_that_libcurl_refuses_is_refused_for_good),
	TEST(statuses_403_and_400_are_final),
	TEST(a_body_that_is_too_large_is_final),
	TEST(denials_of_a_server_behind_the_agent_are_final),
	TEST(limits_and_elections_are_passing),
	TEST(knows_what_was_certainly_not_carried_out),
	TEST(a_name_in_quotes_is_not_the_servers_word),
	TEST(a_long_name_in_quotes_does_not_hide_what_comes_after_it),
	TEST(reads_the_index_of_a_reply),
	TEST(any_request_has_its_method_path_query_and_body),
	TEST(any_request_goes_where_the_client_is_unless_it_says_otherwise),
	TEST(a_long_poll_has_time_for_what_the_server_may_take),
	TEST(the_headers_of_a_call_take_the_place_of_the_usual_ones),
	TEST(the_outcome_of_any_request_is_told_by_its_status),
	TEST(a_message_quotes_a_body_on_one_line),
	TEST(a_message_about_a_long_body_is_cut),
	TEST(reads_the_id_of_a_new_session),
	TEST(reads_the_lock_delay_of_a_session),
	TEST(reads_the_ttl_that_the_server_chose),
	TEST(reads_no_ttl_where_there_is_none),
	TEST(a_renewal_of_an_unknown_session_is_absent),
	TEST(a_404_of_a_gateway_says_nothing_of_a_session),
	TEST(a_session_that_makes_no_sense_is_passing_trouble),
	TEST(a_session_id_fits_or_is_not_taken),
	TEST(sessions_that_cannot_be_made_are_refused_for_good),
	TEST(what_stands_in_a_sessions_way_may_pass),
	TEST(a_malformed_id_in_a_renewal_is_passing),
	TEST(a_look_tells_a_session_from_none),
	TEST(a_look_that_makes_no_sense_is_passing_trouble),
	TEST(a_look_answered_404_is_no_word_of_the_session),
	TEST(reads_whether_a_session_was_destroyed),
	TEST(reads_a_key_that_is_held),
	TEST(reads_a_key_that_nobody_holds),
	TEST(tells_flags_that_differ_in_the_last_bit_only),
	TEST(an_absent_key_is_known_by_the_index_of_its_404),
	TEST(a_404_without_index_is_not_consuls),
	TEST(a_key_that_makes_no_sense_is_passing_trouble),
	TEST(a_truncated_key_is_passing_trouble),
	TEST(a_holder_that_does_not_fit_is_a_holder_still),
	TEST(the_token_is_the_index_of_the_write),
	TEST(the_last_result_of_a_write_counts),
	TEST(tells_the_refusals_of_a_lock_apart),
	TEST(knows_refusals_with_a_prefix_of_newer_servers),
	TEST(a_key_that_reads_like_a_refusal_is_no_refusal),
	TEST(the_first_refusal_counts),
	TEST(a_dead_session_is_known_from_a_500_too),
	TEST(a_lock_answered_404_is_refused_for_good),
	TEST(a_refusal_without_reason_is_final),
	TEST(a_refusal_of_nothing_is_passing_trouble),
	TEST(a_lock_that_is_no_json_is_passing_trouble),
	TEST(a_lock_that_makes_no_sense_tells_nothing_of_the_key),
	TEST(each_part_has_its_own_index),
	TEST(each_part_has_its_own_refusal),
	TEST(a_result_that_is_missing_is_not_taken_from_others),
	TEST(a_part_takes_no_more_results_than_it_has_operations),
	TEST(a_reply_about_operations_that_were_not_sent_is_passing_trouble),
	TEST(a_whole_that_is_refused_says_how_many_operations_fit),
	TEST(a_body_fits_to_the_byte),
	TEST(an_audit_that_finds_nothing_is_good_for_all),
	TEST(an_audit_names_the_operations_that_failed),
	TEST(an_audit_of_an_operation_that_was_not_asked_is_passing_trouble),
	TEST(an_audit_that_makes_no_sense_is_passing_trouble),
	TEST(an_audit_answered_404_says_nothing),
	TEST(checks_of_keys_whose_names_read_like_refusals),
};

int main(int argc, char **argv)
{
	int status;

	if (!hf_consul_init(&plain, &plain_opts) || !hf_consul_init(&elsewhere, &elsewhere_opts))
		return 1;
	status = check_main(argc, argv, tests, CHECK_COUNT(tests), forget);
	hf_consul_free(&plain);
	hf_consul_free(&elsewhere);
	return status;
}
