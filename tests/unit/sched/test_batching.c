/* Which jobs share a batch, and when it goes: max_batch, keys, levels, max_queue_delay, preferred sizes. */
#include "sched_fixture.h"

static void test_all_that_waits_goes_together(void **state) {
  struct world *w = world_open(at_once(4), 1);
  add_instance(w);
  struct sched_job *first = ask(w, 'a');
  struct sched_batch *batch = runs(w, 1);
  assert_ptr_equal(batch->jobs[0], first);
  for (int i = 0; i < 6; i++) ask(w, 'a');
  nothing(w);
  runs_for(w, batch, NS_PER_MS);
  batch = runs(w, 4);
  assert_int_equal(batch->rows, 4);
  assert_int_equal(batch->live, 4);
  runs_for(w, batch, NS_PER_MS);
  done(w, runs(w, 2));
  world_close(w);
}

static void test_without_batching_every_job_runs_alone(void **state) {
  struct world *w = world_open(at_once(0), 1);
  add_instance(w);
  ask_rows(w, 'a', 7);
  ask_rows(w, 'a', 1000000);
  struct sched_batch *batch = runs(w, 1);
  assert_int_equal(batch->rows, 7);
  done(w, batch);
  done(w, runs(w, 1));
  world_close(w);
}

static void test_jobs_of_several_rows_are_not_split_or_overtaken(void **state) {
  struct world *w = world_open(at_once(8), 1);
  add_instance(w);
  struct sched_job *jobs[] = {ask_rows(w, 'a', 3), ask_rows(w, 'a', 3), ask_rows(w, 'a', 3), ask_rows(w, 'a', 2)};
  struct sched_batch *batch = runs(w, 2); /* the last would fit, but it is not its turn */
  assert_int_equal(batch->rows, 6);
  assert_ptr_equal(batch->jobs[1], jobs[1]);
  done(w, batch);
  batch = runs(w, 2);
  assert_ptr_equal(batch->jobs[0], jobs[2]);
  done(w, batch);
  world_close(w);
}

static void test_rows_out_of_range_are_invalid(void **state) {
  struct world *w = world_open(at_once(8), 1);
  assert_int_equal(submit(w, new_job(w, 'a', 0)), MU_INVALID);
  assert_int_equal(submit(w, new_job(w, 'a', 9)), MU_INVALID);
  assert_non_null(strstr(w->err.message, "1 to 8"));
  world_close(w);
}

static void test_keys_do_not_mix_and_the_oldest_goes_first(void **state) {
  struct world *w = world_open(at_once(8), 1);
  add_instance(w);
  ask(w, 'x');
  struct sched_batch *batch = runs(w, 1);
  struct sched_job *b = ask(w, 'b');
  struct sched_job *a = ask(w, 'a');
  for (int i = 0; i < 7; i++) ask(w, 'a');
  ask(w, 'b');
  done(w, batch);
  batch = runs(w, 2);
  assert_ptr_equal(batch->jobs[0], b);
  done(w, batch);
  batch = runs(w, 8);
  assert_ptr_equal(batch->jobs[0], a);
  done(w, batch);
  world_close(w);
}

static void test_a_delay_waits_for_a_full_batch(void **state) {
  struct sched_model_params params = at_once(4);
  params.max_queue_delay_ns = 100;
  struct world *w = world_open(params, 1);
  add_instance(w);
  uint64_t start = w->now;
  ask(w, 'a');
  nothing(w);
  assert_int_equal(sched_wake_ns(w->sched), start + 100);
  w->now += 60;
  ask(w, 'a');
  nothing(w);
  assert_int_equal(sched_wake_ns(w->sched), start + 100); /* the oldest counts */
  w->now = start + 99;
  nothing(w);
  w->now = start + 100;
  done(w, runs(w, 2));
  for (int i = 0; i < 3; i++) ask(w, 'a');
  nothing(w);
  ask(w, 'a');
  done(w, runs(w, 4)); /* full: at once */
  world_close(w);
}

static void test_a_held_key_does_not_hold_up_another(void **state) {
  struct sched_model_params params = at_once(2);
  params.max_queue_delay_ns = 100;
  struct world *w = world_open(params, 1);
  add_instance(w);
  ask(w, 'a');
  nothing(w);
  ask(w, 'b');
  ask(w, 'b');
  done(w, runs(w, 2));
  nothing(w);
  w->now += 100;
  done(w, runs(w, 1));
  world_close(w);
}

static void test_the_delay_restarts_when_the_oldest_leaves(void **state) {
  struct sched_model_params params = at_once(4);
  params.max_queue_delay_ns = 100;
  struct world *w = world_open(params, 1);
  add_instance(w);
  struct sched_job *oldest = ask(w, 'a');
  w->now += 50;
  ask(w, 'a');
  nothing(w);
  assert_true(sched_cancel(w->sched, oldest, w->now));
  w->now += 50;
  nothing(w);
  w->now += 50;
  done(w, runs(w, 1));
  world_close(w);
}

