/* Names and versions in gRPC's messages. For the gRPC files of this layer. */
#ifndef API_GRPC_NAMES_H
#define API_GRPC_NAMES_H

#include "base/status.h"

/* A model_version: "" is -1 (any). MU_INVALID: no positive number. */
MUST_CHECK mu_status grpc_version_parse(const char *text, size_t size, int64_t *ret_version, mu_error *err);

/* MU_INVALID where it cannot be a model's name. */
MUST_CHECK mu_status grpc_model_name_check(const char *name, size_t size, mu_error *err);

#endif
