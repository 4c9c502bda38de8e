/*
 * A machine that exists only as numbers: clients, instances with a known batch latency, and the scheduler under test in
 * between, on a simulated clock. Everything follows from the setup and its seed.
 */
#ifndef TESTS_SCHED_SIMULATION_H
#define TESTS_SCHED_SIMULATION_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sched/sched.h"

/* ---- random numbers (xorshift64*) -------------------------------------------------------------------------------- */

static inline uint64_t random_next(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * UINT64_C(0x2545f4914f6cdd1d);
}
static inline double random_unit(uint64_t *state) { return (double)(random_next(state) >> 11) / 9007199254740992.0; }
static inline uint32_t random_below(uint64_t *state, uint32_t n) { return (uint32_t)(random_next(state) % n); }

/* ---- the setup --------------------------------------------------------------------------------------------------- */

/* How long a batch runs. */
static inline double latency_of_issue(double n) {
  if (n <= 32) return (1.61 + (4.31 - 1.61) * (n - 1) / 31) * 1e6;
  return (4.31 + (7.90 - 4.31) * (n - 32) / 32) * 1e6;
}
static inline double latency_flat(double n) { return 2e6; }
static inline double latency_linear(double n) { return n * .5e6; }
static inline double latency_cpu(double n) { return (.3 + .9 * n) * 1e6; }

/* THINK_TURNS: one client after the other, as a gateway on one core writes their answers and reads what they ask next.
 */
enum think { THINK_FIXED, THINK_UNIFORM, THINK_EXPONENTIAL, THINK_TURNS };

struct simulation {
  double (*latency)(double rows);
  double noise; /* share of the latency, up and down */
  uint32_t clients;
  enum think think;
  double think_ns;  /* mean */
  double open_rate; /* requests per ns instead of clients: a Poisson stream; 0: clients */
  uint32_t n_instances, depth;
  const double *speeds; /* of the instances, each on a device of its own, which nobody tells the scheduler; NULL: 1 */
  const double *later;  /* the same once the warm-up is over; NULL: no change */
  uint32_t tokens;      /* of the one device that all instances are on; 0: as many as instances */
  struct sched_model_params params;
  uint32_t warmup, requests; /* answered before measuring, and measured */
  uint64_t seed;
};

enum { SIMULATION_INSTANCES_MAX = 16 };

struct simulation_result {
  double rate; /* rows per second */
  double p50_ns, p99_ns;
  double mean_batch;
  double work[SIMULATION_INSTANCES_MAX]; /* share of the rows, by instance */
};

/* ---- events, earliest first, in order of making where equal ------------------------------------------------------ */

struct simulation_event {
  uint64_t at, order;
  struct sched_batch *batch; /* done; NULL: the client asks */
  uint32_t client;
};

struct simulation_run {
  const struct simulation *setup;
  uint64_t now, random, order, turns_until;
  struct simulation_event *events;
  uint32_t n_events;
  struct sched *sched;
  struct sched_model *model;
  struct sched_job *jobs; /* by client */
  uint32_t *free_jobs, n_free;
  double *latencies;
  uint32_t answered;
  uint64_t measured_from, batches;
  uint32_t numbers[SIMULATION_INSTANCES_MAX]; /* what the instances belong to: their numbers */
  uint64_t rows[SIMULATION_INSTANCES_MAX], busy_until[SIMULATION_INSTANCES_MAX];
};

static inline bool simulation_before(const struct simulation_event *a, const struct simulation_event *b) {
  return a->at != b->at ? a->at < b->at : a->order < b->order;
}

static inline void simulation_add(struct simulation_run *run, struct simulation_event event) {
  event.order = run->order++;
  uint32_t i = run->n_events++;
  for (; i > 0 && simulation_before(&event, &run->events[(i - 1) / 2]); i = (i - 1) / 2)
    run->events[i] = run->events[(i - 1) / 2];
  run->events[i] = event;
}

static inline struct simulation_event simulation_pop(struct simulation_run *run) {
  struct simulation_event first = run->events[0], last = run->events[--run->n_events];
  uint32_t i = 0;
  for (uint32_t child; (child = 2 * i + 1) < run->n_events; i = child) {
    if (child + 1 < run->n_events && simulation_before(&run->events[child + 1], &run->events[child])) child++;
    if (!simulation_before(&run->events[child], &last)) break;
    run->events[i] = run->events[child];
  }
  run->events[i] = last;
  return first;
}

