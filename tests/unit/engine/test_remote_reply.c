#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "engine/remote/remote_body.h"
#include "engine/remote/remote_reply.h"
#include "proto/grpc/grpc_message.h"
#include "proto/protobuf/wire.h"

static char in_name[] = "i\"n", text_name[] = "texts", out_name[] = "out";
static const mu_tensor_info inputs[] = {{.name = in_name, .dtype = MU_INT16, .rank = 2, .dims = {-1, 2}},
                                        {.name = text_name, .dtype = MU_BYTES, .rank = 1, .dims = {-1}}};
static const mu_tensor_info outputs[] = {{.name = out_name, .dtype = MU_INT16, .rank = 2, .dims = {-1, 2}},
                                         {.name = text_name, .dtype = MU_BYTES, .rank = 1, .dims = {-1}}};
static const mu_model_info info = {.inputs = inputs, .n_inputs = 2, .outputs = outputs, .n_outputs = 2};

static int16_t numbers[] = {1, -2, 3, 4};
static char texts[] = "\2\0\0\0ab\0\0\0\0";

/* All that the body is, read in steps of `step`. */
static size_t read_body(struct remote_body *body, size_t step, char *to, size_t room) {
  size_t at = 0, n;
  while ((n = remote_body_read(body, to + at, step < room - at ? step : room - at)) > 0) at += n;
  return at;
}

static size_t write_body(const struct remote_settings *settings, struct remote_body *body, char *bytes, size_t room) {
  const mu_input run_inputs[] = {{0, {MU_INT16, 2, {2, 2}, numbers, sizeof numbers}},
                                 {1, {MU_BYTES, 1, {2}, texts, sizeof texts - 1}}};
  const mu_output run_outputs[] = {{.index = 0}, {.index = 1}};
  char again[1024];
  mu_error err;
  assert_int_equal(remote_body_write(body, settings, &info, run_inputs, 2, run_outputs, 2, &err), MU_OK);
  size_t size = read_body(body, room, bytes, room);
  assert_int_equal(size, body->size);
  for (size_t from = 0; from <= size; from++) { /* sent once more, from anywhere and in small pieces */
    assert_true(remote_body_seek(body, from));
    assert_int_equal(read_body(body, 3, again, sizeof again), size - from);
    assert_memory_equal(again, bytes + from, size - from);
  }
  assert_false(remote_body_seek(body, size + 1));
  return size;
}

static void test_writes_rest(void **state) {
  static const char json[] =
      "{\"inputs\":[{\"name\":\"i\\\"n\",\"datatype\":\"INT16\",\"shape\":[2,2],\"parameters\":{\"binary_data_size\":8}"
      "},"
      "{\"name\":\"texts\",\"datatype\":\"BYTES\",\"shape\":[2],\"parameters\":{\"binary_data_size\":10}}],"
      "\"outputs\":[{\"name\":\"out\",\"parameters\":{\"binary_data\":true}},"
      "{\"name\":\"texts\",\"parameters\":{\"binary_data\":true}}]}";
  const struct remote_settings settings = {.protocol = REMOTE_HTTP, .model = "m"};
  struct remote_body body;
  char bytes[1024];
  remote_body_init(&body);
  size_t size = write_body(&settings, &body, bytes, sizeof bytes);
  assert_int_equal(body.head_size, sizeof json - 1);
  assert_memory_equal(bytes, json, sizeof json - 1);
  assert_int_equal(size, sizeof json - 1 + sizeof numbers + sizeof texts - 1);
  assert_memory_equal(bytes + body.head_size, numbers, sizeof numbers);
  remote_body_free(&body);
}

