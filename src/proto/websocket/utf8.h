/*
 * Is it UTF-8? Asked piece by piece, wherever the pieces are cut. Pure; one thread at a time for a state.
 */
#ifndef PROTO_WEBSOCKET_UTF8_H
#define PROTO_WEBSOCKET_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zeroed at the beginning of a text. */
struct utf8_state {
  uint8_t missing;   /* bytes that the character begun still needs */
  uint8_t low, high; /* between these the next one of them lies */
};

/* false: no continuation makes this UTF-8 (overlong forms, surrogates and what lies above U+10FFFF are none). */
bool utf8_feed(struct utf8_state *state, const uint8_t *data, size_t size);

/* The text ends here: is its last character whole? */
static inline bool utf8_complete(const struct utf8_state *state) { return state->missing == 0; }

#endif
