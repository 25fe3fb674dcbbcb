#include "net/gauge.h"

#include "base/alloc.h"

#include <stdbool.h>
#include <string.h>

static bool has_room(struct hf_gauge *gauge, size_t fd)
{
	size_t size = fd + fd / 2 + 16;
	uint64_t *serials;

	if (fd < gauge->size)
		return true;
	serials = hf_realloc(gauge->serials, size * sizeof *serials);
	if (!serials)
		return false;
	memset(serials + gauge->size, 0, (size - gauge->size) * sizeof *serials);
	gauge->serials = serials;
	gauge->size = size;
	return true;
}

uint64_t hf_gauge_opened(struct hf_gauge *gauge, int fd)
{
	hf_gauge_closed(gauge, fd); /* whoever had its number */
	if (!has_room(gauge, (size_t)fd))
		return 0;
	gauge->serials[fd] = ++gauge->last;
	atomic_fetch_add(&gauge->open, 1);
	return gauge->last;
}

void hf_gauge_closed(struct hf_gauge *gauge, int fd)
{
	if ((size_t)fd >= gauge->size || !gauge->serials[fd])
		return;
	gauge->serials[fd] = 0;
	atomic_fetch_sub(&gauge->open, 1);
}

void hf_gauge_gone(struct hf_gauge *gauge, int fd, uint64_t serial)
{
	if ((size_t)fd < gauge->size && gauge->serials[fd] == serial)
		hf_gauge_closed(gauge, fd);
}

void hf_gauge_free(struct hf_gauge *gauge)
{
	hf_free(gauge->serials);
	gauge->serials = NULL;
	gauge->size = 0;
}
