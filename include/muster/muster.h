/*
 * muster.h: what an engine and muster agree on. Needs nothing but the C library.
 *
 * Holds the status codes used everywhere in muster, the tensor view, and the engine interface. An engine is a table of
 * functions (struct mu_engine); muster calls it from the worker process only. Every struct here is owned by whoever
 * created it; a pointer handed to a call is borrowed for that call unless its comment says otherwise.
 */
#ifndef MUSTER_MUSTER_H
#define MUSTER_MUSTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a call came to. 0 is success, everything else is negative. */
typedef enum mu_status {
  MU_OK = 0,
  MU_INVALID = -1,     /* the caller's mistake: argument, request, configuration */
  MU_NOT_FOUND = -2,   /* no such model, version, file, key */
  MU_UNAVAILABLE = -3, /* not now: queue full, not ready, draining; worth trying again */
  MU_UNSUPPORTED = -4, /* well formed, but muster or the engine cannot do it */
  MU_INTERNAL = -5,    /* the engine or muster failed */
  MU_NO_MEMORY = -6,   /* the process could not allocate */
  MU_TIMEOUT = -7,     /* the deadline passed */
  MU_CANCELED = -8,    /* whoever asked has left, or asked to stop */
  MU_EXISTS = -9,      /* already there: a port in use, a name taken */
  MU_IO = -10,         /* a system call failed; the message has errno's text */
  MU_TOO_LARGE = -11,  /* past a configured limit of size */
} mu_status;

/* Why a call failed, for a human. A callee that returns other than MU_OK has filled it (when err is not NULL);
 * on MU_OK it is untouched. */
typedef struct mu_error {
  char message[512];
} mu_error;

/* Fills err->message from the format (err may be NULL) and returns status, so that `return mu_fail(err, MU_INVALID,
 * "…")` is the one way to fail. */
mu_status mu_fail(mu_error *err, mu_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Element types, in the order of the Open Inference Protocol's names. */
typedef enum mu_dtype {
  MU_DTYPE_INVALID = 0,
  MU_BOOL,
  MU_UINT8,
  MU_UINT16,
  MU_UINT32,
  MU_UINT64,
  MU_INT8,
  MU_INT16,
  MU_INT32,
  MU_INT64,
  MU_FP16,
  MU_FP32,
  MU_FP64,
  MU_BYTES, /* elements of any length; in memory always in wire form: u32 length (little-endian), then the bytes */
  MU_BF16,
  MU_DTYPE_COUNT
} mu_dtype;

/* Size of one element in bytes; 0 for MU_BYTES and MU_DTYPE_INVALID. */
size_t mu_dtype_size(mu_dtype dtype);

/* "FP32"; never NULL ("INVALID" for anything unknown). */
const char *mu_dtype_name(mu_dtype dtype);

/* The reverse, exact and case-sensitive; MU_DTYPE_INVALID when the name of length len is none of them. */
mu_dtype mu_dtype_parse(const char *name, size_t len);

enum { MU_MAX_RANK = 16 };

/* A tensor that somebody else owns. data holds `size` bytes, row-major, little-endian. */
typedef struct mu_tensor {
  mu_dtype dtype;
  uint32_t rank;
  int64_t dims[MU_MAX_RANK];
  void *data;
  size_t size;
} mu_tensor;

/* One input or output as the loaded model declares it. dims: -1 where it may vary. symbol: the name of a varying
 * dimension ("" where it has none). */
typedef struct mu_tensor_info {
  char *name;
  mu_dtype dtype;
  uint32_t rank;
  int64_t dims[MU_MAX_RANK];
  char *symbols[MU_MAX_RANK]; /* each NULL or owned with the info */
  bool optional;              /* an input that may be left out */
} mu_tensor_info;

/* ---- the engine interface ---------------------------------------------------------------------------------------- */

#define MU_ENGINE_API_VERSION 1u

typedef struct mu_parameter {
  const char *key;
  const char *value;
} mu_parameter;

/* What to load. All borrowed for the call. */
typedef struct mu_model_spec {
  const char *name;
  const char *path;               /* the model file; NULL for an engine that needs none */
  const char *device;             /* "cpu", or "gpu:<UUID or index>": never answered by another device */
  int threads;                    /* threads that one run may use (intra-op); >= 1 */
  int instances;                  /* how many instances will run at the same time; >= 1 */
  int graph_optimization;         /* -1 engine's default, 0 off, 1 basic, 2 extended, 99 all */
  const mu_parameter *parameters; /* from config.pbtxt `parameters` and the engine's own options */
  size_t n_parameters;
  const mu_tensor_info *inputs; /* as config.pbtxt declares them, batch dimension included; for an engine whose model */
  size_t n_inputs;              /* does not say it itself. May be empty, and is no promise: the model counts. */
  const mu_tensor_info *outputs;
  size_t n_outputs;
} mu_model_spec;

typedef struct mu_engine_model mu_engine_model;
typedef struct mu_engine_instance mu_engine_instance;

/* What the loaded model says of itself. Owned by the model, valid until model_free. */
typedef struct mu_model_info {
  const mu_tensor_info *inputs;
  size_t n_inputs;
  const mu_tensor_info *outputs;
  size_t n_outputs;
  const char *runtime;   /* "onnxruntime 1.31.1 CPUExecutionProvider" */
  bool rows_independent; /* the engine knows that rows of a batch cannot influence each other: no self-check needed */
  uint32_t max_batch;    /* rows that one run takes at most; 0: the model does not say */
} mu_model_info;

/* One wanted output of a run. In: index; tensor.data either memory of tensor.size bytes for exactly tensor.dims
 * (written in place), or NULL (the engine allocates). Out: dtype, rank, dims, data and size as produced. Memory that
 * the engine allocated stays valid until the next run on the instance or its release. */
typedef struct mu_output {
  uint32_t index; /* into mu_model_info.outputs */
  mu_tensor tensor;
} mu_output;

/* One input of a run. */
typedef struct mu_input {
  uint32_t index; /* into mu_model_info.inputs */
  mu_tensor tensor;
} mu_input;

/*
 * An engine. `run` is called by one thread at a time for an instance, by several threads at a time for a model.
 * Errors of `run`: MU_INVALID or MU_INTERNAL: this input failed, the instance can go on; MU_CANCELED after `stop`;
 * MU_IO: the device is lost or the context is sticky: the worker must leave.
 */
typedef struct mu_engine {
  uint32_t api_version; /* MU_ENGINE_API_VERSION */
  const char *name;     /* "onnxruntime" */

  mu_status (*model_load)(const mu_model_spec *spec, mu_engine_model **ret_model, mu_error *err);
  void (*model_free)(mu_engine_model *model); /* accepts NULL; all its instances are freed before */
  const mu_model_info *(*model_info)(const mu_engine_model *model);

  mu_status (*instance_create)(mu_engine_model *model, mu_engine_instance **ret_instance, mu_error *err);
  void (*instance_free)(mu_engine_instance *instance); /* accepts NULL */

  mu_status (*run)(mu_engine_instance *instance, const mu_input *inputs, size_t n_inputs, mu_output *outputs,
                   size_t n_outputs, mu_error *err);

  /* Optional (may be NULL). Any thread: the run in progress, if any, should end soon with MU_CANCELED. */
  void (*stop)(mu_engine_instance *instance);

  /* An output of another shape than its memory is for is never a reason to fail: it then stands in the engine's own. So
   * a run that failed need not be tried again without such memory. */
  bool any_shape;
} mu_engine;

#ifdef __cplusplus
}
#endif
#endif
