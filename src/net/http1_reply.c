/* Answers to bytes: heads, compression, the queue of a pipeline, and the memory that answers borrow. */
#include "net/http1_connection.h"

#include "base/decimal.h"
#include "net/http_message.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { WRITE_IOVECS = 64 };

#define CONTINUE "HTTP/1.1 100 Continue\r\n\r\n"

/* ---- the head ---------------------------------------------------------------------------------------------------- */

static char *put(char *at, const char *text, size_t size) {
  memcpy(at, text, size);
  return at + size;
}

#define PUT(at, literal) put(at, literal, sizeof(literal) - 1)

static char *put_header(char *at, const char *name, const char *value) {
  at = put(at, name, strlen(name));
  at = PUT(at, ": ");
  at = message_put_value(at, value, strlen(value));
  return PUT(at, "\r\n");
}

/* What of an answer is not the service's choice. */
struct head_facts {
  uint64_t length;
  enum content_coding coding;
};

/* Writes the head into x->out in one go; false without memory. */
static bool write_head(struct http1_exchange *x, const struct reply *r, struct head_facts facts) {
  const char *reason = http_status_text(r->status);
  size_t room = 256 + strlen(reason) + (r->content_type != NULL ? strlen(r->content_type) : 0);
  for (size_t i = 0; i < r->n_headers; i++) room += strlen(r->headers[i].name) + strlen(r->headers[i].value) + 4;
  if (buffer_reserve(&x->out, room) != MU_OK) return false;
  char *at = x->out.data + x->out.size;
  at = PUT(at, "HTTP/1.1 ");
  at = decimal_put(at, (uint64_t)r->status);
  *at++ = ' ';
  at = put(at, reason, strlen(reason));
  at = PUT(at, "\r\n");
  const char *date = message_date(x->connection->base.server);
  at = PUT(at, "Date: ");
  at = put(at, date, strlen(date));
  at = PUT(at, "\r\n");
  if (r->content_type != NULL) at = put_header(at, "Content-Type", r->content_type);
  if (x->chunked) at = PUT(at, "Transfer-Encoding: chunked\r\n");
  if (!message_has_no_content(r->status) && !x->streaming) {
    at = PUT(at, "Content-Length: ");
    at = decimal_put(at, facts.length);
    at = PUT(at, "\r\n");
  }
  if (facts.coding != CODING_IDENTITY) at = put_header(at, "Content-Encoding", content_coding_name(facts.coding));
  if (r->compressible) at = PUT(at, "Vary: Accept-Encoding\r\n");
  if (r->status == 101)
    at = PUT(at, "Connection: Upgrade\r\n");
  else if (!x->keep_alive)
    at = PUT(at, "Connection: close\r\n");
  else if (x->asked_to_keep) /* clients of HTTP/1.0 need to hear it */
    at = PUT(at, "Connection: keep-alive\r\n");
  for (size_t i = 0; i < r->n_headers; i++) at = put_header(at, r->headers[i].name, r->headers[i].value);
  at = PUT(at, "\r\n");
  x->out.size = (size_t)(at - x->out.data);
  return true;
}

bool http1_reply_write_head(struct http1_exchange *x, const struct reply *head) {
  return write_head(x, head, (struct head_facts){0});
}

/* ---- the body ---------------------------------------------------------------------------------------------------- */

static void body_done(struct http1_exchange *x) {
  void (*done)(void *owner) = x->done;
  x->n_body = x->body_at = 0;
  x->done = NULL;
  if (done != NULL) done(x->owner);
}

/* Room for size bytes more in memory of the connection; as connection_charge. */
static mu_status charge(struct http1_exchange *x, size_t size) {
  mu_status status = connection_charge(&x->connection->base, size);
  if (status == MU_OK) x->charged += size;
  return status;
}

/* What is left of the body moves into memory of the connection. As charge, and MU_NO_MEMORY. */
static mu_status copy_body(struct http1_exchange *x) {
  mu_status status = charge(x, message_body_size(x->body + x->body_at, x->n_body - x->body_at));
  for (size_t i = x->body_at; status == MU_OK && i < x->n_body; i++)
    status = buffer_append(&x->out, x->body[i].iov_base, x->body[i].iov_len);
  if (status == MU_OK) body_done(x);
  return status;
}

