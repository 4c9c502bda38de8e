/* The control socket in the state folder: HTTP and JSON, for `muster launch status`, `stop` and so on. */
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/answer.h"
#include "launch/state.h"

/* ---- answers ----------------------------------------------------------------------------------------------------- */

static void answer_status(struct launch *launch, struct exchange *exchange) {
  control_answer(exchange, 200, launch_status_json(launch));
}

static void answer_stop(struct launch *launch, struct exchange *exchange) {
  control_answer(exchange, 202, json_pack("{s:s}", "state", "stopping"));
  launch_stop(launch, "muster launch stop");
}

/* ---- what a request names ---------------------------------------------------------------------------------------- */

/* The value of name in the query, into text; "" where it is not there. No escapes: names and numbers need none. */
static const char *query_value(const struct exchange *exchange, const char *name, char *text, size_t size) {
  size_t length = strlen(name);
  text[0] = '\0';
  for (const char *at = exchange->query; *at != '\0';) {
    size_t n = strcspn(at, "&");
    if (strncmp(at, name, length) == 0 && at[length] == '=')
      snprintf(text, size, "%.*s", (int)(n - length - 1), at + length + 1);
    at += n + (at[n] == '&');
  }
  return text;
}

/* "3", "lipsync/3". NULL has answered. */
static struct launched *find_service(struct launch *launch, struct exchange *exchange) {
  char id[LAUNCH_ID_SIZE], message[256];
  query_value(exchange, "id", id, sizeof id);
  bool short_form = strchr(id, '/') == NULL;
  list_each (link, &launch->services) {
    struct launched *service = list_item(link, struct launched, link);
    char index[16];
    snprintf(index, sizeof index, "%u", service->index);
    if (short_form ? launch->plan->n_groups == 1 && strcmp(index, id) == 0 : strcmp(service->plan.id, id) == 0)
      return service;
  }
  snprintf(message, sizeof message, "there is no service %s%s", id,
           short_form && launch->plan->n_groups > 1 ? ": with several groups it is GROUP/INDEX" : "");
  exchange_reply_error(exchange, 404, message);
  return NULL;
}

/* false has answered. NULL: none named; where there is one group, that. */
static bool find_group(struct launch *launch, struct exchange *exchange, bool needed, struct plan_group **ret_group) {
  char name[LAUNCH_ID_SIZE], message[256];
  query_value(exchange, "group", name, sizeof name);
  *ret_group = launch->plan->n_groups == 1 && name[0] == '\0' ? &launch->plan->groups[0] : NULL;
  for (size_t i = 0; i < launch->plan->n_groups; i++)
    if (strcmp(launch->plan->groups[i].name, name) == 0) *ret_group = &launch->plan->groups[i];
  if (*ret_group != NULL || (name[0] == '\0' && !needed)) return true;
  snprintf(message, sizeof message, name[0] == '\0' ? "there are several groups: say --group" : "there is no group %s",
           name);
  exchange_reply_error(exchange, name[0] == '\0' ? 400 : 404, message);
  return false;
}

/* ---- operations -------------------------------------------------------------------------------------------------- */

/* false has answered. */
static bool may_begin(const struct launch *launch, struct exchange *exchange) {
  if (launch->stopping)
    exchange_reply_error(exchange, 409, "the launch is stopping");
  else if (launch->operation.kind != OPERATION_NONE)
    exchange_reply_error(exchange, 409, "a restart or a change of scale is going on: try again when it is over");
  else
    return true;
  return false;
}

/* failure: NULL when all went well. */
static void end_operation(struct launch *launch, const char *failure) {
  struct operation operation = launch->operation;
  launch->operation = (struct operation){.kind = OPERATION_NONE};
  if (failure != NULL) LOG_WARNING("what was asked for has failed", LOG_STR("reason", failure));
  if (operation.exchange == NULL) return;
  if (failure != NULL)
    exchange_reply_error(operation.exchange, 500, failure);
  else
    control_answer(operation.exchange, 200, json_pack("{s:I}", "done", (json_int_t)operation.done));
}

static void fail_operation(struct launch *launch, const struct launched *service) {
  char message[LAUNCH_REASON_MAX + LAUNCH_ID_SIZE + 64];
  snprintf(message, sizeof message, "%s is %s: %s", service->plan.id, service_state_name(service->state),
           service->reason[0] != '\0' ? service->reason : "no reason is known");
  end_operation(launch, message);
}

