/* random.h: chance for spacing things out. Straight from the kernel: a thread may be here while
 * another one is in exit(), which takes libcrypto down. */
#ifndef HF_RANDOM_H
#define HF_RANDOM_H

#include <stdint.h>

/* A random time between two. Any thread. */
int64_t hf_jitter(int64_t least, int64_t most);

#endif
