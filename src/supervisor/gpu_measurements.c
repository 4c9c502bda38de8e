#include "supervisor/gpu_measurements.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gpu/inventory.h"

void gpu_measurements_free(struct gpu_measurements *table) {
  for (size_t i = 0; i < table->n; i++) free(table->items[i].model);
  free(table->items);
  *table = (struct gpu_measurements){.n = 0};
}

static struct gpu_measurement *find(const struct gpu_measurements *table, const char *model, int64_t version,
                                    int64_t file_bytes) {
  for (size_t i = 0; i < table->n; i++) {
    struct gpu_measurement *item = &table->items[i];
    if (item->version == version && item->file_bytes == file_bytes && strcmp(item->model, model) == 0) return item;
  }
  return NULL;
}

int64_t gpu_measurements_find(const struct gpu_measurements *table, const char *model, int64_t version,
                              int64_t file_bytes) {
  const struct gpu_measurement *item = find(table, model, version, file_bytes);
  return item != NULL ? item->process_bytes : GPU_UNKNOWN;
}

mu_status gpu_measurements_put(struct gpu_measurements *table, const char *model, int64_t version, int64_t file_bytes,
                               int64_t process_bytes, bool *ret_new, mu_error *err) {
  struct gpu_measurement *item = find(table, model, version, file_bytes);
  if (item != NULL) {
    *ret_new = process_bytes > item->process_bytes;
    if (*ret_new) item->process_bytes = process_bytes;
    return MU_OK;
  }
  char *name = strdup(model);
  struct gpu_measurement *items = name != NULL ? reallocarray(table->items, table->n + 1, sizeof *table->items) : NULL;
  if (items == NULL) {
    free(name);
    return mu_fail(err, MU_NO_MEMORY, "no memory for a measurement");
  }
  table->items = items;
  table->items[table->n++] = (struct gpu_measurement){name, version, file_bytes, process_bytes};
  *ret_new = true;
  return MU_OK;
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

static bool read_count(const json_t *json, const char *key, int64_t *ret_count) {
  const json_t *value = json_object_get(json, key);
  if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
  *ret_count = (int64_t)json_integer_value(value);
  return true;
}

static mu_status read_item(struct gpu_measurements *table, json_t *json, const char *path, size_t place,
                           mu_error *err) {
  const char *model = json_string_value(json_object_get(json, "model"));
  int64_t version, file_bytes, process_bytes;
  bool is_new;
  if (model == NULL || !read_count(json, "version", &version) || !read_count(json, "file_bytes", &file_bytes) ||
      !read_count(json, "process_bytes", &process_bytes))
    return mu_fail(err, MU_INVALID, "%s: measurement %zu is not {model, version, file_bytes, process_bytes}", path,
                   place + 1);
  return gpu_measurements_put(table, model, version, file_bytes, process_bytes, &is_new, err);
}

mu_status gpu_measurements_read(struct gpu_measurements *table, const char *path, mu_error *err) {
  FILE *file = fopen(path, "re");
  if (file == NULL && errno == ENOENT) return MU_OK;
  if (file == NULL)
    return mu_fail(err, errno == ENOMEM ? MU_NO_MEMORY : MU_IO, "cannot read %s (--measurements): %s", path,
                   strerror(errno));
  json_error_t error;
  errno = 0;
  json_t *document = json_loadf(file, 0, &error), *items = json_object_get(document, "measurements"), *item;
  bool no_memory = errno == ENOMEM; /* jansson's own code does not say it everywhere */
  fclose(file);
  mu_status status = MU_OK;
  size_t i;
  if (document == NULL && no_memory)
    status = mu_fail(err, MU_NO_MEMORY, "no memory for %.200s", path);
  else if (document == NULL)
    status = mu_fail(err, MU_INVALID, "%s:%d: %s (--measurements)", path, error.line, error.text);
  else if (!json_is_array(items))
    status = mu_fail(err, MU_INVALID, "%s holds no measurements of muster (--measurements)", path);
  json_array_foreach(items, i, item) {
    if (status == MU_OK) status = read_item(table, item, path, i, err);
  }
  json_decref(document);
  if (status != MU_OK) gpu_measurements_free(table);
  return status;
}

/* NULL without memory. */
static json_t *to_json(const struct gpu_measurements *table) {
  json_t *document = json_object(), *items = json_array();
  bool whole = json_object_set_new(document, "measurements", items) == 0;
  for (size_t i = 0; i < table->n; i++) {
    const struct gpu_measurement *item = &table->items[i];
    json_t *json =
        json_pack("{s:s, s:I, s:I, s:I}", "model", item->model, "version", (json_int_t)item->version, "file_bytes",
                  (json_int_t)item->file_bytes, "process_bytes", (json_int_t)item->process_bytes);
    whole = json_array_append_new(items, json) == 0 && whole;
    if (!whole) break;
  }
  if (whole) return document;
  json_decref(document);
  return NULL;
}

mu_status gpu_measurements_write(const struct gpu_measurements *table, const char *path, mu_error *err) {
  char beside[PATH_MAX];
  if (snprintf(beside, sizeof beside, "%s.new", path) >= (int)sizeof beside)
    return mu_fail(err, MU_IO, "the name of %.200s is too long", path);
  json_t *document = to_json(table);
  if (document == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for %.200s", path);
  errno = ENOMEM; /* where nothing else says why */
  bool written = json_dump_file(document, beside, JSON_INDENT(1)) == 0;
  int error = errno;
  json_decref(document);
  if (written && rename(beside, path) == 0) return MU_OK;
  if (written) error = errno;
  unlink(beside);
  if (error == ENOMEM) return mu_fail(err, MU_NO_MEMORY, "no memory for %.200s", path);
  return mu_fail(err, MU_IO, "cannot write %.200s (--measurements): %s", path, strerror(error));
}
