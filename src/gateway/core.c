#include "gateway/core.h"

#include "base/log.h"
#include "gateway/attachment.h"
#include "gateway/call.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

static uint64_t machine_memory(void) {
  long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
  return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
}

mu_status core_init(struct core *core, const struct options *options, uint32_t n_loops, mu_error *err) {
  *core = (struct core){.options = options, .n_loops = n_loops, .timer = -1, .timer_armed_ns = TIME_NEVER};
  pthread_mutex_init(&core->lock, NULL);
  pthread_mutex_init(&core->machine_lock, NULL);
  list_init(&core->known);
  list_init(&core->controls);
  list_init(&core->attachments);
  list_init(&core->stalled);
  list_init(&core->reserving);
  list_init(&core->telling);
  list_init(&core->free_flights);
  list_init(&core->region_changes);
  regions_init(&core->regions);
  core->started_ns = clock_now_ns();
  core->default_request_timeout_ns = (uint64_t)options->default_request_timeout_ns;
  core->strict_readiness = options->strict_readiness;
  uint64_t limit = options->memory_budget > 0 ? (uint64_t)options->memory_budget : machine_memory() / 2;
  core->budget.limit = limit;
  core->input_budget = (struct memory_budget){.limit = limit - limit / 8 * 3, .within = &core->budget};
  core->output_budget = (struct memory_budget){.limit = limit, .within = &core->budget};
  core->staging_budget = (struct memory_budget){.limit = limit / 2, .within = &core->input_budget};
  core->reply_budget = (struct memory_budget){.limit = limit / 8, .within = &core->budget};
  mu_status traced = tracer_init(&core->tracer, options, err);
  if (traced != MU_OK) return traced;
  metrics_config_init(&core->metrics_config);
  for (size_t i = 0; i < options->metrics_config.n; i++) {
    mu_status status = metrics_config_set(&core->metrics_config, options->metrics_config.items[i], err);
    if (status != MU_OK) return status;
  }
  core->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
  if (core->timer < 0) return mu_fail(err, MU_IO, "timerfd_create: %s", strerror(errno));
  core->sched = sched_create(NULL);
  core->loops = calloc(n_loops, sizeof *core->loops);
  if (core->sched == NULL || core->loops == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the scheduler");
  return MU_OK;
}

mu_status core_init_loop(struct core *core, uint32_t i) {
  struct gateway_loop *loop = &core->loops[i];
  loop->core = core;
  loop->index = i;
  struct list *lists[] = {&loop->free_calls, &loop->websockets, &loop->streams, &loop->talks};
  for (size_t k = 0; k < sizeof lists / sizeof *lists; k++) list_init(lists[k]);
  loop->net = net_loop_create();
  if (loop->net == NULL) return MU_NO_MEMORY;
  uv_timer_t *timers[] = {&loop->watch_timer, &loop->stream_timer, &loop->ping_timer};
  for (size_t k = 0; k < sizeof timers / sizeof *timers; k++) uv_timer_init(net_loop_uv(loop->net), timers[k]);
  return MU_OK;
}

void core_set_options(struct core *core, const struct options *options) {
  pthread_mutex_lock(&core->lock);
  core->default_request_timeout_ns = (uint64_t)options->default_request_timeout_ns;
  core->strict_readiness = options->strict_readiness;
  pthread_mutex_unlock(&core->lock);
}

/* ---- readiness --------------------------------------------------------------------------------------------------- */

bool core_model_ready(const struct gateway_model *model) {
  return model->model.state == MODEL_READY && model->attached > 0;
}

bool core_ready(struct core *core) {
  if (core->draining) return false;
  pthread_mutex_lock(&core->lock);
  size_t ready = 0;
  for (size_t i = 0; i < core->n_models; i++) ready += core_model_ready(core->models[i]);
  bool may_be_none = core->options->model_control_mode == CONTROL_MODE_EXPLICIT;
  bool all = ready == core->n_models, any = ready > 0 || (may_be_none && core->n_models == 0);
  bool result = core->strict_readiness ? all && any : any;
  pthread_mutex_unlock(&core->lock);
  return result;
}

mu_status core_model_check(const struct gateway_model *model, mu_error *err) {
  static const char *const why[] = {
      [MODEL_LOADING] = "is still loading",
      [MODEL_READY] = "has no worker yet",
      [MODEL_UNLOADING] = "is being unloaded",
      [MODEL_UNAVAILABLE] = "is not available",
  };
  enum model_state state = model->model.state;
  /* A model that was ready once takes requests while its worker is restarted: they wait in the queue. */
  bool takes = model->sched != NULL && (state == MODEL_READY || state == MODEL_LOADING);
  if (takes) return MU_OK;
  return mu_fail(err, MU_UNAVAILABLE, "Request for unknown model: '%s' %s%s%s", model->model.name, why[state],
                 model->model.reason[0] != '\0' ? ": " : "", model->model.reason);
}

mu_status core_model_takes_requests(struct core *core, const struct gateway_model *model, mu_error *err) {
  pthread_mutex_lock(&core->lock);
  mu_status status = core_model_check(model, err);
  pthread_mutex_unlock(&core->lock);
  return status;
}

static uint64_t from_us(uint64_t us) { return us > TIME_NEVER / NS_PER_US ? TIME_NEVER : us * NS_PER_US; }

static void set_state(struct gateway_model *model, enum model_state state, const char *reason) {
  char *copy = strdup(reason);
  if (copy != NULL) {
    free(model->model.reason);
    model->model.reason = copy;
  } else {
    model->model.reason[0] = '\0'; /* the state counts: nobody says it again */
  }
  model->model.state = state;
}

static struct gateway_model *create_model(struct core *core, const struct control_model_set *message, mu_error *err) {
  struct gateway_model *model = calloc(1, sizeof *model);
  if (model == NULL) goto no_memory;
  model->number = message->model;
  list_init(&model->link);
  model->input.fd = -1;
  model->model.version = message->version;
  model->model.name = strdup(message->name);
  model->model.reason = strdup("");
  model->model.stats = model_stats_create();
  if (model->model.name == NULL || model->model.reason == NULL || model->model.stats == NULL) goto no_memory;
  if (core->metrics_config.summary_latencies && model_stats_summarize(model->model.stats) != MU_OK) goto no_memory;
  if (model_config_parse(message->config.data, message->config.size, "config.pbtxt", message->name,
                         &model->model.config, err) != MU_OK)
    goto fail;
  mu_error labels;
  if (message->folder[0] != '\0' && model_config_read_labels(model->model.config, message->folder, &labels) != MU_OK)
    LOG_WARNING("labels cannot be read", LOG_STR("model", message->name), LOG_STR("error", labels.message));
  if (core_add_model(core, model) != MU_OK) goto no_memory;
  return model;

no_memory:
  mu_fail(err, MU_NO_MEMORY, "no memory for the model's entry");
fail:
  core_free_model(model);
  return NULL;
}

/* What the supervisor says of the model's queues; core_schedule_model adds what the model itself says. */
static void set_params(struct gateway_model *model, const struct control_model_set *message) {
  const struct model_config *config = model->model.config;
  bool own_delay = message->max_queue_delay_us >= 0;
  model->params = (struct sched_model_params){
      .max_batch = message->batching ? UINT32_MAX : 1,
      .has_max_queue_delay = config->has_max_queue_delay || own_delay,
      .preserve_ordering = config->preserve_ordering,
      .max_queue_requests = message->max_queue_requests,
      .max_queue_bytes = message->max_queue_bytes,
      .max_learned_wait_ns = message->max_batch_wait_ns,
      .max_execution_ns = message->max_execution_ns,
      .first_execution_ns = message->first_execution_ns,
      .choice = message->round_robin ? SCHED_ROUND_ROBIN : SCHED_QUEUE_DEPTH,
      .owner = model,
  };
  if (config->has_max_queue_delay)
    model->params.max_queue_delay_ns = from_us(config->max_queue_delay_us);
  else if (own_delay)
    model->params.max_queue_delay_ns = from_us((uint64_t)message->max_queue_delay_us);
}

void core_set_model(struct core *core, const struct control_model_set *message) {
  mu_error err;
  struct list outbox;
  list_init(&outbox);
  pthread_mutex_lock(&core->lock);
  struct gateway_model *model = core_model_by_number(core, message->model);
  if (model == NULL) model = create_model(core, message, &err);
  if (model != NULL) {
    if (model->sched == NULL) set_params(model, message);
    if (message->listed && !model->listed && !model->leaving) core_list_model(core, model);
    set_state(model, (enum model_state)message->state, message->reason);
    if (model->sched != NULL && model->model.state == MODEL_UNAVAILABLE) sched_model_drop_waiting(model->sched);
    core_run(core, &outbox);
  }
  pthread_mutex_unlock(&core->lock);
  core_deliver(&outbox, &core->loops[0]);
  if (model == NULL)
    LOG_ERROR("model cannot be served", LOG_STR("model", message->name), LOG_STR("error", err.message));
}

/* ---- a loaded model: its scheduler entry and its memory ---------------------------------------------------------- */

static struct sched_queue_policy queue_policy(const struct queue_policy *policy) {
  return (struct sched_queue_policy){
      .delay = policy->delay,
      .default_timeout_ns = from_us(policy->default_timeout_us),
      .allow_timeout_override = policy->allow_timeout_override,
      .max_queue_size = policy->max_queue_size,
  };
}

/* Ascending and each once, as the scheduler wants them. Where the file leaves max_batch_size open, a size can be more
 * than the model turns out to take: it is never reached then. */
static mu_status fill_preferred(const struct model_config *config, struct sched_model_params *params, mu_error *err) {
  for (uint32_t i = 0; i < config->n_preferred_batch_sizes; i++) {
    int64_t size = config->preferred_batch_sizes[i];
    uint32_t at = params->n_preferred;
    if (size < 1 || size > (int64_t)params->max_batch) continue;
    while (at > 0 && params->preferred[at - 1] > size) at--;
    if (at > 0 && params->preferred[at - 1] == size) continue;
    if (params->n_preferred == SCHED_PREFERRED_MAX)
      return mu_fail(err, MU_UNSUPPORTED, "more than %d preferred_batch_size values", SCHED_PREFERRED_MAX);
    memmove(params->preferred + at + 1, params->preferred + at, (params->n_preferred++ - at) * sizeof(uint32_t));
    params->preferred[at] = (uint32_t)size;
  }
  return MU_OK;
}

static mu_status fill_priorities(const struct model_config *config, struct sched_model_params *params, mu_error *err) {
  if (config->priority_levels > SCHED_PRIORITY_MAX)
    return mu_fail(err, MU_UNSUPPORTED, "more than %d priority_levels", SCHED_PRIORITY_MAX);
  params->priority_levels = (uint32_t)config->priority_levels;
  params->default_priority_level = (uint32_t)config->default_priority_level;
  for (uint32_t level = 0; level <= params->priority_levels; level++)
    params->policies[level] = queue_policy(&config->default_queue_policy);
  /* Without levels the file's policies for them are ignored, and their numbers have not been checked. */
  for (uint32_t i = 0; params->priority_levels > 0 && i < config->n_priority_queue_policies; i++)
    params->policies[config->priority_queue_policies[i].level] =
        queue_policy(&config->priority_queue_policies[i].policy);
  return MU_OK;
}

mu_status core_schedule_model(struct core *core, struct gateway_model *model, uint32_t batch_tokens, mu_error *err) {
  struct sched_model_params *params = &model->params;
  uint32_t most = model->model.metadata->max_batch;
  if (params->max_batch > most) params->max_batch = most;
  params->tokens = batch_tokens;
  mu_status status = fill_preferred(model->model.config, params, err);
  if (status == MU_OK) status = fill_priorities(model->model.config, params, err);
  if (status != MU_OK) return status;
  model->sched = sched_add_model(core->sched, params);
  return model->sched != NULL ? MU_OK : mu_fail(err, MU_NO_MEMORY, "no memory for the model's queue");
}

/* The scratch that dispatching needs, for the largest batch of any model. */
static mu_status grow_scratch(struct core *core, uint32_t members, uint32_t spans, mu_error *err) {
  if (members > core->members_capacity) {
    struct call **bigger = reallocarray(core->members, members, sizeof *bigger);
    if (bigger == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for batches of %u", members);
    core->members = bigger;
    core->members_capacity = members;
  }
  if (spans > core->spans_capacity) {
    struct channel_span *bigger = reallocarray(core->spans, spans, sizeof *bigger);
    if (bigger == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for batches of %u", members);
    core->spans = bigger;
    core->spans_capacity = spans;
  }
  return MU_OK;
}

uint32_t core_max_members(const struct gateway_model *model) {
  uint32_t max_batch = model->model.metadata->max_batch;
  return max_batch == 0 ? 1 : max_batch;
}

/* May be called again after it has failed. */
static mu_status open_memory(struct core *core, struct gateway_model *model, mu_error *err) {
  const struct model_metadata *metadata = model->model.metadata;
  if (metadata->n_inputs > SLOT_INPUTS_MAX || metadata->n_outputs > CHANNEL_TENSORS_MAX)
    return mu_fail(err, MU_UNSUPPORTED, "%u inputs and %u outputs: at most %d of each are served", metadata->n_inputs,
                   metadata->n_outputs, SLOT_INPUTS_MAX);
  uint32_t members = core_max_members(model);
  if (members > CHANNEL_MEMBERS_MAX)
    return mu_fail(err, MU_UNSUPPORTED, "max_batch_size %u: at most %d is served", members, CHANNEL_MEMBERS_MAX);
  mu_status status = grow_scratch(core, members, members * (metadata->n_inputs == 0 ? 1 : metadata->n_inputs), err);
  if (status != MU_OK) return status;
  char name[128];
  snprintf(name, sizeof name, "muster-input:%.80s/%lld", model->model.name, (long long)model->model.version);
  if (model->input.data == NULL)
    status = shared_memory_create(name, (size_t)core->options->input_arena, &model->input, err);
  if (status != MU_OK) return status;
  if (model->input_space == NULL) model->input_space = arena_space_create(model->input.size, &core->input_budget);
  if (model->input_space == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the input arena");
  model->slots = slot_pool_create(model->input_space, metadata->max_batch > 1 ? 2 * metadata->max_batch : 1);
  return model->slots != NULL ? MU_OK : mu_fail(err, MU_NO_MEMORY, "no memory for the input arena");
}

void core_model_loaded(struct core *core, const struct control_model_loaded *message) {
  mu_error err = {""};
  struct model_metadata *metadata = NULL;
  pthread_mutex_lock(&core->lock);
  struct gateway_model *model = core_model_by_number(core, message->model);
  mu_status status = MU_OK;
  if (model != NULL && model->slots == NULL) { /* else a restarted worker says what is known already */
    if (model->model.metadata == NULL)
      status = model_metadata_decode(message->metadata.data, message->metadata.size, &metadata);
    if (status != MU_OK)
      mu_fail(&err, status, "the worker's description of the model does not add up");
    else if (model->model.metadata == NULL)
      model->model.metadata = metadata;
    if (status == MU_OK) status = open_memory(core, model, &err);
    /* Its workers are being restarted, or attach again after a gateway before this one: requests wait for them. */
    if (status == MU_OK && message->was_ready) status = core_schedule_model(core, model, message->batch_tokens, &err);
    if (status != MU_OK) set_state(model, MODEL_UNAVAILABLE, err.message);
  }
  pthread_mutex_unlock(&core->lock);
  if (status != MU_OK)
    LOG_ERROR("model cannot be served", LOG_STR("model", model->model.name), LOG_STR("error", err.message));
}

/* ---- memory of requests ------------------------------------------------------------------------------------------ */

uint64_t core_deadline_ns(const struct core *core, const struct request *request) {
  uint64_t own_ns = request->deadline_ns > 0 ? request->deadline_ns : TIME_NEVER;
  if (request->timeout_us == 0 && own_ns != TIME_NEVER) return own_ns;
  uint64_t timeout_ns = request->timeout_us > 0 ? from_us(request->timeout_us) : core->default_request_timeout_ns;
  uint64_t deadline_ns = time_add(request->received_ns, timeout_ns);
  return deadline_ns < own_ns ? deadline_ns : own_ns;
}

bool core_make_room(struct core *core, const struct memory_budget *budget, uint64_t bytes) {
  bool lacking = false;
  for (; budget != NULL; budget = budget->within) lacking |= budget->limit != 0 && budget->limit - budget->used < bytes;
  if (!lacking) return false;
  uint64_t before = core->budget.used;
  list_each (link, &core->known) {
    struct gateway_model *model = list_item(link, struct gateway_model, link);
    if (model->slots != NULL) slot_pool_trim(model->slots);
  }
  return core->budget.used < before;
}

static bool take(struct core *core, struct memory_budget *budget, uint64_t bytes) {
  pthread_mutex_lock(&core->lock);
  bool taken =
      memory_budget_take(budget, bytes) || (core_make_room(core, budget, bytes) && memory_budget_take(budget, bytes));
  pthread_mutex_unlock(&core->lock);
  return taken;
}

static void give(struct core *core, struct memory_budget *budget, uint64_t bytes) {
  if (bytes == 0) return;
  struct list outbox;
  list_init(&outbox);
  pthread_mutex_lock(&core->lock);
  memory_budget_give(budget, bytes);
  core_run(core, &outbox);
  pthread_mutex_unlock(&core->lock);
  core_deliver(&outbox, NULL);
}

bool core_stage(struct core *core, uint64_t bytes) { return take(core, &core->staging_budget, bytes); }
void core_unstage(struct core *core, uint64_t bytes) { give(core, &core->staging_budget, bytes); }
bool core_hold(struct core *core, uint64_t bytes) { return take(core, &core->reply_budget, bytes); }
void core_let_go(struct core *core, uint64_t bytes) { give(core, &core->reply_budget, bytes); }

/* One try, locked. */
static mu_status try_reserve(struct core *core, struct call *call, mu_error *err) {
  struct gateway_model *model = call->model;
  struct request *request = &call->request;
  bool batched = model->model.metadata->max_batch > 0;
  struct slot_need needs[SLOT_INPUTS_MAX];
  for (uint32_t i = 0; i < request->n_inputs; i++) {
    const struct request_input *input = &request->inputs[i];
    bool apart = input->dtype == MU_BYTES;
    needs[i] =
        (struct slot_need){.size = apart || !batched ? input->size : input->size / request->rows, .apart = apart};
  }
  uint32_t rows = batched ? request->rows : 1;
  uint64_t most = request->input_bytes + (uint64_t)request->n_inputs * ARENA_ALIGNMENT;
  mu_status status = slot_pool_reserve(model->slots, needs, request->n_inputs, rows, &call->slots);
  if (status == MU_UNAVAILABLE && core_make_room(core, &core->input_budget, most))
    status = slot_pool_reserve(model->slots, needs, request->n_inputs, rows, &call->slots);
  if (status == MU_TOO_LARGE)
    return mu_fail(err, status, "inputs of %llu bytes: at most %llu fit (--input-arena, --memory-budget)",
                   (unsigned long long)request->input_bytes, (unsigned long long)arena_space_limit(model->input_space));
  if (status != MU_OK) return mu_fail(err, status, "no input memory is free (--input-arena, --memory-budget)");
  for (uint32_t i = 0; i < request->n_inputs; i++) {
    request->inputs[i].offset = call->slots.offsets[i];
    request->inputs[i].data = model->input.data + call->slots.offsets[i];
  }
  call->reserved = true;
  return MU_OK;
}

static void leave_line(struct call *call) {
  list_remove(&call->link);
  call->model->n_reserving--;
}

mu_status core_reserve(struct core *core, struct call *call, mu_error *err) {
  pthread_mutex_lock(&core->lock);
  /* Where somebody of the same model waits already nobody may overtake. */
  mu_status status = call->model->n_reserving > 0 ? MU_UNAVAILABLE : try_reserve(core, call, err);
  if (status == MU_UNAVAILABLE) {
    list_push_back(&core->reserving, &call->link);
    call->model->n_reserving++;
  }
  pthread_mutex_unlock(&core->lock);
  return status;
}

void core_release_inputs(struct core *core, struct call *call) {
  if (!call->reserved) return;
  call->reserved = false;
  slot_pool_release(call->model->slots, &call->slots);
}

void core_retry_reserving(struct core *core, struct list *outbox) {
  /* In order of arrival; once one of a model fails, the later ones of that model wait on. */
  list_each (known, &core->known) list_item(known, struct gateway_model, link)->input_full = false;
  list_each (link, &core->reserving) {
    struct call *waiting = list_item(link, struct call, link);
    if (waiting->model->input_full) continue;
    mu_status status = try_reserve(core, waiting, &waiting->error);
    waiting->model->input_full = status == MU_UNAVAILABLE;
    if (status == MU_UNAVAILABLE) continue;
    leave_line(waiting);
    waiting->status = status;
    call_event(waiting, status == MU_OK ? CALL_RESERVED : CALL_REFUSED, outbox);
  }
}

static void expire_reserving(struct core *core, uint64_t now_ns, struct list *outbox) {
  list_each (link, &core->reserving) {
    struct call *waiting = list_item(link, struct call, link);
    if (now_ns < core_deadline_ns(core, &waiting->request)) continue;
    leave_line(waiting);
    waiting->status = mu_fail(&waiting->error, MU_TIMEOUT, "no input memory became free before the request's deadline");
    call_event(waiting, CALL_REFUSED, outbox);
  }
}

bool core_forget_reserving(struct core *core, struct call *call) {
  struct list outbox;
  list_init(&outbox);
  pthread_mutex_lock(&core->lock);
  bool waiting = !list_empty(&call->link);
  if (waiting) {
    leave_line(call);
    core_run(core, &outbox); /* those behind it may need less */
  }
  pthread_mutex_unlock(&core->lock);
  core_deliver(&outbox, NULL);
  return waiting;
}

/* ---- idle memory ------------------------------------------------------------------------------------------------- */

static void trim_idle(struct core *core, uint32_t ticks) {
  list_each (link, &core->known) {
    struct gateway_model *model = list_item(link, struct gateway_model, link);
    if (model->slots == NULL) continue;
    uint64_t executed = model->model.stats->execution_count;
    bool busy = executed != model->executed_before;
    model->executed_before = executed;
    model->idle_ticks = busy ? 0 : model->idle_ticks + 1;
    if (model->idle_ticks < ticks) continue;
    model->idle_ticks = 0; /* and again after as long: what was still in use then may be empty now */
    slot_pool_trim(model->slots);
  }
}

void core_keep_house(struct core *core, uint32_t idle_ticks) {
  struct list outbox;
  list_init(&outbox);
  pthread_mutex_lock(&core->lock);
  expire_reserving(core, clock_now_ns(), &outbox);
  trim_idle(core, idle_ticks);
  core_settle_workers(core);
  core_settle_models(core);
  core_run(core, &outbox); /* what has become free is somebody's turn */
  pthread_mutex_unlock(&core->lock);
  core_deliver(&outbox, &core->loops[0]);
}
