/* session.h: requests and replies about sessions. */
#ifndef HF_CONSUL_SESSION_H
#define HF_CONSUL_SESSION_H

#include "consul/call.h"

/* What Consul makes of a session that asks for no lock-delay, ms. */
#define HF_LOCK_DELAY_DEFAULT 15000

/* What the server says of a session. */
struct hf_session_info {
	bool exists; /* false: there is none, or none that we may see */
	char id[64];
	int64_t ttl, lock_delay; /* ms; 0: none */
};

void hf_session_create(struct hf_http *http, const struct hf_consul *consul,
		       const struct hf_session_opts *session);
void hf_session_renew(struct hf_http *http, const struct hf_consul *consul, const char *id);
void hf_session_destroy(struct hf_http *http, const struct hf_consul *consul, const char *id);
/* A read of a session: a long poll when index is not 0. */
void hf_session_look(struct hf_http *http, const struct hf_consul *consul, const char *id,
		     uint64_t index);

/* Each fills *err unless it answers HF_V_OK. */

/* The reply to create and renew. HF_V_ABSENT: Consul's own word that there is no such session. */
enum hf_verdict hf_session_read(const struct hf_http *http, const struct hf_consul *consul,
				struct hf_session_info *info, struct hf_error *err);
/* The reply to a look. */
enum hf_verdict hf_session_read_look(const struct hf_http *http, const struct hf_consul *consul,
				     struct hf_session_info *info, struct hf_error *err);
/* The reply to destroy. HF_V_OK: it is gone. */
enum hf_verdict hf_session_read_destroy(const struct hf_http *http, const struct hf_consul *consul,
					struct hf_error *err);

#endif
