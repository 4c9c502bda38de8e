/* Bodies of load and unload requests. */
#include "api/rest_repository.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static mu_status parse(const char *body, struct arena *memory, struct model_parameter *parameters, size_t *ret_n,
                       mu_error *err) {
  return rest_repository_parse(body, strlen(body), memory, parameters, ret_n, err);
}

static void assert_text(const struct model_parameter *parameter, const char *key, const char *data) {
  assert_int_equal(parameter->key_size, strlen(key));
  assert_memory_equal(parameter->key, key, parameter->key_size);
  assert_int_equal(parameter->size, strlen(data));
  assert_memory_equal(parameter->data, data, parameter->size);
}

static void parameters_of_every_kind(void **state) {
  struct model_parameter p[MODEL_PARAMETERS_MAX];
  struct arena memory = {0};
  size_t n;
  mu_error err;
  assert_int_equal(parse("{\"id\": [1], \"parameters\": {\"config\": \"{\\\"a\\\": 1}\", \"file:1/model.onnx\": "
                         "\"AA\\/A\", \"unload_dependents\": true, \"n\": -5, \"\\u0061\": \"\"}}",
                         &memory, p, &n, &err),
                   MU_OK);
  assert_int_equal(n, 5);
  assert_text(&p[0], "config", "{\"a\": 1}");
  assert_int_equal(p[0].kind, MODEL_PARAMETER_STRING);
  assert_text(&p[1], "file:1/model.onnx", "AA/A");
  assert_int_equal(p[1].kind, MODEL_PARAMETER_BASE64);
  assert_true(p[2].kind == MODEL_PARAMETER_BOOL && p[2].number == 1);
  assert_true(p[3].kind == MODEL_PARAMETER_INT && p[3].number == -5);
  assert_text(&p[4], "a", "");
  arena_free(&memory);
}

static void nothing_is_fine(void **state) {
  static const char *const bodies[] = {"", " \n", "{}", "{\"parameters\": {}}", "{\"other\": {\"a\": [null]}}"};
  for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
    struct model_parameter p[MODEL_PARAMETERS_MAX];
    struct arena memory = {0};
    size_t n = 7;
    assert_int_equal(parse(bodies[i], &memory, p, &n, NULL), MU_OK);
    assert_int_equal(n, 0);
    arena_free(&memory);
  }
}

static void wrong_bodies(void **state) {
  static const char *const bodies[] = {"[]",
                                       "1",
                                       "{",
                                       "{}{}",
                                       "{\"parameters\": []}",
                                       "{\"parameters\": null}",
                                       "{\"parameters\": {\"a\": null}}",
                                       "{\"parameters\": {\"a\": {}}}",
                                       "{\"parameters\": {\"a\": [1]}}",
                                       "{\"parameters\": {\"a\": 1.5}}",
                                       "{\"parameters\": {\"a\": \"\xff\"}}",
                                       "{\"parameters\": {\"a\": \"b\"}",
                                       "\xff"};
  for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
    struct model_parameter p[MODEL_PARAMETERS_MAX];
    struct arena memory = {0};
    size_t n;
    mu_error err = {""};
    if (parse(bodies[i], &memory, p, &n, &err) != MU_INVALID) fail_msg("%s was taken", bodies[i]);
    assert_true(err.message[0] != '\0');
    arena_free(&memory);
  }
}

static void too_many(void **state) {
  static char body[8192];
  struct model_parameter p[MODEL_PARAMETERS_MAX];
  struct arena memory = {0};
  size_t n, at = (size_t)sprintf(body, "{\"parameters\": {\"x\": 1");
  for (int i = 0; i < MODEL_PARAMETERS_MAX - 1; i++) at += (size_t)sprintf(body + at, ",\"x\": 1");
  sprintf(body + at, "}}");
  assert_int_equal(parse(body, &memory, p, &n, NULL), MU_OK);
  assert_int_equal(n, MODEL_PARAMETERS_MAX);
  sprintf(body + at, ",\"x\": 1}}");
  assert_int_equal(parse(body, &memory, p, &n, NULL), MU_INVALID);
  arena_free(&memory);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(parameters_of_every_kind),
      cmocka_unit_test(nothing_is_fine),
      cmocka_unit_test(wrong_bodies),
      cmocka_unit_test(too_many),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
