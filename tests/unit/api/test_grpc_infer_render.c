/* Replies, read back by protobuf-c. */
#include "api/grpc_infer.h"
#include "proto/grpc/grpc_message.h"

#include "infer_attempt.h"

#include <grpc_service.pb-c.h>

static float scores[] = {0.5f, 0.25f, 2, 3, 1, -1};
static uint8_t labels[] = {1, 0, 0, 0, 'a', 0, 0, 0, 0};

/* A reply as its client gets it: one message without its prefix. */
struct reply {
  struct buffer head;
  struct iovec iov[GRPC_INFER_IOV_MAX(8)];
  uint32_t n_iov;
  bool borrows;
  uint8_t *message;
  size_t size;
  mu_status status;
  mu_error err;
};

static void render(struct reply *r, const struct model *model, const struct request *request,
                   const struct infer_result *results, uint32_t n_results, enum grpc_reply_kind kind) {
  memset(r, 0, sizeof *r);
  buffer_init(&r->head, 1 << 20);
  uint64_t size = 0, sum = 0;
  r->status = grpc_infer_render(model, request, results, n_results, kind, &r->head, r->iov, &r->n_iov, &size,
                                &r->borrows, &r->err);
  if (r->status != MU_OK) return;
  assert_true(r->n_iov >= 1 && r->n_iov <= GRPC_INFER_IOV_MAX(request->n_outputs));
  for (uint32_t i = 0; i < r->n_iov; i++) sum += r->iov[i].iov_len;
  assert_int_equal(sum, size);
  uint8_t *bytes = malloc(size), prefix[GRPC_PREFIX_SIZE];
  assert_non_null(bytes);
  sum = 0;
  for (uint32_t i = 0; i < r->n_iov; i++) {
    assert_true(r->iov[i].iov_len > 0);
    memcpy(bytes + sum, r->iov[i].iov_base, r->iov[i].iov_len);
    sum += r->iov[i].iov_len;
  }
  grpc_prefix_write(prefix, false, (uint32_t)(size - GRPC_PREFIX_SIZE));
  assert_memory_equal(bytes, prefix, sizeof prefix);
  r->size = size - GRPC_PREFIX_SIZE;
  r->message = malloc(r->size);
  assert_non_null(r->message);
  memcpy(r->message, bytes + GRPC_PREFIX_SIZE, r->size);
  free(bytes);
}

static void reply_free(struct reply *r) {
  buffer_free(&r->head);
  free(r->message);
}

static void ask(struct request *request, uint32_t index, uint32_t classification) {
  struct request_output *output = request_add_output(request);
  assert_non_null(output);
  *output = (struct request_output){.index = index, .binary = true, .classification = classification};
}

static void make(struct sample_model *s, struct request *request, struct infer_result *results) {
  make_batched(s);
  memset(request, 0, sizeof *request);
  request->rows = 2;
  snprintf(request->id, sizeof request->id, "the id");
  results[0] = (struct infer_result){0, {MU_FP32, 2, {2, 3}, scores, sizeof scores}};
  results[1] = (struct infer_result){1, {MU_BYTES, 2, {2, 1}, labels, sizeof labels}};
}

static void check_response(const Inference__ModelInferResponse *response) {
  assert_string_equal(response->model_name, "sample");
  assert_string_equal(response->model_version, "3");
  assert_string_equal(response->id, "the id");
}

static void check_output(const Inference__ModelInferResponse *response, size_t i, const char *name,
                         const char *datatype, int64_t rows, int64_t columns, const void *data, size_t size) {
  assert_true(i < response->n_outputs && i < response->n_raw_output_contents);
  const Inference__ModelInferResponse__InferOutputTensor *output = response->outputs[i];
  assert_string_equal(output->name, name);
  assert_string_equal(output->datatype, datatype);
  assert_int_equal(output->n_shape, 2);
  assert_int_equal(output->shape[0], rows);
  assert_int_equal(output->shape[1], columns);
  assert_null(output->contents);
  assert_int_equal(response->raw_output_contents[i].len, size);
  assert_memory_equal(response->raw_output_contents[i].data, data, size);
}

