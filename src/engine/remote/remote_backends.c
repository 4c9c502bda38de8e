#include "engine/remote/remote_backends.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "proto/json/json_reader.h"

enum { WATCHERS_MAX = 8, WATCHER_STACK = 256 << 10, REASON_MAX = 200 };
static const uint64_t question_ns = NS_PER_S, pause_ns = 250 * (uint64_t)NS_PER_MS;

/* One of the threads that ask the backends how they are. */
struct watcher {
  struct remote_backends *backends;
  struct remote_transfer *transfer;
  pthread_t thread;
};

struct remote_backends {
  const struct remote_settings *settings;
  struct backend_list names;
  struct arena memory;
  struct remote_address *addresses;
  size_t n;
  const struct remote_metadata *metadata; /* NULL: not asked for */

  pthread_mutex_t lock;   /* of all that follows */
  pthread_cond_t changed; /* a watcher may have something to do */
  struct backend_pool pool;
  char (*reasons)[REASON_MAX]; /* the last failure of each; "": none since it came back */
  bool leaving;
  struct watcher watchers[WATCHERS_MAX];
  size_t n_watchers;
};

/* ---- where they are ---------------------------------------------------------------------------------------------- */

static mu_status no_memory(mu_error *err) { return mu_fail(err, MU_NO_MEMORY, "no memory for the backends"); }

static mu_status make_addresses(struct remote_backends *backends, const struct backend_list *numeric, mu_error *err) {
  char text[BACKEND_HOST_MAX + 64];
  if (numeric->n != backends->names.n) return mu_fail(err, MU_INVALID, "the backends' addresses are not those of them");
  backends->n = numeric->n;
  backends->addresses = arena_alloc(&backends->memory, numeric->n, sizeof *backends->addresses);
  if (backends->addresses == NULL) return no_memory(err);
  for (size_t i = 0; i < numeric->n; i++) {
    struct remote_address *address = &backends->addresses[i];
    int n = snprintf(text, sizeof text, "http://%s", numeric->items[i].name);
    address->url = arena_copy(&backends->memory, text, (size_t)n);
    n = snprintf(text, sizeof text, "Host: %s", backends->names.items[i].name);
    address->host = arena_copy(&backends->memory, text, (size_t)n);
    if (address->url == NULL || address->host == NULL) return no_memory(err);
  }
  return MU_OK;
}

static mu_status find_addresses(struct remote_backends *backends, const char *numeric, mu_error *err) {
  struct backend_list list = {0};
  mu_status status = backend_list_parse(&backends->names, backends->settings->backends, err);
  if (status == MU_OK) status = backend_list_parse(&list, numeric, err);
  if (status == MU_OK) status = make_addresses(backends, &list, err);
  backend_list_free(&list);
  return status;
}

size_t remote_backends_count(const struct remote_backends *backends) { return backends->n; }

const struct remote_address *remote_backends_address(const struct remote_backends *backends, size_t index) {
  return &backends->addresses[index];
}

const char *remote_backends_name(const struct remote_backends *backends, size_t index) {
  return backends->names.items[index].name;
}

/* ---- what becomes of calls and checks ---------------------------------------------------------------------------- */

static enum backend_outcome judge(const struct remote_outcome *outcome) {
  static const enum backend_outcome outcomes[] = {
      [REMOTE_ANSWERED] = BACKEND_OK,       [REMOTE_DECLINED] = BACKEND_OK,
      [REMOTE_REFUSED] = BACKEND_REFUSED,   [REMOTE_BROKEN] = BACKEND_FAILED,
      [REMOTE_MALFORMED] = BACKEND_FAILED,  [REMOTE_LATE] = BACKEND_FAILED,
      [REMOTE_STOPPED] = BACKEND_NO_RESULT, [REMOTE_FAILED_HERE] = BACKEND_NO_RESULT,
  };
  return outcome->end == REMOTE_DECLINED && outcome->unfit ? BACKEND_FAILED : outcomes[outcome->end];
}

/* A check asks for one thing only: any refusal of it is a failure. */
static enum backend_outcome judge_check(const struct remote_outcome *outcome) {
  return outcome->end == REMOTE_DECLINED ? BACKEND_FAILED : judge(outcome);
}

