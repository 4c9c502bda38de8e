/* What comes back from a worker: results cut to each request's rows, failures, results that did not fit. */
#include "base/log.h"
#include "gateway/attachment.h"
#include "gateway/call.h"

#include <stdlib.h>
#include <string.h>

/* Room for n results in the call. */
static bool reserve_results(struct call *call, uint32_t n) {
  if (n <= call->results_capacity) return true;
  struct infer_result *bigger = reallocarray(call->results, n, sizeof *bigger);
  if (bigger == NULL) return false;
  call->results = bigger;
  call->results_capacity = n;
  return true;
}

static bool reserve_all_results(struct core *core, uint32_t n_members) {
  for (uint32_t m = 0; m < n_members; m++)
    if (!reserve_results(core->members[m], core->members[m]->request.n_outputs)) return false;
  return true;
}

/* Bytes that the first `elements` elements of a BYTES tensor take; UINT64_MAX when they do not add up. */
static uint64_t bytes_length(const uint8_t *data, uint64_t size, uint64_t elements) {
  uint64_t at = 0;
  for (uint64_t i = 0; i < elements; i++) {
    uint32_t length;
    if (size - at < sizeof length) return UINT64_MAX;
    memcpy(&length, data + at, sizeof length); /* little-endian, as every machine that muster runs on */
    at += sizeof length;
    if (size - at < length) return UINT64_MAX;
    at += length;
  }
  return at;
}

/* The rows of one member of an output, which begin at byte `at` of it. false: the output's bytes do not add up. */
static bool cut(const struct call *call, const struct channel_output *output, const uint8_t *data, uint64_t at,
                bool by_rows, mu_tensor *ret_part) {
  *ret_part = (mu_tensor){.dtype = output->dtype, .rank = output->rank, .data = (void *)(uintptr_t)(data + at)};
  memcpy(ret_part->dims, output->dims, output->rank * sizeof *output->dims);
  if (by_rows) ret_part->dims[0] = call->request.rows;
  uint64_t elements, bytes;
  if (shape_size(output->dtype, ret_part->dims, ret_part->rank, &elements, &bytes) != MU_OK) return false;
  if (output->dtype == MU_BYTES) bytes = bytes_length(data + at, output->size - at, elements);
  if (bytes > output->size - at) return false;
  ret_part->size = bytes;
  return true;
}

/* Puts one output's parts where its members' requests want them. */
static bool hand_out(struct core *core, uint32_t n_members, const struct channel_output *output, const uint8_t *data,
                     bool by_rows) {
  uint64_t at = 0;
  for (uint32_t m = 0; m < n_members; m++) {
    struct call *call = core->members[m];
    mu_tensor part;
    if (!cut(call, output, data, at, by_rows, &part)) return false;
    at += part.size;
    for (uint32_t k = 0; k < call->request.n_outputs; k++)
      if (call->request.outputs[k].index == output->index)
        call->results[k] = (struct infer_result){.index = output->index, .tensor = part};
  }
  return true;
}

/* The worker must have answered exactly what was asked, inside the block it was given. */
static bool answers_flight(const struct flight *flight, const struct channel_completion *completion) {
  if (completion->n_outputs != flight->n_outputs || flight->block == NULL) return false;
  const struct output_block *block = flight->block;
  for (uint32_t i = 0; i < completion->n_outputs; i++) {
    const struct channel_output *output = &completion->outputs[i];
    if (output->index != flight->outputs[i]) return false;
    if (completion->result != CHANNEL_DONE) continue;
    if (output->offset < block->offset || output->size > block->size ||
        output->offset - block->offset > block->size - output->size)
      return false;
  }
  return true;
}

/* An output of a batch whose first dimension is not the batch: it cannot be cut. */
static bool follows_rows(const struct flight *flight, const struct channel_completion *completion) {
  for (uint32_t i = 0; i < completion->n_outputs; i++) {
    const struct channel_output *output = &completion->outputs[i];
    if (output->rank == 0 || output->dims[0] != (int64_t)flight->batch->rows) return false;
  }
  return true;
}

static void fail_run(struct core *core, struct flight *flight, mu_status status, const char *message,
                     struct list *outbox) {
  flight->attachment->errors++;
  flight_fail(core, flight, status, message, outbox);
}

static void stop_batching(struct core *core, struct flight *flight, struct list *outbox) {
  struct gateway_model *model = flight->attachment->model;
  if (!model->batching_stopped) {
    model->batching_stopped = true;
    sched_model_stop_batching(model->sched);
    LOG_WARNING("an output's first dimension is not the batch: requests of this model run one by one from now on",
                LOG_STR("model", model->model.name), LOG_INT("version", model->model.version));
  }
  fail_run(core, flight, MU_INTERNAL, "the model's output does not follow the batch", outbox);
}

static void add_times(struct flight *flight, const struct channel_completion *completion) {
  if (!flight->fetching) {
    flight->started_ns = completion->started_ns;
    flight->input_ns = completion->input_ns;
    flight->infer_ns = completion->infer_ns;
  }
  flight->ended_ns = completion->ended_ns;
  flight->times.compute_input_ns += completion->input_ns - completion->started_ns;
  flight->times.compute_infer_ns += completion->infer_ns - completion->input_ns;
  flight->times.compute_output_ns += completion->ended_ns - completion->infer_ns;
}

static void count_batch(struct flight *flight) {
  struct attachment *attachment = flight->attachment;
  model_stats_batch(attachment->model->model.stats, flight->batch->rows, flight->batch->live, &flight->times);
  attachment->total_batches++;
  attachment->total_requests += flight->batch->n_jobs;
  attachment->total_rows += flight->batch->rows;
}

