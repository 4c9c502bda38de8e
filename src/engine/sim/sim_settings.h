/* What a simulated model does, read from the `sim.*` parameters of its config.pbtxt. */
#ifndef ENGINE_SIM_SIM_SETTINGS_H
#define ENGINE_SIM_SIM_SETTINGS_H

#include "base/status.h"

struct sim_settings {
  double load_ms, base_ms, per_item_ms, jitter_ms;
  /* On a simulated GPU: the time of a run alone there, and of all SMs together that its work needs; of a batch of n,
   * the first plus n times the second. Milliseconds. */
  double gpu_ms, gpu_per_item_ms, gpu_work_ms, gpu_work_per_item_ms;
  double gpu_speed;
  double gpu_memory_mib, gpu_total_mib;
  bool on_gpu, mps;
  double sm_share; /* the most of all SMs that the process may use */
  double seed;
  double fail_rate, crash_rate;
  double output_size;
  double load_fail, load_crash;                                          /* 0 or 1 */
  const char *fail_on, *crash_on, *hang_on, *memory_on, *device_lost_on; /* NULL: never */
  double memory_mib;
  const char *crash_by; /* see crash_signal; NULL: abort */
  const char *profile, *sharing;
  int crash_signal; /* 0: exits by itself */
};

/* The texts are borrowed from spec. Looks at the environment too, for MPS. MU_INVALID: an unknown `sim.` parameter, a
 * value that is out of range, one for a GPU where the device is none. */
MUST_CHECK mu_status sim_settings_read(const mu_model_spec *spec, struct sim_settings *ret_settings, mu_error *err);

#endif
