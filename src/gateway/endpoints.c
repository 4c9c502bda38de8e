/* Everything but inference: health, metadata, configuration, statistics, metrics. One function an endpoint, one table.
 */
#include "gateway/endpoints.h"
#include "api/rest_documents.h"
#include "gateway/attachment.h"
#include "gateway/log_settings.h"
#include "metrics/exposition.h"

#include <stdlib.h>
#include <string.h>

/* An answer: status code, and the body in call->reply. */
static void answer(struct call *call, int code, const char *content_type) {
  struct exchange *exchange = call->exchange;
  /* Documents are never compressed, nor are they by Triton: NVIDIA's asyncio client accepts gzip for all of its
   * requests and undoes it for inference alone. */
  bool compressible = call->route.endpoint == ENDPOINT_METRICS;
  call->exchange = NULL;
  struct iovec body = {call->reply.data, call->reply.size};
  struct reply reply = {.status = code,
                        .content_type = call->reply.size > 0 ? content_type : NULL,
                        .body = &body,
                        .n_body = call->reply.size > 0,
                        .compressible = compressible};
  exchange_reply(exchange, &reply);
}

void endpoint_answer_document(struct call *call, mu_status status, const mu_error *err) {
  if (status == MU_OK)
    answer(call, 200, "application/json");
  else
    call_reply_error(call, http_status_of(status), err->message);
}

void endpoint_answer_empty(struct call *call, mu_status status, const mu_error *err) {
  buffer_clear(&call->reply);
  endpoint_answer_document(call, status, err);
}

static const mu_error out_of_memory = {"no memory for the document"};

/* The model of the path, which the call then holds; answers 404 itself when there is none. */
static struct gateway_model *path_model(struct call *call) {
  call->model = core_hold_model(call->loop->core, call->route.model, call->route.version);
  if (call->model != NULL) return call->model;
  mu_error err;
  mu_fail(&err, MU_NOT_FOUND, "Request for unknown model: '%s' is not found", call->route.model);
  call_reply_error(call, http_status_of(MU_NOT_FOUND), err.message);
  return NULL;
}

/* ---- the page that shows streams: stream_demo.html ----------------------------------------------------------------
 */

extern const unsigned char stream_demo_page[];
extern const size_t stream_demo_page_size;

static void stream_demo(struct call *call) {
  static const struct header headers[] = {
      {"Content-Security-Policy",
       "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self' ws: wss:; "
       "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"},
      {"X-Content-Type-Options", "nosniff"},
      {"Cache-Control", "no-cache"}};
  struct exchange *exchange = call->exchange;
  struct iovec body = {(void *)(uintptr_t)stream_demo_page, stream_demo_page_size};
  call->exchange = NULL;
  exchange_reply(exchange, &(struct reply){.status = 200,
                                           .content_type = "text/html; charset=utf-8",
                                           .headers = headers,
                                           .n_headers = sizeof headers / sizeof *headers,
                                           .body = &body,
                                           .n_body = 1,
                                           .compressible = true,
                                           .unshared = true});
}

/* ---- health ------------------------------------------------------------------------------------------------------ */

static void server_live(struct call *call) { answer(call, 200, NULL); }

static void server_ready(struct call *call) { answer(call, core_ready(call->loop->core) ? 200 : 503, NULL); }

static void model_ready(struct call *call) {
  struct core *core = call->loop->core;
  struct gateway_model *model = path_model(call);
  if (model == NULL) return;
  pthread_mutex_lock(&core->lock);
  bool ready = core_model_ready(model) && !core->draining;
  pthread_mutex_unlock(&core->lock);
  answer(call, ready ? 200 : 503, NULL);
}

/* ---- documents: rendered under the lock, from entries that may change -------------------------------------------- */

static void server_metadata(struct call *call) {
  endpoint_answer_document(call, document_server_metadata(&call->reply), &out_of_memory);
}

static void model_metadata(struct call *call) {
  struct core *core = call->loop->core;
  struct gateway_model *model = path_model(call);
  if (model == NULL) return;
  mu_error err = out_of_memory;
  mu_status status = MU_NO_MEMORY;
  pthread_mutex_lock(&core->lock);
  size_t n;
  int64_t *versions = core_versions_of(core, model->model.name, &n);
  if (model->model.metadata == NULL)
    status = core_not_loaded(&model->model, &err);
  else if (versions != NULL)
    status = document_model_metadata(&call->reply, &model->model, versions, n);
  pthread_mutex_unlock(&core->lock);
  free(versions);
  endpoint_answer_document(call, status, &err);
}

