#include "cli/gpus/print.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "base/arena.h"
#include "gpu/inventory_json.h"
#include "gpu/words.h"

enum { CELL_MAX = 256, COLUMNS_MAX = 4 + GPUS_MAX, ROWS_MAX = 1 + GPU_PROCESSES_MAX };

/* ---- a table of texts -------------------------------------------------------------------------------------------- */

struct table {
  const char *cells[ROWS_MAX][COLUMNS_MAX]; /* in the arena; NULL: empty, also for want of memory */
  size_t rows, columns;
  struct arena arena;
  struct buffer *out; /* where it will be printed, and is noted that there is no memory */
};

/* What comes from the driver or /proc brings no control character to the terminal. */
static void set(struct table *table, size_t row, size_t column, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static void set(struct table *table, size_t row, size_t column, const char *format, ...) {
  char text[GPU_CORES_SIZE]; /* the longest of an inventory */
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  for (char *at = text; *at != '\0'; at++)
    if ((unsigned char)*at < 0x20 || *at == 0x7f) *at = '?';
  table->cells[row][column] = arena_copy(&table->arena, text, strlen(text));
  if (table->cells[row][column] == NULL) table->out->failed = true;
  if (row >= table->rows) table->rows = row + 1;
  if (column >= table->columns) table->columns = column + 1;
}

static const char *cell(const struct table *table, size_t row, size_t column) {
  return table->cells[row][column] != NULL ? table->cells[row][column] : "";
}

/* Prints it and frees it. */
static void print_cells(struct table *table) {
  struct buffer *out = table->out;
  int widths[COLUMNS_MAX] = {0};
  for (size_t r = 0; r < table->rows; r++)
    for (size_t c = 0; c < table->columns; c++) {
      int width = (int)strlen(cell(table, r, c));
      if (width > widths[c]) widths[c] = width;
    }
  for (size_t r = 0; r < table->rows; r++) {
    for (size_t c = 0; c < table->columns; c++)
      buffer_print(out, "%s%-*s", c > 0 ? "  " : "", c + 1 < table->columns ? widths[c] : 0, cell(table, r, c));
    while (out->size > 0 && out->data[out->size - 1] == ' ') out->size--;
    buffer_putc(out, '\n');
  }
  arena_free(&table->arena);
  free(table);
}

/* NULL: no memory, which is noted. */
static struct table *new_table(struct buffer *out) {
  struct table *table = calloc(1, sizeof *table);
  if (table == NULL)
    out->failed = true;
  else
    table->out = out;
  return table;
}

/* ---- texts of figures -------------------------------------------------------------------------------------------- */

enum { TEXT_MAX = 32 };
static const char unknown[] = "-";

static const char *number(int64_t value, char text[TEXT_MAX]) {
  if (value == GPU_UNKNOWN) return unknown;
  snprintf(text, TEXT_MAX, "%lld", (long long)value);
  return text;
}

static const char *gib(int64_t bytes, char text[TEXT_MAX]) {
  if (bytes == GPU_UNKNOWN) return unknown;
  snprintf(text, TEXT_MAX, "%.1f", (double)bytes / (1 << 30));
  return text;
}

static const char *watts(int64_t milliwatts, char text[TEXT_MAX]) {
  return number(milliwatts == GPU_UNKNOWN ? milliwatts : (milliwatts + 500) / 1000, text);
}

/* "55 C"; a dash alone where it is unknown. */
static void set_one(struct table *table, size_t row, size_t column, const char *figure, const char *unit) {
  bool known = strcmp(figure, unknown) != 0;
  set(table, row, column, "%s%s%s", figure, known ? " " : "", known ? unit : "");
}

/* "100 / 700 W" */
static void set_two(struct table *table, size_t row, size_t column, const char *now, const char *most,
                    const char *unit) {
  if (strcmp(most, unknown) == 0)
    set_one(table, row, column, now, unit);
  else
    set(table, row, column, "%s / %s %s", now, most, unit);
}

static const char *label(const struct gpu *gpu, char text[TEXT_MAX]) {
  if (gpu->mig_index == GPU_UNKNOWN)
    snprintf(text, TEXT_MAX, "%d", (int)gpu->index);
  else
    snprintf(text, TEXT_MAX, "%d:%d", (int)gpu->index, (int)gpu->mig_index);
  return text;
}

/* Twelve characters tell GPUs apart ("GPU-1a2b3c4d"), and muster takes the beginning of a UUID; as many more as are
 * needed to tell them apart. */
static int uuid_length(const struct gpu_inventory *inventory) {
  int length = sizeof "GPU-1a2b3c4d" - 1;
  for (uint32_t i = 0; i < inventory->n_gpus; i++)
    for (uint32_t j = 0; j < i; j++) {
      const char *one = inventory->gpus[i].uuid, *other = inventory->gpus[j].uuid;
      int same = 0;
      while (one[same] != '\0' && one[same] == other[same]) same++;
      if (same >= length) length = same + 1;
    }
  return length;
}

static void add_note(struct buffer *notes, const char *note) {
  if (note[0] != '\0') buffer_print(notes, "%s%s", notes->size > 0 ? ", " : "", note);
}

/* What holds this GPU back. */
static void print_state(const struct gpu_inventory *inventory, uint32_t position, struct buffer *notes) {
  const struct gpu *gpu = &inventory->gpus[position];
  const struct gpu_reading *reading = &inventory->readings[position];
  const char *recovery = gpu_recovery_word(reading->recovery_action);
  char words[CELL_MAX];
  if (reading->lost) add_note(notes, "LOST");
  if (reading->error[0] != '\0') add_note(notes, reading->error);
  if (recovery[0] != '\0') {
    snprintf(words, sizeof words, "needs %s", recovery);
    add_note(notes, words);
  }
  if (gpu->mig_enabled) add_note(notes, "divided into MIG devices");
  if (gpu->simulated) add_note(notes, "simulated");
  add_note(notes, gpu_compute_mode_word(gpu->compute_mode));
  add_note(notes, gpu_throttle_words(reading->throttle_reasons, words, sizeof words));
  if (reading->ecc_uncorrected > 0) add_note(notes, "uncorrected ECC errors");
  if (notes->size == 0) add_note(notes, "ok");
}

/* ---- the GPUs ---------------------------------------------------------------------------------------------------- */

static void print_machine(const struct gpu_inventory *inventory, struct buffer *out) {
  buffer_print(out, "driver %s", inventory->driver);
  if (inventory->cuda != GPU_UNKNOWN)
    buffer_print(out, ", CUDA %d.%d", (int)inventory->cuda / 1000, (int)inventory->cuda % 1000 / 10);
  if (inventory->n_gpus == 0) buffer_puts(out, ": no GPU");
  if (inventory->left_out > 0)
    buffer_print(out, "; %u more GPUs and MIG devices, past the %d that muster can use", inventory->left_out, GPUS_MAX);
  buffer_putc(out, '\n');
}

static void set_gpu(struct table *table, size_t row, const struct gpu_inventory *inventory, uint32_t position,
                    int length) {
  const struct gpu *gpu = &inventory->gpus[position];
  const struct gpu_reading *reading = &inventory->readings[position];
  char a[TEXT_MAX], b[TEXT_MAX];
  struct buffer notes;
  buffer_init(&notes, CELL_MAX * 4);
  print_state(inventory, position, &notes);
  const char *state = buffer_text(&notes);
  size_t c = 0;
  set(table, row, c++, "%s", label(gpu, a));
  set(table, row, c++, "%.*s", length, gpu->uuid[0] != '\0' ? gpu->uuid : unknown);
  set(table, row, c++, "%s", gpu->name[0] != '\0' ? gpu->name : unknown);
  set_two(table, row, c++, gib(reading->memory_used, a), gib(gpu->memory_total, b), "GiB");
  set_one(table, row, c++, number(reading->gpu_utilization, a), "%");
  set_one(table, row, c++, number(reading->temperature, a), "C");
  set_two(table, row, c++, watts(reading->power_mw, a), watts(reading->power_limit_mw, b), "W");
  set_two(table, row, c++, number(reading->sm_clock_mhz, a), number(reading->sm_clock_max_mhz, b), "MHz");
  set(table, row, c++, "%s", state != NULL ? state : "");
  buffer_free(&notes);
}

static void set_titles(struct table *table, const char *const *titles, size_t n) {
  for (size_t c = 0; c < n; c++) set(table, 0, c, "%s", titles[c]);
}

/* Of the namespace that this process sees; "?" where it is another one, or the process has ended. */
static void read_name(int32_t pid, char name[CELL_MAX]) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
  FILE *file = fopen(path, "re");
  if (file == NULL || fgets(name, CELL_MAX, file) == NULL) snprintf(name, CELL_MAX, "?");
  name[strcspn(name, "\n")] = '\0';
  if (file != NULL) fclose(file);
}

