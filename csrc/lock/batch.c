/* batch.c: a batch is an op that carries parts to the server and their answers back. Of each
 * direction one waits for its slot in the command lane while parts are queued; it takes what fits
 * when the slot is there, and the rest gets another one. Two at most are under way, which is what
 * the lane allows.
 *
 *   answer                         is for
 *   carried out                    all
 *   refused, with a list           those in it; the others go again, at once and before others.
 *                                  They go without new company, so that new refusals cannot keep
 *                                  them waiting
 *   looks: no result               goes again alone: an ACL hides it, and says so then
 *   too many operations            all go again, in smaller batches
 *   refused as a whole, or longer  all go again alone: who is to blame cannot be told otherwise
 *   than we read
 *   trouble                        all
 *
 * All of a batch or nothing is carried out, a copy of it included. So what copies can do is no more
 * than what the parts' own copies could do: each needs its own checks to hold (docs/consul.md). */
#include "lock/batch.h"

struct entry {
	struct hf_op *op; /* counted; NULL: it has its answer, or does not want one */
	struct hf_key *key; /* counted */
	unsigned char first, count; /* its operations */
};

struct hf_batch {
	struct hf_op op;
	struct hf_queue *queue;
	bool writes;
	bool consistent; /* looks: the leader is to be sure */
	size_t count, operations; /* 0 while it waits */
	struct entry entries[HF_TXN_MOST];
};

static enum hf_step batch_next(struct hf_op *op);
static bool batch_request(struct hf_op *op, struct hf_http *http);
static enum hf_step batch_reply(struct hf_op *op, const struct hf_http *http);
static enum hf_step batch_cancel(struct hf_op *op, enum hf_err why);
static void batch_free(struct hf_op *op);

static const struct hf_kind batch_kind = {"batch",     batch_next,   batch_request,
					  batch_reply, batch_cancel, batch_free};

/* ---- the queue ------------------------------------------------------------------------------ */

void hf_batches_init(struct hf_client *client)
{
	client->operations_max = HF_TXN_MOST;
	for (int i = 0; i < 2; i++) {
		hf_link_init(&client->queues[i].first);
		hf_link_init(&client->queues[i].rest);
	}
}

static const struct hf_part_kind *kind_of(const struct hf_op *op)
{
	return HF_OF(const struct hf_part_kind, op, op->kind);
}

static struct hf_part *part_of(struct hf_op *op)
{
	return (struct hf_part *)(void *)((char *)op + kind_of(op)->part);
}

static struct hf_link *place_of(struct hf_queue *queue, const struct hf_part *part)
{
	return part->how & HF_FIRST ? &queue->first : &queue->rest;
}

static struct hf_op *first_of(const struct hf_queue *queue)
{
	struct hf_link *link = hf_link_first(&queue->first);

	if (!link)
		link = hf_link_first(&queue->rest);
	return link ? HF_OF(struct hf_op, place, link) : NULL;
}

/* Without memory for one, what is under way sees to the queue when it comes back. */
static bool need_batch(struct hf_client *client, struct hf_queue *queue)
{
	struct hf_batch *b;

	if (queue->waiting)
		return true;
	b = hf_op_new(&client->engine, &batch_kind, sizeof *b);
	if (!b)
		return queue->flying > 0;
	b->op.internal = true;
	b->queue = queue;
	b->writes = queue == &client->queues[HF_WRITE];
	queue->waiting = &b->op;
	hf_engine_add(&client->engine, &b->op);
	return true;
}

enum hf_step hf_batch_join(struct hf_op *op, unsigned how)
{
	struct hf_client *client = hf_client_of(op);
	struct hf_queue *queue = &client->queues[how & HF_WRITE];
	struct hf_part *part = part_of(op);
	struct hf_answer none = {.verdict = HF_V_AGAIN, .unheard = true};

	*part = (struct hf_part){.how = (unsigned char)how, .alone = (how & HF_ALONE) != 0};
	if (need_batch(client, queue))
		return hf_op_park(op, place_of(queue, part), HF_NEVER);
	hf_err_set(&none.err, HF_NOMEM, "out of memory");
	return kind_of(op)->answer(op, &none);
}

/* ---- on the way ----------------------------------------------------------------------------- */

