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

  pthread_mutex_t lock; /* of what follows, up to the empty line */
  pthread_cond_t turned;
  uint64_t last_ticket, turn;      /* whose turn it is: tickets are served in order */
  const struct lane_seat *running; /* NULL: no run; the main thread asks */
  uint64_t batch;

  /* Whose turn it is. */
  mu_input inputs[CHANNEL_TENSORS_MAX];
  struct block gathered[CHANNEL_TENSORS_MAX]; /* by position in the job */
  struct lane_seat *holder;                   /* outputs that it holds may stand in the instance's own memory */
};

/* Touched by whose turn it is. */
struct lane_seat {
  struct lane *lane;
  const struct shared_memory *input;
  struct shared_memory *output;
  mu_output outputs[CHANNEL_TENSORS_MAX]; /* of its last run */
  uint32_t n_outputs;
  bool holds; /* outputs are those of held_batch, and nothing has placed them yet */
  uint64_t held_batch;
  struct block held[CHANNEL_TENSORS_MAX]; /* results that stood in memory which is not ours any more */
};

struct lane *lane_create(const mu_engine *engine, mu_engine_instance *instance, const mu_model_info *info) {
  struct lane *lane = calloc(1, sizeof *lane);
  if (lane == NULL) return NULL;
  pthread_mutex_init(&lane->lock, NULL);
  pthread_cond_init(&lane->turned, NULL);
  lane->turn = 1;
  lane->engine = engine;
  lane->instance = instance;
  lane->info = info;
  return lane;
}

void lane_free(struct lane *lane) {
  if (lane == NULL) return;
  for (size_t i = 0; i < CHANNEL_TENSORS_MAX; i++) free(lane->gathered[i].data);
  pthread_cond_destroy(&lane->turned);
  pthread_mutex_destroy(&lane->lock);
  free(lane);
}

/* ---- seats and turns --------------------------------------------------------------------------------------------- */

static void take_turn(struct lane *lane) {
  pthread_mutex_lock(&lane->lock);
  uint64_t ticket = ++lane->last_ticket;
  while (lane->turn != ticket) pthread_cond_wait(&lane->turned, &lane->lock);
  pthread_mutex_unlock(&lane->lock);
}

static void end_turn(struct lane *lane) {
  pthread_mutex_lock(&lane->lock);
  if (lane->turn++ != lane->last_ticket) pthread_cond_broadcast(&lane->turned);
  pthread_mutex_unlock(&lane->lock);
}

struct lane_seat *lane_seat_create(struct lane *lane, const struct shared_memory *input, struct shared_memory *output) {
  struct lane_seat *seat = calloc(1, sizeof *seat);
  if (seat != NULL) *seat = (struct lane_seat){.lane = lane, .input = input, .output = output};
  return seat;
}

