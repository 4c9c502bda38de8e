/*
 * A 4-ary min-heap of (key, element), where the element keeps its own place (a uint32_t inside it, 0: in no heap), so
 * that it can be moved and removed in O(log n) and asked in O(1) whether it is in. The elements belong to the caller;
 * the array grows only in heap_reserve, so no other call can fail.
 */
#ifndef SCHED_HEAP_H
#define SCHED_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sched_params;

struct heap_entry {
  uint64_t key;
  uint32_t *at; /* in the element: index + 1 */
};

struct heap {
  struct heap_entry *entries;
  uint32_t n, capacity;
};

/* The element around the place that a heap function returned. */
#define heap_item(place, type, member) ((type *)(void *)((char *)(place)-offsetof(type, member)))

/* Room for n elements; false without memory. */
bool heap_reserve(struct heap *heap, uint32_t n, const struct sched_params *memory);
void heap_clear(struct heap *heap); /* frees the array */

/* Inserts the element, or changes its key when it is in already. Room must have been reserved. */
void heap_put(struct heap *heap, uint32_t *at, uint64_t key);

/* Harmless for an element that is not in. */
void heap_remove(struct heap *heap, uint32_t *at);

/* The place of the element with the smallest key; NULL when empty. */
static inline uint32_t *heap_top(const struct heap *heap) { return heap->n > 0 ? heap->entries[0].at : NULL; }

/* The smallest key; UINT64_MAX when empty. */
static inline uint64_t heap_top_key(const struct heap *heap) { return heap->n > 0 ? heap->entries[0].key : UINT64_MAX; }

#endif
