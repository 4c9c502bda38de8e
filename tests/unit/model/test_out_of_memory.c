/* Models on disk, their configurations, what is known of loaded ones and the documents about them, without memory. */
#include "model/model.h"
#include "model/repository.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "failing_allocator.h"

static const char text[] =
    "name: 'm' platform: 'onnxruntime_onnx' max_batch_size: 8\n"
    "input [ { name: 'a' data_type: TYPE_FP32 dims: [ 3, -1 ] format: FORMAT_NHWC },\n"
    "        { name: 'b' data_type: TYPE_INT64 dims: [ 4 ] reshape { shape: [ 2, 2 ] } } ]\n"
    "output { name: 'y' data_type: TYPE_FP32 dims: [ 2 ] label_filename: 'labels.txt' }\n"
    "instance_group [ { count: 2 kind: KIND_CPU }, { gpus: [ 0, 1 ] kind: KIND_GPU } ]\n"
    "dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 priority_levels: 2\n"
    "  default_priority_level: 1 priority_queue_policy { key: 1 value { max_queue_size: 3 } } }\n"
    "version_policy { specific { versions: [ 1, 3 ] } }\n"
    "parameters { key: 'k' value { string_value: 'v' } }\n"
    "optimization { graph { level: 1 } }\n"
    "model_warmup { name: 'w' batch_size: 1 inputs { key: 'a' value { data_type: TYPE_FP32 dims: [3, 2] zero_data: "
    "true } }\n"
    "  inputs { key: 'b' value { data_type: TYPE_INT64 dims: [4] random_data: true } } }\n";

static char root[] = "/tmp/muster-no-memory-XXXXXX";

static void write_file(const char *name, const char *content) {
  char path[256];
  snprintf(path, sizeof path, "%s/%s", root, name);
  FILE *file = fopen(path, "we");
  assert_non_null(file);
  assert_true(fputs(content, file) >= 0);
  assert_int_equal(fclose(file), 0);
}

static const char *const folders[] = {"m", "m/1", "m/2", "m/3", "wrong", "wrong/1"};
static const char *const files[] = {"m/config.pbtxt",     "m/labels.txt",       "m/1/model.onnx", "m/3/model.onnx",
                                    "wrong/config.pbtxt", "wrong/1/model.onnx", "flat.onnx"};
enum { N_FOLDERS = sizeof folders / sizeof *folders, N_FILES = sizeof files / sizeof *files };

static int make_repository(void **state) {
  if (mkdtemp(root) == NULL) return -1;
  for (int i = 0; i < N_FOLDERS; i++) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", root, folders[i]);
    if (mkdir(path, 0700) != 0) return -1;
  }
  for (int i = 0; i < N_FILES; i++)
    write_file(files[i], i == 0 ? text : i == 1 ? "one\ntwo\n" : strstr(files[i], "wrong/config") ? "what: 3" : "");
  return 0;
}

static int remove_repository(void **state) {
  char path[256];
  for (int i = N_FILES - 1; i >= 0; i--) {
    snprintf(path, sizeof path, "%s/%s", root, files[i]);
    unlink(path);
  }
  for (int i = N_FOLDERS - 1; i >= 0; i--) {
    snprintf(path, sizeof path, "%s/%s", root, folders[i]);
    rmdir(path);
  }
  return rmdir(root);
}

static mu_status parse(void *context) {
  struct model_config *config = NULL;
  mu_error err = {""};
  char folder[256];
  snprintf(folder, sizeof folder, "%s/m", root);
  mu_status status = model_config_parse(text, strlen(text), "config.pbtxt", "m", &config, &err);
  if (status != MU_OK) assert_true(config == NULL && err.message[0] != '\0');
  if (status == MU_OK) {
    assert_int_equal(config->n_inputs, 2);
    assert_int_equal(config->n_instance_groups, 2);
    assert_int_equal(config->warmups[0].n_inputs, 2);
    status = model_config_read_labels(config, folder, &err);
    if (status == MU_OK) assert_string_equal(config->outputs[0].labels[1], "two");
  }
  model_config_free(config);
  return status;
}

