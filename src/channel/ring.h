/*
 * A ring of records with one producer and one consumer in different processes. The bytes and the tail belong to the
 * producer, the head to the consumer; each side maps the other's words read-only and believes nothing it reads there.
 *
 * Records are multiples of 8 bytes, 8-byte aligned, and never lie across the end: a wrap record fills what is left
 * there. Tail and head count bytes since the beginning and never turn back. One thread at a time on each end.
 */
#ifndef CHANNEL_RING_H
#define CHANNEL_RING_H

#include "channel/layout.h"

struct ring_producer {
  uint8_t *data;
  uint64_t capacity;                 /* a power of two */
  _Atomic uint64_t *tail_word;       /* ours */
  const _Atomic uint64_t *head_word; /* the consumer's */
  uint64_t tail;                     /* as published */
  uint64_t head;                     /* as last read */
  uint64_t reserved;                 /* tail after ring_publish */
};

struct ring_consumer {
  const uint8_t *data;
  uint64_t capacity;
  const _Atomic uint64_t *tail_word; /* the producer's */
  _Atomic uint64_t *head_word;       /* ours */
  uint64_t tail;                     /* as last read */
  uint64_t head;                     /* as published */
  uint64_t next;                     /* head after ring_pop */
};

/* Both ends begin with fresh words, which are zero. */
void ring_producer_init(struct ring_producer *ring, uint8_t *data, uint64_t capacity, _Atomic uint64_t *tail_word,
                        const _Atomic uint64_t *head_word);
void ring_consumer_init(struct ring_consumer *ring, const uint8_t *data, uint64_t capacity,
                        const _Atomic uint64_t *tail_word, _Atomic uint64_t *head_word);

/* Room for a record of size bytes (a multiple of 8), to be filled and published; reserving again forgets it.
 * MU_UNAVAILABLE: no room now; MU_INVALID: the consumer's head is nonsense. */
MUST_CHECK mu_status ring_reserve(struct ring_producer *ring, size_t size, void **ret_record);

/* Shows the record that was reserved last to the consumer (seq_cst, for the sleep protocol). */
void ring_publish(struct ring_producer *ring);

/* The oldest record, left in the ring. Its bytes can change at any time, so each is to be read once. MU_UNAVAILABLE:
 * there is none; MU_INVALID: the producer wrote nonsense. */
MUST_CHECK mu_status ring_peek(struct ring_consumer *ring, const void **ret_record, size_t *ret_size);

/* Gives the record of the last successful ring_peek back to the producer. */
void ring_pop(struct ring_consumer *ring);

/* The look between announcing sleep and sleeping (seq_cst): is there anything that has not been popped? */
bool ring_waiting(const struct ring_consumer *ring);

#endif
