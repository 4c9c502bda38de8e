/* The scheduler's decisions, carried out: batches into the workers' rings, refusals and deadlines to their calls. */
#include "base/log.h"
#include "gateway/attachment.h"
#include "gateway/call.h"

#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>

static struct call *call_of(struct sched_job *job) { return list_item(job, struct call, job); }

/* ---- events to the loops ----------------------------------------------------------------------------------------- */

void call_event(struct call *call, enum call_event event, struct list *outbox) {
  /* The first event puts the call on its way; further ones ride along. */
  if (atomic_fetch_or(&call->events, (unsigned)event) == 0) list_push_back(outbox, &call->outbox_link);
}

void core_deliver(struct list *outbox, struct gateway_loop *here) {
  for (struct list *link; (link = list_pop_front(outbox)) != NULL;) {
    struct call *call = list_item(link, struct call, outbox_link);
    if (call->loop == here)
      call_handle_events(call);
    else
      net_loop_post(call->loop->net, &call->post);
  }
}

/* ---- output memory ----------------------------------------------------------------------------------------------- */

static struct output_block *block_create(struct core *core, struct attachment *attachment, uint64_t offset,
                                         uint64_t size) {
  struct output_block *block = core->free_blocks;
  if (block != NULL)
    core->free_blocks = block->next_free;
  else if ((block = malloc(sizeof *block)) == NULL)
    return NULL;
  *block = (struct output_block){.attachment = attachment, .offset = offset, .size = size, .users = 1};
  attachment->users++;
  return block;
}

void core_block_release(struct core *core, struct output_block *block) {
  if (--block->users > 0) return;
  struct attachment *attachment = block->attachment;
  arena_space_give(attachment->output_space, block->offset);
  block->next_free = core->free_blocks;
  core->free_blocks = block;
  attachment_release(attachment);
}

/* ---- one batch --------------------------------------------------------------------------------------------------- */

/* false: they are more than any number can say. */
static bool add_aligned(uint64_t *total, uint64_t size) {
  uint64_t fill = -size & (ARENA_ALIGNMENT - 1);
  return !__builtin_add_overflow(*total, size, total) && !__builtin_add_overflow(*total, fill, total);
}

/* Every output that any request of the batch wants, each once. */
static void collect_outputs(struct flight *flight) {
  uint64_t seen = 0; /* CHANNEL_TENSORS_MAX is 64 */
  flight->n_outputs = 0;
  for (uint32_t i = 0; i < flight->batch->n_jobs; i++) {
    const struct request *request = &call_of(flight->batch->jobs[i])->request;
    for (uint32_t k = 0; k < request->n_outputs; k++) {
      uint32_t index = request->outputs[k].index;
      if (seen >> index & 1) continue;
      seen |= UINT64_C(1) << index;
      flight->outputs[flight->n_outputs++] = index;
    }
  }
}

/* Places for the outputs, relative to 0; returns the bytes they need together. */
static uint64_t plan_places(struct flight *flight, struct channel_job *job) {
  struct gateway_model *model = flight->attachment->model;
  uint64_t total = 0;
  job->n_places = flight->n_outputs;
  for (uint32_t i = 0; i < flight->n_outputs; i++) {
    struct channel_place *place = &job->places[i];
    mu_tensor shape;
    place->index = flight->outputs[i];
    if (flight->sized) { /* a run is over and said what it needs */
      place->known = false;
      place->capacity = flight->needed[i];
      shape = (mu_tensor){.dtype = model->model.metadata->outputs[place->index].info.dtype};
    } else {
      place->known =
          output_shape_predict(model, flight->batch->key, place->index, flight->batch->rows, &shape, &place->capacity);
    }
    place->dtype = shape.dtype;
    place->rank = place->known ? shape.rank : 0;
    memcpy(place->dims, shape.dims, place->rank * sizeof *place->dims);
    place->offset = total;
    if (!add_aligned(&total, place->capacity)) return UINT64_MAX;
  }
  return total;
}

static int by_place(const void *a, const void *b) {
  uint64_t x = (*(struct call *const *)a)->slots.offsets[0], y = (*(struct call *const *)b)->slots.offsets[0];
  return (x > y) - (x < y);
}

uint32_t flight_members(struct core *core, const struct flight *flight) {
  const struct sched_batch *batch = flight->batch;
  bool sorted = true;
  for (uint32_t i = 0; i < batch->n_jobs; i++) {
    core->members[i] = call_of(batch->jobs[i]);
    sorted = sorted && (i == 0 || by_place(&core->members[i - 1], &core->members[i]) <= 0);
  }
  /* Neighbours in memory become neighbours in the batch: then nothing has to be gathered. */
  if (!sorted) qsort(core->members, batch->n_jobs, sizeof(struct call *), by_place);
  return batch->n_jobs;
}

