#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "sched/state.h"

enum { POSITION_BITS = 56 }; /* of a key's place in model->ready; the rank stands above them */

static const struct sched_queue_policy *policy_of(const struct sched_job *job) {
  return &job->key->model->params.policies[job->level];
}

static uint32_t rank_of(const struct sched_job *job) {
  return (job->level > 0 ? job->level - 1 : 0) * 2 + (job->delayed ? 1 : 0);
}

/* ---- limits ------------------------------------------------------------------------------------------------------ */

static mu_status admit_size(const struct sched_job *job, mu_error *err) {
  const struct sched_model *model = job->key->model;
  const struct sched_model_params *params = &model->params;
  uint32_t level_limit = policy_of(job)->max_queue_size;
  if (level_limit > 0 && model->level_waiting[job->level] >= level_limit)
    return mu_fail(err, MU_UNAVAILABLE, "the queue is full: max_queue_size of priority level %" PRIu32 " is %" PRIu32,
                   job->level, level_limit);
  if (params->max_queue_requests > 0 && model->waiting >= params->max_queue_requests)
    return mu_fail(err, MU_UNAVAILABLE, "the queue is full: max_queue_requests is %" PRIu32,
                   params->max_queue_requests);
  if (params->max_queue_bytes > 0 &&
      (job->bytes > params->max_queue_bytes || model->waiting_bytes > params->max_queue_bytes - job->bytes))
    return mu_fail(err, MU_UNAVAILABLE,
                   "the queue is full: %" PRIu64 " bytes wait, this request has %" PRIu64
                   ", max_queue_bytes is %" PRIu64,
                   model->waiting_bytes, job->bytes, params->max_queue_bytes);
  return MU_OK;
}

mu_status queue_admit(struct sched_job *job, mu_error *err) {
  const struct sched_model *model = job->key->model;
  if (model->removed) return mu_fail(err, MU_UNAVAILABLE, "the model is being unloaded");
  if (job->rows == 0) return mu_fail(err, MU_INVALID, "a request without rows");
  if (model->max_rows > 1 && job->rows > model->max_rows)
    return mu_fail(err, MU_INVALID, "a request of %" PRIu32 " rows: the model takes 1 to %" PRIu32, job->rows,
                   model->max_rows);
  uint32_t levels = model->params.priority_levels;
  if (levels > 0 && job->priority > levels)
    return mu_fail(err, MU_INVALID, "priority %" PRIu32 ": the model has levels 1 to %" PRIu32, job->priority, levels);
  job->level = levels == 0 ? 0 : job->priority > 0 ? job->priority : model->params.default_priority_level;
  return admit_size(job, err);
}

/* ---- order ------------------------------------------------------------------------------------------------------- */

static struct list *first_rank(const struct sched_key *key, uint32_t from) {
  for (uint32_t word = from / 64; word < RANK_WORDS; word++) {
    uint64_t filled = key->filled[word];
    if (word == from / 64) filled &= UINT64_MAX << from % 64;
    if (filled != 0) return (struct list *)&key->ranks[word * 64 + (uint32_t)__builtin_ctzll(filled)];
  }
  return NULL;
}

struct sched_job *queue_head(const struct sched_key *key) {
  struct list *rank = first_rank(key, 0);
  return rank != NULL ? list_item(rank->next, struct sched_job, link) : NULL;
}

struct sched_job *queue_after(const struct sched_key *key, const struct sched_job *job) {
  uint32_t rank = rank_of(job);
  if (job->link.next != &key->ranks[rank]) return list_item(job->link.next, struct sched_job, link);
  if (rank + 1 >= RANK_WORDS * 64) return NULL;
  struct list *next = first_rank(key, rank + 1);
  return next != NULL ? list_item(next->next, struct sched_job, link) : NULL;
}

uint64_t queue_oldest_ns(const struct sched_key *key) {
  uint64_t oldest = TIME_NEVER;
  for (uint32_t word = 0; word < RANK_WORDS; word++) {
    for (uint64_t filled = key->filled[word]; filled != 0; filled &= filled - 1) {
      const struct list *rank = &key->ranks[word * 64 + (uint32_t)__builtin_ctzll(filled)];
      uint64_t submitted = list_item(rank->next, struct sched_job, link)->submitted_ns;
      if (submitted < oldest) oldest = submitted;
    }
  }
  return oldest;
}

/* By position. New jobs go to the end; only those that come back after a failure find younger ones there. */
static void insert_by_position(struct list *list, struct sched_job *job) {
  struct list *at = list;
  if (!list_empty(list) && list_item(list->prev, struct sched_job, link)->position > job->position) {
    at = list->next;
    while (list_item(at, struct sched_job, link)->position < job->position) at = at->next;
  }
  list_insert_before(at, &job->link);
}

