/*
 * Random machines where nothing is learned and no delay is set, so that two things can be said exactly at any moment:
 * when the scheduler has to wake up next, and whether anything that could run is kept from running. Time goes from
 * event to event: an arrival, the end of a batch, the wake-up.
 */
#include "driver.h"
#include "simulation.h"

enum { MODELS = 5, DEVICES = 3, INSTANCES = 12, JOBS = 160, KEYS = 3, EVENTS = 10000, SEEDS = 24 };

enum place { HOME, WAITING, FLYING };

struct request {
  struct sched_job job; /* first */
  enum place place;
  uint32_t model;
  bool late, canceled;
  uint64_t queue_until;
};

struct worker {
  struct sched_instance *instance; /* NULL: slot free */
  uint32_t model, device, depth;
  bool retired;
  struct sched_batch *flying[3]; /* oldest first */
  uint32_t n_flying;
  uint64_t ends;  /* of the first one */
  uint64_t hangs; /* TIME_NEVER: called hung already */
};

struct machine {
  struct sched *sched;
  uint64_t now, random, last_id;
  struct sched_device *devices[DEVICES];
  uint32_t tokens[DEVICES];
  struct sched_model *models[MODELS];
  struct sched_model_params params[MODELS];
  bool has_run[MODELS][KEYS]; /* a batch of that shape ended well */
  struct request requests[JOBS];
  struct worker workers[INSTANCES];
  uint32_t accepted, back, ran, late, hung, kept;
};

static uint32_t any(struct machine *m, uint32_t n) { return random_below(&m->random, n); }

/* ---- what must be true ------------------------------------------------------------------------------------------- */

static bool is_alone(const struct request *r) { return r->place == WAITING && r->job.solo; }

static uint32_t needs(const struct machine *m, uint32_t model, uint32_t device) {
  uint32_t wanted = m->params[model].tokens;
  return wanted < m->tokens[device] ? wanted : m->tokens[device];
}

static uint32_t free_tokens(const struct machine *m, uint32_t device) {
  uint32_t used = 0;
  for (const struct worker *w = m->workers; w < m->workers + INSTANCES; w++)
    if (w->instance != NULL && w->device == device && w->n_flying > 0) used += needs(m, w->model, device);
  assert_true(used <= m->tokens[device]);
  return m->tokens[device] - used;
}

struct census {
  uint32_t working, idle, flying; /* instances that take work, those without a batch, batches */
  uint32_t waiting, alone;        /* jobs that may share a batch, and that may not */
  uint32_t in_flight;             /* jobs */
};

static struct census count(const struct machine *m, uint32_t model) {
  struct census c = {0};
  for (const struct worker *w = m->workers; w < m->workers + INSTANCES; w++) {
    if (w->instance == NULL || w->model != model) continue;
    c.working += !w->retired;
    c.idle += !w->retired && w->n_flying == 0;
    c.flying += w->n_flying;
  }
  for (const struct request *r = m->requests; r < m->requests + JOBS; r++) {
    if (r->model != model) continue;
    c.alone += is_alone(r);
    c.waiting += r->place == WAITING && !is_alone(r);
    c.in_flight += r->place == FLYING;
  }
  return c;
}

/* Nobody who could run finds tokens, unless one who wants more than are free is first in turn. */
static void check_nothing_is_kept_from_running(struct machine *m) {
  for (uint32_t device = 0; device < DEVICES; device++) {
    uint32_t most = 0;
    bool kept = false;
    for (const struct worker *w = m->workers; w < m->workers + INSTANCES; w++) {
      if (w->instance == NULL || w->device != device || w->retired || w->n_flying > 0) continue;
      struct census c = count(m, w->model);
      if (c.waiting + c.alone == 0 || (m->params[w->model].preserve_ordering && c.flying > 0)) continue;
      if (needs(m, w->model, device) > most) most = needs(m, w->model, device);
      /* With solo jobs it is not known which instance is set apart, unless there is only one. */
      kept |= c.alone == 0 || c.working == 1;
    }
    m->kept += kept;
    if (kept) assert_true(most > free_tokens(m, device));
  }
}

static uint64_t earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

