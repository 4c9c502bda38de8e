/*
 * The memory of an nghttp2 session, so that one that finds none ends without harm. Where a queue of streams cannot
 * grow, nghttp2 (1.52) frees the frame that was to be queued, and once more with its stream at the end of the session.
 * So from a failed realloc on, which only those queues need and after which the session is beyond use, nothing is given
 * back before the session has ended, and then once.
 */
#ifndef NET_HTTP2_MEMORY_H
#define NET_HTTP2_MEMORY_H

#include <nghttp2/nghttp2.h>
#include <stdbool.h>

struct http2_block;

/* Zeroed: before the session. */
struct http2_memory {
  bool broken;              /* the connection has to be closed */
  struct http2_block *kept; /* freed since */
};

/* For nghttp2_session_server_new3; memory outlives the session. */
nghttp2_mem http2_memory_functions(struct http2_memory *memory);
/* The session has been deleted. */
void http2_memory_free(struct http2_memory *memory);

#endif