static bool borrow_body(struct http1_exchange *x, const struct reply *r) {
  if (r->n_body > x->body_capacity) {
    struct iovec *body = reallocarray(x->body == x->inline_body ? NULL : x->body, r->n_body, sizeof *body);
    if (body == NULL) return false;
    x->body = body;
    x->body_capacity = r->n_body;
  }
  for (size_t i = 0; i < r->n_body; i++)
    if (r->body[i].iov_len > 0) x->body[x->n_body++] = r->body[i];
  return true;
}

/* The compressed body is in the server's scratch buffer then, and it is charged. */
static enum content_coding compress(struct http1_exchange *x, const struct reply *r, size_t size) {
  struct http_server *server = x->connection->base.server;
  enum content_coding coding = message_compress(server, x->base.headers[HEADER_ACCEPT_ENCODING], r, size);
  return coding != CODING_IDENTITY && charge(x, server->encoded.size) == MU_OK ? coding : CODING_IDENTITY;
}

static bool is_first_unsent(const struct http1_exchange *x) {
  const struct list *head = &x->connection->exchanges;
  for (const struct list *link = head->next; link != &x->link; link = link->next)
    if (!list_item(link, const struct http1_exchange, link)->answered) return false;
  return true;
}

/* Writes what it can of a body that nobody keeps for us, and copies the rest. Other than MU_OK: it cannot go on. */
static mu_status send_or_copy(struct http1_exchange *x) {
  struct http1_connection *c = x->connection;
  const struct list *link = &x->link, *head = &c->exchanges;
  c->base.server->now_ns = clock_now_ns(); /* a reply comes at any time, not only from a callback of the server */
  http1_reply_flush(c);
  if (c->base.closed) return MU_OK;
  for (const struct list *at = head->next; at != head; at = at->next)
    if (at == link) return copy_body(x); /* it is still there: not all was written */
  return MU_OK;
}

/* Head and body into the exchange, the body by the cheapest way. Other than MU_OK: the connection cannot go on. */
static mu_status fill_answer(struct http1_exchange *x, const struct reply *r) {
  size_t size = message_body_size(r->body, r->n_body);
  x->done = r->done;
  x->owner = r->owner;
  x->unshared = r->unshared;
  struct head_facts facts = {.length = size, .coding = compress(x, r, size)};
  if (x->body_unwanted && r->head_length > 0) facts.length = r->head_length;
  if (facts.coding != CODING_IDENTITY) facts.length = x->connection->base.server->encoded.size;
  if (!write_head(x, r, facts)) return MU_NO_MEMORY;
  if (x->body_unwanted || message_has_no_content(r->status)) {
    body_done(x);
    return MU_OK;
  }
  if (facts.coding != CODING_IDENTITY) {
    body_done(x);
    return buffer_append(&x->out, x->connection->base.server->encoded.data, facts.length);
  }
  if (!borrow_body(x, r)) return MU_NO_MEMORY;
  if (size <= COPY_AT_ONCE || !is_first_unsent(x)) return copy_body(x);
  return r->done != NULL ? MU_OK : send_or_copy(x);
}

/* An answer that needs no memory. */
#define NO_MEMORY_BODY "{\"error\":\"out of memory\"}"
static const char no_memory[] =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: 25\r\nRetry-After: 1\r\n"
    "Connection: close\r\n\r\n" NO_MEMORY_BODY;
enum { NO_MEMORY_BODY_SIZE = sizeof NO_MEMORY_BODY - 1, NO_MEMORY_SIZE = sizeof no_memory - 1 };
_Static_assert(NO_MEMORY_BODY_SIZE == 25, "Content-Length");

/* Takes the place of an answer that found no memory; out_before: what was in x->out before that. false: some of it is
 * sent already. */
static bool answer_without_memory(struct http1_exchange *x, size_t out_before) {
  struct http1_connection *c = x->connection;
  if (c->base.closed || x->out_at > out_before) return false;
  body_done(x);
  x->out.size = out_before;
  x->unshared = true;
  x->keep_alive = false;
  c->input = INPUT_CLOSED;
  x->body[x->n_body++] =
      (struct iovec){.iov_base = (void *)(uintptr_t)no_memory,
                     .iov_len = x->body_unwanted ? NO_MEMORY_SIZE - NO_MEMORY_BODY_SIZE : NO_MEMORY_SIZE};
  return true;
}

void http1_reply_no_memory(struct http1_connection *c) {
  c->finishing = true;
  if (!list_empty(&c->exchanges)) return; /* those before it are answered, then the connection ends */
  ssize_t sent = send(c->base.fd, no_memory, NO_MEMORY_SIZE, MSG_NOSIGNAL | MSG_DONTWAIT);
  (void)sent; /* nothing else has been written for long: it fits */
}

