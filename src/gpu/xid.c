#include "gpu/xid.h"

#include <stddef.h>

static const struct xid_policy policies[] = {
    {0, XID_DRAIN, "double-bit ECC error"}, /* the driver reports it as an event of its own, without an Xid */
    {13, XID_RESTART, "graphics engine exception"},
    {31, XID_RESTART, "GPU memory page fault"},
    {32, XID_RESTART, "invalid or corrupted push buffer"},
    {43, XID_RESTART_IF_DEAD, "a program of the GPU was stopped"},
    {45, XID_FOLLOW, "channels removed after an earlier fault"},
    {46, XID_FENCE, "the GPU stopped processing"},
    {48, XID_DRAIN, "double-bit ECC error"},
    {61, XID_LOG, "internal microcontroller breakpoint"},
    {62, XID_FENCE, "internal microcontroller halt"},
    {63, XID_LOG, "a row of memory is to be remapped"},
    {64, XID_FENCE, "a row of memory could not be remapped"},
    {69, XID_RESTART, "graphics engine class error"},
    {74, XID_FENCE_NVLINK, "NVLink error"},
    {79, XID_REMOVE, "fallen off the bus"},
    {92, XID_LOG, "many corrected ECC errors"},
    {94, XID_RESTART, "contained ECC error"},
    {95, XID_FENCE, "uncontained ECC error"},
    {109, XID_FENCE, "context switch timeout"},
    {110, XID_FENCE, "security fault"},
    {119, XID_FENCE, "the GPU's system processor does not answer"},
    {120, XID_FENCE, "the GPU's system processor failed"},
    {136, XID_FENCE, "link training failed"},
    {140, XID_FENCE, "unrecovered ECC error"},
    {143, XID_FENCE, "the GPU could not be initialised"},
    {144, XID_FENCE_NVLINK, "NVLink error"},
    {145, XID_FENCE_NVLINK, "NVLink error"},
    {146, XID_FENCE_NVLINK, "NVLink error"},
    {147, XID_FENCE_NVLINK, "NVLink error"},
    {148, XID_FENCE_NVLINK, "NVLink error"},
    {149, XID_FENCE_NVLINK, "NVLink error"},
    {150, XID_FENCE_NVLINK, "NVLink error"},
    {154, XID_RECOVERY, "the GPU's recovery action has changed"},
    {158, XID_FENCE, "fatal fault of the GPU"},
};

const struct xid_policy *xid_find(uint64_t xid) {
  static const struct xid_policy unknown = {UINT64_MAX, XID_LOG, "a fault that muster has no rule for"};
  for (size_t i = 0; i < sizeof policies / sizeof *policies; i++)
    if (policies[i].xid == xid) return &policies[i];
  return &unknown;
}

const char *xid_action_text(enum xid_action action) {
  static const char *const texts[] = {
      [XID_LOG] = "nothing is done about it",
      [XID_FOLLOW] = "the fault before it decides",
      [XID_RESTART_IF_DEAD] = "a worker that died of it is started again",
      [XID_FENCE_NVLINK] = "workers of one GPU go on",
      [XID_RECOVERY] = "the recovery action is obeyed",
      [XID_RESTART] = "its workers are restarted",
      [XID_DRAIN] = "it is drained",
      [XID_FENCE] = "it is fenced and needs a reset",
      [XID_REMOVE] = "it is removed until the machine is started again",
  };
  return texts[action];
}

enum xid_action gpu_recovery_action(int32_t recovery_action, const char **ret_meaning) {
  static const struct {
    enum xid_action action;
    const char *meaning;
  } actions[] = {
      {XID_LOG, ""},
      {XID_FENCE, "the driver asks for a reset of the GPU"},
      {XID_REMOVE, "the driver asks for a restart of the machine"},
      {XID_DRAIN, "the driver asks to drain the GPU"},
      {XID_FENCE, "the driver asks to drain and reset the GPU"},
  };
  size_t row =
      recovery_action > 0 && (size_t)recovery_action < sizeof actions / sizeof *actions ? (size_t)recovery_action : 0;
  *ret_meaning = actions[row].meaning;
  return actions[row].action;
}
