/* The client side against a peer that says what a table lets it say, split at every byte. */
#include "net/client.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"

#define LIMIT_NS (60 * NS_PER_S)
enum { ENDED = -1, NOTHING = -2, BODY_MOST = 64, LARGE_LINE = 70 * 1024 };

/* What became of a request. */
struct seen {
  struct client_request request;
  int outcome; /* NOTHING so far, ENDED, or how it failed */
  int status, n_last;
  char body[BODY_MOST], trailer[16];
  size_t size;
};

static struct seen *seen_of(struct client_request *request) { return list_item(request, struct seen, request); }

static void on_head(struct client_request *request, int status, struct client_lines lines, uint64_t content_length) {
  seen_of(request)->status = status;
}
static void on_body(struct client_request *request, const uint8_t *data, size_t size) {
  struct seen *seen = seen_of(request);
  assert_true(size <= BODY_MOST - seen->size);
  memcpy(seen->body + seen->size, data, size);
  seen->size += size;
}
static void on_end(struct client_request *request, struct client_lines trailers) {
  struct seen *seen = seen_of(request);
  const char *status = client_line(trailers, "grpc-status");
  if (status != NULL) snprintf(seen->trailer, sizeof seen->trailer, "%s", status);
  seen->outcome = ENDED;
  seen->n_last++;
}
static void on_failed(struct client_request *request, enum client_failure failure, const char *why) {
  assert_true(why[0] != '\0');
  seen_of(request)->outcome = (int)failure;
  seen_of(request)->n_last++;
}
static const struct client_events events = {.head = on_head, .body = on_body, .end = on_end, .failed = on_failed};

/* ---- what the peer says ------------------------------------------------------------------------------------------ */

#define SETTINGS "\0\0\0\x04\0\0\0\0\0"
#define HEAD_200 "\0\0\x01\x01\x04\0\0\0\x01\x88"
#define HEAD_200_END "\0\0\x01\x01\x05\0\0\0\x01\x88"
#define DATA "\0\0\x05\0\0\0\0\0\x01hello"
#define DATA_END "\0\0\x05\0\x01\0\0\0\x01hello"
#define TRAILERS "\0\0\x0f\x01\x05\0\0\0\x01\0\x0bgrpc-status\x01\x30"
#define RESET(code) "\0\0\x04\x03\0\0\0\0\x01\0\0\0" code
#define GOAWAY(last) "\0\0\x08\x07\0\0\0\0\0\0\0\0" last "\0\0\0\0"
#define SAYS(text) text, sizeof(text) - 1

