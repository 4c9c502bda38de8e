/*
 * Memory that is given back all at once: what belongs together (a parsed file, a model's configuration) is allocated
 * from one arena and needs one free. Owned by its embedder; one thread at a time.
 */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include "base/status.h"

struct arena_block;

struct arena {
  struct arena_block *blocks;
};

/* Zeroed memory for n elements of size bytes, aligned for any type; NULL when there is none or n*size overflows.
 * A zeroed struct arena is an empty one. */
void *arena_alloc(struct arena *arena, size_t n, size_t size);

/* A terminated copy of the len bytes at text; NULL without memory. */
char *arena_copy(struct arena *arena, const char *text, size_t len);

/* Frees everything; the arena can be used again. */
void arena_free(struct arena *arena);

#endif
