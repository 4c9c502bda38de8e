/*
 * A server on a loop that the test itself turns, a service that notes what it is told, and clients on plain sockets.
 * Nothing waits for a time to pass: loops are turned until what is expected has happened (a limit of TEST_LIMIT_NS
 * turns a hang into a failure).
 */
#ifndef TEST_NET_HTTP_FIXTURE_H
#define TEST_NET_HTTP_FIXTURE_H

#include "base/clock.h"
#include "net/http_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define TEST_LIMIT_NS (60 * NS_PER_S)
#define UNUSED __attribute__((unused))

enum { SEEN_MOST = 64 };

/* What the service was told of one exchange. */
struct seen {
  struct fixture *fixture;
  struct exchange *exchange; /* NULL once it is answered or gone */
  char method[16], path[256], query[256];
  char headers[HEADER_COUNT][64]; /* "" where not sent */
  uint64_t content_length, serial;
  bool encoded, ended, gone;
  struct buffer body;
  const uint8_t *last_data;
  size_t last_size, n_body_calls;
  int n_done, n_writable;
  size_t n_parts; /* for a test that sends many */
};

struct fixture {
  struct net_loop *loop;
  struct http_server *server;
  struct http_limits limits;
  uint16_t port;
  uv_timer_t tick;
  struct seen seen[SEEN_MOST];
  size_t n_seen, n_gone;
  bool drained;
  /* what a test wants done; NULL: nothing (begin, body), answer_ok (end) */
  void (*on_begin)(struct seen *seen);
  void (*on_body)(struct seen *seen);
  void (*on_end)(struct seen *seen);
  void (*on_writable)(struct seen *seen);
  /* memory for copied replies: what there is, what is taken */
  uint64_t hold_most, held;
  /* memory offered as window */
  uint8_t *window;
  size_t window_size, window_at, n_windows;
};

/* ---- the service ------------------------------------------------------------------------------------------------- */

static void seen_done(void *owner) { ((struct seen *)owner)->n_done++; }

UNUSED static void answer(struct seen *seen, int status, const void *data, size_t size) {
  struct exchange *exchange = seen->exchange;
  seen->exchange = NULL;
  struct iovec body = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
  exchange_reply(exchange, &(struct reply){.status = status,
                                           .content_type = "text/plain",
                                           .body = &body,
                                           .n_body = 1,
                                           .done = seen_done,
                                           .owner = seen});
}

UNUSED static void answer_ok(struct seen *seen) { answer(seen, 200, "ok", 2); }
UNUSED static void answer_never(struct seen *seen) {}
UNUSED static void answer_path(struct seen *seen) { answer(seen, 200, seen->path, strlen(seen->path)); }
UNUSED static void answer_echo(struct seen *seen) { answer(seen, 200, seen->body.data, seen->body.size); }

static void service_begin(void *context, struct exchange *exchange) {
  struct fixture *f = context;
  assert_true(f->n_seen < SEEN_MOST);
  struct seen *seen = &f->seen[f->n_seen++];
  *seen = (struct seen){.fixture = f, .exchange = exchange};
  exchange->user = seen;
  snprintf(seen->method, sizeof seen->method, "%s", exchange->method);
  snprintf(seen->path, sizeof seen->path, "%s", exchange->path);
  snprintf(seen->query, sizeof seen->query, "%s", exchange->query);
  for (int i = 0; i < HEADER_COUNT; i++)
    snprintf(seen->headers[i], sizeof seen->headers[i], "%s", exchange->headers[i] == NULL ? "" : exchange->headers[i]);
  seen->content_length = exchange->content_length;
  seen->serial = exchange->serial;
  seen->encoded = exchange->encoded;
  assert_ptr_equal(exchange->loop, f->loop);
  assert_true(exchange->received_ns > 0);
  buffer_init(&seen->body, SIZE_MAX / 2);
  if (f->on_begin != NULL) f->on_begin(seen);
}

static void service_body(void *context, struct exchange *exchange, const uint8_t *data, size_t size) {
  struct seen *seen = exchange->user;
  assert_ptr_equal(seen->exchange, exchange);
  assert_true(size > 0);
  assert_false(seen->ended);
  assert_int_equal(buffer_append(&seen->body, data, size), MU_OK);
  seen->last_data = data;
  seen->last_size = size;
  seen->n_body_calls++;
  if (seen->fixture->on_body != NULL) seen->fixture->on_body(seen);
}

static void service_end(void *context, struct exchange *exchange) {
  struct seen *seen = exchange->user;
  assert_ptr_equal(seen->exchange, exchange);
  assert_false(seen->ended);
  seen->ended = true;
  (seen->fixture->on_end != NULL ? seen->fixture->on_end : answer_ok)(seen);
}

static void service_gone(void *context, struct exchange *exchange) {
  struct seen *seen = exchange->user;
  assert_ptr_equal(seen->exchange, exchange);
  seen->exchange = NULL;
  seen->gone = true;
  seen->fixture->n_gone++;
}

