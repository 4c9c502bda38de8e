#include "request/request.h"

#include <stdlib.h>
#include <string.h>

void request_clear(struct request *request) {
  struct request_input *inputs = request->inputs;
  struct request_output *outputs = request->outputs;
  struct request_share *shares = request->shares;
  uint32_t inputs_capacity = request->inputs_capacity, outputs_capacity = request->outputs_capacity;
  uint32_t shares_capacity = request->shares_capacity;
  *request = (struct request){.inputs = inputs,
                              .inputs_capacity = inputs_capacity,
                              .outputs = outputs,
                              .outputs_capacity = outputs_capacity,
                              .shares = shares,
                              .shares_capacity = shares_capacity};
}

void request_free(struct request *request) {
  free(request->inputs);
  free(request->outputs);
  free(request->shares);
  *request = (struct request){0};
}

/* Room for one more of `size` bytes in *array, doubling. */
static void *grow(void **array, uint32_t n, uint32_t *capacity, size_t size) {
  if (n == *capacity) {
    uint32_t wanted = *capacity == 0 ? 4 : *capacity * 2;
    void *bigger = reallocarray(*array, wanted, size);
    if (bigger == NULL) return NULL;
    *array = bigger;
    *capacity = wanted;
  }
  return memset((char *)*array + (size_t)n * size, 0, size);
}

struct request_input *request_add_input(struct request *request) {
  struct request_input *input =
      grow((void **)&request->inputs, request->n_inputs, &request->inputs_capacity, sizeof *request->inputs);
  if (input != NULL) request->n_inputs++;
  return input;
}

struct request_output *request_add_output(struct request *request) {
  struct request_output *output =
      grow((void **)&request->outputs, request->n_outputs, &request->outputs_capacity, sizeof *request->outputs);
  if (output != NULL) request->n_outputs++;
  return output;
}

struct request_share *request_add_share(struct request *request) {
  struct request_share *share =
      grow((void **)&request->shares, request->n_shares, &request->shares_capacity, sizeof *request->shares);
  if (share != NULL) request->n_shares++;
  return share;
}
