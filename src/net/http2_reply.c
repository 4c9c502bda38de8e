/* Answers to frames to bytes: heads, bodies, and the memory that answers borrow. */
#include "net/http2_connection.h"

#include "base/decimal.h"
#include "net/http_message.h"

#include <assert.h>
#include <errno.h>
#include <strings.h>
#include <sys/socket.h>

enum {
  HEADERS_MOST = 256,         /* of an answer */
  COPY_MOST = 2048,           /* pieces up to this are copied among the frames' heads: fewer pieces to write */
  OUT_MOST = 2 * 1024 * 1024, /* frames made ahead of the socket */
  WRITE_IOVECS = 256
};

/* ---- heads ------------------------------------------------------------------------------------------------------- */

/* A header into text, name and value each terminated. The name may come with capitals: nghttp2 makes them small. */
static void put_header(struct buffer *text, size_t *n, const char *name, const char *value) {
  value += strspn(value, " \t\r\n"); /* space around a value is an error (RFC 9113 section 8.2.1) */
  size_t size = strlen(value);
  while (size > 0 && strchr(" \t\r\n", value[size - 1]) != NULL) size--;
  buffer_append(text, name, strlen(name) + 1);
  if (buffer_reserve(text, size + 1) != MU_OK) return;
  char *end = message_put_value(text->data + text->size, value, size);
  *end = '\0';
  text->size += size + 1;
  ++*n;
}

/* Those of HTTP/1.1 that say something of its connection (RFC 9113 section 8.2.2). */
static bool is_of_connection(const char *name) {
  static const char *const names[] = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcasecmp(names[i], name) == 0) return true;
  return false;
}

static void put_headers(struct buffer *text, size_t *n, const struct header *headers, size_t n_headers) {
  for (size_t i = 0; i < n_headers; i++)
    if (!is_of_connection(headers[i].name)) put_header(text, n, headers[i].name, headers[i].value);
}

/* The length is told where it says more than the frames do: not before trailers, which are gRPC's, whose messages have
 * theirs. Without it the head is the same again and again, and every line of it an index into the table of HPACK. */
static void write_head(struct http2_exchange *x, const struct reply *r, enum content_coding coding, uint64_t length) {
  char number[DECIMAL_MOST + 1];
  buffer_clear(&x->head);
  x->n_head = 0;
  *decimal_put(number, (uint64_t)r->status) = '\0';
  put_header(&x->head, &x->n_head, ":status", number);
  put_header(&x->head, &x->n_head, "date", message_date(x->connection->base.server));
  if (r->content_type != NULL) put_header(&x->head, &x->n_head, "content-type", r->content_type);
  if (length != UINT64_MAX && r->n_trailers == 0 && !message_has_no_content(r->status)) {
    *decimal_put(number, length) = '\0';
    put_header(&x->head, &x->n_head, "content-length", number);
  }
  if (coding != CODING_IDENTITY) put_header(&x->head, &x->n_head, "content-encoding", content_coding_name(coding));
  if (r->compressible) put_header(&x->head, &x->n_head, "vary", "Accept-Encoding");
  put_headers(&x->head, &x->n_head, r->headers, r->n_headers);
}

/* text as nghttp2 wants it. It copies everything. */
static size_t list_headers(const struct buffer *text, size_t n, nghttp2_nv pairs[HEADERS_MOST]) {
  const char *at = text->data;
  if (n > HEADERS_MOST) n = HEADERS_MOST;
  for (size_t i = 0; i < n; i++) {
    pairs[i] = (nghttp2_nv){.name = (uint8_t *)(uintptr_t)at, .namelen = strlen(at)};
    at += pairs[i].namelen + 1;
    pairs[i].value = (uint8_t *)(uintptr_t)at;
    pairs[i].valuelen = strlen(at);
    at += pairs[i].valuelen + 1;
  }
  return n;
}

