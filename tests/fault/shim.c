/* Stands between a process and its disk: counts, fails, delays or kills at calls on files below a directory.
 * Loaded by LD_PRELOAD; told what to do through a shared page (see shim.py), at any time. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, NAMES = 4 };

/* The fields have the same order as in shim.py. */
struct orders {
  volatile int64_t calls, hits, which, first, last, error, delay_us, kill;
};

static struct orders *orders;
static char directory[4096];
static size_t directory_length;

__attribute__((constructor)) static void load(void) {
  const char *page = getenv("RELAY_SHIM_ORDERS"), *below = getenv("RELAY_SHIM_BELOW");
  if (page == NULL || below == NULL) return;
  int fd = open(page, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void *mapped = mmap(NULL, sizeof *orders, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (mapped == MAP_FAILED) return;
  directory_length = (size_t)snprintf(directory, sizeof directory, "%s", below);
  orders = mapped;
}

static int is_below(const char *path) { return strncmp(path, directory, directory_length) == 0; }

static int is_ours(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return is_below(path);
}

/* Returns whether the call must fail, and sets errno. */
static int struck(int kind, int ours) {
  if (orders == NULL || !(orders->which & kind) || !ours) return 0;
  int64_t number = __sync_add_and_fetch(&orders->calls, 1);
  if (number < orders->first || number > orders->last) return 0;
  __sync_add_and_fetch(&orders->hits, 1);
  if (orders->kill) kill(getpid(), SIGKILL);
  if (orders->delay_us) usleep((useconds_t)orders->delay_us);
  if (!orders->error) return 0;
  errno = (int)orders->error;
  return 1;
}

#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

int fdatasync(int fd) { return struck(SYNC, orders && is_ours(fd)) ? -1 : REAL(fdatasync)(fd); }
int fsync(int fd) { return struck(SYNC, orders && is_ours(fd)) ? -1 : REAL(fsync)(fd); }

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at) {
  return struck(WRITE, orders && is_ours(fd)) ? -1 : REAL(pwrite)(fd, data, bytes, at);
}
ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t at) {
  return struck(WRITE, orders && is_ours(fd)) ? -1 : REAL(pwrite64)(fd, data, bytes, at);
}
int ftruncate(int fd, off_t bytes) { return struck(WRITE, orders && is_ours(fd)) ? -1 : REAL(ftruncate)(fd, bytes); }
int ftruncate64(int fd, off64_t bytes) {
  return struck(WRITE, orders && is_ours(fd)) ? -1 : REAL(ftruncate64)(fd, bytes);
}
int unlink(const char *path) { return struck(NAMES, orders && is_below(path)) ? -1 : REAL(unlink)(path); }
int rename(const char *old, const char *new) { return struck(NAMES, orders && is_below(old)) ? -1 : REAL(rename)(old, new); }
