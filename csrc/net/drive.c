#include "net/drive.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* So long after somebody has driven the worker stands back, ms: who waits for one op after the
 * other is between two of them. */
#define STAND_BACK 5
/* Nobody sleeps longer, ms: poll(2) does not count the time that the machine is suspended; the
 * lease does. */
#define SLEEP_MAX 2000

/* ---- sleep ---------------------------------------------------------------------------------- */

int hf_drive_sleep(struct pollfd *fds, size_t n, int64_t until, const sigset_t *mask)
{
	int64_t ms = until - hf_now();
	struct timespec time;
	int count;

	if (ms < 0)
		ms = 0;
	if (ms > SLEEP_MAX)
		ms = SLEEP_MAX;
	time = (struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
	count = ppoll(fds, n, &time, mask);
	return count < 0 ? -errno : count;
}

/* ---- the worker ----------------------------------------------------------------------------- */

static bool driven_locked(const struct hf_engine *engine)
{
	return !engine->exiting && (engine->driven || hf_now() < engine->driven_at + STAND_BACK);
}

static void stand_back_locked(struct hf_engine *engine)
{
	struct timespec until;

	while (driven_locked(engine) && engine->takes) {
		if (engine->driven) {
			engine->worker = HF_RESTING;
			pthread_cond_wait(&engine->back, &engine->mutex);
			continue;
		}
		engine->worker = HF_STANDING_BACK;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += STAND_BACK * 1000000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		pthread_cond_timedwait(&engine->back, &engine->mutex, &until);
	}
}

/* Rests between two turns. Answers whether the sockets are to be looked at. */
static bool rest(struct hf_engine *engine, int64_t due)
{
	struct pollfd fd = {.fd = engine->sockets.fd, .events = POLLIN};
	bool look = false;

	pthread_mutex_lock(&engine->mutex);
	if (!driven_locked(engine) && !engine->woken) {
		engine->worker = HF_ASLEEP;
		pthread_mutex_unlock(&engine->mutex);
		look = hf_drive_sleep(&fd, 1, due, NULL) > 0;
		pthread_mutex_lock(&engine->mutex);
		engine->worker = HF_AWAKE;
	}
	if (driven_locked(engine)) {
		stand_back_locked(engine);
		engine->worker = HF_AWAKE;
		look = true;
	}
	pthread_mutex_unlock(&engine->mutex);
	return look;
}

/* The last one out. */
static void close_locked(struct hf_engine *engine)
{
	if (engine->worker == HF_LEFT && !engine->driven)
		hf_sockets_close(&engine->sockets);
}

void hf_drive_run(struct hf_engine *engine)
{
	bool look = false;
	int64_t due;

	while (hf_turn(engine, look, &due))
		look = rest(engine, due);
	pthread_mutex_lock(&engine->mutex);
	engine->worker = HF_LEFT;
	close_locked(engine);
	pthread_mutex_unlock(&engine->mutex);
}

/* ---- drivers -------------------------------------------------------------------------------- */

void hf_drive_block(struct hf_signals *signals)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &signals->before);
	signals->asleep = signals->before;
	sigaddset(&signals->asleep, SIGPIPE);
}

void hf_drive_unblock(const struct hf_signals *signals)
{
	const struct timespec now = {0};
	sigset_t pipe;

	if (!sigismember(&signals->before, SIGPIPE)) {
		sigemptyset(&pipe);
		sigaddset(&pipe, SIGPIPE);
		while (sigtimedwait(&pipe, NULL, &now) > 0)
			;
	}
	pthread_sigmask(SIG_SETMASK, &signals->before, NULL);
}

bool hf_drive_enter(struct hf_engine *engine, int *fd)
{
	bool drives;

	pthread_mutex_lock(&engine->mutex);
	drives = !engine->driven;
	engine->driven = true;
	*fd = engine->sockets.fd;
	pthread_mutex_unlock(&engine->mutex);
	return drives;
}

/* A worker that sleeps on does not know what has become due in our turns. */
void hf_drive_leave(struct hf_engine *engine)
{
	pthread_mutex_lock(&engine->mutex);
	engine->driven = false;
	engine->driven_at = hf_now();
	hf_engine_wake_locked(engine);
	if (engine->worker == HF_RESTING)
		pthread_cond_signal(&engine->back);
	close_locked(engine);
	pthread_mutex_unlock(&engine->mutex);
}

void hf_drive_turn(struct hf_engine *engine, bool look, int64_t *due)
{
	if (!hf_turn(engine, look, due))
		*due = HF_NEVER;
}

int64_t hf_drive_until(int64_t timeout)
{
	return timeout < 0 ? HF_NEVER : hf_now() + timeout;
}

/* Answers 1 once it has finished, 0 when the time is up, and -errno. */
static int wait_until(struct hf_op *op, bool drives, int fd, int64_t until, const sigset_t *mask)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};
	int64_t due = HF_NEVER;
	int n = 0;

	for (;;) {
		if (drives)
			hf_drive_turn(op->engine, n > 0, &due);
		if (hf_op_done(op))
			return 1;
		if (n < 0)
			return n;
		if (hf_now() >= until)
			return 0;
		n = hf_drive_sleep(&pollfd, 1, due < until ? due : until, mask);
	}
}

bool hf_op_wait(struct hf_op *op, int64_t timeout, struct hf_error *err)
{
	struct hf_signals signals;
	bool drives;
	int fd, n = 0;

	err->code = HF_OK;
	if (hf_op_done(op))
		return true;
	if (timeout == 0)
		return false;
	hf_drive_block(&signals);
	drives = hf_drive_enter(op->engine, &fd);
	if (!drives)
		fd = hf_op_fd(op, err);
	if (!err->code)
		n = wait_until(op, drives, fd, hf_drive_until(timeout), &signals.asleep);
	if (drives)
		hf_drive_leave(op->engine);
	hf_drive_unblock(&signals);
	if (n < 0 && n != -EINTR)
		hf_err_set(err, HF_NOMEM, "poll: %s", strerror(-n));
	return n > 0;
}
