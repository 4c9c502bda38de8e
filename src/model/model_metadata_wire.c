/*
 * Metadata between processes of one machine and one build: native byte order, everything counted, nothing believed.
 *
 *   u32 magic, u32 max_batch, text batch_note, text runtime, text platform,
 *   u32 inputs, u32 outputs, then each tensor:
 *   text name, u32 dtype, u32 flags, u32 rank, rank × { i64 dim, text symbol }, u32 client rank, rank × i64 dim
 *
 * A text is u32 length and that many bytes.
 */
#include "model/model_metadata.h"
#include "model/text.h"

#include <stdlib.h>
#include <string.h>

enum { WIRE_MAGIC = 0x314d554d }; /* "MUM1" */
enum { FLAG_OPTIONAL = 1, FLAG_SERVED = 2, FLAG_RESHAPED = 4, FLAGS_ALL = 7 };

/* ---- writing ----------------------------------------------------------------------------------------------------- */

struct wire_writer {
  struct buffer *out;
  mu_status status; /* the first failure; nothing is written after it */
};

static void put(struct wire_writer *writer, const void *bytes, size_t size) {
  if (writer->status == MU_OK) writer->status = buffer_append(writer->out, bytes, size);
}

static void put_u32(struct wire_writer *writer, uint32_t number) { put(writer, &number, sizeof number); }
static void put_i64(struct wire_writer *writer, int64_t number) { put(writer, &number, sizeof number); }

static void put_text(struct wire_writer *writer, const char *text) {
  if (text == NULL) text = "";
  size_t len = strlen(text);
  put_u32(writer, (uint32_t)len);
  put(writer, text, len);
}

static void put_tensor(struct wire_writer *writer, const struct model_tensor *tensor) {
  const mu_tensor_info *info = &tensor->info;
  put_text(writer, info->name);
  put_u32(writer, info->dtype);
  put_u32(writer, (info->optional ? FLAG_OPTIONAL : 0u) | (tensor->served ? FLAG_SERVED : 0u) |
                      (tensor->reshaped ? FLAG_RESHAPED : 0u));
  put_u32(writer, info->rank);
  for (uint32_t i = 0; i < info->rank; i++) {
    put_i64(writer, info->dims[i]);
    put_text(writer, info->symbols[i]);
  }
  put_u32(writer, tensor->rank);
  for (uint32_t i = 0; i < tensor->rank; i++) put_i64(writer, tensor->dims[i]);
}

mu_status model_metadata_encode(const struct model_metadata *metadata, struct buffer *out) {
  struct wire_writer writer = {.out = out};
  put_u32(&writer, WIRE_MAGIC);
  put_u32(&writer, metadata->max_batch);
  put_text(&writer, metadata->batch_note);
  put_text(&writer, metadata->runtime);
  put_text(&writer, metadata->platform);
  put_u32(&writer, metadata->n_inputs);
  put_u32(&writer, metadata->n_outputs);
  for (uint32_t i = 0; i < metadata->n_inputs; i++) put_tensor(&writer, &metadata->inputs[i]);
  for (uint32_t i = 0; i < metadata->n_outputs; i++) put_tensor(&writer, &metadata->outputs[i]);
  return writer.status;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

struct wire_reader {
  const char *at, *end;
  struct arena *memory;
  mu_status status; /* the first failure; everything read after it is 0 */
};

static const void *take(struct wire_reader *reader, size_t size) {
  if (reader->status == MU_OK && size > (size_t)(reader->end - reader->at)) reader->status = MU_INVALID;
  if (reader->status != MU_OK) return NULL;
  const void *bytes = reader->at;
  reader->at += size;
  return bytes;
}

static uint32_t get_u32(struct wire_reader *reader, uint32_t most) {
  uint32_t number = 0;
  const void *bytes = take(reader, sizeof number);
  if (bytes != NULL) memcpy(&number, bytes, sizeof number);
  if (number <= most) return number;
  reader->status = MU_INVALID;
  return 0;
}

static int64_t get_dim(struct wire_reader *reader) {
  int64_t number = 0;
  const void *bytes = take(reader, sizeof number);
  if (bytes != NULL) memcpy(&number, bytes, sizeof number);
  if (number < -1) reader->status = MU_INVALID;
  return number;
}

/* Never NULL. */
static char *get_text(struct wire_reader *reader) {
  static char none[] = "";
  uint32_t len = get_u32(reader, UINT32_MAX);
  const char *bytes = take(reader, len);
  if (bytes == NULL) return none;
  if (!text_valid(bytes, len)) {
    reader->status = MU_INVALID;
    return none;
  }
  char *copy = arena_copy(reader->memory, bytes, len);
  if (copy != NULL) return copy;
  reader->status = MU_NO_MEMORY;
  return none;
}

static uint32_t count_varying(const int64_t *dims, uint32_t rank) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < rank; i++) n += dims[i] < 0;
  return n;
}