static bool service_window(void *context, struct exchange *exchange, uint8_t **ret_data, size_t *ret_size) {
  struct fixture *f = context;
  if (f->window == NULL || f->window_at == f->window_size) return false;
  f->n_windows++;
  *ret_data = f->window + f->window_at;
  *ret_size = f->window_size - f->window_at;
  return true;
}

static bool service_hold(void *context, uint64_t bytes) {
  struct fixture *f = context;
  if (bytes > f->hold_most - f->held) return false;
  f->held += bytes;
  return true;
}

static void service_let_go(void *context, uint64_t bytes) {
  struct fixture *f = context;
  assert_true(bytes <= f->held);
  f->held -= bytes;
}

static void service_writable(void *context, struct exchange *exchange) {
  struct seen *seen = exchange->user;
  assert_ptr_equal(seen->exchange, exchange);
  assert_true(exchange_unsent(exchange) <= EXCHANGE_LOW_WATER);
  seen->n_writable++;
  if (seen->fixture->on_writable != NULL) seen->fixture->on_writable(seen);
}

static const struct service recording = {service_begin,  service_body, service_end,    service_gone,
                                         service_window, service_hold, service_let_go, service_writable};

/* ---- turning the loop -------------------------------------------------------------------------------------------- */

static void on_tick(uv_timer_t *timer) {}

/* One turn, at most a few milliseconds long. */
UNUSED static void turn(struct fixture *f) { uv_run(net_loop_uv(f->loop), UV_RUN_ONCE); }

