/*
 * Sleep and wake across processes without a lost wake-up, and without a system call while the consumer is awake.
 *
 *   consumer                                  producer
 *   word := odd          (seq_cst)            publishes          (seq_cst: ring_publish)
 *   looks once more      (seq_cst)            reads the word     (seq_cst)
 *   waits on the eventfd                      rings if it is odd, once for each odd value
 *
 * In the one order of all seq_cst operations either the producer's store comes before the consumer's look, which then
 * finds the record, or the look comes first; then so does the consumer's store before it, and the producer reads the
 * odd word. Each sleep has an odd value of its own, so "I rang for this value" is all a producer remembers: in its own
 * memory, for it may not write the consumer's. Several producers of one consumer each remember for themselves; more
 * than one may ring for the same sleep, which costs a wake-up and nothing else.
 *
 * A word that lies only decides whether the liar is woken, so it needs no check.
 */
#ifndef CHANNEL_DOORBELL_H
#define CHANNEL_DOORBELL_H

#include <stdatomic.h>

#include "base/status.h"

/* Tests that build these sources themselves put a random delay here, so that every order of events is met. */
#ifndef CHANNEL_PAUSE
#define CHANNEL_PAUSE() ((void)0)
#endif

struct doorbell_sleeper {
  _Atomic uint64_t *word; /* ours: odd while asleep */
  int fd;                 /* eventfd, non-blocking; borrowed */
};

struct doorbell_ringer {
  const _Atomic uint64_t *word; /* the consumer's */
  uint64_t rung;                /* the last odd value that we rang for */
  int fd;                       /* eventfd, non-blocking; borrowed */
};

/* Announces sleep. The consumer then looks for work once more, and either waits for the doorbell or wakes again.
 * Harmless while asleep. */
void doorbell_sleep(struct doorbell_sleeper *sleeper);

/* Awake. Harmless while awake. */
void doorbell_wake(struct doorbell_sleeper *sleeper);

/* Takes back what was rung, so that the next wait waits. */
void doorbell_drain(int fd);

/* After publishing: wakes the consumer if it sleeps and has not been rung for that. */
void doorbell_ring(struct doorbell_ringer *ringer);

/* Rings whatever the word says. */
void doorbell_write(int fd);

/* Blocks until the doorbell rings (or a signal comes: the caller looks again anyway). */
void doorbell_wait(int fd);

#endif
