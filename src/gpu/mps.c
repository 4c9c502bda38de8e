#include "gpu/mps.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

uint32_t mps_client_limit(const struct gpu *gpu, int32_t cuda) {
  enum { VOLTA = 7, CUDA_13_1 = 13010 };
  if (gpu->compute_major < VOLTA) return 16;
  return cuda >= CUDA_13_1 ? 60 : 48;
}

const char *mps_obstacle(const struct gpu *gpu) {
  if (gpu->compute_major < 3 || (gpu->compute_major == 3 && gpu->compute_minor < 5))
    return "its compute capability is below 3.5";
  if (gpu->compute_mode == GPU_COMPUTE_PROHIBITED) return "its compute mode is PROHIBITED";
  if (gpu->mig_enabled && gpu->mig_index == GPU_UNKNOWN) return "it is divided into MIG devices";
  return NULL;
}

bool mps_binary_found(const char *name) {
  char path[4096];
  const char *folders = getenv("PATH");
  if (strchr(name, '/') != NULL) return access(name, X_OK) == 0;
  while (folders != NULL && *folders != '\0') {
    size_t length = strcspn(folders, ":");
    snprintf(path, sizeof path, "%.*s/%s", (int)length, folders, name);
    if (length > 0 && access(path, X_OK) == 0) return true;
    folders += length + (folders[length] == ':');
  }
  return false;
}

void mps_find_obstacle(const struct gpu *gpu, int32_t cuda, uint32_t planned, const char *binary, char *text,
                       size_t size) {
  uint32_t limit = gpu != NULL ? mps_client_limit(gpu, cuda) : 0;
  const char *obstacle = gpu != NULL ? mps_obstacle(gpu) : "it is not there any more";
  text[0] = '\0';
  if (obstacle != NULL)
    snprintf(text, size, "%s", obstacle);
  else if (!mps_binary_found(binary))
    snprintf(text, size, "there is no %s (--mps-control-binary)", binary);
  else if (planned > limit)
    snprintf(text, size, "%u processes are planned there, MPS takes at most %u on that GPU", planned, limit);
}

const char *mps_inherited(void) {
  const char *path = getenv("CUDA_MPS_PIPE_DIRECTORY");
  return path != NULL && path[0] != '\0' ? path : NULL;
}

bool mps_has_client(const json_t *servers, int32_t pid) {
  size_t i, k;
  const json_t *server, *client;
  json_array_foreach(servers, i, server) json_array_foreach(json_object_get(server, "clients"), k,
                                                            client) if (json_integer_value(client) == pid) return true;
  return false;
}

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

/* Without the spaces around it. */
static const char *trim(const char *text, size_t *size) {
  while (*size > 0 && is_space(text[*size - 1])) (*size)--;
  while (*size > 0 && is_space(*text)) text++, (*size)--;
  return text;
}

/* The number that a line consists of; 0: it is something else. */
static int32_t line_number(const char *line, size_t size) {
  int64_t number = 0;
  for (size_t i = 0; i < size; i++) {
    if (line[i] < '0' || line[i] > '9') return 0;
    number = number * 10 + (line[i] - '0');
    if (number > INT32_MAX) return 0;
  }
  return (int32_t)number;
}

mu_status mps_read_pids(const char *command, const char *text, size_t size, int32_t *ret_pids, size_t max,
                        size_t *ret_n, mu_error *err) {
  size_t n = 0;
  for (const char *end = size > 0 ? text + size : text; text < end;) {
    const char *stop = memchr(text, '\n', (size_t)(end - text));
    if (stop == NULL) stop = end;
    size_t length = (size_t)(stop - text);
    const char *line = trim(text, &length);
    int32_t pid = line_number(line, length);
    if (length > 0 && pid == 0) {
      char said[100];
      mps_quote(line, length, said, sizeof said);
      return mu_fail(err, MU_UNAVAILABLE, "the MPS daemon answers %s with \"%s\"", command, said);
    }
    if (n == max && length > 0)
      return mu_fail(err, MU_TOO_LARGE, "the MPS daemon answers %s with more than %zu processes", command, max);
    if (length > 0) ret_pids[n++] = pid;
    text = stop + 1;
  }
  *ret_n = n;
  return MU_OK;
}

void mps_quote(const char *said, size_t said_size, char *text, size_t size) {
  size_t length = said_size;
  said = said_size > 0 ? trim(said, &length) : "";
  if (length >= size) length = size - 1;
  for (size_t i = 0; i < length; i++) text[i] = said[i] >= ' ' && said[i] <= '~' ? said[i] : '?';
  text[length] = '\0';
}

bool mps_read_percentage(const char *text, size_t size, double *ret_percentage) {
  char line[32], *end;
  if (size == 0 || size >= sizeof line) return false;
  memcpy(line, text, size);
  line[size] = '\0';
  double percentage = strtod(line, &end);
  if (end == line || end[strspn(end, " \r\n%")] != '\0' || !(percentage > 0 && percentage <= 100)) return false;
  *ret_percentage = percentage;
  return true;
}
