#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include "base/clock.h"
#include "process/restart_policy.h"

static const uint64_t ms = NS_PER_MS;

static uint64_t die(struct restart_policy *policy, uint64_t now_ns) {
  uint64_t delay = UINT64_MAX;
  assert_true(restart_policy_death(policy, now_ns, true, &delay));
  return delay;
}

static void at_once_then_doubling_to_30_seconds(void **state) {
  struct restart_policy policy = {0};
  static const uint64_t delays_ms[] = {0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000, 30000};
  for (size_t i = 0; i < sizeof delays_ms / sizeof delays_ms[0]; i++) {
    restart_policy_ready(&policy, i * NS_PER_S);
    assert_int_equal(die(&policy, i * NS_PER_S + ms), delays_ms[i] * ms);
  }
}

static void the_longest_delay_can_be_shorter(void **state) {
  struct restart_policy policy = {.longest_delay_ns = NS_PER_S};
  static const uint64_t delays_ms[] = {0, 100, 200, 400, 800, 1000, 1000};
  for (size_t i = 0; i < sizeof delays_ms / sizeof delays_ms[0]; i++) {
    restart_policy_ready(&policy, i * NS_PER_S);
    assert_int_equal(die(&policy, i * NS_PER_S + ms), delays_ms[i] * ms);
  }
}

static void five_early_deaths_are_the_last(void **state) {
  struct restart_policy policy = {0};
  uint64_t delay = 77;
  for (int i = 0; i < RESTART_EARLY_DEATHS_MAX - 1; i++) die(&policy, 0);
  assert_false(restart_policy_death(&policy, 0, true, &delay));
  assert_int_equal(delay, 77);
}

static void getting_ready_forgives_early_deaths(void **state) {
  struct restart_policy policy = {0};
  for (int round = 0; round < 10; round++) {
    for (int i = 0; i < RESTART_EARLY_DEATHS_MAX - 1; i++) die(&policy, 0);
    restart_policy_ready(&policy, 0);
    die(&policy, 1);
  }
}

static void a_minute_of_service_forgives_the_delay(void **state) {
  struct restart_policy policy = {0};
  restart_policy_ready(&policy, 0);
  assert_int_equal(die(&policy, 1), 0);
  restart_policy_ready(&policy, 2);
  assert_int_equal(die(&policy, 3), 100 * ms);
  restart_policy_ready(&policy, NS_PER_S);
  assert_int_equal(die(&policy, 61 * NS_PER_S - 1), 200 * ms); /* not quite a minute */
  restart_policy_ready(&policy, 100 * NS_PER_S);
  assert_int_equal(die(&policy, 160 * NS_PER_S), 0);
  assert_int_equal(die(&policy, 161 * NS_PER_S), 100 * ms); /* and it starts over */
}

static void a_death_by_others_counts_for_nothing(void **state) {
  struct restart_policy policy = {0};
  uint64_t delay = UINT64_MAX;
  for (int i = 0; i < 100; i++) {
    restart_policy_ready(&policy, 0);
    assert_true(restart_policy_death(&policy, 1, false, &delay));
    assert_int_equal(delay, 0);
  }
  restart_policy_ready(&policy, 0);
  assert_int_equal(die(&policy, 1), 0); /* the first of its own */
  restart_policy_ready(&policy, 2);
  assert_int_equal(die(&policy, 3), 100 * ms);
}

static void a_death_by_others_before_it_is_ready_counts(void **state) {
  struct restart_policy policy = {0};
  uint64_t delay;
  for (int i = 0; i < RESTART_EARLY_DEATHS_MAX - 1; i++) assert_true(restart_policy_death(&policy, 0, false, &delay));
  assert_false(restart_policy_death(&policy, 0, false, &delay));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(at_once_then_doubling_to_30_seconds),
      cmocka_unit_test(the_longest_delay_can_be_shorter),
      cmocka_unit_test(five_early_deaths_are_the_last),
      cmocka_unit_test(getting_ready_forgives_early_deaths),
      cmocka_unit_test(a_minute_of_service_forgives_the_delay),
      cmocka_unit_test(a_death_by_others_counts_for_nothing),
      cmocka_unit_test(a_death_by_others_before_it_is_ready_counts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
