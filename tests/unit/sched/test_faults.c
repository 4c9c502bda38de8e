/* Workers that die, hang or answer with errors: who is run again, where, alone or not, and how often. */
#include "driver.h"
#include "simulation.h"

static struct sched_instance *add_deep_instance(struct driver *d, struct sched_model *model, uint32_t depth) {
  struct sched_instance *instance = sched_add_instance(d->sched, model, d->device, depth, 1, NULL, d->now);
  assert_non_null(instance);
  return instance;
}

static void lose(struct driver *d, struct sched_instance *instance, bool blamed) {
  sched_instance_lost(d->sched, instance, blamed, d->now);
}

/* ---- without blame ----------------------------------------------------------------------------------------------- */

static void test_requeue_at_the_front_in_the_old_order(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model_params params = at_once(2);
  params.max_queue_requests = 4;
  params.policies[0] = (struct sched_queue_policy){.default_timeout_ns = NS_PER_MS};
  struct sched_model *model = add_model(d, params);
  struct sched_instance *instance = add_deep_instance(d, model, 2);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 1), *c = ask(d, model, "x", 1);
  struct sched_job *e = ask(d, model, "x", 1);
  struct sched_batch *first = expect_run(d, a, b);
  struct sched_batch *second = expect_run(d, c, e);
  assert_true(first->id != second->id);
  pass(d, NS_PER_MS);
  struct sched_job *young[4] = {ask(d, model, "x", 1), ask(d, model, "y", 1), ask(d, model, "x", 1),
                                ask(d, model, "y", 1)};
  pass(d, NS_PER_MS / 2);
  lose(d, instance, false);
  /* Past the limit, which is for new ones; and its time in the queue was over when it was first dispatched. */
  assert_int_equal(look(model).waiting, 8);
  expect_quiet_until(d, young[0]->submitted_ns + NS_PER_MS);
  add_deep_instance(d, model, 1);
  done(d, expect_run(d, a, b));
  done(d, expect_run(d, c, e));
  done(d, expect_run(d, young[0], young[2]));
  done(d, expect_run(d, young[1], young[3]));
  assert_int_equal(a->attempts, 1);
  assert_false(a->solo);
  assert_int_equal(young[0]->attempts, 0);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_requeued_jobs_join_what_waits(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(4));
  struct sched_instance *instance = add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 2);
  expect_run(d, a, b);
  struct sched_job *c = ask(d, model, "x", 1);
  add_instance(d, model);
  struct sched_batch *other = expect_run(d, c);
  struct sched_job *e = ask(d, model, "x", 1), *f = ask(d, model, "x", 1);
  lose(d, instance, false);
  expect_quiet(d);
  done(d, other);
  done(d, expect_run(d, a, b, e));
  done(d, expect_run(d, f));
  driver_free(d);
}

static void test_attempts_are_limited(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(4));
  struct sched_job *a = ask(d, model, "x", 1);
  for (int i = 0; i <= 8; i++) { /* goes back to the queue eight times */
    struct sched_instance *instance = add_instance(d, model);
    struct sched_batch *batch = expect_run(d, a);
    assert_int_equal(a->attempts, i);
    assert_ptr_equal(batch->instance, instance);
    lose(d, instance, false);
  }
  expect_drop(d, a, MU_INTERNAL);
  expect_quiet_until(d, TIME_NEVER);
  struct sched_job *again = submit(d, a); /* a new life */
  assert_int_equal(again->attempts, 0);
  add_instance(d, model);
  done(d, expect_run(d, again));
  driver_free(d);
}

static void test_deadline_ends_the_attempts(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(4));
  struct sched_instance *instance = add_instance(d, model);
  struct sched_job *a = job_of(d, model, "x", 1);
  a->deadline_ns = d->now + NS_PER_MS;
  submit(d, a);
  expect_run(d, a);
  lose(d, instance, false);
  expect_quiet_until(d, a->deadline_ns); /* again as one that waits */
  instance = add_instance(d, model);
  expect_run(d, a);
  d->now = a->deadline_ns;
  lose(d, instance, false); /* both at once: it comes back once */
  expect_drop(d, a, MU_TIMEOUT);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* ---- with blame -------------------------------------------------------------------------------------------------- */

