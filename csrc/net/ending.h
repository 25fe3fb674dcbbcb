/* ending.h: a process that ends by a signal, but closes engines before. */
#ifndef HF_ENDING_H
#define HF_ENDING_H

#include "hf.h"

struct hf_engine;

/* Has one of these signals end the process, after the calling thread has been stopped and this
 * engine, and all others that asked for it, have closed. CLOSED when this one is closing already;
 * INVALID for signals that end nobody. One that the process ignores stays ignored. alone: see
 * hf_listener_new. */
enum hf_err hf_ending_arm(struct hf_engine *engine, const int *numbers, size_t count, bool alone,
			  struct hf_error *err);
/* The engine has ended: there is nothing to close. Harmless when it never asked. */
void hf_ending_disarm(struct hf_engine *engine);
/* In the handler: does not come back when this thread is to stop. */
void hf_ending_stand(int number);
/* In a child after fork, whose signals do what they did. */
void hf_ending_in_child(void);

#endif
