/* Numbers both ways, held against the C library where it can tell, and against exhaustion where it cannot. */
#include "proto/json/json_number.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t random_state;

static uint64_t next_random(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  return random_state ^= random_state << 17;
}

static struct json_number scanned(const char *text) {
  struct json_number number;
  const char *end = json_number_scan(text, text + strlen(text), &number);
  if (end == NULL || *end != '\0') fail_msg("'%s' was not read as a number", text);
  return number;
}

static void test_grammar(void **state) {
  static const struct {
    const char *text;
    int size; /* what belongs to the number; -1: none */
  } cases[] = {
      {"0", 1},   {"-0", 2},   {"12", 2},    {"1.5e+10,", 7}, {"1E-2]", 4}, {"10.0", 4},  {"", -1},    {"-", -1},
      {"01", -1}, {"-01", -1}, {"+1", -1},   {".5", -1},      {"1.", -1},   {"1.e3", -1}, {"1e", -1},  {"1e+", -1},
      {"e1", -1}, {"NaN", -1}, {"-Inf", -1}, {"0x10", 1},     {"1,2", 1},   {"00", -1},   {"--1", -1}, {"1.2.3", 3},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *text = cases[i].text;
    struct json_number number;
    const char *end = json_number_scan(text, text + strlen(text), &number);
    const int size = end == NULL ? -1 : (int)(end - text);
    if (size != cases[i].size) fail_msg("'%s': %d characters, expected %d", text, size, cases[i].size);
  }
}

