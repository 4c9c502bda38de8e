#include "launch/gpu_choice.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

struct choice {
  struct plan_gpu gpus[GPUS_MAX];
  uint32_t n;
  const struct gpu_inventory *inventory; /* NULL: not known */
  const char *group;
  mu_error *err;
};

static mu_status add(struct choice *choice, const char *name, const char *uuid) {
  for (uint32_t i = 0; i < choice->n; i++)
    if (strcmp(choice->gpus[i].name, name) == 0 || (uuid[0] != '\0' && strcmp(choice->gpus[i].uuid, uuid) == 0))
      return mu_fail(choice->err, MU_INVALID, "%s: GPU %s is named twice", choice->group, name);
  if (choice->n == GPUS_MAX) return mu_fail(choice->err, MU_INVALID, "%s: more than %d GPUs", choice->group, GPUS_MAX);
  struct plan_gpu *gpu = &choice->gpus[choice->n++];
  snprintf(gpu->name, sizeof gpu->name, "%s", name);
  snprintf(gpu->uuid, sizeof gpu->uuid, "%s", uuid);
  return MU_OK;
}

static mu_status add_named(struct choice *choice, const char *name) {
  if (choice->inventory == NULL) {
    bool index = isdigit((unsigned char)name[0]);
    if (!index && strncmp(name, "GPU-", 4) != 0 && strncmp(name, "MIG-", 4) != 0)
      return mu_fail(choice->err, MU_INVALID, "%s: '%.90s' is no GPU: an index, GPU-… or MIG-…", choice->group, name);
    return add(choice, name, index ? "" : name);
  }
  int32_t position = gpu_find(choice->inventory, name);
  if (position == GPU_UNKNOWN)
    return mu_fail(choice->err, MU_INVALID, "%s: there is no GPU '%.90s': this machine has %u, see muster gpus",
                   choice->group, name, choice->inventory->n_gpus);
  if (!gpu_is_usable(choice->inventory, (uint32_t)position))
    return mu_fail(choice->err, MU_INVALID, "%s: GPU %.90s cannot be used as it is (%s)", choice->group, name,
                   choice->inventory->gpus[position].mig_enabled ? "name one of its MIG devices"
                                                                 : "lost, cannot be read, or compute mode prohibited");
  return add(choice, name, choice->inventory->gpus[position].uuid);
}

static mu_status add_all(struct choice *choice) {
  if (choice->inventory == NULL || choice->inventory->n_gpus == 0)
    return mu_fail(choice->err, MU_INVALID, "%s: --gpus all needs NVML to say which there are", choice->group);
  mu_status status = MU_OK;
  for (uint32_t i = 0; status == MU_OK && i < choice->inventory->n_gpus; i++) {
    char name[32];
    const struct gpu *gpu = &choice->inventory->gpus[i];
    if (!gpu_is_usable(choice->inventory, i)) continue;
    if (gpu->mig_index == GPU_UNKNOWN)
      snprintf(name, sizeof name, "%d", gpu->index);
    else
      snprintf(name, sizeof name, "%d:%d", gpu->index, gpu->mig_index);
    status = add(choice, name, gpu->uuid);
  }
  return status;
}

/* One piece between commas: "0-3", or a name. A UUID has dashes too, but does not begin with a digit. */
static mu_status add_piece(struct choice *choice, const char *piece) {
  char *end;
  if (piece[0] == '\0') return mu_fail(choice->err, MU_INVALID, "%s: an empty name among the GPUs", choice->group);
  unsigned long first = strtoul(piece, &end, 10), last = first;
  if (!isdigit((unsigned char)piece[0]) || (*end != '-' && *end != '\0')) return add_named(choice, piece);
  if (*end == '-') {
    const char *text = end + 1;
    last = strtoul(text, &end, 10);
    if (!isdigit((unsigned char)*text) || *end != '\0' || last < first || last >= 1000)
      return mu_fail(choice->err, MU_INVALID, "%s: '%.60s' is no range of GPUs like 0-3", choice->group, piece);
  }
  mu_status status = MU_OK;
  for (; status == MU_OK && first <= last; first++) {
    char name[32];
    snprintf(name, sizeof name, "%lu", first);
    status = add_named(choice, name);
  }
  return status;
}

static mu_status add_list(struct choice *choice, const char *text) {
  char piece[GPU_UUID_SIZE];
  for (;; text++) {
    size_t size = strcspn(text, ",");
    if (size >= sizeof piece) return mu_fail(choice->err, MU_INVALID, "%s: '%.100s' is no GPU", choice->group, text);
    memcpy(piece, text, size);
    piece[size] = '\0';
    mu_status status = add_piece(choice, piece);
    if (status != MU_OK) return status;
    text += size;
    if (*text == '\0') return MU_OK;
  }
}

mu_status gpu_choice(struct plan_group *group, const struct gpu_inventory *inventory, struct arena *memory,
                     bool *ret_unchecked, mu_error *err) {
  const char *text = group->settings->gpus;
  bool known = inventory != NULL && inventory->error[0] == '\0';
  struct choice choice = {.inventory = known ? inventory : NULL, .group = group->name, .err = err};
  *ret_unchecked = false;
  group->no_gpus = strcmp(text, "none") == 0;
  if (group->no_gpus || text[0] == '\0') return MU_OK;
  mu_status status = strcmp(text, "all") == 0 ? add_all(&choice) : add_list(&choice, text);
  if (status != MU_OK) return status;
  if (choice.n == 0) return mu_fail(err, MU_INVALID, "%s: no GPU here can be used", group->name);
  group->gpus = arena_alloc(memory, choice.n, sizeof *group->gpus);
  if (group->gpus == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the plan");
  memcpy(group->gpus, choice.gpus, choice.n * sizeof *group->gpus);
  group->n_gpus = choice.n;
  for (uint32_t i = 0; choice.inventory != NULL && i < choice.n; i++) {
    int32_t position = gpu_find(inventory, group->gpus[i].uuid);
    struct gpu *device = position != GPU_UNKNOWN ? arena_alloc(memory, 1, sizeof *device) : NULL;
    if (device == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the plan");
    *device = inventory->gpus[position];
    group->gpus[i].device = device;
  }
  *ret_unchecked = choice.inventory == NULL;
  return MU_OK;
}
