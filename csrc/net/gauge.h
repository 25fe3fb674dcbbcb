/* gauge.h: how many sockets libcurl has open for an engine. It does not tell of the end of each: of
 * one that was not connected yet it may, or close it without a word, and versions differ. So each
 * has a serial number, by which its request says that it is gone: its descriptor may be another's
 * by then. Whoever has the turn, but for `open`. */
#ifndef HF_GAUGE_H
#define HF_GAUGE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct hf_gauge {
	atomic_long open; /* any thread reads it */
	uint64_t *serials; /* by descriptor; 0: is not one of them */
	uint64_t last;
	size_t size;
};

/* A socket has been opened: answers its serial number. 0: without memory it is not counted. */
uint64_t hf_gauge_opened(struct hf_gauge *gauge, int fd);
/* It is about to be closed. */
void hf_gauge_closed(struct hf_gauge *gauge, int fd);
/* It has been closed, if it is still known. */
void hf_gauge_gone(struct hf_gauge *gauge, int fd, uint64_t serial);
void hf_gauge_free(struct hf_gauge *gauge);

#endif
