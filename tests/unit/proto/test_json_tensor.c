/* Tensor data: every type, every form of nesting, every way to be wrong. */
#include "proto/json/json_reader.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Reads text into exactly `room` bytes (an allocation of that size). */
static mu_status read_text(const char *text, mu_dtype dtype, const int64_t *dims, uint32_t rank, size_t room,
                           uint8_t **ret_data, uint64_t *ret_size, mu_error *err) {
  const size_t length = strlen(text);
  char *copy = malloc(length > 0 ? length : 1);
  uint8_t *data = malloc(room > 0 ? room : 1);
  assert_true(copy != NULL && data != NULL);
  memcpy(copy, text, length);
  struct json_reader reader;
  json_reader_init(&reader, copy, length);
  mu_status status = json_read_tensor(&reader, dtype, dims, rank, data, room, ret_size, err);
  if (status == MU_OK) status = json_finish(&reader, err);
  free(copy);
  *ret_data = data;
  return status;
}

static const struct {
  mu_dtype dtype;
  const char *text, *printed; /* as given; as written back */
  const char *bytes;
  size_t size;
  int64_t elements;
} every_type[] = {
    {MU_BOOL, "[true, false,1,0]", "[true,false,true,false]", "\1\0\1\0", 4, 4},
    {MU_UINT8, "[0,255,7]", "[0,255,7]", "\0\xff\7", 3, 3},
    {MU_INT8, "[-128,127,-1]", "[-128,127,-1]", "\x80\x7f\xff", 3, 3},
    {MU_UINT16, "[65535,256]", "[65535,256]", "\xff\xff\0\1", 4, 2},
    {MU_INT16, "[-32768,258]", "[-32768,258]", "\0\x80\2\1", 4, 2},
    {MU_UINT32, "[4294967295,1]", "[4294967295,1]", "\xff\xff\xff\xff\1\0\0\0", 8, 2},
    {MU_INT32, "[-2147483648,2147483647]", "[-2147483648,2147483647]", "\0\0\0\x80\xff\xff\xff\x7f", 8, 2},
    {MU_UINT64, "[18446744073709551615]", "[18446744073709551615]", "\xff\xff\xff\xff\xff\xff\xff\xff", 8, 1},
    {MU_INT64, "[-9223372036854775808]", "[-9223372036854775808]", "\0\0\0\0\0\0\0\x80", 8, 1},
    {MU_FP16, "[1.0,-2,0.1]", "[1.0,-2.0,0.1]", "\0\x3c\0\xc0\x66\x2e", 6, 3},
    {MU_BF16, "[1,-2.0,3e38]", "[1.0,-2.0,3e38]", "\x80\x3f\0\xc0\x62\x7f", 6, 3},
    {MU_FP32, "[1,-0.5,3.4028235e38]", "[1.0,-0.5,3.4028235e38]", "\0\0\x80\x3f\0\0\0\xbf\xff\xff\x7f\x7f", 12, 3},
    {MU_FP64, "[1,0.1]", "[1.0,0.1]", "\0\0\0\0\0\0\xf0\x3f\x9a\x99\x99\x99\x99\x99\xb9\x3f", 16, 2},
    {MU_BYTES, "[\"\",\"a\\u0000\\n\", \"\xc3\xa9\"]", "[\"\",\"a\\u0000\\n\",\"\xc3\xa9\"]",
     "\0\0\0\0\3\0\0\0a\0\n\2\0\0\0\xc3\xa9", 17, 3},
};

static void test_every_type_both_ways(void **state) {
  uint32_t seen = 0;
  for (size_t i = 0; i < sizeof every_type / sizeof *every_type; i++) {
    const int64_t dims[] = {every_type[i].elements};
    uint8_t *data;
    uint64_t size;
    mu_error err = {""};
    if (read_text(every_type[i].text, every_type[i].dtype, dims, 1, every_type[i].size, &data, &size, &err) != MU_OK)
      fail_msg("%s: %s", every_type[i].text, err.message);
    assert_int_equal(size, every_type[i].size);
    assert_memory_equal(data, every_type[i].bytes, size);
    struct buffer out;
    buffer_init(&out, 4096);
    assert_int_equal(json_write_tensor(&out, every_type[i].dtype, data, size, (uint64_t)every_type[i].elements, &err),
                     MU_OK);
    assert_string_equal(buffer_text(&out), every_type[i].printed);
    buffer_free(&out);
    free(data);
    seen |= 1u << every_type[i].dtype;
  }
  assert_int_equal(seen, (1u << MU_DTYPE_COUNT) - 2); /* all but MU_DTYPE_INVALID */
}

