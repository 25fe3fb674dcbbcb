/* signals.c: hearing signals. The handler notes what has come in every listener that wants it, and
 * makes its descriptor readable; what comes of it is the business of whoever reads.
 *
 * A handler, not signalfd: that would want the signal blocked in all threads, of which most are not
 * ours, and a blocked signal is inherited by every program that is started; a handler is not.
 *
 * The handler takes no lock. Listeners are taken out of the list under the mutex, and are freed
 * when no handler is in the list any more. */
#include "net/signals.h"

#include "base/alloc.h"
#include "net/ending.h"
#include "net/process.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define NUMBERS 32 /* the standard ones are below */

static const struct {
	const char *name;
	int number;
} signals[] = {
	{"ABRT", SIGABRT}, {"ALRM", SIGALRM}, {"BUS", SIGBUS},	     {"CHLD", SIGCHLD},
	{"CONT", SIGCONT}, {"FPE", SIGFPE},   {"HUP", SIGHUP},	     {"ILL", SIGILL},
	{"INT", SIGINT},   {"KILL", SIGKILL}, {"PIPE", SIGPIPE},     {"QUIT", SIGQUIT},
	{"SEGV", SIGSEGV}, {"STOP", SIGSTOP}, {"SYS", SIGSYS},	     {"TERM", SIGTERM},
	{"TRAP", SIGTRAP}, {"TSTP", SIGTSTP}, {"TTIN", SIGTTIN},     {"TTOU", SIGTTOU},
	{"USR1", SIGUSR1}, {"USR2", SIGUSR2}, {"VTALRM", SIGVTALRM}, {"WINCH", SIGWINCH},
	{"XCPU", SIGXCPU}, {"XFSZ", SIGXFSZ},
};

#define SIGNALS (sizeof signals / sizeof signals[0])

struct hf_listener {
	struct hf_listener *_Atomic next;
	unsigned long generation; /* const */
	int fd; /* const: a semaphore, one for each signal that is to be read */
	atomic_bool wants[NUMBERS];
	atomic_uint counts[NUMBERS];
	bool alone[NUMBERS], added[NUMBERS]; /* mutex */
	bool stopped; /* its owner's */
};

/* What a signal does while nobody listens. */
struct taken {
	unsigned listeners; /* mutex */
	atomic_uint alone; /* so many of them do not want the handler before */
	struct sigaction before; /* written while no listener is there */
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct taken taken[NUMBERS];
static struct hf_listener *_Atomic listeners;
static atomic_int inside; /* handlers that are in the list */
static atomic_int owner; /* the process whose signals these are */

int hf_signal_number(const char *name)
{
	for (size_t i = 0; i < SIGNALS; i++) {
		if (!strcmp(signals[i].name, name))
			return signals[i].number;
	}
	return 0;
}

const char *hf_signal_name(int number)
{
	for (size_t i = 0; i < SIGNALS; i++) {
		if (signals[i].number == number)
			return signals[i].name;
	}
	return NULL;
}

/* ---- the handler ---------------------------------------------------------------------------- */

static bool is_function(const struct sigaction *action)
{
	return (action->sa_flags & SA_SIGINFO) ||
	       (action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN);
}

static void hand_on(const struct sigaction *to, int number, siginfo_t *info, void *context)
{
	if (to->sa_flags & SA_SIGINFO)
		to->sa_sigaction(number, info, context);
	else
		to->sa_handler(number);
}

static void note(struct hf_listener *listener, int number)
{
	if (!atomic_load(&listener->wants[number]))
		return;
	atomic_fetch_add(&listener->counts[number], 1);
	hf_listener_poke(listener);
}

static void heard(int number, siginfo_t *info, void *context)
{
	int saved = errno;
	struct sigaction before;
	bool ours, on;

	atomic_fetch_add(&inside, 1);
	before = taken[number].before;
	/* A child that was not made by fork(2) of libc has our handler still. */
	ours = atomic_load(&owner) == getpid();
	on = is_function(&before) && (!ours || !atomic_load(&taken[number].alone));
	if (ours) {
		for (struct hf_listener *l = atomic_load(&listeners); l; l = atomic_load(&l->next))
			note(l, number);
	} else if (!on && before.sa_handler == SIG_DFL) {
		sigaction(number, &before, NULL);
		raise(number);
	}
	atomic_fetch_sub(&inside, 1);
	if (ours)
		hf_ending_stand(number);
	errno = saved;
	if (on)
		hand_on(&before, number, info, context);
}

/* ---- listeners ------------------------------------------------------------------------------ */

static bool is_ours(int number)
{
	struct sigaction now;

	return !sigaction(number, NULL, &now) && (now.sa_flags & SA_SIGINFO) &&
	       now.sa_sigaction == heard;
}

/* Faults come again when their handler returns. */
static bool can_be_heard(int number)
{
	switch (number) {
	case SIGKILL:
	case SIGSTOP:
	case SIGABRT:
	case SIGBUS:
	case SIGFPE:
	case SIGILL:
	case SIGSEGV:
	case SIGSYS:
	case SIGTRAP:
		return false;
	default:
		return number > 0 && number < NUMBERS;
	}
}

/* Answers false when it is ignored, and is to stay so. */
static bool take_locked(int number, bool ignored)
{
	struct sigaction action = {.sa_sigaction = heard, .sa_flags = SA_SIGINFO | SA_RESTART};
	struct sigaction before;

	if (taken[number].listeners)
		return true;
	sigaction(number, NULL, &before);
	if (!ignored && !(before.sa_flags & SA_SIGINFO) && before.sa_handler == SIG_IGN)
		return false;
	/* Who has put a handler over ours, and calls it, must not be called by it. */
	if (!is_ours(number))
		taken[number].before = before;
	sigemptyset(&action.sa_mask);
	sigaction(number, &action, NULL);
	return true;
}

static void leave_locked(int number)
{
	if (!--taken[number].listeners && is_ours(number))
		sigaction(number, &taken[number].before, NULL);
}

enum hf_err hf_listener_init(struct hf_listener **out, struct hf_error *err)
{
	struct hf_listener *listener;

