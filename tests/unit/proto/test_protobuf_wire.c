/* Protocol Buffers' wire form. */
#include "proto/protobuf/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void what_is_written_is_read(void **state) {
  static const uint64_t numbers[] = {0, 1, 127, 128, 16383, 16384, UINT32_MAX, INT64_MAX, UINT64_MAX};
  struct buffer out;
  buffer_init(&out, 1 << 20);
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    const size_t before = out.size;
    pb_put_varint(&out, numbers[i]);
    assert_int_equal(out.size - before, pb_varint_size(numbers[i]));
  }
  struct pb_reader reader;
  pb_reader_init(&reader, out.data, out.size);
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    uint64_t value = 99;
    assert_true(pb_next_varint(&reader, &value));
    assert_int_equal(value, numbers[i]);
  }
  assert_int_equal(reader.at, reader.size);
  buffer_clear(&out);
  pb_put_varint_field(&out, 1, 300);
  pb_put_varint_field(&out, 2, 0);
  pb_put_text_field(&out, 3, "");
  pb_put_text_field(&out, 536870911, "text");
  pb_reader_init(&reader, out.data, out.size);
  struct pb_field field;
  assert_true(pb_next(&reader, &field));
  assert_int_equal(field.number, 1);
  assert_int_equal(field.value, 300);
  assert_true(pb_next(&reader, &field));
  assert_int_equal(field.number, 536870911);
  assert_int_equal(field.size, 4);
  assert_memory_equal(field.bytes, "text", 4);
  assert_false(pb_next(&reader, &field));
  assert_int_equal(pb_finish(&reader, "it", NULL), MU_OK);
  buffer_free(&out);
}

/* Messages inside of messages, of lengths that take one byte and more. */
static void open_and_close(void **state) {
  for (size_t size = 0; size < 40000; size += size < 400 ? 1 : 1777) {
    struct buffer out;
    buffer_init(&out, 1 << 20);
    char *text = malloc(size + 1);
    assert_non_null(text);
    memset(text, 'x', size);
    const size_t outer = pb_open(&out, 5), inner = pb_open(&out, 1);
    pb_put_bytes(&out, 2, text, size);
    pb_close(&out, inner);
    pb_close(&out, outer);
    assert_false(out.failed);
    struct pb_reader reader;
    struct pb_field field;
    const uint32_t numbers[] = {5, 1, 2};
    pb_reader_init(&reader, out.data, out.size);
    for (int i = 0; i < 3; i++) {
      assert_true(pb_next(&reader, &field));
      assert_int_equal(field.number, numbers[i]);
      assert_int_equal(reader.at, reader.size);
      pb_reader_init(&reader, field.bytes, field.size);
    }
    assert_int_equal(field.size, size);
    assert_memory_equal(field.bytes, text, size);
    free(text);
    buffer_free(&out);
  }
  struct buffer small; /* no room for the second byte of the length */
  buffer_init(&small, 202);
  const size_t mark = pb_open(&small, 1);
  buffer_append(&small, (char[200]){0}, 200);
  pb_close(&small, mark);
  assert_true(small.failed);
  buffer_free(&small);
}

#define WRONG(...) \
  { {__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}) }

static void bytes_that_are_no_message(void **state) {
  static const struct {
    uint8_t bytes[16];
    size_t size;
  } cases[] = {
      WRONG(0x80),                                                      /* a tag cut off */
      WRONG(0x08),                                                      /* no number */
      WRONG(0x08, 0x80),                                                /* a number cut off */
      WRONG(0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2),      /* 65 bits */
      WRONG(0x08, 128, 128, 128, 128, 128, 128, 128, 128, 128, 128, 1), /* 11 bytes */
      WRONG(0x09, 1, 2, 3, 4, 5, 6, 7),                                 /* half a double */
      WRONG(0x0d, 1, 2, 3),                                             /* half a float */
      WRONG(0x0a, 2, 'a'),                                              /* past the end */
      WRONG(0x0a, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1),      /* far past the end */
      WRONG(0x0a),                                                      /* no length */
      WRONG(0x0b, 0x0c),                                                /* a group */
      WRONG(0x0c),                                                      /* the end of none */
      WRONG(0x0e, 0),                                                   /* wire type 6 */
      WRONG(0x0f, 0),                                                   /* wire type 7 */
      WRONG(0x00, 0),                                                   /* field 0 */
      WRONG(0x88, 0x80, 0x80, 0x80, 0x80, 0x00, 1),                     /* a tag of 6 bytes */
      WRONG(0x88, 0x80, 0x80, 0x80, 0x10, 1),                           /* a tag of 33 bits */
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    uint8_t *copy = malloc(cases[i].size); /* so that a sanitizer sees a read past the end */
    assert_non_null(copy);
    memcpy(copy, cases[i].bytes, cases[i].size);
    struct pb_reader reader;
    struct pb_field field;
    mu_error err = {""};
    pb_reader_init(&reader, copy, cases[i].size);
    while (pb_next(&reader, &field)) continue;
    assert_int_equal(pb_finish(&reader, "it", &err), MU_INVALID);
    assert_non_null(strstr(err.message, "it is no protobuf: "));
    assert_false(pb_next(&reader, &field)); /* and stays so */
    free(copy);
  }
}

static void numbers_longer_than_they_need_be(void **state) {
  static const uint8_t bytes[] = {0x88, 0x80, 0x80, 0x80, 0x00, 0x81, 0x80, 0x00, 0x08, 255,
                                  255,  255,  255,  255,  255,  255,  255,  255,  1};
  struct pb_reader reader;
  struct pb_field field;
  pb_reader_init(&reader, bytes, sizeof bytes);
  assert_true(pb_next(&reader, &field));
  assert_int_equal(field.number, 1);
  assert_int_equal(field.value, 1);
  assert_true(pb_next(&reader, &field));
  assert_int_equal(field.value, UINT64_MAX);
  assert_false(pb_next(&reader, &field));
  assert_null(reader.wrong);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(what_is_written_is_read),
      cmocka_unit_test(open_and_close),
      cmocka_unit_test(bytes_that_are_no_message),
      cmocka_unit_test(numbers_longer_than_they_need_be),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
