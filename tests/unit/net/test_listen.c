#include "net/http_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static void close_all(const int *fds, uint32_t n) {
  for (uint32_t i = 0; i < n; i++) close(fds[i]);
}

static void several_sockets_share_a_port(void **state) {
  int fds[4];
  uint16_t port;
  mu_error err;
  assert_int_equal(listen_tcp("127.0.0.1", 0, 4, fds, &port, &err), MU_OK);
  assert_true(port > 0);
  for (int i = 0; i < 4; i++) {
    struct sockaddr_in name;
    socklen_t size = sizeof name;
    assert_int_equal(getsockname(fds[i], (struct sockaddr *)&name, &size), 0);
    assert_int_equal(ntohs(name.sin_port), port);
    assert_int_equal(name.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(fds[i], F_GETFL) & O_NONBLOCK);
    int listens = 0;
    size = sizeof listens;
    assert_int_equal(getsockopt(fds[i], SOL_SOCKET, SO_ACCEPTCONN, &listens, &size), 0);
    assert_int_equal(listens, 1);
  }
  /* the very same call again must not join in, though every socket would allow it */
  int more[4] = {-2, -2, -2, -2};
  uint16_t same = 1;
  char expected[64];
  snprintf(expected, sizeof expected, "port %u on 127.0.0.1 is in use", port);
  assert_int_equal(listen_tcp("127.0.0.1", port, 4, more, &same, &err), MU_EXISTS);
  assert_string_equal(err.message, expected);
  assert_int_equal(same, 1);
  close_all(fds, 4);
  assert_int_equal(listen_tcp("127.0.0.1", port, 4, more, &same, &err), MU_OK);
  assert_int_equal(same, port);
  close_all(more, 4);
}

static void port_of_another_program(void **state) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), mine;
  struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof name;
  assert_int_equal(bind(fd, (struct sockaddr *)&name, size), 0);
  assert_int_equal(listen(fd, 1), 0);
  assert_int_equal(getsockname(fd, (struct sockaddr *)&name, &size), 0);
  uint16_t port;
  mu_error err;
  assert_int_equal(listen_tcp("127.0.0.1", ntohs(name.sin_port), 1, &mine, &port, &err), MU_EXISTS);
  assert_int_equal(listen_tcp("localhost", ntohs(name.sin_port), 1, &mine, &port, &err), MU_EXISTS);
  assert_int_equal(listen_tcp("0.0.0.0", ntohs(name.sin_port), 1, &mine, &port, &err), MU_EXISTS);
  close(fd);
}

/* The connections of a server that has just ended are no reason not to start the next one. */
static void port_of_an_ended_server(void **state) {
  int listener, client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  uint16_t port;
  mu_error err;
  assert_int_equal(listen_tcp("127.0.0.1", 0, 1, &listener, &port, &err), MU_OK);
  struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  assert_int_equal(connect(client, (struct sockaddr *)&name, sizeof name), 0);
  int served = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  assert_true(served >= 0);
  close(served); /* first: its side waits */
  char byte;
  assert_int_equal(read(client, &byte, 1), 0);
  close(client);
  close(listener);
  int again[2];
  assert_int_equal(listen_tcp("127.0.0.1", port, 2, again, &port, &err), MU_OK);
  close_all(again, 2);
}

static void addresses(void **state) {
  static const struct {
    const char *address;
    mu_status status;
    bool needs_ipv6;
  } cases[] = {
      {"127.0.0.1", MU_OK, false},
      {"localhost", MU_OK, false},
      {"0.0.0.0", MU_OK, false},
      {"::1", MU_OK, true},
      {"::", MU_OK, true},
      {"256.1.1.1", MU_INVALID, false},
      {"no such host !", MU_INVALID, false},
      {"", MU_INVALID, false},
      {"203.0.113.7", MU_INVALID, false},
  };
  int probe = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in6 loopback = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  bool ipv6 = probe >= 0 && bind(probe, (struct sockaddr *)&loopback, sizeof loopback) == 0;
  if (probe >= 0) close(probe);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    if (cases[i].needs_ipv6 && !ipv6) continue;
    int fds[2];
    uint16_t port = 0;
    mu_error err = {.message = ""};
    mu_status status = listen_tcp(cases[i].address, 0, 2, fds, &port, &err);
    if (status != cases[i].status) fail_msg("%s: %d %s", cases[i].address, status, err.message);
    assert_int_equal(status == MU_OK, err.message[0] == '\0');
    if (status == MU_OK) close_all(fds, 2);
  }
}