void lane_seat_free(struct lane_seat *seat) {
  if (seat == NULL) return;
  take_turn(seat->lane);
  if (seat->lane->holder == seat) seat->lane->holder = NULL;
  end_turn(seat->lane);
  for (size_t i = 0; i < CHANNEL_TENSORS_MAX; i++) free(seat->held[i].data);
  free(seat);
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

static mu_status gather(struct lane_seat *seat, const struct channel_job *job, uint32_t input, uint64_t size,
                        uint8_t **ret_data, mu_error *err) {
  if (size > seat->input->size) { /* only spans that overlap add up to more than the arena */
    return mu_fail(err, MU_INVALID, "the members of batch %llu overlap", (unsigned long long)job->batch);
  }
  struct block *block = &seat->lane->gathered[input];
  mu_status status = block_reserve(block, size, err);
  if (status != MU_OK) return status;
  uint8_t *to = block->data;
  for (uint32_t m = 0; m < job->n_members; m++) {
    const struct channel_span *span = &job->spans[(size_t)m * job->n_inputs + input];
    if (span->size > 0) memcpy(to, seat->input->data + span->offset, span->size);
    to += span->size;
  }
  *ret_data = block->data;
  return MU_OK;
}

static mu_status take_inputs(struct lane_seat *seat, const struct channel_job *job, mu_error *err) {
  struct lane *lane = seat->lane;
  for (uint32_t i = 0; i < job->n_inputs; i++) {
    const struct channel_input *input = &job->inputs[i];
    if (input->index >= lane->info->n_inputs) return mu_fail(err, MU_INVALID, "there is no input %u", input->index);
    uint64_t size = 0;
    uint8_t *data = NULL;
    if (are_neighbours(job, i, &size)) {
      data = seat->input->data + (job->n_members > 0 ? job->spans[i].offset : 0);
    } else {
      mu_status status = gather(seat, job, i, size, &data, err);
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
static bool offer_places(struct lane_seat *seat, const struct channel_job *job, bool offer) {
  bool offered = false;
  for (uint32_t i = 0; i < job->n_places; i++) {
    const struct channel_place *place = &job->places[i];
    mu_tensor *tensor = &seat->outputs[i].tensor;
    seat->outputs[i] = (mu_output){.index = place->index};
    uint64_t size = 0;
    if (!offer || !place->known || place->dtype == MU_BYTES) continue;
    if (shape_size(place->dtype, place->dims, place->rank, NULL, &size) != MU_OK || size > place->capacity) continue;
    *tensor = (mu_tensor){.dtype = place->dtype, .rank = place->rank, .size = size};
    memcpy(tensor->dims, place->dims, sizeof place->dims);
    tensor->data = seat->output->data + place->offset;
    offered = true;
  }
  seat->n_outputs = job->n_places;
  return offered;
}

static mu_status run_engine(struct lane_seat *seat, const struct channel_job *job, mu_error *err) {
  struct lane *lane = seat->lane;
  return lane->engine->run(lane->instance, lane->inputs, job->n_inputs, seat->outputs, job->n_places, err);
}

static void set_running(struct lane *lane, const struct lane_seat *running, uint64_t batch) {
  pthread_mutex_lock(&lane->lock);
  lane->running = running;
  lane->batch = batch;
  pthread_mutex_unlock(&lane->lock);
}

static mu_status run_batch(struct lane_seat *seat, const struct channel_job *job, mu_error *err) {
  set_running(seat->lane, seat, job->batch);
  bool offered = offer_places(seat, job, true);
  mu_status status = run_engine(seat, job, err);
  if (offered && !seat->lane->engine->any_shape && (status == MU_INVALID || status == MU_INTERNAL)) {
    /* Perhaps a shape was not what everybody thought. Without memory of ours the engine says what it is. */
    offer_places(seat, job, false);
    status = run_engine(seat, job, err);
  }
  set_running(seat->lane, NULL, 0);
  return status;
}

static const mu_output *find_output(const struct lane_seat *seat, uint32_t index) {
  for (uint32_t i = 0; i < seat->n_outputs; i++) {
    if (seat->outputs[i].index == index) return &seat->outputs[i];
  }
  return NULL;
}

/* Describes what goes to each place. *ret_fits: all of it does. */
static mu_status describe_outputs(const struct lane_seat *seat, const struct channel_job *job,
                                  struct channel_completion *completion, bool *ret_fits, mu_error *err) {
  bool fits = true;
  for (uint32_t i = 0; i < job->n_places; i++) {
    const struct channel_place *place = &job->places[i];
    const mu_output *output = find_output(seat, place->index);
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

/* An output moves to memory that stays the seat's until its next run. */
static mu_status keep_output(struct lane_seat *seat, uint32_t i, mu_error *err) {
  mu_tensor *tensor = &seat->outputs[i].tensor;
  if (tensor->data == NULL || tensor->data == seat->held[i].data) return MU_OK;
  mu_status status = block_reserve(&seat->held[i], tensor->size, err);
  if (status != MU_OK) return status;
  memcpy(seat->held[i].data, tensor->data, tensor->size);
  tensor->data = seat->held[i].data;
  return MU_OK;
}

/* The gateway may give the places away before it fetches: what already stands there is brought to safety. */
static mu_status hold_outputs(struct lane_seat *seat, uint64_t batch, mu_error *err) {
  const uint8_t *begin = seat->output->data, *end = begin + seat->output->size;
  for (uint32_t i = 0; i < seat->n_outputs; i++) {
    const uint8_t *data = seat->outputs[i].tensor.data;
    if (data == NULL || data < begin || data >= end) continue;
    mu_status status = keep_output(seat, i, err);
    if (status != MU_OK) return status;
  }
  seat->holds = true;
  seat->held_batch = batch;
  seat->lane->holder = seat;
  return MU_OK;
}

/* Before a run for another seat, which takes back what the instance has produced. Without memory the results are lost,
 * and whoever fetches them hears that. */
static void keep_held_outputs(struct lane *lane, const struct lane_seat *next) {
  struct lane_seat *holder = lane->holder;
  lane->holder = NULL;
  if (holder == NULL || holder == next) return;
  mu_error err;
  for (uint32_t i = 0; holder->holds && i < holder->n_outputs; i++)
    if (keep_output(holder, i, &err) != MU_OK) holder->holds = false;
}

static void write_outputs(struct lane_seat *seat, const struct channel_job *job,
                          struct channel_completion *completion) {
  for (uint32_t i = 0; i < job->n_places; i++) {
    const mu_tensor *tensor = &find_output(seat, job->places[i].index)->tensor;
    uint8_t *to = seat->output->data + job->places[i].offset;
    if (tensor->size > 0 && tensor->data != to) memcpy(to, tensor->data, tensor->size);
    completion->outputs[i].offset = job->places[i].offset;
  }
}

static mu_status place_outputs(struct lane_seat *seat, const struct channel_job *job,
                               struct channel_completion *completion, mu_error *err) {
  bool fits = false;
  mu_status status = describe_outputs(seat, job, completion, &fits, err);
  if (status != MU_OK) return status;
  if (fits) {
    write_outputs(seat, job, completion);
    completion->result = CHANNEL_DONE;
    return MU_OK;
  }
  completion->result = CHANNEL_OVERFLOW;
  return hold_outputs(seat, job->batch, err);
}

/* ---- jobs -------------------------------------------------------------------------------------------------------- */

static mu_status do_run(struct lane_seat *seat, const struct channel_job *job, struct channel_completion *completion,
                        mu_error *err) {
  keep_held_outputs(seat->lane, seat);
  seat->holds = false;
  mu_status status = take_inputs(seat, job, err);
  completion->input_ns = clock_now_ns();
  if (status == MU_OK) status = run_batch(seat, job, err);
  completion->infer_ns = clock_now_ns();
  return status == MU_OK ? place_outputs(seat, job, completion, err) : status;
}

static mu_status do_fetch(struct lane_seat *seat, const struct channel_job *job, struct channel_completion *completion,
                          mu_error *err) {
  completion->input_ns = completion->infer_ns = completion->started_ns;
  if (!seat->holds || seat->held_batch != job->batch) {
    return mu_fail(err, MU_INVALID, "the outputs of batch %llu are not held", (unsigned long long)job->batch);
  }
  return place_outputs(seat, job, completion, err);
}

static mu_status (*const doers[])(struct lane_seat *, const struct channel_job *, struct channel_completion *,
                                  mu_error *) = {[CHANNEL_RUN] = do_run, [CHANNEL_FETCH] = do_fetch};

mu_status lane_run(struct lane_seat *seat, const struct channel_job *job, struct channel_completion *ret_completion) {
  struct channel_completion *completion = ret_completion;
  mu_error err = {{0}};
  completion->epoch = job->epoch;
  completion->batch = job->batch;
  completion->n_outputs = 0;
  take_turn(seat->lane);
  completion->started_ns = clock_now_ns();
  mu_status status = doers[job->type](seat, job, completion, &err);
  end_turn(seat->lane);
  if (status != MU_OK) {
    completion->result = CHANNEL_ERROR;
    completion->n_outputs = 0;
  }
  completion->status = status;
  memcpy(completion->message, err.message, sizeof completion->message);
  completion->ended_ns = clock_now_ns();
  return status == MU_IO ? MU_IO : MU_OK;
}

void lane_stop(struct lane_seat *seat, uint64_t batch) {
  struct lane *lane = seat->lane;
  pthread_mutex_lock(&lane->lock);
  if (lane->running == seat && lane->batch == batch && lane->engine->stop != NULL) lane->engine->stop(lane->instance);
  pthread_mutex_unlock(&lane->lock);
}

void lane_stop_any(struct lane_seat *seat) {
  struct lane *lane = seat->lane;
  pthread_mutex_lock(&lane->lock);
  if (lane->running == seat && lane->engine->stop != NULL) lane->engine->stop(lane->instance);
  pthread_mutex_unlock(&lane->lock);
}
