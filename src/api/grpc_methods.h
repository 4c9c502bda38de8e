/*
 * The gRPC surface as one table: path to method. Pure. What each method's messages are: api/protobuf/.
 */
#ifndef API_GRPC_METHODS_H
#define API_GRPC_METHODS_H

#include "base/status.h"

enum grpc_method {
  GRPC_SERVER_LIVE,
  GRPC_SERVER_READY,
  GRPC_MODEL_READY,
  GRPC_SERVER_METADATA,
  GRPC_MODEL_METADATA,
  GRPC_MODEL_INFER,
  GRPC_MODEL_STREAM_INFER,
  GRPC_MODEL_CONFIG,
  GRPC_MODEL_STATISTICS,
  GRPC_REPOSITORY_INDEX,
  GRPC_REPOSITORY_MODEL_LOAD,
  GRPC_REPOSITORY_MODEL_UNLOAD,
  GRPC_SYSTEM_SHARED_MEMORY_STATUS,
  GRPC_SYSTEM_SHARED_MEMORY_REGISTER,
  GRPC_SYSTEM_SHARED_MEMORY_UNREGISTER,
  GRPC_CUDA_SHARED_MEMORY_STATUS,
  GRPC_CUDA_SHARED_MEMORY_REGISTER,
  GRPC_CUDA_SHARED_MEMORY_UNREGISTER,
  GRPC_TRACE_SETTING,
  GRPC_LOG_SETTINGS,
  GRPC_HEALTH_CHECK,
  GRPC_HEALTH_WATCH,
  GRPC_REFLECTION,         /* grpc.reflection.v1 */
  GRPC_REFLECTION_V1ALPHA, /* the same messages under another name */
  GRPC_METHOD_COUNT
};

struct grpc_method_info {
  const char *path; /* "/inference.GRPCInferenceService/ModelInfer" */
  bool client_streams, server_streams;
  uint32_t request_limit; /* bytes that a request may have; 0: the server's limit of a body */
};

/* Indexed by enum grpc_method. */
extern const struct grpc_method_info grpc_methods[GRPC_METHOD_COUNT];

/* MU_UNSUPPORTED (UNIMPLEMENTED, as every gRPC server answers): nothing is served under that path. */
MUST_CHECK mu_status grpc_method_find(const char *path, enum grpc_method *ret_method, mu_error *err);

#endif
