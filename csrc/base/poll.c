#include "base/alloc.h"
#include "hf.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>

#define ON_STACK 64

int hf_poll(const int *fds, size_t n, int64_t timeout_ms, bool *ready)
{
	struct pollfd small[ON_STACK], *set = small;
	int timeout = timeout_ms < 0 ? -1 : timeout_ms > INT_MAX ? INT_MAX : (int)timeout_ms;
	int count;

	if (n > ON_STACK && !(set = hf_malloc(n * sizeof *set))) {
		errno = ENOMEM;
		return -1;
	}
	for (size_t i = 0; i < n; i++)
		set[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
	count = poll(set, n, timeout);
	for (size_t i = 0; i < n; i++)
		ready[i] = count > 0 && set[i].revents != 0;
	if (set != small)
		hf_free(set);
	if (count < 0 && errno == EINTR)
		return 0;
	return count;
}
