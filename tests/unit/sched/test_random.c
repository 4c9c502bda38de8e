/* Random runs against a slow reference that keeps every job in one flat table and looks at all of it each time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
/* cmocka needs the above */
#include <cmocka.h>

#include "simulation.h"

enum {
  MODELS = 4,
  KEYS = 3,
  DEVICES = 2,
  INSTANCES = 12,
  PROCESS_INSTANCES = 3,
  JOBS = 300,
  BATCHES = 64,
  STEPS = 25000
};

enum ref_state { FREE, WAITING, FLIGHT, LATE, RETURNING };

struct ref_job {
  struct sched_job job; /* first */
  enum ref_state state;
  uint32_t model, key, level;
  bool delayed, solo, suspect, canceled;
  uint64_t order, queue_until;
  uint32_t failures;
  mu_status expected; /* while RETURNING */
};

struct ref_instance {
  struct sched_instance *instance; /* NULL: slot free */
  uint64_t process;                /* equal: they die together */
  uint32_t model, device, depth, outstanding;
  bool retired, solo, suspect;
};

struct ref_batch {
  struct sched_batch *batch; /* NULL: slot free */
  uint32_t instance;
  bool hung;
};

struct ref {
  struct sched *sched;
  uint64_t now, random, order, last_id, last_process;
  struct sched_device *devices[DEVICES];
  uint32_t tokens[DEVICES];
  struct sched_model *models[MODELS];
  struct sched_model_params params[MODELS];
  struct sched_key *keys[MODELS][KEYS];
  uint64_t stuck_since[MODELS]; /* since when work, an idle instance and tokens for all were there; TIME_NEVER: not */
  struct ref_job jobs[JOBS];
  struct ref_instance instances[INSTANCES];
  struct ref_batch batches[BATCHES];
  uint64_t submitted, returned, ran, refused, late, hung, dropped, suspects, guilty;
};

static uint32_t any(struct ref *r, uint32_t n) { return random_below(&r->random, n); }

static struct sched_key *key_of(struct ref *r, uint32_t model, uint32_t key) {
  return r->keys[model][key] = sched_key_get(r->sched, r->models[model], &key, sizeof key);
}

/* ---- what the reference knows ------------------------------------------------------------------------------------ */

static bool timed_out(const struct ref *r, const struct ref_job *j) {
  return j->queue_until <= r->now && !r->params[j->model].policies[j->level].delay;
}

/* a goes before b in the queue of their model */
static bool before(const struct ref_job *a, const struct ref_job *b) {
  if (a->level != b->level) return a->level < b->level;
  if (a->delayed != b->delayed) return b->delayed;
  return a->order < b->order;
}

static struct ref_job *first_of(struct ref *r, uint32_t model, int key, const struct ref_job *behind) {
  struct ref_job *best = NULL;
  for (uint32_t i = 0; i < JOBS; i++) {
    struct ref_job *j = &r->jobs[i];
    if (j->state != WAITING || j->solo || j->model != model || (key >= 0 && j->key != (uint32_t)key)) continue;
    if (behind != NULL && !before(behind, j)) continue;
    if (best == NULL || before(j, best)) best = j;
  }
  return best;
}

static uint32_t needs(const struct ref *r, uint32_t model, uint32_t device) {
  uint32_t wanted = r->params[model].tokens;
  return wanted < r->tokens[device] ? wanted : r->tokens[device];
}

static uint32_t tokens_used(const struct ref *r, uint32_t device) {
  uint32_t used = 0;
  for (uint32_t i = 0; i < INSTANCES; i++) {
    const struct ref_instance *in = &r->instances[i];
    if (in->instance != NULL && in->device == device && in->outstanding > 0) used += needs(r, in->model, device);
  }
  return used;
}

static uint32_t batches_of(const struct ref *r, uint32_t model) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < INSTANCES; i++)
    if (r->instances[i].instance != NULL && r->instances[i].model == model) n += r->instances[i].outstanding;
  return n;
}