static void tensors_stay_where_they_are(void **state) {
  struct sample_model s;
  struct request request;
  struct infer_result results[2];
  make(&s, &request, results);
  ask(&request, 1, 0);
  ask(&request, 0, 0);
  struct reply r;
  render(&r, &s.model, &request, results, 2, GRPC_REPLY_UNARY);
  assert_int_equal(r.status, MU_OK);
  assert_true(r.borrows);
  assert_int_equal(r.n_iov, 4);
  assert_ptr_equal(r.iov[1].iov_base, labels);
  assert_ptr_equal(r.iov[3].iov_base, scores);
  Inference__ModelInferResponse *response = inference__model_infer_response__unpack(NULL, r.size, r.message);
  assert_non_null(response);
  check_response(response);
  assert_int_equal(response->n_outputs, 2);
  assert_int_equal(response->n_raw_output_contents, 2);
  assert_int_equal(response->n_parameters, 0);
  check_output(response, 0, "labels", "BYTES", 2, 1, labels, sizeof labels);
  check_output(response, 1, "scores", "FP32", 2, 3, scores, sizeof scores);
  inference__model_infer_response__free_unpacked(response, NULL);
  reply_free(&r);
  request_free(&request);
}

static void a_stream_wraps_it(void **state) {
  static float many[8 * 3];
  for (int rows = 1; rows <= 8; rows++) { /* lengths of one byte and of two */
    struct sample_model s;
    struct request request;
    struct infer_result results[2];
    make(&s, &request, results);
    results[0].tensor = (mu_tensor){MU_FP32, 2, {rows, 3}, many, (size_t)rows * 12};
    ask(&request, 0, 0);
    struct reply r;
    render(&r, &s.model, &request, results, 2, GRPC_REPLY_STREAM);
    assert_int_equal(r.status, MU_OK);
    Inference__ModelStreamInferResponse *stream =
        inference__model_stream_infer_response__unpack(NULL, r.size, r.message);
    assert_non_null(stream);
    assert_string_equal(stream->error_message, "");
    const Inference__ModelInferResponse *response = stream->infer_response;
    assert_non_null(response);
    check_response(response);
    check_output(response, 0, "scores", "FP32", rows, 3, many, (size_t)rows * 12);
    assert_int_equal(response->n_parameters, 1);
    assert_string_equal(response->parameters[0]->key, "triton_final_response");
    assert_int_equal(response->parameters[0]->value->parameter_choice_case,
                     INFERENCE__INFER_PARAMETER__PARAMETER_CHOICE_BOOL_PARAM);
    assert_true(response->parameters[0]->value->bool_param);
    inference__model_stream_infer_response__free_unpacked(stream, NULL);
    reply_free(&r);
    request_free(&request);
  }
}

static void classes_are_texts(void **state) {
  static const char classes[] = "\12\0\0\0002.000000:2\12\0\0\0003.000000:0";
  struct sample_model s;
  struct request request;
  struct infer_result results[2];
  make(&s, &request, results);
  ask(&request, 0, 1);
  ask(&request, 1, 0);
  struct reply r;
  render(&r, &s.model, &request, results, 2, GRPC_REPLY_UNARY);
  assert_int_equal(r.status, MU_OK);
  Inference__ModelInferResponse *response = inference__model_infer_response__unpack(NULL, r.size, r.message);
  assert_non_null(response);
  check_output(response, 0, "scores", "BYTES", 2, 1, classes, sizeof classes - 1);
  check_output(response, 1, "labels", "BYTES", 2, 1, labels, sizeof labels);
  inference__model_infer_response__free_unpacked(response, NULL);
  reply_free(&r);
  request.n_outputs = 1; /* only classes: all of the reply is the head's */
  render(&r, &s.model, &request, results, 2, GRPC_REPLY_UNARY);
  assert_int_equal(r.status, MU_OK);
  assert_int_equal(r.n_iov, 1);
  assert_false(r.borrows);
  reply_free(&r);
  request_free(&request);
}

static void empty_outputs(void **state) {
  struct sample_model s;
  struct request request;
  struct infer_result results[2];
  make(&s, &request, results);
  results[0].tensor = (mu_tensor){MU_FP32, 2, {0, 3}, NULL, 0};
  results[1].tensor = (mu_tensor){MU_BYTES, 0, {0}, labels, 4};
  ask(&request, 0, 0);
  ask(&request, 1, 0);
  struct reply r;
  render(&r, &s.model, &request, results, 2, GRPC_REPLY_UNARY);
  assert_int_equal(r.status, MU_OK);
  Inference__ModelInferResponse *response = inference__model_infer_response__unpack(NULL, r.size, r.message);
  assert_non_null(response);
  check_output(response, 0, "scores", "FP32", 0, 3, "", 0);
  assert_int_equal(response->outputs[1]->n_shape, 0);
  assert_int_equal(response->raw_output_contents[1].len, 4);
  inference__model_infer_response__free_unpacked(response, NULL);
  reply_free(&r);
  request_free(&request);
}

