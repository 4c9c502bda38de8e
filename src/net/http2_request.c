/* From frames to exchanges: nghttp2's callbacks become calls of the service. */
#include "net/http2_connection.h"
#include "net/http_message.h"

#include <stdlib.h>

enum {
  SPARE_MOST = 1024,   /* exchanges that a server keeps for reuse */
  SPARE_MEMORY = 4096, /* of each of their buffers */
  FRAME_HEAD = 9,
  FRAME_MOST = READ_SIZE,     /* of a frame that a client may send */
  WORTH_A_WINDOW = 16 * 1024, /* bytes of a body after which its stream gets a larger window */
  HEADS_MOST = 4              /* heads, each as large as one may be, that a block of headers may be read as */
};

/* ---- exchanges --------------------------------------------------------------------------------------------------- */

static struct http2_exchange *exchange_take(struct http2_connection *c, int32_t stream_id) {
  struct http_server *server = c->base.server;
  struct list *link = list_pop_front(&server->spare2);
  struct http2_exchange *x;
  if (link != NULL) {
    x = list_item(link, struct http2_exchange, link);
    server->n_spare2--;
    struct http2_exchange fresh = {
        .text = x->text, .lines = x->lines, .held = x->held, .head = x->head, .trailers = x->trailers, .body = x->body};
    *x = fresh;
  } else {
    x = calloc(1, sizeof *x);
    if (x == NULL) return NULL;
    buffer_init(&x->text, SIZE_MAX / 2);     /* bounded by the limit of a head */
    buffer_init(&x->lines, SIZE_MAX / 2);    /* the same */
    buffer_init(&x->held, SIZE_MAX / 2);     /* bounded by the stream's window */
    buffer_init(&x->head, SIZE_MAX / 2);     /* the service's */
    buffer_init(&x->trailers, SIZE_MAX / 2); /* the service's */
    reply_queue_init(&x->body);
  }
  list_init(&x->resumed);
  list_init(&x->sending);
  list_init(&x->above);
  list_push_back(&c->exchanges, &x->link);
  c->n_exchanges++;
  c->n_bodies++;
  x->connection = c;
  x->stream_id = stream_id;
  x->base.loop = server->loop;
  x->base.transport = &http2_transport;
  x->base.multiplexed = true;
  x->base.content_length = UINT64_MAX;
  return x;
}

void http2_exchange_free(struct http2_exchange *x) {
  buffer_free(&x->text);
  buffer_free(&x->lines);
  buffer_free(&x->held);
  buffer_free(&x->head);
  buffer_free(&x->trailers);
  reply_queue_free(&x->body);
  free(x);
}

static void trim(struct buffer *b) {
  if (b->capacity > SPARE_MEMORY) buffer_free(b);
  buffer_clear(b);
}

static void exchange_release(struct http2_exchange *x) {
  struct http_server *server = x->connection->base.server;
  if (server->closed || server->n_spare2 >= SPARE_MOST) {
    http2_exchange_free(x);
    return;
  }
  trim(&x->text);
  trim(&x->lines);
  trim(&x->held);
  trim(&x->head);
  trim(&x->trailers);
  list_push_front(&server->spare2, &x->link); /* last in, first out: it is still in the cache */
  server->n_spare2++;
}

/* Its request has been read, or nobody waits for the rest. */
static void request_is_over(struct http2_exchange *x) {
  if (!x->request_ended) x->connection->n_bodies--;
  x->request_ended = true;
}

void http2_exchange_end(struct http2_exchange *x) {
  struct http2_connection *c = x->connection;
  const struct http_server *server = c->base.server;
  if (x->stream_id > 0) nghttp2_session_set_stream_user_data(c->session, x->stream_id, NULL);
  list_remove(&x->link);
  list_remove(&x->resumed);
  list_remove(&x->sending);
  list_remove(&x->above);
  c->n_exchanges--;
  c->granted -= x->granted;
  request_is_over(x);
  if (x->streaming) c->streamed -= x->body.size;
  if (!x->answered) {
    x->answered = true;
    if (x->begun) server->service.gone(server->context, &x->base);
  }
  content_decoder_free(x->decoder);
  if (!c->base.closed) connection_forget(&c->base, x->charged + x->held_charged); /* closed: all of it at once */
  if (c->base.closed || reply_queue_abandon(&c->out, &x->body) != MU_OK) {
    connection_close(&c->base); /* what is in c->out refers to memory that is given back now */
    reply_queue_clear(&x->body);
  }
  exchange_release(x);
}

