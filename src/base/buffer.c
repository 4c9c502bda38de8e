#include "base/buffer.h"

#include <stdio.h>
#include <stdlib.h>

void buffer_free(struct buffer *b) {
  free(b->data);
  buffer_init(b, b->limit);
}

mu_status buffer_reserve(struct buffer *b, size_t more) {
  if (more <= b->capacity - b->size && b->size + more <= b->limit) return MU_OK;
  if (more > b->limit - b->size) {
    b->failed = true;
    return MU_TOO_LARGE;
  }
  size_t want = b->size + more, capacity = b->capacity < 256 ? 256 : b->capacity;
  while (capacity < want) capacity += capacity / 2;
  char *data = realloc(b->data, capacity);
  if (data == NULL) {
    b->failed = true;
    return MU_NO_MEMORY;
  }
  b->data = data;
  b->capacity = capacity;
  return MU_OK;
}

mu_status buffer_append(struct buffer *b, const void *data, size_t size) {
  if (size == 0) return MU_OK;
  mu_status status = buffer_reserve(b, size);
  if (status != MU_OK) return status;
  memcpy(b->data + b->size, data, size);
  b->size += size;
  return MU_OK;
}

mu_status buffer_print(struct buffer *b, const char *format, ...) {
  va_list args;
  va_start(args, format);
  int n = vsnprintf(NULL, 0, format, args);
  va_end(args);
  if (n < 0) {
    b->failed = true;
    return MU_INVALID;
  }
  /* vsnprintf writes a terminator past the text: it needs room, but it is no content */
  mu_status status = buffer_reserve(b, (size_t)n);
  if (status != MU_OK) return status;
  char small[256];
  char *text = (size_t)n < sizeof small ? small : malloc((size_t)n + 1);
  if (text == NULL) {
    b->failed = true;
    return MU_NO_MEMORY;
  }
  va_start(args, format);
  vsnprintf(text, (size_t)n + 1, format, args);
  va_end(args);
  memcpy(b->data + b->size, text, (size_t)n);
  b->size += (size_t)n;
  if (text != small) free(text);
  return MU_OK;
}

void buffer_consume(struct buffer *b, size_t n) {
  if (n == 0) return;
  memmove(b->data, b->data + n, b->size - n);
  b->size -= n;
}

const char *buffer_text(struct buffer *b) {
  if (b->size == b->capacity) {
    char *data = realloc(b->data, b->capacity + 1);
    if (data == NULL) return NULL;
    b->data = data;
    b->capacity++;
  }
  b->data[b->size] = '\0';
  return b->data;
}
