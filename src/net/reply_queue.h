/*
 * Bytes on their way to a client, in order: copied ones, and pieces of memory that somebody lends until they are
 * written. Owned by its embedder; one thread. `done` of a lender may be called by everything that takes from the queue,
 * and may add to it.
 */
#ifndef NET_REPLY_QUEUE_H
#define NET_REPLY_QUEUE_H

#include "base/buffer.h"
#include "base/status.h"

#include <sys/uio.h>

struct reply_piece {
  const uint8_t *data; /* NULL: the next ones of `own` */
  size_t size;
  bool unshared;             /* may stay lent for as long as it takes; of `done`: its memory */
  void (*done)(void *owner); /* of a piece without bytes, behind those that it is for */
  void *owner;
};

struct reply_queue {
  struct buffer own;
  size_t own_at; /* taken off its front */
  struct reply_piece *pieces;
  size_t first, n, capacity; /* of pieces */
  size_t size;               /* bytes in all */
  size_t lent;               /* of them borrowed */
  size_t shared;             /* of these wanted back */
};

void reply_queue_init(struct reply_queue *queue);
/* Frees the memory; it must be empty. Can be used again. */
void reply_queue_free(struct reply_queue *queue);

/* A copy of data. MU_NO_MEMORY: nothing has happened. */
MUST_CHECK mu_status reply_queue_copy(struct reply_queue *queue, const void *data, size_t size);
/* Borrows all of body until done. MU_NO_MEMORY: nothing has happened, the memory is still the caller's. */
MUST_CHECK mu_status reply_queue_borrow(struct reply_queue *queue, const struct iovec *body, size_t n_body,
                                        bool unshared, void (*done)(void *owner), void *owner);
/* The first size bytes (at most from->size) go to the end of queue. Pieces up to copy_most bytes are copied.
 * MU_NO_MEMORY: some may have gone already, in order. */
MUST_CHECK mu_status reply_queue_move(struct reply_queue *queue, struct reply_queue *from, size_t size,
                                      size_t copy_most);
/* What is left in from is not wanted, but earlier bytes of the same memory may still be in queue: its lenders are told
 * behind them. MU_NO_MEMORY: nothing has happened; both are to be cleared together. */
MUST_CHECK mu_status reply_queue_abandon(struct reply_queue *queue, struct reply_queue *from);

/* Up to n pieces off the front, as they are to be written; how many. */
size_t reply_queue_gather(const struct reply_queue *queue, struct iovec *pieces, size_t n);
/* size bytes were written. */
void reply_queue_advance(struct reply_queue *queue, size_t size);
/* Copies all that is borrowed and wanted back (queue->shared bytes) and tells its lenders. MU_NO_MEMORY: nothing has
 * happened. */
MUST_CHECK mu_status reply_queue_settle(struct reply_queue *queue);
/* Drops everything. */
void reply_queue_clear(struct reply_queue *queue);

#endif
