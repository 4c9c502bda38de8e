/* HTTP/2: what the service is told, what clients see, and what a hostile client cannot do. */
#include "http2_client.h"

#include <zlib.h>

/* ---- the first bytes --------------------------------------------------------------------------------------------- */

static void first_bytes_decide(void **state) {
  static const char beginning[] = PREFACE;
  for (size_t cut = 1; cut < sizeof beginning - 1; cut++) {
    struct fixture f;
    struct client one, two;
    fixture_start(&f, &usual_limits);
    client_connect(&two, &f);
    client_send(&two, beginning, cut);
    client_connect(&one, &f);
    client_send(&one, beginning, cut); /* the same, and then something else */
    turn(&f);
    turn(&f);
    client_send(&two, beginning + cut, sizeof beginning - 1 - cut);
    http2_frame(&two, NGHTTP2_SETTINGS, 0, 0, NULL, 0);
    http2_frame(&two, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_STREAM | NGHTTP2_FLAG_END_HEADERS, 1, get_root,
                sizeof get_root);
    TURN_UNTIL(&f, f.n_seen == 1);
    assert_string_equal(f.seen[0].headers[HEADER_HOST], "h");
    client_say(&one, "?\r\n\r\n");
    client_wait_closed(&one);
    assert_int_equal(strncmp(client_text(&one), "HTTP/1.1 ", 9), 0);
    client_free(&one);
    client_free(&two);
    fixture_stop(&f);
  }
}

static void a_beginning_that_does_not_go_on(void **state) {
  struct http_limits limits = usual_limits;
  limits.head_timeout_ns = NS_PER_MS;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  client_connect(&c, &f);
  client_say(&c, "PRI * HT");
  client_expect(&c, 408, NULL);
  client_wait_closed(&c);
  client_free(&c);
  fixture_stop(&f);
}

static void a_server_without_it(void **state) {
  struct http_limits limits = usual_limits;
  limits.streams = 0;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  client_connect(&c, &f);
  client_say(&c, PREFACE);
  client_expect(&c, 505, NULL);
  client_wait_closed(&c);
  client_free(&c);
  fixture_stop(&f);
}

/* ---- requests and answers ---------------------------------------------------------------------------------------- */

static void the_plain_way(void **state) {
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  f.on_end = answer_path;
  http2_connect(&h, &f);
  int32_t one = http2_get(&h, "/v2/health?x=1&y=2"), two = http2_post(&h, "/post", "hello", 5);
  http2_expect(&h, one, 200, "/v2/health");
  http2_expect(&h, two, 200, "/post");
  struct stream *s = stream_of(&h, one);
  assert_string_equal(s->content_type, "text/plain");
  assert_string_equal(s->length, "10");
  assert_int_equal(s->n_headers, 1);
  assert_int_equal(s->error_code, NGHTTP2_NO_ERROR);
  assert_string_equal(f.seen[0].method, "GET");
  assert_string_equal(f.seen[0].query, "x=1&y=2");
  assert_string_equal(f.seen[0].headers[HEADER_HOST], "h:1");
  assert_int_equal(f.seen[0].content_length, 0);
  assert_true(f.seen[1].content_length == UINT64_MAX);
  assert_memory_equal(f.seen[1].body.data, "hello", 5);
  assert_true(f.seen[0].serial != f.seen[1].serial);
  assert_int_equal(f.seen[0].n_done, 1);
  struct http_server_counts counts;
  http_server_count(f.server, &counts);
  assert_int_equal(counts.connections_open, 1);
  assert_int_equal(counts.connections_total, 1);
  assert_int_equal(counts.requests_total, 2);
  http2_free(&h);
  fixture_stop(&f);
}

