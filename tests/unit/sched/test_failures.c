/* Hung batches, dead workers, engine errors: what becomes of the jobs. */
#include "sched_fixture.h"

static void test_hung_first_run_and_later_ones(void **state) {
  struct sched_model_params params = at_once(4);
  params.first_execution_ns = 1000;
  params.max_execution_ns = 100;
  struct world *w = world_open(params, 1);
  add_instance(w);
  ask(w, 'a');
  struct sched_batch *batch = runs(w, 1);
  nothing(w);
  assert_int_equal(sched_wake_ns(w->sched), w->now + 1000);
  runs_for(w, batch, 999);
  ask(w, 'a');
  batch = runs(w, 1);
  w->now += 99;
  nothing(w);
  w->now += 1;
  assert_ptr_equal(decides(w, SCHED_HUNG).batch, batch);
  nothing(w); /* once */
  w->now += 10000;
  nothing(w);
  done(w, batch); /* it came after all */
  ask(w, 'b');    /* another shape: its own first run */
  batch = runs(w, 1);
  w->now += 999;
  nothing(w);
  done(w, batch);
  world_close(w);
}

static void test_hung_defaults(void **state) {
  struct world *w = world_open(at_once(4), 1);
  add_instance(w);
  ask(w, 'a');
  struct sched_batch *batch = runs(w, 1);
  nothing(w);
  assert_int_equal(sched_wake_ns(w->sched), w->now + 600 * NS_PER_S);
  runs_for(w, batch, NS_PER_MS);
  ask(w, 'a');
  batch = runs(w, 1);
  nothing(w);
  assert_int_equal(sched_wake_ns(w->sched), w->now + 60 * NS_PER_S);
  runs_for(w, batch, 5 * NS_PER_S);
  ask(w, 'a');
  batch = runs(w, 1);
  nothing(w);
  uint64_t allowed = sched_wake_ns(w->sched) - w->now; /* 100 times what is known to be slow */
  assert_true(allowed > 400 * NS_PER_S && allowed < 600 * NS_PER_S);
  done(w, batch);
  world_close(w);
}

static void test_the_time_of_a_queued_batch_starts_with_its_run(void **state) {
  struct sched_model_params params = at_once(0);
  params.first_execution_ns = 100;
  struct world *w = world_open(params, 1);
  sched_add_instance(w->sched, w->model, w->device, 2, 1, NULL, w->now);
  ask(w, 'a');
  ask(w, 'a');
  struct sched_batch *first = runs(w, 1), *second = runs(w, 1);
  runs_for(w, first, 90);
  uint64_t learned = sched_key_batch_ns(second->key, 1);
  w->now += 20;
  nothing(w);
  runs_for(w, second, 10);
  assert_int_equal(learned, 90);
  assert_int_equal(sched_key_batch_ns(w->jobs[0].key, 1), 30);
  world_close(w);
}

static void test_no_blame_means_the_same_batch_again(void **state) {
  struct world *w = world_open(at_once(4), 1);
  struct sched_instance *instance = add_instance(w);
  struct sched_job *jobs[] = {ask(w, 'a'), ask(w, 'a'), ask(w, 'a')};
  runs(w, 3);
  ask(w, 'a');
  ask(w, 'b');
  sched_instance_lost(w->sched, instance, false, w->now);
  nothing(w); /* no instance */
  assert_int_equal(look(w).waiting, 5);
  assert_int_equal(look(w).instances, 0);
  add_instance(w);
  struct sched_batch *batch = runs(w, 4);
  for (int i = 0; i < 3; i++) {
    assert_ptr_equal(batch->jobs[i], jobs[i]); /* in front, in order */
    assert_int_equal(jobs[i]->attempts, 1);
    assert_false(jobs[i]->solo);
  }
  done(w, batch);
  done(w, runs(w, 1));
  world_close(w);
}