static void trace_run(struct call *call, const struct flight *flight) {
  uint64_t *ns = call->trace->ns;
  ns[TRACE_REQUEST_START] = ns[TRACE_QUEUE_START] = call->job.submitted_ns;
  ns[TRACE_COMPUTE_START] = flight->started_ns;
  ns[TRACE_COMPUTE_INPUT_END] = flight->input_ns;
  ns[TRACE_COMPUTE_OUTPUT_START] = flight->infer_ns;
  ns[TRACE_COMPUTE_END] = flight->ended_ns;
  ns[TRACE_RESPONSE_COMPLETE] = clock_now_ns();
}

/* The batch is over: first for the scheduler, then for its calls. A call that is told may be gone as soon as its loop
 * gets the lock, or sooner when an earlier event is still on its way to it. */
static void answer_members(struct core *core, struct flight *flight, uint32_t n, struct list *outbox) {
  struct sched_batch *batch = flight->batch;
  struct output_block *block = flight->block;
  batch->run_started_ns = flight->started_ns;
  batch->run_ended_ns = flight->fetching ? flight->infer_ns : flight->ended_ns; /* a later fetch is no part of it */
  block->users += n;
  flight_free(core, flight);
  sched_batch_done(core->sched, batch, clock_now_ns());
  for (uint32_t m = 0; m < n; m++) {
    struct call *call = core->members[m];
    call->n_results = call->request.n_outputs;
    call->block = block;
    call_return(core, call, MU_OK, "", outbox);
  }
}

static void flight_done(struct core *core, struct flight *flight, const struct channel_completion *completion,
                        struct list *outbox) {
  struct attachment *attachment = flight->attachment;
  struct sched_batch *batch = flight->batch;
  uint32_t n = flight_members(core, flight);
  bool by_rows = attachment->model->model.metadata->max_batch > 0 && follows_rows(flight, completion);
  if (n > 1 && !by_rows) {
    stop_batching(core, flight, outbox);
    return;
  }
  if (!reserve_all_results(core, n)) {
    flight_fail(core, flight, MU_NO_MEMORY, "no memory for the results", outbox); /* no fault of the worker's */
    return;
  }
  bool whole = true;
  const uint8_t *arena = channel_gate_output(attachment->gate)->data;
  for (uint32_t i = 0; whole && i < completion->n_outputs; i++) {
    const struct channel_output *output = &completion->outputs[i];
    whole = hand_out(core, n, output, arena + output->offset, by_rows);
    if (whole) output_shape_learn(attachment->model, batch->key, batch->rows, output);
  }
  if (!whole) {
    fail_run(core, flight, MU_INTERNAL, "the engine's output does not add up", outbox);
    return;
  }
  count_batch(flight);
  for (uint32_t m = 0; m < n; m++)
    if (core->members[m]->trace != NULL) trace_run(core->members[m], flight);
  answer_members(core, flight, n, outbox);
}

/* Into the lane's ring once more, with room for what the run said that it needs. */
static void send_again(struct core *core, struct flight *flight, bool fetching, struct list *outbox) {
  core_block_release(core, flight->block);
  flight->block = NULL;
  flight->fetching = fetching;
  list_remove(&flight->link);
  if (flight->batch->live > 0)
    flight_start(core, flight, outbox);
  else
    flight_fail(core, flight, MU_CANCELED, "nobody waits for it any more", outbox);
}

static void flight_error(struct core *core, struct flight *flight, const struct channel_completion *completion,
                         struct list *outbox) {
  /* A fetch runs nothing that could refuse an input: the batch behind this one had been sent before the fetch was, and
   * the lane holds only what its last run produced. So it runs again. */
  if (flight->fetching && completion->status == MU_INVALID)
    send_again(core, flight, false, outbox);
  else
    fail_run(core, flight, completion->status, completion->message, outbox);
}

static void flight_overflow(struct core *core, struct flight *flight, const struct channel_completion *completion,
                            struct list *outbox) {
  for (uint32_t i = 0; i < completion->n_outputs; i++) flight->needed[i] = completion->outputs[i].size;
  flight->sized = true;
  send_again(core, flight, true, outbox);
}

static void (*const handlers[])(struct core *, struct flight *, const struct channel_completion *, struct list *) = {
    [CHANNEL_DONE] = flight_done,
    [CHANNEL_ERROR] = flight_error,
    [CHANNEL_OVERFLOW] = flight_overflow,
};

static struct flight *find_flight(struct attachment *attachment, uint32_t lane, uint64_t batch) {
  list_each (link, &attachment->flights) {
    struct flight *flight = list_item(link, struct flight, link);
    if (flight->lane == lane && flight->batch->id == batch) return flight;
  }
  return NULL;
}

void attachment_drain_completions(struct attachment *attachment, struct list *outbox) {
  struct core *core = attachment->core;
  struct channel_completion *completion = &core->completion;
  for (;;) {
    uint32_t lane;
    mu_status status = channel_gate_next(attachment->gate, &lane, completion);
    if (status == MU_UNAVAILABLE) return;
    struct flight *flight = status == MU_OK ? find_flight(attachment, lane, completion->batch) : NULL;
    bool sound = flight != NULL && (completion->result == CHANNEL_ERROR || answers_flight(flight, completion));
    if (!sound) {
      attachment_report(attachment, CONTROL_WORKER_BROKEN, "it wrote nonsense into shared memory");
      return;
    }
    add_times(flight, completion);
    handlers[completion->result](core, flight, completion, outbox);
  }
}