static void headers_of_interest(void **state) {
  static const struct pair more[] = {{"te", "trailers"},
                                     {"grpc-timeout", "1S"},
                                     {"grpc-encoding", "gzip"},
                                     {"grpc-accept-encoding", "identity"},
                                     {"origin", "o"},
                                     {"content-length", "3"},
                                     {"x-request-id", "r1"},
                                     {"x-request-id", "r2"},
                                     {"content-type", "application/grpc"}};
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  http2_connect(&h, &f);
  http2_expect(&h, http2_request(&h, "POST", "/a", "abc", 3, false, more, 9), 200, "ok");
  struct seen *seen = &f.seen[0];
  assert_string_equal(seen->headers[HEADER_TE], "trailers");
  assert_string_equal(seen->headers[HEADER_GRPC_TIMEOUT], "1S");
  assert_string_equal(seen->headers[HEADER_GRPC_ENCODING], "gzip");
  assert_string_equal(seen->headers[HEADER_GRPC_ACCEPT_ENCODING], "identity");
  assert_string_equal(seen->headers[HEADER_ORIGIN], "o");
  assert_string_equal(seen->headers[HEADER_REQUEST_ID], "r1");
  assert_string_equal(seen->headers[HEADER_CONTENT_TYPE], "application/grpc");
  assert_int_equal(seen->content_length, 3);
  http2_free(&h);
  fixture_stop(&f);
}

static void echo_large(void **state) {
  enum { SIZE = 5 << 20 };
  const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 20}};
  uint8_t *data = pattern_create(SIZE, 7);
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  f.on_end = answer_echo;
  http2_connect_with(&h, &f, settings, 1);
  int32_t ids[4];
  for (int i = 0; i < 4; i++) ids[i] = http2_post(&h, "/", data, SIZE - (size_t)i);
  for (int i = 0; i < 4; i++) {
    http2_expect(&h, ids[i], 200, NULL);
    struct stream *s = stream_of(&h, ids[i]);
    assert_int_equal(s->body.size, SIZE - i);
    assert_memory_equal(s->body.data, data, SIZE - (size_t)i);
    assert_int_equal(f.seen[i].n_done, 1);
  }
  http2_free(&h);
  fixture_stop(&f);
  free(data);
}

static void head_and_no_content(void **state) {
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  http2_connect(&h, &f);
  int32_t id = http2_request(&h, "HEAD", "/", NULL, 0, false, NULL, 0);
  http2_expect(&h, id, 200, "");
  assert_string_equal(stream_of(&h, id)->length, "2");
  assert_true(stream_of(&h, id)->ended_by_headers);
  assert_int_equal(f.seen[0].n_done, 1);
  http2_free(&h);
  fixture_stop(&f);
}

static void answer_trailers(struct seen *seen) {
  static const struct header trailers[] = {{"grpc-status", "0"}}, headers[] = {{"Connection", "close"}, {"X-Y", "z\n"}};
  struct iovec body = {"text", seen->body.size > 0 ? 4 : 0};
  struct exchange *exchange = seen->exchange;
  seen->exchange = NULL;
  exchange_reply(exchange, &(struct reply){.status = 200,
                                           .headers = headers,
                                           .n_headers = 2,
                                           .body = &body,
                                           .n_body = 1,
                                           .trailers = trailers,
                                           .n_trailers = 1});
}

static void trailers(void **state) {
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  f.on_end = answer_trailers;
  http2_connect(&h, &f);
  int32_t with = http2_post(&h, "/", "a", 1), without = http2_get(&h, "/");
  http2_expect(&h, with, 200, "text");
  http2_expect(&h, without, 200, "");
  for (int i = 0; i < 2; i++) {
    struct stream *s = stream_of(&h, i == 0 ? with : without);
    assert_string_equal(s->trailer, "0");
    assert_string_equal(s->length, ""); /* it would be another one each time: a head that HPACK cannot index */
    assert_int_equal(s->n_headers, 2);
    assert_true(s->ended_by_headers);
  }
  http2_free(&h);
  fixture_stop(&f);
}

static void compressed_both_ways(void **state) {
  static char text[3000];
  memset(text, 'x', sizeof text);
  uint8_t packed[512];
  z_stream z = {.next_in = (Bytef *)text, .avail_in = sizeof text, .next_out = packed, .avail_out = sizeof packed};
  assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
  size_t size = sizeof packed - z.avail_out;
  deflateEnd(&z);
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  http2_connect(&h, &f);
  static const struct pair gzip = {"content-encoding", "gzip"}, other = {"content-encoding", "br"};
  http2_expect(&h, http2_request(&h, "POST", "/", packed, size, false, &gzip, 1), 200, "ok");
  assert_true(f.seen[0].encoded);
  assert_int_equal(f.seen[0].body.size, sizeof text);
  http2_expect(&h, http2_request(&h, "POST", "/", packed, size - 4, false, &gzip, 1), 400, NULL);
  http2_expect(&h, http2_request(&h, "POST", "/", "nonsense", 8, false, &gzip, 1), 400, NULL);
  http2_expect(&h, http2_request(&h, "POST", "/", packed, size, false, &other, 1), 415, NULL);
  assert_int_equal(f.n_gone, 2);
  http2_free(&h);
  fixture_stop(&f);
}

