/* fake.h: a small Consul in a thread of the test: sessions, keys that sessions lock, transactions,
 * long polls, and rules that make it answer something else, or never. It is as strict as Consul and
 * has its words (1.8.7), but knows no lock-delay and ends no session by itself. It uses no memory
 * of the core's. One per program; include it once. */
#ifndef FAKE_H
#define FAKE_H

#include "check.h"

#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>

#define FAKE_LIMIT 60 /* seconds to wait for anything */
#define FAKE_CONNECTIONS 64
#define FAKE_LOG 4096
#define FAKE_SESSIONS 65536
#define FAKE_TXN_MAX 64
#define FAKE_FLAGS "3304740253564472344"

struct fake_key {
	char name[64], holder[64];
	char flags[24], value[400]; /* "": a lock's; in base64 */
	unsigned changed; /* index of the last change */
	bool exists;
};

struct fake_session {
	bool alive, deletes; /* its keys go with it */
	int ttl, lock_delay; /* ms */
};

struct fake_rule {
	const char *pattern, *answer;
	int times; /* < 0: always */
};

struct fake_connection {
	int fd;
	size_t len;
	bool ruled, noted; /* never to be answered; in the log */
	char text[16384];
};

static struct {
	pthread_t thread;
	bool running;
	int listener, wake;
	char base[64];
	struct fake_connection connections[FAKE_CONNECTIONS]; /* its thread's */

	pthread_mutex_t mutex;
	pthread_cond_t changed;
	bool stop;
	struct fake_rule rules[16];
	size_t rule_count;
	struct fake_key keys[256];
	unsigned index, made, open, most_open;
	struct fake_session sessions[FAKE_SESSIONS];
	char log[FAKE_LOG][400], last[400];
	size_t log_count;
} fake;

/* ---- what it knows: all with the mutex held ---- */

static inline struct fake_key *fake_key(const char *name, size_t len)
{
	struct fake_key *key = fake.keys;

	while (key->name[0] && (strncmp(key->name, name, len) || key->name[len]))
		key++;
	if (key == fake.keys + CHECK_COUNT(fake.keys) - 1)
		abort();
	if (!key->name[0])
		snprintf(key->name, sizeof key->name, "%.*s", (int)len, name);
	return key;
}

static inline void fake_change(struct fake_key *key, const char *holder, bool exists)
{
	snprintf(key->holder, sizeof key->holder, "%s", holder);
	key->exists = exists;
	key->changed = ++fake.index;
}

/* The number of the session whose id is at text; 0: none that lives. */
static inline unsigned fake_session(const char *text)
{
	unsigned number = 0;

	sscanf(text, "5e551014-0000-0000-0000-%12u", &number);
	return number < FAKE_SESSIONS && fake.sessions[number].alive ? number : 0;
}

static inline void fake_end_session(const char *id)
{
	struct fake_session *session = &fake.sessions[fake_session(id)];

	session->alive = false;
	for (struct fake_key *key = fake.keys; key->name[0]; key++)
		if (key->holder[0] && !strncmp(key->holder, id, strlen(key->holder)))
			fake_change(key, "", !session->deletes);
	fake.index++;
}

/* ---- answers: each fills body and answers the status; 0: not yet ---- */

struct fake_answer {
	char body[16384];
	size_t len;
	unsigned index;
};

