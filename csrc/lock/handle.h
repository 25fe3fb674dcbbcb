/* handle.h: a session as an object of the user's: one of the client's sessions, made by itself and
 * kept until it is destroyed, or the object and all locks that use it are gone. */
#ifndef HF_HANDLE_H
#define HF_HANDLE_H

#include "lock/session.h"

/* Any thread: one more whose end it waits for (hf_handle_drop gives that back). */
void hf_handle_keep(struct hf_handle *handle);
/* The session, NULL before there has been one. Lives as long as the handle. */
struct hf_session *hf_handle_session(struct hf_handle *handle);

#endif
