/* Looking at values of a tensor. Pure. */
#ifndef ENGINE_SIM_SIM_ELEMENT_H
#define ENGINE_SIM_SIM_ELEMENT_H

#include "base/status.h"

/* Whether the first element of any row (dimension 0) equals value, as a number, for BYTES as text; false where value is
 * NULL or no number, and for FP16 and BF16. */
bool sim_any_row_begins(const mu_tensor *tensor, const char *value);

#endif
