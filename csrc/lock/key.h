/* key.h: what a client knows of a key: what it has seen of it, and whose turn it is. One hold at a
 * time contends for a key or has it; the others of the client wait here and not at the server.
 * The engine's thread only. */
#ifndef HF_KEY_H
#define HF_KEY_H

#include "consul/kv.h"
#include "lock/client.h"

/* A key that nobody else seems to use is tried without a look for so long after our unlock, ms. */
#define HF_FRESH 60000

struct hf_key {
	char *name; /* behind this struct */
	struct hf_client *client;
	const void *owner; /* whose turn it is: a hold, or an op that does not know yet; or NULL */
	const struct hf_session *owner_session; /* which one the owner goes by; NULL: not decided */
	struct hf_link turn; /* ops that wait for their turn, in order */

	struct hf_kv seen; /* if known */
	int64_t seen_at; /* when it was known here */
	int64_t contended; /* when another's session was last seen on it, 0: never */
	int64_t paid; /* until when refused tries have been paid for (acquire.c) */

	struct hf_link changed; /* ops that wait for a change */
	struct hf_error *failure; /* why it cannot be read; NULL: it can, or has not been tried */
	struct hf_op *poll; /* watch.c */
	struct hf_link place; /* keys->idle, polled or rotation */
	struct suspect *suspect; /* stray.c: the last one */
	uint64_t looked; /* watch.c: what a look that began with this key told last; 0: news */

	unsigned refs; /* whoever refers to it; 0: it is remembered only */
	unsigned waiting; /* ops on turn */
	unsigned watchers; /* ops that want to know when it changes */
	unsigned quick; /* polls in a row that came back soon, and told nothing new */
	unsigned batch; /* batch.c: the last one that it was in */

	bool known : 1; /* seen has been seen */
	bool ours : 1; /* seen is what our own unlock left */
	bool refused : 1; /* the failure will not pass, as long as nobody changes what we may do */
	bool stray : 1; /* stray.c: it is being given back */
	bool ephemeral : 1; /* the lock that last made it deletes it */
	bool fleeting : 1; /* not to be remembered: nobody will ask for it again */
};

/* Finds or makes the entry for a key and takes a reference on it. NULL when memory is out. */
struct hf_key *hf_key_get(struct hf_client *client, const char *name);
void hf_key_ref(struct hf_key *key);
/* Gives a reference back. NULL is fine. */
void hf_key_put(struct hf_key *key);
/* Takes the turn for owner if it is nobody's, or if it has come for op, which waited for it. */
bool hf_key_take(struct hf_key *key, const struct hf_op *op, const void *owner);
/* Waits for the turn. Answers HF_SLEEP. */
enum hf_step hf_key_queue(struct hf_key *key, struct hf_op *op);
/* op has queued and does not want its turn any more. */
void hf_key_leave(struct hf_key *key, const struct hf_op *op);
/* Ends owner's turn, and begins that of whoever is next. Harmless when it is not owner's. */
void hf_key_pass(struct hf_key *key, const void *owner);
/* Notes what a request, which was sent at a time, has told of a key, and wakes who waits for a
 * change. Answers false when the key has gone back in time: the server's data has been replaced. */
bool hf_key_saw(struct hf_key *key, const struct hf_kv *kv, int64_t sent);
/* Notes what our own unlock left: its flags, and its index. */
void hf_key_unlocked(struct hf_key *key, uint64_t flags, uint64_t index);
/* Notes that we have deleted it. */
void hf_key_deleted(struct hf_key *key);
/* Notes that a key cannot be read, for good or not, and wakes who waits for a change. */
void hf_key_failed(struct hf_key *key, const struct hf_error *why, bool final);
/* It has not been told with others that could be read: who waits for a change is to look alone. */
void hf_key_hidden(struct hf_key *key);
/* Whether seen is recent knowledge of our own that nobody seems to have made obsolete, and has
 * these flags. */
bool hf_key_fresh(const struct hf_key *key, uint64_t flags);
/* Whether a session other than this one has it, as far as we have seen: then it is contended. */
bool hf_key_taken(struct hf_key *key, const char *session);
void hf_keys_init(struct hf_client *client);
/* Frees them all. Nobody refers to one any more. */
void hf_keys_free(struct hf_client *client);

/* When to ask again for a key that the server holds back: nobody is on it, but its last holder has
 * died within the lock-delay. */
int64_t hf_key_undelayed(void);

#endif