static bool submit_trailers(struct http2_exchange *x) {
  nghttp2_nv pairs[HEADERS_MOST];
  size_t n = list_headers(&x->trailers, x->n_trailers, pairs);
  return nghttp2_submit_trailer(x->connection->session, x->stream_id, pairs, n) == 0;
}

/* ---- bodies ------------------------------------------------------------------------------------------------------ */

/* nghttp2 asks how much of a body goes into the next frame; send_data brings it. */
static ssize_t read_body(nghttp2_session *session, int32_t stream_id, uint8_t *unused, size_t length, uint32_t *flags,
                         nghttp2_data_source *source, void *context) {
  struct http2_connection *c = context;
  struct http2_exchange *x = nghttp2_session_get_stream_user_data(session, stream_id);
  if (c->base.closed) return NGHTTP2_ERR_CALLBACK_FAILURE;
  if (x == NULL) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* the stream is reset */
  size_t size = x->body.size < length ? x->body.size : length;
  *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
  if (size < x->body.size) return (ssize_t)size;
  if (!x->answered) { /* more may come */
    x->deferred = size == 0;
    return size == 0 ? NGHTTP2_ERR_DEFERRED : (ssize_t)size;
  }
  *flags |= NGHTTP2_DATA_FLAG_EOF;
  if (x->n_trailers == 0) return (ssize_t)size;
  *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
  return submit_trailers(x) ? (ssize_t)size : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

/* Hands the head to nghttp2, which asks for the body; has_body: there is one, or one may come. */
static bool submit(struct http2_exchange *x, bool has_body) {
  nghttp2_session *session = x->connection->session;
  nghttp2_nv pairs[HEADERS_MOST];
  nghttp2_data_provider provider = {.read_callback = read_body};
  x->headers_due = false;
  if (x->head.failed || x->trailers.failed) return false; /* then they are not what their counts say */
  size_t n = list_headers(&x->head, x->n_head, pairs);
  if (has_body || x->n_trailers == 0)
    return nghttp2_submit_response(session, x->stream_id, pairs, n, has_body ? &provider : NULL) == 0;
  return nghttp2_submit_headers(session, NGHTTP2_FLAG_NONE, x->stream_id, NULL, pairs, n, NULL) == 0 &&
         submit_trailers(x);
}

static mu_status charge(struct http2_exchange *x, size_t size) {
  mu_status status = connection_charge(&x->connection->base, size);
  if (status == MU_OK) x->charged += size;
  return status;
}

static mu_status copy_body(struct http2_exchange *x, const struct iovec *body, size_t n_body) {
  mu_status status = charge(x, message_body_size(body, n_body));
  for (size_t i = 0; status == MU_OK && i < n_body; i++)
    status = reply_queue_copy(&x->body, body[i].iov_base, body[i].iov_len);
  return status;
}

/* Into the exchange by the cheapest way; done is called, now or later, or it fails. A copy that finds no room leaves
 * the memory borrowed where it is somebody's. */
static mu_status add_body(struct http2_exchange *x, const struct reply_part *part) {
  size_t size = message_body_size(part->body, part->n_body);
  mu_status status = MU_UNAVAILABLE;
  if (size <= COPY_AT_ONCE || part->done == NULL) status = copy_body(x, part->body, part->n_body);
  if (status == MU_UNAVAILABLE && part->done != NULL)
    return reply_queue_borrow(&x->body, part->body, part->n_body, part->unshared, part->done, part->owner);
  if (status == MU_OK && part->done != NULL) part->done(part->owner);
  return status;
}

/* ---- exchange_reply ---------------------------------------------------------------------------------------------- */

/* The rest of a request that is answered is thrown away; RST_STREAM follows the answer. */
static void abandon_request(struct http2_exchange *x) {
  x->body_wanted = x->paused = false;
  buffer_free(&x->held);
  connection_forget(&x->connection->base, x->held_charged);
  x->held_charged = 0;
  x->decode_due = false;
}

static void wait_for_frames(struct http2_exchange *x) {
  struct http2_connection *c = x->connection;
  if (x->body.n > 0 && list_empty(&x->sending)) {
    x->checked_answer = false;
    list_push_back(&c->sending, &x->sending);
  }
  connection_wake(&c->base);
}

/* The stream cannot be answered any more. */
static void reset(struct http2_exchange *x, uint32_t error_code) {
  struct http2_connection *c = x->connection;
  if (nghttp2_submit_rst_stream(c->session, NGHTTP2_FLAG_NONE, x->stream_id, error_code) != 0)
    connection_close(&c->base);
  connection_wake(&c->base);
}

/* What a body that could not be taken means: past the bound of a connection that ends, else its stream. */
static void give_up(struct http2_exchange *x, mu_status status) {
  if (status == MU_TOO_LARGE)
    connection_close(&x->connection->base);
  else
    reset(x, NGHTTP2_INTERNAL_ERROR);
}

static mu_status fill_answer(struct http2_exchange *x, const struct reply *r) {
  struct http_server *server = x->connection->base.server;
  size_t size = message_body_size(r->body, r->n_body);
  struct reply_part part = {r->body, r->n_body, r->unshared, r->done, r->owner};
  if (x->body_unwanted || message_has_no_content(r->status)) {
    write_head(x, r, CODING_IDENTITY, x->body_unwanted && r->head_length > 0 ? r->head_length : size);
    part.n_body = 0;
    return add_body(x, &part);
  }
  enum content_coding coding = message_compress(server, x->base.headers[HEADER_ACCEPT_ENCODING], r, size);
  struct iovec encoded = {server->encoded.data, server->encoded.size};
  bool compressed = coding != CODING_IDENTITY && copy_body(x, &encoded, 1) == MU_OK;
  write_head(x, r, compressed ? coding : CODING_IDENTITY, compressed ? encoded.iov_len : size);
  if (!compressed) return add_body(x, &part);
  if (r->done != NULL) r->done(r->owner);
  return MU_OK;
}

/* The last that is said where there is no memory for more. */
static void answer_without_memory(struct http2_exchange *x) {
  static const nghttp2_nv head[] = {{(uint8_t *)(uintptr_t) ":status", (uint8_t *)(uintptr_t) "503", 7, 3, 0},
                                    {(uint8_t *)(uintptr_t) "retry-after", (uint8_t *)(uintptr_t) "1", 11, 1, 0}};
  struct http2_connection *c = x->connection;
  reply_queue_clear(&x->body);
  if (nghttp2_submit_response(c->session, x->stream_id, head, 2, NULL) != 0) connection_close(&c->base);
  connection_wake(&c->base);
}

static void reply(struct exchange *exchange, const struct reply *r) {
  struct http2_exchange *x = list_item(exchange, struct http2_exchange, base);
  struct http2_connection *c = x->connection;
  assert(!x->answered && !x->streaming);
  x->answered = true;
  if (c->base.closed) { /* it ends all of its exchanges just now */
    if (r->done != NULL) r->done(r->owner);
    return;
  }
  abandon_request(x);
  buffer_clear(&x->trailers);
  put_headers(&x->trailers, &x->n_trailers, r->trailers, r->n_trailers);
  mu_status status = fill_answer(x, r);
  bool ok = status == MU_OK && submit(x, x->body.size > 0);
  if (status != MU_OK && r->done != NULL) r->done(r->owner);
  if (ok)
    wait_for_frames(x);
  else if (status == MU_OK || status == MU_NO_MEMORY)
    answer_without_memory(x);
  else
    give_up(x, status);
}

/* ---- replies in parts -------------------------------------------------------------------------------------------- */

static void reply_begin(struct exchange *exchange, const struct reply *r) {
  struct http2_exchange *x = list_item(exchange, struct http2_exchange, base);
  struct http2_connection *c = x->connection;
  assert(!x->answered && !x->streaming);
  x->streaming = true;
  if (c->base.closed) return;
  write_head(x, r, CODING_IDENTITY, UINT64_MAX);
  x->headers_due = true;
  if (list_empty(&x->sending)) list_push_back(&c->sending, &x->sending);
  connection_wake(&c->base);
}

static void submit_head(struct http2_exchange *x) {
  if (!x->headers_due) return;
  if (!submit(x, !x->body_unwanted)) give_up(x, MU_NO_MEMORY);
}

static void resume_data(struct http2_exchange *x) {
  struct http2_connection *c = x->connection;
  if (!x->deferred) return;
  x->deferred = false;
  if (nghttp2_is_fatal(nghttp2_session_resume_data(c->session, x->stream_id))) connection_close(&c->base);
}

static void reply_part(struct exchange *exchange, const struct reply_part *part) {
  struct http2_exchange *x = list_item(exchange, struct http2_exchange, base);
  struct http2_connection *c = x->connection;
  assert(!x->answered && x->streaming);
  size_t size = message_body_size(part->body, part->n_body), before = x->body.size;
  bool unwanted = c->base.closed || x->body_unwanted,
       over = c->streamed + size > c->base.server->limits.copied_reply_bytes;
  if (unwanted || over) {
    if (part->done != NULL) part->done(part->owner);
    if (!unwanted) connection_close(&c->base);
    return;
  }
  submit_head(x);
  mu_status status = c->base.closed ? MU_NO_MEMORY : add_body(x, part);
  c->streamed += x->body.size - before;
  if (status != MU_OK) {
    if (part->done != NULL) part->done(part->owner);
    if (!c->base.closed) give_up(x, status);
    return;
  }
  if (c->base.closed) return; /* by `done` */
  if (x->body.size > EXCHANGE_LOW_WATER && list_empty(&x->above)) list_push_back(&c->above, &x->above);
  if (size > 0) resume_data(x);
  if (!c->base.closed) wait_for_frames(x);
}

static void reply_end(struct exchange *exchange, const struct header *trailers, size_t n_trailers) {
  struct http2_exchange *x = list_item(exchange, struct http2_exchange, base);
  struct http2_connection *c = x->connection;
  assert(!x->answered && x->streaming);
  x->answered = true;
  if (c->base.closed) return;
  list_remove(&x->above);
  abandon_request(x);
  buffer_clear(&x->trailers);
  put_headers(&x->trailers, &x->n_trailers, trailers, n_trailers);
  if (x->trailers.failed || (x->headers_due && !submit(x, false)))
    give_up(x, MU_NO_MEMORY);
  else
    resume_data(x);
  if (!c->base.closed) wait_for_frames(x);
}

static void reply_abort(struct exchange *exchange) {
  struct http2_exchange *x = list_item(exchange, struct http2_exchange, base);
  x->answered = true;
  if (x->connection->base.closed) return;
  list_remove(&x->above);
  abandon_request(x);
  reset(x, NGHTTP2_INTERNAL_ERROR);
}

static uint64_t unsent(const struct exchange *exchange) {
  return list_item(exchange, const struct http2_exchange, base)->body.size;
}

/* ---- reading on -------------------------------------------------------------------------------------------------- */

static void pause_body(struct exchange *exchange) {
  struct http2_exchange *x = list_item(exchange, struct http2_exchange, base);
  if (!x->answered) x->paused = true;
}

static void resume_body(struct exchange *exchange) {
  struct http2_exchange *x = list_item(exchange, struct http2_exchange, base);
  struct http2_connection *c = x->connection;
  if (!x->paused || c->base.closed) return;
  x->paused = false;
  if (list_empty(&x->resumed)) list_push_back(&c->resumed, &x->resumed);
  connection_wake(&c->base);
}

static void unbounded_body(struct exchange *exchange) {
  list_item(exchange, struct http2_exchange, base)->unbounded = true;
}

static bool client_is_local(const struct exchange *exchange) {
  struct http2_connection *connection = list_item(exchange, struct http2_exchange, base)->connection;
  return peer_is_local(connection->base.fd, &connection->base.place);
}

const struct transport http2_transport = {.reply = reply,
                                          .peer_is_local = client_is_local,
                                          .pause = pause_body,
                                          .resume = resume_body,
                                          .unbounded = unbounded_body,
                                          .begin = reply_begin,
                                          .part = reply_part,
                                          .end = reply_end,
                                          .abort = reply_abort,
                                          .unsent = unsent};

void http2_reply_continue(struct http2_exchange *x) {
  static const nghttp2_nv head = {(uint8_t *)(uintptr_t) ":status", (uint8_t *)(uintptr_t) "100", 7, 3, 0};
  struct http2_connection *c = x->connection;
  if (!x->expects || x->answered || x->streaming || x->paused) return;
  x->expects = false;
  if (x->received > 0 || x->request_ended) return; /* it did not wait */
  if (nghttp2_submit_headers(c->session, NGHTTP2_FLAG_NONE, x->stream_id, NULL, &head, 1, NULL) != 0)
    connection_close(&c->base);
}

/* ---- frames ------------------------------------------------------------------------------------------------------ */

/* Bytes that were copied into frames and are out count no more. */
static void forget_sent(struct http2_connection *c) {
  size_t own = c->out.size - c->out.lent;
  if (c->out_charged <= own) return;
  size_t less = c->out_charged - own;
  c->out_charged = own;
  connection_forget(&c->base, less);
}

int http2_reply_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *head, size_t length,
                          nghttp2_data_source *source, void *context) {
  struct http2_connection *c = context;
  struct http2_exchange *x = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
  enum { HEAD_SIZE = 9 };
  if (c->base.closed) return NGHTTP2_ERR_CALLBACK_FAILURE;
  if (c->out.size > OUT_MOST) return NGHTTP2_ERR_WOULDBLOCK;
  if (x == NULL || x->body.size < length) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
  size_t own = x->body.size - x->body.lent;
  if (reply_queue_copy(&c->out, head, HEAD_SIZE) != MU_OK ||
      reply_queue_move(&c->out, &x->body, length, COPY_MOST) != MU_OK)
    return NGHTTP2_ERR_CALLBACK_FAILURE;
  own -= x->body.size - x->body.lent;
  if (own > x->charged) own = x->charged;
  x->charged -= own;
  c->out_charged += own;
  x->framed += length;
  c->sent += length;
  if (x->streaming) c->streamed -= length;
  if (x->body.n == 0) list_remove(&x->sending);
  return 0;
}