/* ---- the head ---------------------------------------------------------------------------------------------------- */

/* Appends a terminated string; where it begins, plus 1. */
static size_t keep_text(struct http2_exchange *x, const uint8_t *text, size_t size) {
  size_t at = x->text.size;
  buffer_append(&x->text, text, size);
  buffer_putc(&x->text, '\0');
  return at + 1;
}

static bool is_name(const uint8_t *name, size_t size, const char *text) {
  return size == strlen(text) && memcmp(name, text, size) == 0;
}

/* nghttp2 has seen that it is a number. */
static uint64_t parse_length(const uint8_t *text, size_t size) {
  uint64_t number = 0;
  for (size_t i = 0; i < size; i++) {
    if (number > (UINT64_MAX - 9) / 10) return UINT64_MAX - 1;
    number = 10 * number + (uint64_t)(text[i] - '0');
  }
  return number;
}

static void keep_header(struct http2_exchange *x, const uint8_t *name, size_t name_size, const uint8_t *value,
                        size_t size) {
  size_t *place = NULL;
  if (name[0] != ':' && x->connection->base.server->limits.verbatim) {
    buffer_append(&x->lines, name, name_size);
    buffer_putc(&x->lines, '\0');
    buffer_append(&x->lines, value, size);
    buffer_putc(&x->lines, '\0');
  }
  if (name[0] == ':') {
    if (is_name(name, name_size, ":method")) place = &x->method_at;
    if (is_name(name, name_size, ":path")) place = &x->path_at;
    if (is_name(name, name_size, ":authority")) place = &x->authority_at;
  } else {
    enum header_id id = header_find((const char *)name, name_size);
    if (id < HEADER_COUNT) place = &x->value_at[id];
    if (is_name(name, name_size, "content-length")) x->base.content_length = parse_length(value, size);
    if (is_name(name, name_size, "expect"))
      x->expects |= size == 12 && strncasecmp((const char *)value, "100-continue", 12) == 0;
  }
  if (place != NULL && *place == 0) *place = keep_text(x, value, size);
}

static const char *text_at(const struct http2_exchange *x, size_t at) { return at == 0 ? NULL : x->text.data + at - 1; }

/* Fills the public part. false: the target is none. */
static bool fill_exchange(struct http2_exchange *x) {
  x->text.failed |= x->lines.failed;
  if (x->text.failed || x->method_at == 0 || x->path_at == 0) return false;
  x->base.lines = x->lines.data;
  x->base.lines_size = x->lines.size;
  x->base.method = text_at(x, x->method_at);
  for (size_t i = 0; i < HEADER_COUNT; i++) x->base.headers[i] = text_at(x, x->value_at[i]);
  if (x->base.headers[HEADER_HOST] == NULL) x->base.headers[HEADER_HOST] = text_at(x, x->authority_at);
  char *target = x->text.data + x->path_at - 1, *query = strchr(target, '?');
  x->base.query = "";
  if (query != NULL) {
    *query = '\0';
    x->base.query = query + 1;
  }
  x->base.path = message_path(target);
  x->body_unwanted = strcmp(x->base.method, "HEAD") == 0;
  return x->base.path != NULL;
}

/* What the transport itself refuses before the service hears of it. true: answered. */
static bool refuse_early(struct http2_exchange *x, bool target_ok) {
  const struct http_limits *limits = &x->connection->base.server->limits;
  struct exchange *exchange = &x->base;
  if (x->header_bytes > limits->head_bytes) {
    exchange_reply_error(exchange, 431, "the request's headers are larger than this server takes");
    return true;
  }
  if (x->text.failed || !target_ok) {
    exchange_reply_error(exchange,
                         x->text.failed    ? 503
                         : x->path_at == 0 ? 501
                                           : 400,
                         x->text.failed    ? "out of memory"
                         : x->path_at == 0 ? "CONNECT is not understood"
                                           : "the request target is neither a path nor a URL");
    return true;
  }
  return !limits->verbatim && message_refuse_body(exchange, limits->body_bytes, &x->decoder);
}

