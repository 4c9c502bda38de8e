#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>
#include <string.h>

#include "gpu/mps.h"

static struct gpu gpu(int major, int minor) {
  return (struct gpu){.compute_major = major, .compute_minor = minor, .mig_index = GPU_UNKNOWN};
}

static void client_limits(void **state) {
  const struct gpu pascal = gpu(6, 1), volta = gpu(7, 0), hopper = gpu(9, 0);
  assert_int_equal(mps_client_limit(&pascal, 13010), 16);
  assert_int_equal(mps_client_limit(&volta, 12040), 48);
  assert_int_equal(mps_client_limit(&hopper, 13000), 48);
  assert_int_equal(mps_client_limit(&hopper, 13010), 60);
  assert_int_equal(mps_client_limit(&hopper, GPU_UNKNOWN), 48);
}

static void which_can(void **state) {
  struct gpu one = gpu(3, 0);
  assert_non_null(mps_obstacle(&one));
  one = gpu(3, 5);
  assert_null(mps_obstacle(&one));
  one.compute_mode = GPU_COMPUTE_PROHIBITED;
  assert_non_null(mps_obstacle(&one));
  one.compute_mode = GPU_COMPUTE_EXCLUSIVE_PROCESS; /* the server is its one process */
  assert_null(mps_obstacle(&one));
  one.mig_enabled = true;
  assert_non_null(mps_obstacle(&one));
  one.mig_index = 0; /* a MIG device */
  assert_null(mps_obstacle(&one));
}

/* How many there are; -1: the answer is none, err says why. */
static int pids(const char *text, int32_t ret_pids[3], mu_error *err) {
  size_t n = 0;
  return mps_read_pids("get_it", text, strlen(text), ret_pids, 3, &n, err) == MU_OK ? (int)n : -1;
}

static void process_numbers(void **state) {
  int32_t found[3] = {0};
  mu_error err;
  assert_int_equal(pids("", found, &err), 0);
  assert_int_equal(pids("\n \n", found, &err), 0);
  assert_int_equal(pids("17\n", found, &err), 1);
  assert_int_equal(found[0], 17);
  assert_int_equal(pids(" 18\r\n\n19", found, &err), 2);
  assert_true(found[0] == 18 && found[1] == 19);
}

/* Whoever is not in the list runs without MPS: half an answer is none. */
static void answers_that_are_no_process_numbers(void **state) {
  static const char *const said[] = {"17\nServer 20 not found\n",
                                     "Cannot find MPS control daemon process\n",
                                     "-3",
                                     "0",
                                     "1x",
                                     "99999999999999999999",
                                     "2147483648",
                                     "1 2"};
  int32_t found[3] = {0};
  mu_error err;
  for (size_t i = 0; i < sizeof said / sizeof *said; i++) assert_int_equal(pids(said[i], found, &err), -1);
  assert_int_equal(pids("17\n  \xff\tab\x1b[2J \n", found, &err), -1);
  assert_string_equal(err.message, "the MPS daemon answers get_it with \"??ab?[2J\"");
  assert_int_equal(pids("1\n2\n3\n4\n", found, &err), -1);
  assert_string_equal(err.message, "the MPS daemon answers get_it with more than 3 processes");
  size_t n = 7;
  assert_int_equal(mps_read_pids("get_it", NULL, 0, found, 3, &n, &err), MU_OK); /* of an empty buffer */
  assert_int_equal(n, 0);
}

static void what_is_quoted(void **state) {
  char text[8];
  mps_quote(NULL, 0, text, sizeof text);
  assert_string_equal(text, "");
  mps_quote("\n too long\n", 11, text, sizeof text);
  assert_string_equal(text, "too lon");
  mps_quote("a\0b\n", 4, text, sizeof text);
  assert_string_equal(text, "a?b");
}

static bool percentage(const char *text, double *ret_percentage) {
  return mps_read_percentage(text, strlen(text), ret_percentage);
}

static void percentages(void **state) {
  double found = 0;
  assert_true(percentage("100.0\n", &found) && found > 99.9);
  assert_true(percentage("25", &found) && found > 24.9 && found < 25.1);
  found = 3;
  assert_false(percentage("", &found) || percentage("0\n", &found) || percentage("101", &found));
  assert_false(percentage("nan", &found) || percentage("Cannot find MPS control daemon process\n", &found));
  assert_false(percentage("100.0 and more", &found));
  assert_true(found == 3);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(client_limits),   cmocka_unit_test(which_can),
      cmocka_unit_test(process_numbers), cmocka_unit_test(answers_that_are_no_process_numbers),
      cmocka_unit_test(what_is_quoted),  cmocka_unit_test(percentages),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