/* Locked. */
static void note(struct remote_backends *backends, size_t index, enum backend_outcome result,
                 const struct remote_outcome *outcome) {
  if (result == BACKEND_FAILED || result == BACKEND_REFUSED)
    snprintf(backends->reasons[index], REASON_MAX, "%.*s", REASON_MAX - 1, outcome->error.message);
}

/* Locked. */
static void take_check(struct remote_backends *backends, size_t index, const struct remote_outcome *outcome) {
  enum backend_outcome result = judge_check(outcome);
  note(backends, index, result, outcome);
  bool changed = backend_pool_checked(&backends->pool, index, result, clock_now_ns());
  if (changed && result == BACKEND_OK) backends->reasons[index][0] = '\0';
}

size_t remote_backends_begin(struct remote_backends *backends, const size_t *tried, size_t n_tried) {
  pthread_mutex_lock(&backends->lock);
  size_t index = backend_pool_choose(&backends->pool, tried, n_tried);
  if (index != BACKEND_NONE) backend_pool_begin(&backends->pool, index);
  pthread_mutex_unlock(&backends->lock);
  return index;
}

void remote_backends_end(struct remote_backends *backends, size_t index, const struct remote_outcome *outcome) {
  enum backend_outcome result = judge(outcome);
  pthread_mutex_lock(&backends->lock);
  note(backends, index, result, outcome);
  if (backend_pool_end(&backends->pool, index, result, clock_now_ns())) pthread_cond_signal(&backends->changed);
  pthread_mutex_unlock(&backends->lock);
}

/* ---- what the model is ------------------------------------------------------------------------------------------- */

/* State of remote_backends_learn. */
struct lesson {
  struct remote_backends *backends;
  struct remote_asker asker;
  struct remote_metadata metadata; /* of the first that has answered */
  size_t first;                    /* which that is; BACKEND_NONE: none so far */
  uint32_t max_batch;
  mu_error last; /* why one did not answer */
};

static mu_status compare(const struct lesson *lesson, size_t index, const struct remote_metadata *metadata,
                         mu_error *err) {
  mu_error why;
  if (remote_metadata_compare(&lesson->metadata, metadata, &why) == MU_OK) return MU_OK;
  return mu_fail(err, MU_INVALID, "the backends do not serve the same model: %s has %.300s, as %s says",
                 remote_backends_name(lesson->backends, index), why.message,
                 remote_backends_name(lesson->backends, lesson->first));
}

static mu_status learn_from(struct lesson *lesson, size_t index, struct remote_outcome *outcome, mu_error *err) {
  const struct remote_address *address = &lesson->backends->addresses[index];
  struct remote_metadata metadata;
  remote_ask_metadata(&lesson->asker, address, &metadata, outcome);
  if (outcome->end == REMOTE_FAILED_HERE && outcome->status == MU_NO_MEMORY)
    return mu_fail(err, MU_NO_MEMORY, "%s", outcome->error.message);
  if (outcome->end != REMOTE_ANSWERED) {
    mu_fail(&lesson->last, outcome->status, "%s: %.400s", remote_backends_name(lesson->backends, index),
            outcome->error.message);
    return MU_OK;
  }
  uint32_t rows;
  mu_status status = remote_ask_max_batch(&lesson->asker, address, &rows, err);
  if (status != MU_OK) {
    remote_metadata_free(&metadata);
    return status;
  }
  if (rows > 0 && (lesson->max_batch == 0 || rows < lesson->max_batch)) lesson->max_batch = rows;
  if (lesson->first == BACKEND_NONE) {
    lesson->metadata = metadata;
    lesson->first = index;
    return MU_OK;
  }
  status = compare(lesson, index, &metadata, err);
  remote_metadata_free(&metadata);
  return status;
}

/* Who has answered is healthy from here on; the others are looked at again soon. */
static mu_status ask_all(struct lesson *lesson, mu_error *err) {
  struct remote_backends *backends = lesson->backends;
  mu_status status = MU_OK;
  for (size_t i; status == MU_OK && (i = backend_pool_check(&backends->pool, clock_now_ns())) != BACKEND_NONE;) {
    struct remote_outcome outcome;
    status = learn_from(lesson, i, &outcome, err);
    take_check(backends, i, &outcome);
  }
  return status;
}

