#include "sched/curve.h"

#include <math.h>
#include <stddef.h>

enum {
  MEMORY = 16,         /* measurements that a mean goes back */
  TRUSTED = 3,         /* from so many on, a wild measurement is cut */
  FORGET_AFTER = 2048, /* batches without one at a size: the clock or the neighbours may have changed since */
};
static const float FALLS = .2f, RISES = .08f; /* shares of the way to a measurement that fast_ns goes */
static const float IDLE_FALLS = .5f, IDLE_RISES = .125f;
static const float WILD = 3.0f;          /* times the mean */
static const double UNKNOWN_GAIN = 0.5;  /* share of the cost that more rows are taken to share, where never measured */
static const float SLOW_QUANTILE = .99f; /* which slow_ns follows … */
static const float SLOW_STEP = .1f;      /* … in steps of this share of itself */

/* 1, 2, 3, 4, 5-6, 7-8, 9-12, 13-16, … */
static uint32_t point_of(uint32_t rows) {
  uint32_t v = rows > 0 ? rows - 1 : 0;
  if (v < 2) return v;
  uint32_t log = 31 - (uint32_t)__builtin_clz(v);
  uint32_t i = 2 * log + (v >> (log - 1) & 1);
  return i < CURVE_POINTS ? i : CURVE_POINTS - 1;
}

static void learn_slow(struct curve *curve, float ns) {
  if (curve->slow_ns <= 0) {
    curve->slow_ns = ns;
    return;
  }
  float step = curve->slow_ns * SLOW_STEP;
  curve->slow_ns +=
      ns > curve->slow_ns ? fminf(step * SLOW_QUANTILE, ns - curve->slow_ns) : -step * (1 - SLOW_QUANTILE);
}

void curve_learn(struct curve *curve, uint32_t rows, uint64_t ns) {
  /* The first run of a shape pays for kernels and memory; it only serves until there is a second. */
  if (curve->batches++ == 1) {
    curve->known = 0;
    curve->slow_ns = 0;
  }
  learn_slow(curve, (float)ns);
  uint32_t i = point_of(rows);
  struct curve_point *point = &curve->points[i];
  float time = (float)ns;
  if (curve->known >> i & 1) {
    if (point->n >= TRUSTED) time = fminf(time, point->ns * WILD);
    if (point->n < MEMORY) point->n++;
    point->rows += ((float)rows - point->rows) / (float)point->n;
    point->ns += (time - point->ns) / (float)point->n;
    point->fast_ns += (time - point->fast_ns) * (time < point->fast_ns ? FALLS : RISES);
  } else {
    curve->known |= UINT64_C(1) << i;
    *point = (struct curve_point){.rows = (float)rows, .ns = time, .fast_ns = time, .n = 1};
  }
  point->learnt = curve->batches;
  uint32_t swept = curve->batches % CURVE_POINTS; /* one a batch, so that forgetting costs nothing */
  if (curve->batches - curve->points[swept].learnt > FORGET_AFTER) curve->known &= ~(UINT64_C(1) << swept);
}

void curve_learn_idle(struct curve *curve, uint32_t rows, uint64_t ns) {
  uint32_t i = point_of(rows);
  if ((curve->known >> i & 1) == 0) return;
  struct curve_point *point = &curve->points[i];
  float idle = fminf((float)ns, point->fast_ns);
  point->idle_ns += (idle - point->idle_ns) * (idle < point->idle_ns ? IDLE_FALLS : IDLE_RISES);
}

/* From one point on, when there is no second in that direction. */
static double guess(const struct curve_point *point, double rows) {
  return (double)point->ns * (1 - UNKNOWN_GAIN + UNKNOWN_GAIN * rows / (double)point->rows);
}

/* Past the largest size measured: on with the slope of the last stretch, never falling, never worse than one by one. */
static double extrapolate(const struct curve *curve, uint64_t below, double rows) {
  uint32_t last = 63 - (uint32_t)__builtin_clzll(below);
  const struct curve_point *b = &curve->points[last];
  below &= ~(UINT64_C(1) << last);
  if (below == 0) return guess(b, rows);
  const struct curve_point *a = &curve->points[63 - (uint32_t)__builtin_clzll(below)];
  double slope = (double)(b->ns - a->ns) / fmax((double)(b->rows - a->rows), 1);
  slope = fmin(fmax(slope, 0), (double)b->ns / (double)b->rows);
  return (double)b->ns + slope * (rows - (double)b->rows);
}

bool curve_measured(const struct curve *curve, uint32_t rows) {
  return (curve->known & (UINT64_MAX >> (63 - point_of(rows)))) != 0;
}

const struct curve_point *curve_at(const struct curve *curve, uint32_t rows) {
  uint32_t i = point_of(rows);
  return curve->known >> i & 1 ? &curve->points[i] : NULL;
}

uint32_t curve_point_rows(uint32_t i) {
  return i < 2 ? i + 1 : (2 + (i & 1)) * (1u << (i / 2 - 1)) + (1u << (i / 2 - 1));
}

bool curve_trusts(const struct curve_point *point) { return point->n >= TRUSTED; }

uint64_t curve_trusted(const struct curve *curve) {
  uint64_t trusted = 0;
  for (uint64_t left = curve->known; left != 0; left &= left - 1)
    if (curve_trusts(&curve->points[__builtin_ctzll(left)])) trusted |= left & -left;
  return trusted;
}

double curve_ns(const struct curve *curve, double rows) {
  if (curve->known == 0) return 0;
  uint32_t i = point_of((uint32_t)rows);
  uint64_t upto = curve->known & (UINT64_MAX >> (63 - i)), from = curve->known & (UINT64_MAX << i);
  /* The point of this size counts as the one below or above, by where its mean lies. */
  if (curve->known >> i & 1) {
    if ((double)curve->points[i].rows <= rows)
      from &= from - 1;
    else
      upto &= ~(UINT64_C(1) << i);
  }
  if (from == 0) return extrapolate(curve, upto, rows);
  const struct curve_point *b = &curve->points[__builtin_ctzll(from)];
  if (upto == 0) return guess(b, rows);
  const struct curve_point *a = &curve->points[63 - (uint32_t)__builtin_clzll(upto)];
  if (a->ns >= b->ns) return (double)b->ns; /* noise: fewer rows are not slower */
  return (double)a->ns + (double)(b->ns - a->ns) * (rows - (double)a->rows) / (double)(b->rows - a->rows);
}
