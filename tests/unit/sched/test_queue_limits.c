/* Bounds of the queue, deadlines, queue policies, cancel: what leaves it without having run. */
#include <inttypes.h>

#include "sched_fixture.h"

static void test_requests_are_bounded(void **state) {
  struct sched_model_params params = at_once(4);
  params.max_queue_requests = 2;
  struct world *w = world_open(params, 1);
  ask(w, 'a');
  struct sched_job *second = ask(w, 'b');
  assert_int_equal(submit(w, new_job(w, 'a', 1)), MU_UNAVAILABLE);
  assert_non_null(strstr(w->err.message, "max_queue_requests is 2"));
  assert_true(sched_cancel(w->sched, second, w->now));
  ask(w, 'a');
  add_instance(w);
  done(w, runs(w, 2));
  world_close(w);
}

static void test_bytes_are_bounded(void **state) {
  struct sched_model_params params = at_once(4);
  params.max_queue_bytes = 1000;
  struct world *w = world_open(params, 1);
  struct sched_job *jobs[] = {new_job(w, 'a', 1), new_job(w, 'a', 1), new_job(w, 'a', 1), new_job(w, 'a', 1)};
  jobs[0]->bytes = 600;
  jobs[1]->bytes = 401;
  jobs[2]->bytes = 400;
  jobs[3]->bytes = UINT64_MAX;
  assert_int_equal(submit(w, jobs[0]), MU_OK);
  assert_int_equal(submit(w, jobs[1]), MU_UNAVAILABLE);
  assert_non_null(strstr(w->err.message, "max_queue_bytes is 1000"));
  assert_int_equal(submit(w, jobs[3]), MU_UNAVAILABLE);
  assert_int_equal(submit(w, jobs[2]), MU_OK);
  assert_int_equal(look(w).waiting_bytes, 1000);
  add_instance(w);
  done(w, runs(w, 2));
  world_close(w);
}

static void test_each_level_has_its_size(void **state) {
  struct sched_model_params params = at_once(4);
  params.priority_levels = 2;
  params.default_priority_level = 2;
  params.policies[2].max_queue_size = 1;
  struct world *w = world_open(params, 1);
  ask(w, 'a');
  assert_int_equal(submit(w, new_job(w, 'a', 1)), MU_UNAVAILABLE);
  assert_non_null(strstr(w->err.message, "max_queue_size of priority level 2 is 1"));
  struct sched_job *urgent = new_job(w, 'a', 1);
  urgent->priority = 1;
  assert_int_equal(submit(w, urgent), MU_OK);
  add_instance(w);
  done(w, runs(w, 2));
  world_close(w);
}

static struct sched_job *ask_until(struct world *w, uint64_t deadline_ns) {
  struct sched_job *job = new_job(w, 'a', 1);
  job->deadline_ns = deadline_ns;
  assert_int_equal(submit(w, job), MU_OK);
  return job;
}

static void test_a_deadline_in_the_queue(void **state) {
  struct world *w = world_open(at_once(4), 1);
  struct sched_job *late = ask_until(w, w->now + 100);
  ask_until(w, w->now + 200);
  struct sched_job *past = ask_until(w, w->now);
  drops(w, past, MU_TIMEOUT);
  nothing(w);
  assert_int_equal(sched_wake_ns(w->sched), late->deadline_ns);
  w->now += 100;
  add_instance(w); /* it expires just when it could run: it takes no place */
  drops(w, late, MU_TIMEOUT);
  struct sched_batch *batch = runs(w, 1);
  done(w, batch);
  world_close(w);
}

static void test_a_deadline_in_flight(void **state) {
  struct world *w = world_open(at_once(4), 1);
  add_instance(w);
  struct sched_job *job = ask_until(w, w->now + 100);
  struct sched_batch *batch = runs(w, 1);
  nothing(w);
  assert_int_equal(sched_wake_ns(w->sched), job->deadline_ns);
  w->now += 100;
  struct sched_decision decision = decides(w, SCHED_LATE);
  assert_ptr_equal(decision.job, job);
  assert_int_equal(decision.status, MU_TIMEOUT);
  assert_int_equal(batch->live, 0);
  nothing(w); /* once */
  assert_false(sched_cancel(w->sched, job, w->now));
  assert_int_equal(batch->live, 0);
  done(w, batch);
  world_close(w);
}

static void test_cancel(void **state) {
  struct world *w = world_open(at_once(2), 1);
  add_instance(w);
  struct sched_job *flying = ask_until(w, w->now + 100);
  struct sched_batch *batch = runs(w, 1);
  struct sched_job *waiting = ask(w, 'a');
  assert_true(sched_cancel(w->sched, waiting, w->now));
  assert_int_equal(look(w).waiting, 0);
  assert_false(sched_cancel(w->sched, flying, w->now));
  assert_false(sched_cancel(w->sched, flying, w->now));
  assert_true(flying->canceled);
  assert_int_equal(batch->live, 0);
  w->now += 100;
  nothing(w); /* a cancelled job is never late */
  done(w, batch);
  struct sched_job *going_back = ask_until(w, w->now);
  struct sched_job *reused = waiting;
  assert_int_equal(submit(w, reused), MU_OK); /* a job that came back can be used again */
  drops(w, going_back, MU_TIMEOUT);
  done(w, runs(w, 1));
  world_close(w);
}

