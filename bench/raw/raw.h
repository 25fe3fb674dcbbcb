/* raw.h: what the raw contenders of the benchmark share. They are what somebody writes who needs
 * speed and nothing else: no renewal, no loss detection, no retries. Whatever goes wrong ends them.
 */
#ifndef RAW_H
#define RAW_H

#include <curl/curl.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text {
	char *data;
	size_t len, room;
};

/* A lock's key, and its ModifyIndex when last seen: 0 when it is absent. */
struct key {
	char name[120];
	uint64_t index;
};

/* One easy handle, what it sends and what it got. */
struct call {
	CURL *easy;
	struct text body, reply;
};

/* A command: the words after its name, and the answer's fields, which it appends. */
typedef void command_fn(char **args, struct text *answer);

command_fn cycle, batch, hold, let_go, contend, post; /* easy.c */
command_fn many, posts; /* multi.c */

/* Answers {"error":…} and ends the process. */
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* Seconds of the clock that all processes share, and of the CPU. */
double now(void);
double cpu(void);

void text_add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_clear(struct text *text);

/* A call to the Consul agent: PUT /v1/txn with what is in body. */
void call_open(struct call *call);
/* A call to the receiver of webhooks. */
void call_open_post(struct call *call, const char *url);
void call_close(struct call *call);
/* Performs it and answers the status. */
long call_perform(struct call *call);

/* The id of this process's session. Made at the first call, destroyed at the end. */
const char *session_id(void);
/* Makes key->index what the server says. wait: only when it has moved on, or after so many
 * seconds. Answers whether somebody holds it. */
bool look(struct key *key, double wait);
/* The transaction that holdfast sends for a lock ("lock") or unlock ("unlock"): begin, add each
 * key, end. */
void txn_begin(struct call *call);
void txn_add(struct call *call, const char *verb, const struct key *key);
void txn_end(struct call *call);
/* The index at which a transaction has been carried out, from its reply. */
uint64_t txn_index(const struct call *call);

#endif
