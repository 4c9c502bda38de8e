/* An inference request as the gateway takes it in: from its text to its inputs' bytes. */
#ifndef TESTS_API_INFER_ATTEMPT_H
#define TESTS_API_INFER_ATTEMPT_H

#include "api/rest_infer.h"

#include "sample_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* One call from the text to the inputs' bytes, every piece of memory of exactly its size. */
struct attempt {
  struct request request;
  uint8_t *data[SAMPLE_TENSORS];
  mu_error err;
  mu_status status;
};

static inline void attempt_memory(struct attempt *a) {
  for (uint32_t i = 0; i < a->request.n_inputs; i++) {
    struct request_input *input = &a->request.inputs[i];
    input->data = a->data[i] = malloc(input->size > 0 ? input->size : 1);
    assert_non_null(input->data);
  }
}

static inline void attempt_run(struct attempt *a, const struct model *model, const char *json, size_t size,
                               const void *binary, size_t binary_size) {
  memset(a, 0, sizeof *a);
  char *copy = malloc(size > 0 ? size : 1);
  assert_non_null(copy);
  memcpy(copy, json, size);
  a->status = rest_infer_parse(model, copy, size, binary_size, &a->request, &a->err);
  if (a->status == MU_OK) {
    attempt_memory(a);
    a->status = rest_infer_read_json(model, copy, size, &a->request, &a->err);
  }
  if (a->status == MU_OK) {
    for (uint32_t i = 0; i < a->request.n_inputs; i++) {
      struct request_input *input = &a->request.inputs[i];
      if (input->source != INPUT_BINARY) continue;
      assert_true(input->source_at + input->source_size <= binary_size);
      assert_int_equal(rest_infer_binary_start(input), 0);
      memcpy(input->data, (const char *)binary + input->source_at, input->source_size);
    }
    a->status = rest_infer_check_binary(model, &a->request, &a->err);
  }
  free(copy);
}

static inline void attempt_free(struct attempt *a) {
  for (int i = 0; i < SAMPLE_TENSORS; i++) free(a->data[i]);
  request_free(&a->request);
}

static inline void run(struct attempt *a, const struct model *model, const char *json) {
  attempt_run(a, model, json, strlen(json), NULL, 0);
}

static inline void run_ok(struct attempt *a, const struct model *model, const char *json) {
  run(a, model, json);
  if (a->status != MU_OK) fail_msg("%s: %s", json, a->err.message);
}

/* A model that batches up to 8 rows: "bytes" INT32 [-1,4], optional "mask" BOOL [-1,-1]; outputs "scores", "labels". */
static inline void make_batched(struct sample_model *s) {
  sample_init(s, 8);
  sample_input(s, "bytes", MU_INT32, DIMS(-1, 4));
  sample_input(s, "mask", MU_BOOL, DIMS(-1, -1))->info.optional = true;
  sample_output(s, "scores", MU_FP32, DIMS(-1, 3));
  sample_output(s, "labels", MU_BYTES, DIMS(-1, 1));
  sample_output(s, "hidden", MU_FP32, DIMS(-1, 1))->served = false;
}

/* An input's object with everything right but what the case changes. */
#define INPUT(rest) "{\"inputs\":[{\"name\":\"bytes\",\"datatype\":\"INT32\"," rest "}]}"
#define GOOD "{\"name\":\"bytes\",\"datatype\":\"INT32\",\"shape\":[1,4],\"data\":[1,2,3,4]}"
#define OUTPUTS(rest) "{\"inputs\":[" GOOD "],\"outputs\":" rest "}"
#define PARAMETERS(rest) "{\"inputs\":[" GOOD "],\"parameters\":" rest "}"

#endif
