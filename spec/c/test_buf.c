/* test_buf.c: the growing buffer, and what it does when memory runs out. */
#include "base/alloc.h"
#include "base/buf.h"
#include "check.h"

static struct hf_buf buf;

static void forget(void)
{
	hf_alloc_fail(0, 0);
	hf_buf_free(&buf);
}

static void an_empty_one_reads_as_an_empty_text(void)
{
	CHECK_STR(hf_buf_text(&buf), "");
	CHECK_INT(hf_alloc_count(), 0);
}

static void appends_what_it_is_given(void)
{
	CHECK(hf_buf_puts(&buf, "ab"));
	CHECK(hf_buf_add(&buf, "cd", 2));
	CHECK(hf_buf_printf(&buf, "%d", 7));
	CHECK_STR(hf_buf_text(&buf), "abcd7");
	CHECK_INT(buf.len, 5);
}

static void nothing_may_be_added_to_it(void)
{
	CHECK(hf_buf_add(&buf, NULL, 0));
	CHECK_STR(hf_buf_text(&buf), "");
	CHECK_INT(buf.len, 0);
}

static void holds_nul_bytes(void)
{
	CHECK(hf_buf_add(&buf, "a\0b", 3));
	CHECK_INT(buf.len, 3);
	CHECK(!memcmp(buf.data, "a\0b", 4));
}

static void grows_and_stays_terminated_at_every_length(void)
{
	for (size_t i = 0; i < 5000; i++) {
		REQUIRE(hf_buf_add(&buf, i % 2 ? "y" : "x", 1));
		REQUIRE(buf.len == i + 1 && buf.data[i + 1] == '\0' && buf.size > buf.len);
	}
	for (size_t i = 0; i < 5000; i++)
		REQUIRE(buf.data[i] == (i % 2 ? 'y' : 'x'));
}

static void reset_empties_it_and_keeps_its_memory(void)
{
	hf_buf_puts(&buf, "abc");
	hf_buf_reset(&buf);
	CHECK_STR(hf_buf_text(&buf), "");
	hf_alloc_fail(1, 1);
	CHECK(hf_buf_puts(&buf, "def"));
	CHECK_STR(hf_buf_text(&buf), "def");
}

static void free_leaves_it_ready_for_use(void)
{
	hf_buf_puts(&buf, "abc");
	hf_buf_free(&buf);
	hf_buf_free(&buf);
	CHECK_STR(hf_buf_text(&buf), "");
	CHECK(hf_buf_puts(&buf, "def"));
	CHECK_STR(hf_buf_text(&buf), "def");
}

static void takes_nothing_more_after_memory_ran_out(void)
{
	hf_buf_puts(&buf, "before");
	hf_alloc_fail(1, 0);
	for (int i = 0; i < 200; i++)
		hf_buf_puts(&buf, "x");
	CHECK(buf.failed);
	CHECK(!hf_buf_puts(&buf, ""));
	CHECK(!hf_buf_add(&buf, "x", 1));
	CHECK(!hf_buf_printf(&buf, "x"));
	CHECK(!hf_buf_escape(&buf, "x", ""));
	CHECK(!hf_buf_base64(&buf, "x", 1));
	CHECK(!hf_buf_json(&buf, "x"));
	CHECK_INT(buf.len, 127);
}

static void keeps_what_it_had_when_memory_ran_out(void)
{
	hf_buf_puts(&buf, "before");
	hf_alloc_fail(1, 0);
	for (int i = 0; i < 200; i++)
		hf_buf_puts(&buf, "0123456789");
	CHECK(!strncmp(hf_buf_text(&buf), "before0123456789", 16));
	CHECK_INT(strlen(buf.data), buf.len);
}

static void fails_at_once_when_there_never_was_memory(void)
{
	hf_alloc_fail(1, 1);
	CHECK(!hf_buf_puts(&buf, "x"));
	CHECK(buf.failed);
	CHECK_STR(hf_buf_text(&buf), "");
}

static void reset_forgets_the_failure(void)
{
	hf_alloc_fail(1, 0);
	hf_buf_puts(&buf, "x");
	hf_buf_reset(&buf);
	CHECK(!buf.failed);
	CHECK(hf_buf_puts(&buf, "y"));
	CHECK_STR(hf_buf_text(&buf), "y");
}