static void test_blamed_batch_runs_one_by_one_set_apart(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(4));
  struct sched_instance *dies = add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 1), *c = ask(d, model, "x", 1);
  expect_run(d, a, b, c);
  struct sched_instance *instances[2] = {add_instance(d, model), add_instance(d, model)};
  struct sched_job *young = ask(d, model, "x", 1), *younger = ask(d, model, "y", 1);
  struct sched_batch *other = expect_run(d, young), *another = expect_run(d, younger);
  lose(d, dies, true);
  expect_quiet(d); /* both are busy */
  struct sched_job *e = ask(d, model, "x", 1), *f = ask(d, model, "x", 1);
  done(d, other);
  done(d, another);
  struct sched_decision one = next_decision(d), two = next_decision(d);
  assert_true(one.action == SCHED_RUN && two.action == SCHED_RUN);
  struct sched_batch *solo = one.batch->jobs[0] == a ? one.batch : two.batch;
  struct sched_batch *normal = one.batch->jobs[0] == a ? two.batch : one.batch;
  assert_true(solo->n_jobs == 1 && solo->jobs[0] == a && a->solo);
  assert_true(normal->n_jobs == 2 && normal->jobs[0] == e && normal->jobs[1] == f);
  struct sched_instance *apart = solo->instance;
  assert_true(apart == instances[0] || apart == instances[1]);
  struct sched_job *g = ask(d, model, "x", 1);
  done(d, solo);
  solo = expect_run_on(d, apart, b); /* g waits for the other one */
  expect_quiet(d);
  done(d, normal);
  normal = expect_run(d, g);
  done(d, normal);
  struct sched_job *h = ask(d, model, "z", 1);
  normal = expect_run_on(d, normal->instance, h);
  done(d, solo);
  solo = expect_run_on(d, apart, c);
  struct sched_job *i = ask(d, model, "z", 1);
  expect_quiet(d);
  done(d, solo); /* the last one: apart takes part again */
  done(d, expect_run_on(d, apart, i));
  done(d, normal);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_one_instance_takes_turns(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(4));
  struct sched_instance *instance = add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 1), *c = ask(d, model, "x", 1);
  expect_run(d, a, b, c);
  lose(d, instance, true);
  struct sched_job *young[4] = {ask(d, model, "x", 4), ask(d, model, "x", 4)};
  expect_quiet_until(d, TIME_NEVER);
  add_instance(d, model);
  struct sched_job *order[5];
  for (int i = 0; i < 5; i++) {
    struct sched_batch *batch = expect_any_run(d);
    assert_int_equal(batch->n_jobs, 1);
    order[i] = batch->jobs[0];
    expect_quiet(d);
    done(d, batch);
  }
  /* In turn, whoever begins: neither waits for all of the other. */
  int begins = order[0] == a ? 0 : 1;
  assert_ptr_equal(order[begins], a);
  assert_ptr_equal(order[begins + 2], b);
  assert_ptr_equal(order[1 - begins], young[0]);
  assert_ptr_equal(order[3 - begins], young[1]);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_blamed_alone_is_not_tried_again(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(4));
  struct sched_job *guilty = ask(d, model, "x", 1), *innocent = ask(d, model, "x", 1);
  struct sched_instance *instance = add_instance(d, model);
  expect_run(d, guilty, innocent);
  lose(d, instance, true);
  instance = add_instance(d, model);
  expect_run(d, guilty);
  expect_quiet(d);
  lose(d, instance, true);
  expect_drop(d, guilty, MU_INTERNAL);
  expect_quiet_until(d, TIME_NEVER);
  instance = add_instance(d, model);
  expect_run(d, innocent);
  lose(d, instance, false); /* not its fault */
  instance = add_instance(d, model);
  struct sched_batch *batch = expect_run(d, innocent);
  assert_int_equal(innocent->attempts, 2);
  done(d, batch);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* A batch of one may have been killed by what the instance did before; only the run set apart is proof. */
