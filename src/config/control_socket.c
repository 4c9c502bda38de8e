#include "config/control_socket.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

mu_status control_folder_path(char ret_path[CONTROL_SOCKET_PATH_MAX], mu_error *err) {
  char path[CONTROL_SOCKET_PATH_MAX];
  const char *runtime = getenv("XDG_RUNTIME_DIR");
  int n = runtime != NULL && runtime[0] == '/'
              ? snprintf(path, sizeof path, "%s/muster", runtime)
              : snprintf(path, sizeof path, "/tmp/muster-%lu", (unsigned long)getuid());
  if (n < 0 || (size_t)n >= sizeof path)
    return mu_fail(err, MU_INVALID, "XDG_RUNTIME_DIR is too long for a Unix socket: %.200s", runtime);
  memcpy(ret_path, path, sizeof path);
  return MU_OK;
}

mu_status options_control_socket(const struct options *options, int64_t http_port,
                                 char ret_path[CONTROL_SOCKET_PATH_MAX], mu_error *err) {
  char folder[CONTROL_SOCKET_PATH_MAX], path[CONTROL_SOCKET_PATH_MAX];
  int n;
  if (*options->control_socket != '\0') {
    n = snprintf(path, sizeof path, "%s", options->control_socket);
  } else {
    mu_status status = control_folder_path(folder, err);
    if (status != MU_OK) return status;
    n = snprintf(path, sizeof path, "%s/%" PRId64 ".sock", folder, http_port);
  }
  if (n < 0 || (size_t)n >= sizeof path)
    return mu_fail(err, MU_INVALID, "the path of the control socket is longer than %d bytes: set --control-socket",
                   CONTROL_SOCKET_PATH_MAX - 1);
  memcpy(ret_path, path, sizeof path);
  return MU_OK;
}

mu_status control_folder_check(mu_error *err) {
  char path[CONTROL_SOCKET_PATH_MAX];
  struct stat found;
  mu_status status = control_folder_path(path, err);
  if (status != MU_OK) return status;
  if (lstat(path, &found) != 0)
    return mu_fail(err, errno == ENOENT ? MU_NOT_FOUND : MU_IO, "%s: %s", path, strerror(errno));
  if (!S_ISDIR(found.st_mode) || found.st_uid != getuid() || (found.st_mode & 077) != 0)
    return mu_fail(err, MU_INVALID, "%s has to be a folder of yours that nobody else can use (mode 0700)", path);
  return MU_OK;
}

mu_status control_folder_create(mu_error *err) {
  char path[CONTROL_SOCKET_PATH_MAX];
  mu_status status = control_folder_path(path, err);
  if (status != MU_OK) return status;
  if (mkdir(path, 0700) != 0 && errno != EEXIST)
    return mu_fail(err, MU_IO, "cannot make the folder %s: %s", path, strerror(errno));
  return control_folder_check(err);
}
