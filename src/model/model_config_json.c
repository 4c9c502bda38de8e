/*
 * GET v2/models/M/config: the effective configuration in the JSON that Triton prints for its ModelConfig, field for
 * field and in its order, with the defaults that Triton's clients look for.
 *
 * Everything is built by the two functions `put` and `add`, which remember in the builder that memory ran out; so the
 * outcome is looked at once, at the end.
 */
#include "model/model.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct builder {
  const struct model *model;
  bool failed;
};

/* Both take over value, where NULL stands for one that found no memory, and return it, or NULL when it is gone; object
 * and array may be such a NULL. */
static json_t *put(struct builder *b, json_t *object, const char *key, json_t *value) {
  if (json_object_set_new(object, key, value) == 0) return value;
  b->failed = true;
  return NULL;
}

static json_t *add(struct builder *b, json_t *array, json_t *value) {
  if (json_array_append_new(array, value) == 0) return value;
  b->failed = true;
  return NULL;
}

static void put_text(struct builder *b, json_t *object, const char *key, const char *text) {
  put(b, object, key, json_string(text != NULL ? text : ""));
}

static void put_bool(struct builder *b, json_t *object, const char *key, bool value) {
  put(b, object, key, json_boolean(value));
}

/* Numbers past INT64_MAX have no place in jansson's integers; such a time is "for ever" in any case. */
static void put_number(struct builder *b, json_t *object, const char *key, uint64_t number) {
  put(b, object, key, json_integer(number > INT64_MAX ? INT64_MAX : (json_int_t)number));
}

