/* From bytes to exchanges: the codec's events become calls of the service. */
#include "net/http1_connection.h"
#include "net/http_message.h"

#include <stdlib.h>

enum {
  SPARE_MOST = 256,   /* exchanges that a server keeps for reuse */
  SPARE_MEMORY = 4096 /* of each of its buffers */
};

/* ---- exchanges --------------------------------------------------------------------------------------------------- */

static struct http1_exchange *exchange_take(struct http1_connection *c) {
  struct http_server *server = c->base.server;
  struct list *link = list_pop_front(&server->spare);
  struct http1_exchange *x;
  if (link != NULL) {
    x = list_item(link, struct http1_exchange, link);
    server->n_spare--;
    struct buffer text = x->text, lines = x->lines, out = x->out;
    struct iovec *body = x->body;
    struct reply_queue parts = x->parts;
    size_t capacity = x->body_capacity;
    *x = (struct http1_exchange){
        .text = text, .lines = lines, .out = out, .body = body, .body_capacity = capacity, .parts = parts};
  } else {
    x = calloc(1, sizeof *x);
    if (x == NULL) return NULL;
    buffer_init(&x->text, SIZE_MAX / 2); /* bounded by the codec's limit of a head */
    buffer_init(&x->lines, SIZE_MAX / 2);
    buffer_init(&x->out, SIZE_MAX / 2); /* bounded by copied_reply_bytes */
    reply_queue_init(&x->parts);
  }
  if (x->body == NULL) {
    x->body = x->inline_body;
    x->body_capacity = INLINE_IOVECS;
  }
  list_init(&x->link);
  x->connection = c;
  x->base.loop = server->loop;
  x->base.transport = &http1_transport;
  return x;
}

void http1_exchange_free(struct http1_exchange *x) {
  if (x == NULL) return;
  buffer_free(&x->text);
  buffer_free(&x->lines);
  buffer_free(&x->out);
  reply_queue_free(&x->parts);
  if (x->body != x->inline_body) free(x->body);
  free(x);
}

static void trim(struct buffer *b) {
  if (b->capacity > SPARE_MEMORY) buffer_free(b);
  buffer_clear(b);
}

void http1_exchange_release(struct http1_exchange *x) {
  struct http_server *server = x->connection->base.server;
  if (server->closed || server->n_spare >= SPARE_MOST) {
    http1_exchange_free(x);
    return;
  }
  trim(&x->text);
  trim(&x->lines);
  trim(&x->out);
  list_push_front(&server->spare, &x->link); /* last in, first out: it is still in the cache */
  server->n_spare++;
}

/* The exchange whose head is being read. NULL without memory. */
static struct http1_exchange *incoming(struct http1_connection *c) {
  if (c->incoming == NULL) c->incoming = exchange_take(c);
  return c->incoming;
}

/* ---- when to stop ------------------------------------------------------------------------------------------------ */

static bool fail(struct http1_connection *c, int status, const char *text) {
  if (c->failure_status == 0) {
    c->failure_status = status;
    c->failure_text = text;
  }
  return false;
}

/* Is the next byte unwelcome for now? */
static bool is_blocked(const struct http1_connection *c) {
  return c->paused || (!c->in_message && c->n_exchanges >= c->base.server->limits.pipeline);
}

static bool may_go_on(const struct http1_connection *c) {
  return !c->base.closed && c->input == INPUT_OPEN && c->failure_status == 0 && !c->raw && !is_blocked(c);
}

/* ---- the head ---------------------------------------------------------------------------------------------------- */

/* Appends a terminated string; where it begins. */
static size_t keep_text(struct http1_exchange *x, const char *text, size_t size) {
  size_t at = x->text.size;
  buffer_append(&x->text, text, size);
  buffer_putc(&x->text, '\0');
  return at;
}

static void on_header(void *context, const char *name, size_t name_size, const char *value, size_t value_size) {
  struct http1_connection *c = context;
  enum header_id id = header_find(name, name_size);
  bool connection = id == HEADER_CONNECTION, verbatim = c->base.server->limits.verbatim;
  if (id == HEADER_COUNT && !verbatim) return;
  struct http1_exchange *x = incoming(c);
  if (x == NULL) fail(c, 503, "out of memory");
  if (x != NULL && verbatim) {
    buffer_append(&x->lines, name, name_size + 1); /* both are terminated */
    buffer_append(&x->lines, value, value_size + 1);
  }
  if (id == HEADER_COUNT) return;
  if (x != NULL && connection) x->asked_to_keep |= strcasestr(value, "keep-alive") != NULL;
  if (x != NULL && x->value_at[id] == 0) x->value_at[id] = keep_text(x, value, value_size) + 1;
}

