/* watch.h: knowing when a key changes, for any number of keys on a bounded number of connections:
 * long polls on the keys that most wait for, reads of many at once, in turns, for the others. What
 * is seen goes to hf_key_saw. The engine's thread only. */
#ifndef HF_WATCH_H
#define HF_WATCH_H

#include "lock/key.h"

/* Long polls on keys at once: what the lane allows, less those on prefixes (tree.c). */
#define HF_KEYS_POLLED 28

/* Begins to watch a key for one more op, which waits by hf_watch_wait. False when memory is out:
 * the op has to look for itself. */
bool hf_watch_begin(struct hf_key *key);
void hf_watch_end(struct hf_key *key);
/* Parks an op of those until the key changes. Answers HF_SLEEP. */
enum hf_step hf_watch_wait(struct hf_key *key, struct hf_op *op);
/* The server may be suspended: polls again, on new connections. */
void hf_watch_restart(struct hf_client *client);
/* When to send the next poll after one that came back: now, or a little later when polls come back
 * much faster than anything changes. *quick counts those, told says whether this one was none. */
int64_t hf_watch_next(unsigned *quick, const struct hf_http *http, bool told);

#endif
