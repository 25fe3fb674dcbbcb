/* test_sign.c: what signatures are made of, checked with the vectors of the documents that define
 * it: RFC 4231 (HMAC), RFC 8032 (Ed25519), RFC 4648 (base64). */
#include "check.h"
#include "hf.h"

static size_t unhex(const char *text, unsigned char *out)
{
	size_t n = 0;
	unsigned byte;

	for (; sscanf(text, "%2x", &byte) == 1; text += 2)
		out[n++] = (unsigned char)byte;
	return n;
}

static void hmac(const char *key, const char *data, const char *want)
{
	unsigned char k[200], d[200], w[HF_HMAC_LEN], got[HF_HMAC_LEN];
	size_t key_len = unhex(key, k), len = unhex(data, d);

	CHECK_INT(unhex(want, w), HF_HMAC_LEN);
	CHECK(hf_hmac_sha256(k, key_len, d, len, got));
	CHECK(!memcmp(got, w, sizeof w));
}

static void hmac_agrees_with_rfc_4231(void)
{
	char long_key[2 * 131 + 1];

	hmac("0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b", "4869205468657265",
	     "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
	hmac("4a656665", "7768617420646f2079612077616e7420666f72206e6f7468696e673f",
	     "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
	memset(long_key, 'a', sizeof long_key - 1);
	long_key[sizeof long_key - 1] = '\0';
	hmac(long_key,
	     "54657374205573696e67204c6172676572205468616e20426c6f636b2d53697a"
	     "65204b6579202d2048617368204b6579204669727374",
	     "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

static void hmac_of_nothing_is_made(void)
{
	hmac("00", "", "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

struct ed25519 {
	const char *seed, *pub, *data, *signature;
};

static const struct ed25519 vectors[] = {
	{"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
	 "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
	 "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
	 "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"},
	{"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
	 "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
	 "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
	 "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"},
	{"c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
	 "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
	 "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
	 "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"},
};

static void ed25519_signs_as_in_rfc_8032(void)
{
	for (size_t i = 0; i < CHECK_COUNT(vectors); i++) {
		unsigned char seed[32], data[8], want[64], got[64];
		size_t len = unhex(vectors[i].data, data);

		unhex(vectors[i].seed, seed);
		CHECK_INT(unhex(vectors[i].signature, want), 64);
		CHECK(hf_ed25519_sign(seed, data, len, got));
		CHECK(!memcmp(got, want, 64));
	}
}

static void ed25519_verifies_what_is_signed_and_nothing_else(void)
{
	for (size_t i = 0; i < CHECK_COUNT(vectors); i++) {
		unsigned char pub[32], data[8] = {0}, signature[64];
		size_t len = unhex(vectors[i].data, data);

		unhex(vectors[i].pub, pub);
		unhex(vectors[i].signature, signature);
		CHECK(hf_ed25519_verify(pub, data, len, signature));
		CHECK(!hf_ed25519_verify(pub, data, len + 1, signature));
		signature[5] ^= 1;
		CHECK(!hf_ed25519_verify(pub, data, len, signature));
		signature[5] ^= 1;
		pub[7] ^= 1;
		CHECK(!hf_ed25519_verify(pub, data, len, signature));
	}
}

static void equal_compares_every_byte(void)
{
	char a[] = "abcdefgh", b[] = "abcdefgh";

	CHECK(hf_equal(a, b, 8));
	for (size_t i = 0; i < 8; i++) {
		b[i] ^= 0x40;
		CHECK(!hf_equal(a, b, 8));
		b[i] ^= 0x40;
	}
	CHECK(hf_equal(a, "x", 0));
}

static void random_bytes_differ(void)
{
	unsigned char a[32] = {0}, b[32] = {0};

	CHECK(hf_random(a, sizeof a) && hf_random(b, sizeof b));
	CHECK(memcmp(a, b, sizeof a) != 0);
	CHECK(hf_random(a, 0));
}

static void encodes(const char *data, const char *want)
{
	char got[100];
	size_t len = hf_base64_encode(data, strlen(data), got);

	CHECK_INT(len, HF_BASE64_ENCODED(strlen(data)));
	got[len] = '\0';
	CHECK_STR(got, want);
}

static void base64_encodes_as_in_rfc_4648(void)
{
	encodes("", "");
	encodes("f", "Zg==");
	encodes("fo", "Zm8=");
	encodes("foo", "Zm9v");
	encodes("foob", "Zm9vYg==");
	encodes("fooba", "Zm9vYmE=");
	encodes("foobar", "Zm9vYmFy");
	encodes("\xfb\xff\xbf", "+/+/");
}

static bool decodes(const char *text, const char *want)
{
	unsigned char got[100];
	size_t len = 99;

	return hf_base64_decode(text, strlen(text), got, &len) && len == strlen(want) &&
	       !memcmp(got, want, len);
}

static void base64_decodes_as_in_rfc_4648(void)
{
	CHECK(decodes("", ""));
	CHECK(decodes("Zg==", "f"));
	CHECK(decodes("Zm8=", "fo"));
	CHECK(decodes("Zm9v", "foo"));
	CHECK(decodes("Zm9vYmFy", "foobar"));
	CHECK(decodes("+/+/", "\xfb\xff\xbf"));
}

static void base64_does_without_padding_and_ignores_left_over_bits(void)
{
	CHECK(decodes("Zg", "f"));
	CHECK(decodes("Zm8", "fo"));
	CHECK(decodes("Zh==", "f"));
}

static void base64_refuses_anything_else(void)
{
	static const char *const texts[] = {
		"Z",	"Zg===",    "=",    "====",   "Zm9vY",	  "Zm 9v",    "Zm9v\n",
		"Zm-_", "Zg==Zg==", "Z===", "Zm9v=a", "\xc3\xa4", "Zm9v====", "Zm=v"};
	unsigned char got[100];
	size_t len;

	for (size_t i = 0; i < CHECK_COUNT(texts); i++)
		check_that(!hf_base64_decode(texts[i], strlen(texts[i]), got, &len), __FILE__,
			   __LINE__, texts[i]);
	CHECK(!hf_base64_decode("Zm\0v", 4, got, &len));
}

static void base64_goes_there_and_back_at_every_length(void)
{
	unsigned char data[200], back[203];
	char text[HF_BASE64_ENCODED(200)];

	for (size_t i = 0; i < sizeof data; i++)
		data[i] = (unsigned char)(i * 37 + 200);
	for (size_t len = 0; len <= sizeof data; len++) {
		size_t encoded = hf_base64_encode(data, len, text), decoded;

		REQUIRE(encoded == HF_BASE64_ENCODED(len));
		REQUIRE(hf_base64_decode(text, encoded, back, &decoded));
		REQUIRE(decoded == len && !memcmp(back, data, len));
	}
}

static const struct check_test tests[] = {
	TEST(hmac_agrees_with_rfc_4231),
	TEST(hmac_of_nothing_is_made),
	TEST(ed25519_signs_as_in_rfc_8032),
	TEST(ed25519_verifies_what_is_signed_and_nothing_else),
	TEST(equal_compares_every_byte),
	TEST(random_bytes_differ),
	TEST(base64_encodes_as_in_rfc_4648),
	TEST(base64_decodes_as_in_rfc_4648),
	TEST(base64_does_without_padding_and_ignores_left_over_bits),
	TEST(base64_refuses_anything_else),
	TEST(base64_goes_there_and_back_at_every_length),
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests, CHECK_COUNT(tests), NULL);
}
