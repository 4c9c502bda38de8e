/*
 * Any bytes as a backend's answer to an inference. The first byte chooses the protocol, whether a place is offered for
 * the outputs, and in which pieces the rest arrives; two bytes are the length of the JSON. Whatever is accepted must
 * fit what the model declares, to the byte.
 */
#include "engine/remote/remote_metadata.h"
#include "engine/remote/remote_reply.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool truth) {
  if (!truth) abort();
}

static char name_x[] = "x", name_y[] = "y", name_t[] = "t";
static const mu_tensor_info outputs_info[] = {
    {.name = name_x, .dtype = MU_FP32, .rank = 2, .dims = {-1, 2}},
    {.name = name_y, .dtype = MU_INT8, .rank = 1, .dims = {-1}},
    {.name = name_t, .dtype = MU_BYTES, .rank = 1, .dims = {-1}},
};
enum { N_OUTPUTS = sizeof outputs_info / sizeof *outputs_info, LIMIT = 1 << 16 };
static const mu_model_info info = {.outputs = outputs_info, .n_outputs = N_OUTPUTS};

static void check_outputs(const mu_output *outputs) {
  for (size_t i = 0; i < N_OUTPUTS; i++) {
    const mu_tensor *tensor = &outputs[i].tensor;
    uint64_t bytes;
    require(tensor->dtype == outputs_info[i].dtype && tensor->rank == outputs_info[i].rank);
    require(shape_size(tensor->dtype, tensor->dims, tensor->rank, NULL, &bytes) == MU_OK);
    require(tensor->dtype == MU_BYTES || bytes == tensor->size);
    volatile uint8_t sum = 0; /* all of it is there to be read */
    for (size_t k = 0; k < tensor->size; k++) sum = (uint8_t)(sum + ((const uint8_t *)tensor->data)[k]);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 3) return 0;
  const enum remote_protocol protocol = data[0] & 1 ? REMOTE_GRPC : REMOTE_HTTP;
  const size_t step = data[0] & 4 ? 1 : data[0] & 8 ? 7 : SIZE_MAX;
  const int64_t head_size = data[0] & 16 ? -1 : data[1] | data[2] << 8;
  float place[4];
  mu_output outputs[N_OUTPUTS] = {{.index = 0}, {.index = 1}, {.index = 2}};
  if (data[0] & 2) outputs[0].tensor = (mu_tensor){MU_FP32, 2, {2, 2}, place, sizeof place};
  const char *text = (const char *)data + 3;
  size -= 3;

  struct remote_results results;
  struct remote_reply reply;
  struct remote_metadata metadata;
  mu_error err;
  require(remote_results_create(&results, &info, LIMIT, &err) == MU_OK);
  remote_reply_init(&reply, &results, protocol);
  require(remote_results_start(&results, outputs, N_OUTPUTS, &err) == MU_OK);
  mu_status status = remote_reply_start(&reply, protocol == REMOTE_HTTP ? head_size : -1, &err);
  for (size_t at = 0, n; status == MU_OK && at < size; at += n) {
    n = size - at < step ? size - at : step;
    status = remote_reply_take(&reply, text + at, n, &err);
  }
  if (status == MU_OK) status = remote_reply_finish(&reply, &err);
  if (status == MU_OK) check_outputs(outputs);
  remote_reply_free(&reply);
  remote_results_free(&results);

  if (remote_metadata_parse(protocol, text, size, &metadata, &err) == MU_OK) {
    require(remote_metadata_compare(&metadata, &metadata, &err) == MU_OK);
    remote_metadata_free(&metadata);
  }
  (void)remote_metadata_max_batch(protocol, text, size);
  return 0;
}
