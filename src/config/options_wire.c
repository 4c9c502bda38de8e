/*
 * The settings as bytes between processes of one machine and one build: every row in the order of the table, then the
 * models. Numbers in the machine's byte order. The reader still checks everything: a supervisor that was upgraded may
 * start a gateway of another version.
 *
 *   u32 magic | u32 rows | rows: u8 source, text origin, value | u32 models | models: text name, values
 *   number: i64    truth: u8    text: u32 size (TEXT_NONE: NULL), bytes    list: u32 n, texts
 */
#include "config/option_table.h"
#include "config/options.h"

enum { WIRE_MAGIC = 0x314f554d /* "MUO1" */ };
#define TEXT_NONE UINT32_MAX

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static void put_u32(struct buffer *out, uint32_t number) { buffer_append(out, &number, sizeof number); }

static void put_text(struct buffer *out, const char *text) {
  put_u32(out, text == NULL ? TEXT_NONE : (uint32_t)strlen(text));
  if (text != NULL) buffer_puts(out, text);
}

static void put_truth(struct buffer *out, const void *field) { buffer_putc(out, *(const bool *)field ? 1 : 0); }
static void put_number(struct buffer *out, const void *field) { buffer_append(out, field, sizeof(int64_t)); }
static void put_string(struct buffer *out, const void *field) { put_text(out, *(const char *const *)field); }
static void put_list(struct buffer *out, const void *field) {
  const struct option_list *list = field;
  put_u32(out, (uint32_t)list->n);
  for (size_t i = 0; i < list->n; i++) put_text(out, list->items[i]);
}

/* ---- reading: a failure is remembered, what follows it reads nothing --------------------------------------------- */

struct reader {
  const char *at;
  size_t left;
  struct arena *memory;
  mu_status status;
};

static void fail(struct reader *in, mu_status status) {
  if (in->status == MU_OK) in->status = status;
}

static void take(struct reader *in, void *to, size_t size) {
  if (in->status == MU_OK && size > in->left) fail(in, MU_INVALID);
  if (in->status != MU_OK) {
    memset(to, 0, size);
    return;
  }
  memcpy(to, in->at, size);
  in->at += size;
  in->left -= size;
}

static uint32_t take_u32(struct reader *in) {
  uint32_t number;
  take(in, &number, sizeof number);
  return number;
}

static const char *take_text(struct reader *in) {
  uint32_t size = take_u32(in);
  if (in->status != MU_OK || size == TEXT_NONE) return NULL;
  if (size > in->left || memchr(in->at, '\0', size) != NULL) {
    fail(in, MU_INVALID);
    return NULL;
  }
  char *text = arena_copy(in->memory, in->at, size);
  if (text == NULL) fail(in, MU_NO_MEMORY);
  in->at += size;
  in->left -= size;
  return text;
}

static const char *take_text_always(struct reader *in) {
  const char *text = take_text(in);
  if (text == NULL) fail(in, MU_INVALID);
  return text;
}

static void take_truth(struct reader *in, const struct option_row *row, void *field) {
  uint8_t truth;
  take(in, &truth, sizeof truth);
  if (truth > 1) fail(in, MU_INVALID);
  *(bool *)field = truth == 1;
}

static void take_number(struct reader *in, const struct option_row *row, void *field) {
  int64_t number;
  take(in, &number, sizeof number);
  if (in->status == MU_OK && !option_number_fits(row, number)) fail(in, MU_INVALID);
  *(int64_t *)field = number;
}

static void take_string(struct reader *in, const struct option_row *row, void *field) {
  *(const char **)field = take_text_always(in);
}

static void take_list(struct reader *in, const struct option_row *row, void *field) {
  struct option_list list = {0};
  uint32_t n = take_u32(in);
  for (uint32_t i = 0; in->status == MU_OK && i < n; i++) {
    const char *item = take_text_always(in);
    if (in->status == MU_OK) fail(in, option_list_add(&list, in->memory, item));
  }
  *(struct option_list *)field = list;
}

