/* A ModelInferResponse: tensors that are described in it and follow as they are (raw_output_contents), or whose
 * elements are fields of their own (contents). */
#include <string.h>

#include "engine/remote/remote_reply.h"
#include "proto/protobuf/wire.h"

enum { OUTPUTS = 5, RAW_OUTPUT_CONTENTS = 6 };
enum { TENSOR_NAME = 1, TENSOR_DATATYPE = 2, TENSOR_SHAPE = 3, TENSOR_CONTENTS = 5 };

struct contents {
  const char *data;
  size_t size;
};

struct response {
  struct remote_tensor tensors[REMOTE_TENSORS_MAX];
  struct contents typed[REMOTE_TENSORS_MAX], raw[REMOTE_TENSORS_MAX];
  size_t n_tensors, n_raw;
};

/* ---- elements as fields ------------------------------------------------------------------------------------------ */

/* Which field of InferTensorContents holds the elements of a type, and as what. FP16 and BF16 have none. */
static const struct typed_field {
  uint32_t number;
  enum pb_wire wire;
} typed_fields[MU_DTYPE_COUNT] = {
    [MU_BOOL] = {1, PB_VARINT},   [MU_INT8] = {2, PB_VARINT},   [MU_INT16] = {2, PB_VARINT},
    [MU_INT32] = {2, PB_VARINT},  [MU_INT64] = {3, PB_VARINT},  [MU_UINT8] = {4, PB_VARINT},
    [MU_UINT16] = {4, PB_VARINT}, [MU_UINT32] = {4, PB_VARINT}, [MU_UINT64] = {5, PB_VARINT},
    [MU_FP32] = {6, PB_FIXED32},  [MU_FP64] = {7, PB_FIXED64},  [MU_BYTES] = {8, PB_BYTES},
};

/* Writes elements one after the other; place NULL: only counts their bytes. */
struct element_writer {
  uint8_t *place;
  uint64_t size, limit;
  size_t element; /* bytes */
};

static bool write_element(struct element_writer *writer, uint64_t bits) {
  if (writer->limit - writer->size < writer->element) return false;
  if (writer->place != NULL) memcpy(writer->place + writer->size, &bits, writer->element); /* little-endian */
  writer->size += writer->element;
  return true;
}

static bool write_text(struct element_writer *writer, const struct pb_field *field) {
  uint32_t length = (uint32_t)field->size;
  if (field->size > UINT32_MAX || writer->limit - writer->size < sizeof length + field->size) return false;
  if (writer->place != NULL) {
    memcpy(writer->place + writer->size, &length, sizeof length);
    memcpy(writer->place + writer->size + sizeof length, field->bytes, field->size);
  }
  writer->size += sizeof length + field->size;
  return true;
}

static bool write_packed(struct element_writer *writer, const struct typed_field *row, const struct pb_field *field) {
  struct pb_reader packed;
  uint64_t bits;
  pb_reader_init(&packed, field->bytes, field->size);
  for (;;) {
    bool more = row->wire == PB_VARINT ? pb_next_varint(&packed, &bits)
                                       : pb_next_fixed(&packed, row->wire == PB_FIXED32 ? 4 : 8, &bits);
    if (!more) return packed.wrong == NULL;
    if (!write_element(writer, bits)) return false;
  }
}

/* false: they are no protobuf, or more than limit. */
static bool write_contents(const struct contents *contents, mu_dtype dtype, struct element_writer *writer) {
  const struct typed_field *row = &typed_fields[dtype];
  struct pb_reader reader;
  struct pb_field field;
  bool good = true;
  writer->element = mu_dtype_size(dtype);
  pb_reader_init(&reader, contents->data, contents->size);
  while (good && pb_next(&reader, &field)) {
    if (field.number != row->number) continue;
    if (row->wire == PB_BYTES)
      good = field.wire == PB_BYTES && write_text(writer, &field);
    else if (field.wire == PB_BYTES)
      good = write_packed(writer, row, &field);
    else
      good = field.wire == row->wire && write_element(writer, field.value);
  }
  return good && reader.wrong == NULL;
}

