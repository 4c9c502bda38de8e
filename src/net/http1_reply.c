/* Answers to bytes: heads, compression, the queue of a pipeline, and the memory that answers borrow. */
#include "net/http1_connection.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

enum {
  UNCOUNTED = 16 * 1024,       /* bytes of copied bodies of a connection that are not worth counting */
  COPY_AT_ONCE = 8 * 1024,     /* a body up to this is copied behind its head: cheaper than keeping account of it */
  COMPRESS_LEAST = 512,        /* below, a compressed body is hardly smaller */
  COMPRESS_MOST = 1024 * 1024, /* above, it would hold up the loop's other connections: some 10 ms */
  WRITE_IOVECS = 64
};

#define CROWDED_MOST_NS NS_PER_S /* then a slow client whose answer cannot be copied has to go */

#define CONTINUE "HTTP/1.1 100 Continue\r\n\r\n"

/* ---- the head ---------------------------------------------------------------------------------------------------- */

static char *put(char *at, const char *text, size_t size) {
  memcpy(at, text, size);
  return at + size;
}

#define PUT(at, literal) put(at, literal, sizeof(literal) - 1)

enum { DIGITS_MOST = 20 };

static char *put_number(char *at, uint64_t number) {
  char digits[DIGITS_MOST];
  size_t n = 0;
  do digits[DIGITS_MOST - ++n] = (char)('0' + number % 10);
  while ((number /= 10) > 0);
  return put(at, digits + DIGITS_MOST - n, n);
}

/* A value may quote what a client sent elsewhere: no byte of it may end the line. */
static char *put_value(char *at, const char *value, size_t size) {
  for (size_t i = 0; i < size; i++) {
    unsigned char byte = (unsigned char)value[i];
    *at++ = (byte < 0x20 && byte != '\t') || byte == 0x7f ? ' ' : value[i];
  }
  return at;
}

static char *put_header(char *at, const char *name, const char *value) {
  at = put(at, name, strlen(name));
  at = PUT(at, ": ");
  at = put_value(at, value, strlen(value));
  return PUT(at, "\r\n");
}

/* RFC 9110 section 6.4.1: no content, and no Content-Length that could be taken for one. */
static bool has_no_content(int status) { return status < 200 || status == 204 || status == 304; }

/* What of an answer is not the service's choice. */
struct head_facts {
  uint64_t length;
  enum content_coding coding;
};

/* RFC 9110 section 6.6.1. Written once in a second, in the one form that all readers know (section 5.6.7). */
static char *put_date(char *at, struct http_server *server) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  if (now.tv_sec != server->date_second) {
    static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    struct tm utc;
    gmtime_r(&now.tv_sec, &utc);
    snprintf(server->date, sizeof server->date, "Date: %.3s, %02d %.3s %04d %02d:%02d:%02d GMT\r\n",
             days + 3 * utc.tm_wday, utc.tm_mday, months + 3 * utc.tm_mon, (utc.tm_year + 1900) % 10000, utc.tm_hour,
             utc.tm_min, utc.tm_sec);
    server->date_second = now.tv_sec;
  }
  return put(at, server->date, strlen(server->date));
}

/* Writes the head into x->out in one go; false without memory. */
static bool write_head(struct http1_exchange *x, const struct reply *r, struct head_facts facts) {
  const char *reason = http_status_text(r->status);
  size_t room = 256 + strlen(reason) + (r->content_type != NULL ? strlen(r->content_type) : 0);
  for (size_t i = 0; i < r->n_headers; i++) room += strlen(r->headers[i].name) + strlen(r->headers[i].value) + 4;
  if (buffer_reserve(&x->out, room) != MU_OK) return false;
  char *at = x->out.data + x->out.size;
  at = PUT(at, "HTTP/1.1 ");
  at = put_number(at, (uint64_t)r->status);
  *at++ = ' ';
  at = put(at, reason, strlen(reason));
  at = PUT(at, "\r\n");
  at = put_date(at, x->connection->server);
  if (r->content_type != NULL) at = put_header(at, "Content-Type", r->content_type);
  if (!has_no_content(r->status)) {
    at = PUT(at, "Content-Length: ");
    at = put_number(at, facts.length);
    at = PUT(at, "\r\n");
  }
  if (facts.coding != CODING_IDENTITY) at = put_header(at, "Content-Encoding", content_coding_name(facts.coding));
  if (r->compressible) at = PUT(at, "Vary: Accept-Encoding\r\n");
  if (!x->keep_alive)
    at = PUT(at, "Connection: close\r\n");
  else if (x->asked_to_keep) /* clients of HTTP/1.0 need to hear it */
    at = PUT(at, "Connection: keep-alive\r\n");
  for (size_t i = 0; i < r->n_headers; i++) at = put_header(at, r->headers[i].name, r->headers[i].value);
  at = PUT(at, "\r\n");
  x->out.size = (size_t)(at - x->out.data);
  return true;
}

