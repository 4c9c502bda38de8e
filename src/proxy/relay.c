/* An exchange that is passed on as it is: gRPC calls of every kind, and requests of HTTP. */
#include "base/clock.h"
#include "proto/grpc/grpc_headers.h"
#include "proxy/passage.h"
#include "proxy/proxy.h"

#include <stdlib.h>
#include <strings.h>

enum {
  UNSENT_MAX = 1024 * 1024, /* bytes of an answer that its client does not take; then the backend waits */
  WHOLE_MAX = 256 * 1024,   /* an answer of a known size up to this goes out as one, with its length */
  LINES_MAX = 250           /* of an answer's head, and of its trailers: HTTP/2 has room for 256 with its own */
};

struct relay {
  const struct proxy_handler *handler; /* first: exchange.user */
  struct exchange *exchange;
  struct passage *passage; /* NULL: over */
  bool grpc, begun, paused, holding;
  bool collecting;      /* the answer is short: it goes out as a whole */
  uint64_t head_length; /* HEAD: of the body that GET would bring */
  int status;
  struct buffer head; /* lines of the answer that is being collected */
  struct buffer body;
};

static void release(struct relay *relay) {
  buffer_free(&relay->head);
  buffer_free(&relay->body);
  free(relay);
}

/* ---- the answer's head ------------------------------------------------------------------------------------------- */

/* What belongs to the backend's connection, or is written anew. */
static bool is_left_out(const char *name) {
  static const char *const names[] = {"connection",        "keep-alive",   "proxy-connection",
                                      "transfer-encoding", "upgrade",      "trailer",
                                      "content-length",    "content-type", "date"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(names[i], name) == 0) return true;
  return false;
}

/* false: there are more than LINES_MAX. */
static bool pass_lines(struct client_lines lines, struct header headers[LINES_MAX], size_t *ret_n) {
  const char *name, *value;
  *ret_n = 0;
  for (size_t at = 0; client_next_line(lines, &at, &name, &value);) {
    if (is_left_out(name)) continue;
    if (*ret_n == LINES_MAX) return false;
    headers[(*ret_n)++] = (struct header){name, value};
  }
  return true;
}

/* ---- ends -------------------------------------------------------------------------------------------------------- */

static void on_failed(void *owner, enum passage_failure failure, const char *why) {
  struct relay *relay = owner;
  struct exchange *exchange = relay->exchange;
  bool begun = relay->begun;
  relay->passage = NULL;
  if (relay->grpc)
    proxy_grpc_error(exchange, begun, passage_failure_codes[failure].grpc, why);
  else if (begun)
    exchange_abort(exchange);
  else
    exchange_reply_error(exchange, passage_failure_codes[failure].http, why);
  release(relay);
}

static void on_too_many_lines(struct relay *relay) {
  if (relay->passage != NULL) passage_cancel(relay->passage);
  on_failed(relay, PASSAGE_UNREADABLE, "the backend's answer has more than 250 headers or trailers");
}

static void send_whole(struct relay *relay) {
  struct header headers[LINES_MAX];
  size_t n;
  struct client_lines lines = {relay->head.data, relay->head.size};
  struct iovec body = {relay->body.data, relay->body.size};
  (void)pass_lines(lines, headers, &n); /* on_head has seen that it fits */
  exchange_reply(relay->exchange, &(struct reply){.status = relay->status,
                                                  .content_type = client_line(lines, "content-type"),
                                                  .n_headers = n,
                                                  .headers = headers,
                                                  .body = &body,
                                                  .n_body = relay->body.size > 0,
                                                  .head_length = relay->head_length});
}

static void on_end(void *owner, struct client_lines lines) {
  struct relay *relay = owner;
  struct header trailers[LINES_MAX];
  size_t n;
  relay->passage = NULL;
  if (!pass_lines(lines, trailers, &n)) {
    on_too_many_lines(relay);
    return;
  }
  if (!relay->collecting)
    exchange_reply_end(relay->exchange, trailers, n);
  else if (relay->head.failed || relay->body.failed)
    exchange_reply_error(relay->exchange, 503, "no memory for an answer");
  else
    send_whole(relay);
  release(relay);
}

/* ---- the answer -------------------------------------------------------------------------------------------------- */

