/* config.pbtxt: every field that is read, every mistake that is reported with its place, and text that means harm. */
#include "model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const char source[] = "repo/m/config.pbtxt";

static struct model_config *parse(const char *text) {
  struct model_config *config = NULL;
  mu_error err = {{0}};
  if (model_config_parse(text, strlen(text), source, "m", &config, &err) != MU_OK)
    fail_msg("%s: %s", text, err.message);
  return config;
}

/* `expected` is what follows the source in the message: ":1:17: …". */
static void assert_fails(const char *text, mu_status wanted, const char *expected) {
  struct model_config *config = NULL;
  mu_error err = {{0}};
  mu_status status = model_config_parse(text, strlen(text), source, "m", &config, &err);
  if (status != wanted) fail_msg("%s: status %d: %s", text, status, err.message);
  assert_null(config);
  if (strncmp(err.message, source, strlen(source)) != 0 || strstr(err.message, expected) == NULL)
    fail_msg("%s: \"%s\" has no \"%s\"", text, err.message, expected);
}

static void test_empty(void **state) {
  struct model_config *config = parse("");
  assert_string_equal(config->name, "m");
  assert_string_equal(config->platform, "");
  assert_string_equal(config->backend, "");
  assert_string_equal(config->default_model_filename, "");
  assert_string_equal(model_config_engine(config), "");
  assert_false(config->has_max_batch_size);
  assert_false(config->has_dynamic_batching);
  assert_int_equal(config->version_policy, VERSION_LATEST);
  assert_int_equal(config->latest, 1);
  assert_int_equal(config->n_inputs + config->n_outputs + config->n_warnings + config->n_parameters, 0);
  assert_int_equal(config->text_size, 0);
  assert_null(model_config_parameter(config, "x"));
  model_config_free(config);
  model_config_free(NULL);
}

static const char full[] =
    "name: \"m\"\n"
    "platform: \"onnxruntime_onnx\"\n"
    "backend: \"onnxruntime\"\n"
    "max_batch_size: 8\n"
    "input [\n"
    "  { name: \"a\" data_type: TYPE_FP32 dims: [ 3, -1, 2 ] format: FORMAT_NHWC },\n"
    "  { name: \"b\" data_type: TYPE_STRING dims: 6 reshape { shape: [ 2, 3 ] } optional: true }\n"
    "]\n"
    "output { name: \"y\" data_type: TYPE_INT64 dims: [ ] label_filename: \"labels.txt\" }\n"
    "output { name: \"z\" data_type: 14 }\n"
    "version_policy: { specific: { versions: [ 3, 1 ] } }\n"
    "instance_group [ { name: \"g\" kind: KIND_GPU count: 2 gpus: [ 0, 2 ] }, { } ]\n"
    "dynamic_batching {\n"
    "  preferred_batch_size: [ 4, 8 ]\n"
    "  max_queue_delay_microseconds: 100\n"
    "  priority_levels: 2 default_priority_level: 1\n"
    "  default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5 allow_timeout_override: t\n"
    "    max_queue_size: 7 }\n"
    "  priority_queue_policy { key: 2 value { max_queue_size: 9 } }\n"
    "}\n"
    "model_warmup { name: \"w\" batch_size: 4 count: 2\n"
    "  inputs { key: \"a\" value { data_type: TYPE_FP32 dims: [ 3, 1, 2 ] random_data: true } }\n"
    "  inputs { key: \"b\" value { data_type: TYPE_STRING dims: [ 6 ] input_data_file: \"sub/raw\" } } }\n"
    "parameters { key: \"k\" value { string_value: \"v\" } }\n"
    "parameters [ { key: \"l\", value: { string_value: \"\" } } ]\n"
    "default_model_filename: \"net.onnx\"\n"
    "optimization { graph { level: -1 } execution_accelerators {\n"
    "  gpu_execution_accelerator : [ { name : \"tensorrt\"\n"
    "    parameters { key: \"precision_mode\" value: \"FP16\" }\n"
    "    parameters { key: \"max\" value: \"1\" } } ]\n"
    "  cpu_execution_accelerator { name: \"openvino\" } } }\n"
    "model_transaction_policy { decoupled: false }\n"
    "response_cache { enable: False }\n";

