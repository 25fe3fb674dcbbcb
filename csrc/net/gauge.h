/* gauge.h: how many sockets libcurl has open for an engine. It does not tell of the end of each: of
 * one that was not connected yet it may, or close it without a word, and versions differ. So they
 * are known by their numbers and looked at. Whoever has the turn, but for `open`. */
#ifndef HF_GAUGE_H
#define HF_GAUGE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct hf_gauge {
	atomic_long open; /* any thread reads it */
	uint64_t *inodes; /* by descriptor; 0: is not one of them */
	size_t size;
};

/* A socket has been opened. Without memory it is not counted. */
void hf_gauge_opened(struct hf_gauge *gauge, int fd);
/* It is about to be closed. */
void hf_gauge_closed(struct hf_gauge *gauge, int fd);
/* It may have been closed meanwhile, and its number may be another's. */
void hf_gauge_look(struct hf_gauge *gauge, int fd);
void hf_gauge_free(struct hf_gauge *gauge);

#endif
