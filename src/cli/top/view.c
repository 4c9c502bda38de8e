#include "cli/top/view.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { CELL_SIZE = 32, FOOT_LINES = 1 };

static const char *const sort_names[TOP_SORTS] = {"number", "requests", "cpu", "memory"};

/* ---- figures as text --------------------------------------------------------------------------------------------- */

/* One column for a character, whatever its bytes. */
static int columns(const char *text) {
  int n = 0;
  for (; *text != '\0'; text++) n += ((unsigned char)*text & 0xc0) != 0x80;
  return n;
}

/* Bytes of text that fill at most so many columns. */
static int bytes_of(const char *text, int width) {
  int at = 0;
  while (text[at] != '\0') {
    int next = at + 1;
    while (((unsigned char)text[next] & 0xc0) == 0x80) next++;
    if (width-- == 0) break;
    at = next;
  }
  return at;
}

static void number(char cell[CELL_SIZE], double value) {
  if (isnan(value))
    snprintf(cell, CELL_SIZE, "-");
  else if (value >= 99500)
    snprintf(cell, CELL_SIZE, "%.0fk", value / 1000);
  else if (value >= 9999.5)
    snprintf(cell, CELL_SIZE, "%.1fk", value / 1000);
  else if (value >= 99.95)
    snprintf(cell, CELL_SIZE, "%.0f", value);
  else
    snprintf(cell, CELL_SIZE, "%.1f", value);
}

static void count(char cell[CELL_SIZE], int64_t value) {
  if (value < 0)
    snprintf(cell, CELL_SIZE, "-");
  else
    snprintf(cell, CELL_SIZE, "%" PRId64, value);
}

static void milliseconds(char cell[CELL_SIZE], double seconds) {
  double ms = seconds * 1000;
  if (isnan(ms))
    snprintf(cell, CELL_SIZE, "-");
  else
    snprintf(cell, CELL_SIZE, ms < 9.995 ? "%.2f" : ms < 99.95 ? "%.1f" : "%.0f", ms);
}

static void percent(char cell[CELL_SIZE], double share) {
  if (isnan(share))
    snprintf(cell, CELL_SIZE, "-");
  else
    snprintf(cell, CELL_SIZE, "%.0f%%", share * 100);
}

static void bytes(char cell[CELL_SIZE], double value) {
  static const char units[] = "BKMGT";
  size_t unit = 0;
  if (isnan(value) || value < 0) {
    snprintf(cell, CELL_SIZE, "-");
    return;
  }
  while (value >= 1023.5 && unit < sizeof units - 2) {
    value /= 1024;
    unit++;
  }
  snprintf(cell, CELL_SIZE, unit > 0 && value < 9.95 ? "%.1f%c" : "%.0f%c", value, units[unit]);
}

static void duration(char cell[CELL_SIZE], double seconds) {
  uint64_t s = seconds > 0 ? (uint64_t)seconds : 0;
  if (s >= 86400)
    snprintf(cell, CELL_SIZE, "%" PRIu64 "d %" PRIu64 "h", s / 86400, s / 3600 % 24);
  else if (s >= 3600)
    snprintf(cell, CELL_SIZE, "%" PRIu64 "h %" PRIu64 "m", s / 3600, s / 60 % 60);
  else if (s >= 60)
    snprintf(cell, CELL_SIZE, "%" PRIu64 "m %" PRIu64 "s", s / 60, s % 60);
  else
    snprintf(cell, CELL_SIZE, "%" PRIu64 "s", s);
}

/* ---- lines ------------------------------------------------------------------------------------------------------- */

void top_page_free(struct top_page *page) {
  free(page->lines);
  *page = (struct top_page){.lines = NULL};
}

static struct top_line *add_line(struct top_page *page, enum top_style style) {
  static struct top_line lost; /* what is written where there is no memory; the page says so */
  if (page->n == page->capacity) {
    size_t capacity = page->capacity > 0 ? 2 * page->capacity : 64;
    struct top_line *lines = realloc(page->lines, capacity * sizeof *lines);
    if (lines == NULL) {
      page->failed = true;
      return &lost;
    }
    page->lines = lines;
    page->capacity = capacity;
  }
  struct top_line *line = &page->lines[page->n++];
  *line = (struct top_line){.style = style};
  return line;
}

__attribute__((format(printf, 3, 4))) static void print(struct top_page *page, enum top_style style, const char *format,
                                                        ...) {
  va_list arguments;
  struct top_line *line = add_line(page, style);
  va_start(arguments, format);
  vsnprintf(line->text, sizeof line->text, format, arguments);
  va_end(arguments);
}

