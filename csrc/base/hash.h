/* hash.h: a number that tells two texts apart: one of 64 bits, not to be relied on against somebody
 * who chooses both. */
#ifndef HF_HASH_H
#define HF_HASH_H

#include <stddef.h>
#include <stdint.h>

/* Goes on from the hash of what comes before; 0 at the beginning. */
uint64_t hf_hash(uint64_t before, const void *data, size_t len);

#endif