static void a_length_beyond_all_memory_fails_it(void)
{
	hf_buf_puts(&buf, "abc");
	CHECK(!hf_buf_add(&buf, "x", SIZE_MAX - 2));
	CHECK(buf.failed);
	hf_buf_reset(&buf);
	CHECK(!hf_buf_base64(&buf, "x", SIZE_MAX / 4));
	CHECK(buf.failed);
}

static void printf_takes_128_bytes_and_no_more(void)
{
	char text[130];

	memset(text, 'x', sizeof text);
	text[128] = '\0';
	CHECK(hf_buf_printf(&buf, "%s", text));
	CHECK_INT(buf.len, 128);
	text[128] = 'x';
	text[129] = '\0';
	CHECK(!hf_buf_printf(&buf, "%s", text));
	CHECK(buf.failed);
	CHECK_INT(buf.len, 128);
}

static void escapes_all_but_unreserved_characters(void)
{
	CHECK(hf_buf_escape(&buf, "azAZ09-._~ %?#&=+/:", ""));
	CHECK_STR(hf_buf_text(&buf), "azAZ09-._~%20%25%3F%23%26%3D%2B%2F%3A");
}

static void escapes_every_byte_of_utf8_and_of_anything_else(void)
{
	CHECK(hf_buf_escape(&buf, "\xc3\xa4\xff\x01\x7f", ""));
	CHECK_STR(hf_buf_text(&buf), "%C3%A4%FF%01%7F");
}

static void keeps_what_it_is_told_to_when_escaping(void)
{
	CHECK(hf_buf_escape(&buf, "/a b/", "/"));
	CHECK_STR(hf_buf_text(&buf), "/a%20b/");
}

static void base64_pads_and_appends(void)
{
	hf_buf_base64(&buf, "", 0);
	hf_buf_base64(&buf, NULL, 0);
	hf_buf_base64(&buf, "f", 1);
	hf_buf_base64(&buf, "fo", 2);
	hf_buf_base64(&buf, "foo", 3);
	CHECK_STR(hf_buf_text(&buf), "Zg==Zm8=Zm9v");
}

static void base64_of_much_is_right_to_the_end(void)
{
	static unsigned char data[3 * 1000];

	memset(data, 0xff, sizeof data);
	CHECK(hf_buf_base64(&buf, data, sizeof data));
	CHECK_INT(buf.len, 4000);
	CHECK_INT(strspn(buf.data, "/"), 4000);
}

static void json_escapes_quotes_backslashes_and_controls(void)
{
	CHECK(hf_buf_json(&buf, "a\"b\\c\n\t\x01/"));
	CHECK_STR(hf_buf_text(&buf), "\"a\\\"b\\\\c\\u000a\\u0009\\u0001/\"");
}

static void json_leaves_utf8_as_it_is(void)
{
	CHECK(hf_buf_json(&buf, "\xc3\xa4\xf0\x9f\x94\x92\x7f"));
	CHECK_STR(hf_buf_text(&buf), "\"\xc3\xa4\xf0\x9f\x94\x92\x7f\"");
}

static const struct check_test tests[] = {
	TEST(an_empty_one_reads_as_an_empty_text),
	TEST(appends_what_it_is_given),
	TEST(nothing_may_be_added_to_it),
	TEST(holds_nul_bytes),
	TEST(grows_and_stays_terminated_at_every_length),
	TEST(reset_empties_it_and_keeps_its_memory),
	TEST(free_leaves_it_ready_for_use),
	TEST(takes_nothing_more_after_memory_ran_out),
	TEST(keeps_what_it_had_when_memory_ran_out),
	TEST(fails_at_once_when_there_never_was_memory),
	TEST(reset_forgets_the_failure),
	TEST(a_length_beyond_all_memory_fails_it),
	TEST(printf_takes_128_bytes_and_no_more),
	TEST(escapes_all_but_unreserved_characters),
	TEST(escapes_every_byte_of_utf8_and_of_anything_else),
	TEST(keeps_what_it_is_told_to_when_escaping),
	TEST(base64_pads_and_appends),
	TEST(base64_of_much_is_right_to_the_end),
	TEST(json_escapes_quotes_backslashes_and_controls),
	TEST(json_leaves_utf8_as_it_is),
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests, CHECK_COUNT(tests), forget);
}
