/* What a simulated model does, read from the `sim.*` parameters of its config.pbtxt. */
#ifndef ENGINE_SIM_SIM_SETTINGS_H
#define ENGINE_SIM_SIM_SETTINGS_H

#include "base/status.h"

struct sim_settings {
  double load_ms, base_ms, per_item_ms, jitter_ms;
  double seed;
  double fail_rate, crash_rate;
  double output_size;
  double load_fail, load_crash;                         /* 0 or 1 */
  const char *fail_on, *crash_on, *hang_on, *memory_on; /* NULL: never */
  double memory_mib;
  const char *crash_by; /* see crash_signal; NULL: abort */
  int crash_signal;     /* 0: exits by itself */
};

/* The texts are borrowed from spec. MU_INVALID: an unknown `sim.` parameter, or a value that is out of range. */
MUST_CHECK mu_status sim_settings_read(const mu_model_spec *spec, struct sim_settings *ret_settings, mu_error *err);

#endif
