/* A name service that never responds: a lookup of a name below "silent.test" blocks for ever, a name below
 * "local.test" is 127.0.0.1. Loaded by LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

typedef int lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static int is_below(const char *name, const char *zone) {
  size_t length = strlen(name), zone_length = strlen(zone);
  return length >= zone_length && strcmp(name + length - zone_length, zone) == 0;
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  while (name != NULL && is_below(name, "silent.test")) pause();
  lookup *real = (lookup *)dlsym(RTLD_NEXT, "getaddrinfo");
  return real(name != NULL && is_below(name, "local.test") ? "127.0.0.1" : name, service, hints, found);
}
