#include "gpu/placement.h"

#include <stdio.h>
#include <string.h>

/* ---- which devices ----------------------------------------------------------------------------------------------- */

struct choice {
  const struct gpu_inventory *inventory;
  const struct gpu_set *set;
  const struct placement_wish *wish;
  struct placement_share *shares;
  uint32_t n;
};

static const char cure[] =
    "make it KIND_CPU (or --device=cpu) to run it on the CPU, or simulate GPUs with --simulate-gpus=N and engine sim";

static bool names_gpus(const struct placement_group *group) {
  return group->kind == PLACEMENT_GPU || group->n_gpus > 0;
}

bool placement_needs_gpus(const struct placement_wish *wish) {
  if (strcmp(wish->device, "auto") != 0) return strcmp(wish->device, "cpu") != 0;
  for (uint32_t i = 0; i < wish->n_groups; i++) {
    const struct placement_group *group = &wish->groups[i];
    if (names_gpus(group) || (group->kind == PLACEMENT_AUTO && wish->engine.automatic)) return true;
  }
  return wish->n_groups == 0 && wish->engine.automatic;
}

static void add(struct choice *choice, int32_t gpu, int64_t instances) {
  uint32_t i = 0;
  while (i < choice->n && choice->shares[i].gpu != gpu) i++;
  if (i == choice->n) choice->shares[choice->n++] = (struct placement_share){gpu, 0};
  choice->shares[i].instances += instances;
}

/* Is the engine at home there? */
static mu_status add_gpu(struct choice *choice, uint32_t position, int64_t instances, mu_error *err) {
  const struct placement_engine *engine = &choice->wish->engine;
  if (choice->inventory->gpus[position].simulated && !engine->simulated)
    return mu_fail(err, MU_UNSUPPORTED, "engine %s cannot run on a simulated GPU: only sim can", engine->name);
  add(choice, (int32_t)position, instances);
  return MU_OK;
}

static mu_status add_every_gpu(struct choice *choice, int64_t instances, mu_error *err) {
  if (choice->set->n == 0)
    return mu_fail(err, MU_NOT_FOUND, "it is to run on a GPU, and no GPU can be used here (%s): %s", choice->set->note,
                   cure);
  mu_status status = MU_OK;
  for (uint32_t i = 0; status == MU_OK && i < choice->set->n; i++)
    status = add_gpu(choice, choice->set->positions[i], instances, err);
  return status;
}

/* text: an ordinal or a UUID. */
static mu_status add_named_gpu(struct choice *choice, const char *text, int64_t instances, mu_error *err) {
  uint32_t position = 0;
  if (choice->set->n == 0)
    return mu_fail(err, MU_NOT_FOUND, "it is to run on GPU %.96s, and no GPU can be used here (%s): %s", text,
                   choice->set->note, cure);
  mu_status status = gpu_set_find(choice->inventory, choice->set, text, &position, err);
  return status == MU_OK ? add_gpu(choice, position, instances, err) : status;
}

/* KIND_AUTO: a GPU that the engine takes by itself. */
static bool add_automatic(struct choice *choice, int64_t instances) {
  const struct placement_engine *engine = &choice->wish->engine;
  bool any = false;
  for (uint32_t i = 0; i < choice->set->n; i++) {
    bool simulated = choice->inventory->gpus[choice->set->positions[i]].simulated;
    if (simulated ? !engine->simulated : !engine->automatic) continue;
    add(choice, (int32_t)choice->set->positions[i], instances);
    any = true;
  }
  return any;
}

static mu_status add_group(struct choice *choice, const struct placement_group *group, mu_error *err) {
  if (group->n_gpus == 0 && group->kind == PLACEMENT_GPU) return add_every_gpu(choice, group->count, err);
  mu_status status = MU_OK;
  for (uint32_t i = 0; status == MU_OK && i < group->n_gpus; i++) {
    char text[16];
    snprintf(text, sizeof text, "%d", group->gpus[i]);
    status = add_named_gpu(choice, text, group->count, err);
  }
  if (group->n_gpus > 0) return status;
  if (group->kind == PLACEMENT_AUTO && add_automatic(choice, group->count)) return MU_OK;
  add(choice, GPU_UNKNOWN, group->count);
  return MU_OK;
}

/* A device that the options name takes all instances of the groups. */
static mu_status add_device(struct choice *choice, const char *device, mu_error *err) {
  int64_t count = 0;
  for (uint32_t i = 0; i < choice->wish->n_groups; i++) {
    const struct placement_group *group = &choice->wish->groups[i];
    count += group->count * (group->n_gpus > 1 ? group->n_gpus : 1);
  }
  if (count == 0) count = 1;
  if (strcmp(device, "gpu") == 0) return add_every_gpu(choice, count, err);
  if (strncmp(device, "gpu:", 4) == 0 && device[4] != '\0') return add_named_gpu(choice, device + 4, count, err);
  if (strcmp(device, "cpu") != 0)
    return mu_fail(err, MU_INVALID, "there is no device \"%.96s\": it is cpu, gpu, gpu:INDEX or gpu:UUID", device);
  add(choice, GPU_UNKNOWN, count);
  return MU_OK;
}

