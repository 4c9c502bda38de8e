/* Answers: what is sent, when the memory behind it is given back, and clients that do not read. */
#include "http_fixture.h"

#include <zlib.h>

#define GET(path) "GET " path " HTTP/1.1\r\nHost: h\r\n\r\n"

enum { LARGE = 24 << 20 }; /* more than any socket buffer takes */

/* Reads everything until `size` bytes are there. */
static void client_wait_size(struct client *c, size_t size) {
  TURN_UNTIL(c->fixture, (client_receive(c), c->in.size >= size || c->closed));
}

/* ---- borrowed memory --------------------------------------------------------------------------------------------- */

static void fast_reader(void **state) {
  struct http_limits limits = usual_limits;
  limits.slow_reply_ns = 1000 * NS_PER_S; /* nothing is copied */
  limits.copied_reply_bytes = 8192;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/"));
  TURN_UNTIL(&f, f.n_seen == 1);
  uint8_t *data = pattern_create(LARGE, 1);
  answer(&f.seen[0], 200, data, LARGE);
  turn(&f);
  assert_int_equal(f.seen[0].n_done, 0); /* the client has not read yet */
  struct answer a = client_answer(&c);
  assert_int_equal(a.size, LARGE);
  assert_memory_equal(a.body, data, LARGE);
  TURN_UNTIL(&f, f.seen[0].n_done == 1);
  free(a.body);
  free(data);
  f.on_end = NULL;
  client_say(&c, GET("/again"));
  client_expect(&c, 200, "ok");
  client_free(&c);
  fixture_stop(&f);
}

static void slow_reader_is_copied(void **state) {
  struct fixture f;
  struct client c, other;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_connect(&other, &f);
  client_say(&c, GET("/"));
  TURN_UNTIL(&f, f.n_seen == 1);
  uint8_t *data = pattern_create(LARGE, 2), *same = pattern_create(LARGE, 2);
  answer(&f.seen[0], 200, data, LARGE);
  f.on_end = NULL;
  client_say(&other, GET("/other")); /* is not held up */
  client_expect(&other, 200, "ok");
  TURN_UNTIL(&f, f.seen[0].n_done == 1);
  memset(data, 0, LARGE);
  struct answer a = client_answer(&c);
  assert_int_equal(a.size, LARGE);
  assert_memory_equal(a.body, same, LARGE);
  assert_int_equal(f.seen[0].n_done, 1);
  client_say(&c, GET("/again"));
  client_expect(&c, 200, "ok");
  free(a.body);
  free(data);
  free(same);
  client_free(&c);
  client_free(&other);
  fixture_stop(&f);
}

static void slow_reader_past_the_bound_is_cut(void **state) {
  struct http_limits limits = usual_limits;
  limits.copied_reply_bytes = 1 << 20;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/a") GET("/b"));
  TURN_UNTIL(&f, f.n_seen == 2);
  uint8_t *data = pattern_create(LARGE, 3);
  answer(&f.seen[0], 200, data, LARGE);
  TURN_UNTIL(&f, f.seen[0].n_done == 1);
  assert_true(f.seen[1].gone);
  client_wait_closed(&c);
  assert_true(c.in.size < LARGE);
  free(data);
  client_free(&c);
  fixture_stop(&f);
}

static void stalled_reader_is_cut(void **state) {
  struct http_limits limits = usual_limits;
  limits.idle_timeout_ns = 1;
  limits.head_timeout_ns = 1000 * NS_PER_S;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/"));
  TURN_UNTIL(&f, f.n_seen == 1);
  uint8_t *data = pattern_create(LARGE, 4);
  answer(&f.seen[0], 200, data, LARGE);
  struct http_server_counts counts;
  TURN_UNTIL(&f, (http_server_count(f.server, &counts), counts.connections_open == 0));
  assert_int_equal(f.seen[0].n_done, 1);
  free(data);
  client_free(&c);
  fixture_stop(&f);
}

/* Enough of an answer must be taken in each stretch of the idle time; a byte now and then is not. */
static void reader_that_only_sips_is_cut(void **state) {
  struct http_limits limits = usual_limits;
  limits.idle_timeout_ns = 300 * (uint64_t)NS_PER_MS;
  limits.body_min_rate = 1 << 30; /* nobody reads as fast for long */
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/"));
  TURN_UNTIL(&f, f.n_seen == 1);
  uint8_t *data = pattern_create(LARGE, 4), sip[4096];
  answer(&f.seen[0], 200, data, LARGE);
  struct http_server_counts counts = {.connections_open = 1};
  for (uint64_t limit = clock_now_ns() + TEST_LIMIT_NS; counts.connections_open > 0;) {
    (void)!recv(c.fd, sip, sizeof sip, 0);
    turn(&f);
    http_server_count(f.server, &counts);
    if (clock_now_ns() > limit) fail_msg("it is never cut");
  }
  free(data);
  client_free(&c);
  fixture_stop(&f);
}

