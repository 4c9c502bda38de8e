/*
 * Where the control socket of a server is: the one rule that `muster serve` and the commands that speak to it share.
 *
 *   --control-socket PATH, else FOLDER/PORT.sock with FOLDER $XDG_RUNTIME_DIR/muster, or /tmp/muster-UID
 *
 * The folder belongs to the user alone (0700): whoever can write there could answer in the server's name.
 */
#ifndef CONFIG_CONTROL_SOCKET_H
#define CONFIG_CONTROL_SOCKET_H

#include "config/options.h"

/* As sun_path of struct sockaddr_un, terminator included. */
enum { CONTROL_SOCKET_PATH_MAX = 108 };

/* The path for a server whose HTTP port is http_port (the real one, where the option says 0). MU_INVALID: too long for
 * a Unix socket. */
MUST_CHECK mu_status options_control_socket(const struct options *options, int64_t http_port,
                                            char ret_path[CONTROL_SOCKET_PATH_MAX], mu_error *err);

/* The folder of the default rule. MU_INVALID: too long. */
MUST_CHECK mu_status control_folder_path(char ret_path[CONTROL_SOCKET_PATH_MAX], mu_error *err);

/* For the supervisor: makes the folder where it is not there yet, then control_folder_check. MU_IO. */
MUST_CHECK mu_status control_folder_create(mu_error *err);

/* MU_NOT_FOUND: no such folder. MU_INVALID: no folder, or one that is not ours alone. MU_IO. */
MUST_CHECK mu_status control_folder_check(mu_error *err);

#endif
