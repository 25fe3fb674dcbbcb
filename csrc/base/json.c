#include "base/json.h"

#include "base/buf.h"

#include <cjson/cJSON.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define EXACT_DIGITS 15
#define EXACT_MAX 9007199254740992.0 /* 2^53 */

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

/* Whether n digits at text are a long integer by themselves, not a part of 1.5, 1e20 or -7. */
static bool long_integer(const char *text, size_t n, size_t len, char before)
{
	char after = n < len ? text[n] : '\0';

	return n > EXACT_DIGITS && !(after && strchr(".eE", after)) && !strchr("+-.eE", before);
}

/* What is between two long integers is copied in one go. */
static bool quote_long_integers(struct hf_buf *out, const char *text, size_t len)
{
	size_t n, copied = 0;

	for (size_t i = 0; i < len; i += n) {
		n = 1;
		if (text[i] == '"') {
			n = quoted(text + i, len - i);
		} else if (text[i] >= '0' && text[i] <= '9') {
			n = digits(text + i, len - i);
			if (!long_integer(text + i, n, len - i, i ? text[i - 1] : ' '))
				continue;
			hf_buf_add(out, text + copied, i - copied);
			hf_buf_add(out, "\"", 1);
			hf_buf_add(out, text + i, n);
			hf_buf_add(out, "\"", 1);
			copied = i + n;
		}
	}
	return hf_buf_add(out, text + copied, len - copied);
}

struct cJSON *hf_json_parse(const char *text, size_t len)
{
	struct hf_buf buf = {0};
	struct cJSON *json = NULL;

	if (len && quote_long_integers(&buf, text, len))
		json = cJSON_ParseWithLengthOpts(buf.data, buf.len + 1, NULL, 1);
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

bool hf_json_is_array(const struct cJSON *json)
{
	return cJSON_IsArray(json);
}

const char *hf_json_text(const struct cJSON *json)
{
	return cJSON_GetStringValue(json);
}

bool hf_json_u64(const struct cJSON *json, uint64_t *out)
{
	const char *text = cJSON_GetStringValue(json);
	double number;

	if (text) {
		size_t len = strlen(text);

		if (len <= EXACT_DIGITS || digits(text, len) != len)
			return false;
		errno = 0;
		*out = strtoull(text, NULL, 10);
		return errno == 0;
	}
	if (!cJSON_IsNumber(json))
		return false;
	number = cJSON_GetNumberValue(json);
	if (!(number >= 0 && number <= EXACT_MAX))
		return false;
	*out = (uint64_t)number;
	return (double)*out == number;
}
