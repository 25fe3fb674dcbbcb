#include "base/address.h"

#include "base/alloc.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#define V4_BITS 96 /* of the prefix of a mapped address */

static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
static const unsigned char nat64[12] = {0, 0x64, 0xff, 0x9b}; /* RFC 6052 */

/* ---- networks ------------------------------------------------------------------------------- */

static void map(const void *v4, unsigned char out[16])
{
	memcpy(out, mapped, sizeof mapped);
	memcpy(out + sizeof mapped, v4, 4);
}

static bool read_address(const char *text, unsigned char out[16])
{
	unsigned char v4[4];

	if (inet_pton(AF_INET, text, v4) == 1) {
		map(v4, out);
		return true;
	}
	return inet_pton(AF_INET6, text, out) == 1;
}

/* A number of one to three digits up to most. -1: it is none. */
static int read_bits(const char *text, int most)
{
	size_t digits = strspn(text, "0123456789");
	int bits = 0;

	if (!digits || digits > 3 || text[digits] || (text[0] == '0' && digits > 1))
		return -1;
	for (; *text; text++)
		bits = bits * 10 + (*text - '0');
	return bits <= most ? bits : -1;
}

static bool bit_of(const unsigned char *address, unsigned i)
{
	return address[i / 8] & 0x80 >> i % 8;
}

static bool is_v4(const unsigned char address[16])
{
	return !memcmp(address, mapped, sizeof mapped);
}

/* No network of IPv6 has all of IPv4 in it, not even ::/0. */
static bool in(const unsigned char address[16], const struct hf_network *network)
{
	unsigned bytes = network->bits / 8, i = bytes * 8;

	if ((is_v4(address) && network->bits < V4_BITS) ||
	    memcmp(address, network->address, bytes) != 0)
		return false;
	for (; i < network->bits; i++)
		if (bit_of(address, i) != bit_of(network->address, i))
			return false;
	return true;
}

/* An address, and behind a slash how many bits of it are the network's. No bits are set behind
 * those. */
static bool read_network(const char *text, struct hf_network *out)
{
	char address[INET6_ADDRSTRLEN + 1];
	size_t len = strcspn(text, "/");
	unsigned above = strchr(text, ':') ? 0 : V4_BITS;
	int bits = 128 - (int)above;

	if (len >= sizeof address)
		return false;
	memcpy(address, text, len);
	address[len] = '\0';
	if (!read_address(address, out->address))
		return false;
	if (text[len])
		bits = read_bits(text + len + 1, bits);
	if (bits < 0)
		return false;
	out->bits = above + (unsigned)bits;
	for (unsigned i = out->bits; i < 128; i++)
		if (bit_of(out->address, i))
			return false;
	return true;
}

/* ---- what is not public --------------------------------------------------------------------- */

/* IANA's registries of special-purpose addresses, and what clouds have put elsewhere. The first
 * that fits names it. */
