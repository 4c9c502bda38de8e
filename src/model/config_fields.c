#include "model/config_fields.h"

/*
 * One row a field of Triton's model_config.proto, so that nothing which may stand in a config.pbtxt is taken for a
 * mistake, and nothing that muster does not do goes by in silence: a field that cannot change an answer is ignored with
 * a warning, any other is refused.
 */

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define AT(type, member) .offset = offsetof(type, member)
#define WORDS(array) .words = (array), .n_words = COUNT(array)
#define ARRAY(type, items, n) .repeated = true, .offset = offsetof(type, items), .count = offsetof(type, n)
#define SHAPE(type, items, n) ARRAY(type, items, n), .capacity = MU_MAX_RANK, .kind = CONFIG_INT64, .max = INT64_MAX
#define MESSAGE(rules_of_it) .kind = CONFIG_MESSAGE, .message = &(rules_of_it)
#define RULES(array) .rules = (array), .n_rules = COUNT(array)

const struct config_word config_dtypes[] = {
    {"TYPE_BOOL", 1, MU_BOOL},     {"TYPE_UINT8", 2, MU_UINT8},   {"TYPE_UINT16", 3, MU_UINT16},
    {"TYPE_UINT32", 4, MU_UINT32}, {"TYPE_UINT64", 5, MU_UINT64}, {"TYPE_INT8", 6, MU_INT8},
    {"TYPE_INT16", 7, MU_INT16},   {"TYPE_INT32", 8, MU_INT32},   {"TYPE_INT64", 9, MU_INT64},
    {"TYPE_FP16", 10, MU_FP16},    {"TYPE_FP32", 11, MU_FP32},    {"TYPE_FP64", 12, MU_FP64},
    {"TYPE_STRING", 13, MU_BYTES}, {"TYPE_BF16", 14, MU_BF16},
};
const size_t config_n_dtypes = COUNT(config_dtypes);
#define DTYPE_WORDS .words = config_dtypes, .n_words = COUNT(config_dtypes)

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

static const struct config_word formats[] = {
    {"FORMAT_NONE", 0, FORMAT_NONE},
    {"FORMAT_NHWC", 1, FORMAT_NHWC},
    {"FORMAT_NCHW", 2, FORMAT_NCHW},
};

static const struct config_rule reshape_fields[] = {
    {"shape", SHAPE(struct model_tensor_config, reshape, reshape_rank), .min = -1},
};
static const struct config_rules reshape_rules = {.name = "ModelTensorReshape", RULES(reshape_fields)};

static const char shape_tensors[] = "shape tensors belong to TensorRT engines",
                  non_linear[] = "tensors in TensorRT's own memory formats are not served",
                  ragged[] = "requests of different shapes are never joined in one tensor";

#define TENSOR_FIELDS                                                                                \
  {"name", CONFIG_STRING, AT(struct model_tensor_config, name), .required = true},                   \
      {"data_type", CONFIG_ENUM, AT(struct model_tensor_config, dtype), DTYPE_WORDS},                \
      {"dims", SHAPE(struct model_tensor_config, dims, rank), .min = -1,                             \
       .has = offsetof(struct model_tensor_config, has_dims)},                                       \
      {"reshape", MESSAGE(reshape_rules), .has = offsetof(struct model_tensor_config, has_reshape)}, \
      {"is_shape_tensor", CONFIG_UNSUPPORTED_TRUE, .reason = shape_tensors}, {                       \
    "is_non_linear_format_io", CONFIG_UNSUPPORTED_TRUE, .reason = non_linear                         \
  }

static const struct config_rule input_fields[] = {
    TENSOR_FIELDS,
    {"format", CONFIG_ENUM, AT(struct model_tensor_config, format), WORDS(formats)},
    {"allow_ragged_batch", CONFIG_UNSUPPORTED_TRUE, .reason = ragged},
    {"optional", CONFIG_BOOL, AT(struct model_tensor_config, optional)},
};
static const struct config_rules input_rules = {
    .name = "ModelInput", .size = sizeof(struct model_tensor_config), RULES(input_fields), config_check_tensor};

static const struct config_rule output_fields[] = {
    TENSOR_FIELDS,
    {"label_filename", CONFIG_PATH, AT(struct model_tensor_config, label_filename)},
};
static const struct config_rules output_rules = {
    .name = "ModelOutput", .size = sizeof(struct model_tensor_config), RULES(output_fields), config_check_tensor};

/* ---- version_policy ---------------------------------------------------------------------------------------------- */

static const struct config_rule latest_fields[] = {
    {"num_versions", CONFIG_INT32, AT(struct model_config, latest), .min = 1, .max = UINT32_MAX},
};
static const struct config_rules latest_rules = {.name = "ModelVersionPolicy.Latest", RULES(latest_fields)};