#define TURN_UNTIL(f, condition)                                                   \
  do {                                                                             \
    uint64_t limit_ = clock_now_ns() + TEST_LIMIT_NS;                              \
    while (!(condition)) {                                                         \
      if (clock_now_ns() > limit_) fail_msg("waited in vain for: %s", #condition); \
      turn(f);                                                                     \
    }                                                                              \
  } while (0)

/* ---- set-up ------------------------------------------------------------------------------------------------------ */

static const struct http_limits usual_limits = {
    .body_bytes = 64 << 20,
    .head_bytes = 16 << 10,
    .pipeline = 16,
    .streams = 100,
    .idle_timeout_ns = 1000 * NS_PER_S,
    .head_timeout_ns = 1000 * NS_PER_S,
    .body_min_rate = 0,
    .body_grace_ns = 1000 * NS_PER_S,
    .slow_reply_ns = 20 * (uint64_t)NS_PER_MS,
    .copied_reply_bytes = 256 << 20,
    .connections = 100,
};

UNUSED static void fixture_start(struct fixture *f, const struct http_limits *limits) {
  *f = (struct fixture){.limits = *limits, .hold_most = UINT64_MAX};
  mu_error err;
  int fd;
  f->loop = net_loop_create();
  assert_non_null(f->loop);
  f->server = http_server_create(f->loop, &recording, f, limits);
  assert_non_null(f->server);
  assert_int_equal(listen_tcp("127.0.0.1", 0, 1, &fd, &f->port, &err), MU_OK);
  assert_int_equal(http_server_listen(f->server, fd, &err), MU_OK);
  uv_timer_init(net_loop_uv(f->loop), &f->tick);
  uv_timer_start(&f->tick, on_tick, 2, 2);
}

UNUSED static void fixture_stop(struct fixture *f) {
  http_server_free(f->server);
  net_loop_free(f->loop);
  assert_int_equal(f->held, 0);
  for (size_t i = 0; i < f->n_seen; i++) {
    assert_null(f->seen[i].exchange); /* each was answered or is gone */
    buffer_free(&f->seen[i].body);
  }
}

/* ---- clients ----------------------------------------------------------------------------------------------------- */

struct client {
  struct fixture *fixture;
  int fd;
  struct buffer in;
  bool closed; /* by the server */
  bool reset;  /* not by a FIN */
};

UNUSED static void client_connect(struct client *c, struct fixture *f) {
  *c = (struct client){.fixture = f};
  buffer_init(&c->in, SIZE_MAX / 2);
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(c->fd >= 0);
  struct sockaddr_in name = {
      .sin_family = AF_INET, .sin_port = htons(f->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  assert_int_equal(connect(c->fd, (struct sockaddr *)&name, sizeof name), 0); /* the backlog takes it */
  assert_int_equal(fcntl(c->fd, F_SETFL, O_NONBLOCK), 0);
}

UNUSED static void client_free(struct client *c) {
  if (c->fd >= 0) close(c->fd);
  buffer_free(&c->in);
}

/* What has arrived, without waiting. */
UNUSED static void client_receive(struct client *c) {
  while (!c->closed) {
    assert_int_equal(buffer_reserve(&c->in, 65536), MU_OK);
    ssize_t n = recv(c->fd, c->in.data + c->in.size, 65536, 0);
    if (n > 0)
      c->in.size += (size_t)n;
    else if (n < 0 && errno == EAGAIN)
      return;
    else {
      c->closed = true;
      c->reset = n < 0;
    }
  }
}

/* Sends all of it, while the server reads. Stops without a word when the server has closed. */
UNUSED static void client_send(struct client *c, const void *data, size_t size) {
  uint64_t limit = clock_now_ns() + TEST_LIMIT_NS;
  for (size_t at = 0; at < size;) {
    ssize_t n = send(c->fd, (const char *)data + at, size - at, MSG_NOSIGNAL);
    if (n >= 0)
      at += (size_t)n;
    else if (errno == EAGAIN)
      turn(c->fixture);
    else
      return;
    if (clock_now_ns() > limit) fail_msg("the server does not read");
  }
}

UNUSED static void client_say(struct client *c, const char *text) { client_send(c, text, strlen(text)); }

UNUSED static void client_wait_closed(struct client *c) { TURN_UNTIL(c->fixture, (client_receive(c), c->closed)); }

UNUSED static const char *client_text(struct client *c) { return buffer_text(&c->in); }

UNUSED static void client_wait_text(struct client *c, const char *part) {
  TURN_UNTIL(c->fixture, (client_receive(c), strstr(client_text(c), part) != NULL || c->closed));
  if (strstr(client_text(c), part) == NULL) fail_msg("closed before \"%s\" came: %s", part, client_text(c));
}

/* One answer off the front of what comes in. */
struct answer {
  int status;
  char head[2048];
  char *body; /* terminated; to be freed */
  size_t size;
};

static size_t answer_length(const char *head) {
  const char *at = strcasestr(head, "\r\nContent-Length: ");
  return at == NULL ? 0 : strtoul(at + 18, NULL, 10);
}

UNUSED static bool client_has_answer(struct client *c) {
  client_receive(c);
  char *end = c->in.size == 0 ? NULL : memmem(c->in.data, c->in.size, "\r\n\r\n", 4);
  if (end == NULL) return false;
  char head[2048] = "";
  assert_true((size_t)(end - c->in.data) + 4 < sizeof head);
  memcpy(head, c->in.data, (size_t)(end - c->in.data) + 4);
  return c->in.size >= strlen(head) + answer_length(head);
}

/* Every answer says when it was given; the line is taken out of the text, so that the rest can be compared. */
static void take_date(char *text) {
  char day[4], month[4], rest[8];
  int number, year, hour, minute, second;
  char *line = strcasestr(text, "\r\nDate: ");
  assert_non_null(line);
  char *end = strstr(line + 2, "\r\n");
  assert_int_equal(sscanf(line + 2, "Date: %3[A-Z a-z], %2d %3s %4d %2d:%2d:%2d %3s", day, &number, month, &year, &hour,
                          &minute, &second, rest),
                   8);
  assert_string_equal(rest, "GMT");
  assert_int_equal(end - line, 2 + (int)strlen("Date: Sun, 06 Nov 1994 08:49:37 GMT"));
  memmove(line, end, strlen(end) + 1);
}

UNUSED static struct answer client_answer(struct client *c) {
  struct answer a = {0};
  TURN_UNTIL(c->fixture, client_has_answer(c) || c->closed);
  if (!client_has_answer(c)) fail_msg("closed before an answer came: \"%s\"", client_text(c));
  size_t head = (size_t)((char *)memmem(c->in.data, c->in.size, "\r\n\r\n", 4) - c->in.data) + 4;
  memcpy(a.head, c->in.data, head);
  assert_int_equal(sscanf(a.head, "HTTP/1.1 %d ", &a.status), 1);
  if (a.status >= 200) take_date(a.head);
  a.size = answer_length(a.head);
  a.body = calloc(1, a.size + 1);
  assert_non_null(a.body);
  memcpy(a.body, c->in.data + head, a.size);
  buffer_consume(&c->in, head + a.size);
  return a;
}

UNUSED static bool answer_has(const struct answer *a, const char *header) {
  char line[256];
  snprintf(line, sizeof line, "\r\n%s\r\n", header);
  return strcasestr(a->head, line) != NULL;
}

/* The next answer has this status and (unless NULL) this body. */
UNUSED static void client_expect(struct client *c, int status, const char *body) {
  struct answer a = client_answer(c);
  if (a.status != status) fail_msg("status %d, not %d: %s", a.status, status, a.body);
  if (body != NULL) assert_string_equal(a.body, body);
  free(a.body);
}

/* Bytes that look like nothing else and differ everywhere. */
UNUSED static uint8_t *pattern_create(size_t size, unsigned seed) {
  uint8_t *data = malloc(size == 0 ? 1 : size);
  assert_non_null(data);
  uint32_t x = seed * 2654435761u + 1;
  for (size_t i = 0; i < size; i++) {
    x = x * 1664525u + 1013904223u;
    data[i] = (uint8_t)(x >> 24);
  }
  return data;
}

#endif
