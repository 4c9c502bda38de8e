/* Where the supervisor knows the machine's GPUs from. */
#include "supervisor/state.h"

void gpus_tell(struct supervisor *s) {}

void fleet_start(struct supervisor *s) {
  gpus_simulate(&s->gpus, (uint32_t)s->options->simulate_gpus);
  gpus_known(s);
}