static void test_full_tensors(void **state) {
  struct model_config *config = parse(full);
  assert_int_equal(config->n_inputs, 2);
  const struct model_tensor_config *a = &config->inputs[0], *b = &config->inputs[1];
  assert_string_equal(a->name, "a");
  assert_int_equal(a->line, 6);
  assert_int_equal(a->dtype, MU_FP32);
  assert_int_equal(a->format, FORMAT_NHWC);
  assert_true(a->has_dims && !a->has_reshape && !a->optional);
  assert_int_equal(a->rank, 3);
  assert_true(a->dims[0] == 3 && a->dims[1] == -1 && a->dims[2] == 2);
  assert_int_equal(b->dtype, MU_BYTES);
  assert_true(b->rank == 1 && b->dims[0] == 6 && b->optional);
  assert_true(b->has_reshape && b->reshape_rank == 2 && b->reshape[0] == 2 && b->reshape[1] == 3);
  assert_int_equal(config->n_outputs, 2);
  assert_true(config->outputs[0].has_dims && config->outputs[0].rank == 0);
  assert_string_equal(config->outputs[0].label_filename, "labels.txt");
  assert_int_equal(config->outputs[1].dtype, MU_BF16);
  assert_false(config->outputs[1].has_dims);
  assert_null(config->outputs[1].label_filename);
  model_config_free(config);
}

static void test_full_serving(void **state) {
  struct model_config *config = parse(full);
  assert_int_equal(config->version_policy, VERSION_SPECIFIC);
  assert_true(config->n_versions == 2 && config->versions[0] == 3 && config->versions[1] == 1);
  assert_int_equal(config->n_instance_groups, 2);
  assert_string_equal(config->instance_groups[0].name, "g");
  assert_int_equal(config->instance_groups[0].kind, INSTANCE_GPU);
  assert_int_equal(config->instance_groups[0].count, 2);
  assert_true(config->instance_groups[0].n_gpus == 2 && config->instance_groups[0].gpus[1] == 2);
  assert_string_equal(config->instance_groups[1].name, "");
  assert_int_equal(config->instance_groups[1].kind, INSTANCE_AUTO);

  assert_true(config->has_max_batch_size && config->max_batch_size == 8);
  assert_true(config->has_dynamic_batching && config->has_max_queue_delay && config->max_queue_delay_us == 100);
  assert_true(config->n_preferred_batch_sizes == 2 && config->preferred_batch_sizes[1] == 8);
  assert_false(config->preserve_ordering);
  assert_true(config->priority_levels == 2 && config->default_priority_level == 1);
  assert_true(config->has_default_queue_policy);
  const struct queue_policy *policy = &config->default_queue_policy;
  assert_true(policy->delay && policy->default_timeout_us == 5 && policy->allow_timeout_override);
  assert_int_equal(policy->max_queue_size, 7);
  assert_int_equal(config->n_priority_queue_policies, 1);
  assert_int_equal(config->priority_queue_policies[0].level, 2);
  assert_int_equal(config->priority_queue_policies[0].policy.max_queue_size, 9);
  assert_false(config->priority_queue_policies[0].policy.delay);
  model_config_free(config);
}

static void test_full_engine(void **state) {
  struct model_config *config = parse(full);
  assert_int_equal(config->n_warmups, 1);
  const struct model_warmup *warmup = &config->warmups[0];
  assert_string_equal(warmup->name, "w");
  assert_true(warmup->batch_size == 4 && warmup->count == 2 && warmup->n_inputs == 2);
  assert_string_equal(warmup->inputs[0].name, "a");
  assert_true(warmup->inputs[0].dtype == MU_FP32 && warmup->inputs[0].rank == 3 && warmup->inputs[0].dims[1] == 1);
  assert_int_equal(warmup->inputs[0].fill, WARMUP_RANDOM);
  assert_int_equal(warmup->inputs[1].fill, WARMUP_FILE);
  assert_string_equal(warmup->inputs[1].file, "sub/raw");

  assert_int_equal(config->n_parameters, 2);
  assert_string_equal(model_config_parameter(config, "k"), "v");
  assert_string_equal(model_config_parameter(config, "l"), "");
  assert_null(model_config_parameter(config, "K"));
  assert_string_equal(config->default_model_filename, "net.onnx");
  assert_true(config->has_graph_level && config->graph_level == -1);
  assert_true(config->n_gpu_accelerators == 1 && config->n_cpu_accelerators == 1);
  assert_string_equal(config->gpu_accelerators[0].name, "tensorrt");
  assert_int_equal(config->gpu_accelerators[0].n_parameters, 2);
  assert_string_equal(config->gpu_accelerators[0].parameters[0].value, "FP16");
  assert_string_equal(config->gpu_accelerators[0].parameters[1].key, "max");
  assert_string_equal(config->cpu_accelerators[0].name, "openvino");
  assert_string_equal(model_config_engine(config), "onnxruntime");
  assert_int_equal(config->n_warnings, 0);
  assert_int_equal(config->text_size, strlen(full));
  assert_string_equal(config->text, full);
  model_config_free(config);
}

