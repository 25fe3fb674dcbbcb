#include "net/sockets.h"

#include "base/heap.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENTS 64 /* taken at a time; the rest keeps the descriptor readable */

/* A socket that cannot be watched for want of memory says nothing, and its request has a timeout.
 */
static void watch(int epoll, int fd, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.fd = fd};

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 && errno == EEXIST)
		epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *own)
{
	struct hf_sockets *sockets = arg;
	struct epoll_event event = {.data.fd = fd};

	(void)easy, (void)own;
	if (what == CURL_POLL_REMOVE) {
		/* One that was not connected yet has been closed before. By now its number may be
		 * somebody else's, who is not in there. */
		epoll_ctl(sockets->fd, EPOLL_CTL_DEL, fd, &event);
		return 0;
	}
	watch(sockets->fd, fd,
	      (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0));
	return 0;
}

/* libcurl looks at a clock of its own, and does not ask again when it is called early: the clock is
 * read in whole milliseconds, rounded down. */
static int on_timer(CURLM *multi, long ms, void *arg)
{
	struct hf_sockets *sockets = arg;

	(void)multi;
	sockets->due = ms < 0 ? HF_NEVER : ms == 0 ? 0 : hf_now() + ms + 1;
	return 0;
}

bool hf_sockets_open(struct hf_sockets *sockets)
{
	struct epoll_event event = {.events = EPOLLIN};

	sockets->fd = epoll_create1(EPOLL_CLOEXEC);
	if (sockets->fd < 0)
		goto err0;
	sockets->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (sockets->bell < 0)
		goto err1;
	event.data.fd = sockets->bell;
	if (epoll_ctl(sockets->fd, EPOLL_CTL_ADD, sockets->bell, &event) < 0)
		goto err2;
	return true;
err2:
	close(sockets->bell);
err1:
	close(sockets->fd);
err0:
	return false;
}

void hf_sockets_serve(struct hf_sockets *sockets, CURLM *multi)
{
	sockets->due = HF_NEVER;
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, sockets);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(multi, CURLMOPT_TIMERDATA, sockets);
}

void hf_sockets_close(struct hf_sockets *sockets)
{
	if (sockets->fd < 0)
		return;
	close(sockets->bell);
	close(sockets->fd);
	sockets->fd = -1;
}

void hf_sockets_ring(struct hf_sockets *sockets)
{
	eventfd_write(sockets->bell, 1);
}

static bool answer_bell(struct hf_sockets *sockets)
{
	eventfd_t ignored;

	eventfd_read(sockets->bell, &ignored);
	return true;
}

static bool act(CURLM *multi, const struct epoll_event *event)
{
	int running, what = 0;

	if (event->events & EPOLLIN)
		what |= CURL_CSELECT_IN;
	if (event->events & EPOLLOUT)
		what |= CURL_CSELECT_OUT;
	if (event->events & (EPOLLERR | EPOLLHUP))
		what |= CURL_CSELECT_ERR;
	return curl_multi_socket_action(multi, event->data.fd, what, &running) == CURLM_OK;
}

bool hf_sockets_work(struct hf_sockets *sockets, CURLM *multi, bool look, bool *rang)
{
	struct epoll_event events[EVENTS];
	int n = look ? epoll_wait(sockets->fd, events, EVENTS, 0) : 0, running;
	bool ok = true;

	*rang = false;
	for (int i = 0; i < n; i++) {
		if (events[i].data.fd == sockets->bell)
			*rang = answer_bell(sockets);
		else
			ok &= act(multi, &events[i]);
	}
	if (sockets->due <= hf_now()) {
		sockets->due = HF_NEVER;
		ok &= !curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
	}
	return ok;
}