/* What the users of a tensor rely on beyond what its fields allow one by one. */
static bool tensor_adds_up(const struct model_tensor *tensor, uint32_t max_batch) {
  const mu_tensor_info *info = &tensor->info;
  if (info->name[0] == '\0' || info->dtype == MU_DTYPE_INVALID) return false;
  bool batched = info->rank > 0 && info->dims[0] < 0 && tensor->rank > 0 && tensor->dims[0] < 0;
  if (max_batch > 0 && tensor->served && !batched) return false;
  if (!tensor->reshaped) return tensor->rank == info->rank;
  return count_varying(tensor->dims, tensor->rank) == count_varying(info->dims, info->rank);
}

static void get_tensor(struct wire_reader *reader, uint32_t max_batch, struct model_tensor *tensor) {
  mu_tensor_info *info = &tensor->info;
  info->name = get_text(reader);
  info->dtype = (mu_dtype)get_u32(reader, MU_DTYPE_COUNT - 1);
  uint32_t flags = get_u32(reader, FLAGS_ALL);
  info->optional = flags & FLAG_OPTIONAL;
  tensor->served = flags & FLAG_SERVED;
  tensor->reshaped = flags & FLAG_RESHAPED;
  info->rank = get_u32(reader, MU_MAX_RANK);
  for (uint32_t i = 0; i < info->rank; i++) {
    info->dims[i] = get_dim(reader);
    info->symbols[i] = get_text(reader);
  }
  tensor->rank = get_u32(reader, MU_MAX_RANK);
  for (uint32_t i = 0; i < tensor->rank; i++) tensor->dims[i] = get_dim(reader);
  if (reader->status == MU_OK && !tensor_adds_up(tensor, max_batch)) reader->status = MU_INVALID;
}

static struct model_tensor *get_tensors(struct wire_reader *reader, uint32_t n, uint32_t max_batch) {
  struct model_tensor *tensors = arena_alloc(reader->memory, n, sizeof *tensors);
  if (tensors == NULL) {
    reader->status = MU_NO_MEMORY;
    return NULL;
  }
  for (uint32_t i = 0; i < n && reader->status == MU_OK; i++) {
    get_tensor(reader, max_batch, &tensors[i]);
    for (uint32_t j = 0; j < i && reader->status == MU_OK; j++)
      if (strcmp(tensors[i].info.name, tensors[j].info.name) == 0) reader->status = MU_INVALID;
  }
  return tensors;
}

mu_status model_metadata_decode(const void *bytes, size_t size, struct model_metadata **ret_metadata) {
  struct model_metadata *metadata = calloc(1, sizeof *metadata);
  if (metadata == NULL) return MU_NO_MEMORY;
  struct wire_reader reader = {.at = bytes, .end = (const char *)bytes + size, .memory = &metadata->memory};
  if (get_u32(&reader, UINT32_MAX) != WIRE_MAGIC && reader.status == MU_OK) reader.status = MU_INVALID;
  metadata->max_batch = get_u32(&reader, INT32_MAX);
  metadata->batch_note = get_text(&reader);
  metadata->runtime = get_text(&reader);
  metadata->platform = get_text(&reader);
  metadata->n_inputs = get_u32(&reader, MODEL_TENSORS_MAX);
  metadata->n_outputs = get_u32(&reader, MODEL_TENSORS_MAX);
  metadata->inputs = get_tensors(&reader, metadata->n_inputs, metadata->max_batch);
  metadata->outputs = get_tensors(&reader, metadata->n_outputs, metadata->max_batch);
  if (reader.status == MU_OK && reader.at != reader.end) reader.status = MU_INVALID;
  if (reader.status != MU_OK) {
    model_metadata_free(metadata);
    return reader.status;
  }
  *ret_metadata = metadata;
  return MU_OK;
}
