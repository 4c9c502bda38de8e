/* What a transport (HTTP/1.1, HTTP/2) does for the exchanges that it makes. Private to net/. */
#ifndef NET_TRANSPORT_H
#define NET_TRANSPORT_H

#include "net/exchange.h"

struct transport {
  void (*reply)(struct exchange *exchange, const struct reply *reply);
  void (*pause)(struct exchange *exchange);
  void (*resume)(struct exchange *exchange);
  void (*unbounded)(struct exchange *exchange);
  void (*begin)(struct exchange *exchange, const struct reply *head);
  void (*part)(struct exchange *exchange, const struct reply_part *part);
  void (*end)(struct exchange *exchange, const struct header *trailers, size_t n_trailers);
  void (*abort)(struct exchange *exchange);
  uint64_t (*unsent)(const struct exchange *exchange);
  bool (*peer_is_local)(const struct exchange *exchange);
};

/* The header of this name (lower case) that somebody looks at, HEADER_COUNT: none. */
enum header_id header_find(const char *name, size_t size);

#endif
