#include "api/rest_documents.h"

#include "proto/json/json_reader.h"

#include <jansson.h>

/* ---- building and writing ---------------------------------------------------------------------------------------- */

struct sink {
  struct buffer *out;
  mu_status status;
};

static int write_chunk(const char *text, size_t size, void *context) {
  struct sink *sink = context;
  sink->status = buffer_append(sink->out, text, size);
  return sink->status == MU_OK ? 0 : -1;
}

/* Appends the document and lets go of it. NULL is a document for which there was no memory. */
static mu_status write_document(json_t *document, struct buffer *out) {
  if (document == NULL) return MU_NO_MEMORY;
  struct sink sink = {.out = out, .status = MU_OK};
  const int failed = json_dump_callback(document, write_chunk, &sink, JSON_COMPACT);
  json_decref(document);
  return failed == 0 ? MU_OK : sink.status != MU_OK ? sink.status : MU_NO_MEMORY;
}

/* Any text, also one that is not valid UTF-8 (a file's name, a reason with a path in it), which jansson would refuse.
 */
static json_t *text_value(const char *text) {
  json_t *value = json_string(text);
  if (value != NULL) return value;
  struct buffer quoted, plain;
  struct json_reader reader;
  struct json_text valid;
  buffer_init(&quoted, SIZE_MAX / 2);
  buffer_init(&plain, SIZE_MAX / 2);
  if (json_write_string(&quoted, text, strlen(text)) == MU_OK) {
    json_reader_init(&reader, quoted.data, quoted.size);
    if (json_read_string(&reader, &valid) && buffer_reserve(&plain, json_text_size(&valid)) == MU_OK) {
      json_text_decode(&valid, plain.data);
      value = json_stringn(plain.data, json_text_size(&valid));
    }
  }
  buffer_free(&quoted);
  buffer_free(&plain);
  return value;
}

static json_t *number_text(int64_t number) { return json_sprintf("%lld", (long long)number); }

static json_t *count_value(const _Atomic uint64_t *count) {
  return json_integer((json_int_t)atomic_load_explicit(count, memory_order_relaxed));
}

/* The array; NULL, with nothing of it left, when an item could not be made. */
static json_t *checked_array(json_t *array, bool complete) {
  if (complete) return array;
  json_decref(array);
  return NULL;
}

/* ---- the server and its models ----------------------------------------------------------------------------------- */

/* What of Triton's extensions is served. */
static const char *const extensions[] = {
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "system_shared_memory",
    "trace",
    "logging",
};

json_t *server_metadata_json(void) {
  enum { N = sizeof extensions / sizeof *extensions };
  json_t *names = json_array();
  for (size_t i = 0; i < N; i++) json_array_append_new(names, json_string(extensions[i]));
  return json_pack("{s:s,s:s,s:o}", "name", "muster", "version", MUSTER_VERSION, "extensions",
                   checked_array(names, json_array_size(names) == N));
}

mu_status document_server_metadata(struct buffer *out) { return write_document(server_metadata_json(), out); }

mu_status document_model_metadata(struct buffer *out, const struct model *model, const int64_t *versions,
                                  size_t n_versions) {
  return write_document(model_metadata_json(model, versions, n_versions), out);
}

mu_status document_model_config(struct buffer *out, const struct model *model) {
  return write_document(model_config_json(model), out);
}

/* ---- statistics -------------------------------------------------------------------------------------------------- */

static json_t *duration(const struct stat_duration *d) {
  return json_pack("{s:o,s:o}", "count", count_value(&d->count), "ns", count_value(&d->ns));
}

/* There is no response cache: it is never hit and never missed. */
static json_t *no_duration(void) { return json_pack("{s:i,s:i}", "count", 0, "ns", 0); }

static json_t *inference_stats(const struct model_stats *stats) {
  return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "success", duration(&stats->success), "fail",
                   duration(&stats->fail), "queue", duration(&stats->queue), "compute_input",
                   duration(&stats->compute_input), "compute_infer", duration(&stats->compute_infer), "compute_output",
                   duration(&stats->compute_output), "cache_hit", no_duration(), "cache_miss", no_duration());
}

