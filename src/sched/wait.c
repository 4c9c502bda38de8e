#include "sched/wait.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"

static const float DECAY = .875f;       /* of the moving sums, an epoch */
static const float CYCLE_WEIGHT = .1f;  /* of the last cycle in the moving means */
static const double MIN_GAIN = .04;     /* share of a batch that a wait has to win, so that noise is no reason */
static const double LAST_WORTH = .04;   /* share of a batch that a wait for all who are still to come may lose */
static const double CLUSTERED = 1.5;    /* times the usual flow that the rows must come in, else it is chance */
static const float MIN_EXPECTED = .5f;  /* rows */
static const uint8_t MAX_FAILURES = 10; /* 2^n chances are let go after n failures */
enum { EXACT_EVERY = 16 };              /* epochs: in between a bound will do */

/* Step i holds what came before its end: 1 us to 8 us each, 10 us, 12 us, 14 us, 16 us, 20 us, … */
static uint32_t step_of(uint64_t elapsed_ns) {
  uint64_t v = elapsed_ns / NS_PER_US;
  if (v < 4) return (uint32_t)v;
  uint32_t log = 63 - (uint32_t)__builtin_clzll(v);
  uint32_t i = 4 * log + (uint32_t)(v >> (log - 2) & 3) - 4;
  return i < WAIT_STEPS ? i : WAIT_STEPS - 1;
}

static uint64_t step_end(uint32_t i) {
  uint64_t next = i + 1;
  return next < 4 ? next * NS_PER_US : (UINT64_C(4) + (next & 3)) * NS_PER_US << (next / 4 - 1);
}

void wait_arrived(struct wait *wait, uint32_t rows, uint64_t now_ns) {
  wait->counts[step_of(now_ns - wait->epoch_ns)] += (float)rows;
  wait->back += (float)rows;
}

/* The largest share by any step. */
static float largest_share(const struct wait_returns *returns) {
  float came = 0, asked = 1; /* of that step: compared without dividing */
  for (uint32_t i = 0; i < WAIT_STEPS; i++) {
    if (returns->came[i] * asked <= came * returns->asked[i]) continue;
    came = returns->came[i];
    asked = returns->asked[i];
  }
  return came / asked;
}

/* Takes what this epoch showed into the sums, as far as it lasted. */
static void fold(struct wait *wait, uint64_t elapsed_ns, uint64_t horizon_ns) {
  uint32_t seen = step_of(elapsed_ns), all = step_of(2 * horizon_ns);
  struct wait_returns *returns = &wait->returns[wait->behind];
  float back = 0;
  for (uint32_t i = 0; i < (seen < all ? seen : all); i++) {
    back += wait->counts[i];
    returns->came[i] = returns->came[i] * DECAY + back;
    returns->asked[i] = returns->asked[i] * DECAY + wait->away;
  }
  memset(wait->counts, 0, (seen + 1) * sizeof *wait->counts);
  /* No step's share has become larger than the largest before or this epoch's. */
  if (back > returns->most * wait->away) returns->most = back / wait->away;
  if (++returns->epochs % EXACT_EVERY == 0) returns->most = largest_share(returns);
}

void wait_completed(struct wait *wait, uint32_t rows, bool behind, uint64_t now_ns, uint64_t run_ns,
                    uint64_t horizon_ns) {
  uint64_t elapsed = now_ns - wait->epoch_ns;
  float left = 0;
  if (wait->away > 0) {
    fold(wait, elapsed, horizon_ns);
    /* Those answered before may still come back, the less likely the longer it is. */
    if (elapsed < horizon_ns) left = fmaxf(wait->away - wait->back, 0) * (1 - (float)elapsed / (float)horizon_ns);
  }
  /* A pause does not count in full: it says nothing about the rate that can be reached. */
  uint64_t gap = time_add(run_ns, horizon_ns);
  if (wait->away > 0 && elapsed < gap) gap = elapsed;
  wait->epoch_ns = now_ns;
  wait->behind = behind;
  wait->away = left + (float)rows;
  wait->back = 0;
  float weight = wait->batch_rows > 0 ? CYCLE_WEIGHT : 1;
  wait->batch_rows += ((float)rows - wait->batch_rows) * weight;
  wait->run_ns += ((float)run_ns - wait->run_ns) * weight;
  wait->gap_ns += ((float)gap - wait->gap_ns) * weight;
}

/* Share of the rows away that are back by the end of step i; never less than before. */
static double share_by(const struct wait_returns *returns, uint32_t i, double before) {
  return returns->asked[i] > 0 ? fmax(before, (double)(returns->came[i] / returns->asked[i])) : before;
}