/* A buffer one byte too small is an error for each of them, never a byte written behind it. */
static void test_no_room(void **state) {
  for (size_t i = 0; i < sizeof every_type / sizeof *every_type; i++) {
    const int64_t dims[] = {every_type[i].elements};
    uint8_t *data;
    uint64_t size = 77;
    mu_error err;
    for (size_t room = 0; room < every_type[i].size; room++) {
      assert_int_equal(read_text(every_type[i].text, every_type[i].dtype, dims, 1, room, &data, &size, &err),
                       MU_TOO_LARGE);
      assert_int_equal(size, 77);
      free(data);
    }
  }
}

static void test_forms(void **state) {
  static const struct {
    const char *text;
    uint32_t rank;
    int64_t dims[4];
    const char *error; /* NULL: fits */
  } cases[] = {
      {"[1,2,3,4,5,6]", 2, {2, 3}, NULL},
      {"[[1,2,3],[4,5,6]]", 2, {2, 3}, NULL},
      {"[ [ 1 , 2 , 3 ] , [ 4 , 5 , 6 ] ]", 2, {2, 3}, NULL},
      {"[1, 2,\n 3,4, 5 ,6]", 2, {2, 3}, NULL},
      {"[[[1],[2]],[[3],[4]]]", 3, {2, 2, 1}, NULL},
      {"[[[[1]]]]", 4, {1, 1, 1, 1}, NULL},
      {"[1]", 4, {1, 1, 1, 1}, NULL},
      {"[1]", 0, {0}, NULL}, /* a scalar */
      {"[]", 1, {0}, NULL},
      {"[]", 2, {2, 0}, NULL},
      {"[[],[]]", 2, {2, 0}, NULL},
      {"[[],[]]", 3, {2, 0, 5}, NULL},
      {"[1,2,3,4,5]", 2, {2, 3}, "data of form [5] does not fit shape [2,3]"},
      {"[1,2,3,4,5,6,7]", 2, {2, 3}, "data of form [7] does not fit shape [2,3]"},
      {"[[1,2],[3,4],[5,6]]", 2, {2, 3}, "data of form [3,2] does not fit shape [2,3]"},
      {"[[1,2,3,4,5,6]]", 2, {2, 3}, "data of form [1,6] does not fit shape [2,3]"},
      {"[[[1,2,3],[4,5,6]]]", 2, {2, 3}, "data of form [1,2,3] does not fit shape [2,3]"},
      {"[[1,2,3],[4,5]]", 2, {2, 3}, "the arrays of one level have different lengths"},
      {"[[1,2,3],[4,5,6,7]]", 2, {2, 3}, "the arrays of one level have different lengths"},
      {"[[],[1]]", 2, {2, 1}, "the arrays of one level have different lengths"},
      {"[[[]],[]]", 2, {2, 0}, "the arrays of one level have different lengths"},
      {"[[1,2,3],4,5,6]", 2, {2, 3}, "mixes arrays and values"},
      {"[1,[2,3]]", 2, {2, 3}, "mixes arrays and values"},
      {"[[1,2,[3]],[4,5,6]]", 2, {2, 3}, "mixes arrays and values"},
      {"[[],1]", 2, {2, 3}, "mixes arrays and values"},
      {"[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]", 1, {1}, "nested deeper than 16 arrays"},
      {"5", 1, {1}, "tensor data must be an array"},
      {"{}", 1, {1}, "tensor data must be an array"},
      {"", 1, {1}, "tensor data must be an array"},
      {"[1,2", 1, {2}, "the text ends inside an array"},
      {"[1,2}", 1, {2}, "expected ',' or ']'"},
      {"[1,,2]", 1, {2}, "expected a value"},
      {"[1,2,]", 1, {2}, "a comma with nothing behind it"},
      {"[1 2]", 1, {2}, "expected ',' or ']'"},
      {"[1,02]", 1, {2}, "not a number as JSON writes it"},
      {"[1,NaN]", 1, {2}, "expected a value"},
      {"[1,-Infinity]", 1, {2}, "not a number as JSON writes it"},
      {"[1,2]", 1, {-2}, "does not fit shape [-2]"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    uint8_t *data;
    uint64_t size;
    mu_error err = {""};
    const mu_status status = read_text(cases[i].text, MU_INT32, cases[i].dims, cases[i].rank, 64, &data, &size, &err);
    free(data);
    if (cases[i].error == NULL ? status != MU_OK : status != MU_INVALID || strstr(err.message, cases[i].error) == NULL)
      fail_msg("%s: %d '%s'", cases[i].text, status, err.message);
  }
}

static void test_wrong_values(void **state) {
  static const struct {
    mu_dtype dtype;
    const char *text, *error;
  } cases[] = {
      {MU_BOOL, "[2]", "element 0: 2 is out of the range of BOOL"},
      {MU_BOOL, "[-1]", "out of the range"},
      {MU_BOOL, "[0.5]", "0.5 is no integer, as is needed for BOOL"},
      {MU_BOOL, "[\"true\"]", "element 0 of BOOL must be true, false, 0 or 1"},
      {MU_UINT8, "[1,256]", "element 1: 256 is out of the range of UINT8"},
      {MU_UINT8, "[-1]", "out of the range"},
      {MU_INT8, "[128]", "out of the range"},
      {MU_INT8, "[-129]", "out of the range"},
      {MU_UINT16, "[65536]", "out of the range"},
      {MU_INT16, "[32768]", "out of the range"},
      {MU_UINT32, "[4294967296]", "out of the range"},
      {MU_INT32, "[2147483648]", "out of the range"},
      {MU_INT32, "[1.0]", "element 0: 1.0 is no integer, as is needed for INT32"},
      {MU_INT32, "[1e2]", "no integer"},
      {MU_INT32, "[true]", "element 0 of INT32 must be a number"},
      {MU_INT32, "[null]", "must be a number"},
      {MU_INT32, "[{}]", "must be a number"},
      {MU_UINT64, "[18446744073709551616]", "out of the range"},
      {MU_INT64, "[9223372036854775808]", "out of the range"},
      {MU_FP16, "[65520]", "out of the range of FP16"},
      {MU_BF16, "[3.4e38]", "out of the range of BF16"},
      {MU_FP32, "[1,-3.5e38]", "element 1: -3.5e38 is out of the range of FP32"},
      {MU_FP64, "[1e309]", "out of the range of FP64"},
      {MU_FP32, "[\"1\"]", "byte 1: element 0 of FP32 must be a number"},
      {MU_BYTES, "[1]", "element 0 of BYTES must be a string"},
      {MU_BYTES, "[\"\xff\"]", "not valid UTF-8"},
      {MU_BYTES, "[\"a\" \"b\"]", "expected ',' or ']'"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    uint8_t *data;
    uint64_t size;
    mu_error err = {""};
    struct json_reader reader;
    json_reader_init(&reader, cases[i].text, strlen(cases[i].text));
    data = malloc(64);
    assert_non_null(data);
    /* without dims, so that the form of the array is not what is refused */
    const mu_status status = json_read_tensor(&reader, cases[i].dtype, NULL, 0, data, 64, &size, &err);
    free(data);
    if (status != MU_INVALID || strstr(err.message, cases[i].error) == NULL)
      fail_msg("%s as %s: %d '%s'", cases[i].text, mu_dtype_name(cases[i].dtype), status, err.message);
  }
}

static void test_measure(void **state) {
  static const char text[] = " [[\"a\",\"\\u00e9\"],[\"\",\"\\ud83d\\ude00b\"]] ,";
  struct json_reader reader;
  struct json_tensor_form form;
  json_reader_init(&reader, text, sizeof text - 1);
  assert_true(json_measure_tensor(&reader, &form));
  assert_int_equal(form.rank, 2);
  assert_true(form.dims[0] == 2 && form.dims[1] == 2);
  assert_int_equal(form.elements, 4);
  assert_int_equal(form.bytes, 4 * 4 + 1 + 2 + 0 + 5);
  assert_int_equal(form.at, 1);
  assert_int_equal(form.size, sizeof text - 1 - 3);
  assert_int_equal(reader.at, sizeof text - 1 - 2);
}

static void test_unwritable(void **state) {
  static const struct {
    mu_dtype dtype;
    const char *bytes;
    size_t size;
    uint64_t elements;
    mu_status status;
    const char *error;
  } cases[] = {
      {MU_FP32, "\0\0\x80\x3f\0\0\xc0\x7f", 8, 2, MU_UNSUPPORTED, "element 1 is not a finite number"},
      {MU_FP32, "\0\0\x80\xff", 4, 1, MU_UNSUPPORTED, "ask for binary data"},
      {MU_FP64, "\0\0\0\0\0\0\xf0\x7f", 8, 1, MU_UNSUPPORTED, "not a finite number"},
      {MU_FP16, "\0\x7c", 2, 1, MU_UNSUPPORTED, "not a finite number"},
      {MU_BF16, "\x80\xff", 2, 1, MU_UNSUPPORTED, "not a finite number"},
      {MU_BYTES, "\1\0\0\0\xff", 5, 1, MU_UNSUPPORTED, "element 0 is not valid UTF-8"},
      {MU_BYTES, "\2\0\0\0a", 5, 1, MU_INTERNAL, "run past the tensor's 5 bytes"},
      {MU_BYTES, "\xff\xff\xff\xff", 4, 1, MU_INTERNAL, "run past"},
      {MU_BYTES, "\0\0\0", 3, 1, MU_INTERNAL, "run past"},
      {MU_BYTES, "\0\0\0\0\0\0\0\0", 8, 1, MU_INTERNAL, "4 bytes follow the last BYTES element"},
      {MU_BYTES, "\0\0\0\0", 4, 2, MU_INTERNAL, "run past"},
      {MU_INT32, "\0\0\0\0", 4, 2, MU_INTERNAL, "2 elements of INT32 are not 4 bytes"},
      {MU_INT32, "\0\0\0\0", 4, UINT64_MAX / 2, MU_INTERNAL, "are not 4 bytes"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct buffer out;
    buffer_init(&out, 4096);
    mu_error err = {""};
    const mu_status status = json_write_tensor(&out, cases[i].dtype, (const uint8_t *)cases[i].bytes, cases[i].size,
                                               cases[i].elements, &err);
    if (status != cases[i].status || strstr(err.message, cases[i].error) == NULL)
      fail_msg("case %zu: %d '%s'", i, status, err.message);
    buffer_free(&out);
  }
}

static void test_write_limit(void **state) {
  static int32_t values[1000];
  struct buffer out;
  mu_error err;
  buffer_init(&out, 2000); /* "[" 999 x "0," "0]" are 2001 */
  assert_int_equal(json_write_tensor(&out, MU_INT32, (const uint8_t *)values, sizeof values, 1000, &err), MU_TOO_LARGE);
  buffer_free(&out);
  buffer_init(&out, 2001);
  assert_int_equal(json_write_tensor(&out, MU_INT32, (const uint8_t *)values, sizeof values, 1000, &err), MU_OK);
  assert_int_equal(out.size, 2001);
  buffer_free(&out);
}

/* Random bytes of every fixed type come back as they were. */
static void test_random_round_trips(void **state) {
  static const mu_dtype dtypes[] = {MU_UINT8,  MU_INT8,  MU_UINT16, MU_INT16, MU_UINT32, MU_INT32,
                                    MU_UINT64, MU_INT64, MU_FP16,   MU_BF16,  MU_FP32,   MU_FP64};
  uint64_t seed = 11;
  for (int round = 0; round < 400; round++) {
    const mu_dtype dtype = dtypes[(size_t)round % (sizeof dtypes / sizeof *dtypes)];
    const size_t element = mu_dtype_size(dtype), n = 1 + (size_t)round % 97;
    uint8_t data[97 * 8], *back;
    for (size_t i = 0; i < n * element; i++) {
      seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
      data[i] = (uint8_t)(seed >> 56);
    }
    for (size_t i = 0; i < n; i++)
      if (!(dtype <= MU_INT64)) data[i * element + element - 1] &= 0xbf; /* exponents below infinity */
    struct buffer out;
    buffer_init(&out, 1 << 20);
    mu_error err = {""};
    assert_int_equal(json_write_tensor(&out, dtype, data, n * element, n, &err), MU_OK);
    uint64_t size;
    const int64_t dims[] = {(int64_t)n};
    if (read_text(buffer_text(&out), dtype, dims, 1, n * element, &back, &size, &err) != MU_OK)
      fail_msg("%s: %s", out.data, err.message);
    assert_memory_equal(back, data, n * element);
    free(back);
    buffer_free(&out);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_type_both_ways),
      cmocka_unit_test(test_no_room),
      cmocka_unit_test(test_forms),
      cmocka_unit_test(test_wrong_values),
      cmocka_unit_test(test_measure),
      cmocka_unit_test(test_unwritable),
      cmocka_unit_test(test_write_limit),
      cmocka_unit_test(test_random_round_trips),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
