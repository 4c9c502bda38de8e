/*
 * The learned wait: whether an idle instance should wait a little for requests that are about to come.
 *
 * In a closed loop clients that were just answered ask again after a short while. Starting the first of them at once
 * leaves all others to the next batch, and the loop locks into batches of 1, 63, 1, 63. So per shape key it is learned
 * which share of the answered rows is back how soon after a completion, and what rate of rows is reached in the long
 * run. Waiting w for x more rows pays if x rows are more than the instance would have done at that rate in the time
 * that it costs:  x > rate * (w + t(q + x) - t(q)).  For all who are still to come it may lose a little: where the last
 * few are left behind, their answers take a batch longer than all others, which is what a 99th percentile shows. In an
 * open loop rows come at just that rate, so it never pays.
 *
 * A wait that turned out wrong doubles how many of the next chances are let go. Pure numbers; all zero is a start.
 */
#ifndef SCHED_WAIT_H
#define SCHED_WAIT_H

#include "sched/curve.h"

enum { WAIT_STEPS = 72 }; /* of time after a completion: of 1 us at first, then four for each doubling, up to 0.5 s */

/* What came after completions: moving sums. */
struct wait_returns {
  float came[WAIT_STEPS], asked[WAIT_STEPS]; /* rows back by the end of the step, of so many away */
  float most;                                /* at least the largest share of them */
  uint32_t epochs;
};

struct wait {
  uint64_t epoch_ns; /* last completion */
  bool behind;       /* rows were waiting then: of those who were answered in parts, one part is not back yet */
  float away;        /* rows answered then or shortly before, and not back then */
  float back;        /* rows that came since */
  float counts[WAIT_STEPS];
  struct wait_returns returns[2];   /* after completions with nothing waiting, and with something (`behind`) */
  float batch_rows, run_ns, gap_ns; /* moving means: of a batch, its time, the time from the end of one to the next's */
  uint32_t skip;                    /* chances to let go */
  uint8_t failures;

  /* the wait in progress */
  bool waiting;
  uint64_t since_ns;
  float since_rows;
  float rate, flow; /* rows per ns that it has to beat: of the instance while running, of the key while waiting */
  uint32_t rows;    /* that it is for … */
  float slack;      /* … and how many it may lose for them, where they are all who were still to come */
};

/* The state of a key for which an instance is idle. */
struct wait_question {
  uint64_t now_ns;
  uint64_t horizon_ns; /* longest wait */
  uint64_t latest_ns;  /* when the rows waiting have to be done; TIME_NEVER: no matter */
  uint32_t rows;       /* waiting */
  uint32_t max_rows;   /* of a batch */
  uint32_t parallel;   /* instances that could start now */
  const struct curve *curve;
};

struct wait_answer {
  uint64_t until_ns;
  uint32_t rows; /* go as soon as so many are there */
};

void wait_arrived(struct wait *wait, uint32_t rows, uint64_t now_ns);

/* A batch that ran for run_ns was answered; behind: there are rows waiting. */
void wait_completed(struct wait *wait, uint32_t rows, bool behind, uint64_t now_ns, uint64_t run_ns,
                    uint64_t horizon_ns);

/* true: wait, as ret_answer says, then ask again; false: go. */
bool wait_pays(struct wait *wait, const struct wait_question *question, struct wait_answer *ret_answer);

/* The batch goes with this many rows there: learns whether the wait before it was right. */
void wait_ended(struct wait *wait, uint32_t rows, uint64_t now_ns, const struct curve *curve);

#endif
