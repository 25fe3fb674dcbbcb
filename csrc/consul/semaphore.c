#include "consul/semaphore.h"

#include "base/alloc.h"
#include "base/json.h"
#include "consul/txn.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- holders -------------------------------------------------------------------------------- */

void hf_semaphore_free(struct hf_semaphore *sem)
{
	hf_free(sem->holders);
	*sem = (struct hf_semaphore){0};
}

static int compare(const void *a, const void *b)
{
	return strcmp(((const struct hf_holder *)a)->id, ((const struct hf_holder *)b)->id);
}

static struct hf_holder *find(const struct hf_semaphore *sem, const char *id)
{
	struct hf_holder probe = {.alive = false};
	size_t len = strlen(id);

	if (!sem->count || len >= sizeof probe.id)
		return NULL;
	memcpy(probe.id, id, len);
	return bsearch(&probe, sem->holders, sem->count, sizeof probe, compare);
}

const struct hf_holder *hf_semaphore_find(const struct hf_semaphore *sem, const char *id)
{
	return find(sem, id);
}

uint64_t hf_semaphore_taken(const struct hf_semaphore *sem, const char *but)
{
	uint64_t taken = 0;

	for (size_t i = 0; i < sem->count; i++)
		taken += sem->holders[i].alive && strcmp(sem->holders[i].id, but) != 0;
	return taken;
}

static void add(struct hf_semaphore *sem, const char *id, bool alive)
{
	struct hf_holder *holder = &sem->holders[sem->count++];

	memcpy(holder->id, id, strlen(id) + 1);
	holder->alive = alive;
}

bool hf_semaphore_change(struct hf_semaphore *next, const struct hf_semaphore *sem, uint64_t limit,
			 const char *without, const char *with)
{
	*next = (struct hf_semaphore){.exists = true, .limit = limit, .newline = sem->newline};
	next->holders = hf_calloc(sem->count + 1, sizeof *next->holders);
	if (!next->holders)
		return false;
	for (size_t i = 0; i < sem->count; i++) {
		const struct hf_holder *holder = &sem->holders[i];
		bool out = (without && !strcmp(holder->id, without)) ||
			   (with && !strcmp(holder->id, with));

		if (holder->alive && !out)
			add(next, holder->id, true);
	}
	if (with)
		add(next, with, true);
	qsort(next->holders, next->count, sizeof *next->holders, compare);
	return true;
}

void hf_semaphore_write(struct hf_buf *out, const struct hf_semaphore *sem)
{
	hf_buf_printf(out, "{\"Limit\":%" PRIu64 ",\"Holders\":{", sem->limit);
	for (size_t i = 0; i < sem->count; i++) {
		hf_buf_puts(out, i ? "," : "");
		hf_buf_json(out, sem->holders[i].id);
		hf_buf_puts(out, ":true");
	}
	hf_buf_puts(out, sem->newline ? "}}\n" : "}}");
}

/* ---- reads ---------------------------------------------------------------------------------- */

void hf_semaphore_get(struct hf_http *http, const struct hf_consul *consul, const char *prefix,
		      uint64_t index, bool consistent)
{
	hf_kv_get(http, consul, prefix, index, consistent);
	hf_call_query(http, "recurse", "");
}

/* What Go's client makes of the text: whoever is named is a holder, whatever is said of him. Who is
 * named by what is no session's id cannot be alive. False when it is not understood, which may be
 * for want of memory. */
static bool read_text(struct hf_semaphore *sem, const char *text, size_t len)
{
	struct cJSON *json = hf_json_parse(text, len);
	const struct cJSON *first = hf_json_members(hf_json_field(json, "Holders")), *member;
	bool ok = hf_json_u64(hf_json_field(json, "Limit"), &sem->limit);
	size_t named = 0;

	sem->newline = len && text[len - 1] == '\n';
	for (member = first; member; member = hf_json_next(member))
		named++;
	sem->holders = hf_calloc(named + 1, sizeof *sem->holders);
	for (member = first; sem->holders && member; member = hf_json_next(member)) {
		const char *id = hf_json_name(member);

		if (id && strlen(id) < sizeof sem->holders->id)
			add(sem, id, false);
	}
	if (sem->count)
		qsort(sem->holders, sem->count, sizeof *sem->holders, compare);
	hf_json_free(json);
	return ok && sem->holders;
}