static mu_status scan(void *context) {
  const char *path = root;
  struct repository repository = {0};
  mu_error err = {""};
  mu_status status = repository_scan(&path, 1, &repository, &err);
  if (status != MU_OK) assert_true(repository.models == NULL && err.message[0] != '\0');
  if (status == MU_OK) {
    assert_int_equal(repository.n_models, 3);
    assert_string_equal(repository.models[1].name, "m");
    assert_int_equal(repository.models[1].n_versions, 2); /* never fewer, and no problem that is none */
    assert_string_equal(repository.models[1].problem, "");
    assert_non_null(strstr(repository.models[2].problem, "what"));
  }
  repository_free(&repository);
  return status;
}

/* What a load request asks of the repository, with a configuration in JSON. */
static mu_status find(void *context) {
  static const char json[] =
      "{\"versionPolicy\": {\"specific\": {\"versions\": [1, \"3\"]}}, \"parameters\": {\"a\": {\"string_value\": "
      "\"b\"}}}";
  const struct repository_config config = {json, sizeof json - 1};
  const char *path = root;
  struct repository found = {0}, given = {0}, names = {0};
  mu_error err = {""};
  mu_status status = repository_find(&path, 1, "m", &config, &found, &err);
  if (status == MU_OK) status = repository_given("g", &config, (const int64_t[]){3, 1}, 2, &given, &err);
  if (status == MU_OK) status = repository_names(&path, 1, &names, &err);
  if (status != MU_OK) assert_true(err.message[0] != '\0');
  if (status == MU_OK) {
    assert_int_equal(found.models[0].n_versions, 2);
    assert_string_equal(found.models[0].problem, "");
    assert_int_equal(given.models[0].n_versions, 2);
    assert_int_equal(names.n_models, 3);
  }
  repository_free(&found);
  repository_free(&given);
  repository_free(&names);
  return status;
}

static mu_status describe(void *context) {
  static char a[] = "a", b[] = "b", y[] = "y", batch[] = "N";
  const mu_tensor_info inputs[] = {{.name = a, .dtype = MU_FP32, .rank = 3, .dims = {-1, 3, -1}, .symbols = {batch}},
                                   {.name = b, .dtype = MU_INT64, .rank = 3, .dims = {-1, 2, 2}, .symbols = {batch}}};
  const mu_tensor_info outputs[] = {{.name = y, .dtype = MU_FP32, .rank = 2, .dims = {-1, 2}, .symbols = {batch}}};
  const mu_model_info info = {inputs, 2, outputs, 1, "engine 1.0", false, 0};
  struct model_config *config = NULL;
  struct model_metadata *metadata = NULL, *back = NULL;
  struct buffer bytes;
  mu_error err = {""};
  buffer_init(&bytes, 1 << 20);
  allocations_work();
  assert_int_equal(model_config_parse(text, strlen(text), "config.pbtxt", "m", &config, &err), MU_OK);
  allocations_fail();
  mu_status status = model_metadata_create(config, &info, "onnxruntime_onnx", 8, &metadata, &err);
  if (status != MU_OK) assert_true(metadata == NULL && err.message[0] != '\0');
  if (status == MU_OK) status = model_metadata_disable_batching(metadata, "because");
  if (status == MU_OK) status = model_metadata_encode(metadata, &bytes);
  if (status == MU_OK) status = model_metadata_decode(bytes.data, bytes.size, &back);
  if (status == MU_OK) {
    struct model model = {.name = a, .config = config, .metadata = back};
    json_t *one = model_metadata_json(&model, (const int64_t[]){1, 3}, 2), *other = model_config_json(&model);
    if (one == NULL || other == NULL) status = MU_NO_MEMORY;
    if (one != NULL) assert_int_equal(json_array_size(json_object_get(one, "inputs")), 2);
    if (other != NULL) assert_int_equal(json_array_size(json_object_get(other, "model_warmup")), 1);
    json_decref(one);
    json_decref(other);
  }
  model_metadata_free(metadata);
  model_metadata_free(back);
  model_config_free(config);
  buffer_free(&bytes);
  return status;
}

static void test_parse(void **state) { fail_each_allocation("config.pbtxt and labels", parse, NULL); }
static void test_scan(void **state) { fail_each_allocation("repository scan", scan, NULL); }
static void test_find(void **state) { fail_each_allocation("one model of a repository", find, NULL); }
static void test_describe(void **state) { fail_each_allocation("metadata, its wire form, documents", describe, NULL); }

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_parse), cmocka_unit_test(test_scan),
                                     cmocka_unit_test(test_find), cmocka_unit_test(test_describe)};
  return cmocka_run_group_tests(tests, make_repository, remove_repository);
}
