#include "lock/tree.h"

#include "base/alloc.h"
#include "base/random.h"
#include "lock/watch.h"

#include <search.h>
#include <string.h>

/* Long polls on prefixes at once; they share the lane with those on keys. */
#define POLLED_MAX 8
/* The others are read again and again, ms; more seldom when nobody waits. */
#define READ_MIN 500
#define READ_MAX 1000
#define HOLDERS_READ 5
/* What is held for less needs no long poll, ms. */
#define BRIEF 200

/* ---- entries -------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
	const struct hf_tree *left = a, *right = b;

	return strcmp(left->prefix, right->prefix);
}

static void destroy(void *node)
{
	struct hf_tree *tree = node;

	hf_semaphore_free(&tree->seen);
	hf_free(tree);
}

static struct hf_tree *make(struct hf_client *client, const char *prefix)
{
	size_t len = strlen(prefix);
	struct hf_tree *tree = hf_calloc(1,
					 sizeof *tree + 2 * (len + 1) + strlen(HF_SEMAPHORE_LOCK));

	if (!tree)
		return NULL;
	tree->client = client;
	tree->prefix = (char *)(tree + 1);
	memcpy(tree->prefix, prefix, len + 1);
	tree->lock = tree->prefix + len + 1;
	memcpy(tree->lock, prefix, len);
	memcpy(tree->lock + len, HF_SEMAPHORE_LOCK, sizeof HF_SEMAPHORE_LOCK);
	hf_link_init(&tree->turn);
	hf_link_init(&tree->changed);
	return tree;
}

struct hf_tree *hf_tree_get(struct hf_client *client, const char *prefix)
{
	struct hf_tree probe = {.prefix = (char *)(uintptr_t)prefix}, *tree;
	struct hf_tree **found = tfind(&probe, &client->trees, compare);

	if (found) {
		(*found)->refs++;
		return *found;
	}
	tree = make(client, prefix);
	if (!tree)
		return NULL;
	tree->refs = 1;
	if (tsearch(tree, &client->trees, compare))
		return tree;
	destroy(tree);
	return NULL;
}

void hf_tree_put(struct hf_tree *tree)
{
	if (!tree || --tree->refs)
		return;
	tdelete(tree, &tree->client->trees, compare);
	destroy(tree);
}

void hf_trees_free(struct hf_client *client)
{
	tdestroy(client->trees, destroy);
	client->trees = NULL;
	client->trees_polled = 0;
}

/* ---- turns ---------------------------------------------------------------------------------- */

bool hf_tree_take(struct hf_tree *tree, const struct hf_op *op)
{
	if (tree->owner && tree->owner != op)
		return false;
	tree->owner = op;
	return true;
}

enum hf_step hf_tree_queue(struct hf_tree *tree, struct hf_op *op)
{
	return hf_op_park(op, &tree->turn, HF_NEVER);
}

void hf_tree_pass(struct hf_tree *tree, const struct hf_op *op)
{
	if (tree->owner == op)
		tree->owner = hf_wake_first(&tree->turn);
}

/* ---- what has been seen --------------------------------------------------------------------- */

static bool same(const struct hf_semaphore *a, const struct hf_semaphore *b)
{
	return a->exists == b->exists && a->index == b->index &&
	       hf_semaphore_taken(a, "") == hf_semaphore_taken(b, "");
}

bool hf_tree_saw(struct hf_tree *tree, struct hf_semaphore *seen, int64_t sent)
{
	/* An answer that was under way when we learned something newer; an absent one has no index.
	 */
	bool old = tree->known && sent < tree->seen_at && seen->index < tree->seen.index;
	bool changed = !old && (!tree->known || !same(&tree->seen, seen));

	if (!old) {
		hf_semaphore_free(&tree->seen);
		tree->seen = *seen;
		tree->known = true;
		tree->seen_at = hf_now();
		*seen = (struct hf_semaphore){0};
	}
	hf_semaphore_free(seen);
	if (changed)
		hf_wake_all(&tree->changed);
	return changed;
}

/* ---- the poll ------------------------------------------------------------------------------- */

/* Ends when it comes back and nobody watches: a server goes on with one that was given up, and who
 * takes slots one after another would leave many behind. */
