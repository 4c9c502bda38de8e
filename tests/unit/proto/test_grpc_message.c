/* gRPC's framing and the values of its headers. */
#include "proto/grpc/grpc_headers.h"
#include "proto/grpc/grpc_message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* What came out of a framer: 'B' and the size, the bytes, 'E'. */
struct trace {
  char text[256];
  mu_status status;
};

static void note(struct trace *trace, const char *text, size_t size) {
  const size_t at = strlen(trace->text);
  assert_true(at + size < sizeof trace->text);
  memcpy(trace->text + at, text, size);
  trace->text[at + size] = '\0';
}

static void feed(struct grpc_framer *framer, bool compression, const uint8_t *data, size_t size, struct trace *trace) {
  enum grpc_frame_event event = GRPC_FRAME_BEGIN;
  while (trace->status == MU_OK && event != GRPC_FRAME_MORE) {
    const uint8_t *part;
    size_t part_size;
    mu_error err = {""};
    char begin[16];
    trace->status = grpc_frame_next(framer, compression, &data, &size, &event, &part, &part_size, &err);
    if (trace->status != MU_OK) {
      assert_true(err.message[0] != '\0');
      return;
    }
    if (event == GRPC_FRAME_BEGIN) {
      snprintf(begin, sizeof begin, "B%u%s:", framer->size, framer->compressed ? "c" : "");
      note(trace, begin, strlen(begin));
    }
    if (event == GRPC_FRAME_DATA) {
      assert_true(part_size > 0);
      note(trace, (const char *)part, part_size);
    }
    if (event == GRPC_FRAME_END) note(trace, "E", 1);
  }
  if (trace->status == MU_OK) assert_int_equal(size, 0);
}

static const uint8_t stream[] = {0, 0, 0, 0, 3, 'a', 'b', 'c', 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 'x', 'y'};
static const char stream_trace[] = "B3:abcEB0:EB2c:xyE";

static void messages_in_all_splits(void **state) {
  for (size_t first = 0; first <= sizeof stream; first++)
    for (size_t second = first; second <= sizeof stream; second++) {
      struct grpc_framer framer = {.limit = 3};
      struct trace trace = {"", MU_OK};
      feed(&framer, true, stream, first, &trace);
      feed(&framer, true, stream + first, second - first, &trace);
      feed(&framer, true, stream + second, sizeof stream - second, &trace);
      assert_int_equal(trace.status, MU_OK);
      assert_string_equal(trace.text, stream_trace);
      assert_int_equal(grpc_frame_finish(&framer, NULL), MU_OK);
    }
}

static void messages_byte_by_byte(void **state) {
  struct grpc_framer framer = {0};
  struct trace trace = {"", MU_OK};
  for (size_t i = 0; i < sizeof stream; i++) feed(&framer, true, stream + i, 1, &trace);
  assert_string_equal(trace.text, stream_trace);
}

static void refused_messages(void **state) {
  static const struct {
    uint8_t bytes[GRPC_PREFIX_SIZE];
    bool compression;
    uint64_t limit;
    mu_status status;
  } cases[] = {
      {{2, 0, 0, 0, 0}, true, 0, MU_INVALID},    {{1, 0, 0, 0, 0}, false, 0, MU_INVALID},
      {{0, 0, 0, 0, 9}, false, 8, MU_TOO_LARGE}, {{0, 255, 255, 255, 255}, false, 1 << 20, MU_TOO_LARGE},
      {{0, 0, 0, 0, 8}, false, 8, MU_OK},        {{0, 255, 255, 255, 255}, false, 0, MU_OK},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct grpc_framer framer = {.limit = cases[i].limit};
    struct trace trace = {"", MU_OK};
    feed(&framer, cases[i].compression, cases[i].bytes, sizeof cases[i].bytes, &trace);
    assert_int_equal(trace.status, cases[i].status);
  }
}

static void a_call_that_ends_early(void **state) {
  for (size_t n = 0; n < 8; n++) {
    struct grpc_framer framer = {0};
    struct trace trace = {"", MU_OK};
    feed(&framer, false, stream, n, &trace);
    assert_int_equal(grpc_frame_finish(&framer, NULL), n == 0 ? MU_OK : MU_INVALID);
  }
}

