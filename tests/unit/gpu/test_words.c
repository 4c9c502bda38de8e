#include "gpu/words.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gpu/inventory.h"

static void test_throttle(void **state) {
  char text[128];
  assert_string_equal(gpu_throttle_words(0, text, sizeof text), "");
  assert_string_equal(gpu_throttle_words(GPU_UNKNOWN, text, sizeof text), "");
  assert_string_equal(gpu_throttle_words(0x1 | 0x2 | 0x100, text, sizeof text), ""); /* nothing is held back */
  assert_string_equal(gpu_throttle_words(0x40, text, sizeof text), "thermal (hardware)");
  assert_string_equal(gpu_throttle_words(0xfc, text, sizeof text),
                      "power cap, hardware slowdown, sync boost, thermal (software), thermal (hardware), power brake");
  assert_string_equal(gpu_throttle_words(0xfc, text, 12), "power cap, ");
}

static void test_words(void **state) {
  assert_string_equal(gpu_recovery_word(0), "");
  assert_string_equal(gpu_recovery_word(1), "reset");
  assert_string_equal(gpu_recovery_word(4), "drain and reset");
  assert_string_equal(gpu_recovery_word(5), "");
  assert_string_equal(gpu_recovery_word(GPU_UNKNOWN), "");
  assert_string_equal(gpu_compute_mode_word(GPU_COMPUTE_DEFAULT), "");
  assert_string_equal(gpu_compute_mode_word(1), "");
  assert_string_equal(gpu_compute_mode_word(GPU_COMPUTE_EXCLUSIVE_PROCESS), "exclusive process");
  assert_string_equal(gpu_compute_mode_word(GPU_UNKNOWN), "");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_throttle), cmocka_unit_test(test_words)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
