#include "gateway/trace.h"

#include "base/clock.h"
#include "gateway/call.h"
#include "proto/json/json_reader.h"

#include <stdlib.h>
#include <string.h>

enum { TRACE_MODELS_MAX = 4096, TRACE_TEXT_MAX = 64 * 1024 };

const struct trace_names trace_names_http = {"HTTP_RECV_START", "HTTP_RECV_END", "HTTP_SEND_START", "HTTP_SEND_END"};
const struct trace_names trace_names_grpc = {"GRPC_WAITREAD_START", "GRPC_WAITREAD_END", "GRPC_SEND_START",
                                             "GRPC_SEND_END"};

/* A model with settings of its own. */
struct trace_model {
  struct list link;
  char *name;
  struct trace_setting setting;
};

static void init_setting(struct trace_setting *setting, const struct trace_settings *now, unsigned specified) {
  *setting = (struct trace_setting){.now = *now, .specified = specified};
  buffer_init(&setting->collected, SIZE_MAX / 2);
}

mu_status tracer_init(struct tracer *tracer, const struct options *options, mu_error *err) {
  struct trace_config config;
  mu_status status = trace_config_read(options, &config, err);
  if (status != MU_OK) return status;
  *tracer = (struct tracer){.initial = config.settings,
                            .file = config.file,
                            .last_id = clock_now_ns() / NS_PER_US, /* not those of a gateway before */
                            .file_fd = -1,
                            .numbered_fd = -1};
  pthread_mutex_init(&tracer->lock, NULL);
  list_init(&tracer->models);
  list_init(&tracer->queue);
  buffer_init(&tracer->filling, SIZE_MAX / 2);
  init_setting(&tracer->global, &config.settings, 0);
  tracer->on = config.settings.timestamps && config.file[0] != '\0' && config.settings.count != 0;
  return MU_OK;
}

/* ---- settings: all under the tracer's lock ----------------------------------------------------------------------- */

static struct trace_model *find_model(struct tracer *tracer, const char *name) {
  list_each (link, &tracer->models) {
    struct trace_model *model = list_item(link, struct trace_model, link);
    if (strcmp(model->name, name) == 0) return model;
  }
  return NULL;
}

static bool traces(const struct tracer *tracer, const struct trace_settings *settings) {
  return settings->timestamps && settings->rate > 0 && settings->count != 0 && tracer->file[0] != '\0';
}

static void look_who_traces(struct tracer *tracer) {
  bool on = traces(tracer, &tracer->global.now);
  list_each (link, &tracer->models) on = on || traces(tracer, &list_item(link, struct trace_model, link)->setting.now);
  atomic_store_explicit(&tracer->on, on, memory_order_relaxed);
}

static void copy_fields(unsigned fields, const struct trace_settings *from, struct trace_settings *to) {
  if (fields & TRACE_LEVEL) to->timestamps = from->timestamps;
  if (fields & TRACE_RATE) to->rate = from->rate;
  if (fields & TRACE_COUNT) to->count = from->count;
  if (fields & TRACE_LOG_FREQUENCY) to->log_frequency = from->log_frequency;
}

/* What becomes of a setting (NULL: there was none) that follows `above` where nothing else is said. */
static void derive(const struct trace_setting *before, const struct trace_change *change,
                   const struct trace_settings *above, struct trace_settings *ret_now, unsigned *ret_specified) {
  unsigned own = before != NULL ? before->specified : 0;
  *ret_now = *above;
  if (before != NULL) copy_fields(own, &before->now, ret_now);
  copy_fields(change->fields, &change->to, ret_now);
  copy_fields(change->cleared, above, ret_now);
  *ret_specified = (own | change->fields) & ~change->cleared;
}

static mu_status check(const struct tracer *tracer, const struct trace_settings *settings, mu_error *err) {
  const char *reason = settings->rate == 0       ? "sample rate must be non-zero"
                       : tracer->file[0] == '\0' ? "trace file name is not given"
                                                 : NULL;
  if (!settings->timestamps || reason == NULL) return MU_OK;
  return mu_fail(err, MU_INVALID, "Attempting to set invalid trace setting :%s", reason);
}