static void test_not_more_often_than_max_attempts(void **state) {
  struct world *w = world_open(at_once(4), 1);
  struct sched_job *job = ask(w, 'a');
  for (int i = 0; i < 9; i++) { /* the first run and 8 more */
    struct sched_instance *instance = add_instance(w);
    assert_ptr_equal(runs(w, 1)->jobs[0], job);
    sched_instance_lost(w->sched, instance, false, w->now);
  }
  add_instance(w);
  drops(w, job, MU_INTERNAL);
  world_close(w);
}

static void test_requeued_until_the_deadline(void **state) {
  struct world *w = world_open(at_once(4), 1);
  struct sched_instance *instance = add_instance(w);
  struct sched_job *job = new_job(w, 'a', 1);
  job->deadline_ns = w->now + 100;
  assert_int_equal(submit(w, job), MU_OK);
  runs(w, 1);
  sched_instance_lost(w->sched, instance, false, w->now);
  w->now += 100;
  drops(w, job, MU_TIMEOUT);
  world_close(w);
}

static void test_cancelled_and_late_jobs_come_back_with_the_loss(void **state) {
  struct world *w = world_open(at_once(4), 1);
  struct sched_instance *instance = add_instance(w);
  struct sched_job *canceled = ask(w, 'a'), *late = new_job(w, 'a', 1);
  late->deadline_ns = w->now + 100;
  assert_int_equal(submit(w, late), MU_OK);
  runs(w, 2);
  assert_false(sched_cancel(w->sched, canceled, w->now));
  w->now += 100;
  decides(w, SCHED_LATE);
  sched_instance_lost(w->sched, instance, true, w->now);
  drops(w, canceled, MU_CANCELED);
  drops(w, late, MU_TIMEOUT);
  world_close(w);
}

static void test_blame_with_one_instance_takes_turns(void **state) {
  struct world *w = world_open(at_once(4), 1);
  struct sched_instance *instance = add_instance(w);
  struct sched_job *bad = ask(w, 'a'), *good = ask(w, 'a');
  runs(w, 2);
  sched_instance_lost(w->sched, instance, true, w->now);
  for (int i = 0; i < 6; i++) ask(w, 'a');
  instance = add_instance(w);
  struct sched_batch *batch = runs(w, 4); /* the others */
  nothing(w);
  done(w, batch);
  batch = runs(w, 1);
  assert_ptr_equal(batch->jobs[0], bad);
  nothing(w);
  sched_instance_lost(w->sched, instance, true, w->now);
  drops(w, bad, MU_INTERNAL); /* blamed alone: not again */
  add_instance(w);
  done(w, runs(w, 2));
  batch = runs(w, 1);
  assert_ptr_equal(batch->jobs[0], good);
  assert_true(good->solo);
  done(w, batch);
  world_close(w);
}

static void test_blame_sets_an_instance_apart(void **state) {
  struct world *w = world_open(at_once(4), 3);
  struct sched_instance *lost = add_instance(w);
  ask(w, 'a');
  ask(w, 'a');
  ask(w, 'b');
  struct sched_batch *batch = runs(w, 2);
  nothing(w);
  assert_ptr_equal(batch->instance, lost);
  sched_instance_lost(w->sched, lost, true, w->now);
  add_instance(w);
  add_instance(w);
  for (int i = 0; i < 8; i++) ask(w, 'a');
  struct sched_batch *apart = NULL, *other = NULL;
  for (int i = 0; i < 2; i++) {
    batch = decides(w, SCHED_RUN).batch;
    *(batch->jobs[0]->solo ? &apart : &other) = batch;
  }
  assert_int_equal(apart->n_jobs, 1);
  assert_non_null(other);
  struct sched_instance *apart_instance = apart->instance;
  done(w, other);
  other = decides(w, SCHED_RUN).batch; /* the rest of the work stays away from it */
  assert_ptr_not_equal(other->instance, apart_instance);
  done(w, apart);
  apart = runs(w, 1);
  assert_ptr_equal(apart->instance, apart_instance);
  assert_true(apart->jobs[0]->solo);
  done(w, apart);
  struct sched_batch *last = decides(w, SCHED_RUN).batch; /* no solo job left: both work again */
  assert_ptr_equal(last->instance, apart_instance);
  done(w, last);
  done(w, other);
  world_close(w);
}

