/* test_consul.c: the requests that are made, to the byte, and what is read out of replies. Nothing
 * goes over a network: requests are looked at, replies are filled in by hand. */
#include "alloc.h"
#include "check.h"
#include "consul.h"

#define BASE "http://127.0.0.1:8500"
#define SID "0cd5e2b1-9d5a-4f3e-8b7a-1c2d3e4f5a6b"
#define FLAGS "\"Flags\":3304740253564472344"

static const struct hf_client_opts plain = {.base = BASE, .timeout = 10000};
static const struct hf_client_opts elsewhere = {
	.base = BASE "/consul",
	.timeout = 7000,
	.datacenter = "d c",
	.ns = "n&s",
	.partition = "p/1",
};
#define ELSEWHERE "dc=d%20c&ns=n%26s&partition=p%2F1"

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

	hf_consul_create(&http, &plain, &opts);
	SENDS("PUT", BASE "/v1/session/create",
	      "{\"TTL\":\"15000ms\",\"LockDelay\":\"15000ms\",\"Name\":\"n\"}");
	CHECK_INT(http.lane, HF_COMMAND);
	CHECK_INT(http.timeout, 10000);
}

static void sends_a_lock_delay_of_zero(void)
{
	struct hf_session_opts opts = session_opts();

	opts.lock_delay = 0;
	hf_consul_create(&http, &plain, &opts);
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
	hf_consul_create(&http, &elsewhere, &opts);
	SENDS("PUT", BASE "/consul/v1/session/create?" ELSEWHERE,
	      "{\"TTL\":\"15000ms\",\"LockDelay\":\"15000ms\",\"Name\":\"n\","
	      "\"Behavior\":\"delete\",\"Node\":\"node-1\","
	      "\"NodeChecks\":[\"serfHealth\",\"a \\\"b\\\"\"],"
	      "\"ServiceChecks\":[{\"ID\":\"s1\"},{\"ID\":\"s2\"}]}");
}

static void sends_empty_lists_of_checks_but_not_absent_ones(void)
{
	struct hf_session_opts opts = session_opts();
	const char *none[1] = {NULL};

	opts.checks = opts.service_checks = (struct hf_list){none, 0};
	hf_consul_create(&http, &plain, &opts);
	SENDS("PUT", BASE "/v1/session/create",
	      "{\"TTL\":\"15000ms\",\"LockDelay\":\"15000ms\",\"Name\":\"n\","
	      "\"NodeChecks\":[],\"ServiceChecks\":[]}");
}

static void renews_in_a_lane_of_its_own(void)
{
	hf_consul_renew(&http, &elsewhere, SID);
	SENDS("PUT", BASE "/consul/v1/session/renew/" SID "?" ELSEWHERE, NULL);
	CHECK_INT(http.lane, HF_RENEW);
	CHECK_INT(http.timeout, 7000);
}

static void destroys_a_session(void)
{
	hf_consul_destroy(&http, &plain, SID);
	SENDS("PUT", BASE "/v1/session/destroy/" SID, NULL);
	CHECK_INT(http.lane, HF_COMMAND);
}

static void escapes_a_session_id_that_somebody_made_up(void)
{
	hf_consul_renew(&http, &plain, "../kv/a?b");
	SENDS("PUT", BASE "/v1/session/renew/..%2Fkv%2Fa%3Fb", NULL);
}

static void reads_a_session_from_the_leader(void)
{
	hf_consul_info(&http, &plain, SID, 0);
	SENDS("GET", BASE "/v1/session/info/" SID "?consistent", NULL);
	CHECK_INT(http.lane, HF_COMMAND);
	hf_consul_info(&http, &elsewhere, SID, 0);
	SENDS("GET", BASE "/consul/v1/session/info/" SID "?" ELSEWHERE "&consistent", NULL);
}