static void asked_to_continue(void **state) {
  static const struct pair expect = {"expect", "100-continue"};
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  http2_connect(&h, &f);
  int32_t id = http2_request(&h, "POST", "/", "", 0, true, &expect, 1);
  struct stream *s = stream_of(&h, id);
  HTTP2_UNTIL(&h, s->interim);
  s->data = (const uint8_t *)"body";
  s->size = 4;
  s->held_open = false;
  nghttp2_session_resume_data(h.session, id);
  http2_expect(&h, id, 200, "ok");
  assert_int_equal(f.seen[0].body.size, 4);
  http2_free(&h);
  fixture_stop(&f);
}

/* ---- limits of requests ------------------------------------------------------------------------------------------ */

static void answer_at_once(struct seen *seen) { answer(seen, 200, "early", 5); }

static void an_answer_before_the_end(void **state) {
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  f.on_begin = answer_at_once;
  http2_connect(&h, &f);
  int32_t id = http2_request(&h, "POST", "/", "half", 4, true, NULL, 0);
  struct stream *s = stream_of(&h, id);
  HTTP2_UNTIL(&h, s->closed);
  assert_true(s->ended);
  assert_int_equal(s->error_code, NGHTTP2_NO_ERROR);
  assert_string_equal(buffer_text(&s->body), "early");
  f.on_begin = NULL;
  http2_expect(&h, http2_get(&h, "/"), 200, "ok");
  http2_free(&h);
  fixture_stop(&f);
}

static void body_limit(void **state) {
  struct http_limits limits = usual_limits;
  limits.body_bytes = 1000;
  static const struct pair length = {"content-length", "2000"};
  uint8_t *data = pattern_create(2000, 1);
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &limits);
  http2_connect(&h, &f);
  http2_expect(&h, http2_request(&h, "POST", "/", data, 2000, false, &length, 1), 413, NULL);
  assert_int_equal(f.n_seen, 0);
  http2_expect(&h, http2_post(&h, "/", data, 2000), 413, NULL);
  assert_int_equal(f.n_gone, 1);
  http2_expect(&h, http2_post(&h, "/", data, 1000), 200, "ok");
  http2_free(&h);
  fixture_stop(&f);
  free(data);
}

static void unbounded(struct seen *seen) { exchange_unbounded_body(seen->exchange); }

static void a_body_without_limit(void **state) {
  struct http_limits limits = usual_limits;
  limits.body_bytes = 1000;
  limits.body_min_rate = 1 << 20;
  limits.body_grace_ns = 100 * NS_PER_MS;
  uint8_t *data = pattern_create(200000, 1);
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &limits);
  f.on_begin = unbounded;
  http2_connect(&h, &f);
  int32_t slow = http2_request(&h, "POST", "/", data, 10, true, NULL, 0);
  http2_expect(&h, http2_post(&h, "/", data, 200000), 200, "ok");
  assert_int_equal(f.seen[1].body.size, 200000);
  f.on_begin = NULL;
  int32_t bound = http2_request(&h, "POST", "/", data, 10, true, NULL, 0);
  http2_expect(&h, bound, 408, NULL);
  assert_false(stream_of(&h, slow)->closed);
  http2_free(&h);
  TURN_UNTIL(&f, f.n_gone == 2);
  fixture_stop(&f);
  free(data);
}

static void too_many_headers(void **state) {
  char large[8000];
  memset(large, 'v', sizeof large - 1);
  large[sizeof large - 1] = '\0';
  const struct pair more[] = {{"a", large}, {"b", large}, {"c", large}};
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  http2_connect(&h, &f);
  http2_expect(&h, http2_request(&h, "GET", "/", NULL, 0, false, more, 3), 431, NULL);
  http2_expect(&h, http2_request(&h, "GET", "/", NULL, 0, false, more, 1), 200, "ok");
  assert_int_equal(f.n_seen, 1);
  http2_free(&h);
  fixture_stop(&f);
}

