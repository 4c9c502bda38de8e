/*
 * ONNX models by ONNX Runtime, whose library is opened at run time, so that one muster serves with the CPU and the GPU
 * builds of it. What it takes from config.pbtxt: docs/engine-onnxruntime.md.
 */
#ifndef ENGINE_ONNXRUNTIME_ONNXRUNTIME_H
#define ENGINE_ONNXRUNTIME_ONNXRUNTIME_H

#include <stdbool.h>

#include <muster/muster.h>

extern const mu_engine engine_onnxruntime;

/* Where to find the library: a parameter of mu_model_spec (option --onnxruntime-library). Absent: searched. */
#define ONNXRUNTIME_LIBRARY_PARAMETER "muster.onnxruntime_library"

/* Whether the library that would be opened has its CUDA provider beside it. Looks at files only; library as in the
 * option. One that only the system's loader would find is not looked for. */
bool engine_onnxruntime_has_cuda(const char *library);

#endif
