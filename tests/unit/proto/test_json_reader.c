/* The reader over well-formed and over hostile texts. Every text is an allocation of exactly its size, so that a
 * sanitizer sees a byte read past the end. */
#include "proto/json/json_reader.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *exact_copy(const char *text, size_t size) {
  char *copy = malloc(size > 0 ? size : 1);
  assert_non_null(copy);
  memcpy(copy, text, size);
  return copy;
}

/* Skips over the whole text; the error, or "" . */
static const char *check_text(const char *text, size_t size, mu_error *err) {
  char *copy = exact_copy(text, size);
  struct json_reader reader;
  json_reader_init(&reader, copy, size);
  err->message[0] = '\0';
  const bool skipped = json_skip(&reader);
  const mu_status status = json_finish(&reader, err);
  assert_int_equal(skipped && status == MU_OK, err->message[0] == '\0');
  free(copy);
  return err->message;
}

static void test_well_formed(void **state) {
  static const char *const texts[] = {
      "0",
      " [ ] ",
      "{}",
      "null",
      "true",
      "false",
      "\"\"",
      "[[],[[]],{}]",
      "{\"a\":{\"b\":[1,2,{\"c\":null}]},\"d\":-1.5e3}",
      "\t[\r\n1 , 2 ]\n",
      "\"\\u00e9\\ud83d\\ude00\\n\\\"\\\\\\/\"",
      "\"\xc3\xa9\xf0\x9f\x98\x80\xef\xbf\xbf\"",
      "\"a long enough string for eight bytes at a time, and then some\"",
      "{\"\":0}",
      "\"\x7f\"",
      "{\"a\":1,\"a\":2}", /* doubled keys are the caller's to judge */
  };
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    mu_error err;
    assert_string_equal(check_text(texts[i], strlen(texts[i]), &err), "");
  }
}

