/* What requests and answers of HTTP/1.1 and HTTP/2 have in common. Private to net/; the loop's thread. */
#ifndef NET_HTTP_MESSAGE_H
#define NET_HTTP_MESSAGE_H

#include "net/server_state.h"

enum { COPY_AT_ONCE = 8 * 1024 /* a body up to this is copied: cheaper than keeping account of it */ };

#define CROWDED_MOST_NS NS_PER_S       /* then a slow client whose answer cannot be copied has to go */
#define LINGER_MOST_NS (30 * NS_PER_S) /* for a client that goes on sending behind its last answer */

/* The path of a target: absolute-form loses scheme and authority (RFC 9112 section 3.2.2). NULL: neither that, nor a
 * path, nor "*". */
const char *message_path(const char *target);

/* RFC 9110 section 6.4.1: no content, and no Content-Length that could be taken for one. */
static inline bool message_has_no_content(int status) { return status < 200 || status == 204 || status == 304; }

/* The date of now in the one form that all readers know (RFC 9110 sections 6.6.1 and 5.6.7). */
const char *message_date(struct http_server *server);

/* A value may quote what a client sent elsewhere: no byte of it may end the line. Returns at + size. */
char *message_put_value(char *at, const char *value, size_t size);

size_t message_body_size(const struct iovec *body, size_t n);

/* The body that the head announces: is it too large, or compressed in a way that nobody understands? true: answered.
 * *ret_decoder is for one that is compressed. */
bool message_refuse_body(struct exchange *exchange, uint64_t limit, struct content_decoder **ret_decoder);

/* Compresses into server->encoded where that is wanted, allowed and shorter. Without memory for it the body goes out as
 * it is, which is always right. */
enum content_coding message_compress(struct http_server *server, const char *accept_encoding, const struct reply *reply,
                                     size_t size);

#endif
