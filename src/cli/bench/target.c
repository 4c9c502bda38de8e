#include "cli/bench/target.h"

#include "base/buffer.h"

#include <curl/curl.h>
#include <jansson.h>
#include <string.h>

enum { DOCUMENT_BYTES_MAX = 64 << 20, PATIENCE_S = 10 };

static size_t collect(char *data, size_t size, size_t n, void *context) {
  return buffer_append(context, data, size * n) == MU_OK ? size * n : 0;
}

/* GET (post NULL) or POST of a JSON document; a new reference. */
static mu_status fetch(const struct target *target, const char *path, const char *post, json_t **ret_document,
                       mu_error *err) {
  char url[1024];
  snprintf(url, sizeof url, strchr(target->host, ':') != NULL ? "http://[%s]:%s/%s" : "http://%s:%s/%s", target->host,
           target->port, path);
  CURL *curl = curl_easy_init();
  if (curl == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for a request");
  struct buffer body;
  buffer_init(&body, DOCUMENT_BYTES_MAX);
  curl_easy_setopt(curl, CURLOPT_URL, url);
  curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
  curl_easy_setopt(curl, CURLOPT_TIMEOUT, (long)PATIENCE_S);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, collect);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &body);
  if (post != NULL) curl_easy_setopt(curl, CURLOPT_POSTFIELDS, post);
  CURLcode code = curl_easy_perform(curl);
  long http_status = 0;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &http_status);
  curl_easy_cleanup(curl);
  mu_status status = MU_OK;
  json_t *document = NULL;
  if (code != CURLE_OK)
    status = mu_fail(err, MU_UNAVAILABLE, "%s: %s", url, curl_easy_strerror(code));
  else if ((document = json_loadb(body.data != NULL ? body.data : "", body.size, 0, NULL)) == NULL)
    status = mu_fail(err, MU_INVALID, "%s answers %ld and no JSON: is it an inference server?", url, http_status);
  else if (http_status != 200) {
    const char *why = json_string_value(json_object_get(document, "error"));
    status = mu_fail(err, http_status == 404 ? MU_NOT_FOUND : MU_UNAVAILABLE, "%s answers %ld: %s", url, http_status,
                     why != NULL ? why : "no reason given");
  }
  buffer_free(&body);
  if (status == MU_OK)
    *ret_document = document;
  else
    json_decref(document);
  return status;
}

/* ---- which server, which model ----------------------------------------------------------------------------------- */

static bool copy(char *to, size_t size, const char *from) { return (size_t)snprintf(to, size, "%s", from) < size; }

static void model_path(const struct target *target, const char *tail, char *path, size_t size) {
  const char *versions = target->version[0] != '\0' ? "/versions/" : "";
  snprintf(path, size, "v2/models/%s%s%s%s", target->model, versions, target->version, tail);
}

static void set_infer_path(struct target *target) {
  target->path[0] = '/';
  model_path(target, "/infer", target->path + 1, sizeof target->path - 1);
}

static bool read_path(const char *path, struct target *target) {
  char rest[8] = "";
  if (target->tcp) return strcmp(path, "/") == 0;
  int n = sscanf(path, "/v2/models/%255[^/]/versions/%23[0-9]%7s", target->model, target->version, rest);
  if (n == 2 || (n == 1 && strchr(path + strlen("/v2/models/"), '/') == NULL)) {
    set_infer_path(target);
    return true;
  }
  target->model[0] = target->version[0] = '\0';
  return copy(target->path, sizeof target->path, strcmp(path, "/") == 0 || strcmp(path, "/v2") == 0 ? "" : path);
}

