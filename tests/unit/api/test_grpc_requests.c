/* The small requests of the gRPC surface, and the table of methods. */
#include "api/grpc_requests.h"
#include "proto/protobuf/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <grpc_service.pb-c.h>

static struct grpc_request request;
static mu_error err;

/* Reads out of memory of exactly its size; what the request borrows stays until done(). */
static char *copy;

static mu_status read_bytes(enum grpc_method method, const void *bytes, size_t size) {
  copy = malloc(size > 0 ? size : 1);
  assert_non_null(copy);
  if (size > 0) memcpy(copy, bytes, size);
  err.message[0] = '\0';
  const mu_status status = grpc_request_read(method, copy, size, &request, &err);
  if (status != MU_OK) assert_true(err.message[0] != '\0');
  return status;
}

static void done(void) {
  grpc_request_free(&request);
  free(copy);
}

/* Packs with protobuf-c, reads with ours. */
static void read_packed(enum grpc_method method, const ProtobufCMessage *message) {
  const size_t size = protobuf_c_message_get_packed_size(message);
  uint8_t *bytes = malloc(size > 0 ? size : 1);
  assert_non_null(bytes);
  protobuf_c_message_pack(message, bytes);
  if (read_bytes(method, bytes, size) != MU_OK) fail_msg("%s", err.message);
  free(bytes);
}

#define TEXT(text) (char *)(uintptr_t)(text)

static void models(void **state) {
  Inference__ModelReadyRequest ready = INFERENCE__MODEL_READY_REQUEST__INIT;
  ready.name = TEXT("m");
  ready.version = TEXT("12");
  static const enum grpc_method methods[] = {GRPC_MODEL_READY, GRPC_MODEL_METADATA, GRPC_MODEL_CONFIG,
                                             GRPC_MODEL_STATISTICS}; /* the same fields */
  for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
    read_packed(methods[i], &ready.base);
    assert_string_equal(request.name, "m");
    assert_int_equal(request.version, 12);
    done();
  }
  ready.version = TEXT("");
  read_packed(GRPC_MODEL_READY, &ready.base);
  assert_int_equal(request.version, -1);
  done();
  ready.name = TEXT("");
  read_packed(GRPC_MODEL_STATISTICS, &ready.base); /* of all models */
  assert_string_equal(request.name, "");
  done();
  Inference__RepositoryIndexRequest index = INFERENCE__REPOSITORY_INDEX_REQUEST__INIT;
  index.repository_name = TEXT("r");
  index.ready = true;
  read_packed(GRPC_REPOSITORY_INDEX, &index.base);
  assert_string_equal(request.repository, "r");
  assert_true(request.ready);
  done();
}

static void load(void **state) {
  Inference__ModelRepositoryParameter values[4];
  Inference__RepositoryModelLoadRequest__ParametersEntry entries[4], *list[4];
  static const char *const keys[] = {"config", "file:1/model.onnx", "unload_dependents", "n"};
  for (int i = 0; i < 4; i++) {
    inference__model_repository_parameter__init(&values[i]);
    inference__repository_model_load_request__parameters_entry__init(&entries[i]);
    entries[i].key = TEXT(keys[i]);
    entries[i].value = &values[i];
    list[i] = &entries[i];
  }
  values[0].parameter_choice_case = INFERENCE__MODEL_REPOSITORY_PARAMETER__PARAMETER_CHOICE_STRING_PARAM;
  values[0].string_param = TEXT("{}");
  values[1].parameter_choice_case = INFERENCE__MODEL_REPOSITORY_PARAMETER__PARAMETER_CHOICE_BYTES_PARAM;
  values[1].bytes_param = (ProtobufCBinaryData){4, (uint8_t *)TEXT("\0\1\xff\2")};
  values[2].parameter_choice_case = INFERENCE__MODEL_REPOSITORY_PARAMETER__PARAMETER_CHOICE_BOOL_PARAM;
  values[2].bool_param = true;
  values[3].parameter_choice_case = INFERENCE__MODEL_REPOSITORY_PARAMETER__PARAMETER_CHOICE_INT64_PARAM;
  values[3].int64_param = -5;
  Inference__RepositoryModelLoadRequest message = INFERENCE__REPOSITORY_MODEL_LOAD_REQUEST__INIT;
  message.model_name = TEXT("m");
  message.n_parameters = 4;
  message.parameters = list;
  static const enum grpc_method methods[] = {GRPC_REPOSITORY_MODEL_LOAD, GRPC_REPOSITORY_MODEL_UNLOAD};
  for (int i = 0; i < 2; i++) {
    read_packed(methods[i], &message.base);
    assert_string_equal(request.name, "m");
    assert_int_equal(request.n_settings, 4);
    const struct grpc_setting *s = grpc_request_setting(&request, "config");
    assert_int_equal(s->kind, GRPC_VALUE_TEXT);
    assert_string_equal(s->text, "{}");
    s = grpc_request_setting(&request, "file:1/model.onnx");
    assert_int_equal(s->kind, GRPC_VALUE_BYTES);
    assert_int_equal(s->size, 4);
    assert_memory_equal(s->text, "\0\1\xff\2", 4);
    s = grpc_request_setting(&request, "unload_dependents");
    assert_int_equal(s->kind, GRPC_VALUE_BOOL);
    assert_true(s->flag);
    s = grpc_request_setting(&request, "n");
    assert_int_equal(s->kind, GRPC_VALUE_I64);
    assert_int_equal(s->number, -5);
    assert_null(grpc_request_setting(&request, "nothing"));
    done();
  }
}