static void begin_restart(struct launch *launch, struct exchange *exchange) {
  if (!may_begin(launch, exchange)) return;
  struct launched *service = find_service(launch, exchange);
  if (service == NULL) return;
  launch->operation = (struct operation){.kind = OPERATION_RESTART, .exchange = exchange, .service = service};
  service_restart(service);
}

static struct launched *next_of(struct launch *launch, const struct launched *after, const struct plan_group *group) {
  for (struct list *link = after == NULL ? launch->services.next : after->link.next; link != &launch->services;
       link = link->next) {
    struct launched *service = list_item(link, struct launched, link);
    if (group == NULL || service->group == group) return service;
  }
  return NULL;
}

static void begin_rolling(struct launch *launch, struct exchange *exchange) {
  struct plan_group *group;
  if (!may_begin(launch, exchange) || !find_group(launch, exchange, false, &group)) return;
  struct launched *first = next_of(launch, NULL, group);
  launch->operation =
      (struct operation){.kind = OPERATION_ROLLING, .exchange = exchange, .group = group, .service = first};
  if (first != NULL)
    service_restart(first);
  else
    end_operation(launch, NULL);
}

/* Ports are looked at before anything starts: all or none. */
static mu_status grow(struct launch *launch, struct plan_group *group, uint32_t n, mu_error *err) {
  mu_status status = plan_check_count(launch->plan, group, n, err);
  for (uint32_t i = group->count; group->ports.first != 0 && status == MU_OK && i < n; i++)
    status = port_check_free((uint16_t)(group->ports.first + i), err);
  list_each (link, &launch->services) { /* what could not be killed when it was to go has its number still */
    const struct launched *service = list_item(link, struct launched, link);
    if (status == MU_OK && service->group == group && service->index >= group->count && service->index < n)
      status = mu_fail(err, MU_EXISTS, "the last %s is still there: %.300s", service->plan.id, service->reason);
  }
  while (status == MU_OK && group->count < n) {
    status = service_add(launch, group, group->count, err);
    if (status == MU_OK) group->count++;
  }
  return status;
}

static void shrink(struct launch *launch, struct plan_group *group, uint32_t n) {
  group->count = n;
  list_each (link, &launch->services) {
    struct launched *service = list_item(link, struct launched, link);
    if (service->group == group && service->index >= n) service_stop_with_others(service, STOP_REMOVE);
  }
  members_signal_due(launch, SIGTERM);
}

static void begin_scale(struct launch *launch, struct exchange *exchange) {
  char text[16];
  struct plan_group *group;
  mu_error err;
  if (!may_begin(launch, exchange) || !find_group(launch, exchange, true, &group)) return;
  query_value(exchange, "n", text, sizeof text);
  char *end;
  unsigned long n = strtoul(text, &end, 10);
  if (!isdigit((unsigned char)text[0]) || *end != '\0' || n < 1 || n > LAUNCH_SERVICES_MAX) {
    exchange_reply_error(exchange, 400, "a number of services from 1 to 4096");
    return;
  }
  mu_status status = MU_OK;
  if (n < group->count)
    shrink(launch, group, (uint32_t)n);
  else
    status = grow(launch, group, (uint32_t)n, &err);
  if (status != MU_OK) {
    exchange_reply_error(exchange, status == MU_NO_MEMORY ? 503 : 409, err.message);
    return;
  }
  launch->operation =
      (struct operation){.kind = OPERATION_SCALE, .exchange = exchange, .group = group, .done = (uint32_t)n};
  launch_changed(launch);
}

static void step_restart(struct launch *launch) {
  struct operation *operation = &launch->operation;
  struct launched *service = operation->service;
  if (service->state == SERVICE_BACKOFF || service->state == SERVICE_FAILED || service->state == SERVICE_STOPPED) {
    fail_operation(launch, service);
    return;
  }
  if (service->state != SERVICE_READY) return;
  operation->done++;
  if (operation->kind == OPERATION_ROLLING) operation->service = next_of(launch, service, operation->group);
  if (operation->kind == OPERATION_RESTART || operation->service == NULL)
    end_operation(launch, NULL);
  else
    service_restart(operation->service);
}