static json_t *batch_stats(const struct model_stats *stats) {
  json_t *array = json_array();
  bool complete = array != NULL;
  for (int rows = 1; rows <= BATCH_STATS_MAX && complete; rows++) {
    const struct stat_batch *batch = stats->batches[rows];
    if (batch == NULL) continue;
    json_t *entry =
        json_pack("{s:i,s:o,s:o,s:o}", "batch_size", rows, "compute_input", duration(&batch->compute_input),
                  "compute_infer", duration(&batch->compute_infer), "compute_output", duration(&batch->compute_output));
    complete = json_array_append_new(array, entry) == 0;
  }
  return checked_array(array, complete);
}

static json_t *model_statistics(const struct model *model) {
  const struct model_stats *stats = model->stats;
  return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:{},s:o,s:[]}", "name", text_value(model->name), "version",
                   number_text(model->version), "last_inference", count_value(&stats->last_inference_ms),
                   "inference_count", count_value(&stats->inference_count), "execution_count",
                   count_value(&stats->execution_count), "inference_stats", inference_stats(stats), "response_stats",
                   "batch_stats", batch_stats(stats), "memory_usage");
}

json_t *statistics_json(const struct model *const *models, size_t n_models) {
  json_t *array = json_array();
  bool complete = array != NULL;
  for (size_t i = 0; i < n_models && complete; i++)
    complete = json_array_append_new(array, model_statistics(models[i])) == 0;
  return json_pack("{s:o}", "model_stats", checked_array(array, complete));
}

mu_status document_statistics(struct buffer *out, const struct model *const *models, size_t n_models) {
  return write_document(statistics_json(models, n_models), out);
}

/* ---- the repository index ---------------------------------------------------------------------------------------- */

/* {"ready": true}; an empty body asks for nothing in particular. */
static mu_status read_index_request(const char *body, size_t size, bool *ret_ready, mu_error *err) {
  bool ready = false;
  struct json_reader reader;
  json_reader_init(&reader, body, size);
  const enum json_kind kind = json_peek(&reader);
  if (kind == JSON_END && !reader.failed && reader.at == size) {
    *ret_ready = false;
    return MU_OK;
  }
  if (kind != JSON_READ_OBJECT && !reader.failed)
    return mu_fail(err, MU_INVALID, "a repository index request must be a JSON object");
  json_enter(&reader);
  struct json_text key;
  while (json_member(&reader, &key))
    if (!(json_text_equal(&key, "ready") ? json_read_bool(&reader, &ready) : json_skip(&reader))) break;
  const mu_status status = json_finish(&reader, err);
  if (status == MU_OK) *ret_ready = ready;
  return status;
}

static json_t *index_entry(const struct model *model) {
  if (model->state == MODEL_UNKNOWN) return json_pack("{s:o}", "name", text_value(model->name));
  /* a model of which no version could be found has none to name */
  json_t *version = model->version > 0 ? number_text(model->version) : NULL;
  json_t *entry = json_pack("{s:o,s:o*,s:s,s:o}", "name", text_value(model->name), "version", version, "state",
                            model_state_name(model->state), "reason", text_value(model->reason));
  return entry;
}

json_t *repository_index_json(const struct model *const *models, size_t n_models, bool only_ready) {
  json_t *array = json_array();
  bool complete = array != NULL;
  for (size_t i = 0; i < n_models && complete; i++)
    if (!only_ready || models[i]->state == MODEL_READY)
      complete = json_array_append_new(array, index_entry(models[i])) == 0;
  return checked_array(array, complete);
}

mu_status document_repository_index(struct buffer *out, const struct model *const *models, size_t n_models,
                                    const char *body, size_t body_size, mu_error *err) {
  bool only_ready;
  mu_status status = read_index_request(body, body_size, &only_ready, err);
  if (status != MU_OK) return status;
  status = write_document(repository_index_json(models, n_models, only_ready), out);
  return status == MU_OK ? MU_OK : mu_fail(err, status, "no room for the repository index");
}

/* ---- shared memory ----------------------------------------------------------------------------------------------- */

mu_status document_regions(struct buffer *out, const struct region_view *regions, size_t n_regions) {
  buffer_putc(out, '[');
  for (size_t i = 0; i < n_regions; i++) {
    const struct region_view *region = &regions[i];
    buffer_puts(out, i > 0 ? ",{\"name\":" : "{\"name\":");
    json_write_string(out, region->name, strlen(region->name));
    buffer_puts(out, ",\"key\":");
    json_write_string(out, region->key, strlen(region->key));
    buffer_puts(out, ",\"offset\":");
    json_write_u64(out, region->offset);
    buffer_puts(out, ",\"byte_size\":");
    json_write_u64(out, region->byte_size);
    buffer_putc(out, '}');
  }
  buffer_putc(out, ']');
  return out->failed ? MU_NO_MEMORY : MU_OK;
}