static void on_head(struct http2_exchange *x, bool has_body) {
  struct http2_connection *c = x->connection;
  struct http_server *server = c->base.server;
  counter_add(&server->requests_total, 1);
  x->base.serial = server->next_serial++;
  x->base.received_ns = server->now_ns;
  if (!has_body) x->base.content_length = 0;
  bool target_ok = fill_exchange(x);
  if (refuse_early(x, target_ok)) return;
  x->begun = x->body_wanted = true;
  server->service.begin(server->context, &x->base);
  if (!c->base.closed && has_body) http2_reply_continue(x);
}

/* ---- the body ---------------------------------------------------------------------------------------------------- */

void http2_request_refuse(struct http2_exchange *x, int status, const char *text) {
  struct http2_connection *c = x->connection;
  if (x->answered) return;
  bool streaming = x->streaming;
  x->body_wanted = x->paused = false;
  if (x->begun) {
    x->begun = false;
    c->base.server->service.gone(c->base.server->context, &x->base);
    if (c->base.closed) return;
  }
  if (!streaming) {
    exchange_reply_error(&x->base, status, text);
    return;
  }
  x->answered = true; /* its answer has begun: nothing but an end can be said */
  if (nghttp2_submit_rst_stream(c->session, NGHTTP2_FLAG_NONE, x->stream_id,
                                status < 500 ? NGHTTP2_CANCEL : NGHTTP2_INTERNAL_ERROR) != 0)
    connection_close(&c->base);
}

/* The client may send so much more of this stream. */
static void give_window(struct http2_exchange *x, size_t size) {
  struct http2_connection *c = x->connection;
  if (x->request_ended || size == 0) return;
  if (nghttp2_session_consume_stream(c->session, x->stream_id, size) != 0) connection_close(&c->base);
}

/* Inflates piece by piece, so that a small body that becomes a huge one is stopped at the limit. Returns how much of
 * data was taken. */
static size_t decode(struct http2_exchange *x, const uint8_t *data, size_t size) {
  struct http2_connection *c = x->connection;
  struct http_server *server = c->base.server;
  size_t produced, all = size;
  x->decode_due = false;
  do {
    mu_status status = content_decoder_run(x->decoder, &data, &size, server->decoded, READ_SIZE, &produced);
    x->body_bytes += produced;
    if (status == MU_NO_MEMORY)
      http2_request_refuse(x, 503, "out of memory");
    else if (status != MU_OK)
      http2_request_refuse(x, 400, "the body is not what its Content-Encoding says");
    else if (x->body_bytes > server->limits.body_bytes && !x->unbounded)
      http2_request_refuse(x, 413, "the body is larger than this server takes when it is inflated");
    else if (produced > 0)
      server->service.body(server->context, &x->base, server->decoded, produced);
    if (c->base.closed || !x->body_wanted) return all;
    x->decode_due = x->paused && (size > 0 || produced == READ_SIZE);
  } while (!x->paused && (size > 0 || produced == READ_SIZE));
  return all - size;
}

/* Returns how much of data was taken: all, unless the service has paused. */
static size_t process(struct http2_exchange *x, const uint8_t *data, size_t size) {
  struct http2_connection *c = x->connection;
  const struct http_server *server = c->base.server;
  if (x->decoder != NULL) return decode(x, data, size);
  x->body_bytes += size;
  if (x->body_bytes > server->limits.body_bytes && !x->unbounded)
    http2_request_refuse(x, 413, "the body is larger than this server takes");
  else if (size > 0)
    server->service.body(server->context, &x->base, data, size);
  return size;
}

static void hold(struct http2_exchange *x, const uint8_t *data, size_t size) {
  mu_status status = connection_charge(&x->connection->base, size);
  if (status == MU_OK) x->held_charged += size;
  if (status == MU_OK) status = buffer_append(&x->held, data, size);
  if (status != MU_OK) http2_request_refuse(x, 503, "no memory for a body that has to wait");
}

/* So many bytes fewer are held. */
static void let_go(struct http2_exchange *x, size_t size) {
  x->held_charged -= size;
  connection_forget(&x->connection->base, size);
}

static void tell_end(struct http2_exchange *x) {
  struct http2_connection *c = x->connection;
  if (x->end_told || !x->body_wanted || x->paused || x->decode_due || x->held.size > 0) return;
  x->end_told = true;
  if (x->decoder != NULL && !content_decoder_complete(x->decoder))
    http2_request_refuse(x, 400, "the compressed body is cut off");
  else
    c->base.server->service.end(c->base.server->context, &x->base);
}

