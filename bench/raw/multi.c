/* multi.c: raw contenders with many requests at once on a libcurl multi handle. */
#include "raw.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECTIONS 64L /* an agent takes 200 from one address */

/* A call of one of the many. key: the lock's, which is held or not. */
struct worker {
	struct call call;
	struct key key;
	bool held;
};

struct crowd {
	CURLM *multi;
	struct worker *workers;
	size_t width, busy;
	double stop;
	long count;
	/* Sees to a worker's answer; false: it has ended. */
	bool (*answered)(struct crowd *crowd, struct worker *worker, long status);
};

static void start(struct crowd *crowd, struct worker *worker)
{
	text_clear(&worker->call.reply);
	curl_multi_add_handle(crowd->multi, worker->call.easy);
	crowd->busy++;
}

static void finish(struct crowd *crowd, CURL *easy, CURLcode result)
{
	struct worker *worker = NULL;
	long status = 0;

	if (result)
		die("%s", curl_easy_strerror(result));
	curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&worker); /* call is its first member */
	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	curl_multi_remove_handle(crowd->multi, easy);
	crowd->busy--;
	if (crowd->answered(crowd, worker, status))
		start(crowd, worker);
}

/* Makes the crowd, unless it is there from before: a round begins with connections as a client has
 * them that has been running for a while. */
static void gather(struct crowd *crowd, const char *width)
{
	if (crowd->workers)
		return;
	crowd->width = (size_t)atoi(width);
	crowd->workers = calloc(crowd->width, sizeof *crowd->workers);
	crowd->multi = curl_multi_init();
	if (!crowd->workers || !crowd->multi)
		die("out of memory");
	curl_multi_setopt(crowd->multi, CURLMOPT_MAX_HOST_CONNECTIONS, CONNECTIONS);
	curl_multi_setopt(crowd->multi, CURLMOPT_MAXCONNECTS, CONNECTIONS);
}

static void drive(struct crowd *crowd, const char *seconds)
{
	CURLMsg *message;
	int running, left;

	crowd->stop = now() + atof(seconds);
	crowd->count = 0;
	for (size_t i = 0; i < crowd->width; i++)
		start(crowd, &crowd->workers[i]);
	while (crowd->busy) {
		if (curl_multi_perform(crowd->multi, &running))
			die("curl_multi_perform failed");
		while ((message = curl_multi_info_read(crowd->multi, &left)) != NULL)
			finish(crowd, message->easy_handle, message->data.result);
		if (crowd->busy && curl_multi_poll(crowd->multi, NULL, 0, 1000, NULL))
			die("curl_multi_poll failed");
	}
}

static void ask(struct worker *worker)
{
	txn_begin(&worker->call);
	txn_add(&worker->call, worker->held ? "unlock" : "lock", &worker->key);
	txn_end(&worker->call);
}

static bool transacted(struct crowd *crowd, struct worker *worker, long status)
{
	if (status != 200)
		die("%s: status %ld: %s", worker->key.name, status, worker->call.reply.data);
	worker->key.index = txn_index(&worker->call);
	worker->held = !worker->held;
	if (!worker->held) {
		crowd->count++;
		if (now() >= crowd->stop)
			return false;
	}
	ask(worker);
	return true;
}

/* many SECONDS WIDTH PREFIX, always of the same width and prefix */
void many(char **args, struct text *answer)
{
	static struct crowd crowd = {.answered = transacted};
	bool made = crowd.workers;

	gather(&crowd, args[1]);
	for (size_t i = 0; i < crowd.width; i++) {
		struct worker *worker = &crowd.workers[i];

		if (!made) {
			snprintf(worker->key.name, sizeof worker->key.name, "%s%zu", args[2],
				 i + 1);
			look(&worker->key, 0);
			call_open(&worker->call);
		}
		ask(worker);
	}
	drive(&crowd, args[0]);
	text_add(answer, ",\"locks\":%ld", crowd.count);
}

static bool posted(struct crowd *crowd, struct worker *worker, long status)
{
	(void)worker;
	if (status != 204)
		die("POST: status %ld", status);
	crowd->count++;
	return now() < crowd->stop;
}

/* posts SECONDS WIDTH URL, always of the same width and URL */
void posts(char **args, struct text *answer)
{
	static struct crowd crowd = {.answered = posted};
	bool made = crowd.workers;

	gather(&crowd, args[1]);
	for (size_t i = 0; i < crowd.width && !made; i++)
		call_open_post(&crowd.workers[i].call, args[2]);
	drive(&crowd, args[0]);
	text_add(answer, ",\"posts\":%ld", crowd.count);
}