static void print_processes(const struct gpu_inventory *inventory, struct buffer *out) {
  static const char *const titles[] = {"PID", "GPU", "MEMORY", "PROCESS"};
  struct table *table = inventory->n_processes > 0 ? new_table(out) : NULL;
  if (table == NULL) return;
  set_titles(table, titles, sizeof titles / sizeof *titles);
  for (uint32_t i = 0; i < inventory->n_processes; i++) {
    const struct gpu_process *process = &inventory->processes[i];
    char text[TEXT_MAX], name[CELL_MAX];
    read_name(process->pid, name);
    set(table, i + 1, 0, "%d", (int)process->pid);
    set(table, i + 1, 1, "%s", label(&inventory->gpus[process->gpu], text));
    set_one(table, i + 1, 2, gib(process->memory_used, text), "GiB");
    set(table, i + 1, 3, "%s", name);
  }
  buffer_putc(out, '\n');
  print_cells(table);
}

void gpus_print_table(const struct gpu_inventory *inventory, struct buffer *out) {
  static const char *const titles[] = {"GPU", "UUID", "NAME", "MEMORY", "UTIL", "TEMP", "POWER", "CLOCK", "STATE"};
  print_machine(inventory, out);
  struct table *table = inventory->n_gpus > 0 ? new_table(out) : NULL;
  if (table == NULL) return;
  set_titles(table, titles, sizeof titles / sizeof *titles);
  int length = uuid_length(inventory);
  for (uint32_t i = 0; i < inventory->n_gpus; i++) set_gpu(table, i + 1, inventory, i, length);
  buffer_putc(out, '\n');
  print_cells(table);
  print_processes(inventory, out);
}