/* Counting begins anew; what was collected goes. */
static void replace(struct core *core, struct trace_setting *setting, const struct trace_settings *now,
                    unsigned specified) {
  trace_flush(core, setting);
  setting->now = *now;
  setting->specified = specified;
  setting->requests = 0;
}

static void forget_model(struct core *core, struct trace_model *model) {
  trace_flush(core, &model->setting);
  list_remove(&model->link);
  core->tracer.n_models--;
  buffer_free(&model->setting.collected);
  free(model->name);
  free(model);
}

/* What follows the global settings is checked before anything changes. */
static mu_status change_global(struct core *core, const struct trace_change *change, mu_error *err) {
  static const struct trace_change nothing = {0};
  struct tracer *tracer = &core->tracer;
  struct trace_settings global, own;
  unsigned specified, own_specified;
  derive(&tracer->global, change, &tracer->initial, &global, &specified);
  mu_status status = check(tracer, &global, err);
  list_each (link, &tracer->models) {
    derive(&list_item(link, struct trace_model, link)->setting, &nothing, &global, &own, &own_specified);
    if (status == MU_OK) status = check(tracer, &own, err);
  }
  if (status != MU_OK) return status;
  replace(core, &tracer->global, &global, specified);
  list_each (link, &tracer->models) {
    struct trace_setting *setting = &list_item(link, struct trace_model, link)->setting;
    derive(setting, &nothing, &global, &own, &own_specified);
    replace(core, setting, &own, own_specified);
  }
  return MU_OK;
}

static struct trace_model *add_model(struct tracer *tracer, const char *name, mu_error *err) {
  struct trace_model *model = tracer->n_models < TRACE_MODELS_MAX ? calloc(1, sizeof *model) : NULL;
  if (model != NULL) model->name = strdup(name);
  if (model == NULL || model->name == NULL) {
    free(model);
    mu_fail(err, MU_UNAVAILABLE, "no room for trace settings of another model");
    return NULL;
  }
  init_setting(&model->setting, &tracer->global.now, 0);
  list_push_back(&tracer->models, &model->link);
  tracer->n_models++;
  return model;
}

static mu_status change_model(struct core *core, const char *name, const struct trace_change *change, mu_error *err) {
  struct tracer *tracer = &core->tracer;
  struct trace_model *model = find_model(tracer, name);
  struct trace_settings now;
  unsigned specified;
  derive(model != NULL ? &model->setting : NULL, change, &tracer->global.now, &now, &specified);
  if (specified == 0) {
    if (model != NULL) forget_model(core, model);
    return MU_OK;
  }
  mu_status status = check(tracer, &now, err);
  if (status == MU_OK && model == NULL) {
    model = add_model(tracer, name, err);
    if (model == NULL) status = MU_UNAVAILABLE;
  }
  if (status == MU_OK) replace(core, &model->setting, &now, specified);
  return status;
}

void trace_flush_all(struct core *core) {
  trace_flush(core, &core->tracer.global);
  list_each (link, &core->tracer.models) trace_flush(core, &list_item(link, struct trace_model, link)->setting);
}

static struct trace_setting *setting_of(struct tracer *tracer, const char *name) {
  struct trace_model *model = name != NULL ? find_model(tracer, name) : NULL;
  return model != NULL ? &model->setting : &tracer->global;
}

static bool is_served(struct core *core, const char *name) {
  struct gateway_model *model = core_hold_model(core, name, -1);
  if (model != NULL) core_release_model(model);
  return model != NULL;
}

mu_status gateway_change_trace(struct core *core, const char *model, const struct trace_change *change,
                               struct trace_settings *ret_settings, const char **ret_file, mu_error *err) {
  struct tracer *tracer = &core->tracer;
  mu_status status = MU_OK;
  if (model != NULL && !is_served(core, model))
    return mu_fail(err, MU_INVALID, "Request for unknown model : %s", model);
  pthread_mutex_lock(&tracer->lock);
  if ((change->fields | change->cleared) != 0)
    status = model != NULL ? change_model(core, model, change, err) : change_global(core, change, err);
  look_who_traces(tracer);
  *ret_settings = setting_of(tracer, model)->now;
  pthread_mutex_unlock(&tracer->lock);
  *ret_file = tracer->file;
  return status;
}

