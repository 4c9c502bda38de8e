#include "sched/speed.h"

#include <math.h>

static const double RARE_STEP = 1.0 / 4;              /* the same after a long time without one */
static const double STEP = 1.0 / 16;                  /* share of the way to a measurement */
static const double WILD = 4;                         /* times what was expected: more is no measurement of speed */
static const double SLOWEST = 1.0 / 64;               /* beside the fastest */
static const double LIKE_FASTEST = .93, SLOWER = .88; /* counts as fastest from here up, no more from here down */
static const double CHANGE = .04;                     /* in what is used */
enum {
  COMPARE_EVERY = 16,  /* batches of the model */
  MEASURE_AFTER = 256, /* batches of the model without one on a slow device: seldom enough to stay behind the p99 */
};

static double measured(const struct sched_instance *instance) { return instance->speed * instance->share->measured; }

static bool one_share(const struct sched_model *model) { return model->shares.next->next == &model->shares; }

double speed_of(const struct sched_instance *instance) { return instance->speed * instance->share->speed; }

double speed_scaled_ns(const struct sched_instance *instance, double ran_ns) { return ran_ns * measured(instance); }

double speed_expected_ns(const struct sched_instance *instance, double fastest_ns) {
  return fastest_ns / measured(instance);
}

double sched_instance_speed(const struct sched_instance *instance) { return measured(instance); }

/* The order of its instances has changed. */
static void place_all(const struct sched_share *share) {
  list_each (link, &share->model->instances) {
    struct sched_instance *instance = list_item(link, struct sched_instance, link);
    if (instance->share == share) instance_place(instance);
  }
}

static void use(struct sched_share *share) {
  double speed = share->measured;
  if (speed >= (share->speed < 1 ? LIKE_FASTEST : SLOWER)) speed = 1;
  if (fabs(speed - share->speed) <= CHANGE * share->speed) return;
  share->speed = speed;
  place_all(share);
}

/* Speeds are relative: the fastest is 1. What the curves know by another measure follows with their next batches. */
static void compare(struct sched_model *model) {
  double fastest = 0;
  list_each (link, &model->shares) fastest = fmax(fastest, list_item(link, struct sched_share, link)->measured);
  model->uneven = false;
  list_each (link, &model->shares) {
    struct sched_share *share = list_item(link, struct sched_share, link);
    share->measured = fmax(share->measured / fastest, SLOWEST);
    use(share);
    if (share->speed < 1) model->uneven = true;
  }
}

void speed_learn(const struct sched_instance *instance, const struct sched_key *key, uint32_t rows, uint64_t ran_ns) {
  struct sched_model *model = instance->model;
  if (one_share(model)) {
    if (model->uneven) compare(model); /* the others have gone */
    return;
  }
  const struct curve_point *point = curve_at(&key->curve, rows);
  if (point != NULL && curve_trusts(point)) {
    struct sched_share *share = instance->share;
    double seen = curve_ns(&key->curve, rows) / ((double)ran_ns * instance->speed);
    seen = fmin(fmax(seen, share->measured / WILD), share->measured * WILD);
    bool rare = model->batches - share->last_measured >= MEASURE_AFTER;
    share->measured += (seen - share->measured) * (rare ? RARE_STEP : STEP);
    share->last_measured = model->batches;
  }
  if (++model->compared >= COMPARE_EVERY) {
    model->compared = 0;
    compare(model);
  }
}

void speed_used(struct sched_share *share) {
  struct sched_model *model = share->model;
  if (one_share(model)) return;
  share->last_batch = ++model->batches;
  if (share->due) {
    share->due = false;
    place_all(share);
  }
  /* One share a batch, in turn. */
  struct list *next = model->shares.next;
  list_remove(next);
  list_push_back(&model->shares, next);
  struct sched_share *other = list_item(next, struct sched_share, link);
  if (other->speed >= 1 || other->due || model->batches - other->last_batch < MEASURE_AFTER) return;
  other->due = true;
  place_all(other);
}

double speed_at_work(const struct sched_model *model, double speed) {
  double sum = 0;
  uint32_t startable = 0;
  list_each (link, &model->shares) {
    const struct sched_share *share = list_item(link, struct sched_share, link);
    uint32_t n = dispatch_startable(share);
    sum += share->speed * (n + share->n_busy);
    startable += n;
  }
  return startable > 0 ? sum : sum + speed; /* behind a batch on a busy instance */
}
