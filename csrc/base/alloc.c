#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

#ifdef HF_TEST_ALLOC
#include <stdatomic.h>

static atomic_long seen, fail_at;
static atomic_int fail_sticky;

void hf_alloc_fail(long n, int sticky)
{
	atomic_store(&seen, 0);
	atomic_store(&fail_at, n);
	atomic_store(&fail_sticky, sticky);
}

long hf_alloc_count(void)
{
	return atomic_load(&seen);
}

static int refused(void)
{
	long now = atomic_fetch_add(&seen, 1) + 1;
	long at = atomic_load(&fail_at);

	return at != 0 && (now == at || (now > at && atomic_load(&fail_sticky)));
}
#else
static int refused(void)
{
	return 0;
}
#endif

void *hf_malloc(size_t size)
{
	return refused() ? NULL : malloc(size ? size : 1);
}

void *hf_calloc(size_t count, size_t size)
{
	return refused() ? NULL : calloc(count ? count : 1, size ? size : 1);
}

void *hf_realloc(void *old, size_t size)
{
	return refused() ? NULL : realloc(old, size ? size : 1);
}

char *hf_memdup(const void *src, size_t len)
{
	char *copy = hf_malloc(len + 1);

	if (!copy)
		return NULL;
	if (len)
		memcpy(copy, src, len);
	copy[len] = '\0';
	return copy;
}

char *hf_strdup(const char *src)
{
	return src ? hf_memdup(src, strlen(src)) : NULL;
}

void hf_free(void *ptr)
{
	free(ptr);
}
