/* Replies of the gRPC surface that are no inferences, read back by protobuf-c. */
#include "api/grpc_documents.h"
#include "proto/grpc/grpc_message.h"
#include "proto/protobuf/wire.h"

#include "infer_attempt.h"

#include <grpc/health/v1/health.pb-c.h>
#include <grpc/reflection/v1/reflection.pb-c.h>
#include <grpc_service.pb-c.h>

static struct buffer new_reply(void) {
  struct buffer out;
  buffer_init(&out, 1 << 20);
  return out;
}

/* The one message that the reply is. */
#define UNPACK(type, out) type##__unpack(NULL, message_size(&(out)), (uint8_t *)(out).data + GRPC_PREFIX_SIZE)

static size_t message_size(const struct buffer *out) {
  uint8_t prefix[GRPC_PREFIX_SIZE];
  assert_true(out->size >= sizeof prefix);
  grpc_prefix_write(prefix, false, (uint32_t)(out->size - sizeof prefix));
  assert_memory_equal(out->data, prefix, sizeof prefix);
  return out->size - sizeof prefix;
}

static void short_replies(void **state) {
  mu_error err;
  for (int flag = 0; flag < 2; flag++) {
    struct buffer out = new_reply();
    assert_int_equal(grpc_reply_flag(&out, flag, &err), MU_OK);
    Inference__ModelReadyResponse *ready = UNPACK(inference__model_ready_response, out);
    assert_non_null(ready);
    assert_int_equal(ready->ready, flag);
    inference__model_ready_response__free_unpacked(ready, NULL);
    buffer_free(&out);
  }
  struct buffer out = new_reply();
  assert_int_equal(grpc_reply_empty(&out, &err), MU_OK);
  assert_int_equal(message_size(&out), 0);
  buffer_clear(&out);
  assert_int_equal(grpc_reply_health(&out, GRPC_NOT_SERVING, &err), MU_OK);
  Grpc__Health__V1__HealthCheckResponse *health = UNPACK(grpc__health__v1__health_check_response, out);
  assert_non_null(health);
  assert_int_equal(health->status, GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING);
  grpc__health__v1__health_check_response__free_unpacked(health, NULL);
  buffer_free(&out);
}

static void server_and_model_metadata(void **state) {
  mu_error err;
  struct buffer out = new_reply();
  assert_int_equal(grpc_reply_server_metadata(&out, &err), MU_OK);
  Inference__ServerMetadataResponse *server = UNPACK(inference__server_metadata_response, out);
  assert_non_null(server);
  assert_string_equal(server->name, "muster");
  assert_string_equal(server->version, MUSTER_VERSION);
  assert_true(server->n_extensions > 3);
  inference__server_metadata_response__free_unpacked(server, NULL);
  buffer_clear(&out);
  struct sample_model s;
  make_batched(&s);
  assert_int_equal(grpc_reply_model_metadata(&out, &s.model, (const int64_t[]){1, 3}, 2, &err), MU_OK);
  Inference__ModelMetadataResponse *model = UNPACK(inference__model_metadata_response, out);
  assert_non_null(model);
  assert_string_equal(model->name, "sample");
  assert_int_equal(model->n_versions, 2);
  assert_string_equal(model->versions[1], "3");
  assert_string_equal(model->platform, "onnxruntime_onnx");
  assert_int_equal(model->n_inputs, 2);
  assert_string_equal(model->inputs[0]->name, "bytes");
  assert_string_equal(model->inputs[0]->datatype, "INT32");
  assert_int_equal(model->inputs[0]->n_shape, 2);
  assert_int_equal(model->inputs[0]->shape[0], -1);
  assert_int_equal(model->inputs[0]->shape[1], 4);
  assert_int_equal(model->n_outputs, 2);
  inference__model_metadata_response__free_unpacked(model, NULL);
  buffer_free(&out);
}

