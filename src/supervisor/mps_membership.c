/*
 * Who is a client of an MPS daemon: what a worker is started with, whether it has become one (a process that does not
 * reach its daemon runs without it and says nothing), how its work is ended before it is killed, and what people see.
 */
#include <inttypes.h>
#include <stdlib.h>

#include "gpu/mps.h"
#include "proto/json/json_text.h"
#include "supervisor/worker_gpus.h"

/* ---- the environment --------------------------------------------------------------------------------------------- */

static void add(struct mps_environment *environment, size_t *n, const char *entry) {
  environment->entries[(*n)++] = entry;
  environment->entries[*n] = NULL;
}

void mps_prepare(struct worker *worker, struct mps_environment *ret_environment) {
  static const char threads[] = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", memory[] = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT";
  const struct model_options *options = &worker->model->options;
  const struct mps_gpu *mps = mps_of(worker);
  struct mps_environment *environment = ret_environment;
  size_t n = 0;
  environment->entries[0] = NULL;
  worker->under_mps = mps != NULL && (mps->state == MPS_SERVING || mps->state == MPS_SIMULATED);
  worker->mps_asked = 0;
  worker->terminating = false;
  if (!worker->under_mps) return;
  snprintf(environment->pipe, sizeof environment->pipe, "CUDA_MPS_PIPE_DIRECTORY=%s%s",
           mps->state == MPS_SIMULATED ? "simulated" : mps->folder, mps->state == MPS_SIMULATED ? "" : "/pipe");
  add(environment, &n, environment->pipe);
  /* what a batch system has set holds */
  if (options->mps_active_threads > 0 && getenv(threads) == NULL) {
    snprintf(environment->threads, sizeof environment->threads, "%s=%" PRId64, threads, options->mps_active_threads);
    add(environment, &n, environment->threads);
  }
  /* Only what somebody has said: held to an estimate, a model could fail that would have run. */
  if (options->gpu_memory > 0 && getenv(memory) == NULL) {
    int64_t mib = (options->gpu_memory + (1 << 20) - 1) >> 20;
    snprintf(environment->memory, sizeof environment->memory, "%s=0=%" PRId64 "MB", memory, mib);
    add(environment, &n, environment->memory);
  }
}

/* ---- membership -------------------------------------------------------------------------------------------------- */

bool mps_verify(struct worker *worker) {
  struct mps_gpu *mps = worker->under_mps ? mps_of(worker) : NULL;
  if (mps == NULL || mps->state == MPS_SIMULATED) return false;
  const struct control_mps_query message = {++mps->asked};
  worker->mps_asked = mps->asked;
  mu_status status = child_send(&mps->keeper, CONTROL_MPS_QUERY, &message, NULL, 0);
  /* CANCELED: the link is lost, the keeper ends, and its clients with it. */
  if (status != MU_OK && status != MU_CANCELED)
    worker_condemn(worker, DEATH_UNREACHABLE, "the keeper of its GPU's MPS daemon cannot be asked");
  return true;
}

static struct worker *find_worker(const struct mps_gpu *mps, pid_t pid) {
  list_each (link, &mps->supervisor->workers) {
    struct worker *worker = list_item(link, struct worker, all);
    if (child_runs(&worker->child) && child_pid(&worker->child) == pid && mps_of(worker) == mps) return worker;
  }
  return NULL;
}

void mps_check_clients(struct mps_gpu *mps, uint64_t serial) {
  char why[256];
  list_each (link, &mps->supervisor->workers) {
    struct worker *worker = list_item(link, struct worker, all);
    if (worker->mps_asked == 0 || worker->mps_asked > serial || !child_runs(&worker->child) || mps_of(worker) != mps)
      continue;
    worker->mps_asked = 0;
    if (mps_has_client(mps->servers, child_pid(&worker->child))) {
      worker_is_client(worker);
      continue;
    }
    snprintf(why, sizeof why, "it runs without MPS: the daemon of %s (process %d, %s/pipe) does not know process %d",
             mps->label, (int)mps->daemon, mps->folder, (int)child_pid(&worker->child));
    worker_is_no_client(worker, why);
  }
}

