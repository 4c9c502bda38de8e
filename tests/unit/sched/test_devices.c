/* Tokens of devices, turns of models, choice of instances. */
#include "sched_fixture.h"

enum { MODELS = 3 };

/* Models that always have work, on one device, and how much of its time each gets. */
struct rivals {
  struct sched *sched;
  struct sched_device *device;
  struct sched_model *models[MODELS];
  struct sched_job jobs[MODELS][4];
  uint64_t run_ns[MODELS], used_ns[MODELS], now;
  bool active[MODELS];
};

static struct rivals *rivals_open(const struct sched_model_params *params, const uint64_t *run_ns, uint32_t n) {
  struct rivals *r = calloc(1, sizeof *r);
  assert_non_null(r);
  r->now = NS_PER_S;
  r->sched = sched_create(NULL);
  r->device = sched_add_device(r->sched, 1);
  for (uint32_t m = 0; m < n; m++) {
    r->models[m] = sched_add_model(r->sched, &params[m]);
    r->run_ns[m] = run_ns[m];
    sched_add_instance(r->sched, r->models[m], r->device, 1, 1, (void *)(uintptr_t)m, r->now);
  }
  return r;
}

static void rivals_ask(struct rivals *r, uint32_t m, struct sched_job *job) {
  *job = (struct sched_job){.key = sched_key_get(r->sched, r->models[m], "k", 1),
                            .rows = 1,
                            .deadline_ns = TIME_NEVER,
                            .priority = job->priority};
  assert_int_equal(sched_submit(r->sched, job, r->now, NULL), MU_OK);
}

static void rivals_start(struct rivals *r, uint32_t m, uint32_t priority) {
  r->active[m] = true;
  for (uint32_t i = 0; i < 4; i++) {
    r->jobs[m][i].priority = priority;
    rivals_ask(r, m, &r->jobs[m][i]);
  }
}

/* For so long; a model that is still active asks again for what was answered. */
static void rivals_run(struct rivals *r, uint64_t ns) {
  memset(r->used_ns, 0, sizeof r->used_ns);
  struct sched_decision d;
  for (uint64_t end = r->now + ns; r->now < end && sched_next(r->sched, r->now, &d);) {
    assert_int_equal(d.action, SCHED_RUN);
    uint32_t m = (uint32_t)(uintptr_t)sched_instance_owner(d.batch->instance);
    struct sched_job *job = d.batch->jobs[0];
    struct sched_decision none;
    assert_false(sched_next(r->sched, r->now, &none)); /* one token: one at a time */
    r->now += r->run_ns[m];
    r->used_ns[m] += r->run_ns[m];
    sched_batch_done(r->sched, d.batch, r->now);
    if (r->active[m]) rivals_ask(r, m, job);
  }
}

static void rivals_close(struct rivals *r) {
  memset(r->active, 0, sizeof r->active);
  rivals_run(r, TIME_NEVER - r->now);
  sched_free(r->sched);
  free(r);
}

static double share(const struct rivals *r, uint32_t m) {
  uint64_t all = 0;
  for (uint32_t i = 0; i < MODELS; i++) all += r->used_ns[i];
  return (double)r->used_ns[m] / (double)all;
}

static void test_models_share_time_not_batches(void **state) {
  struct sched_model_params params[] = {at_once(1), at_once(1)};
  struct rivals *r = rivals_open(params, (const uint64_t[]){1 * NS_PER_MS, 10 * NS_PER_MS}, 2);
  rivals_start(r, 0, 0);
  rivals_start(r, 1, 0);
  rivals_run(r, NS_PER_S);
  rivals_run(r, 10 * NS_PER_S);
  assert_true(share(r, 0) > .48 && share(r, 0) < .52);
  rivals_close(r);
}

