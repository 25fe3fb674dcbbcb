/* stray.h: looking after keys that a session may come to hold without anybody's knowledge. The
 * engine's thread only. */
#ifndef HF_STRAY_H
#define HF_STRAY_H

#include "lock/session.h"

struct hf_key;

/* From now on until the session ends, or the key is seen past index: a copy of a lock on the key,
 * conditional on index (0: on its absence), may be carried out with nobody to know. Without memory
 * for that the session is retired. */
void hf_stray_note(struct hf_session *session, struct hf_key *key, uint64_t index);
/* Frees what has been noted for a session that nobody refers to any more. Any thread. */
void hf_stray_free(struct hf_session *session);

#endif
