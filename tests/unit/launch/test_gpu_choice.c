#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/gpu_choice.h"

/* GPUs 0 to 3, whole; 2 is divided into two MIG devices; 3 is lost. */
static struct gpu_inventory *make_inventory(void) {
  struct gpu_inventory *inventory = calloc(1, sizeof *inventory);
  static const struct {
    const char *uuid;
    int32_t index, mig;
  } rows[] = {{"GPU-aaa", 0, GPU_UNKNOWN},
              {"GPU-abb", 1, GPU_UNKNOWN},
              {"GPU-ccc", 2, GPU_UNKNOWN},
              {"MIG-c0", 2, 0},
              {"MIG-c1", 2, 1},
              {"GPU-ddd", 3, GPU_UNKNOWN}};
  assert_non_null(inventory);
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct gpu *gpu = &inventory->gpus[inventory->n_gpus++];
    snprintf(gpu->uuid, sizeof gpu->uuid, "%s", rows[i].uuid);
    gpu->index = rows[i].index;
    gpu->mig_index = rows[i].mig;
    gpu->mig_enabled = i == 2;
    inventory->readings[i].lost = i == 5;
  }
  return inventory;
}

/* "NAME=UUID NAME=UUID", or the error. */
static void choose(const char *text, const struct gpu_inventory *inventory, char *said, size_t size) {
  const struct launch_group settings = {.gpus = text};
  struct plan_group group = {.settings = &settings, .name = "g"};
  struct arena memory = {0};
  bool unchecked;
  mu_error err;
  size_t used = 0;
  said[0] = '\0';
  if (gpu_choice(&group, inventory, &memory, &unchecked, &err) != MU_OK) {
    snprintf(said, size, "%s", err.message);
  } else {
    for (uint32_t i = 0; i < group.n_gpus; i++)
      used += (size_t)snprintf(said + used, size - used, "%s%s=%s", i > 0 ? " " : "", group.gpus[i].name,
                               group.gpus[i].uuid);
    if (group.no_gpus) snprintf(said, size, "none");
    assert_int_equal(unchecked, group.n_gpus > 0 && inventory == NULL);
  }
  arena_free(&memory);
}

struct row {
  const char *text, *said;
};

static void check(const struct row *rows, size_t n, const struct gpu_inventory *inventory) {
  for (size_t i = 0; i < n; i++) {
    char said[1024];
    choose(rows[i].text, inventory, said, sizeof said);
    if (strstr(said, rows[i].said) == NULL) fail_msg("%s: %s", rows[i].text, said);
    if (rows[i].said[0] == '\0') assert_string_equal(said, "");
  }
}

static void against_what_there_is(void **state) {
  struct gpu_inventory *inventory = make_inventory();
  static const struct row rows[] = {
      {"", ""},
      {"none", "none"},
      {"0-1", "0=GPU-aaa 1=GPU-abb"},
      {"1,0", "1=GPU-abb 0=GPU-aaa"},
      {"GPU-aa,2:1", "GPU-aa=GPU-aaa 2:1=MIG-c1"},
      {"all", "0=GPU-aaa 1=GPU-abb 2:0=MIG-c0 2:1=MIG-c1"},
      {"4", "there is no GPU '4'"},
      {"0-4", "cannot be used as it is (name one of its MIG devices)"},
      {"3", "GPU 3 cannot be used as it is (lost"},
      {"0,GPU-aaa", "GPU GPU-aaa is named twice"},
      {"GPU-a", "there is no GPU 'GPU-a'"},
      {"0,", "an empty name"},
      {"1-0", "no range of GPUs"},
      {"0-x", "no range of GPUs"},
  };
  check(rows, sizeof rows / sizeof *rows, inventory);
  free(inventory);
}

static void without_nvml_as_it_is_given(void **state) {
  static const struct row rows[] = {
      {"0,7", "0= 7="},
      {"GPU-x,MIG-y", "GPU-x=GPU-x MIG-y=MIG-y"},
      {"0-1,1", "GPU 1 is named twice"},
      {"x", "'x' is no GPU"},
      {"all", "needs NVML"},
      {"0-999", "more than 128 GPUs"},
  };
  check(rows, sizeof rows / sizeof *rows, NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(against_what_there_is),
                                     cmocka_unit_test(without_nvml_as_it_is_given)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
