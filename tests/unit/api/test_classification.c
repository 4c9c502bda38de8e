/* The highest values of an output as "value:index:label". */
#include "api/classification.h"

#include "sample_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The strings, joined by spaces. */
static const char *classify(const struct sample_model *s, mu_dtype dtype, const void *data, size_t size, uint64_t rows,
                            uint32_t count, uint64_t *ret_classes, char *text) {
  const mu_tensor tensor = {.dtype = dtype, .data = (void *)(uintptr_t)data, .size = size};
  struct buffer out;
  buffer_init(&out, 1 << 20);
  mu_error err;
  assert_int_equal(classification_write(&s->model, 0, &tensor, rows, count, &out, ret_classes, &err), MU_OK);
  char *at = text;
  *at = '\0';
  for (size_t i = 0; i < out.size;) {
    uint32_t length;
    memcpy(&length, out.data + i, 4);
    at += sprintf(at, "%s%.*s", i == 0 ? "" : " ", (int)length, out.data + i + 4);
    i += 4 + length;
  }
  buffer_free(&out);
  return text;
}

static void make_model(struct sample_model *s) {
  sample_init(s, 0);
  sample_output(s, "y", MU_FP32, DIMS(-1));
}

#define VALUES(type, ...) (const type[]){__VA_ARGS__}, sizeof((const type[]){__VA_ARGS__})

static void test_every_type(void **state) {
  struct sample_model s;
  make_model(&s);
  char text[512];
  uint64_t k;
  assert_string_equal(classify(&s, MU_UINT8, VALUES(uint8_t, 1, 255, 3), 1, 2, &k, text), "255:1 3:2");
  assert_string_equal(classify(&s, MU_INT8, VALUES(int8_t, 1, -1, 3), 1, 3, &k, text), "3:2 1:0 -1:1");
  assert_string_equal(classify(&s, MU_UINT16, VALUES(uint16_t, 1, 65535), 1, 1, &k, text), "65535:1");
  assert_string_equal(classify(&s, MU_INT16, VALUES(int16_t, -5, -4), 1, 1, &k, text), "-4:1");
  assert_string_equal(classify(&s, MU_UINT32, VALUES(uint32_t, 4294967295u, 1), 1, 1, &k, text), "4294967295:0");
  assert_string_equal(classify(&s, MU_INT32, VALUES(int32_t, INT32_MIN, INT32_MAX), 1, 2, &k, text),
                      "2147483647:1 -2147483648:0");
  /* neighbours that a double could not tell apart */
  assert_string_equal(classify(&s, MU_UINT64, VALUES(uint64_t, UINT64_MAX - 1, UINT64_MAX), 1, 2, &k, text),
                      "18446744073709551615:1 18446744073709551614:0");
  assert_string_equal(classify(&s, MU_INT64, VALUES(int64_t, INT64_MAX - 1, INT64_MAX), 1, 1, &k, text),
                      "9223372036854775807:1");
  assert_string_equal(classify(&s, MU_FP16, VALUES(uint16_t, 0x3c00, 0xc000, 0x3800), 1, 3, &k, text),
                      "1.000000:0 0.500000:2 -2.000000:1");
  assert_string_equal(classify(&s, MU_BF16, VALUES(uint16_t, 0x3f80, 0x4000), 1, 1, &k, text), "2.000000:1");
  assert_string_equal(classify(&s, MU_FP32, VALUES(float, 1.1f, 3.3f, 0.5f, 2.4f), 1, 2, &k, text),
                      "3.300000:1 2.400000:3");
  assert_string_equal(classify(&s, MU_FP64, VALUES(double, 0.25, 1e-9), 1, 2, &k, text), "0.250000:0 0.000000:1");
  assert_string_equal(classify(&s, MU_BOOL, VALUES(uint8_t, 0, 1), 1, 1, &k, text), "1:1");
}

