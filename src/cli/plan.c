/* Plans, without anything being started. */
#include "cli/command.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/gpus/reader.h"
#include "gpu/placement.h"
#include "supervisor/placement_report.h"

/* ---- the table of `muster plan placement` ------------------------------------------------------------------------ */

static const char *text_of(const json_t *object, const char *key) {
  const char *text = json_string_value(json_object_get(object, key));
  return text != NULL ? text : "";
}

static void bytes_of(const json_t *object, const char *key, char text[PLACEMENT_BYTES_TEXT]) {
  const json_t *value = json_object_get(object, key);
  if (json_is_integer(value))
    placement_print_bytes(json_integer_value(value), text);
  else
    snprintf(text, PLACEMENT_BYTES_TEXT, "?");
}

static long long number_of(const json_t *object, const char *key) {
  return json_integer_value(json_object_get(object, key));
}

static void print_gpus(const json_t *report, struct buffer *out) {
  const json_t *gpus = json_object_get(report, "gpus"), *gpu;
  size_t i;
  if (json_array_size(gpus) == 0) {
    buffer_print(out, "no GPU: %s\n", text_of(report, "note"));
    return;
  }
  buffer_print(out, "%-8s %-28s %12s %12s %9s %12s %12s\n", "GPU", "NAME", "MEMORY", "OTHERS", "PROCESSES", "PLANNED",
               "LEFT");
  json_array_foreach(gpus, i, gpu) {
    char total[PLACEMENT_BYTES_TEXT], others[PLACEMENT_BYTES_TEXT], planned[PLACEMENT_BYTES_TEXT],
        left[PLACEMENT_BYTES_TEXT];
    bytes_of(gpu, "memory_bytes", total);
    bytes_of(gpu, "used_by_others_bytes", others);
    bytes_of(gpu, "planned_bytes", planned);
    bytes_of(gpu, "left_bytes", left);
    buffer_print(out, "%-8s %-28.28s %12s %12s %9lld %12s %12s\n", text_of(gpu, "gpu"), text_of(gpu, "name"), total,
                 others, number_of(gpu, "processes"), planned, left);
  }
}

static void print_model(const json_t *model, struct buffer *out) {
  const json_t *devices = json_object_get(model, "devices"), *device;
  size_t i;
  buffer_print(out, "\n%s/%lld", text_of(model, "model"), number_of(model, "version"));
  if (json_array_size(devices) > 0) buffer_print(out, " (%s)", text_of(model, "engine"));
  if (!json_is_true(json_object_get(model, "served")))
    buffer_print(out, ": CANNOT BE SERVED: %s", text_of(model, "reason"));
  buffer_print(out, "\n");
  json_array_foreach(devices, i, device) {
    const char *uuid = text_of(device, "gpu");
    long long processes = number_of(device, "processes"), instances = number_of(device, "instances");
    buffer_print(out, "  %-8s %lld process%s x %lld instance%s", text_of(device, "device"), processes,
                 processes == 1 ? "" : "es", instances, instances == 1 ? "" : "s");
    if (uuid[0] != '\0') buffer_print(out, ", each %s  [%s]", text_of(model, "memory"), uuid);
    buffer_print(out, "\n");
  }
}

static void print_placement(const json_t *report, struct buffer *out) {
  const json_t *models = json_object_get(report, "models"), *model;
  size_t i;
  print_gpus(report, out);
  json_array_foreach(models, i, model) print_model(model, out);
}

/* ---- the GPUs ---------------------------------------------------------------------------------------------------- */

/* As a server would find them. Without NVML there are none, and the inventory says why: models for the CPU need none.
 */
static mu_status look_at_gpus(const struct options *options, struct gpu_inventory *inventory, mu_error *err) {
  struct gpus_reader *reader = NULL;
  mu_error why;
  if (options->simulate_gpus > 0) {
    placement_simulate(options, inventory);
    return MU_OK;
  }
  mu_status status = gpus_reader_create(options->nvml_library, &reader, err);
  if (status != MU_OK) return status;
  status = gpus_reader_read(reader, (uint64_t)options->nvml_timeout_ns, inventory, &why);
  gpus_reader_free(reader);
  if (status == MU_OK) return MU_OK;
  if (status != MU_NOT_FOUND && status != MU_UNSUPPORTED) return mu_fail(err, status, "%s", why.message);
  memset(inventory, 0, sizeof *inventory);
  snprintf(inventory->error, sizeof inventory->error, "%.*s", (int)sizeof inventory->error - 1, why.message);
  return MU_OK;
}

/* ---- muster plan placement --------------------------------------------------------------------------------------- */

static int show(const json_t *report, bool json) {
  struct buffer out;
  buffer_init(&out, 64 << 20);
  if (json) {
    char *text = json_dumps(report, JSON_INDENT(2));
    if (text != NULL) buffer_print(&out, "%s\n", text);
    if (text == NULL) out.failed = true;
    free(text);
  } else {
    print_placement(report, &out);
  }
  int exit_status = command_output(&command_plan, &out);
  bool served = json_is_true(json_object_get(report, "served"));
  return exit_status != COMMAND_OK ? exit_status : served ? COMMAND_OK : COMMAND_FAILED;
}

static int plan_placement(int argc, char **argv) {
  struct options *options;
  bool json = command_take_flag(&argc, argv, "--json");
  int exit_status = command_load_options(&command_plan, argc, argv, &options);
  if (exit_status != COMMAND_OK) return exit_status;
  struct gpu_inventory *inventory = calloc(1, sizeof *inventory);
  json_t *report = NULL;
  mu_error err = {{0}};
  mu_status status = inventory != NULL ? look_at_gpus(options, inventory, &err)
                                       : mu_fail(&err, MU_NO_MEMORY, "no memory for the GPUs");
  if (status == MU_OK) status = placement_report(options, inventory, &report, &err);
  exit_status = status == MU_OK ? show(report, json) : command_fail(&command_plan, COMMAND_FAILED, err.message);
  json_decref(report);
  free(inventory);
  options_free(options);
  return exit_status;
}

/* ---- the table of plans ------------------------------------------------------------------------------------------ */

static const struct {
  const char *name;
  int (*run)(int argc, char **argv); /* argv[0] is the first argument behind the name */
} plans[] = {
    {"placement", plan_placement},
};
enum { N_PLANS = sizeof plans / sizeof *plans };

static int run(int argc, char **argv) {
  for (size_t i = 0; argc > 0 && i < N_PLANS; i++)
    if (strcmp(argv[0], plans[i].name) == 0) return plans[i].run(argc - 1, argv + 1);
  return command_fail(&command_plan, COMMAND_USAGE, "what is to be planned is missing: there is `placement`");
}

const struct command command_plan = {
    .name = "plan",
    .usage = "muster plan placement [--json] [options of muster serve]",
    .summary = "Print which processes would go onto which GPUs, and whether they fit",
    .details =
        "Nothing is started; a child process looks at the GPUs for a moment. All models of the repository are "
        "planned,\n"
        "whatever --model-control-mode is. What a process takes is measured where it was seen before "
        "(--measurements),\n"
        "else estimated. Exit status 1: a model cannot be served as it is configured, and why.",
    .has_options = true,
    .run = run};
