/* Which requests run together and in what order: batches, delays, priorities, limits, deadlines, cancel. */
#include "driver.h"

/* ---- batches ----------------------------------------------------------------------------------------------------- */

static void test_fifo_without_overtaking(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model *model = add_model(d, at_once(8));
  struct sched_job *a = ask(d, model, "x", 3), *b = ask(d, model, "x", 3);
  struct sched_job *big = ask(d, model, "x", 4), *small = ask(d, model, "x", 1);
  expect_quiet_until(d, TIME_NEVER); /* no instance yet */
  assert_int_equal(look(model).waiting, 4);
  assert_int_equal(look(model).instances, 0);
  add_instance(d, model);
  /* 3 + 3 + 4 is too much; the single row behind would fit, but does not overtake. */
  struct sched_batch *batch = expect_run(d, a, b);
  expect_quiet(d);
  assert_int_equal(look(model).in_flight, 2);
  done(d, batch);
  struct sched_batch *second = expect_run(d, big, small);
  assert_true(second->id > 1);
  done(d, second);
  expect_quiet_until(d, TIME_NEVER);
  assert_int_equal(look(model).in_flight + look(model).waiting, 0);
  driver_free(d);
}

static void test_job_of_several_rows_is_never_split(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model *model = add_model(d, at_once(8));
  add_instance(d, model);
  expect_refused(d, job_of(d, model, "x", 9), MU_INVALID, "a request of 9 rows: the model takes 1 to 8");
  expect_refused(d, job_of(d, model, "x", UINT32_MAX), MU_INVALID,
                 "a request of 4294967295 rows: the model takes 1 to 8");
  expect_refused(d, job_of(d, model, "x", 0), MU_INVALID, "a request without rows");
  struct sched_job *first = ask(d, model, "x", 1);
  done(d, expect_run(d, first));
  struct sched_job *a = ask(d, model, "x", 7), *b = ask(d, model, "x", 8), *c = ask(d, model, "x", 2);
  done(d, expect_run(d, a));
  done(d, expect_run(d, b));
  done(d, expect_run(d, c));
  expect_quiet(d);
  driver_free(d);
}

static void runs_alone(uint32_t max_batch) {
  struct driver *d = driver_create(1);
  struct sched_model *model = add_model(d, (struct sched_model_params){.max_batch = max_batch});
  add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 40), *c = ask(d, model, "x", 1);
  done(d, expect_run(d, a));
  done(d, expect_run(d, b)); /* what a row is, the model does not say: any number will do */
  done(d, expect_run(d, c));
  expect_quiet(d);
  driver_free(d);
}

static void test_no_batching(void **state) {
  runs_alone(0);
  runs_alone(1);
}

static void test_shapes_are_not_mixed_and_the_oldest_goes_first(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model *model = add_model(d, at_once(8));
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "y", 1), *c = ask(d, model, "x", 1);
  struct sched_job *e = ask(d, model, "", 1), *f = ask(d, model, "y", 1);
  add_instance(d, model);
  done(d, expect_run(d, a, c));
  done(d, expect_run(d, b, f));
  done(d, expect_run(d, e)); /* an empty shape is one too */
  expect_quiet(d);
  driver_free(d);
}

static void test_stop_batching(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model_params params = {.max_batch = 8, .has_max_queue_delay = true, .max_queue_delay_ns = NS_PER_S};
  struct sched_model *model = add_model(d, params);
  add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 3);
  expect_quiet_until(d, d->now + NS_PER_S);
  sched_model_stop_batching(model);
  done(d, expect_run(d, a)); /* there is nothing to wait for any more */
  struct sched_job *c = ask(d, model, "x", 1);
  done(d, expect_run(d, b)); /* was admitted while three rows were right */
  done(d, expect_run(d, c));
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* ---- delay and preferred sizes ----------------------------------------------------------------------------------- */

