#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>
#include <string.h>

#include "launch/mps.h"

/* Three services on GPUs a and b, five on b and c (by whatever name), two more on b that shall have no MPS. */
static struct plan_gpu first[] = {{.name = "0", .uuid = "GPU-a"}, {.name = "1", .uuid = "GPU-b"}};
static struct plan_gpu second[] = {{.name = "GPU-b", .uuid = "GPU-b"}, {.name = "2", .uuid = "GPU-c"}};
static struct plan_gpu third[] = {{.name = "1", .uuid = "GPU-b"}};

static void services_of_all_groups_count(void **state) {
  struct launch_group settings[] = {{.mps = MPS_MODE_AUTO}, {.mps = MPS_MODE_AUTO}, {.mps = MPS_MODE_OFF}};
  struct plan_group groups[] = {
      {.settings = &settings[0], .gpus = first, .n_gpus = 2, .count = 3},
      {.settings = &settings[1], .gpus = second, .n_gpus = 2, .count = 5},
      {.settings = &settings[2], .gpus = third, .n_gpus = 1, .count = 2},
  };
  struct plan plan = {.groups = groups, .n_groups = 3};
  assert_int_equal(launch_mps_plan_count(&plan, &first[0]), 2);
  assert_int_equal(launch_mps_plan_count(&plan, &first[1]), 1 + 3);
  assert_int_equal(launch_mps_plan_count(&plan, &second[1]), 2);
  assert_false(launch_mps_plan_wanted(&plan, &third[0]));
  settings[1].mps = MPS_MODE_ON;
  assert_true(launch_mps_plan_wanted(&plan, &third[0]));
  assert_false(launch_mps_plan_wanted(&plan, &first[0]));
}

/* Without NVML, and thus without UUIDs, names say which GPU it is. */
static void names_where_there_are_no_uuids(void **state) {
  struct launch_group settings = {.mps = MPS_MODE_AUTO};
  struct plan_gpu gpus[] = {{.name = "0"}, {.name = "1"}};
  struct plan_group group = {.settings = &settings, .gpus = gpus, .n_gpus = 2, .count = 3};
  struct plan plan = {.groups = &group, .n_groups = 1};
  char why[GPU_TEXT_SIZE];
  assert_int_equal(launch_mps_plan_count(&plan, &gpus[0]), 2);
  assert_int_equal(launch_mps_plan_count(&plan, &gpus[1]), 1);
  launch_mps_plan_obstacle(&plan, &gpus[0], why, sizeof why);
  assert_string_equal(why, "NVML is not there to say what that GPU can");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(services_of_all_groups_count),
                                     cmocka_unit_test(names_where_there_are_no_uuids)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