static bool read_lock(struct hf_semaphore *sem, const struct cJSON *item, const struct hf_kv *kv)
{
	const char *value = hf_json_text(hf_json_field(item, "Value"));
	size_t len = value ? strlen(value) : 0;
	unsigned char *text;
	bool ok;

	sem->exists = true;
	sem->index = kv->index;
	sem->foreign = kv->flags != HF_SEMAPHORE_FLAGS;
	if (sem->foreign)
		return true;
	text = hf_malloc(len / 4 * 3 + 3);
	ok = text && hf_base64_decode(value ? value : "", len, text, &len) &&
	     read_text(sem, (const char *)text, len);
	hf_free(text);
	return ok;
}

static bool is_lock(const struct cJSON *item, const char *prefix)
{
	const char *key = hf_json_text(hf_json_field(item, "Key"));
	size_t len = strlen(prefix);

	return key && !strncmp(key, prefix, len) && !strcmp(key + len, HF_SEMAPHORE_LOCK);
}

/* Others' keys may come before .lock, and count too: Go's client asks whose session has any. */
static bool read_keys(const struct cJSON *json, const char *prefix, struct hf_semaphore *sem)
{
	const struct cJSON *first = hf_json_members(json), *item;
	struct hf_holder *holder;
	struct hf_kv kv;

	for (item = first; item; item = hf_json_next(item))
		if (is_lock(item, prefix) && hf_kv_parse(item, &kv) && !read_lock(sem, item, &kv))
			return false;
	for (item = first; item; item = hf_json_next(item)) {
		if (!hf_kv_parse(item, &kv))
			return false;
		holder = kv.session[0] ? find(sem, kv.session) : NULL;
		if (holder)
			holder->alive = true;
	}
	return hf_json_is_array(json);
}

enum hf_verdict hf_semaphore_read(const struct hf_http *http, const struct hf_consul *consul,
				  const char *prefix, struct hf_semaphore *sem,
				  struct hf_error *err)
{
	enum hf_verdict verdict = hf_call_common(http, consul, err);
	uint64_t at = hf_call_index(http);
	struct cJSON *json;

	*sem = (struct hf_semaphore){.at = at};
	/* Only Consul's own 404 says that there is nothing; a proxy's has no index. */
	if (verdict == HF_V_ABSENT)
		return at ? HF_V_OK : HF_V_AGAIN;
	if (verdict != HF_V_OK)
		return verdict;
	json = hf_json_parse(http->reply.data, http->reply.len);
	if (!read_keys(json, prefix, sem)) {
		hf_semaphore_free(sem);
		verdict = hf_call_garbled(http, consul, err);
	}
	hf_json_free(json);
	return verdict;
}

/* A session that is gone is the reason for whatever else is said. */
enum hf_verdict hf_semaphore_written(const struct hf_http *http, const struct hf_consul *consul,
				     const char *lock, size_t count, uint64_t *index,
				     struct hf_error *err)
{
	struct hf_txn_reply reply;
	struct hf_error why;
	struct hf_kv kv;
	enum hf_verdict verdict = hf_txn_open(&reply, http, consul, count, err), one;
	bool opened = verdict == HF_V_OK;

	*index = 0;
	for (size_t i = 0; i < count && opened; i++) {
		one = hf_txn_read_part(&reply, lock, i, 1, &kv, &why);
		if (!i)
			*index = kv.index;
		if (one == HF_V_OK || (verdict != HF_V_OK && one != HF_V_NO_SESSION))
			continue;
		verdict = one;
		*err = why;
	}
	hf_txn_close(&reply);
	return verdict;
}
