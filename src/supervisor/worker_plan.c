#include "supervisor/worker_plan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "channel/channel.h"
#include "engine/engine.h"

static const char cpu[] = "cpu", elsewhere[] = "remote";

/* The model's option, else what its configuration says, else by the file. */
static mu_status choose_engine(const struct model_options *options, const struct model_config *config, const char *path,
                               const struct engine_entry **ret_entry, mu_error *err) {
  const char *name = options->engine, *configured = model_config_engine(config);
  if (strcmp(name, "auto") == 0 && configured[0] != '\0') name = configured;
  return engine_find(name, path, ret_entry, err);
}

/* ---- devices and instances --------------------------------------------------------------------------------------- */

static const char gpu_prefix[] = "gpu:";

/* More groups than that say nothing that fewer could not. */
enum { GROUPS_MAX = 64 };

struct wish {
  struct placement_wish wish;
  struct placement_group groups[GROUPS_MAX];
  int64_t useful_instances; /* of an engine whose runs are elsewhere; 0: they are on this machine */
};

static mu_status make_wish(const struct model_options *options, const struct model_config *config, const char *path,
                           const char *library, struct wish *ret_wish, mu_error *err) {
  static const enum placement_kind kinds[] = {
      [INSTANCE_AUTO] = PLACEMENT_AUTO, [INSTANCE_GPU] = PLACEMENT_GPU, [INSTANCE_CPU] = PLACEMENT_CPU};
  const struct engine_entry *entry;
  mu_status status = choose_engine(options, config, path, &entry, err);
  if (status != MU_OK) return status;
  if (config->n_instance_groups > GROUPS_MAX)
    return mu_fail(err, MU_INVALID, "more than %d instance groups", GROUPS_MAX);
  size_t useful = 0;
  if (entry->useful_instances != NULL)
    status = entry->useful_instances(config->parameters, config->n_parameters, &useful, err);
  if (status != MU_OK) return status;
  ret_wish->useful_instances = useful < CHANNEL_LANES_MAX ? (int64_t)useful : CHANNEL_LANES_MAX;
  ret_wish->wish = (struct placement_wish){
      .device = options->device,
      .groups = ret_wish->groups,
      .n_groups = config->n_instance_groups,
      .engine = {.name = entry->engine->name,
                 .simulated = entry->simulated,
                 .automatic = entry->has_gpus != NULL && entry->has_gpus(library)},
  };
  for (uint32_t i = 0; i < config->n_instance_groups; i++) {
    const struct instance_group *group = &config->instance_groups[i];
    ret_wish->groups[i] = (struct placement_group){
        .kind = kinds[group->kind],
        .count = group->count == 0 ? 1 : group->count,
        .gpus = group->gpus,
        .n_gpus = group->n_gpus,
    };
  }
  return MU_OK;
}

bool worker_plan_wants_gpus(const struct model_options *options, const struct model_config *config, const char *path,
                            const char *library) {
  struct wish wish;
  return make_wish(options, config, path, library, &wish, NULL) == MU_OK && wish.useful_instances == 0 &&
         placement_needs_gpus(&wish.wish);
}

static mu_status make_group(const struct model_options *options, const struct gpu_inventory *inventory,
                            const struct placement_share *share, struct worker_group *group, mu_error *err) {
  bool on_gpu = share->gpu != GPU_UNKNOWN;
  int64_t processes = on_gpu && options->processes_per_gpu > 0 ? options->processes_per_gpu : options->processes;
  int64_t instances = options->instances > 0 ? options->instances : share->instances;
  *group = (struct worker_group){.device = "cpu", .label = "cpu", .processes = processes < 1 ? 1 : (uint32_t)processes};
  if (on_gpu) {
    const struct gpu *gpu = &inventory->gpus[share->gpu];
    char label[GPU_LABEL_SIZE];
    gpu_label(gpu, label);
    snprintf(group->device, sizeof group->device, "%s%s", gpu_prefix, gpu->uuid);
    snprintf(group->label, sizeof group->label, "%s%s", gpu_prefix, label);
  }
  if (instances < 1 || instances > CHANNEL_LANES_MAX)
    return mu_fail(err, MU_INVALID, "%lld instances on %s: a worker has 1 to %d", (long long)instances, group->label,
                   CHANNEL_LANES_MAX);
  group->instances = (uint32_t)instances;
  return MU_OK;
}

/* What runs elsewhere keeps no device of this machine busy: as many instances as are useful there where nobody says it.
 */