/* ---- the run ----------------------------------------------------------------------------------------------------- */

static inline uint64_t simulation_think(struct simulation_run *run) {
  double mean = run->setup->think_ns, unit = random_unit(&run->random);
  switch (run->setup->think) {
    case THINK_FIXED:
      return (uint64_t)mean;
    case THINK_UNIFORM:
      return (uint64_t)(2 * mean * unit);
    case THINK_EXPONENTIAL:
      return (uint64_t)(-mean * log(1 - unit));
    case THINK_TURNS:
      if (run->turns_until < run->now) run->turns_until = run->now;
      run->turns_until += (uint64_t)(mean * (.5 + unit));
      return run->turns_until - run->now;
  }
  return 0;
}

static inline void simulation_ask(struct simulation_run *run, uint32_t client) {
  struct sched_job *job = &run->jobs[client];
  memset(job, 0, sizeof *job);
  job->key = sched_key_get(run->sched, run->model, "shape", 5);
  job->rows = 1;
  job->deadline_ns = TIME_NEVER;
  mu_error err;
  if (sched_submit(run->sched, job, run->now, &err) != MU_OK) abort();
}

static inline void simulation_answer(struct simulation_run *run, struct sched_batch *batch) {
  const struct simulation *setup = run->setup;
  for (uint32_t i = 0; i < batch->n_jobs; i++) {
    struct sched_job *job = batch->jobs[i];
    uint32_t client = (uint32_t)(job - run->jobs);
    if (run->answered == setup->warmup) {
      run->measured_from = run->now;
      run->batches = 0;
      memset(run->rows, 0, sizeof run->rows);
    }
    if (run->answered++ >= setup->warmup && run->answered <= setup->warmup + setup->requests)
      run->latencies[run->answered - 1 - setup->warmup] = (double)(run->now - job->submitted_ns);
    if (setup->open_rate > 0)
      run->free_jobs[run->n_free++] = client;
    else
      simulation_add(run, (struct simulation_event){.at = run->now + simulation_think(run), .client = client});
  }
  run->batches++;
  run->rows[*(uint32_t *)sched_instance_owner(batch->instance)] += batch->rows;
}

static inline void simulation_decide(struct simulation_run *run) {
  struct sched_decision decision;
  while (sched_next(run->sched, run->now, &decision)) {
    if (decision.action != SCHED_RUN) abort();
    double ns = run->setup->latency(decision.batch->rows);
    ns *= 1 + run->setup->noise * (2 * random_unit(&run->random) - 1);
    uint32_t number = *(uint32_t *)sched_instance_owner(decision.batch->instance);
    bool later = run->setup->later != NULL && run->answered >= run->setup->warmup;
    const double *speeds = later ? run->setup->later : run->setup->speeds;
    if (speeds != NULL) ns /= speeds[number];
    if (run->busy_until[number] < run->now) run->busy_until[number] = run->now;
    decision.batch->run_started_ns = run->busy_until[number];
    run->busy_until[number] += (uint64_t)ns;
    decision.batch->run_ended_ns = run->busy_until[number];
    simulation_add(run, (struct simulation_event){.at = run->busy_until[number], .batch = decision.batch});
  }
}

static inline void simulation_step(struct simulation_run *run) {
  uint64_t wake = sched_wake_ns(run->sched);
  if (run->n_events == 0 || wake < run->events[0].at) {
    run->now = wake > run->now ? wake : run->now;
  } else {
    struct simulation_event event = simulation_pop(run);
    run->now = event.at;
    if (event.batch != NULL) {
      simulation_answer(run, event.batch);
      sched_batch_done(run->sched, event.batch, run->now);
    } else if (run->setup->open_rate > 0) {
      if (run->n_free == 0) abort(); /* overload */
      simulation_ask(run, run->free_jobs[--run->n_free]);
      double gap = -log(1 - random_unit(&run->random)) / run->setup->open_rate;
      simulation_add(run, (struct simulation_event){.at = run->now + (uint64_t)gap});
    } else {
      simulation_ask(run, event.client);
    }
  }
  simulation_decide(run);
}