static void contents_past_the_framer(void **state) {
  struct grpc_framer framer = {0};
  struct trace trace = {"", MU_OK};
  feed(&framer, false, stream, GRPC_PREFIX_SIZE, &trace);
  grpc_frame_advance(&framer, 2);
  assert_int_equal(framer.left, 1);
  feed(&framer, false, (const uint8_t *)"c", 1, &trace);
  assert_string_equal(trace.text, "B3:cE");
}

static void prefix_is_read_as_written(void **state) {
  uint8_t prefix[GRPC_PREFIX_SIZE];
  grpc_prefix_write(prefix, true, 0x01020304);
  assert_memory_equal(prefix, ((uint8_t[]){1, 1, 2, 3, 4}), sizeof prefix);
}

static void timeouts(void **state) {
  static const struct {
    const char *text;
    uint64_t ns;
  } good[] = {{"1H", UINT64_C(3600000000000)},
              {"2M", UINT64_C(120000000000)},
              {"5S", UINT64_C(5000000000)},
              {"100m", UINT64_C(100000000)},
              {"7u", 7000},
              {"99999999n", 99999999},
              {"0n", 0},
              {"00000001S", UINT64_C(1000000000)},
              {"99999999H", UINT64_MAX}};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    uint64_t ns = 1;
    assert_int_equal(grpc_timeout_parse(good[i].text, &ns, NULL), MU_OK);
    assert_int_equal(ns, good[i].ns);
  }
  static const char *const bad[] = {"",    "S",    "1",   "1s",   "123456789S", "-1S",      "+1S",  " 1S",
                                    "1S ", "1.5S", "1SS", "0x1S", "1h",         "99999999", "1\xff"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    uint64_t ns = 42;
    mu_error err = {""};
    assert_int_equal(grpc_timeout_parse(bad[i], &ns, &err), MU_INVALID);
    assert_int_equal(ns, 42);
    assert_non_null(strstr(err.message, "grpc-timeout"));
  }
}

static void messages_of_errors(void **state) {
  static const struct {
    const char *plain, *encoded;
  } cases[] = {{"", ""},
               {"plain text, ~ and \"quotes\"", "plain text, ~ and \"quotes\""},
               {"100 %", "100 %25"},
               {"a\nb\tc", "a%0Ab%09c"},
               {"\xc3\xa4\x7f", "%C3%A4%7F"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct buffer out;
    buffer_init(&out, 1024);
    assert_int_equal(grpc_message_encode(&out, cases[i].plain), MU_OK);
    assert_string_equal(buffer_text(&out), cases[i].encoded);
    buffer_free(&out);
  }
  struct buffer small;
  buffer_init(&small, 2);
  assert_int_equal(grpc_message_encode(&small, "%"), MU_TOO_LARGE);
  buffer_free(&small);
}

static void codes(void **state) {
  assert_int_equal(grpc_code_of(MU_OK), 0);
  assert_int_equal(grpc_code_of(MU_INVALID), 3);
  assert_int_equal(grpc_code_of(MU_NOT_FOUND), 5);
  assert_int_equal(grpc_code_of(MU_EXISTS), 6);
  assert_int_equal(grpc_code_of(MU_UNAVAILABLE), 14);
  assert_int_equal(grpc_code_of(MU_UNSUPPORTED), 12);
  assert_int_equal(grpc_code_of(MU_TOO_LARGE), 8);
  assert_int_equal(grpc_code_of(MU_CANCELED), 1);
  assert_int_equal(grpc_code_of(MU_TIMEOUT), 14);
  assert_int_equal(grpc_code_of(MU_NO_MEMORY), 14);
  assert_int_equal(grpc_code_of(MU_INTERNAL), 13);
  assert_int_equal(grpc_code_of(MU_IO), 13);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(messages_in_all_splits),
      cmocka_unit_test(messages_byte_by_byte),
      cmocka_unit_test(refused_messages),
      cmocka_unit_test(a_call_that_ends_early),
      cmocka_unit_test(contents_past_the_framer),
      cmocka_unit_test(prefix_is_read_as_written),
      cmocka_unit_test(timeouts),
      cmocka_unit_test(messages_of_errors),
      cmocka_unit_test(codes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