static mu_status choose_remote(const struct model_options *options, const struct wish *wish, struct worker_plan *plan,
                               mu_error *err) {
  struct placement_share share = {GPU_UNKNOWN, wish->wish.n_groups > 0 ? 0 : wish->useful_instances};
  if (strcmp(options->device, "auto") != 0 && strcmp(options->device, elsewhere) != 0)
    return mu_fail(err, MU_INVALID, "device %s for the engine %s, which runs nothing on this machine", options->device,
                   wish->wish.engine.name);
  for (uint32_t i = 0; i < wish->wish.n_groups; i++) {
    const struct placement_group *group = &wish->groups[i];
    share.instances += group->count * (group->n_gpus > 1 ? group->n_gpus : 1);
  }
  plan->n_groups = 1;
  mu_status status = make_group(options, NULL, &share, &plan->groups[0], err);
  snprintf(plan->groups[0].device, sizeof plan->groups[0].device, "%s", elsewhere);
  snprintf(plan->groups[0].label, sizeof plan->groups[0].label, "%s", elsewhere);
  return status;
}

static mu_status choose_devices(const struct model_options *options, const struct wish *wish,
                                const struct plan_ground *ground, struct worker_plan *plan, mu_error *err) {
  struct placement_share shares[PLACEMENT_SHARES_MAX];
  mu_status status = placement_choose(ground->inventory, ground->gpus, &wish->wish, shares, &plan->n_groups, err);
  for (uint32_t i = 0; status == MU_OK && i < plan->n_groups; i++)
    status = make_group(options, ground->inventory, &shares[i], &plan->groups[i], err);
  return status;
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
    for (uint32_t i = 0; i < plan->n_groups; i++)
      runs += (int64_t)plan->groups[i].processes * plan->groups[i].instances;
    threads = cores / runs;
  }
  plan->threads = threads < 1 ? 1 : (uint32_t)threads;
  return MU_OK;
}

/* ---- the plan ---------------------------------------------------------------------------------------------------- */

mu_status worker_plan_make(const struct model_options *options, const struct model_config *config, const char *path,
                           const char *library, const struct plan_ground *ground, struct worker_plan *ret_plan,
                           mu_error *err) {
  const char *sharing = model_config_parameter(config, "sim.sharing");
  struct worker_plan plan = {.overlap = sharing != NULL && strcmp(sharing, "mps") == 0};
  struct wish wish;
  mu_status status = make_wish(options, config, path, library, &wish, err);
  if (status == MU_OK)
    status = wish.useful_instances > 0 ? choose_remote(options, &wish, &plan, err)
                                       : choose_devices(options, &wish, ground, &plan, err);
  if (status == MU_OK) status = choose_threads(options, config, ground->cores, &plan, err);
  if (status != MU_OK) return status;
  plan.engine = wish.wish.engine.name;
  *ret_plan = plan;
  return MU_OK;
}

const char *worker_plan_gpu(const char *device) {
  size_t length = sizeof gpu_prefix - 1;
  return strncmp(device, gpu_prefix, length) == 0 ? device + length : NULL;
}

size_t worker_plan_processes(const struct worker_plan *plan) {
  size_t n = 0;
  for (uint32_t i = 0; i < plan->n_groups; i++) n += plan->groups[i].processes;
  return n;
}

/* ---- memory on a GPU --------------------------------------------------------------------------------------------- */

/* A number of bytes or MiB out of a parameter; 0 where it is not given or no number (its reader says so then). */
static int64_t parameter_number(const struct model_config *config, const char *key) {
  const char *text = model_config_parameter(config, key);
  char *end = NULL;
  double number = text != NULL ? strtod(text, &end) : 0;
  return text != NULL && end != text && *end == '\0' && number > 0 && number < 1e15 ? (int64_t)number : 0;
}

struct placement_memory worker_plan_memory(const struct model_options *options, const struct model_config *config,
                                           const char *engine, int64_t file_bytes) {
  static const int64_t usual_arena = INT64_C(512) << 20;
  struct placement_memory memory = {.context = PLACEMENT_CONTEXT_BYTES, .measured = GPU_UNKNOWN};
  if (options->gpu_memory > 0) return (struct placement_memory){.measured = GPU_UNKNOWN, .given = options->gpu_memory};
  if (strcmp(engine, "sim") == 0) {
    memory.weights = parameter_number(config, "sim.gpu_memory_mib") << 20;
    return memory;
  }
  /* CUDA's arena, which holds the weights too, is not larger than this. */
  int64_t limit = parameter_number(config, "gpu_mem_limit");
  memory.weights = file_bytes;
  memory.arena = limit > file_bytes ? limit - file_bytes : usual_arena;
  return memory;
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

struct device_tokens worker_plan_tokens(const struct worker_plan *plan, const struct worker_group *group,
                                        uint32_t cores, int64_t cpu_slots) {
  uint32_t threads = plan->threads, runs = group->processes * group->instances;
  if (strcmp(group->device, elsewhere) == 0) return (struct device_tokens){PLAN_REMOTE_TOKENS, 1};
  if (strcmp(group->device, cpu) != 0) {
    bool more = plan->overlap && runs > PLAN_GPU_TOKENS;
    return (struct device_tokens){more ? runs : PLAN_GPU_TOKENS, 1};
  }
  if (cpu_slots > 0) return (struct device_tokens){(uint32_t)cpu_slots, 1};
  return (struct device_tokens){cores, threads < cores ? threads : cores};
}
