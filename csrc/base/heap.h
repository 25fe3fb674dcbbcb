/* heap.h: times in order, earliest first: an intrusive pairing heap, so that setting a timer cannot
 * fail for want of memory. Setting is O(1), removing O(log n) on average. Takes no lock. */
#ifndef HF_HEAP_H
#define HF_HEAP_H

#include <stdbool.h>
#include <stdint.h>

/* The time of what is never due. */
#define HF_NEVER INT64_MAX

struct hf_timer {
	int64_t at;
	struct hf_timer *child, *next;
	struct hf_timer *prev; /* the one before among the children, the parent for the first */
	bool set;
};

struct hf_heap {
	struct hf_timer *root;
};

/* Sets a timer, or sets it anew; HF_NEVER removes it. A zeroed timer is not set. */
void hf_heap_set(struct hf_heap *heap, struct hf_timer *timer, int64_t at);
/* Takes a timer out. Harmless when it is not set. */
void hf_heap_remove(struct hf_heap *heap, struct hf_timer *timer);
/* The earliest timer, NULL when none is set. */
struct hf_timer *hf_heap_first(const struct hf_heap *heap);

#endif
