/*
 * Drives the scheduler by hand on a simulated clock: a test says what happens and which decision it expects next.
 * Every expect_* takes exactly one decision; expect_quiet says that there is none left.
 */
#ifndef TESTS_SCHED_DRIVER_H
#define TESTS_SCHED_DRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs the above */
#include <cmocka.h>

#include "sched/sched.h"

enum { DRIVER_JOBS = 512 };

struct driver {
  struct sched *sched;
  uint64_t now;
  struct sched_device *device; /* where add_instance puts instances */
  struct sched_job jobs[DRIVER_JOBS];
  uint32_t n_jobs;
  struct sched_job *spare[DRIVER_JOBS]; /* to be used again */
  uint32_t n_spare;
};

static inline struct driver *driver_create(uint32_t tokens) {
  struct driver *d = calloc(1, sizeof *d);
  assert_non_null(d);
  d->now = NS_PER_S;
  d->sched = sched_create(NULL);
  assert_non_null(d->sched);
  d->device = sched_add_device(d->sched, tokens);
  assert_non_null(d->device);
  return d;
}

static inline void driver_free(struct driver *d) {
  sched_free(d->sched);
  free(d);
}

static inline struct sched_model *add_model(struct driver *d, struct sched_model_params params) {
  struct sched_model *model = sched_add_model(d->sched, &params);
  assert_non_null(model);
  return model;
}

static inline struct sched_instance *add_instance(struct driver *d, struct sched_model *model) {
  struct sched_instance *instance = sched_add_instance(d->sched, model, d->device, 1, 1, NULL, d->now);
  assert_non_null(instance);
  return instance;
}

/* Explicit delay 0: everything that waits goes at once, up to max_batch. */
static inline struct sched_model_params at_once(uint32_t max_batch) {
  return (struct sched_model_params){.max_batch = max_batch, .has_max_queue_delay = true};
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

/* A job that was never submitted; the scheduler must not rely on what was in its private part. */
static inline struct sched_job *job_of(struct driver *d, struct sched_model *model, const char *shape, uint32_t rows) {
  assert_true(d->n_spare > 0 || d->n_jobs < DRIVER_JOBS);
  struct sched_job *job = d->n_spare > 0 ? d->spare[--d->n_spare] : &d->jobs[d->n_jobs++];
  memset(job, 0xa5, sizeof *job);
  job->key = sched_key_get(d->sched, model, shape, strlen(shape));
  assert_non_null(job->key);
  job->rows = rows;
  job->priority = 0;
  job->bytes = 0;
  job->deadline_ns = TIME_NEVER;
  job->timeout_ns = 0;
  job->drop_late = false;
  return job;
}

/* The test has no use for the job any more. */
static inline void forget(struct driver *d, struct sched_job *job) { d->spare[d->n_spare++] = job; }

static inline struct sched_job *submit(struct driver *d, struct sched_job *job) {
  mu_error err = {.message = "untouched"};
  assert_int_equal(sched_submit(d->sched, job, d->now, &err), MU_OK);
  assert_string_equal(err.message, "untouched");
  assert_int_equal(job->submitted_ns, d->now);
  return job;
}

static inline struct sched_job *ask(struct driver *d, struct sched_model *model, const char *shape, uint32_t rows) {
  return submit(d, job_of(d, model, shape, rows));
}

static inline void expect_refused(struct driver *d, struct sched_job *job, mu_status status, const char *message) {
  mu_error err = {.message = ""};
  assert_int_equal(sched_submit(d->sched, job, d->now, &err), status);
  assert_string_equal(err.message, message);
}

/* ---- decisions --------------------------------------------------------------------------------------------------- */

static inline void pass(struct driver *d, uint64_t ns) { d->now += ns; }

static inline struct sched_decision next_decision(struct driver *d) {
  struct sched_decision decision;
  assert_true(sched_next(d->sched, d->now, &decision));
  return decision;
}

/* jobs: those that the batch must hold, in this order, ended by NULL. */
static inline struct sched_batch *expect_run_of(struct driver *d, struct sched_job *const *jobs) {
  struct sched_decision decision = next_decision(d);
  assert_int_equal(decision.action, SCHED_RUN);
  struct sched_batch *batch = decision.batch;
  uint32_t n = 0, rows = 0;
  for (; jobs[n] != NULL; n++) {
    assert_true(n < batch->n_jobs);
    assert_ptr_equal(batch->jobs[n], jobs[n]);
    assert_ptr_equal(batch->key, jobs[n]->key);
    assert_int_equal(jobs[n]->dispatched_ns, d->now);
    rows += jobs[n]->rows;
  }
  assert_int_equal(batch->n_jobs, n);
  assert_int_equal(batch->rows, rows);
  assert_int_equal(batch->live, n);
  assert_int_equal(batch->dispatched_ns, d->now);
  return batch;
}
#define expect_run(d, ...) expect_run_of(d, (struct sched_job *const[]){__VA_ARGS__, NULL})

static inline struct sched_batch *expect_run_on(struct driver *d, struct sched_instance *instance,
                                                struct sched_job *only) {
  struct sched_batch *batch = expect_run(d, only);
  assert_ptr_equal(batch->instance, instance);
  return batch;
}

static inline struct sched_batch *expect_any_run(struct driver *d) {
  struct sched_decision decision = next_decision(d);
  assert_int_equal(decision.action, SCHED_RUN);
  return decision.batch;
}

static inline void expect_drop(struct driver *d, struct sched_job *job, mu_status status) {
  struct sched_decision decision = next_decision(d);
  assert_int_equal(decision.action, SCHED_DROP);
  assert_ptr_equal(decision.job, job);
  assert_int_equal(decision.status, status);
  assert_non_null(decision.why);
  assert_int_equal(decision.why[strlen(decision.why) - 1], '.'); /* a full sentence */
}

static inline void expect_late(struct driver *d, struct sched_batch *batch, struct sched_job *job) {
  struct sched_decision decision = next_decision(d);
  assert_int_equal(decision.action, SCHED_LATE);
  assert_ptr_equal(decision.job, job);
  assert_ptr_equal(decision.batch, batch);
  assert_int_equal(decision.status, MU_TIMEOUT);
}

static inline void expect_hung(struct driver *d, struct sched_batch *batch) {
  struct sched_decision decision = next_decision(d);
  assert_int_equal(decision.action, SCHED_HUNG);
  assert_ptr_equal(decision.batch, batch);
}

/* Nothing to say now, and the next wake-up is exactly then. */
static inline void expect_quiet_until(struct driver *d, uint64_t wake_ns) {
  struct sched_decision decision;
  assert_false(sched_next(d->sched, d->now, &decision));
  assert_int_equal(sched_wake_ns(d->sched), wake_ns);
}

static inline void expect_quiet(struct driver *d) {
  struct sched_decision decision;
  assert_false(sched_next(d->sched, d->now, &decision));
  assert_true(sched_wake_ns(d->sched) > d->now);
}

static inline void done(struct driver *d, struct sched_batch *batch) { sched_batch_done(d->sched, batch, d->now); }

/* Ends the test with whatever still waits in the model; nothing may be in flight. */
static inline void drop_waiting(struct driver *d, struct sched_model *model) {
  struct sched_decision decision;
  sched_remove_model(d->sched, model, d->now);
  while (sched_next(d->sched, d->now, &decision)) assert_int_equal(decision.action, SCHED_DROP);
}

static inline struct sched_model_view look(const struct sched_model *model) {
  struct sched_model_view view;
  sched_model_look(model, &view);
  return view;
}

#endif