static const char config_text[] =
    "max_batch_size: 8\n"
    "input { name: \"bytes\" data_type: TYPE_INT32 dims: 4 reshape { shape: [2, 2] } }\n"
    "output { name: \"scores\" data_type: TYPE_FP32 dims: 3 label_filename: \"labels.txt\" }\n"
    "version_policy { specific { versions: [1, 3] } }\n"
    "optimization { graph { level: -1 } execution_accelerators { gpu_execution_accelerator { name: \"tensorrt\"\n"
    "  parameters { key: \"precision_mode\" value: \"FP16\" } } } }\n"
    "instance_group { count: 2 kind: KIND_GPU gpus: [0, 1] }\n"
    "dynamic_batching { preferred_batch_size: [4, 8] max_queue_delay_microseconds: 100\n"
    "  priority_levels: 3 default_priority_level: 2\n"
    "  default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 9000000000 max_queue_size: 7 }\n"
    "  priority_queue_policy { key: 3 value { allow_timeout_override: true } } }\n"
    "parameters { key: \"k\" value { string_value: \"v\" } }\n"
    "model_warmup { name: \"w\" batch_size: 1 count: 2 inputs { key: \"bytes\" value { data_type: TYPE_INT32 dims: 4\n"
    "  zero_data: true } } }\n";

static void model_config(void **state) {
  struct sample_model s;
  make_batched(&s);
  mu_error err = {""};
  struct model_config *config = NULL;
  if (model_config_parse(config_text, sizeof config_text - 1, "config.pbtxt", "sample", &config, &err) != MU_OK)
    fail_msg("%s", err.message);
  s.model.config = config;
  s.model.metadata = NULL; /* what the text says, as nothing is loaded */
  struct buffer out = new_reply();
  assert_int_equal(grpc_reply_model_config(&out, &s.model, &err), MU_OK);
  Inference__ModelConfigResponse *response = UNPACK(inference__model_config_response, out);
  assert_non_null(response);
  const Inference__ModelConfig *c = response->config;
  assert_non_null(c);
  assert_string_equal(c->name, "sample");
  assert_string_equal(c->platform, "onnxruntime_onnx");
  assert_string_equal(c->backend, "onnxruntime");
  assert_int_equal(c->max_batch_size, 8);
  assert_string_equal(c->default_model_filename, "model.onnx");
  assert_int_equal(c->version_policy->policy_choice_case, INFERENCE__MODEL_VERSION_POLICY__POLICY_CHOICE_SPECIFIC);
  assert_int_equal(c->version_policy->specific->versions[1], 3);
  assert_int_equal(c->n_input, 1);
  assert_int_equal(c->input[0]->data_type, INFERENCE__DATA_TYPE__TYPE_INT32);
  assert_int_equal(c->input[0]->dims[0], 4);
  assert_int_equal(c->input[0]->reshape->n_shape, 2);
  assert_string_equal(c->output[0]->label_filename, "labels.txt");
  assert_int_equal(c->optimization->graph->level, -1);
  assert_true(c->optimization->input_pinned_memory->enable);
  const Inference__ModelOptimizationPolicy__ExecutionAccelerators__Accelerator *tensorrt =
      c->optimization->execution_accelerators->gpu_execution_accelerator[0];
  assert_string_equal(tensorrt->name, "tensorrt");
  assert_string_equal(tensorrt->parameters[0]->key, "precision_mode");
  assert_string_equal(tensorrt->parameters[0]->value, "FP16");
  assert_int_equal(c->instance_group[0]->kind, INFERENCE__MODEL_INSTANCE_GROUP__KIND__KIND_GPU);
  assert_int_equal(c->instance_group[0]->count, 2);
  assert_int_equal(c->instance_group[0]->gpus[1], 1);
  assert_int_equal(c->scheduling_choice_case, INFERENCE__MODEL_CONFIG__SCHEDULING_CHOICE_DYNAMIC_BATCHING);
  const Inference__ModelDynamicBatching *batching = c->dynamic_batching;
  assert_int_equal(batching->preferred_batch_size[1], 8);
  assert_int_equal(batching->max_queue_delay_microseconds, 100);
  assert_int_equal(batching->priority_levels, 3);
  assert_int_equal(batching->default_queue_policy->timeout_action,
                   INFERENCE__MODEL_QUEUE_POLICY__TIMEOUT_ACTION__DELAY);
  assert_int_equal(batching->default_queue_policy->default_timeout_microseconds, UINT64_C(9000000000));
  assert_int_equal(batching->n_priority_queue_policy, 1);
  assert_int_equal(batching->priority_queue_policy[0]->key, 3);
  assert_true(batching->priority_queue_policy[0]->value->allow_timeout_override);
  assert_string_equal(c->parameters[0]->key, "k");
  assert_string_equal(c->parameters[0]->value->string_value, "v");
  assert_string_equal(c->model_warmup[0]->inputs[0]->key, "bytes");
  assert_true(c->model_warmup[0]->inputs[0]->value->zero_data);
  inference__model_config_response__free_unpacked(response, NULL);
  model_config_free(config);
  buffer_free(&out);
}

