/* Bodies of POST v2/repository/models/M/load and …/unload. Pure. */
#ifndef API_REST_REPOSITORY_H
#define API_REST_REPOSITORY_H

#include "api/model_parameter.h"
#include "base/arena.h"

/*
 * {"parameters": {"config": "…", "file:1/model.onnx": "<base64>", "unload_dependents": false}}; an empty body has none.
 * Parameters called "file:…" are BASE64. Texts that have no escapes are borrowed from body, others copied into memory.
 * MU_INVALID, MU_NO_MEMORY.
 */
MUST_CHECK mu_status rest_repository_parse(const char *body, size_t size, struct arena *memory,
                                           struct model_parameter ret_parameters[MODEL_PARAMETERS_MAX], size_t *ret_n,
                                           mu_error *err);

#endif
