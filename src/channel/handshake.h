/*
 * The messages on the socket between a gateway and a worker: offer, answer, stop. A message is one packet of fixed
 * size; the file descriptors of the shared files and doorbells travel with the first two.
 */
#ifndef CHANNEL_HANDSHAKE_H
#define CHANNEL_HANDSHAKE_H

#include "channel/layout.h"

enum handshake_type { HANDSHAKE_OFFER = 1, HANDSHAKE_ANSWER = 2, HANDSHAKE_STOP = 3 };

struct handshake_head {
  uint64_t magic; /* LAYOUT_MAGIC */
  uint16_t major, minor;
  uint32_t type; /* enum handshake_type */
};

/* gateway -> worker, with: its file, the input arena, the completion doorbell, then a submission doorbell a lane.
 * Lanes and max_spans stand in the header of the file. */
struct handshake_offer {
  struct handshake_head head;
  uint64_t epoch;
  uint64_t file_size;
  uint64_t input_size;
  uint64_t output_size; /* of the output arena that is asked for */
};
enum { OFFER_FILE, OFFER_INPUT, OFFER_COMPLETION_BELL, OFFER_SUBMISSION_BELLS };

/* worker -> gateway, with: its file, the output arena. With a status other than MU_OK there are none. */
struct handshake_answer {
  struct handshake_head head;
  uint64_t epoch;
  uint64_t file_size;
  uint64_t output_size;
  int32_t status; /* mu_status */
  uint32_t reserved;
  char message[256]; /* terminated */
};
enum { ANSWER_FILE, ANSWER_OUTPUT, ANSWER_FDS };

/* gateway -> worker: nobody waits for this batch any more. */
struct handshake_stop {
  struct handshake_head head;
  uint64_t batch;
  uint32_t lane;
  uint32_t reserved;
};

_Static_assert(sizeof(struct handshake_head) == 16, "message format");
_Static_assert(sizeof(struct handshake_offer) == 48, "message format");
_Static_assert(sizeof(struct handshake_answer) == 304, "message format");
_Static_assert(sizeof(struct handshake_stop) == 32, "message format");

enum { HANDSHAKE_FDS_MAX = OFFER_SUBMISSION_BELLS + CHANNEL_LANES_MAX };

/* Fills in the head and sends without blocking. MU_CANCELED: the peer is gone; MU_UNAVAILABLE: the socket is full;
 * MU_IO. */
MUST_CHECK mu_status handshake_send(int socket, enum handshake_type type, void *message, size_t size, const int *fds,
                                    uint32_t n_fds, mu_error *err);

/*
 * One message of this type and size. fds: room for HANDSHAKE_FDS_MAX, the caller's on success, CLOEXEC; may be NULL,
 * then what comes along is closed by the kernel. MU_UNAVAILABLE: none now (only without `wait`); MU_CANCELED: the peer
 * is gone; MU_INVALID: something else came; MU_UNSUPPORTED: another major version; MU_IO.
 */
MUST_CHECK mu_status handshake_receive(int socket, bool wait, enum handshake_type type, void *message, size_t size,
                                       int *fds, uint32_t *ret_n_fds, mu_error *err);

/* Closes those that are not -1 and makes them -1. */
void handshake_close_fds(int *fds, uint32_t n);

#endif
