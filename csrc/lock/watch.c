#include "lock/watch.h"

#include "base/hash.h"
#include "base/random.h"
#include "consul/txn.h"
#include "lock/session.h"

/* Polls that come back sooner than this and tell nothing are quick; after a few in a row the next
 * one waits, ms. */
#define QUICK 100
#define QUICK_MAX 3
#define SPACING_MIN 200
#define SPACING_MAX 1000
/* Everything in rotation is read once in so many ms: a released key is taken within a second. */
#define ROUND_MIN 250
#define ROUND_MAX 700
#define ROUND_PER_KEY 0.1

int64_t hf_watch_next(unsigned *quick, const struct hf_http *http, bool told)
{
	int64_t now = hf_now();

	*quick = !told && http->elapsed < QUICK ? *quick + 1 : 0;
	return *quick <= QUICK_MAX ? now : now + hf_jitter(SPACING_MIN, SPACING_MAX);
}

/* ---- one key by a long poll ----------------------------------------------------------------- */

struct poll {
	struct hf_op op;
	struct hf_key *key; /* counted */
	uint64_t at; /* what the request in flight waits to be passed */
	bool anew; /* the last index was lower than the one before: look before waiting */
	bool resting; /* nobody waits at the moment: who was woken is likely to have what it wants
		       */
};

static void rotate(struct hf_key *key);
static void promote(struct hf_client *client);

static enum hf_step poll_next(struct hf_op *op)
{
	struct poll *poll = (struct poll *)op;

	poll->resting = hf_link_alone(&poll->key->changed);
	if (poll->resting)
		return hf_op_sleep(op, HF_NEVER);
	return hf_op_send(op, HF_POLL);
}

static bool poll_request(struct hf_op *op, struct hf_http *http)
{
	struct poll *poll = (struct poll *)op;
	struct hf_key *key = poll->key;
	/* After trouble it looks before it waits. */
	bool look = poll->anew || !key->known || key->failure || op->retry_delay;
	uint64_t index = look ? 0 : key->seen.at;

	poll->at = index;
	hf_kv_get(http, &hf_client_of(op)->consul, key->name, index, false);
	return true;
}

static enum hf_step poll_reply(struct hf_op *op, const struct hf_http *http)
{
	struct poll *poll = (struct poll *)op;
	struct hf_key *key = poll->key;
	struct hf_client *client = hf_client_of(op);
	struct hf_error err;
	struct hf_kv kv;
	uint64_t before = key->seen.index;
	enum hf_verdict verdict = hf_kv_read(http, &client->consul, &kv, &err);

	if (verdict != HF_V_OK) {
		hf_key_failed(key, &err, verdict == HF_V_FINAL);
		return hf_op_backoff(op, HF_NEVER);
	}
	hf_op_recovered(op);
	poll->anew = kv.at < poll->at;
	if ((!hf_key_saw(key, &kv, http->sent) || poll->anew) && client->shared)
		hf_session_retire(client->shared);
	return hf_op_sleep(op, hf_watch_next(&key->quick, http, kv.index != before));
}

static void poll_ends(struct poll *poll)
{
	struct hf_key *key = poll->key;

	if (!key)
		return;
	poll->key = NULL;
	key->poll = NULL;
	hf_link_remove(&key->place);
	key->client->keys.polled_count--;
	if (key->watchers)
		rotate(key);
	hf_key_put(key);
}

static enum hf_step poll_cancel(struct hf_op *op, enum hf_err why)
{
	struct hf_error err;

	hf_op_why(op, why, &err);
	hf_op_finish(op, &err);
	poll_ends((struct poll *)op);
	return HF_FINISH;
}

static const struct hf_kind poll_kind = {"poll",     poll_next,	  poll_request,
					 poll_reply, poll_cancel, NULL};

/* Moves a key that is on no list to those that are polled. */
static bool start_poll(struct hf_key *key)
{
	struct hf_keys *keys = &key->client->keys;
	struct poll *poll = hf_op_new(&key->client->engine, &poll_kind, sizeof *poll);

	if (!poll)
		return false;
	hf_key_ref(key);
	poll->key = key;
	poll->op.internal = true;
	key->poll = &poll->op;
	key->quick = 0;
	hf_link_append(&keys->polled, &key->place);
	keys->polled_count++;
	hf_engine_add(&key->client->engine, &poll->op);
	return true;
}

/* ---- the others in rotation ----------------------------------------------------------------- */