/* Enough was taken when a stretch is over: the rest gets another one. */
static void slow_but_steady_reader_is_served(void **state) {
  struct http_limits limits = usual_limits;
  limits.idle_timeout_ns = NS_PER_S;
  limits.body_min_rate = 1024;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/"));
  TURN_UNTIL(&f, f.n_seen == 1);
  uint8_t *data = pattern_create(LARGE, 4), *part = malloc(LARGE);
  assert_non_null(part);
  answer(&f.seen[0], 200, data, LARGE);
  size_t size = 0;
  for (uint64_t limit = clock_now_ns() + TEST_LIMIT_NS; size < LARGE; turn(&f)) {
    ssize_t n = recv(c.fd, part, 16 << 10, 0); /* some 2 ms each: several seconds in all */
    if (n == 0 || (n < 0 && errno != EAGAIN)) fail_msg("cut after %zu bytes", size);
    if (n > 0) size += (size_t)n;
    if (clock_now_ns() > limit) fail_msg("it takes too long");
  }
  TURN_UNTIL(&f, f.seen[0].n_done == 1);
  free(data);
  free(part);
  client_free(&c);
  fixture_stop(&f);
}

/* The service counts what waits for slow readers, and gets it back when they have it or leave. */
static void copies_are_counted(void **state) {
  struct fixture f;
  struct client c[2];
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  uint8_t *data = pattern_create(LARGE, 5);
  for (size_t i = 0; i < 2; i++) {
    client_connect(&c[i], &f);
    client_say(&c[i], GET("/"));
    TURN_UNTIL(&f, f.n_seen == i + 1);
    answer(&f.seen[i], 200, data, LARGE);
    TURN_UNTIL(&f, f.seen[i].n_done == 1);
  }
  assert_true(f.held > LARGE && f.held < 2 * LARGE);
  struct answer a = client_answer(&c[0]);
  assert_memory_equal(a.body, data, LARGE);
  TURN_UNTIL(&f, f.held < LARGE);
  assert_true(f.held > 0);
  client_free(&c[1]);
  TURN_UNTIL(&f, f.held == 0);
  free(a.body);
  free(data);
  client_free(&c[0]);
  fixture_stop(&f);
}

/* No room for the copy: the answer stays where it is for a while, and arrives whole when its client reads then. */
static void reply_without_room_waits(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.hold_most = 1000;
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/"));
  TURN_UNTIL(&f, f.n_seen == 1);
  uint8_t *data = pattern_create(LARGE, 6);
  answer(&f.seen[0], 200, data, LARGE);
  for (uint64_t until = clock_now_ns() + 100 * NS_PER_MS; clock_now_ns() < until;) turn(&f);
  assert_int_equal(f.seen[0].n_done, 0);
  struct answer a = client_answer(&c);
  assert_memory_equal(a.body, data, LARGE);
  TURN_UNTIL(&f, f.seen[0].n_done == 1);
  free(a.body);
  free(data);
  client_free(&c);
  fixture_stop(&f);
}

static void reply_that_finds_no_room_is_cut(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.hold_most = 1000;
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/"));
  TURN_UNTIL(&f, f.n_seen == 1);
  uint8_t *data = pattern_create(LARGE, 7);
  answer(&f.seen[0], 200, data, LARGE);
  TURN_UNTIL(&f, f.seen[0].n_done == 1); /* within seconds, not after the idle time */
  struct http_server_counts counts;
  http_server_count(f.server, &counts);
  assert_int_equal(counts.connections_open, 0);
  free(data);
  client_free(&c);
  fixture_stop(&f);
}

/* Memory that nobody else waits for is not copied. */
static void unshared_memory_stays(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.hold_most = 0;
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/"));
  TURN_UNTIL(&f, f.n_seen == 1);
  uint8_t *data = pattern_create(LARGE, 8);
  struct iovec body = {.iov_base = data, .iov_len = LARGE};
  struct exchange *exchange = f.seen[0].exchange;
  f.seen[0].exchange = NULL;
  exchange_reply(
      exchange,
      &(struct reply){
          .status = 200, .body = &body, .n_body = 1, .unshared = true, .done = seen_done, .owner = &f.seen[0]});
  for (uint64_t until = clock_now_ns() + 1500 * (uint64_t)NS_PER_MS; clock_now_ns() < until;) turn(&f);
  assert_int_equal(f.seen[0].n_done, 0);
  struct answer a = client_answer(&c);
  assert_memory_equal(a.body, data, LARGE);
  free(a.body);
  free(data);
  client_free(&c);
  fixture_stop(&f);
}

