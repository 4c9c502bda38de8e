/* The codecs that keep something (the JSON reader keeps nothing) without memory for it. */
#include "proto/http1/http1_codec.h"
#include "proto/json/json_reader.h"
#include "proto/pbtext/pbtext.h"

#include "failing_allocator.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static mu_status parse_pbtext(void *context) {
  static const char text[] =
      "name: \"m\" 'ore' dims: [1, -2, 3e40]\n"
      "input { name: \"\\x41\\n\" [com.example.ext] { a: 1 } }\n"
      "very_long: "
      "\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"\n";
  struct buffer many;
  allocations_work();
  buffer_init(&many, 1 << 20);
  for (int i = 0; i < 60; i++) assert_int_equal(buffer_puts(&many, text), MU_OK);
  allocations_fail();
  struct arena arena = {0};
  const struct pbtext_message *message = NULL;
  mu_error err = {""};
  mu_status status = pbtext_parse(many.data, many.size, "s", &arena, &message, &err);
  if (status == MU_OK) assert_int_equal(pbtext_find(message, "dims", 4)->integer, 2);
  if (status != MU_OK) assert_true(message == NULL && err.message[0] != '\0');
  arena_free(&arena);
  buffer_free(&many);
  return status;
}

struct seen {
  int heads, ends;
  size_t headers, body;
};

static bool on_head(void *context, const char *method, const char *target, int status, uint64_t length, bool keep_alive,
                    bool expect) {
  ((struct seen *)context)->heads++;
  return true;
}
static void on_header(void *context, const char *name, size_t name_size, const char *value, size_t value_size) {
  assert_int_equal(strlen(name), name_size);
  assert_int_equal(strlen(value), value_size);
  ((struct seen *)context)->headers++;
}
static bool on_body(void *context, const uint8_t *data, size_t size) {
  ((struct seen *)context)->body += size;
  return true;
}
static bool on_end(void *context) {
  ((struct seen *)context)->ends++;
  return true;
}

/* Byte by byte, so that everything has to be kept by the codec. */
static mu_status parse_http(void *context) {
  static const struct http1_events events = {.head = on_head, .header = on_header, .body = on_body, .end = on_end};
  char text[4096];
  int n = snprintf(text, sizeof text,
                   "POST /v2/models/m/infer?%0600d HTTP/1.1\r\nHost: a\r\nLong: %0900d\r\nContent-Length: 3\r\n\r\nabc"
                   "POST /next HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n"
                   "Trailer: %0500d\r\n\r\n",
                   1, 2, 3);
  struct seen seen = {0};
  struct http1_codec *codec = http1_codec_create(false, &events, &seen, 1 << 16);
  if (codec == NULL) return MU_NO_MEMORY;
  mu_status status = MU_OK;
  int http_status = 0;
  mu_error err = {""};
  for (int i = 0; i < n && status == MU_OK; i++) {
    size_t used;
    status = http1_codec_feed(codec, (const uint8_t *)&text[i], 1, &used, &http_status, &err);
  }
  if (status == MU_OK) {
    assert_int_equal(seen.heads, 2);
    assert_int_equal(seen.ends, 2);
    assert_int_equal(seen.body, 8);
  } else {
    size_t used;
    assert_int_equal(http_status, 503);
    assert_true(err.message[0] != '\0' && seen.heads <= 2 && seen.ends <= 1);
    allocations_work(); /* the error stays: half a head was lost */
    assert_int_equal(http1_codec_feed(codec, (const uint8_t *)"x", 1, &used, &http_status, &err), status);
  }
  http1_codec_free(codec);
  return status;
}

static mu_status write_json(void *context) {
  struct buffer out;
  buffer_init(&out, 1 << 20);
  float data[400];
  for (int i = 0; i < 400; i++) data[i] = (float)i / 7;
  mu_error err = {""};
  mu_status status = json_write_tensor(&out, MU_FP32, (const uint8_t *)data, sizeof data, 400, &err);
  if (status == MU_OK) status = json_write_string(&out, "a\"b\xff", 4);
  if (status == MU_OK) {
    struct json_text text = {.text = "\\u00e9\\n", .size = 8, .escaped = true};
    status = json_unescape(&text, &out);
  }
  assert_int_equal(out.failed, status != MU_OK);
  buffer_free(&out);
  return status;
}

static void test_pbtext(void **state) { fail_each_allocation("pbtext", parse_pbtext, NULL); }
static void test_http(void **state) { fail_each_allocation("http1 codec", parse_http, NULL); }
static void test_json(void **state) { fail_each_allocation("json writing", write_json, NULL); }

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_pbtext), cmocka_unit_test(test_http),
                                     cmocka_unit_test(test_json)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
