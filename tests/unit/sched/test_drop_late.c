/* Jobs that are no use after their deadline, and jobs that are taken back while they wait. */
#include "sched_fixture.h"

enum { RUN_NS = 40 };

/* One instance that takes RUN_NS for a run, as the scheduler has learned. */
static struct world *learned(void) {
  struct world *w = world_open(at_once(1), 1);
  add_instance(w);
  for (int i = 0; i < 20; i++) {
    ask(w, 'a');
    runs_for(w, runs(w, 1), RUN_NS);
  }
  assert_true(sched_key_batch_ns(w->jobs[0].key, 1) == RUN_NS);
  return w;
}

static struct sched_job *ask_in_time(struct world *w, uint64_t within_ns) {
  struct sched_job *job = new_job(w, 'a', 1);
  job->deadline_ns = w->now + within_ns;
  job->drop_late = true;
  assert_int_equal(submit(w, job), MU_OK);
  return job;
}

static void test_dropped_as_soon_as_it_cannot_be_in_time(void **state) {
  struct world *w = learned();
  ask(w, 'a');
  struct sched_batch *running = runs(w, 1);
  struct sched_job *job = ask_in_time(w, 100);
  nothing(w);
  w->now += 100 - RUN_NS - 1;
  nothing(w);
  w->now += 1; /* now a run would end at its deadline: it has waited for as long as it could */
  drops(w, job, MU_TIMEOUT);
  done(w, running);
  world_close(w);
}

static void test_dropped_at_once_where_even_a_run_now_is_late(void **state) {
  struct world *w = learned();
  ask(w, 'a');
  struct sched_batch *running = runs(w, 1);
  drops(w, ask_in_time(w, RUN_NS - 1), MU_TIMEOUT);
  done(w, running);
  world_close(w);
}

/* Otherwise one slow run would have all later ones dropped, for ever. */
static void test_tried_where_nothing_else_is_to_do(void **state) {
  struct world *w = learned();
  for (int i = 0; i < 3; i++) {
    ask_in_time(w, RUN_NS / 2);
    struct sched_batch *batch = runs(w, 1);
    w->now += RUN_NS / 2;
    decides(w, SCHED_LATE);
    done(w, batch);
  }
  world_close(w);
}

static void test_others_wait_until_their_deadline(void **state) {
  struct world *w = learned();
  ask(w, 'a');
  struct sched_batch *running = runs(w, 1);
  struct sched_job *job = new_job(w, 'a', 1);
  job->deadline_ns = w->now + 100;
  assert_int_equal(submit(w, job), MU_OK);
  w->now += 99;
  nothing(w);
  w->now += 1;
  drops(w, job, MU_TIMEOUT);
  done(w, running);
  world_close(w);
}

static void test_only_waiting_jobs_are_withdrawn(void **state) {
  struct world *w = world_open(at_once(1), 1);
  add_instance(w);
  struct sched_job *first = ask(w, 'a');
  struct sched_batch *batch = runs(w, 1);
  struct sched_job *second = ask(w, 'a'), *third = ask(w, 'a');
  assert_false(sched_withdraw(w->sched, first));
  assert_true(sched_withdraw(w->sched, second));
  assert_int_equal(look(w).waiting, 1);
  assert_int_equal(batch->live, 1); /* the one that runs is still wanted */
  done(w, batch);
  batch = runs(w, 1);
  assert_ptr_equal(batch->jobs[0], third);
  done(w, batch);
  world_close(w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_dropped_as_soon_as_it_cannot_be_in_time),
      cmocka_unit_test(test_dropped_at_once_where_even_a_run_now_is_late),
      cmocka_unit_test(test_tried_where_nothing_else_is_to_do),
      cmocka_unit_test(test_others_wait_until_their_deadline),
      cmocka_unit_test(test_only_waiting_jobs_are_withdrawn),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
