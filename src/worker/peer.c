#include "worker/peer.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { UNWANTED_MAX = 4 }; /* more than a gateway has under way at a lane */

/* What the thread of a lane needs for itself: the messages are too large for a stack. */
struct lane_thread {
  struct peer *peer;
  struct lane_seat *seat;
  uint32_t number;
  pthread_t thread;
  struct channel_job job;
  struct channel_completion completion;
  _Atomic uint64_t ran;            /* the last batch that was run: a gateway counts them up */
  uint64_t unwanted[UNWANTED_MAX]; /* the main thread's: batches that nobody waits for, oldest first */
  uint32_t n_unwanted;
};

struct peer {
  struct channel_worker *channel;
  struct lane_thread *threads;
  uint32_t n_threads; /* started */
  int wake;
  bool closing; /* peer_close was called */
  bool hurried; /* peer_hurry was called */
  _Atomic uint32_t running;
  _Atomic uint64_t steps; /* see pass_order */
  pthread_mutex_t lock;   /* of the two below */
  mu_status end;          /* MU_OK; MU_INVALID: the gateway broke the rules; MU_IO: the device is lost */
  mu_error reason;
};

/* ---- a lane's thread --------------------------------------------------------------------------------------------- */

static void note_end(struct peer *peer, mu_status end, const char *reason) {
  pthread_mutex_lock(&peer->lock);
  if (peer->end == MU_OK || end == MU_IO) { /* a lost device outweighs all else */
    peer->end = end;
    snprintf(peer->reason.message, sizeof peer->reason.message, "%s", reason);
  }
  pthread_mutex_unlock(&peer->lock);
}

/*
 * A place in the output arena goes from one lane to the next by way of the gateway, in order, but in another process:
 * nothing in this one says so. Each lane steps here before and after a job, which orders what they write for whoever
 * only sees this process (the thread sanitizer).
 */
static void pass_order(struct peer *peer) { atomic_fetch_add_explicit(&peer->steps, 1, memory_order_acq_rel); }

static void serve(struct lane_thread *self) {
  struct channel_worker *channel = self->peer->channel;
  for (;;) {
    mu_status status = channel_worker_wait(channel, self->number, &self->job);
    if (status == MU_CANCELED) return;
    if (status != MU_OK) {
      note_end(self->peer, MU_INVALID, "a job from the gateway does not add up");
      return;
    }
    pass_order(self->peer);
    mu_status run = lane_run(self->seat, &self->job, &self->completion);
    pass_order(self->peer);
    if (self->job.type == CHANNEL_RUN) atomic_store(&self->ran, self->job.batch);
    if (run != MU_OK) { /* not answered: with this process's end its requests go elsewhere */
      note_end(self->peer, MU_IO, self->completion.message);
      return;
    }
    status = channel_worker_complete(channel, self->number, &self->completion);
    if (status != MU_OK) {
      note_end(self->peer, MU_INVALID, "the gateway does not take completions");
      return;
    }
  }
}

