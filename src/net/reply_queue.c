#include "net/reply_queue.h"

#include <stdlib.h>

enum { KEPT_MEMORY = 16 * 1024 /* of an empty queue */ };

void reply_queue_init(struct reply_queue *q) {
  *q = (struct reply_queue){0};
  buffer_init(&q->own, SIZE_MAX / 2); /* bounded by who fills it */
}

void reply_queue_free(struct reply_queue *q) {
  buffer_free(&q->own);
  free(q->pieces);
  reply_queue_init(q);
}

/* ---- filling ----------------------------------------------------------------------------------------------------- */

static bool reserve_pieces(struct reply_queue *q, size_t more) {
  if (more <= q->capacity - q->first - q->n) return true;
  if (q->first > 0) {
    memmove(q->pieces, q->pieces + q->first, q->n * sizeof *q->pieces);
    q->first = 0;
    if (more <= q->capacity - q->n) return true;
  }
  size_t capacity = q->capacity == 0 ? 8 : q->capacity;
  while (capacity < q->n + more) capacity *= 2;
  struct reply_piece *pieces = reallocarray(q->pieces, capacity, sizeof *pieces);
  if (pieces == NULL) return false;
  q->pieces = pieces;
  q->capacity = capacity;
  return true;
}

static struct reply_piece *last_piece(struct reply_queue *q) {
  return q->n == 0 ? NULL : &q->pieces[q->first + q->n - 1];
}

/* Room for it is reserved. */
static void add_piece(struct reply_queue *q, struct reply_piece piece) {
  q->pieces[q->first + q->n++] = piece;
  q->size += piece.size;
  if (piece.data == NULL) return;
  q->lent += piece.size;
  if (!piece.unshared) q->shared += piece.size;
}

mu_status reply_queue_copy(struct reply_queue *q, const void *data, size_t size) {
  if (size == 0) return MU_OK;
  if (q->own_at > KEPT_MEMORY && q->own_at > q->own.size / 2) {
    buffer_consume(&q->own, q->own_at);
    q->own_at = 0;
  }
  struct reply_piece *last = last_piece(q);
  bool joins = last != NULL && last->data == NULL && last->done == NULL;
  if (!joins && !reserve_pieces(q, 1)) return MU_NO_MEMORY;
  if (buffer_append(&q->own, data, size) != MU_OK) return MU_NO_MEMORY;
  if (joins) {
    last->size += size;
    q->size += size;
  } else {
    add_piece(q, (struct reply_piece){.size = size});
  }
  return MU_OK;
}

mu_status reply_queue_borrow(struct reply_queue *q, const struct iovec *body, size_t n_body, bool unshared,
                             void (*done)(void *owner), void *owner) {
  if (!reserve_pieces(q, n_body + 1)) return MU_NO_MEMORY;
  for (size_t i = 0; i < n_body; i++)
    if (body[i].iov_len > 0)
      add_piece(q, (struct reply_piece){.data = body[i].iov_base, .size = body[i].iov_len, .unshared = unshared});
  if (done != NULL) add_piece(q, (struct reply_piece){.unshared = unshared, .done = done, .owner = owner});
  return MU_OK;
}

/* ---- taking ------------------------------------------------------------------------------------------------------ */

static struct reply_piece *first_piece(struct reply_queue *q) { return &q->pieces[q->first]; }

/* size bytes of the first piece are no longer in the queue; the piece goes when none is left. */
static void take(struct reply_queue *q, size_t size) {
  struct reply_piece *piece = first_piece(q);
  q->size -= size;
  piece->size -= size;
  if (piece->data == NULL) {
    q->own_at += size;
  } else {
    piece->data += size;
    q->lent -= size;
    if (!piece->unshared) q->shared -= size;
  }
  if (piece->size > 0) return;
  q->first++;
  if (--q->n == 0) q->first = 0;
}

/* Memory that a burst has left behind is given back. */
static void trim(struct reply_queue *q) {
  if (q->n > 0) return;
  if (q->own.capacity > KEPT_MEMORY)
    buffer_free(&q->own);
  else
    buffer_clear(&q->own);
  q->own_at = 0;
}

