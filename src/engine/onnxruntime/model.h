/* Inside of the ONNX Runtime engine: a loaded model and its instances. */
#ifndef ENGINE_ONNXRUNTIME_MODEL_H
#define ENGINE_ONNXRUNTIME_MODEL_H

#include <stdatomic.h>

#include "base/arena.h"
#include "base/buffer.h"
#include "engine/onnxruntime/session.h"

struct mu_engine_model {
  struct ort_library library;
  OrtSessionOptions *options;
  OrtSession *session;     /* of all instances, unless session_each */
  OrtMemoryInfo *cpu;      /* "memory of the CPU", for tensors over memory of others */
  OrtAllocator *allocator; /* ONNX Runtime's default one, never released */
  bool session_each;
  mu_model_info info;
  const char *path;
  const char *shrinkage;
  struct arena memory; /* of info, path and shrinkage */
};

struct mu_engine_instance {
  mu_engine_model *model;
  OrtSession *session; /* the model's, or its own */
  OrtRunOptions *options;
  _Atomic bool stopped; /* stop was called during the run in progress */
  /* Scratch of a run, by position in the call: as long as the model has inputs and outputs. */
  const char **input_names, **output_names;
  OrtValue **inputs;
  bool *given;            /* by the model's index of an input */
  OrtValue **outputs;     /* of the last run, kept for whoever reads results that the engine allocated */
  struct buffer *strings; /* the wire form of string outputs of the last run */
};

/* Fills model->info from model->session. MU_UNSUPPORTED: something that is no tensor of a type that muster carries. */
MUST_CHECK mu_status ort_model_info_read(mu_engine_model *model, const char *provider, mu_error *err);

MUST_CHECK mu_status ort_instance_create(mu_engine_model *model, mu_engine_instance **ret_instance, mu_error *err);
void ort_instance_free(mu_engine_instance *instance);
MUST_CHECK mu_status ort_instance_run(mu_engine_instance *instance, const mu_input *inputs, size_t n_inputs,
                                      mu_output *outputs, size_t n_outputs, mu_error *err);
void ort_instance_stop(mu_engine_instance *instance);

#endif
