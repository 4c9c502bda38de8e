/* The reader of protobuf text format: its whole syntax, where it reports mistakes, and text that means harm. */
#include "proto/pbtext/pbtext.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct arena memory;

static int teardown(void **state) {
  arena_free(&memory);
  return 0;
}

static const struct pbtext_message *parse(const char *text) {
  const struct pbtext_message *message = NULL;
  mu_error err = {{0}};
  if (pbtext_parse(text, strlen(text), "t", &memory, &message, &err) != MU_OK) fail_msg("%s: %s", text, err.message);
  return message;
}

/* The only value of the first field. */
static const struct pbtext_value *value_of(const char *text) {
  const struct pbtext_message *message = parse(text);
  assert_non_null(message->fields);
  assert_int_equal(message->fields->n_values, 1);
  return message->fields->values;
}

static void assert_rejected(const char *text, size_t len, const char *expected) {
  const struct pbtext_message *message = NULL;
  mu_error err = {{0}};
  mu_status status = pbtext_parse(text, len, "t", &memory, &message, &err);
  if (status != MU_INVALID) fail_msg("accepted: %s", text);
  assert_null(message);
  if (strstr(err.message, expected) == NULL) fail_msg("%s: \"%s\" has no \"%s\"", text, err.message, expected);
}

static void test_empty(void **state) {
  assert_null(parse("")->fields);
  assert_null(parse(" \t\r\n\v\f # only a comment")->fields);
  assert_null(parse("\xef\xbb\xbf# behind a byte order mark\n")->fields);
}

