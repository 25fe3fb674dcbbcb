/* test_json.c: reading JSON, above all integers that a double cannot hold. */
#include "base/alloc.h"
#include "check.h"
#include "base/json.h"

static struct cJSON *json;

static void forget(void)
{
	hf_alloc_fail(0, 0);
	hf_json_free(json);
	json = NULL;
}

static bool parse(const char *text)
{
	hf_json_free(json);
	json = hf_json_parse(text, strlen(text));
	return json != NULL;
}

/* Field n of the object that is the text. False: it is no number that fits. */
static bool number(const char *text, uint64_t *out)
{
	*out = 0;
	return CHECK(parse(text)) && hf_json_u64(hf_json_field(json, "n"), out);
}

static void gives_back(const char *digits, uint64_t want)
{
	char text[100];
	uint64_t got;

	snprintf(text, sizeof text, "{\"n\":%s}", digits);
	if (check_that(number(text, &got), __FILE__, __LINE__, digits))
		check_u64(got, want, __FILE__, __LINE__, digits);
}

static void refuses(const char *value)
{
	char text[100];
	uint64_t got;

	snprintf(text, sizeof text, "{\"n\":%s}", value);
	check_that(!number(text, &got), __FILE__, __LINE__, value);
}

static void reads_the_flags_of_a_lock_exactly(void)
{
	gives_back("3304740253564472344", UINT64_C(3304740253564472344));
}

static void reads_the_flags_of_a_semaphore_exactly(void)
{
	gives_back("16210313421097356768", UINT64_C(0xe0f69a2baa414de0));
}

static void reads_all_of_64_bits(void)
{
	gives_back("0", 0);
	gives_back("1", 1);
	gives_back("999999999999999", UINT64_C(999999999999999));
	gives_back("1000000000000000", UINT64_C(1000000000000000));
	gives_back("9007199254740991", UINT64_C(9007199254740991));
	gives_back("9007199254740993", UINT64_C(9007199254740993));
	gives_back("9223372036854775807", INT64_MAX);
	gives_back("18446744073709551615", UINT64_MAX);
}

static void reads_a_whole_number_written_as_a_fraction(void)
{
	gives_back("7.0", 7);
	gives_back("1e3", 1000);
}

static void refuses_more_than_64_bits(void)
{
	refuses("18446744073709551616");
	refuses("99999999999999999999999999999999");
	refuses("1e20");
	refuses("1e400");
}

static void refuses_negative_numbers(void)
{
	refuses("-1");
	refuses("-3304740253564472344");
}

static void refuses_fractions(void)
{
	refuses("1.5");
	refuses("0.12345678901234567890");
	refuses("1234567890123456789.5");
	refuses("1234567890123456789e-1");
}

static void refuses_what_is_no_number(void)
{
	uint64_t got;

	refuses("\"12\"");
	refuses("\"\"");
	refuses("\"1234567890123456x\"");
	refuses("null");
	refuses("true");
	refuses("[1]");
	refuses("{}");
	CHECK(!hf_json_u64(NULL, &got));
}

static void leaves_numbers_inside_strings_alone(void)
{
	REQUIRE(parse("{\"t\":\"a 3304740253564472344, \\\"16210313421097356768\\\" b\"}"));
	CHECK_STR(hf_json_text(hf_json_field(json, "t")),
		  "a 3304740253564472344, \"16210313421097356768\" b");
}

static void leaves_numbers_in_names_alone(void)
{
	uint64_t got;

	REQUIRE(parse("{\"16210313421097356768\":5}"));
	CHECK(hf_json_u64(hf_json_field(json, "16210313421097356768"), &got));
	CHECK_U64(got, 5);
}

static void finds_the_end_of_a_string_that_ends_in_a_backslash(void)
{
	uint64_t got;

	REQUIRE(number("{\"t\":\"\\\\\",\"n\":16210313421097356768}", &got));
	CHECK_U64(got, UINT64_C(16210313421097356768));
}

static void reads_long_integers_wherever_they_are(void)
{
	uint64_t got;

	REQUIRE(parse("[ 16210313421097356768 ,1,\n3304740253564472344]"));
	CHECK(hf_json_u64(hf_json_item(json, 0), &got) && got == UINT64_C(16210313421097356768));
	CHECK(hf_json_u64(hf_json_item(json, 1), &got) && got == 1);
	CHECK(hf_json_u64(hf_json_item(json, 2), &got) && got == UINT64_C(3304740253564472344));
	CHECK(parse("16210313421097356768"));
	CHECK(hf_json_u64(json, &got) && got == UINT64_C(16210313421097356768));
}