static uint32_t waiting_of(const struct ref *r, uint32_t model, int level, uint64_t *bytes) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < JOBS; i++) {
    const struct ref_job *j = &r->jobs[i];
    if (j->state != WAITING || j->model != model || (level >= 0 && j->level != (uint32_t)level)) continue;
    n++;
    if (bytes != NULL) *bytes += j->job.bytes;
  }
  return n;
}

static uint32_t working(const struct ref *r, uint32_t model) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < INSTANCES; i++)
    n += r->instances[i].instance != NULL && r->instances[i].model == model && !r->instances[i].retired;
  return n;
}

/* Working ones of the instance's model that would outlive its process. */
static uint32_t working_elsewhere(const struct ref *r, const struct ref_instance *in) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < INSTANCES; i++) {
    const struct ref_instance *other = &r->instances[i];
    n += other->instance != NULL && other->model == in->model && !other->retired && other->process != in->process;
  }
  return n;
}

/* A suspect has its whole process for itself. */
static void check_beside(const struct ref *r, const struct ref_instance *in, const struct ref_job *first) {
  for (uint32_t i = 0; i < INSTANCES; i++) {
    const struct ref_instance *other = &r->instances[i];
    if (other->instance == NULL || other->process != in->process) continue;
    assert_false(other->suspect);
    if (first->suspect) assert_int_equal(other->outstanding, 0);
  }
}

static void give_back(struct ref *r, struct ref_job *j) {
  j->state = FREE;
  r->returned++;
}

/* ---- decisions --------------------------------------------------------------------------------------------------- */

static void check_order(struct ref *r, const struct sched_batch *batch, uint32_t model) {
  const struct sched_model_params *params = &r->params[model];
  const struct ref_job *first = (const struct ref_job *)batch->jobs[0];
  const struct ref_job *last = NULL;
  uint32_t rows = 0, max = params->max_batch > 1 ? params->max_batch : 1;
  for (uint32_t i = 0; i < batch->n_jobs; i++) {
    struct ref_job *expected = first_of(r, model, (int)first->key, last);
    assert_ptr_equal(batch->jobs[i], expected);
    rows += expected->job.rows;
    last = expected;
  }
  assert_int_equal(rows, batch->rows);
  assert_true(rows <= max || batch->n_jobs == 1);
  bool at_once = params->has_max_queue_delay && params->max_queue_delay_ns == 0 && params->n_preferred == 0;
  if (!at_once && max > 1) return;
  assert_ptr_equal(first, first_of(r, model, -1, NULL)); /* across keys the oldest goes first */
  const struct ref_job *next = first_of(r, model, (int)first->key, last);
  assert_true(max == 1 || next == NULL || rows + next->job.rows > max); /* nothing that fits stays behind */
}

static void on_run(struct ref *r, struct sched_batch *batch) {
  struct ref_instance *in = sched_instance_owner(batch->instance);
  struct ref_job *first = (struct ref_job *)batch->jobs[0];
  assert_ptr_equal(in->instance, batch->instance);
  assert_true(!in->retired && in->outstanding < in->depth && !in->solo);
  assert_true(batch->id > r->last_id && batch->n_jobs >= 1 && batch->live == batch->n_jobs);
  r->last_id = batch->id;
  if (r->params[in->model].preserve_ordering) assert_int_equal(batches_of(r, in->model), 0);
  if (in->outstanding == 0)
    assert_true(tokens_used(r, in->device) + needs(r, in->model, in->device) <= r->tokens[in->device]);
  for (uint32_t i = 0; i < batch->n_jobs; i++) {
    struct ref_job *j = (struct ref_job *)batch->jobs[i];
    assert_int_equal(j->state, WAITING);
    assert_int_equal(j->model, in->model);
    assert_ptr_equal(j->job.key, batch->key);
    assert_true(j->job.deadline_ns > r->now && !timed_out(r, j));
  }
  check_beside(r, in, first);
  if (first->solo) {
    in->suspect = first->suspect;
    r->suspects += first->suspect;
    assert_int_equal(batch->n_jobs, 1);
    assert_int_equal(in->outstanding, 0);
    in->solo = true;
  } else {
    check_order(r, batch, in->model);
  }
  for (uint32_t i = 0; i < batch->n_jobs; i++) ((struct ref_job *)batch->jobs[i])->state = FLIGHT;
  in->outstanding++;
  r->stuck_since[in->model] = TIME_NEVER;
  r->ran++;
  for (uint32_t i = 0; i < BATCHES; i++) {
    if (r->batches[i].batch != NULL) continue;
    r->batches[i] = (struct ref_batch){.batch = batch, .instance = (uint32_t)(in - r->instances)};
    return;
  }
  fail();
}