static void test_counts(void **state) {
  struct sample_model s;
  make_model(&s);
  char text[512];
  uint64_t k;
  assert_string_equal(classify(&s, MU_UINT8, VALUES(uint8_t, 1, 2), 1, UINT32_MAX, &k, text), "2:1 1:0");
  assert_int_equal(k, 2);
  assert_string_equal(classify(&s, MU_UINT8, VALUES(uint8_t, 1, 2, 4, 3), 2, 1, &k, text), "2:1 4:0");
  assert_int_equal(k, 1);
  assert_string_equal(classify(&s, MU_UINT8, NULL, 0, 3, 1, &k, text), "");
  assert_int_equal(k, 0);
}

static void test_ties_and_nan(void **state) {
  struct sample_model s;
  make_model(&s);
  char text[512];
  uint64_t k;
  assert_string_equal(classify(&s, MU_UINT8, VALUES(uint8_t, 5, 7, 7, 5, 7), 1, 4, &k, text), "7:1 7:2 7:4 5:0");
  const float nan = (float)__builtin_nan(""), infinity = (float)__builtin_inf();
  assert_string_equal(classify(&s, MU_FP32, VALUES(float, nan, -infinity, nan, 1, infinity), 1, 5, &k, text),
                      "inf:4 1.000000:3 -inf:1 nan:0 nan:2");
}

static void test_labels(void **state) {
  struct sample_model s;
  make_model(&s);
  static const char *const labels[] = {"zero", "", "two: 2"};
  s.output_configs[0].labels = labels;
  s.output_configs[0].n_labels = 3;
  char text[512];
  uint64_t k;
  assert_string_equal(classify(&s, MU_UINT8, VALUES(uint8_t, 1, 2, 3, 4), 1, 4, &k, text),
                      "4:3 3:2:two: 2 2:1 1:0:zero");
}

static void test_errors(void **state) {
  struct sample_model s;
  make_model(&s);
  const mu_tensor tensor = {.dtype = MU_UINT8, .data = (void *)(uintptr_t) "\1\2\3", .size = 3};
  const mu_tensor bytes = {.dtype = MU_BYTES};
  struct buffer out;
  buffer_init(&out, 6);
  uint64_t k;
  mu_error err;
  assert_int_equal(classification_write(&s.model, 0, &tensor, 2, 1, &out, &k, &err), MU_INTERNAL);
  assert_int_equal(classification_write(&s.model, 0, &tensor, 0, 1, &out, &k, &err), MU_INTERNAL);
  assert_int_equal(classification_write(&s.model, 0, &bytes, 1, 1, &out, &k, &err), MU_UNSUPPORTED);
  assert_int_equal(classification_write(&s.model, 0, &tensor, 1, 1, &out, &k, &err), MU_TOO_LARGE);
  buffer_free(&out);
}

struct pair {
  int32_t value;
  uint32_t index;
};

static int compare(const void *left, const void *right) {
  const struct pair *a = left, *b = right;
  if (a->value != b->value) return a->value > b->value ? -1 : 1;
  return a->index < b->index ? -1 : 1;
}

/* Against a full sort. */
static void test_random(void **state) {
  struct sample_model s;
  make_model(&s);
  uint64_t seed = 3;
  for (int round = 0; round < 300; round++) {
    int32_t values[64];
    struct pair sorted[64];
    const uint32_t n = 1 + (uint32_t)round % 64;
    for (uint32_t i = 0; i < n; i++) {
      seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
      values[i] = (int32_t)(seed >> 60) - 8; /* many equal ones */
      sorted[i] = (struct pair){values[i], i};
    }
    qsort(sorted, n, sizeof *sorted, compare);
    const uint32_t count = 1 + (uint32_t)(seed >> 40) % 70;
    char text[2048], wanted[2048] = "", *at = wanted;
    uint64_t k;
    for (uint32_t i = 0; i < n && i < count; i++)
      at += sprintf(at, "%s%d:%u", i == 0 ? "" : " ", sorted[i].value, sorted[i].index);
    assert_string_equal(classify(&s, MU_INT32, values, n * sizeof *values, 1, count, &k, text), wanted);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_type), cmocka_unit_test(test_counts), cmocka_unit_test(test_ties_and_nan),
      cmocka_unit_test(test_labels),     cmocka_unit_test(test_errors), cmocka_unit_test(test_random),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
