#include "worker/batch_check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/sample.h"

enum { CHECK_ROWS = 4 };

/*
 * What is tried, until the model takes one and says something. Varying dimensions: 32 first, because it suits both
 * sentences and images that are halved five times, and leaves more to see than 1 does. Whole numbers: below 16, as
 * indices into most tables; below 2 for masks and kinds of token.
 */
static const struct {
  int64_t varying;
  uint32_t range;
} attempts[] = {{32, 16}, {32, 2}, {64, 16}, {320, 16}, {8, 16}, {8, 2}, {1, 16}, {1, 2}};

/* How far two runs of the same row may differ, relative to the largest value of the row: other batch sizes take other
 * kernels, which add up in another order. 0: not at all. */
static const double tolerances[MU_DTYPE_COUNT] = {
    [MU_FP16] = 2e-2, [MU_BF16] = 5e-2, [MU_FP32] = 1e-3, [MU_FP64] = 1e-6};
static const double smallest_difference = 1e-6; /* absolute; below it nothing is compared */

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

static double read_fp16(const uint8_t *at) {
  uint16_t bits;
  memcpy(&bits, at, sizeof bits);
  int exponent = bits >> 10 & 0x1f, fraction = bits & 0x3ff;
  double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 0x1f) return fraction != 0 ? (double)NAN : sign * (double)INFINITY;
  if (exponent == 0) return sign * ldexp(fraction, -24);
  return sign * ldexp(fraction + 0x400, exponent - 25);
}
static double read_bf16(const uint8_t *at) {
  float value = 0;
  memcpy((uint8_t *)&value + 2, at, 2);
  return (double)value;
}
static double read_fp32(const uint8_t *at) {
  float value;
  memcpy(&value, at, sizeof value);
  return (double)value;
}
static double read_fp64(const uint8_t *at) {
  double value;
  memcpy(&value, at, sizeof value);
  return value;
}
static double (*const readers[MU_DTYPE_COUNT])(const uint8_t *at) = {
    [MU_FP16] = read_fp16, [MU_BF16] = read_bf16, [MU_FP32] = read_fp32, [MU_FP64] = read_fp64};

static bool same_number(double a, double b, double allowed) {
  if (isnan(a) || isnan(b)) return isnan(a) && isnan(b);
  return a == b || fabs(a - b) <= allowed; /* the first for infinities */
}

/* ---- one check --------------------------------------------------------------------------------------------------- */

struct check {
  const mu_engine *engine;
  mu_engine_instance *instance;
  const mu_model_info *info;
  int64_t rows;
  mu_output *outputs; /* of one run */
  mu_tensor *batch;   /* of the run of all rows, copied; data owned */
  size_t *compared;   /* bytes of batch[i] that single rows have been held against */
  size_t finite;      /* numbers seen that are neither NaN nor infinite, and elements of other types */
  char *note;
};

static mu_status run(struct check *check, const struct sample *sample, mu_error *err) {
  for (size_t i = 0; i < check->info->n_outputs; i++) check->outputs[i] = (mu_output){.index = (uint32_t)i};
  return check->engine->run(check->instance, sample->inputs, sample->n, check->outputs, check->info->n_outputs, err);
}

static void forget_batch(struct check *check) {
  for (size_t i = 0; i < check->info->n_outputs; i++) {
    free(check->batch[i].data);
    check->batch[i].data = NULL;
    check->compared[i] = 0;
  }
  check->finite = 0;
}

