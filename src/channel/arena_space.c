/*
 * The blocks of an arena, taken and free, form a chain in order of address. Free blocks also stand in bins by size,
 * sixteen to each power of two (so that a bin's blocks differ by at most a sixteenth), the last freed in front; taken
 * blocks stand in a hash by offset. Sizes are counted in granules of ARENA_ALIGNMENT bytes.
 */
#include "channel/arena_space.h"

#include <stdlib.h>

enum {
  BIN_BITS = 4,
  BINS_PER_POWER = 1 << BIN_BITS,
  BINS = (64 - BIN_BITS + 1) * BINS_PER_POWER,
  OWN_BIN_LOOKS = 8,   /* blocks of the same bin looked at before a larger one is split */
  FIRST_BUCKETS = 256, /* of the hash; a power of two */
};

struct block {
  struct list chain; /* neighbours by address; spare blocks: arena_space.spare */
  struct list link;  /* in a bin, or in a bucket of the hash */
  uint64_t at, size; /* granules */
  bool taken;
};

struct arena_space {
  uint64_t size; /* granules */
  uint64_t used; /* bytes */
  struct memory_budget *budget;
  struct list chain;                 /* all blocks by address */
  struct list spare;                 /* blocks that hold nothing, for reuse */
  struct list bins[BINS];            /* free blocks */
  uint64_t filled[(BINS + 63) / 64]; /* bit i: bins[i] is not empty */
  struct list *buckets;              /* taken blocks */
  size_t n_buckets, n_taken;
};

bool memory_budget_take(struct memory_budget *budget, uint64_t bytes) {
  uint64_t used;
  if (__builtin_add_overflow(budget->used, bytes, &used)) return false;
  if (budget->limit != 0 && used > budget->limit) return false;
  if (budget->within != NULL && !memory_budget_take(budget->within, bytes)) return false;
  budget->used = used;
  return true;
}

void memory_budget_give(struct memory_budget *budget, uint64_t bytes) {
  for (; budget != NULL; budget = budget->within) budget->used -= bytes;
}

/* ---- bins -------------------------------------------------------------------------------------------------------- */

/* Small sizes have a bin each; above, the BIN_BITS below the highest bit choose within its power of two. */
static size_t bin_of(uint64_t size) {
  if (size < BINS_PER_POWER) return (size_t)size;
  unsigned power = 63u - (unsigned)__builtin_clzll(size);
  return (size_t)(power - BIN_BITS + 1) * BINS_PER_POWER + ((size >> (power - BIN_BITS)) & (BINS_PER_POWER - 1));
}

static void bin_put(struct arena_space *space, struct block *block) {
  size_t bin = bin_of(block->size);
  block->taken = false;
  list_push_front(&space->bins[bin], &block->link);
  space->filled[bin / 64] |= UINT64_C(1) << bin % 64;
}

static void bin_remove(struct arena_space *space, struct block *block) {
  size_t bin = bin_of(block->size);
  list_remove(&block->link);
  if (list_empty(&space->bins[bin])) space->filled[bin / 64] &= ~(UINT64_C(1) << bin % 64);
}

/* The first of at most `looks` blocks of the bin that is large enough. */
static struct block *bin_look(struct arena_space *space, size_t bin, uint64_t size, size_t looks) {
  list_each (link, &space->bins[bin]) {
    if (looks-- == 0) break;
    struct block *block = list_item(link, struct block, link);
    if (block->size >= size) return block;
  }
  return NULL;
}

/* The front of the next bin that is not empty: every block there is large enough. */
static struct block *bin_above(struct arena_space *space, size_t bin) {
  size_t first = bin + 1;
  for (size_t word = first / 64; word < sizeof space->filled / sizeof *space->filled; word++) {
    uint64_t bits = space->filled[word];
    if (word == first / 64) bits &= UINT64_MAX << first % 64;
    if (bits == 0) continue;
    return list_item(space->bins[word * 64 + (size_t)__builtin_ctzll(bits)].next, struct block, link);
  }
  return NULL;
}

static struct block *find_free(struct arena_space *space, uint64_t size) {
  size_t bin = bin_of(size);
  struct block *block = bin_look(space, bin, size, OWN_BIN_LOOKS);
  if (block == NULL) block = bin_above(space, bin);
  if (block == NULL) block = bin_look(space, bin, size, SIZE_MAX);
  return block;
}

/* ---- taken blocks ------------------------------------------------------------------------------------------------ */

static struct list *bucket_of(const struct arena_space *space, uint64_t at) {
  uint64_t mixed = at * UINT64_C(0x9e3779b97f4a7c15);
  return &space->buckets[(mixed >> 32) & (space->n_buckets - 1)];
}

/* Without memory the chains just get longer. */
static void widen_hash(struct arena_space *space) {
  size_t n = space->n_buckets * 2, old_n = space->n_buckets;
  struct list *old = space->buckets, *wider = reallocarray(NULL, n, sizeof *wider);
  if (wider == NULL) return;
  for (size_t i = 0; i < n; i++) list_init(&wider[i]);
  space->buckets = wider;
  space->n_buckets = n;
  for (size_t i = 0; i < old_n; i++) {
    list_each (link, &old[i]) {
      struct block *block = list_item(link, struct block, link);
      list_remove(link);
      list_push_front(bucket_of(space, block->at), &block->link);
    }
  }
  free(old);
}

