/*
 * The sleep protocol with random delays at every step. A wake-up that is lost leaves both ends asleep: the test then
 * does not end. The rings and doorbells are built here, with the delays; gate and worker come from the library.
 */
static void pause_here(void);
#define CHANNEL_PAUSE() pause_here()

#include "channel/doorbell.c"
#include "channel/ring.c"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#include <cmocka.h>

#include "channel_fixture.h"

static _Thread_local uint64_t random_state = 1;
static _Thread_local bool hasty; /* no delays */

static uint64_t random_next(void) {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

static void seed_thread(unsigned seed, unsigned thread) {
  random_state = (seed * 64 + thread + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

/* Mostly nothing; sometimes long enough for the other side to do one step, sometimes for it to fall asleep. */
static void pause_here(void) {
  if (hasty) return;
  uint64_t drawn = random_next();
  switch (drawn % 32) {
    case 0:
    case 1:
    case 2:
      sched_yield();
      break;
    case 3:
      nanosleep(&(struct timespec){.tv_nsec = (long)(drawn >> 32) % 60000}, NULL);
      break;
    case 4:
    case 5:
    case 6:
      for (volatile uint64_t i = (drawn >> 32) % 400; i > 0; i--) {
      }
      break;
    default:
      break;
  }
}

/* ---- rings and words in one memory, where a thread sanitizer sees every access ----------------------------------- */

enum { CAPACITY = 1024, PARTNERS = 3, TURNS = 3000, SEEDS = 3 };

struct half {
  _Alignas(LAYOUT_LINE) uint8_t data[CAPACITY];
  struct layout_word tail, head;
};

/* A hub with one doorbell for the answers of all partners, each of which has a doorbell of its own: as a gateway and
 * the lanes of a worker. */
struct star {
  struct half to[PARTNERS], from[PARTNERS];
  struct layout_word hub_word, words[PARTNERS];
  int hub_bell, bells[PARTNERS];
  unsigned seed;
};

struct partner {
  struct star *star;
  unsigned index;
  pthread_t thread;
};

static void send_number(struct ring_producer *ring, uint64_t number) {
  void *record;
  assert_int_equal(ring_reserve(ring, 8 + number % 5 * 8, &record), MU_OK);
  *(uint64_t *)record = number;
  ring_publish(ring);
}

static bool receive_number(struct ring_consumer *ring, uint64_t expected) {
  const void *record;
  size_t size;
  mu_status status = ring_peek(ring, &record, &size);
  if (status == MU_UNAVAILABLE) return false;
  assert_int_equal(status, MU_OK);
  assert_int_equal(*(const uint64_t *)record, expected);
  ring_pop(ring);
  return true;
}

/* Waits for the next number, as channel_worker_wait does. */
static void await_number(struct ring_consumer *ring, struct doorbell_sleeper *sleeper, uint64_t expected) {
  while (!receive_number(ring, expected)) {
    doorbell_sleep(sleeper);
    if (!ring_waiting(ring)) {
      doorbell_wait(sleeper->fd);
      doorbell_drain(sleeper->fd);
    }
    doorbell_wake(sleeper);
  }
}

static void *answer_numbers(void *argument) {
  struct partner *self = argument;
  struct star *star = self->star;
  struct half *to = &star->to[self->index], *from = &star->from[self->index];
  struct ring_consumer in;
  struct ring_producer out;
  struct doorbell_sleeper sleeper = {.word = &star->words[self->index].value, .fd = star->bells[self->index]};
  struct doorbell_ringer hub = {.word = &star->hub_word.value, .fd = star->hub_bell};
  seed_thread(star->seed, 1 + self->index);
  ring_consumer_init(&in, to->data, CAPACITY, &to->tail.value, &to->head.value);
  ring_producer_init(&out, from->data, CAPACITY, &from->tail.value, &from->head.value);
  for (uint64_t i = 0; i < TURNS; i++) {
    await_number(&in, &sleeper, i);
    send_number(&out, i);
    doorbell_ring(&hub);
  }
  return NULL;
}

struct hub {
  struct ring_producer out[PARTNERS];
  struct ring_consumer in[PARTNERS];
  struct doorbell_ringer bells[PARTNERS];
  struct doorbell_sleeper sleeper;
  uint64_t sent[PARTNERS], got[PARTNERS];
};

static void hub_init(struct hub *hub, struct star *star) {
  *hub = (struct hub){.sleeper = {.word = &star->hub_word.value, .fd = star->hub_bell}};
  for (unsigned i = 0; i < PARTNERS; i++) {
    struct half *to = &star->to[i], *from = &star->from[i];
    ring_producer_init(&hub->out[i], to->data, CAPACITY, &to->tail.value, &to->head.value);
    ring_consumer_init(&hub->in[i], from->data, CAPACITY, &from->tail.value, &from->head.value);
    hub->bells[i] = (struct doorbell_ringer){.word = &star->words[i].value, .fd = star->bells[i]};
  }
}

/* Keeps one to three numbers on the way to each partner. */
static void hub_send(struct hub *hub) {
  for (unsigned i = 0; i < PARTNERS; i++) {
    bool any = false;
    for (uint64_t most = random_next() % 3 + 1; hub->sent[i] < TURNS && hub->sent[i] - hub->got[i] < most; any = true)
      send_number(&hub->out[i], hub->sent[i]++);
    if (any) doorbell_ring(&hub->bells[i]);
  }
}

static bool hub_receive(struct hub *hub) {
  bool any = false;
  for (unsigned i = 0; i < PARTNERS; i++) {
    while (hub->got[i] < TURNS && receive_number(&hub->in[i], hub->got[i])) {
      hub->got[i]++;
      any = true;
    }
  }
  return any;
}

static void hub_sleep(struct hub *hub) {
  doorbell_sleep(&hub->sleeper);
  bool waiting = false;
  for (unsigned i = 0; i < PARTNERS; i++) waiting = waiting || ring_waiting(&hub->in[i]);
  if (!waiting) {
    doorbell_wait(hub->sleeper.fd);
    doorbell_drain(hub->sleeper.fd);
  }
  doorbell_wake(&hub->sleeper);
}

static bool hub_done(const struct hub *hub) {
  for (unsigned i = 0; i < PARTNERS; i++)
    if (hub->got[i] < TURNS) return false;
  return true;
}

static void a_star_in_one_memory(void **state) {
  for (unsigned seed = 1; seed <= SEEDS; seed++) {
    struct star *star = aligned_alloc(LAYOUT_LINE, sizeof *star);
    struct partner partners[PARTNERS];
    struct hub hub;
    assert_non_null(star);
    memset(star, 0, sizeof *star);
    star->seed = seed;
    star->hub_bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    for (unsigned i = 0; i < PARTNERS; i++) star->bells[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    hub_init(&hub, star);
    seed_thread(seed, 0);
    for (unsigned i = 0; i < PARTNERS; i++) {
      partners[i] = (struct partner){.star = star, .index = i};
      assert_int_equal(pthread_create(&partners[i].thread, NULL, answer_numbers, &partners[i]), 0);
    }
    while (!hub_done(&hub)) {
      hub_send(&hub);
      if (!hub_receive(&hub)) hub_sleep(&hub);
    }
    for (unsigned i = 0; i < PARTNERS; i++) {
      pthread_join(partners[i].thread, NULL);
      close(star->bells[i]);
    }
    close(star->hub_bell);
    free(star);
  }
}

/* ---- the order of the memory itself ------------------------------------------------------------------------------ */

enum { ROUNDS = 100000 };

/* Producer and consumer do their two steps at the same moment, as fast as they can: at least one must see the other.
 * Without the one order of seq_cst each processor can keep its own store back and neither does. */
struct duel {
  struct half half;
  struct layout_word word;
  atomic_uint begun, ended;
  struct ring_producer producer;
  bool producer_saw;
};

static void meet(atomic_uint *counter, unsigned wanted) {
  for (unsigned spins = 1; atomic_load(counter) < wanted; spins++)
    if (spins % 1000 == 0) sched_yield();
}

/* The two leave a meeting a little apart; some of these delays make up for that. */
static void meet_for_duel(struct duel *duel, unsigned round) {
  atomic_fetch_add(&duel->begun, 1);
  meet(&duel->begun, 2 * round);
  for (volatile uint64_t i = random_next() % 64; i > 0; i--) {
  }
}

static void *duel_producer(void *argument) {
  struct duel *duel = argument;
  hasty = true;
  seed_thread(1, 1);
  for (unsigned round = 1; round <= ROUNDS; round++) {
    void *record;
    assert_int_equal(ring_reserve(&duel->producer, 8, &record), MU_OK);
    meet_for_duel(duel, round);
    ring_publish(&duel->producer);
    duel->producer_saw = atomic_load_explicit(&duel->word.value, memory_order_seq_cst) % 2 != 0;
    atomic_fetch_add(&duel->ended, 1);
    meet(&duel->ended, 2 * round);
  }
  return NULL;
}

static void one_of_both_sees_the_other(void **state) {
  struct duel *duel = aligned_alloc(LAYOUT_LINE, sizeof *duel);
  pthread_t thread;
  struct ring_consumer consumer;
  unsigned missed = 0;
  assert_non_null(duel);
  memset(duel, 0, sizeof *duel);
  ring_producer_init(&duel->producer, duel->half.data, CAPACITY, &duel->half.tail.value, &duel->half.head.value);
  ring_consumer_init(&consumer, duel->half.data, CAPACITY, &duel->half.tail.value, &duel->half.head.value);
  struct doorbell_sleeper sleeper = {.word = &duel->word.value, .fd = -1};
  assert_int_equal(pthread_create(&thread, NULL, duel_producer, duel), 0);
  hasty = true;
  for (unsigned round = 1; round <= ROUNDS; round++) {
    const void *record;
    size_t size;
    meet_for_duel(duel, round);
    doorbell_sleep(&sleeper);
    bool consumer_saw = ring_waiting(&consumer);
    meet(&duel->ended, 2 * round - 1);
    missed += !consumer_saw && !duel->producer_saw;
    doorbell_wake(&sleeper);
    assert_int_equal(ring_peek(&consumer, &record, &size), MU_OK);
    ring_pop(&consumer);
    atomic_fetch_add(&duel->ended, 1);
  }
  hasty = false;
  pthread_join(thread, NULL);
  assert_int_equal(missed, 0);
  free(duel);
}

/* ---- the real ends ----------------------------------------------------------------------------------------------- */

enum { LANES = 3, JOBS = 2000 };

struct server {
  struct channel_worker *worker;
  uint32_t lane;
  unsigned seed;
  pthread_t thread;
};

static void *serve_jobs(void *argument) {
  struct server *self = argument;
  struct channel_job *job = fixture_job(8);
  struct channel_completion *completion = malloc(sizeof *completion);
  assert_non_null(completion);
  seed_thread(self->seed, 8 + self->lane);
  while (channel_worker_wait(self->worker, self->lane, job) == MU_OK) {
    fixture_fill_completion(completion, job);
    assert_int_equal(channel_worker_complete(self->worker, self->lane, completion), MU_OK);
  }
  free(completion);
  fixture_job_free(job);
  return NULL;
}

/* Submitting and completing on one thread, as under a core lock; all jobs of a burst share one doorbell. */
static void drive(struct channel_gate *gate) {
  struct channel_job *job = fixture_job(8);
  struct channel_completion *completion = malloc(sizeof *completion);
  uint64_t sent[LANES] = {0}, got[LANES] = {0};
  uint32_t lane, left = LANES * JOBS;
  assert_non_null(completion);
  while (left > 0) {
    for (uint32_t i = 0; i < LANES; i++) {
      uint64_t most = random_next() % 3 + 1;
      while (sent[i] < JOBS && sent[i] - got[i] < most) {
        fixture_fill_job(job, sent[i]++, 1, 0);
        assert_int_equal(channel_gate_submit(gate, i, job), MU_OK);
      }
    }
    channel_gate_ring(gate);
    mu_status status = channel_gate_next(gate, &lane, completion);
    if (status == MU_OK) {
      assert_int_equal(completion->batch, got[lane]++);
      left--;
      continue;
    }
    assert_int_equal(status, MU_UNAVAILABLE);
    if (!channel_gate_sleep(gate)) continue;
    doorbell_wait(channel_gate_doorbell(gate));
    channel_gate_wake(gate);
  }
  free(completion);
  fixture_job_free(job);
}

static void gate_and_worker(void **state) {
  for (unsigned seed = 1; seed <= SEEDS; seed++) {
    struct channel_fixture fixture;
    struct server servers[LANES];
    fixture_open(&fixture, LANES, 8);
    seed_thread(seed, 7);
    for (uint32_t i = 0; i < LANES; i++) {
      servers[i] = (struct server){.worker = fixture.worker, .lane = i, .seed = seed};
      assert_int_equal(pthread_create(&servers[i].thread, NULL, serve_jobs, &servers[i]), 0);
    }
    drive(fixture.gate);
    channel_worker_close(fixture.worker); /* must reach every lane, whatever step it is at */
    for (uint32_t i = 0; i < LANES; i++) pthread_join(servers[i].thread, NULL);
    fixture_close(&fixture);
  }
}

static void a_full_counter_is_no_obstacle(void **state) {
  int bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  const uint64_t most = UINT64_MAX - 1;
  assert_int_equal(write(bell, &most, sizeof most), sizeof most);
  doorbell_write(bell); /* would block */
  doorbell_wait(bell);
  doorbell_drain(bell);
  doorbell_drain(bell);
  close(bell);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_star_in_one_memory),
      cmocka_unit_test(one_of_both_sees_the_other),
      cmocka_unit_test(gate_and_worker),
      cmocka_unit_test(a_full_counter_is_no_obstacle),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