int http2_reply_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *context) {
  struct http2_connection *c = context;
  if (c->base.closed) return NGHTTP2_ERR_CALLBACK_FAILURE;
  if (frame->hd.type != NGHTTP2_DATA && frame->hd.type != NGHTTP2_HEADERS) return 0;
  c->credit += 2; /* a client may open its windows, and see how fast we are, as often as we send */
  if (!(frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) return 0;
  const struct http2_exchange *x = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
  if (x == NULL || x->request_ended) return 0;
  return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
}

/* Makes frames of all that there is, as far as they are not too far ahead of the socket. */
static bool make_frames(struct http2_connection *c) {
  while (c->out.size <= OUT_MOST) {
    const uint8_t *data;
    ssize_t size = nghttp2_session_mem_send(c->session, &data);
    if (c->base.closed || size < 0) return false;
    if (size == 0) return true;
    if (reply_queue_copy(&c->out, data, (size_t)size) != MU_OK) return false;
  }
  return true;
}

static void write_frames(struct http2_connection *c) {
  c->base.blocked = false;
  while (!c->base.blocked) {
    struct iovec pieces[WRITE_IOVECS];
    if (!make_frames(c)) connection_close(&c->base);
    if (c->base.closed) return;
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = reply_queue_gather(&c->out, pieces, WRITE_IOVECS)};
    if (message.msg_iovlen == 0) {
      reply_queue_advance(&c->out, 0);
      return;
    }
    ssize_t sent = sendmsg(c->base.fd, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno != EAGAIN) connection_close(&c->base);
    if (c->base.closed) return;
    c->base.blocked = sent < (ssize_t)message_body_size(pieces, message.msg_iovlen);
    if (sent <= 0) return;
    reply_queue_advance(&c->out, (size_t)sent);
    if (c->base.closed) return;
    forget_sent(c);
  }
}

