/* cycle.c: what a lock+unlock costs without holdfast: the same two requests (a transaction that
 * locks, a transaction that unlocks) in a plain loop over one libcurl easy handle with a kept-alive
 * connection. Prints microseconds per cycle, one line per round.
 *
 *   cycle HOST:PORT SESSION KEY ROUNDS CYCLES
 */
#include <curl/curl.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static char reply[4096];
static size_t reply_len;

static size_t take(char *data, size_t size, size_t count, void *arg)
{
	size_t len = size * count;

	(void)arg;
	if (reply_len + len >= sizeof reply)
		return 0;
	memcpy(reply + reply_len, data, len);
	reply_len += len;
	reply[reply_len] = '\0';
	return len;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

static void transaction(CURL *curl, const char *verb, const char *session, const char *key)
{
	char body[1024];
	CURLcode result;
	long status = 0;

	snprintf(body, sizeof body,
		 "[{\"KV\":{\"Verb\":\"%s\",\"Key\":\"%s\",\"Session\":\"%s\","
		 "\"Flags\":3304740253564472344,\"Value\":\"\"}}]",
		 verb, key, session);
	reply_len = 0;
	curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
	result = curl_easy_perform(curl);
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
	if (result || status != 200) {
		fprintf(stderr, "%s: %s, status %ld: %s\n", verb, curl_easy_strerror(result),
			status, reply);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
	CURL *curl = curl_easy_init();
	char url[256];

	if (argc != 6 || !curl || !headers) {
		fprintf(stderr, "usage: cycle HOST:PORT SESSION KEY ROUNDS CYCLES\n");
		return 2;
	}
	snprintf(url, sizeof url, "http://%s/v1/txn", argv[1]);
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, "PUT");
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
	/* A round begins when it is told to, so that rounds of both sides can take turns. */
	for (int round = 0, rounds = atoi(argv[4]); round < rounds && getchar() != EOF; round++) {
		int cycles = atoi(argv[5]);
		double start = now();

		for (int i = 0; i < cycles; i++) {
			transaction(curl, "lock", argv[2], argv[3]);
			transaction(curl, "unlock", argv[2], argv[3]);
		}
		printf("%.1f\n", (now() - start) / cycles);
		fflush(stdout);
	}
	curl_easy_cleanup(curl);
	curl_slist_free_all(headers);
	return 0;
}
