/*
 * One reply as a client has to understand it: where it ends, its status, its body. Pure. Far less than the server's
 * codec does with a request, because a load generator must cost less than what it measures: a head that equals the one
 * before it is not parsed again.
 */
#ifndef CLI_BENCH_REPLY_H
#define CLI_BENCH_REPLY_H

#include "base/buffer.h"

enum { REPLY_HEAD_MAX = 64 * 1024, REPLY_CACHED_HEAD_MAX = 1024 };

struct reply_head {
  int status;
  uint64_t length;       /* of the body; unless chunked, or until the connection ends */
  uint64_t infer_length; /* Inference-Header-Content-Length; UINT64_MAX: there is none */
  bool chunked, to_end, keep_alive;
};

/* The latest head and what it said; shared by the connections of one target. */
struct reply_cache {
  char text[REPLY_CACHED_HEAD_MAX];
  size_t size;
  struct reply_head head;
};

struct reply {
  enum { REPLY_HEAD, REPLY_BODY, REPLY_CHUNK_SIZE, REPLY_CHUNK, REPLY_CHUNK_END, REPLY_TRAILER, REPLY_DONE } state;
  struct reply_head head;
  uint64_t left;       /* of the body or the chunk */
  uint64_t body_bytes; /* so far */
  struct buffer text;  /* of an incomplete head or line */
};

void reply_init(struct reply *reply);
void reply_free(struct reply *reply);

/* A new reply is expected. fixed_bytes > 0: no HTTP but so many bytes of anything (then the status is 0). */
void reply_begin(struct reply *reply, uint64_t fixed_bytes);

/* Takes bytes up to the end of the next part; *ret_used of them, of which the body part is (*ret_body, *ret_body_size).
 * To be called until everything is used or the state is REPLY_DONE. MU_INVALID: this is no reply; MU_NO_MEMORY. */
MUST_CHECK mu_status reply_feed(struct reply *reply, struct reply_cache *cache, const char *data, size_t size,
                                size_t *ret_used, const char **ret_body, size_t *ret_body_size, mu_error *err);

/* The peer has ended the connection: is the reply complete by that? */
bool reply_finish(struct reply *reply);

#endif
