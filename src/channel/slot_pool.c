/*
 * A slab is one block of the arena with a run of slots for each input, the runs one behind the other and each aligned.
 * Slabs of one key (the row sizes and which inputs stand apart) share a bucket; the first that has room is used, at its
 * lowest free slots, so that requests of the same moment stand next to each other. Empty slabs are kept for the next
 * requests, and given back oldest first when the arena is short.
 */
#include "channel/arena_space.h"

#include <stdlib.h>
#include <string.h>

enum {
  BUCKETS = 64,
  SLAB_SHARE = 8, /* a slab takes at most this part of the arena, unless a single request needs more */
};

/* What requests must have in common to share a slab. */
struct slab_key {
  uint32_t n;
  uint64_t apart;                  /* bit i: input i is not in the slab */
  uint64_t row_size;               /* bytes of one row over all inputs of the slab; 0: no slab is needed */
  uint64_t sizes[SLOT_INPUTS_MAX]; /* of a row; 0 where apart */
};

struct slab {
  struct list link;       /* in its bucket */
  struct list empty_link; /* slot_pool.empty, oldest first, while taken is 0 */
  uint64_t offset;        /* in the arena */
  uint32_t slots, taken;
  uint32_t n;
  uint64_t apart;
  uint64_t *sizes; /* n, as in the key; behind the bits */
  uint64_t bits[]; /* bit i: slot i is taken */
};

struct slot_pool {
  struct arena_space *space;
  uint32_t typical_rows;
  struct list empty;
  struct list buckets[BUCKETS];
};

struct slot_pool *slot_pool_create(struct arena_space *space, uint32_t typical_rows) {
  struct slot_pool *pool = malloc(sizeof *pool);
  if (pool == NULL) return NULL;
  pool->space = space;
  pool->typical_rows = typical_rows;
  list_init(&pool->empty);
  for (size_t i = 0; i < BUCKETS; i++) list_init(&pool->buckets[i]);
  return pool;
}

static void slab_free(struct slot_pool *pool, struct slab *slab) {
  list_remove(&slab->link);
  list_remove(&slab->empty_link);
  arena_space_give(pool->space, slab->offset);
  free(slab);
}

void slot_pool_free(struct slot_pool *pool) {
  if (pool == NULL) return;
  for (size_t i = 0; i < BUCKETS; i++)
    list_each (link, &pool->buckets[i]) slab_free(pool, list_item(link, struct slab, link));
  free(pool);
}

void slot_pool_trim(struct slot_pool *pool) {
  list_each (link, &pool->empty) slab_free(pool, list_item(link, struct slab, empty_link));
}

/* ---- keys -------------------------------------------------------------------------------------------------------- */

static uint64_t aligned(uint64_t size) { return (size + ARENA_ALIGNMENT - 1) & ~(uint64_t)(ARENA_ALIGNMENT - 1); }

/* Fills the key; MU_TOO_LARGE when the request as a whole could not fit an empty arena. */
static mu_status key_make(const struct slot_need *needs, uint32_t n, uint32_t rows, uint64_t limit,
                          struct slab_key *ret_key) {
  uint64_t total = 0;
  ret_key->n = n;
  ret_key->apart = ret_key->row_size = 0;
  for (uint32_t i = 0; i < n; i++) {
    uint64_t bytes;
    bool apart = needs[i].apart;
    if (__builtin_mul_overflow(needs[i].size, apart ? 1 : (uint64_t)rows, &bytes) || bytes > limit) return MU_TOO_LARGE;
    total += apart && bytes == 0 ? ARENA_ALIGNMENT : aligned(bytes);
    if (total > limit) return MU_TOO_LARGE;
    ret_key->apart |= (uint64_t)apart << i;
    ret_key->sizes[i] = apart ? 0 : needs[i].size;
    ret_key->row_size += ret_key->sizes[i];
  }
  return MU_OK;
}

