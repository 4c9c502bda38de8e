#include "worker/lane.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

/* Memory that grows and is kept for the next job. */
struct block {
  uint8_t *data;
  size_t capacity;
};

struct lane {
  const mu_engine *engine;
  mu_engine_instance *instance;
  const mu_model_info *info;
  const struct shared_memory *input;
  struct shared_memory *output;

  pthread_mutex_t lock; /* of the two below: the main thread asks what runs */
  bool running;
  uint64_t batch;

  mu_input inputs[CHANNEL_TENSORS_MAX];
  struct block gathered[CHANNEL_TENSORS_MAX]; /* by position in the job */
  mu_output outputs[CHANNEL_TENSORS_MAX];     /* of the last run */
  uint32_t n_outputs;
  bool holds; /* outputs are those of held_batch, and nothing has placed them yet */
  uint64_t held_batch;
  struct block held[CHANNEL_TENSORS_MAX]; /* results that stood in places which are not the lane's any more */
};

struct lane *lane_create(const mu_engine *engine, mu_engine_instance *instance, const mu_model_info *info) {
  struct lane *lane = calloc(1, sizeof *lane);
  if (lane == NULL) return NULL;
  pthread_mutex_init(&lane->lock, NULL);
  lane->engine = engine;
  lane->instance = instance;
  lane->info = info;
  return lane;
}

void lane_free(struct lane *lane) {
  if (lane == NULL) return;
  for (size_t i = 0; i < CHANNEL_TENSORS_MAX; i++) {
    free(lane->gathered[i].data);
    free(lane->held[i].data);
  }
  pthread_mutex_destroy(&lane->lock);
  free(lane);
}

void lane_begin(struct lane *lane, const struct shared_memory *input, struct shared_memory *output) {
  lane->input = input;
  lane->output = output;
  lane->holds = false;
}