/* A column: width < 0 is aligned to the left; 0: gets what a wide screen has more. */
struct column {
  const char *title;
  int width;
};

static void add_cell(char text[TOP_LINE_SIZE], int width, const char *cell) {
  size_t used = strlen(text);
  int space = width < 0 ? -width : width, size = bytes_of(cell, space), pad = space - columns(cell);
  if (pad < 0) pad = 0;
  snprintf(text + used, TOP_LINE_SIZE - used, "%s%*s%.*s%*s", used > 0 ? " " : "", width > 0 ? pad : 0, "", size, cell,
           width < 0 ? pad : 0, "");
}

/* cells: as many as columns, NULL for the titles. */
static void add_row(char text[TOP_LINE_SIZE], const struct column *table, size_t n, int width,
                    const char cells[][CELL_SIZE * 4]) {
  int rest = width - (int)n + 1;
  for (size_t i = 0; i < n; i++) rest -= abs(table[i].width);
  for (size_t i = 0; i < n; i++)
    add_cell(text,
             table[i].width != 0 ? table[i].width
             : rest < 8          ? -8
                                 : -rest,
             cells != NULL ? cells[i] : table[i].title);
}

#define COLUMNS(table) (sizeof(table) / sizeof *(table))

/* ---- head -------------------------------------------------------------------------------------------------------- */

static void view_head(const struct top_sample *sample, const struct top_screen *screen, struct top_page *page) {
  char uptime[CELL_SIZE], cpu[CELL_SIZE], memory[CELL_SIZE], connections[CELL_SIZE], used[CELL_SIZE], limit[CELL_SIZE];
  duration(uptime, sample->uptime);
  percent(cpu, sample->supervisor.cpu);
  bytes(memory, (double)sample->supervisor.memory);
  bool upgrading = strcmp(sample->upgrade, "gateway") == 0 || strcmp(sample->upgrade, "workers") == 0;
  print(page, strcmp(sample->state, "ready") == 0 ? TOP_TITLE : TOP_WARNING,
        "muster %s  %s%s  up %s  pid %" PRId64 "  cpu %s  mem %s  every %g s%s", sample->version, sample->state,
        upgrading ? ", upgrading" : "", uptime, sample->supervisor.pid, cpu, memory, screen->interval,
        screen->paused ? "  PAUSED" : "");
  percent(cpu, sample->gateway.cpu);
  bytes(memory, (double)sample->gateway.memory);
  count(connections, sample->connections);
  bytes(used, (double)sample->memory_used);
  bytes(limit, (double)sample->memory_limit);
  print(page, strcmp(sample->gateway_state, "ready") == 0 ? TOP_PLAIN : TOP_WARNING,
        "gateway %s  pid %" PRId64 "  restarts %" PRId64 "  cpu %s  mem %s  tensors %s/%s  conn %s",
        sample->gateway_state, sample->gateway.pid, sample->gateway_restarts, cpu, memory, used, limit, connections);
}

/* NAN is nothing, unless there is nothing else. */
static void add_up(double *sum, double more) {
  if (!isnan(more)) *sum = isnan(*sum) ? more : *sum + more;
}

static void view_totals(const struct top_sample *sample, struct top_page *page) {
  double requests = NAN, failures = NAN, batches = NAN, rows = NAN;
  int64_t waiting = TOP_UNKNOWN;
  char cells[5][CELL_SIZE];
  if (sample->metrics_error[0] != '\0') {
    print(page, TOP_WARNING, "no figures of requests: %s", sample->metrics_error);
    return;
  }
  for (size_t i = 0; i < sample->n_models; i++) {
    const struct top_model *model = &sample->models[i];
    add_up(&requests, model->request_rate);
    add_up(&failures, model->failure_rate);
    add_up(&batches, model->batch_rate);
    add_up(&rows, model->mean_batch * model->batch_rate);
    if (model->waiting >= 0) waiting = (waiting > 0 ? waiting : 0) + model->waiting;
  }
  number(cells[0], requests);
  number(cells[1], failures);
  number(cells[2], batches);
  number(cells[3], rows / batches);
  count(cells[4], waiting);
  print(page, TOP_PLAIN, "all models: %s requests/s  waiting %s  failures %s/s  batches %s/s of %s rows", cells[0],
        cells[4], cells[1], cells[2], cells[3]);
}

/* ---- GPUs -------------------------------------------------------------------------------------------------------- */

