/* turn.h: the turns of an engine. One turn: take what others left under the mutex, step the ops
 * whose time has come, begin requests, let libcurl work, step the ops whose requests are done,
 * until nothing is left to do. What it costs depends on what has happened, not on how many ops
 * there are. Whoever takes one is "the thread" as long as it lasts. */
#ifndef HF_TURN_H
#define HF_TURN_H

#include "net/engine.h"

/* Takes a turn; waits for somebody else's to be over. look: also at the sockets, which is for who
 * has slept. Answers false when the engine has come to its end, which it may have done right now.
 * *due is the time at which the next turn is due, whatever happens meanwhile. Called with the
 * mutex not held, by any thread that keeps the engine. */
bool hf_turn(struct hf_engine *engine, bool look, int64_t *due);

/* ---- for ops, in their turn ---- */

/* Begins an internal op. Takes over the caller's reference. */
void hf_engine_add(struct hf_engine *engine, struct hf_op *op);
/* Goes on with an op as one of its kind's functions would have answered. The op may be gone
 * afterwards. */
void hf_engine_follow(struct hf_op *op, enum hf_step step);
/* Ends an op early, the way hf_op_stop_locked asks for. */
void hf_engine_stop(struct hf_op *op, enum hf_err why);
/* Gives up the request of an op, if it has one in flight, and steps the op anew; what it sends next
 * goes on a new connection. */
void hf_engine_again(struct hf_op *op);
/* The way an op goes that was woken. */
void hf_engine_ready(struct hf_op *op);

#endif
