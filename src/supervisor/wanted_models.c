/* What the settings and the repository on disk say is to be served. */
#include <fcntl.h>
#include <stdlib.h>

#include "engine/engine.h"
#include "supervisor/gpu_room.h"

/* ---- which models ------------------------------------------------------------------------------------------------ */

mu_status wanted_models_check(const struct options *options, mu_error *err) {
  if (options->models.n == 0)
    return mu_fail(err, MU_INVALID, "no model: muster serve MODEL.onnx … or muster serve REPOSITORY");
  if (options->model_control_mode != CONTROL_MODE_EXPLICIT && options->load_models.n > 0)
    return mu_fail(err, MU_INVALID, "--load-model needs --model-control-mode=explicit");
  if (options->isolation == ISOLATION_DEVICE)
    return mu_fail(err, MU_UNSUPPORTED, "--isolation=device: in this version every model has processes of its own");
  const struct engine_entry *entry;
  return strcmp(options->engine, "auto") == 0 ? MU_OK : engine_find(options->engine, NULL, &entry, err);
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
      .given = version != NULL && version->given,
      .options = options_for_model(options, found->name),
      .batching = options->enable_batching,
      .round_robin = options->balance == BALANCE_ROUND_ROBIN,
      .max_batch_wait_ns = (uint64_t)options->max_batch_wait_ns,
      .first_execution_ns = (uint64_t)options->load_timeout_ns,
      .state = MODEL_LOADING,
  };
  /* Where it cannot be opened a worker says why. */
  model->file = model->path != NULL && !model->given ? open(model->path, O_RDONLY | O_CLOEXEC) : -1;
  list_init(&model->link);
  buffer_init(&model->metadata, CONTROL_PACKET_MAX);
  buffer_init(&model->settings, CONTROL_PACKET_MAX);
  buffer_init(&model->fingerprint, FINGERPRINT_MAX);
  if (copy_texts(model) == MU_OK) return model;
  served_model_free(model);
  return NULL;
}

/* ---- plans ------------------------------------------------------------------------------------------------------- */

mu_status wanted_gpus(const struct options *options, const struct gpus *gpus, struct gpu_set *ret_set, mu_error *err) {
  const struct gpu_wish wish = {
      .gpus = options->gpus,
      .gpu_ids = options->gpu_ids,
      /* They number the machine's GPUs, not those that are made up. */
      .cuda_visible_devices = options->simulate_gpus == 0 ? getenv("CUDA_VISIBLE_DEVICES") : NULL,
      .cuda_device_order = getenv("CUDA_DEVICE_ORDER"),
  };
  return gpu_set_choose(&gpus->inventory, &wish, ret_set, err);
}

mu_status wanted_gpus_check(const struct options *options, const struct gpus *gpus, mu_error *err) {
  struct gpu_set set;
  bool asked = strcmp(options->gpus, "auto") != 0 || options->gpu_ids[0] != '\0';
  return asked ? wanted_gpus(options, gpus, &set, err) : MU_OK;
}

static bool wants_gpus(const struct options *options, const struct served_model *model,
                       const struct model_config *config) {
  return worker_plan_wants_gpus(&model->options, config, model->path, options->onnxruntime_library);
}

static void plan_on(const struct options *options, const struct planning *planning, struct served_model *model,
                    const struct model_config *config, mu_error *err) {
  const struct gpus *gpus = planning->gpus;
  struct gpu_set set = {.n = 0};
  bool wants = wants_gpus(options, model, config);
  if (gpus->known && wanted_gpus(options, gpus, &set, err) != MU_OK && wants) return;
  if (!gpus->known && wants) {
    mu_fail(err, MU_UNAVAILABLE, "it is to run on GPUs, and nobody knows which there are: %s", gpus->error);
    return;
  }
  const struct plan_ground ground = {planning->cores, &gpus->inventory, &set};
  model->planned = worker_plan_make(&model->options, config, model->path, options->onnxruntime_library, &ground,
                                    &model->plan, err) == MU_OK;
  if (!model->planned) return;
  model->file_bytes = gpu_room_file_bytes(model);
  model->gpu_memory = worker_plan_memory(&model->options, config, model->plan.engine, model->file_bytes);
}

