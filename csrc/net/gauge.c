#include "net/gauge.h"

#include "base/alloc.h"

#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

static uint64_t inode_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 ? st.st_ino : 0;
}

static bool has_room(struct hf_gauge *gauge, size_t fd)
{
	size_t size = fd + fd / 2 + 16;
	uint64_t *inodes;

	if (fd < gauge->size)
		return true;
	inodes = hf_realloc(gauge->inodes, size * sizeof *inodes);
	if (!inodes)
		return false;
	memset(inodes + gauge->size, 0, (size - gauge->size) * sizeof *inodes);
	gauge->inodes = inodes;
	gauge->size = size;
	return true;
}

void hf_gauge_opened(struct hf_gauge *gauge, int fd)
{
	hf_gauge_closed(gauge, fd); /* whoever had its number */
	if (!has_room(gauge, (size_t)fd))
		return;
	gauge->inodes[fd] = inode_of(fd);
	if (gauge->inodes[fd])
		atomic_fetch_add(&gauge->open, 1);
}

void hf_gauge_closed(struct hf_gauge *gauge, int fd)
{
	if ((size_t)fd >= gauge->size || !gauge->inodes[fd])
		return;
	gauge->inodes[fd] = 0;
	atomic_fetch_sub(&gauge->open, 1);
}

void hf_gauge_look(struct hf_gauge *gauge, int fd)
{
	if ((size_t)fd < gauge->size && gauge->inodes[fd] != inode_of(fd))
		hf_gauge_closed(gauge, fd);
}

void hf_gauge_free(struct hf_gauge *gauge)
{
	hf_free(gauge->inodes);
	gauge->inodes = NULL;
	gauge->size = 0;
}
