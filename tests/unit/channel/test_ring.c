#include "channel/ring.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { CAPACITY = 4096 };

/* Both ends on the same memory, so that a sanitizer sees every access. */
struct loop {
  _Alignas(LAYOUT_LINE) uint8_t data[CAPACITY];
  struct layout_word tail, head;
  struct ring_producer producer;
  struct ring_consumer consumer;
};

static void loop_init(struct loop *loop) {
  memset(loop, 0, sizeof *loop);
  ring_producer_init(&loop->producer, loop->data, CAPACITY, &loop->tail.value, &loop->head.value);
  ring_consumer_init(&loop->consumer, loop->data, CAPACITY, &loop->tail.value, &loop->head.value);
}

/* A record whose words are made from its number. */
static mu_status put(struct loop *loop, uint64_t number, size_t words) {
  void *record;
  mu_status status = ring_reserve(&loop->producer, words * 8, &record);
  if (status != MU_OK) return status;
  uint64_t *at = record;
  for (size_t i = 0; i < words; i++) at[i] = number * 1000 + i;
  ring_publish(&loop->producer);
  return MU_OK;
}

static mu_status get(struct loop *loop, uint64_t number, size_t words) {
  const void *record;
  size_t size;
  mu_status status = ring_peek(&loop->consumer, &record, &size);
  if (status != MU_OK) return status;
  assert_int_equal(size, words * 8);
  const uint64_t *at = record;
  for (size_t i = 0; i < words; i++) assert_int_equal(at[i], number * 1000 + i);
  ring_pop(&loop->consumer);
  return MU_OK;
}

static size_t words_of(uint64_t number) { return (number * 2654435761u >> 7) % 120; }

static void random_bursts_wrap_around(void **state) {
  struct loop *loop = aligned_alloc(LAYOUT_LINE, sizeof *loop);
  assert_non_null(loop);
  for (unsigned seed = 1; seed <= 20; seed++) {
    uint64_t put_n = 0, got_n = 0;
    loop_init(loop);
    srand(seed);
    while (got_n < 5000) {
      for (int burst = rand() % 20; burst > 0; burst--) {
        mu_status status = put(loop, put_n, words_of(put_n));
        if (status == MU_UNAVAILABLE) break;
        assert_int_equal(status, MU_OK);
        put_n++;
      }
      for (int burst = rand() % 20; burst > 0 && got_n < put_n; burst--, got_n++) {
        assert_true(ring_waiting(&loop->consumer));
        assert_int_equal(get(loop, got_n, words_of(got_n)), MU_OK);
      }
    }
    while (got_n < put_n) assert_int_equal(get(loop, got_n, words_of(got_n)), MU_OK), got_n++;
    assert_int_equal(get(loop, 0, 0), MU_UNAVAILABLE);
    assert_false(ring_waiting(&loop->consumer));
  }
  free(loop);
}

/* From every position there is room for three of the largest records (a quarter of the ring). */
static void largest_records_fit_everywhere(void **state) {
  struct loop *loop = aligned_alloc(LAYOUT_LINE, sizeof *loop);
  assert_non_null(loop);
  const size_t largest = (CAPACITY / 4 - sizeof(struct layout_record)) / 8;
  for (size_t shift = 0; shift < CAPACITY / 8; shift++) {
    loop_init(loop);
    for (size_t i = 0; i < shift; i++) {
      assert_int_equal(put(loop, i, 0), MU_OK);
      assert_int_equal(get(loop, i, 0), MU_OK);
    }
    for (uint64_t i = 0; i < 3; i++) assert_int_equal(put(loop, i, largest), MU_OK);
    for (uint64_t i = 0; i < 3; i++) assert_int_equal(get(loop, i, largest), MU_OK);
  }
  free(loop);
}

