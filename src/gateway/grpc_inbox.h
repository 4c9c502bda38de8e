/*
 * The messages of a gRPC call as they come: framing and inflating. Owned by one exchange, on its loop.
 */
#ifndef GATEWAY_GRPC_INBOX_H
#define GATEWAY_GRPC_INBOX_H

#include "net/content_coding.h"
#include "proto/grpc/grpc_message.h"

/* Each returns false where nothing more may be said: the exchange is answered or gone. */
struct grpc_inbox_events {
  bool (*begin)(void *context, uint64_t size); /* of the message; UINT64_MAX: it is compressed, nobody knows */
  bool (*data)(void *context, const uint8_t *data, size_t size);
  bool (*end)(void *context);
};

/* Zeroed: before the first message of a call that compresses nothing. */
struct grpc_inbox {
  struct grpc_framer framer;
  enum content_coding coding;      /* grpc-encoding */
  struct content_decoder *decoder; /* of the present message, where it is compressed */
  uint64_t inflated;               /* bytes of it */
};

/* limit: bytes of a message, as it travels and inflated. */
static inline void grpc_inbox_init(struct grpc_inbox *inbox, enum content_coding coding, uint64_t limit) {
  *inbox = (struct grpc_inbox){.coding = coding, .framer = {.limit = limit}};
}
void grpc_inbox_free(struct grpc_inbox *inbox); /* its content; may be used again after that */

/* Memory to inflate into, shared by the exchanges of a loop. */
struct grpc_scratch {
  uint8_t *data;
  size_t size;
};

/* Hands out what the bytes bring; *data and *size move on. Stops where an event returns false; only after `end` it may
 * go on with what is left. MU_INVALID (framing, compression), MU_TOO_LARGE, MU_NO_MEMORY: the call cannot go on. */
MUST_CHECK mu_status grpc_inbox_feed(struct grpc_inbox *inbox, const uint8_t **data, size_t *size,
                                     struct grpc_scratch *scratch, const struct grpc_inbox_events *events,
                                     void *context, mu_error *err);

/* The client sends no more: MU_INVALID in the middle of a message. */
MUST_CHECK mu_status grpc_inbox_finish(const struct grpc_inbox *inbox, mu_error *err);

#endif