mu_status remote_backends_learn(struct remote_backends *backends, struct remote_metadata *ret_metadata,
                                uint32_t *ret_max_batch, mu_error *err) {
  struct lesson lesson = {
      .backends = backends, .asker = {.settings = backends->settings, .ns = question_ns}, .first = BACKEND_NONE};
  uint64_t until = time_add(clock_now_ns(), backends->settings->timeout_ns);
  mu_status status = remote_transfer_create(backends->n, &lesson.asker.transfer, err);
  while (status == MU_OK) {
    status = ask_all(&lesson, err);
    if (status != MU_OK || lesson.first != BACKEND_NONE || clock_now_ns() >= until) break;
    (void)remote_transfer_wait(lesson.asker.transfer, pause_ns);
  }
  if (status == MU_OK && lesson.first == BACKEND_NONE)
    status = mu_fail(err, MU_UNAVAILABLE, "no backend says what the model is: %.450s", lesson.last.message);
  remote_transfer_free(lesson.asker.transfer);
  if (status == MU_OK) {
    *ret_metadata = lesson.metadata;
    *ret_max_batch = lesson.max_batch;
  } else if (lesson.first != BACKEND_NONE) {
    remote_metadata_free(&lesson.metadata);
  }
  return status;
}

/* ---- checks ------------------------------------------------------------------------------------------------------ */

/* One that was out may be another server now. */
static void check(const struct remote_backends *backends, const struct remote_asker *asker, size_t index, bool was_out,
                  struct remote_outcome *outcome) {
  const struct remote_address *address = &backends->addresses[index];
  struct remote_metadata metadata;
  mu_error why;
  remote_ask_ready(asker, address, outcome);
  if (outcome->end != REMOTE_ANSWERED || !was_out || backends->metadata == NULL) return;
  remote_ask_metadata(asker, address, &metadata, outcome);
  if (outcome->end != REMOTE_ANSWERED) return;
  if (remote_metadata_compare(backends->metadata, &metadata, &why) != MU_OK) {
    outcome->end = REMOTE_MALFORMED;
    mu_fail(&outcome->error, MU_INVALID, "it serves another model: %.300s", why.message);
  }
  remote_metadata_free(&metadata);
}

/* Locked. */
static void wait_for_work(struct remote_backends *backends) {
  uint64_t next = backend_pool_next_check(&backends->pool);
  struct timespec at = {.tv_sec = (time_t)(next / NS_PER_S), .tv_nsec = (long)(next % NS_PER_S)};
  if (next == TIME_NEVER)
    pthread_cond_wait(&backends->changed, &backends->lock);
  else
    pthread_cond_timedwait(&backends->changed, &backends->lock, &at);
}

static void *watch(void *argument) {
  struct watcher *watcher = argument;
  struct remote_backends *backends = watcher->backends;
  const struct remote_asker asker = {watcher->transfer, backends->settings, question_ns};
  pthread_mutex_lock(&backends->lock);
  while (!backends->leaving) {
    size_t index = backend_pool_check(&backends->pool, clock_now_ns());
    if (index == BACKEND_NONE) {
      wait_for_work(backends);
      continue;
    }
    bool was_out = backends->pool.items[index].state != BACKEND_HEALTHY;
    struct remote_outcome outcome;
    pthread_mutex_unlock(&backends->lock);
    check(backends, &asker, index, was_out, &outcome);
    pthread_mutex_lock(&backends->lock);
    take_check(backends, index, &outcome);
    pthread_cond_signal(&backends->changed); /* who slept without an end has something to wait for now */
  }
  pthread_mutex_unlock(&backends->lock);
  return NULL;
}

static mu_status start_watcher(struct remote_backends *backends, mu_error *err) {
  struct watcher *watcher = &backends->watchers[backends->n_watchers];
  pthread_attr_t attributes;
  mu_status status = remote_transfer_create(backends->n, &watcher->transfer, err);
  if (status != MU_OK) return status;
  watcher->backends = backends;
  bool started = pthread_attr_init(&attributes) == 0;
  if (started) {
    pthread_attr_setstacksize(&attributes, WATCHER_STACK);
    started = pthread_create(&watcher->thread, &attributes, watch, watcher) == 0;
    pthread_attr_destroy(&attributes);
  }
  if (started) {
    backends->n_watchers++;
    return MU_OK;
  }
  remote_transfer_free(watcher->transfer);
  return no_memory(err);
}

