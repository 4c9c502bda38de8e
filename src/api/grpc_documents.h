/*
 * Every reply of the gRPC surface that is not an inference. Each is appended to out as one gRPC message with its prefix
 * (uncompressed). Pure. What it says of models is what the HTTP documents say (api/rest_documents.h): one walk over the
 * fields, two forms. MU_OK, MU_NO_MEMORY, MU_TOO_LARGE, MU_INTERNAL; what has been appended on failure is part of a
 * message.
 */
#ifndef API_GRPC_DOCUMENTS_H
#define API_GRPC_DOCUMENTS_H

#include "api/grpc_methods.h"
#include "api/grpc_requests.h"
#include "base/buffer.h"
#include "model/model.h"

/* ServerLive, ServerReady and ModelReady. */
MUST_CHECK mu_status grpc_reply_flag(struct buffer *out, bool flag, mu_error *err);

/* Those that say nothing: load, unload, register, unregister. */
MUST_CHECK mu_status grpc_reply_empty(struct buffer *out, mu_error *err);

MUST_CHECK mu_status grpc_reply_server_metadata(struct buffer *out, mu_error *err);
MUST_CHECK mu_status grpc_reply_model_metadata(struct buffer *out, const struct model *model, const int64_t *versions,
                                               size_t n_versions, mu_error *err);
MUST_CHECK mu_status grpc_reply_model_config(struct buffer *out, const struct model *model, mu_error *err);
MUST_CHECK mu_status grpc_reply_statistics(struct buffer *out, const struct model *const *models, size_t n_models,
                                           mu_error *err);
MUST_CHECK mu_status grpc_reply_repository_index(struct buffer *out, const struct model *const *models, size_t n_models,
                                                 bool only_ready, mu_error *err);

/* One region of SystemSharedMemoryStatus (key, offset) or CudaSharedMemoryStatus (device_id). */
struct grpc_region {
  const char *name, *key;
  uint64_t offset, byte_size;
  uint64_t device_id;
};
MUST_CHECK mu_status grpc_reply_system_regions(struct buffer *out, const struct grpc_region *regions, size_t n,
                                               mu_error *err);
MUST_CHECK mu_status grpc_reply_cuda_regions(struct buffer *out, const struct grpc_region *regions, size_t n,
                                             mu_error *err);

/* All settings as they are now. Trace: values of each; log: GRPC_VALUE_BOOL, _I64 (not negative) or _TEXT. */
MUST_CHECK mu_status grpc_reply_trace_settings(struct buffer *out, const struct grpc_setting *settings, size_t n,
                                               mu_error *err);
MUST_CHECK mu_status grpc_reply_log_settings(struct buffer *out, const struct grpc_setting *settings, size_t n,
                                             mu_error *err);

/* grpc.health.v1, Check and Watch. Of a service that nobody knows Check answers the status NOT_FOUND instead. */
enum grpc_serving { GRPC_SERVING_UNKNOWN, GRPC_SERVING, GRPC_NOT_SERVING, GRPC_SERVICE_UNKNOWN };
MUST_CHECK mu_status grpc_reply_health(struct buffer *out, enum grpc_serving serving, mu_error *err);

/* "" (all of the server) or one that this server has ("inference.GRPCInferenceService", …). */
bool grpc_service_known(const char *service);

/*
 * Answers one message of a reflection call, of either version. What it cannot answer is an error inside of the reply,
 * after which the call goes on. MU_INVALID: no protobuf, which ends the call.
 */
MUST_CHECK mu_status grpc_reply_reflection(struct buffer *out, const char *request, size_t size, mu_error *err);

#endif
