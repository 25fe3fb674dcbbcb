/* sign.c: the only user of libcrypto. */
#include "hf.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <limits.h>
#include <string.h>

bool hf_hmac_sha256(const void *key, size_t key_len, const void *data, size_t len,
		    unsigned char out[HF_HMAC_LEN])
{
	unsigned int out_len = 0;

	return key_len <= INT_MAX &&
	       HMAC(EVP_sha256(), key, (int)key_len, data, len, out, &out_len) != NULL &&
	       out_len == HF_HMAC_LEN;
}

bool hf_ed25519_sign(const unsigned char seed[HF_ED25519_SEED_LEN], const void *data, size_t len,
		     unsigned char out[HF_ED25519_SIGNATURE_LEN])
{
	size_t out_len = HF_ED25519_SIGNATURE_LEN;
	EVP_PKEY *key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed,
						     HF_ED25519_SEED_LEN);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool ok = key && ctx && EVP_DigestSignInit(ctx, NULL, NULL, NULL, key) == 1 &&
		  EVP_DigestSign(ctx, out, &out_len, data, len) == 1;

	EVP_MD_CTX_free(ctx);
	EVP_PKEY_free(key);
	return ok;
}

bool hf_ed25519_verify(const unsigned char pub[HF_ED25519_PUBLIC_LEN], const void *data, size_t len,
		       const unsigned char sig[HF_ED25519_SIGNATURE_LEN])
{
	EVP_PKEY *key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, pub,
						    HF_ED25519_PUBLIC_LEN);
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool ok = key && ctx && EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, key) == 1 &&
		  EVP_DigestVerify(ctx, sig, HF_ED25519_SIGNATURE_LEN, data, len) == 1;

	EVP_MD_CTX_free(ctx);
	EVP_PKEY_free(key);
	return ok;
}

bool hf_equal(const void *a, const void *b, size_t len)
{
	return CRYPTO_memcmp(a, b, len) == 0;
}

/* EVP_EncodeBlock counts in int and writes a NUL behind the text, so it is fed in pieces: 48
 * bytes give 64 characters, and only the last piece can have padding. */
size_t hf_base64_encode(const void *data, size_t len, char *out)
{
	const unsigned char *in = data;
	unsigned char piece[65];
	size_t written = 0;

	while (len) {
		size_t n = len < 48 ? len : 48;
		int made = EVP_EncodeBlock(piece, in, (int)n);

		memcpy(out + written, piece, (size_t)made);
		written += (size_t)made;
		in += n;
		len -= n;
	}
	return written;
}

static int sextet(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* EVP_DecodeBlock strips blanks, counts padding as data and needs whole quads; a secret or a
 * signature must not be read that loosely, so decoding is done here. */
bool hf_base64_decode(const char *text, size_t len, unsigned char *out, size_t *out_len)
{
	uint32_t bits = 0;
	unsigned int have = 0;
	size_t n = 0;

	if (len % 4 == 0 && len > 0 && text[len - 1] == '=')
		len--;
	if (len % 4 == 3 && text[len - 1] == '=')
		len--;
	if (len % 4 == 1)
		return false;
	for (size_t i = 0; i < len; i++) {
		int value = sextet(text[i]);

		if (value < 0)
			return false;
		bits = bits << 6 | (uint32_t)value;
		have += 6;
		if (have >= 8) {
			have -= 8;
			out[n++] = (unsigned char)(bits >> have);
			bits &= (1u << have) - 1;
		}
	}
	*out_len = n;
	return true;
}
