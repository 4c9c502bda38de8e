#include "cli/top/sample.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"

const double top_quantiles[TOP_QUANTILES] = {0.5, 0.95, 0.99};

void top_sample_free(struct top_sample *sample) {
  free(sample->models);
  free(sample->workers);
  free(sample->gpus);
  *sample = (struct top_sample){.reached = false};
}

/* ---- the status -------------------------------------------------------------------------------------------------- */

/* Names and reasons come from files and models: no control character of theirs reaches the terminal. */
static void get_text(const json_t *object, const char *key, char *text, size_t size) {
  const char *value = json_string_value(json_object_get(object, key));
  snprintf(text, size, "%s", value != NULL ? value : "");
  for (char *at = text; *at != '\0'; at++)
    if ((unsigned char)*at < 0x20 || *at == 0x7f) *at = '?';
  /* a character that was cut in the middle goes as a whole */
  size_t length = strlen(text), back = 0;
  while (back < length && back < 4 && ((unsigned char)text[length - 1 - back] & 0xc0) == 0x80) back++;
  if (length + 1 == size && back < length && ((unsigned char)text[length - 1 - back] & 0x80) != 0)
    text[length - 1 - back] = '\0';
}
#define GET_TEXT(object, key, field) get_text(object, key, field, sizeof(field))

static int64_t get_integer(const json_t *object, const char *key) {
  const json_t *value = json_object_get(object, key);
  return json_is_integer(value) ? json_integer_value(value) : TOP_UNKNOWN;
}

static struct top_usage unread(int64_t pid) { return (struct top_usage){pid, TOP_UNKNOWN, TOP_UNKNOWN, NAN}; }

static void read_model(struct top_model *model, const json_t *entry) {
  *model = (struct top_model){.version = get_integer(entry, "version"), .waiting = TOP_UNKNOWN};
  GET_TEXT(entry, "name", model->name);
  GET_TEXT(entry, "state", model->state);
  GET_TEXT(entry, "reason", model->reason);
  for (size_t i = 0; i < TOP_QUANTILES; i++) model->exact[i] = NAN;
}

static void read_worker(struct top_worker *worker, const json_t *entry) {
  *worker = (struct top_worker){.number = get_integer(entry, "worker"),
                                .version = get_integer(entry, "version"),
                                .restarts = get_integer(entry, "restarts"),
                                .usage = unread(get_integer(entry, "pid")),
                                .requests = TOP_UNKNOWN};
  GET_TEXT(entry, "model", worker->model);
  GET_TEXT(entry, "device", worker->device);
  GET_TEXT(entry, "state", worker->state);
  GET_TEXT(entry, "reason", worker->reason);
}

static void read_gpu(struct top_gpu *gpu, const json_t *entry) {
  *gpu = (struct top_gpu){.index = get_integer(entry, "index"),
                          .mig_index = get_integer(entry, "mig_index"),
                          .utilization = NAN,
                          .memory_used = NAN,
                          .memory_total = NAN,
                          .power = NAN};
  GET_TEXT(entry, "uuid", gpu->uuid);
  GET_TEXT(entry, "name", gpu->name);
  GET_TEXT(entry, "state", gpu->state);
  GET_TEXT(entry, "reason", gpu->reason);
}

mu_status top_read_status(struct top_sample *sample, const json_t *status) {
  const json_t *models = json_object_get(status, "models"), *workers = json_object_get(status, "workers"),
               *gpus = json_object_get(status, "gpus"), *gateway = json_object_get(status, "gateway"), *entry;
  size_t i;
  sample->models = calloc(json_array_size(models) + 1, sizeof *sample->models);
  sample->workers = calloc(json_array_size(workers) + 1, sizeof *sample->workers);
  sample->gpus = calloc(json_array_size(gpus) + 1, sizeof *sample->gpus);
  if (sample->models == NULL || sample->workers == NULL || sample->gpus == NULL) return MU_NO_MEMORY;
  json_array_foreach(models, i, entry) read_model(&sample->models[sample->n_models++], entry);
  json_array_foreach(workers, i, entry) read_worker(&sample->workers[sample->n_workers++], entry);
  json_array_foreach(gpus, i, entry) read_gpu(&sample->gpus[sample->n_gpus++], entry);
  GET_TEXT(status, "state", sample->state);
  GET_TEXT(status, "version", sample->version);
  GET_TEXT(gateway, "state", sample->gateway_state);
  GET_TEXT(json_object_get(status, "upgrade"), "state", sample->upgrade);
  sample->uptime = json_number_value(json_object_get(status, "uptime_s"));
  sample->gateway_restarts = get_integer(gateway, "restarts");
  sample->supervisor = unread(get_integer(status, "pid"));
  sample->gateway = unread(get_integer(gateway, "pid"));
  sample->connections = sample->memory_used = sample->memory_limit = TOP_UNKNOWN;
  sample->reached = true;
  return MU_OK;
}