static void test_a_batch_of_one_is_tried_once_more(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(0));
  struct sched_job *a = ask(d, model, "x", 1);
  struct sched_instance *instance = add_instance(d, model);
  expect_run(d, a);
  lose(d, instance, true);
  instance = add_instance(d, model);
  expect_run(d, a);
  lose(d, instance, true);
  expect_drop(d, a, MU_INTERNAL);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_all_batches_of_a_blamed_instance_run_alone(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(2));
  struct sched_instance *instance = add_deep_instance(d, model, 2);
  struct sched_job *a = ask(d, model, "x", 2), *b = ask(d, model, "x", 1), *c = ask(d, model, "x", 1);
  expect_run(d, a);
  expect_run(d, b, c);
  lose(d, instance, true);
  struct sched_job *e = ask(d, model, "x", 2), *f = ask(d, model, "x", 2);
  instance = add_deep_instance(d, model, 2);
  struct sched_job *solo[] = {a, b, c}, *others[] = {e, f};
  uint32_t n_solo = 0, n_others = 0;
  while (n_solo + n_others < 5) {
    struct sched_batch *batch = expect_any_run(d);
    if (n_solo < 3 && batch->jobs[0] == solo[n_solo]) {
      n_solo++;
      expect_quiet(d); /* nothing beside it, whatever the depth */
    } else {
      assert_true(n_others < 2);
      assert_ptr_equal(batch->jobs[0], others[n_others++]);
    }
    assert_int_equal(batch->n_jobs, 1);
    done(d, batch);
  }
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* ---- several instances in one process ---------------------------------------------------------------------------- */

static struct sched_instance *add_sibling(struct driver *d, struct sched_instance *of) {
  struct sched_instance *instance = sched_add_sibling(d->sched, of, NULL, d->now);
  assert_non_null(instance);
  return instance;
}

/* A process of two instances. */
static struct sched_instance *add_pair(struct driver *d, struct sched_model *model) {
  struct sched_instance *instance = add_instance(d, model);
  add_sibling(d, instance);
  return instance;
}

static void test_a_process_dies_with_all_its_instances(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(1));
  struct sched_instance *process = add_pair(d, model);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 1);
  expect_run(d, a);
  expect_run(d, b);
  assert_int_equal(look(model).instances, 2);
  lose(d, process, false);
  assert_int_equal(look(model).instances, 0);
  assert_int_equal(look(model).waiting, 2);
  assert_false(a->solo || b->solo);
  add_pair(d, model);
  struct sched_batch *first = expect_run(d, a), *second = expect_run(d, b); /* beside each other, as before */
  done(d, first);
  done(d, second);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* The guilty one runs on one instance, an innocent one on the other: neither was alone, so both are asked again, one
 * after the other, and only the guilty one is when it dies again. */
static void test_all_in_a_process_that_crashes_are_suspects(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(1));
  struct sched_instance *process = add_pair(d, model);
  struct sched_job *innocent = ask(d, model, "x", 1), *guilty = ask(d, model, "x", 1);
  expect_run(d, innocent);
  expect_run(d, guilty);
  lose(d, process, true);
  assert_true(innocent->suspect && guilty->suspect);
  process = add_pair(d, model);
  struct sched_batch *batch = expect_run(d, innocent);
  expect_quiet(d); /* though an instance is idle */
  done(d, batch);
  batch = expect_run(d, guilty);
  struct sched_job *young = ask(d, model, "x", 1), *younger = ask(d, model, "x", 1);
  expect_quiet(d);
  lose(d, batch->instance, true);
  expect_drop(d, guilty, MU_INTERNAL);
  add_pair(d, model);
  batch = expect_run(d, young);
  struct sched_batch *second = expect_run(d, younger); /* nobody is a suspect any more */
  assert_false(young->suspect || younger->suspect);
  done(d, batch);
  done(d, second);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* With one process the suspects take turns with the others: before each the process becomes idle. */
