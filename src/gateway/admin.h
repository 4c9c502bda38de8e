/*
 * Who may change the server: --admin, whatever the protocol. Loading and unloading models, shared memory, trace and log
 * settings ask here first.
 */
#ifndef GATEWAY_ADMIN_H
#define GATEWAY_ADMIN_H

#include "gateway/call.h"

/* May the client of this call, which is not answered yet, change the server? false: err says why not, and names the
 * flag; HTTP answers 403, gRPC PERMISSION_DENIED. On the call's loop. */
MUST_CHECK bool gateway_admin_allowed(const struct call *call, mu_error *err);

#endif
