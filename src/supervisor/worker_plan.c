#include "supervisor/worker_plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "channel/channel.h"
#include "engine/engine.h"

static const char cpu[] = "cpu", elsewhere[] = "remote";

/* The model's option, else what its configuration says, else by the file. */
static mu_status choose_engine(const struct model_options *options, const struct model_config *config, const char *path,
                               struct worker_plan *plan, const struct engine_entry **ret_entry, mu_error *err) {
  const char *name = options->engine, *configured = model_config_engine(config);
  if (strcmp(name, "auto") == 0 && configured[0] != '\0') name = configured;
  mu_status status = engine_find(name, path, ret_entry, err);
  if (status == MU_OK) plan->engine = (*ret_entry)->engine->name;
  return status;
}

/* ---- devices and instances --------------------------------------------------------------------------------------- */

static mu_status add_instances(struct worker_plan *plan, const char *device, int64_t count, mu_error *err) {
  struct worker_group *group = NULL;
  for (uint32_t i = 0; i < plan->n_groups; i++)
    if (strcmp(plan->groups[i].device, device) == 0) group = &plan->groups[i];
  if (group == NULL) {
    if (plan->n_groups == PLAN_DEVICES_MAX) return mu_fail(err, MU_INVALID, "more than %d devices", PLAN_DEVICES_MAX);
    group = &plan->groups[plan->n_groups];
    int length = snprintf(group->device, sizeof group->device, "%s", device);
    if (length < 0 || (size_t)length >= sizeof group->device)
      return mu_fail(err, MU_INVALID, "the device name \"%s\" is too long", device);
    group->instances = 0;
    plan->n_groups++;
  }
  if (count < 1 || count > CHANNEL_LANES_MAX - (int64_t)group->instances)
    return mu_fail(err, MU_INVALID, "%lld instances on %s: a worker has 1 to %d", (long long)(count + group->instances),
                   device, CHANNEL_LANES_MAX);
  group->instances += (uint32_t)count;
  return MU_OK;
}

/* One instance_group; device: where everything goes that does not name a GPU. */
static mu_status add_group(struct worker_plan *plan, const struct instance_group *group, const char *device,
                           mu_error *err) {
  int64_t count = group->count == 0 ? 1 : group->count;
  if (group->kind != INSTANCE_GPU) return add_instances(plan, device, count, err);
  if (group->n_gpus == 0) return add_instances(plan, "gpu:0", count, err);
  for (uint32_t i = 0; i < group->n_gpus; i++) {
    char gpu[PLAN_DEVICE_NAME];
    snprintf(gpu, sizeof gpu, "gpu:%d", group->gpus[i]);
    mu_status status = add_instances(plan, gpu, count, err);
    if (status != MU_OK) return status;
  }
  return MU_OK;
}

/* A device that the options name takes all instances of the configuration. */
static mu_status add_named_device(struct worker_plan *plan, const struct model_config *config, const char *device,
                                  mu_error *err) {
  int64_t count = 0;
  for (uint32_t i = 0; i < config->n_instance_groups; i++) {
    const struct instance_group *group = &config->instance_groups[i];
    count += (int64_t)(group->count == 0 ? 1 : group->count) * (group->n_gpus > 1 ? group->n_gpus : 1);
  }
  return add_instances(plan, device, count == 0 ? 1 : count, err);
}

static mu_status choose_devices(const struct model_options *options, const struct model_config *config,
                                struct worker_plan *plan, mu_error *err) {
  mu_status status = MU_OK;
  if (strcmp(options->device, "auto") != 0) {
    status = add_named_device(plan, config, options->device, err);
  } else {
    for (uint32_t i = 0; status == MU_OK && i < config->n_instance_groups; i++)
      status = add_group(plan, &config->instance_groups[i], cpu, err);
    if (status == MU_OK && plan->n_groups == 0) status = add_instances(plan, cpu, 1, err);
  }
  return status;
}

/* The option's number holds for every device. */
static mu_status set_instances(const struct model_options *options, struct worker_plan *plan, mu_error *err) {
  if (options->instances <= 0) return MU_OK;
  if (options->instances > CHANNEL_LANES_MAX)
    return mu_fail(err, MU_INVALID, "instances %lld: a worker has 1 to %d", (long long)options->instances,
                   CHANNEL_LANES_MAX);
  for (uint32_t i = 0; i < plan->n_groups; i++) plan->groups[i].instances = (uint32_t)options->instances;
  return MU_OK;
}