static void regions(void **state) {
  Inference__SystemSharedMemoryRegisterRequest system = INFERENCE__SYSTEM_SHARED_MEMORY_REGISTER_REQUEST__INIT;
  system.name = TEXT("r");
  system.key = TEXT("/k");
  system.offset = 5;
  system.byte_size = UINT64_MAX;
  read_packed(GRPC_SYSTEM_SHARED_MEMORY_REGISTER, &system.base);
  assert_string_equal(request.name, "r");
  assert_string_equal(request.key, "/k");
  assert_int_equal(request.offset, 5);
  assert_int_equal(request.byte_size, UINT64_MAX);
  done();
  Inference__CudaSharedMemoryRegisterRequest cuda = INFERENCE__CUDA_SHARED_MEMORY_REGISTER_REQUEST__INIT;
  cuda.name = TEXT("r");
  cuda.raw_handle = (ProtobufCBinaryData){3, (uint8_t *)TEXT("\0\1\2")};
  cuda.device_id = -1;
  cuda.byte_size = 9;
  read_packed(GRPC_CUDA_SHARED_MEMORY_REGISTER, &cuda.base);
  assert_int_equal(request.raw_handle_size, 3);
  assert_memory_equal(request.raw_handle, "\0\1\2", 3);
  assert_int_equal(request.device_id, -1);
  assert_int_equal(request.byte_size, 9);
  done();
  static const enum grpc_method named[] = {GRPC_SYSTEM_SHARED_MEMORY_STATUS,
                                           GRPC_SYSTEM_SHARED_MEMORY_UNREGISTER,
                                           GRPC_CUDA_SHARED_MEMORY_STATUS,
                                           GRPC_CUDA_SHARED_MEMORY_UNREGISTER,
                                           GRPC_HEALTH_CHECK,
                                           GRPC_HEALTH_WATCH};
  for (size_t i = 0; i < sizeof named / sizeof *named; i++) {
    Inference__SystemSharedMemoryStatusRequest status = INFERENCE__SYSTEM_SHARED_MEMORY_STATUS_REQUEST__INIT;
    status.name = TEXT("what");
    read_packed(named[i], &status.base);
    assert_string_equal(request.name, "what");
    done();
  }
}