/* ---- the page of metrics ----------------------------------------------------------------------------------------- */

/* A line `name{label="value",…} number`. */
struct line {
  char name[96], model[TOP_NAME_SIZE], gpu[96], bound[32], quantile[32];
  int64_t version;
  double value;
};

/* The value of a label behind its opening quote into text; returns what follows the closing one, NULL: there is none.
 */
static const char *read_label(const char *at, char *text, size_t size) {
  size_t n = 0;
  for (; *at != '"'; at++) {
    char c = *at;
    if (c == '\0' || c == '\n') return NULL;
    if (c == '\\') {
      at++;
      if (*at == '\0') return NULL;
      c = *at == 'n' ? '\n' : *at;
    }
    if ((unsigned char)c < 0x20 || c == 0x7f) c = '?'; /* as get_text has it, for the two are compared */
    if (n + 1 < size) text[n++] = c;
  }
  text[n] = '\0';
  return at + 1;
}

/* At the opening brace; returns what follows the closing one. */
static const char *read_labels(const char *at, struct line *line) {
  char version[24] = "", ignored[8];
  const struct {
    const char *name;
    char *text;
    size_t size;
  } labels[] = {
      {"model", line->model, sizeof line->model},          {"version", version, sizeof version},
      {"gpu_uuid", line->gpu, sizeof line->gpu},           {"le", line->bound, sizeof line->bound},
      {"quantile", line->quantile, sizeof line->quantile},
  };
  do {
    const char *name = at + 1, *equal = strchr(name, '=');
    if (equal == NULL || equal[1] != '"') return NULL;
    char *text = ignored;
    size_t size = sizeof ignored;
    for (size_t i = 0; i < sizeof labels / sizeof *labels; i++)
      if (strlen(labels[i].name) == (size_t)(equal - name) &&
          strncmp(labels[i].name, name, (size_t)(equal - name)) == 0) {
        text = labels[i].text;
        size = labels[i].size;
      }
    at = read_label(equal + 2, text, size);
  } while (at != NULL && *at == ',');
  line->version = strtoll(version, NULL, 10);
  return at != NULL && *at == '}' ? at + 1 : NULL;
}

static bool read_line(const char *at, struct line *line) {
  size_t length = strcspn(at, "{ \n");
  *line = (struct line){.version = TOP_UNKNOWN};
  if (*at == '#' || length == 0 || length >= sizeof line->name) return false;
  memcpy(line->name, at, length);
  at += length;
  if (*at == '{') at = read_labels(at, line);
  if (at == NULL || *at != ' ') return false;
  char *end;
  line->value = strtod(at, &end);
  return end != at;
}

static struct top_model *find_model(const struct top_sample *sample, const char *name, int64_t version) {
  for (size_t i = 0; i < sample->n_models; i++)
    if (sample->models[i].version == version && strcmp(sample->models[i].name, name) == 0) return &sample->models[i];
  return NULL;
}

static void add_bucket(struct top_model *model, const struct line *line) {
  if (model->n_buckets == TOP_BUCKETS_MAX) return;
  model->buckets[model->n_buckets][0] = strtod(line->bound, NULL); /* reads "+Inf", too */
  model->buckets[model->n_buckets++][1] = line->value;
}

static void add_quantile(struct top_sample *sample, struct top_model *model, const struct line *line) {
  double quantile = strtod(line->quantile, NULL);
  if (line->quantile[0] == '\0') return;
  sample->exact_latency = true;
  for (size_t i = 0; i < TOP_QUANTILES; i++)
    if (fabs(quantile - top_quantiles[i]) < 1e-9) model->exact[i] = line->value / 1e6;
}