static const struct config_rules all_rules = {.name = "ModelVersionPolicy.All"};

static const struct config_rule specific_fields[] = {
    {"versions", CONFIG_INT64, ARRAY(struct model_config, versions, n_versions), .min = 1, .max = INT64_MAX},
};
static const struct config_rules specific_rules = {
    .name = "ModelVersionPolicy.Specific", RULES(specific_fields), config_check_versions};

#define POLICY(which) .group = 1, .choice_at = offsetof(struct model_config, version_policy), .choice = (which)
static const struct config_rule version_policy_fields[] = {
    {"latest", MESSAGE(latest_rules), POLICY(VERSION_LATEST)},
    {"all", MESSAGE(all_rules), POLICY(VERSION_ALL)},
    {"specific", MESSAGE(specific_rules), POLICY(VERSION_SPECIFIC)},
};
static const struct config_rules version_policy_rules = {.name = "ModelVersionPolicy", RULES(version_policy_fields)};

/* ---- instance_group ---------------------------------------------------------------------------------------------- */

static const struct config_word instance_kinds[] = {
    {"KIND_AUTO", 0, INSTANCE_AUTO},
    {"KIND_GPU", 1, INSTANCE_GPU},
    {"KIND_CPU", 2, INSTANCE_CPU},
    {"KIND_MODEL", 3, CONFIG_WORD_UNSUPPORTED},
};

static const struct config_rule instance_group_fields[] = {
    {"name", CONFIG_STRING, AT(struct instance_group, name)},
    {"kind", CONFIG_ENUM, AT(struct instance_group, kind), WORDS(instance_kinds)},
    {"count", CONFIG_INT32, AT(struct instance_group, count), .max = INT32_MAX},
    {"gpus", CONFIG_INT32, ARRAY(struct instance_group, gpus, n_gpus), .max = INT32_MAX},
    {"passive", CONFIG_UNSUPPORTED_TRUE, .reason = "every instance takes requests"},
    {"profile", CONFIG_UNSUPPORTED, .reason = "optimization profiles belong to TensorRT engines"},
    {"rate_limiter", CONFIG_IGNORED, .reason = "models on one device take turns by measured time and priority"},
    {"secondary_devices", CONFIG_UNSUPPORTED, .reason = "an instance runs on one device"},
    {"host_policy", CONFIG_IGNORED, .reason = "workers are placed by the machine's topology"},
};
static const struct config_rules instance_group_rules = {.name = "ModelInstanceGroup",
                                                         .size = sizeof(struct instance_group),
                                                         RULES(instance_group_fields),
                                                         config_check_instance_group};

/* ---- dynamic_batching -------------------------------------------------------------------------------------------- */

static const struct config_word timeout_actions[] = {{"REJECT", 0, 0}, {"DELAY", 1, 1}};

static const struct config_rule queue_policy_fields[] = {
    {"timeout_action", CONFIG_ENUM_BOOL, AT(struct queue_policy, delay), WORDS(timeout_actions)},
    {"default_timeout_microseconds", CONFIG_INT64, AT(struct queue_policy, default_timeout_us), .max = UINT64_MAX},
    {"allow_timeout_override", CONFIG_BOOL, AT(struct queue_policy, allow_timeout_override)},
    {"max_queue_size", CONFIG_INT32, AT(struct queue_policy, max_queue_size), .max = UINT32_MAX},
};
static const struct config_rules queue_policy_rules = {.name = "ModelQueuePolicy", RULES(queue_policy_fields)};

static const struct config_rule priority_policy_fields[] = {
    {"key", CONFIG_INT64, AT(struct priority_queue_policy, level), .required = true, .max = UINT64_MAX},
    {"value", MESSAGE(queue_policy_rules), AT(struct priority_queue_policy, policy), .required = true},
};
static const struct config_rules priority_policy_rules = {
    .name = "priority_queue_policy", .size = sizeof(struct priority_queue_policy), RULES(priority_policy_fields)};

