/* test_address.c: which addresses nothing is sent to, and which networks there are. */
#include "base/address.h"
#include "check.h"

#include <arpa/inet.h>
#include <netinet/in.h>

static const struct hf_reach nothing;

struct row {
	const char *address, *what; /* NULL: it is public */
};

static const struct row rows[] = {
	/* the ends of each block, and what is beside them */
	{"0.0.0.0", "unspecified"},
	{"0.255.255.255", "unspecified"},
	{"1.0.0.0", NULL},
	{"9.255.255.255", NULL},
	{"10.0.0.0", "private"},
	{"10.255.255.255", "private"},
	{"11.0.0.0", NULL},
	{"100.63.255.255", NULL},
	{"100.64.0.0", "shared"},
	{"100.127.255.255", "shared"},
	{"100.128.0.0", NULL},
	{"100.100.100.200", "metadata"},
	{"126.255.255.255", NULL},
	{"127.0.0.1", "loopback"},
	{"127.255.255.255", "loopback"},
	{"128.0.0.0", NULL},
	{"168.63.129.16", "metadata"},
	{"168.63.129.17", NULL},
	{"169.253.255.255", NULL},
	{"169.254.0.0", "link-local"},
	{"169.254.169.254", "metadata"},
	{"169.254.255.255", "link-local"},
	{"169.255.0.0", NULL},
	{"172.15.255.255", NULL},
	{"172.16.0.0", "private"},
	{"172.31.255.255", "private"},
	{"172.32.0.0", NULL},
	{"192.0.0.0", "reserved"},
	{"192.0.0.255", "reserved"},
	{"192.0.1.0", NULL},
	{"192.0.2.1", "documentation"},
	{"192.0.3.0", NULL},
	{"192.88.99.1", "6to4"},
	{"192.88.100.0", NULL},
	{"192.167.255.255", NULL},
	{"192.168.0.0", "private"},
	{"192.168.255.255", "private"},
	{"192.169.0.0", NULL},
	{"198.17.255.255", NULL},
	{"198.18.0.0", "benchmarks"},
	{"198.19.255.255", "benchmarks"},
	{"198.20.0.0", NULL},
	{"198.51.100.7", "documentation"},
	{"203.0.113.7", "documentation"},
	{"203.0.114.0", NULL},
	{"223.255.255.255", NULL},
	{"224.0.0.1", "multicast"},
	{"239.255.255.255", "multicast"},
	{"240.0.0.0", "reserved"},
	{"255.255.255.255", "reserved"},
	{"8.8.8.8", NULL},
	/* IPv6 */
	{"::", "unspecified"},
	{"::1", "loopback"},
	{"::2", "reserved"},
	{"::7f00:1", "reserved"}, /* IPv4-compatible, RFC 4291 */
	{"::ffff:0:8.8.8.8", "reserved"}, /* translated, RFC 2765 */
	{"100::1", "reserved"}, /* to be discarded */
	{"1fff:ffff::", "reserved"},
	{"2000::", NULL},
	{"2001::", "Teredo"},
	{"2001:0:ffff::1", "Teredo"},
	{"2001:1::1", "reserved"},
	{"2001:2::1", "benchmarks"},
	{"2001:10::1", "reserved"},
	{"2001:1ff:ffff::", "reserved"},
	{"2001:200::", NULL},
	{"2001:db7:ffff::", NULL},
	{"2001:db8::1", "documentation"},
	{"2001:db9::", NULL},
	{"2001:4860:4860::8888", NULL},
	{"2002:7f00:1::1", "6to4"},
	{"2002:808:808::1", "6to4"},
	{"2003::1", NULL},
	{"2606:4700:4700::1111", NULL},
	{"3ffe:ffff::", NULL},
	{"3fff::1", "documentation"},
	{"3fff:fff:ffff::", "documentation"},
	{"3fff:1000::", NULL},
	{"4000::", "reserved"},
	{"5f00::1", "reserved"},
	{"fbff::1", "reserved"},
	{"fc00::1", "private"},
	{"fd12:3456::1", "private"},
	{"fd00:ec2::254", "metadata"},
	{"fd00:ec2::253", "private"},
	{"fe00::1", "reserved"},
	{"fe80::1", "link-local"},
	{"febf::1", "link-local"},
	{"fec0::1", "private"},
	{"ff02::1", "multicast"},
	/* IPv4 in IPv6 */
	{"::ffff:8.8.8.8", NULL},
	{"::ffff:127.0.0.1", "loopback"},
	{"::ffff:10.1.2.3", "private"},
	{"::ffff:169.254.169.254", "metadata"},
	{"64:ff9b::8.8.8.8", NULL},
	{"64:ff9b::127.0.0.1", "loopback"},
	{"64:ff9b::10.1.2.3", "private"},
	{"64:ff9b::169.254.169.254", "metadata"},
	{"64:ff9b::1:808:808", "reserved"}, /* one bit beside it */
	{"64:ff9b:1::8.8.8.8", "NAT64"},
};

static void check_row(const struct row *row, const char *got)
{
	if (row->what)
		check_has(got ? got : "public", row->what, row->address, 0);
	else
		check_str(got ? got : "public", "public", row->address, 0, row->address);
}

static void what_is_not_public_is_refused(void)
{
	for (size_t i = 0; i < CHECK_COUNT(rows); i++)
		check_row(&rows[i], hf_address_refused(rows[i].address, &nothing));
}