static void step_scale(struct launch *launch) {
  const struct plan_group *group = launch->operation.group;
  bool going_on = false;
  const struct launched *failed = NULL;
  list_each (link, &launch->services) {
    const struct launched *service = list_item(link, struct launched, link);
    if (service->group != group) continue;
    going_on = going_on || service->state == SERVICE_WAITING || service->state == SERVICE_STARTING ||
               service->state == SERVICE_STOPPING;
    if (service->state == SERVICE_FAILED || service->state == SERVICE_BACKOFF) failed = service;
  }
  if (going_on) return; /* those that leave, above all: the next operation has to find them gone */
  if (failed != NULL)
    fail_operation(launch, failed);
  else
    end_operation(launch, NULL);
}

void operation_step(struct launch *launch) {
  static void (*const steps[])(struct launch * launch) = {
      [OPERATION_RESTART] = step_restart, [OPERATION_ROLLING] = step_restart, [OPERATION_SCALE] = step_scale};
  if (launch->operation.kind == OPERATION_NONE) return;
  if (launch->stopping)
    end_operation(launch, "the launch is stopping");
  else
    steps[launch->operation.kind](launch);
}

/* ---- the service ------------------------------------------------------------------------------------------------- */

static const struct route {
  const char *path, *method;
  void (*answer)(struct launch *launch, struct exchange *exchange);
} routes[] = {
    {"/status", "GET", answer_status},           {"/stop", "POST", answer_stop},  {"/restart", "POST", begin_restart},
    {"/rolling-restart", "POST", begin_rolling}, {"/scale", "POST", begin_scale},
};

static void on_begin(void *context, struct exchange *exchange) {}
static void on_body(void *context, struct exchange *exchange, const uint8_t *data, size_t size) {}
static void on_gone(void *context, struct exchange *exchange) {
  struct launch *launch = context;
  if (launch->operation.exchange == exchange) launch->operation.exchange = NULL; /* it goes on all the same */
}

static void on_end(void *context, struct exchange *exchange) {
  for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
    if (strcmp(exchange->path, routes[i].path) != 0) continue;
    if (strcmp(exchange->method, routes[i].method) == 0)
      routes[i].answer(context, exchange);
    else
      exchange_reply_error(exchange, 405, "wrong method");
    return;
  }
  exchange_reply_error(exchange, 404, "there are GET /status, POST /stop, /restart, /rolling-restart and /scale");
}

/* The process that listens on the socket; 0: it cannot be seen. */
static int listener_pid(const char *path) {
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  struct ucred peer = {0};
  socklen_t size = sizeof peer;
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return 0;
  snprintf(name.sun_path, sizeof name.sun_path, "%.107s", path);
  bool known = connect(fd, (const struct sockaddr *)&name, sizeof name) == 0 &&
               getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0;
  close(fd);
  return known ? (int)peer.pid : 0;
}

static void socket_path(const struct launch *launch, char *path, size_t size) {
  snprintf(path, size, "%s/" LAUNCH_SOCKET_NAME, launch->state_folder);
}

mu_status control_open(struct launch *launch, mu_error *err) {
  char path[LAUNCH_PATH_MAX + 32];
  socket_path(launch, path, sizeof path);
  mu_status status = listen_unix(path, &launch->control_fd, err);
  if (status == MU_EXISTS)
    return mu_fail(err, status,
                   "another launch runs with this state folder, process %d: muster launch stop --state-dir %.200s",
                   listener_pid(path), launch->state_folder);
  launch->control_bound = status == MU_OK;
  return status;
}

mu_status control_serve(struct launch *launch, mu_error *err) {
  static const struct service service = {.begin = on_begin, .body = on_body, .end = on_end, .gone = on_gone};
  launch->control = http_server_create(launch->loop, &service, launch, &control_limits);
  if (launch->control == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the control socket");
  int fd = launch->control_fd;
  launch->control_fd = -1;
  return http_server_listen(launch->control, fd, err);
}

void control_close(struct launch *launch) {
  char path[LAUNCH_PATH_MAX + 32];
  http_server_free(launch->control);
  launch->control = NULL;
  if (launch->control_fd >= 0) close(launch->control_fd);
  launch->control_fd = -1;
  socket_path(launch, path, sizeof path);
  if (launch->control_bound) unlink(path);
  launch->control_bound = false;
}