static void test_suspects_take_turns_in_the_only_process(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(1));
  struct sched_instance *process = add_pair(d, model);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 1);
  expect_run(d, a);
  expect_run(d, b);
  lose(d, process, true);
  struct sched_job *others[6];
  for (int i = 0; i < 6; i++) others[i] = ask(d, model, "x", 1);
  add_pair(d, model);
  uint32_t suspects = 0, n = 0, longest = 0, in_a_row = 0;
  while (suspects + n < 8) {
    struct sched_batch *batch = expect_any_run(d);
    if (batch->jobs[0]->suspect) {
      assert_ptr_equal(batch->jobs[0], suspects == 0 ? a : b);
      suspects++;
      in_a_row = 0;
      expect_quiet(d);
      done(d, batch);
    } else {
      assert_ptr_equal(batch->jobs[0], others[n]);
      n++;
      longest = ++in_a_row > longest && suspects < 2 ? in_a_row : longest;
      done(d, batch);
    }
  }
  assert_true(longest <= 2); /* while a suspect waits */
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_a_suspect_waits_until_its_process_is_idle(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(1));
  struct sched_instance *dies = add_instance(d, model), *pair = add_pair(d, model);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 1), *c = ask(d, model, "x", 1);
  struct sched_batch *batches[3] = {expect_run(d, a), expect_run(d, b), expect_run(d, c)};
  assert_ptr_equal(batches[0]->instance, dies);
  lose(d, dies, true);
  struct sched_job *young = ask(d, model, "x", 1);
  expect_quiet(d); /* all are busy */
  done(d, batches[1]);
  struct sched_batch *turn = expect_run(d, young); /* the only process: somebody else's turn, then the suspect's */
  struct sched_job *younger = ask(d, model, "x", 1);
  done(d, batches[2]);
  expect_quiet(d); /* an idle instance, but not an idle process */
  done(d, turn);
  struct sched_batch *alone = expect_run(d, a);
  expect_quiet(d);
  done(d, alone);
  done(d, expect_run(d, younger));
  assert_int_equal(look(model).instances, 2);
  assert_true(pair != dies);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* With another process there is one set apart as a whole, and the other goes on with both of its instances. */
static void test_a_process_is_set_apart_for_suspects(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(1));
  struct sched_instance *dies = add_pair(d, model);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 1);
  expect_run(d, a);
  expect_run(d, b);
  add_pair(d, model);
  add_pair(d, model);
  lose(d, dies, true);
  struct sched_job *others[4];
  for (int i = 0; i < 4; i++) others[i] = ask(d, model, "x", 1);
  struct sched_batch *running[2], *suspect = NULL;
  for (int i = 0, n = 0; i < 3; i++) {
    struct sched_batch *batch = expect_any_run(d);
    if (batch->jobs[0]->suspect)
      suspect = batch;
    else
      running[n++] = batch;
  }
  assert_non_null(suspect);
  assert_ptr_equal(suspect->jobs[0], a);
  expect_quiet(d); /* four instances, three batches: nothing beside the suspect */
  done(d, suspect);
  suspect = expect_run(d, b);
  expect_quiet(d);
  lose(d, suspect->instance, true);
  expect_drop(d, b, MU_INTERNAL);
  expect_quiet(d); /* the two of the other process are busy */
  for (int i = 0; i < 2; i++) {
    assert_true(running[i]->jobs[0] == others[0] || running[i]->jobs[0] == others[1]);
    done(d, running[i]);
  }
  done(d, expect_run(d, others[2]));
  done(d, expect_run(d, others[3]));
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* An engine's error has hurt nobody: its batch is run again one by one, but beside other instances of the process. Only
 * a crash then makes a suspect of who runs, and of who runs beside it. */
static void test_an_error_needs_no_process_of_its_own(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(2));
  struct sched_instance *process = add_pair(d, model);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 1);
  struct sched_batch *batch = expect_run(d, a, b);
  assert_false(sched_batch_failed(d->sched, batch, d->now));
  assert_true(a->solo && !a->suspect);
  struct sched_job *c = ask(d, model, "y", 2);
  struct sched_batch *one = expect_any_run(d), *two = expect_any_run(d);
  struct sched_batch *solo = one->jobs[0] == a ? one : two, *beside = one->jobs[0] == a ? two : one;
  assert_ptr_equal(solo->jobs[0], a);
  assert_ptr_equal(beside->jobs[0], c);
  lose(d, process, true);
  expect_quiet(d); /* nobody is dropped */
  assert_true(a->suspect && c->suspect && !b->suspect);
  add_pair(d, model);
  struct sched_job *in_order[] = {a, b, c};
  for (int i = 0; i < 3; i++) done(d, expect_run(d, in_order[i]));
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* Their owner is the process's number. */
static void add_process(struct driver *d, struct sched_model *model, uint32_t n, uintptr_t number) {
  void *owner = (void *)number;
  struct sched_instance *first = sched_add_instance(d->sched, model, d->device, 1, 1, owner, d->now);
  assert_non_null(first);
  for (uint32_t i = 1; i < n; i++) assert_non_null(sched_add_sibling(d->sched, first, owner, d->now));
}

