/* test_base.c: what everything else stands on: errors, clocks, poll, lists, heaps, chance, guards.
 */
#include "base/heap.h"
#include "base/list.h"
#include "base/random.h"
#include "check.h"
#include "hf.h"
#include "net/guard.h"

#include <sys/eventfd.h>

static void every_error_has_a_code_and_a_sentence(void)
{
#define CODE(name, text) \
	CHECK_STR(hf_err_code(HF_##name), #name); \
	CHECK_STR(hf_err_text(HF_##name), text);
	HF_ERRORS(CODE)
#undef CODE
	CHECK_STR(hf_err_code(HF_OK), "OK");
	CHECK(hf_err_code((enum hf_err)999)[0] && hf_err_text((enum hf_err)999)[0]);
}

static void every_reason_has_a_word(void)
{
#define REASON(name, text) CHECK_STR(hf_reason_text(HF_BY_##name), text);
	HF_REASONS(REASON)
#undef REASON
	CHECK_STR(hf_reason_text(HF_NO_REASON), "");
}

static void an_error_answers_its_code_and_keeps_its_message(void)
{
	struct hf_error err;

	CHECK_INT(hf_err_set(&err, HF_LOST, "%s %d", "a", 7), HF_LOST);
	CHECK_INT(err.code, HF_LOST);
	CHECK_STR(err.message, "a 7");
	CHECK_INT(hf_err_set(NULL, HF_LOST, "nobody asked"), HF_LOST);
}

static void a_long_message_is_cut(void)
{
	static char text[2000];
	struct hf_error err;

	memset(text, 'x', sizeof text - 1);
	hf_err_set(&err, HF_HTTP, "%s", text);
	CHECK_INT(strlen(err.message), sizeof err.message - 1);
}

static void the_clocks_agree_and_do_not_go_back(void)
{
	int64_t ms = hf_now();
	double seconds = hf_clock_seconds();

	CHECK(seconds * 1000 >= (double)ms);
	CHECK(hf_now() >= (int64_t)(seconds * 1000));
	CHECK(hf_wall_seconds() > 1.7e9);
}

static void poll_names_the_descriptors_that_are_readable(void)
{
	int fds[3];
	bool ready[3] = {true, false, true};

	for (int i = 0; i < 3; i++)
		fds[i] = eventfd(i == 1, EFD_CLOEXEC);
	CHECK_INT(hf_poll(fds, 3, -1, ready), 1);
	CHECK(!ready[0] && ready[1] && !ready[2]);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
}

static void poll_takes_many_descriptors(void)
{
	int fds[100], fd = eventfd(1, EFD_CLOEXEC);
	bool ready[100];

	for (int i = 0; i < 100; i++)
		fds[i] = i == 99 ? fd : -1;
	CHECK_INT(hf_poll(fds, 100, -1, ready), 1);
	CHECK(ready[99] && !ready[0]);
	close(fd);
}

static void poll_ends_after_its_time(void)
{
	int fd = eventfd(0, EFD_CLOEXEC);
	int64_t begun = hf_now();
	bool ready = true;

	CHECK_INT(hf_poll(&fd, 1, 0, &ready), 0);
	CHECK(!ready);
	CHECK_INT(hf_poll(&fd, 1, 20, &ready), 0);
	CHECK(hf_now() - begun >= 19);
	close(fd);
}

static void a_descriptor_that_hung_up_is_ready(void)
{
	int pipe_fds[2];
	bool ready = false;

	REQUIRE(!pipe(pipe_fds));
	close(pipe_fds[1]);
	CHECK_INT(hf_poll(pipe_fds, 1, -1, &ready), 1);
	CHECK(ready);
	close(pipe_fds[0]);
}

/* ---- lists -------------------------------------------------------------------------------- */

struct item {
	char name;
	struct hf_link link;
};

/* The names of the members in order, and the same read backwards must agree. */
static const char *names(const struct hf_link *list)
{
	static char text[20];
	size_t n = 0, back;

	for (struct hf_link *at = hf_link_first(list); at; at = hf_link_after(list, at))
		text[n++] = HF_OF(struct item, link, at)->name;
	text[n] = '\0';
	back = n;
	for (const struct hf_link *at = list->prev; at != list && back; at = at->prev)
		CHECK_INT(HF_OF(const struct item, link, at)->name, text[--back]);
	CHECK_INT(back, 0);
	return text;
}

static void make_items(struct item *items, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		items[i].name = (char)('a' + i);
		hf_link_init(&items[i].link);
	}
}

static void a_list_keeps_the_order_of_its_members(void)
{
	struct item items[3];
	struct hf_link list;

	make_items(items, 3);
	hf_link_init(&list);
	CHECK(hf_link_alone(&list) && !hf_link_first(&list));
	hf_link_append(&list, &items[1].link);
	hf_link_append(&list, &items[2].link);
	hf_link_prepend(&list, &items[0].link);
	CHECK_STR(names(&list), "abc");
	CHECK(!hf_link_alone(&list) && !hf_link_alone(&items[1].link));
	CHECK(hf_link_first(&list) == &items[0].link);
	CHECK(!hf_link_after(&list, &items[2].link));
}

static void a_member_leaves_a_list_twice_without_harm(void)
{
	struct item items[3];
	struct hf_link list;

	make_items(items, 3);
	hf_link_init(&list);
	for (int i = 0; i < 3; i++)
		hf_link_append(&list, &items[i].link);
	hf_link_remove(&items[1].link);
	hf_link_remove(&items[1].link);
	CHECK(hf_link_alone(&items[1].link));
	CHECK_STR(names(&list), "ac");
	hf_link_append(&list, &items[1].link);
	CHECK_STR(names(&list), "acb");
	for (int i = 0; i < 3; i++)
		hf_link_remove(&items[i].link);
	CHECK(hf_link_alone(&list));
}

/* ---- heaps -------------------------------------------------------------------------------- */

static uint32_t seed;

/* The same numbers in every run. */
static uint32_t some(uint32_t below)
{
	seed = seed * 1664525 + 1013904223;
	return (uint32_t)(((uint64_t)seed * below) >> 32);
}

#define TIMERS 200
static struct hf_timer timers[TIMERS];
static int64_t times[TIMERS]; /* what the heap should hold; HF_NEVER: not set */
static struct hf_heap heap;

static void new_heap(void)
{
	seed = 7;
	memset(timers, 0, sizeof timers);
	heap = (struct hf_heap){NULL};
	for (int i = 0; i < TIMERS; i++)
		times[i] = HF_NEVER;
}

static int64_t earliest(void)
{
	int64_t at = HF_NEVER;

	for (int i = 0; i < TIMERS; i++)
		at = times[i] < at ? times[i] : at;
	return at;
}

static void set_timer(uint32_t i, int64_t at)
{
	hf_heap_set(&heap, &timers[i], at);
	times[i] = at;
}

/* Whether the first of the heap is one of the earliest of the array. */
static bool agrees(void)
{
	struct hf_timer *first = hf_heap_first(&heap);

	if (!first)
		return earliest() == HF_NEVER;
	return first->at == earliest() && times[first - timers] == first->at;
}

static int by_time(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

/* Takes out all that is set, and compares with the times in order. */
static void empties_in_order(void)
{
	struct hf_timer *first;
	int64_t sorted[TIMERS];
	int n = 0;

	memcpy(sorted, times, sizeof sorted);
	qsort(sorted, TIMERS, sizeof *sorted, by_time);
	while ((first = hf_heap_first(&heap)) != NULL) {
		REQUIRE(n < TIMERS && first->at == sorted[n++]);
		hf_heap_remove(&heap, first);
		CHECK(!first->set);
	}
	CHECK(n == TIMERS || sorted[n] == HF_NEVER);
}

static void the_earliest_of_a_heap_is_that_of_a_sorted_array(void)
{
	for (int round = 0; round < 20; round++) {
		new_heap();
		seed += (uint32_t)round;
		for (int i = 0; i < 2000; i++) {
			uint32_t which = some(TIMERS), dice = some(10);

			if (dice < 3) {
				hf_heap_remove(&heap, &timers[which]);
				times[which] = HF_NEVER;
			} else if (dice == 3) {
				set_timer(which, HF_NEVER);
			} else {
				set_timer(which, some(dice < 6 ? 3 : 100000));
			}
			REQUIRE(agrees());
		}
		empties_in_order();
	}
}

static void timers_at_the_same_time_all_come(void)
{
	new_heap();
	for (uint32_t i = 0; i < TIMERS; i++)
		set_timer(i, 5);
	for (uint32_t i = 0; i < TIMERS; i += 2) {
		hf_heap_remove(&heap, &timers[i]);
		times[i] = HF_NEVER;
	}
	empties_in_order();
}

static void a_timer_that_is_never_due_is_not_in_the_heap(void)
{
	new_heap();
	set_timer(0, HF_NEVER);
	CHECK(!timers[0].set && !hf_heap_first(&heap));
	set_timer(0, HF_NEVER - 1);
	CHECK(timers[0].set && hf_heap_first(&heap) == &timers[0]);
	set_timer(0, HF_NEVER);
	CHECK(!timers[0].set && !hf_heap_first(&heap));
}

static void a_timer_may_be_removed_twice(void)
{
	new_heap();
	hf_heap_remove(&heap, &timers[0]); /* never set */
	set_timer(0, 1);
	set_timer(1, 2);
	hf_heap_remove(&heap, &timers[0]);
	hf_heap_remove(&heap, &timers[0]);
	times[0] = HF_NEVER;
	CHECK(agrees());
	set_timer(0, 0);
	CHECK(agrees() && hf_heap_first(&heap) == &timers[0]);
	empties_in_order();
}

static void a_timer_that_is_set_anew_moves(void)
{
	new_heap();
	for (uint32_t i = 0; i < 10; i++)
		set_timer(i, (int64_t)i * 10);
	set_timer(9, -1);
	CHECK(hf_heap_first(&heap) == &timers[9]);
	set_timer(9, 1000);
	CHECK(hf_heap_first(&heap) == &timers[0]);
	set_timer(0, 1001);
	empties_in_order();
}

/* A turn of the engine must not cost more because there are more timers. */
static void a_million_moves_of_many_timers_are_quick(void)
{
	static struct hf_timer many[16384];
	struct hf_heap big = {NULL};
	int64_t begun = hf_now();

	seed = 3;
	for (size_t i = 0; i < CHECK_COUNT(many); i++)
		hf_heap_set(&big, &many[i], some(1000000));
	for (int i = 0; i < 1000000; i++) {
		struct hf_timer *first = hf_heap_first(&big);

		hf_heap_set(&big, first, first->at + some(1000000));
	}
	CHECK(hf_now() - begun < 60000); /* of a list: hours */
}

/* ---- chance ------------------------------------------------------------------------------- */

static void jitter_stays_between_its_bounds(void)
{
	int64_t least = INT64_MAX, most = INT64_MIN;

	for (int i = 0; i < 10000; i++) {
		int64_t at = hf_jitter(100, 200);

		REQUIRE(at >= 100 && at <= 200);
		least = at < least ? at : least;
		most = at > most ? at : most;
	}
	CHECK(least < 110 && most > 190);
	CHECK_INT(hf_jitter(7, 7), 7);
	CHECK_INT(hf_jitter(0, 0), 0);
	for (int i = 0; i < 1000; i++)
		REQUIRE(hf_jitter(-5, 5) >= -5 && hf_jitter(-5, 5) <= 5);
}

static void random_bytes_differ(void)
{
	unsigned char a[300] = {0}, b[300] = {0};

	CHECK(hf_random(a, sizeof a) && hf_random(b, sizeof b));
	CHECK(memcmp(a, b, sizeof a) != 0);
	CHECK(memcmp(a + 268, b + 268, 32) != 0); /* to the last of them */
	CHECK(hf_random(a, 0));
}

/* ---- guards ------------------------------------------------------------------------------- */

static void a_guard_stands_until_it_breaks(void)
{
	struct hf_guard guard = {.owner = NULL};
	struct hf_error err;

	hf_guard_init(&guard, NULL, "k");
	CHECK(hf_guard_stands(&guard));
	hf_guard_break(&guard, "stolen");
	CHECK(!hf_guard_stands(&guard));
	hf_guard_explain(&guard, &err);
	CHECK_INT(err.code, HF_LOST);
	CHECK_HAS(err.message, "\"k\"");
	CHECK_HAS(err.message, "stolen");
}

static void a_guard_breaks_once(void)
{
	struct hf_guard guard = {.owner = NULL};
	struct hf_error err;

	hf_guard_init(&guard, NULL, "k");
	hf_guard_break(&guard, "session");
	hf_guard_break(&guard, "closed");
	hf_guard_explain(&guard, &err);
	CHECK_HAS(err.message, "session");
}

static void a_guard_does_not_outlive_its_time(void)
{
	_Atomic int64_t until = hf_now() + 60000;
	struct hf_guard guard = {.until = &until};
	struct hf_error err;

	hf_guard_init(&guard, NULL, "k");
	CHECK(hf_guard_stands(&guard));
	atomic_store(&until, hf_now());
	CHECK(!hf_guard_stands(&guard));
	hf_guard_explain(&guard, &err);
	CHECK_HAS(err.message, "deadline");
	atomic_store(&until, HF_NEVER);
	CHECK(hf_guard_stands(&guard)); /* nobody had noticed */
}

static const struct check_test tests[] = {
	TEST(every_error_has_a_code_and_a_sentence),
	TEST(every_reason_has_a_word),
	TEST(an_error_answers_its_code_and_keeps_its_message),
	TEST(a_long_message_is_cut),
	TEST(the_clocks_agree_and_do_not_go_back),
	TEST(poll_names_the_descriptors_that_are_readable),
	TEST(poll_takes_many_descriptors),
	TEST(poll_ends_after_its_time),
	TEST(a_descriptor_that_hung_up_is_ready),
	TEST(a_list_keeps_the_order_of_its_members),
	TEST(a_member_leaves_a_list_twice_without_harm),
	TEST(the_earliest_of_a_heap_is_that_of_a_sorted_array),
	TEST(timers_at_the_same_time_all_come),
	TEST(a_timer_that_is_never_due_is_not_in_the_heap),
	TEST(a_timer_may_be_removed_twice),
	TEST(a_timer_that_is_set_anew_moves),
	TEST(a_million_moves_of_many_timers_are_quick),
	TEST(jitter_stays_between_its_bounds),
	TEST(random_bytes_differ),
	TEST(a_guard_stands_until_it_breaks),
	TEST(a_guard_breaks_once),
	TEST(a_guard_does_not_outlive_its_time),
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests, CHECK_COUNT(tests), NULL);
}