/* A stream that brings much may send more ahead, where its connection has not too much of that already. */
static void widen_window(struct http2_exchange *x) {
  struct http2_connection *c = x->connection;
  if (x->granted > 0 || x->paused || !x->body_wanted || x->received < WORTH_A_WINDOW) return;
  uint64_t left = x->base.content_length == UINT64_MAX ? UINT64_MAX : x->base.content_length - x->received;
  if (left <= STREAM_WINDOW - WORTH_A_WINDOW) return;
  uint32_t more = left < STREAM_WINDOW_MOST ? (uint32_t)left : STREAM_WINDOW_MOST;
  if (c->granted + more > GRANTED_MOST) return;
  x->granted = more;
  c->granted += more;
  int window = (int)(STREAM_WINDOW + more);
  if (nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, x->stream_id, window) != 0)
    connection_close(&c->base);
}

bool http2_request_replay(struct http2_connection *c) {
  bool any = false;
  for (struct list *link; !c->base.closed && (link = list_pop_front(&c->resumed)) != NULL;) {
    struct http2_exchange *x = list_item(link, struct http2_exchange, resumed);
    if (x->paused || !x->body_wanted) continue;
    any = true;
    http2_reply_continue(x);
    if (x->held.size > 0 || x->decode_due) {
      struct buffer held = x->held; /* an answer would free it under the service's hands */
      buffer_init(&x->held, held.limit);
      size_t used = process(x, (const uint8_t *)held.data, held.size);
      if (c->base.closed || !x->body_wanted) {
        buffer_free(&held);
        continue;
      }
      x->held = held;
      buffer_consume(&x->held, used);
      let_go(x, used);
      if (x->held.size == 0) trim(&x->held);
      give_window(x, used);
    }
    if (x->request_ended && !c->base.closed) tell_end(x);
  }
  return any && !c->base.closed;
}

/* ---- nghttp2's callbacks ----------------------------------------------------------------------------------------- */

static struct http2_exchange *exchange_of(nghttp2_session *session, int32_t stream_id) {
  return nghttp2_session_get_stream_user_data(session, stream_id);
}

static int verdict(const struct http2_connection *c) { return c->base.closed ? NGHTTP2_ERR_CALLBACK_FAILURE : 0; }

/* A frame of these types asks for work and brings none. */
static int on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *head, void *context) {
  struct http2_connection *c = context;
  bool is_head = head->type == NGHTTP2_HEADERS || head->type == NGHTTP2_CONTINUATION;
  bool brings = is_head || (head->type == NGHTTP2_DATA && !(head->flags & NGHTTP2_FLAG_PADDED) &&
                            (head->length > 0 || (head->flags & NGHTTP2_FLAG_END_STREAM)));
  if (!brings) c->credit--;
  c->understood += FRAME_HEAD + head->length;
  if (head->type != NGHTTP2_CONTINUATION) c->in_head = false;
  if (c->credit < 0 && !c->dead) http2_connection_fail(c, NGHTTP2_ENHANCE_YOUR_CALM);
  return verdict(c);
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *context) {
  struct http2_connection *c = context;
  if (c->base.closed) return NGHTTP2_ERR_CALLBACK_FAILURE;
  c->in_head = true;
  c->block_bytes = 0;
  if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
  c->requests++;
  struct http2_exchange *x = exchange_take(c, frame->hd.stream_id);
  if (x == NULL) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* the stream is reset */
  nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, x);
  return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_size,
                     const uint8_t *value, size_t size, uint8_t flags, void *context) {
  struct http2_connection *c = context;
  if (c->base.closed) return NGHTTP2_ERR_CALLBACK_FAILURE;
  /* A byte may stand for kilobytes of HPACK's table, and each is looked at: what is merely too large for a request is
   * answered, but a bomb ends the connection. The rest of the block is passed over. */
  c->block_bytes += name_size + size + 32;
  if (c->block_bytes / HEADS_MOST > c->base.server->limits.head_bytes) {
    http2_connection_fail(c, NGHTTP2_ENHANCE_YOUR_CALM);
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
  }
  if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0; /* trailers */
  struct http2_exchange *x = exchange_of(session, frame->hd.stream_id);
  if (x == NULL) return 0;
  x->header_bytes += name_size + size + 32; /* RFC 9113 section 6.5.2 */
  if (x->header_bytes <= c->base.server->limits.head_bytes) keep_header(x, name, name_size, value, size);
  return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *context) {
  struct http2_connection *c = context;
  uint8_t type = frame->hd.type;
  if (type == NGHTTP2_PING && (frame->hd.flags & NGHTTP2_FLAG_ACK)) http2_connection_pinged(c, frame->ping.opaque_data);
  if (type == NGHTTP2_HEADERS) c->in_head = false;
  if (type != NGHTTP2_HEADERS && type != NGHTTP2_DATA) return verdict(c);
  struct http2_exchange *x = exchange_of(session, frame->hd.stream_id);
  if (x == NULL || c->base.closed) return verdict(c);
  bool ends = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
  if (ends) request_is_over(x);
  if (type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) on_head(x, !ends);
  if (ends && !c->base.closed) tell_end(x);
  return verdict(c);
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data, size_t size,
                   void *context) {
  struct http2_connection *c = context;
  if (c->base.closed) return NGHTTP2_ERR_CALLBACK_FAILURE;
  if (flags & NGHTTP2_FLAG_PADDED) c->credit++; /* it did bring something */
  if (nghttp2_session_consume_connection(session, size) != 0) return NGHTTP2_ERR_CALLBACK_FAILURE;
  struct http2_exchange *x = exchange_of(session, stream_id);
  if (x == NULL) return 0;
  x->received += size;
  if (!x->body_wanted) return 0; /* its answer is there: the stream is reset behind it */
  size_t used = x->paused || x->held.size > 0 ? 0 : process(x, data, size);
  if (c->base.closed) return NGHTTP2_ERR_CALLBACK_FAILURE;
  if (!x->body_wanted) return 0;
  if (used < size) hold(x, data + used, size - used);
  give_window(x, used);
  if (!c->base.closed) widen_window(x);
  return verdict(c);
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code, void *context) {
  struct http2_connection *c = context;
  if (c->base.closed) return NGHTTP2_ERR_CALLBACK_FAILURE;
  struct http2_exchange *x = exchange_of(session, stream_id);
  if (x != NULL) http2_exchange_end(x);
  return verdict(c);
}

