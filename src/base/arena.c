#include "base/arena.h"

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_SIZE = 4096 };

struct arena_block {
  struct arena_block *next;
  size_t used, size;
  alignas(max_align_t) char bytes[];
};

void *arena_alloc(struct arena *arena, size_t n, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX / 2) return NULL;
  bytes = (bytes + alignof(max_align_t) - 1) & ~(alignof(max_align_t) - 1);
  struct arena_block *block = arena->blocks;
  if (block == NULL || bytes > block->size - block->used) {
    size_t room = bytes > BLOCK_SIZE ? bytes : BLOCK_SIZE;
    block = calloc(1, sizeof *block + room);
    if (block == NULL) return NULL;
    block->size = room;
    block->next = arena->blocks;
    arena->blocks = block;
  }
  void *memory = block->bytes + block->used;
  block->used += bytes;
  return memory;
}

char *arena_copy(struct arena *arena, const char *text, size_t len) {
  char *copy = arena_alloc(arena, len + 1, 1);
  if (copy != NULL && len > 0) memcpy(copy, text, len);
  return copy;
}

void arena_free(struct arena *arena) {
  for (struct arena_block *block = arena->blocks, *next; block != NULL; block = next) {
    next = block->next;
    free(block);
  }
  arena->blocks = NULL;
}