static void test_cancel_on_the_way_back(void **state) {
  struct world *w = world_open(at_once(2), 1);
  struct sched_job *jobs[] = {ask(w, 'a'), ask(w, 'a')};
  sched_remove_model(w->sched, w->model, w->now);
  assert_true(sched_cancel(w->sched, jobs[0], w->now));
  drops(w, jobs[1], MU_UNAVAILABLE);
  nothing(w);
  sched_free(w->sched);
  free(w);
}

static struct sched_model_params with_policy(bool delay, uint64_t timeout_ns, bool override) {
  struct sched_model_params params = at_once(1);
  params.policies[0] =
      (struct sched_queue_policy){.delay = delay, .default_timeout_ns = timeout_ns, .allow_timeout_override = override};
  return params;
}

static void test_queue_timeout_rejects(void **state) {
  struct world *w = world_open(with_policy(false, 100, false), 1);
  struct sched_job *job = new_job(w, 'a', 1);
  job->timeout_ns = 10; /* not allowed to count */
  assert_int_equal(submit(w, job), MU_OK);
  w->now += 99;
  nothing(w);
  assert_int_equal(sched_wake_ns(w->sched), w->now + 1);
  w->now += 1;
  drops(w, job, MU_TIMEOUT);
  add_instance(w);
  ask(w, 'a');
  struct sched_batch *batch = runs(w, 1);
  w->now += 1000; /* it is about the queue, not the run */
  nothing(w);
  done(w, batch);
  world_close(w);
}

static void test_a_shorter_timeout_of_the_request_counts(void **state) {
  struct world *w = world_open(with_policy(false, 100, true), 1);
  struct sched_job *shorter = new_job(w, 'a', 1), *longer = new_job(w, 'a', 1);
  shorter->timeout_ns = 10;
  longer->timeout_ns = 1000;
  assert_int_equal(submit(w, shorter), MU_OK);
  assert_int_equal(submit(w, longer), MU_OK);
  w->now += 10;
  drops(w, shorter, MU_TIMEOUT);
  nothing(w);
  w->now += 90;
  drops(w, longer, MU_TIMEOUT);
  world_close(w);
}

static void test_queue_timeout_delays(void **state) {
  struct sched_model_params params = with_policy(true, 0, true);
  params.priority_levels = 2;
  params.default_priority_level = 1;
  params.policies[1] = params.policies[0];
  struct world *w = world_open(params, 1);
  struct sched_job *hasty = new_job(w, 'a', 1);
  hasty->timeout_ns = 10;
  hasty->deadline_ns = w->now + 1000;
  assert_int_equal(submit(w, hasty), MU_OK);
  struct sched_job *patient = ask(w, 'a');
  struct sched_job *low = new_job(w, 'a', 1);
  low->priority = 2;
  assert_int_equal(submit(w, low), MU_OK);
  w->now += 10;
  nothing(w);
  assert_int_equal(sched_wake_ns(w->sched), hasty->deadline_ns); /* the deadline still holds */
  struct sched_job *order[] = {patient, hasty, low};             /* behind its level, not behind the next */
  add_instance(w);
  for (int i = 0; i < 3; i++) {
    struct sched_batch *batch = runs(w, 1);
    assert_ptr_equal(batch->jobs[0], order[i]);
    done(w, batch);
  }
  world_close(w);
}

static void test_removed_model_takes_nothing(void **state) {
  struct world *w = world_open(at_once(2), 1);
  struct sched_instance *instance = add_instance(w);
  ask(w, 'a');
  struct sched_batch *batch = runs(w, 1);
  struct sched_job *waiting = ask(w, 'a');
  struct sched_key *key = waiting->key;
  sched_remove_model(w->sched, w->model, w->now);
  assert_int_equal(submit(w, &(struct sched_job){.key = key, .rows = 1}), MU_UNAVAILABLE);
  drops(w, waiting, MU_UNAVAILABLE);
  assert_int_equal(look(w).in_flight, 1);
  done(w, batch); /* ends as usual */
  assert_true(sched_instance_retire(w->sched, instance, w->now));
  nothing(w);
  assert_true(sched_wake_ns(w->sched) == TIME_NEVER);
  sched_free(w->sched);
  free(w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_requests_are_bounded),
      cmocka_unit_test(test_bytes_are_bounded),
      cmocka_unit_test(test_each_level_has_its_size),
      cmocka_unit_test(test_a_deadline_in_the_queue),
      cmocka_unit_test(test_a_deadline_in_flight),
      cmocka_unit_test(test_cancel),
      cmocka_unit_test(test_cancel_on_the_way_back),
      cmocka_unit_test(test_queue_timeout_rejects),
      cmocka_unit_test(test_a_shorter_timeout_of_the_request_counts),
      cmocka_unit_test(test_queue_timeout_delays),
      cmocka_unit_test(test_removed_model_takes_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