/* ---- the body ---------------------------------------------------------------------------------------------------- */

static size_t body_size(const struct iovec *body, size_t n) {
  size_t size = 0;
  for (size_t i = 0; i < n; i++) size += body[i].iov_len;
  return size;
}

static void body_done(struct http1_exchange *x) {
  void (*done)(void *owner) = x->done;
  x->n_body = x->body_at = 0;
  x->done = NULL;
  if (done != NULL) done(x->owner);
}

static size_t beyond(size_t size, size_t bound) { return size > bound ? size - bound : 0; }

/* Room for size bytes more of copied bodies. MU_TOO_LARGE: past the connection's bound; MU_UNAVAILABLE: not now. */
static mu_status charge(struct http1_exchange *x, size_t size) {
  struct http1_connection *c = x->connection;
  const struct http_server *server = c->server;
  if (size > server->limits.copied_reply_bytes || c->copied > server->limits.copied_reply_bytes - size)
    return MU_TOO_LARGE;
  size_t count = beyond(c->copied + size, UNCOUNTED);
  if (server->service.hold != NULL && count > c->counted) {
    if (!server->service.hold(server->context, count - c->counted)) return MU_UNAVAILABLE;
    c->counted = count;
  }
  c->copied += size;
  x->charged += size;
  return MU_OK;
}

void http1_reply_forget(struct http1_connection *c, size_t size) {
  const struct http_server *server = c->server;
  c->copied -= size;
  size_t count = beyond(c->copied, UNCOUNTED), less = beyond(c->counted, count);
  c->counted -= less;
  if (less > 0) server->service.let_go(server->context, less);
}

