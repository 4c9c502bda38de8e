/*
 * The servers that requests are passed on to, as people write them: "host:50051-50098,other:8001,[::1]:9000". A list is
 * parsed (pure), then resolved (asks the system's resolver, which can block: at start only). Owned by its embedder; one
 * thread at a time.
 */
#ifndef BACKEND_BACKEND_LIST_H
#define BACKEND_BACKEND_LIST_H

#include "base/arena.h"
#include "base/status.h"

#include <sys/socket.h>

enum { BACKENDS_MAX = 4096, BACKEND_HOST_MAX = 255 };

struct backend_address {
  const char *name; /* "host:50051", "[::1]:9000" */
  const char *host; /* without brackets */
  uint16_t port;
  struct sockaddr_storage socket; /* after backend_list_resolve */
  socklen_t socket_size;
};

struct backend_list {
  struct arena arena; /* names and hosts */
  struct backend_address *items;
  size_t n, capacity;
};
/* A zeroed struct backend_list is an empty one. */

/* Appends what text says; the flag may be repeated. Nothing is appended on failure. MU_INVALID: empty items, a missing
 * or bad port (0, above 65535), a range that runs backwards, a bad host, more than BACKENDS_MAX. MU_EXISTS: named
 * twice, here or before. MU_NO_MEMORY. */
MUST_CHECK mu_status backend_list_parse(struct backend_list *list, const char *text, mu_error *err);

/* Fills in every socket address: the host's first IPv4 address, or its first IPv6 address where it has none.
 * MU_NOT_FOUND: a host that does not resolve, which is named. MU_EXISTS: two names for one address. */
MUST_CHECK mu_status backend_list_resolve(struct backend_list *list, mu_error *err);

void backend_list_free(struct backend_list *list);

#endif