static void on_drop(struct ref *r, const struct sched_decision *d) {
  struct ref_job *j = (struct ref_job *)d->job;
  assert_non_null(d->why);
  if (j->state == RETURNING) {
    assert_int_equal(d->status, j->expected);
  } else {
    assert_int_equal(j->state, WAITING);
    assert_int_equal(d->status, MU_TIMEOUT);
    assert_true(j->job.deadline_ns <= r->now || timed_out(r, j));
  }
  r->dropped++;
  give_back(r, j);
}

static void on_late(struct ref *r, const struct sched_decision *d) {
  struct ref_job *j = (struct ref_job *)d->job;
  assert_int_equal(j->state, FLIGHT);
  assert_true(!j->canceled && j->job.deadline_ns <= r->now);
  j->state = LATE;
  r->late++;
}

static void on_hung(struct ref *r, const struct sched_decision *d) {
  for (uint32_t i = 0; i < BATCHES; i++) {
    if (r->batches[i].batch != d->batch) continue;
    assert_false(r->batches[i].hung);
    r->batches[i].hung = true;
    r->hung++;
    return;
  }
  fail();
}

static void check_live(struct ref *r) {
  for (uint32_t i = 0; i < BATCHES; i++) {
    const struct sched_batch *batch = r->batches[i].batch;
    if (batch == NULL) continue;
    uint32_t live = 0;
    for (uint32_t k = 0; k < batch->n_jobs; k++) {
      const struct ref_job *j = (const struct ref_job *)batch->jobs[k];
      assert_ptr_equal(j->job.key, batch->key);
      live += j->state == FLIGHT && !j->canceled;
    }
    assert_int_equal(live, batch->live);
  }
}

static void check_wake(struct ref *r) {
  uint64_t wake = sched_wake_ns(r->sched);
  assert_true(wake > r->now);
  for (uint32_t i = 0; i < JOBS; i++) {
    struct ref_job *j = &r->jobs[i];
    if (j->state == WAITING) {
      assert_true(j->job.deadline_ns > r->now && !timed_out(r, j));
      assert_true(wake <= j->job.deadline_ns);
      if (j->queue_until > r->now) assert_true(wake <= j->queue_until);
    } else if (j->state == FLIGHT && !j->canceled) {
      assert_true(wake <= j->job.deadline_ns);
    }
    assert_int_not_equal(j->state, RETURNING);
  }
}

static uint64_t oldest_ns(const struct ref *r, uint32_t model) {
  uint64_t oldest = TIME_NEVER;
  for (uint32_t i = 0; i < JOBS; i++) {
    const struct ref_job *j = &r->jobs[i];
    if (j->state == WAITING && j->model == model && j->job.submitted_ns < oldest) oldest = j->job.submitted_ns;
  }
  return oldest;
}

