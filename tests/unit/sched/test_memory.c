/* Every allocation fails in turn: nothing crashes, nothing leaks, every job that was accepted comes back. */
#include "sched_fixture.h"

enum { JOBS = 200 };

struct quota {
  uint64_t left, used;
};

static void *allocate(void *context, size_t size) {
  struct quota *quota = context;
  if (quota->used++ == quota->left) return NULL; /* this one fails; those after it do not */
  return calloc(1, size);
}

static void run_all(struct sched *sched, uint32_t *answered) {
  struct sched_decision d;
  for (uint64_t now = 2; sched_next(sched, now, &d); now++) {
    if (d.action == SCHED_DROP) {
      ++*answered;
      continue;
    }
    assert_int_equal(d.action, SCHED_RUN);
    *answered += d.batch->n_jobs;
    sched_batch_done(sched, d.batch, now);
  }
}

/* false: it could not even be set up. */
static bool serve(struct sched *sched, struct sched_job *jobs) {
  struct sched_model_params params = at_once(128);
  struct sched_device *device = sched_add_device(sched, 2);
  struct sched_model *model = sched_add_model(sched, &params);
  if (device == NULL || model == NULL) return false;
  uint32_t accepted = 0, answered = 0;
  for (uint32_t i = 0; i < JOBS; i++) {
    uint32_t shape = i < 100 ? 0 : i;
    jobs[i] = (struct sched_job){.rows = 1, .deadline_ns = NS_PER_S};
    jobs[i].key = sched_key_get(sched, model, &shape, sizeof shape);
    if (jobs[i].key == NULL) continue;
    mu_status status = sched_submit(sched, &jobs[i], 1, NULL);
    assert_true(status == MU_OK || status == MU_NO_MEMORY);
    accepted += status == MU_OK;
  }
  struct sched_instance *instances[2];
  for (int i = 0; i < 2; i++) instances[i] = sched_add_instance(sched, model, device, 2, 1, NULL, 1);
  run_all(sched, &answered);
  if (instances[0] == NULL && instances[1] == NULL) sched_remove_model(sched, model, 2);
  run_all(sched, &answered);
  assert_int_equal(answered, accepted);
  return accepted == JOBS && instances[0] != NULL && instances[1] != NULL;
}

static void test_each_allocation_fails_once(void **state) {
  bool all_well = false;
  uint32_t ill = 0;
  for (uint64_t fails_at = 0; !all_well; fails_at++) {
    struct quota quota = {.left = fails_at};
    struct sched_job jobs[JOBS];
    struct sched *sched = sched_create(&(struct sched_params){.allocate = allocate, .allocate_context = &quota});
    bool well = sched != NULL && serve(sched, jobs);
    all_well = well && quota.used <= fails_at;
    ill += !well;
    sched_free(sched);
  }
  assert_true(ill > 100);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_each_allocation_fails_once)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
