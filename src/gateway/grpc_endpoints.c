/* gRPC's unary methods that are no inference: the twins of endpoints.c, model_endpoints.c and region_endpoints.c. */
#include "api/grpc_documents.h"
#include "gateway/admin.h"
#include "gateway/grpc.h"
#include "gateway/log_settings.h"
#include "gateway/model_control.h"
#include "gateway/region_change.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ---- answers ----------------------------------------------------------------------------------------------------- */

/* call.reply, or the error. The call is gone then. */
static void answer(struct call *call, mu_status status, const char *message) {
  if (status == MU_OK)
    grpc_reply_message(call);
  else
    grpc_reply_error(call, grpc_code_for(call, status), message);
  call_free(call);
}

static void answer_empty(struct call *call, mu_status status, const char *message) {
  mu_error err;
  if (status == MU_OK) {
    status = grpc_reply_empty(&call->reply, &err);
    message = err.message;
  }
  answer(call, status, message);
}

/* An endpoint that is answered at once fills call.reply; one that asks the supervisor says so in *ret_later, and
 * answers when that has spoken. */
typedef mu_status (*endpoint_fn)(struct call *call, const struct grpc_request *request, bool *ret_later, mu_error *err);

static void on_gone(struct exchange *exchange) {
  struct call *call = exchange->user;
  call->exchange = NULL;
  if (call->region_change != NULL) call->region_change->context = NULL;
  call_free(call);
}

/* Nothing more comes from the client; it may leave. */
static void await(struct call *call, bool *ret_later) {
  static const struct exchange_handler handler = {.gone = on_gone};
  call->handler = &handler;
  *ret_later = true;
}

/* ---- health and documents ---------------------------------------------------------------------------------------- */

static mu_status hold_model(struct call *call, const struct grpc_request *request, mu_error *err) {
  call->model = core_hold_model(call->loop->core, request->name, request->version);
  if (call->model != NULL) return MU_OK;
  return mu_fail(err, MU_NOT_FOUND, "Request for unknown model: '%s' is not found", request->name);
}

static mu_status server_live(struct call *call, const struct grpc_request *request, bool *ret_later, mu_error *err) {
  return grpc_reply_flag(&call->reply, true, err);
}

static mu_status server_ready(struct call *call, const struct grpc_request *request, bool *ret_later, mu_error *err) {
  return grpc_reply_flag(&call->reply, core_ready(call->loop->core), err);
}

static mu_status model_ready(struct call *call, const struct grpc_request *request, bool *ret_later, mu_error *err) {
  struct core *core = call->loop->core;
  mu_status status = hold_model(call, request, err);
  if (status != MU_OK) return status;
  pthread_mutex_lock(&core->lock);
  bool ready = core_model_ready(call->model) && !core->draining;
  pthread_mutex_unlock(&core->lock);
  return grpc_reply_flag(&call->reply, ready, err);
}

static mu_status server_metadata(struct call *call, const struct grpc_request *request, bool *ret_later,
                                 mu_error *err) {
  return grpc_reply_server_metadata(&call->reply, err);
}

static mu_status no_memory(mu_error *err) { return mu_fail(err, MU_NO_MEMORY, "no memory for the document"); }

static mu_status model_metadata(struct call *call, const struct grpc_request *request, bool *ret_later, mu_error *err) {
  struct core *core = call->loop->core;
  mu_status status = hold_model(call, request, err);
  if (status != MU_OK) return status;
  const struct model *model = &call->model->model;
  size_t n;
  pthread_mutex_lock(&core->lock);
  int64_t *versions = core_versions_of(core, model->name, &n);
  if (model->metadata == NULL)
    status = core_not_loaded(model, err);
  else if (versions == NULL)
    status = no_memory(err);
  else
    status = grpc_reply_model_metadata(&call->reply, model, versions, n, err);
  pthread_mutex_unlock(&core->lock);
  free(versions);
  return status;
}

