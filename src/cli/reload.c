#include "cli/command.h"
#include "cli/control_client.h"

#include <stdio.h>

/* What the server did with its models, in the order in which it is told. */
static const struct {
  const char *key, *label;
} lists[] = {
    {"added", "added"},         {"changed", "changed"}, {"removed", "removed"},
    {"unchanged", "unchanged"}, {"failed", "failed"},
};

/* Names and reasons come from files and models: no control character of theirs reaches the terminal. */
static void print_text(struct buffer *out, const char *text) {
  for (; *text != '\0'; text++) buffer_putc(out, (unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text);
}

static const char *text_of(const json_t *entry, const char *key) {
  const char *text = json_string_value(json_object_get(entry, key));
  return text != NULL ? text : "";
}

static void print_model(struct buffer *out, const char *label, const json_t *entry) {
  json_int_t version = json_integer_value(json_object_get(entry, "version"));
  buffer_print(out, "%-9s  ", label);
  print_text(out, text_of(entry, "name"));
  if (version > 0) buffer_print(out, "/%" JSON_INTEGER_FORMAT, version);
  if (*text_of(entry, "reason") != '\0') buffer_puts(out, ": ");
  print_text(out, text_of(entry, "reason"));
  buffer_putc(out, '\n');
}

/* Only where there were none before, and what there is is more than nothing. */
static void print_gpus(struct buffer *out, const json_t *gpus) {
  if (gpus == NULL) return;
  buffer_print(out, "%-9s  %" JSON_INTEGER_FORMAT " found", "gpus", json_integer_value(json_object_get(gpus, "found")));
  if (*text_of(gpus, "error") != '\0') buffer_puts(out, ": ");
  print_text(out, text_of(gpus, "error"));
  buffer_putc(out, '\n');
}

static void print_report(struct buffer *out, const json_t *report) {
  size_t at;
  const json_t *entry;
  print_gpus(out, json_object_get(report, "gpus"));
  for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
    json_array_foreach(json_object_get(report, lists[i].key), at, entry) print_model(out, lists[i].label, entry);
}

/* MU_UNSUPPORTED: it was refused; MU_INTERNAL: not all of it could be applied, or the answer is no report. */
static mu_status judge(const json_t *report, mu_error *err) {
  const char *state = text_of(report, "state"), *error = text_of(report, "error");
  if (strcmp(state, "applied") == 0) return MU_OK;
  if (*error != '\0') return mu_fail(err, MU_UNSUPPORTED, "%s; nothing has changed", error);
  return mu_fail(err, MU_INTERNAL, "%s",
                 *state != '\0' ? "some models could not be reloaded: what was served of them still is"
                                : "the server does not answer as muster does");
}

/* out gets what happened also where that is not all that was wanted. */
static mu_status reload(const struct options *options, bool json, struct buffer *out, mu_error *err) {
  char socket[CONTROL_SOCKET_PATH_MAX];
  struct buffer body;
  buffer_init(&body, 16 << 20);
  mu_status status = control_find(options, socket, err);
  if (status == MU_OK) status = control_ask(socket, "POST", "/reload", CONTROL_PATIENT_MS, &body, err);
  if (status == MU_OK) {
    json_t *report = json_loadb(body.data != NULL ? body.data : "", body.size, 0, NULL);
    if (json) {
      buffer_append(out, body.data, body.size);
      buffer_putc(out, '\n');
    } else {
      print_report(out, report);
    }
    status = judge(report, err);
    json_decref(report);
  }
  buffer_free(&body);
  return status;
}

static int run(int argc, char **argv) {
  struct options *options;
  struct buffer out;
  mu_error err;
  bool json = command_take_flag(&argc, argv, "--json");
  int exit_status = command_load_options(&command_reload, argc, argv, &options);
  if (exit_status != COMMAND_OK) return exit_status;
  buffer_init(&out, 16 << 20);
  mu_status status = reload(options, json, &out, &err);
  options_free(options);
  if (out.size > 0) exit_status = command_output(&command_reload, &out);
  return status == MU_OK ? exit_status : command_fail(&command_reload, COMMAND_FAILED, err.message);
}

const struct command command_reload = {
    .name = "reload",
    .usage = "muster reload [--json] [--http-port N|--control-socket PATH]",
    .summary = "Make a running server read its settings and models anew, and wait until that is done",
    .details =
        "Models that are new or have changed load beside the others and are served when they are ready; those that\n"
        "are gone finish their requests. No request fails for it. Where there was no NVML, it is looked for again.\n"
        "What cannot be applied is said and stays as it was:\n"
        "all of it when a setting is wrong or needs a restart, one model when it cannot be served. The server is "
        "found\n"
        "as by muster status; it reads its own muster.yaml, environment and flags. SIGHUP does the same. Exit status "
        "0\n"
        "where everything was applied.",
    .run = run};
