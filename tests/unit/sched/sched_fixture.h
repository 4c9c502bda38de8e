/* A scheduler with one device and one model, and short words for what happens to it. */
#ifndef TESTS_SCHED_FIXTURE_H
#define TESTS_SCHED_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs the above */
#include <cmocka.h>

#include "sched/sched.h"

enum { WORLD_JOBS = 512 };

struct world {
  struct sched *sched;
  struct sched_device *device;
  struct sched_model *model;
  uint64_t now;
  mu_error err;
  struct sched_job jobs[WORLD_JOBS];
  uint32_t n_jobs;
};

/* Dispatches at once, so that nothing is left to learning. */
static inline struct sched_model_params at_once(uint32_t max_batch) {
  return (struct sched_model_params){.max_batch = max_batch, .has_max_queue_delay = true};
}

static inline struct world *world_open(struct sched_model_params params, uint32_t tokens) {
  struct world *w = calloc(1, sizeof *w);
  assert_non_null(w);
  w->now = NS_PER_S;
  w->sched = sched_create(NULL);
  w->device = sched_add_device(w->sched, tokens);
  w->model = sched_add_model(w->sched, &params);
  assert_non_null(w->model);
  return w;
}

static inline struct sched_instance *add_instance(struct world *w) {
  struct sched_instance *instance = sched_add_instance(w->sched, w->model, w->device, 1, 1, NULL, w->now);
  assert_non_null(instance);
  return instance;
}

/* One that is as the test wants it, but not submitted. */
static inline struct sched_job *new_job(struct world *w, char key, uint32_t rows) {
  assert_true(w->n_jobs < WORLD_JOBS);
  struct sched_job *job = &w->jobs[w->n_jobs++];
  *job = (struct sched_job){.key = sched_key_get(w->sched, w->model, &key, 1), .rows = rows, .deadline_ns = TIME_NEVER};
  assert_non_null(job->key);
  return job;
}

static inline mu_status submit(struct world *w, struct sched_job *job) {
  return sched_submit(w->sched, job, w->now, &w->err);
}

static inline struct sched_job *ask_rows(struct world *w, char key, uint32_t rows) {
  struct sched_job *job = new_job(w, key, rows);
  assert_int_equal(submit(w, job), MU_OK);
  return job;
}

static inline struct sched_job *ask(struct world *w, char key) { return ask_rows(w, key, 1); }

static inline struct sched_decision decides(struct world *w, enum sched_action action) {
  struct sched_decision decision = {0};
  assert_true(sched_next(w->sched, w->now, &decision));
  assert_int_equal(decision.action, action);
  return decision;
}

/* The next decision is to run so many jobs. */
static inline struct sched_batch *runs(struct world *w, uint32_t n_jobs) {
  struct sched_batch *batch = decides(w, SCHED_RUN).batch;
  assert_int_equal(batch->n_jobs, n_jobs);
  return batch;
}

static inline void drops(struct world *w, const struct sched_job *job, mu_status status) {
  struct sched_decision decision = decides(w, SCHED_DROP);
  assert_ptr_equal(decision.job, job);
  assert_int_equal(decision.status, status);
  assert_non_null(decision.why);
}

static inline void nothing(struct world *w) {
  struct sched_decision decision;
  assert_false(sched_next(w->sched, w->now, &decision));
}

static inline void done(struct world *w, struct sched_batch *batch) { sched_batch_done(w->sched, batch, w->now); }

/* The batch takes ns, and then what is left is this. */
static inline void runs_for(struct world *w, struct sched_batch *batch, uint64_t ns) {
  w->now += ns;
  done(w, batch);
}

static inline struct sched_model_view look(const struct world *w) {
  struct sched_model_view view;
  sched_model_look(w->model, &view);
  return view;
}

/* Everything must have come back. */
static inline void world_close(struct world *w) {
  nothing(w);
  assert_int_equal(look(w).waiting, 0);
  assert_int_equal(look(w).waiting_bytes, 0);
  assert_int_equal(look(w).in_flight, 0);
  assert_true(sched_wake_ns(w->sched) == TIME_NEVER);
  sched_free(w->sched);
  free(w);
}

#endif
