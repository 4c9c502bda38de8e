/* Lists of backends as people write them, and every way to write one wrongly. */
#include "backend/backend_list.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void test_names_and_ranges(void **state) {
  struct backend_list list = {0};
  mu_error err;
  assert_int_equal(backend_list_parse(&list, "host:50051-50053,h-2.example:8001,[::1]:9000", &err), MU_OK);
  assert_int_equal(backend_list_parse(&list, "127.0.0.1:65535", &err), MU_OK); /* the flag once more */
  const char *const names[] = {"host:50051",       "host:50052", "host:50053",
                               "h-2.example:8001", "[::1]:9000", "127.0.0.1:65535"};
  assert_int_equal(list.n, 6);
  for (size_t i = 0; i < list.n; i++) assert_string_equal(list.items[i].name, names[i]);
  assert_string_equal(list.items[4].host, "::1");
  backend_list_free(&list);
}

static void test_what_is_refused(void **state) {
  static const struct {
    const char *text;
    mu_status status;
    const char *says;
  } bad[] = {
      {"", MU_INVALID, "empty item"},
      {"a:1,", MU_INVALID, "empty item"},
      {"a:1,,b:1", MU_INVALID, "empty item"},
      {"host", MU_INVALID, "HOST:PORT"},
      {":80", MU_INVALID, "not a host"},
      {"host:", MU_INVALID, "1 to 65535"},
      {"host:0", MU_INVALID, "1 to 65535"},
      {"host:65536", MU_INVALID, "1 to 65535"},
      {"host:0000080", MU_INVALID, "1 to 65535"},
      {"host:80x", MU_INVALID, "'x' behind the port"},
      {"host:80-", MU_INVALID, "1 to 65535"},
      {"host:80-79", MU_INVALID, "backwards"},
      {"host:80-65536", MU_INVALID, "1 to 65535"},
      {"host:1-5000", MU_INVALID, "more than 4096"},
      {"http://host:80", MU_INVALID, "1 to 65535"},
      {"ho st:80", MU_INVALID, "not a host"},
      {"::1:80", MU_INVALID, "in brackets"},
      {"[::1]", MU_INVALID, "HOST:PORT"},
      {"[::1:80", MU_INVALID, "HOST:PORT"},
      {"[]:80", MU_INVALID, "not a host"},
      {"a:80,b:80,a:80", MU_EXISTS, "a:80 is named twice"},
      {"a:80,A:80", MU_EXISTS, "named twice"},
      {"a:80-90,a:85", MU_EXISTS, "a:85 is named twice"},
      {"first:1", MU_EXISTS, "first:1 is named twice"},
  };
  struct backend_list list = {0};
  mu_error err;
  assert_int_equal(backend_list_parse(&list, "first:1", &err), MU_OK);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    mu_status status = backend_list_parse(&list, bad[i].text, &err);
    if (status != bad[i].status || strstr(err.message, bad[i].says) == NULL)
      fail_msg("'%s': %d %s", bad[i].text, status, status == MU_OK ? "" : err.message);
    assert_int_equal(list.n, 1);
  }
  char longer[400];
  memset(longer, 'a', sizeof longer);
  memcpy(longer + 300, ":80", 4);
  assert_int_equal(backend_list_parse(&list, longer, &err), MU_INVALID);
  backend_list_free(&list);
}

static void test_addresses(void **state) {
  struct backend_list list = {0};
  mu_error err;
  assert_int_equal(backend_list_parse(&list, "127.0.0.1:50051-50052,[::1]:9000", &err), MU_OK);
  assert_int_equal(backend_list_resolve(&list, &err), MU_OK);
  const struct sockaddr_in *second = (const struct sockaddr_in *)&list.items[1].socket;
  assert_int_equal(second->sin_family, AF_INET);
  assert_int_equal(ntohs(second->sin_port), 50052);
  assert_int_equal(second->sin_addr.s_addr, htonl(INADDR_LOOPBACK));
  assert_int_equal(list.items[2].socket.ss_family, AF_INET6);
  assert_int_equal(backend_list_parse(&list, "localhost:50052", &err), MU_OK); /* another name for the second */
  assert_int_equal(backend_list_resolve(&list, &err), MU_EXISTS);
  assert_string_equal(err.message, "backends 127.0.0.1:50052 and localhost:50052 are one address");
  backend_list_free(&list);
  assert_int_equal(backend_list_parse(&list, "no-such-host.invalid:80", &err), MU_OK);
  assert_int_equal(backend_list_resolve(&list, &err), MU_NOT_FOUND);
  assert_non_null(strstr(err.message, "no-such-host.invalid:80"));
  backend_list_free(&list);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_names_and_ranges), cmocka_unit_test(test_what_is_refused),
                                     cmocka_unit_test(test_addresses)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