static void enter(struct hf_batch *b, struct hf_op *op, size_t operations)
{
	struct entry *e = &b->entries[b->count++];

	hf_link_remove(&op->place);
	hf_op_ref(op);
	*e = (struct entry){.op = op,
			    .key = kind_of(op)->key(op),
			    .first = (unsigned char)b->operations,
			    .count = (unsigned char)operations};
	hf_key_ref(e->key);
	e->key->batch = hf_client_of(op)->batches;
	b->operations += operations;
	b->op.fresh |= op->fresh;
	b->consistent |= (part_of(op)->how & HF_CONSISTENT) != 0;
	part_of(op)->batch = b;
}

/* Whether the part of op may go with those that are in the batch. Never two on one key: the checks
 * of one would see what the other does. */
static bool goes_with(const struct hf_batch *b, struct hf_op *op)
{
	const struct hf_part *part = part_of(op), *other;

	if (!b->count)
		return true;
	other = part_of(b->entries[0].op);
	return b->operations < hf_client_of(op)->operations_max && !part->alone && !other->alone &&
	       part->resent == other->resent &&
	       kind_of(op)->key(op)->batch != hf_client_of(op)->batches;
}

/* Takes what goes together, in order. The first one always goes. */
static void gather(struct hf_batch *b, struct hf_http *http)
{
	struct hf_client *client = hf_client_of(&b->op);
	struct hf_op *op;

	client->batches++;
	while ((op = first_of(b->queue)) && goes_with(b, op)) {
		size_t len = http->body.len, count = kind_of(op)->fill(op, http);

		if (!count) {
			hf_engine_ready(op);
			continue;
		}
		if (b->count &&
		    (b->operations + count > client->operations_max || !hf_txn_fits(http))) {
			hf_buf_cut(&http->body, len);
			break;
		}
		enter(b, op, count);
	}
}

size_t hf_batch_look(struct hf_http *http, const struct hf_key *key)
{
	hf_txn_add(http, &(struct hf_txn_op){.verb = HF_GET, .key = key->name});
	return 1;
}

/* One look is no transaction: it costs the server less so, and says more. */
static bool is_plain(const struct hf_batch *b)
{
	return !b->writes && b->count == 1;
}

static bool batch_request(struct hf_op *op, struct hf_http *http)
{
	struct hf_batch *b = (struct hf_batch *)op;
	const struct hf_consul *consul = &hf_client_of(op)->consul;

	op->fresh = b->consistent = false;
	hf_txn_begin(http, consul, false);
	gather(b, http);
	if (!b->count)
		return false;
	b->queue->waiting = NULL;
	b->queue->flying++;
	if (first_of(b->queue))
		need_batch(hf_client_of(op), b->queue);
	if (is_plain(b)) {
		hf_http_reset(http);
		hf_kv_get(http, consul, b->entries[0].key->name, 0, b->consistent);
		return true;
	}
	hf_call_query(http, "consistent", b->consistent ? "" : NULL);
	hf_txn_end(http);
	return true;
}

/* ---- back ----------------------------------------------------------------------------------- */

/* The queue is this one's again, unless there is another to see to it. */
static void land(struct hf_batch *b)
{
	b->queue->flying--;
	if (!b->queue->waiting)
		b->queue->waiting = &b->op;
}

static void empty(struct hf_batch *b)
{
	while (b->count) {
		struct entry *e = &b->entries[--b->count];

		hf_op_unref(e->op);
		hf_key_put(e->key);
	}
	b->operations = 0;
}

/* With nobody in it: waits for its slot once more if it is the one to do so. */
static enum hf_step batch_next(struct hf_op *op)
{
	struct hf_batch *b = (struct hf_batch *)op;

	empty(b);
	if (b->queue->waiting != op)
		return HF_FINISH;
	if (first_of(b->queue))
		return hf_op_send(op, HF_COMMAND);
	b->queue->waiting = NULL;
	return HF_FINISH;
}

/* Hands an answer to whom it is for, unless that has left. */
static void answer(struct entry *e, const struct hf_http *http, struct hf_answer *a)
{
	struct hf_op *op = e->op;
	struct hf_part *part;

	if (!op)
		return;
	part = part_of(op);
	a->sent = http->sent;
	a->copied = part->resent || http->sendings > 1;
	a->unheard = !part->resent && hf_call_unheard(http);
	e->op = NULL;
	part->batch = NULL;
	part->resent = false;
	op->broken = http->error != HF_OK;
	op->fresh = op->fresh && op->broken;
	hf_engine_follow(op, kind_of(op)->answer(op, a));
	hf_op_unref(op);
}

static void answer_all(struct hf_batch *b, const struct hf_http *http, struct hf_answer *a)
{
	for (size_t i = 0; i < b->count; i++)
		answer(&b->entries[i], http, a);
}

static void set_apart(struct entry *e)
{
	if (e->op)
		part_of(e->op)->alone = true;
}