static struct sched_model_params preferring(uint64_t delay_ns) {
  struct sched_model_params params = at_once(16);
  params.max_queue_delay_ns = delay_ns;
  params.preferred[0] = 4;
  params.preferred[1] = 8;
  params.n_preferred = 2;
  return params;
}

static void test_the_largest_preferred_size_goes_at_once(void **state) {
  struct world *w = world_open(preferring(100), 1);
  add_instance(w);
  for (int i = 0; i < 3; i++) ask(w, 'a');
  nothing(w);
  ask(w, 'a');
  struct sched_batch *batch = runs(w, 4);
  for (int i = 0; i < 11; i++) ask(w, 'a');
  done(w, batch);
  done(w, runs(w, 8));
  nothing(w); /* 3 are left, and their delay is not over */
  w->now += 100;
  done(w, runs(w, 3));
  world_close(w);
}

static void test_after_the_delay_everything_goes(void **state) {
  struct world *w = world_open(preferring(100), 1);
  struct sched_instance *first = add_instance(w);
  for (int i = 0; i < 13; i++) ask(w, 'a');
  done(w, runs(w, 8));
  w->now += 100;
  assert_true(sched_instance_retire(w->sched, first, w->now));
  for (int i = 0; i < 8; i++) ask(w, 'a');
  add_instance(w);
  done(w, runs(w, 13));
  world_close(w);
}

static void test_preferred_without_delay(void **state) {
  struct sched_model_params params = preferring(0);
  params.has_max_queue_delay = false;
  params.max_learned_wait_ns = NS_PER_S; /* preferred sizes rule out the learned wait */
  struct world *w = world_open(params, 1);
  add_instance(w);
  for (int i = 0; i < 7; i++) ask(w, 'a');
  done(w, runs(w, 4));
  done(w, runs(w, 3));
  world_close(w);
}

static void test_jobs_that_miss_every_preferred_size(void **state) {
  struct world *w = world_open(preferring(100), 1);
  add_instance(w);
  ask_rows(w, 'a', 5);
  nothing(w);
  ask_rows(w, 'a', 6); /* 11 rows: past the largest size, so what is below it goes */
  done(w, runs(w, 1));
  w->now += 100;
  done(w, runs(w, 1));
  ask_rows(w, 'a', 12);
  done(w, runs(w, 1)); /* larger than every preferred size */
  world_close(w);
}

static void test_levels_go_first_and_share_the_batch(void **state) {
  struct sched_model_params params = at_once(3);
  params.priority_levels = 3;
  params.default_priority_level = 2;
  struct world *w = world_open(params, 1);
  uint32_t levels[] = {3, 2, 0, 1, 3};
  struct sched_job *jobs[5];
  for (int i = 0; i < 5; i++) {
    jobs[i] = new_job(w, 'a', 1);
    jobs[i]->priority = levels[i];
    assert_int_equal(submit(w, jobs[i]), MU_OK);
  }
  struct sched_job *other = new_job(w, 'b', 1); /* another key, first level: goes before all but jobs[3] */
  other->priority = 1;
  assert_int_equal(submit(w, other), MU_OK);
  struct sched_job *wrong = new_job(w, 'a', 1);
  wrong->priority = 4;
  assert_int_equal(submit(w, wrong), MU_INVALID);
  add_instance(w);
  struct sched_batch *batch = runs(w, 3);
  assert_ptr_equal(batch->jobs[0], jobs[3]);
  assert_ptr_equal(batch->jobs[1], jobs[1]);
  assert_ptr_equal(batch->jobs[2], jobs[2]); /* 0 is the default level */
  done(w, batch);
  batch = runs(w, 1);
  assert_ptr_equal(batch->jobs[0], other);
  done(w, batch);
  batch = runs(w, 2);
  assert_ptr_equal(batch->jobs[0], jobs[0]);
  done(w, batch);
  world_close(w);
}

static void test_all_64_levels(void **state) {
  struct sched_model_params params = at_once(1);
  params.priority_levels = SCHED_PRIORITY_MAX;
  params.default_priority_level = 1;
  struct world *w = world_open(params, 1);
  for (uint32_t level = SCHED_PRIORITY_MAX; level > 0; level--) {
    struct sched_job *job = new_job(w, 'a', 1);
    job->priority = level;
    assert_int_equal(submit(w, job), MU_OK);
  }
  add_instance(w);
  for (uint32_t level = 1; level <= SCHED_PRIORITY_MAX; level++) {
    struct sched_batch *batch = runs(w, 1);
    assert_int_equal(batch->jobs[0]->priority, level);
    done(w, batch);
  }
  world_close(w);
}

