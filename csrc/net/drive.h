/* drive.h: who takes an engine's turns (turn.h). Whoever waits for an op drives its engine: there
 * is no hop to another thread between a caller and the network. The rules:
 *
 *  - A turn is taken under engine->turn, by one thread at a time, with all signals blocked; nobody
 *    sleeps with it. libcurl's handles belong to whoever has it.
 *  - One thread drives an engine: it takes turns until what it waits for has finished, and sleeps
 *    in between on engine->sockets. A signal ends its sleep, and its wait: the caller has to look
 *    at what it was for.
 *  - Who comes second sleeps on a descriptor that tells of its own, like who asks for one: two that
 *    sleep on the same sockets would take each other's bell.
 *  - The worker, which is the engine's own thread, takes the turns while nobody drives: renewal and
 *    loss detection need no caller. While somebody drives, and for a few ms after, it stands back;
 *    then it comes back by itself. So what is left for it, with nobody waiting, begins a few ms
 *    late at most. At exit of the process it comes back whoever drives.
 *  - Who leaves something under the mutex (hf_engine_wake_locked) rings the bell when somebody
 *    sleeps, and only then: a caller that waits next takes the turn itself.
 *  - Who asks for a descriptor is not going to drive: the worker is called back at once. */
#ifndef HF_DRIVE_H
#define HF_DRIVE_H

#include "net/turn.h"

#include <poll.h>
#include <signal.h>

/* The life of an engine's worker: until the engine has come to its end. */
void hf_drive_run(struct hf_engine *engine);

/* ---- for drivers, in this order ---- */

/* The signals of a thread before it drove, and while it sleeps: a library that writes to a
 * connection which is gone must not end the process. */
struct hf_signals {
	sigset_t before, asleep;
};

void hf_drive_block(struct hf_signals *signals);
/* Answers whether the caller drives now: nobody else does. *fd is what a driver sleeps on, -1
 * (which poll(2) does not mind) after the engine's end. */
bool hf_drive_enter(struct hf_engine *engine, int *fd);
/* One turn; look: at the sockets too. *due is when the next one is; never at the end of the engine,
 * when everything has finished. */
void hf_drive_turn(struct hf_engine *engine, bool look, int64_t *due);
/* Sleeps until one of n descriptors is readable, or until a time, or a signal that mask lets
 * through (NULL: as it is). Answers how many are readable, or -errno. */
int hf_drive_sleep(struct pollfd *fds, size_t n, int64_t until, const sigset_t *mask);
/* For who drives. */
void hf_drive_leave(struct hf_engine *engine);
void hf_drive_unblock(const struct hf_signals *signals);

/* The time at which a timeout (ms, < 0: none) that begins now is over. */
int64_t hf_drive_until(int64_t timeout);

/* ---- sets (set.c) ---- */

/* An op has finished that a set waits for. */
void hf_seat_finished_locked(struct hf_op *op);

#endif
