/* Which addresses are this machine's own. */
#include "net/peer.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static bool is_local(const char *text) {
  struct sockaddr_in v4 = {.sin_family = AF_INET};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
  if (inet_pton(AF_INET, text, &v4.sin_addr) == 1) return address_is_local((const struct sockaddr *)&v4);
  assert_int_equal(inet_pton(AF_INET6, text, &v6.sin6_addr), 1);
  return address_is_local((const struct sockaddr *)&v6);
}

static void addresses(void **state) {
  static const char *const local[] = {"127.0.0.1", "127.0.0.2", "127.255.255.255", "::1", "::ffff:127.0.0.1"};
  static const char *const remote[] = {"0.0.0.0",     "126.0.0.1",       "128.0.0.1",   "10.0.0.1",
                                       "192.168.1.1", "1.0.0.127",       "::",          "::2",
                                       "fe80::1",     "::ffff:10.0.0.1", "::127.0.0.1", "2001:db8::7f00:1"};
  for (size_t i = 0; i < sizeof local / sizeof *local; i++) assert_true(is_local(local[i]));
  for (size_t i = 0; i < sizeof remote / sizeof *remote; i++) assert_false(is_local(remote[i]));
  assert_true(address_is_local((const struct sockaddr *)&(struct sockaddr_un){.sun_family = AF_UNIX}));
  assert_false(address_is_local(&(struct sockaddr){.sa_family = AF_UNSPEC}));
  assert_false(address_is_local(&(struct sockaddr){.sa_family = AF_PACKET}));
}

static void peers(void **state) {
  enum peer_place place = PEER_UNASKED;
  int ends[2];
  assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  assert_true(peer_is_local(ends[0], &place));
  assert_int_equal(place, PEER_LOCAL);
  close(ends[0]);
  assert_true(peer_is_local(ends[0], &place)); /* asked once */
  close(ends[1]);
  place = PEER_UNASKED;
  assert_false(peer_is_local(ends[1], &place)); /* nobody can say */
  assert_int_equal(place, PEER_REMOTE);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(addresses), cmocka_unit_test(peers)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
