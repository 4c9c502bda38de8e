/*
 * What a generation of a model is made of. Only compared, never stored: the numbers of a struct are appended as they
 * lie in memory.
 */
#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "supervisor/state.h"

static void put_number(struct buffer *out, int64_t number) { buffer_append(out, &number, sizeof number); }
static void put_text(struct buffer *out, const char *text) {
  put_number(out, text != NULL ? (int64_t)strlen(text) : -1);
  if (text != NULL) buffer_puts(out, text);
}

/* Which file it is, and when its content was last written. What is not there (any more) is as good as another one. */
static void put_file(struct buffer *out, const char *path) {
  struct stat file;
  bool there = stat(path, &file) == 0;
  put_text(out, path);
  put_number(out, there);
  if (!there) return;
  put_number(out, (int64_t)file.st_dev);
  put_number(out, (int64_t)file.st_ino);
  put_number(out, (int64_t)file.st_size);
  put_number(out, (int64_t)file.st_mtim.tv_sec);
  put_number(out, (int64_t)file.st_mtim.tv_nsec);
}

static int is_shown(const struct dirent *entry) { return entry->d_name[0] != '.'; }
static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

/* Weights beside the model file, labels beside the configuration: all files, not those of folders inside. */
static void put_folder(struct buffer *out, const char *folder) {
  struct dirent **entries = NULL;
  int n = scandir(folder, &entries, is_shown, by_name);
  put_number(out, n);
  for (int i = 0; i < n; i++) {
    char path[4096];
    struct stat file;
    snprintf(path, sizeof path, "%s/%s", folder, entries[i]->d_name);
    if (stat(path, &file) != 0 || !S_ISDIR(file.st_mode)) put_file(out, path);
    free(entries[i]);
  }
  free(entries);
}

/* A file that came along is no other one as long as it is there. */
static void put_given(struct buffer *out, int descriptor) {
  struct stat file;
  bool there = fstat(descriptor, &file) == 0;
  put_number(out, there ? (int64_t)file.st_dev : -1);
  put_number(out, there ? (int64_t)file.st_ino : -1);
}

static void put_files(struct buffer *out, const struct served_model *model) {
  if (model->given) {
    put_given(out, model->file);
    return;
  }
  if (model->path != NULL) put_file(out, model->path);
  if (model->folder[0] == '\0') return; /* a flat file: what lies beside it are other models */
  put_folder(out, model->folder);
  const char *slash = model->path != NULL ? strrchr(model->path, '/') : NULL;
  if (slash == NULL) return;
  char folder[4096];
  snprintf(folder, sizeof folder, "%.*s", (int)(slash - model->path), model->path);
  put_folder(out, folder);
}

static void put_options(struct buffer *out, const struct served_model *model, const struct options *options) {
  const struct model_options *own = &model->options;
  const int64_t numbers[] = {own->processes,
                             own->instances,
                             own->threads,
                             own->mps_active_threads,
                             own->max_batch_size,
                             own->max_queue_size,
                             own->max_queue_bytes,
                             own->max_queue_delay_us,
                             own->max_execution_ns,
                             model->batching,
                             model->round_robin,
                             (int64_t)model->max_batch_wait_ns};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) put_number(out, numbers[i]);
  put_text(out, own->engine);
  put_text(out, own->device);
  put_text(out, options->onnxruntime_library);
}

static void put_plan(struct buffer *out, const struct worker_plan *plan) {
  put_text(out, plan->engine);
  put_number(out, plan->threads);
  for (uint32_t i = 0; i < plan->n_groups; i++) {
    put_text(out, plan->groups[i].device);
    put_number(out, plan->groups[i].processes);
    put_number(out, plan->groups[i].instances);
  }
}

mu_status fingerprint_take(struct served_model *model, const struct options *options) {
  struct buffer *out = &model->fingerprint;
  buffer_clear(out);
  put_number(out, (int64_t)model->text_size);
  buffer_append(out, model->text, model->text_size);
  put_options(out, model, options);
  put_plan(out, &model->plan);
  put_files(out, model);
  return out->failed ? MU_NO_MEMORY : MU_OK;
}

bool fingerprint_has_file(const struct served_model *model) {
  struct stat kept, named;
  if (model->file < 0 || fstat(model->file, &kept) != 0) return true; /* nothing better is at hand */
  return stat(model->path, &named) == 0 && named.st_dev == kept.st_dev && named.st_ino == kept.st_ino;
}

bool fingerprint_same(const struct served_model *a, const struct served_model *b) {
  return a->fingerprint.size == b->fingerprint.size &&
         memcmp(a->fingerprint.data, b->fingerprint.data, a->fingerprint.size) == 0;
}
