/* A proxy without memory: a call ends with an answer or an error, and the next one is passed on as ever. */
#include "proxy/proxy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "failing_allocator.h"
#include "plain_peer.h"

enum { LIMIT_S = 60 /* below the proxy's own, for idle clients */, ANSWER_MAX = 64 * 1024 };

static struct plain_peer peer;
static struct proxy proxy;

static void answer(struct plain_connection *connection, uint32_t stream, const char *text, size_t size) {
  static const char short_answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-One: 1\r\n\r\nhello";
  static const char long_answer[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
  if (stream != 0)
    plain_answer_grpc(connection, stream, "\0\0\0\0\2\x08\1", 7);
  else if (strncmp(text, "POST", 4) == 0)
    plain_say(connection, long_answer, sizeof long_answer - 1);
  else
    plain_say(connection, short_answer, sizeof short_answer - 1);
}

static void turn(void) {
  plain_peer_turn(&peer);
  uv_run(net_loop_uv(proxy.loop), UV_RUN_NOWAIT); /* whatever comes is of our making, or of a timer's */
}

/* ---- clients ----------------------------------------------------------------------------------------------------- */

/* POST http /a.B/C, content-type: application/grpc, grpc-timeout: 9S */
static const char call_head[] =
    "\x83\x86\x01\1a\x04\6/a.B/C\x0f\x10\x10"
    "application/grpc\0\x0cgrpc-timeout\2"
    "9S";

/* What a client says; how what it hears must end when all went well. */
static const struct client_script {
  const char *name, *text, *expected;
  enum proxy_port port;
} scripts[] = {
    {"HTTP, whole", "GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n", "hello", PROXY_HTTP},
    {"HTTP, in parts", "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
     "5\r\nhello\r\n0\r\n\r\n", PROXY_HTTP},
    {"health", "GET /health HTTP/1.1\r\nHost: a\r\n\r\n", "]}", PROXY_HTTP},
    {"metrics", "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", "\n", PROXY_HTTP},
    {"WebSocket",
     "GET /ws?method=/a.B/C HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
     "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
     "\x82\x83\1\1\1\1abc", /* a binary message */
     "\x82\2\x08\1", PROXY_WS},
    {"gRPC", NULL, "\2\x08\1", PROXY_GRPC},
};
enum { N_SCRIPTS = sizeof scripts / sizeof *scripts };

static int client_open(enum proxy_port port) {
  struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons(proxy.ports[port]), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
  assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
  return fd;
}

static void say_grpc(int fd) {
  static struct plain_connection mine;
  mine.fd = fd;
  plain_say(&mine, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
  plain_frame(&mine, 4, 0, 0, "", 0);
  plain_frame(&mine, 1, 4, 1, call_head, sizeof call_head - 1);
  plain_frame(&mine, 0, 1, 1, "\0\0\0\0\1a", 6);
}

/* A frame that ends the stream, or all. */
static bool has_ended(const uint8_t *heard, size_t size) {
  enum { HEADERS = 1, RST_STREAM = 3, GOAWAY = 7, END_STREAM = 1 };
  for (size_t at = 0; at + PEER_FRAME_HEAD <= size;) {
    const uint8_t *head = heard + at;
    at += PEER_FRAME_HEAD + ((size_t)head[0] << 16 | (size_t)head[1] << 8 | head[2]);
    bool last = head[3] == RST_STREAM || head[3] == GOAWAY || (head[3] <= HEADERS && (head[4] & END_STREAM));
    if (last && at <= size) return true;
  }
  return false;
}

static bool is_over(const struct client_script *script, const char *heard, size_t size) {
  size_t expected = strlen(script->expected);
  if (script->port == PROXY_GRPC) return has_ended((const uint8_t *)heard, size);
  if (memmem(heard, size, "HTTP/1.1 50", 11) != NULL) return true;
  if (script->port == PROXY_WS && size > 0 && heard[size - 1] == '}') return true; /* an error as a message */
  return size >= expected && memcmp(heard + size - expected, script->expected, expected) == 0;
}

/* true: all went well. Otherwise something has failed; the client has heard of it, or its connection has ended. */
static bool play(const struct client_script *script) {
  static char heard[ANSWER_MAX];
  size_t size = 0;
  int fd = client_open(script->port);
  if (script->text != NULL)
    (void)!send(fd, script->text, strlen(script->text), MSG_NOSIGNAL);
  else
    say_grpc(fd);
  bool ended = false;
  uint64_t limit_ns = clock_now_ns() + LIMIT_S * NS_PER_S;
  while (!ended) {
    if (clock_now_ns() > limit_ns) fail_msg("%s: no end", script->name);
    turn();
    ssize_t n = recv(fd, heard + size, sizeof heard - size, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) continue;
    if (n > 0) size += (size_t)n;
    ended = n <= 0 || is_over(script, heard, size);
  }
  close(fd);
  turn(); /* the proxy hears of it */
  bool well = memmem(heard, size, script->expected, strlen(script->expected)) != NULL &&
              memmem(heard, size, "HTTP/1.1 50", 11) == NULL;
  if (!well && !allocation_has_failed()) fail_msg("%s: heard %zu bytes: %.*s", script->name, size, (int)size, heard);
  return well;
}

/* ---- the scenario ------------------------------------------------------------------------------------------------ */

static bool is_ready(void) { return proxy.grpc->pool.n_healthy > 0 && proxy.http->pool.n_healthy > 0; }

static mu_status pass_on(void *context) {
  struct proxy_settings settings;
  char grpc[64], http[64];
  mu_error err;
  allocations_work();
  snprintf(grpc, sizeof grpc, "--backends=127.0.0.1:%u", ntohs(peer.address.sin_port));
  snprintf(http, sizeof http, "--http-backends=127.0.0.1:%u", ntohs(peer.address.sin_port));
  char *argv[] = {
      grpc, http, "--grpc-port=0", "--http-port=0", "--ws-port=0", "--health-interval=10ms", "--wait-timeout=20ms"};
  assert_int_equal(proxy_settings_load(7, argv, &settings, &err), MU_OK);
  allocations_fail();
  mu_status status = proxy_start(&proxy, &settings, &err);
  if (status == MU_OK) {
    allocations_work();
    for (size_t i = 0; i < 2; i++) /* a check that found no memory is repeated at once */
      proxy.clusters[i].pool.settings.check_first_ns = proxy.clusters[i].pool.settings.check_most_ns = NS_PER_MS;
    while (!is_ready()) turn();
    allocations_fail();
    for (size_t i = 0; i < N_SCRIPTS; i++)
      if (!play(&scripts[i])) status = MU_NO_MEMORY;
    allocations_work();
    while (!is_ready()) turn();
    if (allocation_has_failed()) /* there is memory again: so there is service */
      for (size_t i = 0; i < N_SCRIPTS; i++)
        if (!play(&scripts[i])) fail_msg("%s: does not work again", scripts[i].name);
  }
  allocations_work();
  proxy_stop(&proxy);
  proxy_settings_free(&settings);
  plain_peer_turn(&peer);
  return status;
}

static void test_pass_on(void **state) { fail_each_allocation("proxy", pass_on, NULL); }

int main(void) {
  log_setup("test", LOG_LEVEL_ERROR, LOG_FORMAT_AUTO);
  peer.answer = answer;
  if (!plain_peer_start(&peer)) return 1;
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_pass_on)};
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  plain_peer_stop(&peer);
  return failed;
}
