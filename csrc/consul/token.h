/* token.h: a file with an ACL token in it. */
#ifndef HF_TOKEN_H
#define HF_TOKEN_H

#include "base/buf.h"

/* Puts the token that a file holds, without the space around it, into an empty buffer. False when
 * the file cannot be read now, or holds none: whoever writes it may be in the middle of that. */
bool hf_token_read(const char *path, struct hf_buf *token);

#endif
