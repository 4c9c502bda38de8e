#include "sched/curve.h"

#include <math.h>
#include <stddef.h>

enum {
  MEMORY = 32,         /* measurements that a mean goes back */
  TRUSTED = 3,         /* so many make a mean */
  STALE_AFTER = 128,   /* batches without one at a size, that count like losing half of its measurements */
  FORGET_AFTER = 1024, /* batches without one at a size: it may have changed since */
};
static const float WILD = 1.4f;          /* times the mean, or its reverse: more is cut */
static const float PACE_STEP = .125f;    /* of the way to what the last batch showed */
static const float SPREAD_STEP = .0625f; /* the same for the variance */
static const float FIRST_VARIANCE = .01f, LEAST_VARIANCE = 1e-4f;
static const double UNKNOWN_GAIN = 0.5;  /* share of the cost that more rows are taken to share, where never measured */
static const float SLOW_QUANTILE = .99f; /* which slow_ns follows … */
static const float SLOW_STEP = .1f;      /* … in steps of this share of itself */

/* 1, 2, 3, 4, 5-6, 7-8, 9-12, 13-16, … */
uint32_t curve_point_of(uint32_t rows) {
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

/* From one point on, when there is no second in that direction. */
static double guess(const struct curve_point *point, double rows) {
  return (double)point->ns * (1 - UNKNOWN_GAIN + UNKNOWN_GAIN * rows / (double)point->rows);
}

/* A time at pace 1 of a point that is known. Wild ones are cut; the first of all is none, since it pays for kernels and
 * memory. */
static void refine(struct curve *curve, struct curve_point *point, float rows, float time) {
  float expected = (float)guess(point, (double)rows);
  float off = fminf(fmaxf(time / expected, 1 / WILD), WILD);
  if (point->n >= TRUSTED) {
    time = expected * off;
    curve->pace *= 1 + (off - 1) * PACE_STEP;
    curve->variance += ((off - 1) * (off - 1) - curve->variance) * SPREAD_STEP;
    if (curve->variance < LEAST_VARIANCE) curve->variance = LEAST_VARIANCE;
  }
  if (point->n == 1) point->ns = fminf(point->ns, time);
  if (point->n < MEMORY) point->n++;
  point->rows += (rows - point->rows) / (float)point->n;
  point->ns += (time - point->ns) / (float)point->n;
}

void curve_learn(struct curve *curve, uint32_t rows, uint64_t ns) {
  /* The first run of a shape pays for kernels and memory; it only serves until there is a second. */
  if (curve->batches++ <= 1) {
    curve->known = 0;
    curve->slow_ns = 0;
    curve->pace = 1;
    curve->variance = FIRST_VARIANCE;
  }
  learn_slow(curve, (float)ns);
  uint32_t i = curve_point_of(rows);
  struct curve_point *point = &curve->points[i];
  float time = (float)ns / curve->pace;
  if (curve->known >> i & 1) {
    refine(curve, point, (float)rows, time);
  } else {
    curve->known |= UINT64_C(1) << i;
    *point = (struct curve_point){.rows = (float)rows, .ns = time, .n = 1};
  }
  point->learnt = curve->batches;
  uint32_t swept = curve->batches % CURVE_POINTS; /* one a batch, so that forgetting costs nothing */
  if (curve->batches - curve->points[swept].learnt > FORGET_AFTER) curve->known &= ~(UINT64_C(1) << swept);
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
  return (curve->known & (UINT64_MAX >> (63 - curve_point_of(rows)))) != 0;
}

uint32_t curve_point_rows(uint32_t i) {
  return i < 2 ? i + 1 : (2 + (i & 1)) * (1u << (i / 2 - 1)) + (1u << (i / 2 - 1));
}

bool curve_trusts(const struct curve *curve, uint32_t i) {
  return (curve->known >> i & 1) && curve->points[i].n >= TRUSTED;
}

float curve_variance(const struct curve *curve, uint32_t i) {
  const struct curve_point *point = &curve->points[i];
  float age = (float)(curve->batches - point->learnt);
  return curve->variance / (float)point->n * (1 + age / STALE_AFTER);
}

/* At pace 1. */
static double ns_at_pace(const struct curve *curve, double rows) {
  uint32_t i = curve_point_of((uint32_t)rows);
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

double curve_ns(const struct curve *curve, double rows) {
  return curve->known == 0 ? 0 : ns_at_pace(curve, rows) * (double)curve->pace;
}
