#include "base/random.h"

#include "hf.h"

#include <errno.h>
#include <sys/random.h>

bool hf_random(void *out, size_t len)
{
	char *at = out;

	while (len) {
		ssize_t n = getrandom(at, len, 0);

		if (n < 0 && errno != EINTR)
			return false;
		if (n > 0) {
			at += n;
			len -= (size_t)n;
		}
	}
	return true;
}

int64_t hf_jitter(int64_t least, int64_t most)
{
	uint32_t random;

	/* Up to 256 bytes come whole or not at all; without any the middle has to do. */
	if (getrandom(&random, sizeof random, GRND_NONBLOCK) != sizeof random)
		random = UINT32_MAX / 2;
	return least + (int64_t)((double)random / UINT32_MAX * (double)(most - least));
}