/* Many processes of several instances, many requests, a few of which crash whatever process they run in: these get an
 * error, all others their answer. */
static void crowd_with_a_few_guilty(uint64_t seed) {
  enum { REQUESTS = 300, PROCESSES = 3, LANES = 3, RUNNING = PROCESSES * LANES };
  uintptr_t last_process = 0;
  struct driver *d = driver_create(RUNNING);
  uint64_t random = seed;
  struct sched_model *model = add_model(d, at_once(4));
  struct sched_batch *running[RUNNING];
  uint32_t n_running = 0, asked = 0, answered = 0, dropped = 0, guilty = 0, n_processes = 0;
  while (answered + dropped < REQUESTS) {
    for (; n_processes < PROCESSES; n_processes++) add_process(d, model, LANES, ++last_process);
    for (; asked < REQUESTS && random_below(&random, 3) > 0; asked++) {
      struct sched_job *job = job_of(d, model, "x", 1);
      job->bytes = random_below(&random, 20) == 0; /* 1: guilty */
      guilty += job->bytes > 0;
      submit(d, job);
    }
    struct sched_decision decision;
    while (sched_next(d->sched, d->now, &decision)) {
      if (decision.action == SCHED_DROP) {
        assert_int_equal(decision.status, MU_INTERNAL);
        assert_true(decision.job->bytes > 0); /* never an innocent one */
        dropped++;
      } else {
        assert_int_equal(decision.action, SCHED_RUN);
        running[n_running++] = decision.batch;
      }
    }
    if (n_running == 0) continue;
    uint32_t at = random_below(&random, n_running);
    struct sched_batch *batch = running[at];
    bool crashes = false;
    for (uint32_t i = 0; i < batch->n_jobs; i++) crashes |= batch->jobs[i]->bytes > 0;
    pass(d, NS_PER_MS);
    if (!crashes) {
      answered += batch->n_jobs;
      done(d, batch);
      running[at] = running[--n_running];
      continue;
    }
    const void *process = sched_instance_owner(batch->instance);
    struct sched_instance *dies = batch->instance;
    uint32_t kept = 0; /* what was in flight there waits again */
    for (uint32_t i = 0; i < n_running; i++)
      if (sched_instance_owner(running[i]->instance) != process) running[kept++] = running[i];
    n_running = kept;
    n_processes--;
    lose(d, dies, true);
  }
  assert_int_equal(dropped, guilty);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_only_the_guilty_get_errors(void **state) {
  for (uint64_t seed = 1; seed <= 50; seed++) crowd_with_a_few_guilty(seed * UINT64_C(0x9e3779b97f4a7c15));
}

static void test_the_instance_set_apart_leaves(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(4));
  struct sched_instance *instance = add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 1), *c = ask(d, model, "x", 1);
  expect_run(d, a, b, c);
  lose(d, instance, true);
  add_instance(d, model);
  add_instance(d, model);
  add_instance(d, model);
  struct sched_batch *solo = expect_run(d, a);
  expect_quiet(d); /* one only is set apart */
  assert_false(sched_instance_retire(d->sched, solo->instance, d->now));
  struct sched_batch *second = expect_run(d, b); /* another one takes its place */
  assert_true(second->instance != solo->instance);
  expect_quiet(d);
  lose(d, second->instance, false);
  second = expect_run(d, b);
  done(d, second);
  second = expect_run(d, c);
  done(d, second);
  done(d, solo);
  assert_int_equal(look(model).instances, 1);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* What competes with solo jobs for something other than the instance set apart must not win each time. */
