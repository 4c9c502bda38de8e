/* Requests: what the service is told, and what the connection answers by itself. */
#include "http_fixture.h"

#include <zlib.h>

#define GET(path) "GET " path " HTTP/1.1\r\nHost: h\r\n\r\n"

/* ---- the plain way ----------------------------------------------------------------------------------------------- */

static void keeps_alive(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_path;
  client_connect(&c, &f);
  for (int i = 0; i < 3; i++) {
    client_say(&c, GET("/v2/health?x=1&y=2"));
    struct answer a = client_answer(&c);
    assert_string_equal(a.head, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\n");
    assert_string_equal(a.body, "/v2/health");
    free(a.body);
  }
  assert_int_equal(f.n_seen, 3);
  assert_string_equal(f.seen[0].method, "GET");
  assert_string_equal(f.seen[0].query, "x=1&y=2");
  assert_int_equal(f.seen[0].content_length, 0);
  assert_true(f.seen[0].serial != f.seen[1].serial);
  struct http_server_counts counts;
  http_server_count(f.server, &counts);
  assert_int_equal(counts.connections_open, 1);
  assert_int_equal(counts.connections_total, 1);
  assert_int_equal(counts.requests_total, 3);
  client_free(&c);
  fixture_stop(&f);
}

static void headers_of_interest(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  client_connect(&c, &f);
  client_say(&c,
             "POST /v2/models/m/infer HTTP/1.1\r\nhost: h:1\r\nUser-Agent: x\r\nContent-Type: application/json\r\n"
             "INFERENCE-HEADER-CONTENT-LENGTH: 12\r\nX-Request-Id: r1\r\nx-request-id: r2\r\nAccept: */*\r\n"
             "Endpoint-Load-Metrics-Format: json\r\nContent-Length: 3\r\n\r\nabc");
  client_expect(&c, 200, "ok");
  struct seen *seen = &f.seen[0];
  assert_string_equal(seen->headers[HEADER_HOST], "h:1");
  assert_string_equal(seen->headers[HEADER_CONTENT_TYPE], "application/json");
  assert_string_equal(seen->headers[HEADER_INFERENCE_HEADER_CONTENT_LENGTH], "12");
  assert_string_equal(seen->headers[HEADER_REQUEST_ID], "r1");
  assert_string_equal(seen->headers[HEADER_ACCEPT], "*/*");
  assert_string_equal(seen->headers[HEADER_ENDPOINT_LOAD_METRICS_FORMAT], "json");
  assert_string_equal(seen->headers[HEADER_ACCEPT_ENCODING], "");
  assert_int_equal(seen->content_length, 3);
  assert_false(seen->encoded);
  assert_memory_equal(seen->body.data, "abc", 3);
  client_free(&c);
  fixture_stop(&f);
}

static void targets(void **state) {
  static const struct {
    const char *target, *path, *query;
  } cases[] = {
      {"/", "/", ""},
      {"/a?b?c", "/a", "b?c"},
      {"/a?", "/a", ""},
      {"/%2e%2E/x", "/%2e%2E/x", ""},
      {"http://host:80/v2?q", "/v2", "q"},
      {"http://host", "/", ""},
      {"*", "*", ""},
  };
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  client_connect(&c, &f);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[256];
    snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: h\r\n\r\n", i == 6 ? "OPTIONS" : "GET", cases[i].target);
    client_say(&c, text);
    client_expect(&c, 200, "ok");
    assert_string_equal(f.seen[i].path, cases[i].path);
    assert_string_equal(f.seen[i].query, cases[i].query);
  }
  client_say(&c, "GET nowhere HTTP/1.1\r\nHost: h\r\n\r\n");
  client_expect(&c, 400, NULL);
  client_wait_closed(&c);
  client_free(&c);
  fixture_stop(&f);
}

/* Whatever the packets, the service sees the same. */
static void split_anywhere(void **state) {
  static const char text[] =
      "POST /one HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
      "POST /two HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nwor\r\n2\r\nld\r\n0\r\n\r\n" GET(
          "/three");
  for (size_t cut = 1; cut < sizeof text - 1; cut++) {
    struct fixture f;
    struct client c;
    fixture_start(&f, &usual_limits);
    f.on_end = answer_path;
    client_connect(&c, &f);
    client_send(&c, text, cut);
    turn(&f);
    turn(&f);
    client_send(&c, text + cut, sizeof text - 1 - cut);
    client_expect(&c, 200, "/one");
    client_expect(&c, 200, "/two");
    client_expect(&c, 200, "/three");
    assert_int_equal(f.n_seen, 3);
    assert_memory_equal(f.seen[0].body.data, "hello", 5);
    assert_int_equal(f.seen[0].body.size, 5);
    assert_memory_equal(f.seen[1].body.data, "world", 5);
    assert_int_equal(f.seen[1].body.size, 5);
    assert_true(f.seen[1].content_length == UINT64_MAX);
    client_free(&c);
    fixture_stop(&f);
  }
}

