/*
 * The engines that are built in, by name. An engine itself is a table of functions (struct mu_engine of
 * include/muster/muster.h); here is only which there are. Supervisor (to check a name) and worker (to load a model).
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/arena.h"
#include "base/buffer.h"

/* What of the network a model reaches; a worker's fence lets through no more than that. */
struct engine_network {
  const char *addresses; /* for the engine, as ENGINE_ADDRESSES_PARAMETER of the specification */
  uint16_t *ports;       /* TCP, each once */
  size_t n_ports;
  struct arena memory; /* of all of it */
};
#define ENGINE_ADDRESSES_PARAMETER "muster.addresses"

struct engine_entry {
  const mu_engine *engine;
  const char *extension; /* of the model files that `auto` gives to it: ".onnx"; NULL where it is only had by name */
  const char *platform;  /* what Triton's protocol calls it: "onnxruntime_onnx" */

  /* NULL where an engine needs no network. Finds what the model with these parameters needs of it; blocks while names
   * are looked up, and is called before the fence stands. MU_INVALID, MU_EXISTS, MU_NOT_FOUND: a name that nobody
   * knows; MU_NO_MEMORY. */
  mu_status (*find_network)(const mu_parameter *parameters, size_t n, struct engine_network *ret_network,
                            mu_error *err);
  /* NULL where runs keep this machine busy, else how many instances are useful where nobody says it. */
  mu_status (*useful_instances)(const mu_parameter *parameters, size_t n, size_t *ret_instances, mu_error *err);
  /* JSON of what the engine wants shown of a loaded model, appended to out; NULL: nothing. Any thread. */
  mu_status (*report)(const mu_engine_model *model, struct buffer *out);
  bool simulated; /* it runs on simulated GPUs */
  /* Whether what it needs to run on a GPU is there, by the files alone: nothing is loaded. library: of the options, as
   * in the parameter of that name. NULL: it takes a real GPU only when it is told to. */
  bool (*has_gpus)(const char *library);
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
