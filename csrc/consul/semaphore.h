/* semaphore.h: a semaphore as Go's client and `consul lock -n` keep it. Below its prefix there is
 *
 *   .lock   {"Limit":3,"Holders":{"<session>":true}}, written by comparison with its index only
 *   <session>   of whoever holds a slot or wants one: locked by that session, so that others see
 *               whether it is alive
 *
 * and both have flags that no lock has. */
#ifndef HF_CONSUL_SEMAPHORE_H
#define HF_CONSUL_SEMAPHORE_H

#include "consul/kv.h"

#define HF_SEMAPHORE_FLAGS UINT64_C(0xe0f69a2baa414de0)
/* The key beside the holders', below the prefix. */
#define HF_SEMAPHORE_LOCK ".lock"

struct hf_holder {
	char id[39]; /* a session's */
	bool alive; /* some key below the prefix is locked by it */
};

/* What a semaphore was when the server answered. */
struct hf_semaphore {
	bool exists; /* there is a .lock; without one nobody holds a slot */
	bool foreign; /* it is not a semaphore's */
	bool newline; /* its text ends with a line end, which means nothing */
	uint64_t index; /* of its last change; 0 when it does not exist */
	uint64_t at; /* X-Consul-Index of all below the prefix */
	uint64_t limit;
	struct hf_holder *holders; /* by id */
	size_t count;
};

/* Frees what is in it and leaves it empty: one that does not exist. */
void hf_semaphore_free(struct hf_semaphore *sem);
/* The holder with an id, or NULL. */
const struct hf_holder *hf_semaphore_find(const struct hf_semaphore *sem, const char *id);
/* How many slots are held by sessions that are alive, other than this one. */
uint64_t hf_semaphore_taken(const struct hf_semaphore *sem, const char *but);
/* Fills *next, which is empty, with what a semaphore of that limit is to become: those who are
 * alive, without one of them, and with one more; either may be NULL. False when memory is out. */
bool hf_semaphore_change(struct hf_semaphore *next, const struct hf_semaphore *sem, uint64_t limit,
			 const char *without, const char *with);
/* Adds the text of its .lock. */
void hf_semaphore_write(struct hf_buf *out, const struct hf_semaphore *sem);

/* A read of all below a prefix: a long poll when index is not 0. consistent asks the leader to be
 * sure. */
void hf_semaphore_get(struct hf_http *http, const struct hf_consul *consul, const char *prefix,
		      uint64_t index, bool consistent);
/* The reply to it, into *sem, which is empty. Fills *err unless it answers HF_V_OK. */
enum hf_verdict hf_semaphore_read(const struct hf_http *http, const struct hf_consul *consul,
				  const char *prefix, struct hf_semaphore *sem,
				  struct hf_error *err);
/* The reply to a transaction of count operations, the first of which is on .lock, whose name that
 * is: what became of it, and the index that .lock has now, if that is told. */
enum hf_verdict hf_semaphore_written(const struct hf_http *http, const struct hf_consul *consul,
				     const char *lock, size_t count, uint64_t *index,
				     struct hf_error *err);

#endif