mu_status placement_choose(const struct gpu_inventory *inventory, const struct gpu_set *set,
                           const struct placement_wish *wish, struct placement_share ret_shares[PLACEMENT_SHARES_MAX],
                           uint32_t *ret_n, mu_error *err) {
  static const struct placement_group usual = {.kind = PLACEMENT_AUTO, .count = 1};
  struct placement_share shares[PLACEMENT_SHARES_MAX];
  struct choice choice = {.inventory = inventory, .set = set, .wish = wish, .shares = shares};
  mu_status status = MU_OK;
  if (strcmp(wish->device, "auto") != 0)
    status = add_device(&choice, wish->device, err);
  else if (wish->n_groups == 0)
    status = add_group(&choice, &usual, err);
  else
    for (uint32_t i = 0; status == MU_OK && i < wish->n_groups; i++) status = add_group(&choice, &wish->groups[i], err);
  if (status != MU_OK) return status;
  memcpy(ret_shares, shares, choice.n * sizeof *shares);
  *ret_n = choice.n;
  return MU_OK;
}

/* ---- in words ---------------------------------------------------------------------------------------------------- */

static const int64_t mib = INT64_C(1) << 20, gib = INT64_C(1) << 30;

void placement_print_bytes(int64_t bytes, char text[PLACEMENT_BYTES_TEXT]) {
  int64_t n = (bytes + mib - 1) / mib;
  if (bytes >= 10 * gib)
    snprintf(text, PLACEMENT_BYTES_TEXT, "%.1f GiB", (double)bytes / (double)gib);
  else if (n >= 1000)
    snprintf(text, PLACEMENT_BYTES_TEXT, "%lld,%03lld MiB", (long long)(n / 1000), (long long)(n % 1000));
  else
    snprintf(text, PLACEMENT_BYTES_TEXT, "%lld MiB", (long long)n);
}

int64_t placement_memory_sum(const struct placement_memory *memory) {
  if (memory->given > 0) return memory->given;
  return memory->measured != GPU_UNKNOWN ? memory->measured : memory->context + memory->weights + memory->arena;
}

void placement_print_memory(const struct placement_memory *memory, char text[PLACEMENT_MEMORY_TEXT]) {
  char sum[PLACEMENT_BYTES_TEXT], context[PLACEMENT_BYTES_TEXT], weights[PLACEMENT_BYTES_TEXT],
      arena[PLACEMENT_BYTES_TEXT];
  placement_print_bytes(placement_memory_sum(memory), sum);
  placement_print_bytes(memory->context, context);
  placement_print_bytes(memory->weights, weights);
  placement_print_bytes(memory->arena, arena);
  if (memory->given > 0 || memory->measured != GPU_UNKNOWN)
    snprintf(text, PLACEMENT_MEMORY_TEXT, "%s, %s", sum, memory->given > 0 ? "as --gpu-memory says" : "measured");
  else
    snprintf(text, PLACEMENT_MEMORY_TEXT, "%s context + %s weights + %s arena, estimated", context, weights, arena);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static int64_t used_by(const struct gpu_inventory *inventory, uint32_t gpu, const int32_t *pids, uint32_t n_pids) {
  int64_t sum = 0;
  for (uint32_t i = 0; i < inventory->n_processes; i++) {
    const struct gpu_process *process = &inventory->processes[i];
    for (uint32_t k = 0; k < n_pids; k++)
      if (process->gpu == gpu && process->pid == pids[k] && process->memory_used > 0) sum += process->memory_used;
  }
  return sum;
}

void placement_look(const struct gpu_inventory *inventory, const int32_t *pids, uint32_t n_pids,
                    struct placement_room ret_rooms[GPUS_MAX]) {
  for (uint32_t i = 0; i < inventory->n_gpus; i++) {
    int64_t used = inventory->readings[i].memory_used, own = used_by(inventory, i, pids, n_pids);
    ret_rooms[i] =
        (struct placement_room){.total = inventory->gpus[i].memory_total, .others = used > own ? used - own : 0};
  }
}

static mu_status fail_room(const struct gpu *gpu, const struct placement_room *room, uint32_t processes,
                           const struct placement_memory *memory, const char *model, mu_error *err) {
  char each[PLACEMENT_MEMORY_TEXT], sum[PLACEMENT_BYTES_TEXT], total[PLACEMENT_BYTES_TEXT],
      others[PLACEMENT_BYTES_TEXT], taken[PLACEMENT_BYTES_TEXT], label[GPU_LABEL_SIZE];
  placement_print_memory(memory, each);
  placement_print_bytes(placement_memory_sum(memory) * processes, sum);
  placement_print_bytes(room->total, total);
  placement_print_bytes(room->others, others);
  placement_print_bytes(room->taken, taken);
  gpu_label(gpu, label);
  return mu_fail(err, MU_TOO_LARGE,
                 "%u %s of %.64s %s %u x (%s) = %s; GPU %s has %s, of which %s are used by others and %s by other "
                 "models of this server",
                 processes, processes == 1 ? "process" : "processes", model, processes == 1 ? "needs" : "need",
                 processes, each, sum, label, total, others, taken);
}

mu_status placement_take(const struct gpu_inventory *inventory, const struct placement_share *shares, uint32_t n_shares,
                         uint32_t processes, const struct placement_memory *memory, const char *model,
                         struct placement_room rooms[GPUS_MAX], mu_error *err) {
  int64_t sum = placement_memory_sum(memory) * processes;
  for (uint32_t i = 0; i < n_shares; i++) {
    if (shares[i].gpu == GPU_UNKNOWN) continue;
    const struct placement_room *room = &rooms[shares[i].gpu];
    if (room->total != GPU_UNKNOWN && room->others + room->taken + sum > room->total)
      return fail_room(&inventory->gpus[shares[i].gpu], room, processes, memory, model, err);
  }
  for (uint32_t i = 0; i < n_shares; i++) {
    if (shares[i].gpu == GPU_UNKNOWN) continue;
    rooms[shares[i].gpu].taken += sum;
    rooms[shares[i].gpu].processes += processes;
  }
  return MU_OK;
}