static void statistics_and_index(void **state) {
  struct sample_model s;
  make_batched(&s);
  mu_error err;
  s.model.stats = model_stats_create();
  assert_non_null(s.model.stats);
  model_stats_success(s.model.stats, 2, 1000, 5000);
  model_stats_batch(s.model.stats, 2, 1, &(struct batch_times){1, 2, 3});
  char reason[] = "why \xff not";
  s.model.reason = reason;
  const struct model *models[] = {&s.model};
  struct buffer out = new_reply();
  assert_int_equal(grpc_reply_statistics(&out, models, 1, &err), MU_OK);
  Inference__ModelStatisticsResponse *stats = UNPACK(inference__model_statistics_response, out);
  assert_non_null(stats);
  assert_int_equal(stats->n_model_stats, 1);
  const Inference__ModelStatistics *m = stats->model_stats[0];
  assert_string_equal(m->name, "sample");
  assert_string_equal(m->version, "3");
  assert_int_equal(m->inference_count, 2);
  assert_int_equal(m->execution_count, 1);
  assert_int_equal(m->inference_stats->success->count, 1);
  assert_int_equal(m->inference_stats->success->ns, 5000);
  assert_int_equal(m->n_batch_stats, 1);
  assert_int_equal(m->batch_stats[0]->batch_size, 2);
  inference__model_statistics_response__free_unpacked(stats, NULL);
  for (int only_ready = 0; only_ready < 2; only_ready++) {
    s.model.state = MODEL_UNAVAILABLE;
    buffer_clear(&out);
    assert_int_equal(grpc_reply_repository_index(&out, models, 1, only_ready, &err), MU_OK);
    Inference__RepositoryIndexResponse *index = UNPACK(inference__repository_index_response, out);
    assert_non_null(index);
    assert_int_equal(index->n_models, !only_ready);
    if (!only_ready) {
      assert_string_equal(index->models[0]->name, "sample");
      assert_string_equal(index->models[0]->state, "UNAVAILABLE");
      assert_non_null(strstr(index->models[0]->reason, "why "));
    }
    inference__repository_index_response__free_unpacked(index, NULL);
  }
  model_stats_free(s.model.stats);
  buffer_free(&out);
}

