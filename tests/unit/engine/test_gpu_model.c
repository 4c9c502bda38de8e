/* The simulated GPU as numbers, and the two profiles against what was published. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/sim/gpu_model.h"
#include "engine/sim/sim_settings.h"

static const double ms = NS_PER_MS;

static uint64_t add(struct gpu_model *gpu, uint32_t process, uint32_t context, double share, double cap, double left) {
  const struct gpu_kernel kernel = {
      .process = process, .context = context, .share = share, .cap = cap, .left_ns = left * ms};
  return gpu_model_add(gpu, &kernel);
}

static void check_rates(const struct gpu_model *gpu, const double *expected) {
  double rates[GPU_KERNELS_MAX];
  gpu_model_rates(gpu, rates);
  for (uint32_t i = 0; i < gpu->n_kernels; i++)
    if (fabs(rates[i] - expected[i]) > 1e-9) fail_msg("kernel %u: rate %f, not %f", i, rates[i], expected[i]);
}

static void kernels_of_one_context_overlap_until_the_gpu_is_full(void **state) {
  struct gpu_model gpu = {0};
  gpu_model_advance(&gpu, 5);
  assert_int_equal(gpu.now_ns, 5);
  add(&gpu, 0, 9, 0.5, 1, 10);
  add(&gpu, 1, 9, 0.25, 1, 10);
  check_rates(&gpu, (double[]){1, 1});
  add(&gpu, 1, 9, 0.5, 1, 10);
  check_rates(&gpu, (double[]){0.8, 0.8, 0.8});
}

static void a_process_gets_no_more_than_its_cap(void **state) {
  struct gpu_model gpu = {0};
  add(&gpu, 0, 9, 0.5, 0.25, 10);
  add(&gpu, 1, 9, 0.5, 1, 10);
  check_rates(&gpu, (double[]){0.5, 1});
  add(&gpu, 0, 9, 0.5, 0.25, 10); /* two of them share it */
  check_rates(&gpu, (double[]){0.25, 1, 0.25});
  add(&gpu, 2, 9, 1, 1, 10); /* 0.25 + 0.5 + 1 of the GPU */
  check_rates(&gpu, (double[]){0.25 / 1.75, 1 / 1.75, 0.25 / 1.75, 1 / 1.75});
}

static void contexts_take_turns(void **state) {
  struct gpu_model gpu = {0};
  uint64_t first = add(&gpu, 0, 0, 0.1, 1, 9), second = add(&gpu, 1, 1, 0.1, 1, 9), third = add(&gpu, 0, 0, 0.1, 1, 18);
  check_rates(&gpu, (double[]){0.9, 0, 0.9});
  assert_int_equal(gpu_model_end(&gpu, first), 10 * NS_PER_MS);
  assert_int_equal(gpu_model_end(&gpu, second), 20 * NS_PER_MS);
  assert_int_equal(gpu_model_end(&gpu, third), 29 * NS_PER_MS); /* 9 of its 18 went beside the first */
  gpu_model_advance(&gpu, 10 * NS_PER_MS);
  assert_false(gpu_model_has(&gpu, first));
  assert_true(gpu_model_has(&gpu, second));
  check_rates(&gpu, (double[]){0.9, 0});
}

static void late_looks_change_nothing(void **state) {
  struct gpu_model often = {0}, once = {0};
  for (uint32_t i = 0; i < 7; i++) {
    add(&often, i % 3, 9, 0.3 + 0.1 * i, 1, 1 + i);
    add(&once, i % 3, 9, 0.3 + 0.1 * i, 1, 1 + i);
  }
  uint64_t last = gpu_model_end(&once, 7), now = 0;
  for (; now < last - NS_PER_US; now += 1237) gpu_model_advance(&often, now);
  gpu_model_advance(&once, now);
  assert_int_equal(often.n_kernels, once.n_kernels);
  gpu_model_advance(&often, last + NS_PER_US);
  gpu_model_advance(&once, last + NS_PER_US);
  assert_int_equal(often.n_kernels + once.n_kernels, 0);
  gpu_model_advance(&once, 3); /* never back */
  assert_int_equal(once.now_ns, last + NS_PER_US);
}

static void who_leaves_makes_room(void **state) {
  struct gpu_model gpu = {0};
  uint64_t first = add(&gpu, 3, 9, 1, 1, 10), second = add(&gpu, 4, 9, 1, 1, 10);
  add(&gpu, 3, 9, 1, 1, 10);
  assert_int_equal(gpu_model_end(&gpu, second), 30 * NS_PER_MS);
  assert_true(gpu_model_remove_process(&gpu, 3));
  assert_false(gpu_model_remove_process(&gpu, 3));
  assert_false(gpu_model_remove(&gpu, first));
  assert_int_equal(gpu_model_end(&gpu, second), 10 * NS_PER_MS);
  assert_true(gpu_model_remove(&gpu, second));
  assert_int_equal(gpu.n_kernels, 0);
  assert_int_equal(gpu_model_end(&gpu, second), gpu.now_ns);
  while (gpu.n_kernels < GPU_KERNELS_MAX) assert_true(add(&gpu, 0, 0, 1, 1, 1) > second);
  assert_int_equal(add(&gpu, 0, 0, 1, 1, 1), 0);
}