static void model_config(struct call *call) {
  struct core *core = call->loop->core;
  struct gateway_model *model = path_model(call);
  if (model == NULL) return;
  pthread_mutex_lock(&core->lock);
  mu_status status = document_model_config(&call->reply, &model->model);
  pthread_mutex_unlock(&core->lock);
  endpoint_answer_document(call, status, &out_of_memory);
}

static void model_stats(struct call *call) {
  struct core *core = call->loop->core;
  if (call->route.model[0] != '\0' && path_model(call) == NULL) return;
  mu_status status = MU_NO_MEMORY;
  size_t n;
  pthread_mutex_lock(&core->lock);
  const struct model **models = core_models_of(core, call->route.model, call->route.version, &n);
  if (models != NULL) status = document_statistics(&call->reply, models, n);
  pthread_mutex_unlock(&core->lock);
  free(models);
  endpoint_answer_document(call, status, &out_of_memory);
}

/* ---- settings ---------------------------------------------------------------------------------------------------- */

static bool is_post(const struct call *call) { return strcmp(call->exchange->method, "POST") == 0; }

static void logging(struct call *call) {
  mu_error err = out_of_memory;
  struct log_change change = {.fields = 0};
  struct log_settings settings;
  mu_status status = MU_OK;
  if (is_post(call)) status = log_change_parse(call->text.data, call->text.size, &change, &err);
  if (status == MU_OK) {
    gateway_change_log(call->loop->core, &change, &settings);
    status = document_log_settings(&call->reply, &settings);
  }
  endpoint_answer_document(call, status, &err);
}

static void trace_setting(struct call *call) {
  mu_error err = out_of_memory;
  struct trace_change change = {.fields = 0};
  struct trace_settings settings;
  const char *file, *model = call->route.model[0] != '\0' ? call->route.model : NULL;
  mu_status status = MU_OK;
  if (is_post(call)) status = trace_change_parse(call->text.data, call->text.size, &change, &err);
  if (status == MU_OK) status = gateway_change_trace(call->loop->core, model, &change, &settings, &file, &err);
  if (status == MU_OK) status = document_trace_settings(&call->reply, &settings, file);
  endpoint_answer_document(call, status, &err);
}

/* ---- backends: every instance of every attached worker ----------------------------------------------------------- */

static uint32_t count_in_flight(const struct core *core, const struct attachment *attachment) {
  const struct list *flights[] = {&attachment->flights, &core->stalled};
  uint32_t n = 0;
  for (size_t i = 0; i < sizeof flights / sizeof *flights; i++)
    list_each (link, flights[i]) {
      const struct flight *flight = list_item(link, struct flight, link);
      if (flight->attachment == attachment) n += flight->batch->n_jobs;
    }
  return n;
}

/* Its share of the requests that wait for any worker of its model: a remainder goes to the first ones, so that the
 * shares add up to what waits. */
static uint32_t count_waiting(const struct core *core, const struct attachment *attachment) {
  const struct gateway_model *model = attachment->model;
  uint32_t before = 0;
  if (!attachment_serves(attachment) || model->sched == NULL) return 0;
  list_each (link, &core->attachments) {
    const struct attachment *other = list_item(link, struct attachment, link);
    if (other == attachment) break;
    before += other->model == model && attachment_serves(other);
  }
  struct sched_model_view queue;
  sched_model_look(model->sched, &queue);
  return queue.waiting / model->attached + (before < queue.waiting % model->attached);
}

/* 0: it serves nothing now. */
static double speed_of(const struct attachment *attachment) {
  const struct sched_instance *instance = attachment->lanes[0].instance;
  return attachment_serves(attachment) && instance != NULL ? sched_instance_speed(instance) : 0;
}

/* NULL: not known. */
static const char *gpu_name(const struct gateway_gpus *gpus, const char *uuid) {
  int32_t position = gpus->inventory != NULL ? gpu_find(gpus->inventory, uuid) : GPU_UNKNOWN;
  return position != GPU_UNKNOWN ? gpus->inventory->gpus[position].name : NULL;
}