struct poll {
	struct hf_op op;
	struct hf_tree *tree; /* counted */
	uint64_t at; /* what the request in flight waits to be passed; 0: it does not */
	int64_t begin; /* not to be sent before */
	unsigned quick; /* in a row that came back soon, and told nothing */
	bool polls; /* has one of the long polls; else it reads */
};

static bool may_poll(struct poll *p)
{
	struct hf_client *client = p->tree->client;

	if (p->polls || client->trees_polled >= POLLED_MAX ||
	    client->keys.polled_count >= HF_KEYS_POLLED)
		return p->polls;
	client->trees_polled++;
	client->keys.polled_count++;
	p->polls = true;
	return true;
}

static enum hf_step poll_end(struct poll *p)
{
	struct hf_tree *tree = p->tree;

	if (p->polls) {
		tree->client->trees_polled--;
		tree->client->keys.polled_count--;
	}
	tree->poll = NULL;
	hf_tree_put(tree);
	return HF_FINISH;
}

static enum hf_step poll_next(struct hf_op *op)
{
	struct poll *p = (struct poll *)op;

	if (!p->tree->waiters && !p->tree->holders)
		return poll_end(p);
	if (p->begin > hf_now())
		return hf_op_sleep(op, p->begin);
	return hf_op_send(op, may_poll(p) ? HF_POLL : HF_COMMAND);
}

static bool poll_request(struct hf_op *op, struct hf_http *http)
{
	struct poll *p = (struct poll *)op;

	if (!p->polls || !p->tree->known || op->retry_delay)
		p->at = 0; /* after trouble it looks before it waits */
	hf_semaphore_get(http, &hf_client_of(op)->consul, p->tree->prefix, p->at, false);
	return true;
}

static enum hf_step poll_reply(struct hf_op *op, const struct hf_http *http)
{
	struct poll *p = (struct poll *)op;
	struct hf_semaphore seen;
	struct hf_error err;
	int64_t pace = p->tree->waiters ? 1 : HOLDERS_READ;
	uint64_t at;
	bool told;

	if (hf_semaphore_read(http, &hf_client_of(op)->consul, p->tree->prefix, &seen, &err) !=
	    HF_V_OK)
		return hf_op_backoff(op, HF_NEVER);
	hf_op_recovered(op);
	at = seen.at;
	told = hf_tree_saw(p->tree, &seen, http->sent);
	p->at = at < p->at ? 0 : at;
	if (!p->polls)
		return hf_op_sleep(op, hf_now() + hf_jitter(READ_MIN * pace, READ_MAX * pace));
	return hf_op_sleep(op, hf_watch_next(&p->quick, http, told));
}

static enum hf_step poll_cancel(struct hf_op *op, enum hf_err why)
{
	struct hf_error err;

	hf_op_why(op, why, &err);
	hf_op_finish(op, &err);
	return poll_end((struct poll *)op);
}

static const struct hf_kind poll_kind = {"tree",     poll_next,	  poll_request,
					 poll_reply, poll_cancel, NULL};

static bool need_poll(struct hf_tree *tree, int64_t begin)
{
	struct poll *p = (struct poll *)tree->poll;

	if (p) {
		if (begin < p->begin) {
			p->begin = begin;
			hf_wake(&p->op);
		}
		return true;
	}
	p = hf_op_new(&tree->client->engine, &poll_kind, sizeof *p);
	if (!p)
		return false;
	p->tree = tree;
	tree->refs++;
	p->begin = begin;
	tree->poll = &p->op;
	hf_engine_add(&tree->client->engine, &p->op);
	return true;
}

bool hf_tree_watch(struct hf_tree *tree, bool waits)
{
	if (!need_poll(tree, hf_now() + (waits ? 0 : BRIEF)))
		return false;
	if (!waits)
		tree->holders++;
	else if (!tree->waiters++)
		hf_wake(tree->poll);
	return true;
}

void hf_tree_unwatch(struct hf_tree *tree, bool waits)
{
	if (waits)
		tree->waiters--;
	else
		tree->holders--;
}

enum hf_step hf_tree_wait(struct hf_tree *tree, struct hf_op *op)
{
	return hf_op_park(op, &tree->changed, HF_NEVER);
}
