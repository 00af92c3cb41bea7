/* A disk whose every sync takes FSYNC_DELAY_MS longer: preloaded before the C library's own calls. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static int slowly(const char *name, int fd)
{
	const char *ms = getenv("FSYNC_DELAY_MS");
	struct timespec delay = {0, (ms ? atol(ms) : 0) * 1000000L};
	int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);

	nanosleep(&delay, NULL);
	return real(fd);
}

int fsync(int fd)
{
	return slowly("fsync", fd);
}

int fdatasync(int fd)
{
	return slowly("fdatasync", fd);
}