static void waiting_answers_past_the_bound_cut(void **state) {
  struct http_limits limits = usual_limits;
  limits.copied_reply_bytes = 100000;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/0") GET("/1") GET("/2"));
  TURN_UNTIL(&f, f.n_seen == 3);
  uint8_t *data = pattern_create(60000, 5);
  answer(&f.seen[1], 200, data, 60000);
  assert_int_equal(f.seen[1].n_done, 1);
  assert_false(f.seen[0].gone);
  answer(&f.seen[2], 200, data, 60000);
  assert_int_equal(f.seen[2].n_done, 1);
  assert_true(f.seen[0].gone);
  client_wait_closed(&c);
  free(data);
  client_free(&c);
  fixture_stop(&f);
}

static void leaves_in_the_middle(void **state) {
  struct http_limits limits = usual_limits;
  limits.slow_reply_ns = 1000 * NS_PER_S;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/0") GET("/1"));
  TURN_UNTIL(&f, f.n_seen == 2);
  uint8_t *data = pattern_create(LARGE, 6);
  answer(&f.seen[0], 200, data, LARGE);
  client_wait_size(&c, 100000);
  assert_int_equal(f.seen[0].n_done, 0);
  close(c.fd);
  c.fd = -1;
  TURN_UNTIL(&f, f.seen[0].n_done == 1);
  TURN_UNTIL(&f, f.seen[1].gone);
  free(data);
  client_free(&c);
  fixture_stop(&f);
}

/* A client that has said all it will say, and reads on, still gets what is being sent. */
static void half_closed_reader_gets_its_answer(void **state) {
  struct http_limits limits = usual_limits;
  limits.slow_reply_ns = 1000 * NS_PER_S;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/0") GET("/1"));
  TURN_UNTIL(&f, f.n_seen == 2);
  uint8_t *data = pattern_create(LARGE, 7);
  answer(&f.seen[0], 200, data, LARGE);
  turn(&f);
  assert_int_equal(shutdown(c.fd, SHUT_WR), 0);
  TURN_UNTIL(&f, f.seen[1].gone);
  struct answer a = client_answer(&c);
  assert_memory_equal(a.body, data, LARGE);
  client_wait_closed(&c);
  assert_int_equal(f.seen[0].n_done, 1);
  free(a.body);
  free(data);
  client_free(&c);
  fixture_stop(&f);
}

static void freed_in_the_middle(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/0") GET("/1"));
  TURN_UNTIL(&f, f.n_seen == 2);
  uint8_t *data = pattern_create(LARGE, 8);
  answer(&f.seen[0], 200, data, LARGE);
  turn(&f);
  fixture_stop(&f);
  assert_int_equal(f.seen[0].n_done, 1);
  assert_true(f.seen[1].gone);
  free(data);
  client_free(&c);
}

/* ---- bodies in every form ---------------------------------------------------------------------------------------- */

static void answer_without_done(struct seen *seen) {
  struct exchange *exchange = seen->exchange;
  seen->exchange = NULL;
  uint8_t *data = pattern_create(LARGE, 9);
  struct iovec body = {.iov_base = data, .iov_len = LARGE};
  exchange_reply(exchange, &(struct reply){.status = 200, .body = &body, .n_body = 1});
  free(data); /* it was copied as far as it was not written */
}

static void body_without_done(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_without_done;
  client_connect(&c, &f);
  client_say(&c, GET("/0") GET("/1"));
  uint8_t *data = pattern_create(LARGE, 9);
  for (int i = 0; i < 2; i++) {
    struct answer a = client_answer(&c);
    assert_int_equal(a.size, LARGE);
    assert_memory_equal(a.body, data, LARGE);
    free(a.body);
  }
  free(data);
  client_free(&c);
  fixture_stop(&f);
}