static uint64_t next_due(const struct machine *m) {
  uint64_t due = TIME_NEVER;
  for (const struct request *r = m->requests; r < m->requests + JOBS; r++) {
    if (r->place == WAITING) due = earlier(due, earlier(r->job.deadline_ns, r->queue_until));
    if (r->place == FLYING && !r->late && !r->canceled) due = earlier(due, r->job.deadline_ns);
  }
  for (const struct worker *w = m->workers; w < m->workers + INSTANCES; w++)
    if (w->instance != NULL && w->n_flying > 0) due = earlier(due, w->hangs);
  return due;
}

static void check_numbers(struct machine *m) {
  for (uint32_t i = 0; i < MODELS; i++) {
    struct census c = count(m, i);
    struct sched_model_view view = look(m->models[i]);
    assert_int_equal(view.waiting, c.waiting + c.alone);
    assert_int_equal(view.in_flight, c.in_flight);
    assert_int_equal(view.instances, c.working);
  }
}

/* ---- decisions --------------------------------------------------------------------------------------------------- */

static void home(struct machine *m, struct request *r) {
  assert_int_not_equal(r->place, HOME);
  r->place = HOME;
  m->back++;
}

/* The worker's first batch starts. */
static void start(struct machine *m, struct worker *w) {
  const struct sched_model_params *params = &m->params[w->model];
  uint32_t shape = *(const uint32_t *)sched_key_owner(w->flying[0]->key)[0];
  w->ends = m->now + 1 + any(m, (any(m, 10) == 0 ? 8 : 2) * NS_PER_MS);
  w->hangs = m->now + (m->has_run[w->model][shape] ? params->max_execution_ns : params->first_execution_ns);
}

/* Nothing of its key and level that came earlier stays behind. */
static void check_order(const struct machine *m, const struct sched_batch *batch) {
  for (uint32_t i = 0; i < batch->n_jobs; i++) {
    const struct sched_job *job = batch->jobs[i];
    for (const struct request *r = m->requests; r < m->requests + JOBS; r++) {
      if (r->place != WAITING || r->job.key != job->key || r->job.solo || r->job.delayed != job->delayed) continue;
      if (r->job.priority == job->priority) assert_true(r->job.position > job->position);
    }
  }
}

static void on_run(struct machine *m, struct sched_batch *batch) {
  struct worker *w = sched_instance_owner(batch->instance);
  const struct sched_model_params *params = &m->params[w->model];
  assert_true(w->instance == batch->instance && !w->retired && w->n_flying < w->depth && batch->id > m->last_id);
  assert_true(batch->n_jobs == 1 || batch->rows <= params->max_batch);
  if (params->preserve_ordering) assert_int_equal(count(m, w->model).flying, 0);
  m->last_id = batch->id;
  bool solo = batch->jobs[0]->solo;
  if (solo) assert_true(w->n_flying == 0 && batch->n_jobs == 1);
  if (w->n_flying > 0) assert_false(w->flying[0]->jobs[0]->solo);
  uint32_t rows = 0;
  for (uint32_t i = 0; i < batch->n_jobs; i++) {
    struct request *r = (struct request *)batch->jobs[i];
    assert_true(r->place == WAITING && r->model == w->model && r->job.key == batch->key && r->job.solo == solo);
    r->place = FLYING;
    r->late = false;
    rows += r->job.rows;
  }
  assert_int_equal(rows, batch->rows);
  if (!solo) check_order(m, batch);
  w->flying[w->n_flying++] = batch;
  if (w->n_flying == 1) start(m, w);
  m->ran++;
}

static void on_hung(struct machine *m, struct sched_batch *batch) {
  struct worker *w = sched_instance_owner(batch->instance);
  assert_ptr_equal(w->flying[0], batch);
  assert_int_equal(w->hangs, m->now); /* to the nanosecond, and once */
  w->hangs = TIME_NEVER;
  m->hung++;
}

static void on_late(struct machine *m, struct request *r) {
  assert_true(r->place == FLYING && !r->late && !r->canceled && r->job.deadline_ns <= m->now);
  r->late = true;
  m->late++;
}

