/*
 * HTTP/1.1 requests as events, on llhttp. Pure: bytes in, events out; no socket, no clock. Strict: what could be
 * understood in two ways (two Content-Length, both length and chunked, bare LF, obs-fold, unknown transfer coding) is
 * an error. An offered Upgrade is passed over. Also the client direction (responses), for `muster bench`.
 */
#ifndef PROTO_HTTP1_CODEC_H
#define PROTO_HTTP1_CODEC_H

#include "base/buffer.h"
#include "base/status.h"

struct http1_codec;

struct http1_events {
  /* Head complete. The strings are terminated and valid until the message ends. content_length UINT64_MAX: chunked, or
   * (response only) until the connection ends. A response has status > 0, method and target NULL. false: stop parsing
   * (http1_codec_feed returns; parse goes on when it is called with the rest, be it empty: `end` may still be due). */
  bool (*head)(void *context, const char *method, const char *target, int status, uint64_t content_length,
               bool keep_alive, bool expect_continue);
  /* Called for each header before `head`, in order. name is lower case; both are terminated. May be NULL. */
  void (*header)(void *context, const char *name, size_t name_size, const char *value, size_t value_size);
  /* Part of the body; points into the memory given to feed. false: stop as above. */
  bool (*body)(void *context, const uint8_t *data, size_t size);
  /* Message complete. false: stop as above (the pipeline is full). */
  bool (*end)(void *context);
};

/* head_limit: bytes of request line and headers together. NULL without memory. */
struct http1_codec *http1_codec_create(bool client, const struct http1_events *events, void *context,
                                       size_t head_limit);
void http1_codec_free(struct http1_codec *codec); /* accepts NULL */

/*
 * Parses up to size bytes; *ret_used says how many were taken (fewer only after an event returned false). Errors:
 * MU_INVALID (malformed: answer 400 and close), MU_TOO_LARGE (head: 431), MU_UNSUPPORTED (CONNECT 501, HTTP/2
 * preface or version 505, unknown Expect 417), MU_NO_MEMORY (503). *ret_http_status is the fitting status for an error
 * reply. The error stays: further calls return it again.
 */
MUST_CHECK mu_status http1_codec_feed(struct http1_codec *codec, const uint8_t *data, size_t size, size_t *ret_used,
                                      int *ret_http_status, mu_error *err);

/* The peer ended the connection: a response without a length ends with it (`end` is called). MU_INVALID: in the middle
 * of a message. */
MUST_CHECK mu_status http1_codec_finish(struct http1_codec *codec, mu_error *err);

/* Bytes of a Content-Length body that are still to come: what a direct read may be bounded to. 0 outside of such a
 * body. */
uint64_t http1_codec_body_left(const struct http1_codec *codec);

/* In the middle of a message? (an end of file here is an error of the peer) */
bool http1_codec_busy(const struct http1_codec *codec);

/* Is the message whose head came last of HTTP/1.0, whose clients know no chunks? */
bool http1_codec_is_1_0(const struct http1_codec *codec);

/* "OK", "Not Found", …; "Unknown" otherwise. */
const char *http_status_text(int status);

#endif
