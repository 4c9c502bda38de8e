#include "config/control_socket.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "control/answer.h"
#include "supervisor/state.h"

/* ---- GET /status ------------------------------------------------------------------------------------------------- */

static json_t *listeners_json(const char *address, uint16_t port, uint32_t n) {
  if (n == 0) return json_array();
  return json_pack("[{s:s, s:i}]", "address", address, "port", (int)port);
}

static json_t *pid_json(const struct child *child) {
  return child_runs(child) ? json_integer(child_pid(child)) : json_null();
}

/* Why it is not ready, or what else is to be said of it. */
static const char *model_remark(const struct served_model *model) {
  static const char *const remarks[] = {
      [SERVED] = "",
      [COMING] = "is loading, requests get it when it is ready",
      [LEAVING] = "finishes the requests that it has",
      [LEFT] = "its workers leave",
  };
  if (model->reason[0] != '\0' && model->role != LEFT) return model->reason;
  return model->note[0] != '\0' ? model->note : remarks[model->role];
}

static enum model_state shown_state(const struct served_model *model) {
  return model->role >= LEAVING ? MODEL_UNLOADING : model->state;
}

static json_t *models_json(const struct supervisor *s) {
  json_t *models = json_array();
  list_each (link, &s->models) {
    const struct served_model *model = list_item(link, struct served_model, link);
    json_array_append_new(
        models, json_pack("{s:s, s:I, s:s, s:s}", "name", model->name, "version", (json_int_t)model->version, "state",
                          model_state_name(shown_state(model)), "reason", model_remark(model)));
  }
  return models;
}

static json_t *workers_json(const struct supervisor *s) {
  json_t *workers = json_array();
  list_each (link, &s->workers) {
    const struct worker *worker = list_item(link, struct worker, all);
    json_array_append_new(
        workers,
        json_pack("{s:I, s:o, s:s, s:I, s:s, s:s, s:I, s:s, s:O*, s:s*}", "worker", (json_int_t)worker->number, "pid",
                  pid_json(&worker->child), "model", worker->model->name, "version", (json_int_t)worker->model->version,
                  "device", worker->group->label, "state", worker_state_name(worker->state), "restarts",
                  (json_int_t)worker->restarts, "reason", worker->reason, "backends", worker->backends, "gpu",
                  worker_plan_gpu(worker->group->device)));
  }
  return workers;
}

static json_t *gateway_json(const struct supervisor *s) {
  return json_pack("{s:o, s:s, s:I}", "pid", pid_json(&s->gateway->child), "state",
                   gateway_state_name(s->gateway->state), "restarts", (json_int_t)s->gateway_restarts);
}

static json_t *status_json(const struct supervisor *s) {
  const struct listeners *listeners = &s->listeners;
  double uptime_s = (double)(clock_now_ns() - s->started_ns) / (double)NS_PER_S;
  return json_pack("{s:s, s:i, s:f, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:f, s:O?, s:o, s:o, s:o, s:o}", "state",
                   supervisor_state_name(s), "pid", (int)getpid(), "uptime_s", uptime_s, "version", MUSTER_VERSION,
                   "http", listeners_json(listeners->http_address, listeners->http_port, listeners->n_http), "grpc",
                   listeners_json(listeners->grpc_address, listeners->grpc_port, listeners->n_grpc), "metrics",
                   listeners_json(listeners->metrics_address, listeners->metrics_port, listeners->n_metrics), "gateway",
                   gateway_json(s), "models", models_json(s), "workers", workers_json(s), "stop_timeout_s",
                   (double)supervisor_stop_ns(s) / (double)NS_PER_S, "reload", s->reload.shown, "upgrade",
                   upgrade_json(s), "fleet", fleet_json(s), "gpus", gpus_json(&s->gpus), "mps", mps_json(s));
}

static void answer_status(struct supervisor *s, struct exchange *exchange) {
  control_answer(exchange, 200, status_json(s));
}

/* ---- POST /stop -------------------------------------------------------------------------------------------------- */

static void answer_stop(struct supervisor *s, struct exchange *exchange) {
  static const char text[] = "{\"state\":\"draining\"}";
  exchange_reply_json(exchange, 202, text, sizeof text - 1);
  supervisor_stop(s, "muster stop");
}