static void solo_jobs_get_their_turn(bool preserve_ordering, double apart_speed, bool same_device) {
  struct driver *d = driver_create(preserve_ordering ? 8 : 1);
  struct sched_model_params params = at_once(4);
  params.preserve_ordering = preserve_ordering;
  struct sched_model *model = add_model(d, params);
  struct sched_instance *instance = add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 1);
  expect_run(d, a, b);
  lose(d, instance, true);
  struct sched_device *device = same_device ? d->device : sched_add_device(d->sched, 1);
  for (int i = 0; i < 2; i++) /* one of these is set apart */
    assert_non_null(sched_add_instance(d->sched, model, device, 1, apart_speed, NULL, d->now));
  add_instance(d, model);
  bool seen_a = false, seen_b = false, seen_others = false;
  for (int i = 0; i < 10; i++) {
    ask(d, model, "x", 4);
    ask(d, model, "x", 4);
    struct sched_batch *batch = expect_any_run(d);
    seen_a |= batch->jobs[0] == a;
    seen_b |= batch->jobs[0] == b;
    seen_others |= !batch->jobs[0]->solo;
    pass(d, NS_PER_MS);
    done(d, batch);
  }
  assert_true(seen_a && seen_b && seen_others);
  drop_waiting(d, model);
  driver_free(d);
}

static void test_solo_jobs_do_not_starve(void **state) {
  static const double speeds[] = {.1, 1, 10};
  for (int i = 0; i < 3; i++) {
    solo_jobs_get_their_turn(false, speeds[i], true); /* one token for all */
    solo_jobs_get_their_turn(true, speeds[i], true);  /* one batch of the model at a time */
    solo_jobs_get_their_turn(true, speeds[i], false);
  }
}

static void test_solo_job_that_leaves_makes_way(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(4));
  struct sched_instance *instance = add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 1);
  expect_run(d, a);
  lose(d, instance, true);
  struct sched_job *b = ask(d, model, "x", 4), *c = ask(d, model, "x", 4), *e = ask(d, model, "x", 4);
  add_deep_instance(d, model, 2);
  struct sched_batch *first = expect_any_run(d);
  if (first->jobs[0] == a) { /* whoever begins */
    done(d, first);
    done(d, expect_run(d, b));
    done(d, expect_run(d, c));
    done(d, expect_run(d, e));
  } else {
    assert_ptr_equal(first->jobs[0], b);
    expect_quiet(d); /* the next turn is the solo job's, once the instance is idle */
    assert_true(sched_cancel(d->sched, a, d->now));
    struct sched_batch *second = expect_run(d, c);
    done(d, first);
    struct sched_batch *third = expect_run(d, e);
    done(d, second);
    done(d, third);
  }
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* The instance set apart waits for a token and is retired: the only other one has been idle all the time. */
static void test_solo_job_goes_to_who_is_left(void **state) {
  struct driver *d = driver_create(1);
  struct sched_device *other = sched_add_device(d->sched, 1);
  struct sched_model *model = add_model(d, at_once(4)), *busy = add_model(d, at_once(4));
  struct sched_instance *instance = add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 1);
  expect_run(d, a);
  lose(d, instance, true);
  add_instance(d, busy);
  assert_non_null(sched_add_instance(d->sched, busy, other, 1, 1, NULL, d->now));
  struct sched_batch *here = expect_run(d, ask(d, busy, "x", 4));
  struct sched_batch *there = expect_run(d, ask(d, busy, "x", 4));
  struct sched_instance *apart = add_instance(d, model);
  struct sched_instance *left = sched_add_instance(d->sched, model, other, 1, 1, NULL, d->now);
  expect_quiet(d);
  assert_true(sched_instance_retire(d->sched, apart, d->now));
  expect_quiet(d);
  done(d, there);
  done(d, expect_run_on(d, left, a));
  done(d, here);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_solo_jobs_keep_deadline_and_limits(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model_params params = at_once(4);
  params.max_queue_requests = 2;
  params.max_queue_bytes = 10;
  struct sched_model *model = add_model(d, params);
  struct sched_instance *instance = add_instance(d, model);
  struct sched_job *a = job_of(d, model, "x", 1), *b = job_of(d, model, "x", 1);
  a->deadline_ns = d->now + NS_PER_MS;
  a->bytes = b->bytes = 5;
  submit(d, a);
  submit(d, b);
  expect_run(d, a, b);
  lose(d, instance, true);
  assert_int_equal(look(model).waiting, 2);
  assert_int_equal(look(model).waiting_bytes, 10);
  expect_refused(d, job_of(d, model, "x", 1), MU_UNAVAILABLE, "the queue is full: max_queue_requests is 2");
  expect_quiet_until(d, a->deadline_ns);
  d->now = a->deadline_ns;
  expect_drop(d, a, MU_TIMEOUT);
  expect_quiet_until(d, TIME_NEVER);
  assert_int_equal(look(model).waiting, 1);
  sched_remove_model(d->sched, model, d->now);
  expect_drop(d, b, MU_UNAVAILABLE);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* ---- errors of the engine ---------------------------------------------------------------------------------------- */

static void test_failed_batch_runs_one_by_one(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(4));
  add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 1), *c = ask(d, model, "x", 1);
  struct sched_batch *batch = expect_run(d, a, b, c);
  assert_false(sched_batch_failed(d->sched, batch, d->now));
  done(d, expect_run(d, a));
  batch = expect_run(d, b);
  assert_true(sched_batch_failed(d->sched, batch, d->now)); /* its own fault: the owner answers it */
  assert_int_equal(sched_key_batch_ns(c->key, 1), 0);       /* an error says nothing about time */
  done(d, expect_run(d, c));
  expect_quiet_until(d, TIME_NEVER);
  assert_int_equal(look(model).waiting + look(model).in_flight, 0);
  driver_free(d);
}