static mu_status keep_batch(struct check *check, mu_error *err) {
  for (size_t i = 0; i < check->info->n_outputs; i++) {
    const mu_tensor *produced = &check->outputs[i].tensor;
    uint8_t *copy = malloc(produced->size > 0 ? produced->size : 1);
    if (copy == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory to check the batching");
    if (produced->size > 0) memcpy(copy, produced->data, produced->size);
    check->batch[i] = *produced;
    check->batch[i].data = copy;
  }
  return MU_OK;
}

static void note_shape(struct check *check, size_t i, const mu_tensor *tensor, const char *what) {
  char text[128];
  snprintf(check->note, BATCH_NOTE_MAX, "output \"%s\" has shape %s for %s", check->info->outputs[i].name,
           shape_text(tensor->dims, tensor->rank, text, sizeof text), what);
}

/* Whether an output has as many rows as went in, and rows of the same shape alone and together. */
static bool check_shape(struct check *check, size_t i, const mu_tensor *tensor, int64_t rows) {
  const mu_tensor *batch = &check->batch[i];
  if (tensor->rank == 0 || tensor->dims[0] != rows) {
    char what[48];
    snprintf(what, sizeof what, "a batch of %lld", (long long)rows);
    note_shape(check, i, tensor, what);
    return false;
  }
  if (tensor->rank != batch->rank ||
      memcmp(tensor->dims + 1, batch->dims + 1, (batch->rank - 1) * sizeof batch->dims[0]) != 0) {
    note_shape(check, i, tensor, "a row alone, another one in a batch");
    return false;
  }
  return true;
}

/* Numbers of one row within tolerance; the reader and the tolerance are those of the type. */
static bool check_numbers(struct check *check, size_t i, const uint8_t *together, const uint8_t *alone, size_t n,
                          int64_t row) {
  mu_dtype dtype = check->batch[i].dtype;
  size_t size = mu_dtype_size(dtype);
  double largest = 0;
  for (size_t k = 0; k < n; k++) {
    double value = fabs(readers[dtype](alone + k * size));
    if (!isfinite(value)) continue;
    if (value > largest) largest = value;
    check->finite++;
  }
  double allowed = tolerances[dtype] * largest + smallest_difference;
  for (size_t k = 0; k < n; k++) {
    double a = readers[dtype](alone + k * size), b = readers[dtype](together + k * size);
    if (same_number(a, b, allowed)) continue;
    snprintf(check->note, BATCH_NOTE_MAX, "output \"%s\" of row %lld is %g alone and %g beside others",
             check->info->outputs[i].name, (long long)row, a, b);
    return false;
  }
  return true;
}

static bool check_row(struct check *check, int64_t row) {
  for (size_t i = 0; i < check->info->n_outputs; i++) {
    const mu_tensor *alone = &check->outputs[i].tensor, *batch = &check->batch[i];
    if (!check_shape(check, i, alone, 1)) return false;
    const uint8_t *together = (const uint8_t *)batch->data + check->compared[i];
    bool fits = alone->size <= batch->size - check->compared[i]; /* texts may be of any length */
    if (fits && readers[batch->dtype] != NULL) {
      if (!check_numbers(check, i, together, alone->data, alone->size / mu_dtype_size(batch->dtype), row)) return false;
    } else if (!fits || (alone->size > 0 && memcmp(alone->data, together, alone->size) != 0)) {
      snprintf(check->note, BATCH_NOTE_MAX, "output \"%s\" of row %lld is another one alone than beside others",
               check->info->outputs[i].name, (long long)row);
      return false;
    } else {
      check->finite += alone->size;
    }
    check->compared[i] += alone->size;
  }
  return true;
}

/* ret_told: the model took the sample and what came out says something; then check->note is the verdict. */
static mu_status try_sample(struct check *check, const struct sample *batch, bool *ret_told, mu_error *err) {
  mu_status status = run(check, batch, err);
  if (status == MU_OK) status = keep_batch(check, err);
  for (size_t i = 0; status == MU_OK && i < check->info->n_outputs; i++) {
    if (check_shape(check, i, &check->batch[i], check->rows)) continue;
    *ret_told = true;
    return MU_OK;
  }
  bool same = true;
  for (int64_t row = 0; status == MU_OK && same && row < check->rows; row++) {
    struct sample alone = {0};
    status = sample_row(batch, row, &alone, err);
    if (status == MU_OK) status = run(check, &alone, err);
    if (status == MU_OK) same = check_row(check, row);
    sample_free(&alone);
  }
  if (status == MU_OK) *ret_told = !same || check->finite > 0;
  return status;
}

/* A sample that the model does not take, or that is too large, is no failure: the next one may do. */
static bool is_refusal(mu_status status) { return status != MU_IO && status != MU_NO_MEMORY; }

static mu_status try_all(struct check *check, mu_error *err) {
  char refusal[160] = "";
  for (size_t i = 0; i < sizeof attempts / sizeof attempts[0]; i++) {
    const struct sample_plan plan = {.batched = true,
                                     .rows = check->rows,
                                     .varying = attempts[i].varying,
                                     .range = attempts[i].range,
                                     .seed = 1 + i};
    struct sample batch = {0};
    bool told = false;
    mu_error why = {{0}};
    mu_status status = sample_create(check->info->inputs, check->info->n_inputs, &plan, &batch, &why);
    if (status == MU_OK) status = try_sample(check, &batch, &told, &why);
    sample_free(&batch);
    forget_batch(check);
    if (status != MU_OK && !is_refusal(status)) return mu_fail(err, status, "%s", why.message);
    if (told) return MU_OK;
    if (refusal[0] == '\0') snprintf(refusal, sizeof refusal, "%.*s", (int)sizeof refusal - 1, why.message);
  }
  snprintf(check->note, BATCH_NOTE_MAX, "no invented input told whether its rows are independent%s%s",
           refusal[0] != '\0' ? ": " : "", refusal);
  return MU_OK;
}

mu_status batch_check(const mu_engine *engine, mu_engine_instance *instance, const mu_model_info *info,
                      uint32_t max_batch, char ret_note[BATCH_NOTE_MAX], mu_error *err) {
  size_t n = info->n_outputs > 0 ? info->n_outputs : 1;
  char note[BATCH_NOTE_MAX] = "";
  struct check check = {.engine = engine,
                        .instance = instance,
                        .info = info,
                        .rows = max_batch < CHECK_ROWS ? max_batch : CHECK_ROWS,
                        .outputs = calloc(n, sizeof *check.outputs),
                        .batch = calloc(n, sizeof *check.batch),
                        .compared = calloc(n, sizeof *check.compared),
                        .note = note};
  mu_status status = check.outputs != NULL && check.batch != NULL && check.compared != NULL
                         ? try_all(&check, err)
                         : mu_fail(err, MU_NO_MEMORY, "no memory to check the batching");
  if (status == MU_OK) memcpy(ret_note, note, sizeof note);
  free(check.outputs);
  free(check.batch);
  free(check.compared);
  return status;
}
