#include <stdlib.h>
#include <unistd.h>

#include "supervisor/gpu_room.h"

/* ---- the table --------------------------------------------------------------------------------------------------- */

bool served_model_must_start(const struct supervisor *s, bool named) {
  switch ((enum tristate)s->options->exit_on_error) {
    case TRISTATE_TRUE:
      return true;
    case TRISTATE_FALSE:
      return false;
    case TRISTATE_AUTO:
      break;
  }
  return named;
}

/* Models that cannot be served are said once; one that has to be served ends the start. */
static mu_status check_problem(const struct supervisor *s, const struct served_model *model, mu_error *err) {
  if (model->planned || model->waits_for_gpus) return MU_OK;
  if (served_model_must_start(s, model->named))
    return mu_fail(err, MU_INVALID, "model %s cannot be served: %s", model->name, model->reason);
  LOG_ERROR("model cannot be served", LOG_STR("model", model->name), LOG_INT("version", model->version),
            LOG_STR("error", model->reason));
  return MU_OK;
}

mu_status served_models_create(struct supervisor *s, mu_error *err) {
  const struct planning planning = supervisor_planning(s);
  mu_status status = model_choices_read(s, err);
  if (status == MU_OK) status = wanted_models_find(s->options, &planning, model_choices(s), &s->models, err);
  bool poll = s->options->model_control_mode == CONTROL_MODE_POLL;
  if (status == MU_OK && poll && wanted_models_digest(&s->models, &s->operations.digest) != MU_OK)
    status = mu_fail(err, MU_NO_MEMORY, "no memory for the models");
  wanted_models_warn(&s->models);
  list_each (link, &s->models) {
    struct served_model *model = list_item(link, struct served_model, link);
    if (status == MU_OK) status = check_problem(s, model, err);
    if (status == MU_OK) status = served_model_enroll(s, model, s->options, err);
  }
  return status;
}

mu_status served_model_enroll(struct supervisor *s, struct served_model *model, const struct options *options,
                              mu_error *err) {
  model->supervisor = s;
  model->number = ++s->last_model;
  mu_status status = options_encode(options, &model->settings);
  if (status != MU_OK) return mu_fail(err, status, "no memory for the model's settings");
  return workers_create(s, model, err);
}

void served_model_free(struct served_model *model) {
  list_remove(&model->link);
  workers_free(model);
  buffer_free(&model->metadata);
  buffer_free(&model->settings);
  buffer_free(&model->fingerprint);
  arena_free(&model->memory);
  if (model->file >= 0) close(model->file);
  free(model);
}

void served_models_free(struct list *models) {
  list_each (link, models) served_model_free(list_item(link, struct served_model, link));
}

static bool comes_before(const struct served_model *a, const struct served_model *b) {
  int order = strcmp(a->name, b->name);
  return order < 0 || (order == 0 && a->version <= b->version);
}

void served_model_insert(struct supervisor *s, struct served_model *model) {
  struct list *at = s->models.next;
  while (at != &s->models && comes_before(list_item(at, struct served_model, link), model)) at = at->next;
  list_remove(&model->link);
  list_insert_before(at, &model->link);
}

/* ---- those that wait for the machine's GPUs ---------------------------------------------------------------------- */

bool served_models_wait_for_gpus(const struct supervisor *s) {
  list_each (link, &s->models)
    if (list_item(link, struct served_model, link)->waits_for_gpus) return true;
  return false;
}

/* It was enrolled without a plan. */
static void start_planned(struct supervisor *s, struct served_model *model) {
  mu_error err;
  model->reason[0] = '\0';
  mu_status status = workers_create(s, model, &err);
  if (status != MU_OK) {
    model->planned = false;
    snprintf(model->reason, sizeof model->reason, "%s", err.message);
  }
  served_model_tell(s, model);
  workers_start(model);
}

static void give_up_on(struct supervisor *s, struct served_model *model) {
  model->state = MODEL_UNAVAILABLE;
  served_model_tell(s, model);
  LOG_ERROR("model cannot be served", LOG_STR("model", model->name), LOG_INT("version", model->version),
            LOG_STR("error", model->reason));
  if (served_model_must_start(s, model->named)) supervisor_give_up(s);
}

/* Those that waited, in a list of their own until they are planned. */
static void take_waiting(struct supervisor *s, struct list *waiting) {
  list_init(waiting);
  list_each (link, &s->models) {
    struct served_model *model = list_item(link, struct served_model, link);
    if (!model->waits_for_gpus) continue;
    list_remove(link);
    list_push_back(waiting, link);
  }
}