/* An answer that nghttp2 cannot send, as its head is too large: the client must not wait for it. */
static int on_frame_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int error, void *context) {
  struct http2_connection *c = context;
  if (c->base.closed) return NGHTTP2_ERR_CALLBACK_FAILURE;
  struct http2_exchange *x = exchange_of(session, frame->hd.stream_id);
  if (frame->hd.type != NGHTTP2_HEADERS || x == NULL) return 0;
  return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, x->stream_id, NGHTTP2_INTERNAL_ERROR);
}

/* ---- the session ------------------------------------------------------------------------------------------------- */

static mu_status create(struct http2_connection *c, nghttp2_session_callbacks *callbacks, nghttp2_option *option) {
  const struct http_limits *limits = &c->base.server->limits;
  nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_begin_frame);
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
  nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, on_frame_not_sent);
  nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, http2_reply_frame_sent);
  nghttp2_session_callbacks_set_send_data_callback(callbacks, http2_reply_send_data);
  nghttp2_option_set_no_auto_window_update(option, 1);
  nghttp2_option_set_max_outbound_ack(option, HTTP2_OUTBOUND_MOST);
  nghttp2_option_set_no_closed_streams(option, 1); /* they are for priorities, which are not used */
  if (nghttp2_session_server_new2(&c->session, callbacks, c, option) != 0) return MU_NO_MEMORY;
  /* Not among them: NO_RFC7540_PRIORITIES. With it nghttp2 (1.52) frees a body's item twice where its queue finds no
   * memory to grow. */
  const nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits->streams},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE,
       limits->head_bytes < UINT32_MAX ? (uint32_t)limits->head_bytes : UINT32_MAX},
      {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, FRAME_MOST},
  };
  bool ok = nghttp2_submit_settings(c->session, NGHTTP2_FLAG_NONE, settings, sizeof settings / sizeof *settings) == 0 &&
            nghttp2_session_set_local_window_size(c->session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW) == 0;
  return ok ? MU_OK : MU_NO_MEMORY;
}

mu_status http2_session_create(struct http2_connection *c) {
  nghttp2_session_callbacks *callbacks = NULL;
  nghttp2_option *option = NULL;
  mu_status status = MU_NO_MEMORY;
  if (nghttp2_session_callbacks_new(&callbacks) == 0 && nghttp2_option_new(&option) == 0)
    status = create(c, callbacks, option);
  nghttp2_session_callbacks_del(callbacks);
  nghttp2_option_del(option);
  return status;
}
