/* The registry has a mutex of its own, taken after an engine's (never the other way round) and
 * held for list moves only. */
#include "net/process.h"

#include "base/alloc.h"
#include "net/drive.h"
#include "net/ending.h"
#include "net/signals.h"

#include <signal.h>
#include <stdlib.h>
#include <time.h>

#define EXIT_MS 1000 /* how long an exit may wait for open clients to say goodbye */
#define EXIT_MORE_MS 500 /* and for their threads to see that the time is over */

struct hf_thread {
	pthread_t id;
	struct hf_engine *engine; /* counted */
	struct hf_thread *next; /* registry */
	bool claimed, ended, shut; /* registry */
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t somebody_ended = PTHREAD_COND_INITIALIZER;
static struct hf_thread *threads; /* registry */
static bool exiting; /* registry */
static bool ready;
static atomic_ulong generation;
static atomic_long counts[HF_OBJECTS];

void hf_process_count(enum hf_object object, int change)
{
	atomic_fetch_add(&counts[object], change);
}

void hf_counters(struct hf_counters *out)
{
	hf_process_reap();
	out->clients = atomic_load(&counts[HF_CLIENTS]);
	out->locks = atomic_load(&counts[HF_LOCKS]);
	out->ops = atomic_load(&counts[HF_OPS]);
	out->sessions = atomic_load(&counts[HF_SESSIONS]);
	out->threads = atomic_load(&counts[HF_THREADS]);
}

unsigned long hf_process_generation(void)
{
	return atomic_load_explicit(&generation, memory_order_relaxed);
}

enum which { NOT_SHUT, RUNNING, UNCLAIMED };

static struct hf_thread *find_locked(enum which which)
{
	struct hf_thread *t = threads;

	while (t && (which == NOT_SHUT	? t->ended || t->shut
		     : which == RUNNING ? t->ended
					: t->claimed || !t->ended))
		t = t->next;
	return t;
}

static struct timespec in_wall_time(int64_t ms)
{
	struct timespec at;

	clock_gettime(CLOCK_REALTIME, &at);
	at.tv_sec += ms / 1000;
	at.tv_nsec += ms % 1000 * 1000000;
	at.tv_sec += at.tv_nsec / 1000000000;
	at.tv_nsec %= 1000000000;
	return at;
}

/* Clients left open end the way client:close() would, in less time. Also those that somebody else
 * is closing: what libcurl and libcrypto need is going to be gone in a moment. */
static void at_exit(void)
{
	struct timespec limit = in_wall_time(EXIT_MS + EXIT_MORE_MS);
	struct hf_thread *t;

	pthread_mutex_lock(&registry);
	exiting = true;
	while ((t = find_locked(NOT_SHUT)) != NULL) {
		struct hf_engine *engine = t->engine;

		/* The engine's mutex is not to be taken under this one. */
		t->shut = true;
		hf_engine_ref(engine);
		pthread_mutex_unlock(&registry);
		hf_engine_shut(engine, true, EXIT_MS);
		hf_engine_unref(engine);
		pthread_mutex_lock(&registry);
	}
	while (find_locked(RUNNING) &&
	       pthread_cond_timedwait(&somebody_ended, &registry, &limit) == 0)
		;
	pthread_mutex_unlock(&registry);
	hf_process_reap();
}

/* A child has none of its parent's threads, and their clients' memory stays as it was. */
static void in_child(void)
{
	pthread_mutex_init(&registry, NULL);
	pthread_cond_init(&somebody_ended, NULL);
	threads = NULL;
	atomic_fetch_add(&generation, 1);
	hf_signals_in_child();
	hf_ending_in_child();
	for (int i = 0; i < HF_OBJECTS; i++)
		atomic_store(&counts[i], 0);
}

static void init(void)
{
	ready = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK && atexit(at_exit) == 0 &&
		pthread_atfork(NULL, NULL, in_child) == 0;
}

bool hf_process_init(void)
{
	pthread_once(&once, init);
	return ready;
}

static void *run(void *arg)
{
	struct hf_thread *thread = arg;

	hf_drive_run(thread->engine);
	pthread_mutex_lock(&registry);
	thread->ended = true;
	pthread_cond_broadcast(&somebody_ended);
	pthread_mutex_unlock(&registry);
	return NULL;
}

/* A thread that no signal comes to: they are the program's. */
static bool create(pthread_t *id, void *(*fn)(void *), void *arg)
{
	sigset_t all, before;
	bool created;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	created = pthread_create(id, NULL, fn, arg) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return created;
}

struct hf_thread *hf_process_start(struct hf_engine *engine)
{
	struct hf_thread *thread = hf_calloc(1, sizeof *thread);
	bool failed;

	if (!thread)
		return NULL;
	thread->engine = engine;
	pthread_mutex_lock(&registry);
	failed = exiting || !create(&thread->id, run, thread);
	if (!failed) {
		thread->next = threads;
		threads = thread;
	}
	pthread_mutex_unlock(&registry);
	if (failed) {
		hf_free(thread);
		return NULL;
	}
	hf_engine_ref(engine);
	hf_process_count(HF_THREADS, 1);
	return thread;
}

bool hf_process_detach(void *(*fn)(void *), void *arg)
{
	pthread_t id;

	return create(&id, fn, arg) && pthread_detach(id) == 0;
}

void hf_process_await(struct hf_engine *engine, int64_t until)
{
	int64_t left = until - hf_now();
	struct timespec limit = in_wall_time(left > 0 ? left : 0);
	struct hf_thread *t;

	pthread_mutex_lock(&registry);
	do {
		t = threads;
		while (t && (t->engine != engine || t->ended))
			t = t->next;
	} while (t && pthread_cond_timedwait(&somebody_ended, &registry, &limit) == 0);
	pthread_mutex_unlock(&registry);
}

void hf_process_try(void)
{
	pthread_mutex_lock(&registry);
	pthread_mutex_unlock(&registry);
}

bool hf_process_claim(struct hf_thread *thread)
{
	bool mine;

	pthread_mutex_lock(&registry);
	mine = !thread->claimed;
	thread->claimed = true;
	pthread_mutex_unlock(&registry);
	return mine;
}

void hf_process_join(struct hf_thread *thread)
{
	struct hf_engine *engine = thread->engine;
	struct hf_thread **link;

	pthread_join(thread->id, NULL);
	pthread_mutex_lock(&engine->mutex);
	engine->thread = NULL;
	pthread_mutex_unlock(&engine->mutex);
	pthread_mutex_lock(&registry);
	for (link = &threads; *link && *link != thread; link = &(*link)->next)
		;
	if (*link)
		*link = thread->next;
	pthread_mutex_unlock(&registry);
	hf_free(thread);
	hf_engine_unref(engine);
	hf_process_count(HF_THREADS, -1);
}

void hf_process_reap(void)
{
	struct hf_thread *found;

	do {
		pthread_mutex_lock(&registry);
		found = find_locked(UNCLAIMED);
		if (found)
			found->claimed = true;
		pthread_mutex_unlock(&registry);
		if (found)
			hf_process_join(found);
	} while (found);
}