static const struct {
  const char *name;
  size_t offset;
} model_counts[] =
    {
        {"nv_inference_request_success", offsetof(struct top_model, requests)},
        {"nv_inference_request_failure", offsetof(struct top_model, failures)}, /* a line for each reason: added up */
        {"nv_inference_count", offsetof(struct top_model, rows)},
        {"nv_inference_exec_count", offsetof(struct top_model, batches)},
},
  server_counts[] = {
      {"muster_connections_open", offsetof(struct top_sample, connections)},
      {"muster_memory_used_bytes", offsetof(struct top_sample, memory_used)},
      {"muster_memory_limit_bytes", offsetof(struct top_sample, memory_limit)},
};

static const struct {
  const char *name;
  size_t offset;
} gpu_figures[] = {
    {"nv_gpu_utilization", offsetof(struct top_gpu, utilization)},
    {"nv_gpu_memory_used_bytes", offsetof(struct top_gpu, memory_used)},
    {"nv_gpu_memory_total_bytes", offsetof(struct top_gpu, memory_total)},
    {"nv_gpu_power_usage", offsetof(struct top_gpu, power)},
};

static void take_model_line(struct top_sample *sample, struct top_model *model, const struct line *line) {
  model->counted = true;
  for (size_t i = 0; i < sizeof model_counts / sizeof *model_counts; i++)
    if (strcmp(line->name, model_counts[i].name) == 0)
      *(int64_t *)(void *)((char *)model + model_counts[i].offset) += (int64_t)line->value;
  if (strcmp(line->name, "nv_inference_pending_request_count") == 0) model->waiting = (int64_t)line->value;
  if (strcmp(line->name, "muster_request_duration_seconds_bucket") == 0) add_bucket(model, line);
  if (strcmp(line->name, "nv_inference_request_summary_us") == 0) add_quantile(sample, model, line);
}

static void take_gpu_line(const struct top_sample *sample, const struct line *line) {
  for (size_t g = 0; g < sample->n_gpus; g++)
    for (size_t i = 0; i < sizeof gpu_figures / sizeof *gpu_figures; i++)
      if (strcmp(line->gpu, sample->gpus[g].uuid) == 0 && strcmp(line->name, gpu_figures[i].name) == 0)
        *(double *)(void *)((char *)&sample->gpus[g] + gpu_figures[i].offset) = line->value;
}

static void take_server_line(struct top_sample *sample, const struct line *line) {
  for (size_t i = 0; i < sizeof server_counts / sizeof *server_counts; i++)
    if (strcmp(line->name, server_counts[i].name) == 0)
      *(int64_t *)(void *)((char *)sample + server_counts[i].offset) = (int64_t)line->value;
}

void top_read_metrics(struct top_sample *sample, const char *text) {
  struct line line;
  for (const char *at = text; at != NULL && *at != '\0';) {
    if (read_line(at, &line)) {
      struct top_model *model = line.model[0] != '\0' ? find_model(sample, line.model, line.version) : NULL;
      if (model != NULL)
        take_model_line(sample, model, &line);
      else if (line.gpu[0] != '\0')
        take_gpu_line(sample, &line);
      else if (line.model[0] == '\0')
        take_server_line(sample, &line);
    }
    at = strchr(at, '\n');
    if (at != NULL) at++;
  }
}

/* ---- /health ----------------------------------------------------------------------------------------------------- */

void top_read_health(struct top_sample *sample, const json_t *health) {
  size_t i;
  const json_t *entry;
  json_array_foreach(json_object_get(health, "backends"), i, entry) {
    const char *address = json_string_value(json_object_get(entry, "address")); /* MODEL/WORKER */
    const char *slash = address != NULL ? strrchr(address, '/') : NULL;
    char *end;
    if (slash == NULL) continue;
    int64_t number = strtoll(slash + 1, &end, 10);
    if (*end != '\0' || end == slash + 1) continue;
    for (size_t w = 0; w < sample->n_workers; w++)
      if (sample->workers[w].number == number) sample->workers[w].requests = get_integer(entry, "total_requests");
  }
}

/* ---- /proc ------------------------------------------------------------------------------------------------------- */