static void polls_a_session_with_an_index(void)
{
	hf_consul_info(&http, &plain, SID, 42);
	SENDS("GET", BASE "/v1/session/info/" SID "?consistent&index=42&wait=30000ms", NULL);
	CHECK_INT(http.lane, HF_POLL);
}

static void a_poll_outlasts_what_the_server_may_wait(void)
{
	hf_consul_get(&http, &plain, "k", 1, false);
	CHECK(http.timeout > HF_POLL_WAIT + HF_POLL_WAIT / 16);
}

static void reads_a_key(void)
{
	hf_consul_get(&http, &plain, "a/b", 0, false);
	SENDS("GET", BASE "/v1/kv/a/b", NULL);
	CHECK_INT(http.lane, HF_COMMAND);
	hf_consul_get(&http, &plain, "a/b", 0, true);
	SENDS("GET", BASE "/v1/kv/a/b?consistent", NULL);
	hf_consul_get(&http, &elsewhere, "a/b", 0, true);
	SENDS("GET", BASE "/consul/v1/kv/a/b?" ELSEWHERE "&consistent", NULL);
}

static void polls_a_key_with_an_index_of_64_bits(void)
{
	hf_consul_get(&http, &plain, "k", UINT64_MAX, false);
	SENDS("GET", BASE "/v1/kv/k?index=18446744073709551615&wait=30000ms", NULL);
	CHECK_INT(http.lane, HF_POLL);
	hf_consul_get(&http, &elsewhere, "k", 7, true);
	SENDS("GET", BASE "/consul/v1/kv/k?" ELSEWHERE "&consistent&index=7&wait=30000ms", NULL);
}

static void a_read_after_a_poll_is_no_poll(void)
{
	hf_consul_get(&http, &plain, "k", 7, false);
	hf_consul_get(&http, &plain, "k", 0, false);
	CHECK_INT(http.lane, HF_COMMAND);
	CHECK_INT(http.timeout, 10000);
}

static void escapes_keys_in_urls(void)
{
	hf_consul_get(&http, &plain, "a b/100%/what?/#1+2&3=4/\xc3\xa4/", 0, false);
	SENDS("GET", BASE "/v1/kv/a%20b/100%25/what%3F/%231%2B2%263%3D4/%C3%A4/", NULL);
}

static void deletes_a_key_unless_it_has_changed(void)
{
	hf_consul_delete(&http, &plain, "a b?", 99);
	SENDS("DELETE", BASE "/v1/kv/a%20b%3F?cas=99", NULL);
	hf_consul_delete(&http, &elsewhere, "k", UINT64_MAX);
	SENDS("DELETE", BASE "/consul/v1/kv/k?" ELSEWHERE "&cas=18446744073709551615", NULL);
}

static void locks_in_a_transaction(void)
{
	hf_consul_lock(&http, &plain, "lock", "a/b", SID, "foob", 4);
	SENDS("PUT", BASE "/v1/txn",
	      "[{\"KV\":{\"Verb\":\"lock\",\"Key\":\"a/b\",\"Session\":\"" SID "\"," FLAGS
	      ",\"Value\":\"Zm9vYg==\"}}]");
	CHECK_INT(http.lane, HF_COMMAND);
}

static void unlocks_in_a_transaction(void)
{
	hf_consul_lock(&http, &elsewhere, "unlock", "k", SID, "", 0);
	SENDS("PUT", BASE "/consul/v1/txn?" ELSEWHERE,
	      "[{\"KV\":{\"Verb\":\"unlock\",\"Key\":\"k\",\"Session\":\"" SID "\"," FLAGS
	      ",\"Value\":\"\"}}]");
}

static void escapes_keys_in_bodies(void)
{
	hf_consul_lock(&http, &plain, "lock", "a \"b\"\\%?#\n\xc3\xa4", SID, NULL, 0);
	SENDS("PUT", BASE "/v1/txn",
	      "[{\"KV\":{\"Verb\":\"lock\",\"Key\":\"a \\\"b\\\"\\\\%?#\\u000a\xc3\xa4\","
	      "\"Session\":\"" SID "\"," FLAGS ",\"Value\":\"\"}}]");
}

