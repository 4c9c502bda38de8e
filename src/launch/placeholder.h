/*
 * Placeholders in the words of a command: {port} becomes the port. Only {word} of lower-case letters is one; {{word}}
 * is {word} itself; every other brace stays as it is, so that JSON can be passed on. Pure.
 */
#ifndef LAUNCH_PLACEHOLDER_H
#define LAUNCH_PLACEHOLDER_H

#include "base/buffer.h"

struct placeholder {
  const char *name;
  const char *value; /* NULL: there is none here */
  const char *why;   /* … because */
};

/* Appends. MU_INVALID: an unknown one (the message names those that there are), or one without a value. MU_NO_MEMORY,
 * MU_TOO_LARGE. */
MUST_CHECK mu_status placeholder_expand(const char *text, const struct placeholder *placeholders, size_t n,
                                        struct buffer *out, mu_error *err);

#endif