static void test_dtypes(void **state) {
  for (int dtype = MU_BOOL; dtype < MU_DTYPE_COUNT; dtype++) {
    char text[80];
    snprintf(text, sizeof text, "input { name: 'x' data_type: %s }", model_config_dtype_name((mu_dtype)dtype));
    struct model_config *config = parse(text);
    assert_int_equal(config->inputs[0].dtype, dtype);
    model_config_free(config);
  }
  assert_string_equal(model_config_dtype_name(MU_DTYPE_INVALID), "TYPE_INVALID");
}

static void test_version_policies(void **state) {
  struct model_config *config = parse("version_policy { all { } }");
  assert_int_equal(config->version_policy, VERSION_ALL);
  model_config_free(config);
  config = parse("version_policy: { latest: { num_versions: 3 } }");
  assert_true(config->version_policy == VERSION_LATEST && config->latest == 3);
  model_config_free(config);
  config = parse("version_policy: { latest { } }");
  assert_true(config->version_policy == VERSION_LATEST && config->latest == 1);
  model_config_free(config);
}

static void test_ignored_fields(void **state) {
  struct model_config *config = parse(
      "runtime: 'x'\n"
      "cc_model_filenames { key: '7.5' value: 'a' }\n"
      "metric_tags [ { key: 'a' value: 'b' }, { } ]\n"
      "response_cache { enable: true }\n"
      "optimization { priority: PRIORITY_MAX cuda { graphs: true } input_pinned_memory { enable: true }\n"
      "  output_pinned_memory { } gather_kernel_buffer_threshold: 1 eager_batching: true }\n"
      "instance_group { rate_limiter { resources { name: 'r' } } host_policy: 'h' }\n"
      "dynamic_batching { default_priority_level: 2 }\n"
      "model_metrics { }");
  static const char *const expected[] = {
      ":1:1: runtime is ignored: ",
      ":2:1: cc_model_filenames is ignored: ",
      ":3:1: metric_tags is ignored: ",
      ":4:26: enable is ignored: responses are not cached",
      ":5:16: priority is ignored: ",
      ":5:39: cuda is ignored: ",
      ":5:61: input_pinned_memory is ignored: ",
      ":6:3: output_pinned_memory is ignored: ",
      ":6:28: gather_kernel_buffer_threshold is ignored: ",
      ":6:62: eager_batching is ignored: ",
      ":7:18: rate_limiter is ignored: ",
      ":7:59: host_policy is ignored: ",
      ":9:1: model_metrics is ignored: ",
      ":8:44: default_priority_level is ignored: there are no priority_levels",
  };
  size_t n = sizeof expected / sizeof *expected;
  assert_int_equal(config->n_warnings, n);
  for (size_t i = 0; i < n; i++) {
    char start[160];
    snprintf(start, sizeof start, "%s%s", source, expected[i]);
    if (strncmp(config->warnings[i], start, strlen(start)) != 0) fail_msg("%s is not %s", config->warnings[i], start);
  }
  model_config_free(config);
}

