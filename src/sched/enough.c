#include "sched/enough.h"

#include <math.h>
#include <stddef.h>

static const float BATCH_COST_NS = 25e3f; /* of a batch outside of its run: gateway, rings, doorbells */
static const float NEARLY = .96f;         /* of the best throughput will do */
static const float TRY_SHARE = .005f;     /* of the running time that tries may cost */
static const float HOPELESS = .9f;        /* of the best throughput, that a size cannot reach at its very best */
static const float PROVEN_NS = 250e6f;    /* … ran so long: what disturbs a batch is soon small beside its own time */
static const float LONG_NS = 2e6f;        /* a batch beside which a look at the curve costs nothing */
static const float NEAR = .95f;           /* of the best throughput: measured again now and then */
enum {
  PROVEN = 12,      /* measurements of a size before it is given up, or fewer that together … */
  FIRST_ROWS = 16,  /* that the first batches may have */
  RETRY_AFTER = 64, /* batches, for a size near the best */
  LOOK_AFTER = 8,   /* batches */
  FIRST_TRIES = 24, /* a few of each size */
  FARTHEST = 4,     /* times the size at hand: larger ones would show in the latency of all */
};

/* At its best: without the time after it. */
static float least_row_ns(const struct curve_point *point) { return (point->fast_ns + BATCH_COST_NS) / point->rows; }

static float row_ns(const struct curve_point *point) {
  return (point->fast_ns + point->idle_ns + BATCH_COST_NS) / point->rows;
}

/* Whether a batch of so many rows would tell something. */
static bool worth_a_try(const struct enough *enough, const struct curve *curve, uint32_t rows, float least_ns) {
  if ((least_ns + BATCH_COST_NS) * HOPELESS > enough->row_ns * (float)rows) return false;
  const struct curve_point *point = curve_at(curve, rows);
  if (point == NULL || !curve_trusts(point)) return true;
  return least_row_ns(point) * NEAR < enough->row_ns && curve->batches - point->learnt > RETRY_AFTER;
}

static bool is_proven(const struct curve_point *point) {
  return point->n >= PROVEN || (curve_trusts(point) && (float)point->n * point->ns >= PROVEN_NS);
}

/* The most rows that give nearly the best throughput, of the sizes known. A size is given up for smaller ones only when
 * it was measured often: its first batches may have been slow for any reason. */
static void look(struct enough *enough, const struct curve *curve) {
  uint64_t trusted = curve_trusted(curve);
  enough->row_ns = INFINITY;
  for (uint64_t left = trusted; left != 0; left &= left - 1)
    enough->row_ns = fminf(enough->row_ns, row_ns(&curve->points[__builtin_ctzll(left)]));
  enough->age = 0;
  enough->rows = 0;
  if (trusted == 0) {
    enough->row_ns = 0;
    return;
  }
  uint32_t last = 63 - (uint32_t)__builtin_clzll(trusted), i = last;
  for (uint64_t left = trusted; left != 0; left &= ~(UINT64_C(1) << i)) {
    i = 63 - (uint32_t)__builtin_clzll(left);
    const struct curve_point *point = &curve->points[i];
    if (!is_proven(point) || row_ns(point) * NEARLY <= enough->row_ns) break;
  }
  if (i == last) return; /* nothing better below it, and a larger one may be better still */
  enough->rows = curve_point_rows(i);
  bool more = worth_a_try(enough, curve, enough->rows * 2, curve->points[i].ns);
  enough->reach = more ? enough->rows * 2 : enough->rows;
}

void enough_learn(struct enough *enough, uint32_t rows, uint64_t ns) {
  enough->debt_ns = fmaxf(enough->debt_ns - (float)ns * TRY_SHARE, 0);
  enough->age += (float)ns < LONG_NS ? 1 : LOOK_AFTER;
  if (rows != enough->tried) return;
  enough->tried = 0;
  enough->age = LOOK_AFTER;
  if ((float)ns + BATCH_COST_NS < (float)rows * enough->row_ns * NEAR) enough->debt_ns = 0;
}

uint32_t enough_limit(const struct enough *enough, uint32_t max_rows) {
  uint32_t rows = enough->debt_ns <= 0 ? enough->reach : enough->rows;
  if (enough->rows == 0) rows = enough->grown > 0 ? enough->grown : FIRST_ROWS;
  return rows < max_rows ? rows : max_rows;
}

/* 0: none. */
static uint32_t size_to_try(const struct enough *enough, const struct curve *curve, uint32_t most) {
  float least_ns = 0; /* a batch of more rows takes no less time than one of fewer */
  for (uint32_t rows = 1; rows < most; rows *= 2) {
    if (worth_a_try(enough, curve, rows, least_ns)) return rows;
    const struct curve_point *point = curve_at(curve, rows);
    if (point != NULL && curve_trusts(point)) least_ns = fmaxf(least_ns, point->ns);
  }
  return worth_a_try(enough, curve, most, least_ns) ? most : 0;
}

/* Twice the largest size that is known well. */
static uint32_t grow(const struct curve *curve, uint32_t max_rows) {
  uint64_t trusted = curve_trusted(curve);
  uint32_t rows = trusted != 0 ? curve_point_rows(63 - (uint32_t)__builtin_clzll(trusted)) * 2 : 0;
  if (rows < FIRST_ROWS) rows = FIRST_ROWS;
  return rows < max_rows ? rows : max_rows;
}

static float price(struct enough *enough, uint32_t rows, uint32_t waiting) {
  if (enough->tries >= FIRST_TRIES) return (float)(waiting + rows) * enough->row_ns;
  enough->tries++;
  return 0;
}

/* What waits in parts of one size, since a last part of few rows would run badly; or at once where that is better. */
static uint32_t part(const struct curve *curve, uint32_t waiting, uint32_t limit, uint32_t max_rows) {
  if (waiting <= limit) return max_rows;
  if (waiting / 2 >= limit) return limit;
  uint32_t rows = (waiting + 1) / 2;
  if (waiting > max_rows) return rows;
  double parts_ns = 2 * curve_ns(curve, rows) + (double)BATCH_COST_NS;
  return parts_ns < curve_ns(curve, waiting) ? rows : max_rows;
}

uint32_t enough_choose(struct enough *enough, const struct curve *curve, uint32_t waiting, uint32_t max_rows) {
  if (waiting < 2 && enough->rows != 1) return max_rows;
  if (enough->age >= LOOK_AFTER) look(enough, curve);
  if (enough->rows == 0) enough->grown = grow(curve, max_rows);
  if (enough->row_ns > 0 && enough->debt_ns <= 0) {
    uint32_t most = enough->rows == 0                    ? enough->grown
                    : enough->rows < max_rows / FARTHEST ? enough->rows * FARTHEST
                                                         : max_rows;
    uint32_t rows = size_to_try(enough, curve, waiting < most ? waiting : most);
    if (rows > 0) {
      enough->debt_ns = price(enough, rows, waiting);
      enough->tried = rows;
      return rows;
    }
  }
  if (enough->rows == 0) return enough->grown;
  if (enough->rows >= max_rows) return max_rows;
  return part(curve, waiting, enough->rows, max_rows);
}