/* What it takes to serve it; where that cannot be, why. */
static void make_plan(const struct options *options, const struct planning *planning, struct served_model *model,
                      const struct repository_model *found) {
  const struct gpus *gpus = planning->gpus;
  mu_error err = {{0}};
  if (found->problem[0] != '\0') {
    mu_fail(&err, MU_INVALID, "%s", found->problem);
  } else if (found->config == NULL || model->version == 0) {
    mu_fail(&err, MU_NOT_FOUND, "no version of it can be served");
  } else if (model->text_size > CONFIG_TEXT_MAX) {
    mu_fail(&err, MU_TOO_LARGE, "its configuration has %zu bytes; at most %d are taken", model->text_size,
            CONFIG_TEXT_MAX);
  } else if (!gpus->known && gpus->error[0] == '\0' && wants_gpus(options, model, found->config)) {
    model->waits_for_gpus = true;
    snprintf(model->reason, sizeof model->reason, "waits until the machine's GPUs are known");
    return;
  } else {
    plan_on(options, planning, model, found->config, &err);
  }
  if (model->planned) return;
  model->state = MODEL_UNAVAILABLE;
  snprintf(model->reason, sizeof model->reason, "%s", err.message);
}

static mu_status add_version(const struct options *options, const struct planning *planning,
                             const struct repository_model *found, const struct repository_version *version,
                             struct list *models) {
  struct served_model *model = served_model_create(options, found, version);
  if (model == NULL) return MU_NO_MEMORY;
  make_plan(options, planning, model, found);
  list_push_back(models, &model->link);
  return MU_OK;
}

static mu_status add_model(const struct options *options, const struct planning *planning,
                           const struct repository_model *found, struct list *models) {
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < found->n_versions; i++)
    status = add_version(options, planning, found, &found->versions[i], models);
  return found->n_versions > 0 ? status : add_version(options, planning, found, NULL, models);
}

static mu_status add_all(const struct options *options, const struct planning *planning,
                         const struct repository *repository, struct list *models) {
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < repository->n_models; i++)
    status = add_model(options, planning, &repository->models[i], models);
  return status;
}

mu_status wanted_model_plan(const struct options *options, const struct planning *planning,
                            struct served_model *model) {
  struct model_config *config;
  mu_error err = {{0}};
  model->waits_for_gpus = false;
  mu_status status = model_config_parse(model->text, model->text_size, model->name, model->name, &config, &err);
  if (status == MU_OK) {
    plan_on(options, planning, model, config, &err);
    model_config_free(config);
  }
  if (model->planned) return fingerprint_take(model, options);
  snprintf(model->reason, sizeof model->reason, "%s", err.message);
  return MU_OK;
}

/* ---- a chosen one ------------------------------------------------------------------------------------------------ */

static mu_status find_chosen(const struct options *options, const struct model_choice *choice,
                             struct repository *ret_repository, mu_error *err) {
  const struct repository_config config = {choice->config, choice->config_size};
  if (choice->n_files > 0)
    return repository_given(choice->name, &config, choice->versions, choice->n_files, ret_repository, err);
  return repository_find(options->models.items, options->models.n, choice->name,
                         choice->config != NULL ? &config : NULL, ret_repository, err);
}

/* The model files that came along: each generation has descriptors of its own. */
static mu_status give_files(const struct model_choice *choice, struct list *models) {
  list_each (link, models) {
    struct served_model *model = list_item(link, struct served_model, link);
    for (size_t i = 0; model->given && i < choice->n_files; i++)
      if (choice->versions[i] == model->version) model->file = fcntl(choice->files[i], F_DUPFD_CLOEXEC, 0);
    if (model->given && model->file < 0) return MU_IO;
    model->file_bytes = gpu_room_file_bytes(model);
    if (model->gpu_memory.arena > 0) model->gpu_memory.weights = model->file_bytes; /* estimated by the file */
  }
  return MU_OK;
}

static mu_status take_fingerprints(const struct options *options, struct list *models) {
  mu_status status = MU_OK;
  list_each (link, models) {
    struct served_model *model = list_item(link, struct served_model, link);
    if (status == MU_OK && model->planned) status = fingerprint_take(model, options);
  }
  return status;
}

static void append_all(struct list *models, struct list *found) {
  for (struct list *link; (link = list_pop_front(found)) != NULL;) list_push_back(models, link);
}

