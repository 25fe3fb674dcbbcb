#include "lock/key.h"

#include "base/alloc.h"
#include "base/random.h"

#include <search.h>
#include <string.h>

/* So many keys are remembered when nobody uses them. Forgetting one costs a read the next time. */
#define REMEMBERED 16384
/* Between tries during a lock-delay, ms. */
#define DELAY_MIN 200
#define DELAY_MAX 2000
/* So long others count as contenders after they have been seen, ms. */
#define CONTENDED 2000

static int compare(const void *a, const void *b)
{
	const struct hf_key *left = a, *right = b;

	return strcmp(left->name, right->name);
}

static void destroy(void *node)
{
	struct hf_key *key = node;

	hf_free(key->failure);
	hf_free(key);
}

void hf_keys_init(struct hf_client *client)
{
	hf_link_init(&client->keys.idle);
	hf_link_init(&client->keys.polled);
	hf_link_init(&client->keys.rotation);
}

void hf_keys_free(struct hf_client *client)
{
	tdestroy(client->keys.tree, destroy);
	client->keys = (struct hf_keys){0};
	hf_keys_init(client);
}

void hf_key_ref(struct hf_key *key)
{
	if (key->refs++)
		return;
	hf_link_remove(&key->place);
	key->client->keys.idle_count--;
}

static void forget(struct hf_key *key)
{
	hf_link_remove(&key->place);
	key->client->keys.idle_count--;
	tdelete(key, &key->client->keys.tree, compare);
	destroy(key);
}

struct hf_key *hf_key_get(struct hf_client *client, const char *name)
{
	struct hf_key probe = {.name = (char *)(uintptr_t)name}, *key;
	struct hf_key **found = tfind(&probe, &client->keys.tree, compare);
	size_t size = strlen(name) + 1;

	if (found) {
		hf_key_ref(*found);
		return *found;
	}
	key = hf_calloc(1, sizeof *key + size);
	if (!key)
		return NULL;
	key->name = (char *)(key + 1);
	memcpy(key->name, name, size);
	key->client = client;
	key->refs = 1;
	hf_link_init(&key->turn);
	hf_link_init(&key->changed);
	hf_link_init(&key->place);
	if (tsearch(key, &client->keys.tree, compare))
		return key;
	destroy(key);
	return NULL;
}

void hf_key_put(struct hf_key *key)
{
	struct hf_keys *keys;

	if (!key || --key->refs)
		return;
	keys = &key->client->keys;
	hf_link_append(&keys->idle, &key->place);
	keys->idle_count++;
	if (key->fleeting)
		forget(key);
	else if (keys->idle_count > REMEMBERED)
		forget(HF_OF(struct hf_key, place, hf_link_first(&keys->idle)));
}

/* ---- turns ---------------------------------------------------------------------------------- */

bool hf_key_take(struct hf_key *key, const struct hf_op *op, const void *owner)
{
	if (key->owner && key->owner != op)
		return false;
	key->owner = owner;
	return true;
}

enum hf_step hf_key_queue(struct hf_key *key, struct hf_op *op)
{
	key->waiting++;
	return hf_op_park(op, &key->turn, HF_NEVER);
}

void hf_key_leave(struct hf_key *key, const struct hf_op *op)
{
	if (key->owner == op)
		hf_key_pass(key, op);
	else
		key->waiting--;
}

void hf_key_pass(struct hf_key *key, const void *owner)
{
	if (key->owner != owner)
		return;
	key->owner_session = NULL;
	key->owner = hf_wake_first(&key->turn);
	key->waiting -= key->owner != NULL;
}

/* ---- what has been seen --------------------------------------------------------------------- */

static bool same(const struct hf_kv *a, const struct hf_kv *b)
{
	return a->exists == b->exists && a->index == b->index && !strcmp(a->session, b->session);
}

static void recovered(struct hf_key *key)
{
	hf_free(key->failure);
	key->failure = NULL;
	key->refused = false;
}

bool hf_key_saw(struct hf_key *key, const struct hf_kv *kv, int64_t sent)
{
	bool was_known = key->known, changed = !was_known || !same(&key->seen, kv);
	bool back = was_known && key->seen.exists && kv->exists && kv->index < key->seen.index;
	bool failed = key->failure != NULL;

	recovered(key);
	/* An answer that was under way when we learned something newer. */
	if (was_known && sent < key->seen_at && (back || (changed && !kv->exists)))
		return true;
	key->known = true;
	if (changed)
		key->ours = false;
	key->seen = *kv;
	key->seen_at = hf_now();
	if (changed || failed)
		hf_wake_all(&key->changed);
	return !back;
}

void hf_key_unlocked(struct hf_key *key, uint64_t flags, uint64_t index)
{
	const struct hf_kv left = {.exists = true, .flags = flags, .index = index, .at = index};

	hf_key_saw(key, &left, INT64_MAX);
	key->ours = true;
}

void hf_key_deleted(struct hf_key *key)
{
	hf_key_saw(key, &(struct hf_kv){.at = key->seen.at}, INT64_MAX);
	key->ours = true;
}

void hf_key_failed(struct hf_key *key, const struct hf_error *why, bool final)
{
	key->refused = final;
	if (!key->failure)
		key->failure = hf_malloc(sizeof *key->failure);
	if (key->failure)
		*key->failure = *why;
	hf_wake_all(&key->changed);
}

void hf_key_hidden(struct hf_key *key)
{
	key->known = false;
	hf_wake_all(&key->changed);
}

bool hf_key_fresh(const struct hf_key *key, uint64_t flags)
{
	int64_t now = hf_now();

	if (key->seen.exists && key->seen.flags != flags)
		return false;
	return key->known && key->ours && now < key->seen_at + HF_FRESH &&
	       (!key->contended || now > key->contended + CONTENDED);
}

bool hf_key_taken(struct hf_key *key, const char *session)
{
	if (!key->seen.session[0] || !strcmp(key->seen.session, session))
		return false;
	key->contended = hf_now();
	return true;
}

int64_t hf_key_undelayed(void)
{
	return hf_now() + hf_jitter(DELAY_MIN, DELAY_MAX);
}
