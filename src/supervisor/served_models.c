#include <stdlib.h>

#include "engine/engine.h"
#include "supervisor/state.h"

/* ---- which models ------------------------------------------------------------------------------------------------ */

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

static mu_status check_options(const struct options *options, mu_error *err) {
  if (options->models.n == 0)
    return mu_fail(err, MU_INVALID, "no model: muster serve MODEL.onnx … or muster serve REPOSITORY");
  if (options->model_control_mode == CONTROL_MODE_POLL)
    return mu_fail(err, MU_UNSUPPORTED,
                   "--model-control-mode=poll: this version cannot watch a repository for changes");
  if (options->model_control_mode != CONTROL_MODE_EXPLICIT && options->load_models.n > 0)
    return mu_fail(err, MU_INVALID, "--load-model needs --model-control-mode=explicit");
  if (options->isolation == ISOLATION_DEVICE)
    return mu_fail(err, MU_UNSUPPORTED, "--isolation=device: in this version every model has processes of its own");
  const struct engine_entry *entry;
  return strcmp(options->engine, "auto") == 0 ? MU_OK : engine_find(options->engine, NULL, &entry, err);
}

static mu_status unknown_model(const struct repository *repository, const char *name, mu_error *err) {
  const char **names = calloc(repository->n_models + 1, sizeof *names);
  if (names == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the models");
  for (size_t i = 0; i < repository->n_models; i++) names[i] = repository->models[i].name;
  const char *near = nearest_word(name, names, repository->n_models);
  free(names);
  if (near == NULL) return mu_fail(err, MU_NOT_FOUND, "--load-model %s: there is no such model", name);
  return mu_fail(err, MU_NOT_FOUND, "--load-model %s: there is no such model; did you mean %s?", name, near);
}

static mu_status check_load_models(const struct options *options, const struct repository *repository, mu_error *err) {
  for (size_t i = 0; i < options->load_models.n; i++) {
    const char *name = options->load_models.items[i];
    bool found = strcmp(name, "*") == 0;
    for (size_t k = 0; !found && k < repository->n_models; k++) found = strcmp(name, repository->models[k].name) == 0;
    if (!found) return unknown_model(repository, name, err);
  }
  return MU_OK;
}

static bool is_wanted(const struct options *options, const char *name) {
  if (options->model_control_mode != CONTROL_MODE_EXPLICIT) return true;
  for (size_t i = 0; i < options->load_models.n; i++) {
    const char *wanted = options->load_models.items[i];
    if (strcmp(wanted, "*") == 0 || strcmp(wanted, name) == 0) return true;
  }
  return false;
}

static size_t count_versions(const struct supervisor *s) {
  size_t n = 0;
  for (size_t i = 0; i < s->repository.n_models; i++) {
    const struct repository_model *model = &s->repository.models[i];
    if (is_wanted(s->options, model->name)) n += model->n_versions > 0 ? model->n_versions : 1;
  }
  return n;
}

/* Such a text still fits a message to a child where the system allows only small socket buffers. */
enum { CONFIG_TEXT_MAX = 256 << 10 };

/* ---- making the table -------------------------------------------------------------------------------------------- */

static void add_version(struct supervisor *s, const struct repository_model *found,
                        const struct repository_version *version) {
  struct served_model *model = &s->models[s->n_models];
  *model = (struct served_model){
      .number = (uint32_t)s->n_models++,
      .name = found->name,
      .version = version != NULL ? version->version : 0,
      .folder = found->folder,
      .path = version != NULL ? version->path : NULL,
      .text = found->config != NULL ? found->config->text : "",
      .text_size = found->config != NULL ? found->config->text_size : 0,
      .named = found->named,
      .options = options_for_model(s->options, found->name),
      .state = MODEL_LOADING,
  };
  buffer_init(&model->metadata, CONTROL_PACKET_MAX);
  mu_error err = {{0}};
  if (found->problem[0] != '\0') {
    mu_fail(&err, MU_INVALID, "%s", found->problem);
  } else if (found->config == NULL || version == NULL) {
    mu_fail(&err, MU_NOT_FOUND, "no version of it can be served");
  } else if (model->text_size > CONFIG_TEXT_MAX) {
    mu_fail(&err, MU_TOO_LARGE, "its configuration has %zu bytes; at most %d are taken", model->text_size,
            CONFIG_TEXT_MAX);
  } else {
    model->planned =
        worker_plan_make(&model->options, found->config, model->path, s->cores, &model->plan, &err) == MU_OK;
  }
  if (model->planned) return;
  model->state = MODEL_UNAVAILABLE;
  snprintf(model->reason, sizeof model->reason, "%s", err.message);
}

static void log_warnings(const struct repository_model *found) {
  for (uint32_t i = 0; found->config != NULL && i < found->config->n_warnings; i++)
    LOG_WARNING("model configuration", LOG_STR("model", found->name), LOG_STR("warning", found->config->warnings[i]));
}

static void add_model(struct supervisor *s, const struct repository_model *found) {
  log_warnings(found);
  for (size_t i = 0; i < found->n_versions; i++) add_version(s, found, &found->versions[i]);
  if (found->n_versions == 0) add_version(s, found, NULL);
}

/* Models that cannot be served are said once; one that has to be served ends the start. */
static mu_status check_problems(const struct supervisor *s, mu_error *err) {
  for (size_t i = 0; i < s->n_models; i++) {
    const struct served_model *model = &s->models[i];
    if (model->planned) continue;
    if (served_model_must_start(s, model->named))
      return mu_fail(err, MU_INVALID, "model %s cannot be served: %s", model->name, model->reason);
    LOG_ERROR("model cannot be served", LOG_STR("model", model->name), LOG_INT("version", model->version),
              LOG_STR("error", model->reason));
  }
  return MU_OK;
}

mu_status served_models_create(struct supervisor *s, mu_error *err) {
  mu_status status = check_options(s->options, err);
  if (status == MU_OK) status = repository_scan(s->options->models.items, s->options->models.n, &s->repository, err);
  if (status == MU_OK) status = check_load_models(s->options, &s->repository, err);
  if (status != MU_OK) return status;
  s->models = calloc(count_versions(s) + 1, sizeof *s->models);
  if (s->models == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the models");
  for (size_t i = 0; i < s->repository.n_models; i++)
    if (is_wanted(s->options, s->repository.models[i].name)) add_model(s, &s->repository.models[i]);
  return check_problems(s, err);
}

void served_models_free(struct supervisor *s) {
  for (size_t i = 0; i < s->n_models; i++) buffer_free(&s->models[i].metadata);
  free(s->models);
  s->models = NULL;
  s->n_models = 0;
  repository_free(&s->repository);
}

/* ---- states ------------------------------------------------------------------------------------------------------ */

static void tell_state(struct supervisor *s, const struct served_model *model) {
  const struct control_model_set message = {
      .model = model->number,
      .name = model->name,
      .version = model->version,
      .folder = model->folder,
      .config = {model->text, model->text_size},
      .state = model->state,
      .reason = model->reason,
      .max_batch = (uint32_t)model->options.max_batch_size,
      .max_queue_requests = (uint32_t)model->options.max_queue_size,
      .max_queue_bytes = (uint64_t)model->options.max_queue_bytes,
  };
  gateway_tell(s, CONTROL_MODEL_SET, &message, NULL, 0);
}

static void tell_metadata(struct supervisor *s, const struct served_model *model) {
  const struct device_tokens tokens =
      worker_plan_tokens(model->plan.groups[0].device, model->plan.threads, s->cores, s->options->cpu_slots);
  const struct control_model_loaded message = {
      .model = model->number,
      .metadata = {model->metadata.data, model->metadata.size},
      .was_ready = model->was_ready,
      .batch_tokens = tokens.batch,
  };
  gateway_tell(s, CONTROL_MODEL_LOADED, &message, NULL, 0);
}

void served_models_tell(struct supervisor *s) {
  for (size_t i = 0; i < s->n_models; i++) {
    tell_state(s, &s->models[i]);
    if (s->models[i].metadata.size > 0) tell_metadata(s, &s->models[i]);
  }
}

/* READY with one usable worker, UNAVAILABLE when all have failed for good, else LOADING; *ret_reason is a worker's. */
static enum model_state state_of(const struct supervisor *s, const struct served_model *model,
                                 const char **ret_reason) {
  bool all_failed = true;
  *ret_reason = "";
  for (size_t i = 0; i < s->n_workers; i++) {
    const struct worker *worker = &s->workers[i];
    if (worker->model != model) continue;
    if (worker->attached) {
      *ret_reason = "";
      return MODEL_READY;
    }
    if (worker->state != WORKER_FAILED) all_failed = false;
    if ((*ret_reason)[0] != '\0') continue;
    bool alone = worker->state == WORKER_READY && s->gateway.process == NULL;
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

void served_model_update(struct supervisor *s, struct served_model *model) {
  if (!model->planned || s->phase >= PHASE_DRAINING) return; /* readiness is down for all, for good */
  const char *reason;
  enum model_state state = state_of(s, model, &reason);
  if (state == model->state && strcmp(reason, model->reason) == 0) return;
  bool changed = state != model->state;
  model->state = state;
  snprintf(model->reason, sizeof model->reason, "%s", reason);
  if (changed) log_state(model);
  tell_state(s, model);
  bool first_failure = state == MODEL_UNAVAILABLE && !model->was_ready;
  if (state == MODEL_READY) model->was_ready = true;
  if (first_failure && served_model_must_start(s, model->named))
    supervisor_give_up(s);
  else
    supervisor_check(s);
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
                 "its file has changed; restart the server to serve it");
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