static const struct config_rule dynamic_batching_fields[] = {
    {"preferred_batch_size", CONFIG_INT32, ARRAY(struct model_config, preferred_batch_sizes, n_preferred_batch_sizes),
     .min = 1, .max = INT32_MAX},
    {"max_queue_delay_microseconds", CONFIG_INT64, AT(struct model_config, max_queue_delay_us), .max = UINT64_MAX,
     .has = offsetof(struct model_config, has_max_queue_delay), .zero_is_none = true},
    {"preserve_ordering", CONFIG_BOOL, AT(struct model_config, preserve_ordering)},
    {"priority_levels", CONFIG_INT64, AT(struct model_config, priority_levels), .max = MODEL_PRIORITY_LEVELS_MAX},
    {"default_priority_level", CONFIG_INT64, AT(struct model_config, default_priority_level), .max = UINT64_MAX},
    {"default_queue_policy", MESSAGE(queue_policy_rules), AT(struct model_config, default_queue_policy),
     .has = offsetof(struct model_config, has_default_queue_policy)},
    {"priority_queue_policy", MESSAGE(priority_policy_rules),
     ARRAY(struct model_config, priority_queue_policies, n_priority_queue_policies)},
};
static const struct config_rules dynamic_batching_rules = {.name = "ModelDynamicBatching",
                                                           RULES(dynamic_batching_fields)};

/* ---- model_warmup ------------------------------------------------------------------------------------------------ */

#define FILL(which) .group = 1, .required = true, .choice_at = offsetof(struct warmup_input, fill), .choice = (which)
static const struct config_rule warmup_tensor_fields[] = {
    {"data_type", CONFIG_ENUM, AT(struct warmup_input, dtype), DTYPE_WORDS, .required = true},
    {"dims", SHAPE(struct warmup_input, dims, rank), .required = true},
    {"zero_data", CONFIG_SET, FILL(WARMUP_ZERO)},
    {"random_data", CONFIG_SET, FILL(WARMUP_RANDOM)},
    {"input_data_file", CONFIG_PATH, AT(struct warmup_input, file), FILL(WARMUP_FILE)},
};
static const struct config_rules warmup_tensor_rules = {
    .name = "ModelWarmup.Input", RULES(warmup_tensor_fields), config_check_warmup_input};

static const struct config_rule warmup_input_fields[] = {
    {"key", CONFIG_STRING, AT(struct warmup_input, name), .required = true},
    {"value", MESSAGE(warmup_tensor_rules), .required = true},
};
static const struct config_rules warmup_input_rules = {
    .name = "inputs", .size = sizeof(struct warmup_input), RULES(warmup_input_fields)};

static const struct config_rule warmup_fields[] = {
    {"name", CONFIG_STRING, AT(struct model_warmup, name)},
    {"batch_size", CONFIG_INT32, AT(struct model_warmup, batch_size), .max = UINT32_MAX},
    {"inputs", MESSAGE(warmup_input_rules), ARRAY(struct model_warmup, inputs, n_inputs), .required = true},
    {"count", CONFIG_INT32, AT(struct model_warmup, count), .max = UINT32_MAX},
};
static const struct config_rules warmup_rules = {
    .name = "ModelWarmup", .size = sizeof(struct model_warmup), RULES(warmup_fields), config_check_warmup};

/* ---- parameters, optimization ------------------------------------------------------------------------------------ */

static const struct config_rule parameter_value_fields[] = {
    {"string_value", CONFIG_STRING, AT(mu_parameter, value), .required = true},
};
static const struct config_rules parameter_value_rules = {.name = "ModelParameter", RULES(parameter_value_fields)};

static const struct config_rule parameter_fields[] = {
    {"key", CONFIG_STRING, AT(mu_parameter, key), .required = true},
    {"value", MESSAGE(parameter_value_rules), .required = true},
};
static const struct config_rules parameter_rules = {
    .name = "parameters", .size = sizeof(mu_parameter), RULES(parameter_fields)};

static const struct config_rule accelerator_option_fields[] = {
    {"key", CONFIG_STRING, AT(mu_parameter, key), .required = true},
    {"value", CONFIG_STRING, AT(mu_parameter, value), .required = true},
};
static const struct config_rules accelerator_option_rules = {
    .name = "parameters", .size = sizeof(mu_parameter), RULES(accelerator_option_fields)};

static const struct config_rule accelerator_fields[] = {
    {"name", CONFIG_STRING, AT(struct model_accelerator, name), .required = true},
    {"parameters", MESSAGE(accelerator_option_rules), ARRAY(struct model_accelerator, parameters, n_parameters)},
};
static const struct config_rules accelerator_rules = {
    .name = "Accelerator", .size = sizeof(struct model_accelerator), RULES(accelerator_fields)};

static const struct config_rule accelerators_fields[] = {
    {"gpu_execution_accelerator", MESSAGE(accelerator_rules),
     ARRAY(struct model_config, gpu_accelerators, n_gpu_accelerators)},
    {"cpu_execution_accelerator", MESSAGE(accelerator_rules),
     ARRAY(struct model_config, cpu_accelerators, n_cpu_accelerators)},
};
static const struct config_rules accelerators_rules = {.name = "ExecutionAccelerators", RULES(accelerators_fields)};

