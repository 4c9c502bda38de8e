#include "config/options.h"

#include <stdint.h>

enum { WORD_MAX = 64 };

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Damerau-Levenshtein distance (adjacent swaps count once, no letter is touched twice): rows of the usual table, of
 * which the last three are kept. Both words are at most WORD_MAX long. */
static size_t word_distance(const char *a, size_t a_size, const char *b, size_t b_size) {
  size_t table[3][WORD_MAX + 1];
  for (size_t j = 0; j <= b_size; j++) table[0][j] = j;
  for (size_t i = 1; i <= a_size; i++) {
    size_t *row = table[i % 3];
    const size_t *above = table[(i + 2) % 3], *twice_above = table[(i + 1) % 3];
    row[0] = i;
    for (size_t j = 1; j <= b_size; j++) {
      size_t replaced = above[j - 1] + (a[i - 1] != b[j - 1]);
      row[j] = least(replaced, least(above[j], row[j - 1]) + 1);
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = least(row[j], twice_above[j - 2] + 1);
    }
  }
  return table[a_size % 3][b_size];
}

const char *nearest_word(const char *word, const char *const *candidates, size_t n) {
  size_t size = strlen(word), best = size / 3 + 1;
  const char *nearest = NULL;
  if (size > WORD_MAX) return NULL;
  for (size_t i = 0; i < n; i++) {
    size_t candidate_size = strlen(candidates[i]);
    if (candidate_size > WORD_MAX) continue;
    size_t distance = word_distance(word, size, candidates[i], candidate_size);
    if (distance < best) {
      best = distance;
      nearest = candidates[i];
    }
  }
  return nearest;
}