/* Tells the lenders whose memory has all been taken. */
static void call_done(struct reply_queue *q) {
  while (q->n > 0 && first_piece(q)->size == 0) {
    struct reply_piece piece = *first_piece(q);
    take(q, 0);
    if (piece.done != NULL) piece.done(piece.owner);
  }
}

size_t reply_queue_gather(const struct reply_queue *q, struct iovec *pieces, size_t n) {
  size_t at = 0, own = q->own_at;
  for (size_t i = 0; i < q->n && at < n; i++) {
    const struct reply_piece *piece = &q->pieces[q->first + i];
    if (piece->size == 0) continue;
    const void *data = piece->data;
    if (data == NULL) {
      data = q->own.data + own;
      own += piece->size;
    }
    pieces[at++] = (struct iovec){.iov_base = (void *)(uintptr_t)data, .iov_len = piece->size};
  }
  return at;
}

void reply_queue_advance(struct reply_queue *q, size_t size) {
  call_done(q);
  while (size > 0 && q->n > 0) {
    size_t part = first_piece(q)->size < size ? first_piece(q)->size : size;
    take(q, part);
    size -= part;
    call_done(q);
  }
  trim(q);
}

void reply_queue_clear(struct reply_queue *q) { reply_queue_advance(q, q->size); }

static void move_done(struct reply_queue *q, struct reply_queue *from) {
  while (from->n > 0 && first_piece(from)->size == 0) {
    add_piece(q, *first_piece(from));
    take(from, 0);
  }
}

mu_status reply_queue_move(struct reply_queue *q, struct reply_queue *from, size_t size, size_t copy_most) {
  while (from->n > 0 && (size > 0 || first_piece(from)->size == 0)) {
    if (!reserve_pieces(q, from->n + 1)) return MU_NO_MEMORY;
    move_done(q, from);
    if (from->n == 0 || size == 0) break;
    struct reply_piece piece = *first_piece(from);
    size_t part = piece.size < size ? piece.size : size;
    if (piece.data == NULL || part <= copy_most) {
      const void *data = piece.data == NULL ? from->own.data + from->own_at : (const char *)piece.data;
      if (reply_queue_copy(q, data, part) != MU_OK) return MU_NO_MEMORY;
    } else {
      add_piece(q, (struct reply_piece){.data = piece.data, .size = part, .unshared = piece.unshared});
    }
    take(from, part);
    size -= part;
  }
  trim(from);
  return MU_OK;
}

mu_status reply_queue_abandon(struct reply_queue *q, struct reply_queue *from) {
  if (q->n == 0) {
    reply_queue_clear(from);
    return MU_OK;
  }
  if (!reserve_pieces(q, from->n)) return MU_NO_MEMORY;
  for (; from->n > 0; take(from, first_piece(from)->size))
    if (first_piece(from)->done != NULL) add_piece(q, *first_piece(from));
  trim(from);
  return MU_OK;
}

/* A lender may add to the queue, or end it. */
static void call_shared_done(struct reply_queue *q) {
  for (size_t i = 0; i < q->n; i++) {
    struct reply_piece *piece = &q->pieces[q->first + i];
    void (*done)(void *owner) = piece->done;
    if (done == NULL || piece->unshared) continue;
    piece->done = NULL;
    done(piece->owner);
  }
}

mu_status reply_queue_settle(struct reply_queue *q) {
  if (q->shared == 0) return MU_OK;
  struct buffer own;
  buffer_init(&own, SIZE_MAX / 2);
  if (buffer_reserve(&own, q->own.size - q->own_at + q->shared) != MU_OK) return MU_NO_MEMORY;
  size_t own_at = q->own_at;
  for (size_t i = 0; i < q->n; i++) {
    struct reply_piece *piece = &q->pieces[q->first + i];
    if (piece->size == 0 || (piece->data != NULL && piece->unshared)) continue;
    if (piece->data != NULL) {
      buffer_append(&own, piece->data, piece->size);
      piece->data = NULL;
    } else {
      buffer_append(&own, q->own.data + own_at, piece->size);
      own_at += piece->size;
    }
  }
  buffer_free(&q->own);
  q->own = own;
  q->own_at = 0;
  q->lent -= q->shared;
  q->shared = 0;
  call_shared_done(q);
  return MU_OK;
}