static void test_writes_grpc(void **state) {
  const struct remote_settings settings = {.protocol = REMOTE_GRPC, .model = "m", .version = "3"};
  struct remote_body body;
  struct pb_reader reader;
  struct pb_field field;
  char bytes[1024];
  size_t n_inputs = 0, n_raw = 0;
  remote_body_init(&body);
  size_t size = write_body(&settings, &body, bytes, sizeof bytes);
  assert_int_equal((uint8_t)bytes[4] | (uint8_t)bytes[3] << 8, size - GRPC_PREFIX_SIZE);
  pb_reader_init(&reader, bytes + GRPC_PREFIX_SIZE, size - GRPC_PREFIX_SIZE);
  while (pb_next(&reader, &field)) {
    if (field.number == 2) assert_memory_equal(field.bytes, "3", 1);
    n_inputs += field.number == 5;
    if (field.number == 7 && n_raw++ == 0) assert_memory_equal(field.bytes, numbers, sizeof numbers);
  }
  assert_null(reader.wrong);
  assert_int_equal(n_inputs, 2);
  assert_int_equal(n_raw, 2);
  remote_body_free(&body);
}

/* ---- replies ----------------------------------------------------------------------------------------------------- */

struct reading {
  struct remote_results results;
  struct remote_reply reply;
  mu_output outputs[2];
  int16_t place[4]; /* offered for the first output when it has the shape [2,2] */
  mu_error err;
};

static mu_status read_reply(struct reading *r, enum remote_protocol protocol, int64_t head, const void *bytes,
                            size_t size, size_t step) {
  memset(r, 0, sizeof *r);
  r->outputs[0] = (mu_output){0, {MU_INT16, 2, {2, 2}, r->place, sizeof r->place}};
  r->outputs[1].index = 1;
  assert_int_equal(remote_results_create(&r->results, &info, 1 << 20, &r->err), MU_OK);
  remote_reply_init(&r->reply, &r->results, protocol);
  assert_int_equal(remote_results_start(&r->results, r->outputs, 2, &r->err), MU_OK);
  mu_status status = remote_reply_start(&r->reply, head, &r->err);
  for (size_t at = 0, n; status == MU_OK && at < size; at += n) {
    n = size - at < step ? size - at : step;
    status = remote_reply_take(&r->reply, (const char *)bytes + at, n, &r->err);
  }
  return status == MU_OK ? remote_reply_finish(&r->reply, &r->err) : status;
}

static void end_reading(struct reading *r) {
  remote_reply_free(&r->reply);
  remote_results_free(&r->results);
}

static void check_good(struct reading *r) {
  assert_int_equal(r->outputs[0].tensor.size, sizeof numbers);
  assert_memory_equal(r->outputs[0].tensor.data, numbers, sizeof numbers);
  assert_int_equal(r->outputs[1].tensor.size, sizeof texts - 1);
  assert_memory_equal(r->outputs[1].tensor.data, texts, sizeof texts - 1);
}

static void test_reads_binary_rest(void **state) {
  static const char head[] =
      "{\"outputs\":[{\"name\":\"texts\",\"datatype\":\"BYTES\",\"shape\":[2],\"parameters\":{\"binary_data_size\":10}}"
      ","
      "{\"shape\":[2,2],\"datatype\":\"INT16\",\"name\":\"out\",\"parameters\":{\"binary_data_size\":8}}]}";
  char bytes[sizeof head + 32];
  size_t size = sizeof head - 1;
  memcpy(bytes, head, size);
  memcpy(bytes + size, texts, sizeof texts - 1);
  memcpy(bytes + size + sizeof texts - 1, numbers, sizeof numbers);
  size += sizeof texts - 1 + sizeof numbers;
  struct reading r;
  for (size_t step = 1; step <= size; step++) {
    assert_int_equal(read_reply(&r, REMOTE_HTTP, sizeof head - 1, bytes, size, step), MU_OK);
    check_good(&r);
    assert_ptr_equal(r.outputs[0].tensor.data, r.place); /* written in place */
    end_reading(&r);
  }
  for (size_t cut = 0; cut < size;
       cut++) { /* every reply that ends too early is refused, and leaves the outputs alone */
    assert_int_equal(read_reply(&r, REMOTE_HTTP, sizeof head - 1, bytes, cut, cut + 1), MU_INTERNAL);
    assert_null(r.outputs[1].tensor.data);
    end_reading(&r);
  }
}

