#include "proto/grpc/grpc_message.h"

#include <string.h>

static mu_status begin_message(struct grpc_framer *framer, bool compression, mu_error *err) {
  const uint8_t *p = framer->prefix;
  const uint32_t size = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
  if (p[0] > 1) return mu_fail(err, MU_INVALID, "a gRPC message begins with the byte %u instead of 0 or 1", p[0]);
  if (p[0] == 1 && !compression)
    return mu_fail(err, MU_INVALID, "a gRPC message is compressed, but the call has no grpc-encoding");
  if (framer->limit > 0 && size > framer->limit)
    return mu_fail(err, MU_TOO_LARGE, "Received message larger than max (%u vs. %llu)", size,
                   (unsigned long long)framer->limit);
  framer->compressed = p[0] == 1;
  framer->size = framer->left = size;
  framer->n_prefix = 0;
  framer->inside = true;
  return MU_OK;
}

mu_status grpc_frame_next(struct grpc_framer *framer, bool compression, const uint8_t **data, size_t *size,
                          enum grpc_frame_event *ret_event, const uint8_t **ret_data, size_t *ret_size, mu_error *err) {
  if (framer->inside && framer->left == 0) {
    framer->inside = false;
    *ret_event = GRPC_FRAME_END;
    return MU_OK;
  }
  if (!framer->inside) {
    const size_t missing = GRPC_PREFIX_SIZE - (size_t)framer->n_prefix, part = *size < missing ? *size : missing;
    if (part > 0) memcpy(framer->prefix + framer->n_prefix, *data, part);
    framer->n_prefix = (uint8_t)(framer->n_prefix + part);
    *data += part;
    *size -= part;
    if (part < missing) {
      *ret_event = GRPC_FRAME_MORE;
      return MU_OK;
    }
    const mu_status status = begin_message(framer, compression, err);
    if (status == MU_OK) *ret_event = GRPC_FRAME_BEGIN;
    return status;
  }
  const size_t part = *size < framer->left ? *size : framer->left;
  *ret_event = part > 0 ? GRPC_FRAME_DATA : GRPC_FRAME_MORE;
  *ret_data = *data;
  *ret_size = part;
  *data += part;
  *size -= part;
  framer->left -= (uint32_t)part;
  return MU_OK;
}

void grpc_frame_advance(struct grpc_framer *framer, uint32_t n) { framer->left -= n < framer->left ? n : framer->left; }

mu_status grpc_frame_finish(const struct grpc_framer *framer, mu_error *err) {
  if (framer->inside)
    return mu_fail(err, MU_INVALID, "the call ends %u bytes before the end of a message of %u bytes", framer->left,
                   framer->size);
  if (framer->n_prefix > 0) return mu_fail(err, MU_INVALID, "the call ends inside a message's prefix");
  return MU_OK;
}

void grpc_prefix_write(uint8_t prefix[GRPC_PREFIX_SIZE], bool compressed, uint32_t size) {
  prefix[0] = compressed;
  for (int i = 0; i < 4; i++) prefix[1 + i] = (uint8_t)(size >> (24 - 8 * i));
}