/* ---- how they are connected -------------------------------------------------------------------------------------- */

static void print_islands(const struct gpu_inventory *inventory, struct buffer *out) {
  uint32_t islands[GPUS_MAX];
  gpu_islands(inventory, islands);
  for (uint32_t first = 0; first < inventory->n_gpus; first++) {
    uint32_t n = 0;
    char text[TEXT_MAX];
    for (uint32_t i = 0; i < inventory->n_gpus; i++) n += islands[i] == first;
    if (islands[first] != first || n < 2) continue;
    buffer_puts(out, "NVLink island:");
    for (uint32_t i = first; i < inventory->n_gpus; i++)
      if (islands[i] == first) buffer_print(out, " %s", label(&inventory->gpus[i], text));
    buffer_putc(out, '\n');
  }
}

void gpus_print_topology(const struct gpu_inventory *inventory, struct buffer *out) {
  char text[TEXT_MAX];
  uint32_t n = inventory->n_gpus;
  print_machine(inventory, out);
  struct table *table = n > 0 ? new_table(out) : NULL;
  if (table == NULL) return;
  for (uint32_t i = 0; i < n; i++) {
    const struct gpu *gpu = &inventory->gpus[i];
    set(table, 0, 1 + i, "GPU%s", label(gpu, text));
    set(table, 1 + i, 0, "GPU%s", label(gpu, text));
    for (uint32_t j = 0; j < n; j++)
      set(table, 1 + i, 1 + j, "%s", gpu_link_name((enum gpu_link)inventory->links[i][j]));
    set(table, 1 + i, 1 + n, "%s", number(gpu->numa_node, text));
    set(table, 1 + i, 2 + n, "%s", gpu->cores[0] != '\0' ? gpu->cores : unknown);
  }
  set(table, 0, 1 + n, "NODE");
  set(table, 0, 2 + n, "CORES");
  buffer_putc(out, '\n');
  print_cells(table);
  buffer_putc(out, '\n');
  print_islands(inventory, out);
  buffer_puts(out,
              "NV: NVLink. PIX: one PCIe switch. PXB: several. PHB: the host bridge. NODE: one NUMA node. SYS: across "
              "NUMA nodes.\n");
}