static bool is_selected(const struct top_screen *screen, enum top_kind kind, const char *id) {
  return screen->selected.kind == kind && strcmp(screen->selected.id, id) == 0;
}

/* Devices of workers are "gpu:0", "gpu:0:1" (MIG) or "gpu:UUID". */
static int64_t count_workers(const struct top_sample *sample, const struct top_gpu *gpu) {
  char index[64], mig[96];
  int64_t n = 0;
  snprintf(index, sizeof index, "gpu:%" PRId64, gpu->index);
  snprintf(mig, sizeof mig, "%s:%" PRId64, index, gpu->mig_index);
  for (size_t i = 0; i < sample->n_workers; i++) {
    const char *device = sample->workers[i].device;
    if (strncmp(device, "gpu:", 4) != 0) continue;
    n += strcmp(device, gpu->mig_index >= 0 ? mig : index) == 0 || strcmp(device + 4, gpu->uuid) == 0;
  }
  return n;
}

static void view_gpus(const struct top_sample *sample, const struct top_screen *screen, struct top_page *page) {
  static const struct column table[] = {{"GPU", -5}, {"NAME", 0}, {"STATE", -8}, {"UTIL", 5},
                                        {"USED", 6}, {"OF", 6},   {"WATT", 5},   {"WORKERS", 7}};
  if (sample->n_gpus == 0) return;
  add_row(add_line(page, TOP_HEADING)->text, table, COLUMNS(table), screen->width, NULL);
  for (size_t i = 0; i < sample->n_gpus; i++) {
    const struct top_gpu *gpu = &sample->gpus[i];
    char cells[COLUMNS(table)][CELL_SIZE * 4];
    if (gpu->mig_index >= 0)
      snprintf(cells[0], CELL_SIZE, "%" PRId64 ":%" PRId64, gpu->index, gpu->mig_index);
    else
      count(cells[0], gpu->index);
    snprintf(cells[1], sizeof cells[1], "%s", gpu->name);
    snprintf(cells[2], sizeof cells[2], "%s", gpu->state[0] != '\0' ? gpu->state : "-");
    percent(cells[3], gpu->utilization);
    bytes(cells[4], gpu->memory_used);
    bytes(cells[5], gpu->memory_total);
    number(cells[6], gpu->power);
    count(cells[7], count_workers(sample, gpu));
    bool serves = gpu->state[0] == '\0' || strcmp(gpu->state, "serving") == 0;
    struct top_line *line = add_line(page, serves ? TOP_PLAIN : TOP_WARNING);
    line->selected = is_selected(screen, TOP_GPU, gpu->uuid);
    add_row(line->text, table, COLUMNS(table), screen->width, cells);
    if (gpu->reason[0] != '\0') print(page, TOP_FAINT, "      %s", gpu->reason);
  }
  print(page, TOP_PLAIN, "%s", "");
}

/* ---- models ------------------------------------------------------------------------------------------------------ */

static void view_models(const struct top_sample *sample, const struct top_screen *screen, struct top_page *page) {
  static const struct column table[] = {{"MODEL", 0}, {"VER", 3},    {"STATE", -7},  {"WAIT", 5},
                                        {"REQ/S", 6}, {"FAIL/S", 6}, {"BATCH/S", 7}, {"MEAN", 5},
                                        {"P50ms", 5}, {"P95ms", 5},  {"P99ms", 5}};
  add_row(add_line(page, TOP_HEADING)->text, table, COLUMNS(table), screen->width, NULL);
  for (size_t i = 0; i < sample->n_models; i++) {
    const struct top_model *model = &sample->models[i];
    char cells[COLUMNS(table)][CELL_SIZE * 4];
    snprintf(cells[0], sizeof cells[0], "%s", model->name);
    count(cells[1], model->version);
    snprintf(cells[2], sizeof cells[2], "%s", model->state);
    count(cells[3], model->waiting);
    number(cells[4], model->request_rate);
    number(cells[5], model->failure_rate);
    number(cells[6], model->batch_rate);
    number(cells[7], model->mean_batch);
    for (size_t q = 0; q < TOP_QUANTILES; q++) milliseconds(cells[8 + q], model->latency[q]);
    struct top_line *line = add_line(page, strcmp(model->state, "READY") == 0 ? TOP_PLAIN : TOP_WARNING);
    add_row(line->text, table, COLUMNS(table), screen->width, cells);
    if (model->reason[0] != '\0') print(page, TOP_FAINT, "  %s", model->reason);
  }
  if (sample->metrics_error[0] == '\0')
    print(page, TOP_FAINT, "%s",
          sample->exact_latency ? "  latency of the last minute"
                                : "  latency from buckets; exact with --metrics-config summary_latencies=true");
  print(page, TOP_PLAIN, "%s", "");
}

