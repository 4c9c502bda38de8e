/*
 * The client's side of the control socket: finding the server of this user, and asking it (HTTP over a Unix socket).
 */
#ifndef CLI_CONTROL_CLIENT_H
#define CLI_CONTROL_CLIENT_H

#include "config/control_socket.h"

#include <jansson.h>

/* Where the server listens: by --control-socket or --http-port where one is set, else the only live socket in the
 * user's folder. MU_NOT_FOUND: no server; MU_INVALID: several, the message names them; MU_IO. */
MUST_CHECK mu_status control_find(const struct options *options, char ret_path[CONTROL_SOCKET_PATH_MAX], mu_error *err);

enum { CONTROL_PROMPT_MS = 10000, CONTROL_PATIENT_MS = 0 /* for an answer that comes when something is over */ };

/* method "GET" or "POST" (without a body); appends the answer's body to body. MU_NOT_FOUND: nobody answers there;
 * MU_INTERNAL: an answer that is not 2xx (the message has its text); MU_TIMEOUT: none within timeout_ms (0: however
 * long it takes); MU_IO. */
MUST_CHECK mu_status control_ask(const char *socket, const char *method, const char *target, long timeout_ms,
                                 struct buffer *body, mu_error *err);

/* GET /status, parsed: an object, the caller's (json_decref). As control_ask; MU_INTERNAL: not what a server says. */
MUST_CHECK mu_status control_get_status(const char *socket, json_t **ret_status, mu_error *err);

/* GETs path from a port of the server; address as the status has it ("every address" is this machine). As control_ask.
 */
MUST_CHECK mu_status control_get_page(const char *address, uint16_t port, const char *path, long timeout_ms,
                                      struct buffer *body, mu_error *err);

/* stop.c: POST /stop, then waits until the process is gone. As control_ask; MU_TIMEOUT: it still stops. */
MUST_CHECK mu_status control_stop_and_wait(const char *socket, int pid, int seconds, mu_error *err);

#endif
