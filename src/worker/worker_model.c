#include "worker/worker_model.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "channel/channel.h"
#include "engine/engine.h"
#include "worker/batch_check.h"
#include "worker/model_spec.h"

static mu_status check_start(const struct control_worker_start *start, mu_error *err) {
  if (start->instances < 1 || start->instances > CHANNEL_LANES_MAX) {
    return mu_fail(err, MU_INVALID, "%u instances: must be 1 to %d", start->instances, CHANNEL_LANES_MAX);
  }
  if (start->threads < 1 || start->threads > INT_MAX) {
    return mu_fail(err, MU_INVALID, "%u threads for a run", start->threads);
  }
  return MU_OK;
}

mu_status worker_model_config(const struct control_worker_start *start, struct model_config **ret_config,
                              mu_error *err) {
  char source[512];
  if (model_config_is_json(start->config.data, start->config.size))
    snprintf(source, sizeof source, "config override");
  else
    snprintf(source, sizeof source, "%s/config.pbtxt", start->folder[0] != '\0' ? start->folder : start->name);
  return model_config_parse(start->config.data, start->config.size, source, start->name, ret_config, err);
}

static mu_status create_instances(struct worker_model *model, uint32_t n, mu_error *err) {
  model->instances = calloc(n, sizeof(mu_engine_instance *));
  if (model->instances == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  for (uint32_t i = 0; i < n; i++) {
    mu_status status = model->engine->instance_create(model->model, &model->instances[i], err);
    if (status != MU_OK) return status;
    model->n_instances++;
  }
  return MU_OK;
}

static mu_status load(const struct control_worker_start *start, const char *addresses, struct worker_model *model,
                      const char **ret_platform, mu_error *err) {
  const struct engine_entry *entry = NULL;
  struct options *options = NULL;
  struct arena memory = {0};
  mu_model_spec spec;
  mu_status status = engine_find(start->engine, start->path, &entry, err);
  if (status == MU_OK) {
    status = options_decode(start->options.data, start->options.size, &options);
    if (status != MU_OK) mu_fail(err, status, "the options from the supervisor cannot be read");
  }
  if (status == MU_OK) status = model_spec_create(start, model->config, options, addresses, &memory, &spec, err);
  if (status == MU_OK) {
    model->entry = entry;
    model->engine = entry->engine;
    *ret_platform = entry->platform;
    status = entry->engine->model_load(&spec, &model->model, err);
  }
  if (status == MU_OK) model->info = entry->engine->model_info(model->model);
  arena_free(&memory);
  options_free(options);
  return status;
}

static mu_status check_tensors(const struct worker_model *model, mu_error *err) {
  if (model->info->n_inputs <= CHANNEL_TENSORS_MAX && model->info->n_outputs <= CHANNEL_TENSORS_MAX) return MU_OK;
  return mu_fail(err, MU_UNSUPPORTED, "the model has %zu inputs and %zu outputs; muster carries %d of each",
                 model->info->n_inputs, model->info->n_outputs, CHANNEL_TENSORS_MAX);
}

/* Nobody said how many rows may run together: only a model that passes the check is batched. */
static mu_status decide_batching(struct worker_model *model, mu_error *err) {
  bool explicitly = model->config->has_max_batch_size;
  if (explicitly || model->metadata->max_batch < 2 || model->info->rows_independent) return MU_OK;
  char note[BATCH_NOTE_MAX] = "";
  mu_status status =
      batch_check(model->engine, model->instances[0], model->info, model->metadata->max_batch, note, err);
  if (status != MU_OK || note[0] == '\0') return status;
  status = model_metadata_disable_batching(model->metadata, note);
  return status == MU_OK ? MU_OK : mu_fail(err, status, "no memory");
}

mu_status worker_model_load(const struct control_worker_start *start, const char *addresses,
                            struct worker_model *ret_model, mu_error *err) {
  struct worker_model model = {0};
  const char *platform = "";
  mu_status status = check_start(start, err);
  if (status == MU_OK) status = worker_model_config(start, &model.config, err);
  if (status == MU_OK) status = load(start, addresses, &model, &platform, err);
  if (status == MU_OK) status = check_tensors(&model, err);
  if (status == MU_OK) {
    status = model_metadata_create(model.config, model.info, platform, start->max_batch, &model.metadata, err);
  }
  if (status == MU_OK) status = create_instances(&model, start->instances, err);
  if (status == MU_OK) status = decide_batching(&model, err);
  if (status != MU_OK) {
    worker_model_free(&model);
    return status;
  }
  *ret_model = model;
  return MU_OK;
}

void worker_model_free(struct worker_model *model) {
  for (uint32_t i = 0; i < model->n_instances; i++) model->engine->instance_free(model->instances[i]);
  free(model->instances);
  if (model->engine != NULL) model->engine->model_free(model->model);
  model_metadata_free(model->metadata);
  model_config_free(model->config);
  *model = (struct worker_model){0};
}