static void test_retired_instance_ends_with_a_failed_batch(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(4));
  struct sched_instance *instance = add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 1);
  struct sched_batch *batch = expect_run(d, a, b);
  assert_false(sched_instance_retire(d->sched, instance, d->now));
  assert_false(sched_batch_failed(d->sched, batch, d->now));
  expect_quiet_until(d, TIME_NEVER);
  add_instance(d, model);
  done(d, expect_run(d, a));
  done(d, expect_run(d, b));
  driver_free(d);
}

/* ---- jobs that nobody waits for any more ------------------------------------------------------------------------- */

enum end { END_LOST, END_BLAMED, END_FAILED };

static void gone_jobs_come_back_as_drops(enum end end) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(4));
  struct sched_instance *instance = add_instance(d, model);
  struct sched_job *canceled = ask(d, model, "x", 1), *late = job_of(d, model, "x", 1);
  struct sched_job *both = job_of(d, model, "x", 1), *stays = ask(d, model, "x", 1);
  late->deadline_ns = both->deadline_ns = d->now + NS_PER_MS;
  submit(d, late);
  submit(d, both);
  struct sched_batch *batch = expect_run(d, canceled, stays, late, both);
  assert_false(sched_cancel(d->sched, canceled, d->now));
  pass(d, NS_PER_MS);
  struct sched_decision one = next_decision(d), two = next_decision(d);
  assert_true(one.action == SCHED_LATE && two.action == SCHED_LATE && one.job != two.job);
  assert_false(sched_cancel(d->sched, both, d->now));
  assert_int_equal(batch->live, 1);
  if (end == END_FAILED)
    assert_false(sched_batch_failed(d->sched, batch, d->now));
  else
    lose(d, instance, end == END_BLAMED);
  expect_drop(d, canceled, MU_CANCELED);
  expect_drop(d, late, MU_TIMEOUT);
  expect_drop(d, both, MU_CANCELED);
  if (end != END_FAILED) add_instance(d, model);
  assert_int_equal(look(model).waiting, 1);
  done(d, expect_run(d, stays));
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_gone_jobs_come_back_as_drops(void **state) {
  for (enum end end = END_LOST; end <= END_FAILED; end++) gone_jobs_come_back_as_drops(end);
}

/* ---- hung -------------------------------------------------------------------------------------------------------- */

static void run_for(struct driver *d, struct sched_model *model, uint64_t ns) {
  struct sched_batch *batch = expect_run(d, ask(d, model, "x", 1));
  pass(d, ns);
  done(d, batch);
}

/* Hung at exactly `after`, once; then the worker is killed and the job runs elsewhere. */
static void hangs_after(struct driver *d, struct sched_model *model, const char *shape, uint64_t after) {
  struct sched_job *job = ask(d, model, shape, 1);
  struct sched_batch *batch = expect_run(d, job);
  expect_quiet_until(d, d->now + after);
  pass(d, after - 1);
  expect_quiet(d);
  pass(d, 1);
  expect_hung(d, batch);
  expect_quiet_until(d, TIME_NEVER);
  pass(d, 1000 * NS_PER_S);
  expect_quiet_until(d, TIME_NEVER);
  lose(d, batch->instance, true);
  add_instance(d, model);
  batch = expect_run(d, job);
  assert_true(job->solo);
  pass(d, NS_PER_MS);
  done(d, batch);
}

