#include "sched/enough.h"

#include <math.h>

static const float BATCH_COST_NS = 25e3f; /* of a batch outside of its run: gateway, rings, doorbells */
static const float NEARLY = .98f;         /* of the time of a row is no reason to change */
static const float DOUBT = 1.5f;          /* standard deviations that may be chance */
static const float HALF_AT_BEST = .8f;    /* time of a row in half a batch, against the whole */
static const float TRY_SHARE = .005f;     /* of the running time that tries may cost */
static const float TRY_LEAST = .1f;       /* of the time of a try is its price at least */
enum {
  FIRST_ROWS = 16, /* that the first batches may have */
  FIRST_TRIES = 8, /* of each size, that are free */
  LOOK_AFTER = 8,  /* batches */
};

static float row_ns(const struct curve *curve, uint32_t i) {
  const struct curve_point *point = &curve->points[i];
  return (point->ns * curve->pace + BATCH_COST_NS) / point->rows;
}

/* ---- the choice -------------------------------------------------------------------------------------------------- */

/* Whether size i should take the place of the one at hand. */
static bool is_better(const struct curve *curve, uint32_t i, uint32_t at_hand) {
  if (i > at_hand) return row_ns(curve, i) <= row_ns(curve, at_hand);
  float doubt = DOUBT * sqrtf(curve_variance(curve, i) + curve_variance(curve, at_hand));
  return row_ns(curve, i) < row_ns(curve, at_hand) * (NEARLY - doubt);
}

static void look(struct enough *enough, const struct curve *curve) {
  enough->looked = curve->batches;
  bool any = enough->rows > 0 && curve_trusts(curve, enough->point);
  uint32_t best = UINT32_MAX, last = 0;
  for (uint64_t left = curve->known; left != 0; left &= left - 1) {
    uint32_t i = (uint32_t)__builtin_ctzll(left);
    if (!curve_trusts(curve, i)) continue;
    last = i;
    if (any && i != enough->point && !is_better(curve, i, enough->point)) continue;
    if (best == UINT32_MAX || row_ns(curve, i) < row_ns(curve, best)) best = i;
  }
  if (best == UINT32_MAX) return;
  enough->point = best;
  enough->rows = curve_point_rows(best);
  if (best < last) return;
  enough->rows = enough->rows < FIRST_ROWS / 2 ? FIRST_ROWS : enough->rows * 2;
}

void enough_learn(struct enough *enough, const struct curve *curve, uint32_t rows, uint64_t ns) {
  enough->debt_ns = fmaxf(enough->debt_ns - (float)ns * TRY_SHARE, 0);
  if (rows == enough->tried) {
    uint32_t i = curve_point_of(rows);
    bool first = curve->points[i].n <= FIRST_TRIES;
    float more = (float)ns - (float)rows * row_ns(curve, enough->point);
    if (!first) enough->debt_ns += fmaxf(more, (float)ns * TRY_LEAST);
    enough->tried = 0;
  } else if (curve->batches - enough->looked < LOOK_AFTER) {
    return;
  }
  look(enough, curve);
}

/* ---- tries ------------------------------------------------------------------------------------------------------- */

/* The least that a batch may run, by the next smaller size that is known. */
static float least_ns(const struct curve *curve, uint32_t i) {
  uint64_t below = curve->known & ((UINT64_C(1) << i) - 1);
  return below != 0 ? curve->points[63 - __builtin_clzll(below)].ns * curve->pace : 0;
}

/* Time of a row in batches of so many rows, if all doubt is in their favour. twice: the same for twice the rows, 0: not
 * known. */
static float at_best(const struct curve *curve, uint32_t rows, float twice) {
  uint32_t i = curve_point_of(rows);
  if (curve_trusts(curve, i)) return row_ns(curve, i) * (1 - DOUBT * sqrtf(curve_variance(curve, i)));
  return fmaxf((least_ns(curve, i) + BATCH_COST_NS) / (float)rows, twice * HALF_AT_BEST);
}

/* What a try has to stay below. */
static float to_beat(const struct enough *enough, const struct curve *curve) {
  return row_ns(curve, enough->point) * NEARLY;
}

uint32_t enough_limit(const struct enough *enough, const struct curve *curve, uint32_t max_rows) {
  uint32_t rows = enough->rows > 0 ? enough->rows : FIRST_ROWS;
  if (enough->rows > 0 && enough->debt_ns <= 0 && rows == curve_point_rows(enough->point) &&
      at_best(curve, rows * 2, 0) < to_beat(enough, curve))
    rows *= 2;
  return rows < max_rows ? rows : max_rows;
}

/* The most promising one; 0: none. */
static uint32_t size_to_try(const struct enough *enough, const struct curve *curve, uint32_t most) {
  uint32_t best = 0;
  float least = to_beat(enough, curve), time = 0;
  for (uint32_t rows = most; rows > 0; rows = rows > 1 ? (rows + 1) / 2 : 0) {
    time = at_best(curve, rows, time);
    if (time >= least || curve_point_of(rows) == enough->point) continue;
    least = time;
    best = rows;
  }
  return best;
}

uint32_t enough_choose(struct enough *enough, const struct curve *curve, uint32_t waiting, uint32_t max_rows) {
  uint32_t all = waiting < max_rows ? waiting : max_rows;
  if (all < 2) return all;
  if (enough->rows == 0) return all < FIRST_ROWS ? all : FIRST_ROWS;
  if (enough->debt_ns <= 0 && enough->tried == 0) {
    uint32_t most = 2 * curve_point_rows(enough->point);
    uint32_t rows = size_to_try(enough, curve, all < most ? all : most);
    if (rows > 0) return enough->tried = rows;
  }
  if (all <= enough->rows) return all;
  uint32_t half = (waiting + 1) / 2; /* rather than enough and a rest of few rows, where that is as good */
  if (half >= enough->rows || curve_ns(curve, half) / half > curve_ns(curve, enough->rows) / enough->rows)
    return enough->rows;
  return half;
}
