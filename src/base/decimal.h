/* Numbers as decimal text where printf's way would be felt: heads of answers. */
#ifndef BASE_DECIMAL_H
#define BASE_DECIMAL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { DECIMAL_MOST = 20 }; /* characters of a number */

/* Writes at most DECIMAL_MOST characters, none behind them; where they end. */
static inline char *decimal_put(char *at, uint64_t number) {
  char digits[DECIMAL_MOST];
  size_t n = 0;
  do digits[DECIMAL_MOST - ++n] = (char)('0' + number % 10);
  while ((number /= 10) > 0);
  memcpy(at, digits + DECIMAL_MOST - n, n);
  return at + n;
}

#endif
