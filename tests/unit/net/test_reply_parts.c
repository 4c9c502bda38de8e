/* Replies in parts over both protocols, and what follows a 101. */
#include "http2_client.h"

#define GET(path) "GET " path " HTTP/1.1\r\nHost: h\r\n\r\n"

static const struct header grpc_status = {"grpc-status", "0"};

static void begin(struct seen *seen, int status) {
  static const struct header upgrade = {"Upgrade", "websocket"};
  exchange_reply_begin(seen->exchange, &(struct reply){.status = status,
                                                       .content_type = status == 101 ? NULL : "text/event-stream",
                                                       .headers = &upgrade,
                                                       .n_headers = status == 101});
}

static void part(struct seen *seen, const void *data, size_t size, bool lent) {
  struct iovec body = {(void *)(uintptr_t)data, size};
  exchange_reply_part(
      seen->exchange,
      &(struct reply_part){.body = &body, .n_body = 1, .done = lent ? seen_done : NULL, .owner = lent ? seen : NULL});
}

static void end(struct seen *seen, bool trailers) {
  struct exchange *exchange = seen->exchange;
  seen->exchange = NULL;
  exchange_reply_end(exchange, &grpc_status, trailers);
}

static void say_three(struct seen *seen) {
  begin(seen, 200);
  part(seen, "one ", 4, false);
  part(seen, "", 0, true);
  part(seen, "two ", 4, true);
  part(seen, "three", 5, false);
  end(seen, true);
}

static void begin_only(struct seen *seen) { begin(seen, 200); }
static void nothing_at_all(struct seen *seen) {
  begin(seen, 200);
  end(seen, false);
}
static void only_trailers(struct seen *seen) {
  begin(seen, 200);
  end(seen, true);
}

/* ---- HTTP/2 ------------------------------------------------------------------------------------------------------ */

static void http2_parts(void **state) {
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  f.on_end = say_three;
  http2_connect(&h, &f);
  int32_t id = http2_get(&h, "/");
  http2_expect(&h, id, 200, "one two three");
  assert_string_equal(stream_of(&h, id)->trailer, "0");
  assert_string_equal(stream_of(&h, id)->length, "");
  assert_int_equal(stream_of(&h, id)->n_headers, 2);
  assert_int_equal(f.seen[0].n_done, 2);
  f.on_end = nothing_at_all;
  id = http2_get(&h, "/");
  http2_expect(&h, id, 200, "");
  assert_true(stream_of(&h, id)->ended_by_headers);
  assert_int_equal(stream_of(&h, id)->n_headers, 1);
  f.on_end = only_trailers;
  id = http2_get(&h, "/");
  http2_expect(&h, id, 200, "");
  assert_string_equal(stream_of(&h, id)->trailer, "0");
  assert_int_equal(stream_of(&h, id)->n_headers, 2);
  http2_free(&h);
  fixture_stop(&f);
}

static void echo_part(struct seen *seen) { part(seen, seen->last_data, seen->last_size, false); }
static void end_it(struct seen *seen) { end(seen, true); }

/* Both directions at once, for longer than any limit of a body allows. */
static void http2_both_ways(void **state) {
  struct http_limits limits = usual_limits;
  limits.body_min_rate = 1 << 20;
  limits.body_grace_ns = limits.idle_timeout_ns = 100 * NS_PER_MS;
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &limits);
  f.on_begin = begin_only;
  f.on_body = echo_part;
  f.on_end = end_it;
  http2_connect(&h, &f);
  int32_t id = http2_request(&h, "POST", "/", "a", 1, true, NULL, 0);
  struct stream *s = stream_of(&h, id);
  HTTP2_UNTIL(&h, s->body.size == 1);
  uint64_t later = clock_now_ns() + 300 * NS_PER_MS; /* silence */
  HTTP2_UNTIL(&h, clock_now_ns() > later);
  assert_false(s->closed);
  s->data = (const uint8_t *)"ab";
  s->size = 2;
  nghttp2_session_resume_data(h.session, id);
  HTTP2_UNTIL(&h, s->body.size == 2);
  assert_false(s->ended);
  s->held_open = false;
  nghttp2_session_resume_data(h.session, id);
  http2_expect(&h, id, 200, "ab");
  assert_string_equal(s->trailer, "0");
  http2_free(&h);
  fixture_stop(&f);
}