static void regions(void **state) {
  mu_error err;
  const struct grpc_region list[] = {{.name = "a", .key = "/a", .offset = 4, .byte_size = 200, .device_id = 1},
                                     {.name = "b", .key = "/b", .byte_size = UINT64_MAX}};
  struct buffer out = new_reply();
  assert_int_equal(grpc_reply_system_regions(&out, list, 2, &err), MU_OK);
  Inference__SystemSharedMemoryStatusResponse *system = UNPACK(inference__system_shared_memory_status_response, out);
  assert_non_null(system);
  assert_int_equal(system->n_regions, 2);
  assert_string_equal(system->regions[0]->key, "a");
  assert_string_equal(system->regions[0]->value->name, "a");
  assert_string_equal(system->regions[0]->value->key, "/a");
  assert_int_equal(system->regions[0]->value->offset, 4);
  assert_int_equal(system->regions[1]->value->byte_size, UINT64_MAX);
  inference__system_shared_memory_status_response__free_unpacked(system, NULL);
  buffer_clear(&out);
  assert_int_equal(grpc_reply_cuda_regions(&out, list, 1, &err), MU_OK);
  Inference__CudaSharedMemoryStatusResponse *cuda = UNPACK(inference__cuda_shared_memory_status_response, out);
  assert_non_null(cuda);
  assert_int_equal(cuda->regions[0]->value->device_id, 1);
  assert_int_equal(cuda->regions[0]->value->byte_size, 200);
  inference__cuda_shared_memory_status_response__free_unpacked(cuda, NULL);
  buffer_free(&out);
}

static void settings(void **state) {
  mu_error err;
  const char *levels[] = {"TIMESTAMPS", ""};
  const struct grpc_setting trace[] = {{.key = "trace_level", .values = levels, .n_values = 2}, {.key = "trace_file"}};
  struct buffer out = new_reply();
  assert_int_equal(grpc_reply_trace_settings(&out, trace, 2, &err), MU_OK);
  Inference__TraceSettingResponse *t = UNPACK(inference__trace_setting_response, out);
  assert_non_null(t);
  assert_int_equal(t->n_settings, 2);
  assert_string_equal(t->settings[0]->key, "trace_level");
  assert_int_equal(t->settings[0]->value->n_value, 2);
  assert_string_equal(t->settings[0]->value->value[0], "TIMESTAMPS");
  assert_int_equal(t->settings[1]->value->n_value, 0);
  inference__trace_setting_response__free_unpacked(t, NULL);
  buffer_clear(&out);
  const struct grpc_setting log[] = {{.key = "log_info", .kind = GRPC_VALUE_BOOL},
                                     {.key = "log_verbose_level", .kind = GRPC_VALUE_I64, .number = 2},
                                     {.key = "log_file", .kind = GRPC_VALUE_TEXT, .text = ""}};
  assert_int_equal(grpc_reply_log_settings(&out, log, 3, &err), MU_OK);
  Inference__LogSettingsResponse *l = UNPACK(inference__log_settings_response, out);
  assert_non_null(l);
  assert_int_equal(l->settings[0]->value->parameter_choice_case,
                   INFERENCE__LOG_SETTINGS_RESPONSE__SETTING_VALUE__PARAMETER_CHOICE_BOOL_PARAM);
  assert_false(l->settings[0]->value->bool_param);
  assert_int_equal(l->settings[1]->value->uint32_param, 2);
  assert_int_equal(l->settings[2]->value->parameter_choice_case,
                   INFERENCE__LOG_SETTINGS_RESPONSE__SETTING_VALUE__PARAMETER_CHOICE_STRING_PARAM);
  inference__log_settings_response__free_unpacked(l, NULL);
  buffer_free(&out);
}

/* ---- reflection -------------------------------------------------------------------------------------------------- */

/* Asks with the field of that number. Files, names, code and so on are the caller's to read. */
static Grpc__Reflection__V1__ServerReflectionResponse *reflect(uint32_t number, const char *text) {
  struct buffer request = new_reply(), out = new_reply();
  mu_error err;
  pb_put_text_field(&request, 1, "host");
  if (number > 0) pb_put_bytes(&request, number, text, strlen(text));
  assert_int_equal(grpc_reply_reflection(&out, request.data, request.size, &err), MU_OK);
  Grpc__Reflection__V1__ServerReflectionResponse *response =
      UNPACK(grpc__reflection__v1__server_reflection_response, out);
  assert_non_null(response);
  assert_string_equal(response->valid_host, "host");
  assert_string_equal(response->original_request->host, "host");
  buffer_free(&request);
  buffer_free(&out);
  return response;
}

