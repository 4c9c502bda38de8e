/* What a proxy that has been taken over may still do. Each question is asked by a process of its own, in the fence. */
#include "sandbox/sandbox.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { NO_FENCE = 200 };

static int listeners[2]; /* [0]: the backend's, [1]: somebody else's */

static uint16_t port_of(int fd) {
  struct sockaddr_in address;
  socklen_t size = sizeof address;
  return getsockname(fd, (struct sockaddr *)&address, &size) == 0 ? ntohs(address.sin_port) : 0;
}

static int connect_to(int listener, int type, int protocol) {
  const struct sockaddr_in address = {
      .sin_family = AF_INET, .sin_port = htons(port_of(listener)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, type | SOCK_CLOEXEC, protocol);
  return fd >= 0 ? connect(fd, (const struct sockaddr *)&address, sizeof address) : -1;
}

/* Each: 0, or -1 with errno. */
static int connect_backend(void) { return connect_to(listeners[0], SOCK_STREAM, 0); }
static int connect_other(void) { return connect_to(listeners[1], SOCK_STREAM, IPPROTO_TCP); }
static int send_datagram(void) { return connect_to(listeners[0], SOCK_DGRAM, 0); }
static int open_unix(void) { return socket(AF_UNIX, SOCK_STREAM, 0) >= 0 ? 0 : -1; }
static int write_file(void) { return open("/tmp", O_TMPFILE | O_RDWR, 0600) >= 0 ? 0 : -1; }
static int read_file(void) { return open("/etc/passwd", O_RDONLY) >= 0 ? 0 : -1; }
static int run_program(void) { return execl("/bin/true", "true", (char *)NULL); }
static int fork_off(void) {
  pid_t pid = (pid_t)fork();
  if (pid == 0) _exit(0);
  return pid > 0 ? 0 : -1;
}
static int kill_parent(void) { return kill(getppid(), 0); }
static int listen_anew(void) {
  const struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  int fd = socket(AF_INET, SOCK_STREAM, IPPROTO_TCP);
  return fd >= 0 ? bind(fd, (const struct sockaddr *)&address, sizeof address) : -1;
}

/* errno of what is tried in the fence; 0: it works. */
static int in_fence(int (*attempt)(void)) {
  const uint16_t ports[] = {port_of(listeners[0])};
  int status;
  pid_t pid = fork();
  if (pid == 0) {
    if (sandbox_enter_proxy(ports, 1, NULL) != MU_OK) _exit(NO_FENCE);
    _exit(attempt() == 0 ? 0 : errno);
  }
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(WIFEXITED(status));
  return WEXITSTATUS(status);
}

static void test_what_it_needs(void **state) {
  assert_int_equal(in_fence(connect_backend), 0);
  assert_int_equal(in_fence(read_file), 0);
}

static void test_what_is_refused(void **state) {
  static int (*const attempts[])(void) = {send_datagram, open_unix, write_file, run_program, kill_parent, listen_anew};
  for (size_t i = 0; i < sizeof attempts / sizeof *attempts; i++) {
    int error = in_fence(attempts[i]);
    if (error != EPERM && error != ENOSYS && error != EACCES) fail_msg("attempt %zu: %d", i, error);
  }
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  assert_int_not_equal(in_fence(fork_off), 0); /* a sanitizer's leak check needs it */
#else
  (void)fork_off;
#endif
}

static void test_other_ports(void **state) {
  if (sandbox_landlock_version() < 4) skip();
  assert_int_equal(in_fence(connect_other), EACCES);
}

int main(void) {
  const struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  for (size_t i = 0; i < 2; i++) {
    listeners[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listeners[i], (const struct sockaddr *)&address, sizeof address) != 0 || listen(listeners[i], 8) != 0)
      return 1;
  }
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_what_it_needs), cmocka_unit_test(test_what_is_refused),
                                     cmocka_unit_test(test_other_ports)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
