#include "engine/engine.h"

#include <stdio.h>
#include <string.h>

#include "engine/onnxruntime/onnxruntime.h"
#include "engine/remote/remote.h"
#include "engine/remote/remote_network.h"
#include "engine/sim/sim.h"

static const struct engine_entry entries[] = {
    {&engine_onnxruntime, ".onnx", "onnxruntime_onnx", NULL, NULL, NULL, false, engine_onnxruntime_has_cuda},
    {&engine_sim, NULL, "sim", NULL, NULL, NULL, true, NULL},
    {&engine_remote, NULL, "remote", remote_network_find, remote_network_instances, remote_report, false, NULL},
};
enum { N_ENTRIES = sizeof entries / sizeof entries[0] };

static bool has_extension(const char *path, const char *extension) {
  size_t length = strlen(path), tail = strlen(extension);
  return length > tail && strcmp(path + length - tail, extension) == 0;
}

static mu_status find_by_file(const char *path, const struct engine_entry **ret_entry, mu_error *err) {
  for (size_t i = 0; path != NULL && i < N_ENTRIES; i++) {
    if (entries[i].extension == NULL || !has_extension(path, entries[i].extension)) continue;
    *ret_entry = &entries[i];
    return MU_OK;
  }
  return mu_fail(err, MU_UNSUPPORTED, "no engine takes the file \"%s\" by itself: name one with --engine",
                 path != NULL ? path : "");
}

mu_status engine_find(const char *name, const char *path, const struct engine_entry **ret_entry, mu_error *err) {
  if (name[0] == '\0' || strcmp(name, "auto") == 0) return find_by_file(path, ret_entry, err);
  char names[128] = "auto";
  for (size_t i = 0; i < N_ENTRIES; i++) {
    if (strcmp(entries[i].engine->name, name) == 0) {
      *ret_entry = &entries[i];
      return MU_OK;
    }
    size_t at = strlen(names);
    snprintf(names + at, sizeof names - at, ", %s", entries[i].engine->name);
  }
  return mu_fail(err, MU_INVALID, "there is no engine \"%s\" (there are: %s)", name, names);
}

const char *engine_parameter(const mu_model_spec *spec, const char *key) {
  for (size_t i = 0; i < spec->n_parameters; i++) {
    if (strcmp(spec->parameters[i].key, key) == 0) return spec->parameters[i].value;
  }
  return NULL;
}