static inline int simulation_order(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

/* Leaves the rest in flight where it is: takes it back, so that the scheduler can be freed. */
static inline void simulation_end(struct simulation_run *run, uint32_t n_jobs) {
  struct sched_decision decision;
  for (uint32_t i = 0; i < run->n_events; i++)
    if (run->events[i].batch != NULL) sched_batch_done(run->sched, run->events[i].batch, run->now);
  sched_remove_model(run->sched, run->model, run->now);
  while (sched_next(run->sched, run->now, &decision)) continue;
  sched_free(run->sched);
  free(run->events);
  free(run->jobs);
  free(run->free_jobs);
  free(run->latencies);
}

static inline struct simulation_result simulation_run(const struct simulation *setup) {
  uint32_t n_jobs = setup->open_rate > 0 ? 100000 : setup->clients;
  struct simulation_run run = {
      .setup = setup,
      .now = NS_PER_S,
      .random = setup->seed * 2 + 1,
      .events = calloc(n_jobs + 1024, sizeof *run.events),
      .sched = sched_create(NULL),
      .jobs = calloc(n_jobs, sizeof *run.jobs),
      .free_jobs = calloc(n_jobs, sizeof *run.free_jobs),
      .latencies = calloc(setup->requests, sizeof *run.latencies),
  };
  uint32_t n_instances = setup->n_instances > 0 ? setup->n_instances : 1;
  struct sched_device *device = sched_add_device(run.sched, setup->tokens > 0 ? setup->tokens : n_instances);
  run.model = sched_add_model(run.sched, &setup->params);
  if (n_instances > SIMULATION_INSTANCES_MAX) abort();
  for (uint32_t i = 0; i < n_instances; i++) {
    if (setup->speeds != NULL && i > 0) device = sched_add_device(run.sched, 1);
    run.numbers[i] = i;
    sched_add_instance(run.sched, run.model, device, setup->depth > 0 ? setup->depth : 1, 1.0, &run.numbers[i],
                       run.now);
  }
  if (setup->open_rate > 0) {
    for (uint32_t i = 0; i < n_jobs; i++) run.free_jobs[run.n_free++] = i;
    simulation_add(&run, (struct simulation_event){.at = run.now});
  } else {
    for (uint32_t i = 0; i < setup->clients; i++)
      simulation_add(&run, (struct simulation_event){.at = run.now + simulation_think(&run), .client = i});
  }
  while (run.answered < setup->warmup + setup->requests) simulation_step(&run);
  qsort(run.latencies, setup->requests, sizeof *run.latencies, simulation_order);
  struct simulation_result result = {
      .rate = (double)(run.answered - setup->warmup) * 1e9 / (double)(run.now - run.measured_from),
      .p50_ns = run.latencies[setup->requests / 2],
      .p99_ns = run.latencies[(uint64_t)setup->requests * 99 / 100],
      .mean_batch = (double)(run.answered - setup->warmup) / (double)run.batches,
  };
  uint64_t rows = 0;
  for (uint32_t i = 0; i < n_instances; i++) rows += run.rows[i];
  for (uint32_t i = 0; i < n_instances; i++) result.work[i] = (double)run.rows[i] / (double)rows;
  simulation_end(&run, n_jobs);
  return result;
}

/* The best rate that a fixed delay, preferred size or batch limit reaches. */
static inline struct simulation_result simulation_best_static(const struct simulation *setup) {
  static const uint64_t delays_us[] = {0, 50, 200, 1000};
  static const uint32_t sizes[] = {0, 2, 4, 8, 16, 32, 64};
  struct simulation_result best = {0};
  struct simulation trial = *setup;
  trial.params.has_max_queue_delay = true;
  for (size_t d = 0; d < sizeof delays_us / sizeof *delays_us; d++) {
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
      if (sizes[s] > setup->params.max_batch) continue;
      trial.params.max_queue_delay_ns = delays_us[d] * NS_PER_US;
      trial.params.n_preferred = sizes[s] > 0 ? 1 : 0;
      trial.params.preferred[0] = sizes[s];
      struct simulation_result result = simulation_run(&trial);
      if (result.rate > best.rate) best = result;
    }
  }
  return best;
}

#endif