static void *lane_main(void *argument) {
  struct lane_thread *self = argument;
  struct peer *peer = self->peer;
  char name[16];
  snprintf(name, sizeof name, "lane-%u", self->number);
  pthread_setname_np(pthread_self(), name);
  serve(self);
  channel_worker_close(peer->channel); /* one lane that ends takes the others along */
  int wake = peer->wake;
  atomic_fetch_sub(&peer->running, 1);
  eventfd_write(wake, 1); /* can only fail when it is readable already */
  return NULL;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static void free_thread(struct lane_thread *thread) {
  free(thread->job.spans);
  lane_seat_free(thread->seat);
}

static mu_status start_thread(struct peer *peer, struct lane *lane, mu_error *err) {
  struct lane_thread *thread = &peer->threads[peer->n_threads];
  thread->peer = peer;
  thread->number = peer->n_threads;
  uint32_t max_spans = channel_worker_max_spans(peer->channel);
  thread->job.spans = calloc(max_spans > 0 ? max_spans : 1, sizeof *thread->job.spans);
  thread->seat = lane_seat_create(lane, channel_worker_input(peer->channel), channel_worker_output(peer->channel));
  if (thread->job.spans == NULL || thread->seat == NULL) {
    free_thread(thread);
    return mu_fail(err, MU_NO_MEMORY, "no memory for a lane");
  }
  atomic_fetch_add(&peer->running, 1);
  int error = pthread_create(&thread->thread, NULL, lane_main, thread);
  if (error != 0) {
    atomic_fetch_sub(&peer->running, 1);
    free_thread(thread);
    return mu_fail(err, MU_IO, "cannot start the thread of a lane: %s", strerror(error));
  }
  peer->n_threads++;
  return MU_OK;
}

static mu_status prepare_channel(struct peer *peer, int socket, uint32_t n, mu_error *err) {
  mu_status status = channel_worker_prepare(socket, &peer->channel, err);
  if (status != MU_OK) {
    close(socket);
    return status;
  }
  uint32_t lanes = channel_worker_lanes(peer->channel);
  if (lanes > n) return mu_fail(err, MU_INVALID, "the gateway wants %u lanes of a worker that has %u", lanes, n);
  peer->threads = calloc(lanes, sizeof *peer->threads);
  return peer->threads != NULL ? MU_OK : mu_fail(err, MU_NO_MEMORY, "no memory for the lanes");
}

mu_status peer_create(int socket, struct lane *const *lanes, uint32_t n, int wake, struct peer **ret_peer,
                      mu_error *err) {
  struct peer *peer = calloc(1, sizeof *peer);
  if (peer == NULL) {
    close(socket);
    return mu_fail(err, MU_NO_MEMORY, "no memory");
  }
  peer->wake = wake;
  pthread_mutex_init(&peer->lock, NULL);
  mu_error why = {""};
  mu_status status = prepare_channel(peer, socket, n, &why);
  for (uint32_t i = 0; status == MU_OK && i < channel_worker_lanes(peer->channel); i++) {
    status = start_thread(peer, lanes[i], &why);
  }
  /* Only now: jobs that nobody takes would wait until they count as hung. */
  if (status == MU_OK)
    status = channel_worker_answer(peer->channel, &why);
  else if (peer->channel != NULL)
    channel_worker_refuse(peer->channel, status, &why);
  if (status != MU_OK) {
    peer_free(peer, NULL);
    return mu_fail(err, status, "%s", why.message);
  }
  *ret_peer = peer;
  return MU_OK;
}

int peer_socket(const struct peer *peer) { return channel_worker_socket(peer->channel); }

static void note_unwanted(struct lane_thread *thread, uint64_t batch) {
  if (thread->n_unwanted == UNWANTED_MAX) /* no gateway of ours: the oldest one is let run */
    memmove(thread->unwanted, thread->unwanted + 1, --thread->n_unwanted * sizeof *thread->unwanted);
  thread->unwanted[thread->n_unwanted++] = batch;
}

bool peer_obey(struct peer *peer) {
  uint32_t lane = 0;
  uint64_t batch = 0;
  mu_status status;
  while ((status = channel_worker_next_stop(peer->channel, &lane, &batch)) == MU_OK)
    if (lane < peer->n_threads) note_unwanted(&peer->threads[lane], batch);
  return status == MU_UNAVAILABLE;
}

static bool stop_unwanted(struct lane_thread *thread) {
  uint64_t ran = atomic_load(&thread->ran);
  uint32_t n = 0;
  for (uint32_t i = 0; i < thread->n_unwanted; i++) {
    if (thread->unwanted[i] <= ran) continue;
    lane_stop(thread->seat, thread->unwanted[i]);
    thread->unwanted[n++] = thread->unwanted[i];
  }
  thread->n_unwanted = n;
  return n > 0;
}

bool peer_stop_unwanted(struct peer *peer) {
  bool any = false;
  for (uint32_t i = 0; i < peer->n_threads; i++) any = stop_unwanted(&peer->threads[i]) || any;
  return any;
}

void peer_close(struct peer *peer) {
  peer->closing = true;
  channel_worker_close(peer->channel);
}

bool peer_closing(const struct peer *peer) { return peer->closing; }
bool peer_hurried(const struct peer *peer) { return peer->hurried; }

void peer_hurry(struct peer *peer) {
  peer->hurried = true;
  for (uint32_t i = 0; i < peer->n_threads; i++) lane_stop_any(peer->threads[i].seat);
}

bool peer_over(const struct peer *peer) { return atomic_load(&peer->running) == 0; }

bool peer_lost_device(struct peer *peer, mu_error *ret_reason) {
  pthread_mutex_lock(&peer->lock);
  bool lost = peer->end == MU_IO;
  if (lost) *ret_reason = peer->reason;
  pthread_mutex_unlock(&peer->lock);
  return lost;
}

mu_status peer_free(struct peer *peer, mu_error *reason) {
  if (peer->n_threads > 0) channel_worker_close(peer->channel);
  for (uint32_t i = 0; i < peer->n_threads; i++) {
    pthread_join(peer->threads[i].thread, NULL);
    free_thread(&peer->threads[i]);
  }
  mu_status end = peer->end;
  if (end != MU_OK) mu_fail(reason, end, "%s", peer->reason.message);
  channel_worker_free(peer->channel);
  free(peer->threads);
  pthread_mutex_destroy(&peer->lock);
  free(peer);
  return end;
}
