/*
 * How a session of ONNX Runtime is set up for a model: threads, memory, optimisation, and what config.pbtxt's
 * `parameters` say of them. docs/engine-onnxruntime.md lists them.
 */
#ifndef ENGINE_ONNXRUNTIME_SESSION_H
#define ENGINE_ONNXRUNTIME_SESSION_H

#include "engine/onnxruntime/provider.h"

/* New options for spec, providers included. MU_INVALID: a parameter's value is none; and as ort_provider_append. */
MUST_CHECK mu_status ort_session_options_create(const struct ort_library *library, const mu_model_spec *spec,
                                                OrtSessionOptions **ret_options, struct provider_choice *ret_choice,
                                                mu_error *err);

/* The parameter that makes runs give memory of the arenas back: "cpu:0". */
#define SESSION_SHRINKAGE_PARAMETER "memory.enable_memory_arena_shrinkage"

/* New options for the runs of one instance. shrinkage: the value of that parameter, NULL: none. */
MUST_CHECK mu_status ort_run_options_create(const struct ort_library *library, const char *shrinkage,
                                            OrtRunOptions **ret_options, mu_error *err);

#endif
