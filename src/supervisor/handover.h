/*
 * What a supervisor hands to the one that takes its place by execve: everything that cannot be found out again. Bytes
 * in a memfd, read by another version of muster: versioned, described field by field, every number checked.
 *
 *   u32 magic | u32 version | u32 control version | for each kind: u32 count, records
 *
 * File descriptors are numbers that stay good across execve. Strings and bytes of a decoded state are its own.
 */
#ifndef SUPERVISOR_HANDOVER_H
#define SUPERVISOR_HANDOVER_H

#include "control/message.h"

/* Of the format. Another one is refused: whoever changes a record counts up. */
enum { HANDOVER_VERSION = 8, HANDOVER_GATEWAYS = 2 };

struct handover_server {
  const char *version;          /* of muster */
  struct control_bytes options; /* the settings in force, for when they cannot be read anew: options_encode */
  uint64_t started_ns;
  uint32_t last_model, last_worker; /* numbers given last */
  uint64_t last_epoch;
  bool was_ready, settled;
  int32_t control_socket;
  const char *control_path;
  const char *http_address, *grpc_address, *metrics_address;
  uint32_t http_port, grpc_port, metrics_port;
  uint32_t n_http, n_grpc, n_metrics; /* of the listeners */
  uint32_t gateway;                   /* slot of the present one */
  uint32_t gateway_restarts;
  uint32_t gateway_early_deaths;
  bool gateway_was_ready, gateway_restarted;
  uint64_t gateway_ready_ns, gateway_delay_ns;
  uint64_t upgrade_started_ns; /* the upgrade that this is part of */
  uint32_t upgrades;           /* before this one */
  bool trace_begun;
  uint32_t trace_files;
  struct control_bytes inventory; /* what GPUs there were: gpu_inventory_to_json; empty: not known */
};

struct handover_socket {
  int32_t fd;
};

struct handover_device {
  const char *name;
};

struct handover_gateway {
  uint32_t slot, state;
  int32_t pid, pidfd, control;
};

struct handover_model {
  uint32_t number;
  const char *name;
  int64_t version;
  const char *folder;
  bool has_path;
  const char *path;
  int32_t file;              /* that file, kept open; -1: none */
  struct control_bytes text; /* config.pbtxt */
  bool named, planned;
  bool given; /* the file came with a request to load it */
  const char *engine;
  uint32_t threads;
  bool overlap; /* of the processes on a GPU */
  struct control_bytes metadata;
  uint32_t state;
  const char *reason;
  bool was_ready;
};

/* Of a model's plan, in its order. */
struct handover_group {
  uint32_t model;
  const char *device, *label;
  uint32_t processes, instances;
};

struct handover_worker {
  uint32_t model, place; /* which of the model's workers */
  uint32_t number, state;
  int32_t pid, pidfd, control; /* pid 0: there is no process, the other two mean nothing */
  uint64_t epoch_0, epoch_1;   /* of the attachments to the gateways */
  bool attached_0, attached_1;
  uint32_t wish;
  const char *wish_cause;
  int32_t failure;
  uint32_t early_deaths, restarts;
  bool was_ready, restarted;
  uint64_t ready_ns, delay_ns, started_ns;
  uint64_t due_ns; /* its timer; 0: not running */
  const char *reason;
  bool under_mps, mps_asked;
};

/* The MPS of a GPU. */
struct handover_mps {
  const char *uuid, *label, *folder, *error;
  uint32_t state;
  int32_t pid, pidfd, control; /* of the daemon's keeper; pid 0: there is none, the other two mean nothing */
  int32_t daemon;
  bool served, settling;
  uint32_t restarts;
  uint64_t since_ns, asked;
};

/* What was decided about a GPU (supervisor/gpus.h). */
struct handover_gpu {
  const char *uuid, *name;
  int32_t index;
  uint32_t condition;
  const char *reason;
  uint64_t since_ns, fault_ns, restart_delay_ns;
  int32_t recovery_action;
  int64_t energy_start_mj;
};

/* A process that asks NVML: it is to go. */
struct handover_fleet {
  int32_t pid, pidfd;
};

/* An Xid that a GPU has had. */
struct handover_xid {
  uint32_t gpu; /* which of the above */
  uint64_t xid, count;
};

/* Shared memory of a client. */
struct handover_region {
  const char *name, *key;
  uint64_t offset, byte_size;
  bool writable;
  int32_t fd;
};

/* With --model-control-mode=explicit: what is loaded, and of what it is made. */
struct handover_choice {
  const char *name;
  struct control_bytes config; /* instead of that of the repository; empty: none */
};

/* A model file that came with a request. */
struct handover_file_given {
  uint32_t choice; /* which of the above */
  int64_t version;
  int32_t fd;
};

/* What the repository index says of models that are not served. */
struct handover_note {
  const char *name;
  int64_t version;
  const char *reason;
};

struct handover {
  struct handover_server *server; /* one */
  size_t n_server;
  struct handover_socket *sockets; /* listeners: HTTP, then metrics */
  size_t n_sockets;
  struct handover_device *devices;
  size_t n_devices;
  struct handover_gateway *gateways;
  size_t n_gateways;
  struct handover_model *models;
  size_t n_models;
  struct handover_group *groups;
  size_t n_groups;
  struct handover_worker *workers;
  size_t n_workers;
  struct handover_region *regions;
  size_t n_regions;
  struct handover_choice *choices;
  size_t n_choices;
  struct handover_file_given *given;
  size_t n_given;
  struct handover_note *notes;
  size_t n_notes;
  struct handover_gpu *gpus;
  size_t n_gpus;
  struct handover_xid *xids;
  size_t n_xids;
  struct handover_fleet *fleet;
  size_t n_fleet;
  struct handover_mps *mps;
  size_t n_mps;
};

/* MU_TOO_LARGE, MU_NO_MEMORY. */
MUST_CHECK mu_status handover_encode(const struct handover *state, struct buffer *out);

/* bytes are borrowed until handover_free. MU_UNSUPPORTED: of another version; MU_INVALID: it does not add up;
 * MU_NO_MEMORY. */
MUST_CHECK mu_status handover_decode(const void *bytes, size_t size, struct handover *ret_state, mu_error *err);
/* What was decoded. */
void handover_free(struct handover *state);

/* A memfd (CLOEXEC) that holds the state and never changes again, and the way back: maps it, as handover_decode. MU_IO.
 */
MUST_CHECK mu_status handover_write(const struct handover *state, int *ret_fd, mu_error *err);

struct handover_file {
  void *bytes;
  size_t size;
  struct handover state;
};
MUST_CHECK mu_status handover_open(int fd, struct handover_file *ret_file, mu_error *err);
void handover_close(struct handover_file *file); /* accepts a zeroed one */

#endif