/* ---- of a request ------------------------------------------------------------------------------------------------ */

/* As Triton counts: every rate-th request of those that have these settings, until count are made. */
static bool choose(const struct tracer *tracer, struct trace_setting *setting) {
  if (!traces(tracer, &setting->now) || ++setting->requests % setting->now.rate != 0) return false;
  if (setting->now.count > 0) setting->now.count--;
  return true;
}

void trace_begin(struct call *call) {
  struct tracer *tracer = &call->loop->core->tracer;
  pthread_mutex_lock(&tracer->lock);
  struct trace_setting *setting = setting_of(tracer, call->model->model.name);
  bool chosen = choose(tracer, setting);
  if (chosen && setting->now.count == 0) look_who_traces(tracer);
  uint64_t id = chosen ? ++tracer->last_id : 0;
  pthread_mutex_unlock(&tracer->lock);
  if (!chosen) return;
  call->trace = calloc(1, sizeof *call->trace); /* without memory it is not traced */
  if (call->trace == NULL) return;
  call->trace->id = id;
  call->trace->ns[TRACE_RECV_START] = call->request.received_ns;
}

static const char *point_name(enum trace_point point, const struct trace_names *names) {
  const char *const points[TRACE_POINTS] = {
      [TRACE_RECV_START] = names->recv_start,
      [TRACE_RECV_END] = names->recv_end,
      [TRACE_REQUEST_START] = "REQUEST_START",
      [TRACE_QUEUE_START] = "QUEUE_START",
      [TRACE_COMPUTE_START] = "COMPUTE_START",
      [TRACE_COMPUTE_INPUT_END] = "COMPUTE_INPUT_END",
      [TRACE_COMPUTE_OUTPUT_START] = "COMPUTE_OUTPUT_START",
      [TRACE_COMPUTE_END] = "COMPUTE_END",
      [TRACE_RESPONSE_COMPLETE] = "INFER_RESPONSE_COMPLETE",
      [TRACE_REQUEST_END] = "REQUEST_END",
      [TRACE_SEND_START] = names->send_start,
      [TRACE_SEND_END] = names->send_end,
  };
  return points[point];
}

/* Triton's entries: the request, then one for each time. */
static void write_trace(const struct call *call, struct buffer *out) {
  const struct trace *trace = call->trace;
  const struct trace_names *names =
      call->carrier != NULL && call->carrier->trace_names != NULL ? call->carrier->trace_names : &trace_names_http;
  buffer_print(out, "{\"id\":%llu,\"model_name\":", (unsigned long long)trace->id);
  json_write_string(out, call->model->model.name, strlen(call->model->model.name));
  buffer_print(out, ",\"model_version\":%lld", (long long)call->model->model.version);
  if (call->request.id[0] != '\0') {
    buffer_puts(out, ",\"request_id\":");
    json_write_string(out, call->request.id, strlen(call->request.id));
  }
  buffer_puts(out, "},\n");
  for (size_t i = 0; i < TRACE_POINTS; i++)
    if (trace->ns[i] != 0)
      buffer_print(out, "{\"id\":%llu,\"timestamps\":[{\"name\":\"%s\",\"ns\":%llu}]},\n",
                   (unsigned long long)trace->id, point_name((enum trace_point)i, names),
                   (unsigned long long)trace->ns[i]);
}

void trace_end(struct call *call) {
  struct core *core = call->loop->core;
  struct buffer text;
  if (call->trace->ns[TRACE_SEND_START] != 0) call->trace->ns[TRACE_SEND_END] = clock_now_ns();
  if (call->trace->ns[TRACE_REQUEST_START] != 0 && call->trace->ns[TRACE_REQUEST_END] == 0)
    call->trace->ns[TRACE_REQUEST_END] = clock_now_ns();
  buffer_init(&text, TRACE_TEXT_MAX);
  write_trace(call, &text);
  pthread_mutex_lock(&core->tracer.lock);
  trace_collect(core, setting_of(&core->tracer, call->model->model.name), &text);
  pthread_mutex_unlock(&core->tracer.lock);
  buffer_free(&text);
  free(call->trace);
  call->trace = NULL;
}
