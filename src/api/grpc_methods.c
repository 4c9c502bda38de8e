#include "api/grpc_methods.h"

#include <string.h>

enum { SMALL = 64 * 1024 };

#define INFERENCE "/inference.GRPCInferenceService/"

const struct grpc_method_info grpc_methods[GRPC_METHOD_COUNT] = {
    [GRPC_SERVER_LIVE] = {INFERENCE "ServerLive", false, false, SMALL},
    [GRPC_SERVER_READY] = {INFERENCE "ServerReady", false, false, SMALL},
    [GRPC_MODEL_READY] = {INFERENCE "ModelReady", false, false, SMALL},
    [GRPC_SERVER_METADATA] = {INFERENCE "ServerMetadata", false, false, SMALL},
    [GRPC_MODEL_METADATA] = {INFERENCE "ModelMetadata", false, false, SMALL},
    [GRPC_MODEL_INFER] = {INFERENCE "ModelInfer", false, false, 0},
    [GRPC_MODEL_STREAM_INFER] = {INFERENCE "ModelStreamInfer", true, true, 0},
    [GRPC_MODEL_CONFIG] = {INFERENCE "ModelConfig", false, false, SMALL},
    [GRPC_MODEL_STATISTICS] = {INFERENCE "ModelStatistics", false, false, SMALL},
    [GRPC_REPOSITORY_INDEX] = {INFERENCE "RepositoryIndex", false, false, SMALL},
    [GRPC_REPOSITORY_MODEL_LOAD] = {INFERENCE "RepositoryModelLoad", false, false, 0}, /* may bring files */
    [GRPC_REPOSITORY_MODEL_UNLOAD] = {INFERENCE "RepositoryModelUnload", false, false, SMALL},
    [GRPC_SYSTEM_SHARED_MEMORY_STATUS] = {INFERENCE "SystemSharedMemoryStatus", false, false, SMALL},
    [GRPC_SYSTEM_SHARED_MEMORY_REGISTER] = {INFERENCE "SystemSharedMemoryRegister", false, false, SMALL},
    [GRPC_SYSTEM_SHARED_MEMORY_UNREGISTER] = {INFERENCE "SystemSharedMemoryUnregister", false, false, SMALL},
    [GRPC_CUDA_SHARED_MEMORY_STATUS] = {INFERENCE "CudaSharedMemoryStatus", false, false, SMALL},
    [GRPC_CUDA_SHARED_MEMORY_REGISTER] = {INFERENCE "CudaSharedMemoryRegister", false, false, SMALL},
    [GRPC_CUDA_SHARED_MEMORY_UNREGISTER] = {INFERENCE "CudaSharedMemoryUnregister", false, false, SMALL},
    [GRPC_TRACE_SETTING] = {INFERENCE "TraceSetting", false, false, SMALL},
    [GRPC_LOG_SETTINGS] = {INFERENCE "LogSettings", false, false, SMALL},
    [GRPC_HEALTH_CHECK] = {"/grpc.health.v1.Health/Check", false, false, SMALL},
    [GRPC_HEALTH_WATCH] = {"/grpc.health.v1.Health/Watch", false, true, SMALL},
    [GRPC_REFLECTION] = {"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", true, true, SMALL},
    [GRPC_REFLECTION_V1ALPHA] = {"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", true, true, SMALL},
};

mu_status grpc_method_find(const char *path, enum grpc_method *ret_method, mu_error *err) {
  for (int i = 0; i < GRPC_METHOD_COUNT; i++)
    if (strcmp(grpc_methods[i].path, path) == 0) {
      *ret_method = (enum grpc_method)i;
      return MU_OK;
    }
  return mu_fail(err, MU_UNSUPPORTED, "unknown method '%.200s'", path);
}
