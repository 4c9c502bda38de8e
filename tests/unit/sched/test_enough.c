/* How many rows are enough for a batch: learned from a curve, tried at little cost, kept against noise. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
/* cmocka needs the above */
#include <cmocka.h>

#include "sched/enough.h"
#include "simulation.h"

enum { MAX_ROWS = 64 };

/* An instance that always finds so many rows waiting. */
struct machine {
  struct curve curve;
  struct enough enough;
  double (*latency)(double rows);
  double noise;
  uint64_t random;
  uint32_t batches[MAX_ROWS + 1]; /* by rows */
  double rows, ns;
};

static void run(struct machine *m, uint32_t waiting, uint32_t n) {
  memset(m->batches, 0, sizeof m->batches);
  m->rows = m->ns = 0;
  for (uint32_t i = 0; i < n; i++) {
    uint32_t rows = enough_choose(&m->enough, &m->curve, waiting, MAX_ROWS);
    assert_in_range(rows, 1, MAX_ROWS);
    if (rows > waiting) rows = waiting;
    double ns = m->latency(rows) * (1 + m->noise * (2 * random_unit(&m->random) - 1));
    curve_learn(&m->curve, rows, (uint64_t)ns);
    enough_learn(&m->enough, rows, (uint64_t)ns);
    m->batches[rows]++;
    m->rows += rows;
    m->ns += m->latency(rows);
  }
}

static double cached(double n) { return (n <= 8 ? 6 * n : 48 + 6.9 * (n - 8)) * 1e6; }
static double cheap_together(double n) { return (10 + n) * 1e6; }

static void test_one_row_is_never_limited(void **state) {
  struct machine m = {.latency = cached, .random = 1};
  run(&m, 1, 100);
  assert_int_equal(enough_choose(&m.enough, &m.curve, 1, MAX_ROWS), MAX_ROWS);
}

static void test_few_are_enough_where_more_cost_their_full_time(void **state) {
  for (uint64_t seed = 1; seed <= 5; seed++) {
    struct machine m = {.latency = cached, .noise = .1, .random = seed};
    run(&m, 64, 500);
    run(&m, 64, 5000);
    uint32_t large = 0;
    for (uint32_t rows = 33; rows <= MAX_ROWS; rows++) large += m.batches[rows];
    assert_true(large < 250);
    assert_true(m.rows / m.ns > .93 / 6e6); /* the best there is: 1 / 6e6 */
  }
}

/* However many wait: batches begin small and double. */
static void test_the_first_batches_are_small(void **state) {
  struct machine m = {.latency = cached, .random = 1};
  run(&m, 64, 3);
  for (uint32_t rows = 17; rows <= MAX_ROWS; rows++) assert_int_equal(m.batches[rows], 0);
  m = (struct machine){.latency = cheap_together, .random = 1};
  run(&m, 64, 60);
  assert_true(m.batches[MAX_ROWS] > 0);
}

/* 64 of a CPU model of which 16 run for 0.1 s: the choice is made after a few seconds, not after so many batches. */
static void test_slow_batches_are_judged_soon(void **state) {
  for (uint64_t seed = 1; seed <= 5; seed++) {
    struct machine m = {.latency = cached, .noise = .1, .random = seed};
    double learning_ns = 0;
    while (m.enough.rows == 0 || m.enough.rows > 8) {
      run(&m, 64, 1);
      learning_ns += m.ns;
      assert_true(learning_ns < 4e9);
    }
  }
}

/* The same time a row, but the larger one leaves the instance idle after it. */
static void test_idle_time_counts(void **state) {
  struct machine m = {.latency = cheap_together, .random = 1};
  for (int i = 0; i < 2000; i++) {
    run(&m, 64, 1);
    for (uint32_t rows = 1; rows <= MAX_ROWS; rows++)
      if (m.batches[rows] > 0) curve_learn_idle(&m.curve, rows, rows > 32 ? 60000000 : 0);
  }
  run(&m, 64, 100);
  assert_true(m.batches[32] > 90);
}

static void test_as_many_as_possible_where_rows_are_cheaper_together(void **state) {
  for (uint64_t seed = 1; seed <= 5; seed++) {
    struct machine m = {.latency = cheap_together, .noise = .1, .random = seed};
    run(&m, 64, 1000);
    assert_true(m.rows / m.ns > .97 * 64 / cheap_together(64));
    assert_int_equal(m.batches[2] + m.batches[4], 0); /* hopeless */
  }
}

static void test_a_machine_that_changes_is_followed(void **state) {
  struct machine m = {.latency = cached, .noise = .05, .random = 3};
  run(&m, 64, 500);
  m.latency = cheap_together;
  run(&m, 64, 20000);
  run(&m, 64, 100);
  assert_true(m.rows / m.ns > .9 * 64 / cheap_together(64));
  m.latency = cached;
  run(&m, 64, 20000);
  run(&m, 64, 100);
  assert_true(m.rows / m.ns > .95 / 6e6);
}

/* With only so many waiting that a larger size never comes by itself, the limit may reach beyond, but rarely. */
static void test_the_limit_reaches_beyond_only_now_and_then(void **state) {
  struct machine m = {.latency = cached, .random = 3};
  run(&m, 64, 500);
  uint32_t enough = m.enough.rows, beyond = 0;
  assert_in_range(enough, 1, 8);
  for (int i = 0; i < 40000; i++) {
    uint32_t limit = enough_limit(&m.enough, MAX_ROWS);
    assert_true(m.enough.rows == 0 || limit == m.enough.rows || limit == m.enough.rows * 2);
    if (m.enough.rows > 0 && limit > m.enough.rows) beyond++;
    run(&m, limit, 1);
  }
  assert_in_range(beyond, 0, 400);
}

static void test_parts_of_one_size(void **state) {
  struct machine m = {.latency = cached, .random = 3};
  run(&m, 64, 500);
  m.enough.rows = m.enough.reach = 8;
  m.enough.debt_ns = 1e12f; /* no tries */
  m.enough.age = 0;
  assert_int_equal(enough_choose(&m.enough, &m.curve, 8, MAX_ROWS), MAX_ROWS);
  assert_int_equal(enough_choose(&m.enough, &m.curve, 14, MAX_ROWS), 7);
  assert_int_equal(enough_choose(&m.enough, &m.curve, 40, MAX_ROWS), 8);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_row_is_never_limited),
      cmocka_unit_test(test_few_are_enough_where_more_cost_their_full_time),
      cmocka_unit_test(test_the_first_batches_are_small),
      cmocka_unit_test(test_slow_batches_are_judged_soon),
      cmocka_unit_test(test_idle_time_counts),
      cmocka_unit_test(test_as_many_as_possible_where_rows_are_cheaper_together),
      cmocka_unit_test(test_a_machine_that_changes_is_followed),
      cmocka_unit_test(test_the_limit_reaches_beyond_only_now_and_then),
      cmocka_unit_test(test_parts_of_one_size),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