static void http2_reset_while_open(void **state) {
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  f.on_end = begin_only;
  http2_connect(&h, &f);
  int32_t id = http2_get(&h, "/");
  HTTP2_UNTIL(&h, stream_of(&h, id)->status == 200);
  nghttp2_submit_rst_stream(h.session, 0, id, NGHTTP2_CANCEL);
  HTTP2_UNTIL(&h, f.n_gone == 1);
  f.on_end = begin_only;
  http2_get(&h, "/");
  HTTP2_UNTIL(&h, f.n_seen == 2);
  http2_free(&h);
  TURN_UNTIL(&f, f.n_gone == 2);
  fixture_stop(&f);
}

enum { LARGE = 512 * 1024, LARGE_PARTS = 24 };
static uint8_t *large;

static void send_more(struct seen *seen) {
  while (exchange_unsent(seen->exchange) <= EXCHANGE_LOW_WATER) {
    if (seen->n_parts == LARGE_PARTS) {
      end(seen, false);
      return;
    }
    seen->n_parts++;
    part(seen, large, LARGE, true);
  }
}
static void begin_large(struct seen *seen) {
  begin(seen, 200);
  send_more(seen);
}

static void http2_writable(void **state) {
  struct fixture f;
  struct http2_client h = {0};
  large = pattern_create(LARGE, 5);
  fixture_start(&f, &usual_limits);
  f.on_end = begin_large;
  f.on_writable = send_more;
  http2_connect(&h, &f);
  int32_t id = http2_get(&h, "/");
  http2_expect(&h, id, 200, NULL);
  assert_int_equal(stream_of(&h, id)->body.size, LARGE * LARGE_PARTS);
  for (size_t i = 0; i < LARGE_PARTS; i++) assert_memory_equal(stream_of(&h, id)->body.data + i * LARGE, large, LARGE);
  assert_int_equal(f.seen[0].n_done, LARGE_PARTS);
  assert_int_equal(f.seen[0].n_writable, LARGE_PARTS);
  http2_free(&h);
  fixture_stop(&f);
  free(large);
}

static void keep_sending(struct seen *seen) {
  begin(seen, 200);
  while (!seen->gone) part(seen, large, LARGE, true);
}

static void parts_without_end(void **state) {
  struct http_limits limits = usual_limits;
  limits.copied_reply_bytes = 4 << 20;
  large = pattern_create(LARGE, 5);
  for (int two = 0; two < 2; two++) {
    struct fixture f;
    struct http2_client h = {.manual_windows = true};
    struct client c;
    fixture_start(&f, &limits);
    f.on_end = keep_sending;
    if (two) {
      http2_connect(&h, &f);
      http2_get(&h, "/");
      HTTP2_UNTIL(&h, h.c.closed);
      http2_free(&h);
    } else {
      client_connect(&c, &f);
      client_say(&c, GET("/"));
      client_wait_closed(&c);
      client_free(&c);
    }
    assert_int_equal(f.n_gone, 1);
    assert_in_range(f.seen[0].n_done, 8, 9); /* about eight wait, the next one was too many */
    fixture_stop(&f);
  }
  free(large);
}

/* ---- HTTP/1.1 ---------------------------------------------------------------------------------------------------- */

