/* Models made by hand for the tests of api/: no worker, no file. All memory is static or the test's own. */
#ifndef TESTS_API_SAMPLE_MODEL_H
#define TESTS_API_SAMPLE_MODEL_H

#include "model/model.h"

#include <stdio.h>

enum { SAMPLE_TENSORS = 16 };

struct sample_model {
  struct model model;
  struct model_config config;
  struct model_metadata metadata;
  struct model_tensor inputs[SAMPLE_TENSORS], outputs[SAMPLE_TENSORS];
  struct model_tensor_config output_configs[SAMPLE_TENSORS];
  char names[2 * SAMPLE_TENSORS][32];
};

static inline void sample_init(struct sample_model *s, uint32_t max_batch) {
  *s = (struct sample_model){
      .model = {.name = (char *)(uintptr_t) "sample", .version = 3, .state = MODEL_READY},
      .metadata = {.max_batch = max_batch, .batch_note = "", .runtime = "test", .platform = "onnxruntime_onnx"},
  };
  s->config.outputs = s->output_configs;
  s->metadata.inputs = s->inputs;
  s->metadata.outputs = s->outputs;
  s->model.config = &s->config;
  s->model.metadata = &s->metadata;
}

static inline struct model_tensor *sample_fill(struct model_tensor *tensor, char *name_room, const char *name,
                                               mu_dtype dtype, uint32_t rank, const int64_t *dims) {
  snprintf(name_room, 32, "%s", name);
  tensor->info.name = name_room;
  tensor->info.dtype = dtype;
  tensor->info.rank = tensor->rank = rank;
  for (uint32_t i = 0; i < rank; i++) tensor->info.dims[i] = tensor->dims[i] = dims[i];
  tensor->served = true;
  return tensor;
}

#define DIMS(...) \
  (uint32_t)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) { __VA_ARGS__ }

static inline struct model_tensor *sample_input(struct sample_model *s, const char *name, mu_dtype dtype, uint32_t rank,
                                                const int64_t *dims) {
  const uint32_t i = s->metadata.n_inputs++;
  return sample_fill(&s->inputs[i], s->names[i], name, dtype, rank, dims);
}

static inline struct model_tensor *sample_output(struct sample_model *s, const char *name, mu_dtype dtype,
                                                 uint32_t rank, const int64_t *dims) {
  const uint32_t i = s->metadata.n_outputs++;
  s->output_configs[i].name = s->names[SAMPLE_TENSORS + i];
  s->config.n_outputs = s->metadata.n_outputs;
  return sample_fill(&s->outputs[i], s->names[SAMPLE_TENSORS + i], name, dtype, rank, dims);
}

#endif
