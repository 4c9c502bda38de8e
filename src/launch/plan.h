/*
 * From what `muster launch` was told to the services that it means: names, GPUs, ports, commands with everything filled
 * in. Checks what the settings mean together. Starts nothing; owned by whoever made it.
 */
#ifndef LAUNCH_PLAN_H
#define LAUNCH_PLAN_H

#include "config/launch_settings.h"
#include "gpu/inventory.h"
#include "launch/port.h"

enum { LAUNCH_SERVICES_MAX = 4096, LAUNCH_ID_SIZE = 160, READY_PATH_MAX = 2048, LAUNCH_FAULT_SIZE = 384 };

enum ready_kind { READY_NONE, READY_TCP, READY_GRPC, READY_HTTP, READY_COMMAND };

struct plan_gpu {
  char name[GPU_UUID_SIZE];      /* {gpu}: the index, or as it was said */
  char uuid[GPU_UUID_SIZE];      /* "" : not known */
  const struct gpu *device;      /* as NVML shows it, the plan's; NULL: not known */
  char fault[LAUNCH_FAULT_SIZE]; /* launch/gpu_watch.h's: why nothing is to be started there; "" : it is */
};

/* A group with its settings read. */
struct plan_group {
  const struct launch_group *settings;
  const char *name;
  struct plan_gpu *gpus;
  uint32_t n_gpus;
  bool no_gpus; /* "none": they shall see no GPU, which differs from saying nothing */
  struct port_range ports;
  enum ready_kind ready;
  const char *ready_argument; /* path or command */
  uint32_t count;             /* services wanted */
};

struct plan {
  const struct launch_settings *settings;
  struct plan_group *groups;
  size_t n_groups;
  int32_t cuda; /* gpu_inventory's */
  struct option_list warnings;
  struct arena memory;
};

/* One service, ready to be started. Its own memory. */
struct plan_service {
  char id[LAUNCH_ID_SIZE];    /* "lipsync/3" */
  uint16_t port;              /* 0: none */
  const struct plan_gpu *gpu; /* the group's; NULL: none */
  const char *path;           /* of the program */
  char **argv;                /* NULL-terminated */
  char **environment;         /* additions, "K=V", NULL-terminated */
  const char *ready_argument;
  struct arena memory;
};

/* settings are borrowed for the plan's life; inventory: NULL or without GPUs where there is no NVML. MU_INVALID,
 * MU_NOT_FOUND (a program), MU_NO_MEMORY. Every service has been made once, so that none fails later for its settings.
 */
MUST_CHECK mu_status plan_create(const struct launch_settings *settings, const struct gpu_inventory *inventory,
                                 struct plan **ret_plan, mu_error *err);
void plan_free(struct plan *plan); /* accepts NULL */

/* What the service of this index in the group is. MU_INVALID, MU_NOT_FOUND, MU_NO_MEMORY. */
MUST_CHECK mu_status plan_service(const struct plan *plan, const struct plan_group *group, uint32_t index,
                                  struct plan_service *ret_service, mu_error *err);
void plan_service_free(struct plan_service *service);

/* May the group have n services: are there ports for all, that no other group has? MU_INVALID. */
MUST_CHECK mu_status plan_check_count(const struct plan *plan, const struct plan_group *group, uint32_t n,
                                      mu_error *err);

#endif