static void describe_inputs(struct core *core, const struct flight *flight, struct channel_job *job) {
  const struct gateway_model *model = flight->attachment->model;
  uint32_t n = flight_members(core, flight), row = 0;
  const struct request *first = &core->members[0]->request;
  job->n_members = n;
  job->n_inputs = first->n_inputs;
  job->spans = core->spans;
  for (uint32_t i = 0; i < first->n_inputs; i++) {
    const struct request_input *input = &first->inputs[i];
    job->inputs[i].index = input->index;
    job->inputs[i].dtype = input->dtype;
    job->inputs[i].rank = input->rank;
    memcpy(job->inputs[i].dims, input->dims, input->rank * sizeof *input->dims);
    if (model->model.metadata->max_batch > 0) job->inputs[i].dims[0] = flight->batch->rows;
  }
  for (uint32_t m = 0; m < n; m++) {
    struct call *call = core->members[m];
    call->row_at = row;
    row += call->request.rows;
    for (uint32_t i = 0; i < first->n_inputs; i++)
      core->spans[(size_t)m * first->n_inputs + i] =
          (struct channel_span){.offset = call->request.inputs[i].offset, .size = call->request.inputs[i].size};
  }
}

/* Takes output memory and puts the batch into its lane's ring. MU_UNAVAILABLE: later; anything else than MU_OK: never.
 */
static mu_status flight_send(struct core *core, struct flight *flight, mu_error *err) {
  struct attachment *attachment = flight->attachment;
  struct channel_job *job = &core->job;
  uint64_t total = plan_places(flight, job), offset;
  mu_status status = total == UINT64_MAX ? MU_TOO_LARGE : arena_space_take(attachment->output_space, total, &offset);
  if (status == MU_UNAVAILABLE && core_make_room(core, &core->output_budget, total + ARENA_ALIGNMENT))
    status = arena_space_take(attachment->output_space, total, &offset);
  if (status == MU_TOO_LARGE)
    return mu_fail(err, status, "outputs of %llu bytes do not fit the output arena (--output-arena, --memory-budget)",
                   (unsigned long long)total);
  if (status != MU_OK) return mu_fail(err, status, "no output memory is free (--output-arena, --memory-budget)");
  flight->block = block_create(core, attachment, offset, total);
  if (flight->block == NULL) {
    arena_space_give(attachment->output_space, offset);
    return mu_fail(err, MU_NO_MEMORY, "no memory for the batch");
  }
  for (uint32_t i = 0; i < job->n_places; i++) job->places[i].offset += offset;
  job->type = flight->fetching ? CHANNEL_FETCH : CHANNEL_RUN;
  job->epoch = attachment->epoch;
  job->batch = flight->batch->id;
  job->n_inputs = job->n_members = 0;
  job->spans = core->spans;
  if (!flight->fetching) describe_inputs(core, flight, job);
  status = channel_gate_submit(attachment->gate, flight->lane, job);
  if (status != MU_OK) {
    core_block_release(core, flight->block);
    flight->block = NULL;
    return status;
  }
  attachment->unrung = true;
  list_push_back(&attachment->flights, &flight->link);
  return MU_OK;
}

struct flight *flight_create(struct core *core, struct sched_batch *batch) {
  struct list *link = list_pop_front(&core->free_flights);
  struct flight *flight = link != NULL ? list_item(link, struct flight, link) : malloc(sizeof *flight);
  if (flight == NULL) return NULL;
  struct lane *lane = sched_instance_owner(batch->instance);
  flight->attachment = lane->attachment;
  flight->batch = batch;
  flight->lane = lane->index;
  flight->block = NULL;
  flight->stopping = flight->fetching = flight->sized = false;
  flight->times = (struct batch_times){0};
  list_init(&flight->link);
  batch->owner = flight;
  return flight;
}

void flight_free(struct core *core, struct flight *flight) {
  list_remove(&flight->link);
  if (flight->block != NULL) core_block_release(core, flight->block);
  flight->block = NULL;
  list_push_front(&core->free_flights, &flight->link);
}

void flight_start(struct core *core, struct flight *flight, struct list *outbox) {
  mu_error err;
  mu_status status = flight_send(core, flight, &err);
  /* Goes on when a reply has left (core_run). Where none is on its way nothing runs at all, and what holds the memory
   * waits for just this: then a smaller batch is tried, and in the end a request is refused. */
  if (status == MU_UNAVAILABLE && core->output_budget.used > 0)
    list_push_back(&core->stalled, &flight->link);
  else if (status != MU_OK)
    flight_fail(core, flight, status, err.message, outbox);
}

