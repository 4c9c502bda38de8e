/* A model of tests/models, loaded with an instance: what most tests of an engine begin and end with. */
#ifndef TESTS_UNIT_ENGINE_LOADED_MODEL_H
#define TESTS_UNIT_ENGINE_LOADED_MODEL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/engine.h"

#define TEST_MODEL(name) TEST_SOURCE_DIR "/tests/models/" name ".onnx"

struct loaded_model {
  const mu_engine *engine;
  mu_engine_model *model;
  mu_engine_instance *instance;
  const mu_model_info *info;
};

static inline mu_model_spec model_spec(const char *path) {
  return (mu_model_spec){
      .name = "test", .path = path, .device = "cpu", .threads = 1, .instances = 1, .graph_optimization = -1};
}

/* Fails the test where it does not work. */
static inline struct loaded_model model_open(const char *engine, const mu_model_spec *spec) {
  struct loaded_model loaded = {0};
  const struct engine_entry *entry = NULL;
  mu_error err = {{0}};
  assert_int_equal(engine_find(engine, spec->path, &entry, &err), MU_OK);
  loaded.engine = entry->engine;
  if (loaded.engine->model_load(spec, &loaded.model, &err) != MU_OK) fail_msg("%s", err.message);
  if (loaded.engine->instance_create(loaded.model, &loaded.instance, &err) != MU_OK) fail_msg("%s", err.message);
  loaded.info = loaded.engine->model_info(loaded.model);
  return loaded;
}

static inline void model_close(struct loaded_model *loaded) {
  loaded->engine->instance_free(loaded->instance);
  loaded->engine->model_free(loaded->model);
}

/* The status of loading, and why it failed. */
static inline mu_status load_status(const char *engine, const mu_model_spec *spec, mu_error *err) {
  const struct engine_entry *entry = NULL;
  mu_engine_model *model = NULL;
  mu_status status = engine_find(engine, spec->path, &entry, err);
  if (status == MU_OK) status = entry->engine->model_load(spec, &model, err);
  if (status == MU_OK) entry->engine->model_free(model);
  return status;
}

#endif