static void test_idling_earns_nothing(void **state) {
  struct sched_model_params params[] = {at_once(1), at_once(1)};
  struct rivals *r = rivals_open(params, (const uint64_t[]){NS_PER_MS, NS_PER_MS}, 2);
  rivals_start(r, 0, 0);
  rivals_run(r, 100 * NS_PER_S);
  rivals_start(r, 1, 0);
  rivals_run(r, 100 * NS_PER_MS); /* at once, and no more than its half */
  assert_true(share(r, 1) > .45 && share(r, 1) < .55);
  r->active[1] = false;
  rivals_run(r, 10 * NS_PER_S);
  rivals_start(r, 1, 0);
  rivals_run(r, 100 * NS_PER_MS);
  assert_true(share(r, 1) > .45 && share(r, 1) < .55);
  rivals_close(r);
}

static void test_three_models_share_alike(void **state) {
  struct sched_model_params params[] = {at_once(1), at_once(1), at_once(1)};
  struct rivals *r = rivals_open(params, (const uint64_t[]){NS_PER_MS, 3 * NS_PER_MS, 7 * NS_PER_MS}, 3);
  for (uint32_t m = 0; m < 3; m++) rivals_start(r, m, 0);
  rivals_run(r, NS_PER_S);
  rivals_run(r, 10 * NS_PER_S);
  for (uint32_t m = 0; m < 3; m++) assert_true(share(r, m) > .31 && share(r, m) < .36);
  rivals_close(r);
}

static void test_priority_gets_more_turns(void **state) {
  struct sched_model_params params[] = {at_once(1), at_once(1)};
  for (int m = 0; m < 2; m++) params[m].priority_levels = 3, params[m].default_priority_level = 2;
  struct rivals *r = rivals_open(params, (const uint64_t[]){NS_PER_MS, NS_PER_MS}, 2);
  rivals_start(r, 0, 1);
  rivals_start(r, 1, 3);
  rivals_run(r, NS_PER_S);
  assert_true(share(r, 0) > .72 && share(r, 0) < .78); /* level 3 has a third of the turns of level 1 */
  rivals_close(r);
}

static void test_tokens(void **state) {
  struct sched_model_params params = at_once(1);
  params.tokens = 2;
  struct world *w = world_open(params, 5);
  for (int i = 0; i < 4; i++) add_instance(w);
  for (int i = 0; i < 4; i++) ask(w, 'a');
  struct sched_batch *first = runs(w, 1), *second = runs(w, 1);
  nothing(w); /* 1 token is left */
  done(w, first);
  struct sched_batch *third = runs(w, 1);
  nothing(w);
  done(w, second);
  done(w, third);
  done(w, runs(w, 1));
  world_close(w);
}

