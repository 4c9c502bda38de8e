#include "sched/speed.h"
#include "sched/state.h"

#include <math.h>

static const double SPLIT_GAIN = .97; /* a batch is split among idle instances if its parts run in less than this */

bool hold_learns(const struct sched_model *model) {
  const struct sched_model_params *params = &model->params;
  return model->max_rows > 1 && !params->has_max_queue_delay && params->n_preferred == 0 &&
         params->max_learned_wait_ns > 0;
}

/* The most rows that are worth waiting for. */
static uint32_t most_rows(const struct sched_key *key) {
  uint32_t max_rows = key->model->max_rows;
  return hold_learns(key->model) ? enough_limit(&key->enough, max_rows) : max_rows;
}

bool hold_full(const struct sched_key *key) { return key->rows >= most_rows(key); }

static void hold(struct sched_key *key, uint64_t until_ns, uint32_t rows) {
  heap_remove(&key->model->ready, &key->ready_at);
  heap_put(&key->model->sched->hold_timers, &key->hold_at, until_ns);
  key->hold_rows = rows;
}

void hold_cancel(struct sched_key *key) {
  heap_remove(&key->model->sched->hold_timers, &key->hold_at);
  key->wait.waiting = false; /* nobody waits any more: neither right nor wrong */
}

void hold_end(struct sched_key *key) {
  heap_remove(&key->model->sched->hold_timers, &key->hold_at);
  queue_settle(key);
  model_offer(key->model);
}

/* ---- explicit: max_queue_delay and preferred sizes --------------------------------------------------------------- */

struct formable {
  uint32_t preferred; /* largest preferred size that the jobs at the head make exactly; 0: none */
  uint32_t below;     /* rows of the head up to the largest preferred size */
  uint32_t rows;      /* and up to max_rows */
  bool full;          /* the next one does not fit */
};

static bool is_preferred(const struct sched_model_params *params, uint32_t rows) {
  for (uint32_t i = 0; i < params->n_preferred; i++)
    if (params->preferred[i] == rows) return true;
  return false;
}

static struct formable form(const struct sched_key *key) {
  const struct sched_model *model = key->model;
  uint32_t largest = model->params.preferred[model->params.n_preferred - 1];
  struct formable out = {0};
  for (struct sched_job *job = queue_head(key); job != NULL; job = queue_after(key, job)) {
    if (job->rows > model->max_rows - out.rows) {
      out.full = true;
      break;
    }
    out.rows += job->rows;
    if (is_preferred(&model->params, out.rows)) out.preferred = out.rows;
    if (out.rows <= largest) out.below = out.rows;
    if (out.rows >= model->max_rows) break;
  }
  return out;
}

static uint32_t preferred_limit(struct sched_key *key, bool late, uint64_t until_ns) {
  const struct sched_model *model = key->model;
  const struct sched_model_params *params = &model->params;
  struct formable can = form(key);
  bool delays = params->has_max_queue_delay && params->max_queue_delay_ns > 0;
  if (delays && late) return model->max_rows;
  if (can.preferred > 0) return can.preferred;
  uint32_t largest = params->preferred[params->n_preferred - 1];
  if (can.rows >= largest || can.full) return can.below > 0 ? can.below : model->max_rows;
  if (!delays) return model->max_rows;
  uint32_t next = 0;
  while (params->preferred[next] <= can.rows) next++;
  hold(key, until_ns, params->preferred[next]);
  return 0;
}

static uint32_t explicit_limit(struct sched_key *key, uint64_t now_ns) {
  const struct sched_model *model = key->model;
  uint64_t delay = model->params.has_max_queue_delay ? model->params.max_queue_delay_ns : 0;
  uint64_t until = time_add(queue_oldest_ns(key), delay);
  bool late = now_ns >= until;
  if (model->params.n_preferred > 0) return preferred_limit(key, late, until);
  if (late || hold_full(key)) return model->max_rows;
  hold(key, until, model->max_rows);
  return 0;
}

/* ---- learned ----------------------------------------------------------------------------------------------------- */

static uint64_t latest_end(const struct sched_key *key) {
  const struct sched_job *head = queue_head(key);
  bool dropped = !key->model->params.policies[head->level].delay;
  return dropped && head->queue_until_ns < head->deadline_ns ? head->queue_until_ns : head->deadline_ns;
}

static bool waits(struct sched_key *key, uint32_t parallel, uint64_t now_ns) {
  struct sched_model *model = key->model;
  /* With other shapes waiting there is better to do; and an instance set apart is not to hold up the rest. */
  if (!hold_learns(model) || model->n_with_jobs > 1 || !list_empty(&model->alone) || hold_full(key)) return false;
  uint32_t most = most_rows(key);
  struct wait_question question = {
      .now_ns = now_ns,
      .horizon_ns = model->params.max_learned_wait_ns,
      .latest_ns = latest_end(key),
      .rows = (uint32_t)key->rows,
      .max_rows = most,
      .parallel = parallel,
      .curve = &key->curve,
  };
  struct wait_answer answer;
  if (!wait_pays(&key->wait, &question, &answer)) return false;
  hold(key, answer.until_ns, answer.rows < most ? answer.rows : most);
  return true;
}

/* The share of one instance: what waits and what runs elsewhere (and comes back), spread over the instances at work by
 * their speed. Without it one instance gets 63 rows and its neighbour 1, and again with the answers. */
static uint32_t fair_rows(const struct sched_key *key, uint32_t parallel, double speed) {
  const struct sched_model *model = key->model;
  uint64_t all = key->rows + model->rows_in_flight, n = parallel + model->n_busy;
  uint64_t part = (all + n - 1) / n;
  if (model->uneven && model->params.choice == SCHED_QUEUE_DEPTH)
    part = (uint64_t)ceil((double)all * speed / speed_at_work(model, speed));
  return part < model->max_rows ? (uint32_t)part : model->max_rows;
}

static uint32_t learned_limit(struct sched_key *key, double speed, uint64_t now_ns) {
  const struct sched_model *model = key->model;
  uint32_t parallel = model->n_idle > 1 ? dispatch_parallel(model) : 1;
  if (parallel < 1) parallel = 1; /* behind a batch on a busy instance */
  if (waits(key, parallel, now_ns)) return 0;
  uint32_t max_rows = model->max_rows, waiting = key->rows < UINT32_MAX ? (uint32_t)key->rows : UINT32_MAX;
  uint32_t rows = waiting < max_rows ? waiting : max_rows;
  wait_ended(&key->wait, rows, now_ns, &key->curve);
  if (!hold_learns(model)) return max_rows;
  uint32_t part = rows > 1 ? fair_rows(key, parallel, speed) : 1;
  if (part < rows && curve_ns(&key->curve, part) < SPLIT_GAIN * curve_ns(&key->curve, rows)) max_rows = part;
  uint32_t enough = enough_choose(&key->enough, &key->curve, waiting, model->max_rows);
  return enough < max_rows ? enough : max_rows;
}

uint32_t hold_limit(struct sched_key *key, double speed, uint64_t now_ns) {
  const struct sched_model *model = key->model;
  if (model->max_rows == 1) return 1;
  if (model->params.has_max_queue_delay || model->params.n_preferred > 0) return explicit_limit(key, now_ns);
  return learned_limit(key, speed, now_ns);
}