/* What was learned lets one expect: */
struct outlook {
  double now, all;     /* shares back by now and by the horizon */
  double expected;     /* rows still to come by then */
  uint32_t from, upto; /* steps to look at */
};

static struct outlook look_out(const struct wait *wait, const struct wait_question *question) {
  uint64_t elapsed = question->now_ns - wait->epoch_ns;
  uint64_t waited = wait->waiting ? question->now_ns - wait->since_ns : 0;
  uint64_t horizon = elapsed + (question->horizon_ns > waited ? question->horizon_ns - waited : 0);
  struct outlook out = {.from = step_of(elapsed)};
  const struct wait_returns *returns = &wait->returns[wait->behind];
  double share = 0;
  for (uint32_t i = 0; i < WAIT_STEPS && step_end(i) <= horizon; i++) {
    double by = share_by(returns, i, share);
    if (i == out.from) {
      uint64_t start = i > 0 ? step_end(i - 1) : 0;
      out.now = share + (by - share) * (double)(elapsed - start) / (double)(step_end(i) - start);
    }
    share = by;
    out.upto = i + 1;
  }
  out.all = share;
  out.expected = (double)wait->away * share - (double)wait->back;
  return out;
}

bool wait_pays(struct wait *wait, const struct wait_question *question, struct wait_answer *ret_answer) {
  double q = question->rows, cap = (double)question->max_rows * question->parallel;
  const struct wait_returns *returns = &wait->returns[wait->behind];
  if (wait->away <= 0 || q >= cap || question->now_ns - wait->epoch_ns >= step_end(WAIT_STEPS - 1)) return false;
  if (wait->away * returns->most - wait->back < MIN_EXPECTED) return false; /* the common case with one client */
  struct outlook out = look_out(wait, question);
  if (out.expected < (double)MIN_EXPECTED || out.all <= out.now) return false;

  uint32_t rows = question->rows < question->max_rows ? question->rows : question->max_rows;
  if (!curve_measured(question->curve, rows)) return false; /* go: then it is */
  double alone = curve_ns(question->curve, rows);
  double rate = fmax(wait->batch_rows / fmaxf(fmaxf(wait->gap_ns, wait->run_ns), 1), q / alone);
  double flow = fmax(wait->batch_rows / fmaxf(wait->gap_ns, 1), rate);
  double best = 0, n = question->parallel, share = 0, slack = 0;
  uint64_t elapsed = question->now_ns - wait->epoch_ns;
  for (uint32_t i = out.from; i < out.upto; i++) {
    double by = share_by(returns, i, fmax(share, out.now));
    if (by <= share) continue;
    share = by;
    double x = fmin(out.expected * (by - out.now) / (out.all - out.now), cap - q);
    double w = (double)(step_end(i) - elapsed);
    double run = curve_ns(question->curve, fmax((q + x) / n, 1));
    double gain = x - flow * w - rate * (n * run - alone);
    /* Nobody is left behind then, for whom the answer would take a whole batch longer than for all others. */
    double worth = out.expected - x < (double)MIN_EXPECTED ? LAST_WORTH * (q + x) : 0;
    if (worth > 0) gain += worth + MIN_GAIN * (q + x);
    if (gain <= best || gain < MIN_GAIN * (q + x) || x < CLUSTERED * flow * w) continue;
    if (question->latest_ns != TIME_NEVER && (double)question->now_ns + w + run > (double)question->latest_ns) break;
    best = gain;
    slack = worth;
    *ret_answer = (struct wait_answer){question->now_ns + (uint64_t)w, question->rows + (uint32_t)fmax(x + .5, 1)};
  }
  if (best <= 0) return false;
  if (wait->skip > 0 && !wait->waiting) {
    wait->skip--;
    return false;
  }
  if (!wait->waiting) {
    wait->waiting = true;
    wait->since_ns = question->now_ns;
    wait->since_rows = (float)q;
    wait->rate = (float)rate;
    wait->flow = (float)flow;
  }
  wait->rows = ret_answer->rows;
  wait->slack = (float)slack;
  return true;
}

void wait_ended(struct wait *wait, uint32_t rows, uint64_t now_ns, const struct curve *curve) {
  if (!wait->waiting) return;
  double cost = (double)wait->flow * (double)(now_ns - wait->since_ns) +
                (double)wait->rate * (curve_ns(curve, rows) - curve_ns(curve, (double)wait->since_rows));
  double slack = rows >= wait->rows ? (double)wait->slack : 0;
  if ((double)rows - (double)wait->since_rows >= cost - slack) {
    wait->failures /= 2;
  } else if (wait->failures < MAX_FAILURES) {
    wait->failures++;
  }
  wait->skip = wait->failures > 1 ? (1u << (wait->failures - 1)) - 1 : 0; /* one may be chance */
  wait->waiting = false;
}
