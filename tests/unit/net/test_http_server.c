/* Listeners, limits of connections, drain, end. */
#include "http_fixture.h"

#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/un.h>

#define GET(path) "GET " path " HTTP/1.1\r\nHost: h\r\n\r\n"

static uint64_t open_connections(struct fixture *f) {
  struct http_server_counts counts;
  http_server_count(f->server, &counts);
  return counts.connections_open;
}

/* ---- accepting --------------------------------------------------------------------------------------------------- */

static void connections_beyond_the_limit_wait(void **state) {
  struct http_limits limits = usual_limits;
  limits.connections = 2;
  struct fixture f;
  struct client c[4];
  fixture_start(&f, &limits);
  for (int i = 0; i < 4; i++) {
    client_connect(&c[i], &f);
    client_say(&c[i], GET("/"));
  }
  client_expect(&c[0], 200, "ok");
  client_expect(&c[1], 200, "ok");
  for (int i = 0; i < 5; i++) turn(&f);
  assert_int_equal(f.n_seen, 2);
  assert_int_equal(open_connections(&f), 2);
  client_free(&c[0]);
  client_expect(&c[2], 200, "ok");
  for (int i = 0; i < 5; i++) turn(&f);
  assert_int_equal(f.n_seen, 3);
  client_free(&c[1]);
  client_expect(&c[3], 200, "ok");
  client_free(&c[2]);
  client_free(&c[3]);
  fixture_stop(&f);
}

static void survives_without_descriptors(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  client_connect(&c, &f);
  client_say(&c, GET("/"));
  struct rlimit limit, none;
  assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
  none = limit;
  none.rlim_cur = 0;
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
  for (int i = 0; i < 100; i++) turn(&f);
  assert_int_equal(f.n_seen, 0);
  assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
  client_expect(&c, 200, "ok");
  client_free(&c);
  fixture_stop(&f);
}

static void unix_socket(void **state) {
  struct fixture f;
  fixture_start(&f, &usual_limits);
  char path[] = "/tmp/test_http_server.XXXXXX";
  assert_non_null(mkdtemp(path));
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  snprintf(name.sun_path, sizeof name.sun_path, "%s/socket", path);
  int fd;
  mu_error err;
  assert_int_equal(listen_unix(name.sun_path, &fd, &err), MU_OK);
  assert_int_equal(http_server_listen(f.server, fd, &err), MU_OK);
  struct client c = {.fixture = &f, .fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  buffer_init(&c.in, SIZE_MAX / 2);
  assert_int_equal(connect(c.fd, (struct sockaddr *)&name, sizeof name), 0);
  assert_int_equal(fcntl(c.fd, F_SETFL, O_NONBLOCK), 0);
  client_say(&c, GET("/") GET("/"));
  client_expect(&c, 200, "ok");
  client_expect(&c, 200, "ok");
  client_free(&c);
  TURN_UNTIL(&f, open_connections(&f) == 0);
  fixture_stop(&f);
  unlink(name.sun_path);
  rmdir(path);
}

static void two_servers_on_a_loop(void **state) {
  struct fixture f, g = {0};
  fixture_start(&f, &usual_limits);
  f.on_end = answer_path;
  g.loop = f.loop;
  g.server = http_server_create(f.loop, &recording, &g, &usual_limits);
  assert_non_null(g.server);
  int fd;
  mu_error err;
  assert_int_equal(listen_tcp("127.0.0.1", 0, 1, &fd, &g.port, &err), MU_OK);
  assert_int_equal(http_server_listen(g.server, fd, &err), MU_OK);
  struct client a, b;
  client_connect(&a, &f);
  client_connect(&b, &g);
  client_say(&a, GET("/a"));
  client_say(&b, GET("/b"));
  client_expect(&a, 200, "/a");
  client_expect(&b, 200, "ok");
  assert_true(f.seen[0].serial != g.seen[0].serial); /* unique in the process */
  http_server_free(g.server);
  client_wait_closed(&b);
  client_say(&a, GET("/a"));
  client_expect(&a, 200, "/a");
  buffer_free(&g.seen[0].body);
  client_free(&a);
  client_free(&b);
  fixture_stop(&f);
}

/* Small answers must not wait for the client's acknowledgement of the ones before. */
static void no_delay_is_inherited(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  client_connect(&c, &f);
  client_say(&c, GET("/"));
  TURN_UNTIL(&f, f.n_seen == 1);
  struct sockaddr_in mine, theirs;
  socklen_t size = sizeof mine;
  assert_int_equal(getsockname(c.fd, (struct sockaddr *)&mine, &size), 0);
  int found = 0;
  for (int fd = 3; fd < 256; fd++) {
    size = sizeof theirs;
    if (getpeername(fd, (struct sockaddr *)&theirs, &size) != 0 || theirs.sin_port != mine.sin_port) continue;
    int on = 0;
    size = sizeof on;
    assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &size), 0);
    assert_int_equal(on, 1);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    found++;
  }
  assert_int_equal(found, 1);
  answer_ok(&f.seen[0]);
  client_expect(&c, 200, "ok");
  client_free(&c);
  fixture_stop(&f);
}

