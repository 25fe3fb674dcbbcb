/* check.h: what a C test program needs: checks, a table of named tests and a runner that ends with
 * "N passed, M failed". Include it once per program. A check that fails does not end its test; use
 * REQUIRE where going on makes no sense. An argument runs only the tests whose name contains it. */
#ifndef CHECK_H
#define CHECK_H

#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How long one test may take, seconds: valgrind and the sanitizers are slow, a hang is for ever. */
#define CHECK_LIMIT 240

struct check_test {
	const char *name;
	void (*run)(void);
};

#define TEST(function) \
	{ \
#function, function \
	}
#define CHECK_COUNT(array) (sizeof(array) / sizeof *(array))

/* Each answers whether it is so, and can be used in any thread. */
#define CHECK(cond) check_that((cond), __FILE__, __LINE__, #cond)
#define CHECK_INT(got, want) \
	check_int((int64_t)(got), (int64_t)(want), __FILE__, __LINE__, #got " is " #want)
#define CHECK_U64(got, want) check_u64((got), (want), __FILE__, __LINE__, #got " is " #want)
#define CHECK_STR(got, want) check_str((got), (want), __FILE__, __LINE__, #got)
#define CHECK_HAS(got, part) check_has((got), (part), __FILE__, __LINE__)
#define REQUIRE(cond) \
	do { \
		if (!CHECK(cond)) \
			return; \
	} while (0)

static const char *check_name = "";
static atomic_int check_failures; /* of the test that runs */
static int check_passed, check_failed;

static inline void check_fail(const char *file, int line, const char *what)
{
	atomic_fetch_add(&check_failures, 1);
	fprintf(stderr, "%s:%d: %s: %s\n", file, line, check_name, what);
}

static inline bool check_that(bool ok, const char *file, int line, const char *what)
{
	if (!ok)
		check_fail(file, line, what);
	return ok;
}

static inline bool check_int(int64_t got, int64_t want, const char *file, int line,
			     const char *what)
{
	char text[400];

	if (got == want)
		return true;
	snprintf(text, sizeof text, "%s: got %" PRId64 ", not %" PRId64, what, got, want);
	check_fail(file, line, text);
	return false;
}

static inline bool check_u64(uint64_t got, uint64_t want, const char *file, int line,
			     const char *what)
{
	char text[400];

	if (got == want)
		return true;
	snprintf(text, sizeof text, "%s: got %" PRIu64 ", not %" PRIu64, what, got, want);
	check_fail(file, line, text);
	return false;
}

static inline bool check_str(const char *got, const char *want, const char *file, int line,
			     const char *what)
{
	char text[2000];

	if (got && want && !strcmp(got, want))
		return true;
	if (!got && !want)
		return true;
	snprintf(text, sizeof text, "%s\n\tgot  %s\n\twant %s", what, got ? got : "(null)",
		 want ? want : "(null)");
	check_fail(file, line, text);
	return false;
}

static inline bool check_has(const char *got, const char *part, const char *file, int line)
{
	char text[2000];

	if (strstr(got, part))
		return true;
	snprintf(text, sizeof text, "\"%s\" is not in \"%s\"", part, got);
	check_fail(file, line, text);
	return false;
}

static inline void check_hangs(int signal)
{
	static const char text[] = " takes too long\n0 passed, 1 failed\n";

	(void)signal;
	if (write(STDOUT_FILENO, check_name, strlen(check_name)) >= 0 &&
	    write(STDOUT_FILENO, text, sizeof text - 1) >= 0)
		_exit(1);
	_exit(2);
}

/* Runs the tests; after (may be NULL) runs behind each of them and may check too. Answers the exit
 * status. */
static inline int check_main(int argc, char **argv, const struct check_test *tests, size_t count,
			     void (*after)(void))
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGALRM, check_hangs);
	for (size_t i = 0; i < count; i++) {
		check_name = tests[i].name;
		if (argc > 1 && !strstr(check_name, argv[1]))
			continue;
		atomic_store(&check_failures, 0);
		alarm(CHECK_LIMIT);
		tests[i].run();
		if (after)
			after();
		alarm(0);
		if (atomic_load(&check_failures))
			check_failed++;
		else
			check_passed++;
	}
	printf("%d passed, %d failed\n", check_passed, check_failed);
	return check_failed || !check_passed;
}

#endif
