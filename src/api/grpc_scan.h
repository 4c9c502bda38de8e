/*
 * A ModelInferRequest that is too large to be collected: its top-level fields, from pieces as they arrive. All fields
 * but raw_input_contents (7) are collected in wire form, as the *head*; the raw contents are handed out, so that they
 * go from the socket into the input arena. Pure; owned by a call.
 *
 * The way of a message whose pieces come one by one (one that is here as a whole needs no scanner: grpc_infer_parse
 * reads it where it is):
 *
 *   grpc_scan_begin(&scan, &head, message_size);        message_size: from the gRPC prefix
 *   for each piece (of an empty message, one of no bytes), grpc_scan_feed(…) until it says MORE or END:
 *     GRPC_SCAN_MORE   all of the piece is taken, nothing to do until the next one
 *     GRPC_SCAN_RAW    raw contents number scan.n_raw - 1 begin, scan.raw_size bytes of them. With n_raw == 1 the head
 *                      is complete: find the model, grpc_infer_parse(head, grpc_scan_rest(&scan)), then
 *                        - grpc_infer_sizes_known(request): reserve the inputs. Until that is done nothing more is
 *                          fed; the piece's rest can be kept, and reading pauses.
 *                        - else the sizes cannot be known before the bytes: grpc_scan_stage(&scan, NULL), and see below
 *                      Then, for each one: grpc_infer_raw_input(request, scan.n_raw - 1, scan.raw_size) says where it
 *                      belongs; the bytes are copied or read there, and grpc_scan_advance(&scan, n) told so.
 *     GRPC_SCAN_LATE   a known field comes after raw contents: legal, though no serializer writes it. Before anything
 *                      else is done with the inputs: grpc_scan_stage(&scan, request), then give their memory back, and
 *                      request_clear.
 *     GRPC_SCAN_END    all message_size bytes have come. Staged (or n_raw is 0): grpc_infer_parse of the head buffer,
 *                      which is a whole message then. Otherwise grpc_infer_raw_end.
 *
 * After grpc_scan_stage, everything else that is fed goes into the head buffer, which holds a message that says the
 * same as the one that came. The buffer grows by no more than what is fed (and, at the call with a request, by what the
 * inputs hold), so a caller that counts staged memory can do so before it feeds. Its limit is the limit of the head.
 */
#ifndef API_GRPC_SCAN_H
#define API_GRPC_SCAN_H

#include "base/buffer.h"
#include "request/request.h"

enum grpc_scan_event { GRPC_SCAN_MORE, GRPC_SCAN_RAW, GRPC_SCAN_LATE, GRPC_SCAN_END };

enum { GRPC_SCAN_PREFIX_MAX = 15 }; /* a tag and a number */

struct grpc_scan {
  struct buffer *head;   /* the caller's */
  uint64_t message_size; /* all of the message */
  uint64_t at;           /* bytes of it that have been taken, raw contents included */
  uint32_t n_raw;        /* raw contents that have begun */
  uint64_t raw_size;     /* of the last one that has begun */
  uint64_t raw_left;     /* bytes of it that have not come yet */
  bool staged;
  /* private */
  uint8_t prefix[GRPC_SCAN_PREFIX_MAX]; /* of the field that begins: what has come of its tag and number */
  uint8_t n_prefix, n_tag;              /* n_tag: of them the tag's, once it is complete */
  uint64_t field_left;                  /* bytes of the present field's content that have not come yet */
  bool keep;                            /* they go into the head */
  bool late;                            /* the prefix is that of a late field and has not been taken yet */
};

/* head: empty, with the limit that the head (or a staged message) may have. */
void grpc_scan_begin(struct grpc_scan *scan, struct buffer *head, uint64_t message_size);

/*
 * Takes from *data and *size, which move on (no bytes past message_size may be given), up to the next event. After
 * GRPC_SCAN_RAW the next bytes are contents: the caller takes those that are in this piece itself.
 * MU_INVALID: no protobuf; MU_TOO_LARGE: past the head's limit; MU_NO_MEMORY.
 */
MUST_CHECK mu_status grpc_scan_feed(struct grpc_scan *scan, const uint8_t **data, size_t *size,
                                    enum grpc_scan_event *ret_event, mu_error *err);

/* n <= raw_left bytes of the present raw contents have been taken by the caller. */
static inline void grpc_scan_advance(struct grpc_scan *scan, uint64_t n) {
  scan->raw_left -= n;
  scan->at += n;
}

/* At the first GRPC_SCAN_RAW: what comes after the head, for grpc_infer_parse. */
struct grpc_infer_rest {
  uint64_t first_size; /* of the first raw contents */
  uint64_t bytes;      /* of the message from the first byte of those contents to the end */
};
static inline struct grpc_infer_rest grpc_scan_rest(const struct grpc_scan *scan) {
  return (struct grpc_infer_rest){.first_size = scan->raw_size, .bytes = scan->message_size - scan->at};
}

/*
 * From now on everything is collected. request: its inputs hold the raw contents that have come so far; NULL where
 * none of their bytes has been taken. MU_TOO_LARGE, MU_NO_MEMORY.
 */
MUST_CHECK mu_status grpc_scan_stage(struct grpc_scan *scan, const struct request *request, mu_error *err);

#endif
