/*
 * Every JSON document of the HTTP surface that is not an inference: server metadata, repository index, statistics,
 * /health and /stats in the forms of existing deployments. Pure; appended to a buffer. What is read of a model's names
 * and reasons may be any bytes. MU_OK, MU_NO_MEMORY, MU_TOO_LARGE; what has been appended on failure is part of a
 * document.
 */
#ifndef API_REST_DOCUMENTS_H
#define API_REST_DOCUMENTS_H

#include "base/buffer.h"
#include "model/model.h"

/* GET v2: name "muster", version, and only the extensions that are really served. */
MUST_CHECK mu_status document_server_metadata(struct buffer *out);

/* GET v2/models/M[/versions/V]; versions: all that are served of that name. */
MUST_CHECK mu_status document_model_metadata(struct buffer *out, const struct model *model, const int64_t *versions,
                                             size_t n_versions);
MUST_CHECK mu_status document_model_config(struct buffer *out, const struct model *model);

/* GET v2/models[/M]/stats: {"model_stats": [...]} in Triton's field names. */
MUST_CHECK mu_status document_statistics(struct buffer *out, const struct model *const *models, size_t n_models);

/* POST v2/repository/index: [{"name","version","state","reason"}]; body may ask {"ready": true}. */
MUST_CHECK mu_status document_repository_index(struct buffer *out, const struct model *const *models, size_t n_models,
                                               const char *body, size_t body_size, mu_error *err);

/* One region of GET v2/systemsharedmemory[/region/R]/status: [{"name","key","offset","byte_size"}]. */
struct region_view {
  const char *name, *key;
  uint64_t offset, byte_size;
};
MUST_CHECK mu_status document_regions(struct buffer *out, const struct region_view *regions, size_t n_regions);

/* The body of POST v2/systemsharedmemory/region/R/register: {"key","offset","byte_size"}, the offset may be missing.
 * key: room for key_room bytes. MU_INVALID. */
MUST_CHECK mu_status document_region_register(const char *body, size_t body_size, char *key, size_t key_room,
                                              uint64_t *ret_offset, uint64_t *ret_byte_size, mu_error *err);

/* The same documents before they are text, for other forms of them: a new reference, NULL without memory. Those of one
 * model are model_metadata_json and model_config_json (model/model.h). */
json_t *server_metadata_json(void);
json_t *statistics_json(const struct model *const *models, size_t n_models);
json_t *repository_index_json(const struct model *const *models, size_t n_models, bool only_ready);

/* One worker instance behind /health and /stats. */
struct backend_view {
  char address[64]; /* "magika/0" : model and worker */
  const char *model;
  const char *device;   /* "cpu", "gpu:0" */
  int32_t gpu_id;       /* -1: none */
  const char *gpu_uuid; /* of a GPU, … */
  const char *gpu_name; /* … and what it is; NULL: not known */
  bool healthy;
  uint64_t total_requests, total_batches, error_count;
  uint64_t rows;        /* answered */
  uint32_t queue_depth; /* requests waiting for or running on it; */
  uint32_t in_flight;   /* running ones */
  double speed;         /* of its device beside the fastest that the model is on; 0: it serves nothing now */
};

/* GET /health: {healthy,total_backends,healthy_count,backends[{address,healthy,total_requests,error_count}]}, and all
 * of gpus (an object: what is known of the machine's GPUs; NULL: nothing, there are none);
 * *ret_healthy (one backend at least is) chooses 200 or 503. */
MUST_CHECK mu_status document_health(struct buffer *out, const struct backend_view *backends, size_t n_backends,
                                     json_t *gpus, bool *ret_healthy);

/* GET /stats: total_requests, total_batches, avg_batch_size, queue_depth (the sums over all backends), models[] (names
 * of those that are ready), per_gpu_stats[] (docs/statistics.md; all that is on no GPU is one entry
 * with gpu_id -1). */
MUST_CHECK mu_status document_stats(struct buffer *out, const struct backend_view *backends, size_t n_backends,
                                    const struct model *const *models, size_t n_models);

#endif
