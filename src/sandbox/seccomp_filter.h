/* The part of the fence that a seccomp filter makes; sandbox.h. */
#ifndef SANDBOX_SECCOMP_FILTER_H
#define SANDBOX_SECCOMP_FILTER_H

#include "sandbox/sandbox.h"

/* For all threads of this process, for good. MU_UNSUPPORTED, MU_NO_MEMORY, MU_INTERNAL (a row that makes no sense). */
MUST_CHECK mu_status seccomp_filter_enter(enum sandbox_profile profile, mu_error *err);

#endif
