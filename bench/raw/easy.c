/* easy.c: raw contenders with one easy handle, one connection, one request at a time. */
#include "raw.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCH 32 /* keys in a transaction: two operations each, and Consul takes 64 */

static struct call *consul(void)
{
	static struct call call;

	if (!call.easy)
		call_open(&call);
	return &call;
}

static void name_key(struct key *key, const char *name)
{
	snprintf(key->name, sizeof key->name, "%s", name);
}

static void sleep_for(double seconds)
{
	struct timespec ts = {.tv_sec = (time_t)seconds};

	ts.tv_nsec = (long)((seconds - (double)ts.tv_sec) * 1e9);
	if (seconds > 0)
		nanosleep(&ts, NULL);
}

/* Locks or unlocks so many keys in one transaction; false when it was refused. */
static bool transact(const char *verb, struct key *keys, size_t count)
{
	struct call *call = consul();
	long status;

	txn_begin(call);
	for (size_t i = 0; i < count; i++)
		txn_add(call, verb, &keys[i]);
	txn_end(call);
	status = call_perform(call);
	if (status == 409)
		return false;
	if (status != 200)
		die("%s: status %ld: %s", verb, status, call->reply.data);
	for (size_t i = 0; i < count; i++)
		keys[i].index = txn_index(call);
	return true;
}

static void must(const char *verb, struct key *keys, size_t count)
{
	if (!transact(verb, keys, count))
		die("%s %s was refused: %s", verb, keys->name, consul()->reply.data);
}

/* cycle SECONDS KEY */
void cycle(char **args, struct text *answer)
{
	static struct key key;
	double stop = now() + atof(args[0]);
	long count = 0;

	if (strcmp(key.name, args[1]) != 0) {
		name_key(&key, args[1]);
		look(&key, 0);
	}
	do {
		must("lock", &key, 1);
		must("unlock", &key, 1);
		count++;
	} while (now() < stop);
	text_add(answer, ",\"locks\":%ld", count);
}

static struct key *name_keys(size_t width, const char *prefix)
{
	struct key *keys = calloc(width, sizeof *keys);

	if (!keys)
		die("out of memory");
	for (size_t i = 0; i < width; i++) {
		snprintf(keys[i].name, sizeof keys[i].name, "%s%zu", prefix, i + 1);
		look(&keys[i], 0);
	}
	return keys;
}

/* batch SECONDS WIDTH PREFIX, always of the same width and prefix: all keys, again and again, as
 * many in a transaction as it takes. */
void batch(char **args, struct text *answer)
{
	static struct key *keys;
	double stop = now() + atof(args[0]);
	size_t width = (size_t)atoi(args[1]);
	long count = 0;

	if (!keys)
		keys = name_keys(width, args[2]);
	do {
		for (size_t first = 0; first < width; first += BATCH) {
			size_t some = width - first < BATCH ? width - first : BATCH;

			must("lock", keys + first, some);
			must("unlock", keys + first, some);
			count += (long)some;
		}
	} while (now() < stop);
	text_add(answer, ",\"locks\":%ld", count);
}

static struct key held;

/* hold KEY: until "free". */
void hold(char **args, struct text *answer)
{
	name_key(&held, args[0]);
	look(&held, 0);
	must("lock", &held, 1);
	text_add(answer, ",\"session\":\"%s\",\"locks\":1", session_id());
}

void let_go(char **args, struct text *answer)
{
	(void)args;
	must("unlock", &held, 1);
	text_add(answer, ",\"free\":true");
}

/* contend SECONDS HOLD THINK KEY: takes turns with other processes: look, wait for it to be free,
 * try. Answers when it had it, and its tokens. */
void contend(char **args, struct text *answer)
{
	double stop = now() + atof(args[0]), hold_for = atof(args[1]), think = atof(args[2]);
	bool wait = false;
	struct key key = {.index = 0};
	const char *comma = "";

	name_key(&key, args[3]);
	text_add(answer, ",\"holds\":[");
	for (double left; (left = stop - now()) > 0;) {
		double from;

		wait = look(&key, wait ? left : 0);
		if (wait || !transact("lock", &key, 1))
			continue;
		from = now();
		sleep_for(hold_for);
		text_add(answer, "%s[%.7f,%.7f,%" PRIu64 "]", comma, from, now(), key.index);
		comma = ",";
		must("unlock", &key, 1);
		sleep_for(think);
	}
	text_add(answer, "]");
}

/* post SECONDS URL, always the same */
void post(char **args, struct text *answer)
{
	static struct call call;
	double stop = now() + atof(args[0]);
	long count = 0;

	if (!call.easy)
		call_open_post(&call, args[1]);
	do {
		long status = call_perform(&call);

		if (status != 204)
			die("POST: status %ld", status);
		count++;
	} while (now() < stop);
	text_add(answer, ",\"posts\":%ld", count);
}
