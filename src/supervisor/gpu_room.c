#include "supervisor/gpu_room.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "gpu/mps.h"

/* ---- files ------------------------------------------------------------------------------------------------------- */

static int64_t file_bytes(const char *path) {
  struct stat file;
  return stat(path, &file) == 0 && S_ISREG(file.st_mode) ? (int64_t)file.st_size : 0;
}

static int64_t folder_bytes(const char *folder) {
  DIR *entries = opendir(folder);
  int64_t sum = 0;
  const struct dirent *entry;
  while (entries != NULL && (entry = readdir(entries)) != NULL) {
    char path[4096 + sizeof entry->d_name];
    snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    sum += file_bytes(path);
  }
  if (entries != NULL) closedir(entries);
  return sum;
}

int64_t gpu_room_file_bytes(const struct served_model *model) {
  struct stat file;
  const char *slash = model->path != NULL ? strrchr(model->path, '/') : NULL;
  if (model->given || model->path == NULL)
    return model->file >= 0 && fstat(model->file, &file) == 0 ? (int64_t)file.st_size : 0;
  if (model->folder[0] == '\0' || slash == NULL) return file_bytes(model->path); /* beside it lie other models */
  char folder[4096];
  snprintf(folder, sizeof folder, "%.*s", (int)(slash - model->path), model->path);
  return folder_bytes(folder);
}

/* ---- room -------------------------------------------------------------------------------------------------------- */

/* The shares of a plan, as placement counts them; those of the CPU are left out. */
static uint32_t find_shares(const struct planning *planning, const struct worker_plan *plan, uint32_t *ret_processes,
                            struct placement_share shares[PLACEMENT_SHARES_MAX]) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < plan->n_groups; i++) {
    int32_t position = gpus_position(planning->gpus, plan->groups[i].device);
    if (position == GPU_UNKNOWN) continue;
    shares[n++] = (struct placement_share){position, plan->groups[i].instances};
    *ret_processes = plan->groups[i].processes; /* the same on every GPU */
  }
  return n;
}

/* More processes than MPS takes on a GPU. */
static mu_status check_clients(const struct planning *planning, const struct placement_share *shares, uint32_t n,
                               const char *model, const struct placement_room *rooms, mu_error *err) {
  const struct gpu_inventory *inventory = &planning->gpus->inventory;
  for (uint32_t i = 0; planning->mps && i < n; i++) {
    const struct gpu *gpu = &inventory->gpus[shares[i].gpu];
    uint32_t limit = mps_client_limit(gpu, inventory->cuda), processes = rooms[shares[i].gpu].processes;
    char label[GPU_LABEL_SIZE];
    gpu_label(gpu, label);
    if (processes > limit)
      return mu_fail(err, MU_TOO_LARGE,
                     "with %s %" PRIu32 " processes are planned on GPU %s, MPS takes at most %" PRIu32 " there", model,
                     processes, label, limit);
  }
  return MU_OK;
}

static mu_status take(const struct planning *planning, struct served_model *model, struct placement_room *rooms,
                      mu_error *err) {
  struct placement_share shares[PLACEMENT_SHARES_MAX];
  uint32_t processes = 0, n = find_shares(planning, &model->plan, &processes, shares);
  if (planning->measured != NULL)
    model->gpu_memory.measured =
        gpu_measurements_find(planning->measured, model->name, model->version, model->file_bytes);
  struct placement_room before[GPUS_MAX];
  memcpy(before, rooms, sizeof before);
  mu_status status =
      placement_take(&planning->gpus->inventory, shares, n, processes, &model->gpu_memory, model->name, rooms, err);
  if (status == MU_OK) status = check_clients(planning, shares, n, model->name, rooms, err);
  if (status != MU_OK) memcpy(rooms, before, sizeof before);
  return status;
}

static void look(const struct planning *planning, struct placement_room rooms[GPUS_MAX]) {
  int32_t pids[GPU_PROCESSES_MAX];
  uint32_t n = 0;
  if (planning->workers != NULL)
    list_each (link, planning->workers) {
      const struct worker *worker = list_item(link, struct worker, all);
      if (child_runs(&worker->child) && n < GPU_PROCESSES_MAX) pids[n++] = child_pid(&worker->child);
    }
  placement_look(&planning->gpus->inventory, pids, n, rooms);
}

