/* ModelInferRequest to struct request. */
#include "grpc_request.h"

static void raw_contents_of_a_whole_message(void **state) {
  struct sample_model s;
  make_batched(&s);
  struct buffer m = wire_new();
  wire_text(&m, 1, "sample");
  wire_text(&m, 3, "request 7");
  wire_add_input(&m, "mask", "BOOL", DIMS(2, 3));
  wire_add_input(&m, "bytes", "INT32", DIMS(2, 4));
  static const uint8_t mask[] = {0, 1, 0, 1, 1, 1};
  static const int32_t bytes[] = {1, 2, 3, 4, 5, 6, 7, -8};
  pb_put_bytes(&m, 7, mask, sizeof mask);
  pb_put_bytes(&m, 7, bytes, sizeof bytes);
  struct attempt a;
  grpc_attempt_whole(&a, &s.model, m.data, m.size);
  if (a.status != MU_OK) fail_msg("%s", a.err.message);
  assert_string_equal(a.request.id, "request 7");
  assert_int_equal(a.request.rows, 2);
  assert_int_equal(a.request.n_inputs, 2);
  assert_int_equal(a.request.inputs[0].index, 0);
  assert_memory_equal(a.data[0], bytes, sizeof bytes);
  assert_memory_equal(a.data[1], mask, sizeof mask);
  assert_int_equal(a.request.n_outputs, 2);
  assert_int_equal(a.request.binary_bytes, sizeof mask + sizeof bytes);
  attempt_free(&a);
  buffer_free(&m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(raw_contents_of_a_whole_message),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
