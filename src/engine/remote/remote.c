#include "engine/remote/remote.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/remote/remote_backends.h"
#include "engine/remote/remote_reply.h"

enum {
  BROKEN_MAX = 3, /* backends that a request may have broken the connection of, before it is given up */
  PATH_BYTES = 900,
};
static const uint64_t pause_ns = 20 * (uint64_t)NS_PER_MS; /* between looks for a backend that is healthy again */

struct mu_engine_model {
  struct remote_settings settings; /* its texts are in memory */
  struct arena memory;
  struct remote_metadata metadata;
  mu_model_info info;
  struct remote_backends *backends;
  char path[PATH_BYTES]; /* of an inference */
};

struct mu_engine_instance {
  mu_engine_model *model;
  struct remote_transfer *transfer;
  struct remote_body body;
  struct remote_results results;
  struct remote_reply reply;
  size_t *tried; /* room for all backends */
  pthread_mutex_t lock;
  bool running; /* with lock */
};

/* ---- the model --------------------------------------------------------------------------------------------------- */

static void remote_model_free(mu_engine_model *model) {
  if (model == NULL) return;
  remote_backends_free(model->backends);
  remote_metadata_free(&model->metadata);
  arena_free(&model->memory);
  free(model);
}

/* The texts of the settings have to outlive the call. */
static mu_status read_settings(const mu_model_spec *spec, mu_engine_model *model, mu_error *err) {
  struct remote_settings *settings = &model->settings;
  mu_status status = remote_settings_read(spec->parameters, spec->n_parameters, settings, err);
  if (status != MU_OK) return status;
  if (settings->model == NULL) settings->model = spec->name;
  const char **const texts[] = {&settings->backends, &settings->model, &settings->version};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    if (*texts[i] == NULL) continue;
    *texts[i] = arena_copy(&model->memory, *texts[i], strlen(*texts[i]));
    if (*texts[i] == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  }
  if (settings->protocol == REMOTE_HTTP) return remote_path(settings, "/infer", model->path, sizeof model->path, err);
  snprintf(model->path, sizeof model->path, "/inference.GRPCInferenceService/ModelInfer");
  return MU_OK;
}

static mu_status find_backends(const mu_model_spec *spec, mu_engine_model *model, mu_error *err) {
  const char *addresses = engine_parameter(spec, ENGINE_ADDRESSES_PARAMETER);
  if (addresses == NULL) return mu_fail(err, MU_INTERNAL, "nobody has looked up the backends' addresses");
  return remote_backends_create(&model->settings, addresses, &model->backends, err);
}

/* What config.pbtxt describes is believed, so that a server may start before its backends; else they are asked. */
static mu_status learn(const mu_model_spec *spec, mu_engine_model *model, mu_error *err) {
  bool declared = spec->n_inputs > 0 && spec->n_outputs > 0;
  uint32_t max_batch = 0;
  mu_status status = declared ? remote_metadata_declared(spec, &model->metadata, err)
                              : remote_backends_learn(model->backends, &model->metadata, &max_batch, err);
  if (status != MU_OK) return status;
  model->info = (mu_model_info){.inputs = model->metadata.inputs,
                                .n_inputs = model->metadata.n_inputs,
                                .outputs = model->metadata.outputs,
                                .n_outputs = model->metadata.n_outputs,
                                .runtime = model->settings.protocol == REMOTE_HTTP ? "remote http" : "remote grpc",
                                .max_batch = max_batch};
  return remote_backends_watch(model->backends, declared ? NULL : &model->metadata, err);
}