static void test_explicit_delay(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model_params params = {.max_batch = 4, .has_max_queue_delay = true, .max_queue_delay_ns = 5 * NS_PER_MS};
  struct sched_model *model = add_model(d, params);
  add_instance(d, model);
  uint64_t start = d->now;
  struct sched_job *a = ask(d, model, "x", 1);
  expect_quiet_until(d, start + 5 * NS_PER_MS);
  pass(d, 3 * NS_PER_MS);
  struct sched_job *b = ask(d, model, "x", 1);
  expect_quiet_until(d, start + 5 * NS_PER_MS); /* counts from the oldest */
  d->now = start + 5 * NS_PER_MS - 1;
  expect_quiet_until(d, start + 5 * NS_PER_MS);
  pass(d, 1);
  struct sched_batch *batch = expect_run(d, a, b);
  expect_quiet_until(d, d->now + 600 * NS_PER_S); /* when it is hung */
  /* While it runs the next ones are collected; once they are full they go at once. */
  struct sched_job *jobs[5] = {0};
  for (int i = 0; i < 4; i++) jobs[i] = ask(d, model, "x", 1);
  expect_quiet(d);
  done(d, batch);
  batch = expect_run_of(d, jobs);
  done(d, batch);
  /* The full batch need not have been waiting. */
  for (int i = 0; i < 3; i++) jobs[i] = ask(d, model, "x", 1);
  expect_quiet_until(d, d->now + 5 * NS_PER_MS);
  jobs[3] = ask(d, model, "x", 1);
  done(d, expect_run_of(d, jobs));
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_delay_is_over_when_the_instance_comes_free(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model_params params = {.max_batch = 4, .has_max_queue_delay = true, .max_queue_delay_ns = NS_PER_MS};
  struct sched_model *model = add_model(d, params);
  add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 4);
  struct sched_batch *batch = expect_run(d, a);
  struct sched_job *b = ask(d, model, "x", 1);
  pass(d, 2 * NS_PER_MS);
  expect_quiet(d);
  done(d, batch);
  done(d, expect_run(d, b));
  driver_free(d);
}

static void test_delay_ends_with_the_jobs(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model_params params = {.max_batch = 4, .has_max_queue_delay = true, .max_queue_delay_ns = NS_PER_MS};
  struct sched_model *model = add_model(d, params);
  add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 1);
  expect_quiet_until(d, d->now + NS_PER_MS);
  assert_true(sched_cancel(d->sched, a, d->now));
  expect_quiet_until(d, TIME_NEVER);
  uint64_t start = d->now;
  struct sched_job *b = ask(d, model, "x", 1);
  pass(d, NS_PER_MS / 2);
  struct sched_job *c = ask(d, model, "x", 1);
  expect_quiet(d);
  assert_true(sched_cancel(d->sched, b, d->now)); /* now the younger one is the oldest */
  d->now = start + NS_PER_MS;
  expect_quiet_until(d, start + NS_PER_MS * 3 / 2);
  d->now = start + NS_PER_MS * 3 / 2;
  done(d, expect_run(d, c));
  driver_free(d);
}

static void test_delay_of_one_shape_does_not_hold_up_another(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model_params params = {.max_batch = 2, .has_max_queue_delay = true, .max_queue_delay_ns = NS_PER_MS};
  struct sched_model *model = add_model(d, params);
  add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "y", 1), *c = ask(d, model, "y", 1);
  done(d, expect_run(d, b, c));
  expect_quiet_until(d, d->now + NS_PER_MS);
  pass(d, NS_PER_MS);
  done(d, expect_run(d, a));
  driver_free(d);
}

