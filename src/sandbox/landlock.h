/* The part of the fence that Landlock makes (Linux 5.13 and newer); sandbox.h. */
#ifndef SANDBOX_LANDLOCK_H
#define SANDBOX_LANDLOCK_H

#include "sandbox/sandbox.h"

/* For this thread and those that it starts; TCP connections to the n ports stay possible. Without Landlock in the
 * kernel: MU_OK, nothing done. MU_IO. */
MUST_CHECK mu_status landlock_enter(enum sandbox_profile profile, const uint16_t *ports, size_t n, mu_error *err);

#endif