/* Work that waits beside an idle instance and free tokens may do so only for as long as its model's waits allow. */
static void check_not_stuck(struct ref *r, uint32_t model) {
  const struct sched_model_params *params = &r->params[model];
  uint32_t most = 0;
  for (uint32_t m = 0; m < MODELS; m++) most = params->tokens > most ? r->params[m].tokens : most;
  bool solo = false, idle = false;
  for (uint32_t i = 0; i < JOBS; i++) solo |= r->jobs[i].model == model && r->jobs[i].solo && r->jobs[i].state != FREE;
  for (uint32_t i = 0; i < INSTANCES; i++) {
    const struct ref_instance *in = &r->instances[i];
    if (in->instance == NULL || in->model != model || in->retired || in->outstanding > 0) continue;
    uint32_t need = 0;
    for (uint32_t m = 0; m < MODELS; m++) need = needs(r, m, in->device) > need ? needs(r, m, in->device) : need;
    idle |= r->tokens[in->device] - tokens_used(r, in->device) >= need;
  }
  bool stuck =
      idle && !solo && first_of(r, model, -1, NULL) != NULL && !(params->preserve_ordering && batches_of(r, model) > 0);
  if (!stuck) {
    r->stuck_since[model] = TIME_NEVER;
    return;
  }
  if (r->stuck_since[model] == TIME_NEVER) r->stuck_since[model] = r->now;
  uint64_t allowed = params->has_max_queue_delay ? params->max_queue_delay_ns : params->max_learned_wait_ns;
  if (params->max_batch <= 1 || (!params->has_max_queue_delay && params->n_preferred > 0)) allowed = 0;
  uint64_t since = oldest_ns(r, model) > r->stuck_since[model] ? oldest_ns(r, model) : r->stuck_since[model];
  assert_true(r->now - since <= allowed);
  if (allowed == 0) assert_true(!stuck);
}