static void decide(struct machine *m) {
  struct sched_decision decision;
  while (sched_next(m->sched, m->now, &decision)) {
    if (decision.action == SCHED_RUN) on_run(m, decision.batch);
    if (decision.action == SCHED_DROP) home(m, (struct request *)decision.job);
    if (decision.action == SCHED_LATE) on_late(m, (struct request *)decision.job);
    if (decision.action == SCHED_HUNG) on_hung(m, decision.batch);
  }
  for (struct request *r = m->requests; r < m->requests + JOBS; r++)
    if (r->place == WAITING && r->queue_until <= m->now) {
      assert_true(r->job.delayed); /* else it would be home */
      r->queue_until = TIME_NEVER;
    }
  assert_int_equal(sched_wake_ns(m->sched), next_due(m));
  assert_true(next_due(m) > m->now);
  check_nothing_is_kept_from_running(m);
  check_numbers(m);
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static void arrive(struct machine *m) {
  struct request *r = &m->requests[any(m, JOBS)];
  if (r->place != HOME) return;
  uint32_t model = any(m, MODELS), shape = any(m, KEYS);
  const struct sched_model_params *params = &m->params[model];
  memset(r, 0xa5, sizeof *r);
  r->place = HOME;
  r->model = model;
  r->late = r->canceled = false;
  r->job.key = sched_key_get(m->sched, m->models[model], &shape, sizeof shape);
  r->job.rows = 1 + any(m, any(m, 3) == 0 && params->max_batch > 1 ? params->max_batch : 1);
  r->job.priority = params->priority_levels > 0 ? 1 + any(m, params->priority_levels) : 0;
  r->job.bytes = 1;
  r->job.deadline_ns = any(m, 3) == 0 ? m->now + 1 + any(m, 20 * NS_PER_MS) : TIME_NEVER;
  r->job.timeout_ns = 0;
  r->job.drop_late = false;
  void **owner = sched_key_owner(r->job.key);
  if (*owner == NULL) {
    *owner = malloc(sizeof shape);
    assert_non_null(*owner);
    memcpy(*owner, &shape, sizeof shape);
    m->has_run[model][shape] = false; /* a key that is new knows nothing */
  }
  if (sched_submit(m->sched, &r->job, m->now, NULL) != MU_OK) return;
  uint64_t timeout = params->policies[r->job.priority].default_timeout_ns;
  r->queue_until = timeout > 0 ? m->now + timeout : TIME_NEVER;
  r->place = WAITING;
  m->accepted++;
}

static void cancel(struct machine *m) {
  struct request *r = &m->requests[any(m, JOBS)];
  if (r->place == HOME) return;
  if (sched_cancel(m->sched, &r->job, m->now)) {
    assert_int_equal(r->place, WAITING);
    home(m, r);
  } else {
    r->canceled = true;
  }
}

/* Jobs that are still wanted wait again; the others come home by a drop each. */
static void expect_back(struct sched_batch *batch) {
  for (uint32_t i = 0; i < batch->n_jobs; i++) {
    struct request *r = (struct request *)batch->jobs[i];
    r->place = WAITING;
    r->queue_until = TIME_NEVER;
  }
}

static void end_first(struct machine *m, struct worker *w, bool well) {
  struct sched_batch *batch = w->flying[0];
  uint32_t shape = *(const uint32_t *)sched_key_owner(batch->key)[0];
  memmove(w->flying, w->flying + 1, sizeof w->flying - sizeof *w->flying);
  w->n_flying--;
  if (well || batch->n_jobs == 1)
    for (uint32_t i = 0; i < batch->n_jobs; i++) home(m, (struct request *)batch->jobs[i]);
  else
    expect_back(batch);
  if (well) {
    m->has_run[w->model][shape] = true;
    sched_batch_done(m->sched, batch, m->now);
  } else {
    sched_batch_failed(m->sched, batch, m->now);
  }
  if (w->n_flying > 0)
    start(m, w);
  else if (w->retired)
    w->instance = NULL;
}

static void die(struct machine *m, struct worker *w) {
  if (w->instance == NULL) return;
  for (uint32_t i = 0; i < w->n_flying; i++) expect_back(w->flying[i]);
  sched_instance_lost(m->sched, w->instance, any(m, 3) == 0, m->now);
  *w = (struct worker){0};
}

static void come_up(struct machine *m, struct worker *w, uint32_t model) {
  if (w->instance != NULL) return;
  *w = (struct worker){.model = model, .device = any(m, DEVICES), .depth = 1 + any(m, 3)};
  w->instance = sched_add_instance(m->sched, m->models[w->model], m->devices[w->device], w->depth,
                                   any(m, 2) == 0 ? 1 : .1 + random_unit(&m->random), w, m->now);
  assert_non_null(w->instance);
}

static void retire(struct machine *m, struct worker *w) {
  if (w->instance == NULL || w->retired) return;
  w->retired = true;
  assert_int_equal(sched_instance_retire(m->sched, w->instance, m->now), w->n_flying == 0);
  if (w->n_flying == 0) w->instance = NULL;
}

static struct worker *first_to_end(struct machine *m) {
  struct worker *first = NULL;
  for (struct worker *w = m->workers; w < m->workers + INSTANCES; w++)
    if (w->instance != NULL && w->n_flying > 0 && (first == NULL || w->ends < first->ends)) first = w;
  return first;
}

/* To the next event. Before it there is nothing to say: the wake-up is not late. */
static void go_to(struct machine *m, uint64_t at) {
  struct sched_decision decision;
  if (at - 1 > m->now) assert_false(sched_next(m->sched, at - 1, &decision));
  m->now = at;
}

static void step(struct machine *m, bool more) {
  struct worker *first = first_to_end(m), *one = &m->workers[any(m, INSTANCES)];
  uint64_t wake = sched_wake_ns(m->sched), ends = first != NULL ? first->ends : TIME_NEVER;
  uint64_t arrives = more ? m->now + 1 + any(m, NS_PER_MS / 4) : TIME_NEVER;
  uint64_t at = earlier(wake, earlier(ends, arrives));
  assert_true(at != TIME_NEVER);
  go_to(m, at);
  if (at == ends) {
    end_first(m, first, any(m, 20) != 0);
  } else if (at == arrives) {
    uint32_t what = any(m, 100);
    if (what < 85)
      arrive(m);
    else if (what < 92)
      cancel(m);
    else if (what < 94)
      die(m, one);
    else if (what < 98)
      come_up(m, one, any(m, MODELS));
    else
      retire(m, one);
  }
  decide(m);
}

static void add_random_model(struct machine *m, uint32_t i) {
  struct sched_model_params *p = &m->params[i];
  *p = at_once((const uint32_t[]){0, 2, 8, 100}[any(m, 4)]);
  p->preserve_ordering = any(m, 5) == 0;
  p->priority_levels = any(m, 3) == 0 ? 2 : 0;
  p->default_priority_level = 1;
  p->max_queue_requests = any(m, 2) == 0 ? 30 : 0;
  p->max_execution_ns = 3 * NS_PER_MS;
  p->first_execution_ns = 4 * NS_PER_MS;
  p->tokens = 1 + any(m, 4);
  p->choice = any(m, 2) == 0 ? SCHED_QUEUE_DEPTH : SCHED_ROUND_ROBIN;
  for (uint32_t level = 0; level <= p->priority_levels; level++)
    p->policies[level] =
        (struct sched_queue_policy){.delay = any(m, 2) == 0, .default_timeout_ns = any(m, 2) * 3 * NS_PER_MS};
  m->models[i] = add_model(&(struct driver){.sched = m->sched}, *p);
}

static void run_machine(uint64_t seed, struct machine *m) {
  *m = (struct machine){.now = NS_PER_S, .random = seed * UINT64_C(0x9e3779b97f4a7c15)};
  m->sched = sched_create(NULL);
  assert_non_null(m->sched);
  for (uint32_t i = 0; i < DEVICES; i++) m->devices[i] = sched_add_device(m->sched, m->tokens[i] = 1 + any(m, 4));
  for (uint32_t i = 0; i < MODELS; i++) add_random_model(m, i);
  for (uint32_t i = 0; i < INSTANCES / 2; i++) come_up(m, &m->workers[i], any(m, MODELS));
  decide(m);
  for (uint32_t i = 0; i < EVENTS; i++) step(m, true);
  /* One instance of each model serves what is left. */
  for (uint32_t i = 0; i < INSTANCES; i++) die(m, &m->workers[i]);
  for (uint32_t i = 0; i < MODELS; i++) come_up(m, &m->workers[i], i);
  decide(m);
  while (m->back < m->accepted) step(m, false);
  check_numbers(m);
  sched_free(m->sched);
}

static void test_random_machines(void **state) {
  struct machine *m = malloc(sizeof *m);
  assert_non_null(m);
  uint32_t ran = 0, late = 0, hung = 0, kept = 0;
  for (uint64_t seed = 1; seed <= SEEDS; seed++) {
    run_machine(seed, m);
    ran += m->ran, late += m->late, hung += m->hung, kept += m->kept;
  }
  free(m);
  assert_true(ran > 20000 && late > 1000 && hung > 100 && kept > 1000); /* they went everywhere */
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_machines)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
