/* What the settings and the repository on disk say is to be served. */
#include <fcntl.h>
#include <stdlib.h>

#include "engine/engine.h"
#include "supervisor/state.h"

/* ---- which models ------------------------------------------------------------------------------------------------ */

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

/* Such a text still fits a message to a child where the system allows only small socket buffers. */
enum { CONFIG_TEXT_MAX = 256 << 10, FINGERPRINT_MAX = 4 << 20 };

/* ---- making the entries ------------------------------------------------------------------------------------------ */

/* The copies are the model's. NULL stays NULL. */
static mu_status copy_text(struct served_model *model, const char **text) {
  if (*text == NULL) return MU_OK;
  *text = arena_copy(&model->memory, *text, strlen(*text));
  return *text != NULL ? MU_OK : MU_NO_MEMORY;
}

static mu_status copy_texts(struct served_model *model) {
  const char **texts[] = {&model->name, &model->folder, &model->path, &model->options.engine, &model->options.device};
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < sizeof texts / sizeof *texts; i++) status = copy_text(model, texts[i]);
  model->options.name = model->name;
  model->text = status == MU_OK ? arena_copy(&model->memory, model->text, model->text_size) : NULL;
  return model->text != NULL ? MU_OK : MU_NO_MEMORY;
}

struct served_model *served_model_create(const struct options *options, const struct repository_model *found,
                                         const struct repository_version *version) {
  struct served_model *model = calloc(1, sizeof *model);
  if (model == NULL) return NULL;
  *model = (struct served_model){
      .name = found->name,
      .version = version != NULL ? version->version : 0,
      .folder = found->folder,
      .path = version != NULL ? version->path : NULL,
      .text = found->config != NULL ? found->config->text : "",
      .text_size = found->config != NULL ? found->config->text_size : 0,
      .named = found->named,
      .options = options_for_model(options, found->name),
      .batching = options->enable_batching,
      .round_robin = options->balance == BALANCE_ROUND_ROBIN,
      .max_batch_wait_ns = (uint64_t)options->max_batch_wait_ns,
      .first_execution_ns = (uint64_t)options->load_timeout_ns,
      .state = MODEL_LOADING,
  };
  model->file = model->path != NULL ? open(model->path, O_RDONLY | O_CLOEXEC) : -1; /* a worker says what is wrong */
  list_init(&model->link);
  buffer_init(&model->metadata, CONTROL_PACKET_MAX);
  buffer_init(&model->settings, CONTROL_PACKET_MAX);
  buffer_init(&model->fingerprint, FINGERPRINT_MAX);
  if (copy_texts(model) == MU_OK) return model;
  served_model_free(model);
  return NULL;
}

/* What it takes to serve it; where that cannot be, why. */
static void make_plan(struct served_model *model, const struct repository_model *found, uint32_t cores) {
  mu_error err = {{0}};
  if (found->problem[0] != '\0') {
    mu_fail(&err, MU_INVALID, "%s", found->problem);
  } else if (found->config == NULL || model->version == 0) {
    mu_fail(&err, MU_NOT_FOUND, "no version of it can be served");
  } else if (model->text_size > CONFIG_TEXT_MAX) {
    mu_fail(&err, MU_TOO_LARGE, "its configuration has %zu bytes; at most %d are taken", model->text_size,
            CONFIG_TEXT_MAX);
  } else {
    model->planned = worker_plan_make(&model->options, found->config, model->path, cores, &model->plan, &err) == MU_OK;
  }
  if (model->planned) return;
  model->state = MODEL_UNAVAILABLE;
  snprintf(model->reason, sizeof model->reason, "%s", err.message);
}

static mu_status add_version(const struct options *options, uint32_t cores, const struct repository_model *found,
                             const struct repository_version *version, struct list *models) {
  struct served_model *model = served_model_create(options, found, version);
  if (model == NULL) return MU_NO_MEMORY;
  make_plan(model, found, cores);
  list_push_back(models, &model->link);
  return model->planned ? fingerprint_take(model, options) : MU_OK;
}

static void log_warnings(const struct repository_model *found) {
  for (uint32_t i = 0; found->config != NULL && i < found->config->n_warnings; i++)
    LOG_WARNING("model configuration", LOG_STR("model", found->name), LOG_STR("warning", found->config->warnings[i]));
}

static mu_status add_model(const struct options *options, uint32_t cores, const struct repository_model *found,
                           struct list *models) {
  mu_status status = MU_OK;
  log_warnings(found);
  for (size_t i = 0; status == MU_OK && i < found->n_versions; i++)
    status = add_version(options, cores, found, &found->versions[i], models);
  return found->n_versions > 0 ? status : add_version(options, cores, found, NULL, models);
}

static mu_status add_all(const struct options *options, uint32_t cores, const struct repository *repository,
                         struct list *models, mu_error *err) {
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < repository->n_models; i++)
    if (is_wanted(options, repository->models[i].name))
      status = add_model(options, cores, &repository->models[i], models);
  if (status == MU_OK) return MU_OK;
  served_models_free(models);
  return mu_fail(err, status, "no memory for the models");
}

mu_status wanted_models_find(const struct options *options, uint32_t cores, struct list *models, mu_error *err) {
  struct repository repository = {0};
  mu_status status = check_options(options, err);
  if (status == MU_OK) status = repository_scan(options->models.items, options->models.n, &repository, err);
  if (status == MU_OK) status = check_load_models(options, &repository, err);
  if (status == MU_OK) status = add_all(options, cores, &repository, models, err);
  repository_free(&repository);
  return status;
}