/* ---- workers ----------------------------------------------------------------------------------------------------- */

static double sort_key(const struct top_worker *worker, enum top_sort sort) {
  double key = sort == TOP_BY_REQUESTS ? worker->request_rate
               : sort == TOP_BY_CPU    ? worker->usage.cpu
               : sort == TOP_BY_MEMORY ? (double)worker->usage.memory
                                       : 0;
  return isnan(key) ? -1 : key;
}

struct ranked {
  const struct top_worker *worker;
  double key;
};

/* The largest first; the same: as they come. */
static int compare_ranked(const void *a, const void *b) {
  const struct ranked *x = a, *y = b;
  if (x->key != y->key) return x->key < y->key ? 1 : -1;
  return x->worker < y->worker ? -1 : 1;
}

/* NULL without memory. */
static struct ranked *rank_workers(const struct top_sample *sample, enum top_sort sort) {
  struct ranked *ranked = calloc(sample->n_workers + 1, sizeof *ranked);
  if (ranked == NULL) return NULL;
  for (size_t i = 0; i < sample->n_workers; i++)
    ranked[i] = (struct ranked){&sample->workers[i], sort_key(&sample->workers[i], sort)};
  qsort(ranked, sample->n_workers, sizeof *ranked, compare_ranked);
  return ranked;
}

static void worker_id(const struct top_worker *worker, char id[CELL_SIZE]) {
  snprintf(id, CELL_SIZE, "%" PRId64, worker->number);
}

static void view_workers(const struct top_sample *sample, const struct top_screen *screen, struct top_page *page) {
  static const struct column table[] = {{"WORKER", 6}, {"PID", 7}, {"MODEL", 0}, {"DEVICE", -8}, {"STATE", -9},
                                        {"REQ/S", 6},  {"CPU", 5}, {"MEM", 5},   {"RESTARTS", 8}};
  struct ranked *ranked = rank_workers(sample, screen->sort);
  if (ranked == NULL) {
    page->failed = true;
    return;
  }
  add_row(add_line(page, TOP_HEADING)->text, table, COLUMNS(table), screen->width, NULL);
  for (size_t i = 0; i < sample->n_workers; i++) {
    const struct top_worker *worker = ranked[i].worker;
    char cells[COLUMNS(table)][CELL_SIZE * 4], id[CELL_SIZE];
    worker_id(worker, id);
    snprintf(cells[0], CELL_SIZE, "%s", id);
    count(cells[1], worker->usage.pid);
    snprintf(cells[2], sizeof cells[2], "%s", worker->model);
    snprintf(cells[3], sizeof cells[3], "%s", worker->device);
    snprintf(cells[4], sizeof cells[4], "%s", worker->state);
    number(cells[5], worker->request_rate);
    percent(cells[6], worker->usage.cpu);
    bytes(cells[7], (double)worker->usage.memory);
    count(cells[8], worker->restarts);
    struct top_line *line = add_line(page, strcmp(worker->state, "ready") == 0 ? TOP_PLAIN : TOP_WARNING);
    line->selected = is_selected(screen, TOP_WORKER, id);
    add_row(line->text, table, COLUMNS(table), screen->width, cells);
    if (worker->reason[0] != '\0') print(page, TOP_FAINT, "       %s", worker->reason);
  }
  free(ranked);
}

/* ---- selection --------------------------------------------------------------------------------------------------- */

const struct top_gpu *top_selected_gpu(const struct top_sample *sample, const struct top_screen *screen) {
  for (size_t i = 0; i < sample->n_gpus; i++)
    if (is_selected(screen, TOP_GPU, sample->gpus[i].uuid)) return &sample->gpus[i];
  return NULL;
}

const struct top_worker *top_selected_worker(const struct top_sample *sample, const struct top_screen *screen) {
  for (size_t i = 0; i < sample->n_workers; i++) {
    char id[CELL_SIZE];
    worker_id(&sample->workers[i], id);
    if (is_selected(screen, TOP_WORKER, id)) return &sample->workers[i];
  }
  return NULL;
}

static void target_at(const struct top_sample *sample, const struct ranked *ranked, size_t i, struct top_target *ret) {
  *ret = (struct top_target){i < sample->n_gpus ? TOP_GPU : TOP_WORKER, ""};
  if (i < sample->n_gpus)
    snprintf(ret->id, sizeof ret->id, "%s", sample->gpus[i].uuid);
  else
    worker_id(ranked[i - sample->n_gpus].worker, ret->id);
}