struct reader {
	struct hf_op op;
	struct hf_key *batch[HF_TXN_MAX]; /* counted: what the request in flight reads */
	size_t count;
	size_t most; /* how many the next one may read: fewer after a reply that was too long */
	const struct hf_key *first; /* of this round; NULL: the next one that is read. Requests do
				       not reach beyond it, or no two would ask the same */
};

static int64_t pace(const struct hf_keys *keys)
{
	int64_t round = ROUND_MIN + (int64_t)((double)keys->rotation_count * ROUND_PER_KEY);
	size_t batches = keys->rotation_count / HF_TXN_MAX + 1;

	return (round < ROUND_MAX ? round : ROUND_MAX) / (int64_t)batches;
}

static enum hf_step reader_next(struct hf_op *op)
{
	struct hf_client *client = hf_client_of(op);

	promote(client);
	if (client->keys.rotation_count)
		return hf_op_send(op, HF_COMMAND);
	client->keys.reader = NULL;
	return HF_FINISH;
}

static bool reader_request(struct hf_op *op, struct hf_http *http)
{
	struct reader *r = (struct reader *)op;
	struct hf_keys *keys = &hf_client_of(op)->keys;
	struct hf_link *link = hf_link_first(&keys->rotation);

	hf_txn_begin(http, &hf_client_of(op)->consul, false);
	for (r->count = 0; link && r->count < r->most && hf_txn_room(http, r->count); r->count++) {
		struct hf_key *key = HF_OF(struct hf_key, place, link);

		if (r->count && key == r->first)
			break;
		link = hf_link_after(&keys->rotation, link);
		hf_txn_add(http, &(struct hf_txn_op){.verb = HF_GET, .key = key->name});
		hf_key_ref(key);
		r->batch[r->count] = key;
	}
	hf_txn_end(http);
	if (!r->first && r->count)
		r->first = r->batch[0];
	return r->count > 0;
}

/* To the end of the rotation, if it is in there still. */
static void turn_round(struct hf_key *key)
{
	if (!key->watchers || key->poll)
		return;
	hf_link_remove(&key->place);
	hf_link_append(&key->client->keys.rotation, &key->place);
}

static void tell(struct hf_key *key, const struct hf_kv *kv, int64_t sent)
{
	struct hf_kv seen = *kv;

	seen.at = kv->index; /* a transaction says no more */
	turn_round(key);
	if (key->watchers && !hf_key_saw(key, &seen, sent) && key->client->shared)
		hf_session_retire(key->client->shared);
}

/* A transaction that was refused tells only of the keys that it was refused for; one that was not
 * leaves out what an ACL hides, and who waits for that is told so when he looks for himself. */
static void tell_part(struct hf_key *key, struct hf_txn_reply *reply, size_t index, int64_t sent)
{
	struct hf_error err;
	struct hf_kv kv;
	enum hf_verdict verdict = hf_txn_read_part(reply, key->name, index, 1, &kv, &err);

	if (verdict == HF_V_ABSENT || kv.exists) {
		tell(key, &kv, sent);
	} else if (verdict != HF_V_OK) {
		turn_round(key);
		hf_key_failed(key, &err, true);
	} else if (!reply->refused) {
		turn_round(key);
		hf_key_hidden(key);
	}
}

/* What a look at these keys has told, as a number: request and reply. */
static uint64_t print_of(const struct hf_http *http)
{
	return hf_hash(hf_hash(0, http->body.data, http->body.len), http->reply.data,
		       http->reply.len);
}

/* Whether it has told the same the last time: nearly always, and reading it costs more than all
 * else that waiters do. */
static bool nothing_new(const struct reader *r, const struct hf_http *http, uint64_t print)
{
	bool same = !http->error && http->status == 200 && r->batch[0]->looked == print;

	for (size_t i = 0; i < r->count && same; i++)
		same = !r->batch[i]->failure;
	return same;
}

static void put_batch(struct reader *r)
{
	while (r->count)
		hf_key_put(r->batch[--r->count]);
}

static enum hf_step read_on(struct reader *r)
{
	put_batch(r);
	r->most = HF_TXN_MAX;
	hf_op_recovered(&r->op);
	return hf_op_sleep(&r->op, hf_now() + pace(&hf_client_of(&r->op)->keys));
}

static enum hf_step reader_reply(struct hf_op *op, const struct hf_http *http)
{
	struct reader *r = (struct reader *)op;
	struct hf_client *client = hf_client_of(op);
	uint64_t print = print_of(http);
	struct hf_txn_reply reply;
	struct hf_error err;

