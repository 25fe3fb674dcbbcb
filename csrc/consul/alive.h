/* alive.h: requests and replies about the check by which a process says that it lives. It belongs
 * to a service: a check of the node would take all services of that out of the way when it is
 * critical, and would stay for ever when its process has died. */
#ifndef HF_CONSUL_ALIVE_H
#define HF_CONSUL_ALIVE_H

#include "consul/call.h"

/* The service that all of them are instances of. */
#define HF_ALIVE_SERVICE "holdfast"

/* id is that of the instance and of its check. */
void hf_alive_register(struct hf_http *http, const struct hf_consul *consul, const char *id,
		       const struct hf_session_opts *session);
void hf_alive_pass(struct hf_http *http, const struct hf_consul *consul, const char *id);
void hf_alive_deregister(struct hf_http *http, const struct hf_consul *consul, const char *id);

/* The reply to any of them. Fills *err unless it answers OK. ABSENT: the agent does not know the
 * check; it has been started anew. */
enum hf_verdict hf_alive_read(const struct hf_http *http, const struct hf_consul *consul,
			      struct hf_error *err);

#endif
