/* txn.h: transactions: several operations on keys, all of them or none. */
#ifndef HF_CONSUL_TXN_H
#define HF_CONSUL_TXN_H

#include "consul/kv.h"

/* How many operations a transaction may have: servers before 1.14 take 64. */
#define HF_TXN_MAX 64
/* And what newer ones take. An older one says so (hf_txn_limit). */
#define HF_TXN_MOST 128

enum hf_verb {
	HF_GET,
	HF_CHECK_SESSION,
	HF_CHECK_INDEX,
	HF_CHECK_NOT_EXISTS,
	HF_LOCK,
	HF_UNLOCK,
	HF_DELETE, /* unless it has changed since index; a key that is absent is as good as deleted
		    */
	HF_CAS, /* writes what has not changed since index; 0: what is absent */
	HF_ERASE, /* deletes, whatever it is: fenced by another operation */
};

/* One operation. What a verb has no use for is ignored. */
struct hf_txn_op {
	enum hf_verb verb;
	const char *key;
	const char *session;
	uint64_t index;
	const char *value; /* of lock, unlock and cas */
	size_t value_len;
	uint64_t flags; /* the same; 0: those of a lock */
};

/* Begin, add operations, end. consistent asks the leader to be sure, and is for transactions that
 * only read. */
void hf_txn_begin(struct hf_http *http, const struct hf_consul *consul, bool consistent);
void hf_txn_add(struct hf_http *http, const struct hf_txn_op *op);
void hf_txn_end(struct hf_http *http);
/* Whether there is room for one more: in number, and in bytes, of which Consul takes 512 KiB. */
bool hf_txn_room(const struct hf_http *http, size_t count);
/* Whether what has been added is no longer than that. */
bool hf_txn_fits(const struct hf_http *http);

/* Each fills *err unless it answers HF_V_OK. */

/* The reply to count check-session operations. verdicts[i] says what became of operation i: OK,
 * ABSENT, NOT_OURS or FINAL. Answers HF_V_OK when the verdicts count, HF_V_AGAIN or HF_V_FINAL when
 * there is no answer. */
enum hf_verdict hf_txn_read_checks(const struct hf_http *http, const struct hf_consul *consul,
				   size_t count, enum hf_verdict *verdicts, struct hf_error *err);

/* ---- replies that are read in parts, each of which is some operations on one key ---- */

struct cJSON;

struct hf_txn_reply {
	bool refused; /* nothing was carried out, because of what some operations are told */
	/* private */
	struct cJSON *json;
	size_t next; /* the result to be read next */
	const struct cJSON *errors[HF_TXN_MOST]; /* by operation; NULL: none */
};

/* Opens the reply to count operations, which is to be closed whatever comes of that. HF_V_OK: there
 * is something to read; anything else is the answer to all of them. */
enum hf_verdict hf_txn_open(struct hf_txn_reply *reply, const struct hf_http *http,
			    const struct hf_consul *consul, size_t count, struct hf_error *err);
/* What became of the part that is count operations on key, from the first on; parts are read in
 * order. Its first refusal counts, since others may follow from it. HF_V_OK: nothing is said
 * against it; when nothing was refused, it has been carried out, and *kv is the key as it is now,
 * without `at` (!kv->exists: the reply tells nothing of the key). */
enum hf_verdict hf_txn_read_part(struct hf_txn_reply *reply, const char *key, size_t first,
				 size_t count, struct hf_kv *kv, struct hf_error *err);
void hf_txn_close(struct hf_txn_reply *reply);
/* How many operations the server takes, by its own words, when it has refused a transaction that
 * had too many. 0: it does not say so. */
size_t hf_txn_limit(const struct hf_http *http);

#endif