static const struct {
  void (*put)(struct buffer *out, const void *field);
  void (*take)(struct reader *in, const struct option_row *row, void *field);
} codecs[] = {
    [OPTION_BOOL] = {put_truth, take_truth},       [OPTION_TRISTATE] = {put_number, take_number},
    [OPTION_INT] = {put_number, take_number},      [OPTION_BYTES] = {put_number, take_number},
    [OPTION_DURATION] = {put_number, take_number}, [OPTION_ENUM] = {put_number, take_number},
    [OPTION_STRING] = {put_string, take_string},   [OPTION_LIST] = {put_list, take_list},
};

static const struct option_row *row_of_model(const struct model_row *row) {
  return option_find(row->name, strlen(row->name), false);
}

/* ---- both ways --------------------------------------------------------------------------------------------------- */

mu_status options_encode(const struct options *options, struct buffer *out) {
  size_t n_rows, n_model_rows;
  const struct option_row *rows = option_rows(&n_rows);
  const struct model_row *settings = model_rows(&n_model_rows);
  put_u32(out, WIRE_MAGIC);
  put_u32(out, (uint32_t)n_rows);
  for (size_t i = 0; i < n_rows; i++) {
    buffer_putc(out, (char)options->sources[i]);
    put_text(out, options->origins[i]);
    codecs[rows[i].type].put(out, (const char *)options + rows[i].offset);
  }
  put_u32(out, (uint32_t)options->n_model_options);
  for (size_t i = 0; i < options->n_model_options; i++) {
    put_text(out, options->model_options[i].name);
    for (size_t k = 0; k < n_model_rows; k++)
      codecs[row_of_model(&settings[k])->type].put(out, (const char *)&options->model_options[i] + settings[k].offset);
  }
  return out->failed ? MU_NO_MEMORY : MU_OK;
}

static void take_rows(struct reader *in, struct options *options) {
  size_t n;
  const struct option_row *rows = option_rows(&n);
  if (take_u32(in) != WIRE_MAGIC || take_u32(in) != n) fail(in, MU_INVALID);
  for (size_t i = 0; in->status == MU_OK && i < n; i++) {
    uint8_t source;
    take(in, &source, sizeof source);
    if (source > SOURCE_FLAG) fail(in, MU_INVALID);
    options->sources[i] = (enum option_source)source;
    options->origins[i] = take_text_always(in);
    codecs[rows[i].type].take(in, &rows[i], option_field(&rows[i], options));
  }
}

/* A model's setting may also be unset. */
static void take_model_value(struct reader *in, const struct option_row *row, void *field) {
  static const int64_t unset = MODEL_OPTION_UNSET;
  if (row->type == OPTION_STRING) {
    *(const char **)field = take_text(in);
  } else if (in->left >= sizeof unset && memcmp(in->at, &unset, sizeof unset) == 0) {
    take(in, field, sizeof unset);
  } else {
    take_number(in, row, field);
  }
}

static void take_models(struct reader *in, struct options *options) {
  size_t n_rows;
  const struct model_row *rows = model_rows(&n_rows);
  uint32_t n = take_u32(in);
  if (n > in->left) fail(in, MU_INVALID); /* each takes more than a byte: no allocation beyond what was sent */
  if (in->status != MU_OK) return;
  options->model_options = arena_alloc(in->memory, n, sizeof *options->model_options);
  if (options->model_options == NULL) fail(in, MU_NO_MEMORY);
  for (uint32_t i = 0; in->status == MU_OK && i < n; i++) {
    options->model_options[i].name = take_text_always(in);
    for (size_t k = 0; k < n_rows; k++)
      take_model_value(in, row_of_model(&rows[k]), (char *)&options->model_options[i] + rows[k].offset);
  }
  options->n_model_options = n;
}

mu_status options_decode(const void *bytes, size_t size, struct options **ret_options) {
  struct options *options;
  mu_status status = options_create(&options);
  if (status != MU_OK) return status;
  struct reader in = {.at = bytes, .left = size, .memory = &options->memory};
  take_rows(&in, options);
  take_models(&in, options);
  if (in.left > 0) fail(&in, MU_INVALID);
  if (in.status != MU_OK) {
    options_free(options);
    return in.status;
  }
  *ret_options = options;
  return MU_OK;
}