static void settings(void **state) {
  Inference__TraceSettingRequest__SettingValue value = INFERENCE__TRACE_SETTING_REQUEST__SETTING_VALUE__INIT;
  Inference__TraceSettingRequest__SettingValue none = INFERENCE__TRACE_SETTING_REQUEST__SETTING_VALUE__INIT;
  char *values[20];
  for (int i = 0; i < 20; i++) values[i] = TEXT(i % 2 == 0 ? "even" : "odd");
  value.n_value = 20;
  value.value = values;
  Inference__TraceSettingRequest__SettingsEntry a = INFERENCE__TRACE_SETTING_REQUEST__SETTINGS_ENTRY__INIT, b = a,
                                                c = a;
  a.key = TEXT("trace_level");
  a.value = &value;
  b.key = TEXT("trace_rate");
  b.value = &none;
  c.key = TEXT("trace_file"); /* without a value */
  Inference__TraceSettingRequest__SettingsEntry *list[] = {&a, &b, &c};
  Inference__TraceSettingRequest trace = INFERENCE__TRACE_SETTING_REQUEST__INIT;
  trace.model_name = TEXT("m");
  trace.n_settings = 3;
  trace.settings = list;
  read_packed(GRPC_TRACE_SETTING, &trace.base);
  assert_string_equal(request.name, "m");
  assert_int_equal(request.n_settings, 3);
  const struct grpc_setting *s = grpc_request_setting(&request, "trace_level");
  assert_int_equal(s->kind, GRPC_VALUE_LIST);
  assert_int_equal(s->n_values, 20);
  for (int i = 0; i < 20; i++) assert_string_equal(s->values[i], values[i]);
  assert_int_equal(grpc_request_setting(&request, "trace_rate")->n_values, 0);
  assert_int_equal(grpc_request_setting(&request, "trace_file")->kind, GRPC_VALUE_LIST);
  done();
  Inference__LogSettingsRequest__SettingValue level = INFERENCE__LOG_SETTINGS_REQUEST__SETTING_VALUE__INIT;
  level.parameter_choice_case = INFERENCE__LOG_SETTINGS_REQUEST__SETTING_VALUE__PARAMETER_CHOICE_UINT32_PARAM;
  level.uint32_param = 3;
  Inference__LogSettingsRequest__SettingsEntry entry = INFERENCE__LOG_SETTINGS_REQUEST__SETTINGS_ENTRY__INIT,
                                               *entries[20];
  entry.key = TEXT("log_verbose_level");
  entry.value = &level;
  for (int i = 0; i < 20; i++) entries[i] = &entry; /* the last one of a key counts */
  Inference__LogSettingsRequest log = INFERENCE__LOG_SETTINGS_REQUEST__INIT;
  log.n_settings = 20;
  log.settings = entries;
  read_packed(GRPC_LOG_SETTINGS, &log.base);
  assert_int_equal(request.n_settings, 1);
  s = grpc_request_setting(&request, "log_verbose_level");
  assert_int_equal(s->kind, GRPC_VALUE_I64);
  assert_int_equal(s->number, 3);
  done();
}

static void many_settings(void **state) {
  for (int n = GRPC_SETTINGS_MAX; n <= GRPC_SETTINGS_MAX + 1; n++) {
    struct buffer m;
    buffer_init(&m, 1 << 20);
    for (int i = 0; i < n; i++) {
      char key[16];
      snprintf(key, sizeof key, "key %d", i);
      const size_t entry = pb_open(&m, 1);
      pb_put_text_field(&m, 1, key);
      pb_close(&m, entry);
    }
    assert_int_equal(read_bytes(GRPC_LOG_SETTINGS, m.data, m.size), n <= GRPC_SETTINGS_MAX ? MU_OK : MU_INVALID);
    assert_int_equal(request.n_settings, GRPC_SETTINGS_MAX);
    assert_string_equal(grpc_request_setting(&request, "key 200")->key, "key 200");
    done();
    buffer_clear(&m);
    const size_t entry = pb_open(&m, 1), value = pb_open(&m, 2);
    for (int i = 0; i < n; i++) pb_put_bytes(&m, 1, "v", 1);
    pb_close(&m, value);
    pb_close(&m, entry);
    assert_int_equal(read_bytes(GRPC_TRACE_SETTING, m.data, m.size), n <= GRPC_SETTINGS_MAX ? MU_OK : MU_INVALID);
    done();
    buffer_free(&m);
  }
}

