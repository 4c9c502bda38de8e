/* A server without memory: a request gets its answer or a 503, and the next connection is served as ever. */
#include "net/http_server.h"

#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

#include "base/clock.h"
#include "failing_allocator.h"

enum { LARGE = 300 * 1024, TURNS_MAX = 200000 };

struct world {
  struct net_loop *loop;
  struct http_server *server;
  int open;     /* exchanges that are neither answered nor gone */
  int borrowed; /* bodies that the server has not given back */
  size_t body;  /* of the last request */
  uv_timer_t tick;
};

/* ---- a service that needs no memory -------------------------------------------------------------------------------
 */

static char large[LARGE];

static void body_done(void *owner) { ((struct world *)owner)->borrowed--; }

static void on_begin(void *context, struct exchange *exchange) {
  struct world *w = context;
  w->open++;
  w->body = 0;
}
static void on_body(void *context, struct exchange *exchange, const uint8_t *data, size_t size) {
  ((struct world *)context)->body += size;
}
static struct exchange *in_parts; /* that is being answered so; NULL: it has gone meanwhile */

/* A body in parts, of which one is lent and one copied, with trailers. */
static void reply_in_parts(struct world *w, struct exchange *exchange) {
  static const struct header trailer = {"grpc-status", "0"};
  const struct iovec bodies[] = {{large, LARGE}, {large, 100}};
  const struct reply_part parts[] = {{.body = &bodies[0], .n_body = 1, .done = body_done, .owner = w},
                                     {.body = &bodies[1], .n_body = 1}};
  in_parts = exchange;
  exchange_reply_begin(exchange, &(struct reply){.status = 200, .content_type = "text/plain"});
  for (size_t i = 0; i < 2 && in_parts != NULL; i++) {
    w->borrowed += parts[i].done != NULL;
    exchange_reply_part(exchange, &parts[i]);
  }
  if (in_parts == NULL) return;
  in_parts = NULL;
  w->open--;
  exchange_reply_end(exchange, &trailer, 1);
}

static void on_end(void *context, struct exchange *exchange) {
  struct world *w = context;
  static char text[32];
  if (strcmp(exchange->path, "/parts") == 0) {
    reply_in_parts(w, exchange);
    return;
  }
  snprintf(text, sizeof text, "%zu", w->body);
  static const struct header trailer = {"grpc-status", "0"}; /* HTTP/1.1 drops it */
  bool wants_large = strcmp(exchange->path, "/large") == 0;
  struct iovec body[3] = {{.iov_base = wants_large ? large : text, .iov_len = wants_large ? LARGE : strlen(text)}};
  struct reply reply = {
      .status = 200, .content_type = "text/plain", .body = body, .n_body = 3, .trailers = &trailer, .n_trailers = 1};
  if (strcmp(exchange->path, "/compressible") == 0) {
    reply.compressible = true;
    body[1] = (struct iovec){large, 5000};
  }
  if (wants_large) {
    reply.done = body_done;
    reply.owner = w;
    w->borrowed++;
  }
  w->open--;
  exchange_reply(exchange, &reply);
}
static void on_gone(void *context, struct exchange *exchange) {
  if (exchange == in_parts) in_parts = NULL;
  ((struct world *)context)->open--;
}
static bool on_window(void *context, struct exchange *exchange, uint8_t **ret_data, size_t *ret_size) { return false; }
static const struct service service = {
    .begin = on_begin, .body = on_body, .end = on_end, .gone = on_gone, .window = on_window};

static const struct http_limits limits = {.body_bytes = 1 << 20,
                                          .head_bytes = 16 << 10,
                                          .pipeline = 3,
                                          .streams = 100,
                                          .idle_timeout_ns = 1000 * NS_PER_S,
                                          .head_timeout_ns = 1000 * NS_PER_S,
                                          .body_grace_ns = 1000 * NS_PER_S,
                                          .slow_reply_ns = NS_PER_MS,
                                          .copied_reply_bytes = 1 << 20,
                                          .connections = 10};

/* ---- a client that needs none either --------------------------------------------------------------------------------
 */

struct client {
  int fd;
  bool closed;
  size_t size;
  char in[4 * LARGE];
};

static void client_open(struct client *c, uint16_t port) {
  struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  c->closed = false;
  c->size = 0;
  assert_int_equal(connect(c->fd, (struct sockaddr *)&name, sizeof name), 0);
}

