/* process.c: what there is once per process, however many clients and Lua states: libcurl's
 * initialization, the registry of worker threads, and what happens at exit and at fork.
 *
 * The registry has a mutex of its own, taken after a client's (never the other way round) and
 * held for list moves only. */
#include "alloc.h"
#include "hf_int.h"

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define EXIT_MS 1000 /* how long an exit may wait for open clients to say goodbye */

struct hf_thread {
	pthread_t id;
	struct hf_client *client; /* counted */
	struct hf_thread *next; /* registry */
	bool claimed, ended; /* registry */
	struct hf_thread *exit_next; /* at_exit's own */
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t registry = PTHREAD_MUTEX_INITIALIZER;
static struct hf_thread *threads;
static bool ready;
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

/* Clients left open end the way client:close() would, in less time. */
static void at_exit(void)
{
	struct hf_thread *mine = NULL, *next;

	pthread_mutex_lock(&registry);
	for (struct hf_thread *t = threads; t; t = t->next) {
		if (t->claimed)
			continue;
		t->claimed = true;
		t->exit_next = mine;
		mine = t;
	}
	pthread_mutex_unlock(&registry);
	for (struct hf_thread *t = mine; t; t = t->exit_next)
		hf_client_shut(t->client, true, EXIT_MS);
	for (; mine; mine = next) {
		next = mine->exit_next;
		hf_process_join(mine);
	}
}

/* A child has none of its parent's threads, and their clients' memory stays as it was. */
static void in_child(void)
{
	pthread_mutex_init(&registry, NULL);
	threads = NULL;
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

	hf_worker_run(thread->client);
	pthread_mutex_lock(&registry);
	thread->ended = true;
	pthread_mutex_unlock(&registry);
	return NULL;
}

struct hf_thread *hf_process_start(struct hf_client *client)
{
	struct hf_thread *thread = hf_calloc(1, sizeof *thread);
	sigset_t all, before;
	int failed;

	if (!thread)
		return NULL;
	thread->client = client;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_mutex_lock(&registry);
	failed = pthread_create(&thread->id, NULL, run, thread);
	if (!failed) {
		thread->next = threads;
		threads = thread;
	}
	pthread_mutex_unlock(&registry);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (failed) {
		hf_free(thread);
		return NULL;
	}
	hf_client_ref(client);
	hf_process_count(HF_THREADS, 1);
	return thread;
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
	struct hf_thread **link;

	pthread_join(thread->id, NULL);
	pthread_mutex_lock(&registry);
	for (link = &threads; *link && *link != thread; link = &(*link)->next)
		;
	if (*link)
		*link = thread->next;
	pthread_mutex_unlock(&registry);
	hf_client_unref(thread->client);
	hf_free(thread);
	hf_process_count(HF_THREADS, -1);
}

void hf_process_reap(void)
{
	struct hf_thread *found;

	do {
		pthread_mutex_lock(&registry);
		for (found = threads; found && (found->claimed || !found->ended);)
			found = found->next;
		if (found)
			found->claimed = true;
		pthread_mutex_unlock(&registry);
		if (found)
			hf_process_join(found);
	} while (found);
}
