/* Requests to other servers without memory: each ends or fails, once, and the next one is answered as ever. */
#include "net/client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/clock.h"
#include "failing_allocator.h"
#include "plain_peer.h"

enum { BODY = 40 * 1024, N_REQUESTS = 4, TURNS_MAX = 200000, PENDING = -1, ENDED = -2 };

static struct plain_peer peer;
static char large[BODY];

/* ---- what the peer answers --------------------------------------------------------------------------------------- */

static void answer(struct plain_connection *connection, uint32_t stream, const char *text, size_t size) {
  static const char chunked[] =
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-One: 1\r\nX-Two: 2\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
  char head[64];
  if (stream != 0) {
    plain_answer_grpc(connection, stream, "\0\0\0\0\2\x08\1", 7);
    return;
  }
  if (strncmp(text, "POST ", 5) == 0) {
    plain_say(connection, chunked, sizeof chunked - 1);
    return;
  }
  int n = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", BODY);
  plain_say(connection, head, (size_t)n);
  plain_say(connection, large, sizeof large);
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

struct one {
  struct client_request request;
  int outcome; /* PENDING, ENDED, or how it failed */
  size_t to_send, n_body;
  bool pauses, paused;
};

static struct one *one_of(struct client_request *request) { return list_item(request, struct one, request); }

static size_t on_read(struct client_request *request, uint8_t *to, size_t most, bool *ret_end) {
  struct one *one = one_of(request);
  size_t n = one->to_send < most ? one->to_send : most;
  memset(to, 'b', n);
  one->to_send -= n;
  *ret_end = one->to_send == 0;
  return n;
}

static void on_head(struct client_request *request, int status, struct client_lines lines, uint64_t content_length) {
  struct one *one = one_of(request);
  assert_int_equal(status, 200);
  one->paused = one->pauses;
  if (one->pauses) client_pause(request);
}

static void on_body(struct client_request *request, const uint8_t *data, size_t size) {
  one_of(request)->n_body += size;
}

static void on_end(struct client_request *request, struct client_lines trailers) {
  struct one *one = one_of(request);
  assert_int_equal(one->outcome, PENDING);
  one->outcome = ENDED;
}

static void on_failed(struct client_request *request, enum client_failure failure, const char *why) {
  struct one *one = one_of(request);
  assert_int_equal(one->outcome, PENDING);
  assert_true(allocation_has_failed());
  assert_true(why[0] != '\0');
  assert_true(failure == CLIENT_NO_MEMORY || failure == CLIENT_UNSEEN); /* nothing is wrong with the server */
  one->outcome = (int)failure;
}

static const struct client_events events = {
    .read = on_read, .head = on_head, .body = on_body, .end = on_end, .failed = on_failed};

/* ---- the scenario ------------------------------------------------------------------------------------------------ */

struct world {
  struct net_loop *loop;
  struct client *client;
  struct client_host *host;
  uv_timer_t tick;
};

static void on_tick(uv_timer_t *timer) {}

static void turn(struct world *w) {
  plain_peer_turn(&peer);
  uv_run(net_loop_uv(w->loop), UV_RUN_ONCE);
}

static mu_status begin(struct world *w, struct one *one, bool posts, bool pauses) {
  static const char lines[] = "content-type\0text/plain\0x-request-id\0one";
  const struct client_head head = {.method = posts ? "POST" : "GET",
                                   .path = "/a",
                                   .query = "b=c",
                                   .lines = {lines, sizeof lines},
                                   .content_length = posts ? UINT64_MAX : 0};
  mu_error err;
  *one = (struct one){.request = {.events = &events}, .outcome = PENDING, .to_send = BODY, .pauses = pauses};
  list_init(&one->request.link);
  return client_start(w->host, &one->request, &head, &err);
}

static void await(struct world *w, struct one *one) {
  for (int i = 0; one->outcome == PENDING; i++) {
    if (one->paused) {
      client_resume(&one->request);
      one->paused = false;
    }
    turn(w);
    assert_true(i < TURNS_MAX);
  }
}

/* Several at a time, then another one on what they leave, one that is cancelled, and a question. */
static mu_status ask(struct world *w) {
  struct one all[N_REQUESTS], cancelled;
  mu_status status = MU_OK, one;
  for (int i = 0; i < N_REQUESTS; i++) {
    if (begin(w, &all[i], i % 2 == 1, i < 2) == MU_OK) continue;
    status = MU_NO_MEMORY;
    all[i].outcome = CLIENT_NO_MEMORY;
  }
  one = begin(w, &cancelled, true, false);
  if (one == MU_OK) client_host_doubt(w->host, 1000 * NS_PER_S);
  for (int i = 0; i < N_REQUESTS; i++) await(w, &all[i]);
  client_cancel(&cancelled.request);
  for (int i = 0; i < N_REQUESTS; i++) {
    if (all[i].outcome != ENDED) status = MU_NO_MEMORY;
    if (begin(w, &all[i], i % 2 == 1, false) != MU_OK) all[i].outcome = CLIENT_NO_MEMORY;
    await(w, &all[i]);
    if (all[i].outcome != ENDED) status = MU_NO_MEMORY;
  }
  return one == MU_OK ? status : one;
}

static mu_status use_client(void *context) {
  struct world w = {0};
  allocations_work();
  w.loop = net_loop_create();
  uv_timer_init(net_loop_uv(w.loop), &w.tick);
  uv_timer_start(&w.tick, on_tick, 1, 1);
  allocations_fail();
  w.client = client_create(w.loop);
  if (w.client != NULL)
    w.host = client_host_create(w.client, *(enum client_protocol *)context, "peer", (struct sockaddr *)&peer.address,
                                sizeof peer.address, 60 * NS_PER_S);
  mu_status status = w.host != NULL ? ask(&w) : MU_NO_MEMORY;
  allocations_work();
  if (w.host != NULL) { /* there is memory again: so there are answers */
    struct one one;
    turn(&w); /* what broke for want of it is gone */
    assert_int_equal(begin(&w, &one, true, true), MU_OK);
    await(&w, &one);
    assert_int_equal(one.outcome, ENDED);
    assert_true(one.n_body > 0);
  }
  client_host_free(w.host);
  client_free(w.client);
  net_loop_free(w.loop);
  plain_peer_turn(&peer); /* it sees that they have left */
  return status;
}

static void test_http1(void **state) {
  enum client_protocol protocol = CLIENT_HTTP1;
  fail_each_allocation("client, HTTP/1.1", use_client, &protocol);
}
static void test_http2(void **state) {
  enum client_protocol protocol = CLIENT_HTTP2;
  fail_each_allocation("client, HTTP/2", use_client, &protocol);
}

int main(void) {
  peer.answer = answer;
  if (!plain_peer_start(&peer)) return 1;
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_http1), cmocka_unit_test(test_http2)};
  int failed = cmocka_run_group_tests(tests, NULL, NULL);
  plain_peer_stop(&peer);
  return failed;
}