static void http10_and_close(void **state) {
  static const struct {
    const char *request;
    const char *header; /* in the answer */
    bool closes;
  } cases[] = {
      {"GET / HTTP/1.0\r\n\r\n", "Connection: close", true},
      {"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "Connection: keep-alive", false},
      {"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "Connection: close", true},
      {"GET / HTTP/1.1\r\nHost: h\r\nConnection: Keep-Alive\r\n\r\n", "Connection: keep-alive", false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct fixture f;
    struct client c;
    fixture_start(&f, &usual_limits);
    client_connect(&c, &f);
    client_say(&c, cases[i].request);
    struct answer a = client_answer(&c);
    assert_true(answer_has(&a, cases[i].header));
    assert_string_equal(a.body, "ok");
    free(a.body);
    if (cases[i].closes) {
      client_wait_closed(&c);
      assert_false(c.reset);
    } else {
      client_say(&c, cases[i].request);
      client_expect(&c, 200, "ok");
    }
    client_free(&c);
    fixture_stop(&f);
  }
}

static void head_has_no_body(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  client_connect(&c, &f);
  client_say(&c, "HEAD /v2 HTTP/1.1\r\nHost: h\r\n\r\n" GET("/next"));
  client_wait_text(&c, "\r\n\r\nok");
  char text[512];
  snprintf(text, sizeof text, "%s", client_text(&c));
  take_date(text);
  take_date(text);
  assert_string_equal(text,
                      "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n"
                      "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok");
  assert_string_equal(f.seen[0].method, "HEAD");
  assert_int_equal(f.seen[0].n_done, 1);
  client_free(&c);
  fixture_stop(&f);
}

/* ---- pipelines --------------------------------------------------------------------------------------------------- */

static void pipeline_in_order(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/0") GET("/1") GET("/2") GET("/3"));
  TURN_UNTIL(&f, f.n_seen == 4);
  char late[4][32];
  static const int order[] = {2, 1, 3, 0};
  for (int i = 0; i < 4; i++) {
    int which = order[i];
    snprintf(late[which], sizeof late[which], "answer %d", which);
    answer(&f.seen[which], 200, late[which], strlen(late[which]));
    if (i < 3) {
      /* it waits for its turn in memory of the connection */
      assert_int_equal(f.seen[which].n_done, 1);
      memset(late[which], '#', sizeof late[which]);
      turn(&f);
      client_receive(&c);
      assert_int_equal(c.in.size, 0);
    }
  }
  client_expect(&c, 200, "answer 0");
  client_expect(&c, 200, "answer 1");
  client_expect(&c, 200, "answer 2");
  client_expect(&c, 200, "answer 3");
  client_free(&c);
  fixture_stop(&f);
}

static void pipeline_is_bounded(void **state) {
  struct http_limits limits = usual_limits;
  limits.pipeline = 3;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  for (int i = 0; i < 10; i++) client_say(&c, GET("/p"));
  TURN_UNTIL(&f, f.n_seen == 3);
  for (int i = 0; i < 5; i++) turn(&f);
  assert_int_equal(f.n_seen, 3);
  for (size_t i = 0; i < 10; i++) {
    TURN_UNTIL(&f, f.n_seen > i);
    assert_true(f.n_seen <= i + 3);
    answer_ok(&f.seen[i]);
    client_expect(&c, 200, "ok");
  }
  client_free(&c);
  fixture_stop(&f);
}

/* A client that sends for ever while its pipeline is full is not read for ever. */
static void full_pipeline_reads_no_more(void **state) {
  struct http_limits limits = usual_limits;
  limits.pipeline = 1;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/first"));
  TURN_UNTIL(&f, f.n_seen == 1);
  /* socket buffers and 64 KiB of the connection's take some of it, then it stops */
  char *flood = calloc(1, 1 << 20);
  assert_non_null(flood);
  size_t sent = 0;
  for (int idle = 0; idle < 20;) {
    ssize_t n = send(c.fd, flood, 1 << 20, MSG_NOSIGNAL);
    idle = n > 0 ? 0 : idle + 1;
    if (n > 0) sent += (size_t)n;
    assert_true(sent < (size_t)256 << 20);
    turn(&f);
  }
  free(flood);
  /* and its end is still seen (a FIN would queue up behind the flood, so a reset) */
  struct linger now = {.l_onoff = 1};
  assert_int_equal(setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
  close(c.fd);
  c.fd = -1;
  TURN_UNTIL(&f, f.n_gone == 1);
  client_free(&c);
  fixture_stop(&f);
}

/* ---- bodies ------------------------------------------------------------------------------------------------------ */

static void window_is_read_into(void **state) {
  enum { HEAD_PART = 1000, SIZE = 3 << 20 };
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  uint8_t *data = pattern_create(SIZE, 1);
  f.window = malloc(SIZE);
  assert_non_null(f.window);
  client_connect(&c, &f);
  char head[128];
  snprintf(head, sizeof head, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", SIZE);
  client_say(&c, head);
  client_send(&c, data, HEAD_PART);
  /* what came with the head was in the read buffer already */
  TURN_UNTIL(&f, f.n_seen == 1 && f.seen[0].body.size == HEAD_PART);
  f.window_size = SIZE;
  f.window_at = HEAD_PART;
  memcpy(f.window, data, HEAD_PART);
  size_t calls = f.seen[0].n_body_calls;
  size_t at = HEAD_PART;
  while (at < SIZE) {
    size_t part = SIZE - at < 100000 ? SIZE - at : 100000;
    client_send(&c, data + at, part);
    at += part;
    size_t before = f.window_at;
    TURN_UNTIL(&f, f.seen[0].body.size > before);
    size_t got = f.seen[0].body.size - before;
    /* exactly the memory that was offered; the last call ends where the bytes end */
    if (SIZE - before >= 16 * 1024)
      assert_ptr_equal(f.seen[0].last_data + f.seen[0].last_size, f.window + before + got);
    f.window_at = before + got;
    if (SIZE - f.window_at < 16 * 1024) break;
  }
  client_send(&c, data + at, SIZE - at);
  TURN_UNTIL(&f, f.seen[0].ended);
  assert_true(f.n_windows > 0);
  assert_true(f.seen[0].n_body_calls > calls);
  assert_memory_equal(f.seen[0].body.data, data, SIZE);
  answer_ok(&f.seen[0]);
  client_expect(&c, 200, "ok");
  client_free(&c);
  fixture_stop(&f);
  free(f.window);
  free(data);
}

/* Windows of every size: the service takes a body apart and never sees a byte twice or out of place. */
static void advance_window(struct seen *seen) {
  struct fixture *f = seen->fixture;
  if (seen->last_data == f->window + f->window_at)
    f->window_at += seen->last_size;
  else
    f->window_at = 0;
  f->window_size = f->window_at + (size_t)(rand() % 3 == 0 ? 40000 : 1 + rand() % 50);
}

static void windows_of_any_size(void **state) {
  enum { SIZE = 1 << 20 };
  srand(7);
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  uint8_t *data = pattern_create(SIZE, 2);
  f.window = malloc(4 * SIZE);
  assert_non_null(f.window);
  f.window_size = 33;
  f.on_body = advance_window;
  f.on_end = answer_never;
  client_connect(&c, &f);
  for (size_t i = 0; i < 4; i++) {
    char head[128];
    f.window_at = 0;
    f.window_size = 20000;
    snprintf(head, sizeof head, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", SIZE);
    client_say(&c, head);
    for (size_t at = 0; at < SIZE;) {
      size_t part = (size_t)(rand() % 60000);
      if (part > SIZE - at) part = SIZE - at;
      client_send(&c, data + at, part);
      if (f.window_at > SIZE) f.window_at = 0;
      turn(&f);
      at += part;
    }
    TURN_UNTIL(&f, f.n_seen == i + 1 && f.seen[i].ended);
    assert_int_equal(f.seen[i].body.size, SIZE);
    assert_memory_equal(f.seen[i].body.data, data, SIZE);
    answer_ok(&f.seen[i]);
    client_expect(&c, 200, "ok");
  }
  assert_true(f.n_windows > 0);
  client_free(&c);
  fixture_stop(&f);
  free(f.window);
  free(data);
}

static void no_window_for_chunks(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.window = malloc(1 << 20);
  f.window_size = 1 << 20;
  client_connect(&c, &f);
  client_say(&c, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
  TURN_UNTIL(&f, f.n_seen == 1);
  static char chunk[50000];
  for (int i = 0; i < 4; i++) {
    client_say(&c, "c350\r\n");
    client_send(&c, chunk, sizeof chunk);
    client_say(&c, "\r\n");
    turn(&f);
  }
  client_say(&c, "0\r\n\r\n");
  client_expect(&c, 200, "ok");
  assert_int_equal(f.seen[0].body.size, 4 * sizeof chunk);
  assert_int_equal(f.n_windows, 0);
  free(f.window);
  client_free(&c);
  fixture_stop(&f);
}

static void pause_exchange(struct seen *seen) {
  if (seen->exchange != NULL) exchange_pause(seen->exchange);
}

static void pause_holds_everything_back(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_begin = pause_exchange;
  f.on_end = answer_echo;
  client_connect(&c, &f);
  client_say(&c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello" GET("/after"));
  TURN_UNTIL(&f, f.n_seen == 1);
  for (int i = 0; i < 5; i++) turn(&f);
  assert_int_equal(f.seen[0].n_body_calls, 0);
  assert_int_equal(f.n_seen, 1);
  f.on_begin = NULL;
  exchange_resume(f.seen[0].exchange);
  assert_int_equal(f.seen[0].n_body_calls, 0); /* not from inside the call */
  client_expect(&c, 200, "hello");
  client_expect(&c, 200, "");
  client_free(&c);
  fixture_stop(&f);
}

static void pause_in_every_piece(void **state) {
  enum { SIZE = 1 << 20 };
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  uint8_t *data = pattern_create(SIZE, 3);
  f.on_body = pause_exchange;
  f.on_end = answer_never;
  client_connect(&c, &f);
  char head[128];
  snprintf(head, sizeof head, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", SIZE);
  client_say(&c, head);
  TURN_UNTIL(&f, f.n_seen == 1);
  struct seen *seen = &f.seen[0];
  size_t resumes = 0;
  for (size_t at = 0; !seen->ended;) {
    ssize_t n = at < SIZE ? send(c.fd, data + at, SIZE - at, MSG_NOSIGNAL) : 0;
    if (n > 0) at += (size_t)n;
    turn(&f);
    if (seen->exchange != NULL && !seen->ended && seen->n_body_calls > resumes) {
      size_t size = seen->body.size;
      turn(&f);
      assert_int_equal(seen->body.size, size); /* paused is paused */
      resumes = seen->n_body_calls;
      exchange_resume(seen->exchange);
    }
  }
  assert_true(resumes >= SIZE / 65536);
  assert_int_equal(seen->body.size, SIZE);
  assert_memory_equal(seen->body.data, data, SIZE);
  answer_ok(seen);
  client_expect(&c, 200, "ok");
  free(data);
  client_free(&c);
  fixture_stop(&f);
}

static void answer_while_paused(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_begin = pause_exchange;
  client_connect(&c, &f);
  client_say(&c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello" GET("/after"));
  TURN_UNTIL(&f, f.n_seen == 1);
  f.on_begin = NULL;
  answer(&f.seen[0], 503, "full", 4);
  client_expect(&c, 503, "full"); /* the short body is dropped and the connection goes on */
  client_expect(&c, 200, "ok");
  assert_string_equal(f.seen[1].path, "/after");
  assert_int_equal(f.seen[0].n_body_calls, 0);
  client_free(&c);
  fixture_stop(&f);
}

/* ---- Expect: 100-continue ---------------------------------------------------------------------------------------- */

#define EXPECTING "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"

static void continues(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_echo;
  client_connect(&c, &f);
  for (int i = 0; i < 2; i++) {
    client_say(&c, EXPECTING);
    struct answer a = client_answer(&c);
    assert_string_equal(a.head, "HTTP/1.1 100 Continue\r\n\r\n");
    free(a.body);
    client_say(&c, "hello");
    client_expect(&c, 200, "hello");
  }
  client_free(&c);
  fixture_stop(&f);
}

static void does_not_ask_for_what_has_come(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_echo;
  client_connect(&c, &f);
  client_say(&c, EXPECTING "hello");
  client_expect(&c, 200, "hello");
  client_free(&c);
  fixture_stop(&f);
}

static void asks_in_turn(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/slow") EXPECTING);
  TURN_UNTIL(&f, f.n_seen == 2);
  for (int i = 0; i < 5; i++) turn(&f);
  client_receive(&c);
  assert_int_equal(c.in.size, 0); /* the answer of the first comes first */
  f.on_end = answer_echo;
  answer_ok(&f.seen[0]);
  client_expect(&c, 200, "ok");
  client_expect(&c, 100, NULL);
  client_say(&c, "hello");
  client_expect(&c, 200, "hello");
  client_free(&c);
  fixture_stop(&f);
}

static void asks_when_there_is_room(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_begin = pause_exchange;
  f.on_end = answer_echo;
  client_connect(&c, &f);
  client_say(&c, EXPECTING);
  TURN_UNTIL(&f, f.n_seen == 1);
  for (int i = 0; i < 5; i++) turn(&f);
  client_receive(&c);
  assert_int_equal(c.in.size, 0);
  exchange_resume(f.seen[0].exchange);
  client_expect(&c, 100, NULL);
  client_say(&c, "hello");
  client_expect(&c, 200, "hello");
  client_free(&c);
  fixture_stop(&f);
}

static void answer_not_found(struct seen *seen) { answer(seen, 404, "none", 4); }

static void does_not_ask_when_refused(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_begin = answer_not_found;
  client_connect(&c, &f);
  client_say(&c, EXPECTING);
  struct answer a = client_answer(&c);
  assert_int_equal(a.status, 404);
  assert_true(answer_has(&a, "Connection: close")); /* whether the body will come cannot be known */
  free(a.body);
  client_wait_closed(&c);
  assert_false(c.reset);
  client_free(&c);
  fixture_stop(&f);
}

/* ---- refusals by the connection ---------------------------------------------------------------------------------- */

static void early_answer_keeps_a_short_body_off(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_begin = answer_not_found;
  client_connect(&c, &f);
  client_say(&c, "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
  client_expect(&c, 404, "none");
  f.on_begin = NULL;
  client_say(&c, GET("/c"));
  client_expect(&c, 200, "ok");
  assert_int_equal(f.seen[0].n_body_calls, 0);
  client_free(&c);
  fixture_stop(&f);
}

/* Nobody knows how much of a chunked body is to come: the client is told that the connection ends, before it may. */
static void early_answer_to_a_chunked_body_is_the_last(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_begin = answer_not_found;
  client_connect(&c, &f);
  client_say(&c, "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
  struct answer a = client_answer(&c);
  assert_int_equal(a.status, 404);
  assert_true(answer_has(&a, "Connection: close"));
  client_wait_closed(&c);
  assert_false(c.reset);
  assert_int_equal(f.seen[0].n_body_calls, 0);
  free(a.body);
  client_free(&c);
  fixture_stop(&f);
}

/* The client sends all of a large body first and reads then: it must find the answer, not a reset. */
static void answer_survives_a_large_unread_body(bool chunked, int status, struct http_limits limits) {
  enum { SIZE = 8 << 20 };
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  if (status == 404) f.on_begin = answer_not_found;
  client_connect(&c, &f);
  char head[128], chunk[32];
  snprintf(head, sizeof head, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", SIZE);
  client_say(&c, chunked ? "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" : head);
  static char part[64 << 10];
  snprintf(chunk, sizeof chunk, "%zx\r\n", sizeof part);
  for (size_t sent = 0; sent < SIZE; sent += sizeof part) {
    if (chunked) client_say(&c, chunk);
    client_send(&c, part, sizeof part);
    if (chunked) client_say(&c, "\r\n");
  }
  struct answer a = client_answer(&c);
  assert_int_equal(a.status, status);
  if (status == 413) assert_true(answer_has(&a, "Connection: close"));
  free(a.body);
  client_wait_closed(&c);
  assert_false(c.reset);
  client_free(&c);
  fixture_stop(&f);
}

static void large_unread_bodies(void **state) {
  struct http_limits small = usual_limits;
  small.body_bytes = 1000;
  answer_survives_a_large_unread_body(false, 413, small);
  answer_survives_a_large_unread_body(true, 413, small);
  answer_survives_a_large_unread_body(false, 404, usual_limits);
  answer_survives_a_large_unread_body(true, 404, usual_limits);
}

static void body_limit_with_expectation(void **state) {
  struct http_limits limits = usual_limits;
  limits.body_bytes = 4;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  client_connect(&c, &f);
  client_say(&c, EXPECTING);
  client_expect(&c, 413, NULL); /* and no 100 before it */
  client_wait_closed(&c);
  assert_int_equal(f.n_seen, 0);
  client_free(&c);
  fixture_stop(&f);
}

static void body_limit_exactly(void **state) {
  struct http_limits limits = usual_limits;
  limits.body_bytes = 5;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  client_connect(&c, &f);
  client_say(&c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
  client_expect(&c, 200, "ok");
  client_say(&c, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
  client_expect(&c, 200, "ok");
  client_say(&c, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n");
  client_expect(&c, 413, NULL);
  assert_true(f.seen[2].gone);
  client_wait_closed(&c);
  client_free(&c);
  fixture_stop(&f);
}

static void malformed_requests(void **state) {
  static const struct {
    const char *request;
    int status;
  } cases[] = {
      {"nonsense\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\n\r\n", 400},
      {"GET / HTTP/1.1\nHost: h\n\n", 400},
      {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n0", 400},
      {"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n!", 505},
      {"\x16\x03\x01\x02\x01", 400},
      {"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", 501},
      {"GET / HTTP/1.1\r\nHost: h\r\nExpect: miracles\r\n\r\n", 417},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct fixture f;
    struct client c;
    fixture_start(&f, &usual_limits);
    client_connect(&c, &f);
    client_say(&c, GET("/before"));
    client_expect(&c, 200, "ok");
    client_say(&c, cases[i].request);
    struct answer a = client_answer(&c);
    assert_int_equal(a.status, cases[i].status);
    assert_true(answer_has(&a, "Connection: close"));
    assert_true(answer_has(&a, "Content-Type: application/json"));
    assert_non_null(strstr(a.body, "{\"error\":\""));
    free(a.body);
    client_wait_closed(&c);
    assert_false(c.reset);
    assert_int_equal(f.n_seen, 1);
    client_free(&c);
    fixture_stop(&f);
  }
}

/* An error behind requests that still run is answered behind them. */
static void malformed_in_a_pipeline(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/good") "BAD\r\n\r\n" GET("/never"));
  TURN_UNTIL(&f, f.n_seen == 1);
  for (int i = 0; i < 5; i++) turn(&f);
  client_receive(&c);
  assert_int_equal(c.in.size, 0);
  assert_false(f.seen[0].gone);
  answer_ok(&f.seen[0]);
  client_expect(&c, 200, "ok");
  client_expect(&c, 400, NULL);
  client_wait_closed(&c);
  assert_int_equal(f.n_seen, 1);
  client_free(&c);
  fixture_stop(&f);
}

static void broken_chunk_ends_the_exchange(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  client_connect(&c, &f);
  client_say(&c, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX");
  client_expect(&c, 400, NULL);
  assert_true(f.seen[0].gone);
  client_wait_closed(&c);
  client_free(&c);
  fixture_stop(&f);
}

static void head_too_large(void **state) {
  struct http_limits limits = usual_limits;
  limits.head_bytes = 512;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  client_connect(&c, &f);
  char request[1024];
  snprintf(request, sizeof request, "GET / HTTP/1.1\r\nHost: h\r\nX: %0600d\r\n\r\n", 0);
  client_say(&c, request);
  client_expect(&c, 431, NULL);
  client_wait_closed(&c);
  client_free(&c);
  fixture_stop(&f);
}

/* ---- compressed requests ----------------------------------------------------------------------------------------- */

static size_t deflated(int window, const void *data, size_t size, uint8_t *out, size_t room) {
  z_stream z = {0};
  assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, window, 8, Z_DEFAULT_STRATEGY), Z_OK);
  z.next_in = (Bytef *)(uintptr_t)data;
  z.avail_in = (uInt)size;
  z.next_out = out;
  z.avail_out = (uInt)room;
  assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
  deflateEnd(&z);
  return room - z.avail_out;
}

static void say_encoded(struct client *c, const char *coding, const uint8_t *data, size_t size) {
  char head[256];
  snprintf(head, sizeof head, "POST / HTTP/1.1\r\nHost: h\r\nContent-Encoding: %s\r\nContent-Length: %zu\r\n\r\n",
           coding, size);
  client_say(c, head);
  client_send(c, data, size);
}

static void compressed_bodies(void **state) {
  static const struct {
    const char *coding;
    int window;
  } cases[] = {{"gzip", 31}, {"x-gzip", 31}, {"deflate", 15}, {"deflate", -15}, {"GZIP", 31}};
  enum { SIZE = 300000 };
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.window = malloc(1 << 20);
  f.window_size = 1 << 20;
  client_connect(&c, &f);
  uint8_t *data = pattern_create(SIZE, 4), *packed = malloc(2 * SIZE);
  assert_non_null(packed);
  for (size_t i = 0; i < SIZE; i++) data[i] &= 0x3f; /* so that it can be packed a little */
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    size_t size = deflated(cases[i].window, data, SIZE, packed, 2 * SIZE);
    say_encoded(&c, cases[i].coding, packed, size);
    client_expect(&c, 200, "ok");
    assert_true(f.seen[i].encoded);
    assert_int_equal(f.seen[i].content_length, size);
    assert_int_equal(f.seen[i].body.size, SIZE);
    assert_memory_equal(f.seen[i].body.data, data, SIZE);
  }
  assert_int_equal(f.n_windows, 0);
  free(f.window);
  free(data);
  free(packed);
  client_free(&c);
  fixture_stop(&f);
}

static void identity_is_no_encoding(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_echo;
  client_connect(&c, &f);
  say_encoded(&c, "identity", (const uint8_t *)"plain", 5);
  client_expect(&c, 200, "plain");
  assert_false(f.seen[0].encoded);
  client_free(&c);
  fixture_stop(&f);
}

static void compressed_body_paused(void **state) {
  enum { SIZE = 2 << 20 };
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_body = pause_exchange;
  f.on_end = answer_never;
  client_connect(&c, &f);
  uint8_t *data = calloc(1, SIZE), *packed = malloc(SIZE); /* a few packed bytes become many pieces */
  assert_non_null(data);
  assert_non_null(packed);
  for (size_t i = 0; i < SIZE; i += 1000) data[i] = (uint8_t)(i / 1000);
  say_encoded(&c, "gzip", packed, deflated(31, data, SIZE, packed, SIZE));
  client_say(&c, GET("/next"));
  TURN_UNTIL(&f, f.n_seen == 1);
  struct seen *seen = &f.seen[0];
  size_t resumes = 0;
  while (!seen->ended) {
    TURN_UNTIL(&f, seen->n_body_calls > resumes || seen->ended);
    if (seen->ended) break;
    assert_int_equal(seen->n_body_calls, resumes + 1); /* one piece, then silence */
    turn(&f);
    assert_int_equal(seen->n_body_calls, resumes + 1);
    resumes++;
    exchange_resume(seen->exchange);
  }
  assert_true(resumes >= SIZE / 65536);
  assert_int_equal(seen->body.size, SIZE);
  assert_memory_equal(seen->body.data, data, SIZE);
  f.on_end = NULL;
  answer_ok(seen);
  client_expect(&c, 200, "ok");
  TURN_UNTIL(&f, f.n_seen == 2);
  if (f.seen[1].exchange != NULL) answer_ok(&f.seen[1]); /* it ended while nobody answered */
  client_expect(&c, 200, "ok");
  free(data);
  free(packed);
  client_free(&c);
  fixture_stop(&f);
}

static void bomb_is_stopped(void **state) {
  enum { SIZE = 64 << 20 };
  struct http_limits limits = usual_limits;
  limits.body_bytes = 1 << 20;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  client_connect(&c, &f);
  uint8_t *data = calloc(1, SIZE), *packed = malloc(1 << 20);
  assert_non_null(data);
  assert_non_null(packed);
  size_t size = deflated(31, data, SIZE, packed, 1 << 20);
  assert_true(size < 1 << 17);
  say_encoded(&c, "gzip", packed, size);
  client_expect(&c, 413, NULL);
  assert_true(f.seen[0].gone);
  assert_true(f.seen[0].body.size <= limits.body_bytes);
  client_wait_closed(&c);
  free(data);
  free(packed);
  client_free(&c);
  fixture_stop(&f);
}

static void bad_encodings(void **state) {
  uint8_t good[256];
  size_t size = deflated(31, "hello", 5, good, sizeof good - 16);
  static const uint8_t garbage[] = "this is not compressed";
  uint8_t more[256];
  memcpy(more, good, size);
  memcpy(more + size, "tail", 4);
  const struct {
    const char *coding;
    const uint8_t *data;
    size_t size;
    int status;
  } cases[] = {
      {"br", garbage, sizeof garbage, 415},
      {"gzip, gzip", good, size, 415},
      {"gzip", garbage, sizeof garbage, 400},
      {"deflate", (const uint8_t *)"\xff\xff\xff\xff", 4, 400},
      {"gzip", good, size - 1, 400},
      {"gzip", good, 5, 400},
      {"deflate", good, 1, 400},
      {"gzip", more, size + 4, 400},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct fixture f;
    struct client c;
    fixture_start(&f, &usual_limits);
    client_connect(&c, &f);
    say_encoded(&c, cases[i].coding, cases[i].data, cases[i].size);
    struct answer a = client_answer(&c);
    assert_int_equal(a.status, cases[i].status);
    assert_int_equal(answer_has(&a, "Accept-Encoding: gzip, deflate"), cases[i].status == 415);
    free(a.body);
    if (cases[i].status == 415) {
      client_say(&c, GET("/usable"));
      client_expect(&c, 200, "ok");
    }
    client_free(&c);
    fixture_stop(&f);
  }
}

/* ---- clients that leave ------------------------------------------------------------------------------------------ */

static void leaving_is_seen(void **state) {
  static const char *const requests[] = {
      GET("/running"),                                                            /* while it is served */
      "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhel",              /* in the body */
      "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", /* in a chunk */
  };
  for (size_t i = 0; i < 6; i++) {
    struct fixture f;
    struct client c;
    fixture_start(&f, &usual_limits);
    f.on_end = answer_never;
    client_connect(&c, &f);
    client_say(&c, requests[i / 2]);
    TURN_UNTIL(&f, f.n_seen == 1 && (f.seen[0].ended || f.seen[0].body.size == 3));
    if (i % 2 == 1) { /* with a reset */
      struct linger now = {.l_onoff = 1};
      assert_int_equal(setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &now, sizeof now), 0);
    }
    close(c.fd);
    c.fd = -1;
    TURN_UNTIL(&f, f.n_gone == 1);
    struct http_server_counts counts;
    http_server_count(f.server, &counts);
    assert_int_equal(counts.connections_open, 0);
    client_free(&c);
    fixture_stop(&f);
  }
}

static void leaving_is_seen_while_paused(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_begin = pause_exchange;
  client_connect(&c, &f);
  client_say(&c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhello");
  TURN_UNTIL(&f, f.n_seen == 1);
  close(c.fd);
  c.fd = -1;
  TURN_UNTIL(&f, f.n_gone == 1);
  client_free(&c);
  fixture_stop(&f);
}

static void leaving_is_seen_behind_a_full_pipeline(void **state) {
  struct http_limits limits = usual_limits;
  limits.pipeline = 1;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  for (int i = 0; i < 100; i++) client_say(&c, GET("/x"));
  TURN_UNTIL(&f, f.n_seen == 1);
  close(c.fd);
  c.fd = -1;
  TURN_UNTIL(&f, f.n_gone == 1);
  assert_int_equal(f.n_seen, 1);
  client_free(&c);
  fixture_stop(&f);
}

static void leaving_takes_the_pipeline_along(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/0") GET("/1") GET("/2"));
  TURN_UNTIL(&f, f.n_seen == 3);
  answer_ok(&f.seen[1]);
  close(c.fd);
  c.fd = -1;
  TURN_UNTIL(&f, f.n_gone == 2);
  assert_true(f.seen[0].gone && f.seen[2].gone);
  assert_int_equal(f.seen[1].n_done, 1);
  client_free(&c);
  fixture_stop(&f);
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

static void head_timeout(void **state) {
  struct http_limits limits = usual_limits;
  limits.head_timeout_ns = 1;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  client_connect(&c, &f);
  client_say(&c, "GET / HTTP/1.1\r\nHo");
  client_expect(&c, 408, NULL);
  client_wait_closed(&c);
  assert_false(c.reset);
  assert_int_equal(f.n_seen, 0);
  client_free(&c);
  fixture_stop(&f);
}

static void idle_timeout(void **state) {
  struct http_limits limits = usual_limits;
  limits.idle_timeout_ns = 1;
  struct fixture f;
  struct client fresh, used;
  fixture_start(&f, &limits);
  client_connect(&fresh, &f);
  client_connect(&used, &f);
  client_say(&used, GET("/"));
  client_expect(&used, 200, "ok");
  client_wait_closed(&fresh);
  client_wait_closed(&used);
  assert_int_equal(fresh.in.size + used.in.size, 0);
  client_free(&fresh);
  client_free(&used);
  fixture_stop(&f);
}

static void body_rate(void **state) {
  struct http_limits limits = usual_limits;
  limits.body_min_rate = 1000000;
  limits.body_grace_ns = 1;
  struct fixture f;
  struct client c;
  fixture_start(&f, &limits);
  client_connect(&c, &f);
  client_say(&c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhello");
  client_expect(&c, 408, NULL);
  assert_true(f.seen[0].gone);
  client_wait_closed(&c);
  client_free(&c);
  fixture_stop(&f);
}

/* Time that the service takes does not count: neither paused nor working. */
static void service_time_is_free(void **state) {
  struct http_limits limits = usual_limits;
  limits.body_min_rate = 1000000;
  limits.body_grace_ns = limits.head_timeout_ns = 1;
  struct fixture f;
  struct client c, other;
  fixture_start(&f, &limits);
  f.on_begin = pause_exchange;
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_connect(&other, &f);
  client_say(&c, "POST /paused HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
  TURN_UNTIL(&f, f.n_seen == 1);
  /* another client's timeout shows that the time has passed */
  f.on_begin = NULL;
  client_say(&other, "POST /late HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n");
  client_expect(&other, 408, NULL);
  exchange_resume(f.seen[0].exchange);
  TURN_UNTIL(&f, f.seen[0].ended);
  struct client third;
  client_connect(&third, &f);
  client_say(&third, "POST /late HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n");
  client_expect(&third, 408, NULL);
  answer_ok(&f.seen[0]);
  client_expect(&c, 200, "ok");
  client_free(&c);
  client_free(&other);
  client_free(&third);
  fixture_stop(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(keeps_alive),
      cmocka_unit_test(headers_of_interest),
      cmocka_unit_test(targets),
      cmocka_unit_test(split_anywhere),
      cmocka_unit_test(http10_and_close),
      cmocka_unit_test(head_has_no_body),
      cmocka_unit_test(pipeline_in_order),
      cmocka_unit_test(pipeline_is_bounded),
      cmocka_unit_test(full_pipeline_reads_no_more),
      cmocka_unit_test(window_is_read_into),
      cmocka_unit_test(windows_of_any_size),
      cmocka_unit_test(no_window_for_chunks),
      cmocka_unit_test(pause_holds_everything_back),
      cmocka_unit_test(pause_in_every_piece),
      cmocka_unit_test(answer_while_paused),
      cmocka_unit_test(continues),
      cmocka_unit_test(does_not_ask_for_what_has_come),
      cmocka_unit_test(asks_in_turn),
      cmocka_unit_test(asks_when_there_is_room),
      cmocka_unit_test(does_not_ask_when_refused),
      cmocka_unit_test(early_answer_keeps_a_short_body_off),
      cmocka_unit_test(early_answer_to_a_chunked_body_is_the_last),
      cmocka_unit_test(large_unread_bodies),
      cmocka_unit_test(body_limit_with_expectation),
      cmocka_unit_test(body_limit_exactly),
      cmocka_unit_test(malformed_requests),
      cmocka_unit_test(malformed_in_a_pipeline),
      cmocka_unit_test(broken_chunk_ends_the_exchange),
      cmocka_unit_test(head_too_large),
      cmocka_unit_test(compressed_bodies),
      cmocka_unit_test(identity_is_no_encoding),
      cmocka_unit_test(compressed_body_paused),
      cmocka_unit_test(bomb_is_stopped),
      cmocka_unit_test(bad_encodings),
      cmocka_unit_test(leaving_is_seen),
      cmocka_unit_test(leaving_is_seen_while_paused),
      cmocka_unit_test(leaving_is_seen_behind_a_full_pipeline),
      cmocka_unit_test(leaving_takes_the_pipeline_along),
      cmocka_unit_test(head_timeout),
      cmocka_unit_test(idle_timeout),
      cmocka_unit_test(body_rate),
      cmocka_unit_test(service_time_is_free),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