/* How long the client may take now: the borrowed memory is wanted back soon, all else is only memory of its own. */
static void update_write_wait(struct http2_connection *c) {
  bool waits = c->base.blocked || c->out.n > 0, borrowed = c->out.shared > 0;
  list_each (link, &c->sending) {
    const struct http2_exchange *x = list_item(link, const struct http2_exchange, sending);
    waits |= x->body.n > 0;
    borrowed |= x->body.shared > 0;
  }
  enum wait kind = !waits ? WAIT_NONE : borrowed ? WAIT_SLOW : WAIT_STALL;
  if (kind == WAIT_NONE) c->crowded_ns = 0;
  if (kind == c->base.write_waiting) return;
  c->sent_at_wait = c->sent;
  connection_write_wait(&c->base, kind);
}

/* Services whose parts have left are asked for more: once, then the loop's other connections have their turn. */
static void ask_for_more(struct http2_connection *c) {
  const struct http_server *server = c->base.server;
  struct list all;
  list_init(&all);
  while (!list_empty(&c->above)) list_push_back(&all, list_pop_front(&c->above));
  for (struct list *link; (link = list_pop_front(&all)) != NULL;) {
    struct http2_exchange *x = list_item(link, struct http2_exchange, above);
    if (x->body.size > EXCHANGE_LOW_WATER)
      list_push_back(&c->above, link);
    else if (server->service.writable != NULL && !c->base.closed)
      server->service.writable(server->context, &x->base);
  }
}

