/*
 * What a server does about an Xid, the number under which NVIDIA's driver reports a fault of a GPU: a table (xid.c),
 * after NVIDIA's "XID Errors" guide as far as it concerns one machine that serves. Pure.
 */
#ifndef GPU_XID_H
#define GPU_XID_H

#include <stdint.h>

/* In rising order of what they cost. */
enum xid_action {
  XID_LOG,             /* said and counted: nothing is known that would help */
  XID_FOLLOW,          /* comes along with another Xid, which decides */
  XID_RESTART_IF_DEAD, /* the worker concerned ends by itself, and is started again as any that dies */
  XID_FENCE_NVLINK,    /* workers that span several GPUs cannot go on; those of one GPU can */
  XID_RECOVERY,        /* the GPU's recovery action says what (gpu_recovery_action) */
  XID_RESTART,         /* the workers of the GPU are killed and started again: the fault may be anybody's there */
  XID_DRAIN,           /* no new work, what runs may finish */
  XID_FENCE,           /* the same in haste: the GPU needs a reset */
  XID_REMOVE,          /* gone until the machine is started again */
};

struct xid_policy {
  uint64_t xid;
  enum xid_action action;
  const char *meaning; /* what it is, "fallen off the bus" */
};

/* Never NULL: what the table does not have is XID_LOG. */
const struct xid_policy *xid_find(uint64_t xid);

/* What the action comes to, for people: "its workers are restarted". */
const char *xid_action_text(enum xid_action action);

/* What follows from field 230 of a reading (struct gpu_reading): XID_LOG where nothing does; *ret_meaning: "the driver
 * asks for a reset". */
enum xid_action gpu_recovery_action(int32_t recovery_action, const char **ret_meaning);

#endif