static void view_backend(const struct core *core, struct attachment *attachment, struct backend_view *view) {
  *view = (struct backend_view){.model = attachment->model->model.name,
                                .device = attachment->device_name,
                                .gpu_id = -1,
                                .gpu_uuid = attachment->gpu_uuid,
                                .gpu_name = gpu_name(&core->gpus, attachment->gpu_uuid),
                                .healthy = attachment_serves(attachment) && !attachment->reported,
                                .total_requests = attachment->total_requests,
                                .total_batches = attachment->total_batches,
                                .error_count = attachment->errors,
                                .rows = attachment->total_rows,
                                .in_flight = count_in_flight(core, attachment),
                                .speed = speed_of(attachment)};
  view->queue_depth = view->in_flight + count_waiting(core, attachment);
  sscanf(attachment->device_name, "gpu:%d", &view->gpu_id);
  snprintf(view->address, sizeof view->address, "%.48s/%u", view->model, attachment->worker);
}

/* NULL without memory. Locked. */
static struct backend_view *view_backends(const struct core *core, size_t *ret_n) {
  size_t n = 0, at = 0;
  list_each (count, &core->attachments) n++;
  struct backend_view *views = calloc(n + 1, sizeof *views);
  if (views == NULL) return NULL;
  list_each (link, &core->attachments) view_backend(core, list_item(link, struct attachment, link), &views[at++]);
  *ret_n = n;
  return views;
}

static void health(struct call *call) {
  struct core *core = call->loop->core;
  bool healthy = false;
  size_t n = 0;
  pthread_mutex_lock(&core->lock);
  struct backend_view *views = view_backends(core, &n);
  mu_status status = views != NULL ? document_health(&call->reply, views, n, core->gpus.state, &healthy) : MU_NO_MEMORY;
  pthread_mutex_unlock(&core->lock);
  free(views);
  if (status == MU_OK)
    answer(call, healthy ? 200 : 503, "application/json");
  else
    endpoint_answer_document(call, status, &out_of_memory);
}

static void stats(struct call *call) {
  struct core *core = call->loop->core;
  size_t n = 0;
  mu_status status = MU_NO_MEMORY;
  pthread_mutex_lock(&core->lock);
  struct backend_view *views = view_backends(core, &n);
  size_t n_models;
  const struct model **models = core_models_of(core, "", -1, &n_models);
  if (views != NULL && models != NULL) status = document_stats(&call->reply, views, n, models, n_models);
  pthread_mutex_unlock(&core->lock);
  free(views);
  free(models);
  endpoint_answer_document(call, status, &out_of_memory);
}

/* ---- metrics ----------------------------------------------------------------------------------------------------- */

/* Locked. Of all that serves there. */
static void expose_speeds(const struct core *core, struct exposition_gpu *gpus, size_t n) {
  for (size_t i = 0; i < n; i++) {
    double sum = 0;
    uint32_t serving = 0;
    list_each (link, &core->attachments) {
      const struct attachment *attachment = list_item(link, struct attachment, link);
      double speed = strcmp(attachment->gpu_uuid, gpus[i].uuid) == 0 ? speed_of(attachment) : 0;
      serving += speed > 0;
      sum += speed;
    }
    if (serving > 0) gpus[i].speed = sum / serving;
  }
}

static struct exposition_server count_server(struct core *core) {
  struct exposition_server server = {.memory_used_bytes = core->budget.used,
                                     .memory_limit_bytes = core->budget.limit,
                                     .worker_deaths_total = core->worker_deaths,
                                     .config = &core->metrics_config,
                                     .now_ns = clock_now_ns()};
  pthread_mutex_lock(&core->tracer.lock);
  server.traces_written = core->tracer.written;
  server.traces_dropped = core->tracer.dropped;
  pthread_mutex_unlock(&core->tracer.lock);
  for (uint32_t i = 0; i < core->n_loops; i++)
    for (size_t k = 0; k < sizeof core->loops[i].servers / sizeof *core->loops[i].servers; k++) {
      if (core->loops[i].servers[k] == NULL) continue;
      struct http_server_counts counts;
      http_server_count(core->loops[i].servers[k], &counts);
      server.connections_open += counts.connections_open;
      server.connections_total += counts.connections_total;
      server.requests_total += counts.requests_total;
    }
  return server;
}

