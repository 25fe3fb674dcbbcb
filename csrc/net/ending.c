/* ending.c: a process that ends by a signal, but closes engines before.
 *
 * A thread waits for the signal, so it does not matter what Lua is at: computing, in a wait, in
 * somebody's C. What is given back may be somebody else's a moment later, so first the threads that
 * work under it are stopped, each in a handler that does not return. Where it is interrupted it may
 * hold what the release needs: memory's lock, an engine's. So it stands still, and whoever ends
 * the process tries these; as long as that does not succeed the thread goes on a bit and is stopped
 * anew. Who cannot be stopped keeps its locks, which wait for their lock-delay then.
 *
 *   GOES ──the handler──▶ STANDS ──everything can be had──▶ STAYS
 *    ◀──nobody has come──┘
 */
#include "net/ending.h"

#include "base/alloc.h"
#include "net/engine.h"
#include "net/process.h"
#include "net/signals.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CLOSE_MS 3000 /* as long as client:close() takes at most */
#define MORE_MS 500 /* for the threads to see that it is over */
#define STOP_MS 3000 /* until every thread has been stopped */
#define KILL_MS 8000 /* more than all of these */
#define STAND_MS 50 /* so long a thread stands, and waits to be told that it is to stay */

enum standing { GOES, STANDS, STAYS };

struct record {
	struct record *next;
	struct hf_engine *engine; /* counted */
	pid_t owner; /* the thread that asked, and works under its locks */
};

/* A thread that is to be stopped. */
struct owner {
	pid_t tid;
	atomic_int standing;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; /* taken before an engine's */
static struct record *records; /* mutex */
static struct hf_listener *listener; /* mutex; NULL: nobody has asked */

static atomic_int by; /* the signal that ends us; 0: none has come */
static struct owner *_Atomic owners; /* from then on */
static size_t owner_count; /* written before owners */
static int told; /* an eventfd: somebody stands */

/* ---- the threads that are stopped ----------------------------------------------------------- */

static pid_t own_tid(void)
{
	return (pid_t)syscall(SYS_gettid);
}

static void stand(struct owner *owner)
{
	int stands = STANDS;

	atomic_store(&owner->standing, STANDS);
	eventfd_write(told, 1);
	poll(NULL, 0, STAND_MS);
	if (atomic_compare_exchange_strong(&owner->standing, &stands, GOES))
		return;
	for (;;)
		pause();
}

void hf_ending_stand(int number)
{
	struct owner *all = number == atomic_load(&by) ? atomic_load(&owners) : NULL;
	pid_t tid;

	if (!all)
		return;
	tid = own_tid();
	for (size_t i = 0; i < owner_count; i++)
		if (all[i].tid == tid)
			stand(&all[i]);
}

/* ---- the thread that ends the process ------------------------------------------------------- */

/* Takes and gives back what closing needs. */
static void try_all(struct hf_engine **engines, size_t count)
{
	pthread_mutex_lock(&mutex);
	pthread_mutex_unlock(&mutex);
	hf_process_try();
	for (size_t i = 0; i < count; i++) {
		pthread_mutex_lock(&engines[i]->mutex);
		pthread_mutex_unlock(&engines[i]->mutex);
	}
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
	(void)mallinfo2(); /* takes the lock of every arena */
#endif
}

static bool stop(struct owner *owner, int64_t until, struct hf_engine **engines, size_t count)
{
	eventfd_t ignored;
	bool ready;

	for (;;) {
		int stands = STANDS;
		int64_t left = until - hf_now();

		if (syscall(SYS_tgkill, getpid(), owner->tid, atomic_load(&by)))
			return true; /* it has ended */
		if (left <= 0 || hf_poll(&told, 1, left, &ready) <= 0)
			return false;
		eventfd_read(told, &ignored);
		try_all(engines, count);
		if (atomic_compare_exchange_strong(&owner->standing, &stands, STAYS))
			return true;
	}
}

static void close_all(struct hf_engine **engines, size_t count)
{
	int64_t until = hf_now() + CLOSE_MS + MORE_MS;

	for (size_t i = 0; i < count; i++)
		hf_engine_shut(engines[i], true, CLOSE_MS);
	for (size_t i = 0; i < count; i++)
		hf_process_await(engines[i], until);
}

/* The first process of a container has no default action: it exits with the status that a shell
 * would tell. */
static void die(int number)
{
	sigset_t set;

	signal(number, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, number);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	raise(number);
	_exit(128 + number);
}

static size_t count_records(void)
{
	size_t count = 0;

	for (struct record *r = records; r; r = r->next)
		count++;
	return count;
}

/* What is to be closed, and who is to be stopped. What this takes the process gives back. */
static struct hf_engine **collect(size_t *count)
{
	struct hf_engine **engines = NULL;
	struct owner *all = NULL;
	size_t n = 0;