static mu_status block_reserve(struct block *block, size_t size, mu_error *err) {
  if (size <= block->capacity && block->data != NULL) return MU_OK;
  size_t capacity = (size + 4095) / 4096 * 4096;
  if (capacity < size) return mu_fail(err, MU_TOO_LARGE, "%zu bytes are too many", size);
  if (capacity < block->capacity + block->capacity / 2)
    capacity = (block->capacity + block->capacity / 2) & ~(size_t)63;
  uint8_t *data = aligned_alloc(64, capacity > 0 ? capacity : 64);
  if (data == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for a batch (%zu bytes)", size);
  free(block->data); /* its content is of an earlier job: not copied */
  *block = (struct block){data, capacity};
  return MU_OK;
}

/* ---- inputs ------------------------------------------------------------------------------------------------------ */

/* Whether the members' bytes of an input follow each other in the arena; *ret_size: of all of them. */
static bool are_neighbours(const struct channel_job *job, uint32_t input, uint64_t *ret_size) {
  const struct channel_span *spans = job->spans + input;
  bool neighbours = true;
  uint64_t size = 0, next = job->n_members > 0 ? spans[0].offset : 0;
  for (uint32_t m = 0; m < job->n_members; m++) {
    const struct channel_span *span = &spans[(size_t)m * job->n_inputs];
    neighbours = neighbours && span->offset == next;
    next = span->offset + span->size;
    size += span->size; /* at most CHANNEL_MEMBERS_MAX arenas: no overflow */
  }
  *ret_size = size;
  return neighbours;
}

static mu_status gather(struct lane *lane, const struct channel_job *job, uint32_t input, uint64_t size,
                        uint8_t **ret_data, mu_error *err) {
  if (size > lane->input->size) { /* only spans that overlap add up to more than the arena */
    return mu_fail(err, MU_INVALID, "the members of batch %llu overlap", (unsigned long long)job->batch);
  }
  struct block *block = &lane->gathered[input];
  mu_status status = block_reserve(block, size, err);
  if (status != MU_OK) return status;
  uint8_t *to = block->data;
  for (uint32_t m = 0; m < job->n_members; m++) {
    const struct channel_span *span = &job->spans[(size_t)m * job->n_inputs + input];
    if (span->size > 0) memcpy(to, lane->input->data + span->offset, span->size);
    to += span->size;
  }
  *ret_data = block->data;
  return MU_OK;
}

static mu_status take_inputs(struct lane *lane, const struct channel_job *job, mu_error *err) {
  for (uint32_t i = 0; i < job->n_inputs; i++) {
    const struct channel_input *input = &job->inputs[i];
    if (input->index >= lane->info->n_inputs) return mu_fail(err, MU_INVALID, "there is no input %u", input->index);
    uint64_t size = 0;
    uint8_t *data = NULL;
    if (are_neighbours(job, i, &size)) {
      data = lane->input->data + (job->n_members > 0 ? job->spans[i].offset : 0);
    } else {
      mu_status status = gather(lane, job, i, size, &data, err);
      if (status != MU_OK) return status;
    }
    lane->inputs[i] =
        (mu_input){input->index, {.dtype = input->dtype, .rank = input->rank, .data = data, .size = size}};
    memcpy(lane->inputs[i].tensor.dims, input->dims, sizeof input->dims);
  }
  return MU_OK;
}

/* ---- outputs ----------------------------------------------------------------------------------------------------- */

/* Offers the engine the places whose shape is known. Returns whether there is one. */
static bool offer_places(struct lane *lane, const struct channel_job *job, bool offer) {
  bool offered = false;
  for (uint32_t i = 0; i < job->n_places; i++) {
    const struct channel_place *place = &job->places[i];
    mu_tensor *tensor = &lane->outputs[i].tensor;
    lane->outputs[i] = (mu_output){.index = place->index};
    uint64_t size = 0;
    if (!offer || !place->known || place->dtype == MU_BYTES) continue;
    if (shape_size(place->dtype, place->dims, place->rank, NULL, &size) != MU_OK || size > place->capacity) continue;
    *tensor = (mu_tensor){.dtype = place->dtype, .rank = place->rank, .size = size};
    memcpy(tensor->dims, place->dims, sizeof place->dims);
    tensor->data = lane->output->data + place->offset;
    offered = true;
  }
  lane->n_outputs = job->n_places;
  return offered;
}

static mu_status run_engine(struct lane *lane, const struct channel_job *job, mu_error *err) {
  return lane->engine->run(lane->instance, lane->inputs, job->n_inputs, lane->outputs, job->n_places, err);
}

static void set_running(struct lane *lane, bool running, uint64_t batch) {
  pthread_mutex_lock(&lane->lock);
  lane->running = running;
  lane->batch = batch;
  pthread_mutex_unlock(&lane->lock);
}

static mu_status run_batch(struct lane *lane, const struct channel_job *job, mu_error *err) {
  set_running(lane, true, job->batch);
  bool offered = offer_places(lane, job, true);
  mu_status status = run_engine(lane, job, err);
  if (offered && (status == MU_INVALID || status == MU_INTERNAL)) {
    /* Perhaps a shape was not what everybody thought. Without memory of ours the engine says what it is. */
    offer_places(lane, job, false);
    status = run_engine(lane, job, err);
  }
  set_running(lane, false, 0);
  return status;
}

static const mu_output *find_output(const struct lane *lane, uint32_t index) {
  for (uint32_t i = 0; i < lane->n_outputs; i++) {
    if (lane->outputs[i].index == index) return &lane->outputs[i];
  }
  return NULL;
}

/* Describes what goes to each place. *ret_fits: all of it does. */
static mu_status describe_outputs(const struct lane *lane, const struct channel_job *job,
                                  struct channel_completion *completion, bool *ret_fits, mu_error *err) {
  bool fits = true;
  for (uint32_t i = 0; i < job->n_places; i++) {
    const struct channel_place *place = &job->places[i];
    const mu_output *output = find_output(lane, place->index);
    if (output == NULL) return mu_fail(err, MU_INVALID, "output %u was not part of the batch", place->index);
    const mu_tensor *tensor = &output->tensor;
    struct channel_output *described = &completion->outputs[i];
    *described = (struct channel_output){
        .index = place->index, .dtype = tensor->dtype, .rank = tensor->rank, .size = tensor->size};
    memcpy(described->dims, tensor->dims, tensor->rank * sizeof tensor->dims[0]);
    fits = fits && tensor->size <= place->capacity;
  }
  completion->n_outputs = job->n_places;
  *ret_fits = fits;
  return MU_OK;
}

/* The gateway may give the places away before it fetches: what already stands there is brought to safety. */
static mu_status hold_outputs(struct lane *lane, uint64_t batch, mu_error *err) {
  const uint8_t *begin = lane->output->data, *end = begin + lane->output->size;
  for (uint32_t i = 0; i < lane->n_outputs; i++) {
    mu_tensor *tensor = &lane->outputs[i].tensor;
    const uint8_t *data = tensor->data;
    if (data == NULL || data < begin || data >= end) continue;
    mu_status status = block_reserve(&lane->held[i], tensor->size, err);
    if (status != MU_OK) return status;
    memcpy(lane->held[i].data, data, tensor->size);
    tensor->data = lane->held[i].data;
  }
  lane->holds = true;
  lane->held_batch = batch;
  return MU_OK;
}

static void write_outputs(struct lane *lane, const struct channel_job *job, struct channel_completion *completion) {
  for (uint32_t i = 0; i < job->n_places; i++) {
    const mu_tensor *tensor = &find_output(lane, job->places[i].index)->tensor;
    uint8_t *to = lane->output->data + job->places[i].offset;
    if (tensor->size > 0 && tensor->data != to) memcpy(to, tensor->data, tensor->size);
    completion->outputs[i].offset = job->places[i].offset;
  }
}

static mu_status place_outputs(struct lane *lane, const struct channel_job *job, struct channel_completion *completion,
                               mu_error *err) {
  bool fits = false;
  mu_status status = describe_outputs(lane, job, completion, &fits, err);
  if (status != MU_OK) return status;
  if (fits) {
    write_outputs(lane, job, completion);
    completion->result = CHANNEL_DONE;
    return MU_OK;
  }
  completion->result = CHANNEL_OVERFLOW;
  return hold_outputs(lane, job->batch, err);
}

/* ---- jobs -------------------------------------------------------------------------------------------------------- */

static mu_status do_run(struct lane *lane, const struct channel_job *job, struct channel_completion *completion,
                        mu_error *err) {
  lane->holds = false;
  mu_status status = take_inputs(lane, job, err);
  completion->input_ns = clock_now_ns();
  if (status == MU_OK) status = run_batch(lane, job, err);
  completion->infer_ns = clock_now_ns();
  return status == MU_OK ? place_outputs(lane, job, completion, err) : status;
}

static mu_status do_fetch(struct lane *lane, const struct channel_job *job, struct channel_completion *completion,
                          mu_error *err) {
  completion->input_ns = completion->infer_ns = completion->started_ns;
  if (!lane->holds || lane->held_batch != job->batch) {
    return mu_fail(err, MU_INVALID, "the outputs of batch %llu are not held", (unsigned long long)job->batch);
  }
  return place_outputs(lane, job, completion, err);
}

static mu_status (*const doers[])(struct lane *, const struct channel_job *, struct channel_completion *,
                                  mu_error *) = {[CHANNEL_RUN] = do_run, [CHANNEL_FETCH] = do_fetch};

mu_status lane_run(struct lane *lane, const struct channel_job *job, struct channel_completion *ret_completion) {
  struct channel_completion *completion = ret_completion;
  mu_error err = {{0}};
  completion->epoch = job->epoch;
  completion->batch = job->batch;
  completion->started_ns = clock_now_ns();
  completion->n_outputs = 0;
  mu_status status = doers[job->type](lane, job, completion, &err);
  if (status != MU_OK) {
    completion->result = CHANNEL_ERROR;
    completion->n_outputs = 0;
  }
  completion->status = status;
  memcpy(completion->message, err.message, sizeof completion->message);
  completion->ended_ns = clock_now_ns();
  return status == MU_IO ? MU_IO : MU_OK;
}

void lane_stop(struct lane *lane, uint64_t batch) {
  pthread_mutex_lock(&lane->lock);
  if (lane->running && lane->batch == batch && lane->engine->stop != NULL) lane->engine->stop(lane->instance);
  pthread_mutex_unlock(&lane->lock);
}

void lane_stop_any(struct lane *lane) {
  pthread_mutex_lock(&lane->lock);
  if (lane->running && lane->engine->stop != NULL) lane->engine->stop(lane->instance);
  pthread_mutex_unlock(&lane->lock);
}
