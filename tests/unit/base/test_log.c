/* Levels one by one, time stamps of text, and what is in force. */
#include "base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* One line of the log, as it comes out at the level; "" where that is off. */
static const char *logged(enum log_level level) {
  static char text[512];
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  int before = dup(STDERR_FILENO);
  dup2(ends[1], STDERR_FILENO);
  close(ends[1]);
  LOG_AT(level, "said", LOG_INT("n", 1));
  dup2(before, STDERR_FILENO);
  close(before);
  ssize_t n = read(ends[0], text, sizeof text - 1);
  close(ends[0]);
  text[n > 0 ? n : 0] = '\0';
  return text;
}

static void test_levels_stand_for_themselves(void **state) {
  log_setup("test", LOG_LEVEL_WARNING, LOG_FORMAT_TEXT);
  assert_true(log_wants(LOG_LEVEL_ERROR) && log_wants(LOG_LEVEL_WARNING));
  assert_false(log_wants(LOG_LEVEL_INFO) || log_wants(LOG_LEVEL_VERBOSE));
  for (unsigned bits = 0; bits < 16; bits++) {
    const struct log_settings settings = {
        .error = bits & 1, .warning = bits & 2, .info = bits & 4, .verbose_level = bits & 8};
    log_apply(&settings);
    for (unsigned level = 0; level < 4; level++) {
      assert_int_equal(log_wants((enum log_level)level), bits >> level & 1);
      assert_int_equal(strstr(logged((enum log_level)level), "said n=1\n") != NULL, bits >> level & 1);
    }
    const struct log_settings now = log_current();
    assert_true(now.error == settings.error && now.warning == settings.warning && now.info == settings.info);
    assert_int_equal(now.verbose_level, settings.verbose_level);
  }
}

static void test_time_stamps(void **state) {
  int h, m, s, ms, year, month, day, end = 0;
  log_setup("test", LOG_LEVEL_INFO, LOG_FORMAT_TEXT);
  assert_int_equal(sscanf(logged(LOG_LEVEL_INFO), "%2d:%2d:%2d.%3d info    test: said n=1\n%n", &h, &m, &s, &ms, &end),
                   4);
  assert_true(end > 0);
  struct log_settings settings = log_current();
  assert_false(settings.iso8601);
  settings.iso8601 = true;
  log_apply(&settings);
  end = 0;
  assert_int_equal(sscanf(logged(LOG_LEVEL_INFO), "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ info    test: said n=1\n%n", &year,
                          &month, &day, &h, &m, &s, &ms, &end),
                   7);
  assert_true(end > 0);
  log_setup("test", LOG_LEVEL_INFO, LOG_FORMAT_JSON);
  end = 0;
  assert_int_equal(sscanf(logged(LOG_LEVEL_INFO),
                          "{\"time\":\"%4d-%2d-%2dT%2d:%2d:%2d.%3dZ\",\"level\":\"info\",\"role\":\"test\",\"message\":"
                          "\"said\",\"n\":1}\n%n",
                          &year, &month, &day, &h, &m, &s, &ms, &end),
                   7);
  assert_true(end > 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_levels_stand_for_themselves),
                                     cmocka_unit_test(test_time_stamps)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