/* ---- the profiles ------------------------------------------------------------------------------------------------ */

struct deployment {
  const char *profile, *sharing;
  uint32_t processes, instances, batch;
};

struct runner {
  uint64_t host_until, ticket; /* one of them is 0 */
};

static struct gpu_kernel kernel_of(const struct sim_settings *settings, const struct deployment *d, uint32_t runner) {
  double work = settings->gpu_work_ms + settings->gpu_work_per_item_ms * d->batch;
  double alone = fmax(settings->gpu_ms + settings->gpu_per_item_ms * d->batch, work);
  uint32_t process = runner / d->instances;
  return (struct gpu_kernel){.process = process,
                             .context = settings->mps ? GPU_PROCESSES_MAX : process,
                             .share = work / alone,
                             .cap = 1,
                             .left_ns = alone * ms};
}

static uint64_t host_ns(const struct sim_settings *settings, const struct deployment *d) {
  double wait = settings->base_ms + settings->per_item_ms * d->batch;
  return (uint64_t)((wait + settings->jitter_ms * drand48()) * ms);
}

/* Rows a second, when there is always another batch to run. */
static double throughput(const struct deployment *d) {
  enum { RUNNERS = 16 };
  const mu_parameter parameters[] = {{"sim.profile", d->profile}, {"sim.sharing", d->sharing}};
  const mu_model_spec spec = {.device = "gpu:0", .parameters = parameters, .n_parameters = 2};
  const uint64_t end = 200 * NS_PER_S;
  struct sim_settings settings;
  struct gpu_model gpu = {0};
  struct runner runners[RUNNERS] = {{0}};
  uint32_t n = d->processes * d->instances;
  uint64_t rows = 0;
  assert_int_equal(sim_settings_read(&spec, &settings, NULL), MU_OK);
  assert_true(n <= RUNNERS);
  srand48(1);
  for (uint32_t i = 0; i < n; i++) runners[i].host_until = 1 + host_ns(&settings, d);
  while (gpu.now_ns < end) {
    uint64_t next = end;
    for (uint32_t i = 0; i < n; i++) {
      uint64_t at = runners[i].ticket != 0 ? gpu_model_end(&gpu, runners[i].ticket) : runners[i].host_until;
      if (at < next) next = at;
    }
    gpu_model_advance(&gpu, next);
    for (uint32_t i = 0; i < n; i++) {
      struct runner *runner = &runners[i];
      const struct gpu_kernel kernel = kernel_of(&settings, d, i);
      if (runner->ticket != 0 && !gpu_model_has(&gpu, runner->ticket)) {
        rows += d->batch;
        *runner = (struct runner){.host_until = next + host_ns(&settings, d) + 1};
      } else if (runner->ticket == 0 && runner->host_until <= next) {
        *runner = (struct runner){.ticket = gpu_model_add(&gpu, &kernel)};
      }
    }
  }
  return (double)rows / ((double)end / (double)NS_PER_S);
}

/* docs/engine-sim.md shows these. */
static void profiles_give_what_was_published(void **state) {
  static const struct {
    struct deployment deployment;
    double least, most;
  } rows[] = {
      {{"saturating", "timeslice", 1, 1, 1}, 73 * 0.9, 73 * 1.1},
      {{"saturating", "timeslice", 1, 2, 1}, 110 * 0.9, 110 * 1.1},
      {{"saturating", "timeslice", 1, 1, 8}, 272 * 0.9, 272 * 1.1},
      {{"saturating", "timeslice", 1, 2, 8}, 290 * 0.9, 290 * 1.1},
      {{"seed", "timeslice", 1, 1, 1}, 58 * 0.97, 58 * 1.03},
      {{"seed", "timeslice", 1, 1, 8}, 363 * 0.97, 363 * 1.03},
      {{"seed", "mps", 4, 1, 1}, 232 * 0.97, 232 * 1.03},
      {{"seed", "timeslice", 4, 1, 1}, 90, 140},
      {{"seed", "mps", 4, 1, 8}, 600, 1452}, /* the estimate is what nothing in the way would give */
  };
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    double got = throughput(&rows[i].deployment);
    print_message("%s, %s, %u processes, %u instances, batch %u: %.1f/s\n", rows[i].deployment.profile,
                  rows[i].deployment.sharing, rows[i].deployment.processes, rows[i].deployment.instances,
                  rows[i].deployment.batch, got);
    if (got < rows[i].least || got > rows[i].most)
      fail_msg("row %zu: %.1f/s, not %.1f to %.1f", i, got, rows[i].least, rows[i].most);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(kernels_of_one_context_overlap_until_the_gpu_is_full),
      cmocka_unit_test(a_process_gets_no_more_than_its_cap),
      cmocka_unit_test(contexts_take_turns),
      cmocka_unit_test(late_looks_change_nothing),
      cmocka_unit_test(who_leaves_makes_room),
      cmocka_unit_test(profiles_give_what_was_published),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
