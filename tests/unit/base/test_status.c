/* Error messages: what does not fit is cut, and stays text. */
#include "base/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ROOM = sizeof((mu_error *)0)->message - 1 };

static void test_message_is_kept(void **state) {
  mu_error err;
  assert_int_equal(mu_fail(&err, MU_NOT_FOUND, "no %s of %d", "\xc3\xa9", 5), MU_NOT_FOUND);
  assert_string_equal(err.message, "no \xc3\xa9 of 5");
  assert_int_equal(mu_fail(NULL, MU_IO, "nobody listens"), MU_IO);
}

static void test_message_that_just_fits(void **state) {
  char text[ROOM + 1];
  mu_error err;
  memset(text, 'a', ROOM);
  memcpy(text + ROOM - 4, "\xf0\x9f\x98\x80", 5);
  mu_fail(&err, MU_INVALID, "%s", text);
  assert_string_equal(err.message, text);
}

/* Wherever the cut falls in a character of two, three or four bytes, the character is there or it is not. */
static void test_long_message_ends_with_a_whole_character(void **state) {
  static const char *const characters[] = {"b", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
  for (size_t i = 0; i < sizeof characters / sizeof *characters; i++) {
    size_t size = strlen(characters[i]);
    for (size_t fits = 0; fits <= size; fits++) {
      char text[2 * ROOM] = "";
      mu_error err;
      memset(text, 'a', ROOM - fits);
      for (int k = 0; k < 20; k++) strcat(text, characters[i]);
      mu_fail(&err, MU_INVALID, "%s", text);
      assert_int_equal(strlen(err.message), fits == size ? ROOM : ROOM - fits % size);
      assert_memory_equal(err.message, text, strlen(err.message));
    }
  }
}

/* Bytes that are no characters are cut like any other, not searched through. */
static void test_long_message_of_stray_bytes(void **state) {
  char text[2 * ROOM];
  mu_error err;
  memset(text, 0x80, sizeof text - 1);
  text[sizeof text - 1] = '\0';
  mu_fail(&err, MU_INVALID, "%s", text);
  assert_true(strlen(err.message) >= ROOM - 4);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_message_is_kept),
      cmocka_unit_test(test_message_that_just_fits),
      cmocka_unit_test(test_long_message_ends_with_a_whole_character),
      cmocka_unit_test(test_long_message_of_stray_bytes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