static void put_shape(struct builder *b, json_t *object, const char *key, const int64_t *dims, uint32_t rank) {
  json_t *shape = put(b, object, key, json_array());
  for (uint32_t i = 0; i < rank; i++) add(b, shape, json_integer(dims[i]));
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

/* What is printed of a tensor, from the loaded model or else from its configuration. */
struct tensor_view {
  const char *name;
  mu_dtype dtype;
  const int64_t *dims, *reshape;
  uint32_t rank, reshape_rank;
  bool has_reshape, optional;
  const struct model_tensor_config *config; /* NULL where config.pbtxt does not describe it */
};

static void add_tensor(struct builder *b, json_t *list, const struct tensor_view *view, bool input) {
  static const char *const formats[] = {
      [FORMAT_NONE] = "FORMAT_NONE", [FORMAT_NHWC] = "FORMAT_NHWC", [FORMAT_NCHW] = "FORMAT_NCHW"};
  json_t *tensor = add(b, list, json_object());
  put_text(b, tensor, "name", view->name);
  put_text(b, tensor, "data_type", model_config_dtype_name(view->dtype));
  if (input) put_text(b, tensor, "format", formats[view->config != NULL ? view->config->format : FORMAT_NONE]);
  put_shape(b, tensor, "dims", view->dims, view->rank);
  if (view->has_reshape)
    put_shape(b, put(b, tensor, "reshape", json_object()), "shape", view->reshape, view->reshape_rank);
  if (!input) put_text(b, tensor, "label_filename", view->config != NULL ? view->config->label_filename : "");
  put_bool(b, tensor, "is_shape_tensor", false);
  if (input) put_bool(b, tensor, "allow_ragged_batch", false);
  if (input) put_bool(b, tensor, "optional", view->optional);
  put_bool(b, tensor, "is_non_linear_format_io", false);
}

static const struct model_tensor_config *find_config(const struct model_tensor_config *configs, uint32_t n,
                                                     const char *name) {
  for (uint32_t i = 0; i < n; i++)
    if (strcmp(configs[i].name, name) == 0) return &configs[i];
  return NULL;
}

static void put_tensors(struct builder *b, json_t *root, bool input) {
  const struct model_config *config = b->model->config;
  const struct model_metadata *metadata = b->model->metadata;
  const struct model_tensor_config *configs = input ? config->inputs : config->outputs;
  uint32_t n_configs = input ? config->n_inputs : config->n_outputs;
  json_t *list = put(b, root, input ? "input" : "output", json_array());
  if (metadata == NULL) {
    for (uint32_t i = 0; i < n_configs; i++) {
      const struct model_tensor_config *c = &configs[i];
      struct tensor_view view = {c->name,         c->dtype,       c->dims,     c->reshape, c->rank,
                                 c->reshape_rank, c->has_reshape, c->optional, c};
      add_tensor(b, list, &view, input);
    }
    return;
  }
  const struct model_tensor *tensors = input ? metadata->inputs : metadata->outputs;
  uint32_t n = input ? metadata->n_inputs : metadata->n_outputs, lead = metadata->max_batch > 0 ? 1 : 0;
  for (uint32_t i = 0; i < n; i++) {
    const struct model_tensor *t = &tensors[i];
    if (!t->served) continue;
    struct tensor_view view = {.name = t->info.name,
                               .dtype = t->info.dtype,
                               .dims = t->dims + lead,
                               .rank = t->rank - lead,
                               .reshape = t->info.dims + lead,
                               .reshape_rank = t->info.rank - lead,
                               .has_reshape = t->reshaped,
                               .optional = t->info.optional,
                               .config = find_config(configs, n_configs, t->info.name)};
    add_tensor(b, list, &view, input);
  }
}

/* ---- the other messages ------------------------------------------------------------------------------------------ */

static void put_version_policy(struct builder *b, json_t *root) {
  const struct model_config *config = b->model->config;
  static const char *const names[] = {
      [VERSION_LATEST] = "latest", [VERSION_ALL] = "all", [VERSION_SPECIFIC] = "specific"};
  json_t *policy = put(b, root, "version_policy", json_object());
  json_t *choice = put(b, policy, names[config->version_policy], json_object());
  if (config->version_policy == VERSION_LATEST) put_number(b, choice, "num_versions", config->latest);
  if (config->version_policy == VERSION_SPECIFIC)
    put_shape(b, choice, "versions", config->versions, config->n_versions);
}

static void put_options(struct builder *b, json_t *object, const mu_parameter *parameters, uint32_t n) {
  json_t *map = put(b, object, "parameters", json_object());
  for (uint32_t i = 0; i < n; i++) put_text(b, map, parameters[i].key, parameters[i].value);
}

static void put_accelerators(struct builder *b, json_t *object, const char *key,
                             const struct model_accelerator *accelerators, uint32_t n) {
  json_t *list = put(b, object, key, json_array());
  for (uint32_t i = 0; i < n; i++) {
    json_t *accelerator = add(b, list, json_object());
    put_text(b, accelerator, "name", accelerators[i].name);
    put_options(b, accelerator, accelerators[i].parameters, accelerators[i].n_parameters);
  }
}

static void put_optimization(struct builder *b, json_t *root) {
  const struct model_config *config = b->model->config;
  json_t *optimization = put(b, root, "optimization", json_object());
  if (config->has_graph_level)
    put(b, put(b, optimization, "graph", json_object()), "level", json_integer(config->graph_level));
  put_text(b, optimization, "priority", "PRIORITY_DEFAULT");
  if (config->n_gpu_accelerators + config->n_cpu_accelerators > 0) {
    json_t *both = put(b, optimization, "execution_accelerators", json_object());
    put_accelerators(b, both, "gpu_execution_accelerator", config->gpu_accelerators, config->n_gpu_accelerators);
    put_accelerators(b, both, "cpu_execution_accelerator", config->cpu_accelerators, config->n_cpu_accelerators);
  }
  put_bool(b, put(b, optimization, "input_pinned_memory", json_object()), "enable", true);
  put_bool(b, put(b, optimization, "output_pinned_memory", json_object()), "enable", true);
  put_number(b, optimization, "gather_kernel_buffer_threshold", 0);
  put_bool(b, optimization, "eager_batching", false);
}

static void put_queue_policy(struct builder *b, json_t *object, const char *key, const struct queue_policy *policy) {
  json_t *queue = put(b, object, key, json_object());
  put_text(b, queue, "timeout_action", policy->delay ? "DELAY" : "REJECT");
  put_number(b, queue, "default_timeout_microseconds", policy->default_timeout_us);
  put_bool(b, queue, "allow_timeout_override", policy->allow_timeout_override);
  put_number(b, queue, "max_queue_size", policy->max_queue_size);
}

static void put_dynamic_batching(struct builder *b, json_t *root) {
  const struct model_config *config = b->model->config;
  json_t *batching = put(b, root, "dynamic_batching", json_object());
  json_t *sizes = put(b, batching, "preferred_batch_size", json_array());
  for (uint32_t i = 0; i < config->n_preferred_batch_sizes; i++)
    add(b, sizes, json_integer(config->preferred_batch_sizes[i]));
  put_number(b, batching, "max_queue_delay_microseconds", config->max_queue_delay_us);
  put_bool(b, batching, "preserve_ordering", config->preserve_ordering);
  put_number(b, batching, "priority_levels", config->priority_levels);
  put_number(b, batching, "default_priority_level", config->default_priority_level);
  if (config->has_default_queue_policy)
    put_queue_policy(b, batching, "default_queue_policy", &config->default_queue_policy);
  json_t *policies = put(b, batching, "priority_queue_policy", json_object());
  for (uint32_t i = 0; i < config->n_priority_queue_policies; i++) {
    char level[24];
    snprintf(level, sizeof level, "%" PRIu64, config->priority_queue_policies[i].level);
    put_queue_policy(b, policies, level, &config->priority_queue_policies[i].policy);
  }
}

static void put_instance_groups(struct builder *b, json_t *root) {
  static const char *const kinds[] = {
      [INSTANCE_AUTO] = "KIND_AUTO", [INSTANCE_GPU] = "KIND_GPU", [INSTANCE_CPU] = "KIND_CPU"};
  const struct model_config *config = b->model->config;
  json_t *list = put(b, root, "instance_group", json_array());
  for (uint32_t i = 0; i < config->n_instance_groups; i++) {
    const struct instance_group *g = &config->instance_groups[i];
    json_t *group = add(b, list, json_object());
    put_text(b, group, "name", *g->name != '\0' ? g->name : config->name);
    put_text(b, group, "kind", kinds[g->kind]);
    put_number(b, group, "count", g->count > 0 ? (uint64_t)g->count : 1);
    json_t *gpus = put(b, group, "gpus", json_array());
    for (uint32_t j = 0; j < g->n_gpus; j++) add(b, gpus, json_integer(g->gpus[j]));
    put(b, group, "secondary_devices", json_array());
    put(b, group, "profile", json_array());
    put_bool(b, group, "passive", false);
    put_text(b, group, "host_policy", "");
  }
}

static void put_parameters(struct builder *b, json_t *root) {
  const struct model_config *config = b->model->config;
  json_t *map = put(b, root, "parameters", json_object());
  for (uint32_t i = 0; i < config->n_parameters; i++)
    put_text(b, put(b, map, config->parameters[i].key, json_object()), "string_value", config->parameters[i].value);
}

static void put_warmups(struct builder *b, json_t *root) {
  const struct model_config *config = b->model->config;
  json_t *list = put(b, root, "model_warmup", json_array());
  for (uint32_t i = 0; i < config->n_warmups; i++) {
    const struct model_warmup *w = &config->warmups[i];
    json_t *warmup = add(b, list, json_object());
    put_text(b, warmup, "name", w->name);
    put_number(b, warmup, "batch_size", w->batch_size);
    json_t *inputs = put(b, warmup, "inputs", json_object());
    for (uint32_t j = 0; j < w->n_inputs; j++) {
      const struct warmup_input *in = &w->inputs[j];
      json_t *input = put(b, inputs, in->name, json_object());
      put_text(b, input, "data_type", model_config_dtype_name(in->dtype));
      put_shape(b, input, "dims", in->dims, in->rank);
      if (in->fill == WARMUP_FILE)
        put_text(b, input, "input_data_file", in->file);
      else
        put_bool(b, input, in->fill == WARMUP_ZERO ? "zero_data" : "random_data", true);
    }
    put_number(b, warmup, "count", w->count);
  }
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static const char *or_else(const char *text, const char *otherwise) { return *text != '\0' ? text : otherwise; }

static void put_model(struct builder *b, json_t *root) {
  const struct model_config *config = b->model->config;
  const struct model_metadata *metadata = b->model->metadata;
  const char *engine = metadata != NULL ? metadata->platform : model_config_engine(config);
  bool file = strcmp(engine, "sim") != 0 && strcmp(engine, "remote") != 0; /* of the others there is but one */
  uint32_t max_batch = metadata != NULL ? metadata->max_batch : (uint32_t)config->max_batch_size;
  put_text(b, root, "name", b->model->name);
  put_text(b, root, "platform", metadata == NULL && file ? "onnxruntime_onnx" : engine);
  put_text(b, root, "backend", file ? "onnxruntime" : engine);
  put_text(b, root, "runtime", "");
  put_version_policy(b, root);
  put_number(b, root, "max_batch_size", max_batch);
  put_tensors(b, root, true);
  put_tensors(b, root, false);
  put(b, root, "batch_input", json_array());
  put(b, root, "batch_output", json_array());
  put_optimization(b, root);
  if (config->has_dynamic_batching || max_batch > 1) put_dynamic_batching(b, root);
  put_instance_groups(b, root);
  put_text(b, root, "default_model_filename", or_else(config->default_model_filename, file ? "model.onnx" : ""));
  put(b, root, "cc_model_filenames", json_object());
  put(b, root, "metric_tags", json_object());
  put_parameters(b, root);
  put_warmups(b, root);
}

json_t *model_config_json(const struct model *model) {
  json_t *root = json_object();
  struct builder builder = {.model = model, .failed = root == NULL};
  put_model(&builder, root);
  if (!builder.failed) return root;
  json_decref(root);
  return NULL;
}
