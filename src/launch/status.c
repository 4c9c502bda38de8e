/* What runs, as JSON (the control socket, state.json) and for people. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launch/state.h"
#include "proto/json/json_text.h"

static pid_t shown_pid(const struct launched *service) {
  return service->process != NULL ? process_pid(service->process) : service->daemonised ? service->adopted : 0;
}

json_t *launch_text_json(const char *text) {
  size_t size = strlen(text);
  if (json_utf8_valid(text, size)) return json_string(text);
  char *plain = malloc(size + 1);
  if (plain == NULL) return NULL;
  for (size_t i = 0; i <= size; i++) plain[i] = (signed char)text[i] < 0 ? '?' : text[i];
  json_t *json = json_string(plain);
  free(plain);
  return json;
}

static json_t *text_or_null(const char *text) { return text[0] != '\0' ? json_string(text) : json_null(); }
static json_t *number_or_null(int64_t number) { return number != 0 ? json_integer(number) : json_null(); }

static json_t *service_json(const struct launched *service, uint64_t now_ns) {
  const struct plan_gpu *gpu = service->plan.gpu;
  return json_pack("{s:s, s:s, s:I, s:s, s:o, s:o, s:o, s:o, s:b, s:o, s:I, s:o, s:f, s:o}", "id", service->plan.id,
                   "group", service->group->name, "index", (json_int_t)service->index, "state",
                   service_state_name(service->state), "pid", number_or_null(shown_pid(service)), "port",
                   number_or_null(service->plan.port), "gpu", text_or_null(gpu != NULL ? gpu->name : ""), "uuid",
                   text_or_null(gpu != NULL ? gpu->uuid : ""), "daemon", service->daemonised, "mps",
                   launch_mps_service_json(service), "restarts", (json_int_t)service->restarts, "reason",
                   launch_text_json(service->reason), "since_s",
                   (double)(now_ns - service->since_ns) / (double)NS_PER_S, "log", launch_text_json(service->log_path));
}

static const char *state_name(const struct launch *launch) {
  if (launch->stopping) return "stopping";
  bool all = true;
  list_each (link, &launch->services) all = all && list_item(link, struct launched, link)->state == SERVICE_READY;
  return all ? "ready" : launch->settled ? "degraded" : "starting";
}

/* "127.0.0.1:50051-50066,127.0.0.1:8001"; empty without ports. */
static void print_backends(const struct launch *launch, struct buffer *out) {
  uint32_t first = 0, last = 0;
  const char *comma = "";
  for (const struct list *link = launch->services.next;; link = link->next) {
    bool end = link == &launch->services;
    uint16_t port = end ? 0 : list_item(link, const struct launched, link)->plan.port;
    if (!end && port != 0 && port == last + 1) {
      last = port;
      continue;
    }
    if (last != 0 && last > first) buffer_print(out, "%s127.0.0.1:%u-%u", comma, first, last);
    if (last != 0 && last == first) buffer_print(out, "%s127.0.0.1:%u", comma, first);
    if (last != 0) comma = ",";
    if (end) return;
    first = last = port;
  }
}

/* A stop takes no longer than that, whatever hangs. */
static uint64_t longest_stop_ns(const struct launch *launch) {
  int64_t longest = 0;
  for (size_t i = 0; i < launch->plan->n_groups; i++) {
    int64_t timeout = launch->plan->groups[i].settings->stop_timeout_ns;
    if (timeout > longest) longest = timeout;
  }
  return (uint64_t)longest + (uint64_t)(TERMINATE_MS + UNKILLABLE_MS) * NS_PER_MS + launch_mps_end_ns(launch);
}

json_t *launch_status_json(const struct launch *launch) {
  uint64_t now_ns = clock_now_ns();
  struct buffer backends;
  json_t *services = json_array(), *document = NULL;
  bool whole = true;
  list_each (link, &launch->services)
    whole = json_array_append_new(services, service_json(list_item(link, struct launched, link), now_ns)) == 0 && whole;
  buffer_init(&backends, 1 << 20);
  print_backends(launch, &backends);
  const char *text = backends.failed ? NULL : buffer_text(&backends);
  if (text != NULL && services != NULL && whole)
    document =
        json_pack("{s:s, s:i, s:o, s:s, s:f, s:s, s:O, s:o, s:o}", "state", state_name(launch), "pid", (int)getpid(),
                  "state_folder", launch_text_json(launch->state_folder), "version", MUSTER_VERSION, "stop_timeout_s",
                  (double)longest_stop_ns(launch) / (double)NS_PER_S, "backends", text, "services", services, "mps",
                  launch_mps_json(launch), "gpus", gpu_watch_json(launch));
  json_decref(services);
  buffer_free(&backends);
  return document;
}

mu_status launch_state_write(const struct launch *launch, mu_error *err) {
  char path[LAUNCH_PATH_MAX + 32], fresh[LAUNCH_PATH_MAX + 40];
  snprintf(path, sizeof path, "%s/" LAUNCH_STATE_NAME, launch->state_folder);
  snprintf(fresh, sizeof fresh, "%s.new", path);
  json_t *document = launch_status_json(launch);
  if (document == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for %.200s", path);
  bool ok = json_dump_file(document, fresh, JSON_INDENT(1)) == 0 && rename(fresh, path) == 0;
  json_decref(document);
  return ok ? MU_OK : mu_fail(err, MU_IO, "cannot write %.300s: %s", path, strerror(errno));
}

void launch_summary(const struct launch *launch, struct buffer *out) {
  struct buffer backends;
  size_t n = 0, ready = 0;
  list_each (link, &launch->services) {
    const struct launched *service = list_item(link, struct launched, link);
    n++;
    ready += service->state == SERVICE_READY;
    if (service->state == SERVICE_READY) continue;
    buffer_print(out, "%s is %s%s%s\n", service->plan.id, service_state_name(service->state),
                 service->reason[0] != '\0' ? ": " : "", service->reason);
  }
  buffer_print(out, "%zu of %zu services are ready. State: %s\n", ready, n, launch->state_folder);
  buffer_init(&backends, 1 << 20);
  print_backends(launch, &backends);
  if (backends.size > 0)
    buffer_print(out, "In front of them: muster proxy --backends %.*s\n", (int)backends.size, backends.data);
  buffer_free(&backends);
}
