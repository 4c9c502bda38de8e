/*
 * The engines that are built in, by name. An engine itself is a table of functions (struct mu_engine of
 * include/muster/muster.h); here is only which there are. Supervisor (to check a name) and worker (to load a model).
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/status.h"

struct engine_entry {
  const mu_engine *engine;
  const char *extension; /* of the model files that `auto` gives to it: ".onnx"; NULL where it is only had by name */
  const char *platform;  /* what Triton's protocol calls it: "onnxruntime_onnx" */
};

/*
 * The engine called name; "auto" (or ""): the one whose extension path ends in. path may be NULL for an engine that
 * needs no file. MU_INVALID: no engine of that name (the message lists them); MU_UNSUPPORTED: no engine takes that
 * file.
 */
MUST_CHECK mu_status engine_find(const char *name, const char *path, const struct engine_entry **ret_entry,
                                 mu_error *err);

/* The value of a parameter of spec; NULL where it is not given. */
const char *engine_parameter(const mu_model_spec *spec, const char *key);

#endif