mu_status target_parse(const char *text, struct target *ret_target, mu_error *err) {
  CURLU *url = curl_url();
  struct target target = {0};
  char *scheme = NULL, *host = NULL, *port = NULL, *path = NULL;
  mu_status status = MU_OK;
  bool parsed = url != NULL && curl_url_set(url, CURLUPART_URL, text, CURLU_NON_SUPPORT_SCHEME) == CURLUE_OK &&
                curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
                curl_url_get(url, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
                curl_url_get(url, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == CURLUE_OK &&
                curl_url_get(url, CURLUPART_PATH, &path, 0) == CURLUE_OK;
  if (parsed) {
    target.tcp = strcmp(scheme, "tcp") == 0;
    const char *bare = host[0] == '[' ? host + 1 : host;
    parsed = (target.tcp || strcmp(scheme, "http") == 0) && copy(target.host, sizeof target.host, bare) &&
             copy(target.port, sizeof target.port, port) && read_path(path, &target);
    target.host[strcspn(target.host, "]")] = '\0';
  }
  if (parsed)
    *ret_target = target;
  else
    status = mu_fail(err, MU_INVALID,
                     "'%s' is no URL like http://host:8000/v2/models/NAME[/versions/V] or tcp://host:9000", text);
  curl_free(scheme);
  curl_free(host);
  curl_free(port);
  curl_free(path);
  curl_url_cleanup(url);
  return status;
}

static mu_status only_model(struct target *target, mu_error *err) {
  json_t *index;
  mu_status status = fetch(target, "v2/repository/index", "{\"ready\":true}", &index, err);
  if (status != MU_OK) return status;
  const char *name = json_string_value(json_object_get(json_array_get(index, 0), "name"));
  if (json_array_size(index) != 1 || name == NULL || !copy(target->model, sizeof target->model, name))
    status = mu_fail(err, MU_INVALID, "%zu models are ready there: name one", json_array_size(index));
  json_decref(index);
  return status;
}

/* ---- metadata ---------------------------------------------------------------------------------------------------- */

static mu_status read_input(const json_t *json, struct target_input *input) {
  const char *name = json_string_value(json_object_get(json, "name"));
  const char *dtype = json_string_value(json_object_get(json, "datatype"));
  const json_t *shape = json_object_get(json, "shape");
  if (name == NULL || dtype == NULL || json_array_size(shape) > MU_MAX_RANK) return MU_INVALID;
  input->dtype = mu_dtype_parse(dtype, strlen(dtype));
  input->rank = (uint32_t)json_array_size(shape);
  for (uint32_t i = 0; i < input->rank; i++) input->dims[i] = json_integer_value(json_array_get(shape, i));
  return input->dtype != MU_DTYPE_INVALID && copy(input->name, sizeof input->name, name) ? MU_OK : MU_INVALID;
}

static mu_status read_metadata(struct target *target, mu_error *err) {
  char path[600];
  json_t *document;
  model_path(target, "", path, sizeof path);
  mu_status status = fetch(target, path, NULL, &document, err);
  if (status != MU_OK) return status;
  const json_t *inputs = json_object_get(document, "inputs");
  if (json_array_size(inputs) > TARGET_INPUTS_MAX) status = MU_INVALID;
  for (size_t i = 0; status == MU_OK && i < json_array_size(inputs); i++)
    status = read_input(json_array_get(inputs, i), &target->inputs[target->n_inputs++]);
  json_decref(document);
  return status == MU_OK ? MU_OK : mu_fail(err, status, "the metadata of '%s' cannot be understood", target->model);
}

mu_status target_find(const char *what, const char *url, struct target *ret_target, mu_error *err) {
  struct target target;
  bool is_url = strstr(what, "://") != NULL;
  mu_status status = target_parse(is_url ? what : url, &target, err);
  if (status != MU_OK) return status;
  if (target.tcp || (target.path[0] != '\0' && target.model[0] == '\0'))
    return mu_fail(err, MU_INVALID, "'%s' is no inference server's URL: say what to send there with --raw or --body",
                   is_url ? what : url);
  if (!is_url && !copy(target.model, sizeof target.model, what))
    return mu_fail(err, MU_INVALID, "the model's name is too long");
  if (!is_url) target.version[0] = '\0';
  if (target.model[0] == '\0') status = only_model(&target, err);
  if (status == MU_OK) status = read_metadata(&target, err);
  if (status != MU_OK) return status;
  set_infer_path(&target);
  *ret_target = target;
  return MU_OK;
}

/* ---- statistics -------------------------------------------------------------------------------------------------- */

mu_status target_batches(const struct target *target, uint64_t counts[TARGET_BATCH_MAX + 1], mu_error *err) {
  char path[600];
  json_t *document;
  model_path(target, "/stats", path, sizeof path);
  mu_status status = fetch(target, path, NULL, &document, err);
  if (status != MU_OK) return status;
  memset(counts, 0, (TARGET_BATCH_MAX + 1) * sizeof *counts);
  size_t i, k;
  json_t *model, *batch;
  json_array_foreach(json_object_get(document, "model_stats"), i, model)
      json_array_foreach(json_object_get(model, "batch_stats"), k, batch) {
    json_int_t rows = json_integer_value(json_object_get(batch, "batch_size"));
    json_t *infer = json_object_get(batch, "compute_infer");
    if (rows >= 1 && rows <= TARGET_BATCH_MAX)
      counts[rows] += (uint64_t)json_integer_value(json_object_get(infer, "count"));
  }
  json_decref(document);
  return MU_OK;
}