/* ---- POST /reload: answered when it is over ---------------------------------------------------------------------- */

static void answer_reload(struct supervisor *s, struct exchange *exchange) { reload_request(s, exchange); }

/* ---- POST /workers/drain?worker=N -------------------------------------------------------------------------------- */

static void answer_drain(struct supervisor *s, struct exchange *exchange) {
  static const char key[] = "worker=", done[] = "{\"state\":\"retiring\"}";
  const char *text = exchange->query;
  uint32_t number;
  mu_error err;
  int end = 0;
  if (strncmp(text, key, sizeof key - 1) != 0 || text[sizeof key - 1] < '0' || text[sizeof key - 1] > '9' ||
      sscanf(text + sizeof key - 1, "%9" SCNu32 "%n", &number, &end) != 1 ||
      text[sizeof key - 1 + (size_t)end] != '\0') {
    exchange_reply_error(exchange, 400, "worker has to be the number of a worker");
    return;
  }
  mu_status status = workers_drain(s, number, &err);
  if (status == MU_OK)
    exchange_reply_json(exchange, 202, done, sizeof done - 1);
  else
    exchange_reply_error(exchange, status == MU_NOT_FOUND ? 404 : 409, err.message);
}

/* ---- the service ------------------------------------------------------------------------------------------------- */

static const struct route {
  const char *path, *method;
  void (*answer)(struct supervisor *s, struct exchange *exchange);
} routes[] = {
    {"/status", "GET", answer_status},          {"/stop", "POST", answer_stop},
    {"/reload", "POST", answer_reload},         {"/gpus", "GET", gpus_answer_list},
    {"/gpus/fence", "POST", gpus_answer_fence}, {"/gpus/unfence", "POST", gpus_answer_unfence},
    {"/upgrade", "POST", upgrade_request},      {"/workers/drain", "POST", answer_drain},
};

static void on_begin(void *context, struct exchange *exchange) {}
static void on_body(void *context, struct exchange *exchange, const uint8_t *data, size_t size) {}
static void on_gone(void *context, struct exchange *exchange) { reload_forget(context, exchange); }

static void on_end(void *context, struct exchange *exchange) {
  for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
    if (strcmp(exchange->path, routes[i].path) != 0) continue;
    if (strcmp(exchange->method, routes[i].method) == 0)
      routes[i].answer(context, exchange);
    else
      exchange_reply_error(exchange, 405, "wrong method");
    return;
  }
  exchange_reply_error(exchange, 404,
                       "there are GET /status, POST /stop, POST /reload, POST /upgrade and POST /workers/drain");
}

static mu_status choose_path(struct supervisor *s, char path[CONTROL_SOCKET_PATH_MAX], mu_error *err) {
  int64_t port = s->listeners.n_http > 0 ? s->listeners.http_port : s->options->http_port;
  mu_status status = options_control_socket(s->options, port, path, err);
  if (status == MU_OK && s->options->control_socket[0] == '\0') status = control_folder_create(err);
  return status;
}

mu_status control_socket_adopt(struct supervisor *s, int fd, const char *path, mu_error *err) {
  static const struct service service = {.begin = on_begin, .body = on_body, .end = on_end, .gone = on_gone};
  s->control_path = strdup(path);
  s->control_server = http_server_create(s->loop, &service, s, &control_limits);
  s->control_socket = fd;
  if (s->control_path != NULL && s->control_server != NULL) return http_server_listen(s->control_server, fd, err);
  close(fd);
  return mu_fail(err, MU_NO_MEMORY, "no memory for the control socket");
}

mu_status control_socket_open(struct supervisor *s, mu_error *err) {
  char path[CONTROL_SOCKET_PATH_MAX];
  int fd;
  mu_status status = choose_path(s, path, err);
  if (status == MU_OK) status = listen_unix(path, &fd, err);
  if (status != MU_OK) return status;
  status = control_socket_adopt(s, fd, path, err);
  if (status != MU_OK) unlink(path);
  return status;
}

void control_socket_close(struct supervisor *s) {
  http_server_free(s->control_server);
  s->control_server = NULL;
  if (s->control_path != NULL) unlink(s->control_path);
  free(s->control_path);
  s->control_path = NULL;
}
