#include "base/heap.h"

#include <stddef.h>

/* Makes the later of two roots the first child of the earlier one. */
static struct hf_timer *meld(struct hf_timer *a, struct hf_timer *b)
{
	struct hf_timer *swap;

	if (!a || !b)
		return a ? a : b;
	if (b->at < a->at) {
		swap = a;
		a = b;
		b = swap;
	}
	b->next = a->child;
	b->prev = a;
	if (a->child)
		a->child->prev = b;
	a->child = b;
	a->next = a->prev = NULL;
	return a;
}

/* Makes one tree of a chain of siblings: in pairs from the left, then the pairs from the right. */
static struct hf_timer *merge(struct hf_timer *first)
{
	struct hf_timer *pairs = NULL, *root = NULL;

	while (first) {
		struct hf_timer *a = first, *b = a->next;

		first = b ? b->next : NULL;
		a->next = a->prev = NULL;
		if (b)
			b->next = b->prev = NULL;
		a = meld(a, b);
		a->next = pairs;
		pairs = a;
	}
	while (pairs) {
		struct hf_timer *rest = pairs->next;

		pairs->next = NULL;
		root = meld(root, pairs);
		pairs = rest;
	}
	return root;
}

void hf_heap_remove(struct hf_heap *heap, struct hf_timer *timer)
{
	struct hf_timer *orphans;

	if (!timer->set)
		return;
	orphans = merge(timer->child);
	if (timer == heap->root) {
		heap->root = orphans;
	} else {
		*(timer->prev->child == timer ? &timer->prev->child
					      : &timer->prev->next) = timer->next;
		if (timer->next)
			timer->next->prev = timer->prev;
		heap->root = meld(heap->root, orphans);
	}
	timer->child = timer->next = timer->prev = NULL;
	timer->set = false;
}

void hf_heap_set(struct hf_heap *heap, struct hf_timer *timer, int64_t at)
{
	if (timer->set && timer->at == at)
		return;
	hf_heap_remove(heap, timer);
	if (at == HF_NEVER)
		return;
	timer->at = at;
	timer->set = true;
	heap->root = meld(heap->root, timer);
}

struct hf_timer *hf_heap_first(const struct hf_heap *heap)
{
	return heap->root;
}