/* ---- exchange_reply ---------------------------------------------------------------------------------------------- */

/* The answer comes before its request is all there. A short rest is read and dropped. A long one, one that may turn out
 * long (chunked), and one whose client waits to be asked for it (it may send it or not), end the connection. */
void http1_reply_abandon_body(struct http1_exchange *x) {
  struct http1_connection *c = x->connection;
  c->current = NULL;
  c->paused = false;
  c->body_bytes = 0;
  if (x->wants_continue || x->base.content_length == UINT64_MAX || http1_codec_body_left(c->codec) > HTTP1_DRAIN_BYTES)
    x->keep_alive = false;
  x->wants_continue = false;
}

static void http1_reply(struct exchange *exchange, const struct reply *reply) {
  struct http1_exchange *x = list_item(exchange, struct http1_exchange, base);
  struct http1_connection *c = x->connection;
  assert(!x->answered && !x->streaming);
  x->answered = true;
  if (c->base.closed) { /* it ends all of its exchanges just now */
    if (reply->done != NULL) reply->done(reply->owner);
    return;
  }
  if (c->current == x) http1_reply_abandon_body(x);
  bool last = c->exchanges.prev == &x->link;
  if (c->base.server->draining && c->base.server->give == NULL && last) x->keep_alive = false;
  if (!x->keep_alive) c->input = INPUT_CLOSED;
  size_t out_before = x->out.size;
  mu_status status = fill_answer(x, reply);
  if (status == MU_OK || (status == MU_NO_MEMORY && answer_without_memory(x, out_before)))
    connection_wake(&c->base);
  else
    connection_close(&c->base);
}

static void http1_pause(struct exchange *exchange) {
  struct http1_exchange *x = list_item(exchange, struct http1_exchange, base);
  if (x->connection->current == x) x->connection->paused = true;
}

static void http1_resume(struct exchange *exchange) {
  struct http1_exchange *x = list_item(exchange, struct http1_exchange, base);
  struct http1_connection *c = x->connection;
  if (c->current != x || !c->paused) return;
  c->paused = false;
  connection_wake(&c->base);
}

static void http1_unbounded(struct exchange *exchange) {
  list_item(exchange, struct http1_exchange, base)->unbounded = true;
}

static bool http1_peer_is_local(const struct exchange *exchange) {
  struct http1_connection *connection = list_item(exchange, struct http1_exchange, base)->connection;
  return peer_is_local(connection->base.fd, &connection->base.place);
}

const struct transport http1_transport = {.reply = http1_reply,
                                          .peer_is_local = http1_peer_is_local,
                                          .pause = http1_pause,
                                          .resume = http1_resume,
                                          .unbounded = http1_unbounded,
                                          .begin = http1_parts_begin,
                                          .part = http1_parts_add,
                                          .end = http1_parts_end,
                                          .abort = http1_parts_abort,
                                          .unsent = http1_parts_unsent};

