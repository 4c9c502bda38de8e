#include "model/config_fields.h"

#include "model/text.h"

#include <string.h>

enum { GPUS_MAX = 1024 }; /* in an instance group; more than any machine has */

/* Where a message's n-th value of a field stands; the message itself where the field is not written. */
static struct pbtext_place place_of(const struct pbtext_message *message, const char *name, size_t n) {
  const struct pbtext_value *value = pbtext_find(message, name, n);
  return value != NULL ? value->place : message->place;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

static mu_status check_dims(struct config_decoder *decoder, const char *tensor, const int64_t *dims, uint32_t rank,
                            const struct pbtext_message *message, const char *field) {
  int64_t fixed[MU_MAX_RANK];
  for (uint32_t i = 0; i < rank; i++) {
    if (dims[i] == 0)
      return config_fail(decoder, MU_INVALID, place_of(message, field, i),
                         "'%s': a dimension is at least 1, or -1 where it varies", tensor);
    fixed[i] = dims[i] < 0 ? 1 : dims[i];
  }
  if (shape_size(MU_FP64, fixed, rank, NULL, NULL) != MU_OK)
    return config_fail(decoder, MU_INVALID, place_of(message, field, 0), "'%s': no tensor can be that large", tensor);
  return MU_OK;
}

/* Product of the dimensions from *at up to the next varying one, which *at then stands behind. */
static int64_t next_run(const int64_t *dims, uint32_t rank, uint32_t *at) {
  int64_t product = 1;
  while (*at < rank && dims[*at] >= 0) product *= dims[(*at)++]; /* check_dims saw that it cannot overflow */
  ++*at;
  return product;
}

/* As in Triton: between the varying dimensions, both shapes hold equally many elements. */
static bool reshape_fits(const struct model_tensor_config *tensor) {
  uint32_t at = 0, reshape_at = 0;
  while (at <= tensor->rank && reshape_at <= tensor->reshape_rank)
    if (next_run(tensor->dims, tensor->rank, &at) != next_run(tensor->reshape, tensor->reshape_rank, &reshape_at))
      return false;
  return at > tensor->rank && reshape_at > tensor->reshape_rank;
}

mu_status config_check_tensor(struct config_decoder *decoder, void *object, const struct pbtext_message *message) {
  struct model_tensor_config *tensor = object;
  tensor->line = message->place.line;
  if (*tensor->name == '\0')
    return config_fail(decoder, MU_INVALID, place_of(message, "name", 0), "the name of a tensor is empty");
  if (tensor->label_filename != NULL && *tensor->label_filename == '\0') tensor->label_filename = NULL;
  mu_status status = check_dims(decoder, tensor->name, tensor->dims, tensor->rank, message, "dims");
  if (status != MU_OK || !tensor->has_reshape) return status;

  struct pbtext_place place = place_of(message, "reshape", 0);
  const struct pbtext_message *reshape = pbtext_find(message, "reshape", 0)->message;
  if (!tensor->has_dims)
    return config_fail(decoder, MU_INVALID, place, "'%s': reshape needs dims, the shape that clients see",
                       tensor->name);
  status = check_dims(decoder, tensor->name, tensor->reshape, tensor->reshape_rank, reshape, "shape");
  if (status != MU_OK) return status;
  if (!reshape_fits(tensor)) {
    char dims[128], shape[128];
    return config_fail(decoder, MU_INVALID, place, "'%s': dims %s cannot be reshaped to %s", tensor->name,
                       shape_text(tensor->dims, tensor->rank, dims, sizeof dims),
                       shape_text(tensor->reshape, tensor->reshape_rank, shape, sizeof shape));
  }
  return MU_OK;
}

static mu_status check_unique_tensors(struct config_decoder *decoder, const struct model_tensor_config *tensors,
                                      uint32_t n, const char *field, const struct pbtext_message *message) {
  for (uint32_t i = 0; i < n; i++)
    for (uint32_t j = 0; j < i; j++)
      if (strcmp(tensors[i].name, tensors[j].name) == 0)
        return config_fail(decoder, MU_INVALID, place_of(message, field, i), "%s '%s' is already described in line %u",
                           field, tensors[i].name, tensors[j].line);
  return MU_OK;
}

static mu_status check_tensors(struct config_decoder *decoder, const struct model_config *config,
                               const struct pbtext_message *message) {
  if (config->n_inputs > MODEL_TENSORS_MAX || config->n_outputs > MODEL_TENSORS_MAX)
    return config_fail(decoder, MU_UNSUPPORTED,
                       place_of(message, config->n_inputs > MODEL_TENSORS_MAX ? "input" : "output", MODEL_TENSORS_MAX),
                       "more than %d inputs or outputs", MODEL_TENSORS_MAX);
  mu_status status = check_unique_tensors(decoder, config->inputs, config->n_inputs, "input", message);
  return status != MU_OK ? status
                         : check_unique_tensors(decoder, config->outputs, config->n_outputs, "output", message);
}

/* ---- instances, versions, warm-up -------------------------------------------------------------------------------- */

mu_status config_check_instance_group(struct config_decoder *decoder, void *object,
                                      const struct pbtext_message *message) {
  struct instance_group *group = object;
  if (group->name == NULL) group->name = "";
  if (group->n_gpus > GPUS_MAX)
    return config_fail(decoder, MU_INVALID, place_of(message, "gpus", GPUS_MAX), "more than %d GPUs in a group",
                       GPUS_MAX);
  if (group->kind == INSTANCE_CPU && group->n_gpus > 0)
    return config_fail(decoder, MU_INVALID, place_of(message, "gpus", 0), "an instance group of KIND_CPU names GPUs");
  for (uint32_t i = 0; i < group->n_gpus; i++)
    for (uint32_t j = 0; j < i; j++)
      if (group->gpus[i] == group->gpus[j])
        return config_fail(decoder, MU_INVALID, place_of(message, "gpus", i), "GPU %d is named twice", group->gpus[i]);
  return MU_OK;
}

mu_status config_check_versions(struct config_decoder *decoder, void *object, const struct pbtext_message *message) {
  const struct model_config *config = object;
  if (config->n_versions == 0)
    return config_fail(decoder, MU_INVALID, message->place, "the version policy names no version");
  return MU_OK;
}

mu_status config_check_warmup_input(struct config_decoder *decoder, void *object,
                                    const struct pbtext_message *message) {
  const struct warmup_input *input = object;
  if (shape_size(input->dtype, input->dims, input->rank, NULL, NULL) != MU_OK)
    return config_fail(decoder, MU_INVALID, place_of(message, "dims", 0), "no tensor can be that large");
  if (input->fill == WARMUP_FILE && *input->file == '\0')
    return config_fail(decoder, MU_INVALID, place_of(message, "input_data_file", 0), "the name of the file is empty");
  return MU_OK;
}

mu_status config_check_warmup(struct config_decoder *decoder, void *object, const struct pbtext_message *message) {
  struct model_warmup *warmup = object;
  if (warmup->name == NULL) warmup->name = "";
  for (uint32_t i = 0; i < warmup->n_inputs; i++)
    for (uint32_t j = 0; j < i; j++)
      if (strcmp(warmup->inputs[i].name, warmup->inputs[j].name) == 0)
        return config_fail(decoder, MU_INVALID, place_of(message, "inputs", i), "input '%s' is given twice",
                           warmup->inputs[i].name);
  return MU_OK;
}

static mu_status check_warmups(struct config_decoder *decoder, const struct model_config *config,
                               const struct pbtext_message *message) {
  for (uint32_t i = 0; config->has_max_batch_size && i < config->n_warmups; i++) {
    uint32_t batch = config->warmups[i].batch_size;
    if (batch > 1 && batch > (uint32_t)config->max_batch_size)
      return config_fail(decoder, MU_INVALID,
                         place_of(pbtext_find(message, "model_warmup", i)->message, "batch_size", 0),
                         "a warm-up batch of %u is more than max_batch_size %d", batch, config->max_batch_size);
  }
  return MU_OK;
}

/* ---- dynamic_batching -------------------------------------------------------------------------------------------- */

static mu_status check_preferred_sizes(struct config_decoder *decoder, const struct model_config *config,
                                       const struct pbtext_message *batching) {
  for (uint32_t i = 0; i < config->n_preferred_batch_sizes; i++) {
    struct pbtext_place place = place_of(batching, "preferred_batch_size", i);
    if (i == MODEL_PREFERRED_SIZES_MAX)
      return config_fail(decoder, MU_UNSUPPORTED, place, "more than %d preferred batch sizes",
                         MODEL_PREFERRED_SIZES_MAX);
    if (config->has_max_batch_size && config->preferred_batch_sizes[i] > config->max_batch_size)
      return config_fail(decoder, MU_INVALID, place, "preferred_batch_size %d is more than max_batch_size %d",
                         config->preferred_batch_sizes[i], config->max_batch_size);
  }
  return MU_OK;
}

/* A late request that waits on behind later ones cannot keep its order. */
static mu_status check_ordering(struct config_decoder *decoder, const struct model_config *config,
                                const struct pbtext_message *batching) {
  struct pbtext_place place = place_of(batching, "preserve_ordering", 0);
  if (config->priority_levels > 1)
    return config_fail(decoder, MU_INVALID, place, "preserve_ordering allows one priority level only");
  bool delay = config->default_queue_policy.delay && config->default_queue_policy.default_timeout_us != 0;
  for (uint32_t i = 0; i < config->n_priority_queue_policies; i++) {
    const struct queue_policy *policy = &config->priority_queue_policies[i].policy;
    delay |= policy->delay && policy->default_timeout_us != 0;
  }
  if (delay)
    return config_fail(decoder, MU_INVALID, place,
                       "preserve_ordering and the timeout_action DELAY exclude one another");
  return MU_OK;
}

static mu_status check_priorities(struct config_decoder *decoder, const struct model_config *config,
                                  const struct pbtext_message *batching) {
  const struct priority_queue_policy *policies = config->priority_queue_policies;
  uint64_t levels = config->priority_levels, level = config->default_priority_level;
  for (uint32_t i = 0; i < config->n_priority_queue_policies; i++)
    for (uint32_t j = 0; j < i; j++)
      if (policies[i].level == policies[j].level)
        return config_fail(decoder, MU_INVALID, place_of(batching, "priority_queue_policy", i),
                           "priority level %llu has two policies", (unsigned long long)policies[i].level);
  if (levels == 0) { /* Triton loads such a configuration, and pays no attention to these fields */
    if (level == 0 && config->n_priority_queue_policies == 0) return MU_OK;
    const char *field = level != 0 ? "default_priority_level" : "priority_queue_policy";
    return config_warn(decoder, place_of(batching, field, 0), "%s is ignored: there are no priority_levels", field);
  }
  if (level < 1 || level > levels)
    return config_fail(decoder, MU_INVALID, place_of(batching, "default_priority_level", 0),
                       "default_priority_level must be from 1 to %llu", (unsigned long long)levels);
  for (uint32_t i = 0; i < config->n_priority_queue_policies; i++)
    if (policies[i].level < 1 || policies[i].level > levels)
      return config_fail(decoder, MU_INVALID, place_of(batching, "priority_queue_policy", i),
                         "the level of a priority_queue_policy must be from 1 to %llu", (unsigned long long)levels);
  return MU_OK;
}

static mu_status check_dynamic_batching(struct config_decoder *decoder, const struct model_config *config,
                                        const struct pbtext_message *message) {
  if (!config->has_dynamic_batching) return MU_OK;
  const struct pbtext_message *batching = pbtext_find(message, "dynamic_batching", 0)->message;
  mu_status status = check_preferred_sizes(decoder, config, batching);
  if (status == MU_OK) status = check_priorities(decoder, config, batching);
  if (status == MU_OK && config->preserve_ordering) status = check_ordering(decoder, config, batching);
  return status;
}

/* ---- the model --------------------------------------------------------------------------------------------------- */

/* What `platform` and `backend` may say, and the engine that it means. */
static const struct {
  const char *word, *engine;
} platforms[] = {{"", ""}, {"onnxruntime_onnx", "onnxruntime"}, {"sim", "sim"}, {"remote", "remote"}},
  backends[] = {{"", ""}, {"onnxruntime", "onnxruntime"}, {"sim", "sim"}, {"remote", "remote"}};
enum { N_ENGINES = 4 };

const char *model_config_engine(const struct model_config *config) {
  for (int i = 1; i < N_ENGINES; i++)
    if (strcmp(config->platform, platforms[i].word) == 0 || strcmp(config->backend, backends[i].word) == 0)
      return platforms[i].engine;
  return "";
}

static mu_status check_engine(struct config_decoder *decoder, const struct model_config *config,
                              const struct pbtext_message *message) {
  const char *platform = NULL, *backend = NULL;
  for (int i = 0; i < N_ENGINES; i++) {
    if (strcmp(config->platform, platforms[i].word) == 0) platform = platforms[i].engine;
    if (strcmp(config->backend, backends[i].word) == 0) backend = backends[i].engine;
  }
  if (platform == NULL)
    return config_fail(decoder, MU_UNSUPPORTED, place_of(message, "platform", 0),
                       "platform '%s' is not served (only onnxruntime_onnx is)", config->platform);
  if (backend == NULL)
    return config_fail(decoder, MU_UNSUPPORTED, place_of(message, "backend", 0),
                       "backend '%s' is not served (only onnxruntime is)", config->backend);
  if (*platform != '\0' && *backend != '\0' && strcmp(platform, backend) != 0)
    return config_fail(decoder, MU_INVALID, place_of(message, "backend", 0),
                       "platform '%s' and backend '%s' contradict one another", config->platform, config->backend);
  return MU_OK;
}

bool model_config_needs_file(const struct model_config *config) {
  const char *engine = model_config_engine(config);
  return strcmp(engine, "sim") != 0 && strcmp(engine, "remote") != 0;
}

/* The simulated engine has no model file to learn its tensors from. */
static mu_status check_simulated(struct config_decoder *decoder, const struct model_config *config,
                                 const struct pbtext_message *message) {
  if (strcmp(model_config_engine(config), "sim") != 0) return MU_OK;
  if (config->n_inputs == 0 || config->n_outputs == 0)
    return config_fail(decoder, MU_INVALID, message->place, "a model of the engine sim must describe its %s",
                       config->n_inputs == 0 ? "input" : "output");
  for (uint32_t i = 0; i < config->n_inputs + config->n_outputs; i++) {
    bool is_input = i < config->n_inputs;
    const struct model_tensor_config *tensor = is_input ? &config->inputs[i] : &config->outputs[i - config->n_inputs];
    if (tensor->dtype == MU_DTYPE_INVALID || !tensor->has_dims)
      return config_fail(decoder, MU_INVALID,
                         place_of(message, is_input ? "input" : "output", is_input ? i : i - config->n_inputs),
                         "'%s' of a model of the engine sim needs data_type and dims", tensor->name);
  }
  return MU_OK;
}

static mu_status check_parameters(struct config_decoder *decoder, const struct model_config *config,
                                  const struct pbtext_message *message) {
  for (uint32_t i = 0; i < config->n_parameters; i++)
    for (uint32_t j = 0; j < i; j++)
      if (strcmp(config->parameters[i].key, config->parameters[j].key) == 0)
        return config_fail(decoder, MU_INVALID, place_of(message, "parameters", i), "parameter '%s' is given twice",
                           config->parameters[i].key);
  return MU_OK;
}

mu_status config_check_model(struct config_decoder *decoder, void *object, const struct pbtext_message *message) {
  static mu_status (*const checks[])(struct config_decoder *, const struct model_config *,
                                     const struct pbtext_message *) = {
      check_engine, check_tensors, check_dynamic_batching, check_warmups, check_parameters, check_simulated,
  };
  mu_status status = MU_OK;
  for (size_t i = 0; i < sizeof checks / sizeof *checks && status == MU_OK; i++)
    status = checks[i](decoder, object, message);
  return status;
}
