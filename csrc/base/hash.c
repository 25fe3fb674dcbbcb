#include "base/hash.h"

#include <string.h>

/* Eight bytes at a time: each step is a bijection of the state, so what differs in one word only
 * never comes out the same. */
static uint64_t mix(uint64_t state, uint64_t word)
{
	state = (state ^ word) * UINT64_C(0x9e3779b97f4a7c15);
	return state ^ state >> 29;
}

uint64_t hf_hash(uint64_t before, const void *data, size_t len)
{
	const char *at = data;
	uint64_t state = mix(before, len), word = 0;

	for (; len >= sizeof word; at += sizeof word, len -= sizeof word) {
		memcpy(&word, at, sizeof word);
		state = mix(state, word);
	}
	word = 0;
	if (len)
		memcpy(&word, at, len);
	return mix(state, word);
}
