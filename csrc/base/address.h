/* address.h: networks, and which addresses are nobody's on the public internet. No state. */
#ifndef HF_ADDRESS_H
#define HF_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

/* IPv4 is kept the way IPv6 has it, as ::ffff:a.b.c.d. */
struct hf_network {
	unsigned char address[16];
	unsigned bits;
};

/* Reads "10.1.0.0/16", "fd00::/8" or one address. False: it is none, or has bits set behind its
 * prefix. */
bool hf_network_parse(const char *text, struct hf_network *out);
/* Why nothing is to be sent to an address: what it is, in words, after "is". NULL: it is public, or
 * in one of count networks. An IPv4 address in an IPv6 one (mapped, or of NAT64) is looked at as
 * itself. */
const char *hf_address_refused(const struct sockaddr *address, const struct hf_network *allow,
			       size_t count);
/* The same for an address as text, which has no zone. */
const char *hf_address_text_refused(const char *text, const struct hf_network *allow, size_t count);

#endif
