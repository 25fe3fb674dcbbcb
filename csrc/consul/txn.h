/* txn.h: transactions: several operations on keys, all of them or none. */
#ifndef HF_CONSUL_TXN_H
#define HF_CONSUL_TXN_H

#include "consul/kv.h"

/* How many operations a transaction may have: servers before 1.14 take 64. */
#define HF_TXN_MAX 64

enum hf_verb { HF_GET, HF_CHECK_SESSION, HF_CHECK_INDEX, HF_CHECK_NOT_EXISTS, HF_LOCK, HF_UNLOCK };

/* One operation. What a verb has no use for is ignored. */
struct hf_txn_op {
	enum hf_verb verb;
	const char *key;
	const char *session;
	uint64_t index;
	const char *value; /* of lock and unlock, with a lock's flags */
	size_t value_len;
};

/* Begin, up to HF_TXN_MAX operations, end. consistent asks the leader to be sure, and is for
 * transactions that only read. */
void hf_txn_begin(struct hf_http *http, const struct hf_consul *consul, bool consistent);
void hf_txn_add(struct hf_http *http, const struct hf_txn_op *op);
void hf_txn_end(struct hf_http *http);
/* Whether there is room for one more: in number, and in bytes, of which Consul takes 512 KiB. */
bool hf_txn_room(const struct hf_http *http, size_t count);

/* Each fills *err unless it answers HF_V_OK. */

/* The reply to a transaction on one key that writes it. *index gets the raft index of the write:
 * what the key's is now. */
enum hf_verdict hf_txn_read_write(const struct hf_http *http, const struct hf_consul *consul,
				  uint64_t *index, struct hf_error *err);
/* The reply to count check-session operations. verdicts[i] says what became of operation i: OK,
 * ABSENT, NOT_OURS or FINAL. Answers HF_V_OK when the verdicts count, HF_V_AGAIN or HF_V_FINAL when
 * there is no answer. */
enum hf_verdict hf_txn_read_checks(const struct hf_http *http, const struct hf_consul *consul,
				   size_t count, enum hf_verdict *verdicts, struct hf_error *err);
/* The reply to count get operations, all or nothing. HF_V_OK: kvs has them all, without `at`.
 * HF_V_ABSENT: one at least does not exist, verdicts[i] says which, and nothing is known of the
 * others. */
enum hf_verdict hf_txn_read_gets(const struct hf_http *http, const struct hf_consul *consul,
				 size_t count, struct hf_kv *kvs, enum hf_verdict *verdicts,
				 struct hf_error *err);

#endif
