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

static void tells_long_integers_from_texts_of_digits(void)
{
	struct hf_json_value value;
	uint64_t got;

	REQUIRE(parse("[\"16210313421097356768\",16210313421097356768,-16210313421097356768]"));
	CHECK(!hf_json_u64(hf_json_item(json, 0), &got));
	CHECK_STR(hf_json_text(hf_json_item(json, 0)), "16210313421097356768");
	CHECK(!hf_json_text(hf_json_item(json, 1)));
	hf_json_look(hf_json_item(json, 1), &value);
	CHECK_INT(value.kind, HF_JSON_INTEGER);
	CHECK_STR(value.text, "16210313421097356768");
	hf_json_look(hf_json_item(json, 2), &value);
	CHECK_INT(value.kind, HF_JSON_INTEGER);
	CHECK_STR(value.text, "-16210313421097356768");
}

static void goes_through_all_there_is(void)
{
	struct hf_json_value value;
	const struct cJSON *item;
	int count = 0;

	REQUIRE(parse(
		"{\"n\":null,\"t\":true,\"f\":false,\"i\":-1.5,\"s\":\"x\",\"a\":[],\"o\":{}}"));
	hf_json_look(json, &value);
	CHECK_INT(value.kind, HF_JSON_OBJECT);
	for (item = value.first; item; item = hf_json_next(item), count++) {
		static const enum hf_json_kind kinds[] = {
			HF_JSON_NULL,	HF_JSON_TRUE,  HF_JSON_FALSE, HF_JSON_NUMBER,
			HF_JSON_STRING, HF_JSON_ARRAY, HF_JSON_OBJECT};

		hf_json_look(item, &value);
		CHECK_INT(value.kind, kinds[count]);
		CHECK_INT(*hf_json_name(item), "ntfisao"[count]);
		CHECK(value.number == (value.kind == HF_JSON_NUMBER ? -1.5 : 0));
		CHECK(!value.first);
	}
	CHECK_INT(count, 7);
}

static void a_character_0_does_not_end_a_string(void)
{
	REQUIRE(parse("[\"a\\u0000b\",\"\\\\u0000\",\"\\\\\\u0000\"]"));
	CHECK_STR(hf_json_text(hf_json_item(json, 0)), "a\xef\xbf\xbd"
						       "b");
	CHECK_STR(hf_json_text(hf_json_item(json, 1)), "\\u0000");
	CHECK_STR(hf_json_text(hf_json_item(json, 2)), "\\\xef\xbf\xbd");
}

static void quotes(const char *text, size_t len, const char *want)
{
	char out[HF_JSON_QUOTED(20)];
	size_t got = hf_json_quote(text, len, out);

	REQUIRE(len <= 20 && CHECK_INT(got, strlen(want)));
	check_that(!memcmp(out, want, got), __FILE__, __LINE__, want);
}

static void quotes_text_and_nothing_else(void)
{
	quotes("", 0, "\"\"");
	quotes("a\"\\/\n\0\x1f\x7f", 8, "\"a\\\"\\\\/\\u000a\\u0000\\u001f\x7f\"");
	quotes("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20,
	       "\"\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000"
	       "\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000\\u0000\"");
	quotes("\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", 18,
	       "\"\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\"");
}

static void quotes_no_bytes_that_are_not_utf_8(void)
{
	static const char *const texts[] = {"\x80",
					    "\xbf",
					    "\xc0\x80",
					    "\xc1\xbf",
					    "\xc2",
					    "\xc2 ",
					    "\xe0\x9f\x80",
					    "\xed\xa0\x80",
					    "\xe1\x80",
					    "\xe1\x80 ",
					    "\xf0\x8f\xbf\xbf",
					    "\xf4\x90\x80\x80",
					    "\xf5\x80\x80\x80",
					    "\xf1\x80\x80",
					    "\xff"};
	char out[HF_JSON_QUOTED(20)];

	for (size_t i = 0; i < CHECK_COUNT(texts); i++)
		check_that(!hf_json_quote(texts[i], strlen(texts[i]), out), __FILE__, __LINE__,
			   texts[i]);
}

/* What is written is read again as it was, and whatever is read crashes nothing. */
static void survives_a_million_bytes_of_nonsense(void)
{
	static const char alphabet[] = "[]{}\",:\\u0000123456789012345678.eE+-truefalsn \xff\xc3";
	unsigned seed = 1;
	char text[64], out[HF_JSON_QUOTED(64)];

	for (int round = 0; round < 20000; round++) {
		size_t len;

		for (size_t i = 0; i < sizeof text; i++) {
			seed = seed * 1103515245 + 12345;
			text[i] = alphabet[(seed >> 16) % (sizeof alphabet - 1)];
		}
		json = hf_json_parse(text, sizeof text);
		hf_json_free(json);
		len = hf_json_quote(text, sizeof text, out);
		json = len ? hf_json_parse(out, len) : NULL;
		if (len)
			check_that(json && hf_json_text(json) &&
					   !memcmp(hf_json_text(json), text, sizeof text),
				   __FILE__, __LINE__, "what is written is read again");
		hf_json_free(json);
		json = NULL;
	}
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
	TEST(tells_long_integers_from_texts_of_digits),
	TEST(goes_through_all_there_is),
	TEST(a_character_0_does_not_end_a_string),
	TEST(quotes_text_and_nothing_else),
	TEST(quotes_no_bytes_that_are_not_utf_8),
	TEST(survives_a_million_bytes_of_nonsense),
	TEST(answers_nothing_when_memory_is_out),
};

int main(int argc, char **argv)
{
	return check_main(argc, argv, tests, CHECK_COUNT(tests), forget);
}
