/*
 * What the learned wait is worth, on a simulated machine: against the best fixed delay, preferred size or batch limit
 * where clients come back after their answers, and against no waiting where nobody comes back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
/* cmocka needs the above */
#include <cmocka.h>

#include "simulation.h"

struct thinking {
  enum think think;
  double ns;
};

static const struct thinking short_thinks[] = {
    {THINK_FIXED, 0}, {THINK_FIXED, 50e3}, {THINK_FIXED, 200e3}, {THINK_UNIFORM, 100e3}, {THINK_EXPONENTIAL, 200e3},
};

static struct simulation closed_loop(double (*latency)(double), uint32_t clients, struct thinking thinking) {
  return (struct simulation){
      .latency = latency,
      .clients = clients,
      .think = thinking.think,
      .think_ns = thinking.ns,
      .params = {.max_batch = 64, .max_learned_wait_ns = 5 * NS_PER_MS},
      .warmup = 500 + 40 * clients,
      .requests = 3000 + 60 * clients,
  };
}

/* Rate against the best fixed setting, the worst of two seeds. */
static double against_best(struct simulation setup) {
  double worst = 2;
  setup.seed = 1;
  double best = simulation_best_static(&setup).rate;
  for (setup.seed = 1; setup.seed <= 2; setup.seed++) {
    double ratio = simulation_run(&setup).rate / best;
    if (ratio < worst) worst = ratio;
  }
  return worst;
}

static void expect_at_least(double least, struct simulation setup) {
  double ratio = against_best(setup);
  if (ratio < least)
    fail_msg("%u clients, think %d %.0f ns, noise %.2f: %.3f of the best fixed setting", setup.clients, setup.think,
             setup.think_ns, setup.noise, ratio);
}

static void test_64_clients(void **state) {
  for (size_t i = 0; i < sizeof short_thinks / sizeof *short_thinks; i++) {
    struct simulation setup = closed_loop(latency_of_issue, 64, short_thinks[i]);
    expect_at_least(.95, setup);
    setup.noise = .1;
    expect_at_least(.95, setup);
  }
}

static void test_not_locked_into_1_and_63(void **state) {
  struct simulation setup = closed_loop(latency_of_issue, 64, (struct thinking){THINK_FIXED, 50e3});
  assert_true(simulation_run(&setup).mean_batch > 60);
  setup.params.max_learned_wait_ns = 0; /* what happens without */
  assert_true(simulation_run(&setup).mean_batch < 33);
}

static void test_few_clients(void **state) {
  for (uint32_t clients = 1; clients <= 16; clients *= 4)
    for (size_t i = 0; i < sizeof short_thinks / sizeof *short_thinks; i++)
      expect_at_least(clients == 1 ? .98 : .95, closed_loop(latency_of_issue, clients, short_thinks[i]));
}

static void test_other_curves(void **state) {
  double (*const latencies[])(double) = {latency_flat, latency_linear, latency_cpu};
  const uint32_t clients[] = {4, 16, 64};
  for (size_t l = 0; l < sizeof latencies / sizeof *latencies; l++)
    for (size_t c = 0; c < sizeof clients / sizeof *clients; c++)
      for (size_t i = 1; i < 3; i++) expect_at_least(.95, closed_loop(latencies[l], clients[c], short_thinks[i]));
}

static void test_two_instances(void **state) {
  for (size_t i = 0; i < sizeof short_thinks / sizeof *short_thinks; i++) {
    struct simulation setup = closed_loop(latency_of_issue, 128, short_thinks[i]);
    setup.n_instances = 2;
    expect_at_least(.95, setup);
    setup.clients = 64; /* 32 each is right, 1 and 63 is not */
    expect_at_least(.95, setup);
    setup.tokens = 1; /* taking turns on one device */
    expect_at_least(.95, setup);
  }
}

static void test_longer_batches_than_clients_and_the_reverse(void **state) {
  const uint32_t clients[] = {40, 100, 200};
  for (size_t c = 0; c < sizeof clients / sizeof *clients; c++)
    expect_at_least(.95, closed_loop(latency_of_issue, clients[c], (struct thinking){THINK_UNIFORM, 100e3}));
}