	pthread_mutex_lock(&mutex);
	*count = count_records();
	if (*count) {
		engines = hf_calloc(*count, sizeof *engines);
		all = hf_calloc(*count, sizeof *all);
	}
	if (!engines || !all)
		*count = 0;
	for (struct record *r = *count ? records : NULL; r; r = r->next) {
		size_t i = 0;

		hf_engine_ref(r->engine);
		engines[n++] = r->engine;
		while (i < owner_count && all[i].tid != r->owner)
			i++;
		all[i].tid = r->owner;
		owner_count = i < owner_count ? owner_count : i + 1;
	}
	pthread_mutex_unlock(&mutex);
	atomic_store(&owners, all);
	return engines;
}

/* Another allocator than libc's may have a lock that is not tried, and is not to be had any more.
 */
static void end_at_last(void)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
	struct itimerspec in = {.it_value = {KILL_MS / 1000, 0}};
	timer_t timer;

	if (!timer_create(CLOCK_MONOTONIC, &event, &timer))
		timer_settime(timer, 0, &in, NULL);
}

static void end_by(int number)
{
	int64_t until = hf_now() + STOP_MS;
	struct hf_engine **engines;
	bool stopped = true;
	size_t count;

	end_at_last();
	engines = collect(&count);
	atomic_store(&by, number);
	for (size_t i = 0; i < owner_count && stopped; i++)
		stopped = stop(&atomic_load(&owners)[i], until, engines, count);
	if (stopped)
		close_all(engines, count);
	die(number);
}

static void *watch(void *arg)
{
	struct hf_listener *mine = arg;
	struct hf_error err;
	bool over = false;
	int number;

	while (!over) {
		hf_listener_wait(mine, -1, &err);
		number = hf_listener_next(mine, &err);
		if (number)
			end_by(number);
		pthread_mutex_lock(&mutex);
		over = listener != mine;
		pthread_mutex_unlock(&mutex);
	}
	hf_listener_free(mine);
	return NULL;
}

/* ---- who asks ------------------------------------------------------------------------------- */

static bool ends_a_process(int number)
{
	switch (number) {
	case SIGCHLD:
	case SIGCONT:
	case SIGTSTP:
	case SIGTTIN:
	case SIGTTOU:
	case SIGWINCH:
		return false;
	default:
		return true;
	}
}

static enum hf_err begin_locked(struct hf_error *err)
{
	if (listener)
		return HF_OK;
	if (hf_listener_init(&listener, err))
		return err->code;
	if (!told)
		told = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (told > 0 && hf_process_detach(watch, listener))
		return HF_OK;
	told = told > 0 ? told : 0;
	hf_listener_free(listener);
	listener = NULL;
	return hf_err_set(err, HF_NOMEM, "no thread to be had that waits for signals");
}

/* The thread that waits sees that it is over. */
static void give_up_locked(void)
{
	if (!listener || records)
		return;
	hf_listener_stop(listener);
	hf_listener_poke(listener);
	listener = NULL;
}

static enum hf_err note_locked(struct hf_engine *engine, struct hf_error *err)
{
	struct record *record = records;
	enum hf_err code;

	pthread_mutex_lock(&engine->mutex);
	code = hf_engine_closed_locked(engine, err);
	pthread_mutex_unlock(&engine->mutex);
	if (code)
		return code;
	while (record && record->engine != engine)
		record = record->next;
	if (record)
		return HF_OK;
	record = hf_calloc(1, sizeof *record);
	if (!record)
		return hf_err_set(err, HF_NOMEM, "%s", hf_err_text(HF_NOMEM));
	hf_engine_ref(engine);
	*record = (struct record){records, engine, own_tid()};
	records = record;
	return HF_OK;
}

enum hf_err hf_ending_arm(struct hf_engine *engine, const int *numbers, size_t count, bool alone,
			  struct hf_error *err)
{
	enum hf_err code;

	if (!hf_engine_here(engine, err))
		return err->code;
	for (size_t i = 0; i < count; i++)
		if (!ends_a_process(numbers[i]))
			return hf_err_set(err, HF_INVALID, "%s ends no process",
					  hf_signal_name(numbers[i]));
	pthread_mutex_lock(&mutex);
	code = begin_locked(err);
	for (size_t i = 0; !code && i < count; i++)
		code = hf_listener_add(listener, numbers[i], alone, false, err);
	if (!code)
		code = note_locked(engine, err);
	give_up_locked();
	pthread_mutex_unlock(&mutex);
	return code;
}

void hf_ending_disarm(struct hf_engine *engine)
{
	struct record **link, *found;

	/* What a thread that stands still may have is not to be waited for. */
	if (atomic_load(&by))
		return;
	pthread_mutex_lock(&mutex);
	for (link = &records; *link && (*link)->engine != engine; link = &(*link)->next)
		;
	found = *link;
	if (found)
		*link = found->next;
	give_up_locked();
	pthread_mutex_unlock(&mutex);
	if (!found)
		return;
	hf_free(found);
	hf_engine_unref(engine);
}

void hf_ending_in_child(void)
{
	pthread_mutex_init(&mutex, NULL);
	records = NULL;
	listener = NULL;
	told = 0;
	atomic_store(&by, 0);
	atomic_store(&owners, NULL);
	owner_count = 0;
}