static mu_status model_config(struct call *call, const struct grpc_request *request, bool *ret_later, mu_error *err) {
  struct core *core = call->loop->core;
  mu_status status = hold_model(call, request, err);
  if (status != MU_OK) return status;
  pthread_mutex_lock(&core->lock);
  status = grpc_reply_model_config(&call->reply, &call->model->model, err);
  pthread_mutex_unlock(&core->lock);
  return status;
}

static mu_status model_statistics(struct call *call, const struct grpc_request *request, bool *ret_later,
                                  mu_error *err) {
  struct core *core = call->loop->core;
  mu_status status = request->name[0] != '\0' ? hold_model(call, request, err) : MU_OK;
  if (status != MU_OK) return status;
  size_t n;
  pthread_mutex_lock(&core->lock);
  const struct model **models = core_models_of(core, request->name, request->version, &n);
  status = models != NULL ? grpc_reply_statistics(&call->reply, models, n, err) : no_memory(err);
  pthread_mutex_unlock(&core->lock);
  free(models);
  return status;
}

static mu_status health_check(struct call *call, const struct grpc_request *request, bool *ret_later, mu_error *err) {
  enum grpc_serving serving = grpc_health_of(call->loop->core, request->name);
  if (serving == GRPC_SERVICE_UNKNOWN)
    return mu_fail(err, MU_NOT_FOUND, "there is no service or model '%s' here", request->name);
  return grpc_reply_health(&call->reply, serving, err);
}

/* ---- the repository ---------------------------------------------------------------------------------------------- */

static mu_status print_index(struct call *call, mu_error *err) {
  struct core *core = call->loop->core;
  size_t n;
  pthread_mutex_lock(&core->lock);
  const struct model **models = core_index_models(core, &n);
  mu_status status = models != NULL ? grpc_reply_repository_index(&call->reply, models, n, call->index_ready_only, err)
                                    : no_memory(err);
  pthread_mutex_unlock(&core->lock);
  free(models);
  return status;
}

/* Where the repository could not be looked at, what is known is still the answer. */
static void on_listed(void *context, mu_status status, const char *text) {
  struct call *call = context;
  mu_error err;
  call->control = NULL;
  status = print_index(call, &err);
  answer(call, status, err.message);
}

static mu_status repository_index(struct call *call, const struct grpc_request *request, bool *ret_later,
                                  mu_error *err) {
  call->index_ready_only = request->ready;
  if (!model_control_index_is_old(call->loop->core) ||
      model_control_index(call->loop, on_listed, call, &call->control, err) != MU_OK)
    return print_index(call, err);
  await(call, ret_later);
  return MU_OK;
}

static void on_controlled(void *context, mu_status status, const char *text) {
  struct call *call = context;
  call->control = NULL;
  answer_empty(call, status, text);
}

static struct model_parameter parameter_of(const struct grpc_setting *setting) {
  struct model_parameter parameter = {.key = setting->key, .key_size = strlen(setting->key)};
  switch (setting->kind) {
    case GRPC_VALUE_BOOL:
      parameter.kind = MODEL_PARAMETER_BOOL;
      parameter.number = setting->flag;
      break;
    case GRPC_VALUE_I64:
      parameter.kind = MODEL_PARAMETER_INT;
      parameter.number = setting->number;
      break;
    default:
      parameter.kind = setting->kind == GRPC_VALUE_BYTES ? MODEL_PARAMETER_BYTES : MODEL_PARAMETER_STRING;
      parameter.data = setting->text != NULL ? setting->text : "";
      parameter.size = setting->size;
  }
  return parameter;
}

static mu_status control(struct call *call, const struct grpc_request *request, bool *ret_later, mu_error *err) {
  struct model_parameter parameters[MODEL_PARAMETERS_MAX];
  if (request->n_settings > MODEL_PARAMETERS_MAX)
    return mu_fail(err, MU_INVALID, "more than %d parameters", MODEL_PARAMETERS_MAX);
  for (uint32_t i = 0; i < request->n_settings; i++) parameters[i] = parameter_of(&request->settings[i]);
  mu_status status = call->method == GRPC_REPOSITORY_MODEL_LOAD
                         ? model_control_load(call->loop, request->name, parameters, request->n_settings, on_controlled,
                                              call, &call->control, err)
                         : model_control_unload(call->loop, request->name, parameters, request->n_settings,
                                                on_controlled, call, &call->control, err);
  if (status == MU_OK) await(call, ret_later);
  return status;
}

