/* kv.h: requests and replies about single keys. */
#ifndef HF_CONSUL_KV_H
#define HF_CONSUL_KV_H

#include "consul/call.h"

/* What Go's client and `consul lock` write into the flags of a lock's key. */
#define HF_LOCK_FLAGS UINT64_C(3304740253564472344)

struct cJSON;

/* What a key was when the server answered. */
struct hf_kv {
	uint64_t flags;
	uint64_t index; /* of its last change; 0 when it does not exist */
	uint64_t at; /* X-Consul-Index: what a long poll waits to be passed */
	char session[39]; /* "" when nobody holds it; a UUID otherwise */
	bool exists;
};

/* A read of a key: a long poll when index is not 0. consistent asks the leader to be sure. */
void hf_kv_get(struct hf_http *http, const struct hf_consul *consul, const char *key,
	       uint64_t index, bool consistent);

/* The reply to it. Fills *err unless it answers HF_V_OK. An absent key is HF_V_OK with !kv->exists.
 */
enum hf_verdict hf_kv_read(const struct hf_http *http, const struct hf_consul *consul,
			   struct hf_kv *kv, struct hf_error *err);
/* Reads one JSON object as Consul describes a key. */
bool hf_kv_parse(const struct cJSON *json, struct hf_kv *kv);

#endif
