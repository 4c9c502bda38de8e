/* Names of files that come over the network. */
#include "model/override_file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define NAME(text) text, sizeof(text) - 1

static void names(void **state) {
  static const struct {
    const char *name;
    size_t size;
    int64_t version;
    const char *file;
  } cases[] = {
      {NAME("file:1/model.onnx"), 1, "model.onnx"},
      {NAME("file:9223372036854775807/m"), INT64_MAX, "m"},
      {NAME("file:labels.txt"), 0, "labels.txt"},
      {NAME("file:1/..model"), 1, "..model"}, /* a name like any other */
      {NAME("file:1/a b"), 1, "a b"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    int64_t version = -1;
    const char *file = NULL;
    size_t size = 0;
    mu_error err;
    if (override_file_parse(cases[i].name, cases[i].size, &version, &file, &size, &err) != MU_OK)
      fail_msg("%s: %s", cases[i].name, err.message);
    assert_true(version == cases[i].version);
    assert_int_equal(size, strlen(cases[i].file));
    assert_memory_equal(file, cases[i].file, size);
  }
}

static void what_could_be_a_path_is_refused(void **state) {
  static const struct {
    const char *name;
    size_t size;
  } cases[] = {
      {NAME("")},
      {NAME("file")},
      {NAME("file:")},
      {NAME("FILE:1/model.onnx")},
      {NAME("config")},
      {NAME("file:/model.onnx")},
      {NAME("file:/etc/passwd")},
      {NAME("file:1/")},
      {NAME("file:1/.")},
      {NAME("file:1/..")},
      {NAME("file:..")},
      {NAME("file:.")},
      {NAME("file:../model.onnx")},
      {NAME("file:./model.onnx")},
      {NAME("file:1//model.onnx")},
      {NAME("file:1/2/model.onnx")},
      {NAME("file:1/../2/model.onnx")},
      {NAME("file:0/model.onnx")},
      {NAME("file:01/model.onnx")},
      {NAME("file:-1/model.onnx")},
      {NAME("file:+1/model.onnx")},
      {NAME("file: 1/model.onnx")},
      {NAME("file:1x/model.onnx")},
      {NAME("file:9223372036854775808/model.onnx")},
      {NAME("file:1/model\0.onnx")},
      {NAME("file:1\0/model.onnx")},
      {NAME("file:1/model\n")},
      {NAME("file:1/\xff\xfe")},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    int64_t version = -1;
    const char *file = NULL;
    size_t size = 0;
    mu_error err = {""};
    if (override_file_parse(cases[i].name, cases[i].size, &version, &file, &size, &err) != MU_INVALID)
      fail_msg("\"%s\" was taken", cases[i].name);
    assert_true(err.message[0] != '\0' && version == -1 && file == NULL);
    for (const char *c = err.message; *c != '\0'; c++) assert_true(*c >= 0x20 && *c < 0x7f);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(names), cmocka_unit_test(what_could_be_a_path_is_refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