static void locks_with_a_value_of_any_bytes(void)
{
	hf_consul_lock(&http, &plain, "lock", "k", SID, "\0\xff\0", 3);
	CHECK_HAS(hf_buf_text(&http.body), "\"Value\":\"AP8A\"");
}

static void audits_several_keys_in_one_transaction(void)
{
	hf_consul_audit_begin(&http, &plain);
	hf_consul_audit_check(&http, "a", SID);
	hf_consul_audit_check(&http, "b", SID);
	hf_consul_audit_end(&http);
	SENDS("PUT", BASE "/v1/txn?consistent",
	      "[{\"KV\":{\"Verb\":\"check-session\",\"Key\":\"a\",\"Session\":\"" SID "\"}},"
	      "{\"KV\":{\"Verb\":\"check-session\",\"Key\":\"b\",\"Session\":\"" SID "\"}}]");
	hf_consul_audit_begin(&http, &elsewhere);
	hf_consul_audit_end(&http);
	SENDS("PUT", BASE "/consul/v1/txn?" ELSEWHERE "&consistent", "[]");
}

static void a_key_of_any_length_is_sent_whole(void)
{
	static char key[3000], want[sizeof key + 100];

	memset(key, '/', sizeof key - 1);
	snprintf(want, sizeof want, BASE "/v1/kv/%s", key);
	hf_consul_get(&http, &plain, key, 0, false);
	SENDS("GET", want, NULL);
}

static void a_request_forgets_the_reply_before(void)
{
	http.status = 409;
	http.index = 5;
	http.error = HF_CONNECT;
	http.fresh = http.truncated = http.maybe_sent = true;
	hf_buf_puts(&http.reply, "old");
	hf_consul_get(&http, &plain, "k", 0, false);
	CHECK_INT(http.status, 0);
	CHECK_INT(http.index, 0);
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
		hf_consul_create(&http, &plain, &opts);
		CHECK(http.url.failed || http.body.failed);
	}
	forget();
	hf_consul_create(&http, &plain, &opts);
	CHECK(!http.url.failed && !http.body.failed);
}

/* ---- replies ------------------------------------------------------------------------------ */

static void reply_bytes(long status, uint64_t index, const char *body, size_t len)
{
	hf_http_reset(&http);
	err = (struct hf_error){0};
	http.status = status;
	http.index = index;
	hf_buf_add(&http.reply, body, len);
}

