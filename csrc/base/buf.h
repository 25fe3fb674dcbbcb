/* buf.h: a growing byte buffer. When memory runs out it remembers that (failed) and takes nothing
 * more, so that a text can be written whole and checked once. Owned by one thread at a time. */
#ifndef HF_BUF_H
#define HF_BUF_H

#include <stdbool.h>
#include <stddef.h>

struct hf_buf {
	char *data; /* NUL-terminated when not NULL */
	size_t len, size;
	bool failed;
};

/* Empties it and forgets a failure; keeps its memory. */
void hf_buf_reset(struct hf_buf *buf);
/* Takes off what comes after the first len bytes. */
void hf_buf_cut(struct hf_buf *buf, size_t len);
/* Frees its memory and leaves it empty. */
void hf_buf_free(struct hf_buf *buf);
/* What is in it as a C string, "" when nothing is. */
const char *hf_buf_text(const struct hf_buf *buf);

bool hf_buf_add(struct hf_buf *buf, const void *data, size_t len);
bool hf_buf_puts(struct hf_buf *buf, const char *text);
/* Short texts only (numbers, names): at most 128 bytes come through. */
bool hf_buf_printf(struct hf_buf *buf, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* Percent-encodes everything but unreserved characters and those in keep. */
bool hf_buf_escape(struct hf_buf *buf, const char *text, const char *keep);
bool hf_buf_base64(struct hf_buf *buf, const void *data, size_t len);
/* Writes a JSON string with its quotes. Bytes above 127 are copied as they are. */
bool hf_buf_json(struct hf_buf *buf, const char *text);

#endif
