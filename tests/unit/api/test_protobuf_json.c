/* JSON documents as messages, by the descriptors of the .proto files. */
#include "api/protobuf_json.h"
#include "api/rest_documents.h"

#include "infer_attempt.h"

#include <grpc_service.pb-c.h>

static mu_status write_text(const ProtobufCMessageDescriptor *descriptor, const char *json, struct buffer *out,
                            mu_error *err) {
  json_t *document = json_loads(json, JSON_ALLOW_NUL, NULL);
  assert_non_null(document);
  buffer_init(out, 1 << 20);
  const mu_status status = protobuf_write_json(descriptor, document, out, err);
  json_decref(document);
  return status;
}

static void values_of_every_kind(void **state) {
  struct buffer out;
  mu_error err = {""};
  const mu_status status = write_text(
      &inference__model_config__descriptor,
      "{\"name\":\"\\u00e4\\u0000b\",\"max_batch_size\":-3,\"runtime\":null,\"nobody knows\":[1],\"input\":[],"
      "\"metric_tags\":{\"a\":\"\",\"\":\"b\"},"
      "\"model_metrics\":{\"metric_control\":[{\"histogram_options\":{\"buckets\":[0.5,2]}}]},"
      "\"sequence_batching\":{\"control_input\":[{\"control\":[{\"fp32_false_true\":[0,1.5],\"bool_false_true\":[true,"
      "false],\"kind\":\"CONTROL_SEQUENCE_CORRID\"}]}],\"direct\":{\"minimum_slot_utilization\":0.25}}}",
      &out, &err);
  if (status != MU_OK) fail_msg("%s", err.message);
  Inference__ModelConfig *c = inference__model_config__unpack(NULL, out.size, (uint8_t *)out.data);
  assert_non_null(c);
  assert_string_equal(c->name, "\xc3\xa4"); /* protobuf-c ends strings at a NUL */
  assert_int_equal(c->max_batch_size, -3);
  assert_int_equal(c->n_metric_tags, 2);
  assert_string_equal(c->metric_tags[1]->value, "b");
  assert_true(c->model_metrics->metric_control[0]->histogram_options->buckets[1] == 2);
  const Inference__ModelSequenceBatching__Control *control = c->sequence_batching->control_input[0]->control[0];
  assert_true(control->fp32_false_true[1] == 1.5f);
  assert_int_equal(control->n_bool_false_true, 2);
  assert_true(control->bool_false_true[0]);
  assert_int_equal(control->kind, INFERENCE__MODEL_SEQUENCE_BATCHING__CONTROL__KIND__CONTROL_SEQUENCE_CORRID);
  assert_true(c->sequence_batching->direct->minimum_slot_utilization == 0.25f);
  inference__model_config__free_unpacked(c, NULL);
  buffer_free(&out);
}

static void what_is_empty_is_left_out(void **state) {
  struct buffer out;
  mu_error err;
  assert_int_equal(write_text(&inference__model_config__descriptor,
                              "{\"name\":\"\",\"max_batch_size\":0,\"input\":[],\"parameters\":{}}", &out, &err),
                   MU_OK);
  assert_int_equal(out.size, 0);
  buffer_free(&out);
  /* but not in a oneof, nor a message */
  assert_int_equal(write_text(&inference__model_warmup__input__descriptor, "{\"zero_data\":false}", &out, &err), MU_OK);
  assert_int_equal(out.size, 2);
  buffer_free(&out);
  assert_int_equal(write_text(&inference__model_config__descriptor, "{\"optimization\":{}}", &out, &err), MU_OK);
  assert_int_equal(out.size, 2);
  buffer_free(&out);
}

static void values_of_other_types(void **state) {
  static const char *const documents[] = {
      "[]",
      "{\"name\":5}",
      "{\"max_batch_size\":\"5\"}",
      "{\"max_batch_size\":5.5}",
      "{\"input\":5}",
      "{\"input\":[5]}",
      "{\"input\":{\"a\":5}}",
      "{\"optimization\":[]}",
      "{\"input\":[{\"data_type\":\"TYPE_NONE\"}]}",
      "{\"input\":[{\"data_type\":5}]}",
      "{\"input\":[{\"dims\":[\"1\"]}]}",
      "{\"input\":[{\"dims\":{}}]}",
      "{\"input\":[{\"optional\":1}]}",
      "{\"metric_tags\":{\"a\":1}}",
      "{\"dynamic_batching\":{\"priority_queue_policy\":{\"a\":{}}}}",
  };
  for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
    struct buffer out;
    mu_error err = {""};
    if (write_text(&inference__model_config__descriptor, documents[i], &out, &err) != MU_INTERNAL)
      fail_msg("%s", documents[i]);
    assert_true(err.message[0] != '\0');
    buffer_free(&out);
  }
}

