#include "api/rest_routes.h"

#include "model/repository.h"

#include <string.h>

enum { GET = 1, POST = 2, METHODS = GET | POST, GUARDED = 4 };

static const struct {
  const char *name;
  unsigned bit;
} methods[] = {{"GET", GET}, {"HEAD", GET}, {"POST", POST}};

static const char *const allow_texts[] = {[GET] = "GET, HEAD", [POST] = "POST", [GET | POST] = "GET, HEAD, POST"};

/* The first row whose pattern fits decides; a pattern's segment in braces fits any segment. unserved: what the path
 * belongs to, where muster does not serve it. GUARDED beside the methods: it changes the server, and --admin says who
 * may ask for it. */
static const struct route_row {
  const char *pattern;
  unsigned methods;
  enum endpoint endpoint;
  const char *unserved;
} rows[] = {
    {"v2/models/{model}/infer", POST, ENDPOINT_MODEL_INFER, NULL},
    {"v2/models/{model}/versions/{version}/infer", POST, ENDPOINT_MODEL_INFER, NULL},
    {"v2/models/{model}/stream", GET, ENDPOINT_STREAM, NULL},
    {"v2/models/{model}/versions/{version}/stream", GET, ENDPOINT_STREAM, NULL},
    {"v2/stream", GET, ENDPOINT_STREAM, NULL},
    {"v2", GET, ENDPOINT_SERVER_METADATA, NULL},
    {"v2/health/live", GET, ENDPOINT_SERVER_LIVE, NULL},
    {"v2/health/ready", GET, ENDPOINT_SERVER_READY, NULL},
    {"v2/models/stats", GET, ENDPOINT_MODEL_STATS, NULL},
    {"v2/models/{model}", GET, ENDPOINT_MODEL_METADATA, NULL},
    {"v2/models/{model}/ready", GET, ENDPOINT_MODEL_READY, NULL},
    {"v2/models/{model}/config", GET, ENDPOINT_MODEL_CONFIG, NULL},
    {"v2/models/{model}/stats", GET, ENDPOINT_MODEL_STATS, NULL},
    {"v2/models/{model}/versions/{version}", GET, ENDPOINT_MODEL_METADATA, NULL},
    {"v2/models/{model}/versions/{version}/ready", GET, ENDPOINT_MODEL_READY, NULL},
    {"v2/models/{model}/versions/{version}/config", GET, ENDPOINT_MODEL_CONFIG, NULL},
    {"v2/models/{model}/versions/{version}/stats", GET, ENDPOINT_MODEL_STATS, NULL},
    {"v2/repository/index", POST, ENDPOINT_REPOSITORY_INDEX, NULL},
    {"v2/systemsharedmemory/status", GET | GUARDED, ENDPOINT_REGION_STATUS, NULL},
    {"v2/systemsharedmemory/unregister", POST | GUARDED, ENDPOINT_REGION_UNREGISTER, NULL},
    {"v2/systemsharedmemory/region/{region}/status", GET | GUARDED, ENDPOINT_REGION_STATUS, NULL},
    {"v2/systemsharedmemory/region/{region}/register", POST | GUARDED, ENDPOINT_REGION_REGISTER, NULL},
    {"v2/systemsharedmemory/region/{region}/unregister", POST | GUARDED, ENDPOINT_REGION_UNREGISTER, NULL},
    {"v2/cudasharedmemory/status", GET | GUARDED, ENDPOINT_CUDA_REGION_STATUS, NULL},
    {"v2/cudasharedmemory/unregister", POST | GUARDED, ENDPOINT_CUDA_REGION_UNREGISTER, NULL},
    {"v2/cudasharedmemory/region/{region}/status", GET | GUARDED, ENDPOINT_CUDA_REGION_STATUS, NULL},
    {"v2/cudasharedmemory/region/{region}/register", POST | GUARDED, ENDPOINT_CUDA_REGION_REGISTER, NULL},
    {"v2/cudasharedmemory/region/{region}/unregister", POST | GUARDED, ENDPOINT_CUDA_REGION_UNREGISTER, NULL},
    {"v2/trace/setting", GET | POST | GUARDED, ENDPOINT_TRACE_SETTING, NULL},
    {"v2/models/{model}/trace/setting", GET | POST | GUARDED, ENDPOINT_TRACE_SETTING, NULL},
    {"v2/logging", GET | POST | GUARDED, ENDPOINT_LOGGING, NULL},
    {"v2/repository/models/{model}/load", POST | GUARDED, ENDPOINT_MODEL_LOAD, NULL},
    {"v2/repository/models/{model}/unload", POST | GUARDED, ENDPOINT_MODEL_UNLOAD, NULL},
    {"stream-demo", GET, ENDPOINT_STREAM_DEMO, NULL},
    {"health", GET, ENDPOINT_HEALTH, NULL},
    {"stats", GET, ENDPOINT_STATS, NULL},
    {"metrics", GET, ENDPOINT_METRICS, NULL},

    {"v2/models/{model}/generate", POST, ENDPOINT_NONE, "the generate extension"},
    {"v2/models/{model}/generate_stream", POST, ENDPOINT_NONE, "the generate extension"},
    {"v2/models/{model}/versions/{version}/generate", POST, ENDPOINT_NONE, "the generate extension"},
    {"v2/models/{model}/versions/{version}/generate_stream", POST, ENDPOINT_NONE, "the generate extension"},
};

struct segment {
  const char *text;
  size_t size;
};

/* What stood in a path where its pattern has braces; text NULL where it has none. */
struct captures {
  struct segment model, version, region;
};

static struct segment next_segment(const char **at) {
  const struct segment segment = {*at, strcspn(*at, "/")};
  *at += segment.size;
  if (**at == '/') ++*at;
  return segment;
}