static void test_integers(void **state) {
  static const struct {
    const char *text;
    uint64_t integer;
    bool negative;
  } cases[] = {
      {"a: 0", 0, false},
      {"a: 7", 7, false},
      {"a: -7", 7, true},
      {"a: - # with its sign apart\n 7", 7, true},
      {"a: 0x1F", 31, false},
      {"a: -0XfF", 255, true},
      {"a: 0755", 493, false},
      {"a: 00", 0, false},
      {"a: 18446744073709551615", UINT64_MAX, false},
      {"a: 0xffffffffffffffff", UINT64_MAX, false},
      {"a: 01777777777777777777777", UINT64_MAX, false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const struct pbtext_value *value = value_of(cases[i].text);
    assert_int_equal(value->kind, PBTEXT_INTEGER);
    assert_int_equal(value->integer, cases[i].integer);
    assert_int_equal(value->negative, cases[i].negative);
  }
}

static void test_integer_conversion(void **state) {
  int64_t number = 5;
  uint64_t magnitude = 5;
  assert_true(pbtext_int64(value_of("a: -9223372036854775808"), &number) && number == INT64_MIN);
  assert_true(pbtext_int64(value_of("a: 9223372036854775807"), &number) && number == INT64_MAX);
  assert_false(pbtext_int64(value_of("a: 9223372036854775808"), &number));
  assert_false(pbtext_int64(value_of("a: -9223372036854775809"), &number));
  assert_int_equal(number, INT64_MAX);
  assert_true(pbtext_uint64(value_of("a: 9223372036854775808"), &magnitude) && magnitude == UINT64_C(1) << 63);
  assert_true(pbtext_uint64(value_of("a: -0"), &magnitude) && magnitude == 0);
  assert_false(pbtext_uint64(value_of("a: -1"), &magnitude));
  assert_false(pbtext_int64(value_of("a: 1.0"), &number));
  assert_false(pbtext_int64(value_of("a: '1'"), &number));
}

static void test_floats(void **state) {
  static const struct {
    const char *text;
    double number;
  } cases[] = {
      {"a: 1.5", 1.5},
      {"a: .5", 0.5},
      {"a: 5.", 5},
      {"a: 1e3", 1000},
      {"a: 1.5E-2", 0.015},
      {"a: 10f", 10},
      {"a: 1.5F", 1.5},
      {"a: -2.5e+1f", -25},
      {"a: 0.0", 0},
      {"a: -inf", -INFINITY},
      {"a: -Infinity", -INFINITY},
      {"a: 1e999", INFINITY},
      {"a: 18446744073709551616", 18446744073709551616.0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const struct pbtext_value *value = value_of(cases[i].text);
    assert_int_equal(value->kind, PBTEXT_FLOAT);
    assert_true(value->number == cases[i].number);
  }
  assert_true(isnan(value_of("a: -nan")->number));
}

static void test_identifiers(void **state) {
  static const char *const words[] = {"true", "inf", "nan", "TYPE_FP32", "_x9"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    char text[32];
    snprintf(text, sizeof text, "a: %s", words[i]);
    const struct pbtext_value *value = value_of(text);
    assert_int_equal(value->kind, PBTEXT_IDENTIFIER);
    assert_string_equal(value->text, words[i]);
  }
}

static void test_strings(void **state) {
  static const struct {
    const char *text, *expected;
    size_t len;
  } cases[] = {
      {"a: \"it's\"", "it's", 4},
      {"a: 'say \"hi\"'", "say \"hi\"", 8},
      {"a: ''", "", 0},
      {"a: 'one' \"two\" # and\n 'three'", "onetwothree", 11},
      {"a: '\\a\\b\\f\\n\\r\\t\\v\\?\\\\\\'\\\"'", "\a\b\f\n\r\t\v?\\'\"", 11},
      {"a: '\\0\\12\\377\\1234'", "\0\n\377S4", 5},
      {"a: '\\x41\\x4\\x4g\\X7e'", "A\x04\x04g~", 5},
      {"a: '\\u00e9\\u20AC'", "\xc3\xa9\xe2\x82\xac", 5},
      {"a: '\\U0001F600'", "\xf0\x9f\x98\x80", 4},
      {"a: '\\ud83d\\ude00'", "\xf0\x9f\x98\x80", 4},
      {"a: 'caf\xc3\xa9 # no comment'", "caf\xc3\xa9 # no comment", 18},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const struct pbtext_value *value = value_of(cases[i].text);
    assert_int_equal(value->kind, PBTEXT_STRING);
    assert_int_equal(value->len, cases[i].len);
    assert_memory_equal(value->text, cases[i].expected, cases[i].len + 1);
  }
}

static void test_messages(void **state) {
  const struct pbtext_message *message = parse("a { b: 1; c: 2, d < e { } > } a: < > f: [{b: 3}, <b: 4>]");
  const struct pbtext_message *first = pbtext_find(message, "a", 0)->message;
  assert_int_equal(pbtext_find(first, "b", 0)->integer, 1);
  assert_int_equal(pbtext_find(first, "c", 0)->integer, 2);
  assert_non_null(pbtext_find(pbtext_find(first, "d", 0)->message, "e", 0));
  assert_null(pbtext_find(message, "a", 1)->message->fields);
  assert_null(pbtext_find(message, "a", 2));
  assert_int_equal(pbtext_find(pbtext_find(message, "f", 1)->message, "b", 0)->integer, 4);
  assert_null(pbtext_find(message, "g", 0));
}

static void test_lists(void **state) {
  const struct pbtext_message *message = parse("dims: [1, -1, 3] dims: 4 dims: [] dims: [5] input [ { } ] none []");
  static const int64_t expected[] = {1, -1, 3, 4, 5};
  for (size_t i = 0; i < 5; i++) {
    int64_t number = 0;
    assert_true(pbtext_int64(pbtext_find(message, "dims", i), &number));
    assert_int_equal(number, expected[i]);
  }
  assert_null(pbtext_find(message, "dims", 5));
  assert_true(message->fields->list);
  assert_int_equal(message->fields->n_values, 3);
  assert_false(message->fields->next->list);
  assert_int_equal(pbtext_find(message, "input", 0)->kind, PBTEXT_MESSAGE);
}

static void test_bracketed_names(void **state) {
  assert_string_equal(parse("[com.example.ext]: 1")->fields->name, "[com.example.ext]");
  assert_string_equal(parse("[ a . b ] { }")->fields->name, "[a.b]");
  assert_string_equal(parse("[type.googleapis.com/x.Y] { z: 1 }")->fields->name, "[type.googleapis.com/x.Y]");
  assert_string_equal(parse("a: 10[my-host.org/x] { }")->fields->next->name, "[my-host.org/x]");
}

static void test_places(void **state) {
  const struct pbtext_message *message = parse("a: 1\r\n  # c\n\tb {\n c: 'x'\n}");
  const struct pbtext_field *b = message->fields->next;
  assert_int_equal(message->place.line, 1);
  assert_int_equal(message->fields->values->place.column, 4);
  assert_int_equal(b->place.line, 3);
  assert_int_equal(b->place.column, 2);
  assert_int_equal(b->values->place.column, 4);
  assert_int_equal(b->values->message->place.line, 3);
  assert_int_equal(b->values->message->fields->values->place.line, 4);
  assert_int_equal(b->values->message->fields->values->place.column, 5);
}

static void test_mistakes(void **state) {
  static const struct {
    const char *text, *expected;
  } cases[] = {
      {"a", "t:1:2: expected ':' or a message after the field's name, found the end of the text"},
      {"a 5", "t:1:3: expected ':' or a message"},
      {"dims [1]", "t:1:7: expected ':' or a message"},
      {"a:", "t:1:3: expected a value, found the end of the text"},
      {"a: }", "t:1:4: expected a value, found '}'"},
      {"a: 1,, b: 2", "t:1:6: expected the name of a field, found ','"},
      {"a: 1 }", "t:1:6: expected the name of a field, found '}'"},
      {"a {\n b: 1", "t:2:6: expected a field or '}', found the end of the text"},
      {"a < b: 1 }", "t:1:10: expected the name of a field, found '}'"},
      {"a: [1, ]", "t:1:8: expected a value, found ']'"},
      {"a: [1 2]", "t:1:7: expected ',' or ']', found '2'"},
      {"a: [1; 2]", "t:1:6: expected ',' or ']', found ';'"},
      {"a: [[1]]", "t:1:5: expected a value, found '['"},
      {"a: [1", "t:1:6: expected ',' or ']'"},
      {"5: 1", "t:1:1: expected the name of a field, found '5'"},
      {"'a': 1", "t:1:1: expected the name of a field, found a string"},
      {"a: 10b: 2", "t:1:4: this number runs into what follows it"},
      {"a: 08", "t:1:4: this number runs into what follows it"},
      {"a: 1.2.3", "t:1:4: this number runs into what follows it"},
      {"a: 0x", "t:1:4: a hexadecimal integer needs digits after 0x"},
      {"a: 0x1g", "t:1:4: this number runs into"},
      {"a: 1e", "t:1:4: the exponent of this number has no digits"},
      {"a: 1e+", "t:1:4: the exponent of this number has no digits"},
      {"a: 0x10000000000000000", "t:1:4: this integer has more than 64 bits"},
      {"a: - true", "t:1:6: expected a number, found 'true'"},
      {"a: --1", "t:1:5: expected a number, found '-'"},
      {"a: +1", "t:1:4: expected a value, found '+'"},
      {"a: 'x", "t:1:4: this string does not end on its line"},
      {"a: 'x\ny'", "t:1:4: this string does not end on its line"},
      {"a: 'x\\", "t:1:4: this string does not end on its line"},
      {"a: 'x\\\n'", "t:1:4: this string does not end on its line"},
      {"a: 'ab\\q'", "t:1:7: this is no escape"},
      {"a: '\\400'", "t:1:5: this is no escape"},
      {"a: '\\x'", "t:1:5: this is no escape"},
      {"a: '\\u12'", "t:1:5: this is no escape"},
      {"a: '\\ud800'", "t:1:5: this is no escape"},
      {"a: '\\ud800\\u0041'", "t:1:5: this is no escape"},
      {"a: '\\udc00'", "t:1:5: this is no escape"},
      {"a: '\\U00110000'", "t:1:5: this is no escape"},
      {"[]: 1", "t:1:2: expected a part of the name in brackets, found ']'"},
      {"[a.]: 1", "t:1:4: expected a part of the name in brackets"},
      {"[a b]: 1", "t:1:4: expected ']', found 'b'"},
      {"a: \x01", "t:1:4: expected a value, found byte 0x01"},
      {"a: \xff", "t:1:4: expected a value, found byte 0xff"},
      {"a: // no comment", "t:1:4: expected a value, found '/'"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    assert_rejected(cases[i].text, strlen(cases[i].text), cases[i].expected);
  assert_rejected("a: 'x\0y'", 8, "t:1:4: this string does not end");
  assert_rejected("a: 1\0", 5, "t:1:5: expected the name of a field, found byte 0x00");
}

static void test_limits(void **state) {
  char text[4 * 300 + 1];
  for (int depth = PBTEXT_DEPTH_MAX; depth <= PBTEXT_DEPTH_MAX + 1; depth++) {
    memset(text, 0, sizeof text);
    for (int i = 0; i < depth; i++) memcpy(text + 2 * i, "a{", 2);
    memset(text + 2 * depth, '}', (size_t)depth);
    if (depth == PBTEXT_DEPTH_MAX)
      parse(text);
    else
      assert_rejected(text, strlen(text), "more than 64 messages in one another");
  }
  memset(text, 'x', sizeof text);
  text[0] = '[';
  assert_rejected(text, 300, "this name in brackets is too long");
  for (size_t first = 245; first < 256; first++) { /* a first part that leaves room for a few short ones, or none */
    static const char tail[] = "-a-f-a-a-lZ-n-a-f-p-a]: 1";
    memset(text, 'x', sizeof text);
    text[0] = '[';
    memcpy(text + 1 + first, tail, sizeof tail - 1);
    assert_rejected(text, 1 + first + sizeof tail - 1, "this name in brackets is too long");
  }
  memset(text, '1', sizeof text);
  memcpy(text, "a:", 2);
  assert_rejected(text, 700, "this number has too many digits");
}

/* A text in many pieces costs memory in proportion to its length, not to the square of it. */
static void test_many_pieces(void **state) {
  enum { PIECES = 40000 };
  char *text = malloc(2 + 3 * PIECES);
  assert_non_null(text);
  memcpy(text, "a:", 2);
  for (int i = 0; i < PIECES; i++) memcpy(text + 2 + 3 * i, "'x'", 3);
  const struct pbtext_message *message = NULL;
  assert_int_equal(pbtext_parse(text, 2 + 3 * PIECES, "t", &memory, &message, NULL), MU_OK);
  assert_int_equal(message->fields->values->len, PIECES);
  free(text);
}

/* Nothing that is done to a good text may crash, and what it reports has a place. */
static void test_mutations(void **state) {
  static const char good[] =
      "name: \"m\" max_batch_size: 0x10 input [ { name: 'a\\u00e9' 'b' dims: [ -1, 3 ] } ] # c\n"
      "p < key: \"k\"; value: { d: -1.5e3f } > [a.b/c.D]: { x: inf }";
  srand(1);
  for (int round = 0; round < 20000; round++) {
    char text[sizeof good];
    memcpy(text, good, sizeof good);
    size_t len = sizeof good - 1;
    for (int n = rand() % 4; n >= 0; n--)
      text[rand() % len] = (char)(rand() % 3 ? "{}<>[]:,;'\"\\-#0x.e"[rand() % 19] : rand());
    len -= (size_t)rand() % 8;
    char *exact = malloc(len); /* so that reading past the end is seen */
    assert_non_null(exact);
    memcpy(exact, text, len);
    const struct pbtext_message *message = NULL;
    mu_error err = {{0}};
    mu_status status = pbtext_parse(exact, len, "t", &memory, &message, &err);
    free(exact);
    assert_true(status == MU_OK || (status == MU_INVALID && strncmp(err.message, "t:", 2) == 0));
    arena_free(&memory);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(test_empty, teardown),
      cmocka_unit_test_teardown(test_integers, teardown),
      cmocka_unit_test_teardown(test_integer_conversion, teardown),
      cmocka_unit_test_teardown(test_floats, teardown),
      cmocka_unit_test_teardown(test_identifiers, teardown),
      cmocka_unit_test_teardown(test_strings, teardown),
      cmocka_unit_test_teardown(test_messages, teardown),
      cmocka_unit_test_teardown(test_lists, teardown),
      cmocka_unit_test_teardown(test_bracketed_names, teardown),
      cmocka_unit_test_teardown(test_places, teardown),
      cmocka_unit_test_teardown(test_mistakes, teardown),
      cmocka_unit_test_teardown(test_limits, teardown),
      cmocka_unit_test_teardown(test_many_pieces, teardown),
      cmocka_unit_test_teardown(test_mutations, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
