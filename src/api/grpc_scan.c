#include "api/grpc_scan.h"

#include "proto/protobuf/wire.h"

enum { RAW_FIELD = 7 }; /* the highest that is known */

void grpc_scan_begin(struct grpc_scan *scan, struct buffer *head, uint64_t message_size) {
  *scan = (struct grpc_scan){.head = head, .message_size = message_size};
}

static mu_status no_room(mu_status status, mu_error *err) {
  return status == MU_TOO_LARGE ? mu_fail(err, status, "the request, its raw contents aside, is too large")
                                : mu_fail(err, status, "no memory for the request");
}

static mu_status keep(struct grpc_scan *scan, const void *data, size_t size, mu_error *err) {
  const mu_status status = buffer_append(scan->head, data, size);
  return status == MU_OK ? MU_OK : no_room(status, err);
}

static mu_status malformed(const struct grpc_scan *scan, const char *why, mu_error *err) {
  return mu_fail(err, MU_INVALID, "the request is no protobuf: %s at byte %llu", why, (unsigned long long)scan->at);
}

/* ---- a field's beginning ----------------------------------------------------------------------------------------- */

/* What the prefix says, once it is complete. */
struct field_start {
  uint32_t number;
  enum pb_wire wire;
  uint64_t content; /* bytes that follow the prefix */
};

static uint64_t varint_at(const uint8_t *bytes, size_t n) {
  uint64_t value = 0;
  for (size_t i = 0; i < n; i++) value |= (uint64_t)(bytes[i] & 0x7f) << (7 * i);
  return value;
}

/* The tag is complete when its last byte says so; *ret_whole: no number follows. */
static const char *end_tag(struct grpc_scan *scan, bool *ret_whole) {
  const uint64_t tag = varint_at(scan->prefix, scan->n_prefix);
  if (tag > UINT32_MAX || tag >> 3 == 0) return "a field has a number that cannot be one";
  scan->n_tag = scan->n_prefix;
  switch (tag & 7) {
    case PB_FIXED64:
    case PB_FIXED32:
      *ret_whole = true;
      return NULL;
    case PB_VARINT:
    case PB_BYTES:
      return NULL;
    default:
      return "a field is a group, or of no known wire type";
  }
}

/* One more byte of a field's tag and number. NULL, or what is wrong with it. */
static const char *add_prefix(struct grpc_scan *scan, uint8_t byte, bool *ret_whole) {
  scan->prefix[scan->n_prefix++] = byte;
  *ret_whole = false;
  if (scan->n_tag == 0) {
    if (byte < 0x80) return end_tag(scan, ret_whole);
    return scan->n_prefix < PB_TAG_MAX ? NULL : "a field has a number that cannot be one";
  }
  const size_t n = (size_t)(scan->n_prefix - scan->n_tag);
  if (n == PB_VARINT_MAX && byte > 1) return "a number has more than 64 bits";
  *ret_whole = byte < 0x80;
  return NULL;
}

static struct field_start read_prefix(const struct grpc_scan *scan) {
  static const uint8_t fixed[8] = {[PB_FIXED64] = 8, [PB_FIXED32] = 4};
  const uint64_t tag = varint_at(scan->prefix, scan->n_tag);
  struct field_start start = {.number = (uint32_t)(tag >> 3), .wire = (enum pb_wire)(tag & 7)};
  start.content = fixed[tag & 7];
  if (start.wire == PB_BYTES)
    start.content = varint_at(scan->prefix + scan->n_tag, (size_t)(scan->n_prefix - scan->n_tag));
  return start;
}

/* A field's prefix is complete: what becomes of the field. */
static mu_status begin_field(struct grpc_scan *scan, enum grpc_scan_event *ret_event, mu_error *err) {
  const struct field_start start = read_prefix(scan);
  if (start.content > scan->message_size - scan->at) return malformed(scan, "a length points past the end", err);
  if (start.number == RAW_FIELD && start.wire == PB_BYTES) {
    scan->n_raw++;
    scan->raw_size = scan->raw_left = start.content;
    scan->n_prefix = scan->n_tag = 0;
    *ret_event = GRPC_SCAN_RAW;
    return MU_OK;
  }
  scan->field_left = start.content;
  if (scan->n_raw > 0 && start.number < RAW_FIELD && start.wire == PB_BYTES) {
    scan->late = true;
    *ret_event = GRPC_SCAN_LATE;
    return MU_OK;
  }
  scan->keep = scan->n_raw == 0;
  const mu_status status = scan->keep ? keep(scan, scan->prefix, scan->n_prefix, err) : MU_OK;
  scan->n_prefix = scan->n_tag = 0;
  return status;
}