/* ---- drain ------------------------------------------------------------------------------------------------------- */

static void set_drained(void *context) {
  struct fixture *f = context;
  assert_false(f->drained);
  f->drained = true;
}

static void drain_without_connections(void **state) {
  struct fixture f;
  fixture_start(&f, &usual_limits);
  http_server_drain(f.server, set_drained, &f);
  assert_false(f.drained); /* not from inside the call */
  TURN_UNTIL(&f, f.drained);
  fixture_stop(&f);
}

static void drain_finishes_what_is_there(void **state) {
  struct fixture f;
  struct client idle, busy, pipelined, backlog;
  fixture_start(&f, &usual_limits);
  client_connect(&idle, &f);
  client_say(&idle, GET("/idle"));
  client_expect(&idle, 200, "ok");
  f.on_end = answer_never;
  client_connect(&busy, &f);
  client_connect(&pipelined, &f);
  client_say(&busy, GET("/busy"));
  client_say(&pipelined, GET("/p1") GET("/p2"));
  TURN_UNTIL(&f, f.n_seen == 4);
  client_connect(&backlog, &f); /* nobody has accepted it yet */
  client_say(&backlog, GET("/backlog"));
  http_server_drain(f.server, set_drained, &f);
  client_wait_closed(&idle);
  assert_false(idle.reset);
  TURN_UNTIL(&f, f.n_seen == 5);
  assert_false(f.drained);
  /* no new ones */
  struct sockaddr_in name = {
      .sin_family = AF_INET, .sin_port = htons(f.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_int_equal(connect(fd, (struct sockaddr *)&name, sizeof name), -1);
  assert_int_equal(errno, ECONNREFUSED);
  close(fd);
  for (size_t i = 1; i < 5; i++) answer_path(&f.seen[i]);
  struct client *others[] = {&busy, &pipelined, &backlog};
  for (int i = 0; i < 3; i++) {
    if (others[i] == &pipelined) client_expect(&pipelined, 200, "/p1");
    struct answer a = client_answer(others[i]);
    assert_int_equal(a.status, 200);
    assert_true(answer_has(&a, "Connection: close"));
    free(a.body);
    assert_false(f.drained);
    client_wait_closed(others[i]);
    assert_false(others[i]->reset);
    client_free(others[i]);
  }
  TURN_UNTIL(&f, f.drained);
  client_free(&idle);
  fixture_stop(&f);
}

static void drain_takes_a_request_that_has_arrived(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  client_connect(&c, &f);
  client_say(&c, GET("/1"));
  client_expect(&c, 200, "ok");
  assert_true(send(c.fd, GET("/2"), sizeof GET("/2") - 1, MSG_NOSIGNAL) > 0);
  http_server_drain(f.server, set_drained, &f);
  struct answer a = client_answer(&c);
  assert_true(answer_has(&a, "Connection: close"));
  free(a.body);
  client_wait_closed(&c);
  assert_false(c.reset);
  client_free(&c);
  TURN_UNTIL(&f, f.drained);
  fixture_stop(&f);
}

/* Connected, but never said a word: it gets a moment, then it does not hold up the end. */
static void drain_does_not_wait_for_silent_clients(void **state) {
  struct fixture f;
  struct client silent, late;
  fixture_start(&f, &usual_limits);
  client_connect(&silent, &f);
  client_connect(&late, &f);
  TURN_UNTIL(&f, open_connections(&f) == 2);
  http_server_drain(f.server, set_drained, &f);
  turn(&f);
  assert_int_equal(open_connections(&f), 2);
  client_say(&late, GET("/"));
  struct answer a = client_answer(&late);
  assert_true(answer_has(&a, "Connection: close"));
  free(a.body);
  client_wait_closed(&late);
  client_free(&late);
  client_wait_closed(&silent);
  TURN_UNTIL(&f, f.drained);
  client_free(&silent);
  fixture_stop(&f);
}

/* ---- handing over ------------------------------------------------------------------------------------------------ */

static struct {
  struct http_server *server; /* that takes what is given */
  mu_status answer;           /* to whoever gives */
  int given;
} heir;

static mu_status give(void *context, int fd) {
  if (heir.answer != MU_OK) return heir.answer;
  heir.given++;
  assert_int_equal(http_server_adopt(heir.server, fcntl(fd, F_DUPFD_CLOEXEC, 0)), MU_OK);
  return MU_OK;
}

static void start_heir(struct fixture *f, mu_status answer) {
  heir.server = http_server_create(f->loop, &recording, f, &f->limits);
  assert_non_null(heir.server);
  heir.answer = answer;
  heir.given = 0;
}

static uint64_t heirs_connections(void) {
  struct http_server_counts counts;
  http_server_count(heir.server, &counts);
  return counts.connections_open;
}

/* A listener that the other process has too, with what waits in its backlog. */
static int share_listener(struct fixture *f) {
  int fd;
  mu_error err;
  assert_int_equal(listen_tcp("127.0.0.1", 0, 1, &fd, &f->port, &err), MU_OK);
  assert_int_equal(http_server_listen(f->server, fcntl(fd, F_DUPFD_CLOEXEC, 0), &err), MU_OK);
  return fd;
}

static void connections_go_to_the_heir(void **state) {
  struct fixture f;
  struct client idle, silent, busy, half, pipelined, late;
  mu_error err;
  fixture_start(&f, &usual_limits);
  int shared = share_listener(&f);
  start_heir(&f, MU_OK);
  http_server_hold(heir.server);
  assert_int_equal(http_server_listen(heir.server, shared, &err), MU_OK);
  client_connect(&idle, &f);
  client_say(&idle, GET("/idle"));
  client_expect(&idle, 200, "ok");
  client_connect(&silent, &f);
  f.on_end = answer_never;
  client_connect(&busy, &f);
  client_say(&busy, GET("/busy"));
  client_connect(&pipelined, &f);
  client_say(&pipelined, GET("/p1") GET("/p2") "GET /p3 HTTP/1.1\r\nHo");
  client_connect(&half, &f);
  client_say(&half, "GET /half HTTP/1.1\r\nHo");
  TURN_UNTIL(&f, open_connections(&f) == 5 && f.n_seen == 4);
  for (int i = 0; i < 20; i++) turn(&f);
  assert_int_equal(heirs_connections(), 0); /* it holds */

  http_server_hand_over(f.server, give, set_drained, &f);
  client_connect(&late, &f);
  client_say(&late, GET("/late"));
  TURN_UNTIL(&f, heir.given == 2); /* idle and silent */
  for (int i = 0; i < 20; i++) turn(&f);
  assert_int_equal(heirs_connections(), 2);
  assert_int_equal(f.n_seen, 4); /* late waits in the backlog */
  f.on_end = answer_path;
  http_server_open(heir.server);
  client_expect(&late, 200, "/late");
  client_say(&idle, GET("/idle2"));
  client_expect(&idle, 200, "/idle2");
  client_say(&silent, GET("/silent"));
  client_expect(&silent, 200, "/silent");

  assert_false(f.drained);
  client_say(&busy, GET("/busy2")); /* the heir's to read */
  for (int i = 0; i < 20; i++) turn(&f);
  assert_int_equal(f.n_seen, 7);
  for (size_t i = 1; i < 4; i++) answer_path(&f.seen[i]);
  client_expect(&busy, 200, "/busy");
  client_expect(&busy, 200, "/busy2");
  client_expect(&pipelined, 200, "/p1");
  client_expect(&pipelined, 200, "/p2");
  client_say(&pipelined, "st: h\r\n\r\n" GET("/p4"));
  client_expect(&pipelined, 200, "/p3");
  client_expect(&pipelined, 200, "/p4");
  client_say(&half, "st: h\r\n\r\n" GET("/half2"));
  client_expect(&half, 200, "/half");
  client_expect(&half, 200, "/half2");
  TURN_UNTIL(&f, f.drained);
  assert_int_equal(open_connections(&f), 0);
  assert_int_equal(heirs_connections(), 6);
  struct client *all[] = {&idle, &silent, &busy, &half, &pipelined, &late};
  for (int i = 0; i < 6; i++) {
    client_receive(all[i]);
    assert_false(all[i]->closed);
    client_free(all[i]);
  }
  TURN_UNTIL(&f, heirs_connections() == 0);
  http_server_free(heir.server);
  fixture_stop(&f);
}

static void an_heir_that_is_busy_is_asked_again(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  start_heir(&f, MU_UNAVAILABLE);
  client_connect(&c, &f);
  client_say(&c, GET("/1"));
  client_expect(&c, 200, "ok");
  http_server_hand_over(f.server, give, set_drained, &f);
  client_say(&c, GET("/2"));
  for (int i = 0; i < 20; i++) turn(&f);
  assert_int_equal(f.n_seen, 1);
  heir.answer = MU_OK;
  client_expect(&c, 200, "ok");
  assert_int_equal(heirs_connections(), 1);
  TURN_UNTIL(&f, f.drained);
  client_free(&c);
  http_server_free(heir.server);
  fixture_stop(&f);
}

static void without_an_heir_clients_may_speak_once_more(void **state) {
  struct fixture f;
  struct client c[2];
  fixture_start(&f, &usual_limits);
  start_heir(&f, MU_UNAVAILABLE);
  for (int i = 0; i < 2; i++) {
    client_connect(&c[i], &f);
    client_say(&c[i], GET("/1"));
    client_expect(&c[i], 200, "ok");
  }
  http_server_hand_over(f.server, give, set_drained, &f);
  for (int i = 0; i < 20; i++) turn(&f); /* both wait without being read */
  heir.answer = MU_CANCELED;
  for (int i = 0; i < 2; i++) {
    client_say(&c[i], GET("/2"));
    struct answer a = client_answer(&c[i]);
    assert_int_equal(a.status, 200);
    assert_true(answer_has(&a, "Connection: close"));
    free(a.body);
    client_wait_closed(&c[i]);
    assert_false(c[i].reset);
    client_free(&c[i]);
  }
  TURN_UNTIL(&f, f.drained);
  http_server_free(heir.server);
  fixture_stop(&f);
}

static void a_drain_ends_a_handover(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  start_heir(&f, MU_UNAVAILABLE);
  client_connect(&c, &f);
  client_say(&c, GET("/1"));
  client_expect(&c, 200, "ok");
  http_server_hand_over(f.server, give, set_drained, &f);
  for (int i = 0; i < 5; i++) turn(&f);
  http_server_drain(f.server, set_drained, &f);
  client_wait_closed(&c);
  TURN_UNTIL(&f, f.drained);
  assert_int_equal(heir.given, 0);
  client_free(&c);
  http_server_free(heir.server);
  fixture_stop(&f);
}

static struct fixture *draining;
static void drain_from_inside(struct seen *seen) {
  http_server_drain(draining->server, set_drained, draining);
  answer_path(seen);
}

static void drain_from_inside_a_request(void **state) {
  struct fixture f;
  struct client c;
  fixture_start(&f, &usual_limits);
  draining = &f;
  f.on_end = drain_from_inside;
  client_connect(&c, &f);
  client_say(&c, GET("/last") GET("/lost"));
  struct answer a = client_answer(&c);
  assert_string_equal(a.body, "/last");
  assert_true(answer_has(&a, "Connection: close"));
  free(a.body);
  client_wait_closed(&c);
  assert_false(c.reset);
  client_free(&c);
  TURN_UNTIL(&f, f.drained);
  assert_int_equal(f.n_seen, 1);
  fixture_stop(&f);
}

/* ---- end --------------------------------------------------------------------------------------------------------- */

static void free_tells_everybody(void **state) {
  struct fixture f;
  struct client c[3];
  fixture_start(&f, &usual_limits);
  f.on_end = answer_never;
  for (int i = 0; i < 3; i++) {
    client_connect(&c[i], &f);
    client_say(&c[i], i == 2 ? "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nx" : GET("/") GET("/"));
  }
  TURN_UNTIL(&f, f.n_seen == 5 && (f.seen[4].body.size == 1 || f.seen[3].body.size == 1 || f.seen[2].body.size == 1));
  fixture_stop(&f);
  assert_int_equal(f.n_gone, 5);
  for (int i = 0; i < 3; i++) client_free(&c[i]);
}

static void free_of_nothing(void **state) {
  http_server_free(NULL);
  struct net_loop *loop = net_loop_create();
  struct http_server *server = http_server_create(loop, &recording, NULL, &usual_limits);
  assert_non_null(server);
  http_server_free(server);
  net_loop_free(loop);
}

/* Random clients: cut anywhere, leaving anywhere, answered in any order. Nothing is lost, nothing is told twice. */
static void random_clients(void **state) {
  enum { CLIENTS = 6, ROUNDS = 100 };
  static const char *const requests[] = {
      GET("/a"),
      "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\n12345678901234567890",
      "POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
      "HEAD /d HTTP/1.1\r\nHost: h\r\n\r\n",
      "GET /e HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
      "rubbish\r\n\r\n",
      "POST /f HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
  };
  srand(11);
  static uint8_t large[300000];
  for (int round = 0; round < ROUNDS; round++) {
    struct fixture f;
    struct client c[CLIENTS];
    fixture_start(&f, &usual_limits);
    f.on_end = answer_never;
    if (round % 3 == 0) f.on_begin = NULL;
    for (int i = 0; i < CLIENTS; i++) client_connect(&c[i], &f);
    for (int step = 0; step < 40; step++) {
      struct client *one = &c[rand() % CLIENTS];
      const char *request = requests[(size_t)rand() % (sizeof requests / sizeof *requests)];
      size_t size = strlen(request);
      if (rand() % 4 == 0) size = (size_t)rand() % size;
      if (one->fd >= 0 && f.n_seen < SEEN_MOST - 20 && send(one->fd, request, size, MSG_NOSIGNAL) < 0)
        one->closed = true;
      for (int i = rand() % 3; i > 0; i--) turn(&f);
      struct seen *seen = f.n_seen > 0 ? &f.seen[(size_t)rand() % f.n_seen] : NULL;
      if (seen != NULL && seen->exchange != NULL && !seen->ended && rand() % 3 == 0) {
        if (rand() % 2)
          exchange_pause(seen->exchange);
        else
          exchange_resume(seen->exchange);
      } else if (seen != NULL && seen->exchange != NULL && (seen->ended || rand() % 4 == 0)) {
        answer(seen, 200, large, (size_t)rand() % (rand() % 3 ? 100 : sizeof large));
      }
      if (one->fd >= 0 && rand() % 25 == 0) {
        close(one->fd);
        one->fd = -1;
      } else if (one->fd >= 0) {
        client_receive(one);
      }
      if (step == 35 && round % 4 == 0) http_server_drain(f.server, set_drained, &f);
    }
    fixture_stop(&f);
    for (size_t i = 0; i < f.n_seen; i++) assert_int_equal(f.seen[i].n_done + f.seen[i].gone, 1);
    for (int i = 0; i < CLIENTS; i++) client_free(&c[i]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(connections_beyond_the_limit_wait),
      cmocka_unit_test(survives_without_descriptors),
      cmocka_unit_test(unix_socket),
      cmocka_unit_test(two_servers_on_a_loop),
      cmocka_unit_test(no_delay_is_inherited),
      cmocka_unit_test(drain_without_connections),
      cmocka_unit_test(drain_finishes_what_is_there),
      cmocka_unit_test(drain_takes_a_request_that_has_arrived),
      cmocka_unit_test(drain_does_not_wait_for_silent_clients),
      cmocka_unit_test(connections_go_to_the_heir),
      cmocka_unit_test(an_heir_that_is_busy_is_asked_again),
      cmocka_unit_test(without_an_heir_clients_may_speak_once_more),
      cmocka_unit_test(a_drain_ends_a_handover),
      cmocka_unit_test(drain_from_inside_a_request),
      cmocka_unit_test(free_tells_everybody),
      cmocka_unit_test(free_of_nothing),
      cmocka_unit_test(random_clients),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