static void plan_waiting(struct supervisor *s, struct list *waiting) {
  const struct planning planning = supervisor_planning(s);
  struct placement_room rooms[GPUS_MAX];
  list_each (link, waiting) {
    struct served_model *model = list_item(link, struct served_model, link);
    if (wanted_model_plan(s->options, &planning, model) == MU_OK) continue;
    model->planned = false;
    snprintf(model->reason, sizeof model->reason, "no memory for its plan");
  }
  gpu_room_check(&planning, waiting, true, rooms);
}

/* The GPUs that were asked for are not there. */
static bool check_gpus(struct supervisor *s) {
  mu_error err;
  if (!s->gpus.known || s->was_ready || wanted_gpus_check(s->options, &s->gpus, &err) == MU_OK) return true;
  LOG_ERROR("cannot start", LOG_STR("error", err.message));
  supervisor_give_up(s);
  return false;
}

void served_models_plan_waiting(struct supervisor *s) {
  struct list waiting;
  if (s->phase >= PHASE_DRAINING || !check_gpus(s)) return;
  take_waiting(s, &waiting);
  plan_waiting(s, &waiting);
  for (struct list *link; (link = list_pop_front(&waiting)) != NULL;) {
    struct served_model *model = list_item(link, struct served_model, link);
    served_model_insert(s, model);
    if (model->planned) start_planned(s, model);
    if (!model->planned) give_up_on(s, model);
  }
  if (s->options->model_control_mode == CONTROL_MODE_POLL && s->operations.digest.size > 0 &&
      wanted_models_digest(&s->models, &s->operations.digest) != MU_OK)
    buffer_clear(&s->operations.digest); /* then the next look takes everything for changed */
  supervisor_check(s);
  reload_resume(s);
}

/* ---- states ------------------------------------------------------------------------------------------------------ */

static struct control_model_set state_message(const struct served_model *model) {
  return (struct control_model_set){
      .model = model->number,
      .listed = model->role == SERVED,
      .name = model->name,
      .version = model->version,
      .folder = model->folder,
      .config = {model->text, model->text_size},
      .state = model->state,
      .reason = model->reason[0] != '\0' ? model->reason : model->note,
      .batching = model->batching,
      .round_robin = model->round_robin,
      .max_queue_requests = (uint32_t)model->options.max_queue_size,
      .max_queue_bytes = (uint64_t)model->options.max_queue_bytes,
      .max_queue_delay_us = model->options.max_queue_delay_us,
      .max_batch_wait_ns = model->max_batch_wait_ns,
      .max_execution_ns = (uint64_t)model->options.max_execution_ns,
      .first_execution_ns = model->first_execution_ns,
  };
}

static void tell_state(struct supervisor *s, const struct served_model *model) {
  const struct control_model_set message = state_message(model);
  gateways_tell(s, CONTROL_MODEL_SET, &message);
}

static struct control_model_loaded metadata_message(const struct supervisor *s, const struct served_model *model) {
  const struct device_tokens tokens =
      worker_plan_tokens(&model->plan, &model->plan.groups[0], s->cores, s->options->cpu_slots);
  return (struct control_model_loaded){
      .model = model->number,
      .metadata = {model->metadata.data, model->metadata.size},
      .was_ready = model->was_ready,
      .batch_tokens = tokens.batch,
  };
}

static void tell_metadata(struct supervisor *s, const struct served_model *model) {
  const struct control_model_loaded message = metadata_message(s, model);
  gateways_tell(s, CONTROL_MODEL_LOADED, &message);
}

static bool is_told(const struct served_model *model) { return model->role == SERVED || model->role == COMING; }

void served_model_tell(struct supervisor *s, const struct served_model *model) {
  tell_state(s, model);
  if (model->metadata.size > 0) tell_metadata(s, model);
}

void served_models_tell(struct supervisor *s, struct gateway *gateway) {
  list_each (link, &s->models) {
    const struct served_model *model = list_item(link, struct served_model, link);
    if (!is_told(model)) continue;
    const struct control_model_set state = state_message(model);
    const struct control_model_loaded metadata = metadata_message(s, model);
    gateway_tell(gateway, CONTROL_MODEL_SET, &state, NULL, 0);
    if (model->metadata.size > 0) gateway_tell(gateway, CONTROL_MODEL_LOADED, &metadata, NULL, 0);
  }
}