static void on_head(void *owner, int status, struct client_lines lines, uint64_t content_length) {
  struct relay *relay = owner;
  bool head_only = strcmp(relay->exchange->method, "HEAD") == 0;
  struct header headers[LINES_MAX];
  size_t n;
  if (!pass_lines(lines, headers, &n)) {
    on_too_many_lines(relay);
    return;
  }
  relay->status = status;
  relay->collecting = !relay->grpc && (content_length <= WHOLE_MAX || (head_only && content_length != UINT64_MAX));
  if (relay->collecting) {
    relay->head_length = head_only ? content_length : 0;
    buffer_append(&relay->head, lines.text, lines.size);
    return;
  }
  relay->begun = true;
  exchange_reply_begin(
      relay->exchange,
      &(struct reply){
          .status = status, .content_type = client_line(lines, "content-type"), .n_headers = n, .headers = headers});
}

static void on_body(void *owner, const uint8_t *data, size_t size) {
  struct relay *relay = owner;
  if (relay->collecting) {
    buffer_append(&relay->body, data, size);
    return;
  }
  struct exchange *exchange = relay->exchange;
  struct iovec part = {(void *)(uintptr_t)data, size};
  relay->holding = true; /* the client may leave inside: then the memory has to stay until we are back */
  exchange_reply_part(exchange, &(struct reply_part){.body = &part, .n_body = 1});
  relay->holding = false;
  if (relay->exchange == NULL) {
    release(relay);
    return;
  }
  if (!relay->paused && exchange_unsent(exchange) > UNSENT_MAX) {
    relay->paused = true;
    passage_pause(relay->passage);
  }
}

static void on_room(void *owner) {
  struct relay *relay = owner;
  exchange_resume(relay->exchange);
}

static const struct passage_sink sink = {
    .head = on_head, .body = on_body, .end = on_end, .failed = on_failed, .room = on_room};

/* ---- the client -------------------------------------------------------------------------------------------------- */

static void client_body(struct exchange *exchange, const uint8_t *data, size_t size) {
  struct relay *relay = exchange->user;
  passage_data(relay->passage, data, size);
  if (!passage_room(relay->passage)) exchange_pause(exchange);
}

static void client_end(struct exchange *exchange) {
  struct relay *relay = exchange->user;
  passage_finish(relay->passage);
}

static void client_gone(struct exchange *exchange) {
  struct relay *relay = exchange->user;
  relay->exchange = NULL;
  if (relay->passage != NULL) passage_cancel(relay->passage);
  relay->passage = NULL;
  if (!relay->holding) release(relay);
}

static void client_writable(struct exchange *exchange) {
  struct relay *relay = exchange->user;
  if (!relay->paused) return;
  relay->paused = false;
  passage_resume(relay->passage);
}

void relay_begin(struct proxy *proxy, struct exchange *exchange, bool grpc) {
  static const struct proxy_handler handler = {
      .body = client_body, .end = client_end, .gone = client_gone, .writable = client_writable};
  struct cluster *cluster = grpc ? proxy->grpc : proxy->http;
  const char *timeout = grpc ? exchange->headers[HEADER_GRPC_TIMEOUT] : NULL;
  uint64_t left = TIME_NEVER;
  mu_error err;
  if (cluster == NULL) {
    if (grpc)
      proxy_grpc_error(exchange, false, GRPC_UNAVAILABLE, "this proxy has no backends for gRPC (--backends)");
    else
      exchange_reply_error(exchange, 503, "this proxy has no backends for HTTP");
    return;
  }
  if (timeout != NULL && grpc_timeout_parse(timeout, &left, &err) != MU_OK) {
    proxy_grpc_error(exchange, false, GRPC_INVALID_ARGUMENT, err.message);
    return;
  }
  const struct passage_request request = {
      .grpc = grpc,
      .method = exchange->method,
      .path = exchange->path,
      .query = exchange->query,
      .lines = {exchange->lines, exchange->lines_size},
      .content_length = grpc ? UINT64_MAX : exchange->content_length,
      .deadline_ns = left == TIME_NEVER ? TIME_NEVER : time_add(exchange->received_ns, left)};
  struct relay *relay = calloc(1, sizeof *relay);
  struct passage *passage = relay != NULL ? passage_create(cluster, &request, &sink, relay) : NULL;
  if (passage == NULL) {
    free(relay);
    exchange_reply_error(exchange, 503, "no memory for a request");
    return;
  }
  *relay = (struct relay){.handler = &handler, .exchange = exchange, .passage = passage, .grpc = grpc};
  buffer_init(&relay->head, (size_t)128 * 1024);
  buffer_init(&relay->body, WHOLE_MAX);
  exchange->user = relay;
  exchange_unbounded_body(exchange);
  *(grpc ? &proxy->calls_grpc : &proxy->calls_http) += 1;
  passage_start(passage);
}
