#include "base/json.h"

#include "base/buf.h"

#include <cjson/cJSON.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define EXACT_DIGITS 15
#define EXACT_MAX 9007199254740992.0 /* 2^53 */
/* What a string begins with that was a long integer. No text does: it is not UTF-8. */
#define MARK "\xff"
#define NUL_ESCAPE "\\u0000"

static size_t digits(const char *text, size_t len)
{
	size_t n = 0;

	while (n < len && text[n] >= '0' && text[n] <= '9')
		n++;
	return n;
}

/* The length of the string that begins at text, with its quotes. */
static size_t quoted(const char *text, size_t len)
{
	const char *at = text + 1, *end = text + len, *quote;
	size_t backslashes;

	for (; at < end && (quote = memchr(at, '"', (size_t)(end - at))); at = quote + 1) {
		for (backslashes = 0; quote[-1 - (ptrdiff_t)backslashes] == '\\';)
			backslashes++;
		if (backslashes % 2 == 0)
			return (size_t)(quote - text) + 1;
	}
	return len;
}

/* The length of the number that begins at text. */
static size_t number(const char *text, size_t len)
{
	size_t n = 1;

	while (n < len && text[n] && strchr("0123456789+-.eE", text[n]))
		n++;
	return n;
}

static bool long_integer(const char *text, size_t len)
{
	size_t sign = *text == '-';

	return len - sign > EXACT_DIGITS && digits(text + sign, len - sign) == len - sign;
}

/* Puts long integers into marked strings. What is between two of them is copied in one go. */
static bool mark_long_integers(struct hf_buf *out, const char *text, size_t len)
{
	size_t n, copied = 0;

	for (size_t i = 0; i < len; i += n) {
		n = 1;
		if (text[i] == '"') {
			n = quoted(text + i, len - i);
		} else if (text[i] == '-' || (text[i] >= '0' && text[i] <= '9')) {
			n = number(text + i, len - i);
			if (!long_integer(text + i, n))
				continue;
			hf_buf_add(out, text + copied, i - copied);
			hf_buf_puts(out, "\"" MARK);
			hf_buf_add(out, text + i, n);
			hf_buf_puts(out, "\"");
			copied = i + n;
		}
	}
	return hf_buf_add(out, text + copied, len - copied);
}

/* A backslash is only to be found in strings, so whether one is meant is all there is to see. */
static void replace_nul(char *text, size_t len)
{
	const size_t size = sizeof NUL_ESCAPE - 1;
	char *end = text + len, *at = text;

	while ((at = memmem(at, (size_t)(end - at), NUL_ESCAPE, size)) != NULL) {
		char *first = at;

		while (first > text && first[-1] == '\\')
			first--;
		if ((at - first) % 2 == 0)
			memcpy(at, "\\ufffd", size);
		at += size;
	}
}

struct cJSON *hf_json_parse(const char *text, size_t len)
{
	struct hf_buf buf = {0};
	struct cJSON *json = NULL;

	if (len && mark_long_integers(&buf, text, len)) {
		replace_nul(buf.data, buf.len);
		json = cJSON_ParseWithLengthOpts(buf.data, buf.len + 1, NULL, 1);
	}
	hf_buf_free(&buf);
	return json;
}

void hf_json_free(struct cJSON *json)
{
	cJSON_Delete(json);
}

const struct cJSON *hf_json_item(const struct cJSON *array, size_t index)
{
	return cJSON_IsArray(array) ? cJSON_GetArrayItem(array, (int)index) : NULL;
}

const struct cJSON *hf_json_field(const struct cJSON *object, const char *name)
{
	return cJSON_IsObject(object) ? cJSON_GetObjectItemCaseSensitive(object, name) : NULL;
}

const struct cJSON *hf_json_members(const struct cJSON *of)
{
	return cJSON_IsArray(of) || cJSON_IsObject(of) ? of->child : NULL;
}

bool hf_json_is_array(const struct cJSON *json)
{
	return cJSON_IsArray(json);
}

/* The digits of a long integer, NULL when it is something else. */
static const char *integer(const struct cJSON *json)
{
	const char *text = cJSON_GetStringValue(json);

	return text && *text == *MARK ? text + 1 : NULL;
}

const char *hf_json_text(const struct cJSON *json)
{
	return integer(json) ? NULL : cJSON_GetStringValue(json);
}

bool hf_json_u64(const struct cJSON *json, uint64_t *out)
{
	const char *text = integer(json);
	double value;

	if (text) {
		errno = 0;
		*out = strtoull(text, NULL, 10);
		return errno == 0 && *text != '-';
	}
	if (!cJSON_IsNumber(json))
		return false;
	value = cJSON_GetNumberValue(json);
	if (!(value >= 0 && value <= EXACT_MAX))
		return false;
	*out = (uint64_t)value;
	return (double)*out == value;
}

/* ---- all of it ---- */

static enum hf_json_kind kind_of(const struct cJSON *json)
{
	if (cJSON_IsString(json))
		return integer(json) ? HF_JSON_INTEGER : HF_JSON_STRING;
	return cJSON_IsNumber(json)   ? HF_JSON_NUMBER
	       : cJSON_IsArray(json)  ? HF_JSON_ARRAY
	       : cJSON_IsObject(json) ? HF_JSON_OBJECT
	       : cJSON_IsTrue(json)   ? HF_JSON_TRUE
	       : cJSON_IsFalse(json)  ? HF_JSON_FALSE
				      : HF_JSON_NULL;
}

void hf_json_look(const struct cJSON *json, struct hf_json_value *out)
{
	enum hf_json_kind kind = kind_of(json);

	*out = (struct hf_json_value){
		.kind = kind,
		.number = kind == HF_JSON_NUMBER ? json->valuedouble : 0,
		.text = kind == HF_JSON_INTEGER ? integer(json) : hf_json_text(json),
		.first = json->child,
	};
}

const struct cJSON *hf_json_next(const struct cJSON *json)
{
	return json->next;
}

const char *hf_json_name(const struct cJSON *json)
{
	return json->string;
}

/* ---- writing ---- */

/* The length of the UTF-8 character at text (RFC 3629, section 4), 0 when there is none. */
static size_t character(const unsigned char *text, size_t len)
{
	unsigned char c = *text, least = 0x80, most = 0xbf;
	size_t n = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;

	if (n <= 1 || n > len)
		return n <= len ? n : 0;
	if (c == 0xe0)
		least = 0xa0;
	else if (c == 0xed)
		most = 0x9f;
	else if (c == 0xf0)
		least = 0x90;
	else if (c == 0xf4)
		most = 0x8f;
	if (text[1] < least || text[1] > most)
		return 0;
	for (size_t i = 2; i < n; i++)
		if ((text[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

static size_t escape(unsigned char c, char *out)
{
	if (c == '"' || c == '\\') {
		out[0] = '\\';
		out[1] = (char)c;
		return 2;
	}
	memcpy(out, "\\u00", 4);
	out[4] = "0123456789abcdef"[c >> 4];
	out[5] = "0123456789abcdef"[c & 15];
	return 6;
}

size_t hf_json_quote(const char *text, size_t len, char *out)
{
	size_t n, written = 0;

	out[written++] = '"';
	for (size_t i = 0; i < len; i += n) {
		unsigned char c = (unsigned char)text[i];

		n = character((const unsigned char *)text + i, len - i);
		if (!n)
			return 0;
		if (c < 0x20 || c == '"' || c == '\\') {
			written += escape(c, out + written);
			continue;
		}
		memcpy(out + written, text + i, n);
		written += n;
	}
	out[written++] = '"';
	return written;
}