void call_return(struct core *core, struct call *call, mu_status status, const char *message, struct list *outbox) {
  call->in_sched = false;
  call->status = status;
  if (status != MU_OK) mu_fail(&call->error, status, "%s", message);
  core_release_inputs(core, call);
  call_event(call, CALL_DONE, outbox);
}

void flight_fail(struct core *core, struct flight *flight, mu_status status, const char *message, struct list *outbox) {
  struct call *only = call_of(flight->batch->jobs[0]); /* meant when it is the only one */
  struct sched_batch *batch = flight->batch;
  flight_free(core, flight);
  if (sched_batch_failed(core->sched, batch, clock_now_ns())) call_return(core, only, status, message, outbox);
}

/* ---- decisions --------------------------------------------------------------------------------------------------- */

static void decide_run(struct core *core, const struct sched_decision *decision, struct list *outbox) {
  struct flight *flight = flight_create(core, decision->batch);
  if (flight == NULL) { /* as good as an engine error: the requests are tried again one by one, then refused */
    struct call *only = call_of(decision->batch->jobs[0]);
    if (sched_batch_failed(core->sched, decision->batch, clock_now_ns()))
      call_return(core, only, MU_NO_MEMORY, "no memory for the batch", outbox);
    return;
  }
  collect_outputs(flight);
  flight_start(core, flight, outbox);
}

static void decide_drop(struct core *core, const struct sched_decision *decision, struct list *outbox) {
  call_return(core, call_of(decision->job), decision->status, decision->why, outbox);
}

static void decide_late(struct core *core, const struct sched_decision *decision, struct list *outbox) {
  call_event(call_of(decision->job), CALL_LATE, outbox);
  core->look_for_abandoned = true;
}

static void decide_hung(struct core *core, const struct sched_decision *decision, struct list *outbox) {
  struct flight *flight = decision->batch->owner;
  if (flight->block != NULL)
    attachment_report(flight->attachment, CONTROL_WORKER_HUNG, "a batch exceeded max_execution");
  else /* it is not with the worker */
    flight_fail(core, flight, MU_UNAVAILABLE, "no output memory became free (--output-arena, --memory-budget)", outbox);
}

static void (*const deciders[])(struct core *, const struct sched_decision *, struct list *) = {
    [SCHED_RUN] = decide_run,
    [SCHED_DROP] = decide_drop,
    [SCHED_LATE] = decide_late,
    [SCHED_HUNG] = decide_hung,
};

static void retry_stalled(struct core *core, struct list *outbox) {
  struct list again;
  list_init(&again);
  for (struct list *link; (link = list_pop_front(&core->stalled)) != NULL;) list_push_back(&again, link);
  for (struct list *link; (link = list_pop_front(&again)) != NULL;) {
    struct flight *flight = list_item(link, struct flight, link);
    if (flight->batch->live > 0)
      flight_start(core, flight, outbox);
    else
      flight_fail(core, flight, MU_CANCELED, "nobody waits for it any more", outbox);
  }
}

/* Runs that nobody waits for any more are told to stop. */
static void stop_abandoned(struct core *core) {
  core->look_for_abandoned = false;
  list_each (a, &core->attachments) {
    struct attachment *attachment = list_item(a, struct attachment, link);
    list_each (f, &attachment->flights) {
      struct flight *flight = list_item(f, struct flight, link);
      if (flight->batch->live > 0 || flight->stopping) continue;
      flight->stopping = true;
      channel_gate_stop(attachment->gate, flight->lane, flight->batch->id);
    }
  }
}

static void arm_timer(struct core *core) {
  uint64_t wake = sched_wake_ns(core->sched);
  if (wake >= core->timer_armed_ns) return; /* an early tick does no harm, and re-arming costs a system call */
  core->timer_armed_ns = wake;
  struct itimerspec at = {.it_value = {.tv_sec = (time_t)(wake / NS_PER_S), .tv_nsec = (long)(wake % NS_PER_S)}};
  if (wake == 0) at.it_value.tv_nsec = 1; /* zero would disarm */
  timerfd_settime(core->timer, TFD_TIMER_ABSTIME, &at, NULL);
}

void core_run(struct core *core, struct list *outbox) {
  if (!list_empty(&core->stalled)) retry_stalled(core, outbox);
  for (struct sched_decision decision; sched_next(core->sched, clock_now_ns(), &decision);)
    deciders[decision.action](core, &decision, outbox);
  if (core->look_for_abandoned) stop_abandoned(core);
  if (!list_empty(&core->reserving)) core_retry_reserving(core, outbox);
  list_each (link, &core->attachments) {
    struct attachment *attachment = list_item(link, struct attachment, link);
    if (!attachment->unrung) continue;
    attachment->unrung = false;
    channel_gate_ring(attachment->gate);
  }
  arm_timer(core);
}