void queue_settle(struct sched_key *key) {
  struct sched_job *head = queue_head(key);
  if (head == NULL) {
    heap_remove(&key->model->ready, &key->ready_at);
    hold_cancel(key);
  } else if (key->hold_at == 0) {
    heap_put(&key->model->ready, &key->ready_at, (uint64_t)rank_of(head) << POSITION_BITS | head->position);
  }
}

static void count(struct sched_job *job, int sign) {
  struct sched_model *model = job->key->model;
  model->waiting += (uint32_t)sign;
  model->level_waiting[job->level] += (uint32_t)sign;
  model->waiting_bytes += sign > 0 ? job->bytes : -job->bytes;
}

static void link_in(struct sched_job *job) {
  struct sched_key *key = job->key;
  uint32_t rank = rank_of(job);
  insert_by_position(&key->ranks[rank], job);
  key->filled[rank / 64] |= UINT64_C(1) << rank % 64;
  key->rows += job->rows;
  if (key->n_jobs++ == 0) key->model->n_with_jobs++;
}

static void link_out(struct sched_job *job) {
  struct sched_key *key = job->key;
  uint32_t rank = rank_of(job);
  list_remove(&job->link);
  if (list_empty(&key->ranks[rank])) key->filled[rank / 64] &= ~(UINT64_C(1) << rank % 64);
  key->rows -= job->rows;
  if (--key->n_jobs == 0) key->model->n_with_jobs--;
}

void queue_push(struct sched_job *job) {
  struct sched_key *key = job->key;
  count(job, 1);
  if (job->solo) {
    insert_by_position(&key->model->alone, job);
    job->state = JOB_ALONE;
    model_choose_apart(key->model);
  } else {
    link_in(job);
    job->state = JOB_WAITING;
    if (key->hold_at != 0 && key->rows >= key->hold_rows) hold_end(key);
    queue_settle(key);
  }
  model_offer(key->model);
}

void queue_take(struct sched_job *job) {
  count(job, -1);
  if (job->state == JOB_ALONE) {
    list_remove(&job->link);
    model_choose_apart(job->key->model);
  } else {
    link_out(job);
    queue_settle(job->key);
  }
  model_withdraw(job->key->model);
}

void queue_delay(struct sched_job *job) {
  link_out(job);
  job->delayed = true;
  link_in(job);
  queue_settle(job->key);
}

/* Without memory for a longer array the batch takes what its array holds; the rest follows in the next one. */
static uint32_t room(struct batch *batch, const struct sched_key *key, uint32_t max_rows) {
  uint32_t wanted = key->n_jobs < max_rows ? key->n_jobs : max_rows;
  if (wanted <= batch->capacity) return batch->capacity;
  uint32_t capacity = batch->capacity * 2 > wanted ? batch->capacity * 2 : wanted;
  struct sched_job **jobs = sched_allocate(&key->model->sched->params, capacity * sizeof *jobs);
  if (jobs == NULL) return batch->capacity;
  free(batch->shown.jobs);
  batch->shown.jobs = jobs;
  return batch->capacity = capacity;
}

void queue_form(struct sched_key *key, uint32_t max_rows, struct batch *batch) {
  uint32_t most = room(batch, key, max_rows), rows = 0, n = 0;
  if (most > max_rows) most = max_rows;
  for (struct sched_job *job = queue_head(key), *next; job != NULL && n < most; job = next) {
    if (n > 0 && (rows >= max_rows || job->rows > max_rows - rows))
      break; /* FIFO: the next one waits, whatever is behind it */
    next = queue_after(key, job);
    count(job, -1);
    link_out(job);
    rows += job->rows;
    batch->shown.jobs[n++] = job;
  }
  batch->shown.n_jobs = n;
  batch->shown.rows = rows;
  queue_settle(key);
}

static void drop_list(struct list *jobs, enum reason reason) {
  while (!list_empty(jobs)) {
    struct sched_job *job = list_item(jobs->next, struct sched_job, link);
    queue_take(job);
    job_send_back(job, reason);
  }
}

void queue_drop_all(struct sched_model *model, enum reason reason) {
  drop_list(&model->alone, reason);
  for (uint32_t i = 0; i < model->n_buckets; i++)
    for (struct sched_key *key = model->buckets[i]; key != NULL; key = key->next)
      for (uint32_t rank = 0; rank < 2 * model->n_levels; rank++) drop_list(&key->ranks[rank], reason);
}
