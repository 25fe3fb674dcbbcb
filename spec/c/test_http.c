/* test_http.c: requests after each other on one easy handle. Each has to reach its server as if it
 * were the first one, whatever was before it, and also when memory was out then. libcurl's memory
 * is the core's here, so that it can fail. */
#include "base/alloc.h"
#include "check.h"
#include "net/http.h"

#include <netinet/in.h>
#include <sys/socket.h>

#define CONNECTIONS 8
#define ANSWER "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\n\r\nok"

static CURLM *multi;
static struct hf_http http;
static struct hf_gauge gauge;

/* ---- a server that is served by this thread ------------------------------------------------- */

static struct {
	int listener, accepted;
	struct connection {
		int fd;
		size_t len;
		char text[1000];
	} connections[CONNECTIONS];
	const char *answer; /* NULL: the connection is closed instead */
	char got[1000]; /* the last request, whole */
	char address[64]; /* for http_proxy, and with :: before it for CURLOPT_CONNECT_TO */
} server;

static void serve_start(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t len = sizeof address;

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	server.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (bind(server.listener, (struct sockaddr *)&address, len) ||
	    listen(server.listener, CONNECTIONS) ||
	    getsockname(server.listener, (struct sockaddr *)&address, &len))
		abort();
	snprintf(server.address, sizeof server.address, "::127.0.0.1:%d", ntohs(address.sin_port));
	for (int i = 0; i < CONNECTIONS; i++)
		server.connections[i].fd = -1;
}

