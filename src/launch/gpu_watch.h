/*
 * The GPUs of the services while they run: a process in the role `fleet` (as the supervisor's is: NVML's calls can
 * block for ever) says what faults they report and whether they are lost. What follows is gpu/xid.h's table, as far as
 * it can be done with programs of others: on a GPU that is drained, fenced or removed nothing is started any more, and
 * unless it is drained what runs there is ended. Belongs to the launch, on its loop's thread.
 */
#ifndef LAUNCH_GPU_WATCH_H
#define LAUNCH_GPU_WATCH_H

#include <jansson.h>
#include <sys/types.h>

#include "base/status.h"

struct launch;
struct launched;
struct gpu_watch;

/* *ret_watch NULL: no service has a GPU that NVML knows. MU_NO_MEMORY. */
MUST_CHECK mu_status gpu_watch_create(struct launch *launch, struct gpu_watch **ret_watch, mu_error *err);
/* Before the loop is gone; its process is killed. Accepts NULL. */
void gpu_watch_stop(struct gpu_watch *watch);
/* Afterwards. Accepts NULL. */
void gpu_watch_free(struct gpu_watch *watch);

/* May the service start? false: it has failed, and its reason says what its GPU has. */
bool gpu_watch_admit(struct launched *service);
/* Why nothing is to be started on its GPU; "" : nothing is known against it. */
const char *gpu_watch_fault(const struct launched *service);
/* A person starts it anew: what was decided about its GPU is forgotten. */
void gpu_watch_forgive(struct launched *service);

/* Is it the process? */
bool gpu_watch_keeps(const struct gpu_watch *watch, pid_t pid);

/* [{gpu, uuid, fault}, …], the GPUs that services have, each once. NULL without memory. */
json_t *gpu_watch_json(const struct launch *launch);

#endif