static bool segment_is(const struct segment *segment, const char *text) {
  return strlen(text) == segment->size && memcmp(segment->text, text, segment->size) == 0;
}

/* path without its first slash. */
static bool pattern_fits(const char *pattern, const char *path, struct captures *ret_captures) {
  struct captures captures = {0};
  while (*pattern != '\0') {
    const struct segment wanted = next_segment(&pattern), found = next_segment(&path);
    if (found.size == 0) return false;
    if (wanted.text[0] != '{') {
      if (wanted.size != found.size || memcmp(wanted.text, found.text, wanted.size) != 0) return false;
    } else if (segment_is(&wanted, "{model}")) {
      captures.model = found;
    } else if (segment_is(&wanted, "{version}")) {
      captures.version = found;
    } else {
      captures.region = found;
    }
  }
  if (*path != '\0') return false;
  *ret_captures = captures;
  return true;
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Into text, terminated; *ret_whole: there was room for all of it. */
static mu_status decode(const struct segment *segment, char *text, size_t room, size_t *ret_size, bool *ret_whole,
                        mu_error *err) {
  const char *at = segment->text, *end = at + segment->size;
  size_t n = 0;
  while (at < end && n + 1 < room) {
    if (*at != '%') {
      text[n++] = *at++;
      continue;
    }
    const int high = end - at >= 3 ? hex_digit(at[1]) : -1, low = end - at >= 3 ? hex_digit(at[2]) : -1;
    if (high < 0 || low < 0)
      return mu_fail(err, MU_INVALID, "the path has a '%%' without two hexadecimal digits behind it");
    text[n++] = (char)(high << 4 | low);
    at += 3;
  }
  text[n] = '\0';
  *ret_size = n;
  *ret_whole = at == end;
  return MU_OK;
}

static mu_status decode_model(const struct segment *segment, char *text, size_t room, mu_error *err) {
  size_t size;
  bool whole;
  const mu_status status = decode(segment, text, room, &size, &whole, err);
  if (status != MU_OK || (whole && model_name_valid(text, size))) return status;
  return mu_fail(err, MU_INVALID, "the path's model name cannot be the name of a model");
}

static mu_status decode_region(const struct segment *segment, char *text, size_t room, mu_error *err) {
  size_t size;
  bool whole;
  const mu_status status = decode(segment, text, room, &size, &whole, err);
  if (status != MU_OK || (whole && strlen(text) == size)) return status;
  return mu_fail(err, MU_INVALID, "the name of a shared memory region has at most %zu bytes, none of them 0", room - 1);
}

static mu_status decode_version(const struct segment *segment, int64_t *ret_version, mu_error *err) {
  int64_t version = 0;
  for (size_t i = 0; i < segment->size; i++) {
    const char c = segment->text[i];
    if (c < '0' || c > '9' || __builtin_mul_overflow(version, 10, &version) ||
        __builtin_add_overflow(version, c - '0', &version)) {
      version = 0;
      break;
    }
  }
  if (version <= 0)
    return mu_fail(err, MU_INVALID, "model version '%.*s' is not a positive number",
                   (int)(segment->size < 40 ? segment->size : 40), segment->text);
  *ret_version = version;
  return MU_OK;
}

static bool method_fits(const char *method, unsigned wanted) {
  for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
    if (strcmp(methods[i].name, method) == 0) return (methods[i].bit & wanted) != 0;
  return false;
}

static mu_status take_row(const struct route_row *row, const struct captures *captures, const char *method,
                          struct route *route, mu_error *err) {
  if (!method_fits(method, row->methods)) {
    route->allow = allow_texts[row->methods & METHODS];
    return mu_fail(err, MU_UNSUPPORTED, "the path takes %s, not %.20s", route->allow, method);
  }
  if (row->unserved != NULL) return mu_fail(err, MU_UNSUPPORTED, "muster does not serve %s", row->unserved);
  mu_status status = MU_OK;
  if (captures->model.text != NULL) status = decode_model(&captures->model, route->model, sizeof route->model, err);
  if (status == MU_OK && captures->version.text != NULL)
    status = decode_version(&captures->version, &route->version, err);
  if (status == MU_OK && captures->region.text != NULL)
    status = decode_region(&captures->region, route->region, sizeof route->region, err);
  if (status == MU_OK) route->endpoint = row->endpoint;
  /* where a path takes both, GET only looks */
  route->guarded = (row->methods & GUARDED) != 0 && !((row->methods & POST) != 0 && method_fits(method, GET));
  return status;
}

mu_status route_find(const char *method, const char *path, struct route *ret_route, mu_error *err) {
  ret_route->endpoint = ENDPOINT_NONE;
  ret_route->model[0] = '\0';
  ret_route->region[0] = '\0';
  ret_route->version = -1;
  ret_route->guarded = false;
  ret_route->allow = NULL;
  if (*path == '/') {
    struct captures captures;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
      if (pattern_fits(rows[i].pattern, path + 1, &captures))
        return take_row(&rows[i], &captures, method, ret_route, err);
  }
  return mu_fail(err, MU_NOT_FOUND, "there is nothing at %.200s", path);
}

int http_status_of(mu_status status) {
  static const struct {
    mu_status status;
    int code;
  } codes[] = {
      {MU_OK, 200},        {MU_INVALID, 400}, {MU_NOT_FOUND, 404}, {MU_UNAVAILABLE, 503}, {MU_UNSUPPORTED, 501},
      {MU_TOO_LARGE, 413}, {MU_TIMEOUT, 503}, {MU_CANCELED, 499},  {MU_NO_MEMORY, 503},   {MU_EXISTS, 409},
  };
  for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
    if (codes[i].status == status) return codes[i].code;
  return 500;
}
