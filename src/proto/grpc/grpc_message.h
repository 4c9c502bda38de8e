/*
 * gRPC's messages in a stream of bytes: one byte that says whether the message is compressed, its length as u32 (big
 * endian), the message. Pure; the caller brings the pieces as they arrive.
 */
#ifndef PROTO_GRPC_GRPC_MESSAGE_H
#define PROTO_GRPC_GRPC_MESSAGE_H

#include "base/status.h"

enum { GRPC_PREFIX_SIZE = 5 };

/* Zeroed: before the first message. One for each stream and direction. */
struct grpc_framer {
  uint8_t prefix[GRPC_PREFIX_SIZE];
  uint8_t n_prefix; /* bytes of the next prefix that are here */
  bool compressed;  /* the present message: true only where the caller allowed it */
  uint64_t limit;   /* the most that a message may have, compressed or not; 0: 4 GiB - 1 */
  uint32_t size;    /* of the present message as it travels */
  uint32_t left;    /* bytes of it that have not been handed out */
  bool inside;      /* between grpc_frame_next's GRPC_FRAME_BEGIN and GRPC_FRAME_END */
};

enum grpc_frame_event {
  GRPC_FRAME_MORE,  /* all of the data is used up, nothing to do until more comes */
  GRPC_FRAME_BEGIN, /* a message begins: framer->size, framer->compressed */
  GRPC_FRAME_DATA,  /* *ret_data, *ret_size (> 0): the next bytes of the message, inside the data given */
  GRPC_FRAME_END,   /* the message is complete */
};

/*
 * Takes from *data and *size, which move on. Call it until it says GRPC_FRAME_MORE.
 * MU_INVALID: a flag other than 0 and 1, or a compressed message where `compression` is false (the call named no
 * grpc-encoding); MU_TOO_LARGE: more than limit, before any of it is handed out. The stream cannot go on after either.
 */
MUST_CHECK mu_status grpc_frame_next(struct grpc_framer *framer, bool compression, const uint8_t **data, size_t *size,
                                     enum grpc_frame_event *ret_event, const uint8_t **ret_data, size_t *ret_size,
                                     mu_error *err);

/* Where the contents go past this framer (read by the kernel into their place): n <= left bytes have come. */
void grpc_frame_advance(struct grpc_framer *framer, uint32_t n);

/* MU_INVALID when the stream ends inside a prefix or a message. */
MUST_CHECK mu_status grpc_frame_finish(const struct grpc_framer *framer, mu_error *err);

/* The prefix of an uncompressed (or compressed) message of size bytes. */
void grpc_prefix_write(uint8_t prefix[GRPC_PREFIX_SIZE], bool compressed, uint32_t size);

#endif