/* Fills the public part. false: the target is none. */
static bool fill_exchange(struct http1_exchange *x, const char *method, const char *target, uint64_t content_length) {
  const char *path = message_path(target);
  size_t path_size = path == NULL ? 0 : strcspn(path, "?");
  const char *query = path == NULL || path[path_size] == '\0' ? "" : path + path_size + 1;
  size_t method_at = keep_text(x, method, strlen(method)), path_at = keep_text(x, path, path_size),
         query_at = keep_text(x, query, strlen(query));
  x->text.failed |= x->lines.failed;
  if (x->text.failed) return false;
  x->base.lines = x->lines.data;
  x->base.lines_size = x->lines.size;
  x->base.method = x->text.data + method_at;
  x->base.path = x->text.data + path_at;
  x->base.query = x->text.data + query_at;
  for (size_t i = 0; i < HEADER_COUNT; i++)
    x->base.headers[i] = x->value_at[i] > 0 ? x->text.data + x->value_at[i] - 1 : NULL;
  x->base.content_length = content_length;
  x->body_unwanted = strcmp(method, "HEAD") == 0;
  return path != NULL;
}

/* What the transport itself refuses before the service hears of it. true: answered. */
static bool refuse_early(struct http1_connection *c, struct http1_exchange *x, bool target_ok) {
  const struct http_limits *limits = &c->base.server->limits;
  if (x->text.failed || !target_ok) {
    x->keep_alive = false;
    exchange_reply_error(&x->base, x->text.failed ? 503 : 400,
                         x->text.failed ? "out of memory" : "the request target is neither a path nor a URL");
    return true;
  }
  return !limits->verbatim && message_refuse_body(&x->base, limits->body_bytes, &c->decoder);
}

static bool on_head(void *context, const char *method, const char *target, int status, uint64_t content_length,
                    bool keep_alive, bool expect_continue) {
  struct http1_connection *c = context;
  struct http_server *server = c->base.server;
  struct http1_exchange *x = incoming(c);
  if (x == NULL) return fail(c, 503, "out of memory");
  c->in_message = true;
  c->requests++;
  c->body_bytes = 0;
  c->current = x;
  c->incoming = NULL;
  list_push_back(&c->exchanges, &x->link);
  c->n_exchanges++;
  counter_add(&server->requests_total, 1);
  x->keep_alive = keep_alive;
  x->is_1_0 = http1_codec_is_1_0(c->codec);
  x->base.serial = server->next_serial++;
  x->base.received_ns = c->head_ns;
  x->wants_continue = expect_continue && content_length > 0;
  bool target_ok = fill_exchange(x, method, target, content_length);
  if (refuse_early(c, x, target_ok)) return may_go_on(c);
  x->begun = true;
  server->service.begin(server->context, &x->base);
  return may_go_on(c);
}

/* ---- the body ---------------------------------------------------------------------------------------------------- */

static void drop_decoder(struct http1_connection *c) {
  content_decoder_free(c->decoder);
  c->decoder = NULL;
  c->decode_due = false;
  buffer_free(&c->undecoded);
}

/* Keeps what a pause left over; data may lie in the buffer itself. */
static bool keep_undecoded(struct http1_connection *c, const uint8_t *data, size_t size) {
  c->decode_due = true;
  const uint8_t *own = (const uint8_t *)c->undecoded.data;
  if (own != NULL && data >= own && data <= own + c->undecoded.size)
    buffer_consume(&c->undecoded, c->undecoded.size - size);
  else if (buffer_append(&c->undecoded, data, size) != MU_OK)
    return fail(c, 503, "out of memory");
  return false;
}

/* Inflates piece by piece, so that a small body that becomes a huge one is stopped at the limit. */
static bool decode(struct http1_connection *c, const uint8_t *data, size_t size) {
  struct http_server *server = c->base.server;
  struct http1_exchange *x = c->current;
  size_t produced;
  c->decode_due = false;
  do {
    mu_status status = content_decoder_run(c->decoder, &data, &size, server->decoded, READ_SIZE, &produced);
    if (status == MU_NO_MEMORY) return fail(c, 503, "out of memory");
    if (status != MU_OK) return fail(c, 400, "the body is not what its Content-Encoding says");
    c->body_bytes += produced;
    if (c->body_bytes > server->limits.body_bytes && !x->unbounded)
      return fail(c, 413, "the body is larger than this server takes when it is inflated");
    if (produced > 0) server->service.body(server->context, &x->base, server->decoded, produced);
    if (c->current != x) return may_go_on(c); /* answered, or the connection is gone */
    if (c->paused && (size > 0 || produced == READ_SIZE)) return keep_undecoded(c, data, size);
  } while (size > 0 || produced == READ_SIZE);
  return may_go_on(c);
}