static mu_status remote_model_load(const mu_model_spec *spec, mu_engine_model **ret_model, mu_error *err) {
  mu_engine_model *model = calloc(1, sizeof *model);
  if (model == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  mu_status status = read_settings(spec, model, err);
  if (status == MU_OK) status = find_backends(spec, model, err);
  if (status == MU_OK) status = learn(spec, model, err);
  if (status == MU_OK)
    *ret_model = model;
  else
    remote_model_free(model);
  return status;
}

static const mu_model_info *remote_model_info(const mu_engine_model *model) { return &model->info; }

mu_status remote_report(const mu_engine_model *model, struct buffer *out) {
  return remote_backends_report(model->backends, out);
}

/* ---- an instance ------------------------------------------------------------------------------------------------- */

static void remote_instance_free(mu_engine_instance *instance) {
  if (instance == NULL) return;
  remote_transfer_free(instance->transfer);
  remote_body_free(&instance->body);
  remote_reply_free(&instance->reply);
  remote_results_free(&instance->results);
  free(instance->tried);
  pthread_mutex_destroy(&instance->lock);
  free(instance);
}

static mu_status remote_instance_create(mu_engine_model *model, mu_engine_instance **ret_instance, mu_error *err) {
  mu_engine_instance *instance = calloc(1, sizeof *instance);
  if (instance == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  size_t n = remote_backends_count(model->backends);
  pthread_mutex_init(&instance->lock, NULL);
  instance->model = model;
  remote_body_init(&instance->body);
  mu_status status = remote_results_create(&instance->results, &model->info, model->settings.max_reply, err);
  remote_reply_init(&instance->reply, &instance->results, model->settings.protocol);
  if (status == MU_OK && (instance->tried = calloc(n, sizeof *instance->tried)) == NULL)
    status = mu_fail(err, MU_NO_MEMORY, "no memory");
  if (status == MU_OK) status = remote_transfer_create(n, &instance->transfer, err);
  if (status == MU_OK)
    *ret_instance = instance;
  else
    remote_instance_free(instance);
  return status;
}

static void set_running(mu_engine_instance *instance, bool running) {
  pthread_mutex_lock(&instance->lock);
  instance->running = running;
  if (!running) remote_transfer_resume(instance->transfer); /* what came too late is not for the next run */
  pthread_mutex_unlock(&instance->lock);
}

static void remote_stop(mu_engine_instance *instance) {
  pthread_mutex_lock(&instance->lock);
  if (instance->running) remote_transfer_stop(instance->transfer);
  pthread_mutex_unlock(&instance->lock);
}

/* ---- a run ------------------------------------------------------------------------------------------------------- */

struct run {
  mu_engine_instance *instance;
  mu_output *outputs;
  size_t n_outputs;
  uint64_t deadline_ns, wait_until_ns;
  size_t n_tried;
  uint32_t broken;
  mu_error last; /* what the last backend said; "": nothing so far */
  mu_status last_status;
};

static mu_status begin_reply(void *context, const struct remote_head *head, mu_error *err) {
  struct run *run = context;
  mu_status status = remote_results_start(&run->instance->results, run->outputs, run->n_outputs, err);
  return status == MU_OK ? remote_reply_start(&run->instance->reply, head->json_size, err) : status;
}

static mu_status take_reply(void *context, const char *data, size_t size, mu_error *err) {
  return remote_reply_take(&((struct run *)context)->instance->reply, data, size, err);
}

static mu_status finish_reply(void *context, mu_error *err) {
  return remote_reply_finish(&((struct run *)context)->instance->reply, err);
}

static void call(struct run *run, size_t index, struct remote_outcome *outcome) {
  mu_engine_instance *instance = run->instance;
  const mu_engine_model *model = instance->model;
  const struct remote_call request = {.address = remote_backends_address(model->backends, index),
                                      .path = model->path,
                                      .body = &instance->body,
                                      .protocol = model->settings.protocol,
                                      .deadline_ns = run->deadline_ns,
                                      .begin = begin_reply,
                                      .take = take_reply,
                                      .finish = finish_reply,
                                      .context = run};
  remote_transfer_run(instance->transfer, &request, outcome);
  remote_backends_end(model->backends, index, outcome);
}

/* Whether another backend may be asked the same. An inference has no effect but its answer, so it may be asked twice; a
 * request that breaks one server after the other is not taken round to all of them. */
static bool may_retry(struct run *run, const struct remote_outcome *outcome) {
  if (outcome->end == REMOTE_REFUSED) return true;
  if (outcome->end == REMOTE_DECLINED) return outcome->elsewhere;
  return outcome->end == REMOTE_BROKEN && ++run->broken < BROKEN_MAX;
}

static void remember(struct run *run, size_t index, const struct remote_outcome *outcome) {
  run->last_status = mu_fail(&run->last, outcome->status, "backend %.128s: %.360s",
                             remote_backends_name(run->instance->model->backends, index), outcome->error.message);
}

/* No backend is left to try: after a moment all are again. MU_OK: go on. */
static mu_status wait_for_backend(struct run *run, mu_error *err) {
  run->n_tried = 0;
  if (clock_now_ns() < run->wait_until_ns) {
    if (remote_transfer_wait(run->instance->transfer, pause_ns)) return MU_OK;
    return mu_fail(err, MU_CANCELED, "the run was told to stop");
  }
  if (run->last.message[0] != '\0') return mu_fail(err, run->last_status, "%s", run->last.message);
  return mu_fail(err, MU_UNAVAILABLE, "no backend is healthy (muster status says why)");
}

static mu_status run_on_backends(struct run *run, mu_error *err) {
  struct remote_backends *backends = run->instance->model->backends;
  for (;;) {
    struct remote_outcome outcome;
    size_t index = remote_backends_begin(backends, run->instance->tried, run->n_tried);
    if (index == BACKEND_NONE) {
      mu_status status = wait_for_backend(run, err);
      if (status != MU_OK) return status;
      continue;
    }
    run->instance->tried[run->n_tried++] = index;
    call(run, index, &outcome);
    if (outcome.end == REMOTE_ANSWERED) return MU_OK;
    remember(run, index, &outcome);
    if (!may_retry(run, &outcome)) return mu_fail(err, run->last_status, "%s", run->last.message);
  }
}

static mu_status remote_run(mu_engine_instance *instance, const mu_input *inputs, size_t n_inputs, mu_output *outputs,
                            size_t n_outputs, mu_error *err) {
  const mu_engine_model *model = instance->model;
  uint64_t now = clock_now_ns();
  struct run run = {.instance = instance,
                    .outputs = outputs,
                    .n_outputs = n_outputs,
                    .deadline_ns = time_add(now, model->settings.timeout_ns),
                    .wait_until_ns = time_add(now, model->settings.wait_ns)};
  if (run.wait_until_ns > run.deadline_ns) run.wait_until_ns = run.deadline_ns;
  mu_status status =
      remote_body_write(&instance->body, &model->settings, &model->info, inputs, n_inputs, outputs, n_outputs, err);
  if (status != MU_OK) return status;
  set_running(instance, true);
  status = run_on_backends(&run, err);
  set_running(instance, false);
  return status;
}

const mu_engine engine_remote = {
    .api_version = MU_ENGINE_API_VERSION,
    .name = "remote",
    .model_load = remote_model_load,
    .model_free = remote_model_free,
    .model_info = remote_model_info,
    .instance_create = remote_instance_create,
    .instance_free = remote_instance_free,
    .run = remote_run,
    .stop = remote_stop,
    .any_shape = true,
};
