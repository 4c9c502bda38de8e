#include "model/model.h"

#include <inttypes.h>
#include <stdio.h>

static const char *const state_names[] = {
    [MODEL_LOADING] = "LOADING",         [MODEL_READY] = "READY", [MODEL_UNLOADING] = "UNLOADING",
    [MODEL_UNAVAILABLE] = "UNAVAILABLE", [MODEL_UNKNOWN] = "",
};

const char *model_state_name(enum model_state state) {
  return (size_t)state < sizeof state_names / sizeof *state_names ? state_names[state] : "UNAVAILABLE";
}

static json_t *shape_json(const int64_t *dims, uint32_t rank) {
  json_t *shape = json_array();
  for (uint32_t i = 0; shape != NULL && i < rank; i++)
    if (json_array_append_new(shape, json_integer(dims[i])) != 0) {
      json_decref(shape);
      return NULL;
    }
  return shape;
}

static json_t *tensors_json(const struct model_tensor *tensors, uint32_t n) {
  json_t *list = json_array();
  for (uint32_t i = 0; list != NULL && i < n; i++) {
    if (!tensors[i].served) continue;
    json_t *tensor =
        json_pack("{s:s, s:s, s:o}", "name", tensors[i].info.name, "datatype", mu_dtype_name(tensors[i].info.dtype),
                  "shape", shape_json(tensors[i].dims, tensors[i].rank));
    if (json_array_append_new(list, tensor) != 0) {
      json_decref(list);
      return NULL;
    }
  }
  return list;
}

static json_t *versions_json(const int64_t *versions, size_t n) {
  json_t *list = json_array();
  for (size_t i = 0; list != NULL && i < n; i++) {
    if (json_array_append_new(list, json_sprintf("%" PRId64, versions[i])) != 0) {
      json_decref(list);
      return NULL;
    }
  }
  return list;
}

/* A model that no worker has loaded yet has no tensors to show. */
json_t *model_metadata_json(const struct model *model, const int64_t *versions, size_t n_versions) {
  static const struct model_metadata unknown = {.platform = ""};
  const struct model_metadata *metadata = model->metadata != NULL ? model->metadata : &unknown;
  return json_pack("{s:s, s:o, s:s, s:o, s:o}", "name", model->name, "versions", versions_json(versions, n_versions),
                   "platform", metadata->platform, "inputs", tensors_json(metadata->inputs, metadata->n_inputs),
                   "outputs", tensors_json(metadata->outputs, metadata->n_outputs));
}