void http2_reply_flush(struct http2_connection *c) {
  if (c->sending_now) return;
  c->sending_now = true;
  c->base.again = false;
  for (int i = 0; i < 2 && !c->base.closed; i++) {
    list_each (link, &c->sending) {
      struct http2_exchange *x = list_item(link, struct http2_exchange, sending);
      submit_head(x);
      if (c->base.closed) break;
      if (x->body.n == 0) list_remove(link);
    }
    if (!c->base.closed) write_frames(c);
    if (c->base.closed || list_empty(&c->above)) break;
    if (i == 0) ask_for_more(c);
  }
  list_each (link, &c->above)
    c->base.again |= list_item(link, const struct http2_exchange, above)->body.size <= EXCHANGE_LOW_WATER;
  c->sending_now = false;
  if (!c->base.closed) update_write_wait(c);
}

/* ---- slow clients ------------------------------------------------------------------------------------------------ */

/* May an answer that found no room wait on for it? */
static bool may_stay_borrowed(struct http2_connection *c) {
  if (c->crowded_ns == 0) c->crowded_ns = c->base.server->now_ns;
  return c->base.server->now_ns - c->crowded_ns < CROWDED_MOST_NS;
}

/* One queue's; *charged counts its bytes. false: the connection is closed. */
static bool copy_queue(struct http2_connection *c, struct reply_queue *queue, size_t *charged, bool *crowded) {
  size_t size = queue->shared;
  if (size == 0) return true;
  mu_status status = connection_charge(&c->base, size);
  if (status == MU_OK) {
    *charged += size;
    status = reply_queue_settle(queue);
  }
  *crowded |= status == MU_UNAVAILABLE;
  if (status != MU_OK && !(status == MU_UNAVAILABLE && may_stay_borrowed(c))) connection_close(&c->base);
  return !c->base.closed;
}

void http2_reply_copy(struct http2_connection *c) {
  bool crowded = false;
  c->sending_now = true;
  if (copy_queue(c, &c->out, &c->out_charged, &crowded))
    list_each (link, &c->sending) {
      struct http2_exchange *x = list_item(link, struct http2_exchange, sending);
      if (!copy_queue(c, &x->body, &x->charged, &crowded)) break;
    }
  if (!crowded) c->crowded_ns = 0;
  c->sending_now = false;
}