static const struct config_rule graph_fields[] = {
    {"level", CONFIG_INT32, AT(struct model_config, graph_level), .min = INT32_MIN, .max = INT32_MAX,
     .has = offsetof(struct model_config, has_graph_level)},
};
static const struct config_rules graph_rules = {.name = "Graph", RULES(graph_fields)};

static const char own_buffers[] = "workers choose their own buffers and copies";
static const struct config_rule optimization_fields[] = {
    {"graph", MESSAGE(graph_rules)},
    {"execution_accelerators", MESSAGE(accelerators_rules)},
    {"priority", CONFIG_IGNORED, .reason = "models on one device take turns by measured time"},
    {"cuda", CONFIG_IGNORED, .reason = "CUDA graphs are chosen by the engine's own options"},
    {"input_pinned_memory", CONFIG_IGNORED, .reason = own_buffers},
    {"output_pinned_memory", CONFIG_IGNORED, .reason = own_buffers},
    {"gather_kernel_buffer_threshold", CONFIG_IGNORED, .reason = own_buffers},
    {"eager_batching", CONFIG_IGNORED, .reason = own_buffers},
};
static const struct config_rules optimization_rules = {.name = "ModelOptimizationPolicy", RULES(optimization_fields)};

/* ---- the model --------------------------------------------------------------------------------------------------- */

static const struct config_rule transaction_policy_fields[] = {
    {"decoupled", CONFIG_UNSUPPORTED_TRUE, .reason = "a request has one response"},
};
static const struct config_rules transaction_policy_rules = {.name = "ModelTransactionPolicy",
                                                             RULES(transaction_policy_fields)};

static const struct config_rule response_cache_fields[] = {
    {"enable", CONFIG_IGNORED_TRUE, .reason = "responses are not cached"},
};
static const struct config_rules response_cache_rules = {.name = "ModelResponseCache", RULES(response_cache_fields)};

static const struct config_rule model_fields[] = {
    {"name", CONFIG_STRING, AT(struct model_config, name)},
    {"platform", CONFIG_STRING, AT(struct model_config, platform)},
    {"backend", CONFIG_STRING, AT(struct model_config, backend)},
    {"runtime", CONFIG_IGNORED, .reason = "the engine follows from platform and backend"},
    {"version_policy", MESSAGE(version_policy_rules)},
    {"max_batch_size", CONFIG_INT32, AT(struct model_config, max_batch_size), .max = INT32_MAX,
     .has = offsetof(struct model_config, has_max_batch_size)},
    {"input", MESSAGE(input_rules), ARRAY(struct model_config, inputs, n_inputs)},
    {"output", MESSAGE(output_rules), ARRAY(struct model_config, outputs, n_outputs)},
    {"batch_input", CONFIG_UNSUPPORTED, .reason = "inputs made from the batch are for ragged batches"},
    {"batch_output", CONFIG_UNSUPPORTED, .reason = "outputs split by the batch are for ragged batches"},
    {"optimization", MESSAGE(optimization_rules)},
    {"dynamic_batching", MESSAGE(dynamic_batching_rules), .has = offsetof(struct model_config, has_dynamic_batching)},
    {"sequence_batching", CONFIG_UNSUPPORTED, .reason = "requests are independent of one another"},
    {"ensemble_scheduling", CONFIG_UNSUPPORTED, .reason = "models are not chained"},
    {"instance_group", MESSAGE(instance_group_rules), ARRAY(struct model_config, instance_groups, n_instance_groups)},
    {"default_model_filename", CONFIG_PATH, AT(struct model_config, default_model_filename)},
    {"cc_model_filenames", CONFIG_IGNORED, .reason = "one model file serves every device"},
    {"metric_tags", CONFIG_IGNORED, .reason = "metrics carry the model's name and version"},
    {"model_metrics", CONFIG_IGNORED, .reason = "histograms have fixed buckets"},
    {"parameters", MESSAGE(parameter_rules), ARRAY(struct model_config, parameters, n_parameters)},
    {"model_warmup", MESSAGE(warmup_rules), ARRAY(struct model_config, warmups, n_warmups)},
    {"model_operations", CONFIG_UNSUPPORTED, .reason = "libraries of custom operators are not loaded"},
    {"model_transaction_policy", MESSAGE(transaction_policy_rules)},
    {"model_repository_agents", CONFIG_UNSUPPORTED, .reason = "models are served as they lie on disk"},
    {"response_cache", MESSAGE(response_cache_rules)},
};
const struct config_rules config_model_rules = {
    .name = "ModelConfig", .size = sizeof(struct model_config), RULES(model_fields), config_check_model};

_Static_assert(COUNT(model_fields) <= CONFIG_RULES_MAX, "config_decode keeps a flag for each field");