/* A look says by its refusal that the key is absent. A write has a result of its key, unless it is
 * its deletion. */
static void read_entry(struct hf_batch *b, struct entry *e, struct hf_txn_reply *reply,
		       const struct hf_http *http)
{
	struct hf_answer a;
	bool missing;

	a.verdict = hf_txn_read_part(reply, e->key->name, e->first, e->count, &a.kv, &a.err);
	a.kv.at = a.kv.index; /* a transaction says no more */
	if (a.verdict == HF_V_OK && reply->refused)
		return;
	missing = a.verdict == HF_V_OK && !a.kv.exists;
	if (missing && b->writes && e->count > 1)
		a.verdict = hf_call_garbled(http, &hf_client_of(&b->op)->consul, &a.err);
	else if (missing && !b->writes)
		return set_apart(e);
	else if (a.verdict == HF_V_ABSENT && !b->writes)
		a.verdict = HF_V_OK;
	answer(e, http, &a);
}

/* What has no answer goes again. */
static void go_again(struct hf_batch *b)
{
	for (size_t i = b->count; i-- > 0;) {
		struct entry *e = &b->entries[i];
		struct hf_part *part;

		if (!e->op)
			continue;
		part = part_of(e->op);
		part->batch = NULL;
		part->resent = true;
		hf_link_prepend(place_of(b->queue, part), &e->op->place);
	}
}

/* The whole was refused, and who is to blame is not said. */
static void try_apart(struct hf_batch *b, const struct hf_http *http)
{
	size_t limit = hf_txn_limit(http);
	bool too_many = limit && limit < b->operations;

	if (too_many)
		hf_client_of(&b->op)->operations_max = limit;
	for (size_t i = 0; i < b->count && !too_many; i++)
		set_apart(&b->entries[i]);
	go_again(b);
}

static void read_plain(struct hf_batch *b, const struct hf_http *http)
{
	struct hf_answer a;

	a.verdict = hf_kv_read(http, &hf_client_of(&b->op)->consul, &a.kv, &a.err);
	answer(&b->entries[0], http, &a);
}

static void read_parts(struct hf_batch *b, const struct hf_http *http)
{
	struct hf_txn_reply reply;
	struct hf_answer a;

	a.verdict = hf_txn_open(&reply, http, &hf_client_of(&b->op)->consul, b->operations, &a.err);
	if (a.verdict == HF_V_OK) {
		for (size_t i = 0; i < b->count; i++)
			read_entry(b, &b->entries[i], &reply, http);
		go_again(b);
	} else if (b->count == 1 || (a.verdict == HF_V_AGAIN && !http->truncated)) {
		answer_all(b, http, &a);
	} else {
		try_apart(b, http);
	}
	hf_txn_close(&reply);
}

/* There was no memory for a request: what would have gone with it hears so. */
static void no_request(struct hf_batch *b, const struct hf_http *http)
{
	struct hf_answer a = {.verdict = HF_V_AGAIN};
	struct hf_op *op;

	hf_err_set(&a.err, http->error, "%s", http->message);
	while (b->count < HF_TXN_MOST && (op = first_of(b->queue)))
		enter(b, op, 0);
	answer_all(b, http, &a);
}

static enum hf_step batch_reply(struct hf_op *op, const struct hf_http *http)
{
	struct hf_batch *b = (struct hf_batch *)op;

	if (!b->count) {
		no_request(b, http);
		return batch_next(op);
	}
	land(b);
	if (is_plain(b))
		read_plain(b, http);
	else
		read_parts(b, http);
	return batch_next(op);
}

/* ---- who does not wait for the answer ------------------------------------------------------- */

void hf_batch_leave(struct hf_op *op)
{
	struct hf_part *part = part_of(op);
	struct hf_batch *b = part->batch;
	bool others = false;

	if (!b)
		return;
	part->batch = NULL;
	for (size_t i = 0; i < b->count; i++) {
		struct entry *e = &b->entries[i];

		if (e->op == op) {
			e->op = NULL;
			hf_op_unref(op);
		}
		others |= e->op != NULL;
	}
	if (!others && b->op.state == HF_FLYING)
		hf_engine_stop(&b->op, HF_CANCELED);
}

/* Nobody wants its answer any more. */
static enum hf_step batch_cancel(struct hf_op *op, enum hf_err why)
{
	(void)why;
	land((struct hf_batch *)op);
	return batch_next(op);
}

static void batch_free(struct hf_op *op)
{
	empty((struct hf_batch *)op);
}