static void streams_beyond_the_limit(void **state) {
  struct http_limits limits = usual_limits;
  limits.streams = 3;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  f.on_end = answer_never;
  http2_raw_connect(&c, &f);
  for (uint32_t id = 1; id <= 9; id += 2)
    http2_frame(&c, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_STREAM | NGHTTP2_FLAG_END_HEADERS, id, get_root, sizeof get_root);
  TURN_UNTIL(&f, http2_raw_error(&c, NGHTTP2_RST_STREAM) >= 0 || c.closed);
  /* before it has agreed to the settings it may not know better, so that is no error of the connection */
  assert_int_equal(http2_raw_error(&c, NGHTTP2_RST_STREAM), NGHTTP2_REFUSED_STREAM);
  assert_int_equal(f.n_seen, 3);
  client_free(&c);
  TURN_UNTIL(&f, f.n_gone == 3);
  fixture_stop(&f);
}

/* ---- pausing and windows ----------------------------------------------------------------------------------------- */

static void pause_it(struct seen *seen) { exchange_pause(seen->exchange); }

static void a_paused_stream_holds_up_no_other(void **state) {
  enum { SIZE = 3 << 20 };
  uint8_t *data = pattern_create(SIZE, 3);
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  f.on_begin = pause_it;
  http2_connect(&h, &f);
  int32_t paused = http2_post(&h, "/paused", data, SIZE);
  HTTP2_UNTIL(&h, f.n_seen == 1 && stream_of(&h, paused)->at >= 65535); /* its window is used up */
  f.on_begin = NULL;
  for (int i = 0; i < 8; i++) http2_expect(&h, http2_post(&h, "/other", data, SIZE), 200, "ok");
  assert_int_equal(f.seen[0].body.size, 0);
  assert_int_equal(stream_of(&h, paused)->at, 65535);
  assert_int_equal(f.held, 65535 - 16384); /* what waits is counted, but for what no connection is counted for */
  exchange_resume(f.seen[0].exchange);
  http2_expect(&h, paused, 200, "ok");
  HTTP2_UNTIL(&h, f.held == 0);
  assert_int_equal(f.seen[0].body.size, SIZE);
  assert_memory_equal(f.seen[0].body.data, data, SIZE);
  http2_free(&h);
  fixture_stop(&f);
  free(data);
}

static void a_body_that_has_to_wait_needs_memory(void **state) {
  enum { SIZE = 60000 };
  uint8_t *data = pattern_create(SIZE, 3);
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  f.on_begin = pause_it;
  f.hold_most = 1000;
  http2_connect(&h, &f);
  int32_t id = http2_post(&h, "/", data, SIZE);
  HTTP2_UNTIL(&h, stream_of(&h, id)->ended);
  assert_int_equal(stream_of(&h, id)->status, 503);
  assert_int_equal(f.n_gone, 1);
  f.on_begin = NULL;
  http2_expect(&h, http2_post(&h, "/", data, SIZE), 200, "ok");
  assert_int_equal(f.held, 0);
  http2_free(&h);
  fixture_stop(&f);
  free(data);
}

static void the_end_waits_for_resume(void **state) {
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  f.on_begin = pause_it;
  http2_connect(&h, &f);
  int32_t id = http2_get(&h, "/");
  HTTP2_UNTIL(&h, f.n_seen == 1);
  for (int i = 0; i < 5; i++) turn(&f);
  assert_false(f.seen[0].ended);
  exchange_resume(f.seen[0].exchange);
  http2_expect(&h, id, 200, "ok");
  http2_free(&h);
  fixture_stop(&f);
}

static void an_overrun_window(void **state) {
  uint8_t *data = pattern_create(16384, 3);
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_begin = pause_it;
  http2_raw_connect(&c, &f);
  http2_frame(&c, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, get_root, sizeof get_root);
  for (int i = 0; i < 5; i++) http2_frame(&c, NGHTTP2_DATA, 0, 1, data, 16384);
  TURN_UNTIL(&f, http2_raw_error(&c, NGHTTP2_RST_STREAM) >= 0 || http2_raw_error(&c, NGHTTP2_GOAWAY) >= 0);
  assert_true(http2_raw_error(&c, NGHTTP2_RST_STREAM) == NGHTTP2_FLOW_CONTROL_ERROR ||
              http2_raw_error(&c, NGHTTP2_GOAWAY) == NGHTTP2_FLOW_CONTROL_ERROR);
  TURN_UNTIL(&f, f.n_gone == 1);
  client_free(&c);
  fixture_stop(&f);
  free(data);
}