static void wrong_requests(void **state) {
  static const struct {
    enum grpc_method method;
    char bytes[24];
    size_t size;
    const char *why;
  } cases[] = {
      {GRPC_MODEL_READY, "", 0, "the request names no model"},
      {GRPC_MODEL_METADATA, "\x0a\0", 2, "the request names no model"},
      {GRPC_MODEL_CONFIG, "\x0a\2..", 4, "a model cannot be called"},
      {GRPC_MODEL_READY, "\x0a\3a/b", 5, "a model cannot be called"},
      {GRPC_MODEL_READY, "\x0a\2a\xff", 4, "not valid UTF-8"},
      {GRPC_MODEL_READY, "\x0a\2a\0", 4, "NUL"},
      {GRPC_MODEL_READY, "\x0a\1m\x12\1x", 6, "specified version string 'x'"},
      {GRPC_MODEL_READY, "\x0a\1m\x12\1\xff", 6, "specified version string"},
      {GRPC_MODEL_READY, "\x0a\5m", 3, "no protobuf: a length points past the end"},
      {GRPC_MODEL_READY, "\x0a\1m\x1b", 4, "no protobuf: a field is a group"},
      {GRPC_SERVER_LIVE, "\x80", 1, "no protobuf: a number is cut off"},
      {GRPC_REPOSITORY_MODEL_LOAD, "\x0a\1r", 3, "the request names no model"},
      {GRPC_REPOSITORY_MODEL_LOAD, "\x12\1m\x1a\2\x12\x05", 7, "a setting is no protobuf"},
      {GRPC_REPOSITORY_MODEL_LOAD, "\x12\1m\x1a\5\x12\3\x1a\1\xff", 10, "not valid UTF-8"},
      {GRPC_REPOSITORY_MODEL_LOAD, "\x12\1m\x1a\3\x0a\1\xff", 8, "not valid UTF-8"},
      {GRPC_SYSTEM_SHARED_MEMORY_REGISTER, "\x12\1k", 3, "the request gives no name"},
      {GRPC_CUDA_SHARED_MEMORY_REGISTER, "", 0, "the request gives no name"},
      {GRPC_TRACE_SETTING, "\x0a\5\x12\3\x0a\1\xff", 7, "not valid UTF-8"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    assert_int_equal(read_bytes(cases[i].method, cases[i].bytes, cases[i].size), MU_INVALID);
    if (strstr(err.message, cases[i].why) == NULL) fail_msg("'%s', not '%s'", err.message, cases[i].why);
    done();
  }
  assert_int_equal(read_bytes(GRPC_MODEL_INFER, "", 0), MU_INTERNAL); /* has functions of its own */
  done();
  /* unknown fields, and known ones of another wire type */
  assert_int_equal(read_bytes(GRPC_MODEL_READY, "\x08\5\x0a\1m\x7a\1x\x12\1\x32", 11), MU_OK);
  assert_string_equal(request.name, "m");
  assert_int_equal(request.version, 2);
  done();
}

static void methods(void **state) {
  enum grpc_method method;
  for (int i = 0; i < GRPC_METHOD_COUNT; i++) {
    assert_non_null(grpc_methods[i].path);
    assert_int_equal(grpc_method_find(grpc_methods[i].path, &method, &err), MU_OK);
    assert_int_equal(method, i);
  }
  assert_int_equal(grpc_method_find("/inference.GRPCInferenceService/ModelStreamInfer", &method, &err), MU_OK);
  assert_true(grpc_methods[method].client_streams && grpc_methods[method].server_streams);
  assert_int_equal(grpc_method_find("/grpc.health.v1.Health/Watch", &method, &err), MU_OK);
  assert_true(!grpc_methods[method].client_streams && grpc_methods[method].server_streams);
  static const char *const unknown[] = {"",
                                        "/",
                                        "/inference.GRPCInferenceService/",
                                        "inference.GRPCInferenceService/ModelInfer",
                                        "/inference.GRPCInferenceService/ModelInferX",
                                        "/inference.GRPCInferenceService/modelinfer"};
  for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
    assert_int_equal(grpc_method_find(unknown[i], &method, &err), MU_UNSUPPORTED);
  /* every method of the .proto file, in its order */
  const ProtobufCServiceDescriptor *service = &inference__grpcinference_service__descriptor;
  assert_int_equal(service->n_methods, GRPC_LOG_SETTINGS + 1);
  for (unsigned i = 0; i < service->n_methods; i++) {
    char path[128];
    snprintf(path, sizeof path, "/%s/%s", service->name, service->methods[i].name);
    assert_int_equal(grpc_method_find(path, &method, &err), MU_OK);
    assert_int_equal(method, i);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(models),   cmocka_unit_test(load),          cmocka_unit_test(regions),
      cmocka_unit_test(settings), cmocka_unit_test(many_settings), cmocka_unit_test(wrong_requests),
      cmocka_unit_test(methods),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
