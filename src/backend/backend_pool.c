#include "backend/backend_pool.h"

#include "base/clock.h"

#include <stdlib.h>

const struct backend_pool_settings backend_pool_defaults = {.failures_out = 3,
                                                            .checks_out = 2,
                                                            .check_interval_ns = 2 * NS_PER_S,
                                                            .check_first_ns = 100 * (uint64_t)NS_PER_MS,
                                                            .check_most_ns = NS_PER_S};

mu_status backend_pool_init(struct backend_pool *pool, size_t n, const struct backend_pool_settings *settings,
                            uint64_t now_ns, mu_error *err) {
  struct backend *items = calloc(n > 0 ? n : 1, sizeof *items);
  if (items == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for %zu backends", n);
  for (size_t i = 0; i < n; i++) items[i].check_at_ns = now_ns;
  *pool = (struct backend_pool){.settings = *settings, .items = items, .n = n};
  return MU_OK;
}

void backend_pool_free(struct backend_pool *pool) {
  free(pool->items);
  *pool = (struct backend_pool){0};
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static bool is_among(size_t index, const size_t *indices, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (indices[i] == index) return true;
  return false;
}

size_t backend_pool_choose(struct backend_pool *pool, const size_t *tried, size_t n_tried) {
  size_t best = BACKEND_NONE;
  for (size_t k = 0; k < pool->n; k++) {
    size_t i = (pool->turn + k) % pool->n;
    const struct backend *backend = &pool->items[i];
    if (backend->state != BACKEND_HEALTHY || backend->draining || is_among(i, tried, n_tried)) continue;
    if (best == BACKEND_NONE || backend->outstanding < pool->items[best].outstanding) best = i;
  }
  if (best != BACKEND_NONE) pool->turn = (best + 1) % pool->n;
  return best;
}

void backend_pool_begin(struct backend_pool *pool, size_t index) {
  pool->items[index].outstanding++;
  pool->items[index].total_requests++;
}

static bool take_out(struct backend_pool *pool, struct backend *backend, uint64_t now_ns) {
  if (backend->state != BACKEND_HEALTHY) return false;
  backend->state = BACKEND_UNHEALTHY;
  pool->n_healthy--;
  backend->check_wait_ns = pool->settings.check_first_ns;
  if (!backend->checking) backend->check_at_ns = time_add(now_ns, backend->check_wait_ns);
  return true;
}

bool backend_pool_end(struct backend_pool *pool, size_t index, enum backend_outcome outcome, uint64_t now_ns) {
  struct backend *backend = &pool->items[index];
  backend->outstanding--;
  if (outcome == BACKEND_NO_RESULT) return false;
  if (outcome == BACKEND_OK) {
    backend->failures = 0;
    return false;
  }
  backend->error_count++;
  backend->failures++;
  if (outcome != BACKEND_REFUSED && backend->failures < pool->settings.failures_out) return false;
  return take_out(pool, backend, now_ns);
}

void backend_pool_drain(struct backend_pool *pool, size_t index, bool draining) {
  pool->items[index].draining = draining;
}

/* ---- checks ------------------------------------------------------------------------------------------------------ */

size_t backend_pool_check(struct backend_pool *pool, uint64_t now_ns) {
  for (size_t i = 0; i < pool->n; i++) {
    if (pool->items[i].checking || pool->items[i].check_at_ns > now_ns) continue;
    pool->items[i].checking = true;
    return i;
  }
  return BACKEND_NONE;
}

/* One that is out is asked again soon, then less and less often. */
static void back_off(const struct backend_pool *pool, struct backend *backend, uint64_t now_ns) {
  const struct backend_pool_settings *settings = &pool->settings;
  if (backend->check_wait_ns < settings->check_first_ns) backend->check_wait_ns = settings->check_first_ns;
  backend->check_at_ns = time_add(now_ns, backend->check_wait_ns);
  uint64_t twice = time_add(backend->check_wait_ns, backend->check_wait_ns);
  backend->check_wait_ns = twice < settings->check_most_ns ? twice : settings->check_most_ns;
}

bool backend_pool_checked(struct backend_pool *pool, size_t index, enum backend_outcome outcome, uint64_t now_ns) {
  struct backend *backend = &pool->items[index];
  backend->checking = false;
  backend->check_at_ns = time_add(now_ns, pool->settings.check_interval_ns);
  if (outcome == BACKEND_OK) {
    bool back = backend->state == BACKEND_UNHEALTHY;
    backend->failures = back ? 0 : backend->failures;
    backend->check_failures = 0;
    backend->check_wait_ns = 0;
    backend->state = BACKEND_HEALTHY;
    pool->n_healthy += back;
    return back;
  }
  bool changed = false;
  if (outcome != BACKEND_NO_RESULT) {
    backend->check_failures++;
    if (outcome == BACKEND_REFUSED || backend->check_failures >= pool->settings.checks_out)
      changed = take_out(pool, backend, now_ns);
  }
  /* a doubtful one is looked at again soon, too */
  if (backend->state == BACKEND_UNHEALTHY || outcome != BACKEND_NO_RESULT) back_off(pool, backend, now_ns);
  return changed;
}

uint64_t backend_pool_next_check(const struct backend_pool *pool) {
  uint64_t next = TIME_NEVER;
  for (size_t i = 0; i < pool->n; i++)
    if (!pool->items[i].checking && pool->items[i].check_at_ns < next) next = pool->items[i].check_at_ns;
  return next;
}
