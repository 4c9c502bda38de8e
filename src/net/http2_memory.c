#include "net/http2_memory.h"

#include <stdlib.h>

/* In front of everything that nghttp2 gets; as large as the alignment that malloc keeps. */
struct http2_block {
  _Alignas(16) struct http2_block *next; /* http2_memory.kept */
  bool freed;
};

static void *content_of(struct http2_block *block) { return block != NULL ? block + 1 : NULL; }

static struct http2_block *block_of(void *content) {
  return content != NULL ? (struct http2_block *)content - 1 : NULL;
}

static void *take(size_t size, void *context) {
  struct http2_block *block = size <= SIZE_MAX - sizeof *block ? malloc(sizeof *block + size) : NULL;
  if (block != NULL) block->freed = false;
  return content_of(block);
}

static void *take_zeroed(size_t n, size_t size, void *context) {
  size_t all;
  if (__builtin_mul_overflow(n, size, &all) || all > SIZE_MAX - sizeof(struct http2_block)) return NULL;
  return content_of(calloc(1, sizeof(struct http2_block) + all));
}

static void *take_more(void *content, size_t size, void *context) {
  struct http2_memory *memory = context;
  if (content == NULL) {
    content = take(size, context);
    memory->broken |= content == NULL;
    return content;
  }
  struct http2_block *block =
      size <= SIZE_MAX - sizeof *block ? realloc(block_of(content), sizeof *block + size) : NULL;
  memory->broken |= block == NULL;
  return content_of(block);
}

static void give_back(void *content, void *context) {
  struct http2_memory *memory = context;
  struct http2_block *block = block_of(content);
  if (block == NULL || block->freed) return;
  if (!memory->broken) {
    free(block);
    return;
  }
  block->freed = true;
  block->next = memory->kept;
  memory->kept = block;
}

nghttp2_mem http2_memory_functions(struct http2_memory *memory) {
  return (nghttp2_mem){
      .mem_user_data = memory, .malloc = take, .free = give_back, .calloc = take_zeroed, .realloc = take_more};
}

void http2_memory_free(struct http2_memory *memory) {
  while (memory->kept != NULL) {
    struct http2_block *block = memory->kept;
    memory->kept = block->next;
    free(block);
  }
}