static inline void fake_print(struct fake_answer *a, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static inline void fake_print(struct fake_answer *a, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	a->len += (size_t)vsnprintf(a->body + a->len, sizeof a->body - a->len, format, args);
	va_end(args);
	if (a->len >= sizeof a->body)
		abort();
}

static inline unsigned fake_index_of(const char *path)
{
	const char *index = strstr(path, "index=");

	return index ? (unsigned)atoi(index + 6) : 0;
}

/* The number after name in text, 0 when there is none. */
static inline unsigned fake_number(const char *text, const char *name)
{
	const char *found = strstr(text, name);

	return found ? (unsigned)strtoul(found + strlen(name), NULL, 10) : 0;
}

static inline void fake_create(const char *body)
{
	if (++fake.made >= FAKE_SESSIONS)
		abort();
	fake.index++;
	fake.sessions[fake.made] = (struct fake_session){
		.alive = true,
		.deletes = strstr(body, "\"Behavior\":\"delete\"") != NULL,
		.ttl = (int)fake_number(body, "\"TTL\":\""),
		.lock_delay = (int)fake_number(body, "\"LockDelay\":\""),
	};
}

static inline int fake_on_session(const char *verb, const char *id, const char *body,
				  struct fake_answer *a)
{
	const struct fake_session *session = &fake.sessions[fake_session(id)];

	if (!strcmp(verb, "create")) {
		fake_create(body);
		fake_print(a, "{\"ID\":\"5e551014-0000-0000-0000-%012u\"}", fake.made);
	} else if (!strcmp(verb, "destroy")) {
		fake_end_session(id);
		fake_print(a, "true");
	} else if (!strcmp(verb, "renew") && !session->alive) {
		fake_print(a, "Session id '%.36s' not found", id);
		return 404;
	} else if (!strcmp(verb, "info") && session->alive && fake_number(id, "index=")) {
		return 0;
	} else if (session->alive) {
		fake_print(a, "[{\"ID\":\"%.36s\",\"LockDelay\":%d000000,\"TTL\":\"%dms\"}]", id,
			   session->lock_delay, session->ttl);
	} else {
		fake_print(a, "[]");
	}
	return 200;
}

static inline void fake_describe(struct fake_answer *a, const struct fake_key *key)
{
	fake_print(a, "{\"Key\":\"%s\",\"Flags\":%s,\"Value\":", key->name,
		   key->flags[0] ? key->flags : FAKE_FLAGS);
	fake_print(a, key->value[0] ? "\"%s\"" : "null%s", key->value);
	if (key->holder[0])
		fake_print(a, ",\"Session\":\"%s\"", key->holder);
	fake_print(a, ",\"ModifyIndex\":%u}", key->changed);
}

/* All below a prefix. */
static inline int fake_on_tree(const char *path, struct fake_answer *a)
{
	size_t len = strcspn(path, "? "), found = 0;

	for (const struct fake_key *key = fake.keys; key->name[0]; key++)
		if (!strncmp(key->name, path, len) && key->changed > a->index)
			a->index = key->changed;
	if (a->index && a->index <= fake_number(path, "index="))
		return 0;
	for (const struct fake_key *key = fake.keys; key->name[0]; key++) {
		if (strncmp(key->name, path, len) || !key->exists)
			continue;
		fake_print(a, found++ ? "," : "[");
		fake_describe(a, key);
	}
	fake_print(a, found ? "]" : "");
	return found ? 200 : 404;
}

static inline int fake_on_key(const char *path, struct fake_answer *a)
{
	struct fake_key *key = fake_key(path, strcspn(path, "? "));
	unsigned index = fake_number(path, "index=");

	if (index && key->changed <= index)
		return 0;
	a->index = key->changed ? key->changed : fake.index;
	if (!key->exists)
		return 404;
	fake_print(a, "[");
	fake_describe(a, key);
	fake_print(a, "]");
	return 200;
}

/* ---- transactions ---- */

struct fake_op {
	char verb[32], session[64], flags[24], value[400];
	struct fake_key *key;
	unsigned index;
};

/* Reads the string after name in text, if it is there. */
static inline void fake_text(const char *text, const char *name, char *out, size_t size)
{
	const char *found = strstr(text, name);

	if (found)
		snprintf(out, size, "%.*s", (int)strcspn(found + strlen(name), "\""),
			 found + strlen(name));
}

/* Reads one operation; text ends where the next one begins. */
static inline struct fake_op fake_parse_op(const char *text)
{
	struct fake_op op = {.index = fake_number(text, "\"Index\":")};
	char name[64] = "";

	fake_text(text, "\"Verb\":\"", op.verb, sizeof op.verb);
	fake_text(text, "\"Session\":\"", op.session, sizeof op.session);
	fake_text(text, "\"Value\":\"", op.value, sizeof op.value);
	fake_text(text, "\"Key\":\"", name, sizeof name);
	if (strstr(text, "\"Flags\":"))
		sscanf(strstr(text, "\"Flags\":") + 8, "%23[0-9]", op.flags);
	op.key = fake_key(name, strlen(name));
	return op;
}

#define FAKE_NAMED "\\\"%s\\\""

/* Prints what is wrong with a check, nothing when it holds. */
static inline void fake_check(const struct fake_op *op, struct fake_answer *wrong)
{
	const struct fake_key *key = op->key;

	if (!strcmp(op->verb, "check-not-exists")) {
		if (key->exists)
			fake_print(wrong, "key " FAKE_NAMED " exists", key->name);
	} else if (!strcmp(op->verb, "check-index")) {
		if (!key->exists)
			fake_print(wrong, "failed to check index, key " FAKE_NAMED " doesn't exist",
				   key->name);
		else if (key->changed != op->index)
			fake_print(wrong,
				   "failed index check for key " FAKE_NAMED
				   ", current modify index %u != %u",
				   key->name, key->changed, op->index);
	} else if (!key->exists) {
		fake_print(wrong, "failed to check session, key " FAKE_NAMED " doesn't exist",
			   key->name);
	} else if (strcmp(key->holder, op->session)) {
		fake_print(wrong,
			   "failed session check for key " FAKE_NAMED
			   ", current session " FAKE_NAMED " != " FAKE_NAMED,
			   key->name, key->holder, op->session);
	}
}

/* The same with a lock or an unlock, which is carried out. */
static inline void fake_write(const struct fake_op *op, unsigned index, struct fake_answer *wrong)
{
	struct fake_key *key = op->key;
	bool lock = !strcmp(op->verb, "lock"), mine = !strcmp(key->holder, op->session);

	if (!op->session[0])
		fake_print(wrong, "missing session");
	else if (lock && !fake_session(op->session))
		fake_print(wrong, "invalid session " FAKE_NAMED, op->session);
	else if (lock && key->holder[0] && !mine)
		fake_print(wrong, "failed to lock key " FAKE_NAMED ", lock is already held",
			   key->name);
	else if (!lock && !mine)
		fake_print(wrong,
			   "failed to unlock key " FAKE_NAMED
			   ", lock isn't held, or is held by another session",
			   key->name);
	else if (!lock || !mine) {
		snprintf(key->holder, sizeof key->holder, "%s", lock ? op->session : "");
		memcpy(key->flags, op->flags, sizeof key->flags);
		key->exists = true;
		key->changed = index;
	}
}

static inline void fake_cas(const struct fake_op *op, unsigned index, struct fake_answer *wrong)
{
	struct fake_key *key = op->key;

	if (op->index ? !key->exists || key->changed != op->index : key->exists) {
		fake_print(wrong, "failed to set key " FAKE_NAMED ", index is stale", key->name);
		return;
	}
	if (key->exists && !strcmp(key->value, op->value) && !strcmp(key->flags, op->flags))
		return;
	memcpy(key->flags, op->flags, sizeof key->flags);
	memcpy(key->value, op->value, sizeof key->value);
	key->exists = true;
	key->changed = index;
}

/* What is absent is as good as deleted. */
static inline void fake_delete(const struct fake_op *op, unsigned index, struct fake_answer *wrong)
{
	struct fake_key *key = op->key;

	if (!key->exists)
		return;
	if (!strcmp(op->verb, "delete-cas") && key->changed != op->index) {
		fake_print(wrong, "failed to delete key " FAKE_NAMED ", index is stale", key->name);
		return;
	}
	key->holder[0] = '\0';
	key->exists = false;
	key->changed = index;
}

/* Carries out one operation. Answers false when Consul knows no such thing. */
static inline bool fake_operate(const struct fake_op *op, unsigned index, struct fake_answer *wrong)
{
	if (!strcmp(op->verb, "check-not-exists") || !strcmp(op->verb, "check-index") ||
	    !strcmp(op->verb, "check-session"))
		fake_check(op, wrong);
	else if (!strcmp(op->verb, "lock") || !strcmp(op->verb, "unlock"))
		fake_write(op, index, wrong);
	else if (!strcmp(op->verb, "delete-cas") || !strcmp(op->verb, "delete"))
		fake_delete(op, index, wrong);
	else if (!strcmp(op->verb, "cas"))
		fake_cas(op, index, wrong);
	else if (strcmp(op->verb, "get"))
		return false;
	else if (!op->key->exists)
		fake_print(wrong, "key " FAKE_NAMED " doesn't exist", op->key->name);
	return true;
}

/* All of it or nothing: what was written is taken back when anything is wrong. */
static inline int fake_on_txn(const char *body, struct fake_answer *a)
{
	static struct fake_key before[CHECK_COUNT(fake.keys)];
	static struct fake_answer results, errors; /* for its one thread */
	static char text[sizeof fake.connections->text];
	const char *next = body;
	int count = 0;
	bool known = body[0] == '[';

	memcpy(before, fake.keys, sizeof before);
	results.len = errors.len = 0;
	results.body[0] = errors.body[0] = '\0';
	for (body = strstr(body, "{\"KV\":{"); known && body; body = next, count++) {
		struct fake_answer wrong = {.len = 0};
		struct fake_op op;

		next = strstr(body + 1, "{\"KV\":{");
		snprintf(text, sizeof text, "%.*s", next ? (int)(next - body) : (int)strlen(body),
			 body);
		op = fake_parse_op(text);
		known = fake_operate(&op, fake.index + 1, &wrong);
		if (wrong.len) {
			fake_print(&errors, "%s{\"OpIndex\":%d,\"What\":\"%s\"}",
				   errors.len ? "," : "", count, wrong.body);
		} else if (op.key->exists) {
			fake_print(&results, "%s{\"KV\":", results.len ? "," : "");
			fake_describe(&results, op.key);
			fake_print(&results, "}");
		}
	}
	if (!known || errors.len || count > FAKE_TXN_MAX)
		memcpy(fake.keys, before, sizeof before);
	else if (memcmp(fake.keys, before, sizeof before))
		fake.index++;
	if (count > FAKE_TXN_MAX) {
		fake_print(a, "Transaction contains too many operations (%d > %d)", count,
			   FAKE_TXN_MAX);
		return 413;
	}
	if (!known) {
		fake_print(a, "Failed to parse body");
		return 400;
	}
	if (errors.len)
		fake_print(a, "{\"Results\":null,\"Errors\":[%s]}", errors.body);
	else
		fake_print(a, "{\"Results\":[%s],\"Errors\":null}", results.body);
	return errors.len ? 409 : 200;
}

/* Answers as Consul would. */
static inline int fake_default(const char *request, const char *body, struct fake_answer *a)
{
	char path[4000] = "", verb[16] = "";

	sscanf(request, "%*s %3999s", path);
	sscanf(path, "/v1/session/%15[a-z]", verb);
	if (verb[0])
		return fake_on_session(verb, path + strlen("/v1/session//") + strlen(verb), body,
				       a);
	if (!strncmp(path, "/v1/kv/", 7) && strstr(path, "recurse"))
		return fake_on_tree(path + 7, a);
	if (!strncmp(path, "/v1/kv/", 7))
		return fake_on_key(path + 7, a);
	if (!strncmp(path, "/v1/txn", 7))
		return fake_on_txn(body, a);
	fake_print(a, "hello");
	return 200;
}

/* ---- connections ---- */

static inline void fake_close(struct fake_connection *c)
{
	close(c->fd);
	c->fd = -1;
	fake.open--;
}

/* Puts a request into the log as "METHOD /path BODY". */
static inline void fake_note(struct fake_connection *c, const char *body)
{
	int line = (int)strcspn(c->text, "\r");

	c->noted = true;
	snprintf(fake.last, sizeof fake.last, "%.*s %.300s", line > 9 ? line - 9 : 0, c->text,
		 body);
	if (fake.log_count < FAKE_LOG)
		memcpy(fake.log[fake.log_count++], fake.last, sizeof fake.last);
	pthread_cond_broadcast(&fake.changed);
}

/* The answer of the first rule that fits what was noted last; NULL: none does. */
static inline const char *fake_rule(void)
{
	for (size_t i = 0; i < fake.rule_count; i++) {
		struct fake_rule *rule = &fake.rules[i];

		if (rule->times && strstr(fake.last, rule->pattern)) {
			rule->times -= rule->times > 0;
			return rule->answer;
		}
	}
	return NULL;
}

static inline void fake_send(struct fake_connection *c, int status, const struct fake_answer *a)
{
	static char text[sizeof *a + 200]; /* for its one thread */
	int len = snprintf(text, sizeof text,
			   "HTTP/1.1 %d Answer\r\nX-Consul-Index: %u\r\nContent-Length: %zu\r\n"
			   "\r\n%s",
			   status, a->index ? a->index : fake.index, strlen(a->body), a->body);

	if (send(c->fd, text, (size_t)len, MSG_NOSIGNAL) != len)
		fake_close(c);
}

/* Answers the request that has come in, if its time has come. */
static inline void fake_serve(struct fake_connection *c)
{
	static struct fake_answer a; /* for its one thread */
	const char *length, *body, *ruled = NULL;
	size_t used;
	int status = 0;

	a.len = a.index = 0;
	a.body[0] = '\0';
	c->text[c->len] = '\0';
	body = strstr(c->text, "\r\n\r\n");
	if (c->ruled || !body)
		return;
	body += 4;
	length = strcasestr(c->text, "Content-Length: ");
	used = (size_t)(body - c->text) + (length && length < body ? (size_t)atoi(length + 16) : 0);
	if (c->len < used)
		return;
	if (!c->noted) {
		fake_note(c, body);
		ruled = fake_rule();
	}
	if (!ruled)
		status = fake_default(c->text, body, &a);
	else if (!strcmp(ruled, "hold"))
		c->ruled = true;
	else if (!strcmp(ruled, "swallow"))
		c->ruled = fake_default(c->text, body, &a) > 0;
	else if (!strcmp(ruled, "close"))
		fake_close(c);
	else if (sscanf(ruled, "%d %4095[^\x01]", &status, a.body) < 1)
		abort();
	if (c->fd < 0 || !status)
		return;
	c->noted = false;
	memmove(c->text, c->text + used, c->len - used);
	c->len -= used;
	fake_send(c, status, &a);
	pthread_cond_broadcast(&fake.changed);
}

static inline void fake_accept(void)
{
	int fd = accept4(fake.listener, NULL, NULL, SOCK_CLOEXEC);

	for (size_t i = 0; fd >= 0 && i < FAKE_CONNECTIONS; i++) {
		struct fake_connection *c = &fake.connections[i];

		if (c->fd >= 0)
			continue;
		*c = (struct fake_connection){.fd = fd};
		if (++fake.open > fake.most_open)
			fake.most_open = fake.open;
		return;
	}
	if (fd >= 0)
		close(fd);
}

static inline void fake_receive(struct fake_connection *c)
{
	ssize_t n = recv(c->fd, c->text + c->len, sizeof c->text - 1 - c->len, MSG_DONTWAIT);

	if (n > 0)
		c->len += (size_t)n;
	else
		fake_close(c);
}

static inline void *fake_run(void *arg)
{
	struct pollfd set[FAKE_CONNECTIONS + 2];
	eventfd_t ignored;

	for (;;) {
		set[0] = (struct pollfd){.fd = fake.listener, .events = POLLIN};
		set[1] = (struct pollfd){.fd = fake.wake, .events = POLLIN};
		for (size_t i = 0; i < FAKE_CONNECTIONS; i++)
			set[i + 2] = (struct pollfd){.fd = fake.connections[i].fd,
						     .events = POLLIN};
		poll(set, FAKE_CONNECTIONS + 2, -1);
		pthread_mutex_lock(&fake.mutex);
		if (fake.stop)
			break;
		if (set[1].revents)
			eventfd_read(fake.wake, &ignored);
		for (size_t i = 0; i < FAKE_CONNECTIONS; i++)
			if (set[i + 2].revents && fake.connections[i].fd >= 0)
				fake_receive(&fake.connections[i]);
		if (set[0].revents)
			fake_accept();
		/* Twice: what one asked for may be what another waits for. */
		for (size_t i = 0; i < 2 * FAKE_CONNECTIONS; i++)
			if (fake.connections[i % FAKE_CONNECTIONS].fd >= 0)
				fake_serve(&fake.connections[i % FAKE_CONNECTIONS]);
		pthread_mutex_unlock(&fake.mutex);
	}
	pthread_mutex_unlock(&fake.mutex);
	for (size_t i = 0; i < FAKE_CONNECTIONS; i++)
		if (fake.connections[i].fd >= 0)
			fake_close(&fake.connections[i]);
	return arg;
}

/* ---- for tests ---- */

static inline void fake_start(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t len = sizeof address;
	pthread_condattr_t monotonic;

	memset(&fake, 0, sizeof fake);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fake.index = 10;
	fake.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	fake.wake = eventfd(0, EFD_CLOEXEC);
	for (size_t i = 0; i < FAKE_CONNECTIONS; i++)
		fake.connections[i].fd = -1;
	if (bind(fake.listener, (struct sockaddr *)&address, len) || listen(fake.listener, 64) ||
	    getsockname(fake.listener, (struct sockaddr *)&address, &len))
		abort();
	snprintf(fake.base, sizeof fake.base, "http://127.0.0.1:%d", ntohs(address.sin_port));
	pthread_mutex_init(&fake.mutex, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&fake.changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	fake.running = !pthread_create(&fake.thread, NULL, fake_run, NULL);
}

static inline void fake_stop(void)
{
	if (!fake.running)
		return;
	pthread_mutex_lock(&fake.mutex);
	fake.stop = true;
	eventfd_write(fake.wake, 1);
	pthread_mutex_unlock(&fake.mutex);
	pthread_join(fake.thread, NULL);
	pthread_cond_destroy(&fake.changed);
	pthread_mutex_destroy(&fake.mutex);
	close(fake.listener);
	close(fake.wake);
	fake.running = false;
}

/* From now on requests whose "METHOD /path BODY" contains pattern are answered with "STATUS BODY",
 * or "hold" (never), "swallow" (carried out, but not answered), or "close". So many times; -1:
 * always. The first rule that fits counts. */
static inline void fake_on(const char *pattern, int times, const char *answer)
{
	pthread_mutex_lock(&fake.mutex);
	if (fake.rule_count == CHECK_COUNT(fake.rules))
		abort();
	fake.rules[fake.rule_count++] = (struct fake_rule){pattern, answer, times};
	pthread_mutex_unlock(&fake.mutex);
}

/* Answers as usual again. What is held stays so. */
static inline void fake_recover(void)
{
	pthread_mutex_lock(&fake.mutex);
	fake.rule_count = 0;
	pthread_mutex_unlock(&fake.mutex);
}

static inline size_t fake_seen_locked(const char *pattern)
{
	size_t count = 0;

	for (size_t i = 0; i < fake.log_count; i++)
		count += strstr(fake.log[i], pattern) != NULL;
	return count;
}

/* Forgets requests, rules, sessions and keys: a new Consul on the same address. */
static inline void fake_forget(void)
{
	pthread_mutex_lock(&fake.mutex);
	fake.rule_count = fake.log_count = 0;
	fake.made = 0;
	memset(fake.sessions, 0, sizeof fake.sessions);
	memset(fake.keys, 0, sizeof fake.keys);
	pthread_mutex_unlock(&fake.mutex);
}

/* How many requests contained pattern so far. */
static inline size_t fake_seen(const char *pattern)
{
	size_t count;

	pthread_mutex_lock(&fake.mutex);
	count = fake_seen_locked(pattern);
	pthread_mutex_unlock(&fake.mutex);
	return count;
}

/* Waits until so many requests have; false when they do not come. */
static inline bool fake_wait(const char *pattern, size_t count)
{
	struct timespec limit;
	bool seen;

	clock_gettime(CLOCK_MONOTONIC, &limit);
	limit.tv_sec += FAKE_LIMIT;
	pthread_mutex_lock(&fake.mutex);
	while (!(seen = fake_seen_locked(pattern) >= count) &&
	       !pthread_cond_timedwait(&fake.changed, &fake.mutex, &limit))
		;
	pthread_mutex_unlock(&fake.mutex);
	return seen;
}

/* Waits until a key has a holder, or has none. */
static inline bool fake_wait_held(const char *name, bool held)
{
	struct timespec limit;
	bool so;

	clock_gettime(CLOCK_MONOTONIC, &limit);
	limit.tv_sec += FAKE_LIMIT;
	pthread_mutex_lock(&fake.mutex);
	while (!(so = (fake_key(name, strlen(name))->holder[0] != '\0') == held) &&
	       !pthread_cond_timedwait(&fake.changed, &fake.mutex, &limit))
		;
	pthread_mutex_unlock(&fake.mutex);
	return so;
}

static inline bool fake_held(const char *name)
{
	bool held;

	pthread_mutex_lock(&fake.mutex);
	held = fake_key(name, strlen(name))->holder[0] != '\0';
	pthread_mutex_unlock(&fake.mutex);
	return held;
}

/* Makes a key what somebody else made of it: holder NULL deletes it. */
static inline void fake_set(const char *name, const char *holder)
{
	pthread_mutex_lock(&fake.mutex);
	fake_change(fake_key(name, strlen(name)), holder ? holder : "", holder != NULL);
	eventfd_write(fake.wake, 1);
	pthread_mutex_unlock(&fake.mutex);
}

/* Gives a key flags and a value, which is base64. */
static inline void fake_fill(const char *name, const char *flags, const char *value)
{
	struct fake_key *key;

	pthread_mutex_lock(&fake.mutex);
	key = fake_key(name, strlen(name));
	snprintf(key->flags, sizeof key->flags, "%s", flags);
	snprintf(key->value, sizeof key->value, "%s", value);
	fake_change(key, "", true);
	eventfd_write(fake.wake, 1);
	pthread_mutex_unlock(&fake.mutex);
}

/* Whether anything below a prefix has a holder. */
static inline bool fake_held_below(const char *prefix)
{
	bool held = false;

	pthread_mutex_lock(&fake.mutex);
	for (const struct fake_key *key = fake.keys; key->name[0]; key++)
		held |= key->holder[0] && !strncmp(key->name, prefix, strlen(prefix));
	pthread_mutex_unlock(&fake.mutex);
	return held;
}

static inline void fake_kill(const char *session)
{
	pthread_mutex_lock(&fake.mutex);
	fake_end_session(session);
	eventfd_write(fake.wake, 1);
	pthread_mutex_unlock(&fake.mutex);
}

/* Makes session number live, as if somebody else had made it. */
static inline void fake_make(unsigned number)
{
	pthread_mutex_lock(&fake.mutex);
	fake.sessions[number] =
		(struct fake_session){.alive = true, .ttl = 20000, .lock_delay = 15000};
	pthread_mutex_unlock(&fake.mutex);
}

/* How many connections are open, or with most the most that ever were at once. */
static inline unsigned fake_connections(bool most)
{
	unsigned count;

	pthread_mutex_lock(&fake.mutex);
	count = most ? fake.most_open : fake.open;
	pthread_mutex_unlock(&fake.mutex);
	return count;
}

static inline unsigned fake_sessions(void)
{
	unsigned count = 0;

	pthread_mutex_lock(&fake.mutex);
	for (size_t i = 0; i < FAKE_SESSIONS; i++)
		count += fake.sessions[i].alive;
	pthread_mutex_unlock(&fake.mutex);
	return count;
}

#endif
