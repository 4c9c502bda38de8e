#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gpu/inventory.h"
#include "supervisor/gpu_measurements.h"

static char folder[] = "/tmp/muster-measurements-XXXXXX", path[128];

static int make_folder(void **state) {
  if (mkdtemp(folder) == NULL) return -1;
  snprintf(path, sizeof path, "%s/kept.json", folder);
  return 0;
}

static int remove_folder(void **state) {
  unlink(path);
  return rmdir(folder);
}

static bool put(struct gpu_measurements *table, const char *model, int64_t version, int64_t files, int64_t bytes) {
  bool is_new = false;
  mu_error err;
  assert_int_equal(gpu_measurements_put(table, model, version, files, bytes, &is_new, &err), MU_OK);
  return is_new;
}

static void the_most_that_was_seen_counts(void **state) {
  struct gpu_measurements table = {.n = 0};
  assert_int_equal(gpu_measurements_find(&table, "unet", 1, 10), GPU_UNKNOWN);
  assert_true(put(&table, "unet", 1, 10, 100));
  assert_false(put(&table, "unet", 1, 10, 90));
  assert_true(put(&table, "unet", 1, 10, 110));
  assert_true(put(&table, "unet", 1, 11, 50)); /* other files, another model */
  assert_true(put(&table, "unet", 2, 10, 60));
  assert_int_equal(gpu_measurements_find(&table, "unet", 1, 10), 110);
  assert_int_equal(gpu_measurements_find(&table, "unet", 1, 11), 50);
  assert_int_equal(gpu_measurements_find(&table, "unet", 2, 10), 60);
  assert_int_equal(gpu_measurements_find(&table, "vgg", 1, 10), GPU_UNKNOWN);
  gpu_measurements_free(&table);
}

static void they_come_back_from_their_file(void **state) {
  struct gpu_measurements table = {.n = 0}, read = {.n = 0};
  mu_error err;
  assert_int_equal(gpu_measurements_read(&read, path, &err), MU_OK); /* not there yet */
  assert_int_equal(read.n, 0);
  put(&table, "unet", 1, 10, INT64_C(1) << 40);
  put(&table, "a \"model\"", 0, 0, 7);
  for (int i = 0; i < 2; i++) assert_int_equal(gpu_measurements_write(&table, path, &err), MU_OK);
  assert_int_equal(gpu_measurements_read(&read, path, &err), MU_OK);
  assert_int_equal(read.n, 2);
  assert_int_equal(gpu_measurements_find(&read, "unet", 1, 10), INT64_C(1) << 40);
  assert_int_equal(gpu_measurements_find(&read, "a \"model\"", 0, 0), 7);
  gpu_measurements_free(&table);
  gpu_measurements_free(&read);
}

static void other_files_are_refused(void **state) {
  static const struct {
    const char *text, *words;
  } rows[] = {
      {"", "kept.json:"},
      {"{", "kept.json:"},
      {"[]", "holds no measurements"},
      {"{\"measurements\": 1}", "holds no measurements"},
      {"{\"measurements\": [{}]}", "measurement 1 is not"},
      {"{\"measurements\": [{\"model\": \"m\", \"version\": 1, \"file_bytes\": 1, \"process_bytes\": -1}]}",
       "measurement 1"},
      {"{\"measurements\": [{\"model\": \"m\", \"version\": 1, \"file_bytes\": 1, \"process_bytes\": \"1\"}]}",
       "is not"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct gpu_measurements table = {.n = 0};
    mu_error err = {{0}};
    FILE *file = fopen(path, "w");
    fputs(rows[i].text, file);
    fclose(file);
    assert_int_equal(gpu_measurements_read(&table, path, &err), MU_INVALID);
    if (strstr(err.message, rows[i].words) == NULL) fail_msg("\"%s\" is not in: %s", rows[i].words, err.message);
    assert_int_equal(table.n, 0);
  }
}

static void a_file_that_cannot_be_is_an_error(void **state) {
  struct gpu_measurements table = {.n = 0};
  mu_error err;
  assert_int_equal(gpu_measurements_write(&table, "/no/such/folder/kept.json", &err), MU_IO);
  assert_int_equal(gpu_measurements_read(&table, folder, &err), MU_INVALID); /* a folder */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_most_that_was_seen_counts),
      cmocka_unit_test(they_come_back_from_their_file),
      cmocka_unit_test(other_files_are_refused),
      cmocka_unit_test(a_file_that_cannot_be_is_an_error),
  };
  return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
