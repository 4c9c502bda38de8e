/*
 * Plans, probes and a whole launch without memory. A launch either says at its start that it lacks it, or runs to its
 * end all the same: a service that cannot be started has failed, and nothing of it stays behind.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "failing_allocator.h"
#include "launch/launch.h"
#include "launch/probe.h"

/* Where memory does not come back by itself it does so after this. */
enum { DEARTH_MS = 3, GPUS = 2 };

/* ---- the end of the dearth --------------------------------------------------------------------------------------- */

extern void *__interceptor_malloc(size_t) __attribute__((weak)); /* a sanitizer's */

static timer_t dearth;

/* Ticks; the first one that finds that memory has run out is not yet the end of that. */
static void on_tick(int number) {
  static bool before;
  bool failed = allocation_has_failed();
  if (failed && before) allocations_work();
  before = failed && !before;
}

static void make_timer(void) {
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
  signal(SIGUSR2, on_tick);
  assert_int_equal(timer_create(CLOCK_MONOTONIC, &event, &dearth), 0);
}

static void begin_dearth(void) {
  const struct timespec tick = {.tv_nsec = DEARTH_MS * NS_PER_MS};
  const struct itimerspec ticks = {.it_value = tick, .it_interval = tick};
  assert_int_equal(timer_settime(dearth, 0, &ticks, NULL), 0);
  allocations_fail();
}

static void end_dearth(void) {
  const struct itimerspec never = {.it_value = {.tv_sec = 0}};
  timer_settime(dearth, 0, &never, NULL);
  allocations_work();
}

/* ---- plans ------------------------------------------------------------------------------------------------------- */

static struct gpu_inventory inventory;

static void fill_inventory(void) {
  inventory.n_gpus = GPUS;
  for (int32_t i = 0; i < GPUS; i++) {
    struct gpu *gpu = &inventory.gpus[i];
    snprintf(gpu->uuid, sizeof gpu->uuid, "GPU-%d", (int)i);
    gpu->index = i;
    gpu->mig_index = GPU_UNKNOWN;
  }
}

static struct launch_settings *load(int argc, const char *const *argv) {
  struct launch_settings *settings;
  mu_error err;
  assert_int_equal(launch_settings_load(argc, (char **)argv, &settings, &err), MU_OK);
  return settings;
}

static mu_status make_plan(void *context) {
  static const char *const argv[] = {"--gpus",        "all",       "--per-gpu", "2",       "--port",
                                     "50051+",        "--mps=off", "--env",     "A={gpu}", "--ready",
                                     "http:/{index}", "--",        "/bin/true", "{uuid}"};
  struct plan *plan = NULL;
  mu_error err;
  allocations_work();
  struct launch_settings *settings = load(sizeof argv / sizeof *argv, argv);
  allocations_fail();
  mu_status status = plan_create(settings, &inventory, &plan, &err);
  allocations_work();
  plan_free(plan);
  assert_int_equal(plan_create(settings, &inventory, &plan, &err), MU_OK);
  assert_int_equal(plan->groups[0].count, 2 * GPUS);
  assert_non_null(plan->groups[0].gpus[1].device);
  plan_free(plan);
  launch_settings_free(settings);
  return status;
}

/* ---- probes ------------------------------------------------------------------------------------------------------ */

/* A command: without memory libcurl leaves blocks of its own behind when it connects. */
static void on_ready(void *context) { net_loop_stop(context); }

static mu_status ask(void *context) {
  struct probe_spec spec = {.kind = READY_COMMAND, .argument = "true", .environment = environ};
  struct probe_pool *pool = NULL;
  struct probe *probe = NULL;
  mu_error err;
  allocations_work();
  struct net_loop *loop = net_loop_create();
  begin_dearth();
  mu_status status = probe_pool_create(loop, &pool, &err);
  if (status == MU_OK) status = probe_start(pool, &spec, on_ready, loop, &probe, &err);
  if (status == MU_OK) net_loop_run(loop); /* until it is ready: what fails is tried again */
  end_dearth();
  probe_stop(probe);
  probe_pool_free(pool);
  net_loop_free(loop);
  return status;
}

/* ---- a launch ---------------------------------------------------------------------------------------------------- */

static char folder[] = "/tmp/muster-launch-XXXXXX";

static void on_settled(void *context, bool all, const char *summary) {}

static mu_status run_services(void *context) {
  static const char *const argv[] = {"--restart", "never", "--", "/bin/true"};
  const struct launch_report report = {.settled = on_settled};
  struct launch *launch = NULL;
  struct plan *plan;
  mu_error err;
  allocations_work();
  struct launch_settings *settings = load(sizeof argv / sizeof *argv, argv);
  assert_int_equal(plan_create(settings, NULL, &plan, &err), MU_OK);
  begin_dearth();
  mu_status status = launch_create(plan, folder, &report, &launch, &err);
  if (status == MU_OK) {
    bool well = launch_run(launch); /* /bin/true ends with 0, which is well */
    if (!well && !allocation_has_failed()) status = MU_INTERNAL;
  } else if (status != MU_NO_MEMORY) {
    print_message("%s\n", err.message);
  }
  launch_free(launch);
  end_dearth();
  while (waitpid(-1, NULL, 0) > 0) continue; /* the guard, killed with its launch: nothing else may be there */
  plan_free(plan);
  launch_settings_free(settings);
  return status;
}

static void remove_folder(void) {
  static const char *const names[] = {"logs/true-0.log", "logs", "launch.log"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char path[sizeof folder + 32];
    snprintf(path, sizeof path, "%s/%s", folder, names[i]);
    assert_int_equal(remove(path), 0);
  }
  assert_int_equal(remove(folder), 0);
}

static void test_plan(void **state) { fail_each_allocation("plan", make_plan, NULL); }
static void test_probe(void **state) { fail_each_allocation("probe", ask, NULL); }
/* Two forks in each of 500 runs take a sanitized process minutes: MUSTER_TEST_LONG=1 has them all the same. */
static void test_launch(void **state) {
  if (__interceptor_malloc != NULL && getenv("MUSTER_TEST_LONG") == NULL) skip();
  assert_non_null(mkdtemp(folder));
  fail_each_allocation("launch", run_services, NULL);
  remove_folder();
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_plan), cmocka_unit_test(test_probe),
                                     cmocka_unit_test(test_launch)};
  log_setup("launch", LOG_LEVEL_ERROR, LOG_FORMAT_TEXT);
  make_timer();
  fill_inventory();
  return cmocka_run_group_tests(tests, NULL, NULL);
}
