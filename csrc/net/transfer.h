/* transfer.h: the requests of ops between their lane and libcurl, and what is kept for the next
 * ones: structs with their memory and easy handles, as many as have been in flight at once. The
 * engine's thread only. */
#ifndef HF_TRANSFER_H
#define HF_TRANSFER_H

#include "net/engine.h"

/* An empty request, NULL when memory is out. */
struct hf_http *hf_transfer_http(struct hf_engine *engine);
/* The request of an op has done its work. Harmless for one that the op owns, or NULL. */
void hf_transfer_give(struct hf_op *op, struct hf_http *http);
/* Makes the pool that there always is; false when memory is out. */
bool hf_transfer_open(struct hf_engine *engine);
/* Closes all connections. */
void hf_transfer_close(struct hf_engine *engine);
/* Begins to carry out op->http. Answers false, with the error in there, when it cannot. */
bool hf_transfer_begin(struct hf_op *op);
/* It is done: libcurl has nothing to do with it any more. */
void hf_transfer_end(struct hf_op *op);
/* The same in the middle, and the request is given back. */
void hf_transfer_abort(struct hf_op *op);
/* Frees what is kept. */
void hf_transfer_free(struct hf_engine *engine);

#endif