static struct list *bucket_of(struct slot_pool *pool, const struct slab_key *key) {
  uint64_t mixed = key->apart + key->n;
  for (uint32_t i = 0; i < key->n; i++) mixed = (mixed ^ key->sizes[i]) * UINT64_C(0x9e3779b97f4a7c15);
  return &pool->buckets[mixed >> 58];
}

static bool slab_matches(const struct slab *slab, const struct slab_key *key) {
  return slab->n == key->n && slab->apart == key->apart &&
         memcmp(slab->sizes, key->sizes, key->n * sizeof *key->sizes) == 0;
}

/* ---- slots ------------------------------------------------------------------------------------------------------- */

/* The first slot at or after `from` that is taken (or free); slab->slots when there is none. */
static uint32_t next_slot(const struct slab *slab, uint32_t from, bool taken) {
  while (from < slab->slots) {
    uint64_t word = taken ? slab->bits[from / 64] : ~slab->bits[from / 64];
    word &= UINT64_MAX << from % 64;
    if (word != 0) {
      uint32_t slot = from / 64 * 64 + (uint32_t)__builtin_ctzll(word);
      return slot < slab->slots ? slot : slab->slots;
    }
    from = (from / 64 + 1) * 64;
  }
  return slab->slots;
}

static bool find_run(const struct slab *slab, uint32_t rows, uint32_t *ret_slot) {
  if (slab->slots - slab->taken < rows) return false;
  for (uint32_t at = next_slot(slab, 0, false); at < slab->slots;) {
    uint32_t end = next_slot(slab, at, true);
    if (end - at >= rows) {
      *ret_slot = at;
      return true;
    }
    at = next_slot(slab, end, false);
  }
  return false;
}

static void take_slots(struct slab *slab, uint32_t slot, uint32_t rows) {
  for (uint32_t i = slot; i < slot + rows; i++) slab->bits[i / 64] |= UINT64_C(1) << i % 64;
  slab->taken += rows;
  list_remove(&slab->empty_link);
}

static void give_slots(struct slot_pool *pool, struct slab *slab, uint32_t slot, uint32_t rows) {
  for (uint32_t i = slot; i < slot + rows; i++) slab->bits[i / 64] &= ~(UINT64_C(1) << i % 64);
  slab->taken -= rows;
  if (slab->taken == 0) list_push_back(&pool->empty, &slab->empty_link);
}

/* ---- slabs ------------------------------------------------------------------------------------------------------- */

/* arena_space_take; while the arena is short, empty slabs go, the oldest first. */
static mu_status take_space(struct slot_pool *pool, uint64_t size, uint64_t *ret_offset) {
  for (;;) {
    mu_status status = arena_space_take(pool->space, size, ret_offset);
    if (status != MU_UNAVAILABLE || list_empty(&pool->empty)) return status;
    slab_free(pool, list_item(pool->empty.next, struct slab, empty_link));
  }
}

static uint64_t slab_size(const struct slab_key *key, uint32_t slots) {
  uint64_t size = 0;
  for (uint32_t i = 0; i < key->n; i++) size += aligned(slots * key->sizes[i]);
  return size;
}

/* How many slots a slab is made for: as many as are typical within its share of the arena, and what this request
 * needs. */
static uint32_t slots_for(const struct slot_pool *pool, const struct slab_key *key, uint32_t rows) {
  uint64_t affordable = arena_space_limit(pool->space) / SLAB_SHARE / key->row_size;
  uint64_t slots = affordable < pool->typical_rows ? affordable : pool->typical_rows;
  return slots < rows ? rows : (uint32_t)slots;
}