/* An open loop: nothing to win by waiting, and hardly anything may be lost. */
static void test_an_open_loop_is_left_alone(void **state) {
  double (*const latencies[])(double) = {latency_of_issue, latency_flat};
  for (size_t l = 0; l < 2; l++) {
    for (double rate = .05e-6; rate < 4e-6; rate *= 2) {
      for (uint32_t instances = 1; instances <= 2; instances++) {
        struct simulation learned = {
            .latency = latencies[l],
            .open_rate = rate,
            .noise = .05,
            .n_instances = instances,
            .params = {.max_batch = 64, .max_learned_wait_ns = 5 * NS_PER_MS},
            .warmup = 1000,
            .requests = 10000,
            .seed = 5,
        };
        struct simulation never = learned;
        never.params.has_max_queue_delay = true;
        double ratio = simulation_run(&learned).p99_ns / simulation_run(&never).p99_ns;
        if (ratio > 1.2) fail_msg("%.3f requests per ms: p99 is %.3f of that without waiting", rate * 1e6, ratio);
      }
    }
  }
}

enum { TRIO = 3 };

/* Three clients that ask 10 us one after the other; how many of them the first batch waits for. All are answered. */
static uint32_t first_batch(struct sched *sched, struct sched_model *model, uint64_t *now, uint64_t patience_ns) {
  struct sched_job jobs[TRIO];
  struct sched_batch *batch = NULL;
  struct sched_decision d;
  uint32_t first = 0;
  for (uint32_t i = 0; i < TRIO; i++) {
    jobs[i] = (struct sched_job){
        .key = sched_key_get(sched, model, "k", 1), .rows = 1, .deadline_ns = time_add(*now, patience_ns)};
    assert_int_equal(sched_submit(sched, &jobs[i], *now, NULL), MU_OK);
    if (sched_next(sched, *now, &d)) batch = d.batch;
    *now += 10 * NS_PER_US;
  }
  for (uint32_t answered = 0; answered < TRIO;) {
    if (batch == NULL) {
      if (!sched_next(sched, *now, &d))
        *now = sched_wake_ns(sched);
      else if (d.action == SCHED_DROP)
        answered++;
      else
        batch = d.batch;
      continue;
    }
    if (first == 0) first = batch->n_jobs;
    answered += batch->n_jobs;
    *now += 2 * NS_PER_MS; /* whatever the size */
    sched_batch_done(sched, batch, *now);
    batch = NULL;
  }
  *now += 100 * NS_PER_US;
  return first;
}

static void test_a_deadline_forbids_the_wait(void **state) {
  struct sched *sched = sched_create(NULL);
  struct sched_device *device = sched_add_device(sched, 1);
  struct sched_model_params params = {.max_batch = 64, .max_learned_wait_ns = 5 * NS_PER_MS};
  struct sched_model *model = sched_add_model(sched, &params);
  assert_non_null(sched_add_instance(sched, model, device, 1, 1, NULL, 1));
  uint64_t now = NS_PER_S, long_time = 3600 * NS_PER_S, short_time = 15 * NS_PER_MS;
  for (int i = 0; i < 20; i++) first_batch(sched, model, &now, long_time);
  assert_int_equal(first_batch(sched, model, &now, long_time), TRIO);
  assert_int_equal(first_batch(sched, model, &now, short_time), TRIO);
  assert_int_equal(first_batch(sched, model, &now, 2 * NS_PER_MS + 5 * NS_PER_US), 1);
  sched_free(sched);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_64_clients),
      cmocka_unit_test(test_not_locked_into_1_and_63),
      cmocka_unit_test(test_few_clients),
      cmocka_unit_test(test_other_curves),
      cmocka_unit_test(test_two_instances),
      cmocka_unit_test(test_longer_batches_than_clients_and_the_reverse),
      cmocka_unit_test(test_an_open_loop_is_left_alone),
      cmocka_unit_test(test_a_deadline_forbids_the_wait),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
