/* set.c: ops that one thread waits for together. It drives all their engines; of one that somebody
 * else drives it sleeps on a descriptor instead. */
#include "net/drive.h"

#include "base/alloc.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define ON_STACK 64

/* What a set knows of one engine. */
struct hf_seat {
	struct hf_engine *engine; /* counted by its ops */
	struct hf_link waiting, finished; /* engine's lock: struct hf_op.seated; each counted */
	size_t count; /* in both lists */
	int64_t due; /* when the next turn is */
	bool drives; /* it is this thread that does, now */
	int fd; /* engine's lock: rings when one of them finishes; -1: not asked for yet */
};

struct hf_set {
	struct hf_seat **seats;
	size_t count, room;
};

void hf_seat_finished_locked(struct hf_op *op)
{
	hf_link_remove(&op->seated);
	hf_link_append(&op->seat->finished, &op->seated);
	if (op->seat->fd >= 0)
		eventfd_write(op->seat->fd, 1);
}

struct hf_set *hf_set_new(void)
{
	return hf_calloc(1, sizeof(struct hf_set));
}

static struct hf_seat *add_seat(struct hf_set *set, struct hf_engine *engine)
{
	size_t room = set->room ? set->room * 2 : 4;
	struct hf_seat **more, *seat;

	if (set->count == set->room) {
		more = hf_realloc(set->seats, room * sizeof(*more));
		if (!more)
			return NULL;
		set->seats = more;
		set->room = room;
	}
	seat = hf_calloc(1, sizeof *seat);
	if (!seat)
		return NULL;
	seat->engine = engine;
	seat->fd = -1;
	hf_link_init(&seat->waiting);
	hf_link_init(&seat->finished);
	set->seats[set->count++] = seat;
	return seat;
}

static struct hf_seat *find_seat(const struct hf_set *set, const struct hf_engine *engine)
{
	for (size_t i = 0; i < set->count; i++)
		if (set->seats[i]->engine == engine)
			return set->seats[i];
	return NULL;
}

static void put_seat(struct hf_set *set, struct hf_seat *seat)
{
	size_t i = 0;

	if (--seat->count)
		return;
	while (set->seats[i] != seat)
		i++;
	set->seats[i] = set->seats[--set->count];
	if (seat->fd >= 0)
		close(seat->fd);
	hf_free(seat);
}

enum hf_err hf_set_add(struct hf_set *set, struct hf_op *op, struct hf_error *err)
{
	struct hf_engine *engine = op->engine;
	struct hf_seat *seat;

	if (!hf_engine_here(engine, err))
		return err->code;
	seat = find_seat(set, engine);
	if (!seat)
		seat = add_seat(set, engine);
	if (!seat)
		return hf_err_set(err, HF_NOMEM, "out of memory");
	pthread_mutex_lock(&engine->mutex);
	if (!op->seat) {
		hf_op_ref(op);
		op->seat = seat;
		seat->count++;
		hf_link_append(op->done ? &seat->finished : &seat->waiting, &op->seated);
	}
	pthread_mutex_unlock(&engine->mutex);
	return HF_OK;
}

static void take_off(struct hf_set *set, struct hf_op *op)
{
	struct hf_seat *seat = op->seat;
	struct hf_engine *engine = op->engine;

	pthread_mutex_lock(&engine->mutex);
	hf_link_remove(&op->seated);
	op->seat = NULL;
	pthread_mutex_unlock(&engine->mutex);
	put_seat(set, seat);
	hf_op_unref(op);
}

void hf_set_remove(struct hf_set *set, struct hf_op *op)
{
	if (hf_engine_here(op->engine, NULL) && op->seat && find_seat(set, op->engine) == op->seat)
		take_off(set, op);
}

static struct hf_op *first(struct hf_seat *seat, const struct hf_link *list)
{
	struct hf_link *link;

	pthread_mutex_lock(&seat->engine->mutex);
	link = hf_link_first(list);
	pthread_mutex_unlock(&seat->engine->mutex);
	return link ? HF_OF(struct hf_op, seated, link) : NULL;
}

const void *hf_set_next(struct hf_set *set)
{
	for (size_t i = 0; i < set->count; i++) {
		struct hf_seat *seat = set->seats[i];
		struct hf_op *op;

		op = hf_engine_here(seat->engine, NULL) ? first(seat, &seat->finished) : NULL;
		if (!op)
			continue;
		take_off(set, op);
		return op;
	}
	return NULL;
}

static bool any_finished(const struct hf_set *set)
{
	for (size_t i = 0; i < set->count; i++)
		if (first(set->seats[i], &set->seats[i]->finished))
			return true;
	return false;
}