void http1_exchange_end(struct http1_exchange *x) {
  struct http_server *server = x->connection->base.server;
  if (!x->answered) {
    x->answered = true;
    if (x->begun) server->service.gone(server->context, &x->base);
  }
  body_done(x);
  reply_queue_clear(&x->parts);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

void http1_reply_continue(struct http1_connection *c) {
  struct http1_exchange *x = c->current;
  if (x == NULL || !x->wants_continue || c->paused || c->input != INPUT_OPEN) return;
  x->wants_continue = false;
  if (buffer_append(&x->out, CONTINUE, sizeof CONTINUE - 1) != MU_OK) connection_close(&c->base);
}

/* Everything that may be sent now, up to n pieces: all of the first answers, and what an exchange that is not answered
 * yet has to say in between (100 Continue). */
static size_t gather(struct http1_connection *c, struct iovec *pieces, size_t n) {
  size_t at = 0;
  list_each (link, &c->exchanges) {
    struct http1_exchange *x = list_item(link, struct http1_exchange, link);
    if (x->out.size > x->out_at && at < n)
      pieces[at++] = (struct iovec){.iov_base = x->out.data + x->out_at, .iov_len = x->out.size - x->out_at};
    for (size_t i = x->body_at; i < x->n_body && at < n; i++) pieces[at++] = x->body[i];
    at += reply_queue_gather(&x->parts, pieces + at, n - at);
    if (!x->answered || at == n) break;
  }
  return at;
}

/* An answer is out. */
static void retire(struct http1_exchange *x) {
  struct http1_connection *c = x->connection;
  list_remove(&x->link);
  c->n_exchanges--;
  connection_forget(&c->base, x->charged + x->parts_charged);
  if (!x->keep_alive) c->finishing = true;
  body_done(x);
  http1_exchange_release(x);
}

/* Takes what was sent off the queue's front. */
static void advance(struct http1_connection *c, size_t sent) {
  list_each (link, &c->exchanges) {
    struct http1_exchange *x = list_item(link, struct http1_exchange, link);
    size_t own = x->out.size - x->out_at < sent ? x->out.size - x->out_at : sent;
    x->out_at += own;
    sent -= own;
    while (x->body_at < x->n_body && sent >= x->body[x->body_at].iov_len) sent -= x->body[x->body_at++].iov_len;
    if (x->body_at < x->n_body) {
      struct iovec *part = &x->body[x->body_at];
      part->iov_base = (char *)part->iov_base + sent;
      part->iov_len -= sent;
      return;
    }
    if (x->parts.n > 0) {
      size_t part = sent < x->parts.size ? sent : x->parts.size;
      http1_parts_advance(x, part);
      if (c->base.closed) return;
      sent -= part;
    }
    if (!x->answered || x->out_at < x->out.size || x->parts.n > 0) return;
    retire(x);
    if (c->base.closed) return;
  }
}

/* How long the client may take now: the borrowed memory is wanted back soon, all else is only memory of its own. */
static void arm_write_wait(struct http1_connection *c) {
  bool borrowed = false;
  list_each (link, &c->exchanges) {
    struct http1_exchange *x = list_item(link, struct http1_exchange, link);
    borrowed |= (x->body_at < x->n_body && !x->unshared) || x->parts.shared > 0;
  }
  enum wait kind = borrowed ? WAIT_SLOW : WAIT_STALL;
  if (kind == c->base.write_waiting) return;
  c->sent_at_wait = c->sent;
  connection_write_wait(&c->base, kind);
}

void http1_reply_flush(struct http1_connection *c) {
  if (c->sending) return;
  c->sending = true;
  c->base.blocked = false;
  while (!c->base.closed && !c->base.blocked) {
    struct iovec pieces[WRITE_IOVECS];
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = gather(c, pieces, WRITE_IOVECS)};
    if (message.msg_iovlen == 0) { /* an answer in parts may have ended without a byte more */
      uint32_t before = c->n_exchanges;
      advance(c, 0);
      if (c->n_exchanges == before) break;
      continue;
    }
    ssize_t sent = sendmsg(c->base.fd, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno != EAGAIN) connection_close(&c->base);
    if (c->base.closed) break;
    c->base.blocked = sent < (ssize_t)message_body_size(pieces, message.msg_iovlen);
    if (sent <= 0) break;
    c->sent += (size_t)sent;
    advance(c, (size_t)sent);
  }
  c->sending = false;
  if (c->base.closed) return;
  if (c->base.blocked) {
    arm_write_wait(c);
  } else if (c->base.write_waiting != WAIT_NONE) {
    c->crowded_ns = 0;
    connection_write_wait(&c->base, WAIT_NONE);
  }
}

/* May an answer that found no room wait on for it? */
static bool may_stay_borrowed(struct http1_connection *c) {
  if (c->crowded_ns == 0) c->crowded_ns = c->base.server->now_ns;
  return c->base.server->now_ns - c->crowded_ns < CROWDED_MOST_NS;
}

static mu_status copy_parts(struct http1_exchange *x) {
  size_t size = x->parts.shared;
  mu_status status = size == 0 ? MU_OK : connection_charge(&x->connection->base, size);
  if (size == 0 || status != MU_OK) return status;
  x->parts_charged += size;
  return reply_queue_settle(&x->parts);
}

void http1_reply_copy(struct http1_connection *c) {
  bool crowded = false;
  c->sending = true;
  list_each (link, &c->exchanges) {
    struct http1_exchange *x = list_item(link, struct http1_exchange, link);
    mu_status status = x->body_at < x->n_body && !x->unshared ? copy_body(x) : MU_OK;
    if (status == MU_OK && !c->base.closed) status = copy_parts(x);
    crowded |= status == MU_UNAVAILABLE;
    if (status != MU_OK && !(status == MU_UNAVAILABLE && may_stay_borrowed(c))) connection_close(&c->base);
    if (c->base.closed) break;
  }
  if (!crowded) c->crowded_ns = 0;
  c->sending = false;
}