static bool read_file(const char *proc, int64_t pid, const char *name, char *text, size_t size) {
  char path[512];
  snprintf(path, sizeof path, "%s/%" PRId64 "/%s", proc, pid, name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n = read(fd, text, size - 1);
  close(fd);
  if (n <= 0) return false;
  text[n] = '\0';
  return true;
}

static void read_usage(struct top_usage *usage, const char *proc) {
  char text[1024];
  unsigned long long user, system, pages;
  if (usage->pid <= 0) return;
  /* the name in brackets may hold anything: what follows the last bracket counts */
  const char *fields = read_file(proc, usage->pid, "stat", text, sizeof text) ? strrchr(text, ')') : NULL;
  if (fields != NULL && sscanf(fields, ") %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %llu %llu", &user, &system) == 2)
    usage->cpu_ns = (int64_t)((user + system) * (NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK)));
  if (read_file(proc, usage->pid, "statm", text, sizeof text) && sscanf(text, "%*u %llu", &pages) == 1)
    usage->memory = (int64_t)pages * sysconf(_SC_PAGESIZE);
}

void top_read_processes(struct top_sample *sample, const char *proc) {
  read_usage(&sample->supervisor, proc);
  read_usage(&sample->gateway, proc);
  for (size_t i = 0; i < sample->n_workers; i++) read_usage(&sample->workers[i].usage, proc);
}

/* ---- rates ------------------------------------------------------------------------------------------------------- */

/* A counter that is smaller than before has begun anew. */
static double rate(int64_t before, int64_t now, double seconds) {
  return before >= 0 && now >= before ? (double)(now - before) / seconds : NAN;
}

static void compare_usage(const struct top_usage *before, struct top_usage *now, double seconds) {
  now->cpu = before->pid == now->pid ? rate(before->cpu_ns, now->cpu_ns, seconds * (double)NS_PER_S) : NAN;
}

/* As Prometheus's histogram_quantile: linear within a bucket; in the last one, which has no end, its beginning. */
static double interpolate(const struct top_model *before, const struct top_model *now, double quantile) {
  uint32_t n = now->n_buckets;
  if (n == 0 || before->n_buckets != n) return NAN;
  double total = now->buckets[n - 1][1] - before->buckets[n - 1][1], below = 0, from = 0;
  if (!(total > 0)) return NAN;
  for (uint32_t i = 0; i < n; i++) {
    double up_to = now->buckets[i][1] - before->buckets[i][1], bound = now->buckets[i][0];
    if (up_to >= quantile * total)
      return isinf(bound) ? from : from + (bound - from) * (quantile * total - below) / (up_to - below);
    below = up_to;
    from = bound;
  }
  return NAN;
}

static void compare_model(const struct top_model *before, struct top_model *now, double seconds) {
  bool same = before != NULL && before->counted && now->counted && now->requests >= before->requests;
  now->request_rate = same ? rate(before->requests, now->requests, seconds) : NAN;
  now->failure_rate = same ? rate(before->failures, now->failures, seconds) : NAN;
  now->batch_rate = same ? rate(before->batches, now->batches, seconds) : NAN;
  now->mean_batch = same && now->batches > before->batches && now->rows >= before->rows
                        ? (double)(now->rows - before->rows) / (double)(now->batches - before->batches)
                        : NAN;
  for (size_t i = 0; i < TOP_QUANTILES; i++)
    now->latency[i] = !isnan(now->exact[i]) ? now->exact[i] : same ? interpolate(before, now, top_quantiles[i]) : NAN;
}

static const struct top_worker *find_worker(const struct top_sample *sample, int64_t number) {
  for (size_t i = 0; i < sample->n_workers; i++)
    if (sample->workers[i].number == number) return &sample->workers[i];
  return NULL;
}

void top_compare(const struct top_sample *before, struct top_sample *sample) {
  static const struct top_sample none;
  if (before == NULL || !before->reached || before->supervisor.pid != sample->supervisor.pid) before = &none;
  double seconds = before != &none ? (double)(sample->at_ns - before->at_ns) / (double)NS_PER_S : NAN;
  sample->seconds = seconds;
  compare_usage(&before->supervisor, &sample->supervisor, seconds);
  compare_usage(&before->gateway, &sample->gateway, seconds);
  for (size_t i = 0; i < sample->n_models; i++) {
    struct top_model *model = &sample->models[i];
    compare_model(find_model(before, model->name, model->version), model, seconds);
  }
  for (size_t i = 0; i < sample->n_workers; i++) {
    struct top_worker *worker = &sample->workers[i];
    const struct top_worker *earlier = find_worker(before, worker->number);
    worker->request_rate = earlier != NULL ? rate(earlier->requests, worker->requests, seconds) : NAN;
    if (earlier != NULL)
      compare_usage(&earlier->usage, &worker->usage, seconds);
    else
      worker->usage.cpu = NAN;
  }
}