static void mark_taken(struct arena_space *space, struct block *block) {
  if (space->n_taken >= space->n_buckets) widen_hash(space);
  block->taken = true;
  list_push_front(bucket_of(space, block->at), &block->link);
  space->n_taken++;
  space->used += block->size * ARENA_ALIGNMENT;
}

static struct block *find_taken(const struct arena_space *space, uint64_t at) {
  const struct list *bucket = bucket_of(space, at);
  list_each (link, bucket) {
    struct block *block = list_item(link, struct block, link);
    if (block->at == at) return block;
  }
  return NULL;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static struct block *block_create(struct arena_space *space, uint64_t at, uint64_t size) {
  struct list *link = list_pop_front(&space->spare);
  struct block *block = link != NULL ? list_item(link, struct block, chain) : malloc(sizeof *block);
  if (block == NULL) return NULL;
  *block = (struct block){.at = at, .size = size};
  list_init(&block->chain);
  list_init(&block->link);
  return block;
}

struct arena_space *arena_space_create(uint64_t size, struct memory_budget *budget) {
  struct arena_space *space = malloc(sizeof *space);
  if (space == NULL) return NULL;
  *space = (struct arena_space){.size = size / ARENA_ALIGNMENT, .budget = budget, .n_buckets = FIRST_BUCKETS};
  list_init(&space->chain);
  list_init(&space->spare);
  for (size_t i = 0; i < BINS; i++) list_init(&space->bins[i]);
  space->buckets = reallocarray(NULL, FIRST_BUCKETS, sizeof *space->buckets);
  struct block *all = space->buckets != NULL ? block_create(space, 0, space->size) : NULL;
  if (all == NULL) {
    arena_space_free(space);
    return NULL;
  }
  for (size_t i = 0; i < FIRST_BUCKETS; i++) list_init(&space->buckets[i]);
  list_push_back(&space->chain, &all->chain);
  if (all->size > 0) bin_put(space, all);
  return space;
}

static void free_blocks(struct list *chain) {
  list_each (link, chain) free(list_item(link, struct block, chain));
}

void arena_space_free(struct arena_space *space) {
  if (space == NULL) return;
  if (space->budget != NULL) memory_budget_give(space->budget, space->used);
  free_blocks(&space->chain);
  free_blocks(&space->spare);
  free(space->buckets);
  free(space);
}

uint64_t arena_space_limit(const struct arena_space *space) {
  uint64_t most = space->size * ARENA_ALIGNMENT;
  for (const struct memory_budget *budget = space->budget; budget != NULL; budget = budget->within)
    if (budget->limit != 0 && budget->limit < most) most = budget->limit;
  return most;
}

uint64_t arena_space_used(const struct arena_space *space) { return space->used; }

/* ---- take and give ----------------------------------------------------------------------------------------------- */

/* Leaves the first `size` granules in the block, which is in no bin, and makes the rest a free block of its own. */
static mu_status split(struct arena_space *space, struct block *block, uint64_t size) {
  struct block *rest = block_create(space, block->at + size, block->size - size);
  if (rest == NULL) return MU_NO_MEMORY;
  block->size = size;
  list_insert_before(block->chain.next, &rest->chain);
  bin_put(space, rest);
  return MU_OK;
}

mu_status arena_space_take(struct arena_space *space, uint64_t size, uint64_t *ret_offset) {
  uint64_t granules = size == 0 ? 1 : size / ARENA_ALIGNMENT + (size % ARENA_ALIGNMENT != 0);
  if (granules > arena_space_limit(space) / ARENA_ALIGNMENT) return MU_TOO_LARGE;
  struct block *block = find_free(space, granules);
  if (block == NULL) return MU_UNAVAILABLE;
  uint64_t bytes = granules * ARENA_ALIGNMENT;
  if (space->budget != NULL && !memory_budget_take(space->budget, bytes)) return MU_UNAVAILABLE;
  bin_remove(space, block);
  if (block->size > granules && split(space, block, granules) != MU_OK) {
    bin_put(space, block);
    if (space->budget != NULL) memory_budget_give(space->budget, bytes);
    return MU_NO_MEMORY;
  }
  mark_taken(space, block);
  *ret_offset = block->at * ARENA_ALIGNMENT;
  return MU_OK;
}

/* Makes one of two free neighbours, neither of which is in a bin. */
static void merge(struct arena_space *space, struct block *low, struct block *high) {
  low->size += high->size;
  list_remove(&high->chain);
  list_push_front(&space->spare, &high->chain);
}

static struct block *free_neighbour(struct arena_space *space, struct list *chain) {
  if (chain == &space->chain) return NULL;
  struct block *block = list_item(chain, struct block, chain);
  return block->taken ? NULL : block;
}

void arena_space_give(struct arena_space *space, uint64_t offset) {
  struct block *block = find_taken(space, offset / ARENA_ALIGNMENT);
  if (block == NULL) abort(); /* given twice, or never taken: two requests would share memory from here on */
  list_remove(&block->link);
  space->n_taken--;
  space->used -= block->size * ARENA_ALIGNMENT;
  if (space->budget != NULL) memory_budget_give(space->budget, block->size * ARENA_ALIGNMENT);
  struct block *high = free_neighbour(space, block->chain.next), *low = free_neighbour(space, block->chain.prev);
  if (high != NULL) {
    bin_remove(space, high);
    merge(space, block, high);
  }
  if (low != NULL) {
    bin_remove(space, low);
    merge(space, low, block);
    block = low;
  }
  bin_put(space, block);
}