static void test_preferred_sizes(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model_params params = {.max_batch = 8,
                                      .has_max_queue_delay = true,
                                      .max_queue_delay_ns = NS_PER_MS,
                                      .preferred = {2, 4},
                                      .n_preferred = 2};
  struct sched_model *model = add_model(d, params);
  add_instance(d, model);
  struct sched_job *jobs[9] = {0};
  jobs[0] = ask(d, model, "x", 1);
  expect_quiet_until(d, d->now + NS_PER_MS); /* 1 is none of them */
  jobs[1] = ask(d, model, "x", 1);
  struct sched_batch *batch = expect_run_of(d, jobs); /* 2 is */
  for (int i = 0; i < 7; i++) jobs[i] = ask(d, model, "x", 1);
  jobs[7] = NULL;
  done(d, batch);
  struct sched_job *rest[] = {jobs[4], jobs[5], NULL};
  struct sched_job *last = jobs[6];
  jobs[4] = NULL;
  done(d, expect_run_of(d, jobs)); /* of 7 the largest preferred: 4, */
  done(d, expect_run_of(d, rest)); /* of 3: 2, */
  expect_quiet_until(d, d->now + NS_PER_MS);
  pass(d, NS_PER_MS);
  done(d, expect_run(d, last)); /* and one when its time is up */
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_late_batch_takes_more_than_preferred(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model_params params = {.max_batch = 8,
                                      .has_max_queue_delay = true,
                                      .max_queue_delay_ns = NS_PER_MS,
                                      .preferred = {2, 4},
                                      .n_preferred = 2};
  struct sched_model *model = add_model(d, params);
  add_instance(d, model);
  struct sched_job *first = ask(d, model, "x", 2);
  struct sched_batch *batch = expect_run(d, first);
  struct sched_job *jobs[8] = {0};
  for (int i = 0; i < 7; i++) jobs[i] = ask(d, model, "x", 1);
  pass(d, NS_PER_MS);
  done(d, batch);
  done(d, expect_run_of(d, jobs)); /* the delay was exceeded: all 7, as Triton does */
  driver_free(d);
}

static void test_preferred_sizes_with_jobs_of_several_rows(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model_params params = {
      .max_batch = 8, .has_max_queue_delay = true, .max_queue_delay_ns = NS_PER_MS, .preferred = {4}, .n_preferred = 1};
  struct sched_model *model = add_model(d, params);
  add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 3);
  expect_quiet(d);
  struct sched_job *b = ask(d, model, "x", 3);
  done(d, expect_run(d, a)); /* 6 is past every preferred size, so waiting cannot reach one */
  expect_quiet_until(d, d->now + NS_PER_MS);
  struct sched_job *c = ask(d, model, "x", 1);
  done(d, expect_run(d, b, c));
  struct sched_job *e = ask(d, model, "x", 7); /* alone past it */
  done(d, expect_run(d, e));
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_preferred_sizes_without_delay(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model *model =
      add_model(d, (struct sched_model_params){.max_batch = 8, .preferred = {4}, .n_preferred = 1});
  add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 1);
  struct sched_batch *batch = expect_run(d, a, b); /* none can be made: what is there goes */
  struct sched_job *jobs[6] = {0};
  for (int i = 0; i < 5; i++) jobs[i] = ask(d, model, "x", 1);
  done(d, batch);
  struct sched_job *last = jobs[4];
  jobs[4] = NULL;
  done(d, expect_run_of(d, jobs));
  done(d, expect_run(d, last));
  driver_free(d);
}

static void test_preserve_ordering(void **state) {
  struct driver *d = driver_create(4);
  struct sched_model_params params = at_once(2);
  params.preserve_ordering = true;
  struct sched_model *model = add_model(d, params);
  add_instance(d, model);
  add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 2), *b = ask(d, model, "y", 1), *c = ask(d, model, "x", 1);
  struct sched_batch *batch = expect_run(d, a);
  expect_quiet(d); /* the other instance stays idle */
  done(d, batch);
  batch = expect_run(d, b);
  expect_quiet(d);
  sched_instance_lost(d->sched, batch->instance, false, d->now);
  batch = expect_run(d, b);
  expect_quiet(d);
  done(d, batch);
  done(d, expect_run(d, c));
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* ---- priority levels and queue policies -------------------------------------------------------------------------- */

static void test_priority_levels(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model_params params = at_once(2);
  params.priority_levels = 3;
  params.default_priority_level = 2;
  struct sched_model *model = add_model(d, params);
  struct sched_job *jobs[6];
  static const uint32_t priorities[] = {3, 0, 1, 2, 1, 3};
  for (int i = 0; i < 6; i++) {
    jobs[i] = job_of(d, model, i == 4 ? "y" : "x", 1);
    jobs[i]->priority = priorities[i];
    submit(d, jobs[i]);
  }
  struct sched_job *wrong = job_of(d, model, "x", 1);
  wrong->priority = 4;
  expect_refused(d, wrong, MU_INVALID, "priority 4: the model has levels 1 to 3");
  add_instance(d, model);
  done(d, expect_run(d, jobs[2], jobs[1])); /* the best level leads, the next ones fill up */
  done(d, expect_run(d, jobs[4]));          /* level 1 of another shape before level 2 */
  done(d, expect_run(d, jobs[3], jobs[0]));
  done(d, expect_run(d, jobs[5]));
  driver_free(d);
}

