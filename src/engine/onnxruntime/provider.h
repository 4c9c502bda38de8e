/*
 * The device of a session: which execution providers of ONNX Runtime it gets, with which options. A device that is
 * asked for and cannot be had is an error, never another device.
 */
#ifndef ENGINE_ONNXRUNTIME_PROVIDER_H
#define ENGINE_ONNXRUNTIME_PROVIDER_H

#include "engine/onnxruntime/library.h"

struct provider_choice {
  const char *name;  /* "CUDAExecutionProvider": the first in line; for mu_model_info.runtime */
  bool session_each; /* a session must not run twice at a time: each instance needs one of its own */
};

/*
 * Appends the providers for spec->device ("cpu", "gpu:INDEX", "gpu:UUID") to options. Reads these parameters of spec:
 *   gpu_mem_limit, arena_extend_strategy, cudnn_conv_algo_search, do_copy_in_default_stream  as in Triton's config
 *   muster.cuda.KEY       option KEY of the CUDA provider
 *   muster.tensorrt       present: TensorRT before CUDA
 *   muster.tensorrt.KEY   its option KEY, in Triton's or in ONNX Runtime's spelling
 * MU_INVALID: no such device name; MU_UNSUPPORTED: the library has not that provider; MU_IO, MU_INTERNAL: driver or
 * CUDA libraries are missing, the GPU does not answer.
 */
MUST_CHECK mu_status ort_provider_append(const struct ort_library *library, const mu_model_spec *spec,
                                         OrtSessionOptions *options, struct provider_choice *ret_choice, mu_error *err);

#endif