mu_status wanted_model_find(const struct options *options, const struct planning *planning,
                            const struct model_choice *choice, struct list *models, mu_error *err) {
  struct repository repository = {0};
  struct list found;
  list_init(&found);
  mu_status status = find_chosen(options, choice, &repository, err);
  if (status != MU_OK) return status;
  status = add_all(options, planning, &repository, &found);
  repository_free(&repository);
  if (status == MU_OK) status = give_files(choice, &found);
  if (status == MU_OK) status = take_fingerprints(options, &found);
  if (status == MU_OK) {
    append_all(models, &found);
    return MU_OK;
  }
  served_models_free(&found);
  return mu_fail(err, status,
                 status == MU_IO ? "no free file descriptor for a model file" : "no memory for the models");
}

/* ---- all --------------------------------------------------------------------------------------------------------- */

/* One that is not there any more is wanted no more. */
static mu_status find_all_chosen(const struct options *options, const struct planning *planning,
                                 const struct list *choices, struct list *models, mu_error *err) {
  mu_status status = MU_OK;
  list_each (link, choices) {
    const struct model_choice *choice = list_item(link, struct model_choice, link);
    if (status == MU_OK) status = wanted_model_find(options, planning, choice, models, err);
    if (status == MU_NOT_FOUND) status = MU_OK;
  }
  return status;
}

static mu_status find_whole_repository(const struct options *options, const struct planning *planning,
                                       struct list *models, mu_error *err) {
  struct repository repository = {0};
  mu_status status = repository_scan(options->models.items, options->models.n, &repository, err);
  if (status != MU_OK) return status;
  status = add_all(options, planning, &repository, models);
  repository_free(&repository);
  if (status == MU_OK) status = take_fingerprints(options, models);
  return status == MU_OK ? status : mu_fail(err, status, "no memory for the models");
}

mu_status wanted_models_find(const struct options *options, const struct planning *planning, const struct list *choices,
                             struct list *models, mu_error *err) {
  struct list found;
  list_init(&found);
  mu_status status = wanted_models_check(options, err);
  if (status == MU_OK && planning->gpus->known) status = wanted_gpus_check(options, planning->gpus, err);
  if (status == MU_OK)
    status = choices != NULL ? find_all_chosen(options, planning, choices, &found, err)
                             : find_whole_repository(options, planning, &found, err);
  if (status == MU_OK) {
    struct placement_room rooms[GPUS_MAX];
    gpu_room_check(planning, &found, false, rooms);
    append_all(models, &found);
  } else {
    served_models_free(&found);
  }
  return status;
}

void wanted_models_warn(const struct list *models) {
  list_each (link, models) {
    const struct served_model *model = list_item(link, struct served_model, link);
    const struct served_model *before = link->prev != models ? list_item(link->prev, struct served_model, link) : NULL;
    struct model_config *config;
    char source[512];
    if (before != NULL && strcmp(before->name, model->name) == 0) continue; /* versions have one configuration */
    if (model_config_is_json(model->text, model->text_size))
      snprintf(source, sizeof source, "config override");
    else
      snprintf(source, sizeof source, "%s/config.pbtxt", model->folder);
    if (model_config_parse(model->text, model->text_size, source, model->name, &config, NULL) != MU_OK) continue;
    for (uint32_t i = 0; i < config->n_warnings; i++)
      LOG_WARNING("model configuration", LOG_STR("model", model->name), LOG_STR("warning", config->warnings[i]));
    model_config_free(config);
  }
}

mu_status wanted_models_digest(const struct list *models, struct buffer *out) {
  buffer_clear(out);
  list_each (link, models) {
    const struct served_model *model = list_item(link, struct served_model, link);
    buffer_append(out, model->name, strlen(model->name) + 1);
    buffer_append(out, &model->version, sizeof model->version);
    buffer_append(out, &model->planned, sizeof model->planned);
    buffer_append(out, &model->fingerprint.size, sizeof model->fingerprint.size);
    buffer_append(out, model->fingerprint.data, model->fingerprint.size);
    if (!model->planned) buffer_append(out, model->reason, strlen(model->reason) + 1);
  }
  return out->failed ? MU_NO_MEMORY : MU_OK;
}