/* What a registration says; has_: it was there. */
struct registration {
  struct json_text key;
  bool has_key, has_byte_size;
  uint64_t offset, byte_size;
};

/* Keys that nobody knows are passed over; of one that comes twice the last counts. */
static bool read_registration(struct json_reader *reader, struct registration *read) {
  struct json_text key;
  if (!json_enter(reader)) return false;
  while (json_member(reader, &key)) {
    bool good;
    if (json_text_equal(&key, "key"))
      good = read->has_key = json_read_string(reader, &read->key);
    else if (json_text_equal(&key, "offset"))
      good = json_read_u64(reader, &read->offset);
    else if (json_text_equal(&key, "byte_size"))
      good = read->has_byte_size = json_read_u64(reader, &read->byte_size);
    else
      good = json_skip(reader);
    if (!good) return false;
  }
  return !reader->failed;
}

mu_status document_region_register(const char *body, size_t body_size, char *key, size_t key_room, uint64_t *ret_offset,
                                   uint64_t *ret_byte_size, mu_error *err) {
  struct json_reader reader;
  struct registration read = {0};
  json_reader_init(&reader, body, body_size);
  if (json_peek(&reader) != JSON_READ_OBJECT && !reader.failed)
    return mu_fail(err, MU_INVALID, "a shared memory register request must be a JSON object");
  if (!read_registration(&reader, &read) || json_finish(&reader, NULL) != MU_OK)
    return mu_fail(err, MU_INVALID, "the shared memory register request is wrong at %s", reader.error.message);
  if (!read.has_key) return mu_fail(err, MU_INVALID, "Shared memory register request has no 'key' field");
  if (!read.has_byte_size) return mu_fail(err, MU_INVALID, "Shared memory register request has no 'byte_size' field");
  const size_t size = json_text_size(&read.key);
  if (size >= key_room) return mu_fail(err, MU_INVALID, "the key of shared memory has %zu bytes, too many", size);
  json_text_decode(&read.key, key);
  key[size] = '\0';
  if (strlen(key) != size) return mu_fail(err, MU_INVALID, "the key of shared memory has a NUL character");
  *ret_offset = read.offset;
  *ret_byte_size = read.byte_size;
  return MU_OK;
}

/* ---- /health and /stats ------------------------------------------------------------------------------------------ */

mu_status document_health(struct buffer *out, const struct backend_view *backends, size_t n_backends, json_t *gpus,
                          bool *ret_healthy) {
  json_t *array = json_array();
  bool complete = array != NULL;
  size_t healthy = 0;
  for (size_t i = 0; i < n_backends && complete; i++) {
    const struct backend_view *b = &backends[i];
    healthy += b->healthy;
    complete = json_array_append_new(array, json_pack("{s:o,s:b,s:I,s:I}", "address", text_value(b->address), "healthy",
                                                      b->healthy, "total_requests", (json_int_t)b->total_requests,
                                                      "error_count", (json_int_t)b->error_count)) == 0;
  }
  json_t *document = json_pack("{s:b,s:I,s:I,s:o}", "healthy", healthy > 0, "total_backends", (json_int_t)n_backends,
                               "healthy_count", (json_int_t)healthy, "backends", checked_array(array, complete));
  if (document != NULL && gpus != NULL && json_object_update(document, gpus) != 0) {
    json_decref(document);
    document = NULL;
  }
  const mu_status status = write_document(document, out);
  if (status == MU_OK) *ret_healthy = healthy > 0;
  return status;
}

/* Some backends together. */
struct totals {
  uint64_t requests, batches, rows, errors, depth, in_flight;
  uint32_t workers, serving;
  double speeds; /* of those that serve, added up */
};

static void add_backend(struct totals *totals, const struct backend_view *b) {
  totals->requests += b->total_requests;
  totals->batches += b->total_batches;
  totals->rows += b->rows;
  totals->errors += b->error_count;
  totals->depth += b->queue_depth;
  totals->in_flight += b->in_flight;
  totals->workers++;
  totals->serving += b->speed > 0;
  totals->speeds += b->speed;
}