static void http1_chunks(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = say_three;
  client_connect(&c, &f);
  client_say(&c, GET("/") GET("/"));
  for (int i = 0; i < 2; i++) {
    client_wait_text(&c, "0\r\n\r\n");
    char *end_of = strstr(client_text(&c), "0\r\n\r\n");
    assert_non_null(strstr(client_text(&c), "\r\nTransfer-Encoding: chunked\r\n"));
    assert_null(strstr(client_text(&c), "Content-Length"));
    assert_null(strstr(client_text(&c), "grpc-status"));
    static const char chunks[] = "4\r\none \r\n4\r\ntwo \r\n5\r\nthree\r\n0\r\n\r\n";
    assert_memory_equal(strstr(client_text(&c), "\r\n\r\n") + 4, chunks, sizeof chunks - 1);
    buffer_consume(&c.in, (size_t)(end_of - c.in.data) + 5);
  }
  assert_int_equal(f.seen[1].n_done, 2);
  client_say(&c, "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
  client_wait_text(&c, "chunked\r\n\r\n");
  f.on_end = answer_ok;
  buffer_clear(&c.in);
  client_say(&c, GET("/"));
  client_expect(&c, 200, "ok");
  client_free(&c);
  fixture_stop(&f);
}

static void http1_0_until_the_end(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = say_three;
  client_connect(&c, &f);
  client_say(&c, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  client_wait_closed(&c);
  assert_string_equal(strstr(client_text(&c), "\r\n\r\n"), "\r\n\r\none two three");
  client_free(&c);
  fixture_stop(&f);
}

static void http1_writable(void **state) {
  struct fixture f;
  struct client c;
  large = pattern_create(LARGE, 5);
  fixture_start(&f, &usual_limits);
  f.on_end = begin_large;
  f.on_writable = send_more;
  client_connect(&c, &f);
  client_say(&c, "GET / HTTP/1.0\r\n\r\n");
  client_wait_closed(&c);
  size_t head = (size_t)((char *)memmem(c.in.data, c.in.size, "\r\n\r\n", 4) - c.in.data) + 4;
  assert_int_equal(c.in.size - head, LARGE * LARGE_PARTS);
  for (size_t i = 0; i < LARGE_PARTS; i++) assert_memory_equal(c.in.data + head + i * LARGE, large, LARGE);
  assert_int_equal(f.seen[0].n_done, LARGE_PARTS);
  client_free(&c);
  fixture_stop(&f);
  free(large);
}

/* ---- 101 --------------------------------------------------------------------------------------------------------- */

#define UPGRADE "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

static void switch_protocols(struct seen *seen) {
  assert_string_equal(seen->headers[HEADER_UPGRADE], "websocket");
  assert_string_equal(seen->headers[HEADER_CONNECTION], "Upgrade");
  seen->ended = false; /* what ended is the request; then the connection may */
  begin(seen, 101);
  seen->fixture->on_body = echo_part;
  seen->fixture->on_end = end_it;
}

static void switched(bool at_begin) {
  struct http_limits limits = usual_limits;
  limits.idle_timeout_ns = limits.body_grace_ns = limits.head_timeout_ns = 50 * NS_PER_MS;
  limits.body_min_rate = 1 << 20;
  limits.body_bytes = 16;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  *(at_begin ? &f.on_begin : &f.on_end) = switch_protocols;
  client_connect(&c, &f);
  client_say(&c, UPGRADE "GET / HTTP/9.9\r\n"); /* bytes as any others */
  client_wait_text(&c, "GET / HTTP/9.9\r\n");
  assert_non_null(strstr(client_text(&c), "HTTP/1.1 101 Switching Protocols\r\n"));
  assert_non_null(strstr(client_text(&c), "\r\nConnection: Upgrade\r\n"));
  assert_non_null(strstr(client_text(&c), "\r\nUpgrade: websocket\r\n"));
  assert_null(strstr(client_text(&c), "Content-Length"));
  assert_null(strstr(client_text(&c), "Connection: close"));
  uint64_t later = clock_now_ns() + 300 * NS_PER_MS; /* silence */
  TURN_UNTIL(&f, clock_now_ns() > later);
  for (int i = 0; i < 10; i++) {
    char text[32];
    snprintf(text, sizeof text, "message %d.", i);
    client_say(&c, text);
    client_wait_text(&c, text);
  }
  exchange_pause(f.seen[0].exchange);
  client_say(&c, "held back");
  shutdown(c.fd, SHUT_WR);
  for (int i = 0; i < 10; i++) turn(&f);
  assert_false(f.seen[0].ended);
  assert_null(memmem(f.seen[0].body.data, f.seen[0].body.size, "held back", 9));
  exchange_resume(f.seen[0].exchange);
  client_wait_text(&c, "held back");
  client_wait_closed(&c);
  assert_true(f.seen[0].ended);
  assert_int_equal(f.n_gone, 0);
  client_free(&c);
  fixture_stop(&f);
}

static void raw_bytes_behind_101(void **state) {
  switched(false);
  switched(true);
}

static void bye(struct seen *seen) {
  part(seen, "bye", 3, false);
  end(seen, false);
}

static void the_service_ends_it(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = switch_protocols;
  client_connect(&c, &f);
  client_say(&c, UPGRADE);
  client_wait_text(&c, "101 ");
  f.on_body = bye;
  client_say(&c, "x");
  client_wait_text(&c, "bye");
  client_wait_closed(&c);
  client_free(&c);
  fixture_stop(&f);
}

static void a_client_leaves_behind_101(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = switch_protocols;
  client_connect(&c, &f);
  client_say(&c, UPGRADE);
  client_wait_text(&c, "101 ");
  struct linger hard = {1, 0};
  assert_int_equal(setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard), 0);
  client_free(&c);
  TURN_UNTIL(&f, f.n_gone == 1);
  fixture_stop(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(http2_parts),
      cmocka_unit_test(http2_both_ways),
      cmocka_unit_test(http2_reset_while_open),
      cmocka_unit_test(http2_writable),
      cmocka_unit_test(parts_without_end),
      cmocka_unit_test(http1_chunks),
      cmocka_unit_test(http1_0_until_the_end),
      cmocka_unit_test(http1_writable),
      cmocka_unit_test(raw_bytes_behind_101),
      cmocka_unit_test(the_service_ends_it),
      cmocka_unit_test(a_client_leaves_behind_101),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