/* ---- shared memory of clients ------------------------------------------------------------------------------------ */

static mu_status region_status(struct call *call, const struct grpc_request *request, bool *ret_later, mu_error *err) {
  struct region **regions = NULL;
  size_t n = 0;
  mu_status status = regions_hold_all(&call->loop->core->regions, request->name, &regions, &n, err);
  if (status != MU_OK) return status;
  struct grpc_region *views = calloc(n + 1, sizeof *views);
  for (size_t i = 0; views != NULL && i < n; i++)
    views[i] = (struct grpc_region){.name = regions[i]->name,
                                    .key = regions[i]->key,
                                    .offset = regions[i]->offset,
                                    .byte_size = regions[i]->byte_size};
  status = views != NULL ? grpc_reply_system_regions(&call->reply, views, n, err) : no_memory(err);
  free(views);
  regions_release_all(regions, n);
  return status;
}

static void on_changed(struct region_change *change) {
  struct call *call = change->context;
  if (call != NULL) { /* the client is still there */
    call->region_change = NULL;
    answer_empty(call, change->status, change->error.message);
  }
  free(change);
}

static mu_status region_change(struct call *call, const struct grpc_request *request, bool *ret_later, mu_error *err) {
  if (strlen(request->name) > REGION_NAME_MAX)
    return mu_fail(err, MU_INVALID, "the name of a region has at most %d bytes", REGION_NAME_MAX);
  struct region_change *change = calloc(1, sizeof *change);
  if (change == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the request");
  change->registers = call->method == GRPC_SYSTEM_SHARED_MEMORY_REGISTER;
  snprintf(change->name, sizeof change->name, "%s", request->name);
  if (change->registers && strlen(request->key) >= sizeof change->key) {
    free(change);
    return mu_fail(err, MU_INVALID, "the key of a region has at most %d bytes", REGION_KEY_MAX);
  }
  if (change->registers) {
    snprintf(change->key, sizeof change->key, "%s", request->key);
    change->offset = request->offset;
    change->byte_size = request->byte_size;
  }
  change->done = on_changed;
  change->context = call;
  call->region_change = change;
  await(call, ret_later);
  region_change_begin(change, call->loop);
  return MU_OK;
}

static mu_status cuda_region_status(struct call *call, const struct grpc_request *request, bool *ret_later,
                                    mu_error *err) {
  if (request->name[0] == '\0') return grpc_reply_cuda_regions(&call->reply, NULL, 0, err);
  return mu_fail(err, MU_NOT_FOUND, "Unable to find cuda shared memory region: '%.255s'", request->name);
}

static mu_status cuda_region_register(struct call *call, const struct grpc_request *request, bool *ret_later,
                                      mu_error *err) {
  return mu_fail(err, MU_UNSUPPORTED,
                 "failed to register CUDA shared memory region: '%.200s': muster does not open CUDA memory of clients; "
                 "use system shared memory",
                 request->name);
}

/* There is none: nothing is left registered. */
static mu_status cuda_region_unregister(struct call *call, const struct grpc_request *request, bool *ret_later,
                                        mu_error *err) {
  return grpc_reply_empty(&call->reply, err);
}

/* ---- settings ---------------------------------------------------------------------------------------------------- */

static const struct {
  const char *name;
  enum log_change_field field;
  size_t at; /* of a bool in struct log_settings */
} log_flags[] = {
    {"log_info", LOG_CHANGE_INFO, offsetof(struct log_settings, info)},
    {"log_warning", LOG_CHANGE_WARNING, offsetof(struct log_settings, warning)},
    {"log_error", LOG_CHANGE_ERROR, offsetof(struct log_settings, error)},
};
enum { N_LOG_FLAGS = sizeof log_flags / sizeof *log_flags };

static mu_status change_log_flag(const struct grpc_setting *setting, struct log_change *change, bool *ret_found,
                                 mu_error *err) {
  for (size_t i = 0; i < N_LOG_FLAGS; i++) {
    if (strcmp(setting->key, log_flags[i].name) != 0) continue;
    if (setting->kind != GRPC_VALUE_BOOL)
      return mu_fail(err, MU_INVALID, "the log setting '%s' is a bool", setting->key);
    *ret_found = true;
    change->fields |= log_flags[i].field;
    *(bool *)((char *)&change->to + log_flags[i].at) = setting->flag;
  }
  return MU_OK;
}

static mu_status change_log(const struct grpc_setting *setting, struct log_change *change, mu_error *err) {
  bool found = false;
  mu_status status = change_log_flag(setting, change, &found, err);
  if (status != MU_OK || found) return status;
  if (strcmp(setting->key, "log_file") == 0) return mu_fail(err, MU_UNSUPPORTED, "%s", log_file_refusal);
  if (strcmp(setting->key, "log_format") == 0 && setting->kind == GRPC_VALUE_TEXT)
    return log_change_set_format(change, setting->text, setting->size, err);
  if (strcmp(setting->key, "log_verbose_level") == 0 && setting->kind == GRPC_VALUE_I64 && setting->number >= 0 &&
      setting->number <= INT_MAX) {
    change->fields |= LOG_CHANGE_VERBOSE_LEVEL;
    change->to.verbose_level = (int)setting->number;
    return MU_OK;
  }
  return mu_fail(err, MU_INVALID, "there is no log setting '%.100s' with such a value", setting->key);
}

static mu_status log_settings(struct call *call, const struct grpc_request *request, bool *ret_later, mu_error *err) {
  struct log_change change = {.fields = 0};
  struct log_settings now;
  for (uint32_t i = 0; i < request->n_settings; i++) {
    mu_status status = change_log(&request->settings[i], &change, err);
    if (status != MU_OK) return status;
  }
  gateway_change_log(call->loop->core, &change, &now);
  struct grpc_setting settings[] = {
      {.key = "log_file", .kind = GRPC_VALUE_TEXT, .text = ""},
      {.key = "log_info", .kind = GRPC_VALUE_BOOL, .flag = now.info},
      {.key = "log_warning", .kind = GRPC_VALUE_BOOL, .flag = now.warning},
      {.key = "log_error", .kind = GRPC_VALUE_BOOL, .flag = now.error},
      {.key = "log_verbose_level", .kind = GRPC_VALUE_I64, .number = now.verbose_level},
      {.key = "log_format", .kind = GRPC_VALUE_TEXT, .text = log_format_text(&now)},
  };
  for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
    if (settings[i].text != NULL) settings[i].size = strlen(settings[i].text);
  return grpc_reply_log_settings(&call->reply, settings, sizeof settings / sizeof *settings, err);
}

/* Numbers are text here, too. */
struct trace_texts {
  char rate[24], count[24], frequency[24];
};

static mu_status print_trace(struct call *call, const struct trace_settings *now, const char *file, mu_error *err) {
  struct trace_texts texts;
  snprintf(texts.rate, sizeof texts.rate, "%" PRIu32, now->rate);
  snprintf(texts.count, sizeof texts.count, "%" PRId32, now->count);
  snprintf(texts.frequency, sizeof texts.frequency, "%" PRIu32, now->log_frequency);
  const char *level = now->timestamps ? "TIMESTAMPS" : "OFF", *rate = texts.rate, *count = texts.count,
             *frequency = texts.frequency, *mode = "triton";
#define SETTING(name, value) \
  { .key = (name), .kind = GRPC_VALUE_LIST, .values = &(value), .n_values = 1 }
  const struct grpc_setting settings[] = {
      SETTING("trace_file", file),   SETTING("trace_level", level),       SETTING("trace_rate", rate),
      SETTING("trace_count", count), SETTING("log_frequency", frequency), SETTING("trace_mode", mode),
  };
#undef SETTING
  return grpc_reply_trace_settings(&call->reply, settings, sizeof settings / sizeof *settings, err);
}

static mu_status trace_setting(struct call *call, const struct grpc_request *request, bool *ret_later, mu_error *err) {
  struct trace_change change = {.fields = 0};
  struct trace_settings now;
  const char *file, *model = request->name[0] != '\0' ? request->name : NULL;
  mu_status status = MU_OK;
  for (uint32_t i = 0; i < request->n_settings && status == MU_OK; i++) {
    const struct grpc_setting *setting = &request->settings[i];
    status = trace_change_set(&change, setting->key, setting->values, setting->n_values, err);
  }
  if (status == MU_OK) status = gateway_change_trace(call->loop->core, model, &change, &now, &file, err);
  return status == MU_OK ? print_trace(call, &now, file, err) : status;
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

/* Who may ask: anybody, or those that --admin says. */
enum guard { OPEN, GUARDED, CHANGES_GUARDED /* anybody may look */ };

static const struct {
  endpoint_fn run;
  enum guard guard;
} endpoints[GRPC_METHOD_COUNT] = {
    [GRPC_SERVER_LIVE] = {server_live, OPEN},
    [GRPC_SERVER_READY] = {server_ready, OPEN},
    [GRPC_MODEL_READY] = {model_ready, OPEN},
    [GRPC_SERVER_METADATA] = {server_metadata, OPEN},
    [GRPC_MODEL_METADATA] = {model_metadata, OPEN},
    [GRPC_MODEL_CONFIG] = {model_config, OPEN},
    [GRPC_MODEL_STATISTICS] = {model_statistics, OPEN},
    [GRPC_REPOSITORY_INDEX] = {repository_index, OPEN},
    [GRPC_REPOSITORY_MODEL_LOAD] = {control, GUARDED},
    [GRPC_REPOSITORY_MODEL_UNLOAD] = {control, GUARDED},
    [GRPC_SYSTEM_SHARED_MEMORY_STATUS] = {region_status, GUARDED},
    [GRPC_SYSTEM_SHARED_MEMORY_REGISTER] = {region_change, GUARDED},
    [GRPC_SYSTEM_SHARED_MEMORY_UNREGISTER] = {region_change, GUARDED},
    [GRPC_CUDA_SHARED_MEMORY_STATUS] = {cuda_region_status, GUARDED},
    [GRPC_CUDA_SHARED_MEMORY_REGISTER] = {cuda_region_register, GUARDED},
    [GRPC_CUDA_SHARED_MEMORY_UNREGISTER] = {cuda_region_unregister, GUARDED},
    [GRPC_TRACE_SETTING] = {trace_setting, CHANGES_GUARDED},
    [GRPC_LOG_SETTINGS] = {log_settings, CHANGES_GUARDED},
    [GRPC_HEALTH_CHECK] = {health_check, OPEN},
};

bool grpc_endpoint_allowed(struct call *call, mu_error *err) {
  return endpoints[call->method].guard != GUARDED || gateway_admin_allowed(call, err);
}

void grpc_endpoint_answer(struct call *call) {
  const endpoint_fn run = endpoints[call->method].run;
  struct grpc_request request;
  mu_error err;
  bool later = false;
  if (run == NULL) {
    answer(call, MU_UNSUPPORTED, "muster does not serve this method");
    return;
  }
  buffer_clear(&call->reply);
  mu_status status =
      grpc_request_read(call->method, call->text.data != NULL ? call->text.data : "", call->text.size, &request, &err);
  bool guarded = endpoints[call->method].guard == CHANGES_GUARDED && request.n_settings > 0;
  if (status == MU_OK && guarded && !gateway_admin_allowed(call, &err)) {
    grpc_request_free(&request);
    grpc_reply_error(call, GRPC_PERMISSION_DENIED, err.message);
    call_free(call);
    return;
  }
  if (status == MU_OK) status = run(call, &request, &later, &err);
  grpc_request_free(&request);
  if (!later) answer(call, status, err.message);
}