/* ---- what is there already --------------------------------------------------------------------------------------- */

static bool has_name(const struct list *models, const char *name) {
  list_each (link, models)
    if (strcmp(list_item(link, struct served_model, link)->name, name) == 0) return true;
  return false;
}

static bool runs_already(const struct list *served, const struct served_model *wanted) {
  if (served == NULL) return false;
  list_each (link, served) {
    const struct served_model *model = list_item(link, struct served_model, link);
    if (model->role == SERVED && model->planned && model != wanted && model->version == wanted->version &&
        strcmp(model->name, wanted->name) == 0 && fingerprint_same(model, wanted))
      return true;
  }
  return false;
}

/* It has its memory, whatever the figures say. */
static void take_running(const struct planning *planning, struct served_model *model, struct placement_room *rooms) {
  mu_error err;
  if (take(planning, model, rooms, &err) != MU_OK)
    LOG_WARNING("a model that is served takes more of a GPU than there is, as it seems", LOG_STR("model", model->name),
                LOG_STR("reason", err.message));
}

/* ---- all --------------------------------------------------------------------------------------------------------- */

static void refuse(struct served_model *model, const char *reason) {
  model->planned = false;
  model->state = MODEL_UNAVAILABLE;
  snprintf(model->reason, sizeof model->reason, "%s", reason);
}

void gpu_room_check(const struct planning *planning, struct list *wanted, bool part,
                    struct placement_room ret_rooms[GPUS_MAX]) {
  mu_error err;
  look(planning, ret_rooms);
  if (part && planning->served != NULL)
    list_each (link, planning->served) {
      struct served_model *model = list_item(link, struct served_model, link);
      if (model->planned && model->role == SERVED && !has_name(wanted, model->name))
        take_running(planning, model, ret_rooms);
    }
  list_each (link, wanted) {
    struct served_model *model = list_item(link, struct served_model, link);
    if (model->planned && runs_already(planning->served, model)) take_running(planning, model, ret_rooms);
  }
  list_each (link, wanted) {
    struct served_model *model = list_item(link, struct served_model, link);
    if (!model->planned || runs_already(planning->served, model)) continue;
    if (take(planning, model, ret_rooms, &err) != MU_OK) refuse(model, err.message);
  }
}

/* ---- measuring --------------------------------------------------------------------------------------------------- */

static int64_t measured_bytes(const struct gpu_inventory *inventory, int32_t pid) {
  int64_t sum = 0;
  for (uint32_t i = 0; i < inventory->n_processes; i++)
    if (inventory->processes[i].pid == pid && inventory->processes[i].memory_used > 0)
      sum += inventory->processes[i].memory_used;
  return sum;
}

/* Loaded and warm: it has what it needs. What it grows to later counts when it is seen. */
static bool measure(struct supervisor *s, const struct worker *worker) {
  const struct served_model *model = worker->model;
  mu_error err;
  bool is_new = false;
  if (worker->state != WORKER_READY || worker_plan_gpu(worker->group->device) == NULL) return false;
  int64_t bytes = measured_bytes(&s->gpus.inventory, child_pid(&worker->child));
  if (bytes == 0) return false;
  if (gpu_measurements_put(&s->measured, model->name, model->version, model->file_bytes, bytes, &is_new, &err) != MU_OK)
    LOG_WARNING("what a worker takes of its GPU is not remembered", LOG_STR("error", err.message));
  return is_new;
}

void gpu_room_measure(struct supervisor *s) {
  bool any = false;
  mu_error err;
  list_each (link, &s->workers) any = measure(s, list_item(link, struct worker, all)) || any;
  if (!any || s->options->measurements[0] == '\0') return;
  if (gpu_measurements_write(&s->measured, s->options->measurements, &err) != MU_OK)
    LOG_ERROR("measurements are not kept", LOG_STR("error", err.message));
}

mu_status gpu_room_remember(struct supervisor *s, mu_error *err) {
  const char *path = s->options->measurements;
  return path[0] != '\0' ? gpu_measurements_read(&s->measured, path, err) : MU_OK;
}
