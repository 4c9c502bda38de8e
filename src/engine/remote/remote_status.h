/* What a backend's refusal means to whoever waits for the answer. Pure. */
#ifndef ENGINE_REMOTE_REMOTE_STATUS_H
#define ENGINE_REMOTE_REMOTE_STATUS_H

#include "engine/remote/remote_transfer.h"

/* An HTTP status other than 200, and the body that came with it (as much of it as was kept). */
void remote_status_http(long http_status, const char *body, size_t size, struct remote_outcome *ret_outcome);

/* A grpc-status other than 0, and its grpc-message as it travels ("" where there is none). */
void remote_status_grpc(long code, const char *message, struct remote_outcome *ret_outcome);

#endif