/* ---- on a terminal, one over the other --------------------------------------------------------------------------- */

/* Lines of the frame that fit into so many rows; a long line takes several. */
static size_t count_fitting(const struct buffer *frame, size_t rows, size_t columns) {
  size_t n = 0, begin = 0, taken = 0;
  for (size_t i = 0; i < frame->size; i++) {
    if (frame->data[i] != '\n') continue;
    taken += i - begin > columns ? (i - begin + columns - 1) / columns : 1;
    if (taken > rows) break;
    n++;
    begin = i + 1;
  }
  return n;
}

void gpus_print_screen(struct buffer *out, size_t rows, size_t columns) {
  struct buffer screen;
  size_t lines = 0, shown = 0;
  buffer_init(&screen, out->limit);
  for (size_t i = 0; i < out->size; i++) lines += out->data[i] == '\n';
  /* The cursor stands in the last row, and what does not fit takes one. */
  size_t most = rows < 3 || columns == 0 ? lines : count_fitting(out, rows - 1, columns);
  if (most < lines) most = count_fitting(out, rows - 2, columns);
  const char *end = out->data;
  for (; shown < most; shown++) end = (const char *)memchr(end, '\n', out->size - (size_t)(end - out->data)) + 1;
  buffer_puts(&screen, "\033[H\033[2J"); /* top left, all clear */
  buffer_append(&screen, out->data, (size_t)(end - out->data));
  if (shown < lines) buffer_print(&screen, "... %zu more lines\n", lines - shown);
  screen.failed = screen.failed || out->failed;
  buffer_free(out);
  *out = screen;
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static bool add_more(const struct gpu_inventory *inventory, json_t *root) {
  uint32_t islands[GPUS_MAX];
  size_t i;
  json_t *item;
  bool complete = json_object_set_new(root, "left_out", json_integer(inventory->left_out)) == 0;
  gpu_islands(inventory, islands);
  json_array_foreach(json_object_get(root, "gpus"), i, item) {
    complete = complete && json_object_set_new(item, "island", json_integer((json_int_t)islands[i])) == 0;
  }
  json_array_foreach(json_object_get(root, "processes"), i, item) {
    char name[CELL_MAX];
    read_name(inventory->processes[i].pid, name);
    json_t *text = json_string(name);
    complete = complete && json_object_set_new(item, "name", text != NULL ? text : json_string("?")) == 0;
  }
  return complete;
}

void gpus_print_json(const struct gpu_inventory *inventory, size_t flags, struct buffer *out) {
  json_t *root = gpu_inventory_to_json(inventory);
  char *text = root != NULL && add_more(inventory, root) ? json_dumps(root, flags) : NULL;
  json_decref(root);
  if (text == NULL)
    out->failed = true;
  else
    buffer_print(out, "%s\n", text);
  free(text);
}