static void reply(long status, const char *body)
{
	reply_bytes(status, 0, body, strlen(body));
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

/* What is the same for every reader; this one adds the least of its own. */
static enum hf_verdict read_any(void)
{
	return hf_consul_read_delete(&http, &plain, &err);
}

static enum hf_verdict read_session(void)
{
	char id[64];
	int64_t ttl;

	return hf_consul_read_session(&http, &plain, id, &ttl, &err);
}

static enum hf_verdict read_info(void)
{
	return hf_consul_read_info(&http, &plain, &err);
}

static enum hf_verdict read_key(void)
{
	struct hf_kv kv;

	return hf_consul_read_key(&http, &plain, &kv, &err);
}

static enum hf_verdict read_delete(void)
{
	return hf_consul_read_delete(&http, &plain, &err);
}

static enum hf_verdict read_lock(void)
{
	uint64_t token;

	return hf_consul_read_lock(&http, &plain, &token, &err);
}

static enum hf_verdict read_audit(void)
{
	enum hf_verdict verdicts[4];

	return hf_consul_read_audit(&http, &plain, 4, verdicts, &err);
}

static enum hf_verdict (*const readers[])(void) = {
	read_any, read_session, read_info, read_key, read_delete, read_lock, read_audit,
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

static void a_message_quotes_the_first_line_of_a_body(void)
{
	reply(500, "No\x1b[31m leader\nsecond line");
	SAYS(read_any(), HF_V_AGAIN, HF_HTTP);
	CHECK_STR(err.message, BASE ": HTTP status 500: No?[31m leader");
}

static void a_message_about_a_long_body_is_cut(void)
{
	static char body[5000];

	memset(body, 'x', sizeof body - 1);
	reply(500, body);
	SAYS(read_any(), HF_V_AGAIN, HF_HTTP);
	CHECK(strlen(err.message) < sizeof err.message - 1);
	CHECK_HAS(err.message, "xxxx");
}

/* ---- sessions ---- */

static void reads_the_id_of_a_new_session(void)
{
	char id[64];
	int64_t ttl = -1;

	reply(200, "{\"ID\":\"" SID "\"}\n");
	SAYS(hf_consul_read_session(&http, &plain, id, &ttl, &err), HF_V_OK, HF_OK);
	CHECK_STR(id, SID);
	CHECK_INT(ttl, 0);
}

static int64_t ttl_of(const char *text)
{
	char id[64], body[200];
	int64_t ttl = -1;

	snprintf(body, sizeof body, "[{\"ID\":\"" SID "\",\"TTL\":\"%s\"}]", text);
	reply(200, body);
	SAYS(hf_consul_read_session(&http, &plain, id, &ttl, &err), HF_V_OK, HF_OK);
	CHECK_STR(id, SID);
	return ttl;
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
	SAYS(read_any(), HF_V_ABSENT, HF_HTTP);
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
	char body[200], id[64], want[65];
	int64_t ttl;

	memset(want, 'x', sizeof want - 1);
	want[64] = '\0';
	snprintf(body, sizeof body, "{\"ID\":\"%s\"}", want);
	reply(200, body);
	SAYS(read_session(), HF_V_AGAIN, HF_PROTOCOL);
	want[63] = '\0';
	snprintf(body, sizeof body, "{\"ID\":\"%s\"}", want);
	reply(200, body);
	SAYS(hf_consul_read_session(&http, &plain, id, &ttl, &err), HF_V_OK, HF_OK);
	CHECK_STR(id, want);
}

static void sessions_that_cannot_be_made_are_refused_for_good(void)
{
	static const char *const texts[] = {
		"Invalid Session TTL '5000000000', must be between [10s=24h0m0s]",
		"Session TTL 'abc' invalid: time: invalid duration abc",
		"Missing check 'x' registration",
		"Missing node registration",
		"Check 'serfHealth' is in critical state",
		"apply failed: Invalid Behavior setting 'x'",
		"No path to datacenter",
	};

	for (size_t i = 0; i < CHECK_COUNT(texts); i++) {
		reply(500, texts[i]);
		SAYS(read_session(), HF_V_FINAL, HF_SESSION);
		CHECK_HAS(err.message, texts[i]);
	}
}

static void a_malformed_id_in_a_renewal_is_passing(void)
{
	reply(500, "failed session lookup: index error: UUID must be 36 characters");
	SAYS(read_session(), HF_V_AGAIN, HF_HTTP);
}

static void info_tells_a_session_from_none(void)
{
	reply(200, "[{\"ID\":\"" SID "\"}]");
	SAYS(read_info(), HF_V_OK, HF_OK);
	reply(200, "[]");
	CHECK_INT(read_info(), HF_V_ABSENT);
}

static void info_that_makes_no_sense_is_passing_trouble(void)
{
	static const char *const bodies[] = {"", "{}", "null", "[", "[{\"ID\":", "oops", "true"};

	for (size_t i = 0; i < CHECK_COUNT(bodies); i++) {
		reply(200, bodies[i]);
		SAYS(read_info(), HF_V_AGAIN, HF_PROTOCOL);
	}
}

static void info_answered_404_is_no_word_of_the_session(void)
{
	reply(404, "page not found");
	SAYS(read_info(), HF_V_FINAL, HF_HTTP);
}

/* ---- keys ---- */

#define KV(flags, index, more) \
	"[{\"LockIndex\":1,\"Key\":\"k\",\"Flags\":" flags ",\"Value\":null" more \
	",\"CreateIndex\":5,\"ModifyIndex\":" index "}]"

static enum hf_verdict key_is(const char *body, struct hf_kv *kv)
{
	reply_bytes(200, 77, body, strlen(body));
	return hf_consul_read_key(&http, &plain, kv, &err);
}

static void reads_a_key_that_is_held(void)
{
	struct hf_kv kv;

	SAYS(key_is(KV("3304740253564472344", "23", ",\"Session\":\"" SID "\""), &kv), HF_V_OK,
	     HF_OK);
	CHECK(kv.exists);
	CHECK_U64(kv.flags, HF_LOCK_FLAGS);
	CHECK_U64(kv.modify_index, 23);
	CHECK_STR(kv.session, SID);
}

static void reads_a_key_that_nobody_holds(void)
{
	struct hf_kv kv;

	SAYS(key_is(KV("0", "9007199254740993", ""), &kv), HF_V_OK, HF_OK);
	CHECK(kv.exists);
	CHECK_U64(kv.flags, 0);
	CHECK_U64(kv.modify_index, UINT64_C(9007199254740993));
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
	struct hf_kv kv = {.exists = true};

	reply_bytes(404, 7, "", 0);
	SAYS(hf_consul_read_key(&http, &plain, &kv, &err), HF_V_OK, HF_OK);
	CHECK(!kv.exists);
	CHECK_STR(kv.session, "");
}

static void a_404_without_index_is_not_consuls(void)
{
	reply(404, "404 page not found");
	SAYS(read_key(), HF_V_FINAL, HF_HTTP);
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

static void reads_whether_a_key_was_deleted(void)
{
	reply(200, "true\n");
	SAYS(read_delete(), HF_V_OK, HF_OK);
	reply(200, "false\n");
	SAYS(read_delete(), HF_V_NOT_OURS, HF_IN_USE);
	reply(200, "perhaps");
	SAYS(read_delete(), HF_V_AGAIN, HF_PROTOCOL);
	reply(200, "");
	SAYS(read_delete(), HF_V_AGAIN, HF_PROTOCOL);
}

/* ---- locks ---- */

static void the_token_is_the_index_of_the_write(void)
{
	uint64_t token = 0;

	reply(200, "{\"Results\":[{\"KV\":{\"LockIndex\":3,\"Key\":\"k\"," FLAGS
		   ",\"Value\":null,\"Session\":\"" SID
		   "\",\"CreateIndex\":5,\"ModifyIndex\":9007199254740993}}],\"Errors\":null,"
		   "\"Index\":1}");
	SAYS(hf_consul_read_lock(&http, &plain, &token, &err), HF_V_OK, HF_OK);
	CHECK_U64(token, UINT64_C(9007199254740993));
}

static void refused(const char *what)
{
	char body[600];

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

static void reads_refusals(const char *prefix)
{
	static const struct refusal table[] = {
		{"failed to lock key \\\"k\\\", lock is already held", HF_V_HELD, HF_TIMEOUT},
		{"failed to lock key \\\"k\\\" due to lock delay", HF_V_DELAY, HF_TIMEOUT},
		{"invalid session \\\"" SID "\\\"", HF_V_NO_SESSION, HF_SESSION},
		{"failed session lookup: index error: UUID must be 36 characters", HF_V_NO_SESSION,
		 HF_SESSION},
		{"missing session", HF_V_NO_SESSION, HF_SESSION},
		{"failed to unlock key \\\"k\\\", lock isn't held, or is held by another session",
		 HF_V_NOT_OURS, HF_LOST},
		{"failed session check for key \\\"k\\\", current session \\\"x\\\" != \\\"y\\\"",
		 HF_V_NOT_OURS, HF_LOST},
		{"failed to check session, key \\\"k\\\" doesn't exist", HF_V_ABSENT, HF_NOT_FOUND},
		{"Permission denied", HF_V_FINAL, HF_DENIED},
		{"something new", HF_V_FINAL, HF_HTTP},
	};
	char what[400];

	for (size_t i = 0; i < CHECK_COUNT(table); i++) {
		snprintf(what, sizeof what, "%s%s", prefix, table[i].what);
		refused(what);
		says((int)i, read_lock(), table[i].verdict, table[i].code);
	}
}

static void tells_the_refusals_of_a_lock_apart(void)
{
	reads_refusals("");
}

static void knows_refusals_with_a_prefix_of_newer_servers(void)
{
	reads_refusals("rpc error making call: raft apply failed: ");
	reads_refusals("apply failed: ");
}

static void a_dead_session_is_known_from_a_500_too(void)
{
	reply(500, "rpc error making call: raft apply failed: invalid session \"" SID "\"");
	SAYS(read_lock(), HF_V_NO_SESSION, HF_SESSION);
}

static void a_lock_answered_404_is_refused_for_good(void)
{
	reply(404, "404 page not found");
	SAYS(read_lock(), HF_V_FINAL, HF_HTTP);
}

static void a_refusal_without_reason_is_final(void)
{
	reply(409, "{\"Results\":null,\"Errors\":null}");
	SAYS(read_lock(), HF_V_FINAL, HF_HTTP);
	reply(409, "{\"Errors\":[{\"OpIndex\":0}]}");
	SAYS(read_lock(), HF_V_FINAL, HF_HTTP);
	reply(409, "{\"Errors\":[{\"OpIndex\":0,\"What\":5}]}");
	SAYS(read_lock(), HF_V_FINAL, HF_HTTP);
}

static void a_refusal_that_is_no_json_is_passing_trouble(void)
{
	reply(409, "<html>conflict</html>");
	SAYS(read_lock(), HF_V_AGAIN, HF_PROTOCOL);
	reply(409, "");
	SAYS(read_lock(), HF_V_AGAIN, HF_PROTOCOL);
	reply(409, "{\"Results\":null,\"Errors\":[{\"OpIndex\":0,\"What\":\"failed to lo");
	SAYS(read_lock(), HF_V_AGAIN, HF_PROTOCOL);
}

static void a_lock_that_makes_no_sense_is_passing_trouble(void)
{
	static const char *const bodies[] = {
		"",
		"{}",
		"[]",
		"true",
		"{\"Errors\":null}",
		"{\"Results\":null}",
		"{\"Results\":[]}",
		"{\"Results\":{}}",
		"{\"Results\":[{}]}",
		"{\"Results\":[{\"KV\":{}}]}",
		"{\"Results\":[{\"KV\":{\"ModifyIndex\":-1}}]}",
		"{\"Results\":[{\"KV\":{\"ModifyIndex\":12}}]",
		"<html>",
	};

	for (size_t i = 0; i < CHECK_COUNT(bodies); i++) {
		reply(200, bodies[i]);
		SAYS(read_lock(), HF_V_AGAIN, HF_PROTOCOL);
	}
}

/* ---- audits ---- */

static void audit(const char *body, enum hf_verdict want)
{
	static const enum hf_verdict fresh[3] = {HF_V_FINAL, HF_V_FINAL, HF_V_FINAL};
	enum hf_verdict verdicts[3];

	memcpy(verdicts, fresh, sizeof fresh);
	reply(409, body);
	SAYS(hf_consul_read_audit(&http, &plain, 3, verdicts, &err), want, HF_PROTOCOL);
}

static void an_audit_that_finds_nothing_is_good_for_all(void)
{
	enum hf_verdict verdicts[3] = {HF_V_FINAL, HF_V_FINAL, HF_V_FINAL};

	reply(200, "{\"Results\":[],\"Errors\":null,\"Index\":0}");
	SAYS(hf_consul_read_audit(&http, &plain, 3, verdicts, &err), HF_V_OK, HF_OK);
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
	SAYS(hf_consul_read_audit(&http, &plain, 5, verdicts, &err), HF_V_OK, HF_OK);
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
	SAYS(read_audit(), HF_V_FINAL, HF_HTTP);
}

static const struct check_test tests[] = {
	TEST(creates_a_session_with_name_ttl_and_lock_delay),
	TEST(sends_a_lock_delay_of_zero),
	TEST(creates_a_session_with_every_option),
	TEST(sends_empty_lists_of_checks_but_not_absent_ones),
	TEST(renews_in_a_lane_of_its_own),
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
	TEST(locks_in_a_transaction),
	TEST(unlocks_in_a_transaction),
	TEST(escapes_keys_in_bodies),
	TEST(locks_with_a_value_of_any_bytes),
	TEST(audits_several_keys_in_one_transaction),
	TEST(a_key_of_any_length_is_sent_whole),
	TEST(a_request_forgets_the_reply_before),
	TEST(shows_in_its_buffers_that_memory_is_out),
	TEST(trouble_on_the_way_is_passing),
	TEST(a_request_that_libcurl_refuses_is_refused_for_good),
	TEST(statuses_403_and_400_are_final),
	TEST(a_body_that_is_too_large_is_final),
	TEST(denials_of_a_server_behind_the_agent_are_final),
	TEST(limits_and_elections_are_passing),
	TEST(a_message_quotes_the_first_line_of_a_body),
	TEST(a_message_about_a_long_body_is_cut),
	TEST(reads_the_id_of_a_new_session),
	TEST(reads_the_ttl_that_the_server_chose),
	TEST(reads_no_ttl_where_there_is_none),
	TEST(a_renewal_of_an_unknown_session_is_absent),
	TEST(a_session_that_makes_no_sense_is_passing_trouble),
	TEST(a_session_id_fits_or_is_not_taken),
	TEST(sessions_that_cannot_be_made_are_refused_for_good),
	TEST(a_malformed_id_in_a_renewal_is_passing),
	TEST(info_tells_a_session_from_none),
	TEST(info_that_makes_no_sense_is_passing_trouble),
	TEST(info_answered_404_is_no_word_of_the_session),
	TEST(reads_a_key_that_is_held),
	TEST(reads_a_key_that_nobody_holds),
	TEST(tells_flags_that_differ_in_the_last_bit_only),
	TEST(an_absent_key_is_known_by_the_index_of_its_404),
	TEST(a_404_without_index_is_not_consuls),
	TEST(a_key_that_makes_no_sense_is_passing_trouble),
	TEST(a_truncated_key_is_passing_trouble),
	TEST(a_holder_that_does_not_fit_is_a_holder_still),
	TEST(reads_whether_a_key_was_deleted),
	TEST(the_token_is_the_index_of_the_write),
	TEST(tells_the_refusals_of_a_lock_apart),
	TEST(knows_refusals_with_a_prefix_of_newer_servers),
	TEST(a_dead_session_is_known_from_a_500_too),
	TEST(a_lock_answered_404_is_refused_for_good),
	TEST(a_refusal_without_reason_is_final),
	TEST(a_refusal_that_is_no_json_is_passing_trouble),
	TEST(a_lock_that_makes_no_sense_is_passing_trouble),
	TEST(an_audit_that_finds_nothing_is_good_for_all),
	TEST(an_audit_names_the_operations_that_failed),
	TEST(an_audit_of_an_operation_that_was_not_asked_is_passing_trouble),
	TEST(an_audit_that_makes_no_sense_is_passing_trouble),
	TEST(an_audit_answered_404_says_nothing),
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests, CHECK_COUNT(tests), forget);
}
