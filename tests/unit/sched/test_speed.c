/* Devices of different speed, which nobody tells the scheduler: what is learned, who gets what, what comes out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
/* cmocka needs the above */
#include <cmocka.h>

#include "driver.h"
#include "simulation.h"

static const double even[] = {1, 1, 1, 1}, half[] = {1, 1, .5, 1};

static double rows_per_ns(double (*latency)(double), uint32_t max_batch) {
  double best = 0;
  for (uint32_t n = 1; n <= max_batch; n++) best = fmax(best, n / latency(n));
  return best;
}

static struct simulation machine(double (*latency)(double), uint32_t max_batch) {
  return (struct simulation){.latency = latency,
                             .noise = .05,
                             .think_ns = 20e3,
                             .n_instances = 4,
                             .depth = max_batch > 1 ? 2 : 1,
                             .speeds = half,
                             .params = {.max_batch = max_batch, .max_learned_wait_ns = 10 * NS_PER_MS},
                             .warmup = 10000,
                             .requests = 20000,
                             .seed = 5};
}

static const struct {
  double (*latency)(double);
  uint32_t max_batch, clients;
} kinds[] = {{latency_flat, 1, 16}, {latency_of_issue, 64, 1024}, {latency_linear, 8, 64}, {latency_cpu, 8, 64}};
enum { KINDS = sizeof kinds / sizeof *kinds };

static double beside_others(const struct simulation_result *result) {
  return result->work[2] / ((1 - result->work[2]) / 3);
}

/* The ideal is that of 3.5 devices: 0.95 of it, with clients enough for all of them. */
static void test_closed_loop(void **state) {
  for (int k = 0; k < KINDS; k++) {
    struct simulation setup = machine(kinds[k].latency, kinds[k].max_batch);
    double ideal = 3.5e9 * rows_per_ns(kinds[k].latency, kinds[k].max_batch);
    setup.clients = kinds[k].clients;
    struct simulation_result result = simulation_run(&setup);
    double work = beside_others(&result);
    if (result.rate < .95 * ideal || work < .4 || work > .6)
      fail_msg("%d: %.3f of the ideal, %.3f of the others' work", k, result.rate / ideal, work);
  }
}

/* The queue does not grow, and the tail is that of even devices at the same load but for what a slow run takes. */
static void test_open_loop(void **state) {
  static const double loads[] = {.8, .95};
  for (int k = 0; k < KINDS; k++) {
    for (int l = 0; l < 2; l++) {
      struct simulation setup = machine(kinds[k].latency, kinds[k].max_batch);
      double rate = loads[l] * rows_per_ns(kinds[k].latency, kinds[k].max_batch);
      setup.open_rate = 3.5 * rate;
      struct simulation_result result = simulation_run(&setup);
      setup.open_rate = 4 * rate;
      setup.speeds = even;
      struct simulation_result of_even = simulation_run(&setup);
      double share = result.rate / (3.5e9 * rate), work = beside_others(&result);
      if (share < .97 || work > .6 || result.p99_ns > 2 * of_even.p99_ns)
        fail_msg("%d at %.2f: %.3f of the offered, %.3f of the others' work, p99 %.0f beside %.0f us", k, loads[l],
                 share, work, result.p99_ns / 1e3, of_even.p99_ns / 1e3);
    }
  }
}

/* With few requests the slow one gets hardly any; but some, or nobody would notice that it has recovered. */
static void test_little_load(void **state) {
  struct simulation setup = machine(latency_flat, 1);
  setup.clients = 2;
  setup.warmup = 2000;
  struct simulation_result result = simulation_run(&setup);
  assert_true(result.work[2] > .001 && result.work[2] < .01);
  assert_true(result.p99_ns < 1.2 * latency_flat(1));
}

/* Full batches of different sizes on both kinds: the choice of the size is that of even devices. */
static void test_batch_sizes_do_not_mix_up_speeds(void **state) {
  for (int k = 1; k < KINDS; k++) {
    struct simulation setup = machine(kinds[k].latency, kinds[k].max_batch);
    setup.clients = kinds[k].clients;
    struct simulation_result result = simulation_run(&setup);
    setup.speeds = even;
    struct simulation_result of_even = simulation_run(&setup);
    if (fabs(result.mean_batch / of_even.mean_batch - 1) > .05)
      fail_msg("%d: batches of %.2f rows, %.2f on even devices", k, result.mean_batch, of_even.mean_batch);
  }
}

/* A device is throttled, or recovers, in the middle. */
static void test_change(void **state) {
  static const double other[] = {.5, 1, 1, 1};
  struct simulation setup = machine(latency_flat, 1);
  setup.clients = 2; /* there is a choice */
  setup.later = other;
  struct simulation_result result = simulation_run(&setup);
  if (result.work[0] > .02 || result.work[2] < .2) fail_msg("%.3f %.3f", result.work[0], result.work[2]);
}

