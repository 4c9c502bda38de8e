/* What the address of a WebSocket client says: /ws?method=/package.Service/Method&mode=stream&order=any. Pure. */
#ifndef PROXY_BRIDGE_QUERY_H
#define PROXY_BRIDGE_QUERY_H

#include "base/status.h"

enum { BRIDGE_METHOD_MAX = 512 };

struct bridge_query {
  char method[BRIDGE_METHOD_MAX]; /* "/package.Service/Method" */
  bool streaming;                 /* mode=stream: one call for the life of the socket */
  bool any_order;                 /* order=any */
};

/* text: behind the question mark. fallback: the method where it names none; NULL: then it has to. Parameters that
 * nobody knows are passed over; of one that comes twice the first counts. MU_INVALID. */
MUST_CHECK mu_status bridge_query_read(const char *text, const char *fallback, struct bridge_query *ret_query,
                                       mu_error *err);

#endif