void core_tick(struct core *core) {
  struct list outbox;
  list_init(&outbox);
  pthread_mutex_lock(&core->lock);
  core->timer_armed_ns = TIME_NEVER;
  core_run(core, &outbox);
  pthread_mutex_unlock(&core->lock);
  core_deliver(&outbox, &core->loops[0]);
}

/* ---- calls in and out -------------------------------------------------------------------------------------------- */

/* What two requests must share to run together: which inputs, and their dims but for the batch. */
static size_t shape_key(const struct call *call, unsigned char *key) {
  const struct request *request = &call->request;
  uint32_t skip = call->model->model.metadata->max_batch > 0 ? 1 : 0;
  size_t at = 0;
  for (uint32_t i = 0; i < request->n_inputs; i++) {
    const struct request_input *input = &request->inputs[i];
    key[at++] = (unsigned char)input->index;
    key[at++] = (unsigned char)input->rank;
    uint32_t n = input->rank > skip ? input->rank - skip : 0;
    memcpy(key + at, input->dims + skip, n * sizeof *input->dims);
    at += n * sizeof *input->dims;
  }
  return at;
}

mu_status core_submit(struct core *core, struct call *call, mu_error *err) {
  const struct request *request = &call->request;
  unsigned char bytes[SLOT_INPUTS_MAX * (2 + MU_MAX_RANK * sizeof(int64_t))];
  size_t size = shape_key(call, bytes);
  call->job.rows = request->rows;
  call->job.priority = request->priority > UINT32_MAX ? UINT32_MAX : (uint32_t)request->priority;
  call->job.bytes = request->input_bytes;
  call->job.timeout_ns = request->timeout_us > TIME_NEVER / NS_PER_US ? TIME_NEVER : request->timeout_us * NS_PER_US;
  struct list outbox;
  list_init(&outbox);
  pthread_mutex_lock(&core->lock);
  call->job.deadline_ns = core_deadline_ns(core, request);
  mu_status status = core_model_check(call->model, err); /* it may have failed while the body came */
  if (status == MU_OK) {
    call->job.key = sched_key_get(core->sched, call->model->sched, bytes, size);
    status = call->job.key != NULL ? sched_submit(core->sched, &call->job, clock_now_ns(), err)
                                   : mu_fail(err, MU_NO_MEMORY, "no memory for the request");
  }
  if (status == MU_OK) {
    call->in_sched = true;
    core_run(core, &outbox);
  }
  pthread_mutex_unlock(&core->lock);
  core_deliver(&outbox, NULL);
  return status;
}

bool core_cancel(struct core *core, struct call *call) {
  struct list outbox;
  list_init(&outbox);
  pthread_mutex_lock(&core->lock);
  bool mine = false;
  if (call->in_sched) {
    mine = sched_cancel(core->sched, &call->job, clock_now_ns());
    if (mine) {
      call->in_sched = false;
      core_release_inputs(core, call);
    } else {
      core->look_for_abandoned = true;
    }
    core_run(core, &outbox);
  }
  pthread_mutex_unlock(&core->lock);
  core_deliver(&outbox, NULL);
  return mine;
}

bool core_withdraw(struct core *core, struct call *call) {
  struct list outbox;
  list_init(&outbox);
  pthread_mutex_lock(&core->lock);
  bool mine = call->in_sched && sched_withdraw(core->sched, &call->job);
  if (mine) {
    call->in_sched = false;
    core_release_inputs(core, call);
    core_run(core, &outbox);
  }
  pthread_mutex_unlock(&core->lock);
  core_deliver(&outbox, NULL);
  return mine;
}

/* What gave memory back may let others go on. Takes the lock. */
static void run_now(struct core *core, void (*change)(struct core *, struct call *), struct call *call) {
  struct list outbox;
  list_init(&outbox);
  pthread_mutex_lock(&core->lock);
  change(core, call);
  core_run(core, &outbox);
  pthread_mutex_unlock(&core->lock);
  core_deliver(&outbox, NULL);
}

static void release_block(struct core *core, struct call *call) {
  core_block_release(core, call->block);
  call->block = NULL;
}

void core_drop_inputs(struct core *core, struct call *call) {
  if (call->reserved) run_now(core, core_release_inputs, call);
}

void core_drop_block(struct core *core, struct call *call) {
  if (call->block != NULL) run_now(core, release_block, call);
}