static void body_in_many_pieces(void **state) {
  enum { PIECES = 300 };
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/"));
  TURN_UNTIL(&f, f.n_seen == 1);
  uint8_t *data = pattern_create(PIECES * 1000, 10);
  struct iovec *body = calloc(2 * PIECES, sizeof *body);
  assert_non_null(body);
  size_t size = 0;
  for (size_t i = 0; i < 2 * PIECES; i++) {
    size_t part = i % 2 == 0 ? 0 : 1 + i * 3;
    body[i] = (struct iovec){.iov_base = part == 0 ? NULL : data + size, .iov_len = part};
    size += part;
  }
  struct exchange *exchange = f.seen[0].exchange;
  f.seen[0].exchange = NULL;
  exchange_reply(
      exchange,
      &(struct reply){.status = 200, .body = body, .n_body = 2 * PIECES, .done = seen_done, .owner = &f.seen[0]});
  free(body); /* the list is not the memory that is lent */
  struct answer a = client_answer(&c);
  assert_int_equal(a.size, size);
  assert_memory_equal(a.body, data, size);
  assert_int_equal(f.seen[0].n_done, 1);
  free(a.body);
  free(data);
  client_free(&c);
  fixture_stop(&f);
}

static void no_content(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/"));
  TURN_UNTIL(&f, f.n_seen == 1);
  struct exchange *exchange = f.seen[0].exchange;
  f.seen[0].exchange = NULL;
  exchange_reply(exchange, &(struct reply){.status = 204});
  struct answer a = client_answer(&c);
  assert_string_equal(a.head, "HTTP/1.1 204 No Content\r\n\r\n");
  free(a.body);
  client_free(&c);
  fixture_stop(&f);
}

static void header_values_end_no_line(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/"));
  TURN_UNTIL(&f, f.n_seen == 1);
  const struct header headers[] = {{"retry-after", "1"},
                                   {"x-quoted",
                                    "a\r\nInjected: yes\n\x01"
                                    "b"}};
  struct exchange *exchange = f.seen[0].exchange;
  f.seen[0].exchange = NULL;
  exchange_reply(exchange, &(struct reply){.status = 503, .headers = headers, .n_headers = 2});
  struct answer a = client_answer(&c);
  assert_string_equal(a.head,
                      "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nretry-after: 1\r\n"
                      "x-quoted: a  Injected: yes  b\r\n\r\n");
  free(a.body);
  client_free(&c);
  fixture_stop(&f);
}

static void answer_error(struct seen *seen) {
  struct exchange *exchange = seen->exchange;
  seen->exchange = NULL;
  exchange_reply_error(exchange, 400,
                       "a \"quoted\" \\ \n\x01 \xc3\xa9 \xff \xc0\x80 \xed\xa0\x80 \xf0\x9f\x98\x80 \xe2\x82");
}

static void errors_are_json(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_error;
  client_connect(&c, &f);
  client_say(&c, GET("/"));
  client_expect(&c, 400,
                "{\"error\":\"a \\\"quoted\\\" \\\\ \\u000a\\u0001 \xc3\xa9 \\ufffd \\ufffd\\ufffd "
                "\\ufffd\\ufffd\\ufffd \xf0\x9f\x98\x80 \\ufffd\\ufffd\"}");
  client_free(&c);
  fixture_stop(&f);
}

/* ---- answers that bring answers ---------------------------------------------------------------------------------- */

static void answer_next(void *owner) {
  struct seen *seen = owner;
  seen->n_done++;
  struct seen *next = seen + 1;
  struct fixture *f = seen->fixture;
  if (next == f->seen + f->n_seen || next->exchange == NULL) return;
  static uint8_t large[1 << 20];
  struct iovec body = {.iov_base = large, .iov_len = sizeof large};
  struct exchange *exchange = next->exchange;
  next->exchange = NULL;
  exchange_reply(exchange,
                 &(struct reply){.status = 200, .body = &body, .n_body = 1, .done = answer_next, .owner = next});
}

static void answers_from_inside_done(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  for (int i = 0; i < 10; i++) client_say(&c, GET("/"));
  TURN_UNTIL(&f, f.n_seen == 10);
  uint8_t *data = pattern_create(1 << 20, 11);
  struct iovec body = {.iov_base = data, .iov_len = 1 << 20};
  struct exchange *exchange = f.seen[0].exchange;
  f.seen[0].exchange = NULL;
  exchange_reply(exchange,
                 &(struct reply){.status = 200, .body = &body, .n_body = 1, .done = answer_next, .owner = &f.seen[0]});
  for (int i = 0; i < 10; i++) client_expect(&c, 200, NULL);
  for (int i = 0; i < 10; i++) assert_int_equal(f.seen[i].n_done, 1);
  free(data);
  client_free(&c);
  fixture_stop(&f);
}

