/* How a remote model is reached, read from the `remote.*` parameters of its config.pbtxt. */
#ifndef ENGINE_REMOTE_REMOTE_SETTINGS_H
#define ENGINE_REMOTE_REMOTE_SETTINGS_H

#include "base/status.h"

enum remote_protocol { REMOTE_HTTP, REMOTE_GRPC };

struct remote_settings {
  const char *backends; /* "host:8000-8003,host2:8000" */
  const char *model;    /* its name there; NULL: as here */
  const char *version;  /* there; NULL: theirs to choose */
  enum remote_protocol protocol;
  uint64_t timeout_ns;  /* of a run, with all that is tried */
  uint64_t wait_ns;     /* how much of it may pass while no backend is healthy */
  uint64_t interval_ns; /* between checks of a backend */
  uint64_t max_reply;   /* bytes */
};

/* The texts are borrowed from the parameters. MU_INVALID: an unknown `remote.` parameter, a value out of range, or no
 * remote.backends. */
MUST_CHECK mu_status remote_settings_read(const mu_parameter *parameters, size_t n,
                                          struct remote_settings *ret_settings, mu_error *err);

#endif