/* Every key of a document has its field: nothing that HTTP says is lost on the way. */
static void check_keys(const ProtobufCMessageDescriptor *descriptor, json_t *object) {
  const char *key;
  json_t *value, *item;
  size_t i;
  json_object_foreach(object, key, value) {
    const ProtobufCFieldDescriptor *field = protobuf_c_message_descriptor_get_field_by_name(descriptor, key);
    if (field == NULL) fail_msg("%s has no %s", descriptor->name, key);
    if (field->type != PROTOBUF_C_TYPE_MESSAGE) continue;
    if (json_is_array(value)) {
      json_array_foreach(value, i, item) check_keys(field->descriptor, item);
    } else if (field->label != PROTOBUF_C_LABEL_REPEATED) {
      check_keys(field->descriptor, value);
    } else { /* a map */
      const ProtobufCFieldDescriptor *entry =
          protobuf_c_message_descriptor_get_field_by_name(field->descriptor, "value");
      json_object_foreach(value, key, item) if (entry->type == PROTOBUF_C_TYPE_MESSAGE)
          check_keys(entry->descriptor, item);
    }
  }
}

static void check_document(const ProtobufCMessageDescriptor *descriptor, json_t *document) {
  assert_non_null(document);
  check_keys(descriptor, document);
  json_decref(document);
}

static void nothing_of_the_documents_is_lost(void **state) {
  static const char text[] =
      "max_batch_size: 8 input { name: \"bytes\" data_type: TYPE_INT32 dims: 4 reshape { shape: [2, 2] } }\n"
      "output { name: \"scores\" data_type: TYPE_FP32 dims: 3 }\n"
      "optimization { graph { level: 1 } execution_accelerators { cpu_execution_accelerator { name: \"a\"\n"
      "  parameters { key: \"k\" value: \"v\" } } } }\n"
      "instance_group { count: 2 }\n"
      "dynamic_batching { priority_levels: 3 default_priority_level: 2 default_queue_policy { max_queue_size: 7 }\n"
      "  priority_queue_policy { key: 3 value { allow_timeout_override: true } } }\n"
      "parameters { key: \"k\" value { string_value: \"v\" } }\n"
      "model_warmup { name: \"w\" batch_size: 1 inputs { key: \"bytes\" value { data_type: TYPE_INT32 dims: 4\n"
      "  random_data: true } } }\n";
  struct sample_model s;
  make_batched(&s);
  mu_error err = {""};
  if (model_config_parse(text, sizeof text - 1, "config.pbtxt", "sample", &s.model.config, &err) != MU_OK)
    fail_msg("%s", err.message);
  s.model.stats = model_stats_create();
  assert_non_null(s.model.stats);
  model_stats_batch(s.model.stats, 2, 1, &(struct batch_times){1, 2, 3});
  char reason[] = "";
  s.model.reason = reason;
  const struct model *models[] = {&s.model};
  check_document(&inference__server_metadata_response__descriptor, server_metadata_json());
  check_document(&inference__model_metadata_response__descriptor, model_metadata_json(&s.model, NULL, 0));
  check_document(&inference__model_config__descriptor, model_config_json(&s.model));
  check_document(&inference__model_statistics_response__descriptor, statistics_json(models, 1));
  check_document(&inference__repository_index_response__descriptor,
                 json_pack("{s:o}", "models", repository_index_json(models, 1, false)));
  model_stats_free(s.model.stats);
  model_config_free(s.model.config);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(values_of_every_kind),
      cmocka_unit_test(what_is_empty_is_left_out),
      cmocka_unit_test(values_of_other_types),
      cmocka_unit_test(nothing_of_the_documents_is_lost),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
