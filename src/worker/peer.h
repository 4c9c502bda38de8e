/*
 * A gateway's hold on a worker: the channel to it, and a thread for each lane that takes jobs from it and has a seat
 * there. While one gateway hands over to the next a worker has a peer for each, and their jobs take turns; when a
 * gateway dies, its peer ends before the next one begins. Main thread of the worker.
 */
#ifndef WORKER_PEER_H
#define WORKER_PEER_H

#include "worker/lane.h"

struct peer;

/*
 * Answers the gateway's offer on socket and starts the threads. Takes socket over in every case. lanes (n of them) are
 * borrowed until peer_free. wake: an eventfd that is written whenever a thread ends.
 * MU_INVALID: the gateway wants more lanes than there are, or wrote nonsense; MU_IO, MU_NO_MEMORY, MU_CANCELED.
 */
MUST_CHECK mu_status peer_create(int socket, struct lane *const *lanes, uint32_t n, int wake, struct peer **ret_peer,
                                 mu_error *err);

/* Readable when the gateway wants a run stopped, or is gone. */
int peer_socket(const struct peer *peer);

/* Reads which batches nobody waits for any more. false: the gateway is gone. */
bool peer_obey(struct peer *peer);
/* Tells their runs to stop. To be repeated while it returns true: before a run has begun, or reached the engine, there
 * is nothing to stop. */
bool peer_stop_unwanted(struct peer *peer);

/* The threads end after the job that they have in hand. */
void peer_close(struct peer *peer);
/* Nobody waits for those jobs: they should end soon. To be repeated until peer_over. */
void peer_hurry(struct peer *peer);
/* Whether it was closed, and whether it was hurried. */
bool peer_closing(const struct peer *peer);
bool peer_hurried(const struct peer *peer);
/* Whether all threads have ended. */
bool peer_over(const struct peer *peer);

/* Whether a lane has ended because the device is lost; then ret_reason says what the engine said. The other lanes may
 * never end. */
bool peer_lost_device(struct peer *peer, mu_error *ret_reason);

/* Waits for the threads and frees. MU_OK: it was closed as asked; MU_INVALID: the gateway broke the rules, reason (may
 * be NULL) says how. */
mu_status peer_free(struct peer *peer, mu_error *reason);

#endif
