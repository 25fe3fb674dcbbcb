#include "hf.h"

#include <time.h>

/* A lease goes on while the machine sleeps, so the clock must too: CLOCK_MONOTONIC stops during
 * suspend on Linux. */
#ifdef CLOCK_BOOTTIME
#define HF_CLOCK CLOCK_BOOTTIME
#else
#define HF_CLOCK CLOCK_MONOTONIC
#endif

int64_t hf_now(void)
{
	struct timespec ts;

	clock_gettime(HF_CLOCK, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static double seconds(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

double hf_clock_seconds(void)
{
	return seconds(HF_CLOCK);
}

double hf_wall_seconds(void)
{
	return seconds(CLOCK_REALTIME);
}