/* ---- ending a client's work -------------------------------------------------------------------------------------- */

bool mps_terminate(struct worker *worker) {
  struct mps_gpu *mps = worker->under_mps ? mps_of(worker) : NULL;
  if (mps == NULL || mps->state != MPS_SERVING) return false;
  const struct control_mps_terminate message = {child_pid(&worker->child)};
  return child_send(&mps->keeper, CONTROL_MPS_TERMINATE, &message, NULL, 0) == MU_OK;
}

void mps_terminated(struct mps_gpu *mps, int32_t pid) {
  struct worker *worker = find_worker(mps, pid);
  if (worker != NULL && worker->terminating) worker_end_now(worker);
}

/* ---- what people see --------------------------------------------------------------------------------------------- */

/* NULL without memory, as all of these. */
static json_t *client_json(const struct mps_gpu *mps, pid_t pid) {
  const struct worker *worker = find_worker(mps, pid);
  if (worker == NULL) return json_pack("{s:i}", "pid", (int)pid); /* of somebody else, or gone */
  return json_pack("{s:i, s:I, s:s}", "pid", (int)pid, "worker", (json_int_t)worker->number, "model",
                   worker->model->name);
}

/* The array, unless something is missing in it. */
static json_t *only_whole(json_t *array, bool whole) {
  if (whole) return array;
  json_decref(array);
  return NULL;
}

static json_t *server_json(const struct mps_gpu *mps, const json_t *server) {
  json_t *clients = json_array();
  size_t i;
  const json_t *client;
  bool whole = clients != NULL;
  json_array_foreach(json_object_get(server, "clients"), i, client) whole =
      whole && json_array_append_new(clients, client_json(mps, (pid_t)json_integer_value(client))) == 0;
  return json_pack("{s:O, s:o}", "pid", json_object_get(server, "pid"), "clients", only_whole(clients, whole));
}

static json_t *servers_json(const struct mps_gpu *mps) {
  json_t *servers = json_array();
  size_t i;
  const json_t *server;
  bool whole = servers != NULL;
  json_array_foreach(mps->servers, i, server) whole =
      whole && json_array_append_new(servers, server_json(mps, server)) == 0;
  return only_whole(servers, whole);
}

static json_t *gpu_json(const struct mps_gpu *mps) {
  const struct gpu_inventory *inventory = &mps->supervisor->gpus.inventory;
  int32_t position = gpu_find(inventory, mps->uuid);
  double since_s = (double)(clock_now_ns() - mps->since_ns) / (double)NS_PER_S;
  json_t *json =
      json_pack("{s:s, s:s, s:s, s:f, s:i, s:b, s:s, s:s, s:o, s:o, s:o, s:o}", "gpu", mps->label, "uuid", mps->uuid,
                "state", mps_state_name(mps->state), "since_s", since_s, "restarts", (int)mps->restarts, "answering",
                (int)mps->answering, "folder", mps->folder, "error", mps->error, "daemon",
                mps->daemon != 0 ? json_integer(mps->daemon) : json_null(), "default_active_thread_percentage",
                mps->percentage != 0 ? json_integer(mps->percentage) : json_null(), "client_limit",
                position != GPU_UNKNOWN ? json_integer(mps_client_limit(&inventory->gpus[position], inventory->cuda))
                                        : json_null(),
                "servers", servers_json(mps));
  return json;
}

json_t *mps_json(const struct supervisor *s) {
  static const char *const modes[] = {[MPS_MODE_AUTO] = "auto", [MPS_MODE_ON] = "on", [MPS_MODE_OFF] = "off"};
  json_t *gpus = json_array();
  const char *inherited = mps_inherited();
  bool whole = gpus != NULL;
  list_each (link, &s->mps)
    whole = whole && json_array_append_new(gpus, gpu_json(list_item(link, struct mps_gpu, link))) == 0;
  bool said = inherited != NULL && json_utf8_valid(inherited, strlen(inherited));
  json_t *path = inherited != NULL ? json_string(said ? inherited : "?") : json_null();
  return json_pack("{s:s, s:o, s:o}", "mode", modes[s->options->mps], "inherited", path, "gpus",
                   only_whole(gpus, whole));
}
