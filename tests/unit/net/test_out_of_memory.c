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
static void on_end(void *context, struct exchange *exchange) {
  struct world *w = context;
  static char text[32];
  snprintf(text, sizeof text, "%zu", w->body);
  bool wants_large = strcmp(exchange->path, "/large") == 0;
  struct iovec body[3] = {{.iov_base = wants_large ? large : text, .iov_len = wants_large ? LARGE : strlen(text)}};
  struct reply reply = {.status = 200, .content_type = "text/plain", .body = body, .n_body = 3};
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
static void on_gone(void *context, struct exchange *exchange) { ((struct world *)context)->open--; }
static bool on_window(void *context, struct exchange *exchange, uint8_t **ret_data, size_t *ret_size) { return false; }
static const struct service service = {
    .begin = on_begin, .body = on_body, .end = on_end, .gone = on_gone, .window = on_window};

static const struct http_limits limits = {.body_bytes = 1 << 20,
                                          .head_bytes = 16 << 10,
                                          .pipeline = 3,
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

static mu_status serve(void *context) {
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
    ask_everything(&w, port);
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
  write_requests();
  fail_each_allocation("http server", serve, NULL);
}
static void test_loop(void **state) { fail_each_allocation("net_loop_create", create_loop, NULL); }
static void test_listen(void **state) { fail_each_allocation("listen_tcp", listen_on_address, NULL); }

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_loop), cmocka_unit_test(test_listen),
                                     cmocka_unit_test(test_serve)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
