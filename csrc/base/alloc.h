/* alloc.h: the only way this library gets memory. Tests built with -DHF_TEST_ALLOC
 * make the Nth allocation fail (spec/c/test_alloc.c). */
#ifndef HF_ALLOC_H
#define HF_ALLOC_H

#include <stddef.h>

/* Each answers NULL when memory is out. Any thread. */
void *hf_malloc(size_t size);
void *hf_calloc(size_t count, size_t size);
void *hf_realloc(void *old, size_t size);
/* Copies len bytes and ends them with a NUL. src may be NULL when len is 0. */
char *hf_memdup(const void *src, size_t len);
/* Copies a C string; NULL gives NULL, so the caller must tell "absent" from "out of memory". */
char *hf_strdup(const char *src);
void hf_free(void *ptr);

#ifdef HF_TEST_ALLOC
/* Fails allocation number n (1 is the next one), and all after it when sticky. 0 fails none. */
void hf_alloc_fail(long n, int sticky);
/* Allocations asked for since the last hf_alloc_fail. */
long hf_alloc_count(void);
#endif

#endif
