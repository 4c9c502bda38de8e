#include <stdlib.h>
#include <string.h>

#include "sched/state.h"

enum { FIRST_BUCKETS = 16 };

static uint64_t hash_bytes(const uint8_t *bytes, size_t size) {
  uint64_t hash = size;
  for (size_t at = 0; at < size; at += sizeof hash) {
    uint64_t word = 0;
    memcpy(&word, bytes + at, size - at < sizeof word ? size - at : sizeof word);
    hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    hash ^= hash >> 29;
  }
  return hash;
}

static struct sched_key **bucket_of(const struct sched_model *model, uint64_t hash) {
  return &model->buckets[hash & (model->n_buckets - 1)];
}

static struct sched_key *find(const struct sched_model *model, uint64_t hash, const void *bytes, size_t size) {
  if (model->n_buckets == 0) return NULL;
  for (struct sched_key *key = *bucket_of(model, hash); key != NULL; key = key->next)
    if (key->hash == hash && key->size == size && (size == 0 || memcmp(key->bytes, bytes, size) == 0)) return key;
  return NULL;
}

/* Room for one key more; false without memory. */
static bool reserve(struct sched_model *model) {
  struct sched *sched = model->sched;
  if (!heap_reserve(&model->ready, model->n_keys + 1, &sched->params)) return false;
  if (!heap_reserve(&sched->hold_timers, sched->n_keys + 1, &sched->params)) return false;
  if (model->n_keys < model->n_buckets) return true;
  uint32_t n = model->n_buckets > 0 ? model->n_buckets * 2 : FIRST_BUCKETS;
  struct sched_key **buckets = sched_allocate(&sched->params, n * sizeof *buckets);
  if (buckets == NULL) return false;
  struct sched_key **old = model->buckets;
  uint32_t n_old = model->n_buckets;
  model->buckets = buckets;
  model->n_buckets = n;
  for (uint32_t i = 0; i < n_old; i++) {
    for (struct sched_key *key = old[i], *next; key != NULL; key = next) {
      next = key->next;
      struct sched_key **bucket = bucket_of(model, key->hash);
      key->next = *bucket;
      *bucket = key;
    }
  }
  free(old);
  return true;
}

static void key_free(struct sched_key *key) {
  struct sched_model *model = key->model;
  struct sched_key **at = bucket_of(model, key->hash);
  while (*at != key) at = &(*at)->next;
  *at = key->next;
  list_remove(&key->unused);
  model->n_keys--;
  model->n_unused--;
  model->sched->n_keys--;
  free(key->owner);
  free(key);
}

static void mark_unused(struct sched_key *key) {
  struct sched_model *model = key->model;
  list_push_back(&model->unused, &key->unused);
  if (++model->n_unused > model->sched->params.keys_per_model)
    key_free(list_item(model->unused.next, struct sched_key, unused));
}

void key_use(struct sched_key *key) {
  if (key->uses++ > 0) return;
  list_remove(&key->unused);
  key->model->n_unused--;
}

void key_release(struct sched_key *key) {
  if (--key->uses == 0) mark_unused(key);
}

void keys_free(struct sched_model *model) {
  while (!list_empty(&model->unused)) key_free(list_item(model->unused.next, struct sched_key, unused));
  free(model->buckets);
}

struct sched_key *sched_key_get(struct sched *sched, struct sched_model *model, const void *bytes, size_t size) {
  uint64_t hash = hash_bytes(bytes, size);
  struct sched_key *key = find(model, hash, bytes, size);
  if (key != NULL) {
    if (key->uses == 0) { /* most recently used */
      list_remove(&key->unused);
      list_push_back(&model->unused, &key->unused);
    }
    return key;
  }
  uint32_t n_ranks = 2 * model->n_levels;
  if (size > SIZE_MAX / 2 || !reserve(model)) return NULL;
  key = sched_allocate(&sched->params, sizeof *key + n_ranks * sizeof *key->ranks + size);
  if (key == NULL) return NULL;
  key->model = model;
  key->hash = hash;
  key->size = size;
  key->bytes = (uint8_t *)(key->ranks + n_ranks);
  if (size > 0) memcpy(key->bytes, bytes, size);
  for (uint32_t i = 0; i < n_ranks; i++) list_init(&key->ranks[i]);
  struct sched_key **bucket = bucket_of(model, hash);
  key->next = *bucket;
  *bucket = key;
  model->n_keys++;
  sched->n_keys++;
  mark_unused(key);
  return key;
}

void **sched_key_owner(struct sched_key *key) { return &key->owner; }

struct sched_model *sched_key_model(const struct sched_key *key) {
  return key->model;
}

uint64_t sched_key_batch_ns(const struct sched_key *key, uint32_t rows) {
  return (uint64_t)curve_ns(&key->curve, rows > 0 ? rows : 1);
}