/* Several, so that backends that do not answer hold up no others. */
mu_status remote_backends_watch(struct remote_backends *backends, const struct remote_metadata *metadata,
                                mu_error *err) {
  size_t n = backends->n < WATCHERS_MAX ? backends->n : WATCHERS_MAX;
  backends->metadata = metadata;
  mu_status status = MU_OK;
  while (status == MU_OK && backends->n_watchers < n) status = start_watcher(backends, err);
  return status;
}

/* ---- report ------------------------------------------------------------------------------------------------------ */

mu_status remote_backends_report(struct remote_backends *backends, struct buffer *out) {
  buffer_putc(out, '[');
  pthread_mutex_lock(&backends->lock);
  for (size_t i = 0; i < backends->n; i++) {
    const struct backend *backend = &backends->pool.items[i];
    const char *name = remote_backends_name(backends, i), *reason = backends->reasons[i];
    buffer_puts(out, i > 0 ? ",{\"address\":" : "{\"address\":");
    json_write_string(out, name, strlen(name));
    buffer_print(out, ",\"healthy\":%s,\"total_requests\":%llu,\"error_count\":%llu,\"error\":",
                 backend->state == BACKEND_HEALTHY ? "true" : "false", (unsigned long long)backend->total_requests,
                 (unsigned long long)backend->error_count);
    json_write_string(out, reason, strlen(reason));
    buffer_putc(out, '}');
  }
  pthread_mutex_unlock(&backends->lock);
  buffer_putc(out, ']');
  return out->failed ? MU_NO_MEMORY : MU_OK;
}

/* ---- their life -------------------------------------------------------------------------------------------------- */

static mu_status init_condition(pthread_cond_t *condition, mu_error *err) {
  pthread_condattr_t attributes; /* condition variables wait on the wall clock unless they are told otherwise */
  if (pthread_condattr_init(&attributes) != 0) return no_memory(err);
  bool done =
      pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 && pthread_cond_init(condition, &attributes) == 0;
  pthread_condattr_destroy(&attributes);
  return done ? MU_OK : no_memory(err);
}

mu_status remote_backends_create(const struct remote_settings *settings, const char *numeric,
                                 struct remote_backends **ret_backends, mu_error *err) {
  struct remote_backends *backends = calloc(1, sizeof *backends);
  if (backends == NULL) return no_memory(err);
  backends->settings = settings;
  if (init_condition(&backends->changed, err) != MU_OK) {
    free(backends);
    return MU_NO_MEMORY;
  }
  pthread_mutex_init(&backends->lock, NULL);
  struct backend_pool_settings pool = backend_pool_defaults;
  pool.check_interval_ns = settings->interval_ns;
  if (pool.check_most_ns > settings->interval_ns) pool.check_most_ns = settings->interval_ns;
  if (pool.check_first_ns > pool.check_most_ns) pool.check_first_ns = pool.check_most_ns;
  mu_status status = find_addresses(backends, numeric, err);
  if (status == MU_OK) status = backend_pool_init(&backends->pool, backends->n, &pool, clock_now_ns(), err);
  if (status == MU_OK) {
    backends->reasons = calloc(backends->n, sizeof *backends->reasons);
    if (backends->reasons == NULL) status = no_memory(err);
  }
  if (status == MU_OK)
    *ret_backends = backends;
  else
    remote_backends_free(backends);
  return status;
}

void remote_backends_free(struct remote_backends *backends) {
  if (backends == NULL) return;
  pthread_mutex_lock(&backends->lock);
  backends->leaving = true;
  pthread_cond_broadcast(&backends->changed);
  pthread_mutex_unlock(&backends->lock);
  for (size_t i = 0; i < backends->n_watchers; i++) {
    remote_transfer_stop(backends->watchers[i].transfer);
    pthread_join(backends->watchers[i].thread, NULL);
    remote_transfer_free(backends->watchers[i].transfer);
  }
  backend_pool_free(&backends->pool);
  backend_list_free(&backends->names);
  arena_free(&backends->memory);
  free(backends->reasons);
  pthread_cond_destroy(&backends->changed);
  pthread_mutex_destroy(&backends->lock);
  free(backends);
}