static mu_status slab_create(struct slot_pool *pool, const struct slab_key *key, uint32_t slots,
                             struct slab **ret_slab) {
  size_t words = ((size_t)slots + 63) / 64;
  struct slab *slab = calloc(1, sizeof *slab + (words + key->n) * sizeof *slab->bits);
  if (slab == NULL) return MU_NO_MEMORY;
  mu_status status = take_space(pool, slab_size(key, slots), &slab->offset);
  if (status != MU_OK) {
    free(slab);
    return status;
  }
  slab->slots = slots;
  slab->n = key->n;
  slab->apart = key->apart;
  slab->sizes = slab->bits + words;
  memcpy(slab->sizes, key->sizes, key->n * sizeof *key->sizes);
  list_init(&slab->empty_link);
  list_push_back(bucket_of(pool, key), &slab->link);
  *ret_slab = slab;
  return MU_OK;
}

static mu_status reserve_slots(struct slot_pool *pool, const struct slab_key *key, uint32_t rows,
                               struct slab **ret_slab, uint32_t *ret_slot) {
  list_each (link, bucket_of(pool, key)) {
    struct slab *slab = list_item(link, struct slab, link);
    if (!slab_matches(slab, key) || !find_run(slab, rows, ret_slot)) continue;
    take_slots(slab, *ret_slot, rows);
    *ret_slab = slab;
    return MU_OK;
  }
  uint32_t slots = slots_for(pool, key, rows);
  struct slab *slab = NULL;
  mu_status status = slab_create(pool, key, slots, &slab);
  if ((status == MU_UNAVAILABLE || status == MU_TOO_LARGE) && slots > rows)
    status = slab_create(pool, key, rows, &slab);
  if (status != MU_OK) return status;
  take_slots(slab, 0, rows);
  *ret_slab = slab;
  *ret_slot = 0;
  return MU_OK;
}

/* ---- reservations ------------------------------------------------------------------------------------------------ */

static void set_slot_offsets(const struct slab *slab, struct slot_reservation *reservation) {
  uint64_t run = slab->offset;
  for (uint32_t i = 0; i < slab->n; i++) {
    if (slab->apart >> i & 1) continue;
    reservation->offsets[i] = run + reservation->slot * slab->sizes[i];
    run += aligned(slab->slots * slab->sizes[i]);
  }
}

mu_status slot_pool_reserve(struct slot_pool *pool, const struct slot_need *needs, uint32_t n, uint32_t rows,
                            struct slot_reservation *ret_reservation) {
  struct slab_key key;
  mu_status status = key_make(needs, n, rows, arena_space_limit(pool->space), &key);
  if (status != MU_OK) return status;
  struct slab *slab = NULL;
  struct slot_reservation reservation;
  reservation.slot = 0;
  if (key.row_size > 0) status = reserve_slots(pool, &key, rows, &slab, &reservation.slot);
  if (status != MU_OK) return status;
  reservation.slab = slab;
  reservation.rows = rows;
  reservation.n = n;
  reservation.apart = 0;
  for (uint32_t i = 0; i < n; i++) {
    reservation.offsets[i] = 0; /* stays so for what has no bytes and no slab */
    if (!needs[i].apart) continue;
    status = take_space(pool, needs[i].size, &reservation.offsets[i]);
    if (status != MU_OK) {
      slot_pool_release(pool, &reservation);
      return status;
    }
    reservation.apart |= UINT64_C(1) << i;
  }
  if (slab != NULL) set_slot_offsets(slab, &reservation);
  ret_reservation->slab = reservation.slab;
  ret_reservation->slot = reservation.slot;
  ret_reservation->rows = rows;
  ret_reservation->n = n;
  ret_reservation->apart = reservation.apart;
  memcpy(ret_reservation->offsets, reservation.offsets, n * sizeof *reservation.offsets);
  return MU_OK;
}

void slot_pool_release(struct slot_pool *pool, struct slot_reservation *reservation) {
  for (uint32_t i = 0; i < reservation->n; i++)
    if (reservation->apart >> i & 1) arena_space_give(pool->space, reservation->offsets[i]);
  if (reservation->slab != NULL) give_slots(pool, reservation->slab, reservation->slot, reservation->rows);
  reservation->slab = NULL;
  reservation->apart = 0;
}