/* READY with one usable worker, UNAVAILABLE when all have failed for good, else LOADING; *ret_reason is a worker's. */
static enum model_state state_of(const struct supervisor *s, const struct served_model *model,
                                 const char **ret_reason) {
  bool all_failed = true;
  *ret_reason = "";
  for (size_t i = 0; i < model->n_workers; i++) {
    const struct worker *worker = &model->workers[i];
    if (worker->attachments[s->gateway->slot].attached) {
      *ret_reason = "";
      return MODEL_READY;
    }
    if (worker->state != WORKER_FAILED && worker->state != WORKER_FENCED) all_failed = false;
    if ((*ret_reason)[0] != '\0') continue;
    bool alone = worker->state == WORKER_READY && !child_runs(&s->gateway->child);
    *ret_reason = alone ? "the gateway is started again" : worker->reason;
  }
  return all_failed ? MODEL_UNAVAILABLE : MODEL_LOADING;
}

static void log_state(const struct served_model *model) {
  if (model->state == MODEL_READY)
    LOG_INFO("model ready", LOG_STR("model", model->name), LOG_INT("version", model->version));
  else if (model->state == MODEL_UNAVAILABLE)
    LOG_ERROR("model cannot be served", LOG_STR("model", model->name), LOG_INT("version", model->version),
              LOG_STR("error", model->reason));
  else
    LOG_WARNING("model is not ready", LOG_STR("model", model->name), LOG_INT("version", model->version),
                LOG_STR("reason", model->reason));
}

static void set_state(struct served_model *model, enum model_state state, const char *reason) {
  bool changed = state != model->state;
  model->state = state;
  snprintf(model->reason, sizeof model->reason, "%s", reason);
  if (changed && model->role == SERVED) log_state(model);
}

bool served_model_rests(const struct served_model *model) {
  bool any = false;
  for (size_t i = 0; i < model->n_workers; i++) {
    if (model->workers[i].state == WORKER_FAILED) return false;
    any = any || model->workers[i].state == WORKER_FENCED;
  }
  return any;
}

static void update_served(struct supervisor *s, struct served_model *model, enum model_state state,
                          const char *reason) {
  if (state == model->state && strcmp(reason, model->reason) == 0) return;
  set_state(model, state, reason);
  tell_state(s, model);
  bool first_failure = state == MODEL_UNAVAILABLE && !model->was_ready && !served_model_rests(model);
  if (state == MODEL_READY) model->was_ready = true;
  if (first_failure && served_model_must_start(s, model->named))
    supervisor_give_up(s);
  else
    supervisor_check(s);
  reload_resume(s); /* a load of it may wait for this */
}

/* Nothing more is to be expected of it for now: it has failed for good, or again and again after it had loaded; its GPU
 * serves nobody; or there is room for it only when the generation before has left. */
static bool is_hopeless(const struct worker *worker) {
  return worker->state == WORKER_FAILED || worker->state == WORKER_FENCED ||
         (worker->state == WORKER_QUEUED && worker->crowded_out) || worker->restarts >= RESTART_EARLY_DEATHS_MAX;
}

/* It takes over when all of its workers are ready that ever will be: not with fewer than the one before had. */
static void update_coming(struct supervisor *s, struct served_model *model, const char *reason) {
  bool any = false;
  for (size_t i = 0; i < model->n_workers; i++) {
    const struct worker *worker = &model->workers[i];
    if (!worker->attachments[s->gateway->slot].attached && !is_hopeless(worker)) return;
    any = any || worker->attachments[s->gateway->slot].attached;
  }
  model->was_ready = any;
  set_state(model, any ? MODEL_READY : MODEL_UNAVAILABLE, any ? "" : reason);
  if (any) {
    model->role = SERVED;
    tell_state(s, model);
    log_state(model);
    reload_came(s, model);
  } else {
    reload_failed(s, model);
  }
}

/* Requests that it still has wait for its workers, or are refused when none will come. */
static void update_leaving(struct supervisor *s, struct served_model *model, enum model_state state,
                           const char *reason) {
  if (state == model->state) return;
  set_state(model, state, reason);
  tell_state(s, model);
}

void served_model_update(struct supervisor *s, struct served_model *model) {
  if (!model->planned || s->phase >= PHASE_DRAINING) return; /* readiness is down for all, for good */
  const char *reason;
  enum model_state state = state_of(s, model, &reason);
  if (model->role == SERVED) update_served(s, model, state, reason);
  if (model->role == COMING) update_coming(s, model, reason);
  if (model->role == LEAVING) update_leaving(s, model, state, reason);
}

void served_model_keep(struct supervisor *s, struct served_model *model, const char *why) {
  if (model->planned) {
    snprintf(model->note, sizeof model->note, "its reload failed: %.480s", why);
    tell_state(s, model);
  } else if (strcmp(model->reason, why) != 0) {
    set_state(model, MODEL_UNAVAILABLE, why);
    tell_state(s, model);
  }
}

void served_model_forgive(struct supervisor *s, struct served_model *model) {
  if (model->note[0] == '\0') return;
  model->note[0] = '\0';
  tell_state(s, model);
}

