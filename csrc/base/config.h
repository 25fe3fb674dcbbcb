/* config.h: deep copies of the option structs in hf.h. */
#ifndef HF_CONFIG_H
#define HF_CONFIG_H

#include "hf.h"

/* Copies src into *dst; false, with *dst emptied, when memory runs out. */
bool hf_client_opts_copy(struct hf_client_opts *dst, const struct hf_client_opts *src);
void hf_client_opts_free(struct hf_client_opts *opts);
bool hf_session_opts_copy(struct hf_session_opts *dst, const struct hf_session_opts *src);
void hf_session_opts_free(struct hf_session_opts *opts);
bool hf_route_copy(struct hf_route *dst, const struct hf_route *src);
void hf_route_free(struct hf_route *route);
bool hf_call_copy(struct hf_call *dst, const struct hf_call *src);
void hf_call_free(struct hf_call *call);

#endif
