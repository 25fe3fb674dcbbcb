/* test_base.c: errors, clocks and poll, which everything else stands on. */
#include "check.h"
#include "hf.h"

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
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests, CHECK_COUNT(tests), NULL);
}
