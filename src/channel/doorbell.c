#include "channel/doorbell.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

void doorbell_sleep(struct doorbell_sleeper *sleeper) {
  /* Only this side writes the word, so it can be read without order. */
  uint64_t value = atomic_load_explicit(sleeper->word, memory_order_relaxed);
  CHANNEL_PAUSE();
  if (value % 2 == 0) atomic_store_explicit(sleeper->word, value + 1, memory_order_seq_cst);
  CHANNEL_PAUSE();
}

void doorbell_wake(struct doorbell_sleeper *sleeper) {
  uint64_t value = atomic_load_explicit(sleeper->word, memory_order_relaxed);
  CHANNEL_PAUSE();
  if (value % 2 != 0) atomic_store_explicit(sleeper->word, value + 1, memory_order_seq_cst);
  CHANNEL_PAUSE();
}

void doorbell_drain(int fd) {
  uint64_t count;
  CHANNEL_PAUSE();
  while (read(fd, &count, sizeof count) < 0 && errno == EINTR) {
  }
  CHANNEL_PAUSE();
}

void doorbell_write(int fd) {
  static const uint64_t one = 1;
  ssize_t n;
  do n = write(fd, &one, sizeof one);
  while (n < 0 && errno == EINTR);
  /* EAGAIN: the counter is full, so the other side has been rung for. Anything else is a wrong descriptor: a bug. */
  if (n < 0 && errno != EAGAIN) abort();
}

void doorbell_ring(struct doorbell_ringer *ringer) {
  CHANNEL_PAUSE();
  uint64_t value = atomic_load_explicit(ringer->word, memory_order_seq_cst);
  CHANNEL_PAUSE();
  if (value % 2 == 0 || value == ringer->rung) return;
  ringer->rung = value;
  doorbell_write(ringer->fd);
}

void doorbell_wait(int fd) {
  struct pollfd wanted = {.fd = fd, .events = POLLIN};
  CHANNEL_PAUSE();
  poll(&wanted, 1, -1);
}