/* The rest of a body whose request is answered already. */
static bool discard(struct http1_connection *c, size_t size) {
  c->body_bytes += size;
  if (c->body_bytes > HTTP1_DRAIN_BYTES) {
    c->input = INPUT_CLOSED;
    c->finishing = true;
  }
  return may_go_on(c);
}

static bool on_body(void *context, const uint8_t *data, size_t size) {
  struct http1_connection *c = context;
  struct http1_exchange *x = c->current;
  if (x == NULL) return discard(c, size);
  x->wants_continue = false; /* it did not wait */
  if (c->decoder != NULL) return decode(c, data, size);
  c->body_bytes += size;
  if (c->body_bytes > c->base.server->limits.body_bytes && !x->unbounded)
    return fail(c, 413, "the body is larger than this server takes");
  c->base.server->service.body(c->base.server->context, &x->base, data, size);
  return may_go_on(c);
}

static bool on_end(void *context) {
  struct http1_connection *c = context;
  struct http1_exchange *x = c->current;
  bool complete = c->decoder == NULL || content_decoder_complete(c->decoder);
  if (x != NULL && !complete) return fail(c, 400, "the compressed body is cut off");
  drop_decoder(c);
  c->in_message = false;
  c->current = NULL;
  if (x != NULL) c->base.server->service.end(c->base.server->context, &x->base);
  return may_go_on(c);
}

const struct http1_events http1_request_events = {.head = on_head, .header = on_header, .body = on_body, .end = on_end};

/* ---- feeding ----------------------------------------------------------------------------------------------------- */

void http1_request_refuse(struct http1_connection *c, int status, const char *text) {
  struct http1_exchange *x = c->current;
  c->input = INPUT_CLOSED;
  drop_decoder(c);
  if (x == NULL && c->in_message) {
    c->finishing = true; /* it is answered already, and there is only one answer */
    return;
  }
  if (x == NULL) {
    x = incoming(c);
    if (x == NULL) {
      http1_reply_no_memory(c);
      return;
    }
    c->incoming = NULL;
    list_push_back(&c->exchanges, &x->link);
    c->n_exchanges++;
  }
  c->current = NULL;
  c->paused = false;
  x->keep_alive = false;
  if (x->begun) {
    x->begun = false;
    c->base.server->service.gone(c->base.server->context, &x->base);
    if (c->base.closed) return;
  }
  if (x->streaming) { /* its answer has begun: nothing but an end can be said */
    x->answered = true;
    connection_close(&c->base);
    return;
  }
  exchange_reply_error(&x->base, status, text);
}

/* Returns how many bytes were taken. Afterwards the connection may be closed, stalled or refused. */
static size_t parse(struct http1_connection *c, const uint8_t *data, size_t size) {
  size_t used = size;
  int http_status = 400;
  mu_error err;
  mu_status status = http1_codec_feed(c->codec, data, size, &used, &http_status, &err);
  if (c->base.closed) return size;
  if (status != MU_OK)
    http1_request_refuse(c, http_status, err.message);
  else if (c->failure_status != 0)
    http1_request_refuse(c, c->failure_status, c->failure_text);
  if (c->base.closed || c->input != INPUT_OPEN) return size;
  c->stalled = used < size || is_blocked(c);
  return used;
}

void http1_request_feed(struct http1_connection *c, const uint8_t *data, size_t size) {
  if (c->raw) {
    http1_raw_feed(c, data, size);
    return;
  }
  if (!c->stalled && !http1_codec_busy(c->codec)) c->head_ns = c->base.server->now_ns;
  size_t used = c->stalled ? 0 : parse(c, data, size);
  if (used == size || buffer_append(&c->held, data + used, size - used) == MU_OK) return;
  http1_request_refuse(c, 503, "out of memory"); /* what came before it is answered */
}

bool http1_request_replay(struct http1_connection *c) {
  if (c->raw) return http1_raw_replay(c);
  if (!c->stalled || !may_go_on(c)) return false;
  c->stalled = false;
  if (c->decode_due && c->current != NULL) {
    decode(c, (const uint8_t *)c->undecoded.data, c->undecoded.size);
    if (c->base.closed) return false;
    if (c->failure_status != 0) {
      http1_request_refuse(c, c->failure_status, c->failure_text);
      return true;
    }
    if (!c->decode_due) buffer_clear(&c->undecoded);
    c->stalled = true;
    return may_go_on(c);
  }
  size_t used = parse(c, (const uint8_t *)c->held.data, c->held.size);
  if (c->base.closed) return false;
  buffer_consume(&c->held, used);
  if (c->held.size == 0 && !c->stalled) buffer_free(&c->held);
  return true;
}