static void reflection_of_services(void **state) {
  static const char *const names[] = {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
                                      "grpc.reflection.v1alpha.ServerReflection", "inference.GRPCInferenceService"};
  Grpc__Reflection__V1__ServerReflectionResponse *response = reflect(7, "");
  const Grpc__Reflection__V1__ListServiceResponse *list = response->list_services_response;
  assert_non_null(list);
  assert_int_equal(list->n_service, 4);
  for (size_t i = 0; i < 4; i++) {
    bool found = false;
    for (size_t j = 0; j < 4; j++) found |= strcmp(list->service[j]->name, names[i]) == 0;
    assert_true(found);
    assert_true(grpc_service_known(names[i]));
  }
  grpc__reflection__v1__server_reflection_response__free_unpacked(response, NULL);
  assert_true(grpc_service_known(""));
  assert_false(grpc_service_known("inference"));
  assert_false(grpc_service_known("inference.GRPCInferenceServices"));
}

static void reflection_of_files(void **state) {
  static const struct {
    uint32_t number;
    const char *text;
    size_t files; /* 0: not found */
  } cases[] = {
      {3, "grpc_service.proto", 2},
      {3, "model_config.proto", 1},
      {3, "grpc/health/v1/health.proto", 1},
      {3, "other.proto", 0},
      {3, "", 0},
      {4, "inference.GRPCInferenceService", 2},
      {4, "inference.GRPCInferenceService.ModelInfer", 2},
      {4, "inference.ModelInferRequest.InferInputTensor", 2},
      {4, "inference.ModelSequenceBatching.Control.Kind", 1},
      {4, "inference.DataType", 1},
      {4, "grpc.reflection.v1alpha.ServerReflection", 1},
      {4, "inference", 0},
      {4, "inference.", 0},
      {4, "", 0},
      {4, "inference.Nothing", 0},
      {4, "inference.GRPCInferenceService.Nothing", 0},
      {4, "inference.ModelInferRequest.", 0},
      {4, "nference.ModelInferRequest", 0},
      {5, "", 0},
      {6, "inference.Nothing", 0},
      {6, "inference.DataType", 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    Grpc__Reflection__V1__ServerReflectionResponse *response = reflect(cases[i].number, cases[i].text);
    if (cases[i].files > 0) {
      if (response->message_response_case !=
          GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE)
        fail_msg("%s", cases[i].text);
      assert_int_equal(response->file_descriptor_response->n_file_descriptor_proto, cases[i].files);
    } else {
      if (response->message_response_case !=
          GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE)
        fail_msg("%s", cases[i].text);
      assert_int_equal(response->error_response->error_code, 5);
    }
    grpc__reflection__v1__server_reflection_response__free_unpacked(response, NULL);
  }
  Grpc__Reflection__V1__ServerReflectionResponse *response = reflect(6, "inference.ModelInferRequest");
  assert_non_null(response->all_extension_numbers_response);
  assert_int_equal(response->all_extension_numbers_response->n_extension_number, 0);
  grpc__reflection__v1__server_reflection_response__free_unpacked(response, NULL);
  response = reflect(0, NULL);
  assert_int_equal(response->error_response->error_code, 3);
  grpc__reflection__v1__server_reflection_response__free_unpacked(response, NULL);
  struct buffer out = new_reply();
  mu_error err;
  assert_int_equal(grpc_reply_reflection(&out, "\x22\x7f", 2, &err), MU_INVALID);
  buffer_free(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(short_replies),
      cmocka_unit_test(server_and_model_metadata),
      cmocka_unit_test(model_config),
      cmocka_unit_test(statistics_and_index),
      cmocka_unit_test(regions),
      cmocka_unit_test(settings),
      cmocka_unit_test(reflection_of_services),
      cmocka_unit_test(reflection_of_files),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
