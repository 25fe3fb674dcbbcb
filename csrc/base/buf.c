#include "base/buf.h"

#include "base/alloc.h"
#include "hf.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

void hf_buf_reset(struct hf_buf *buf)
{
	buf->len = 0;
	buf->failed = false;
	if (buf->data)
		buf->data[0] = '\0';
}

void hf_buf_cut(struct hf_buf *buf, size_t len)
{
	if (len >= buf->len)
		return;
	buf->len = len;
	buf->data[len] = '\0';
}

void hf_buf_free(struct hf_buf *buf)
{
	hf_free(buf->data);
	*buf = (struct hf_buf){0};
}

const char *hf_buf_text(const struct hf_buf *buf)
{
	return buf->data ? buf->data : "";
}

/* Makes room for len bytes and a NUL. */
static bool reserve(struct hf_buf *buf, size_t len)
{
	size_t size = buf->size ? buf->size : 128;
	char *data;

	if (buf->failed || len > SIZE_MAX / 4 - buf->len)
		return !(buf->failed = true);
	if (buf->len + len < buf->size)
		return true;
	while (size <= buf->len + len)
		size *= 2;
	data = hf_realloc(buf->data, size);
	if (!data)
		return !(buf->failed = true);
	buf->data = data;
	buf->size = size;
	return true;
}

bool hf_buf_add(struct hf_buf *buf, const void *data, size_t len)
{
	if (!reserve(buf, len))
		return false;
	if (len)
		memcpy(buf->data + buf->len, data, len);
	buf->len += len;
	buf->data[buf->len] = '\0';
	return true;
}

bool hf_buf_puts(struct hf_buf *buf, const char *text)
{
	return hf_buf_add(buf, text, strlen(text));
}

bool hf_buf_printf(struct hf_buf *buf, const char *format, ...)
{
	char text[129];
	va_list args;
	int len;

	va_start(args, format);
	len = vsnprintf(text, sizeof text, format, args);
	va_end(args);
	if (len < 0 || (size_t)len >= sizeof text)
		return !(buf->failed = true);
	return hf_buf_add(buf, text, (size_t)len);
}

static bool unreserved(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '-' || c == '.' || c == '_' || c == '~';
}

bool hf_buf_escape(struct hf_buf *buf, const char *text, const char *keep)
{
	for (; *text; text++) {
		if (unreserved(*text) || strchr(keep, *text))
			hf_buf_add(buf, text, 1);
		else
			hf_buf_printf(buf, "%%%02X", (unsigned)(unsigned char)*text);
	}
	return !buf->failed;
}

bool hf_buf_base64(struct hf_buf *buf, const void *data, size_t len)
{
	if (len > SIZE_MAX / 8 || !reserve(buf, HF_BASE64_ENCODED(len)))
		return !(buf->failed = true);
	buf->len += hf_base64_encode(data, len, buf->data + buf->len);
	buf->data[buf->len] = '\0';
	return true;
}

/* Whether a character stands for itself in a JSON string. */
static bool plain(unsigned char c)
{
	return c >= 0x20 && c != '"' && c != '\\';
}

bool hf_buf_json(struct hf_buf *buf, const char *text)
{
	size_t run;

	hf_buf_puts(buf, "\"");
	for (; *text; text += run) {
		for (run = 0; plain((unsigned char)text[run]);)
			run++;
		hf_buf_add(buf, text, run);
		if (run)
			continue;
		run = 1;
		if ((unsigned char)*text < 0x20)
			hf_buf_printf(buf, "\\u%04x", (unsigned)(unsigned char)*text);
		else
			hf_buf_printf(buf, "\\%c", *text);
	}
	return hf_buf_puts(buf, "\"");
}
