/* What a load request brings along: files become sealed memory, to the byte. */
#include "gateway/model_override.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static struct model_parameter text(const char *key, enum model_parameter_kind kind, const char *data) {
  return (struct model_parameter){
      .key = key, .key_size = strlen(key), .kind = kind, .data = data, .size = strlen(data)};
}

static void assert_file(int fd, const char *content, size_t size) {
  char found[64];
  struct stat file;
  assert_int_equal(fstat(fd, &file), 0);
  assert_int_equal(file.st_size, size);
  assert_int_equal(pread(fd, found, sizeof found, 0), size);
  assert_memory_equal(found, content, size);
  assert_int_equal(write(fd, "x", 1), -1);
  assert_int_not_equal(fcntl(fd, F_GET_SEALS) & F_SEAL_WRITE, 0);
  assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

static void base64(void **state) {
  static const struct {
    const char *coded, *plain;
    size_t size;
  } cases[] = {
      {"", "", 0},
      {"AA==", "\0", 1},
      {"AA", "\0", 1},
      {"AAE=", "\0\1", 2},
      {"AAE", "\0\1", 2},
      {"AAEC", "\0\1\2", 3},
      {"+/+/", "\xfb\xff\xbf", 3},
      {"Zm9vYmE=", "fooba", 5},
      {"Zm9vYmFy", "foobar", 6},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const struct model_parameter parameters[] = {text("file:1/model.onnx", MODEL_PARAMETER_BASE64, cases[i].coded),
                                                 text("config", MODEL_PARAMETER_STRING, "{}")};
    struct model_override override;
    mu_error err;
    if (model_override_create("m", parameters, 2, &override, &err) != MU_OK)
      fail_msg("%s: %s", cases[i].coded, err.message);
    assert_int_equal(override.n_files, 1);
    assert_true(override.versions[0] == 1);
    assert_file(override.files[0], cases[i].plain, cases[i].size);
    model_override_free(&override);
  }
}

static void a_large_file(void **state) {
  enum { SIZE = 1 << 20 };
  char *coded = malloc(SIZE + 1), *plain = malloc(SIZE);
  assert_true(coded != NULL && plain != NULL);
  for (size_t i = 0; i < SIZE; i += 4) memcpy(coded + i, i % 8 == 0 ? "AAEC" : "/v38", 4);
  coded[SIZE] = '\0';
  const struct model_parameter parameters[] = {text("config", MODEL_PARAMETER_STRING, "{}"),
                                               text("file:7/model.onnx", MODEL_PARAMETER_BASE64, coded)};
  struct model_override override;
  mu_error err;
  assert_int_equal(model_override_create("m", parameters, 2, &override, &err), MU_OK);
  assert_int_equal(pread(override.files[0], plain, SIZE, 0), SIZE / 4 * 3);
  for (size_t i = 0; i < SIZE / 4 * 3; i += 3)
    assert_memory_equal(plain + i, i % 6 == 0 ? "\0\1\2" : "\xfe\xfd\xfc", 3);
  model_override_free(&override);
  free(coded);
  free(plain);
}

static void bytes_and_versions(void **state) {
  const struct model_parameter parameters[] = {
      text("file:2/net.onnx", MODEL_PARAMETER_BYTES, "two"),
      text("config", MODEL_PARAMETER_STRING, "{\"default_model_filename\": \"net.onnx\"}"),
      text("file:9/net.onnx", MODEL_PARAMETER_BYTES, "nine")};
  struct model_override override;
  mu_error err;
  assert_int_equal(model_override_create("m", parameters, 3, &override, &err), MU_OK);
  assert_int_equal(override.n_files, 2);
  assert_true(override.versions[0] == 2 && override.versions[1] == 9);
  assert_file(override.files[1], "nine", 4);
  model_override_free(&override);
}

static void wrong(void **state) {
#define CONFIG text("config", MODEL_PARAMETER_STRING, "{}")
#define FILE_1 text("file:1/model.onnx", MODEL_PARAMETER_BYTES, "x")
  static const struct {
    const char *error;
    mu_status status;
  } wanted[] = {
      {"need its 'config'", MU_INVALID},
      {"already", MU_INVALID},
      {"is there twice", MU_INVALID},
      {"not base64", MU_INVALID},
      {"not base64", MU_INVALID},
      {"not base64", MU_INVALID},
      {"unrecognized", MU_INVALID},
      {"label_filename", MU_UNSUPPORTED},
      {"only the model file", MU_UNSUPPORTED},
      {"only the model file", MU_UNSUPPORTED},
      {"input_data_file", MU_UNSUPPORTED},
  };
  const struct model_parameter cases[][3] = {
      {FILE_1, FILE_1, FILE_1},
      {CONFIG, FILE_1, FILE_1},
      {CONFIG, CONFIG, FILE_1},
      {CONFIG, text("file:1/model.onnx", MODEL_PARAMETER_BASE64, "A"), FILE_1},
      {CONFIG, text("file:1/model.onnx", MODEL_PARAMETER_BASE64, "AA=A"), FILE_1},
      {CONFIG, text("file:1/model.onnx", MODEL_PARAMETER_BASE64, "AAA\n"), FILE_1},
      {CONFIG, FILE_1, text("path", MODEL_PARAMETER_STRING, "/etc")},
      {text(
           "config", MODEL_PARAMETER_STRING,
           "{\"output\": [{\"name\": \"y\", \"data_type\": \"TYPE_FP32\", \"dims\": [1], \"label_filename\": \"l\"}]}"),
       FILE_1, text("file:2/model.onnx", MODEL_PARAMETER_BYTES, "x")},
      {CONFIG, FILE_1, text("file:1/weights.bin", MODEL_PARAMETER_BYTES, "x")},
      {CONFIG, FILE_1, text("file:model.onnx", MODEL_PARAMETER_BYTES, "x")},
      {text(
           "config", MODEL_PARAMETER_STRING,
           "{\"model_warmup\": [{\"name\": \"w\", \"batch_size\": 1, \"inputs\": {\"x\": {\"data_type\": \"TYPE_FP32\","
           " \"dims\": [1], \"input_data_file\": \"f\"}}}]}"),
       FILE_1, text("file:2/model.onnx", MODEL_PARAMETER_BYTES, "x")},
  };
  for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
    struct model_override override = {0};
    mu_error err = {""};
    mu_status status = model_override_create("m", cases[i], 3, &override, &err);
    if (status != wanted[i].status || strstr(err.message, wanted[i].error) == NULL)
      fail_msg("%zu: %d %s", i, status, err.message);
    assert_int_equal(override.n_files, 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(base64),
      cmocka_unit_test(a_large_file),
      cmocka_unit_test(bytes_and_versions),
      cmocka_unit_test(wrong),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
