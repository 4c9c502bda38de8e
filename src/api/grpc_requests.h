/*
 * The requests of the gRPC surface that are not inferences, as one plain struct. Pure. Which of its members a method
 * fills is said beside them; the others are "", 0 or NULL. Strings are valid UTF-8 without NUL.
 */
#ifndef API_GRPC_REQUESTS_H
#define API_GRPC_REQUESTS_H

#include "api/grpc_methods.h"
#include "base/arena.h"

enum { GRPC_SETTINGS_MAX = 256 }; /* entries of a map, and values of a trace setting */

enum grpc_value_kind {
  GRPC_VALUE_NONE,
  GRPC_VALUE_BOOL,
  GRPC_VALUE_I64,
  GRPC_VALUE_TEXT,
  GRPC_VALUE_BYTES,
  GRPC_VALUE_LIST
};

/* An entry of a map: a load's or unload's parameter, a trace setting (LIST; empty: as the server's default says), a log
 * setting. */
struct grpc_setting {
  const char *key;
  enum grpc_value_kind kind;
  bool flag;
  int64_t number;
  const char *text;    /* TEXT: terminated; BYTES: borrowed from the message, not terminated */
  size_t size;         /* of text */
  const char **values; /* LIST */
  uint32_t n_values;
};

struct grpc_request {
  const char *name;       /* a model's (ModelReady, ModelMetadata, ModelConfig, ModelStatistics, load, unload,
                             TraceSetting), a region's (shared memory), a service's (health) */
  int64_t version;        /* ModelReady, ModelMetadata, ModelConfig, ModelStatistics; -1: none given */
  const char *repository; /* RepositoryIndex, load, unload */
  bool ready;             /* RepositoryIndex: only models that are */
  const char *key;        /* SystemSharedMemoryRegister */
  uint64_t offset, byte_size;
  int64_t device_id;      /* CudaSharedMemoryRegister */
  const char *raw_handle; /* its bytes, borrowed from the message */
  size_t raw_handle_size;
  struct grpc_setting *settings; /* load, unload, TraceSetting, LogSettings; each key once, the last one counts */
  uint32_t n_settings;
  struct arena memory;
};

/*
 * Reads the message of a method that has one here (all but inferences and reflection). Memory that it takes is bounded
 * by a small multiple of size. ret_request is freed by grpc_request_free, also after a failure.
 * MU_INVALID: no protobuf, no UTF-8, a version that is no positive number, no name where there must be one (ModelReady,
 * ModelMetadata, ModelConfig, load, unload, register), too many settings; MU_NO_MEMORY.
 */
MUST_CHECK mu_status grpc_request_read(enum grpc_method method, const char *message, size_t size,
                                       struct grpc_request *ret_request, mu_error *err);
void grpc_request_free(struct grpc_request *request);

/* The value of a setting; NULL where it was not given. */
const struct grpc_setting *grpc_request_setting(const struct grpc_request *request, const char *key);

#endif