static void test_integers(void **state) {
  static const struct {
    const char *text;
    bool is_i64, is_u64;
  } cases[] = {
      {"0", true, true},
      {"-0", true, true},
      {"9223372036854775807", true, true},
      {"9223372036854775808", false, true},
      {"-9223372036854775808", true, false},
      {"-9223372036854775809", false, false},
      {"18446744073709551615", false, true},
      {"18446744073709551616", false, false},
      {"99999999999999999999", false, false},
      {"100000000000000000000", false, false},
      {"-1", true, false},
      {"1.0", false, false},
      {"1e3", false, false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const struct json_number number = scanned(cases[i].text);
    int64_t i64;
    uint64_t u64;
    assert_int_equal(json_number_i64(&number, &i64), cases[i].is_i64);
    assert_int_equal(json_number_u64(&number, &u64), cases[i].is_u64);
    if (cases[i].is_i64) assert_true(i64 == strtoll(cases[i].text, NULL, 10));
    if (cases[i].is_u64) assert_true(u64 == strtoull(cases[i].text, NULL, 10));
  }
}

static void check_reading(const char *text) {
  const struct json_number number = scanned(text);
  const double wanted = strtod(text, NULL);
  double d;
  if (json_number_double(&number, &d) != !isinf(wanted)) fail_msg("'%s': range of double", text);
  if (!isinf(wanted) && memcmp(&d, &wanted, sizeof d) != 0) fail_msg("'%s': read %.17g, is %.17g", text, d, wanted);
  const float wanted_float = strtof(text, NULL);
  float f;
  if (json_number_float(&number, &f) != !isinf(wanted_float)) fail_msg("'%s': range of float", text);
  if (!isinf(wanted_float) && memcmp(&f, &wanted_float, sizeof f) != 0)
    fail_msg("'%s': read %.9g, is %.9g", text, (double)f, (double)wanted_float);
}

static void test_reading_is_correctly_rounded(void **state) {
  static const char *const hard[] = {
      "0.1",
      "-0.0",
      "0e999999999999",
      "1e-999999999999",
      "1e999999999999",
      "1.7976931348623157e308",
      "1.7976931348623159e308",
      "3.4028234e38",
      "3.4028236e38",
      "340282356779733661637539395458142568447",
      "5e-324",
      "2e-324",
      "2.4703282292062327e-324",
      "2.4703282292062328e-324",
      "1.4e-45",
      "7e-46",
      "9007199254740993",
      "9007199254740992.999999",
      "9007199254740993.0000000000000000000000000000000000000000001",
      "16777217",
      "16777216.999999999",
      "16777217.0000000000000000000000001",
      "8.5e22",
      "1e23",
      "1e22",
      "123456789012345678901234",
      "100000000000000000000000000000000000000",
      "0.000000000000000000000000000000000000000001",
      "1.00000017881393432617187499", /* below, on and above the middle between two floats */
      "1.00000017881393432617187500",
      "1.00000017881393432617187501",
      "1.00000005960464477539062499",
      "1.000000059604644775390625",
      "1.00000005960464477539062501",
      "2.2250738585072011e-308", /* once an endless loop elsewhere */
      "6.631236846766476e-316",
      "9223372036854775807",
      "18446744073709551615",
  };
  for (size_t i = 0; i < sizeof hard / sizeof *hard; i++) check_reading(hard[i]);
  random_state = 1;
  for (int i = 0; i < 200000; i++) {
    char text[64];
    int n = next_random() % 4 == 0 ? sprintf(text, "-") : 0;
    text[n++] = (char)('1' + next_random() % 9);
    text[n++] = '.';
    const int digits = 1 + (int)(next_random() % 22);
    for (int j = 0; j < digits; j++) text[n++] = (char)('0' + next_random() % 10);
    snprintf(text + n, sizeof text - (size_t)n, "e%d", (int)(next_random() % 80) - 40);
    check_reading(text);
  }
}

/* The exact middle between two neighbours, and one digit more or less far behind it. */
static void test_midpoints(void **state) {
  random_state = 2;
  for (int i = 0; i < 5000; i++) {
    uint32_t bits = (uint32_t)next_random() & 0x7fffffff;
    if ((bits & 0x7f800000) >= 0x7f000000) continue;
    float low, high;
    memcpy(&low, &bits, sizeof low);
    bits++;
    memcpy(&high, &bits, sizeof high);
    char text[256];
    snprintf(text, sizeof text, "%.160e", ((double)low + (double)high) / 2);
    check_reading(text);
    char *digit = strchr(text, 'e') - 1;
    *digit = '1'; /* all digits of a float's midpoint are over by then */
    check_reading(text);
  }
}

static void test_long_numbers(void **state) {
  enum { LONG = 10000 };
  char *text = malloc(LONG + 64);
  assert_non_null(text);
  memset(text, '9', LONG);
  strcpy(text + LONG, "e-9990");
  check_reading(text); /* 9999999999.99… */
  memset(text, '0', LONG);
  text[1] = '.';
  strcpy(text + LONG, "125e9990");
  check_reading(text);
  memset(text, '1', LONG);
  text[LONG] = '\0';
  double value;
  struct json_number number = scanned(text);
  assert_false(json_number_double(&number, &value));
  /* 2^53 + 1 is a middle: what decides is the very last digit */
  strcpy(text, "9007199254740993.");
  memset(text + 17, '0', LONG);
  text[17 + 5000] = '\0';
  check_reading(text);
  text[17 + 4999] = '1';
  check_reading(text);
  free(text);
}

static void test_printed_floats_read_back(void **state) {
  random_state = 3;
  for (int i = 0; i < 200000; i++) {
    const uint32_t bits = (uint32_t)next_random();
    float value;
    memcpy(&value, &bits, sizeof value);
    if (!isfinite(value)) continue;
    char text[JSON_NUMBER_TEXT_MAX + 1];
    const size_t n = json_print_float(value, text);
    assert_true(n <= JSON_NUMBER_TEXT_MAX);
    text[n] = '\0';
    check_reading(text);
    if (strtof(text, NULL) != value) fail_msg("%s is not %.9g", text, (double)value);
    /* no shorter one does */
    for (int digits = 1; digits < 9; digits++) {
      char shorter[40];
      snprintf(shorter, sizeof shorter, "%.*e", digits - 1, (double)value);
      if (strtof(shorter, NULL) != value) continue;
      uint64_t significant = scanned(text).digits;
      while (significant != 0 && significant % 10 == 0) significant /= 10;
      const int used = snprintf(NULL, 0, "%llu", (unsigned long long)significant);
      if (used > digits) fail_msg("%s has more digits than %s", text, shorter);
      break;
    }
  }
}

static void test_printed_doubles_read_back(void **state) {
  random_state = 4;
  for (int i = 0; i < 50000; i++) {
    const uint64_t bits = next_random();
    double value;
    memcpy(&value, &bits, sizeof value);
    if (!isfinite(value)) continue;
    char text[JSON_NUMBER_TEXT_MAX + 1];
    const size_t n = json_print_double(value, text);
    assert_true(n <= JSON_NUMBER_TEXT_MAX);
    text[n] = '\0';
    check_reading(text);
    if (strtod(text, NULL) != value) fail_msg("%s is not %.17g", text, value);
  }
}

static void test_printed_forms(void **state) {
  static const struct {
    double value;
    const char *text;
  } cases[] = {
      {0, "0.0"},
      {-0.0, "-0.0"},
      {1, "1.0"},
      {-2.5, "-2.5"},
      {0.1, "0.1"},
      {100000, "100000.0"},
      {1e15, "1000000000000000.0"},
      {1e16, "1e16"},
      {1.5e300, "1.5e300"},
      {0.001, "0.001"},
      {0.0001, "0.0001"},
      {0.00001, "1e-5"},
      {5e-324, "5e-324"},
      {1.7976931348623157e308, "1.7976931348623157e308"},
      {1.0 / 3, "0.3333333333333333"},
      {123456789.125, "123456789.125"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char text[JSON_NUMBER_TEXT_MAX + 1];
    text[json_print_double(cases[i].value, text)] = '\0';
    assert_string_equal(text, cases[i].text);
  }
}

static void test_every_16_bit_number(void **state) {
  for (uint32_t bits = 0; bits <= UINT16_MAX; bits++) {
    char text[JSON_NUMBER_TEXT_MAX + 1];
    uint16_t back;
    if ((bits & 0x7c00) != 0x7c00) {
      text[json_print_fp16((uint16_t)bits, text)] = '\0';
      const struct json_number number = scanned(text);
      if (!json_number_fp16(&number, &back) || back != bits) fail_msg("fp16 %04x prints as %s", bits, text);
    }
    if ((bits & 0x7f80) != 0x7f80) {
      text[json_print_bf16((uint16_t)bits, text)] = '\0';
      const struct json_number number = scanned(text);
      if (!json_number_bf16(&number, &back) || back != bits) fail_msg("bf16 %04x prints as %s", bits, text);
    }
  }
}

static void test_16_bit_rounding(void **state) {
  static const struct {
    const char *text;
    int fp16, bf16; /* -1: out of range */
  } cases[] = {
      {"0", 0x0000, 0x0000},
      {"-0.0", 0x8000, 0x8000},
      {"1", 0x3c00, 0x3f80},
      {"-2", 0xc000, 0xc000},
      {"65504", 0x7bff, 0x4780},
      {"65519.99", 0x7bff, 0x4780}, /* below the middle to the next step */
      {"65520", -1, 0x4780},
      {"1.00048828125", 0x3c00, 0x3f80}, /* ties: to even, down … */
      {"1.00146484375", 0x3c02, 0x3f80}, /* … and up */
      {"1.0004882812501", 0x3c01, 0x3f80},
      {"1.00390625", 0x3c04, 0x3f80},
      {"1.01171875", 0x3c0c, 0x3f82},
      {"5.960464477539063e-08", 0x0001, 0x3380}, /* 2^-24, the smallest fp16 */
      {"2.98e-08", 0x0000, 0x3300},
      {"2.9802322387695312e-08", 0x0000, 0x3300},
      {"2.99e-08", 0x0001, 0x3300},
      {"6.103515625e-05", 0x0400, 0x3880},
      {"6.1e-05", 0x03ff, 0x3880},
      {"3.3895313892515355e38", -1, 0x7f7f},
      {"3.4e38", -1, -1},
      {"1e400", -1, -1},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const struct json_number number = scanned(cases[i].text);
    uint16_t bits;
    const int fp16 = json_number_fp16(&number, &bits) ? bits : -1;
    if (fp16 != cases[i].fp16) fail_msg("'%s': fp16 %x, expected %x", cases[i].text, fp16, cases[i].fp16);
    const int bf16 = json_number_bf16(&number, &bits) ? bits : -1;
    if (bf16 != cases[i].bf16) fail_msg("'%s': bf16 %x, expected %x", cases[i].text, bf16, cases[i].bf16);
  }
}

static void test_printed_integers(void **state) {
  char text[JSON_NUMBER_TEXT_MAX + 1];
  text[json_print_i64(INT64_MIN, text)] = '\0';
  assert_string_equal(text, "-9223372036854775808");
  text[json_print_u64(UINT64_MAX, text)] = '\0';
  assert_string_equal(text, "18446744073709551615");
  text[json_print_i64(0, text)] = '\0';
  assert_string_equal(text, "0");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_grammar),
      cmocka_unit_test(test_integers),
      cmocka_unit_test(test_reading_is_correctly_rounded),
      cmocka_unit_test(test_midpoints),
      cmocka_unit_test(test_long_numbers),
      cmocka_unit_test(test_printed_floats_read_back),
      cmocka_unit_test(test_printed_doubles_read_back),
      cmocka_unit_test(test_printed_forms),
      cmocka_unit_test(test_every_16_bit_number),
      cmocka_unit_test(test_16_bit_rounding),
      cmocka_unit_test(test_printed_integers),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