static void an_output_in_shared_memory(void **state) {
  struct sample_model s;
  struct request request;
  struct infer_result results[2];
  make(&s, &request, results);
  ask(&request, 0, 0);
  ask(&request, 1, 0);
  struct request_share *share = request_add_share(&request);
  assert_non_null(share);
  memset(share->name, 'r', REQUEST_REGION_MAX); /* the longest that there is */
  for (int offset = 0; offset < 2; offset++) {
    request.outputs[0].share = 1;
    request.outputs[0].binary = false;
    request.shares[0].offset = offset == 0 ? 0 : UINT64_MAX;
    struct reply r;
    render(&r, &s.model, &request, results, 2, GRPC_REPLY_UNARY);
    assert_int_equal(r.status, MU_OK);
    Inference__ModelInferResponse *response = inference__model_infer_response__unpack(NULL, r.size, r.message);
    assert_non_null(response);
    check_output(response, 0, "scores", "FP32", 2, 3, "", 0);
    check_output(response, 1, "labels", "BYTES", 2, 1, labels, sizeof labels);
    const Inference__ModelInferResponse__InferOutputTensor *output = response->outputs[0];
    assert_int_equal(output->n_parameters, 2 + offset);
    assert_string_equal(output->parameters[0]->key, "shared_memory_region");
    assert_string_equal(output->parameters[0]->value->string_param, share->name);
    const Inference__ModelInferResponse__InferOutputTensor__ParametersEntry *last = output->parameters[1 + offset];
    assert_string_equal(last->key, "shared_memory_byte_size");
    assert_int_equal(last->value->int64_param, sizeof scores);
    inference__model_infer_response__free_unpacked(response, NULL);
    reply_free(&r);
  }
  request_free(&request);
}

static void what_cannot_be_rendered(void **state) {
  struct sample_model s;
  struct request request;
  struct infer_result results[2];
  struct reply r;
  make(&s, &request, results);
  ask(&request, 0, 0);
  render(&r, &s.model, &request, results + 1, 1, GRPC_REPLY_UNARY);
  assert_int_equal(r.status, MU_INTERNAL);
  assert_non_null(strstr(r.err.message, "output 'scores' was not produced"));
  reply_free(&r);
  results[0].tensor.size--;
  render(&r, &s.model, &request, results, 2, GRPC_REPLY_UNARY);
  assert_int_equal(r.status, MU_INTERNAL);
  reply_free(&r);
  results[0].tensor = (mu_tensor){MU_FP32, 2, {1 << 20, 512}, scores, (size_t)1 << 31}; /* never read */
  render(&r, &s.model, &request, results, 2, GRPC_REPLY_UNARY);
  assert_int_equal(r.status, MU_TOO_LARGE);
  reply_free(&r);
  results[0].tensor = (mu_tensor){MU_FP32, 2, {2, 3}, scores, sizeof scores};
  memset(&r, 0, sizeof r);
  buffer_init(&r.head, 20);
  uint64_t size;
  assert_int_equal(grpc_infer_render(&s.model, &request, results, 2, GRPC_REPLY_UNARY, &r.head, r.iov, &r.n_iov, &size,
                                     &r.borrows, &r.err),
                   MU_TOO_LARGE);
  reply_free(&r);
  request_free(&request);
}

static void errors_in_a_stream(void **state) {
  static const char *const ids[] = {"", "the id"};
  for (int i = 0; i < 2; i++) {
    struct buffer out;
    buffer_init(&out, 1024);
    assert_int_equal(grpc_infer_render_error(ids[i], "what went wrong", &out), MU_OK);
    Inference__ModelStreamInferResponse *stream = inference__model_stream_infer_response__unpack(
        NULL, out.size - GRPC_PREFIX_SIZE, (uint8_t *)out.data + GRPC_PREFIX_SIZE);
    assert_non_null(stream);
    assert_int_equal(out.data[4], out.size - GRPC_PREFIX_SIZE);
    assert_string_equal(stream->error_message, "what went wrong");
    assert_string_equal(stream->infer_response->id, ids[i]);
    inference__model_stream_infer_response__free_unpacked(stream, NULL);
    buffer_free(&out);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(tensors_stay_where_they_are), cmocka_unit_test(a_stream_wraps_it),
      cmocka_unit_test(classes_are_texts),           cmocka_unit_test(empty_outputs),
      cmocka_unit_test(an_output_in_shared_memory),  cmocka_unit_test(what_cannot_be_rendered),
      cmocka_unit_test(errors_in_a_stream),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