/* What tells of a finish in somebody else's turn. */
static int demand_fd(struct hf_seat *seat, struct hf_error *err)
{
	int fd;

	pthread_mutex_lock(&seat->engine->mutex);
	fd = hf_fd_demand_locked(&seat->fd, false, err);
	pthread_mutex_unlock(&seat->engine->mutex);
	return fd;
}

static void enter_all(struct hf_set *set, struct pollfd *fds, struct hf_error *err)
{
	for (size_t i = 0; i < set->count; i++) {
		struct hf_seat *seat = set->seats[i];

		fds[i] = (struct pollfd){.events = POLLIN};
		seat->drives = hf_drive_enter(seat->engine, &fds[i].fd);
		if (!seat->drives)
			fds[i].fd = demand_fd(seat, err);
	}
}

static void leave_all(struct hf_set *set)
{
	for (size_t i = 0; i < set->count; i++)
		if (set->seats[i]->drives)
			hf_drive_leave(set->seats[i]->engine);
}

/* What there is to do where the descriptor is readable, or the time has come. */
static void serve(struct hf_seat *seat, bool readable)
{
	eventfd_t ignored;

	if (seat->drives)
		hf_drive_turn(seat->engine, readable, &seat->due);
	else if (readable)
		eventfd_read(seat->fd, &ignored);
}

static int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* A turn for each engine that is ours, with a look at the sockets of those whose descriptors are
 * readable (fds NULL: none). Answers when the next one is due. */
static int64_t turn_all(struct hf_set *set, const struct pollfd *fds)
{
	int64_t due = HF_NEVER;

	for (size_t i = 0; i < set->count; i++) {
		struct hf_seat *seat = set->seats[i];

		if (!fds)
			seat->due = HF_NEVER;
		if (!fds || fds[i].revents || seat->due <= hf_now())
			serve(seat, fds && fds[i].revents);
		due = earlier(due, seat->due);
	}
	return due;
}

static int sleep_all(struct hf_set *set, struct pollfd *fds, size_t n, int64_t until,
		     const sigset_t *mask)
{
	int64_t due = turn_all(set, NULL);
	int count;

	if (any_finished(set))
		until = 0;
	count = hf_drive_sleep(fds, set->count + n, earlier(due, until), mask);
	if (count >= 0)
		turn_all(set, fds);
	return count;
}

static int drive(struct hf_set *set, struct pollfd *fds, size_t n, int64_t until,
		 struct hf_error *err)
{
	struct hf_signals signals;
	int count = 0;

	hf_drive_block(&signals);
	enter_all(set, fds, err);
	if (!err->code)
		count = sleep_all(set, fds, n, until, &signals.asleep);
	leave_all(set);
	hf_drive_unblock(&signals);
	if (count < 0 && count != -EINTR)
		hf_err_set(err, HF_NOMEM, "poll: %s", strerror(-count));
	return count;
}

/* A child after fork leaves what it has inherited as it is, and forgets it. Answers whether there
 * was nothing. */
static bool forget_inherited(struct hf_set *set, struct hf_error *err)
{
	size_t all = set->count;

	set->count = 0;
	for (size_t i = 0; i < all; i++)
		if (hf_engine_here(set->seats[i]->engine, err))
			set->seats[set->count++] = set->seats[i];
	return set->count == all;
}

enum hf_err hf_set_wait(struct hf_set *set, const int *fds, size_t n, int64_t timeout, bool *ready,
			struct hf_error *err)
{
	struct pollfd small[ON_STACK], *all = small;
	size_t own;
	int count;

	err->code = HF_OK;
	if (!forget_inherited(set, err))
		return err->code;
	own = set->count;
	if (own + n > ON_STACK)
		all = hf_malloc((own + n) * sizeof *all);
	if (!all)
		return hf_err_set(err, HF_NOMEM, "out of memory");
	for (size_t i = 0; i < n; i++)
		all[own + i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
	count = drive(set, all, n, hf_drive_until(timeout), err);
	for (size_t i = 0; i < n; i++)
		ready[i] = count > 0 && all[own + i].revents != 0;
	if (all != small)
		hf_free(all);
	return err->code;
}

void hf_set_free(struct hf_set *set)
{
	struct hf_op *op;

	if (!set)
		return;
	forget_inherited(set, NULL);
	while (set->count) {
		struct hf_seat *seat = set->seats[0];

		op = first(seat, &seat->waiting);
		take_off(set, op ? op : first(seat, &seat->finished));
	}
	hf_free(set->seats);
	hf_free(set);
}