/* What runs elsewhere keeps no device of this machine busy: one process, with as many instances as are useful there
 * where nobody says it. */
static mu_status choose_remote(const struct model_options *options, const struct model_config *config,
                               const struct engine_entry *entry, struct worker_plan *plan, mu_error *err) {
  size_t count = 0;
  mu_status status = entry->useful_instances(config->parameters, config->n_parameters, &count, err);
  if (status != MU_OK) return status;
  if (strcmp(options->device, "auto") != 0 && strcmp(options->device, elsewhere) != 0)
    return mu_fail(err, MU_INVALID, "device %s for the engine %s, which runs nothing on this machine", options->device,
                   plan->engine);
  if (config->n_instance_groups > 0) return add_named_device(plan, config, elsewhere, err);
  return add_instances(plan, elsewhere, count < CHANNEL_LANES_MAX ? (int64_t)count : CHANNEL_LANES_MAX, err);
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

static const char threads_key[] = "intra_op_thread_count";
enum { THREADS_MAX = 1024 };

/* The configuration's parameter; 0 where it does not say (as in Triton, 0 leaves the choice to the server). */
static mu_status configured_threads(const struct model_config *config, int64_t *ret_threads, mu_error *err) {
  const char *text = model_config_parameter(config, threads_key);
  char *end = NULL;
  errno = 0;
  long long threads = text != NULL ? strtoll(text, &end, 10) : 0;
  if (text != NULL && (end == text || *end != '\0' || errno != 0 || threads < 0 || threads > THREADS_MAX))
    return mu_fail(err, MU_INVALID, "parameter %s \"%s\": a number from 0 to %d is wanted", threads_key, text,
                   THREADS_MAX);
  *ret_threads = threads;
  return MU_OK;
}

static mu_status choose_threads(const struct model_options *options, const struct model_config *config, uint32_t cores,
                                struct worker_plan *plan, mu_error *err) {
  int64_t threads = options->threads;
  if (threads <= 0) {
    mu_status status = configured_threads(config, &threads, err);
    if (status != MU_OK) return status;
  }
  if (threads <= 0) {
    int64_t runs = 0; /* that the model may have at once */
    for (uint32_t i = 0; i < plan->n_groups; i++) runs += (int64_t)plan->processes * plan->groups[i].instances;
    threads = cores / runs;
  }
  plan->threads = threads < 1 ? 1 : (uint32_t)threads;
  return MU_OK;
}

bool worker_plan_wants_gpus(const struct model_options *options, const struct model_config *config) {
  if (strcmp(options->device, "auto") != 0) return strcmp(options->device, cpu) != 0;
  for (uint32_t i = 0; i < config->n_instance_groups; i++)
    if (config->instance_groups[i].kind == INSTANCE_GPU) return true;
  return false;
}

/* ---- the plan ---------------------------------------------------------------------------------------------------- */

mu_status worker_plan_make(const struct model_options *options, const struct model_config *config, const char *path,
                           uint32_t cores, struct worker_plan *ret_plan, mu_error *err) {
  const char *sharing = model_config_parameter(config, "sim.sharing");
  struct worker_plan plan = {.processes = options->processes < 1 ? 1 : (uint32_t)options->processes,
                             .overlap = sharing != NULL && strcmp(sharing, "mps") == 0};
  const struct engine_entry *entry;
  mu_status status = choose_engine(options, config, path, &plan, &entry, err);
  if (status == MU_OK)
    status = entry->useful_instances != NULL ? choose_remote(options, config, entry, &plan, err)
                                             : choose_devices(options, config, &plan, err);
  if (status == MU_OK) status = set_instances(options, &plan, err);
  if (status == MU_OK) status = choose_threads(options, config, cores, &plan, err);
  if (status == MU_OK) *ret_plan = plan;
  return status;
}

struct device_tokens worker_plan_tokens(const struct worker_plan *plan, const struct worker_group *group,
                                        uint32_t cores, int64_t cpu_slots) {
  uint32_t threads = plan->threads, runs = plan->processes * group->instances;
  if (strcmp(group->device, elsewhere) == 0) return (struct device_tokens){PLAN_REMOTE_TOKENS, 1};
  if (strcmp(group->device, cpu) != 0) {
    bool more = plan->overlap && runs > PLAN_GPU_TOKENS;
    return (struct device_tokens){more ? runs : PLAN_GPU_TOKENS, 1};
  }
  if (cpu_slots > 0) return (struct device_tokens){(uint32_t)cpu_slots, 1};
  return (struct device_tokens){cores, threads < cores ? threads : cores};
}