static void hang_up(struct connection *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

/* The length of the request that begins the text, 0 while it is not whole. */
static size_t whole(const char *text)
{
	const char *body = strstr(text, "\r\n\r\n"), *length = strstr(text, "Content-Length: ");
	size_t len = body ? (size_t)(body + 4 - text) + (length ? (size_t)atoi(length + 16) : 0)
			  : 0;

	return len <= strlen(text) ? len : 0;
}

static void serve_one(struct connection *c)
{
	ssize_t n = recv(c->fd, c->text + c->len, sizeof c->text - 1 - c->len, MSG_DONTWAIT);
	size_t len;

	if (n == 0)
		hang_up(c);
	if (n <= 0)
		return;
	c->len += (size_t)n;
	c->text[c->len] = '\0';
	if (!whole(c->text))
		return;
	memcpy(server.got, c->text, sizeof server.got);
	c->len = 0;
	len = server.answer ? strlen(server.answer) : 0;
	len -= len && !strncmp(server.got, "HEAD", 4) ? 2 : 0; /* has no body */
	if (!len || send(c->fd, server.answer, len, MSG_NOSIGNAL) != (ssize_t)len)
		hang_up(c);
}

static void serve(void)
{
	struct connection *c = server.connections;

	while (c < server.connections + CONNECTIONS - 1 && c->fd >= 0)
		c++;
	if (c->fd < 0) {
		*c = (struct connection){.fd = accept4(server.listener, NULL, NULL, SOCK_CLOEXEC)};
		server.accepted += c->fd >= 0;
	}
	for (c = server.connections; c < server.connections + CONNECTIONS; c++)
		if (c->fd >= 0)
			serve_one(c);
}

static void wait_for_something(void)
{
	struct curl_waitfd fds[CONNECTIONS + 1] = {
		{.fd = server.listener, .events = CURL_WAIT_POLLIN}};
	unsigned count = 1;

	for (int i = 0; i < CONNECTIONS; i++)
		if (server.connections[i].fd >= 0)
			fds[count++] = (struct curl_waitfd){.fd = server.connections[i].fd,
							    .events = CURL_WAIT_POLLIN};
	/* libcurl may wait for nothing at all when memory was out. */
	curl_multi_poll(multi, fds, count, 50, NULL);
}

/* ---- requests ------------------------------------------------------------------------------- */

static const struct hf_route route = {.verify = true};
static struct hf_peer plain = {.route = &route}, other;

static const struct kind {
	const struct hf_peer *peer;
	const char *method, *body, *header;
	const char *want; /* what reaches the server */
} kinds[] = {
	{&plain, "GET", NULL, NULL,
	 "GET /v1 HTTP/1.1\r\nHost: test\r\nAccept: */*\r\nX-A: 1\r\n\r\n"},
	{&plain, "PUT", "a body", NULL,
	 "PUT /v1 HTTP/1.1\r\nHost: test\r\nAccept: */*\r\nX-A: 1\r\nContent-Length: 6\r\n"
	 "Content-Type: application/x-www-form-urlencoded\r\n\r\na body"},
	{&plain, "PUT", NULL, NULL,
	 "PUT /v1 HTTP/1.1\r\nHost: test\r\nAccept: */*\r\nX-A: 1\r\nContent-Length: 0\r\n"
	 "Content-Type: application/x-www-form-urlencoded\r\n\r\n"},
	{&plain, "DELETE", NULL, NULL,
	 "DELETE /v1 HTTP/1.1\r\nHost: test\r\nAccept: */*\r\nX-A: 1\r\n\r\n"},
	{&plain, "HEAD", NULL, NULL,
	 "HEAD /v1 HTTP/1.1\r\nHost: test\r\nAccept: */*\r\nX-A: 1\r\n\r\n"},
	{&other, "GET", NULL, NULL,
	 "GET /v1 HTTP/1.1\r\nHost: test\r\nAuthorization: Basic dTpw\r\nAccept: */*\r\n\r\n"},
	/* The user's go through the proxy that the environment names. */
	{NULL, "POST", "mine", "Content-Type: x/y",
	 "POST http://test/v1 HTTP/1.1\r\nHost: test\r\nAccept: */*\r\n"
	 "Proxy-Connection: Keep-Alive\r\nContent-Type: x/y\r\nContent-Length: 4\r\n\r\nmine"},
	{NULL, "GET", NULL, NULL,
	 "GET http://test/v1 HTTP/1.1\r\nHost: test\r\nAccept: */*\r\n"
	 "Proxy-Connection: Keep-Alive\r\n\r\n"},
};
#define KINDS CHECK_COUNT(kinds)

static void fill(const struct kind *kind)
{
	hf_http_reset(&http);
	hf_http_free_headers(http.headers);
	http.headers = NULL;
	http.peer = kind->peer;
	http.route = &route;
	http.method = kind->method;
	http.has_body = kind->body != NULL;
	http.timeout = CHECK_LIMIT * 1000;
	http.max_body = 1000;
	hf_buf_puts(&http.url, "http://test/v1");
	hf_buf_puts(&http.body, kind->body ? kind->body : "");
	if (kind->header)
		hf_http_add_header(&http.headers, kind->header);
}

static CURLcode transfer(void)
{
	CURLMsg *message;
	int left;

	while (!(message = curl_multi_info_read(multi, &left))) {
		curl_multi_perform(multi, &left);
		serve();
		if (left)
			wait_for_something();
	}
	return message->data.result;
}

/* Carries out what has been filled in, on the handle that is there. */
static enum hf_err carry_out(void)
{
	if (hf_http_start(&http, &gauge))
		return http.error;
	if (curl_multi_add_handle(multi, http.easy))
		return HF_NOMEM;
	hf_http_done(&http, transfer());
	curl_multi_remove_handle(multi, http.easy);
	hf_http_end(&http);
	return http.error;
}

static void arrives(const struct kind *kind, const char *before)
{
	server.got[0] = '\0';
	fill(kind);
	CHECK_INT(carry_out(), HF_OK);
	check_str(server.got, kind->want, __FILE__, __LINE__, before);
	CHECK_STR(hf_buf_text(&http.reply), strcmp(kind->method, "HEAD") ? "ok" : "");
}

/* ---- tests ---------------------------------------------------------------------------------- */

static void begin(void)
{
	server.answer = ANSWER;
	multi = curl_multi_init();
}

static void end(void)
{
	hf_alloc_fail(0, 0);
	hf_http_free(&http);
	http = (struct hf_http){0};
	curl_multi_cleanup(multi);
	multi = NULL;
	CHECK_INT(atomic_load(&gauge.open), 0);
	hf_gauge_free(&gauge);
	for (int i = 0; i < CONNECTIONS; i++)
		hang_up(&server.connections[i]);
}

static void each_request_arrives_as_if_it_were_the_first(void)
{
	begin();
	for (size_t i = 0; i < KINDS; i++) {
		for (size_t j = 0; j < KINDS; j++) {
			arrives(&kinds[i], kinds[j].want);
			arrives(&kinds[j], kinds[i].want);
		}
	}
	CHECK(server.accepted <= 3); /* one for each peer, and the proxy's */
}

/* A request of kind i, for which one allocation fails. False: it has not so many. */
static bool fails(size_t i, long n)
{
	bool failed;

	fill(&kinds[i]);
	hf_alloc_fail(n, 0);
	carry_out();
	failed = hf_alloc_count() >= n;
	hf_alloc_fail(0, 0);
	return failed;
}

/* Request j after a request i for which the nth allocation fails; all n that there are. */
static void survives(size_t i, size_t j)
{
	bool failed = true;
	long n = 0;

	while (failed) {
		begin();
		arrives(&kinds[(i + 1) % KINDS], "");
		failed = fails(i, ++n);
		arrives(&kinds[j], kinds[i].want);
		end();
	}
	CHECK(n > 2);
}

static void memory_that_is_out_leaves_nothing_behind(void)
{
	for (size_t i = 0; i < KINDS; i++)
		for (size_t j = 0; j < KINDS; j++)
			survives(i, j);
	begin();
}

static void trouble_is_told_in_its_own_words_only(void)
{
	begin();
	fill(&kinds[0]);
	server.answer = NULL;
	CHECK_INT(carry_out(), HF_CONNECT);
	CHECK_HAS(http.message, "Empty reply");
	server.answer = "no HTTP, and long enough for libcurl to see that it is none";
	fill(&kinds[0]);
	CHECK_INT(carry_out(), HF_PROTOCOL);
	CHECK_HAS(http.message, "HTTP/0.9");
	server.answer = ANSWER;
	arrives(&kinds[0], "");
	CHECK_STR(http.message, "");
}

static void a_fresh_request_is_followed_by_one_that_is_not(void)
{
	int before = server.accepted;

	begin();
	arrives(&kinds[0], "");
	fill(&kinds[0]);
	http.fresh = true;
	CHECK_INT(carry_out(), HF_OK);
	CHECK_INT(server.accepted, before + 2);
	arrives(&kinds[0], "");
	CHECK_INT(server.accepted, before + 2);
}

static void who_goes_together_hears_when_a_server_does_not_let_it(void)
{
	begin();
	arrives(&kinds[0], "");
	CHECK(!hf_http_went_apart(&http));
	fill(&kinds[0]);
	http.together = true;
	CHECK_INT(carry_out(), HF_OK);
	CHECK(hf_http_went_apart(&http));
	fill(&kinds[0]);
	CHECK(!hf_http_went_apart(&http));
}

static const struct check_test tests[] = {
	TEST(each_request_arrives_as_if_it_were_the_first),
	TEST(memory_that_is_out_leaves_nothing_behind),
	TEST(trouble_is_told_in_its_own_words_only),
	TEST(a_fresh_request_is_followed_by_one_that_is_not),
	TEST(who_goes_together_hears_when_a_server_does_not_let_it),
};

int main(int argc, char **argv)
{
	int status;

	if (curl_global_init_mem(CURL_GLOBAL_DEFAULT, hf_malloc, hf_free, hf_realloc, hf_strdup,
				 hf_calloc))
		return 1;
	serve_start();
	setenv("http_proxy", server.address + 2, 1);
	if (!hf_http_add_header(&plain.headers, "X-A: 1") ||
	    !hf_http_add_header(&plain.connect_to, server.address))
		return 1;
	other = (struct hf_peer){.route = &route, .auth = "u:p", .connect_to = plain.connect_to};
	status = check_main(argc, argv, tests, CHECK_COUNT(tests), end);
	hf_http_free_headers(plain.headers);
	hf_http_free_headers(plain.connect_to);
	close(server.listener);
	return status;
}
