#include "consul/token.h"

#include <ctype.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define MOST (8 * 1024) /* bytes of a file, as in lua/holdfast/options.lua */

/* Never waits for a writer, should it be a pipe. */
static size_t read_file(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n;

	if (fd < 0)
		return 0;
	n = read(fd, text, size);
	close(fd);
	return n > 0 ? (size_t)n : 0;
}

bool hf_token_read(const char *path, struct hf_buf *token)
{
	char text[MOST + 1], *start = text;
	size_t len = read_file(path, text, sizeof text);

	if (len > MOST)
		return false;
	while (len && isspace((unsigned char)start[len - 1]))
		len--;
	while (len && isspace((unsigned char)*start))
		start++, len--;
	for (size_t i = 0; i < len; i++)
		if (iscntrl((unsigned char)start[i])) /* not in a header */
			return false;
	return len && hf_buf_add(token, start, len);
}