static void refuses_truncated_input_at_every_length(void)
{
	static const char text[] =
		"[{\"Key\":\"a\\u00e4\",\"Flags\":16210313421097356768,\"V\":[null,true,-1.5e3]}]";
	size_t len = sizeof text - 1;

	for (size_t i = 0; i < len; i++) {
		/* A copy of its own, so that a read beyond the end is noticed. */
		char *copy = malloc(i ? i : 1);

		REQUIRE(copy);
		memcpy(copy, text, i);
		json = hf_json_parse(copy, i);
		free(copy);
		REQUIRE(!json);
	}
	CHECK(parse(text));
}

static void refuses_what_is_no_json(void)
{
	static const char *const texts[] = {
		"",	   " ",	 "nil",	 "{",	  "}",	 "[1,]", "{\"a\"}", "{a:1}",
		"<html>",  "\"", "\"\\", "[1] x", "1 2", "{}{}", "+1",	    "0000000000000000001x",
		"\xff\xfe"};

	for (size_t i = 0; i < CHECK_COUNT(texts); i++)
		check_that(!parse(texts[i]), __FILE__, __LINE__, texts[i]);
}

static void refuses_text_behind_a_nul_byte(void)
{
	json = hf_json_parse("[1]\0[2]", 7);
	CHECK(!json);
}

static void a_nul_byte_inside_a_string_does_not_end_the_text(void)
{
	uint64_t got;

	json = hf_json_parse("{\"t\":\"a\0b\",\"n\":5}", 17);
	if (json)
		CHECK(hf_json_u64(hf_json_field(json, "n"), &got) && got == 5);
}

static bool nested(size_t depth)
{
	char *text = malloc(2 * depth);

	memset(text, '[', depth);
	memset(text + depth, ']', depth);
	hf_json_free(json);
	json = hf_json_parse(text, 2 * depth);
	free(text);
	return json != NULL;
}

static void reads_some_depth_and_refuses_more_than_the_stack_takes(void)
{
	CHECK(nested(100));
	CHECK(!nested(1000 * 1000));
}

static void what_is_not_there_is_not_there(void)
{
	REQUIRE(parse("{\"a\":[1]}"));
	CHECK(!hf_json_field(json, "b"));
	CHECK(!hf_json_field(json, "A"));
	CHECK(!hf_json_item(json, 0));
	CHECK(!hf_json_item(hf_json_field(json, "a"), 1));
	CHECK(!hf_json_field(hf_json_field(json, "a"), "a"));
	CHECK(!hf_json_text(hf_json_field(json, "a")));
	CHECK(!hf_json_is_array(json));
	CHECK(hf_json_is_array(hf_json_field(json, "a")));
}

static void null_stands_for_what_is_not_there(void)
{
	CHECK(!hf_json_field(NULL, "a"));
	CHECK(!hf_json_item(NULL, 0));
	CHECK(!hf_json_text(NULL));
	CHECK(!hf_json_is_array(NULL));
	hf_json_free(NULL);
}

static void answers_nothing_when_memory_is_out(void)
{
	hf_alloc_fail(1, 0);
	CHECK(!parse("[1]"));
	hf_alloc_fail(0, 0);
	CHECK(parse("[1]"));
}

static const struct check_test tests[] = {
	TEST(reads_the_flags_of_a_lock_exactly),
	TEST(reads_the_flags_of_a_semaphore_exactly),
	TEST(reads_all_of_64_bits),
	TEST(reads_a_whole_number_written_as_a_fraction),
	TEST(refuses_more_than_64_bits),
	TEST(refuses_negative_numbers),
	TEST(refuses_fractions),
	TEST(refuses_what_is_no_number),
	TEST(leaves_numbers_inside_strings_alone),
	TEST(leaves_numbers_in_names_alone),
	TEST(finds_the_end_of_a_string_that_ends_in_a_backslash),
	TEST(reads_long_integers_wherever_they_are),
	TEST(refuses_truncated_input_at_every_length),
	TEST(refuses_what_is_no_json),
	TEST(refuses_text_behind_a_nul_byte),
	TEST(a_nul_byte_inside_a_string_does_not_end_the_text),
	TEST(reads_some_depth_and_refuses_more_than_the_stack_takes),
	TEST(what_is_not_there_is_not_there),
	TEST(null_stands_for_what_is_not_there),
	TEST(answers_nothing_when_memory_is_out),
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests, CHECK_COUNT(tests), forget);
}