static void test_hung(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(4));
  add_instance(d, model);
  hangs_after(d, model, "x", 600 * NS_PER_S); /* the first run of a shape */
  hangs_after(d, model, "x", 60 * NS_PER_S);
  hangs_after(d, model, "y", 600 * NS_PER_S);
  driver_free(d);
}

static void test_hung_after_a_hundred_times_the_slow_ones(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model(d, at_once(4));
  add_instance(d, model);
  for (int i = 0; i < 5; i++) run_for(d, model, NS_PER_S);
  struct sched_batch *batch = expect_run(d, ask(d, model, "x", 1));
  expect_quiet(d);
  uint64_t wake = sched_wake_ns(d->sched) - d->now;
  assert_true(wake > 95 * NS_PER_S && wake < 105 * NS_PER_S);
  done(d, batch);
  driver_free(d);
}

static void test_hung_as_configured(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model_params params = at_once(4);
  params.max_execution_ns = 3 * NS_PER_MS;
  params.first_execution_ns = 20 * NS_PER_MS;
  struct sched_model *model = add_model(d, params);
  add_instance(d, model);
  hangs_after(d, model, "x", 20 * NS_PER_MS);
  hangs_after(d, model, "x", 3 * NS_PER_MS);
  driver_free(d);
}

/* It was called hung and comes back after all, before it was killed. */
static void test_hung_batch_ends_after_all(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model_params params = at_once(4);
  params.first_execution_ns = NS_PER_MS;
  struct sched_model *model = add_model(d, params);
  add_instance(d, model);
  struct sched_job *job = job_of(d, model, "x", 1);
  job->deadline_ns = d->now + NS_PER_MS;
  submit(d, job);
  struct sched_batch *batch = expect_run(d, job);
  pass(d, NS_PER_MS);
  expect_late(d, batch, job);
  expect_hung(d, batch);
  expect_quiet_until(d, TIME_NEVER);
  done(d, batch);
  done(d, expect_run(d, ask(d, model, "x", 1)));
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_requeue_at_the_front_in_the_old_order),
      cmocka_unit_test(test_requeued_jobs_join_what_waits),
      cmocka_unit_test(test_attempts_are_limited),
      cmocka_unit_test(test_deadline_ends_the_attempts),
      cmocka_unit_test(test_blamed_batch_runs_one_by_one_set_apart),
      cmocka_unit_test(test_one_instance_takes_turns),
      cmocka_unit_test(test_blamed_alone_is_not_tried_again),
      cmocka_unit_test(test_a_batch_of_one_is_tried_once_more),
      cmocka_unit_test(test_all_batches_of_a_blamed_instance_run_alone),
      cmocka_unit_test(test_a_process_dies_with_all_its_instances),
      cmocka_unit_test(test_all_in_a_process_that_crashes_are_suspects),
      cmocka_unit_test(test_suspects_take_turns_in_the_only_process),
      cmocka_unit_test(test_a_suspect_waits_until_its_process_is_idle),
      cmocka_unit_test(test_a_process_is_set_apart_for_suspects),
      cmocka_unit_test(test_an_error_needs_no_process_of_its_own),
      cmocka_unit_test(test_only_the_guilty_get_errors),
      cmocka_unit_test(test_the_instance_set_apart_leaves),
      cmocka_unit_test(test_solo_jobs_do_not_starve),
      cmocka_unit_test(test_solo_job_that_leaves_makes_way),
      cmocka_unit_test(test_solo_job_goes_to_who_is_left),
      cmocka_unit_test(test_solo_jobs_keep_deadline_and_limits),
      cmocka_unit_test(test_failed_batch_runs_one_by_one),
      cmocka_unit_test(test_retired_instance_ends_with_a_failed_batch),
      cmocka_unit_test(test_gone_jobs_come_back_as_drops),
      cmocka_unit_test(test_hung),
      cmocka_unit_test(test_hung_after_a_hundred_times_the_slow_ones),
      cmocka_unit_test(test_hung_as_configured),
      cmocka_unit_test(test_hung_batch_ends_after_all),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
