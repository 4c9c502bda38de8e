/* Models that share devices: tokens, turns, who is in whose way; the choice of the instance, instances that leave. */
#include "driver.h"

static struct sched_instance *add_instance_of(struct driver *d, struct sched_model *model, struct sched_device *device,
                                              uint32_t depth, double speed) {
  struct sched_instance *instance = sched_add_instance(d->sched, model, device, depth, speed, d, d->now);
  assert_non_null(instance);
  assert_ptr_equal(sched_instance_owner(instance), d);
  return instance;
}

static struct sched_model *add_model_of(struct driver *d, uint32_t tokens, enum sched_choice choice) {
  struct sched_model_params params = at_once(1);
  params.tokens = tokens;
  params.choice = choice;
  params.owner = d;
  struct sched_model *model = add_model(d, params);
  assert_ptr_equal(sched_model_owner(model), d);
  return model;
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

static void test_models_share_the_tokens(void **state) {
  struct driver *d = driver_create(2);
  struct sched_job *jobs[3];
  for (int i = 0; i < 3; i++) {
    struct sched_model *model = add_model_of(d, 1, SCHED_QUEUE_DEPTH);
    add_instance(d, model);
    jobs[i] = ask(d, model, "x", 1);
  }
  struct sched_batch *a = expect_any_run(d), *b = expect_any_run(d);
  expect_quiet(d);
  done(d, a);
  struct sched_batch *c = expect_any_run(d);
  expect_quiet(d);
  done(d, b);
  done(d, c);
  for (int i = 0; i < 3; i++) assert_int_equal(jobs[i]->dispatched_ns, d->now);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_instances_share_the_tokens(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model *model = add_model_of(d, 1, SCHED_QUEUE_DEPTH);
  struct sched_instance *first = add_instance(d, model);
  add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 1), *b = ask(d, model, "x", 1), *c = ask(d, model, "x", 1);
  expect_run_on(d, first, a);
  expect_quiet(d);
  /* A device of its own, tokens of its own. */
  struct sched_instance *elsewhere = add_instance_of(d, model, sched_add_device(d->sched, 1), 1, 1);
  struct sched_batch *second = expect_run_on(d, elsewhere, b);
  expect_quiet(d);
  sched_instance_lost(d->sched, first, false, d->now); /* gives its token back too */
  struct sched_batch *third = expect_run(d, a);
  expect_quiet(d);
  done(d, third);
  third = expect_run(d, c);
  done(d, second);
  done(d, third);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_more_tokens_than_there_are_means_all(void **state) {
  struct driver *d = driver_create(3);
  struct sched_model *big = add_model_of(d, 100, SCHED_QUEUE_DEPTH), *small = add_model_of(d, 1, SCHED_QUEUE_DEPTH);
  add_instance(d, big);
  add_instance(d, big);
  add_instance(d, small);
  struct sched_job *a = ask(d, big, "x", 1);
  struct sched_batch *batch = expect_run(d, a);
  struct sched_job *b = ask(d, big, "x", 1), *c = ask(d, small, "x", 1);
  expect_quiet(d);
  pass(d, NS_PER_MS);
  done(d, batch);
  batch = expect_run(d, c); /* small has had no turn yet */
  expect_quiet(d);
  pass(d, NS_PER_MS);
  done(d, batch);
  done(d, expect_run(d, b));
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* Single tokens that come free one by one must not go to the small ones for ever. */
static void test_a_model_of_many_tokens_does_not_starve(void **state) {
  struct driver *d = driver_create(2);
  struct sched_model *big = add_model_of(d, 2, SCHED_QUEUE_DEPTH), *small = add_model_of(d, 1, SCHED_QUEUE_DEPTH);
  add_instance(d, big);
  add_instance(d, small);
  add_instance(d, small);
  for (int i = 0; i < 20; i++) ask(d, small, "x", 1);
  struct sched_batch *running[2] = {expect_any_run(d), expect_any_run(d)};
  struct sched_job *wanting = ask(d, big, "x", 1);
  struct sched_batch *wanted = NULL;
  for (int i = 0; i < 10 && wanted == NULL; i++) {
    pass(d, NS_PER_MS);
    if (running[i % 2] != NULL) done(d, running[i % 2]);
    running[i % 2] = NULL;
    struct sched_decision decision;
    if (!sched_next(d->sched, d->now, &decision)) continue;
    if (decision.batch->jobs[0] == wanting)
      wanted = decision.batch;
    else
      running[i % 2] = decision.batch;
  }
  assert_non_null(wanted);
  assert_true(running[0] == NULL && running[1] == NULL); /* it has all tokens */
  expect_quiet(d);
  drop_waiting(d, small);
  done(d, wanted);
  driver_free(d);
}

enum way { WAY_CANCEL, WAY_DEADLINE, WAY_REMOVE, WAY_RETIRE };

/* The first in turn waits for tokens and keeps the others from them, but only for as long as it wants them. */
static void is_in_the_way_until(enum way way) {
  struct driver *d = driver_create(2);
  struct sched_model *big = add_model_of(d, 2, SCHED_QUEUE_DEPTH), *small = add_model_of(d, 1, SCHED_QUEUE_DEPTH);
  struct sched_instance *instance = add_instance(d, big);
  add_instance(d, small);
  add_instance(d, small);
  struct sched_batch *batch = expect_run(d, ask(d, small, "x", 1));
  struct sched_job *wanting = job_of(d, big, "x", 1);
  if (way == WAY_DEADLINE) wanting->deadline_ns = d->now + NS_PER_MS;
  submit(d, wanting);
  expect_quiet(d);
  struct sched_job *b = ask(d, small, "x", 1);
  expect_quiet(d); /* it is big's turn */
  pass(d, NS_PER_MS);
  if (way == WAY_CANCEL) assert_true(sched_cancel(d->sched, wanting, d->now));
  if (way == WAY_RETIRE) assert_true(sched_instance_retire(d->sched, instance, d->now));
  if (way == WAY_REMOVE) sched_remove_model(d->sched, big, d->now);
  if (way == WAY_REMOVE) expect_drop(d, wanting, MU_UNAVAILABLE);
  if (way == WAY_DEADLINE) expect_drop(d, wanting, MU_TIMEOUT);
  struct sched_batch *second = expect_run(d, b);
  expect_quiet(d);
  done(d, batch);
  done(d, second);
  drop_waiting(d, big);
  driver_free(d);
}

static void test_who_has_left_is_in_nobodys_way(void **state) {
  for (enum way way = WAY_CANCEL; way <= WAY_RETIRE; way++) is_in_the_way_until(way);
}

/* It waited for two devices, and then its work went to the other one. */
static void is_not_in_the_way_of(bool preserve_ordering) {
  struct driver *d = driver_create(2);
  struct sched_device *other = sched_add_device(d->sched, 2);
  struct sched_model_params params = at_once(1);
  params.tokens = 2;
  params.preserve_ordering = preserve_ordering;
  struct sched_model *big = add_model(d, params), *small = add_model_of(d, 1, SCHED_QUEUE_DEPTH);
  struct sched_model *third = add_model_of(d, 2, SCHED_QUEUE_DEPTH);
  add_instance(d, small);
  add_instance(d, small);
  add_instance_of(d, third, other, 1, 1);
  struct sched_batch *batch = expect_run(d, ask(d, small, "x", 1));
  struct sched_batch *there = expect_run(d, ask(d, third, "x", 1));
  add_instance(d, big);
  struct sched_instance *elsewhere = add_instance_of(d, big, other, 1, 1);
  struct sched_job *first = ask(d, big, "x", 1);
  struct sched_job *next = preserve_ordering ? ask(d, big, "x", 1) : NULL;
  expect_quiet(d);
  struct sched_job *waiting = ask(d, small, "x", 1);
  expect_quiet(d); /* it is big's turn on both */
  done(d, there);
  struct sched_batch *gone = expect_run_on(d, elsewhere, first);
  struct sched_batch *second = expect_run(d, waiting);
  expect_quiet(d);
  done(d, gone);
  if (next != NULL) done(d, expect_run_on(d, elsewhere, next));
  done(d, batch);
  done(d, second);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_who_runs_elsewhere_is_in_nobodys_way(void **state) {
  is_not_in_the_way_of(false);
  is_not_in_the_way_of(true);
}

/* An idle instance that wants tokens has left; behind it in turn is one that holds its own and has room. */
static void test_a_second_batch_needs_no_tokens(void **state) {
  struct driver *d = driver_create(3);
  struct sched_model *model = add_model_of(d, 2, SCHED_QUEUE_DEPTH);
  struct sched_instance *deep = add_instance_of(d, model, d->device, 2, 1);
  struct sched_batch *first = expect_run_on(d, deep, ask(d, model, "x", 1));
  struct sched_instance *idle = add_instance(d, model);
  struct sched_job *waiting = ask(d, model, "x", 1);
  struct sched_decision decision;
  struct sched_batch *second = sched_next(d->sched, d->now, &decision) ? decision.batch : NULL;
  if (second == NULL) { /* the idle one goes first, and waits for the tokens */
    assert_true(sched_instance_retire(d->sched, idle, d->now));
    second = expect_run_on(d, deep, waiting);
  }
  assert_ptr_equal(second->instance, deep);
  done(d, first);
  done(d, second);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* ---- turns ------------------------------------------------------------------------------------------------------- */

struct load {
  struct sched_model *model;
  uint32_t tokens, priority;
  uint64_t run_ns;
  uint64_t used_ns; /* device time x tokens that it got */
};

struct running {
  struct sched_batch *batch; /* NULL: slot free */
  uint64_t end;
  struct load *load;
};

enum { SLOTS = 16, AHEAD = 4 };

static struct running *first_to_end(struct running *running) {
  struct running *first = NULL;
  for (struct running *r = running; r < running + SLOTS; r++)
    if (r->batch != NULL && (first == NULL || r->end < first->end)) first = r;
  return first;
}

static void start_all(struct driver *d, struct running *running, struct load *loads) {
  struct sched_decision decision;
  while (sched_next(d->sched, d->now, &decision)) {
    assert_int_equal(decision.action, SCHED_RUN);
    struct running *slot = running;
    struct load *load = loads;
    while (slot->batch != NULL) slot++;
    while (load->model != sched_key_model(decision.batch->key)) load++;
    *slot = (struct running){decision.batch, d->now + load->run_ns, load};
  }
}

static void end(struct driver *d, struct running *running) {
  running->load->used_ns += running->load->run_ns * running->load->tokens;
  forget(d, running->batch->jobs[0]);
  done(d, running->batch);
  running->batch = NULL;
}

/* Keeps the queue of every load filled for so long. */
static void run_loads(struct driver *d, struct load *loads, uint32_t n_loads, uint64_t for_ns) {
  struct running running[SLOTS] = {0};
  for (uint32_t i = 0; i < n_loads; i++) loads[i].used_ns = 0;
  for (uint64_t until = d->now + for_ns; d->now < until;) {
    for (uint32_t i = 0; i < n_loads; i++) {
      while (look(loads[i].model).waiting < AHEAD) {
        struct sched_job *job = job_of(d, loads[i].model, "x", 1);
        job->priority = loads[i].priority;
        submit(d, job);
      }
    }
    start_all(d, running, loads);
    struct running *first = first_to_end(running);
    assert_non_null(first);
    d->now = first->end;
    end(d, first);
  }
  /* What still runs ends without anything behind it, so that the next phase starts clean. */
  for (struct running *first; start_all(d, running, loads), (first = first_to_end(running)) != NULL;) {
    d->now = first->end;
    end(d, first);
  }
}

static struct load load_of(struct driver *d, uint32_t tokens, uint32_t instances, uint64_t run_ns, uint32_t priority) {
  struct sched_model_params params = at_once(1);
  params.tokens = tokens;
  if (priority > 0) params.priority_levels = params.default_priority_level = 4;
  struct load load = {.model = add_model(d, params), .tokens = tokens, .priority = priority, .run_ns = run_ns};
  for (uint32_t i = 0; i < instances; i++) add_instance(d, load.model);
  return load;
}

static void assert_share(const struct load *a, const struct load *b, double expected) {
  double share = (double)a->used_ns / (double)b->used_ns;
  assert_true(share > expected * .95 && share < expected * 1.05);
}

static void test_turns_by_measured_time(void **state) {
  struct driver *d = driver_create(1);
  struct load loads[] = {load_of(d, 1, 1, 10 * NS_PER_MS, 0), load_of(d, 1, 2, NS_PER_MS, 0),
                         load_of(d, 1, 1, 50 * NS_PER_US, 0)};
  run_loads(d, loads, 3, 4 * NS_PER_S);
  assert_share(&loads[0], &loads[1], 1);
  assert_share(&loads[1], &loads[2], 1);
  driver_free(d);
}

static void test_turns_count_tokens(void **state) {
  struct driver *d = driver_create(2);
  struct load loads[] = {load_of(d, 2, 1, NS_PER_MS, 0), load_of(d, 1, 2, 3 * NS_PER_MS, 0)};
  run_loads(d, loads, 2, 10 * NS_PER_S);
  assert_share(&loads[0], &loads[1], 1);
  driver_free(d);
}

static void test_turns_by_priority(void **state) {
  struct driver *d = driver_create(1);
  struct load loads[] = {load_of(d, 1, 1, NS_PER_MS, 1), load_of(d, 1, 1, 2 * NS_PER_MS, 2)};
  run_loads(d, loads, 2, 10 * NS_PER_S);
  assert_share(&loads[0], &loads[1], 2); /* level 2 pays twice */
  driver_free(d);
}

static void test_idling_banks_no_credit(void **state) {
  struct driver *d = driver_create(1);
  struct load loads[] = {load_of(d, 1, 1, 2 * NS_PER_MS, 0), load_of(d, 1, 1, NS_PER_MS, 0)};
  run_loads(d, loads, 1, 60 * NS_PER_S); /* the second one is idle */
  run_loads(d, loads, 2, NS_PER_S / 2);
  assert_share(&loads[0], &loads[1], 1);
  run_loads(d, loads + 1, 1, 60 * NS_PER_S); /* now the first one is */
  run_loads(d, loads, 2, NS_PER_S / 2);
  assert_share(&loads[0], &loads[1], 1);
  driver_free(d);
}

/* One that loads the device all the time, and one that asks now and then: it never waits for more than a batch. */
static void test_an_occasional_model_goes_next(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model *busy = add_model_of(d, 1, SCHED_QUEUE_DEPTH), *rare = add_model_of(d, 1, SCHED_QUEUE_DEPTH);
  add_instance(d, busy);
  add_instance(d, rare);
  ask(d, busy, "x", 1);
  struct sched_batch *batch = expect_any_run(d);
  for (int i = 0; i < 100; i++) {
    for (int k = 0; k < 10; k++) {
      ask(d, busy, "x", 1);
      pass(d, NS_PER_MS);
      forget(d, batch->jobs[0]);
      done(d, batch);
      batch = expect_any_run(d);
    }
    ask(d, busy, "x", 1);
    struct sched_job *job = ask(d, rare, "x", 1);
    pass(d, NS_PER_MS);
    forget(d, batch->jobs[0]);
    done(d, batch);
    batch = expect_run(d, job);
    pass(d, NS_PER_MS);
    forget(d, batch->jobs[0]);
    done(d, batch);
    batch = expect_any_run(d);
  }
  done(d, batch);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* ---- choice of the instance -------------------------------------------------------------------------------------- */

static void test_round_robin(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model_of(d, 1, SCHED_ROUND_ROBIN);
  for (int i = 0; i < 3; i++) add_instance_of(d, model, d->device, 1, i == 1 ? 9 : 1);
  struct sched_instance *instances[3]; /* in the order of the first round */
  for (int i = 0; i < 3; i++) {
    ask(d, model, "x", 1);
    struct sched_batch *batch = expect_any_run(d);
    instances[i] = batch->instance;
    done(d, batch);
  }
  assert_true(instances[0] != instances[1] && instances[1] != instances[2] && instances[2] != instances[0]);
  for (int i = 0; i < 9; i++) done(d, expect_run_on(d, instances[i % 3], ask(d, model, "x", 1)));
  /* One that is busy loses its turn, not its place. */
  struct sched_batch *batch = expect_run_on(d, instances[0], ask(d, model, "x", 1));
  done(d, expect_run_on(d, instances[1], ask(d, model, "x", 1)));
  done(d, expect_run_on(d, instances[2], ask(d, model, "x", 1)));
  done(d, expect_run_on(d, instances[1], ask(d, model, "x", 1)));
  done(d, batch);
  done(d, expect_run_on(d, instances[0], ask(d, model, "x", 1)));
  driver_free(d);
}

static void test_the_faster_one_first(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model *model = add_model_of(d, 1, SCHED_QUEUE_DEPTH);
  struct sched_instance *slow = add_instance_of(d, model, d->device, 1, .5);
  struct sched_instance *fast = add_instance_of(d, model, d->device, 1, 2);
  struct sched_instance *normal = add_instance_of(d, model, d->device, 1, 1);
  struct sched_batch *a = expect_run_on(d, fast, ask(d, model, "x", 1));
  struct sched_batch *b = expect_run_on(d, normal, ask(d, model, "x", 1));
  struct sched_batch *c = expect_run_on(d, slow, ask(d, model, "x", 1));
  done(d, a);
  done(d, expect_run_on(d, fast, ask(d, model, "x", 1)));
  done(d, b);
  done(d, c);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_idle_first_then_least_outstanding(void **state) {
  struct driver *d = driver_create(8);
  struct sched_model_params params = at_once(4);
  struct sched_model *model = add_model(d, params);
  struct sched_instance *a = add_instance_of(d, model, d->device, 3, 1);
  struct sched_instance *b = add_instance_of(d, model, d->device, 3, .1);
  struct sched_batch *batches[5];
  batches[0] = expect_run_on(d, a, ask(d, model, "x", 4));
  batches[1] = expect_run_on(d, b, ask(d, model, "x", 4)); /* slow, but idle */
  batches[2] = expect_run_on(d, a, ask(d, model, "x", 4)); /* 4 rows on each; a is ten times as fast */
  sched_instance_retire(d->sched, a, d->now);
  batches[3] = expect_run_on(d, b, ask(d, model, "x", 4));
  batches[4] = expect_run_on(d, b, ask(d, model, "x", 4));
  ask(d, model, "x", 4);
  expect_quiet(d); /* depth 3 */
  for (int i = 0; i < 5; i++) done(d, batches[i]);
  done(d, expect_any_run(d));
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

static void test_depth(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model_params params = at_once(4);
  params.first_execution_ns = 7 * NS_PER_MS;
  params.max_execution_ns = 5 * NS_PER_MS;
  struct sched_model *model = add_model(d, params);
  add_instance_of(d, model, d->device, 2, 1);
  struct sched_batch *first = expect_run(d, ask(d, model, "x", 1));
  struct sched_job *a = ask(d, model, "x", 3);
  expect_quiet_until(d, d->now + 7 * NS_PER_MS); /* may grow: waits as long as something runs */
  struct sched_job *b = ask(d, model, "x", 1);
  struct sched_batch *second = expect_run(d, a, b);
  struct sched_job *c = ask(d, model, "x", 4);
  expect_quiet(d);
  pass(d, 4 * NS_PER_MS);
  done(d, first);
  struct sched_batch *third = expect_run(d, c);
  expect_quiet_until(d, d->now + 5 * NS_PER_MS); /* the second one's time starts now */
  assert_int_equal(sched_key_batch_ns(second->key, 1), 4 * NS_PER_MS);
  done(d, third); /* out of order: never was the first, so it says nothing about time */
  expect_quiet_until(d, d->now + 5 * NS_PER_MS);
  pass(d, 2 * NS_PER_MS);
  done(d, second);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* ---- leaving ----------------------------------------------------------------------------------------------------- */

static void test_retire(void **state) {
  struct driver *d = driver_create(4);
  struct sched_model *model = add_model_of(d, 1, SCHED_QUEUE_DEPTH);
  struct sched_instance *first = add_instance(d, model), *second = add_instance(d, model);
  struct sched_batch *batch = expect_run_on(d, first, ask(d, model, "x", 1));
  assert_int_equal(look(model).instances, 2);
  assert_false(sched_instance_retire(d->sched, first, d->now));
  assert_int_equal(look(model).instances, 1);
  struct sched_batch *other = expect_run_on(d, second, ask(d, model, "x", 1));
  struct sched_job *a = ask(d, model, "x", 1);
  done(d, batch); /* goes with its last batch */
  expect_quiet(d);
  done(d, other);
  done(d, expect_run_on(d, second, a));
  assert_true(sched_instance_retire(d->sched, second, d->now));
  assert_int_equal(look(model).instances, 0);
  struct sched_job *b = ask(d, model, "x", 1);
  expect_quiet_until(d, TIME_NEVER); /* waits for a successor */
  struct sched_instance *third = add_instance(d, model);
  batch = expect_run_on(d, third, b);
  assert_false(sched_instance_retire(d->sched, third, d->now));
  sched_instance_lost(d->sched, third, false, d->now); /* dies on its way out */
  expect_quiet_until(d, TIME_NEVER);
  third = add_instance(d, model);
  done(d, expect_run_on(d, third, b));
  driver_free(d);
}

static void test_remove_model(void **state) {
  struct driver *d = driver_create(4);
  struct sched_model_params params = {.max_batch = 2, .has_max_queue_delay = true, .max_queue_delay_ns = NS_PER_S};
  struct sched_model *model = add_model(d, params), *stays = add_model_of(d, 1, SCHED_QUEUE_DEPTH);
  struct sched_instance *first = add_instance(d, model), *second = add_instance(d, model);
  add_instance(d, stays);
  struct sched_job *a = ask(d, model, "x", 2), *b = ask(d, model, "x", 2);
  struct sched_batch *batch = expect_run_on(d, first, a);
  expect_run_on(d, second, b);
  struct sched_job *c = ask(d, model, "y", 1), *e = ask(d, model, "z", 1), *f = ask(d, model, "x", 1);
  expect_quiet(d);
  struct sched_job *refused = job_of(d, model, "x", 1);
  sched_remove_model(d->sched, model, d->now);
  sched_remove_model(d->sched, model, d->now); /* harmless */
  expect_refused(d, refused, MU_UNAVAILABLE, "the model is being unloaded");
  assert_true(sched_cancel(d->sched, e, d->now)); /* on its way back already */
  struct sched_decision one = next_decision(d), two = next_decision(d);
  assert_true(one.action == SCHED_DROP && one.status == MU_UNAVAILABLE);
  assert_true(two.action == SCHED_DROP && two.status == MU_UNAVAILABLE);
  assert_true((one.job == c && two.job == f) || (one.job == f && two.job == c));
  expect_quiet_until(d, d->now + 600 * NS_PER_S);
  done(d, batch); /* ends as usual */
  assert_true(sched_instance_retire(d->sched, first, d->now));
  sched_instance_lost(d->sched, second, true, d->now); /* and this one is not tried again */
  expect_drop(d, b, MU_UNAVAILABLE);
  expect_quiet_until(d, TIME_NEVER);
  done(d, expect_run(d, ask(d, stays, "x", 1)));
  driver_free(d);
}

static void test_remove_model_with_its_last_batch(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model *model = add_model_of(d, 1, SCHED_QUEUE_DEPTH);
  struct sched_instance *instance = add_instance(d, model);
  struct sched_batch *batch = expect_run(d, ask(d, model, "x", 1));
  sched_remove_model(d->sched, model, d->now);
  assert_false(sched_instance_retire(d->sched, instance, d->now));
  expect_quiet(d);
  done(d, batch);
  expect_quiet_until(d, TIME_NEVER);
  driver_free(d);
}

/* No worker will come, so nobody will run what waits; what is in flight ends as usual. */
static void test_drop_waiting(void **state) {
  struct driver *d = driver_create(1);
  struct sched_model_params params = {.max_batch = 4, .has_max_queue_delay = true, .max_queue_delay_ns = NS_PER_S};
  struct sched_model *model = add_model(d, params);
  struct sched_instance *instance = add_instance(d, model);
  struct sched_job *a = ask(d, model, "x", 4), *b = ask(d, model, "x", 1), *c = ask(d, model, "y", 1);
  expect_run(d, a);
  sched_model_drop_waiting(model);
  struct sched_decision one = next_decision(d), two = next_decision(d);
  assert_true(one.action == SCHED_DROP && one.status == MU_UNAVAILABLE);
  assert_true(two.action == SCHED_DROP && two.status == MU_UNAVAILABLE);
  assert_true((one.job == b && two.job == c) || (one.job == c && two.job == b));
  expect_quiet(d);
  sched_instance_lost(d->sched, instance, true, d->now);
  expect_quiet_until(d, TIME_NEVER);
  sched_model_drop_waiting(model); /* solo ones too */
  expect_drop(d, a, MU_UNAVAILABLE);
  expect_quiet_until(d, TIME_NEVER);
  add_instance(d, model); /* one came after all */
  done(d, expect_run(d, ask(d, model, "x", 4)));
  driver_free(d);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_models_share_the_tokens),
      cmocka_unit_test(test_instances_share_the_tokens),
      cmocka_unit_test(test_more_tokens_than_there_are_means_all),
      cmocka_unit_test(test_a_model_of_many_tokens_does_not_starve),
      cmocka_unit_test(test_who_has_left_is_in_nobodys_way),
      cmocka_unit_test(test_who_runs_elsewhere_is_in_nobodys_way),
      cmocka_unit_test(test_a_second_batch_needs_no_tokens),
      cmocka_unit_test(test_turns_by_measured_time),
      cmocka_unit_test(test_turns_count_tokens),
      cmocka_unit_test(test_turns_by_priority),
      cmocka_unit_test(test_idling_banks_no_credit),
      cmocka_unit_test(test_an_occasional_model_goes_next),
      cmocka_unit_test(test_round_robin),
      cmocka_unit_test(test_the_faster_one_first),
      cmocka_unit_test(test_idle_first_then_least_outstanding),
      cmocka_unit_test(test_depth),
      cmocka_unit_test(test_retire),
      cmocka_unit_test(test_remove_model),
      cmocka_unit_test(test_remove_model_with_its_last_batch),
      cmocka_unit_test(test_drop_waiting),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
