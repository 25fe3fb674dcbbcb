/* sockets.h: what an engine waits for from outside, behind one descriptor: libcurl's sockets, and a
 * bell that any thread may ring. And when libcurl wants to be asked again. */
#ifndef HF_SOCKETS_H
#define HF_SOCKETS_H

#include "net/http.h"

/* What shares connections is in one pool, which is a multi handle of libcurl. */
enum hf_pool { HF_APART, HF_TOGETHER, HF_POOLS };

struct hf_sockets {
	int fd; /* readable while there is something to do; an epoll(7) */
	int bell; /* an eventfd in there */
	struct hf_tap {
		struct hf_sockets *sockets;
		int64_t due; /* whoever has the turn: when libcurl wants to be asked anyway */
	} taps[HF_POOLS];
};

/* Makes the descriptors. False when there are none to be had. */
bool hf_sockets_open(struct hf_sockets *sockets);
/* Has libcurl say what it waits for in a pool, from now on. */
void hf_sockets_serve(struct hf_sockets *sockets, enum hf_pool pool, CURLM *multi);
/* When it wants to be asked anyway. */
int64_t hf_sockets_due(const struct hf_sockets *sockets);
/* Closes them, once; fd is -1 then. libcurl must have no use for them any more. */
void hf_sockets_close(struct hf_sockets *sockets);
/* Makes the descriptor readable. Any thread. */
void hf_sockets_ring(struct hf_sockets *sockets);
/* Lets libcurl work on what has happened; look: also at the sockets, which whoever has slept should
 * do. *rang: the bell did; it is silent again. Answers false when libcurl has run out of memory:
 * then there are requests that it will not go on with. */
bool hf_sockets_work(struct hf_sockets *sockets, CURLM *const pools[HF_POOLS], bool look,
		     bool *rang);

#endif