static void test_all_priority_levels(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model_params params = at_once(0);
  params.priority_levels = SCHED_PRIORITY_MAX;
  params.default_priority_level = SCHED_PRIORITY_MAX;
  struct sched_model *model = add_model(d, params);
  struct sched_job *jobs[SCHED_PRIORITY_MAX + 1];
  for (uint32_t level = SCHED_PRIORITY_MAX; level >= 1; level--) {
    jobs[level] = job_of(d, model, "x", 1);
    jobs[level]->priority = level;
    submit(d, jobs[level]);
  }
  add_instance(d, model);
  for (uint32_t level = 1; level <= SCHED_PRIORITY_MAX; level++) done(d, expect_run(d, jobs[level]));
  expect_quiet(d);
  driver_free(d);
}

static void test_priority_without_levels_is_ignored(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model *model = add_model(d, at_once(0));
  struct sched_job *a = job_of(d, model, "x", 1), *b = job_of(d, model, "x", 1);
  a->priority = 9;
  b->priority = 1;
  submit(d, a);
  submit(d, b);
  add_instance(d, model);
  done(d, expect_run(d, a));
  done(d, expect_run(d, b));
  driver_free(d);
}

static void test_timeout_rejects(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model_params params = at_once(1);
  params.policies[0] = (struct sched_queue_policy){.default_timeout_ns = 10 * NS_PER_MS};
  struct sched_model *model = add_model(d, params);
  add_instance(d, model);
  struct sched_batch *batch = expect_run(d, ask(d, model, "x", 1));
  struct sched_job *a = job_of(d, model, "x", 1);
  a->timeout_ns = NS_PER_MS; /* not allowed to count */
  uint64_t start = d->now;
  submit(d, a);
  expect_quiet_until(d, start + 10 * NS_PER_MS);
  d->now = start + 10 * NS_PER_MS - 1;
  expect_quiet(d);
  pass(d, 1);
  expect_drop(d, a, MU_TIMEOUT);
  expect_quiet(d);
  done(d, batch); /* which never was late: a queue timeout ends with dispatch */
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_timeout_override(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model_params params = at_once(1);
  params.policies[0] =
      (struct sched_queue_policy){.default_timeout_ns = 10 * NS_PER_MS, .allow_timeout_override = true};
  struct sched_model *model = add_model(d, params);
  struct sched_job *shorter = job_of(d, model, "x", 1), *longer = job_of(d, model, "x", 1),
                   *none = job_of(d, model, "x", 1);
  shorter->timeout_ns = NS_PER_MS;
  longer->timeout_ns = 20 * NS_PER_MS;
  submit(d, none);
  submit(d, longer);
  submit(d, shorter);
  expect_quiet_until(d, d->now + NS_PER_MS);
  pass(d, NS_PER_MS);
  expect_drop(d, shorter, MU_TIMEOUT);
  expect_quiet_until(d, d->now + 9 * NS_PER_MS);
  pass(d, 9 * NS_PER_MS);
  struct sched_decision one = next_decision(d), two = next_decision(d);
  assert_true(one.action == SCHED_DROP && two.action == SCHED_DROP && one.job != two.job);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_timeout_delays(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model_params params = at_once(1);
  params.priority_levels = 2;
  params.default_priority_level = 2;
  params.policies[1] = (struct sched_queue_policy){.delay = true, .default_timeout_ns = NS_PER_MS};
  struct sched_model *model = add_model(d, params);
  struct sched_job *a = job_of(d, model, "x", 1), *low = job_of(d, model, "x", 1), *b = job_of(d, model, "x", 1);
  a->priority = b->priority = 1;
  submit(d, a);
  submit(d, low);
  expect_quiet_until(d, d->now + NS_PER_MS);
  pass(d, NS_PER_MS);
  expect_quiet_until(d, TIME_NEVER); /* moved, not answered */
  submit(d, b);
  add_instance(d, model);
  done(d, expect_run(d, b));
  done(d, expect_run(d, a)); /* behind all others of its level, but not behind the next level */
  done(d, expect_run(d, low));
  driver_free(d);
}

static void test_delayed_job_still_has_a_deadline(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model_params params = at_once(1);
  params.policies[0] = (struct sched_queue_policy){.delay = true, .default_timeout_ns = NS_PER_MS};
  struct sched_model *model = add_model(d, params);
  struct sched_job *a = job_of(d, model, "x", 1);
  a->deadline_ns = d->now + 3 * NS_PER_MS;
  submit(d, a);
  pass(d, NS_PER_MS);
  expect_quiet_until(d, a->deadline_ns);
  d->now = a->deadline_ns;
  expect_drop(d, a, MU_TIMEOUT);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_queue_limits(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model_params params = at_once(1);
  params.max_queue_requests = 3;
  params.max_queue_bytes = 1000;
  params.priority_levels = 2;
  params.default_priority_level = 1;
  params.policies[2].max_queue_size = 1;
  struct sched_model *model = add_model(d, params);
  struct sched_job *low = job_of(d, model, "x", 1), *lower = job_of(d, model, "x", 1);
  low->priority = lower->priority = 2;
  submit(d, low);
  expect_refused(d, lower, MU_UNAVAILABLE, "the queue is full: max_queue_size of priority level 2 is 1");
  struct sched_job *huge = job_of(d, model, "x", 1);
  huge->bytes = 1001;
  expect_refused(d, huge, MU_UNAVAILABLE,
                 "the queue is full: 0 bytes wait, this request has 1001, max_queue_bytes is 1000");
  struct sched_job *a = job_of(d, model, "x", 1);
  a->bytes = 600;
  submit(d, a);
  huge->bytes = 401;
  expect_refused(d, huge, MU_UNAVAILABLE,
                 "the queue is full: 600 bytes wait, this request has 401, max_queue_bytes is 1000");
  huge->bytes = UINT64_MAX;
  assert_int_equal(sched_submit(d->sched, huge, d->now, NULL), MU_UNAVAILABLE);
  huge->bytes = 400;
  submit(d, huge);
  assert_int_equal(look(model).waiting_bytes, 1000);
  expect_refused(d, lower, MU_UNAVAILABLE, "the queue is full: max_queue_size of priority level 2 is 1");
  expect_refused(d, job_of(d, model, "y", 1), MU_UNAVAILABLE, "the queue is full: max_queue_requests is 3");
  assert_int_equal(look(model).waiting, 3);
  /* What runs does not wait. */
  add_instance(d, model);
  struct sched_batch *batch = expect_run(d, a);
  assert_int_equal(look(model).waiting_bytes, 400);
  struct sched_job *b = ask(d, model, "x", 1);
  expect_refused(d, job_of(d, model, "y", 1), MU_UNAVAILABLE, "the queue is full: max_queue_requests is 3");
  assert_true(sched_cancel(d->sched, low, d->now));
  submit(d, lower);
  done(d, batch);
  done(d, expect_run(d, huge));
  done(d, expect_run(d, b));
  done(d, expect_run(d, lower));
  assert_int_equal(look(model).waiting_bytes, 0);
  driver_free(d);
}

static void test_params_that_contradict_themselves(void **state) {
  struct driver *d = driver_create(1);
  const struct sched_model_params wrong[] = {
      {.max_batch = 4, .preferred = {8}, .n_preferred = 1},     {.max_batch = 8, .preferred = {4, 4}, .n_preferred = 2},
      {.max_batch = 8, .preferred = {4, 2}, .n_preferred = 2},  {.max_batch = 8, .preferred = {0}, .n_preferred = 1},
      {.max_batch = 8, .n_preferred = SCHED_PREFERRED_MAX + 1}, {.priority_levels = 2},
      {.priority_levels = 2, .default_priority_level = 3},      {.priority_levels = SCHED_PRIORITY_MAX + 1},
  };
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) assert_null(sched_add_model(d->sched, &wrong[i]));
  driver_free(d);
}

/* ---- deadlines and cancel ---------------------------------------------------------------------------------------- */

static void test_deadline_in_the_queue_costs_no_place(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model *model = add_model(d, at_once(2));
  add_instance(d, model);
  struct sched_batch *batch = expect_run(d, ask(d, model, "x", 1));
  struct sched_job *dead = job_of(d, model, "x", 1);
  dead->deadline_ns = d->now + NS_PER_MS;
  submit(d, dead);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 1);
  expect_quiet_until(d, dead->deadline_ns);
  d->now = dead->deadline_ns;
  done(d, batch); /* at the same time; the deadline is seen first */
  expect_drop(d, dead, MU_TIMEOUT);
  done(d, expect_run(d, a, b));
  expect_quiet_until(d, TIME_NEVER);
  /* Already over on arrival: accepted, and dropped with the next look. */
  struct sched_job *over = job_of(d, model, "x", 1);
  over->deadline_ns = d->now;
  submit(d, over);
  expect_drop(d, over, MU_TIMEOUT);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_late_in_flight(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model *model = add_model(d, at_once(4));
  struct sched_job *a = job_of(d, model, "x", 1), *b = job_of(d, model, "x", 1), *c = job_of(d, model, "x", 1);
  a->deadline_ns = d->now + 2 * NS_PER_MS;
  b->deadline_ns = d->now + NS_PER_MS;
  submit(d, a);
  submit(d, b);
  submit(d, c);
  add_instance(d, model);
  struct sched_batch *batch = expect_run(d, a, b, c);
  expect_quiet_until(d, b->deadline_ns);
  d->now = b->deadline_ns;
  expect_late(d, batch, b);
  assert_int_equal(batch->live, 2);
  expect_quiet_until(d, a->deadline_ns);
  assert_false(sched_cancel(d->sched, b, d->now)); /* counted out already */
  assert_int_equal(batch->live, 2);
  assert_false(sched_cancel(d->sched, a, d->now));
  assert_true(a->canceled);
  assert_int_equal(batch->live, 1);
  assert_false(sched_cancel(d->sched, a, d->now));
  assert_int_equal(batch->live, 1);
  d->now = a->deadline_ns;
  expect_quiet(d); /* nobody waits for its answer */
  assert_false(sched_cancel(d->sched, c, d->now));
  assert_int_equal(batch->live, 0);
  assert_int_equal(look(model).in_flight, 3); /* until the batch ends */
  done(d, batch);
  assert_int_equal(look(model).in_flight, 0);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_cancel_waiting(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model *model = add_model(d, at_once(4));
  struct sched_job *a = ask(d, model, "x", 1), *b = job_of(d, model, "x", 1), *c = ask(d, model, "x", 1);
  b->deadline_ns = d->now + NS_PER_MS;
  submit(d, b);
  assert_true(sched_cancel(d->sched, b, d->now)); /* takes its timer along */
  expect_quiet_until(d, TIME_NEVER);
  assert_int_equal(look(model).waiting, 2);
  submit(d, b); /* is the owner's: may be used again */
  add_instance(d, model);
  done(d, expect_run(d, a, c, b));
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* The batch array starts small; a batch of many jobs must still be whole. */
static void test_large_batch(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model *model = add_model(d, at_once(500));
  struct sched_job *jobs[501] = {0};
  for (int i = 0; i < 500; i++) jobs[i] = ask(d, model, "x", 1);
  add_instance(d, model);
  done(d, expect_run_of(d, jobs));
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_fifo_without_overtaking),
      cmocka_unit_test(test_job_of_several_rows_is_never_split),
      cmocka_unit_test(test_no_batching),
      cmocka_unit_test(test_shapes_are_not_mixed_and_the_oldest_goes_first),
      cmocka_unit_test(test_stop_batching),
      cmocka_unit_test(test_explicit_delay),
      cmocka_unit_test(test_delay_is_over_when_the_instance_comes_free),
      cmocka_unit_test(test_delay_ends_with_the_jobs),
      cmocka_unit_test(test_delay_of_one_shape_does_not_hold_up_another),
      cmocka_unit_test(test_preferred_sizes),
      cmocka_unit_test(test_late_batch_takes_more_than_preferred),
      cmocka_unit_test(test_preferred_sizes_with_jobs_of_several_rows),
      cmocka_unit_test(test_preferred_sizes_without_delay),
      cmocka_unit_test(test_preserve_ordering),
      cmocka_unit_test(test_priority_levels),
      cmocka_unit_test(test_all_priority_levels),
      cmocka_unit_test(test_priority_without_levels_is_ignored),
      cmocka_unit_test(test_timeout_rejects),
      cmocka_unit_test(test_timeout_override),
      cmocka_unit_test(test_timeout_delays),
      cmocka_unit_test(test_delayed_job_still_has_a_deadline),
      cmocka_unit_test(test_queue_limits),
      cmocka_unit_test(test_params_that_contradict_themselves),
      cmocka_unit_test(test_deadline_in_the_queue_costs_no_place),
      cmocka_unit_test(test_late_in_flight),
      cmocka_unit_test(test_cancel_waiting),
      cmocka_unit_test(test_large_batch),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