	if (nothing_new(r, http, print)) {
		for (size_t i = 0; i < r->count; i++)
			turn_round(r->batch[i]);
		return read_on(r);
	}
	if (hf_txn_open(&reply, http, &client->consul, r->count, &err) == HF_V_OK) {
		r->batch[0]->looked = reply.refused ? 0 : print;
		for (size_t i = 0; i < r->count; i++)
			tell_part(r->batch[i], &reply, i, http->sent);
		hf_txn_close(&reply);
		return read_on(r);
	}
	hf_txn_close(&reply);
	put_batch(r);
	r->most = r->most > 1 ? r->most / 2 : 1;
	return hf_op_backoff(op, HF_NEVER);
}

static enum hf_step reader_cancel(struct hf_op *op, enum hf_err why)
{
	(void)why;
	put_batch((struct reader *)op);
	hf_client_of(op)->keys.reader = NULL;
	return HF_FINISH;
}

static const struct hf_kind reader_kind = {"reader",	 reader_next,	reader_request,
					   reader_reply, reader_cancel, NULL};

static bool need_reader(struct hf_client *client)
{
	struct reader *r;

	if (client->keys.reader)
		return true;
	r = hf_op_new(&client->engine, &reader_kind, sizeof *r);
	if (!r)
		return false;
	r->op.internal = true;
	r->most = HF_TXN_MAX;
	client->keys.reader = &r->op;
	hf_engine_add(&client->engine, &r->op);
	return true;
}

static void rotate(struct hf_key *key)
{
	hf_link_append(&key->client->keys.rotation, &key->place);
	key->client->keys.rotation_count++;
}

static void leave_rotation(struct hf_key *key)
{
	struct reader *r = (struct reader *)key->client->keys.reader;

	if (r && r->first == key)
		r->first = NULL;
	hf_link_remove(&key->place);
	key->client->keys.rotation_count--;
}

/* ---- who is polled -------------------------------------------------------------------------- */

static struct hf_key *least_wanted(const struct hf_keys *keys)
{
	struct hf_key *least = NULL;

	for (struct hf_link *link = hf_link_first(&keys->polled); link;
	     link = hf_link_after(&keys->polled, link)) {
		struct hf_key *key = HF_OF(struct hf_key, place, link);

		if (!least || key->waiting < least->waiting)
			least = key;
	}
	return least;
}

/* The most wanted of those that the next request would read. */
static struct hf_key *most_wanted(const struct hf_keys *keys)
{
	struct hf_key *most = NULL;
	struct hf_link *link = hf_link_first(&keys->rotation);

	for (size_t i = 0; link && i < HF_TXN_MAX; i++) {
		struct hf_key *key = HF_OF(struct hf_key, place, link);

		link = hf_link_after(&keys->rotation, link);
		if (!most || key->waiting > most->waiting)
			most = key;
	}
	return most;
}

/* Gives the polls to the keys that most wait for: one at a time, at the pace of the rotation. */
static void promote(struct hf_client *client)
{
	struct hf_keys *keys = &client->keys;
	struct hf_key *most = most_wanted(keys), *least;

	if (!most)
		return;
	if (keys->polled_count >= HF_KEYS_POLLED) {
		least = least_wanted(keys);
		if (least->waiting >= most->waiting)
			return;
		hf_engine_stop(least->poll, HF_CANCELED);
	}
	leave_rotation(most);
	if (!start_poll(most))
		rotate(most);
}

bool hf_watch_begin(struct hf_key *key)
{
	if (key->watchers++)
		return true;
	if (key->client->keys.polled_count < HF_KEYS_POLLED && start_poll(key))
		return true;
	rotate(key);
	if (need_reader(key->client))
		return true;
	key->watchers--;
	leave_rotation(key);
	return false;
}

enum hf_step hf_watch_wait(struct hf_key *key, struct hf_op *op)
{
	enum hf_step step = hf_op_park(op, &key->changed, HF_NEVER);

	if (key->poll && ((struct poll *)key->poll)->resting)
		hf_wake(key->poll);
	return step;
}

void hf_watch_end(struct hf_key *key)
{
	struct hf_keys *keys = &key->client->keys;

	if (--key->watchers)
		return;
	if (key->poll) {
		hf_engine_stop(key->poll, HF_CANCELED);
		return;
	}
	leave_rotation(key);
	if (!keys->rotation_count && keys->reader)
		hf_engine_stop(keys->reader, HF_CANCELED);
}

void hf_watch_restart(struct hf_client *client)
{
	struct hf_keys *keys = &client->keys;

	for (struct hf_link *link = hf_link_first(&keys->polled); link;
	     link = hf_link_after(&keys->polled, link))
		hf_engine_again(HF_OF(struct hf_key, place, link)->poll);
}