static void test_more_tokens_than_the_device_has_are_all(void **state) {
  struct sched_model_params params = at_once(1);
  params.tokens = 100;
  struct world *w = world_open(params, 4);
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

/* A model that needs the whole device gets it although small ones never stop asking. */
static void test_many_tokens_are_not_starved(void **state) {
  struct sched *sched = sched_create(NULL);
  struct sched_device *device = sched_add_device(sched, 4);
  struct sched_model_params small = at_once(1), large = at_once(1);
  large.tokens = 4;
  large.owner = &large;
  struct sched_model *models[] = {sched_add_model(sched, &small), sched_add_model(sched, &large)};
  for (int i = 0; i < 4; i++) sched_add_instance(sched, models[0], device, 1, 1, NULL, 1);
  sched_add_instance(sched, models[1], device, 1, 1, NULL, 1);
  struct sched_job jobs[41] = {0};
  for (int i = 0; i < 41; i++) {
    jobs[i] = (struct sched_job){.rows = 1, .deadline_ns = TIME_NEVER};
    jobs[i].key = sched_key_get(sched, models[i == 8], "k", 1);
    assert_int_equal(sched_submit(sched, &jobs[i], 1, NULL), MU_OK);
  }
  struct sched_batch *running[64];
  uint32_t n = 0, ran = 0, large_at = 0;
  for (uint64_t now = 2; ran < 41; now += NS_PER_MS) {
    struct sched_decision d;
    while (sched_next(sched, now, &d)) {
      running[n++] = d.batch;
      if (sched_model_owner(sched_key_model(d.batch->key)) == NULL) continue;
      assert_int_equal(n, 1); /* alone */
      large_at = ran;
    }
    assert_true(n > 0);
    sched_batch_done(sched, running[0], now); /* one after the other, so that 4 tokens are never free by chance */
    memmove(running, running + 1, --n * sizeof *running);
    ran++;
  }
  assert_true(large_at > 0 && large_at < 20);
  sched_free(sched);
}

static struct sched_instance *runs_on(struct world *w, struct sched_batch **ret_batch) {
  *ret_batch = runs(w, 1);
  return (*ret_batch)->instance;
}

static void test_idle_instances_go_first_then_the_least_loaded(void **state) {
  struct world *w = world_open(at_once(0), 3);
  struct sched_instance *slow = sched_add_instance(w->sched, w->model, w->device, 3, 1, NULL, w->now);
  struct sched_instance *fast = sched_add_instance(w->sched, w->model, w->device, 3, 2.5, NULL, w->now);
  struct sched_batch *batches[6];
  for (int i = 0; i < 6; i++) ask(w, 'a');
  assert_ptr_equal(runs_on(w, &batches[0]), fast); /* both idle */
  assert_ptr_equal(runs_on(w, &batches[1]), slow); /* idle before loaded */
  assert_ptr_equal(runs_on(w, &batches[2]), fast); /* 2 rows at 2.5 are less than 2 at 1 */
  assert_ptr_equal(runs_on(w, &batches[3]), fast);
  assert_ptr_equal(runs_on(w, &batches[4]), slow); /* fast is full */
  assert_ptr_equal(runs_on(w, &batches[5]), slow);
  for (int i = 0; i < 6; i++) done(w, batches[i]);
  world_close(w);
}

static void test_round_robin(void **state) {
  struct sched_model_params params = at_once(0);
  params.choice = SCHED_ROUND_ROBIN;
  struct world *w = world_open(params, 3);
  struct sched_instance *instances[] = {add_instance(w), add_instance(w), add_instance(w)};
  struct sched_instance *seen[6];
  for (int i = 0; i < 6; i++) {
    struct sched_batch *batch;
    ask(w, 'a');
    seen[i] = runs_on(w, &batch);
    done(w, batch);
  }
  for (int i = 0; i < 3; i++) {
    assert_ptr_equal(seen[i], seen[i + 3]);
    bool found = false;
    for (int k = 0; k < 3; k++) found |= seen[k] == instances[i];
    assert_true(found);
  }
  world_close(w);
}

static void test_instances_on_several_devices(void **state) {
  struct world *w = world_open(at_once(1), 1);
  struct sched_device *second = sched_add_device(w->sched, 1);
  add_instance(w);
  add_instance(w); /* the same token */
  struct sched_instance *away = sched_add_instance(w->sched, w->model, second, 1, 1, NULL, w->now);
  for (int i = 0; i < 3; i++) ask(w, 'a');
  struct sched_batch *a = runs(w, 1), *b = runs(w, 1);
  assert_true((a->instance == away) != (b->instance == away));
  nothing(w);
  done(w, a);
  done(w, b);
  done(w, runs(w, 1));
  world_close(w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_models_share_time_not_batches),
      cmocka_unit_test(test_idling_earns_nothing),
      cmocka_unit_test(test_three_models_share_alike),
      cmocka_unit_test(test_priority_gets_more_turns),
      cmocka_unit_test(test_tokens),
      cmocka_unit_test(test_more_tokens_than_the_device_has_are_all),
      cmocka_unit_test(test_many_tokens_are_not_starved),
      cmocka_unit_test(test_idle_instances_go_first_then_the_least_loaded),
      cmocka_unit_test(test_round_robin),
      cmocka_unit_test(test_instances_on_several_devices),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