static const struct script {
  const char *name;
  enum client_protocol protocol;
  const char *text;
  size_t size;
  bool closes; /* behind its text */
  int outcome, status;
  const char *body, *trailer;
} scripts[] = {
    {"a length", CLIENT_HTTP1, SAYS("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), false, ENDED, 200, "hello",
     ""},
    {"chunks behind an interim answer", CLIENT_HTTP1,
     SAYS("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
          "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
     false, ENDED, 200, "hello", ""},
    {"until the end", CLIENT_HTTP1, SAYS("HTTP/1.1 200 OK\r\n\r\nhello"), true, ENDED, 200, "hello", ""},
    {"no content", CLIENT_HTTP1, SAYS("HTTP/1.1 204 No Content\r\n\r\n"), false, ENDED, 204, "", ""},
    {"half a body", CLIENT_HTTP1, SAYS("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"), true, CLIENT_BROKEN, 200,
     "hel", ""},
    {"half a chunk", CLIENT_HTTP1, SAYS("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"), true,
     CLIENT_BROKEN, 200, "hello", ""},
    {"half a head", CLIENT_HTTP1, SAYS("HTTP/1.1 200 OK\r\nContent-"), true, CLIENT_BROKEN, 0, "", ""},
    {"nothing", CLIENT_HTTP1, SAYS(""), true, CLIENT_BROKEN, 0, "", ""},
    {"another protocol", CLIENT_HTTP1, SAYS("\x16\x03\x01 what\r\n\r\n"), false, CLIENT_BROKEN, 0, "", ""},
    {"a switch of protocols", CLIENT_HTTP1, SAYS("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), false,
     CLIENT_BROKEN, 0, "", ""},
    {"HTTP/2: trailers", CLIENT_HTTP2, SAYS(SETTINGS HEAD_200 DATA TRAILERS), false, ENDED, 200, "hello", "0"},
    {"HTTP/2: no trailers", CLIENT_HTTP2, SAYS(SETTINGS HEAD_200 DATA_END), false, ENDED, 200, "hello", ""},
    {"HTTP/2: a head alone", CLIENT_HTTP2, SAYS(SETTINGS HEAD_200_END), false, ENDED, 200, "", ""},
    {"HTTP/2: refused", CLIENT_HTTP2, SAYS(SETTINGS RESET("\x07")), false, CLIENT_UNSEEN, 0, "", ""},
    {"HTTP/2: reset", CLIENT_HTTP2, SAYS(SETTINGS HEAD_200 DATA RESET("\x02")), false, CLIENT_BROKEN, 200, "hello", ""},
    {"HTTP/2: GOAWAY before it", CLIENT_HTTP2, SAYS(SETTINGS GOAWAY("\0")), true, CLIENT_UNSEEN, 0, "", ""},
    {"HTTP/2: GOAWAY behind it", CLIENT_HTTP2, SAYS(SETTINGS GOAWAY("\x01") HEAD_200 DATA_END), true, ENDED, 200,
     "hello", ""},
    {"HTTP/2: half an answer", CLIENT_HTTP2, SAYS(SETTINGS HEAD_200 DATA), true, CLIENT_BROKEN, 200, "hello", ""},
    {"HTTP/2: nothing", CLIENT_HTTP2, SAYS(""), true, CLIENT_BROKEN, 0, "", ""},
    {"HTTP/2: a body without a head", CLIENT_HTTP2, SAYS(SETTINGS DATA_END), false, CLIENT_BROKEN, 0, "", ""},
    {"HTTP/2: another protocol", CLIENT_HTTP2, SAYS("HTTP/1.1 400 Bad Request\r\n\r\n"), false, CLIENT_BROKEN, 0, "",
     ""},
};
enum { N_SCRIPTS = sizeof scripts / sizeof *scripts };

/* ---- the two sides ----------------------------------------------------------------------------------------------- */

struct world {
  struct net_loop *loop;
  struct client *client;
  struct client_host *host;
  uv_timer_t tick;
  int listener;
};

static void on_tick(uv_timer_t *timer) {}

static void world_start(struct world *w, enum client_protocol protocol) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  w->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  assert_int_equal(bind(w->listener, (struct sockaddr *)&address, size), 0);
  assert_int_equal(listen(w->listener, 8), 0);
  assert_int_equal(getsockname(w->listener, (struct sockaddr *)&address, &size), 0);
  w->loop = net_loop_create();
  w->client = client_create(w->loop);
  assert_non_null(w->client);
  w->host = client_host_create(w->client, protocol, "peer", (struct sockaddr *)&address, size, 60 * NS_PER_S);
  assert_non_null(w->host);
  uv_timer_init(net_loop_uv(w->loop), &w->tick);
  uv_timer_start(&w->tick, on_tick, 2, 2);
}

static void world_stop(struct world *w) {
  client_host_free(w->host);
  client_free(w->client);
  net_loop_free(w->loop);
  close(w->listener);
}

static void turn(struct world *w) { uv_run(net_loop_uv(w->loop), UV_RUN_ONCE); }

#define TURN_UNTIL(w, condition)                                           \
  for (uint64_t limit_ = clock_now_ns() + LIMIT_NS; !(condition); turn(w)) \
    if (clock_now_ns() > limit_) fail_msg("waited in vain for: %s", #condition)

static void begin(struct world *w, struct seen *seen, struct client_lines lines) {
  const struct client_head head = {.method = "GET", .path = "/a", .query = "", .lines = lines};
  mu_error err;
  *seen = (struct seen){.request = {.events = &events}, .outcome = NOTHING};
  assert_int_equal(client_start(w->host, &seen->request, &head, &err), MU_OK);
  assert_int_equal(seen->outcome, NOTHING);
}

/* The connection, once the request has come over it. */
static int accept_request(struct world *w) {
  uint8_t request[4096];
  int fd = -1;
  TURN_UNTIL(w, (fd = accept(w->listener, NULL, NULL)) >= 0);
  TURN_UNTIL(w, recv(fd, request, sizeof request, MSG_DONTWAIT) > 0);
  return fd;
}

static void say(int fd, const char *text, size_t size) {
  if (size > 0) (void)!send(fd, text, size, MSG_NOSIGNAL); /* the client may have had enough of it */
}

static void play(const struct script *script, size_t split) {
  struct world w;
  struct seen seen;
  world_start(&w, script->protocol);
  begin(&w, &seen, (struct client_lines){0});
  int fd = accept_request(&w);
  say(fd, script->text, split);
  for (int i = 0; i < 2; i++) uv_run(net_loop_uv(w.loop), UV_RUN_NOWAIT);
  say(fd, script->text + split, script->size - split);
  if (script->closes) shutdown(fd, SHUT_WR);
  TURN_UNTIL(&w, seen.outcome != NOTHING);
  turn(&w); /* nothing comes behind the last event */
  if (seen.outcome != script->outcome || seen.status != script->status || seen.n_last != 1 ||
      seen.size != strlen(script->body) || memcmp(seen.body, script->body, seen.size) != 0 ||
      strcmp(seen.trailer, script->trailer) != 0)
    fail_msg("%s, split at %zu: outcome %d, status %d, body \"%.*s\", trailer \"%s\"", script->name, split,
             seen.outcome, seen.status, (int)seen.size, seen.body, seen.trailer);
  close(fd);
  world_stop(&w);
}

static size_t open_files(void) {
  size_t n = 0;
  DIR *folder = opendir("/proc/self/fd");
  assert_non_null(folder);
  while (readdir(folder) != NULL) n++;
  closedir(folder);
  return n;
}

static void test_split_at_every_byte(void **state) {
  play(&scripts[0], 0); /* what libuv keeps for the process is open now */
  size_t before = open_files();
  for (size_t i = 0; i < N_SCRIPTS; i++)
    for (size_t split = 0; split <= scripts[i].size; split++) play(&scripts[i], split);
  assert_int_equal(open_files(), before);
}

/* A line "x: vvv…" */
static struct client_lines large_line(char *text) {
  memset(text, 'v', LARGE_LINE);
  memcpy(text, "x", 2);
  text[LARGE_LINE - 1] = '\0';
  return (struct client_lines){text, LARGE_LINE};
}

static void test_a_head_too_large_to_send(void **state) {
  static char text[LARGE_LINE];
  struct world w;
  struct seen large, small;
  world_start(&w, CLIENT_HTTP2);
  begin(&w, &large, large_line(text));
  begin(&w, &small, (struct client_lines){0}); /* on the same connection, which lives on */
  TURN_UNTIL(&w, large.outcome != NOTHING);
  assert_int_equal(large.outcome, CLIENT_UNSENDABLE);
  assert_int_equal(small.outcome, NOTHING);
  client_cancel(&small.request);
  turn(&w);
  assert_int_equal(small.outcome, NOTHING);
  world_stop(&w);
}

static void test_an_answer_with_too_large_a_head(void **state) {
  static char text[LARGE_LINE + 64] = "HTTP/1.1 200 OK\r\nX: ";
  struct world w;
  struct seen seen;
  world_start(&w, CLIENT_HTTP1);
  begin(&w, &seen, (struct client_lines){0});
  int fd = accept_request(&w);
  memset(text + strlen(text), 'v', LARGE_LINE);
  for (size_t at = 0; at < sizeof text && seen.outcome == NOTHING; at += 4096) {
    say(fd, text + at, at + 4096 < sizeof text ? 4096 : sizeof text - at);
    turn(&w);
  }
  TURN_UNTIL(&w, seen.outcome != NOTHING);
  assert_int_equal(seen.outcome, CLIENT_UNREADABLE);
  close(fd);
  world_stop(&w);
}

static void test_nobody_there(void **state) {
  struct world w;
  struct seen seen;
  world_start(&w, CLIENT_HTTP2);
  shutdown(w.listener, SHUT_RDWR); /* the port stays ours, and refuses */
  begin(&w, &seen, (struct client_lines){0});
  TURN_UNTIL(&w, seen.outcome != NOTHING);
  assert_int_equal(seen.outcome, CLIENT_REFUSED);
  world_stop(&w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_split_at_every_byte), cmocka_unit_test(test_a_head_too_large_to_send),
      cmocka_unit_test(test_an_answer_with_too_large_a_head), cmocka_unit_test(test_nobody_there)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