static void decide(struct ref *r) {
  struct sched_decision d;
  while (sched_next(r->sched, r->now, &d)) {
    for (uint32_t i = 0; i < JOBS; i++) { /* DELAY, as soon as time says so */
      struct ref_job *j = &r->jobs[i];
      if (j->state == WAITING && !j->solo && j->queue_until <= r->now && !timed_out(r, j)) {
        j->delayed = true;
        j->queue_until = TIME_NEVER;
      }
    }
    if (d.action == SCHED_RUN) on_run(r, d.batch);
    if (d.action == SCHED_DROP) on_drop(r, &d);
    if (d.action == SCHED_LATE) on_late(r, &d);
    if (d.action == SCHED_HUNG) on_hung(r, &d);
  }
  for (uint32_t i = 0; i < JOBS; i++) {
    struct ref_job *j = &r->jobs[i];
    if (j->state == WAITING && j->queue_until <= r->now && !timed_out(r, j)) {
      j->delayed = true;
      j->queue_until = TIME_NEVER;
    }
  }
  check_live(r);
  check_wake(r);
  for (uint32_t m = 0; m < MODELS; m++) check_not_stuck(r, m);
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static uint64_t queue_timeout(const struct sched_queue_policy *policy, const struct sched_job *job) {
  uint64_t timeout = policy->default_timeout_ns > 0 ? policy->default_timeout_ns : TIME_NEVER;
  return policy->allow_timeout_override && job->timeout_ns > 0 && job->timeout_ns < timeout ? job->timeout_ns : timeout;
}

static void submit(struct ref *r) {
  struct ref_job *j = NULL;
  for (uint32_t i = 0; i < JOBS && j == NULL; i++)
    if (r->jobs[i].state == FREE) j = &r->jobs[i];
  if (j == NULL) return;
  memset(j, 0xa5, sizeof *j); /* the scheduler must not rely on what was there */
  j->state = FREE;
  j->model = any(r, MODELS);
  j->key = any(r, KEYS);
  const struct sched_model_params *params = &r->params[j->model];
  j->job.key = key_of(r, j->model, j->key);
  j->job.rows = any(r, 4) == 0 ? 1 + any(r, params->max_batch > 1 ? params->max_batch : 3) : 1;
  j->job.priority = params->priority_levels > 0 ? any(r, params->priority_levels + 1) : any(r, 3);
  j->job.bytes = any(r, 1000);
  j->job.deadline_ns = any(r, 3) > 0 ? TIME_NEVER : r->now + any(r, 20) * NS_PER_MS;
  j->job.timeout_ns = any(r, 3) > 0 ? 0 : (1 + any(r, 10)) * NS_PER_MS;
  j->job.drop_late = false;
  j->level = params->priority_levels == 0 ? 0 : j->job.priority > 0 ? j->job.priority : params->default_priority_level;
  j->delayed = j->solo = j->suspect = j->canceled = false;
  j->failures = 0;
  uint64_t bytes = j->job.bytes;
  uint32_t waiting = waiting_of(r, j->model, -1, &bytes), level_max = params->policies[j->level].max_queue_size;
  bool full = (params->max_queue_requests > 0 && waiting >= params->max_queue_requests) ||
              (params->max_queue_bytes > 0 && bytes > params->max_queue_bytes) ||
              (level_max > 0 && waiting_of(r, j->model, (int)j->level, NULL) >= level_max);
  mu_error err;
  mu_status status = sched_submit(r->sched, &j->job, r->now, &err);
  assert_int_equal(status, full ? MU_UNAVAILABLE : MU_OK);
  if (full) {
    r->refused++;
    return;
  }
  j->state = WAITING;
  j->order = ++r->order;
  j->queue_until = time_add(r->now, queue_timeout(&params->policies[j->level], &j->job));
  r->submitted++;
}

static void cancel(struct ref *r) {
  struct ref_job *j = &r->jobs[any(r, JOBS)];
  if (j->state == FREE) return;
  bool out = sched_cancel(r->sched, &j->job, r->now);
  assert_int_equal(out, j->state == WAITING || j->state == RETURNING);
  if (out)
    give_back(r, j);
  else
    j->canceled = true;
}

/* The jobs of a batch that came to nothing. */
static void expect_requeue(struct ref *r, struct sched_batch *batch, bool blamed, bool solo) {
  for (uint32_t i = 0; i < batch->n_jobs; i++) {
    struct ref_job *j = (struct ref_job *)batch->jobs[i];
    j->failures++;
    j->expected = j->canceled            ? MU_CANCELED
                  : j->state == LATE     ? MU_TIMEOUT
                  : blamed && j->suspect ? MU_INTERNAL
                  : j->failures > 8      ? MU_INTERNAL
                                         : MU_OK;
    j->state = j->expected == MU_OK ? WAITING : RETURNING;
    r->guilty += j->state == RETURNING && j->expected == MU_INTERNAL && blamed;
    j->solo = j->solo || solo;
    j->suspect = j->suspect || blamed;
    j->queue_until = TIME_NEVER;
  }
}

static struct ref_batch *any_batch(struct ref *r) {
  for (uint32_t at = any(r, BATCHES), i = 0; i < BATCHES; i++) {
    struct ref_batch *b = &r->batches[(at + i) % BATCHES];
    if (b->batch != NULL) return b;
  }
  return NULL;
}

static void batch_over(struct ref *r, struct ref_batch *b) {
  struct ref_instance *in = &r->instances[b->instance];
  in->outstanding--;
  in->solo = in->suspect = false;
  if (in->retired && in->outstanding == 0) in->instance = NULL;
  b->batch = NULL;
}

static void end_batch(struct ref *r, bool well) {
  struct ref_batch *b = any_batch(r);
  if (b == NULL) return;
  struct sched_batch *batch = b->batch;
  if (well || batch->n_jobs == 1) {
    for (uint32_t i = 0; i < batch->n_jobs; i++) give_back(r, (struct ref_job *)batch->jobs[i]);
    if (well)
      sched_batch_done(r->sched, batch, r->now);
    else
      assert_true(sched_batch_failed(r->sched, batch, r->now));
  } else {
    expect_requeue(r, batch, false, true);
    assert_false(sched_batch_failed(r->sched, batch, r->now));
  }
  batch_over(r, b);
}

static void lose(struct ref *r, uint32_t i, bool blamed) {
  struct ref_instance *in = &r->instances[i];
  if (in->instance == NULL) return;
  uint64_t process = in->process;
  for (uint32_t k = 0; k < BATCHES; k++) {
    if (r->batches[k].batch == NULL || r->instances[r->batches[k].instance].process != process) continue;
    expect_requeue(r, r->batches[k].batch, blamed, blamed);
    r->batches[k].batch = NULL;
  }
  sched_instance_lost(r->sched, in->instance, blamed, r->now);
  for (uint32_t k = 0; k < INSTANCES; k++)
    if (r->instances[k].process == process) r->instances[k] = (struct ref_instance){0};
}

/* Where a suspect runs, if one does: otherwise that would hardly ever be hit. */
static uint32_t victim(struct ref *r) {
  for (uint32_t i = 0; i < INSTANCES; i++)
    if (r->instances[i].instance != NULL && r->instances[i].suspect) return i;
  return any(r, INSTANCES);
}

/* Another one in a process that is there. */
static void add_sibling(struct ref *r, struct ref_instance *in) {
  struct ref_instance *of = &r->instances[any(r, INSTANCES)];
  uint32_t n = 0;
  for (uint32_t i = 0; i < INSTANCES; i++)
    n += r->instances[i].instance != NULL && r->instances[i].process == of->process;
  if (of->instance == NULL || n == PROCESS_INSTANCES) return;
  *in = (struct ref_instance){.process = of->process, .model = of->model, .device = of->device, .depth = of->depth};
  in->instance = sched_add_sibling(r->sched, of->instance, in, r->now);
  assert_non_null(in->instance);
}

static void add_instance(struct ref *r) {
  for (uint32_t i = 0; i < INSTANCES; i++) {
    struct ref_instance *in = &r->instances[i];
    if (in->instance != NULL) continue;
    if (any(r, 2) == 0) {
      add_sibling(r, in);
      return;
    }
    *in = (struct ref_instance){
        .process = ++r->last_process, .model = any(r, MODELS), .device = any(r, DEVICES), .depth = 1 + any(r, 3)};
    in->instance = sched_add_instance(r->sched, r->models[in->model], r->devices[in->device], in->depth,
                                      .5 + random_unit(&r->random), in, r->now);
    assert_non_null(in->instance);
    return;
  }
}

static void retire(struct ref *r) {
  struct ref_instance *in = &r->instances[any(r, INSTANCES)];
  if (in->instance == NULL || in->retired || working(r, in->model) < 2) return;
  in->retired = true;
  assert_int_equal(sched_instance_retire(r->sched, in->instance, r->now), in->outstanding == 0);
  if (in->outstanding == 0) in->instance = NULL;
}

static void add_model(struct ref *r, uint32_t m) {
  struct sched_model_params *p = &r->params[m];
  *p = (struct sched_model_params){
      .max_batch = (const uint32_t[]){0, 4, 16, 40}[any(r, 4)],
      .has_max_queue_delay = any(r, 2) == 0,
      .max_queue_delay_ns = any(r, 2) * any(r, 5000) * NS_PER_US,
      .preserve_ordering = any(r, 6) == 0,
      .priority_levels = any(r, 3) == 0 ? 1 + any(r, 5) : 0,
      .max_queue_requests = any(r, 3) == 0 ? 20 : 0,
      .max_queue_bytes = any(r, 3) == 0 ? 20000 : 0,
      .max_learned_wait_ns = any(r, 3) * 2 * NS_PER_MS,
      .max_execution_ns = 60 * NS_PER_MS,
      .first_execution_ns = 90 * NS_PER_MS,
      .tokens = any(r, 4),
      .choice = any(r, 2) == 0 ? SCHED_QUEUE_DEPTH : SCHED_ROUND_ROBIN,
  };
  if (p->tokens == 0) p->tokens = 1;
  if (p->priority_levels > 0) p->default_priority_level = 1 + any(r, p->priority_levels);
  if (p->max_batch > 4 && any(r, 3) == 0) {
    p->n_preferred = 2;
    p->preferred[0] = 4;
    p->preferred[1] = 8;
  }
  for (uint32_t level = 0; level <= p->priority_levels; level++) {
    p->policies[level] = (struct sched_queue_policy){
        .delay = any(r, 2) == 0,
        .default_timeout_ns = any(r, 3) == 0 ? 5 * NS_PER_MS : 0,
        .allow_timeout_override = any(r, 2) == 0,
        .max_queue_size = any(r, 4) == 0 ? 10 : 0,
    };
  }
  r->models[m] = sched_add_model(r->sched, p);
  assert_non_null(r->models[m]);
  r->stuck_since[m] = TIME_NEVER;
}

static void replace_model(struct ref *r, uint32_t m) {
  for (uint32_t i = 0; i < JOBS; i++) {
    struct ref_job *j = &r->jobs[i];
    if (j->model != m || j->state != WAITING) continue;
    j->state = RETURNING;
    j->expected = MU_UNAVAILABLE;
  }
  /* Its instances go first: their jobs in flight wait again, and then leave with the model. */
  for (uint32_t i = 0; i < INSTANCES; i++) {
    if (r->instances[i].instance == NULL || r->instances[i].model != m) continue;
    lose(r, i, false);
  }
  for (uint32_t i = 0; i < JOBS; i++) {
    struct ref_job *j = &r->jobs[i];
    if (j->model != m || j->state != WAITING) continue;
    j->state = RETURNING;
    j->expected = MU_UNAVAILABLE;
  }
  sched_remove_model(r->sched, r->models[m], r->now);
  decide(r);
  add_model(r, m);
}

static void pass_time(struct ref *r) {
  uint64_t wake = sched_wake_ns(r->sched), step = any(r, 10) == 0 ? any(r, 10 * NS_PER_MS) : any(r, NS_PER_MS);
  /* Never past the wake-up: the reference wants to see that it comes in time. */
  r->now = wake < r->now + step ? wake : r->now + step;
}

static void step(struct ref *r) {
  uint32_t what = any(r, 1000);
  if (what < 450)
    submit(r);
  else if (what < 480)
    cancel(r);
  else if (what < 700)
    end_batch(r, true);
  else if (what < 710)
    end_batch(r, false);
  else if (what < 716)
    lose(r, victim(r), any(r, 2) == 0);
  else if (what < 730)
    add_instance(r);
  else if (what < 734)
    retire(r);
  else if (what < 735)
    replace_model(r, any(r, MODELS));
  else
    pass_time(r);
  decide(r);
}

static void finish(struct ref *r) {
  for (uint32_t m = 0; m < MODELS; m++) {
    if (working(r, m) > 0) continue;
    uint32_t slot = 0; /* one that no model depends on */
    while (r->instances[slot].instance != NULL && working(r, r->instances[slot].model) > 0 &&
           working_elsewhere(r, &r->instances[slot]) == 0)
      slot++;
    lose(r, slot, false);
    struct ref_instance *in = &r->instances[slot];
    *in = (struct ref_instance){.process = ++r->last_process, .model = m, .depth = 1};
    in->instance = sched_add_instance(r->sched, r->models[m], r->devices[0], 1, 1, in, r->now);
    assert_non_null(in->instance);
  }
  decide(r);
  for (uint32_t i = 0; i < 10000 && r->returned < r->submitted; i++) {
    if (any_batch(r) != NULL && any(r, 2) == 0)
      end_batch(r, true);
    else
      pass_time(r);
    decide(r);
  }
  assert_int_equal(r->returned, r->submitted);
}

static void test_against_reference(void **state) {
  uint64_t suspects = 0, guilty = 0, hung = 0, late = 0, refused = 0, ran = 0, submitted = 0;
  for (uint64_t seed = 1; seed <= 12; seed++) {
    struct ref *r = calloc(1, sizeof *r);
    assert_non_null(r);
    r->now = 1;
    r->random = seed * UINT64_C(0x9e3779b97f4a7c15);
    r->sched = sched_create(&(struct sched_params){.keys_per_model = 2});
    for (uint32_t i = 0; i < DEVICES; i++) r->devices[i] = sched_add_device(r->sched, r->tokens[i] = 1 + any(r, 4));
    for (uint32_t i = 0; i < MODELS; i++) add_model(r, i);
    for (uint32_t i = 0; i < 6; i++) add_instance(r);
    for (uint32_t i = 0; i < STEPS; i++) step(r);
    finish(r);
    suspects += r->suspects, guilty += r->guilty, hung += r->hung, late += r->late, refused += r->refused,
        ran += r->ran, submitted += r->submitted;
    sched_free(r->sched);
    free(r);
  }
  /* The runs went everywhere. */
  assert_true(suspects > 100 && guilty > 3 && hung > 10 && late > 100 && refused > 100 && ran > 10000 &&
              submitted > 50000);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_reference)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
