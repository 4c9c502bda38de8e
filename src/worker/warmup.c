#include "worker/warmup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/sample.h"

/* Random whole numbers are 0 and 1: indices into the smallest tables. */
enum { WARMUP_RANGE = 2 };
#define WHOLE_FILE SIZE_MAX

static mu_status run(const struct worker_model *model, mu_engine_instance *instance, const mu_input *inputs, size_t n,
                     mu_error *err) {
  mu_output *outputs = calloc(model->info->n_outputs + 1, sizeof *outputs);
  if (outputs == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  for (size_t i = 0; i < model->info->n_outputs; i++) outputs[i].index = (uint32_t)i;
  mu_status status = model->engine->run(instance, inputs, n, outputs, model->info->n_outputs, err);
  free(outputs);
  return status;
}

/* ---- invented ---------------------------------------------------------------------------------------------------- */

static mu_status run_invented(const struct worker_model *model, char *ret_note, mu_error *err) {
  const struct sample_plan plan = {.batched = model->metadata->max_batch > 0, .rows = 1, .varying = 1};
  struct sample sample = {0};
  mu_error why = {{0}};
  mu_status status = sample_create(model->info->inputs, model->info->n_inputs, &plan, &sample, &why);
  for (uint32_t i = 0; status == MU_OK && i < model->n_instances; i++) {
    status = run(model, model->instances[i], sample.inputs, sample.n, &why);
  }
  sample_free(&sample);
  if (status == MU_IO || status == MU_NO_MEMORY) return mu_fail(err, status, "%s", why.message);
  if (status != MU_OK) snprintf(ret_note, WARMUP_NOTE_MAX, "%s", why.message);
  return MU_OK;
}

/* ---- configured -------------------------------------------------------------------------------------------------- */

/* One of config's model_warmup with its inputs made: those belong to it. */
struct warmup {
  const struct worker_model *model;
  const struct model_warmup *config;
  const char *folder;
  mu_input *inputs;
  uint32_t n;
};

/* Opens a warm-up file, which is a regular one: nothing else has a size, and a pipe would never let go. */
static mu_status open_file(const char *path, int *ret_fd, size_t *ret_length, mu_error *err) {
  struct stat facts;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0 || fstat(fd, &facts) != 0) {
    mu_status status = errno == ENOENT ? MU_NOT_FOUND : MU_IO;
    mu_fail(err, status, "cannot read %s: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
    return status;
  }
  if (S_ISREG(facts.st_mode)) {
    *ret_fd = fd;
    *ret_length = (size_t)facts.st_size;
    return MU_OK;
  }
  close(fd);
  return mu_fail(err, MU_INVALID, "%s is not a regular file", path);
}

/* Reads the first size bytes of the warm-up file (all of it: WHOLE_FILE) into *ret_data, which the caller frees. A file
 * may be longer than its input, as for Triton. */
static mu_status read_file(const struct warmup *warmup, const char *file, size_t size, uint8_t **ret_data,
                           size_t *ret_size, mu_error *err) {
  char path[PATH_MAX];
  size_t length = 0;
  int fd = -1;
  if (snprintf(path, sizeof path, "%s/warmup/%s", warmup->folder, file) >= (int)sizeof path)
    return mu_fail(err, MU_IO, "the path of warm-up file %.100s is too long", file);
  mu_status status = open_file(path, &fd, &length, err);
  if (status != MU_OK) return status;
  if (length > size) length = size;
  uint8_t *data = malloc(length > 0 ? length : 1);
  size_t at = 0;
  for (ssize_t n = 1; data != NULL && at < length && n > 0; at += n > 0 ? (size_t)n : 0) {
    n = read(fd, data + at, length - at);
  }
  close(fd);
  if (data != NULL && at == length && (size == WHOLE_FILE || length == size)) {
    *ret_data = data;
    *ret_size = length;
    return MU_OK;
  }
  free(data);
  if (data == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for %s", path);
  return mu_fail(err, MU_INVALID, "%s holds %zu bytes, its input has %zu", path, at, size);
}

/* BYTES of a file are what a client would send: a length before each element, and as many as the dims say. */
static mu_status check_elements(const struct warmup_input *input, const uint8_t *data, size_t size, uint64_t n,
                                mu_error *err) {
  size_t at = 0;
  uint64_t found = 0;
  for (uint32_t length; size - at >= sizeof length && found < n; found++) {
    memcpy(&length, data + at, sizeof length);
    if (size - at - sizeof length < length) break;
    at += sizeof length + length;
  }
  if (found == n && at == size) return MU_OK;
  return mu_fail(err, MU_INVALID,
                 "warm-up file %.100s does not hold the %llu texts of input \"%s\", each with its length in 4 bytes "
                 "before it",
                 input->file, (unsigned long long)n, input->name);
}

static mu_status fill_from_file(const struct warmup *warmup, const struct warmup_input *input, int64_t rows,
                                uint64_t per_row, mu_tensor *tensor, mu_error *err) {
  uint8_t *row = NULL;
  size_t size = 0;
  bool texts = tensor->dtype == MU_BYTES;
  mu_status status =
      read_file(warmup, input->file, texts ? WHOLE_FILE : per_row * mu_dtype_size(tensor->dtype), &row, &size, err);
  if (status == MU_OK && texts) status = check_elements(input, row, size, per_row, err);
  if (status != MU_OK) {
    free(row);
    return status;
  }
  /* the file holds one row, which is repeated */
  if (!__builtin_mul_overflow(size, (size_t)rows, &tensor->size))
    tensor->data = malloc(tensor->size > 0 ? tensor->size : 1);
  for (int64_t i = 0; tensor->data != NULL && i < rows; i++) {
    memcpy((uint8_t *)tensor->data + (size_t)i * size, row, size);
  }
  free(row);
  return tensor->data != NULL ? MU_OK : mu_fail(err, MU_NO_MEMORY, "no memory for the warm-up");
}

static mu_status fill_generated(const struct warmup_input *input, int64_t rows, uint64_t per_row, mu_tensor *tensor,
                                mu_error *err) {
  const struct sample_plan plan = {.rows = rows, .range = input->fill == WARMUP_RANDOM ? WARMUP_RANGE : 0};
  uint64_t size = 0, random = 1;
  if (__builtin_mul_overflow(per_row * (uint64_t)rows, (uint64_t)sample_element_size(tensor->dtype, &plan), &size)) {
    return mu_fail(err, MU_TOO_LARGE, "model_warmup: input \"%s\" is too large", input->name);
  }
  tensor->size = size;
  tensor->data = malloc(size > 0 ? size : 1);
  if (tensor->data == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the warm-up");
  uint8_t *to = tensor->data;
  for (int64_t row = 0; row < rows; row++) to += sample_fill(tensor->dtype, &plan, row, per_row, &random, to);
  return MU_OK;
}

/* The shape that the engine gets: rows before the dims that are configured, `reshape` applied. */
static mu_status shape_input(const struct model_tensor *tensor, const struct warmup_input *input, bool batched,
                             int64_t rows, mu_tensor *ret_tensor, mu_error *err) {
  int64_t dims[MU_MAX_RANK] = {rows};
  uint32_t rank = input->rank + batched;
  bool fits = rank <= MU_MAX_RANK;
  if (fits) {
    memcpy(dims + batched, input->dims, input->rank * sizeof *dims);
    fits = model_tensor_to_engine(tensor, dims, rank, ret_tensor->dims, &ret_tensor->rank);
  }
  ret_tensor->dtype = input->dtype;
  if (fits && shape_size(input->dtype, ret_tensor->dims, ret_tensor->rank, NULL, NULL) == MU_OK) return MU_OK;
  return mu_fail(err, MU_INVALID, "model_warmup: the dims of input \"%s\" do not fit the model", input->name);
}

static mu_status make_input(struct warmup *warmup, const struct warmup_input *input, mu_error *err) {
  const struct model_metadata *metadata = warmup->model->metadata;
  bool batched = metadata->max_batch > 0;
  int64_t rows = batched && warmup->config->batch_size > 1 ? warmup->config->batch_size : 1;
  int index = model_metadata_find_input(metadata, input->name, strlen(input->name));
  if (index < 0) return mu_fail(err, MU_INVALID, "model_warmup: the model has no input \"%s\"", input->name);
  mu_input *made = &warmup->inputs[warmup->n++];
  made->index = (uint32_t)index;
  uint64_t per_row = 0;
  mu_status status = shape_input(&metadata->inputs[index], input, batched, rows, &made->tensor, err);
  if (status == MU_OK && shape_size(input->dtype, input->dims, input->rank, &per_row, NULL) != MU_OK) {
    status = mu_fail(err, MU_INVALID, "model_warmup: the dims of input \"%s\" are no shape", input->name);
  }
  if (status != MU_OK) return status;
  return input->fill == WARMUP_FILE ? fill_from_file(warmup, input, rows, per_row, &made->tensor, err)
                                    : fill_generated(input, rows, per_row, &made->tensor, err);
}

static mu_status run_configured(const struct worker_model *model, const struct model_warmup *config, const char *folder,
                                mu_error *err) {
  struct warmup warmup = {.model = model, .config = config, .folder = folder};
  warmup.inputs = calloc(config->n_inputs > 0 ? config->n_inputs : 1, sizeof *warmup.inputs);
  mu_status status = warmup.inputs != NULL ? MU_OK : mu_fail(err, MU_NO_MEMORY, "no memory for the warm-up");
  for (uint32_t i = 0; status == MU_OK && i < config->n_inputs; i++) {
    status = make_input(&warmup, &config->inputs[i], err);
  }
  uint32_t count = config->count > 0 ? config->count : 1;
  for (uint32_t i = 0; status == MU_OK && i < model->n_instances; i++) {
    for (uint32_t k = 0; status == MU_OK && k < count; k++) {
      mu_error why = {{0}};
      status = run(model, model->instances[i], warmup.inputs, warmup.n, &why);
      if (status != MU_OK) mu_fail(err, status, "warm-up \"%s\": %s", config->name, why.message);
    }
  }
  for (uint32_t i = 0; i < warmup.n; i++) free(warmup.inputs[i].tensor.data);
  free(warmup.inputs);
  return status;
}

/* As Triton, one of batch size 0, which is what it has when config.pbtxt says nothing, is passed over. */
mu_status warmup_run(const struct worker_model *model, const char *folder, char ret_note[WARMUP_NOTE_MAX],
                     mu_error *err) {
  const struct model_config *config = model->config;
  bool any = false;
  mu_status status = MU_OK;
  ret_note[0] = '\0';
  for (uint32_t i = 0; status == MU_OK && i < config->n_warmups; i++) {
    if (config->warmups[i].batch_size == 0) continue;
    any = true;
    status = run_configured(model, &config->warmups[i], folder, err);
  }
  return any ? status : run_invented(model, ret_note, err);
}