static void full_ring_has_no_room(void **state) {
  struct loop *loop = aligned_alloc(LAYOUT_LINE, sizeof *loop);
  assert_non_null(loop);
  loop_init(loop);
  assert_int_equal(put(loop, 0, CAPACITY / 8), MU_UNAVAILABLE); /* never: its header does not fit */
  assert_int_equal(put(loop, 0, CAPACITY / 8 - 1), MU_OK);      /* exactly */
  assert_int_equal(put(loop, 1, 0), MU_UNAVAILABLE);
  assert_int_equal(get(loop, 0, CAPACITY / 8 - 1), MU_OK);
  assert_int_equal(put(loop, 1, 0), MU_OK);
  free(loop);
}

/* ---- hostile words ----------------------------------------------------------------------------------------------- */

static void a_head_that_lies_is_refused(void **state) {
  /* Known: head 2424, tail 6520. Turned back, past the tail, not on a word. */
  static const uint64_t heads[] = {0, 8, 2416, 6528, UINT64_MAX, UINT64_MAX - 7, 2425, 2428};
  struct loop *loop = aligned_alloc(LAYOUT_LINE, sizeof *loop);
  assert_non_null(loop);
  for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
    loop_init(loop);
    for (uint64_t k = 0; k < 3; k++) assert_int_equal(put(loop, k, 100), MU_OK);
    for (uint64_t k = 0; k < 3; k++) assert_int_equal(get(loop, k, 100), MU_OK);
    for (uint64_t k = 3; k < 8; k++) assert_int_equal(put(loop, k, 100), MU_OK);
    assert_int_equal(put(loop, 8, 100), MU_UNAVAILABLE);
    assert_int_equal(atomic_exchange(&loop->head.value, heads[i]), 2424);
    assert_int_equal(put(loop, 8, 100), MU_INVALID);
  }
  free(loop);
}

static void a_tail_that_lies_is_refused(void **state) {
  static const uint64_t tails[] = {UINT64_MAX, 0, 8, 16 + CAPACITY + 8, 17, 20, UINT64_MAX - 7};
  struct loop *loop = aligned_alloc(LAYOUT_LINE, sizeof *loop);
  assert_non_null(loop);
  for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
    const void *record;
    size_t size;
    loop_init(loop);
    assert_int_equal(put(loop, 0, 1), MU_OK);
    assert_int_equal(get(loop, 0, 1), MU_OK);
    atomic_store(&loop->tail.value, tails[i]);
    assert_int_equal(ring_peek(&loop->consumer, &record, &size), MU_INVALID);
    assert_true(ring_waiting(&loop->consumer)); /* so nobody sleeps instead of noticing */
  }
  free(loop);
}

static mu_status peek_header(struct loop *loop, uint64_t at, uint64_t tail, struct layout_record header) {
  const void *record;
  size_t size;
  memcpy(loop->data + at % CAPACITY, &header, sizeof header);
  loop->consumer.head = loop->consumer.tail = at;
  atomic_store(&loop->tail.value, tail);
  return ring_peek(&loop->consumer, &record, &size);
}

