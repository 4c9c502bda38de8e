/*
 * One request on its way through: a backend is chosen, the request goes there, and to another one where that failed and
 * it may be sent again; whoever owns the passage sees one answer. Bodies are bytes.
 *
 *   passage_create -> passage_start -> passage_data …, passage_finish -> sink.head -> sink.body … -> sink.end
 *
 * What has been sent is kept until the answer begins, for another attempt (settings.retry_buffer bounds all of it
 * together; what finds no room there has one attempt). Sent again is what no backend has seen, and under
 * PROXY_RETRY_IDEMPOTENT also what has come from the client as a whole, or of which no backend can have seen a whole
 * message: a stream that has begun to speak is never repeated.
 *
 * The last event is sink.end or sink.failed: the passage frees itself behind it, as it does in passage_cancel. So an
 * owner forgets the passage before it does anything else there.
 */
#ifndef PROXY_PASSAGE_H
#define PROXY_PASSAGE_H

#include "proxy/cluster.h"

enum passage_failure {
  PASSAGE_UNAVAILABLE, /* no backend could be reached, or what was reached broke off */
  PASSAGE_DEADLINE,    /* the request's own */
  PASSAGE_REFUSED,     /* a request that cannot be sent on */
  PASSAGE_UNREADABLE,  /* an answer that cannot be passed on */
};

/* What clients hear of it. */
extern const struct passage_failure_code { int http, grpc; } passage_failure_codes[];

struct passage;

struct passage_sink {
  /* Memory of the lines: for the call. */
  void (*head)(void *owner, int status, struct client_lines lines, uint64_t content_length);
  void (*body)(void *owner, const uint8_t *data, size_t size);
  void (*end)(void *owner, struct client_lines trailers);
  void (*failed)(void *owner, enum passage_failure failure, const char *why);
  /* passage_room is true again. May be NULL. */
  void (*room)(void *owner);
};

/* What the owner keeps until the last event. */
struct passage_request {
  bool grpc; /* HTTP/2 to the backend, and gRPC's rules */
  const char *method, *path, *query;
  struct client_lines lines;
  uint64_t content_length;
  uint64_t deadline_ns; /* TIME_NEVER: none. Replaces grpc-timeout in lines */
};

/* NULL without memory. */
struct passage *passage_create(struct cluster *cluster, const struct passage_request *request,
                               const struct passage_sink *sink, void *owner);
/* No event comes from inside, nor from data, finish, resume. */
void passage_start(struct passage *passage);
void passage_data(struct passage *passage, const uint8_t *data, size_t size);
void passage_finish(struct passage *passage); /* the body is complete */
/* Is there room for more of the body? Otherwise its sender should hold back until sink.room. */
bool passage_room(const struct passage *passage);
/* Bytes of the body that are here and have not gone to a backend. */
size_t passage_waiting(const struct passage *passage);
void passage_pause(struct passage *passage); /* the answer: as client_pause */
void passage_resume(struct passage *passage);
void passage_cancel(struct passage *passage); /* no further event */

/* cluster.wake */
void passages_wake(struct cluster *cluster);

#endif