static const struct {
	struct hf_network network;
	const char *what;
} special[] = {
#define V4(a, b, c, d, bits) \
	{ \
		{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d}, V4_BITS + (bits) \
	}
	{V4(169, 254, 169, 254, 32), "a metadata service"},
	{V4(168, 63, 129, 16, 32), "a metadata service"}, /* Azure's */
	{V4(100, 100, 100, 200, 32), "a metadata service"}, /* Alibaba's */
	{V4(0, 0, 0, 0, 8), "unspecified"},
	{V4(10, 0, 0, 0, 8), "private"},
	{V4(100, 64, 0, 0, 10), "shared by a carrier's customers"},
	{V4(127, 0, 0, 0, 8), "loopback"},
	{V4(169, 254, 0, 0, 16), "link-local"},
	{V4(172, 16, 0, 0, 12), "private"},
	{V4(192, 0, 0, 0, 24), "reserved"},
	{V4(192, 0, 2, 0, 24), "for documentation"},
	{V4(192, 88, 99, 0, 24), "a 6to4 relay"},
	{V4(192, 168, 0, 0, 16), "private"},
	{V4(198, 18, 0, 0, 15), "for benchmarks"},
	{V4(198, 51, 100, 0, 24), "for documentation"},
	{V4(203, 0, 113, 0, 24), "for documentation"},
	{V4(224, 0, 0, 0, 4), "multicast"},
	{V4(240, 0, 0, 0, 4), "reserved"},
#undef V4
	{{{0xfd, 0x00, 0x0e, 0xc2, [14] = 0x02, 0x54}, 128}, "a metadata service"},
	{{{0}, 128}, "unspecified"},
	{{{[15] = 1}, 128}, "loopback"},
	{{{0x00, 0x64, 0xff, 0x9b, 0x00, 0x01}, 48}, "a NAT64 of its own network"},
	{{{0x20, 0x01}, 32}, "Teredo"},
	{{{0x20, 0x01, 0x00, 0x02}, 48}, "for benchmarks"},
	{{{0x20, 0x01}, 23}, "reserved"},
	{{{0x20, 0x01, 0x0d, 0xb8}, 32}, "for documentation"},
	{{{0x20, 0x02}, 16}, "6to4"},
	{{{0x3f, 0xff}, 20}, "for documentation"},
	{{{0xfc}, 7}, "private"},
	{{{0xfe, 0x80}, 10}, "link-local"},
	{{{0xfe, 0xc0}, 10}, "private"},
	{{{0xff}, 8}, "multicast"},
};

/* IPv6 has one block of addresses that may be public. */
static const struct hf_network global = {{0x20}, 3};

static const char *special_of(const unsigned char address[16])
{
	for (size_t i = 0; i < sizeof special / sizeof *special; i++)
		if (in(address, &special[i].network))
			return special[i].what;
	return is_v4(address) || in(address, &global) ? NULL : "reserved";
}

/* ---- what may be reached -------------------------------------------------------------------- */

bool hf_network_valid(const char *text)
{
	struct hf_network network;

	return read_network(text, &network);
}

bool hf_reach_read(struct hf_reach *reach, const struct hf_list *networks, struct hf_error *err)
{
	*reach = (struct hf_reach){hf_calloc(networks->count + 1, sizeof *reach->allow), 0};
	if (!reach->allow) {
		hf_err_set(err, HF_NOMEM, "out of memory");
		return false;
	}
	for (; reach->count < networks->count; reach->count++) {
		const char *text = networks->items[reach->count];

		if (read_network(text, &reach->allow[reach->count]))
			continue;
		hf_reach_free(reach);
		hf_err_set(err, HF_INVALID, "\"%.100s\" is not a network like 10.1.0.0/16", text);
		return false;
	}
	return true;
}

void hf_reach_free(struct hf_reach *reach)
{
	hf_free(reach->allow);
	*reach = (struct hf_reach){NULL, 0};
}

static bool allows(const struct hf_reach *reach, const unsigned char address[16])
{
	for (size_t i = 0; i < reach->count; i++)
		if (in(address, &reach->allow[i]))
			return true;
	return false;
}

bool hf_address_text(const struct sockaddr *address, char *out, size_t size)
{
	const void *bytes;

	if (address->sa_family == AF_INET6)
		bytes = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
	else if (address->sa_family == AF_INET)
		bytes = &((const struct sockaddr_in *)(const void *)address)->sin_addr;
	else
		return false;
	return inet_ntop(address->sa_family, bytes, out, (socklen_t)size) != NULL;
}

const char *hf_address_refused(const char *text, const struct hf_reach *reach)
{
	unsigned char address[16], inner[16];

	if (!read_address(text, address))
		return "no address of the internet";
	if (allows(reach, address))
		return NULL;
	if (memcmp(address, nat64, sizeof nat64) != 0)
		return special_of(address);
	map(address + sizeof nat64, inner);
	return allows(reach, inner) ? NULL : special_of(inner);
}
