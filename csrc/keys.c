/* keys.c: what a client knows of keys. One lock object or acquiring op at a time has a key; the
 * others of the same client wait here and not on the server. Worker thread only. */
#include "alloc.h"
#include "hf_int.h"

#include <search.h>
#include <string.h>

/* So many keys are remembered when nobody uses them. Forgetting one costs a read the next time. */
#define REMEMBERED 16384

static int compare(const void *a, const void *b)
{
	const struct hf_key *left = a, *right = b;

	return strcmp(left->name, right->name);
}

static void destroy(void *node)
{
	struct hf_key *key = node;

	hf_free(key->name);
	hf_free(key);
}

struct hf_key *hf_key_get(struct hf_client *client, const char *name)
{
	struct hf_key probe = {.name = (char *)(uintptr_t)name}, *key;
	struct hf_key **found = tfind(&probe, &client->keys, compare);

	if (found) {
		(*found)->refs++;
		return *found;
	}
	key = hf_calloc(1, sizeof *key);
	if (!key)
		return NULL;
	key->name = hf_strdup(name);
	key->client = client;
	key->refs = 1;
	if (!key->name || !tsearch(key, &client->keys, compare)) {
		destroy(key);
		return NULL;
	}
	client->key_count++;
	return key;
}

void hf_key_put(struct hf_key *key, bool mine)
{
	struct hf_client *client;

	if (!key)
		return;
	client = key->client;
	if (mine)
		key->busy = false;
	/* Also when it was not the caller's: it may have been woken, and gives way. */
	if (!key->busy)
		hf_wake_first(client, key);
	if (--key->refs == 0 && client->key_count > REMEMBERED) {
		tdelete(key, &client->keys, compare);
		client->key_count--;
		destroy(key);
	}
}

void hf_keys_free(struct hf_client *client)
{
	tdestroy(client->keys, destroy);
	client->keys = NULL;
	client->key_count = 0;
}