/* ---- a race for one port ----------------------------------------------------------------------------------------- */

enum { RACERS = 6 };

struct racer {
  pthread_t thread;
  uint16_t port;
  int fds[2];
  mu_status status;
};

static void *race(void *argument) {
  struct racer *racer = argument;
  uint16_t port;
  racer->status = listen_tcp("127.0.0.1", racer->port, 2, racer->fds, &port, NULL);
  return NULL;
}

static void one_wins_a_race(void **state) {
  for (int round = 0; round < 10; round++) {
    int fd;
    uint16_t port;
    mu_error err;
    assert_int_equal(listen_tcp("127.0.0.1", 0, 1, &fd, &port, &err), MU_OK);
    close(fd);
    struct racer racers[RACERS];
    for (int i = 0; i < RACERS; i++) {
      racers[i].port = port;
      assert_int_equal(pthread_create(&racers[i].thread, NULL, race, &racers[i]), 0);
    }
    for (int i = 0; i < RACERS; i++) pthread_join(racers[i].thread, NULL);
    int winners = 0;
    for (int i = 0; i < RACERS; i++) {
      if (racers[i].status == MU_OK) {
        winners++;
        close_all(racers[i].fds, 2);
      } else {
        assert_int_equal(racers[i].status, MU_EXISTS);
      }
    }
    assert_int_equal(winners, 1);
  }
}

/* ---- Unix -------------------------------------------------------------------------------------------------------- */

static void unix_sockets(void **state) {
  char folder[] = "/tmp/test_listen.XXXXXX", path[64], file[64];
  assert_non_null(mkdtemp(folder));
  snprintf(path, sizeof path, "%s/socket", folder);
  snprintf(file, sizeof file, "%s/file", folder);
  mode_t mask = umask(0);
  int fd, second = -2;
  mu_error err;
  assert_int_equal(listen_unix(path, &fd, &err), MU_OK);
  umask(mask);
  struct stat info;
  assert_int_equal(stat(path, &info), 0);
  assert_int_equal(info.st_mode & 07777, 0600);
  assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);

  assert_int_equal(listen_unix(path, &second, &err), MU_EXISTS); /* somebody listens */
  assert_int_equal(second, -2);
  assert_non_null(strstr(err.message, path));
  close(fd);
  assert_int_equal(listen_unix(path, &fd, &err), MU_OK); /* left over by nobody */
  close(fd);
  unlink(path);

  FILE *stream = fopen(file, "we");
  assert_non_null(stream);
  fclose(stream);
  assert_int_equal(listen_unix(file, &fd, &err), MU_EXISTS);
  assert_int_equal(access(file, F_OK), 0); /* and it is not removed */
  unlink(file);

  char name[200];
  memset(name, 'x', sizeof name);
  name[sizeof name - 1] = '\0';
  assert_int_equal(listen_unix(name, &fd, &err), MU_INVALID);
  assert_int_equal(listen_unix("", &fd, &err), MU_INVALID);
  assert_int_equal(listen_unix("/nowhere/at/all", &fd, &err), MU_IO);
  rmdir(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(several_sockets_share_a_port),
      cmocka_unit_test(port_of_another_program),
      cmocka_unit_test(port_of_an_ended_server),
      cmocka_unit_test(addresses),
      cmocka_unit_test(one_wins_a_race),
      cmocka_unit_test(unix_sockets),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