static mu_status take_typed(struct remote_reply *reply, const struct remote_tensor *tensor,
                            const struct contents *contents, mu_error *err) {
  struct element_writer count = {.limit = reply->results->limit}, writer;
  uint8_t *place;
  if (typed_fields[tensor->dtype].number == 0 || !write_contents(contents, tensor->dtype, &count))
    return mu_fail(err, MU_INTERNAL, "its reply has no usable contents for an output of type %s",
                   mu_dtype_name(tensor->dtype));
  mu_status status = remote_results_place(reply->results, tensor, count.size, &place, err);
  if (status != MU_OK || place == NULL) return status;
  writer = (struct element_writer){.place = place, .limit = count.size};
  return write_contents(contents, tensor->dtype, &writer) ? MU_OK : mu_fail(err, MU_INTERNAL, "its reply changed");
}

/* ---- the message ------------------------------------------------------------------------------------------------- */

static bool add_dim(struct remote_tensor *tensor, uint64_t value) {
  if (tensor->rank == MU_MAX_RANK) return false;
  tensor->dims[tensor->rank++] = (int64_t)value;
  return true;
}

static bool read_shape(const struct pb_field *field, struct remote_tensor *tensor) {
  if (field->wire == PB_VARINT) return add_dim(tensor, field->value);
  struct pb_reader packed;
  uint64_t dim;
  if (field->wire != PB_BYTES) return false;
  pb_reader_init(&packed, field->bytes, field->size);
  while (pb_next_varint(&packed, &dim))
    if (!add_dim(tensor, dim)) return false;
  return packed.wrong == NULL;
}

static bool read_tensor(const struct pb_field *of, struct remote_tensor *tensor, struct contents *typed) {
  struct pb_reader reader;
  struct pb_field field;
  bool good = true;
  *tensor = (struct remote_tensor){.name = "", .dtype = MU_DTYPE_INVALID};
  *typed = (struct contents){0};
  pb_reader_init(&reader, of->bytes, of->size);
  while (good && pb_next(&reader, &field)) {
    if (field.number == TENSOR_SHAPE) {
      good = read_shape(&field, tensor);
    } else if (field.wire != PB_BYTES) {
      continue;
    } else if (field.number == TENSOR_NAME) {
      tensor->name = field.bytes;
      tensor->name_size = field.size;
    } else if (field.number == TENSOR_DATATYPE) {
      tensor->dtype = mu_dtype_parse(field.bytes, field.size);
    } else if (field.number == TENSOR_CONTENTS) {
      *typed = (struct contents){field.bytes, field.size};
    }
  }
  return good && reader.wrong == NULL;
}

static mu_status read_response(struct pb_reader *reader, struct response *response, mu_error *err) {
  struct pb_field field;
  while (pb_next(reader, &field)) {
    if (field.wire != PB_BYTES || (field.number != OUTPUTS && field.number != RAW_OUTPUT_CONTENTS)) continue;
    size_t *n = field.number == OUTPUTS ? &response->n_tensors : &response->n_raw;
    if (*n == REMOTE_TENSORS_MAX)
      return mu_fail(err, MU_INTERNAL, "its reply has more than %d outputs", REMOTE_TENSORS_MAX);
    if (field.number == RAW_OUTPUT_CONTENTS)
      response->raw[*n] = (struct contents){field.bytes, field.size};
    else if (!read_tensor(&field, &response->tensors[*n], &response->typed[*n]))
      return mu_fail(err, MU_INTERNAL, "its reply has an output that is none");
    ++*n;
  }
  mu_error why;
  if (pb_finish(reader, "it", &why) == MU_OK) return MU_OK;
  return mu_fail(err, MU_INTERNAL, "its reply is wrong: %.200s", why.message);
}

mu_status remote_reply_read_message(struct remote_reply *reply, const char *data, size_t size, mu_error *err) {
  struct response response = {.n_tensors = 0};
  struct pb_reader reader;
  pb_reader_init(&reader, data, size);
  mu_status status = read_response(&reader, &response, err);
  if (status == MU_OK && response.n_raw > 0 && response.n_raw != response.n_tensors)
    status =
        mu_fail(err, MU_INTERNAL, "its reply describes %zu outputs and brings %zu", response.n_tensors, response.n_raw);
  for (size_t i = 0; status == MU_OK && i < response.n_tensors; i++) {
    if (response.n_raw > 0)
      status =
          remote_results_take(reply->results, &response.tensors[i], response.raw[i].data, response.raw[i].size, err);
    else
      status = take_typed(reply, &response.tensors[i], &response.typed[i], err);
  }
  return status;
}