static void test_reads_json(void **state) {
  static const char json[] =
      "{\"outputs\":[{\"name\":\"out\",\"datatype\":\"INT16\",\"shape\":[2,2],\"data\":[[1,-2],[3,4]]},"
      "{\"name\":\"texts\",\"datatype\":\"BYTES\",\"shape\":[2],\"data\":[\"ab\",\"\"]}]}";
  struct reading r;
  assert_int_equal(read_reply(&r, REMOTE_HTTP, -1, json, sizeof json - 1, 5), MU_OK);
  check_good(&r);
  end_reading(&r);
}

/* A shape that nobody offered memory for is no failure. */
static void test_takes_another_shape(void **state) {
  static const char json[] =
      "{\"outputs\":[{\"name\":\"out\",\"datatype\":\"INT16\",\"shape\":[1,2],\"data\":[7,8]},"
      "{\"name\":\"texts\",\"datatype\":\"BYTES\",\"shape\":[0],\"data\":[]}]}";
  struct reading r;
  assert_int_equal(read_reply(&r, REMOTE_HTTP, -1, json, sizeof json - 1, SIZE_MAX), MU_OK);
  assert_ptr_not_equal(r.outputs[0].tensor.data, r.place);
  assert_int_equal(r.outputs[0].tensor.dims[0], 1);
  assert_int_equal(((int16_t *)r.outputs[0].tensor.data)[1], 8);
  end_reading(&r);
}

/* ---- gRPC -------------------------------------------------------------------------------------------------------- */

static void put_output(struct buffer *out, const char *name, const char *dtype, const int64_t *dims, size_t rank,
                       bool typed) {
  size_t field = pb_open(out, 5);
  pb_put_text_field(out, 1, name);
  pb_put_text_field(out, 2, dtype);
  for (size_t d = 0; d < rank; d++) { /* not packed, which is as good */
    pb_put_tag(out, 3, PB_VARINT);
    pb_put_varint(out, (uint64_t)dims[d]);
  }
  size_t contents = typed ? pb_open(out, 5) : 0;
  if (typed && dtype[0] == 'I') {
    size_t packed = pb_open(out, 2);
    for (size_t i = 0; i < 4; i++) pb_put_varint(out, (uint64_t)(int64_t)numbers[i]);
    pb_close(out, packed);
  } else if (typed) {
    pb_put_bytes(out, 8, "ab", 2);
    pb_put_bytes(out, 8, "", 0);
  }
  if (typed) pb_close(out, contents);
  pb_close(out, field);
}

static void test_reads_grpc(void **state) {
  const int64_t square[] = {2, 2}, two[] = {2};
  for (int typed = 0; typed < 2; typed++) {
    struct buffer out;
    struct reading r;
    const char prefix[GRPC_PREFIX_SIZE] = {0};
    buffer_init(&out, 4096);
    buffer_append(&out, prefix, sizeof prefix);
    put_output(&out, "out", "INT16", square, 2, typed);
    put_output(&out, "texts", "BYTES", two, 1, typed);
    if (!typed) pb_put_bytes(&out, 6, numbers, sizeof numbers);
    if (!typed) pb_put_bytes(&out, 6, texts, sizeof texts - 1);
    grpc_prefix_write((uint8_t *)out.data, false, (uint32_t)(out.size - GRPC_PREFIX_SIZE));
    assert_int_equal(read_reply(&r, REMOTE_GRPC, -1, out.data, out.size, 4), MU_OK);
    check_good(&r);
    end_reading(&r);
    for (size_t cut = 0; cut < out.size; cut++) {
      assert_int_equal(read_reply(&r, REMOTE_GRPC, -1, out.data, cut, cut + 1), MU_INTERNAL);
      end_reading(&r);
    }
    buffer_free(&out);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_writes_rest),         cmocka_unit_test(test_writes_grpc),
      cmocka_unit_test(test_reads_binary_rest),   cmocka_unit_test(test_reads_json),
      cmocka_unit_test(test_takes_another_shape), cmocka_unit_test(test_reads_grpc),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