/* ---- clients that leave, clients that do not read ---------------------------------------------------------------- */

static void reset_is_gone(void **state) {
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  http2_connect(&h, &f);
  int32_t one = http2_get(&h, "/"), two = http2_request(&h, "POST", "/", "part", 4, true, NULL, 0);
  HTTP2_UNTIL(&h, f.n_seen == 2 && f.seen[1].body.size == 4);
  nghttp2_submit_rst_stream(h.session, 0, one, NGHTTP2_CANCEL);
  HTTP2_UNTIL(&h, f.n_gone == 1);
  assert_true(f.seen[0].gone);
  nghttp2_submit_rst_stream(h.session, 0, two, NGHTTP2_CANCEL);
  HTTP2_UNTIL(&h, f.n_gone == 2);
  f.on_end = answer_ok;
  http2_expect(&h, http2_get(&h, "/"), 200, "ok");
  http2_free(&h);
  fixture_stop(&f);
}

static void a_client_that_leaves(void **state) {
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  http2_connect(&h, &f);
  http2_get(&h, "/");
  HTTP2_UNTIL(&h, f.n_seen == 1);
  http2_free(&h);
  TURN_UNTIL(&f, f.n_gone == 1);
  fixture_stop(&f);
}

/* The service's memory comes back though the client never opens its window: it was copied, and counted. */
static void a_window_that_stays_closed(void **state) {
  enum { SIZE = 1 << 20 };
  struct fixture f;
  struct http2_client h = {.manual_windows = true};
  fixture_start(&f, &usual_limits);
  f.on_end = answer_echo;
  uint8_t *data = pattern_create(SIZE, 9);
  http2_connect(&h, &f);
  int32_t id = http2_post(&h, "/", data, SIZE);
  HTTP2_UNTIL(&h, f.n_seen == 1 && f.seen[0].n_done == 1);
  assert_int_equal(stream_of(&h, id)->body.size, 65535);
  assert_int_equal(f.held, SIZE - 65535 - 16384);
  nghttp2_submit_rst_stream(h.session, 0, id, NGHTTP2_CANCEL);
  HTTP2_UNTIL(&h, f.held == 0);
  http2_free(&h);
  fixture_stop(&f);
  free(data);
}

static void a_window_that_stays_closed_for_too_long(void **state) {
  struct http_limits limits = usual_limits;
  limits.idle_timeout_ns = 100 * NS_PER_MS;
  const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0}};
  struct fixture f;
  struct http2_client h = {.manual_windows = true};
  fixture_start(&f, &limits);
  http2_connect_with(&h, &f, settings, 1);
  HTTP2_UNTIL(&h, nghttp2_session_get_remote_settings(h.session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS) == 100);
  int32_t id = http2_get(&h, "/");
  struct stream *s = stream_of(&h, id);
  HTTP2_UNTIL(&h, s->closed || h.c.closed);
  assert_true(h.c.closed || s->error_code == NGHTTP2_CANCEL);
  http2_free(&h);
  fixture_stop(&f);
}

/* ---- what a connection does about itself ------------------------------------------------------------------------- */

static void pings_are_answered(void **state) {
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  http2_connect(&h, &f);
  for (int i = 0; i < 3; i++) nghttp2_submit_ping(h.session, 0, NULL);
  HTTP2_UNTIL(&h, h.n_pings == 3);
  http2_free(&h);
  fixture_stop(&f);
}

static void idle_connections_go(void **state) {
  struct http_limits limits = usual_limits;
  limits.idle_timeout_ns = NS_PER_MS;
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &limits);
  http2_connect(&h, &f);
  HTTP2_UNTIL(&h, h.c.closed);
  assert_int_equal(h.goaway_code, NGHTTP2_NO_ERROR);
  assert_true(h.n_goaways > 0); /* nghttp2's client looks at nothing behind the first one, when it has no stream */
  http2_free(&h);
  fixture_stop(&f);
}