/* What is left of the body moves into memory of the connection. As charge, and MU_NO_MEMORY. */
static mu_status copy_body(struct http1_exchange *x) {
  mu_status status = charge(x, body_size(x->body + x->body_at, x->n_body - x->body_at));
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

/* Compresses into the server's scratch buffer where that is wanted, allowed and shorter. The scratch holds the body
 * then, and it is charged. Without memory for it the body goes out as it is, which is always right. */
static enum content_coding compress(struct http1_exchange *x, const struct reply *r, size_t size) {
  struct http_server *server = x->connection->server;
  if (!r->compressible || size < COMPRESS_LEAST || size > COMPRESS_MOST) return CODING_IDENTITY;
  enum content_coding coding = content_coding_choose(x->base.headers[HEADER_ACCEPT_ENCODING]);
  if (coding == CODING_IDENTITY) return coding;
  if (server->encoders[coding] == NULL) server->encoders[coding] = content_encoder_create(coding);
  buffer_clear(&server->encoded);
  if (server->encoders[coding] == NULL ||
      content_encoder_run(server->encoders[coding], r->body, r->n_body, &server->encoded) != MU_OK ||
      server->encoded.size >= size)
    return CODING_IDENTITY;
  return charge(x, server->encoded.size) == MU_OK ? coding : CODING_IDENTITY;
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
  c->server->now_ns = clock_now_ns(); /* a reply comes at any time, not only from a callback of the server */
  http1_reply_flush(c);
  if (c->closed) return MU_OK;
  for (const struct list *at = head->next; at != head; at = at->next)
    if (at == link) return copy_body(x); /* it is still there: not all was written */
  return MU_OK;
}

/* Head and body into the exchange, the body by the cheapest way. Other than MU_OK: the connection cannot go on. */
static mu_status fill_answer(struct http1_exchange *x, const struct reply *r) {
  size_t size = body_size(r->body, r->n_body);
  x->done = r->done;
  x->owner = r->owner;
  x->unshared = r->unshared;
  struct head_facts facts = {.length = size, .coding = compress(x, r, size)};
  if (facts.coding != CODING_IDENTITY) facts.length = x->connection->server->encoded.size;
  if (!write_head(x, r, facts)) return MU_NO_MEMORY;
  if (x->body_unwanted || has_no_content(r->status)) {
    body_done(x);
    return MU_OK;
  }
  if (facts.coding != CODING_IDENTITY) {
    body_done(x);
    return buffer_append(&x->out, x->connection->server->encoded.data, facts.length);
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
  if (c->closed || x->out_at > out_before) return false;
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
  ssize_t sent = send(c->fd, no_memory, NO_MEMORY_SIZE, MSG_NOSIGNAL | MSG_DONTWAIT);
  (void)sent; /* nothing else has been written for long: it fits */
}

/* ---- exchange_reply ---------------------------------------------------------------------------------------------- */

/* The answer comes before its request is all there. A short rest is read and dropped. A long one, one that may turn out
 * long (chunked), and one whose client waits to be asked for it (it may send it or not), end the connection. */
static void abandon_body(struct http1_exchange *x) {
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
  assert(!x->answered);
  x->answered = true;
  if (c->closed) { /* it ends all of its exchanges just now */
    if (reply->done != NULL) reply->done(reply->owner);
    return;
  }
  if (c->current == x) abandon_body(x);
  bool last = c->exchanges.prev == &x->link;
  if (c->server->draining && c->server->give == NULL && last) x->keep_alive = false;
  if (!x->keep_alive) c->input = INPUT_CLOSED;
  size_t out_before = x->out.size;
  mu_status status = fill_answer(x, reply);
  if (status == MU_OK || (status == MU_NO_MEMORY && answer_without_memory(x, out_before)))
    http1_connection_wake(c);
  else
    http1_connection_close(c);
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
  http1_connection_wake(c);
}

static bool http1_peer_is_local(const struct exchange *exchange) {
  struct http1_connection *connection = list_item(exchange, struct http1_exchange, base)->connection;
  return peer_is_local(connection->fd, &connection->place);
}

const struct transport http1_transport = {
    .reply = http1_reply, .pause = http1_pause, .resume = http1_resume, .peer_is_local = http1_peer_is_local};

void http1_exchange_end(struct http1_exchange *x) {
  struct http_server *server = x->connection->server;
  if (!x->answered) {
    x->answered = true;
    if (x->begun) server->service.gone(server->context, &x->base);
  }
  body_done(x);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

void http1_reply_continue(struct http1_connection *c) {
  struct http1_exchange *x = c->current;
  if (x == NULL || !x->wants_continue || c->paused || c->input != INPUT_OPEN) return;
  x->wants_continue = false;
  if (buffer_append(&x->out, CONTINUE, sizeof CONTINUE - 1) != MU_OK) http1_connection_close(c);
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
    if (!x->answered || at == n) break;
  }
  return at;
}

/* An answer is out. */
static void retire(struct http1_exchange *x) {
  struct http1_connection *c = x->connection;
  list_remove(&x->link);
  c->n_exchanges--;
  http1_reply_forget(c, x->charged);
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
    if (!x->answered || x->out_at < x->out.size) return;
    retire(x);
    if (c->closed) return;
  }
}

/* How long the client may take now: the borrowed memory is wanted back soon, all else is only memory of its own. */
static void arm_write_wait(struct http1_connection *c) {
  bool borrowed = false;
  list_each (link, &c->exchanges) {
    struct http1_exchange *x = list_item(link, struct http1_exchange, link);
    borrowed |= x->body_at < x->n_body && !x->unshared;
  }
  enum wait kind = borrowed ? WAIT_SLOW : WAIT_STALL;
  if (kind == c->write_waiting) return;
  c->write_waiting = kind;
  c->sent_at_wait = c->sent;
  deadline_start(&c->server->waits[kind], &c->write_wait, c->server->now_ns);
  if (kind == WAIT_SLOW) http_server_arm_fine(c->server);
}

void http1_reply_flush(struct http1_connection *c) {
  if (c->sending) return;
  c->sending = true;
  c->blocked = false;
  while (!c->closed && !c->blocked) {
    struct iovec pieces[WRITE_IOVECS];
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = gather(c, pieces, WRITE_IOVECS)};
    if (message.msg_iovlen == 0) break;
    ssize_t sent = sendmsg(c->fd, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno != EAGAIN) http1_connection_close(c);
    if (c->closed) break;
    c->blocked = sent < (ssize_t)body_size(pieces, message.msg_iovlen);
    if (sent <= 0) break;
    c->sent += (size_t)sent;
    advance(c, (size_t)sent);
  }
  c->sending = false;
  if (c->closed) return;
  if (c->blocked) {
    arm_write_wait(c);
  } else if (c->write_waiting != WAIT_NONE) {
    c->write_waiting = WAIT_NONE;
    c->crowded_ns = 0;
    deadline_clear(&c->write_wait);
  }
}

/* May an answer that found no room wait on for it? */
static bool may_stay_borrowed(struct http1_connection *c) {
  if (c->crowded_ns == 0) c->crowded_ns = c->server->now_ns;
  return c->server->now_ns - c->crowded_ns < CROWDED_MOST_NS;
}

void http1_reply_copy(struct http1_connection *c) {
  bool crowded = false;
  c->sending = true;
  list_each (link, &c->exchanges) {
    struct http1_exchange *x = list_item(link, struct http1_exchange, link);
    if (x->body_at == x->n_body || x->unshared) continue;
    mu_status status = copy_body(x);
    crowded |= status == MU_UNAVAILABLE;
    if (status != MU_OK && !(status == MU_UNAVAILABLE && may_stay_borrowed(c))) http1_connection_close(c);
    if (c->closed) break;
  }
  if (!crowded) c->crowded_ns = 0;
  c->sending = false;
}
