#include "channel/ring.h"

#include "channel/doorbell.h"

void ring_producer_init(struct ring_producer *ring, uint8_t *data, uint64_t capacity, _Atomic uint64_t *tail_word,
                        const _Atomic uint64_t *head_word) {
  *ring = (struct ring_producer){.data = data, .capacity = capacity, .tail_word = tail_word, .head_word = head_word};
}

void ring_consumer_init(struct ring_consumer *ring, const uint8_t *data, uint64_t capacity,
                        const _Atomic uint64_t *tail_word, _Atomic uint64_t *head_word) {
  *ring = (struct ring_consumer){.data = data, .capacity = capacity, .tail_word = tail_word, .head_word = head_word};
}

static void put_header(struct ring_producer *ring, uint64_t position, uint64_t size, enum layout_record_kind kind) {
  struct layout_record *record = (struct layout_record *)(void *)(ring->data + (position & (ring->capacity - 1)));
  *record = (struct layout_record){.size = (uint32_t)size, .kind = kind};
}

/* How far the consumer is. The acquire orders our next writes after its reads of what we overwrite. */
static mu_status look_at_head(struct ring_producer *ring) {
  uint64_t head = atomic_load_explicit(ring->head_word, memory_order_acquire);
  if (head < ring->head || head > ring->tail || head % 8 != 0) return MU_INVALID;
  ring->head = head;
  return MU_OK;
}

mu_status ring_reserve(struct ring_producer *ring, size_t size, void **ret_record) {
  uint64_t whole = sizeof(struct layout_record) + size, to_end = ring->capacity - (ring->tail & (ring->capacity - 1));
  uint64_t wrap = whole > to_end ? to_end : 0;
  if (whole > ring->capacity) return MU_UNAVAILABLE;
  if (ring->tail + wrap + whole - ring->head > ring->capacity) {
    mu_status status = look_at_head(ring);
    if (status != MU_OK) return status;
    if (ring->tail + wrap + whole - ring->head > ring->capacity) return MU_UNAVAILABLE;
  }
  if (wrap != 0) put_header(ring, ring->tail, wrap, LAYOUT_WRAP);
  put_header(ring, ring->tail + wrap, whole, LAYOUT_RECORD);
  ring->reserved = ring->tail + wrap + whole;
  *ret_record = ring->data + ((ring->tail + wrap) & (ring->capacity - 1)) + sizeof(struct layout_record);
  return MU_OK;
}

void ring_publish(struct ring_producer *ring) {
  CHANNEL_PAUSE();
  ring->tail = ring->reserved;
  atomic_store_explicit(ring->tail_word, ring->tail, memory_order_seq_cst);
  CHANNEL_PAUSE();
}

static mu_status look_at_tail(struct ring_consumer *ring) {
  uint64_t tail = atomic_load_explicit(ring->tail_word, memory_order_acquire);
  if (tail < ring->tail || tail - ring->head > ring->capacity || tail % 8 != 0) return MU_INVALID;
  ring->tail = tail;
  return MU_OK;
}

/* The header at position, which is before the tail. */
static mu_status read_header(const struct ring_consumer *ring, uint64_t position, struct layout_record *ret_record) {
  union {
    uint64_t word;
    struct layout_record record;
  } header;
  uint64_t at = position & (ring->capacity - 1);
  header.word = __atomic_load_n((const uint64_t *)(const void *)(ring->data + at), __ATOMIC_RELAXED);
  uint32_t size = header.record.size;
  if (size < sizeof(struct layout_record) || size % 8 != 0 || size > ring->tail - position ||
      size > ring->capacity - at)
    return MU_INVALID;
  *ret_record = header.record;
  return MU_OK;
}

mu_status ring_peek(struct ring_consumer *ring, const void **ret_record, size_t *ret_size) {
  if (ring->head == ring->tail) {
    mu_status status = look_at_tail(ring);
    if (status != MU_OK) return status;
    if (ring->head == ring->tail) return MU_UNAVAILABLE;
  }
  struct layout_record record;
  uint64_t at = ring->head;
  if (read_header(ring, at, &record) != MU_OK) return MU_INVALID;
  if (record.kind == LAYOUT_WRAP) {
    /* It must reach the end exactly, and its producer published it together with what follows. */
    at += record.size;
    if ((at & (ring->capacity - 1)) != 0 || at == ring->tail) return MU_INVALID;
    if (read_header(ring, at, &record) != MU_OK) return MU_INVALID;
  }
  if (record.kind != LAYOUT_RECORD) return MU_INVALID;
  *ret_record = ring->data + (at & (ring->capacity - 1)) + sizeof record;
  *ret_size = record.size - sizeof record;
  ring->next = at + record.size;
  return MU_OK;
}

void ring_pop(struct ring_consumer *ring) {
  CHANNEL_PAUSE();
  ring->head = ring->next;
  /* Release: our reads of the record come before the producer's leave to overwrite it. */
  atomic_store_explicit(ring->head_word, ring->head, memory_order_release);
}

bool ring_waiting(const struct ring_consumer *ring) {
  return atomic_load_explicit(ring->tail_word, memory_order_seq_cst) != ring->head;
}