static void on_drained(void *context) { ((struct fixture *)context)->drained = true; }

static void drain_finishes_streams(void **state) {
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  http2_connect(&h, &f);
  int32_t id = http2_get(&h, "/");
  HTTP2_UNTIL(&h, f.n_seen == 1);
  http_server_drain(f.server, on_drained, &f);
  HTTP2_UNTIL(&h, h.n_goaways == 2); /* "no more", then "none behind this one" */
  assert_int_equal(h.goaway_last, id);
  assert_int_equal(h.goaway_code, NGHTTP2_NO_ERROR);
  assert_false(f.drained);
  answer_ok(&f.seen[0]);
  http2_expect(&h, id, 200, "ok");
  HTTP2_UNTIL(&h, h.c.closed);
  http2_free(&h);
  TURN_UNTIL(&f, f.drained);
  fixture_stop(&f);
}

/* Its client has heard all, and does not close: there is nothing to wait for. */
static void drain_does_not_linger_for_idle_clients(void **state) {
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  http2_connect(&h, &f);
  http2_expect(&h, http2_get(&h, "/"), 200, "ok");
  http_server_drain(f.server, on_drained, &f);
  HTTP2_UNTIL(&h, h.c.closed);
  for (int i = 0; i < 5; i++) turn(&f);
  assert_true(f.drained);
  assert_int_equal(h.goaway_code, NGHTTP2_NO_ERROR);
  http2_free(&h);
  fixture_stop(&f);
}

static mu_status give_nothing(void *context, int fd) {
  fail_msg("a connection of HTTP/2 cannot move");
  return MU_OK;
}

static void a_hand_over_ends_it(void **state) {
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  http2_connect(&h, &f);
  http2_expect(&h, http2_get(&h, "/"), 200, "ok");
  http_server_hand_over(f.server, give_nothing, on_drained, &f);
  HTTP2_UNTIL(&h, h.c.closed);
  assert_true(h.n_goaways > 0);
  assert_int_equal(h.goaway_code, NGHTTP2_NO_ERROR);
  http2_free(&h);
  TURN_UNTIL(&f, f.drained);
  fixture_stop(&f);
}

/* ---- hostile frames ---------------------------------------------------------------------------------------------- */

/* Until the connection is told off, or closed. */
static void expect_goaway(struct fixture *f, struct client *c, uint32_t code) {
  TURN_UNTIL(f, http2_raw_error(c, NGHTTP2_GOAWAY) >= 0 || c->closed);
  assert_int_equal(http2_raw_error(c, NGHTTP2_GOAWAY), code);
  client_wait_closed(c);
}

static void floods(void **state) {
  static const uint8_t eight[8];
  static const struct {
    uint8_t type, flags;
    uint32_t id;
    const void *data;
    size_t size;
  } frames[] = {{NGHTTP2_PING, 0, 0, eight, 8},
                {NGHTTP2_SETTINGS, 0, 0, NULL, 0},
                {NGHTTP2_WINDOW_UPDATE, 0, 0, "\0\0\0\1", 4},
                {NGHTTP2_PRIORITY, 0, 3, "\0\0\0\1\1", 5},
                {NGHTTP2_DATA, 0, 1, NULL, 0},
                {NGHTTP2_DATA, NGHTTP2_FLAG_PADDED, 1, "\3\0\0\0", 4},
                {99, 0, 0, eight, 8}};
  for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
    struct fixture f;
    struct client c;
    fixture_start(&f, &usual_limits);
    http2_raw_connect(&c, &f);
    http2_frame(&c, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 1, get_root, sizeof get_root);
    for (int k = 0; k < 4000 && !c.closed; k++) {
      http2_frame(&c, frames[i].type, frames[i].flags, frames[i].id, frames[i].data, frames[i].size);
      if (k % 50 == 0) client_receive(&c);
    }
    expect_goaway(&f, &c, NGHTTP2_ENHANCE_YOUR_CALM);
    client_free(&c);
    fixture_stop(&f);
  }
}

