#include "api/grpc_contents.h"

enum { TENSOR_CONTENTS = 5 }; /* InferInputTensor.contents */

static const struct {
  const char *name;
  enum pb_wire wire;
} fields[] = {
    [1] = {"bool_contents", PB_VARINT},  [2] = {"int_contents", PB_VARINT},    [3] = {"int64_contents", PB_VARINT},
    [4] = {"uint_contents", PB_VARINT},  [5] = {"uint64_contents", PB_VARINT}, [6] = {"fp32_contents", PB_FIXED32},
    [7] = {"fp64_contents", PB_FIXED64}, [8] = {"bytes_contents", PB_BYTES},
};

enum { N_FIELDS = sizeof fields / sizeof *fields };

/* ---- walking ----------------------------------------------------------------------------------------------------- */

void grpc_contents_begin(struct grpc_contents *walk, const char *tensor, size_t size) {
  pb_reader_init(&walk->tensor, tensor, size);
  pb_reader_init(&walk->contents, NULL, 0);
  pb_reader_init(&walk->packed, NULL, 0);
  walk->packed_number = 1; /* of a run that is empty */
}

static bool next_packed(struct grpc_contents *walk, struct pb_field *element) {
  const enum pb_wire wire = fields[walk->packed_number].wire;
  *element = (struct pb_field){.number = walk->packed_number, .wire = wire, .bytes = ""};
  return wire == PB_VARINT ? pb_next_varint(&walk->packed, &element->value)
                           : pb_next_fixed(&walk->packed, wire == PB_FIXED32 ? 4 : 8, &element->value);
}

/* The next field of the contents that is an element, or the next packed run. */
static bool next_field(struct grpc_contents *walk, struct pb_field *element, bool *ret_packed) {
  while (pb_next(&walk->contents, element)) {
    if (element->number == 0 || element->number >= N_FIELDS) continue;
    *ret_packed = element->wire == PB_BYTES && fields[element->number].wire != PB_BYTES;
    if (*ret_packed || element->wire == fields[element->number].wire) return true;
  }
  return false;
}

/* The next message of contents. */
static bool next_contents(struct grpc_contents *walk) {
  struct pb_field field;
  while (pb_next(&walk->tensor, &field)) {
    if (field.number != TENSOR_CONTENTS || field.wire != PB_BYTES) continue;
    pb_reader_init(&walk->contents, field.bytes, field.size);
    return true;
  }
  return false;
}

bool grpc_contents_next(struct grpc_contents *walk, struct pb_field *element) {
  for (;;) {
    if (next_packed(walk, element)) return true;
    if (walk->packed.wrong != NULL) return false;
    bool packed = false;
    if (next_field(walk, element, &packed)) {
      if (!packed) return true;
      pb_reader_init(&walk->packed, element->bytes, element->size);
      walk->packed_number = element->number;
      continue;
    }
    if (walk->contents.wrong != NULL || !next_contents(walk)) return false;
  }
}

mu_status grpc_contents_finish(const struct grpc_contents *walk, const char *what, mu_error *err) {
  const struct pb_reader *readers[] = {&walk->packed, &walk->contents, &walk->tensor};
  for (int i = 0; i < 3; i++) {
    const mu_status status = pb_finish(readers[i], what, err);
    if (status != MU_OK) return status;
  }
  return MU_OK;
}

/* ---- types ------------------------------------------------------------------------------------------------------- */

static const uint8_t field_of[MU_DTYPE_COUNT] = {
    [MU_BOOL] = 1,   [MU_INT8] = 2,   [MU_INT16] = 2,  [MU_INT32] = 2, [MU_INT64] = 3, [MU_UINT8] = 4,
    [MU_UINT16] = 4, [MU_UINT32] = 4, [MU_UINT64] = 5, [MU_FP32] = 6,  [MU_FP64] = 7,  [MU_BYTES] = 8,
};

const char *grpc_contents_field(mu_dtype dtype, uint32_t *ret_number) {
  *ret_number = field_of[dtype];
  return fields[field_of[dtype]].name;
}

const char *grpc_contents_field_name(uint32_t number) { return fields[number].name; }

static bool store_signed(int32_t value, int32_t least, int32_t most, size_t size, uint8_t *place) {
  if (value < least || value > most) return false;
  memcpy(place, &value, size); /* little-endian: the low bytes come first */
  return true;
}

static bool store_unsigned(uint32_t value, uint32_t most, size_t size, uint8_t *place) {
  if (value > most) return false;
  memcpy(place, &value, size);
  return true;
}

bool grpc_contents_store(mu_dtype dtype, const struct pb_field *element, uint8_t *place) {
  const uint64_t value = element->value;
  switch (dtype) {
    case MU_BOOL:
      *place = value != 0;
      return true;
    case MU_INT8:
      return store_signed((int32_t)value, INT8_MIN, INT8_MAX, 1, place);
    case MU_INT16:
      return store_signed((int32_t)value, INT16_MIN, INT16_MAX, 2, place);
    case MU_UINT8:
      return store_unsigned((uint32_t)value, UINT8_MAX, 1, place);
    case MU_UINT16:
      return store_unsigned((uint32_t)value, UINT16_MAX, 2, place);
    default: /* all of its bits, or of an int32 its lower half, as protobuf takes it */
      memcpy(place, &value, mu_dtype_size(dtype));
      return true;
  }
}