static double average_batch(const struct totals *totals) {
  return totals->batches > 0 ? (double)totals->rows / (double)totals->batches : 0;
}

/* MIG devices of one GPU have its number, and are others. */
static bool same_device(const struct backend_view *a, const struct backend_view *b) {
  return a->gpu_id == b->gpu_id && (a->gpu_id < 0 || strcmp(a->device, b->device) == 0);
}

static json_t *gpu_entry(const struct backend_view *b, const struct totals *totals) {
  json_t *entry =
      json_pack("{s:i,s:I,s:I,s:I,s:f,s:I,s:I,s:i}", "gpu_id", b->gpu_id, "current_queue_depth",
                (json_int_t)totals->depth, "total_requests", (json_int_t)totals->requests, "total_batches",
                (json_int_t)totals->batches, "avg_batch_size", average_batch(totals), "in_flight",
                (json_int_t)totals->in_flight, "error_count", (json_int_t)totals->errors, "workers", totals->workers);
  bool complete = entry != NULL;
  if (complete && b->gpu_id >= 0) {
    complete = json_object_set_new(entry, "device", text_value(b->device)) == 0 &&
               json_object_set_new(entry, "uuid", text_value(b->gpu_uuid)) == 0;
    if (complete && b->gpu_name != NULL) complete = json_object_set_new(entry, "name", text_value(b->gpu_name)) == 0;
    if (complete && totals->serving > 0)
      complete = json_object_set_new(entry, "speed_ratio", json_real(totals->speeds / totals->serving)) == 0;
  }
  if (complete) return entry;
  json_decref(entry);
  return NULL;
}

/* Where an entry belongs among those before it: in order of the GPUs, MIG devices of one as the backends come. */
static size_t place_of_gpu(const json_t *array, int gpu_id) {
  size_t at = 0;
  while (at < json_array_size(array) &&
         json_integer_value(json_object_get(json_array_get(array, at), "gpu_id")) <= gpu_id)
    at++;
  return at;
}

/* An entry for each GPU that a backend is on; what is on none is one entry. */
static json_t *gpu_stats(const struct backend_view *backends, size_t n) {
  json_t *array = json_array();
  bool complete = array != NULL;
  for (size_t i = 0; i < n && complete; i++) {
    size_t first = 0;
    while (!same_device(&backends[first], &backends[i])) first++;
    if (first < i) continue;
    struct totals totals = {0};
    for (size_t j = i; j < n; j++)
      if (same_device(&backends[j], &backends[i])) add_backend(&totals, &backends[j]);
    complete =
        json_array_insert_new(array, place_of_gpu(array, backends[i].gpu_id), gpu_entry(&backends[i], &totals)) == 0;
  }
  return checked_array(array, complete);
}

/* Is another ready version of models[i] among those before it? */
static bool listed_before(const struct model *const *models, size_t i) {
  for (size_t before = 0; before < i; before++)
    if (models[before]->state == MODEL_READY && strcmp(models[before]->name, models[i]->name) == 0) return true;
  return false;
}

/* Names of the models that are ready, each once. */
static json_t *ready_models(const struct model *const *models, size_t n) {
  json_t *array = json_array();
  bool complete = array != NULL;
  for (size_t i = 0; i < n && complete; i++)
    if (models[i]->state == MODEL_READY && !listed_before(models, i))
      complete = json_array_append_new(array, text_value(models[i]->name)) == 0;
  return checked_array(array, complete);
}

mu_status document_stats(struct buffer *out, const struct backend_view *backends, size_t n_backends,
                         const struct model *const *models, size_t n_models) {
  struct totals totals = {0};
  for (size_t i = 0; i < n_backends; i++) add_backend(&totals, &backends[i]);
  return write_document(json_pack("{s:I,s:I,s:f,s:I,s:o,s:o}", "total_requests", (json_int_t)totals.requests,
                                  "total_batches", (json_int_t)totals.batches, "avg_batch_size", average_batch(&totals),
                                  "queue_depth", (json_int_t)totals.depth, "models", ready_models(models, n_models),
                                  "per_gpu_stats", gpu_stats(backends, n_backends)),
                        out);
}