/* ---- without clients: one batch after the other ------------------------------------------------------------------ */

struct pair {
  struct driver *d;
  struct sched_model *model;
  struct sched_instance *instances[2];
  uint64_t runs[2];
};

static struct pair pair_create(enum sched_choice choice) {
  struct pair p = {.d = driver_create(1)};
  struct sched_model_params params = at_once(1);
  params.choice = choice;
  p.model = add_model(p.d, params);
  p.instances[0] = add_instance(p.d, p.model);
  p.instances[1] = sched_add_instance(p.d->sched, p.model, sched_add_device(p.d->sched, 1), 1, 1, NULL, p.d->now);
  assert_non_null(p.instances[1]);
  return p;
}

/* n requests, one at a time: they take ns[0] and ns[1]. */
static void run(struct pair *p, int n, const uint64_t ns[2]) {
  p->runs[0] = p->runs[1] = 0;
  while (n-- > 0) {
    struct sched_job *job = ask(p->d, p->model, "x", 1);
    struct sched_batch *batch = expect_any_run(p->d);
    int which = batch->instance == p->instances[1];
    p->runs[which]++;
    pass(p->d, ns[which]);
    done(p->d, batch);
    expect_quiet(p->d);
    forget(p->d, job);
  }
}

static void test_noise_is_no_reason(void **state) {
  struct pair p = pair_create(SCHED_QUEUE_DEPTH);
  run(&p, 400, (uint64_t[]){100 * NS_PER_US, 105 * NS_PER_US});
  assert_int_equal(p.runs[0], 200);
  assert_true(sched_instance_speed(p.instances[1]) > .9);
  driver_free(p.d);
}

static void test_speed_is_learned(void **state) {
  struct pair p = pair_create(SCHED_ROUND_ROBIN);
  run(&p, 400, (uint64_t[]){100 * NS_PER_US, 300 * NS_PER_US});
  assert_int_equal(p.runs[0], 200); /* in turn, whatever they are */
  assert_true(fabs(sched_instance_speed(p.instances[0]) - 1) < .02);
  assert_true(fabs(sched_instance_speed(p.instances[1]) - 1 / 3.) < .02);
  run(&p, 1000, (uint64_t[]){100 * NS_PER_US, 100 * NS_PER_US});
  assert_true(sched_instance_speed(p.instances[1]) > .95);
  driver_free(p.d);
}

static void test_one_wild_run_is_not_a_slow_device(void **state) {
  struct pair p = pair_create(SCHED_QUEUE_DEPTH);
  run(&p, 200, (uint64_t[]){NS_PER_MS, NS_PER_MS});
  run(&p, 1, (uint64_t[]){NS_PER_S, NS_PER_S});
  run(&p, 200, (uint64_t[]){NS_PER_MS, NS_PER_MS});
  assert_int_equal(p.runs[0], 100);
  driver_free(p.d);
}

/* Nothing to compare with: its speed is 1 again, and it serves. */
static void test_the_fast_one_goes(void **state) {
  struct pair p = pair_create(SCHED_QUEUE_DEPTH);
  run(&p, 400, (uint64_t[]){NS_PER_MS, 4 * NS_PER_MS});
  assert_true(p.runs[0] > 380 && p.runs[1] > 0);
  sched_instance_lost(p.d->sched, p.instances[0], false, p.d->now);
  p.instances[0] = NULL;
  run(&p, 50, (uint64_t[]){0, 4 * NS_PER_MS});
  assert_int_equal(p.runs[1], 50);
  assert_true(fabs(sched_instance_speed(p.instances[1]) - 1) < .01);
  driver_free(p.d);
}

static void test_slowest(void **state) {
  struct pair p = pair_create(SCHED_ROUND_ROBIN);
  run(&p, 600, (uint64_t[]){NS_PER_US, NS_PER_S});
  double speed = sched_instance_speed(p.instances[1]);
  assert_true(speed > 0 && speed < .1);
  driver_free(p.d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_closed_loop),
      cmocka_unit_test(test_open_loop),
      cmocka_unit_test(test_little_load),
      cmocka_unit_test(test_batch_sizes_do_not_mix_up_speeds),
      cmocka_unit_test(test_change),
      cmocka_unit_test(test_noise_is_no_reason),
      cmocka_unit_test(test_speed_is_learned),
      cmocka_unit_test(test_one_wild_run_is_not_a_slow_device),
      cmocka_unit_test(test_the_fast_one_goes),
      cmocka_unit_test(test_slowest),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