/* Locked; NULL without memory. */
static struct exposition_model *expose_models(const struct core *core) {
  struct exposition_model *models = calloc(core->n_models + 1, sizeof *models);
  for (size_t i = 0; models != NULL && i < core->n_models; i++) {
    struct gateway_model *model = core->models[i];
    struct sched_model_view view = {0};
    if (model->sched != NULL) sched_model_look(model->sched, &view);
    model->model.stats->pending = view.waiting;
    models[i] = (struct exposition_model){.name = model->model.name,
                                          .version = model->model.version,
                                          .stats = model->model.stats,
                                          .ready = core_model_ready(model),
                                          .instances_ready = view.instances};
  }
  return models;
}

/* Not under the core's lock: with many cores the kernel takes its time for this. */
static struct machine look_at_machine(struct core *core) {
  uint64_t interval = (uint64_t)core->options->metrics_interval_ms * NS_PER_MS;
  pthread_mutex_lock(&core->machine_lock);
  if (core->options->allow_cpu_metrics) machine_look(&core->machine, "/proc", clock_now_ns(), interval);
  struct machine machine = core->machine;
  pthread_mutex_unlock(&core->machine_lock);
  return machine;
}

static void metrics(struct call *call) {
  struct core *core = call->loop->core;
  bool ready = core_ready(core);
  const struct machine machine = look_at_machine(core);
  pthread_mutex_lock(&core->lock);
  struct exposition_server server = count_server(core);
  server.ready = ready;
  server.machine = &machine;
  struct exposition_model *models = expose_models(core);
  bool with_gpus = core->options->allow_gpu_metrics;
  struct exposition_gpu *gpus = with_gpus ? gateway_gpus_expose(&core->gpus, &server.n_gpus) : NULL;
  if (gpus != NULL) expose_speeds(core, gpus, server.n_gpus);
  server.gpus = gpus;
  server.fleet = with_gpus ? json_object_get(core->gpus.state, "fleet") : NULL;
  bool complete = models != NULL && (gpus != NULL || !with_gpus);
  mu_status status = complete ? exposition_print(&call->reply, &server, models, core->n_models) : MU_NO_MEMORY;
  pthread_mutex_unlock(&core->lock);
  free(models);
  free(gpus);
  if (status == MU_OK)
    answer(call, 200, "text/plain; version=0.0.4; charset=utf-8");
  else
    endpoint_answer_document(call, status, &out_of_memory);
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static void (*const endpoints[ENDPOINT_COUNT])(struct call *) = {
    [ENDPOINT_SERVER_LIVE] = server_live,
    [ENDPOINT_STREAM_DEMO] = stream_demo,
    [ENDPOINT_SERVER_READY] = server_ready,
    [ENDPOINT_SERVER_METADATA] = server_metadata,
    [ENDPOINT_MODEL_METADATA] = model_metadata,
    [ENDPOINT_MODEL_READY] = model_ready,
    [ENDPOINT_MODEL_CONFIG] = model_config,
    [ENDPOINT_MODEL_STATS] = model_stats,
    [ENDPOINT_REGION_STATUS] = endpoint_region_status,
    [ENDPOINT_REGION_REGISTER] = endpoint_region_change,
    [ENDPOINT_REGION_UNREGISTER] = endpoint_region_change,
    [ENDPOINT_CUDA_REGION_STATUS] = endpoint_cuda_region_status,
    [ENDPOINT_CUDA_REGION_REGISTER] = endpoint_cuda_region_register,
    [ENDPOINT_CUDA_REGION_UNREGISTER] = endpoint_cuda_region_unregister,
    [ENDPOINT_TRACE_SETTING] = trace_setting,
    [ENDPOINT_LOGGING] = logging,
    [ENDPOINT_REPOSITORY_INDEX] = model_endpoint_index,
    [ENDPOINT_MODEL_LOAD] = model_endpoint_load,
    [ENDPOINT_MODEL_UNLOAD] = model_endpoint_unload,
    [ENDPOINT_HEALTH] = health,
    [ENDPOINT_STATS] = stats,
    [ENDPOINT_METRICS] = metrics,
};

void endpoint_answer(struct call *call) { endpoints[call->route.endpoint](call); }