/* ---- feeding ----------------------------------------------------------------------------------------------------- */

static void take(struct grpc_scan *scan, const uint8_t **data, size_t *size, size_t n) {
  *data += n;
  *size -= n;
  scan->at += n;
}

/* Bytes of a field's content, and everything of a staged message. */
static mu_status take_content(struct grpc_scan *scan, const uint8_t **data, size_t *size, mu_error *err) {
  size_t n = *size;
  if (!scan->staged && scan->field_left < n) n = (size_t)scan->field_left;
  if (scan->staged || scan->keep) {
    const mu_status status = keep(scan, *data, n, err);
    if (status != MU_OK) return status;
  }
  if (!scan->staged) scan->field_left -= n;
  take(scan, data, size, n);
  return MU_OK;
}

mu_status grpc_scan_feed(struct grpc_scan *scan, const uint8_t **data, size_t *size, enum grpc_scan_event *ret_event,
                         mu_error *err) {
  *ret_event = GRPC_SCAN_MORE;
  if (scan->late && !scan->staged) *ret_event = GRPC_SCAN_LATE; /* until the caller has staged it */
  if (*size > scan->message_size - scan->at) return malformed(scan, "more bytes come than the message has", err);
  while (*size > 0 && *ret_event == GRPC_SCAN_MORE && (scan->staged || scan->raw_left == 0)) {
    if (scan->staged || scan->field_left > 0) {
      const mu_status status = take_content(scan, data, size, err);
      if (status != MU_OK) return status;
      continue;
    }
    bool whole;
    const uint8_t byte = **data;
    take(scan, data, size, 1);
    const char *wrong = add_prefix(scan, byte, &whole);
    if (wrong != NULL) return malformed(scan, wrong, err);
    const mu_status status = whole ? begin_field(scan, ret_event, err) : MU_OK;
    if (status != MU_OK) return status;
  }
  if (*ret_event != GRPC_SCAN_MORE || scan->at < scan->message_size) return MU_OK;
  if (!scan->staged && scan->n_prefix > 0) return malformed(scan, "a number is cut off", err);
  *ret_event = GRPC_SCAN_END;
  return MU_OK;
}

/* ---- staging ----------------------------------------------------------------------------------------------------- */

static const struct request_input *find_raw(const struct request *request, uint32_t k) {
  for (uint32_t i = 0; i < request->n_inputs; i++)
    if (request->inputs[i].source == INPUT_BINARY && request->inputs[i].source_at == k) return &request->inputs[i];
  return NULL;
}

/* Raw contents number k, of which `left` bytes have not come, go back into wire form. */
static mu_status put_back(struct grpc_scan *scan, const struct request *request, uint32_t k, mu_error *err) {
  const bool last = k == scan->n_raw - 1;
  const struct request_input *input = request != NULL ? find_raw(request, k) : NULL;
  const uint64_t size = last ? scan->raw_size : input != NULL ? input->source_size : 0;
  const uint64_t come = last ? size - scan->raw_left : size;
  if (come > 0 && (input == NULL || input->data == NULL || input->size < come))
    return mu_fail(err, MU_INTERNAL, "raw contents %u of a request cannot be found again", k);
  if (come > scan->head->limit) return no_room(MU_TOO_LARGE, err);
  mu_status status = buffer_reserve(scan->head, GRPC_SCAN_PREFIX_MAX + (size_t)come);
  if (status != MU_OK) return no_room(status, err);
  pb_put_length(scan->head, RAW_FIELD, size);
  if (come > 0) buffer_append(scan->head, input->data, (size_t)come);
  return MU_OK;
}

mu_status grpc_scan_stage(struct grpc_scan *scan, const struct request *request, mu_error *err) {
  for (uint32_t k = 0; k < scan->n_raw; k++) {
    const mu_status status = put_back(scan, request, k, err);
    if (status != MU_OK) return status;
  }
  if (scan->n_prefix > 0) {
    const mu_status status = keep(scan, scan->prefix, scan->n_prefix, err);
    if (status != MU_OK) return status;
  }
  scan->n_prefix = scan->n_tag = 0;
  scan->late = false;
  scan->staged = true;
  return MU_OK;
}
