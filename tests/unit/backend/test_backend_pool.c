/* Choice, leaving and coming back of backends, with the time given. */
#include "backend/backend_pool.h"

#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define MS (UINT64_C(1) * NS_PER_MS)

static struct backend_pool healthy_pool(size_t n) {
  struct backend_pool pool;
  assert_int_equal(backend_pool_init(&pool, n, &backend_pool_defaults, 0, NULL), MU_OK);
  for (size_t i = 0; i < n; i++) {
    assert_int_equal(backend_pool_check(&pool, 0), i);
    assert_true(backend_pool_checked(&pool, i, BACKEND_OK, 0));
  }
  assert_int_equal(backend_pool_check(&pool, 0), BACKEND_NONE);
  return pool;
}

static bool run(struct backend_pool *pool, size_t i, enum backend_outcome outcome, uint64_t now) {
  backend_pool_begin(pool, i);
  return backend_pool_end(pool, i, outcome, now);
}

static void test_none_before_its_first_check(void **state) {
  struct backend_pool pool;
  assert_int_equal(backend_pool_init(&pool, 2, &backend_pool_defaults, 5, NULL), MU_OK);
  assert_int_equal(backend_pool_choose(&pool, NULL, 0), BACKEND_NONE);
  assert_int_equal(backend_pool_next_check(&pool), 5);
  assert_int_equal(backend_pool_check(&pool, 4), BACKEND_NONE);
  assert_int_equal(backend_pool_check(&pool, 5), 0);
  assert_int_equal(backend_pool_check(&pool, 5), 1);
  assert_int_equal(backend_pool_next_check(&pool), TIME_NEVER);
  backend_pool_checked(&pool, 1, BACKEND_OK, 6);
  assert_int_equal(backend_pool_choose(&pool, NULL, 0), 1);
  backend_pool_free(&pool);
}

static void test_least_outstanding_ties_in_turn(void **state) {
  struct backend_pool pool = healthy_pool(3);
  for (size_t k = 0; k < 6; k++) { /* all idle: each in turn */
    size_t i = backend_pool_choose(&pool, NULL, 0);
    assert_int_equal(i, k % 3);
    run(&pool, i, BACKEND_OK, 1);
  }
  backend_pool_begin(&pool, 0);
  backend_pool_begin(&pool, 0);
  backend_pool_begin(&pool, 1);
  assert_int_equal(backend_pool_choose(&pool, NULL, 0), 2);
  backend_pool_begin(&pool, 2);
  backend_pool_begin(&pool, 2);
  assert_int_equal(backend_pool_choose(&pool, NULL, 0), 1);
  assert_int_equal(pool.items[0].outstanding, 2);
  const size_t tried[] = {1, 0};
  assert_int_equal(backend_pool_choose(&pool, tried, 2), 2);
  backend_pool_drain(&pool, 2, true);
  assert_int_equal(backend_pool_choose(&pool, tried, 2), BACKEND_NONE);
  backend_pool_free(&pool);
}

static void test_failures_in_a_row_take_out(void **state) {
  struct backend_pool pool = healthy_pool(2);
  assert_false(run(&pool, 0, BACKEND_FAILED, 1));
  assert_false(run(&pool, 0, BACKEND_FAILED, 1));
  assert_false(run(&pool, 0, BACKEND_OK, 1)); /* not in a row */
  assert_false(run(&pool, 0, BACKEND_FAILED, 1));
  assert_false(run(&pool, 0, BACKEND_NO_RESULT, 1));
  assert_false(run(&pool, 0, BACKEND_FAILED, 1));
  assert_true(run(&pool, 0, BACKEND_FAILED, 1));
  assert_false(run(&pool, 0, BACKEND_FAILED, 1)); /* one that was under way */
  assert_int_equal(pool.n_healthy, 1);
  assert_int_equal(pool.items[0].error_count, 6);
  assert_int_equal(pool.items[0].total_requests, 8);
  assert_true(run(&pool, 1, BACKEND_REFUSED, 1)); /* nobody there: at once */
  assert_int_equal(backend_pool_choose(&pool, NULL, 0), BACKEND_NONE);
  assert_false(run(&pool, 1, BACKEND_OK, 2)); /* a late answer does not bring it back */
  assert_int_equal(pool.n_healthy, 0);
  backend_pool_free(&pool);
}

static void test_comes_back_by_a_check_within_a_second(void **state) {
  struct backend_pool pool = healthy_pool(1);
  uint64_t now = 10 * MS, waits[] = {100, 100, 200, 400, 800, 1000, 1000};
  run(&pool, 0, BACKEND_REFUSED, now);
  for (size_t k = 0; k < sizeof waits / sizeof *waits; k++) {
    assert_int_equal(backend_pool_next_check(&pool) - now, waits[k] * MS);
    now += waits[k] * MS;
    assert_int_equal(backend_pool_check(&pool, now - 1), BACKEND_NONE);
    assert_int_equal(backend_pool_check(&pool, now), 0);
    assert_false(backend_pool_checked(&pool, 0, BACKEND_REFUSED, now));
  }
  now += 1000 * MS;
  assert_int_equal(backend_pool_check(&pool, now), 0);
  assert_true(backend_pool_checked(&pool, 0, BACKEND_OK, now));
  assert_int_equal(backend_pool_choose(&pool, NULL, 0), 0);
  assert_int_equal(backend_pool_next_check(&pool), now + 2000 * MS);
  backend_pool_free(&pool);
}

static void test_checks_take_out_what_hangs(void **state) {
  struct backend_pool pool = healthy_pool(1);
  uint64_t now = backend_pool_next_check(&pool);
  assert_int_equal(backend_pool_check(&pool, now), 0);
  assert_false(backend_pool_checked(&pool, 0, BACKEND_FAILED, now)); /* once may be chance */
  now = backend_pool_next_check(&pool);
  assert_int_equal(backend_pool_check(&pool, now), 0);
  assert_false(backend_pool_checked(&pool, 0, BACKEND_NO_RESULT, now));
  now = backend_pool_next_check(&pool);
  assert_int_equal(backend_pool_check(&pool, now), 0);
  assert_true(backend_pool_checked(&pool, 0, BACKEND_FAILED, now));
  assert_int_equal(pool.n_healthy, 0);
  backend_pool_free(&pool);
}

/* A request takes it out while it is being checked: that check's answer, good or bad, is still taken. */
static void test_out_during_a_check(void **state) {
  struct backend_pool pool = healthy_pool(1);
  uint64_t now = backend_pool_next_check(&pool);
  assert_int_equal(backend_pool_check(&pool, now), 0);
  run(&pool, 0, BACKEND_REFUSED, now);
  assert_int_equal(backend_pool_next_check(&pool), TIME_NEVER);
  assert_false(backend_pool_checked(&pool, 0, BACKEND_REFUSED, now));
  assert_int_equal(backend_pool_next_check(&pool), now + 100 * MS);
  backend_pool_free(&pool);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_none_before_its_first_check), cmocka_unit_test(test_least_outstanding_ties_in_turn),
      cmocka_unit_test(test_failures_in_a_row_take_out),  cmocka_unit_test(test_comes_back_by_a_check_within_a_second),
      cmocka_unit_test(test_checks_take_out_what_hangs),  cmocka_unit_test(test_out_during_a_check),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
