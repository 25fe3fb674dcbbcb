/* request.h: an HTTP request of the user's, on a guard or not. */
#ifndef HF_REQUEST_H
#define HF_REQUEST_H

#include "net/engine.h"

/* Makes the op of a request. timeout is what a request has that says nothing of it. Or else fills
 * *err: INVALID, NOMEM. */
enum hf_err hf_request_new(struct hf_engine *engine, const struct hf_request *req, int64_t timeout,
			   struct hf_op **out, struct hf_error *err);

#endif
