/* Preloaded after a sanitizer's runtime (.ci/lua): takes LD_PRELOAD out of the environment again,
 * so that the shells, agents and servers that a spec starts run without it. */
#include <stdlib.h>

__attribute__((constructor)) static void unpreload(void)
{
	unsetenv("LD_PRELOAD");
}