/* ---- leaving ----------------------------------------------------------------------------------------------------- */

static void leave(struct supervisor *s, struct served_model *model) {
  model->role = LEFT;
  workers_leave(s, model);
  served_model_check_gone(model);
}

void served_model_remove(struct supervisor *s, struct served_model *model) {
  const struct control_model_number message = {model->number};
  model->role = LEAVING;
  LOG_INFO("model leaves", LOG_STR("model", model->name), LOG_INT("version", model->version));
  if (s->gateway->child.link == NULL)
    leave(s, model);
  else
    gateway_tell(s->gateway, CONTROL_MODEL_REMOVE, &message, NULL, 0);
}

void served_models_removed(struct supervisor *s, uint32_t number) {
  list_each (link, &s->models) {
    struct served_model *model = list_item(link, struct served_model, link);
    if (model->number == number && model->role == LEAVING) leave(s, model);
  }
}

void served_models_forget(struct supervisor *s) {
  list_each (link, &s->models) {
    struct served_model *model = list_item(link, struct served_model, link);
    if (model->role == LEAVING) leave(s, model);
  }
}

static void on_timer_closed(uv_handle_t *handle) {
  struct worker *worker = handle->data;
  struct served_model *model = worker->model;
  if (--model->open_timers == 0) served_model_free(model);
}

static void go(struct net_post *post) {
  struct served_model *model = list_item(post, struct served_model, gone_post);
  list_remove(&model->link);
  LOG_INFO("model has left", LOG_STR("model", model->name), LOG_INT("version", model->version));
  model->open_timers = model->n_workers;
  for (size_t i = 0; i < model->n_workers; i++) {
    list_remove(&model->workers[i].all);
    uv_close((uv_handle_t *)&model->workers[i].timer, on_timer_closed);
  }
  struct supervisor *s = model->supervisor;
  if (model->n_workers == 0) served_model_free(model);
  upgrade_check_workers(s);
}

/* It goes with the loop's next turn: somebody may be on the way through the lists right now. */
void served_model_check_gone(struct served_model *model) {
  if (model->role != LEFT || model->gone) return;
  for (size_t i = 0; i < model->n_workers; i++)
    if (child_runs(&model->workers[i].child)) return;
  model->gone = true;
  model->gone_post.run = go;
  net_loop_post(model->supervisor->loop, &model->gone_post);
}

/* ---- what a worker found ----------------------------------------------------------------------------------------- */

static bool same_tensors(const struct model_tensor *a, uint32_t n_a, const struct model_tensor *b, uint32_t n_b) {
  if (n_a != n_b) return false;
  for (uint32_t i = 0; i < n_a; i++)
    if (strcmp(a[i].info.name, b[i].info.name) != 0 || a[i].info.dtype != b[i].info.dtype || a[i].rank != b[i].rank ||
        memcmp(a[i].dims, b[i].dims, a[i].rank * sizeof a[i].dims[0]) != 0)
      return false;
  return true;
}

/* Requests were, and are, checked against what the first worker said: a later one has to take the same. */
static bool same_interface(const struct model_metadata *a, const struct model_metadata *b) {
  return a->max_batch == b->max_batch && same_tensors(a->inputs, a->n_inputs, b->inputs, b->n_inputs) &&
         same_tensors(a->outputs, a->n_outputs, b->outputs, b->n_outputs);
}

static mu_status compare_known(const struct served_model *model, const struct model_metadata *found, mu_error *err) {
  struct model_metadata *known;
  mu_status status = model_metadata_decode(model->metadata.data, model->metadata.size, &known);
  if (status != MU_OK) return mu_fail(err, status, "cannot read the model's description (%s)", status_name(status));
  bool same = same_interface(known, found);
  model_metadata_free(known);
  if (same) return MU_OK;
  return mu_fail(err, MU_INVALID,
                 "the model has other inputs, outputs or batching than when it was first loaded: "
                 "its file has changed; muster reload serves it as it is now");
}

mu_status served_model_loaded(struct supervisor *s, struct served_model *model, struct control_bytes metadata,
                              mu_error *err) {
  struct model_metadata *found;
  mu_status status = model_metadata_decode(metadata.data, metadata.size, &found);
  if (status != MU_OK) return mu_fail(err, status, "its description of the model does not add up");
  if (model->metadata.size > 0) {
    status = compare_known(model, found, err);
  } else {
    status = buffer_append(&model->metadata, metadata.data, metadata.size);
    if (status == MU_OK)
      tell_metadata(s, model);
    else
      mu_fail(err, status, "no memory for the model's description");
  }
  model_metadata_free(found);
  return status;
}