/* A client that never reads makes answers wait, not without end. */
static void a_flood_that_is_not_read(void **state) {
  static const uint8_t eight[8];
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  int small = 4096;
  http2_raw_connect(&c, &f);
  assert_int_equal(setsockopt(c.fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
  struct http_server_counts counts = {0};
  for (int k = 0; k < 2000000; k++) {
    http2_frame(&c, NGHTTP2_PING, 0, 0, eight, 8);
    http_server_count(f.server, &counts);
    if (k > 1000 && counts.connections_open == 0) break;
  }
  assert_int_equal(counts.connections_open, 0);
  client_free(&c);
  fixture_stop(&f);
}

static void rapid_reset(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_begin = answer_at_once;
  http2_raw_connect(&c, &f);
  for (uint32_t id = 1; id < 8000 && !c.closed; id += 2) {
    http2_frame(&c, NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, id, get_root, sizeof get_root);
    http2_frame(&c, NGHTTP2_RST_STREAM, 0, id, "\0\0\0\10", 4);
    if (id % 16 != 1) continue;
    for (int k = 0; k < 3; k++) turn(&f);
    client_receive(&c);
    f.n_seen = 0;
  }
  TURN_UNTIL(&f, http2_raw_error(&c, NGHTTP2_GOAWAY) >= 0 || c.closed);
  assert_true(http2_raw_error(&c, NGHTTP2_GOAWAY) > 0);
  client_wait_closed(&c);
  client_free(&c);
  fixture_stop(&f);
}

static void continuations(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  http2_raw_connect(&c, &f);
  http2_frame(&c, NGHTTP2_HEADERS, 0, 1, get_root, sizeof get_root);
  for (int i = 0; i < 100; i++) http2_frame(&c, NGHTTP2_CONTINUATION, 0, 1, NULL, 0);
  client_wait_closed(&c);
  assert_int_equal(f.n_seen, 0);
  client_free(&c);
  fixture_stop(&f);
}

static void wrong_frames(void **state) {
  static const struct {
    uint8_t type, flags;
    uint32_t id;
    const char *data;
    size_t size;
    uint32_t code;
  } cases[] = {
      {NGHTTP2_DATA, 0, 1, "x", 1, NGHTTP2_PROTOCOL_ERROR},               /* on an idle stream */
      {NGHTTP2_HEADERS, 5, 2, "\x82\x84\x86", 3, NGHTTP2_PROTOCOL_ERROR}, /* a stream of the server's */
      {NGHTTP2_HEADERS, 5, 1, "\xff\xff\xff\xff\xff\xff\xff", 7, NGHTTP2_COMPRESSION_ERROR},
      {NGHTTP2_CONTINUATION, 4, 1, "\x82", 1, NGHTTP2_PROTOCOL_ERROR},      /* of nothing */
      {NGHTTP2_WINDOW_UPDATE, 0, 0, "\0\0\0\0", 4, NGHTTP2_PROTOCOL_ERROR}, /* by nothing */
      {NGHTTP2_WINDOW_UPDATE, 0, 0, "\x7f\xff\xff\xff", 4, NGHTTP2_FLOW_CONTROL_ERROR},
      {NGHTTP2_SETTINGS, 0, 0, "\0\4\xff\xff\xff\xff", 6, NGHTTP2_FLOW_CONTROL_ERROR},
      {NGHTTP2_SETTINGS, 0, 0, "abc", 3, NGHTTP2_FRAME_SIZE_ERROR},
      {NGHTTP2_PING, 0, 0, "abc", 3, NGHTTP2_FRAME_SIZE_ERROR},
      {NGHTTP2_PUSH_PROMISE, 4, 1, "\0\0\0\2", 4, NGHTTP2_PROTOCOL_ERROR},
      {NGHTTP2_RST_STREAM, 0, 1, "\0\0\0\0", 4, NGHTTP2_PROTOCOL_ERROR}, /* of an idle stream */
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct fixture f;
    struct client c;
    fixture_start(&f, &usual_limits);
    http2_raw_connect(&c, &f);
    http2_frame(&c, cases[i].type, cases[i].flags, cases[i].id, cases[i].data, cases[i].size);
    expect_goaway(&f, &c, cases[i].code);
    assert_int_equal(f.n_seen, 0);
    client_free(&c);
    fixture_stop(&f);
  }
}

static void wrong_heads(void **state) {
  static const struct {
    const char *block;
    size_t size;
  } cases[] = {
      {"\x82\x86\x41\1h", 5},                        /* no path */
      {"\x82\x82\x84\x86\x41\1h", 7},                /* two methods */
      {"\x84\x86\x41\1h", 5},                        /* no method */
      {"\x82\x84\x86\x41\1h\0\1A\1x", 11},           /* a capital letter */
      {"\x82\x84\x86\x41\1h\0\12connection\1x", 20}, /* a header of a connection */
      {"\x82\x84\x86\x41\1h\0\2te\1x", 12},          /* te other than trailers */
      {"\x82\x84\x86\x41\1h\0\x0e"
       "content-length\1x",
       24},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct fixture f;
    struct client c;
    fixture_start(&f, &usual_limits);
    http2_raw_connect(&c, &f);
    http2_frame(&c, NGHTTP2_HEADERS, 5, 1, cases[i].block, cases[i].size);
    http2_frame(&c, NGHTTP2_HEADERS, 5, 3, get_root, sizeof get_root); /* the connection goes on */
    TURN_UNTIL(&f, f.n_seen > 0);
    if (i != 3) TURN_UNTIL(&f, http2_raw_error(&c, NGHTTP2_RST_STREAM) == NGHTTP2_PROTOCOL_ERROR);
    client_free(&c);
    fixture_stop(&f);
  }
}

static void a_head_that_does_not_end(void **state) {
  struct http_limits limits = usual_limits;
  limits.head_timeout_ns = NS_PER_MS;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  http2_raw_connect(&c, &f);
  http2_frame(&c, NGHTTP2_HEADERS, 0, 1, get_root, sizeof get_root);
  expect_goaway(&f, &c, NGHTTP2_ENHANCE_YOUR_CALM);
  client_free(&c);
  fixture_stop(&f);
}

static void length_that_lies(void **state) {
  static const struct pair length = {"content-length", "5"};
  struct fixture f;
  struct http2_client h = {0};
  fixture_start(&f, &usual_limits);
  http2_connect(&h, &f);
  int32_t id = http2_request(&h, "POST", "/", "abc", 3, false, &length, 1);
  HTTP2_UNTIL(&h, stream_of(&h, id)->closed);
  assert_int_equal(stream_of(&h, id)->error_code, NGHTTP2_PROTOCOL_ERROR);
  HTTP2_UNTIL(&h, f.n_gone == 1);
  assert_false(f.seen[0].ended);
  http2_free(&h);
  fixture_stop(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(first_bytes_decide),
      cmocka_unit_test(a_beginning_that_does_not_go_on),
      cmocka_unit_test(a_server_without_it),
      cmocka_unit_test(the_plain_way),
      cmocka_unit_test(headers_of_interest),
      cmocka_unit_test(echo_large),
      cmocka_unit_test(head_and_no_content),
      cmocka_unit_test(trailers),
      cmocka_unit_test(compressed_both_ways),
      cmocka_unit_test(asked_to_continue),
      cmocka_unit_test(an_answer_before_the_end),
      cmocka_unit_test(body_limit),
      cmocka_unit_test(a_body_without_limit),
      cmocka_unit_test(too_many_headers),
      cmocka_unit_test(streams_beyond_the_limit),
      cmocka_unit_test(a_paused_stream_holds_up_no_other),
      cmocka_unit_test(a_body_that_has_to_wait_needs_memory),
      cmocka_unit_test(the_end_waits_for_resume),
      cmocka_unit_test(an_overrun_window),
      cmocka_unit_test(reset_is_gone),
      cmocka_unit_test(a_client_that_leaves),
      cmocka_unit_test(a_window_that_stays_closed),
      cmocka_unit_test(a_window_that_stays_closed_for_too_long),
      cmocka_unit_test(pings_are_answered),
      cmocka_unit_test(idle_connections_go),
      cmocka_unit_test(drain_finishes_streams),
      cmocka_unit_test(drain_does_not_linger_for_idle_clients),
      cmocka_unit_test(a_hand_over_ends_it),
      cmocka_unit_test(floods),
      cmocka_unit_test(a_flood_that_is_not_read),
      cmocka_unit_test(rapid_reset),
      cmocka_unit_test(continuations),
      cmocka_unit_test(wrong_frames),
      cmocka_unit_test(wrong_heads),
      cmocka_unit_test(a_head_that_does_not_end),
      cmocka_unit_test(length_that_lies),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
