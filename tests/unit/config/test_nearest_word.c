#include "config/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static const char *const words[] = {"http-port", "http-address", "grpc-port", "serve", "stop", "status"};
enum { N = sizeof words / sizeof *words };

static const char *nearest(const char *word) { return nearest_word(word, words, N); }

static void test_one_edit_away(void **state) {
  assert_string_equal(nearest("http-prot"), "http-port");  /* swapped */
  assert_string_equal(nearest("htp-port"), "http-port");   /* left out */
  assert_string_equal(nearest("http--port"), "http-port"); /* too much */
  assert_string_equal(nearest("http_port"), "http-port");  /* replaced */
  assert_string_equal(nearest("sotp"), "stop");
  assert_string_equal(nearest("serve"), "serve");
}

static void test_swap_counts_once(void **state) {
  /* two swaps in seven letters: within a third only when a swap is one edit */
  const char *const one[] = {"abcdefg"};
  assert_string_equal(nearest_word("bacdegf", one, 1), "abcdefg");
}

static void test_at_most_a_third_off(void **state) {
  const char *const one[] = {"abcdef"};
  assert_string_equal(nearest_word("abcdxy", one, 1), "abcdef");
  assert_null(nearest_word("abcxyz", one, 1));
  assert_null(nearest("completely-different"));
  assert_null(nearest("xy"));
  assert_null(nearest(""));
  assert_null(nearest_word("stop", words, 0));
}

static void test_nearest_wins(void **state) {
  const char *const near[] = {"grpc-port", "http-port", "http-part"};
  assert_string_equal(nearest_word("http-pert", near, 3), "http-port"); /* the first of two as near */
  assert_string_equal(nearest_word("http-part", near, 3), "http-part");
}

static void test_long_words(void **state) {
  char word[65 + 1];
  memset(word, 'a', sizeof word - 1);
  word[65] = '\0';
  const char *same[] = {word};
  assert_null(nearest_word(word, same, 1));
  const char *sixty_four[] = {word + 1};
  assert_ptr_equal(nearest_word(word + 1, sixty_four, 1), word + 1);
  assert_null(nearest_word("stop", same, 1));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_edit_away),       cmocka_unit_test(test_swap_counts_once),
      cmocka_unit_test(test_at_most_a_third_off), cmocka_unit_test(test_nearest_wins),
      cmocka_unit_test(test_long_words),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