static void a_record_that_lies_is_refused(void **state) {
  struct loop *loop = aligned_alloc(LAYOUT_LINE, sizeof *loop);
  assert_non_null(loop);
  static const struct {
    uint64_t at, tail;
    struct layout_record header;
    mu_status status;
  } rows[] = {
      {0, 64, {64, LAYOUT_RECORD}, MU_OK},
      {0, 64, {8, LAYOUT_RECORD}, MU_OK},
      {0, 64, {0, LAYOUT_RECORD}, MU_INVALID},
      {0, 64, {7, LAYOUT_RECORD}, MU_INVALID},
      {0, 64, {12, LAYOUT_RECORD}, MU_INVALID},
      {0, 64, {72, LAYOUT_RECORD}, MU_INVALID}, /* past the tail */
      {0, 64, {UINT32_MAX, LAYOUT_RECORD}, MU_INVALID},
      {0, 64, {64, 0}, MU_INVALID},
      {0, 64, {64, 3}, MU_INVALID},
      {0, 64, {64, LAYOUT_WRAP}, MU_INVALID},             /* not to the end */
      {0, CAPACITY, {CAPACITY, LAYOUT_WRAP}, MU_INVALID}, /* nothing behind it */
      {4064, 4096 + 64, {40, LAYOUT_RECORD}, MU_INVALID}, /* across the end */
      {4064, 4096 + 64, {32, LAYOUT_WRAP}, MU_OK},        /* the record at 0 follows */
      {4064, 4096, {32, LAYOUT_WRAP}, MU_INVALID},
      {4064, 4096 + 32, {32, LAYOUT_WRAP}, MU_INVALID}, /* that record goes past the tail */
      {4064, 4096 + 64, {24, LAYOUT_WRAP}, MU_INVALID},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    loop_init(loop);
    const struct layout_record first = {64, LAYOUT_RECORD};
    memcpy(loop->data, &first, sizeof first);
    assert_int_equal(peek_header(loop, rows[i].at, rows[i].tail, rows[i].header), rows[i].status);
  }
  loop_init(loop);
  const struct layout_record wrap = {CAPACITY, LAYOUT_WRAP};
  memcpy(loop->data, &wrap, sizeof wrap);
  assert_int_equal(peek_header(loop, 4064, 4064 + CAPACITY, (struct layout_record){32, LAYOUT_WRAP}), MU_INVALID);
  free(loop);
}

/* Whatever stands in the memory: no crash, and no record outside of it. */
static void random_memory(void **state) {
  struct loop *loop = aligned_alloc(LAYOUT_LINE, sizeof *loop);
  assert_non_null(loop);
  srand(1);
  for (int run = 0; run < 20000; run++) {
    loop_init(loop);
    for (size_t i = 0; i < CAPACITY; i += 8) {
      struct layout_record header = {(uint32_t)rand() % 40 * 8, (uint32_t)rand() % 3};
      memcpy(loop->data + i, &header, sizeof header);
    }
    uint64_t at = (uint64_t)rand() % CAPACITY / 8 * 8;
    loop->consumer.head = loop->consumer.tail = at;
    atomic_store(&loop->tail.value, at + (uint64_t)rand() % (CAPACITY + 64));
    const void *record;
    size_t size;
    for (int i = 0; i < 1000 && ring_peek(&loop->consumer, &record, &size) == MU_OK; i++) {
      const uint8_t *begin = record;
      assert_true(begin >= loop->data && begin + size <= loop->data + CAPACITY);
      ring_pop(&loop->consumer);
    }
  }
  free(loop);
}

/* ---- two threads ------------------------------------------------------------------------------------------------- */

enum { PASSED = 200000 };

static void *produce(void *argument) {
  struct loop *loop = argument;
  for (uint64_t i = 0; i < PASSED; i++)
    while (put(loop, i, words_of(i) % 24) != MU_OK) sched_yield();
  return NULL;
}

static void threads_pass_records(void **state) {
  struct loop *loop = aligned_alloc(LAYOUT_LINE, sizeof *loop);
  assert_non_null(loop);
  loop_init(loop);
  pthread_t producer;
  assert_int_equal(pthread_create(&producer, NULL, produce, loop), 0);
  for (uint64_t i = 0; i < PASSED;) {
    mu_status status = get(loop, i, words_of(i) % 24);
    assert_int_not_equal(status, MU_INVALID);
    if (status == MU_OK)
      i++;
    else
      sched_yield();
  }
  pthread_join(producer, NULL);
  free(loop);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(random_bursts_wrap_around),
      cmocka_unit_test(largest_records_fit_everywhere),
      cmocka_unit_test(full_ring_has_no_room),
      cmocka_unit_test(a_head_that_lies_is_refused),
      cmocka_unit_test(a_tail_that_lies_is_refused),
      cmocka_unit_test(a_record_that_lies_is_refused),
      cmocka_unit_test(random_memory),
      cmocka_unit_test(threads_pass_records),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