static void client_read(struct client *c) {
  while (!c->closed) {
    ssize_t n = recv(c->fd, c->in + c->size, sizeof c->in - c->size, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    c->closed = n <= 0;
    if (n > 0) c->size += (size_t)n;
  }
}

/* Whole answers so far; each is a 200 or a 503. */
static int count_answers(struct client *c, int *ret_refused) {
  int n = 0;
  *ret_refused = 0;
  for (size_t at = 0; at < c->size;) {
    char *head = c->in + at, *end = memmem(head, c->size - at, "\r\n\r\n", 4);
    if (end == NULL) return n;
    if (strncmp(head, "HTTP/1.1 100 ", 13) == 0) {
      at = (size_t)(end - c->in) + 4;
      continue;
    }
    bool refused = strncmp(head, "HTTP/1.1 503 ", 13) == 0;
    if (!refused) assert_memory_equal(head, "HTTP/1.1 200 ", 13);
    char *length = memmem(head, (size_t)(end - head), "Content-Length: ", 16);
    assert_non_null(length);
    size_t size = strtoul(length + 16, NULL, 10);
    at = (size_t)(end - c->in) + 4 + size;
    if (at > c->size) return n;
    n++;
    *ret_refused += refused;
  }
  return n;
}

static void on_tick(uv_timer_t *timer) {}

static void turn(struct world *w) { uv_run(net_loop_uv(w->loop), UV_RUN_ONCE); }

/* ---- the scenario ---------------------------------------------------------------------------------------------------
 */

static char requests[16 * 1024];
static size_t n_requests;
enum { N_REQUESTS = 7 };

static void add(const void *data, size_t size) {
  memcpy(requests + n_requests, data, size);
  n_requests += size;
}

static void write_requests(void) {
  char head[256];
  uint8_t packed[1024];
  z_stream z = {.next_in = (Bytef *)large, .avail_in = 50000, .next_out = packed, .avail_out = sizeof packed};
  assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
  size_t size = sizeof packed - z.avail_out;
  deflateEnd(&z);
#define ADD(text) add(text, sizeof(text) - 1)
  ADD("GET /small?a=b HTTP/1.1\r\nHost: a\r\nX-Request-Id: 17\r\n\r\n");
  ADD("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
  snprintf(head, sizeof head, "POST /gzip HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: %zu\r\n\r\n",
           size);
  add(head, strlen(head));
  add(packed, size);
  ADD("POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n3\r\nfgh\r\n0\r\n\r\n");
  ADD("GET /compressible HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
  ADD("POST /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc");
  ADD("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
}

static struct client client;

static void ask_everything(struct world *w, uint16_t port) {
  int refused = 0, n = 0;
  client_open(&client, port);
  for (int i = 0; i < 4; i++) turn(w);
  client_read(&client);
  if (client.closed) { /* no memory for the connection itself */
    assert_true(allocation_has_failed());
    close(client.fd);
    return;
  }
  assert_int_equal(send(client.fd, requests, n_requests, MSG_NOSIGNAL), n_requests);
  for (int i = 0; i < 30; i++) turn(w); /* the client is slow: what it does not read is copied */
  for (int i = 0; !client.closed && (n = count_answers(&client, &refused)) < N_REQUESTS && i < TURNS_MAX; i++) {
    turn(w);
    client_read(&client);
  }
  n = count_answers(&client, &refused);
  if (!allocation_has_failed()) assert_int_equal(refused, 0);
  if (refused == 0 && !client.closed) assert_int_equal(n, N_REQUESTS);
  assert_true(n > 0);
  if (n < N_REQUESTS) assert_true(client.closed && allocation_has_failed());
  close(client.fd);
}

/* ---- the same over HTTP/2: every byte is written before, and frames are read by hand -------------------------------
 */

enum { FRAME_DATA = 0, FRAME_HEADERS = 1, FRAME_RST = 3, FRAME_SETTINGS = 4, FRAME_WINDOW = 8, END_STREAM = 1 };
enum { END_HEADERS = 4, N_STREAMS = 6, FRAME_HEAD = 9, WINDOW = 1 << 22 };

static void add_frame(uint8_t type, uint8_t flags, uint32_t stream, const void *data, size_t size) {
  const uint8_t head[FRAME_HEAD] = {0, (uint8_t)(size >> 8), (uint8_t)size, type, flags, (uint8_t)(stream >> 24), 0,
                                    0, (uint8_t)stream};
  add(head, sizeof head);
  add(data, size);
}

/* fields: further ones, written as HPACK wants them (RFC 7541). */
static void add_request(uint32_t stream, const char *path, const char *fields, size_t n_fields, const void *body,
                        size_t size) {
  char block[200] = {(char)(size > 0 ? 0x83 : 0x82), (char)0x86, 0x01, 1, 'a', 0x04, (char)strlen(path)};
  size_t at = 7 + strlen(path);
  memcpy(block + 7, path, strlen(path));
  memcpy(block + at, fields, n_fields);
  add_frame(FRAME_HEADERS, END_HEADERS | (size == 0 ? END_STREAM : 0), stream, block, at + n_fields);
  if (size > 0) add_frame(FRAME_DATA, END_STREAM, stream, body, size);
}

static void write_frames(void) {
  static const uint8_t settings[] = {0, 4, WINDOW >> 24, (WINDOW >> 16) & 255, (WINDOW >> 8) & 255, WINDOW & 255};
  uint8_t packed[1024];
  z_stream z = {.next_in = (Bytef *)large, .avail_in = 50000, .next_out = packed, .avail_out = sizeof packed};
  assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
  deflateEnd(&z);
  n_requests = 0;
  ADD("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  add_frame(FRAME_SETTINGS, 0, 0, settings, sizeof settings);
  add_frame(FRAME_WINDOW, 0, 0, settings + 2, 4);
  add_request(1, "/small?a=b", "", 0, NULL, 0);
  add_request(3, "/large", "", 0, NULL, 0);
  add_request(5, "/gzip", "\x0f\x0b\x04gzip", 7, packed, sizeof packed - z.avail_out);
  add_request(7, "/compressible", "\x0f\x01\x04gzip", 7, NULL, 0);
  add_request(9, "/e",
              "\x0f\x14\x0c"
              "100-continue",
              15, "abc", 3);
  add_request(11, "/parts", "", 0, NULL, 0);
}

/* Streams that the server has ended; of them, those that it has reset. */
static int count_ended(const struct client *c, int *ret_reset) {
  int n = 0;
  *ret_reset = 0;
  for (size_t at = 0; at + FRAME_HEAD <= c->size;) {
    const uint8_t *head = (const uint8_t *)c->in + at;
    size_t size = (size_t)head[0] << 16 | (size_t)head[1] << 8 | head[2];
    at += FRAME_HEAD + size;
    if (at > c->size) break;
    bool reset = head[3] == FRAME_RST;
    n += reset || (head[3] <= FRAME_HEADERS && (head[4] & END_STREAM));
    *ret_reset += reset;
  }
  return n;
}

static void ask_in_streams(struct world *w, uint16_t port) {
  int reset = 0, n = 0;
  client_open(&client, port);
  for (int i = 0; i < 4; i++) turn(w);
  send(client.fd, requests, n_requests, MSG_NOSIGNAL); /* fails where the connection found no memory */
  for (int i = 0; i < 30; i++) turn(w);
  for (int i = 0; !client.closed && (n = count_ended(&client, &reset)) < N_STREAMS && i < TURNS_MAX; i++) {
    turn(w);
    client_read(&client);
  }
  if (!allocation_has_failed()) assert_int_equal(reset, 0);
  if (n < N_STREAMS) assert_true(client.closed && allocation_has_failed());
  close(client.fd);
}

/* context: how it is asked. */
static mu_status serve(void *context) {
  void (*ask)(struct world * w, uint16_t port) = *(void (**)(struct world *, uint16_t))context;
  struct world w = {0};
  uint16_t port;
  int fd;
  mu_error err = {""};
  allocations_work();
  w.loop = net_loop_create();
  assert_non_null(w.loop);
  assert_int_equal(listen_tcp("127.0.0.1", 0, 1, &fd, &port, &err), MU_OK);
  uv_timer_init(net_loop_uv(w.loop), &w.tick);
  uv_timer_start(&w.tick, on_tick, 1, 1);
  allocations_fail();
  w.server = http_server_create(w.loop, &service, &w, &limits);
  mu_status status = w.server != NULL ? http_server_listen(w.server, fd, &err) : MU_NO_MEMORY;
  if (w.server == NULL) close(fd);
  if (status == MU_OK) {
    ask(&w, port);
    allocations_work();
    int refused;
    client_open(&client, port); /* there is memory again: so there is service */
    assert_int_equal(send(client.fd, "GET /large HTTP/1.1\r\nHost: a\r\n\r\n", 32, MSG_NOSIGNAL), 32);
    for (int i = 0; count_answers(&client, &refused) == 0 && i < TURNS_MAX; i++) {
      turn(&w);
      client_read(&client);
    }
    assert_int_equal(count_answers(&client, &refused), 1);
    assert_int_equal(refused, 0);
    close(client.fd);
    if (allocation_has_failed()) status = MU_NO_MEMORY;
  }
  http_server_free(w.server);
  net_loop_free(w.loop);
  assert_int_equal(w.open, 0);
  assert_int_equal(w.borrowed, 0);
  return status;
}

static mu_status create_loop(void *context) {
  struct net_loop *loop = net_loop_create();
  net_loop_free(loop);
  return loop != NULL ? MU_OK : MU_NO_MEMORY;
}

static mu_status listen_on_address(void *context) {
  int fd;
  uint16_t port;
  mu_error err = {""};
  mu_status status = listen_tcp("127.0.0.1", 0, 1, &fd, &port, &err);
  if (status == MU_OK)
    close(fd);
  else
    assert_true(err.message[0] != '\0');
  return status == MU_OK ? MU_OK : MU_NO_MEMORY;
}

static void test_serve(void **state) {
  static void (*ask)(struct world *, uint16_t) = ask_everything;
  write_requests();
  fail_each_allocation("http server", serve, &ask);
}
static void test_serve_http2(void **state) {
  static void (*ask)(struct world *, uint16_t) = ask_in_streams;
  write_frames();
  fail_each_allocation("http server, HTTP/2", serve, &ask);
}
static void test_loop(void **state) { fail_each_allocation("net_loop_create", create_loop, NULL); }
static void test_listen(void **state) { fail_each_allocation("listen_tcp", listen_on_address, NULL); }

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_loop), cmocka_unit_test(test_listen),
                                     cmocka_unit_test(test_serve), cmocka_unit_test(test_serve_http2)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
