#include <stdio.h>

#include "base/clock.h"
#include "cli/control_client.h"
#include "cli/top/sample.h"

enum { PAGE_MAX = 64 << 20, TARGET_MS = 2000 };

/* The text at path of the first of the listeners, terminated. MU_NOT_FOUND: there is no listener. */
static mu_status get(const json_t *listeners, const char *path, struct buffer *page, const char **ret_text,
                     mu_error *err) {
  const json_t *listener = json_array_get(listeners, 0);
  const char *address = json_string_value(json_object_get(listener, "address"));
  if (address == NULL) return mu_fail(err, MU_NOT_FOUND, "the server has no port for that");
  mu_status status = control_get_page(address, (uint16_t)json_integer_value(json_object_get(listener, "port")), path,
                                      TARGET_MS, page, err);
  if (status != MU_OK) return status;
  *ret_text = buffer_text(page);
  return *ret_text != NULL ? MU_OK : mu_fail(err, MU_NO_MEMORY, "no memory for %s", path);
}

/* Without --metrics-port there is no page, and without HTTP no /health: then those figures are unknown. */
static void take_pages(struct top_sample *sample, const json_t *status) {
  struct buffer page;
  const char *text;
  mu_error err;
  buffer_init(&page, PAGE_MAX);
  if (get(json_object_get(status, "metrics"), "/metrics", &page, &text, &err) == MU_OK)
    top_read_metrics(sample, text);
  else
    snprintf(sample->metrics_error, sizeof sample->metrics_error, "%.255s", err.message);
  buffer_clear(&page);
  if (get(json_object_get(status, "http"), "/health", &page, &text, &err) == MU_OK) {
    json_t *health = json_loads(text, 0, NULL);
    top_read_health(sample, health);
    json_decref(health);
  }
  buffer_free(&page);
}

void top_take(const struct options *options, struct top_sample *ret_sample) {
  char socket[CONTROL_SOCKET_PATH_MAX];
  mu_error err = {{0}};
  json_t *document = NULL;
  *ret_sample = (struct top_sample){.reached = false};
  mu_status status = control_find(options, socket, &err);
  if (status == MU_OK) status = control_get_status(socket, &document, &err);
  if (status == MU_OK) {
    status = top_read_status(ret_sample, document);
    if (status != MU_OK) mu_fail(&err, status, "no memory for what the server says");
  }
  if (status == MU_OK) {
    take_pages(ret_sample, document);
    top_read_processes(ret_sample, "/proc");
  } else {
    top_sample_free(ret_sample);
    snprintf(ret_sample->error, sizeof ret_sample->error, "%.255s", err.message);
  }
  ret_sample->at_ns = clock_now_ns();
  json_decref(document);
}

bool top_ask(const struct options *options, const char *target, char text[TOP_TEXT_SIZE]) {
  char socket[CONTROL_SOCKET_PATH_MAX];
  struct buffer body;
  mu_error err;
  buffer_init(&body, 1 << 20);
  mu_status status = control_find(options, socket, &err);
  if (status == MU_OK) status = control_ask(socket, "POST", target, CONTROL_PROMPT_MS, &body, &err);
  /* what a server says of a path that it does not know: supervisor/control_socket.c */
  if (status != MU_OK && strstr(err.message, "answered 404: there are GET /status") != NULL)
    mu_fail(&err, status, "this server cannot do that: its muster is older than this one");
  snprintf(text, TOP_TEXT_SIZE, "%.255s", status == MU_OK ? "" : err.message);
  buffer_free(&body);
  return status == MU_OK;
}
