#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include <string.h>

#include "launch/port.h"

static void ranges_are_read(void **state) {
  static const struct {
    const char *text;
    uint16_t first, last;
    bool open;
  } rows[] = {{"", 0, 0, false},
              {"1", 1, 1, false},
              {"65535", 65535, 65535, false},
              {"50051+", 50051, 65535, true},
              {"50051-50066", 50051, 50066, false},
              {"7-7", 7, 7, false}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct port_range range;
    mu_error err;
    assert_int_equal(port_range_parse(rows[i].text, &range, &err), MU_OK);
    assert_int_equal(range.first, rows[i].first);
    assert_int_equal(range.last, rows[i].last);
    assert_int_equal(range.open, rows[i].open);
  }
}

static void nonsense_is_refused(void **state) {
  static const char *const texts[] = {"0",     "65536", "-1",  "a",       "1-",  "1-0",
                                      "1-2-3", "1++",   "1+2", " 1",      "1 ",  "+1",
                                      "1,2",   "0x1",   "0-5", "1-65536", "1e3", "99999999999999999999"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    struct port_range range = {.first = 77};
    mu_error err;
    assert_int_equal(port_range_parse(texts[i], &range, &err), MU_INVALID);
    assert_int_equal(range.first, 77);
  }
}

static void each_service_needs_one(void **state) {
  static const struct {
    struct port_range range;
    uint32_t n;
    mu_status status;
    const char *said;
  } rows[] = {
      {{0}, 4096, MU_OK, NULL},
      {{.first = 10, .last = 13}, 4, MU_OK, NULL},
      {{.first = 10, .last = 13}, 5, MU_INVALID, "the ports 10-13 are 4, for 5 services"},
      {{.first = 10, .last = 10}, 2, MU_INVALID, "one port (10) for 2 services: 10+ gives each its own"},
      {{.first = 65534, .last = 65535, .open = true}, 2, MU_OK, NULL},
      {{.first = 65534, .last = 65535, .open = true}, 3, MU_INVALID, "up to 65536, beyond 65535"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    mu_error err;
    assert_int_equal(port_range_check(&rows[i].range, rows[i].n, &err), rows[i].status);
    if (rows[i].said != NULL) assert_non_null(strstr(err.message, rows[i].said));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(ranges_are_read), cmocka_unit_test(nonsense_is_refused),
                                     cmocka_unit_test(each_service_needs_one)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