static void test_priority_is_ignored_without_levels(void **state) {
  struct world *w = world_open(at_once(2), 1);
  add_instance(w);
  struct sched_job *job = new_job(w, 'a', 1);
  job->priority = 9;
  assert_int_equal(submit(w, job), MU_OK);
  done(w, runs(w, 1));
  world_close(w);
}

static void test_preserve_ordering_keeps_one_batch_in_flight(void **state) {
  struct sched_model_params params = at_once(1);
  params.preserve_ordering = true;
  struct world *w = world_open(params, 2);
  add_instance(w);
  add_instance(w);
  ask(w, 'a');
  ask(w, 'a');
  struct sched_batch *batch = runs(w, 1);
  nothing(w);
  done(w, batch);
  done(w, runs(w, 1));
  world_close(w);
}

static void test_stop_batching(void **state) {
  struct sched_model_params params = at_once(8);
  params.max_queue_delay_ns = 100;
  struct world *w = world_open(params, 1);
  add_instance(w);
  ask_rows(w, 'a', 2);
  ask_rows(w, 'a', 3);
  nothing(w);
  sched_model_stop_batching(w->model);
  struct sched_batch *batch = runs(w, 1); /* and no waiting either */
  assert_int_equal(batch->rows, 2);
  ask_rows(w, 'a', 100);
  done(w, batch);
  done(w, runs(w, 1));
  done(w, runs(w, 1));
  world_close(w);
}

static void test_a_busy_instance_takes_only_full_batches_ahead(void **state) {
  struct world *w = world_open(at_once(4), 1);
  struct sched_instance *instance = sched_add_instance(w->sched, w->model, w->device, 3, 1, NULL, w->now);
  ask(w, 'a');
  struct sched_batch *running = runs(w, 1);
  for (int i = 0; i < 3; i++) ask(w, 'a');
  nothing(w);
  ask(w, 'a');
  struct sched_batch *full = runs(w, 4);
  assert_ptr_equal(full->instance, instance);
  for (int i = 0; i < 9; i++) ask(w, 'a');
  struct sched_batch *third = runs(w, 4);
  nothing(w); /* depth 3 */
  done(w, running);
  done(w, full);
  struct sched_batch *fourth = runs(w, 4);
  nothing(w);
  done(w, fourth); /* not in order: it is the worker's affair */
  done(w, third);
  done(w, runs(w, 1));
  world_close(w);
}

static void test_contradicting_params(void **state) {
  struct sched *sched = sched_create(NULL);
  struct sched_model_params descending = {.max_batch = 8, .preferred = {4, 2}, .n_preferred = 2};
  struct sched_model_params too_large = {.max_batch = 8, .preferred = {16}, .n_preferred = 1};
  struct sched_model_params too_many = {.max_batch = 8, .n_preferred = SCHED_PREFERRED_MAX + 1};
  struct sched_model_params levels = {.priority_levels = SCHED_PRIORITY_MAX + 1, .default_priority_level = 1};
  struct sched_model_params no_default = {.priority_levels = 2};
  assert_null(sched_add_model(sched, &descending));
  assert_null(sched_add_model(sched, &too_large));
  assert_null(sched_add_model(sched, &too_many));
  assert_null(sched_add_model(sched, &levels));
  assert_null(sched_add_model(sched, &no_default));
  sched_free(sched);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_all_that_waits_goes_together),
      cmocka_unit_test(test_without_batching_every_job_runs_alone),
      cmocka_unit_test(test_jobs_of_several_rows_are_not_split_or_overtaken),
      cmocka_unit_test(test_rows_out_of_range_are_invalid),
      cmocka_unit_test(test_keys_do_not_mix_and_the_oldest_goes_first),
      cmocka_unit_test(test_a_delay_waits_for_a_full_batch),
      cmocka_unit_test(test_a_held_key_does_not_hold_up_another),
      cmocka_unit_test(test_the_delay_restarts_when_the_oldest_leaves),
      cmocka_unit_test(test_the_largest_preferred_size_goes_at_once),
      cmocka_unit_test(test_after_the_delay_everything_goes),
      cmocka_unit_test(test_preferred_without_delay),
      cmocka_unit_test(test_jobs_that_miss_every_preferred_size),
      cmocka_unit_test(test_levels_go_first_and_share_the_batch),
      cmocka_unit_test(test_all_64_levels),
      cmocka_unit_test(test_priority_is_ignored_without_levels),
      cmocka_unit_test(test_preserve_ordering_keeps_one_batch_in_flight),
      cmocka_unit_test(test_stop_batching),
      cmocka_unit_test(test_a_busy_instance_takes_only_full_batches_ahead),
      cmocka_unit_test(test_contradicting_params),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