static void what_is_no_address_is_refused(void)
{
	const char *texts[] = {"", "localhost", "127.1", "010.0.0.1", "fe80::1%eth0", "1.2.3.4 "};

	for (size_t i = 0; i < CHECK_COUNT(texts); i++)
		CHECK_HAS(hf_address_refused(texts[i], &nothing), "no address");
}

static void an_address_has_a_text_unless_it_is_no_address(void)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr = {htonl(0x7f000001)}};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_scope_id = 1};
	struct sockaddr local = {.sa_family = AF_UNIX};
	char text[64];

	v6.sin6_addr.s6_addr[0] = 0xfe, v6.sin6_addr.s6_addr[1] = 0x80;
	CHECK(hf_address_text((struct sockaddr *)&v4, text, sizeof text));
	CHECK_STR(text, "127.0.0.1");
	CHECK(hf_address_text((struct sockaddr *)&v6, text, sizeof text));
	CHECK_STR(text, "fe80::");
	CHECK(!hf_address_text(&local, text, sizeof text));
	CHECK(!hf_address_text((struct sockaddr *)&v4, text, 4));
}

static bool allows(const char *network, const char *address)
{
	const char *networks[] = {"198.51.100.7", network};
	struct hf_list list = {networks, 2};
	struct hf_reach reach;
	struct hf_error err;
	const char *why;

	if (!CHECK(hf_reach_read(&reach, &list, &err)))
		return false;
	CHECK(!hf_address_refused("198.51.100.7", &reach));
	why = hf_address_refused(address, &reach);
	hf_reach_free(&reach);
	return !why;
}

static void what_is_in_an_allowed_network_is_not(void)
{
	CHECK(allows("127.0.0.0/8", "127.9.9.9"));
	CHECK(!allows("127.0.0.0/8", "10.0.0.1"));
	CHECK(!allows("127.0.0.0/8", "::1"));
	CHECK(allows("10.1.0.0/16", "10.1.255.255"));
	CHECK(!allows("10.1.0.0/16", "10.2.0.0"));
	CHECK(allows("10.0.0.0/9", "10.127.0.0") && !allows("10.0.0.0/9", "10.128.0.0"));
	CHECK(allows("10.1.2.3", "10.1.2.3") && !allows("10.1.2.3", "10.1.2.4"));
	CHECK(allows("169.254.169.254/32", "169.254.169.254"));
	CHECK(allows("fd00::/8", "fd00:ec2::254") && !allows("fd00::/8", "fc00::1"));
	CHECK(allows("::1", "::1") && !allows("::1", "::"));
	CHECK(allows("fe80::/10", "febf::1") && !allows("fe80::/10", "fec0::1"));
	/* whichever way it is written */
	CHECK(allows("10.0.0.0/8", "::ffff:10.1.2.3"));
	CHECK(allows("10.0.0.0/8", "64:ff9b::10.1.2.3"));
	CHECK(allows("::ffff:10.0.0.0/104", "10.1.2.3"));
	CHECK(allows("64:ff9b::/96", "64:ff9b::10.1.2.3") && !allows("64:ff9b::/96", "10.1.2.3"));
	/* all of one family is not all of the other */
	CHECK(allows("0.0.0.0/0", "10.1.2.3") && !allows("0.0.0.0/0", "fd00::1"));
	CHECK(allows("::/0", "fd00::1") && !allows("::/0", "10.1.2.3"));
}

static void what_is_no_network_is_named(void)
{
	const char *networks[] = {"10.0.0.0/8", "10.0.0.1/8"};
	struct hf_list list = {networks, 2};
	struct hf_reach reach;
	struct hf_error err;

	CHECK(!hf_reach_read(&reach, &list, &err));
	CHECK_INT(err.code, HF_INVALID);
	CHECK_HAS(err.message, "\"10.0.0.1/8\"");
	CHECK(!reach.allow && !reach.count);
	CHECK(hf_network_valid(networks[0]) && !hf_network_valid(networks[1]));
}

static void a_network_is_an_address_and_a_prefix_without_bits_behind_it(void)
{
	const char *good[] = {"0.0.0.0/0", "1.2.3.4", "1.2.3.4/32",
			      "::/0",	   "::1/128", "2001:db8::/32"};
	const char *bad[] = {"",
			     "/8",
			     "10.0.0.0/",
			     "10.0.0.0/33",
			     "10.0.0.0/-1",
			     "10.0.0.0/+8",
			     "10.0.0.0/08",
			     "10.0.0.0/8 ",
			     " 10.0.0.0/8",
			     "10.0.0.0/8/8",
			     "10.0.0.1/8",
			     "10/8",
			     "10.0.0/8",
			     "host/8",
			     "::/129",
			     "::/1280",
			     "::1/64",
			     "fe80::%1/64",
			     "2001:db9::/31",
			     "[::1]",
			     "1.2.3.4/999999999999",
			     "1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc:dddd/8"};

	for (size_t i = 0; i < CHECK_COUNT(good); i++)
		check_that(hf_network_valid(good[i]), good[i], 0, "is one");
	for (size_t i = 0; i < CHECK_COUNT(bad); i++)
		check_that(!hf_network_valid(bad[i]), bad[i], 0, "is none");
}

static const struct check_test tests[] = {
	TEST(what_is_not_public_is_refused),
	TEST(what_is_no_address_is_refused),
	TEST(an_address_has_a_text_unless_it_is_no_address),
	TEST(what_is_no_network_is_named),
	TEST(what_is_in_an_allowed_network_is_not),
	TEST(a_network_is_an_address_and_a_prefix_without_bits_behind_it),
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests, CHECK_COUNT(tests), NULL);
}
