/*
 * A growable run of bytes with a cap given at the start (so that nothing a peer sends grows without bound).
 * Owned by its embedder; one thread at a time.
 */
#ifndef BASE_BUFFER_H
#define BASE_BUFFER_H

#include "base/status.h"

#include <stdarg.h>
#include <string.h>

struct buffer {
  char *data; /* NULL while capacity is 0; not terminated unless buffer_text was called */
  size_t size;
  size_t capacity;
  size_t limit; /* the most that size may become */
  bool failed;  /* an append did not fit or found no memory; sticky until buffer_clear */
};

/* limit in bytes; nothing is allocated yet. */
static inline void buffer_init(struct buffer *b, size_t limit) { *b = (struct buffer){.limit = limit}; }

/* Frees the memory; the buffer can be used again with the same limit. Accepts a zeroed buffer. */
void buffer_free(struct buffer *b);

/* Forgets the content, keeps the memory. */
static inline void buffer_clear(struct buffer *b) {
  b->size = 0;
  b->failed = false;
}

/* Makes room for `more` further bytes. MU_TOO_LARGE past the limit, MU_NO_MEMORY; both set failed. */
mu_status buffer_reserve(struct buffer *b, size_t more);

/* Append; MU_OK or as buffer_reserve. The failure is remembered in b->failed, so a run of appends is checked once. */
mu_status buffer_append(struct buffer *b, const void *data, size_t size);
mu_status buffer_print(struct buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline mu_status buffer_puts(struct buffer *b, const char *text) { return buffer_append(b, text, strlen(text)); }
static inline mu_status buffer_putc(struct buffer *b, char c) { return buffer_append(b, &c, 1); }

/* Drops the first n bytes (n <= size). */
void buffer_consume(struct buffer *b, size_t n);

/* The content as a terminated string, valid until the next change; NULL when the terminator finds no memory. */
const char *buffer_text(struct buffer *b);

#endif