static void test_the_instance_set_apart_is_lost_or_retired(void **state) {
  struct world *w = world_open(at_once(4), 3);
  struct sched_instance *lost = add_instance(w);
  ask(w, 'a');
  runs(w, 1);
  sched_instance_lost(w->sched, lost, true, w->now);
  add_instance(w);
  add_instance(w);
  struct sched_batch *apart = runs(w, 1);
  sched_instance_lost(w->sched, apart->instance, false, w->now);
  apart = runs(w, 1); /* on the one that is left */
  assert_false(sched_instance_retire(w->sched, apart->instance, w->now));
  assert_int_equal(look(w).instances, 0);
  done(w, apart);
  ask(w, 'a');
  nothing(w);
  add_instance(w);
  done(w, runs(w, 1));
  world_close(w);
}

static void test_an_engine_error(void **state) {
  struct world *w = world_open(at_once(4), 1);
  add_instance(w);
  struct sched_job *one = ask(w, 'a');
  assert_true(sched_batch_failed(w->sched, runs(w, 1), w->now)); /* the owner answers it */
  assert_int_equal(submit(w, one), MU_OK);
  struct sched_job *two = ask(w, 'a'), *gone = ask(w, 'a');
  struct sched_batch *batch = runs(w, 3);
  assert_false(sched_cancel(w->sched, gone, w->now));
  assert_false(sched_batch_failed(w->sched, batch, w->now));
  drops(w, gone, MU_CANCELED);
  batch = runs(w, 1);
  assert_ptr_equal(batch->jobs[0], one);
  done(w, batch);
  batch = runs(w, 1);
  assert_ptr_equal(batch->jobs[0], two);
  assert_true(sched_batch_failed(w->sched, batch, w->now));
  world_close(w);
}

static void test_retire_waits_for_the_batch(void **state) {
  struct world *w = world_open(at_once(4), 2);
  struct sched_instance *busy = add_instance(w);
  ask(w, 'a');
  struct sched_batch *batch = runs(w, 1);
  assert_false(sched_instance_retire(w->sched, busy, w->now));
  ask(w, 'a');
  nothing(w);
  done(w, batch);
  nothing(w);
  struct sched_instance *idle = add_instance(w);
  done(w, runs(w, 1));
  assert_true(sched_instance_retire(w->sched, idle, w->now));
  world_close(w);
}

static void test_loss_after_the_model_was_removed(void **state) {
  struct world *w = world_open(at_once(4), 1);
  struct sched_instance *instance = add_instance(w);
  struct sched_job *job = ask(w, 'a');
  runs(w, 1);
  sched_remove_model(w->sched, w->model, w->now);
  nothing(w);
  sched_instance_lost(w->sched, instance, false, w->now);
  drops(w, job, MU_UNAVAILABLE);
  assert_ptr_equal(sched_key_model(job->key), w->model); /* still there for the owner's look */
  nothing(w);
  sched_free(w->sched);
  free(w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_hung_first_run_and_later_ones),
      cmocka_unit_test(test_hung_defaults),
      cmocka_unit_test(test_the_time_of_a_queued_batch_starts_with_its_run),
      cmocka_unit_test(test_no_blame_means_the_same_batch_again),
      cmocka_unit_test(test_not_more_often_than_max_attempts),
      cmocka_unit_test(test_requeued_until_the_deadline),
      cmocka_unit_test(test_cancelled_and_late_jobs_come_back_with_the_loss),
      cmocka_unit_test(test_blame_with_one_instance_takes_turns),
      cmocka_unit_test(test_blame_sets_an_instance_apart),
      cmocka_unit_test(test_the_instance_set_apart_is_lost_or_retired),
      cmocka_unit_test(test_an_engine_error),
      cmocka_unit_test(test_retire_waits_for_the_batch),
      cmocka_unit_test(test_loss_after_the_model_was_removed),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
