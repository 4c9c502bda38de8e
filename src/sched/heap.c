#include "sched/heap.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "sched/state.h"

enum { ARITY = 4, FIRST_CAPACITY = 16 };

bool heap_reserve(struct heap *heap, uint32_t n, const struct sched_params *memory) {
  if (n <= heap->capacity) return true;
  if (n > UINT32_MAX / 2) return false; /* places are 32 bits */
  uint32_t capacity = heap->capacity > 0 ? heap->capacity : FIRST_CAPACITY;
  while (capacity < n) capacity *= 2;
  struct heap_entry *entries = sched_allocate(memory, capacity * sizeof *entries);
  if (entries == NULL) return false;
  if (heap->n > 0) memcpy(entries, heap->entries, heap->n * sizeof *entries);
  free(heap->entries);
  heap->entries = entries;
  heap->capacity = capacity;
  return true;
}

void heap_clear(struct heap *heap) {
  free(heap->entries);
  *heap = (struct heap){0};
}

static inline void place(struct heap *heap, uint32_t i, struct heap_entry entry) {
  heap->entries[i] = entry;
  *entry.at = i + 1;
}

/* Both move a hole at i to where entry belongs, and put it there. */
static void sift_up(struct heap *heap, uint32_t i, struct heap_entry entry) {
  while (i > 0) {
    uint32_t parent = (i - 1) / ARITY;
    if (heap->entries[parent].key <= entry.key) break;
    place(heap, i, heap->entries[parent]);
    i = parent;
  }
  place(heap, i, entry);
}

static void sift_down(struct heap *heap, uint32_t i, struct heap_entry entry) {
  for (;;) {
    uint32_t first = i * ARITY + 1, least = first;
    if (first >= heap->n) break;
    uint32_t end = first + ARITY < heap->n ? first + ARITY : heap->n;
    for (uint32_t child = first + 1; child < end; child++)
      if (heap->entries[child].key < heap->entries[least].key) least = child;
    if (heap->entries[least].key >= entry.key) break;
    place(heap, i, heap->entries[least]);
    i = least;
  }
  place(heap, i, entry);
}

static void sift(struct heap *heap, uint32_t i, struct heap_entry entry) {
  if (i > 0 && heap->entries[(i - 1) / ARITY].key > entry.key)
    sift_up(heap, i, entry);
  else
    sift_down(heap, i, entry);
}

void heap_put(struct heap *heap, uint32_t *at, uint64_t key) {
  if (*at == 0) {
    assert(heap->n < heap->capacity);
    sift_up(heap, heap->n++, (struct heap_entry){key, at});
  } else if (heap->entries[*at - 1].key != key) {
    sift(heap, *at - 1, (struct heap_entry){key, at});
  }
}

void heap_remove(struct heap *heap, uint32_t *at) {
  if (*at == 0) return;
  uint32_t i = *at - 1;
  assert(i < heap->n && heap->entries[i].at == at);
  *at = 0;
  struct heap_entry last = heap->entries[--heap->n];
  if (i < heap->n) sift(heap, i, last);
}