static void test_unsupported_fields(void **state) {
  static const struct {
    const char *text, *expected;
  } cases[] = {
      {"\n sequence_batching { }", ":2:2: sequence_batching is not supported: "},
      {"ensemble_scheduling { step [ ] }", ":1:1: ensemble_scheduling is not supported: "},
      {"batch_input [ { kind: X } ]", ":1:1: batch_input is not supported: "},
      {"batch_output { }", ":1:1: batch_output is not supported: "},
      {"model_operations { }", ":1:1: model_operations is not supported: "},
      {"model_repository_agents { }", ":1:1: model_repository_agents is not supported: "},
      {"model_transaction_policy { decoupled: true }", ":1:39: decoupled is not supported: "},
      {"input { name: 'x' is_shape_tensor: true }", ":1:36: is_shape_tensor is not supported: "},
      {"input { name: 'x' allow_ragged_batch: true }", ":1:39: allow_ragged_batch is not supported: "},
      {"output { name: 'x' is_non_linear_format_io: 1 }", ":1:45: is_non_linear_format_io is not supported: "},
      {"instance_group { passive: true }", ":1:27: passive is not supported: "},
      {"instance_group { profile: '1' }", ":1:18: profile is not supported: "},
      {"instance_group { secondary_devices { } }", ":1:18: secondary_devices is not supported: "},
      {"instance_group { kind: KIND_MODEL }", ":1:24: kind KIND_MODEL is not supported"},
      {"platform: 'tensorrt_plan'", ":1:11: platform 'tensorrt_plan' is not served"},
      {"backend: 'python'", ":1:10: backend 'python' is not served"},
      {"dynamic_batching { preferred_batch_size: [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1] }",
       ":1:75: more than 16 preferred batch sizes"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_fails(cases[i].text, MU_UNSUPPORTED, cases[i].expected);
}

static void test_field_mistakes(void **state) {
  static const struct {
    const char *text, *expected;
  } cases[] = {
      {"max_batch_size 4", ":1:16: expected ':' or a message"},
      {"max_batchsize: 4", ":1:1: ModelConfig has no field 'max_batchsize'; did you mean 'max_batch_size'?"},
      {"input { name: 'x' dtype_: TYPE_FP32 dim: 1 }", ":1:19: ModelInput has no field 'dtype_'"},
      {"qqqqqqqq: 4", ":1:1: ModelConfig has no field 'qqqqqqqq'"},
      {"[a.b]: 4", ":1:1: ModelConfig has no field '[a.b]'"},
      {"output { name: 'x' optional: true }", ":1:20: ModelOutput has no field 'optional'"},
      {"max_batch_size: 4 max_batch_size: 4", ":1:19: max_batch_size is written twice"},
      {"max_batch_size: [4]", ":1:1: max_batch_size takes one value, not a list"},
      {"max_batch_size: 'four'", ":1:17: max_batch_size must be an integer from 0 to 2147483647, not a string"},
      {"max_batch_size: 4.0", ":1:17: max_batch_size must be an integer from 0 to 2147483647, not 4"},
      {"max_batch_size: -1", ":1:17: max_batch_size must be an integer from 0 to 2147483647, not -1"},
      {"max_batch_size: 2147483648", ":1:17: max_batch_size must be an integer"},
      {"max_batch_size: 99999999999999999999", ":1:17: max_batch_size must be an integer"},
      {"max_batch_size { }", ":1:16: max_batch_size must be an integer from 0 to 2147483647, not a message"},
      {"name: m", ":1:7: name must be a string in quotes, not m"},
      {"name: 'other'", ":1:7: the name is 'other', but the model's folder is 'm'"},
      {"name: '\\xff'", ":1:7: name is not valid UTF-8 text"},
      {"name: 'm\\0'", ":1:7: name is not valid UTF-8 text"},
      {"version_policy: 1", ":1:17: version_policy must be a message in braces, not 1"},
      {"version_policy { all { } latest { } }", ":1:26: ModelVersionPolicy cannot have both all and latest"},
      {"version_policy { latest { num_versions: 0 } }", ":1:41: num_versions must be an integer from 1"},
      {"version_policy { specific { } }", ":1:27: the version policy names no version"},
      {"version_policy { specific { versions: [1, 0] } }", ":1:43: versions must be an integer from 1"},
      {"instance_group { kind: KIND_GPUS }", ":1:24: kind cannot be KIND_GPUS; did you mean KIND_GPU?"},
      {"instance_group { kind: 9 }", ":1:24: kind cannot be 9"},
      {"instance_group { kind: KIND_CPU gpus: [ 0 ] }", ":1:41: an instance group of KIND_CPU names GPUs"},
      {"instance_group { gpus: [ 1, 0, 1 ] }", ":1:32: GPU 1 is named twice"},
      {"instance_group { count: -1 }", ":1:25: count must be an integer from 0"},
      {"platform: 'onnxruntime_onnx' backend: 'sim'",
       ":1:39: platform 'onnxruntime_onnx' and backend 'sim' contradict"},
      {"default_model_filename: '../m.onnx'", ":1:25: default_model_filename must name a file below"},
      {"default_model_filename: '/m.onnx'", ":1:25: default_model_filename must name a file below"},
      {"default_model_filename: 'a/../../m.onnx'", ":1:25: default_model_filename must name a file below"},
      {"parameters { key: 'a' }", ":1:12: parameters needs value"},
      {"parameters { key: 'a' value { } }", ":1:29: ModelParameter needs string_value"},
      {"parameters { key: 'a' value { string_value: 5 } }", ":1:45: string_value must be a string"},
      {"parameters [{key:'a' value{string_value:''}},{key:'a' value{string_value:''}}]",
       ":1:46: parameter 'a' is given twice"},
      {"optimization { graph { level: 1e0 } }", ":1:31: level must be an integer"},
      {"response_cache { enable: 2 }", ":1:26: enable must be true or false, not 2"},
      {"model_transaction_policy { decoupled: yes }", ":1:39: decoupled must be true or false, not yes"},
      {"optimization { execution_accelerators { gpu_execution_accelerator { } } }", ":1:67: Accelerator needs name"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_fails(cases[i].text, MU_INVALID, cases[i].expected);
}

static void test_tensor_mistakes(void **state) {
  static const struct {
    const char *text, *expected;
  } cases[] = {
      {"input { dims: 1 }", ":1:7: ModelInput needs name"},
      {"input { name: '' }", ":1:15: the name of a tensor is empty"},
      {"input { name: 'x' data_type: FP32 }", ":1:30: data_type cannot be FP32"},
      {"input { name: 'x' data_type: TYPE_INT46 }", ":1:30: data_type cannot be TYPE_INT46; did you mean TYPE_INT"},
      {"input { name: 'x' data_type: TYPE_INVALID }", ":1:30: data_type cannot be TYPE_INVALID"},
      {"input { name: 'x' dims: [ 1, 0 ] }", ":1:30: 'x': a dimension is at least 1, or -1 where it varies"},
      {"input { name: 'x' dims: -2 }", ":1:25: dims must be an integer from -1"},
      {"input { name: 'x' dims: [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1] }", ":1:58: dims has more than 16 values"},
      {"input { name: 'x' dims: [4294967296, 4294967296] }", ":1:26: 'x': no tensor can be that large"},
      {"input { name: 'x' dims: [1000000, -1, 1000000, 1000000, 1000000] }", ":1:26: 'x': no tensor can be that"},
      {"input { name: 'x' reshape { shape: 1 } }", ":1:27: 'x': reshape needs dims"},
      {"input { name: 'x' dims: 6 reshape { shape: [2, 2] } }", ":1:35: 'x': dims [6] cannot be reshaped to [2,2]"},
      {"input { name: 'x' dims: [-1, 4] reshape { shape: [2, -1, 2] } }", "cannot be reshaped"},
      {"input { name: 'x' dims: [-1] reshape { shape: [-1, -1] } }", "cannot be reshaped"},
      {"input { name: 'x' dims: [2] reshape { } }", ":1:37: 'x': dims [2] cannot be reshaped to []"},
      {"input { name: 'x' dims: [2] reshape { shape: 0 } }", ":1:46: 'x': a dimension is at least 1"},
      {"input { name: 'x' }\ninput { name: 'y' }\ninput { name: 'x' }",
       ":3:7: input 'x' is already described in line 1"},
      {"output [ { name: 'x' }, { name: 'x' } ]", ":1:25: output 'x' is already described in line 1"},
      {"output { name: 'x' label_filename: '/etc/passwd' }", ":1:36: label_filename must name a file below"},
      {"backend: 'sim'", ":1:1: a model of the engine sim must describe its input"},
      {"backend: 'sim' input { name: 'x' data_type: TYPE_FP32 dims: 1 }", "sim must describe its output"},
      {"platform: 'sim' input { name: 'x' data_type: TYPE_FP32 dims: 1 } output { name: 'y' dims: 1 }",
       ":1:73: 'y' of a model of the engine sim needs data_type and dims"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_fails(cases[i].text, MU_INVALID, cases[i].expected);
  char many[65 * 24 + 1] = "";
  for (int i = 0; i < 65; i++) snprintf(many + strlen(many), 24, "output { name: 'x%d' } ", i);
  assert_fails(many, MU_UNSUPPORTED, "more than 64 inputs or outputs");
}

static void test_reshapes(void **state) {
  static const char *const fitting[] = {
      "input { name: 'x' dims: 1 reshape { } }",
      "input { name: 'x' dims: [2, 4, -1, 6] reshape { shape: [8, -1, 1, 6] } }",
      "input { name: 'x' dims: [-1, -1] reshape { shape: [1, -1, 1, -1] } }",
      "output { name: 'x' dims: [-1, 2] reshape { shape: [-1, 2] } }",
  };
  for (size_t i = 0; i < sizeof fitting / sizeof *fitting; i++) model_config_free(parse(fitting[i]));
}

static void test_batching_mistakes(void **state) {
  static const struct {
    const char *text, *expected;
  } cases[] = {
      {"max_batch_size: 4 dynamic_batching { preferred_batch_size: [ 4, 5 ] }",
       ":1:65: preferred_batch_size 5 is more than max_batch_size 4"},
      {"max_batch_size: 0 dynamic_batching { preferred_batch_size: 1 }", "is more than max_batch_size 0"},
      {"dynamic_batching { preferred_batch_size: 0 }", ":1:42: preferred_batch_size must be an integer from 1"},
      {"dynamic_batching { priority_levels: 3 }", ":1:18: default_priority_level must be from 1 to 3"},
      {"dynamic_batching { priority_levels: 3 default_priority_level: 4 }", ":1:63: default_priority_level must be"},
      {"dynamic_batching { priority_levels: 65 }", ":1:37: priority_levels must be an integer from 0 to 64"},
      {"dynamic_batching { priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 value { } } }",
       ":1:87: the level of a priority_queue_policy must be from 1 to 2"},
      {"dynamic_batching { priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 0 value { } } }",
       "must be from 1 to 2"},
      {"dynamic_batching { priority_queue_policy [ { key: 1 value { } }, { key: 1 value { } } ] }",
       ":1:66: priority level 1 has two policies"},
      {"dynamic_batching { priority_queue_policy { key: 1 } }", ":1:42: priority_queue_policy needs value"},
      {"dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }",
       ":1:39: preserve_ordering allows one priority level only"},
      {"dynamic_batching { preserve_ordering: true default_queue_policy { timeout_action: DELAY "
       "default_timeout_microseconds: 1 } }",
       ":1:39: preserve_ordering and the timeout_action DELAY exclude one another"},
      {"dynamic_batching { default_queue_policy { timeout_action: DELAYED } }", "did you mean DELAY?"},
      {"dynamic_batching { max_queue_delay_microseconds: -1 }", ":1:50: max_queue_delay_microseconds must be"},
      {"model_warmup { name: 'w' }", ":1:14: ModelWarmup needs inputs"},
      {"model_warmup { inputs { key: 'x' value { data_type: TYPE_FP32 dims: 1 } } }",
       ":1:40: ModelWarmup.Input needs zero_data"},
      {"model_warmup { inputs { key: 'x' value { data_type: TYPE_FP32 zero_data: true } } }", "needs dims"},
      {"model_warmup { inputs { key: 'x' value { dims: 1 zero_data: true } } }", "needs data_type"},
      {"model_warmup { inputs { value { data_type: TYPE_FP32 dims: 1 zero_data: true } } }", "inputs needs key"},
      {"model_warmup { inputs { key: 'x' value { data_type: TYPE_FP32 dims: -1 zero_data: true } } }",
       "dims must be an integer from 0"},
      {"model_warmup { inputs { key: 'x' value { data_type: TYPE_FP32 dims: 1 zero_data: true random_data: true } } }",
       ":1:87: ModelWarmup.Input cannot have both zero_data and random_data"},
      {"model_warmup { inputs { key: 'x' value { data_type: TYPE_FP32 dims: 1 input_data_file: '../x' } } }",
       "input_data_file must name a file below"},
      {"model_warmup { inputs { key: 'x' value { data_type: TYPE_FP32 dims: 1 input_data_file: '' } } }",
       "the name of the file is empty"},
      {"model_warmup { inputs { key: 'x' value { data_type: TYPE_FP32 dims: [9999999999, 9999999999] zero_data: 1 } } "
       "}",
       "no tensor can be that large"},
      {"model_warmup { inputs [ { key: 'x' value { data_type: TYPE_FP32 dims: 1 zero_data: true } }, "
       "{ key: 'x' value { data_type: TYPE_FP32 dims: 1 zero_data: true } } ] }",
       "input 'x' is given twice"},
      {"max_batch_size: 2\nmodel_warmup { batch_size: 3 inputs { key: 'x' value { data_type: TYPE_FP32 dims: 1 "
       "zero_data: true } } }",
       ":2:28: a warm-up batch of 3 is more than max_batch_size 2"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_fails(cases[i].text, MU_INVALID, cases[i].expected);
}

static void test_long_texts(void **state) {
  size_t len = MODEL_CONFIG_TEXT_MAX + 1;
  char *text = malloc(len);
  assert_non_null(text);
  memset(text, '\n', len);
  struct model_config *config = NULL;
  mu_error err;
  assert_int_equal(model_config_parse(text, len, source, "m", &config, &err), MU_INVALID);
  assert_non_null(strstr(err.message, "config.pbtxt:1: the configuration is larger"));
  assert_int_equal(model_config_parse(text, len - 1, source, "m", &config, &err), MU_OK);
  model_config_free(config);
  free(text);

  /* of a long path the end is shown, from a whole character on, and the cause still fits */
  char path[600];
  memset(path, 'p', sizeof path);
  for (size_t i = 400; i < 500; i += 2) memcpy(path + i, "\xc3\xa9", 2);
  strcpy(path + sizeof path - 20, "/config.pbtxt");
  assert_int_equal(model_config_parse("max_batch_size: -1", 18, path, "m", &config, &err), MU_INVALID);
  assert_int_not_equal((unsigned char)err.message[0] & 0xc0, 0x80);
  assert_non_null(strstr(err.message, "/config.pbtxt:1:17: max_batch_size must be"));
}

static void test_json(void **state) {
  struct model_config *config = parse(full);
  struct model model = {.name = "m", .version = 1, .config = config};
  json_t *json = model_config_json(&model);
  assert_non_null(json);
  char *text = json_dumps(json, JSON_COMPACT);
  assert_string_equal(
      text,
      "{\"name\":\"m\",\"platform\":\"onnxruntime_onnx\",\"backend\":\"onnxruntime\",\"runtime\":\"\","
      "\"version_policy\":{\"specific\":{\"versions\":[3,1]}},\"max_batch_size\":8,\"input\":["
      "{\"name\":\"a\",\"data_type\":\"TYPE_FP32\",\"format\":\"FORMAT_NHWC\",\"dims\":[3,-1,2],"
      "\"is_shape_tensor\":false,\"allow_ragged_batch\":false,\"optional\":false,\"is_non_linear_format_io\":false},"
      "{\"name\":\"b\",\"data_type\":\"TYPE_STRING\",\"format\":\"FORMAT_NONE\",\"dims\":[6],"
      "\"reshape\":{\"shape\":[2,3]},"
      "\"is_shape_tensor\":false,\"allow_ragged_batch\":false,\"optional\":true,\"is_non_linear_format_io\":false}],"
      "\"output\":[{\"name\":\"y\",\"data_type\":\"TYPE_INT64\",\"dims\":[],\"label_filename\":\"labels.txt\","
      "\"is_shape_tensor\":false,\"is_non_linear_format_io\":false},"
      "{\"name\":\"z\",\"data_type\":\"TYPE_BF16\",\"dims\":[],\"label_filename\":\"\","
      "\"is_shape_tensor\":false,\"is_non_linear_format_io\":false}],"
      "\"batch_input\":[],\"batch_output\":[],\"optimization\":{\"graph\":{\"level\":-1},"
      "\"priority\":\"PRIORITY_DEFAULT\",\"execution_accelerators\":{\"gpu_execution_accelerator\":["
      "{\"name\":\"tensorrt\",\"parameters\":{\"precision_mode\":\"FP16\",\"max\":\"1\"}}],"
      "\"cpu_execution_accelerator\":[{\"name\":\"openvino\",\"parameters\":{}}]},"
      "\"input_pinned_memory\":{\"enable\":true},\"output_pinned_memory\":{\"enable\":true},"
      "\"gather_kernel_buffer_threshold\":0,\"eager_batching\":false},"
      "\"dynamic_batching\":{\"preferred_batch_size\":[4,8],\"max_queue_delay_microseconds\":100,"
      "\"preserve_ordering\":false,\"priority_levels\":2,\"default_priority_level\":1,"
      "\"default_queue_policy\":{\"timeout_action\":\"DELAY\",\"default_timeout_microseconds\":5,"
      "\"allow_timeout_override\":true,\"max_queue_size\":7},\"priority_queue_policy\":{\"2\":{"
      "\"timeout_action\":\"REJECT\",\"default_timeout_microseconds\":0,\"allow_timeout_override\":false,"
      "\"max_queue_size\":9}}},\"instance_group\":[{\"name\":\"g\",\"kind\":\"KIND_GPU\",\"count\":2,\"gpus\":[0,2],"
      "\"secondary_devices\":[],\"profile\":[],\"passive\":false,\"host_policy\":\"\"},"
      "{\"name\":\"m\",\"kind\":\"KIND_AUTO\",\"count\":1,\"gpus\":[],"
      "\"secondary_devices\":[],\"profile\":[],\"passive\":false,\"host_policy\":\"\"}],"
      "\"default_model_filename\":\"net.onnx\",\"cc_model_filenames\":{},\"metric_tags\":{},"
      "\"parameters\":{\"k\":{\"string_value\":\"v\"},\"l\":{\"string_value\":\"\"}},"
      "\"model_warmup\":[{\"name\":\"w\",\"batch_size\":4,\"inputs\":{"
      "\"a\":{\"data_type\":\"TYPE_FP32\",\"dims\":[3,1,2],\"random_data\":true},"
      "\"b\":{\"data_type\":\"TYPE_STRING\",\"dims\":[6],\"input_data_file\":\"sub/raw\"}},\"count\":2}]}");
  free(text);
  json_decref(json);
  model_config_free(config);
}

/* ---- labels ------------------------------------------------------------------------------------------------------ */

static void write_file(const char *folder, const char *name, const char *text, size_t len) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *file = fopen(path, "we");
  assert_non_null(file);
  assert_int_equal(fwrite(text, 1, len, file), len);
  assert_int_equal(fclose(file), 0);
}

static void test_labels(void **state) {
  char folder[] = "/tmp/muster-labels-XXXXXX", path[64];
  assert_non_null(mkdtemp(folder));
  snprintf(path, sizeof path, "%s/l.txt", folder);
  mu_error err = {{0}};
  struct model_config *config = parse("output { name: 'x' } output { name: 'y' label_filename: 'l.txt' }");
  assert_int_equal(model_config_read_labels(config, folder, &err), MU_NOT_FOUND);
  assert_non_null(strstr(err.message, path));

  write_file(folder, "l.txt", "one\xff\n", 5);
  assert_int_equal(model_config_read_labels(config, folder, &err), MU_INVALID);
  assert_non_null(strstr(err.message, path));

  write_file(folder, "l.txt", "one\r\n\ntwo words\nlast", 20);
  assert_int_equal(model_config_read_labels(config, folder, &err), MU_OK);
  assert_null(config->outputs[0].labels);
  static const char *const expected[] = {"one", "", "two words", "last"};
  assert_int_equal(config->outputs[1].n_labels, 4);
  for (int i = 0; i < 4; i++) assert_string_equal(config->outputs[1].labels[i], expected[i]);
  model_config_free(config);

  assert_int_equal(unlink(path), 0);
  assert_int_equal(mkfifo(path, 0600), 0);
  config = parse("output { name: 'y' label_filename: 'l.txt' }");
  assert_int_equal(model_config_read_labels(config, folder, &err), MU_IO);
  model_config_free(config);
  assert_int_equal(unlink(path), 0);
  assert_int_equal(rmdir(folder), 0);
}

/* ---- hostile text ------------------------------------------------------------------------------------------------ */

/* Whatever is done to a good text: no crash, no leak, and a message that begins with the place. What is accepted has a
 * JSON form. */
static void test_mutations(void **state) {
  srand(2);
  for (int round = 0; round < 20000; round++) {
    char text[sizeof full];
    memcpy(text, full, sizeof full);
    size_t len = sizeof full - 1;
    for (int n = rand() % 3; n >= 0; n--) {
      size_t at = (size_t)rand() % len, run = (size_t)rand() % 12;
      if (at + run > len) run = len - at;
      if (rand() % 2) /* a piece from elsewhere, so that fields land in wrong messages */
        memmove(text + at, text + (size_t)rand() % (len - run), run);
      else
        text[at] = (char)("{}[]<>:,'\"0-9xeT \n"[rand() % 18]);
    }
    struct model_config *config = NULL;
    mu_error err = {{0}};
    mu_status status = model_config_parse(text, len, source, "m", &config, &err);
    if (status != MU_OK) {
      assert_true(status == MU_INVALID || status == MU_UNSUPPORTED);
      assert_int_equal(strncmp(err.message, "repo/m/config.pbtxt:", 20), 0);
      continue;
    }
    struct model model = {.name = "m", .version = 1, .config = config};
    json_t *json = model_config_json(&model);
    assert_non_null(json);
    json_decref(json);
    model_config_free(config);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_empty),          cmocka_unit_test(test_full_tensors),
      cmocka_unit_test(test_full_serving),   cmocka_unit_test(test_full_engine),
      cmocka_unit_test(test_dtypes),         cmocka_unit_test(test_version_policies),
      cmocka_unit_test(test_ignored_fields), cmocka_unit_test(test_unsupported_fields),
      cmocka_unit_test(test_field_mistakes), cmocka_unit_test(test_tensor_mistakes),
      cmocka_unit_test(test_reshapes),       cmocka_unit_test(test_batching_mistakes),
      cmocka_unit_test(test_long_texts),     cmocka_unit_test(test_json),
      cmocka_unit_test(test_labels),         cmocka_unit_test(test_mutations),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
