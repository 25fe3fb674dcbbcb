#include "net/sockets.h"

#include "base/heap.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define EVENTS 64 /* taken at a time; the rest keeps the descriptor readable */
#define BELL UINT64_MAX

/* A socket that cannot be watched for want of memory says nothing, and its request has a timeout.
 */
static void watch(int epoll, int fd, uint64_t pool, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.u64 = pool << 32 | (uint32_t)fd};

	if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 && errno == EEXIST)
		epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *own)
{
	struct hf_tap *tap = arg;
	struct hf_sockets *sockets = tap->sockets;
	struct epoll_event event;

	(void)easy, (void)own;
	if (what == CURL_POLL_REMOVE) {
		/* One that was not connected yet has been closed before. By now its number may be
		 * somebody else's, who is not in there. */
		epoll_ctl(sockets->fd, EPOLL_CTL_DEL, fd, &event);
		return 0;
	}
	watch(sockets->fd, fd, (uint64_t)(tap - sockets->taps),
	      (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0));
	return 0;
}

/* libcurl looks at a clock of its own, and does not ask again when it is called early: the clock is
 * read in whole milliseconds, rounded down. */
static int on_timer(CURLM *multi, long ms, void *arg)
{
	struct hf_tap *tap = arg;

	(void)multi;
	tap->due = ms < 0 ? HF_NEVER : ms == 0 ? 0 : hf_now() + ms + 1;
	return 0;
}

bool hf_sockets_open(struct hf_sockets *sockets)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = BELL};

	for (int i = 0; i < HF_POOLS; i++)
		sockets->taps[i] = (struct hf_tap){sockets, HF_NEVER};
	sockets->fd = epoll_create1(EPOLL_CLOEXEC);
	if (sockets->fd < 0)
		goto err0;
	sockets->bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (sockets->bell < 0)
		goto err1;
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

void hf_sockets_serve(struct hf_sockets *sockets, enum hf_pool pool, CURLM *multi)
{
	struct hf_tap *tap = &sockets->taps[pool];

	tap->due = HF_NEVER;
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, tap);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(multi, CURLMOPT_TIMERDATA, tap);
}

int64_t hf_sockets_due(const struct hf_sockets *sockets)
{
	int64_t due = HF_NEVER;

	for (int i = 0; i < HF_POOLS; i++)
		due = sockets->taps[i].due < due ? sockets->taps[i].due : due;
	return due;
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

static bool act(CURLM *const pools[HF_POOLS], const struct epoll_event *event)
{
	CURLM *multi = pools[event->data.u64 >> 32];
	int fd = (int)(uint32_t)event->data.u64, running, what = 0;

	if (event->events & EPOLLIN)
		what |= CURL_CSELECT_IN;
	if (event->events & EPOLLOUT)
		what |= CURL_CSELECT_OUT;
	if (event->events & (EPOLLERR | EPOLLHUP))
		what |= CURL_CSELECT_ERR;
	return curl_multi_socket_action(multi, fd, what, &running) == CURLM_OK;
}

static bool look_at_clock(struct hf_tap *tap, CURLM *multi)
{
	int running;

	if (tap->due > hf_now())
		return true;
	tap->due = HF_NEVER;
	return curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running) == CURLM_OK;
}

bool hf_sockets_work(struct hf_sockets *sockets, CURLM *const pools[HF_POOLS], bool look,
		     bool *rang)
{
	struct epoll_event events[EVENTS];
	int n = look ? epoll_wait(sockets->fd, events, EVENTS, 0) : 0;
	bool ok = true;

	*rang = false;
	for (int i = 0; i < n; i++) {
		if (events[i].data.u64 == BELL)
			*rang = answer_bell(sockets);
		else
			ok &= act(pools, &events[i]);
	}
	for (int i = 0; i < HF_POOLS; i++)
		ok &= look_at_clock(&sockets->taps[i], pools[i]);
	return ok;
}