	if (!hf_process_init())
		return hf_err_set(err, HF_NOMEM, "the process could not be prepared");
	listener = hf_calloc(1, sizeof *listener);
	if (!listener)
		return hf_err_set(err, HF_NOMEM, "%s", hf_err_text(HF_NOMEM));
	listener->generation = hf_process_generation();
	listener->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
	if (listener->fd < 0) {
		hf_free(listener);
		return hf_err_set(err, HF_NOMEM, "signals: %s", strerror(errno));
	}
	pthread_mutex_lock(&mutex);
	atomic_store(&owner, getpid());
	atomic_store(&listener->next, atomic_load(&listeners));
	atomic_store(&listeners, listener);
	pthread_mutex_unlock(&mutex);
	*out = listener;
	return HF_OK;
}

enum hf_err hf_listener_add(struct hf_listener *listener, int number, bool alone, bool ignored,
			    struct hf_error *err)
{
	if (!can_be_heard(number))
		return hf_err_set(err, HF_INVALID, "%s cannot be heard",
				  hf_signal_name(number) ? hf_signal_name(number) : "this signal");
	pthread_mutex_lock(&mutex);
	if (!listener->added[number] && take_locked(number, ignored)) {
		listener->added[number] = true;
		listener->alone[number] = alone && number == SIGINT;
		taken[number].listeners++;
		if (listener->alone[number])
			atomic_fetch_add(&taken[number].alone, 1);
		atomic_store(&listener->wants[number], true);
	}
	pthread_mutex_unlock(&mutex);
	return HF_OK;
}

static bool is_here(const struct hf_listener *listener, struct hf_error *err)
{
	if (listener->generation == hf_process_generation())
		return true;
	hf_err_set(err, HF_FORKED, "the signals were taken before a fork: take them in the child");
	return false;
}

enum hf_err hf_listener_new(const int *numbers, size_t count, bool alone, struct hf_listener **out,
			    struct hf_error *err)
{
	struct hf_listener *listener;

	if (hf_listener_init(&listener, err))
		return err->code;
	for (size_t i = 0; i < count; i++) {
		if (hf_listener_add(listener, numbers[i], alone, true, err)) {
			hf_listener_free(listener);
			return err->code;
		}
	}
	*out = listener;
	return HF_OK;
}

static void take_out_locked(struct hf_listener *listener)
{
	struct hf_listener *_Atomic *link = &listeners;

	while (atomic_load(link) != listener)
		link = &atomic_load(link)->next;
	atomic_store(link, atomic_load(&listener->next));
}

void hf_listener_stop(struct hf_listener *listener)
{
	if (listener->stopped || !is_here(listener, NULL))
		return;
	listener->stopped = true;
	pthread_mutex_lock(&mutex);
	for (int number = 1; number < NUMBERS; number++) {
		if (!listener->added[number])
			continue;
		if (listener->alone[number])
			atomic_fetch_sub(&taken[number].alone, 1);
		leave_locked(number);
	}
	take_out_locked(listener);
	pthread_mutex_unlock(&mutex);
	while (atomic_load(&inside))
		sched_yield();
}

void hf_listener_free(struct hf_listener *listener)
{
	if (!listener)
		return;
	hf_listener_stop(listener);
	close(listener->fd);
	hf_free(listener);
}

void hf_listener_poke(struct hf_listener *listener)
{
	eventfd_write(listener->fd, 1);
}

int hf_listener_fd(const struct hf_listener *listener, struct hf_error *err)
{
	return is_here(listener, err) ? listener->fd : -1;
}

bool hf_listener_wait(const struct hf_listener *listener, int64_t timeout, struct hf_error *err)
{
	bool ready = false;

	err->code = HF_OK;
	if (!is_here(listener, err))
		return false;
	if (hf_poll(&listener->fd, 1, timeout, &ready) < 0)
		hf_err_set(err, HF_NOMEM, "poll: %s", strerror(errno));
	return ready;
}

int hf_listener_next(struct hf_listener *listener, struct hf_error *err)
{
	eventfd_t one;

	err->code = HF_OK;
	if (!is_here(listener, err) || eventfd_read(listener->fd, &one))
		return 0;
	for (int number = 1; number < NUMBERS; number++) {
		if (atomic_load(&listener->counts[number])) {
			atomic_fetch_sub(&listener->counts[number], 1);
			return number;
		}
	}
	return 0;
}

void hf_signals_in_child(void)
{
	pthread_mutex_init(&mutex, NULL);
	for (int number = 1; number < NUMBERS; number++) {
		if (taken[number].listeners && is_ours(number))
			sigaction(number, &taken[number].before, NULL);
		taken[number].listeners = 0;
		atomic_store(&taken[number].alone, 0);
	}
	atomic_store(&listeners, NULL);
	atomic_store(&inside, 0);
	atomic_store(&owner, 0);
}
