/* Values of gRPC's headers and trailers: deadlines, status codes, messages. Pure. */
#ifndef PROTO_GRPC_GRPC_HEADERS_H
#define PROTO_GRPC_GRPC_HEADERS_H

#include "base/buffer.h"
#include "base/status.h"

/* The codes of grpc-status that muster sends. */
enum grpc_code {
  GRPC_OK = 0,
  GRPC_CANCELLED = 1,
  GRPC_INVALID_ARGUMENT = 3,
  GRPC_DEADLINE_EXCEEDED = 4,
  GRPC_NOT_FOUND = 5,
  GRPC_ALREADY_EXISTS = 6,
  GRPC_PERMISSION_DENIED = 7,
  GRPC_RESOURCE_EXHAUSTED = 8,
  GRPC_UNIMPLEMENTED = 12,
  GRPC_INTERNAL = 13,
  GRPC_UNAVAILABLE = 14,
};

/*
 * What a failed call answers, from one table. INVALID 3, NOT_FOUND 5, EXISTS 6, UNSUPPORTED 12, TOO_LARGE 8, CANCELED
 * 1, the rest 13. UNAVAILABLE and NO_MEMORY are 14, and TIMEOUT too: what waited too long in a queue is UNAVAILABLE in
 * Triton, and worth trying again. The end of the call's own grpc-timeout is GRPC_DEADLINE_EXCEEDED, which the caller
 * says itself (clients mostly say it themselves and never see the answer).
 */
enum grpc_code grpc_code_of(mu_status status);

/* grpc-timeout: 1 to 8 digits and one of H M S m u n. *ret_ns saturates at UINT64_MAX, which 99999999H does not reach.
 * MU_INVALID. */
MUST_CHECK mu_status grpc_timeout_parse(const char *text, uint64_t *ret_ns, mu_error *err);

/* grpc-message: bytes outside of 0x20 to 0x7e, and '%', as %XX. Appended. MU_NO_MEMORY, MU_TOO_LARGE. */
MUST_CHECK mu_status grpc_message_encode(struct buffer *out, const char *message);

#endif
