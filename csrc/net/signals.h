/* signals.h: what signals.c asks of the rest of this room, and what that asks of it. The rest is in
 * hf.h. */
#ifndef HF_NET_SIGNALS_H
#define HF_NET_SIGNALS_H

#include "hf.h"

/* Makes a listener of nothing. */
enum hf_err hf_listener_init(struct hf_listener **out, struct hf_error *err);
/* Has it hear one more; harmless when it does. INVALID when nobody can. alone: see
 * hf_listener_new. ignored: also one that the process ignores. */
enum hf_err hf_listener_add(struct hf_listener *listener, int number, bool alone, bool ignored,
			    struct hf_error *err);
/* It hears nothing any more, and each signal does again what it did; what is to be read is left. */
void hf_listener_stop(struct hf_listener *listener);
/* Makes it readable without a signal. */
void hf_listener_poke(struct hf_listener *listener);

/* In a child after fork: signals do there what they did before anybody listened. */
void hf_signals_in_child(void);

#endif