void top_move(const struct top_sample *sample, struct top_screen *screen, int steps) {
  size_t n = sample->n_gpus + sample->n_workers;
  struct ranked *ranked = rank_workers(sample, screen->sort);
  if (n > 0 && ranked != NULL) {
    long at = steps > 0 ? -1 : (long)n;
    struct top_target target;
    for (size_t i = 0; i < n; i++) {
      target_at(sample, ranked, i, &target);
      if (is_selected(screen, target.kind, target.id)) at = (long)i;
    }
    at += steps;
    target_at(sample, ranked, at < 0 ? 0 : at >= (long)n ? n - 1 : (size_t)at, &screen->selected);
  }
  free(ranked);
}

/* ---- the page ---------------------------------------------------------------------------------------------------- */

static void view_help(struct top_page *page) {
  static const char *const lines[] = {
      "up, down, j, k   select a GPU or a worker",
      "f                fence the selected GPU: nothing new runs there, its work moves to the others",
      "u                unfence it",
      "d                drain the selected worker: it finishes what it has and is started again",
      "s                sort the workers by number, requests, cpu or memory",
      "p                pause",
      "q                quit",
      "",
      "REQ/S, BATCH/S, MEAN (rows of a batch) and CPU are of the time between two looks; 100 % is one processor.",
      "WAIT: requests that wait for a batch. \"-\": not known, or none in that time.",
  };
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) print(page, TOP_PLAIN, "%s", lines[i]);
}

static void view_body(const struct top_sample *sample, const struct top_screen *screen, struct top_page *page) {
  if (screen->help) {
    view_help(page);
    return;
  }
  if (!sample->reached) return;
  view_gpus(sample, screen, page);
  view_models(sample, screen, page);
  view_workers(sample, screen, page);
}

/* Leaves so many lines of the body that the screen holds them, among them what is selected. */
static void scroll(struct top_screen *screen, struct top_page *page, size_t head) {
  size_t body = page->n - head,
         room = screen->height > (int)head + FOOT_LINES ? (size_t)screen->height - head - FOOT_LINES : 0;
  size_t at = screen->scrolled, last = body > room ? body - room : 0;
  for (size_t i = 0; i < body; i++) {
    if (!page->lines[head + i].selected || room == 0) continue;
    if (i < at) at = i;
    if (i >= at + room) at = i - room + 1;
    /* what the first lines belong to is seen again with the first of them */
    if (i < room) at = 0;
  }
  screen->scrolled = at < last ? at : last;
  if (body <= room) room = body;
  memmove(&page->lines[head], &page->lines[head + screen->scrolled], room * sizeof *page->lines);
  page->n = head + room;
}

static void view_foot(const struct top_screen *screen, struct top_page *page, size_t height) {
  while (page->n + 1 < height && !page->failed) print(page, TOP_PLAIN, "%s", "");
  if (screen->message[0] != '\0')
    print(page, TOP_WARNING, "%s", screen->message);
  else
    print(page, TOP_FAINT, "q quit  j/k select  f fence  u unfence  d drain  s sort: %s  p pause  ? help",
          sort_names[screen->sort]);
}

/* No line is wider than the screen, none ends in blanks. */
static void cut(const struct top_screen *screen, struct top_page *page) {
  for (size_t i = 0; i < page->n; i++) {
    char *text = page->lines[i].text;
    size_t size = (size_t)bytes_of(text, screen->width);
    while (size > 0 && text[size - 1] == ' ') size--;
    text[size] = '\0';
  }
}

mu_status top_render(const struct top_sample *sample, struct top_screen *screen, struct top_page *page) {
  page->n = 0;
  page->failed = false;
  if (sample->reached) {
    view_head(sample, screen, page);
    view_totals(sample, page);
  } else {
    print(page, TOP_WARNING, "no server, trying again every %g s%s", screen->interval,
          screen->paused ? "  PAUSED" : "");
    print(page, TOP_PLAIN, "%s", sample->error);
  }
  print(page, TOP_PLAIN, "%s", "");
  size_t head = page->n;
  view_body(sample, screen, page);
  if (page->failed) return MU_NO_MEMORY;
  if (screen->height > 0) {
    scroll(screen, page, head);
    view_foot(screen, page, (size_t)screen->height);
  }
  cut(screen, page);
  return page->failed ? MU_NO_MEMORY : MU_OK;
}
