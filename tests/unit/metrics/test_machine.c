/* The machine's figures, read from a /proc made for the test. */
#include "metrics/machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/muster-machine-XXXXXX";

static void put(const char *name, const char *text) {
  char path[128];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  fputs(text, file);
  fclose(file);
}

static void remove_file(const char *name) {
  char path[128];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  unlink(path);
}

static const char memory[] = "MemTotal:       1000 kB\nMemFree:  10 kB\nMemAvailable:    400 kB\nBuffers: 1 kB\n";

static void test_figures(void **state) {
  struct machine machine = {0};
  put("stat", "cpu  10 10 10 70 0 0 0 0 0 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n");
  put("meminfo", memory);
  machine_look(&machine, folder, 1000, 500);
  assert_true(machine.read);
  assert_true(machine.cpu_utilization == 0.3);
  assert_int_equal(machine.memory_total, 1000 * 1024);
  assert_int_equal(machine.memory_used, 600 * 1024);
  put("stat", "cpu  20 10 20 90 10 5 3 2 0 0\n"); /* 30 more of work, 30 more of rest */
  machine_look(&machine, folder, 1499, 500);
  assert_true(machine.cpu_utilization == 0.3); /* too early */
  machine_look(&machine, folder, 1500, 500);
  assert_true(machine.cpu_utilization == 0.5);
  machine_look(&machine, folder, 2000, 500); /* nothing has moved: as before */
  assert_true(machine.cpu_utilization == 0.5);
}

static void test_what_cannot_be_read(void **state) {
  static const char *const stats[] = {"", "cpu 1 2 3\n", "intr 1 2 3 4 5 6 7 8\n"};
  static const char *const memories[] = {"", "MemTotal: 10 kB\n", "MemTotal: 10 kB\nMemAvailable: 20 kB\n",
                                         "xMemTotal: 10 kB\nMemAvailable: 1 kB\n"};
  put("meminfo", memory);
  for (size_t i = 0; i < sizeof stats / sizeof *stats; i++) {
    struct machine machine = {0};
    put("stat", stats[i]);
    machine_look(&machine, folder, 1, 0);
    assert_false(machine.read);
  }
  put("stat", "cpu  10 10 10 70 0 0 0 0\n");
  for (size_t i = 0; i < sizeof memories / sizeof *memories; i++) {
    struct machine machine = {0};
    put("meminfo", memories[i]);
    machine_look(&machine, folder, 1, 0);
    assert_false(machine.read);
  }
  struct machine machine = {0};
  machine_look(&machine, "/nonexistent", 1, 0);
  assert_false(machine.read);
}

static int setup(void **state) { return mkdtemp(folder) != NULL ? 0 : -1; }
static int teardown(void **state) {
  remove_file("stat");
  remove_file("meminfo");
  return rmdir(folder);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_figures), cmocka_unit_test(test_what_cannot_be_read)};
  return cmocka_run_group_tests(tests, setup, teardown);
}
