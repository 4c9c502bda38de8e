/* Memory runs out, once or for good: the scheduler says so, loses nothing and goes on with what it has. */
#include "driver.h"

enum { SHAPES = 40, JOBS = 300 };

struct memory {
  uint64_t left; /* allocations that succeed */
  bool for_ever; /* all later ones fail too */
  bool failed;
};

static void *allocate(void *context, size_t size) {
  struct memory *memory = context;
  if (memory->left == 0 && (!memory->failed || memory->for_ever)) {
    memory->failed = true;
    return NULL;
  }
  if (memory->left > 0) memory->left--;
  return calloc(1, size);
}

/* The second try succeeds unless memory fails for ever. */
#define TWICE(result, call)            \
  do {                                 \
    result = call;                     \
    if (result == NULL) result = call; \
  } while (0)

static uint32_t submit_all(struct sched *sched, struct sched_model **models, struct sched_job *jobs) {
  uint32_t submitted = 0;
  for (uint32_t i = 0; i < JOBS; i++) {
    if (models[i % 2] == NULL) continue;
    uint32_t shape = i % 7 == 0 ? i % SHAPES : 0;
    jobs[i] = (struct sched_job){.rows = 1, .deadline_ns = i % 5 == 0 ? 1000 + i : TIME_NEVER};
    TWICE(jobs[i].key, sched_key_get(sched, models[i % 2], &shape, sizeof shape));
    if (jobs[i].key == NULL) continue;
    mu_error err = {.message = ""};
    mu_status status = sched_submit(sched, &jobs[i], 1, &err);
    if (status == MU_NO_MEMORY) {
      assert_true(err.message[0] != '\0');
      continue;
    }
    assert_int_equal(status, MU_OK);
    submitted++;
  }
  return submitted;
}

/* Runs until nothing is left to say; returns how many jobs came back. */
static uint32_t run(struct sched *sched, uint64_t now) {
  uint32_t back = 0;
  struct sched_decision decision;
  while (sched_next(sched, now, &decision)) {
    if (decision.action == SCHED_DROP) {
      back++;
      continue;
    }
    assert_int_equal(decision.action, SCHED_RUN);
    assert_true(decision.batch->n_jobs > 0);
    back += decision.batch->n_jobs;
    sched_batch_done(sched, decision.batch, now);
  }
  return back;
}

static void scenario(struct memory *memory) {
  struct sched *sched = sched_create(&(struct sched_params){.allocate = allocate, .allocate_context = memory});
  if (sched == NULL) return;
  struct sched_device *devices[2];
  struct sched_model *models[2];
  struct sched_instance *instance;
  struct sched_model_params params = at_once(200);
  static struct sched_job jobs[JOBS];
  for (int i = 0; i < 2; i++) {
    TWICE(devices[i], sched_add_device(sched, 2));
    TWICE(models[i], sched_add_model(sched, &params));
  }
  uint32_t submitted = submit_all(sched, models, jobs), back = 0;
  for (int i = 0; i < 4; i++) {
    if (models[i % 2] == NULL || devices[i / 2] == NULL) continue;
    TWICE(instance, sched_add_instance(sched, models[i % 2], devices[i / 2], 2, 1, NULL, 1));
    if (instance == NULL) continue;
    if (i == 3 && sched_add_sibling(sched, instance, NULL, 1) == NULL) assert_true(memory->failed);
    struct sched_decision decision;
    if (i == 1 && sched_next(sched, 1, &decision)) { /* its jobs wait once more, beside those that came later */
      assert_int_equal(decision.action, SCHED_RUN);
      sched_instance_lost(sched, decision.batch->instance, false, 1);
    }
  }
  back += run(sched, 2);
  back += run(sched, 5000); /* past the deadlines, where no instance could be had */
  for (int i = 0; i < 2; i++)
    if (models[i] != NULL) sched_remove_model(sched, models[i], 5000);
  back += run(sched, 5000);
  assert_int_equal(back, submitted);
  if (!memory->failed) assert_int_equal(submitted, JOBS);
  sched_free(sched);
}

static void fails_in_turn(bool for_ever) {
  uint64_t n = 0;
  for (bool failed = true; failed; n++) {
    struct memory memory = {.left = n, .for_ever = for_ever};
    scenario(&memory);
    failed = memory.failed;
  }
  assert_true(n > 50); /* there was something to fail */
}

static void test_each_allocation_fails_once(void **state) { fails_in_turn(false); }
static void test_all_allocations_fail_from_one_on(void **state) { fails_in_turn(true); }

/* Without memory for a longer batch the queue is served in shorter ones, in order. */
static void test_batches_are_shorter_without_memory(void **state) {
  struct memory memory = {.left = UINT64_MAX};
  struct sched *sched = sched_create(&(struct sched_params){.allocate = allocate, .allocate_context = &memory});
  struct sched_model_params params = at_once(200);
  struct sched_model *model = sched_add_model(sched, &params);
  static struct sched_job jobs[JOBS];
  for (uint32_t i = 0; i < JOBS; i++) {
    jobs[i] = (struct sched_job){.key = sched_key_get(sched, model, "x", 1), .rows = 1, .deadline_ns = TIME_NEVER};
    assert_int_equal(sched_submit(sched, &jobs[i], 1, NULL), MU_OK);
  }
  assert_non_null(sched_add_instance(sched, model, sched_add_device(sched, 1), 1, 1, NULL, 1));
  memory = (struct memory){.for_ever = true};
  struct sched_decision decision;
  for (uint32_t next = 0; next < JOBS;) {
    assert_true(sched_next(sched, 1, &decision));
    for (uint32_t i = 0; i < decision.batch->n_jobs; i++) assert_ptr_equal(decision.batch->jobs[i], &jobs[next++]);
    assert_true(decision.batch->n_jobs < 200);
    sched_batch_done(sched, decision.batch, 1);
  }
  assert_true(memory.failed);
  assert_false(sched_next(sched, 1, &decision));
  sched_free(sched);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_each_allocation_fails_once),
      cmocka_unit_test(test_all_allocations_fail_from_one_on),
      cmocka_unit_test(test_batches_are_shorter_without_memory),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
