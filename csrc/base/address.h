/* address.h: networks, and which addresses are nobody's on the public internet. No state. */
#ifndef HF_ADDRESS_H
#define HF_ADDRESS_H

#include "hf.h"

#include <sys/socket.h>

/* IPv4 is kept the way IPv6 has it, as ::ffff:a.b.c.d. */
struct hf_network {
	unsigned char address[16];
	unsigned bits;
};

/* Which addresses something may be sent to: public ones, and those in these networks. */
struct hf_reach {
	struct hf_network *allow;
	size_t count;
};

/* Reads the networks. False, with *err filled and nothing to free: INVALID or NOMEM. */
bool hf_reach_read(struct hf_reach *reach, const struct hf_list *networks, struct hf_error *err);
void hf_reach_free(struct hf_reach *reach);

/* An address as text. False: it is none of the internet. */
bool hf_address_text(const struct sockaddr *address, char *out, size_t size);
/* Why nothing is to be sent to an address: what it is, in words, after "is". NULL: something may.
 * An IPv4 address in an IPv6 one (mapped, or of NAT64) is looked at as itself. */
const char *hf_address_refused(const char *text, const struct hf_reach *reach);

#endif
