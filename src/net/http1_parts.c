/* Answers in parts: chunked, until the connection ends, or, behind a 101, the connection's bytes themselves. */
#include "net/http1_connection.h"
#include "net/http_message.h"

#include <assert.h>
#include <stdio.h>

static struct http1_exchange *exchange_of(struct exchange *exchange) {
  return list_item(exchange, struct http1_exchange, base);
}

/* ---- 101 --------------------------------------------------------------------------------------------------------- */

/* false: requests came behind this one, so the client has not asked for something else. */
static bool begin_raw(struct http1_exchange *x) {
  struct http1_connection *c = x->connection;
  if (c->exchanges.prev != &x->link || c->input != INPUT_OPEN || x->is_1_0) return false;
  x->keep_alive = false;
  c->raw = true;
  c->in_message = false;
  c->current = x;
  return true;
}

void http1_raw_feed(struct http1_connection *c, const uint8_t *data, size_t size) {
  struct http1_exchange *x = c->current;
  if (x == NULL) return;
  if (!c->paused && c->held.size == 0)
    c->base.server->service.body(c->base.server->context, &x->base, data, size);
  else if (buffer_append(&c->held, data, size) != MU_OK)
    connection_close(&c->base);
}

bool http1_raw_replay(struct http1_connection *c) {
  const struct http_server *server = c->base.server;
  struct http1_exchange *x = c->current;
  c->stalled = false;
  if (x == NULL || c->paused || c->base.closed) return false;
  if (c->held.size > 0) {
    struct buffer held = c->held;
    buffer_init(&c->held, held.limit);
    server->service.body(server->context, &x->base, (const uint8_t *)held.data, held.size);
    buffer_free(&held);
    return !c->base.closed;
  }
  if (!c->base.peer_closed || c->end_told) return false;
  c->end_told = true;
  server->service.end(server->context, &x->base);
  return !c->base.closed;
}

/* ---- parts ------------------------------------------------------------------------------------------------------- */

void http1_parts_begin(struct exchange *exchange, const struct reply *head) {
  struct http1_exchange *x = exchange_of(exchange);
  struct http1_connection *c = x->connection;
  assert(!x->answered && !x->streaming);
  x->streaming = true;
  if (c->base.closed) return;
  x->wants_continue = false; /* what the client waits for has come */
  if (head->status != 101 && x->is_1_0) x->keep_alive = false;
  if (c->base.server->draining && c->base.server->give == NULL) x->keep_alive = false;
  x->chunked = head->status != 101 && !x->is_1_0 && !message_has_no_content(head->status);
  if ((head->status == 101 && !begin_raw(x)) || !http1_reply_write_head(x, head))
    connection_close(&c->base);
  else
    connection_wake(&c->base);
}

static bool put(struct http1_exchange *x, const void *data, size_t size) {
  if (connection_charge(&x->connection->base, size) != MU_OK) return false;
  x->parts_charged += size;
  return reply_queue_copy(&x->parts, data, size) == MU_OK;
}

/* Copied where that is cheaper or nobody keeps it; done is called, now or later, if it succeeds. */
static bool add_body(struct http1_exchange *x, const struct reply_part *part, size_t size) {
  if (size > COPY_AT_ONCE && part->done != NULL)
    return reply_queue_borrow(&x->parts, part->body, part->n_body, part->unshared, part->done, part->owner) == MU_OK;
  for (size_t i = 0; i < part->n_body; i++)
    if (!put(x, part->body[i].iov_base, part->body[i].iov_len)) return false;
  if (part->done != NULL) part->done(part->owner);
  return true;
}

static bool add_part(struct http1_exchange *x, const struct reply_part *part, size_t size) {
  struct http1_connection *c = x->connection;
  char line[24];
  if (size > c->base.server->limits.copied_reply_bytes ||
      x->parts.size > c->base.server->limits.copied_reply_bytes - size)
    return false;
  int n = snprintf(line, sizeof line, "%zx\r\n", size);
  return !x->chunked || put(x, line, (size_t)n);
}

void http1_parts_add(struct exchange *exchange, const struct reply_part *part) {
  struct http1_exchange *x = exchange_of(exchange);
  struct http1_connection *c = x->connection;
  size_t size = message_body_size(part->body, part->n_body);
  assert(!x->answered && x->streaming);
  bool wanted = !c->base.closed && !x->body_unwanted && size > 0;
  bool added = wanted && add_part(x, part, size) && add_body(x, part, size);
  if (!added && part->done != NULL) part->done(part->owner);
  if (!wanted || c->base.closed) return;
  if (!added || (x->chunked && !put(x, "\r\n", 2))) {
    connection_close(&c->base);
    return;
  }
  if (x->parts.size > EXCHANGE_LOW_WATER) x->above = true;
  connection_wake(&c->base);
}

void http1_parts_end(struct exchange *exchange, const struct header *trailers, size_t n_trailers) {
  struct http1_exchange *x = exchange_of(exchange);
  struct http1_connection *c = x->connection;
  assert(!x->answered && x->streaming);
  x->answered = true;
  x->above = false;
  if (c->base.closed) return;
  if (c->raw && c->current == x) {
    c->current = NULL;
    c->paused = false;
    buffer_free(&c->held);
  } else if (c->current == x) {
    http1_reply_abandon_body(x);
  }
  if (!x->keep_alive) c->input = INPUT_CLOSED;
  if (x->chunked && !x->body_unwanted && !put(x, "0\r\n\r\n", 5))
    connection_close(&c->base);
  else
    connection_wake(&c->base);
}

void http1_parts_abort(struct exchange *exchange) {
  struct http1_exchange *x = exchange_of(exchange);
  x->answered = true;
  connection_close(&x->connection->base);
}

uint64_t http1_parts_unsent(const struct exchange *exchange) {
  return list_item(exchange, const struct http1_exchange, base)->parts.size;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

void http1_parts_advance(struct http1_exchange *x, size_t size) {
  struct http1_connection *c = x->connection;
  reply_queue_advance(&x->parts, size);
  size_t own = x->parts.size - x->parts.lent;
  if (c->base.closed || x->parts_charged <= own) return;
  connection_forget(&c->base, x->parts_charged - own);
  x->parts_charged = own;
}

bool http1_parts_ask(struct http1_connection *c) {
  const struct http_server *server = c->base.server;
  bool any = false;
  c->sending = true; /* nothing leaves the list under our feet */
  for (struct list *link = c->exchanges.next; !c->base.closed && link != &c->exchanges; link = link->next) {
    struct http1_exchange *x = list_item(link, struct http1_exchange, link);
    if (!x->above || x->parts.size > EXCHANGE_LOW_WATER) continue;
    x->above = false;
    any = true;
    if (server->service.writable != NULL) server->service.writable(server->context, &x->base);
  }
  c->sending = false;
  if (c->base.closed) return false;
  c->base.again = any; /* what comes now is written at once, and what comes behind that when others had their turn */
  return any;
}
