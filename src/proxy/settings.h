/* What `muster proxy` is told by its flags. Pure but for the resolver. Strings are borrowed from argv. */
#ifndef PROXY_SETTINGS_H
#define PROXY_SETTINGS_H

#include "backend/backend_list.h"
#include "base/buffer.h"

enum proxy_retry {
  PROXY_RETRY_NEVER,
  PROXY_RETRY_CONNECT,    /* what no backend has seen */
  PROXY_RETRY_IDEMPOTENT, /* also what one has seen, while its whole message is at hand and no answer has begun */
};

enum proxy_check {
  PROXY_CHECK_AUTO, /* gRPC health, or GET /v2/health/ready for --http-backends; who knows neither is alive if it says
                       so */
  PROXY_CHECK_GRPC,
  PROXY_CHECK_HTTP,
  PROXY_CHECK_TCP
};

enum { PROXY_PORT_OFF = -1, PROXY_ORIGINS_MAX = 16 };

struct proxy_settings {
  struct backend_list backends, http_backends; /* http_backends empty: the same servers */
  const char *address;
  int64_t grpc_port, http_port, ws_port; /* PROXY_PORT_OFF */
  enum proxy_retry retry;
  int64_t retries; /* attempts after the first */
  int64_t wait_timeout_ns, connect_timeout_ns, check_timeout_ns, check_interval_ns, ws_deadline_ns, drain_timeout_ns;
  enum proxy_check check;
  const char *check_path; /* PROXY_CHECK_HTTP */
  const char *ws_method;  /* NULL: every socket names its own */
  int64_t ws_in_flight;
  int64_t ws_buffer; /* bytes that all WebSockets together hold of messages and answers, past HELD_EACH of each */
  int64_t max_connections;
  int64_t retry_buffer; /* bytes that are kept for a second attempt, of all requests together */
  const char *ws_origins[PROXY_ORIGINS_MAX];
  size_t n_ws_origins;
  bool sandbox;
  bool opaque;
  const char *haproxy;       /* the program */
  const char *backends_file; /* more backends, one a line; read again at a reload of --opaque. NULL: none */
  const char *start_port, *num_servers;
};

/* argv[0 … argc) are the flags. MU_INVALID, MU_NOT_FOUND (a name that does not resolve), MU_EXISTS (named twice). */
MUST_CHECK mu_status proxy_settings_load(int argc, char **argv, struct proxy_settings *ret_settings, mu_error *err);
void proxy_settings_free(struct proxy_settings *settings);

/* The flags with their meanings, for --help. */
void proxy_settings_print_help(struct buffer *out);

#endif
