/* Inputs from files: .npy, .json, raw bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
/* cmocka needs the above */
#include <cmocka.h>

#include "cli/bench/tensor_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const struct target_input input = {.name = "x", .dtype = MU_FP32, .rank = 2, .dims = {-1, 2}};
static char path[64];
static int64_t dims[MU_MAX_RANK];
static struct buffer out;
static mu_error err;

static mu_status read_as(const char *ending, const void *data, size_t size) {
  snprintf(path, sizeof path, "/tmp/test_tensor_file.%d%s", (int)getpid(), ending);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  assert_int_equal(fwrite(data, 1, size, file), size);
  fclose(file);
  buffer_free(&out);
  buffer_init(&out, 1 << 20);
  dims[0] = 1, dims[1] = 2;
  mu_status status = tensor_file_append(path, &input, dims, &out, &err);
  remove(path);
  return status;
}

static void assert_floats(const float *expected, size_t n) {
  assert_int_equal(out.size, n * sizeof *expected);
  assert_memory_equal(out.data, expected, out.size);
}

static void test_raw(void **state) {
  const float data[] = {1, 2, 3};
  assert_int_equal(read_as(".bin", data, 8), MU_OK);
  assert_floats(data, 2);
  assert_int_equal(read_as(".bin", data, 12), MU_INVALID);
  assert_non_null(strstr(err.message, "has 12 bytes"));
}

static void test_json(void **state) {
  const float nested[] = {1, 2, 3, 4.5f};
  assert_int_equal(read_as(".json", "[[1,2],[3,4.5]]", 15), MU_OK);
  assert_int_equal(dims[0], 2); /* the file says how many rows */
  assert_floats(nested, 4);
  assert_int_equal(read_as(".json", "[1,2]", 5), MU_OK);
  assert_floats(nested, 2);
  assert_int_equal(read_as(".json", "[1,2,3]", 7), MU_INVALID);
  assert_int_equal(read_as(".json", "[[1,2,3]]", 9), MU_INVALID);
  assert_int_equal(read_as(".json", "[1,\"a\"]", 7), MU_INVALID);
  assert_int_equal(read_as(".json", "[1,2] x", 7), MU_INVALID);
  assert_int_equal(read_as(".json", "", 0), MU_INVALID);
}

static mu_status read_npy(const char *header, size_t elements) {
  static const float data[] = {1, 2, 3, 4, 5, 6, 7, 8};
  char file[512];
  size_t size = strlen(header);
  memcpy(file, "\x93NUMPY\1\0", 8);
  file[8] = (char)size, file[9] = 0;
  memcpy(file + 10, header, size);
  memcpy(file + 10 + size, data, elements * sizeof *data);
  return read_as(".npy", file, 10 + size + elements * sizeof *data);
}

static void test_npy(void **state) {
  const float expected[] = {1, 2, 3, 4, 5, 6};
  assert_int_equal(read_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }\n", 6), MU_OK);
  assert_int_equal(dims[0], 3);
  assert_floats(expected, 6);
  static const char *const wrong[] = {
      "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 1), }", /* another type */
      "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2), }",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2), }", /* more than there is */
      "{'descr': '<f4', 'fortran_order': False, 'shape': (-3, -2), }",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2",
      "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3, 2), }",
      "{}",
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) assert_int_equal(read_npy(wrong[i], 6), MU_INVALID);
  assert_int_equal(read_as(".npy", "\x93NUMPY\1\0\xff\xff{}", 12), MU_INVALID);
  assert_int_equal(read_as(".npy", "\x93NUMPY", 6), MU_INVALID);
}

static void test_no_file(void **state) {
  assert_int_equal(tensor_file_append("/nonexistent/x.npy", &input, dims, &out, &err), MU_IO);
}

static int tear_down(void **state) {
  buffer_free(&out);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_raw),
      cmocka_unit_test(test_json),
      cmocka_unit_test(test_npy),
      cmocka_unit_test(test_no_file),
  };
  return cmocka_run_group_tests(tests, NULL, tear_down);
}