static void test_malformed(void **state) {
  static const struct {
    const char *text, *error;
  } cases[] = {
      {"", "byte 0: expected a value"},
      {"  ", "byte 2: expected a value"},
      {"[", "byte 1: the text ends inside an array"},
      {"[1", "byte 2: the text ends inside an array"},
      {"[1,", "expected a value"},
      {"[1,]", "byte 3: a comma with nothing behind it"},
      {"[,1]", "byte 1: expected a value"},
      {"[1 2]", "byte 3: expected ',' or ']'"},
      {"[1}", "byte 2: expected ',' or ']'"},
      {"{", "byte 1: the text ends inside an object"},
      {"{\"a\"}", "byte 4: expected ':'"},
      {"{\"a\":}", "byte 5: expected a value"},
      {"{\"a\":1,}", "byte 7: a comma with nothing behind it"},
      {"{a:1}", "byte 1: expected a key in quotes"},
      {"{1:1}", "byte 1: expected a key in quotes"},
      {"{\"a\":1 \"b\":2}", "byte 7: expected ',' or '}'"},
      {"{\"a\":1]", "byte 6: expected ',' or '}'"},
      {"]", "byte 0: expected a value"},
      {"tru", "byte 0: expected a value"},
      {"nul", "byte 0: expected a value"},
      {"truex", "byte 4: something follows the JSON text"},
      {"[truex]", "byte 5: expected ',' or ']'"},
      {"NaN", "byte 0: expected a value"},
      {"[Infinity]", "byte 1: expected a value"},
      {"-Infinity", "byte 0: not a number as JSON writes it"},
      {"'a'", "byte 0: expected a value"},
      {"01", "byte 0: not a number as JSON writes it"},
      {"1.", "byte 0: not a number as JSON writes it"},
      {"[1.e5]", "byte 1: not a number as JSON writes it"},
      {"1 2", "byte 2: something follows the JSON text"},
      {"{} {}", "byte 3: something follows the JSON text"},
      {"\"", "byte 1: the text ends inside a string"},
      {"\"abcdefghijk", "byte 12: the text ends inside a string"},
      {"\"a\\", "byte 2: there is no such escape"},
      {"\"a\\x\"", "byte 2: there is no such escape"},
      {"\"\\u12\"", "byte 1: \\u needs four hexadecimal digits"},
      {"\"\\u12g4\"", "byte 1: \\u needs four hexadecimal digits"},
      {"\"\\ud800\"", "byte 1: half of a surrogate pair"},
      {"\"\\udc00\"", "byte 1: half of a surrogate pair"},
      {"\"\\ud800\\u0041\"", "byte 1: half of a surrogate pair"},
      {"\"\\ud800\\ud800\"", "byte 1: half of a surrogate pair"},
      {"\"\\ud83d\\u\"", "byte 1: half of a surrogate pair"},
      {"\"a\nb\"", "byte 2: a control character inside a string"},
      {"\"12345678\x1f\"", "byte 9: a control character inside a string"},
      {"\"\x80\"", "byte 1: a string is not valid UTF-8"},
      {"\"\xc0\x80\"", "byte 1: a string is not valid UTF-8"},         /* overlong */
      {"\"\xe0\x80\x80\"", "byte 1: a string is not valid UTF-8"},     /* overlong */
      {"\"\xf0\x80\x80\x80\"", "byte 1: a string is not valid UTF-8"}, /* overlong */
      {"\"\xed\xa0\x80\"", "byte 1: a string is not valid UTF-8"},     /* surrogate */
      {"\"\xf4\x90\x80\x80\"", "byte 1: a string is not valid UTF-8"}, /* past U+10FFFF */
      {"\"\xf5\x80\x80\x80\"", "byte 1: a string is not valid UTF-8"},
      {"\"\xc3\"", "byte 1: a string is not valid UTF-8"},
      {"\"\xe2\x82\"", "byte 1: a string is not valid UTF-8"},
      {"\"\xff\"", "byte 1: a string is not valid UTF-8"},
      {"\xef\xbb\xbf{}", "byte 0: expected a value"}, /* a byte order mark is no white space */
      {"/*c*/1", "byte 0: expected a value"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    mu_error err;
    const char *found = check_text(cases[i].text, strlen(cases[i].text), &err);
    if (strstr(found, cases[i].error) == NULL)
      fail_msg("%s: '%s', expected '%s'", cases[i].text, found, cases[i].error);
  }
}

static void test_nul_bytes(void **state) {
  mu_error err;
  assert_non_null(strstr(check_text("\"a\0b\"", 5, &err), "control character"));
  assert_non_null(strstr(check_text("[1\0]", 4, &err), "expected ','"));
  assert_non_null(strstr(check_text("1\0", 2, &err), "something follows"));
}

static void test_depth(void **state) {
  enum { DEEP = 10000 };
  char *text = malloc(2 * DEEP);
  assert_non_null(text);
  mu_error err;
  memset(text, '[', JSON_DEPTH_MAX);
  memset(text + JSON_DEPTH_MAX, ']', JSON_DEPTH_MAX);
  assert_string_equal(check_text(text, 2 * JSON_DEPTH_MAX, &err), "");
  memset(text, '[', DEEP);
  memset(text + DEEP, ']', DEEP);
  assert_non_null(strstr(check_text(text, 2 * DEEP, &err), "byte 64: nested too deep"));
  for (int i = 0; i < DEEP; i += 5) memcpy(text + i, "{\"a\":", 5);
  assert_non_null(strstr(check_text(text, DEEP, &err), "byte 320: nested too deep"));
  free(text);
}

/* Every text cut off anywhere is an error, and no read passes its end. */
static void test_every_prefix_fails(void **state) {
  static const char text[] = "{\"a\":[1.5e3,true,null,\"\\u00e9\xc3\xa9\\ud83d\\ude00 and more\"],\"b\":{\"c\":false}}";
  mu_error err;
  for (size_t size = 0; size < sizeof text - 1; size++) assert_string_not_equal(check_text(text, size, &err), "");
  assert_string_equal(check_text(text, sizeof text - 1, &err), "");
}

static void test_walk(void **state) {
  static const char text[] =
      " {\"name\" : \"x\\ty\", \"skip\":[1,{\"a\":[]},\"]}\"], "
      "\"flag\":true,\"none\":null,\"numbers\":[-3,18446744073709551615,0.25],"
      "\"\\u0065nd\":{}} ";
  struct json_reader reader;
  json_reader_init(&reader, text, sizeof text - 1);
  struct json_text key, value;
  assert_int_equal(json_peek(&reader), JSON_READ_OBJECT);
  assert_true(json_enter(&reader));
  assert_true(json_member(&reader, &key));
  assert_true(json_text_equal(&key, "name"));
  assert_false(json_text_equal(&key, "nam"));
  assert_false(json_text_equal(&key, "names"));
  assert_true(json_read_string(&reader, &value));
  assert_true(value.escaped);
  assert_true(json_text_equal(&value, "x\ty"));
  assert_false(json_text_equal(&value, "x\t"));
  assert_false(json_text_equal(&value, "x\tyz"));
  assert_int_equal(json_text_size(&value), 3);
  assert_true(json_member(&reader, &key));
  const char *raw;
  size_t raw_size;
  assert_true(json_read_raw(&reader, &raw, &raw_size));
  assert_memory_equal(raw, "[1,{\"a\":[]},\"]}\"]", raw_size);
  assert_int_equal(raw_size, 17);
  assert_true(json_member(&reader, &key));
  bool flag = false;
  assert_true(json_read_bool(&reader, &flag));
  assert_true(flag);
  assert_true(json_member(&reader, &key));
  assert_true(json_read_null(&reader));
  assert_true(json_member(&reader, &key));
  assert_true(json_enter(&reader));
  int64_t i64 = 0;
  uint64_t u64 = 0;
  double d = 0;
  assert_true(json_element(&reader) && json_read_i64(&reader, &i64));
  assert_true(json_element(&reader) && json_read_u64(&reader, &u64));
  assert_true(json_element(&reader) && json_read_double(&reader, &d));
  assert_true(i64 == -3 && u64 == UINT64_MAX && d == 0.25);
  assert_false(json_element(&reader));
  assert_true(json_member(&reader, &key));
  assert_true(json_text_equal(&key, "end"));
  assert_true(json_enter(&reader));
  assert_false(json_member(&reader, &key));
  assert_false(json_member(&reader, &key));
  assert_int_equal(json_peek(&reader), JSON_END);
  mu_error err;
  assert_int_equal(json_finish(&reader, &err), MU_OK);
}

static void test_wrong_kinds(void **state) {
  struct json_reader reader;
  int64_t i64 = 7;
  uint64_t u64 = 7;
  double d = 7;
  bool flag = true;
  struct json_text text = {.size = 7};
  json_reader_init(&reader, "\"a\"", 3);
  assert_false(json_read_i64(&reader, &i64));
  assert_string_equal(reader.error.message, "byte 0: expected a number, found a string");
  assert_false(json_read_string(&reader, &text)); /* the first reason stays */
  assert_string_equal(reader.error.message, "byte 0: expected a number, found a string");
  json_reader_init(&reader, "1.0", 3);
  assert_false(json_read_i64(&reader, &i64));
  json_reader_init(&reader, "-1", 2);
  assert_false(json_read_u64(&reader, &u64));
  json_reader_init(&reader, "1e999", 5);
  assert_false(json_read_double(&reader, &d));
  json_reader_init(&reader, "0", 1);
  assert_false(json_read_bool(&reader, &flag));
  json_reader_init(&reader, "[]", 2);
  assert_false(json_read_string(&reader, &text));
  json_reader_init(&reader, "{}", 2);
  assert_false(json_read_null(&reader));
  json_reader_init(&reader, "", 0);
  assert_false(json_enter(&reader));
  assert_true(i64 == 7 && u64 == 7 && d == 7 && flag && text.size == 7); /* untouched */
}

static void test_unescape(void **state) {
  static const char text[] = "\"a\\u0000b\\u00e9\\u20ac\\ud83d\\ude00\\b\\f\\n\\r\\t\\/\\\\\\\"z\"";
  static const char wanted[] = "a\0b\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\b\f\n\r\t/\\\"z";
  struct json_reader reader;
  struct json_text value;
  json_reader_init(&reader, text, sizeof text - 1);
  assert_true(json_read_string(&reader, &value));
  assert_int_equal(json_text_size(&value), sizeof wanted - 1);
  struct buffer out;
  buffer_init(&out, 1024);
  assert_int_equal(json_unescape(&value, &out), MU_OK);
  assert_int_equal(out.size, sizeof wanted - 1);
  assert_memory_equal(out.data, wanted, out.size);
  buffer_free(&out);
  buffer_init(&out, 3);
  assert_int_equal(json_unescape(&value, &out), MU_TOO_LARGE);
  buffer_free(&out);
}

static void test_write_string(void **state) {
  static const char text[] = "a\"\\/\b\f\n\r\t\x01\x1f\x7f\0\xc3\xa9\xf0\x9f\x98\x80\xff\xc3";
  static const char wanted[] =
      "\"a\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\\u0000\xc3\xa9\xf0\x9f\x98\x80\xef\xbf\xbd\xef\xbf\xbd\"";
  struct buffer out;
  buffer_init(&out, 1024);
  assert_int_equal(json_write_string(&out, text, sizeof text - 1), MU_OK);
  assert_int_equal(out.size, sizeof wanted - 1);
  assert_memory_equal(out.data, wanted, out.size);
  mu_error err;
  assert_string_equal(check_text(out.data, out.size, &err), "");
  buffer_free(&out);
  buffer_init(&out, 4);
  assert_int_equal(json_write_string(&out, "abcdef", 6), MU_TOO_LARGE);
  buffer_free(&out);
}

/* Random bytes, and random bytes of JSON's own alphabet: whatever is written is read back, whatever is read is safe. */
static void test_random(void **state) {
  static const char alphabet[] = "[]{}:,\"\\u0019eE+-. \ntruefalsn\xc3\xa9";
  uint64_t seed = 5;
  for (int round = 0; round < 20000; round++) {
    char text[64], copy[64];
    const size_t size = (size_t)round % sizeof text;
    for (size_t i = 0; i < size; i++) {
      seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
      text[i] = round % 2 == 0 ? (char)(seed >> 56) : alphabet[(seed >> 33) % (sizeof alphabet - 1)];
    }
    mu_error err;
    check_text(text, size, &err);
    struct buffer out;
    buffer_init(&out, 1024);
    assert_int_equal(json_write_string(&out, text, size), MU_OK);
    assert_string_equal(check_text(out.data, out.size, &err), "");
    struct json_reader reader;
    struct json_text value;
    json_reader_init(&reader, out.data, out.size);
    assert_true(json_read_string(&reader, &value));
    bool ascii = true;
    for (size_t i = 0; i < size; i++) ascii &= (unsigned char)text[i] < 0x80;
    if (ascii) {
      assert_int_equal(json_text_size(&value), size);
      json_text_decode(&value, copy);
      assert_memory_equal(copy, text, size);
    }
    buffer_free(&out);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_well_formed),        cmocka_unit_test(test_malformed),
      cmocka_unit_test(test_nul_bytes),          cmocka_unit_test(test_depth),
      cmocka_unit_test(test_every_prefix_fails), cmocka_unit_test(test_walk),
      cmocka_unit_test(test_wrong_kinds),        cmocka_unit_test(test_unescape),
      cmocka_unit_test(test_write_string),       cmocka_unit_test(test_random),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
