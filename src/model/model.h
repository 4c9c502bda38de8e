/*
 * One version of one model as a server knows it, and what documents say of it.
 *
 * The gateway owns a table of these (under its core lock); the JSON functions read one entry.
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "metrics/model_stats.h"
#include "model/model_config.h"
#include "model/model_metadata.h"

enum model_state {
  MODEL_LOADING,
  MODEL_READY,
  MODEL_UNLOADING,
  MODEL_UNAVAILABLE,
  MODEL_UNKNOWN /* in the repository, and nobody has asked for it: only the index knows of it, by its name alone */
};

/* "LOADING", "READY", "UNLOADING", "UNAVAILABLE", "": the words of Triton's repository index. */
const char *model_state_name(enum model_state state);

struct model {
  char *name;
  int64_t version;
  struct model_config *config;     /* never NULL */
  struct model_metadata *metadata; /* NULL until a worker has loaded it */
  enum model_state state;
  char *reason; /* "" or why it is not ready */
  struct model_stats *stats;
};

/*
 * Documents of the Open Inference Protocol and Triton's extensions; a new reference, NULL without memory.
 * model_metadata_json: GET v2/models/M; versions: all served versions of that name. Shapes are the client's view, the
 * batch dimension included.
 * model_config_json: GET v2/models/M/config, completed from the metadata: ModelConfig as Triton prints it over HTTP, in
 * protobuf's own field names and with 64-bit integers as numbers.
 */
json_t *model_metadata_json(const struct model *model, const int64_t *versions, size_t n_versions);
json_t *model_config_json(const struct model *model);

#endif
