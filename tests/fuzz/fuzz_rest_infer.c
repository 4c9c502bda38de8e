/*
 * Any bytes as an inference request: two bytes of JSON length (0: a raw body), the JSON, the binary part. A request
 * that is accepted must have inputs that its memory holds, and its echo must be a reply that is JSON again.
 */
#include "api/rest_infer.h"
#include "proto/json/json_reader.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool truth) {
  if (!truth) abort();
}

enum { TENSORS = 3, MAX_BATCH = 4, INPUT_LIMIT = 1 << 20 };

/* Inputs and outputs alike: a number that may be reshaped, text, and an optional flag. */
static const struct model_tensor tensors[TENSORS] = {
    {.info = {.name = (char *)(uintptr_t) "real", .dtype = MU_FP32, .rank = 3, .dims = {-1, 2, 2}},
     .rank = 2,
     .dims = {-1, 4},
     .reshaped = true,
     .served = true},
    {.info = {.name = (char *)(uintptr_t) "text", .dtype = MU_BYTES, .rank = 2, .dims = {-1, -1}, .optional = true},
     .rank = 2,
     .dims = {-1, -1},
     .served = true},
    {.info = {.name = (char *)(uintptr_t) "flag", .dtype = MU_BOOL, .rank = 1, .dims = {-1}, .optional = true},
     .rank = 1,
     .dims = {-1},
     .served = true},
};

static mu_status receive(const struct model *model, const uint8_t *data, size_t json_size, size_t binary_size,
                         struct request *request, uint8_t **memory) {
  const char *json = (const char *)data;
  const uint8_t *binary = data + json_size;
  mu_error err;
  mu_status status = json_size == 0 ? rest_infer_raw(model, binary_size, request, &err)
                                    : rest_infer_parse(model, json, json_size, binary_size, request, &err);
  if (status != MU_OK) return status;
  for (uint32_t i = 0; i < request->n_inputs; i++) {
    struct request_input *input = &request->inputs[i];
    if (input->size > INPUT_LIMIT) return MU_TOO_LARGE;
    input->data = memory[i] = malloc(input->size > 0 ? input->size : 1);
    require(input->data != NULL);
    if (input->source == INPUT_SHARED) {
      require(input->share > 0 && input->share <= request->n_shares);
      require(request->shares[input->share - 1].byte_size == input->size);
      memset(input->data, 0, input->size);
    }
    if (input->source != INPUT_BINARY) continue;
    require(input->source_at + input->source_size <= binary_size);
    const uint64_t start = rest_infer_binary_start(input);
    require(start + input->source_size == input->size);
    if (input->source_size > 0) memcpy(input->data + start, binary + input->source_at, input->source_size);
  }
  status = rest_infer_read_json(model, json, json_size, request, &err);
  return status == MU_OK ? rest_infer_check_binary(model, request, &err) : status;
}

static void echo(const struct model *model, const struct request *request) {
  struct infer_result results[TENSORS];
  for (uint32_t i = 0; i < request->n_inputs; i++) {
    const struct request_input *input = &request->inputs[i];
    results[i].index = input->index;
    results[i].tensor =
        (mu_tensor){.dtype = input->dtype, .rank = input->rank, .data = input->data, .size = input->size};
    memcpy(results[i].tensor.dims, input->dims, sizeof input->dims);
  }
  struct buffer json;
  struct iovec binary[TENSORS];
  uint32_t n_binary;
  mu_error err;
  buffer_init(&json, SIZE_MAX / 2);
  if (rest_infer_render(model, request, results, request->n_inputs, &json, binary, &n_binary, &err) == MU_OK) {
    require(n_binary <= request->n_outputs);
    struct json_reader reader;
    json_reader_init(&reader, json.data, json.size);
    require(json_skip(&reader) && json_finish(&reader, &err) == MU_OK);
  }
  buffer_free(&json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2) return 0;
  size_t json_size = (size_t)data[0] | (size_t)data[1] << 8;
  if (json_size > size - 2) json_size = size - 2;
  struct model_tensor inputs[TENSORS], outputs[TENSORS];
  memcpy(inputs, tensors, sizeof inputs);
  memcpy(outputs, tensors, sizeof outputs);
  struct model_metadata metadata = {
      .inputs = inputs, .outputs = outputs, .n_inputs = TENSORS, .n_outputs = TENSORS, .max_batch = MAX_BATCH};
  if (json_size == 0) metadata.n_inputs = 1;
  struct model_config config = {0};
  const struct model model = {
      .name = (char *)(uintptr_t) "fuzzed", .version = 1, .config = &config, .metadata = &metadata};
  struct request request = {0};
  uint8_t *memory[TENSORS] = {NULL};
  if (receive(&model, data + 2, json_size, size - 2 - json_size, &request, memory) == MU_OK) echo(&model, &request);
  for (int i = 0; i < TENSORS; i++) free(memory[i]);
  request_free(&request);
  return 0;
}
