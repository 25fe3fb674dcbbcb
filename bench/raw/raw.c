/* raw.c: reads commands, one a line, and answers each with a line of JSON (bench/contender.lua has
 * the protocol). Also requests and transactions, for easy.c and multi.c. */
#include "raw.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static struct curl_slist *json_headers, *post_headers;
static char session[64];

/* ---- small things --------------------------------------------------------------------------- */

void die(const char *format, ...)
{
	char message[500];
	va_list args;

	va_start(args, format);
	vsnprintf(message, sizeof message, format, args);
	va_end(args);
	for (char *at = message; *at; at++)
		if (*at == '"' || *at == '\\' || (unsigned char)*at < ' ')
			*at = ' ';
	printf("{\"error\":\"%s\"}\n", message);
	fflush(stdout);
	exit(1);
}

double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static double seconds_of(struct timeval time)
{
	return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

double cpu(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return seconds_of(usage.ru_utime) + seconds_of(usage.ru_stime);
}

static void make_room(struct text *text, size_t len)
{
	if (text->len + len < text->room)
		return;
	text->room = (text->len + len) * 2 + 256;
	text->data = realloc(text->data, text->room);
	if (!text->data)
		die("out of memory");
}

void text_add(struct text *text, const char *format, ...)
{
	va_list args;
	int len;

	va_start(args, format);
	len = vsnprintf(NULL, 0, format, args);
	va_end(args);
	make_room(text, (size_t)len + 1);
	va_start(args, format);
	vsnprintf(text->data + text->len, (size_t)len + 1, format, args);
	va_end(args);
	text->len += (size_t)len;
}

void text_clear(struct text *text)
{
	make_room(text, 1);
	text->len = 0;
	text->data[0] = '\0';
}

/* ---- calls ---------------------------------------------------------------------------------- */

static size_t take(char *data, size_t size, size_t count, void *arg)
{
	struct text *reply = arg;
	size_t len = size * count;

	make_room(reply, len + 1);
	memcpy(reply->data + reply->len, data, len);
	reply->len += len;
	reply->data[reply->len] = '\0';
	return len;
}

static void open_easy(struct call *call, const char *method, struct curl_slist *headers)
{
	memset(call, 0, sizeof *call);
	call->easy = curl_easy_init();
	if (!call->easy)
		die("curl_easy_init failed");
	curl_easy_setopt(call->easy, CURLOPT_PRIVATE, call);
	curl_easy_setopt(call->easy, CURLOPT_CUSTOMREQUEST, method);
	curl_easy_setopt(call->easy, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(call->easy, CURLOPT_WRITEFUNCTION, take);
	curl_easy_setopt(call->easy, CURLOPT_WRITEDATA, &call->reply);
	text_clear(&call->body);
	text_clear(&call->reply);
}

static void set_path(struct call *call, const char *path)
{
	const char *address = getenv("CONSUL_HTTP_ADDR");
	struct text url = {0};

	if (!address)
		die("CONSUL_HTTP_ADDR is not set");
	text_add(&url, "http://%s%s", address, path);
	curl_easy_setopt(call->easy, CURLOPT_URL, url.data);
	free(url.data);
}

static void set_body(struct call *call)
{
	curl_easy_setopt(call->easy, CURLOPT_POSTFIELDSIZE, (long)call->body.len);
	curl_easy_setopt(call->easy, CURLOPT_POSTFIELDS, call->body.data);
}

void call_open(struct call *call)
{
	open_easy(call, "PUT", json_headers);
	set_path(call, "/v1/txn");
}

void call_open_post(struct call *call, const char *url)
{
	open_easy(call, "POST", post_headers);
	curl_easy_setopt(call->easy, CURLOPT_URL, url);
	text_add(&call->body, "{\"event\":\"order.paid\",\"data\":\"%0200d\"}", 0);
	set_body(call);
}

void call_close(struct call *call)
{
	curl_easy_cleanup(call->easy);
	free(call->body.data);
	free(call->reply.data);
}

long call_perform(struct call *call)
{
	CURLcode result;
	long status = 0;

	text_clear(&call->reply);
	result = curl_easy_perform(call->easy);
	if (result)
		die("%s", curl_easy_strerror(result));
	curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
	return status;
}

/* ---- what is said to Consul ----------------------------------------------------------------- */

static void session_make(void)
{
	struct call call;
	const char *id;

	open_easy(&call, "PUT", json_headers);
	set_path(&call, "/v1/session/create");
	text_add(&call.body, "{\"Name\":\"bench-raw\",\"TTL\":\"3600s\"}");
	set_body(&call);
	if (call_perform(&call) != 200 || !(id = strstr(call.reply.data, "\"ID\"")) ||
	    sscanf(id, "\"ID\" : \"%63[0-9a-f-]", session) != 1)
		die("no session: %s", call.reply.data);
	call_close(&call);
}

static void session_destroy(void)
{
	char path[120];
	struct call call;

	open_easy(&call, "PUT", json_headers);
	snprintf(path, sizeof path, "/v1/session/destroy/%s", session);
	set_path(&call, path);
	call_perform(&call);
	call_close(&call);
}

const char *session_id(void)
{
	if (!*session)
		session_make();
	return session;
}

static uint64_t last_index(const struct text *reply)
{
	static const char name[] = "\"ModifyIndex\":";
	const char *at = reply->data, *last = NULL;

	while ((at = strstr(at, name)) != NULL)
		last = at += sizeof name - 1;
	return last ? strtoull(last, NULL, 10) : 0;
}

bool look(struct key *key, double wait)
{
	static struct call call;
	char path[250];
	long status;

	if (!call.easy)
		open_easy(&call, "GET", NULL);
	if (wait > 0)
		snprintf(path, sizeof path, "/v1/kv/%s?index=%" PRIu64 "&wait=%.0fms", key->name,
			 key->index, wait * 1e3 + 1);
	else
		snprintf(path, sizeof path, "/v1/kv/%s", key->name);
	set_path(&call, path);
	status = call_perform(&call);
	if (status != 200 && status != 404)
		die("GET %s: status %ld: %s", path, status, call.reply.data);
	key->index = status == 200 ? last_index(&call.reply) : 0;
	return status == 200 && strstr(call.reply.data, "\"Session\"");
}

void txn_begin(struct call *call)
{
	text_clear(&call->body);
	text_add(&call->body, "[");
}

void txn_add(struct call *call, const char *verb, const struct key *key)
{
	text_add(&call->body, "%s{\"KV\":{\"Verb\":\"%s\",\"Key\":\"%s\"",
		 call->body.len > 1 ? "," : "", key->index ? "check-index" : "check-not-exists",
		 key->name);
	if (key->index)
		text_add(&call->body, ",\"Index\":%" PRIu64, key->index);
	text_add(&call->body,
		 "}},{\"KV\":{\"Verb\":\"%s\",\"Key\":\"%s\",\"Session\":\"%s\","
		 "\"Flags\":3304740253564472344,\"Value\":\"\"}}",
		 verb, key->name, session_id());
}

void txn_end(struct call *call)
{
	text_add(&call->body, "]");
	set_body(call);
}

uint64_t txn_index(const struct call *call)
{
	uint64_t index = last_index(&call->reply);

	if (!index)
		die("no ModifyIndex in the reply: %s", call->reply.data);
	return index;
}

/* ---- commands ------------------------------------------------------------------------------- */

static void usage(char **args, struct text *answer)
{
	(void)args;
	text_add(answer, ",\"version\":\"%s\"", curl_version_info(CURLVERSION_NOW)->version);
}

static void run(char *line, struct text *answer)
{
	static const struct {
		const char *name;
		command_fn *fn;
		size_t args;
	} commands[] = {
		{"usage", usage, 0},	 {"cycle", cycle, 2}, {"batch", batch, 3},
		{"contend", contend, 4}, {"hold", hold, 1},   {"free", let_go, 0},
		{"post", post, 2},	 {"many", many, 3},   {"posts", posts, 3},
	};
	char *args[5] = {0}, *name = strtok(line, " \n");

	for (size_t i = 0; i < 5 && (args[i] = strtok(NULL, " \n")) != NULL;)
		i++;
	for (size_t i = 0; name && i < sizeof commands / sizeof *commands; i++) {
		if (strcmp(commands[i].name, name) != 0)
			continue;
		if (commands[i].args && !args[commands[i].args - 1])
			die("%s takes %zu words", name, commands[i].args);
		commands[i].fn(args, answer);
		return;
	}
	die("there is no command %s", name ? name : "in this line");
}

int main(void)
{
	struct text answer = {0};
	char line[500];

	curl_global_init(CURL_GLOBAL_ALL);
	json_headers = curl_slist_append(NULL, "Content-Type: application/json");
	post_headers = curl_slist_append(NULL, "content-type: application/json");
	curl_slist_append(post_headers, "webhook-fencing-token: 4711");
	while (fgets(line, sizeof line, stdin)) {
		double start = now(), used = cpu();

		text_clear(&answer);
		run(line, &answer);
		printf("{\"now\":%.7f,\"cpu_now\":%.6f,\"seconds\":%.7f,\"cpu\":%.6f%s}\n", now(),
		       cpu(), now() - start, cpu() - used, answer.data);
		fflush(stdout);
	}
	if (*session)
		session_destroy();
	return 0;
}
