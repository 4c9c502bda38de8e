#include "cli/control_client.h"

#include <curl/curl.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { BODY_MAX = 16 << 20, CONNECT_TIMEOUT_MS = 2000 };

/* ---- finding ----------------------------------------------------------------------------------------------------- */

/* Does somebody listen there? A socket file outlives a server that was killed. */
static bool is_live(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  bool live = connect(fd, (struct sockaddr *)&address, sizeof address) == 0 || errno == EAGAIN; /* EAGAIN: it is busy */
  close(fd);
  return live;
}

static mu_status find_in_folder(DIR *folder, const char *folder_path, char ret_path[CONTROL_SOCKET_PATH_MAX],
                                mu_error *err) {
  char names[256] = "", path[CONTROL_SOCKET_PATH_MAX], found[CONTROL_SOCKET_PATH_MAX];
  size_t n = 0;
  for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    size_t size = strlen(entry->d_name), used = strlen(names);
    if (size <= 5 || strcmp(entry->d_name + size - 5, ".sock") != 0) continue;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", folder_path, entry->d_name) >= sizeof path || !is_live(path))
      continue;
    memcpy(found, path, sizeof path);
    snprintf(names + used, sizeof names - used, "%s%.*s", n++ == 0 ? "" : ", ", (int)size - 5, entry->d_name);
  }
  if (n == 0) return mu_fail(err, MU_NOT_FOUND, "no server is running (looked in %s)", folder_path);
  if (n > 1) return mu_fail(err, MU_INVALID, "%zu servers are running: choose one with --http-port (%s)", n, names);
  memcpy(ret_path, found, sizeof found);
  return MU_OK;
}

mu_status control_find(const struct options *options, char ret_path[CONTROL_SOCKET_PATH_MAX], mu_error *err) {
  char folder_path[CONTROL_SOCKET_PATH_MAX];
  /* port 0 says as little about a running server as none */
  if (options_is_set(options, "control-socket") || (options_is_set(options, "http-port") && options->http_port != 0))
    return options_control_socket(options, options->http_port, ret_path, err);
  mu_status status = control_folder_path(folder_path, err);
  if (status == MU_OK) status = control_folder_check(err);
  if (status == MU_NOT_FOUND) return mu_fail(err, status, "no server is running (looked in %s)", folder_path);
  if (status != MU_OK) return status;
  DIR *folder = opendir(folder_path);
  if (folder == NULL) return mu_fail(err, MU_IO, "cannot open %s: %s", folder_path, strerror(errno));
  status = find_in_folder(folder, folder_path, ret_path, err);
  closedir(folder);
  return status;
}

/* ---- asking ------------------------------------------------------------------------------------------------------ */

static size_t take_body(char *data, size_t size, size_t n, void *context) {
  return buffer_append(context, data, size * n) == MU_OK ? size * n : 0;
}

/* {"error": "…"} of the answer, else its text. */
static mu_status fail_answer(const char *socket, long code, struct buffer *body, mu_error *err) {
  json_t *answer = json_loadb(body->data != NULL ? body->data : "", body->size, 0, NULL);
  const char *message = json_string_value(json_object_get(answer, "error"));
  mu_status status =
      mu_fail(err, MU_INTERNAL, "the server at %s answered %ld: %.*s", socket, code,
              message != NULL ? (int)strlen(message) : (int)body->size, message != NULL ? message : body->data);
  json_decref(answer);
  return status;
}

static mu_status fail_transfer(const char *socket, CURLcode code, mu_error *err) {
  if (code == CURLE_COULDNT_CONNECT) return mu_fail(err, MU_NOT_FOUND, "no server is running at %s", socket);
  if (code == CURLE_OPERATION_TIMEDOUT) return mu_fail(err, MU_TIMEOUT, "the server at %s does not answer", socket);
  return mu_fail(err, MU_IO, "the server at %s: %s", socket, curl_easy_strerror(code));
}

/* server: as it is called in messages; socket: NULL for the address that url has. */
static mu_status ask(const char *server, const char *url, const char *socket, const char *method, long timeout_ms,
                     struct buffer *body, mu_error *err) {
  struct buffer answer;
  CURL *curl = curl_easy_init();
  if (curl == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the request");
  buffer_init(&answer, BODY_MAX);
  curl_easy_setopt(curl, CURLOPT_URL, url);
  if (socket != NULL) curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, socket);
  curl_easy_setopt(curl, CURLOPT_PROXY, ""); /* whatever http_proxy says */
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, timeout_ms);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
  if (strcmp(method, "POST") == 0) curl_easy_setopt(curl, CURLOPT_COPYPOSTFIELDS, "");
  CURLcode code = curl_easy_perform(curl);
  long http_code = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &http_code);
  curl_easy_cleanup(curl);

  mu_status status = MU_OK;
  if (code != CURLE_OK)
    status = fail_transfer(server, code, err);
  else if (http_code < 200 || http_code > 299)
    status = fail_answer(server, http_code, &answer, err);
  else if (buffer_append(body, answer.data, answer.size) != MU_OK)
    status = mu_fail(err, MU_NO_MEMORY, "no memory for the answer");
  buffer_free(&answer);
  return status;
}

mu_status control_ask(const char *socket, const char *method, const char *target, long timeout_ms, struct buffer *body,
                      mu_error *err) {
  char url[16384]; /* a path of PATH_MAX in it may be escaped */
  if ((size_t)snprintf(url, sizeof url, "http://localhost%s", target) >= sizeof url)
    return mu_fail(err, MU_INVALID, "that is too long for a request");
  return ask(socket, url, socket, method, timeout_ms, body, err);
}

mu_status control_get_page(const char *address, uint16_t port, const char *path, long timeout_ms, struct buffer *body,
                           mu_error *err) {
  char url[512];
  const char *host = strcmp(address, "0.0.0.0") == 0 ? "127.0.0.1" : strcmp(address, "::") == 0 ? "::1" : address;
  bool v6 = strchr(host, ':') != NULL;
  size_t length = (size_t)snprintf(url, sizeof url, "http://%s%s%s:%u", v6 ? "[" : "", host, v6 ? "]" : "", port);
  char server[300];
  snprintf(server, sizeof server, "%.*s", (int)sizeof server - 1, url);
  if (length + strlen(path) >= sizeof url) return mu_fail(err, MU_INVALID, "that is too long for a request");
  memcpy(url + length, path, strlen(path) + 1);
  return ask(server, url, NULL, "GET", timeout_ms, body, err);
}

mu_status control_get_status(const char *socket, json_t **ret_status, mu_error *err) {
  struct buffer body;
  json_error_t problem;
  buffer_init(&body, BODY_MAX);
  mu_status status = control_ask(socket, "GET", "/status", CONTROL_PROMPT_MS, &body, err);
  if (status == MU_OK) {
    json_t *root = json_loadb(body.data != NULL ? body.data : "", body.size, 0, &problem);
    if (json_is_object(root)) {
      *ret_status = root;
    } else {
      json_decref(root);
      status = mu_fail(err, MU_INTERNAL, "the server at %s does not answer as muster does", socket);
    }
  }
  buffer_free(&body);
  return status;
}