/* ---- compression ------------------------------------------------------------------------------------------------- */

static char text[20000];

static void answer_text(struct seen *seen) {
  struct exchange *exchange = seen->exchange;
  seen->exchange = NULL;
  size_t size = strcmp(seen->path, "/small") == 0 ? 100 : sizeof text;
  struct iovec body[2] = {{.iov_base = text, .iov_len = size / 2}, {.iov_base = text + size / 2, .iov_len = size / 2}};
  exchange_reply(exchange, &(struct reply){.status = 200,
                                           .content_type = "application/json",
                                           .body = body,
                                           .n_body = 2,
                                           .compressible = strcmp(seen->path, "/never") != 0,
                                           .done = seen_done,
                                           .owner = seen});
}

static void check_inflated(const struct answer *a, int window) {
  static char out[sizeof text + 1];
  z_stream z = {0};
  assert_int_equal(inflateInit2(&z, window), Z_OK);
  z.next_in = (Bytef *)a->body;
  z.avail_in = (uInt)a->size;
  z.next_out = (Bytef *)out;
  z.avail_out = sizeof out;
  assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
  assert_int_equal(z.total_out, sizeof text);
  assert_memory_equal(out, text, sizeof text);
  inflateEnd(&z);
}

static void compresses(void **state) {
  static const struct {
    const char *path, *accept;
    int window; /* 0: not compressed */
  } cases[] = {
      {"/a", "gzip", 31},     {"/b", "deflate", 15}, {"/c", "deflate, gzip;q=0.5", 15},
      {"/d", "gzip;q=0", 0},  {"/e", "br", 0},       {"/f", "", 0},
      {"/g", "*", 31},        {"/small", "gzip", 0}, {"/never", "gzip", 0},
      {"/again", "gzip", 31},
  };
  for (size_t i = 0; i < sizeof text; i++) text[i] = (char)('a' + i * i % 7);
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_text;
  client_connect(&c, &f);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char request[256];
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: h\r\nAccept-Encoding: %s\r\n\r\n", cases[i].path,
             cases[i].accept);
    client_say(&c, request);
    struct answer a = client_answer(&c);
    assert_int_equal(answer_has(&a, "Content-Encoding: gzip"), cases[i].window == 31);
    assert_int_equal(answer_has(&a, "Content-Encoding: deflate"), cases[i].window == 15);
    assert_int_equal(answer_has(&a, "Vary: Accept-Encoding"), strcmp(cases[i].path, "/never") != 0);
    if (cases[i].window != 0)
      check_inflated(&a, cases[i].window);
    else
      assert_memory_equal(a.body, text, a.size);
    assert_int_equal(f.seen[i].n_done, 1);
    free(a.body);
  }
  client_free(&c);
  fixture_stop(&f);
}

static void compressed_in_a_pipeline(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  for (int i = 0; i < 3; i++) client_say(&c, "GET / HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\n\r\n");
  TURN_UNTIL(&f, f.n_seen == 3);
  for (int i = 2; i >= 0; i--) answer_text(&f.seen[i]);
  for (int i = 0; i < 3; i++) {
    struct answer a = client_answer(&c);
    check_inflated(&a, 31);
    free(a.body);
  }
  client_free(&c);
  fixture_stop(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(fast_reader),
      cmocka_unit_test(slow_reader_is_copied),
      cmocka_unit_test(slow_reader_past_the_bound_is_cut),
      cmocka_unit_test(stalled_reader_is_cut),
      cmocka_unit_test(reader_that_only_sips_is_cut),
      cmocka_unit_test(slow_but_steady_reader_is_served),
      cmocka_unit_test(copies_are_counted),
      cmocka_unit_test(reply_without_room_waits),
      cmocka_unit_test(reply_that_finds_no_room_is_cut),
      cmocka_unit_test(unshared_memory_stays),
      cmocka_unit_test(waiting_answers_past_the_bound_cut),
      cmocka_unit_test(leaves_in_the_middle),
      cmocka_unit_test(half_closed_reader_gets_its_answer),
      cmocka_unit_test(freed_in_the_middle),
      cmocka_unit_test(body_without_done),
      cmocka_unit_test(body_in_many_pieces),
      cmocka_unit_test(no_content),
      cmocka_unit_test(header_values_end_no_line),
      cmocka_unit_test(errors_are_json),
      cmocka_unit_test(answers_from_inside_done),
      cmocka_unit_test(compresses),
      cmocka_unit_test(compressed_in_a_pipeline),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
