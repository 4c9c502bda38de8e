/* Shape keys: found again, bounded, pinned while in use, freed with what the owner hung on them. */
#include "sched_fixture.h"

static struct sched_key *key_of(struct world *w, uint32_t number) {
  struct sched_key *key = sched_key_get(w->sched, w->model, &number, sizeof number);
  assert_non_null(key);
  return key;
}

static void test_same_bytes_same_key(void **state) {
  struct world *w = world_open(at_once(4), 1);
  struct sched_key *key = sched_key_get(w->sched, w->model, "0123456789abc", 13);
  assert_ptr_equal(sched_key_get(w->sched, w->model, "0123456789abc", 13), key);
  assert_ptr_not_equal(sched_key_get(w->sched, w->model, "0123456789abd", 13), key);
  assert_ptr_not_equal(sched_key_get(w->sched, w->model, "0123456789ab", 12), key);
  struct sched_key *zeros = sched_key_get(w->sched, w->model, "\0\0", 2);
  assert_ptr_not_equal(sched_key_get(w->sched, w->model, "\0\0\0", 3), zeros); /* padding is not content */
  struct sched_key *none = sched_key_get(w->sched, w->model, NULL, 0);
  assert_ptr_equal(sched_key_get(w->sched, w->model, NULL, 0), none);
  assert_ptr_equal(sched_key_model(key), w->model);
  assert_int_equal(sched_key_batch_ns(key, 1), 0);
  world_close(w);
}

static void test_ten_thousand_shapes_stay_bounded(void **state) {
  struct world *w = world_open(at_once(4), 1);
  add_instance(w);
  for (uint32_t i = 0; i < 10000; i++) {
    w->n_jobs = 0;
    struct sched_job *job = new_job(w, 'x', 1);
    job->key = key_of(w, i);
    *sched_key_owner(job->key) = malloc(100); /* freed with the key: the sanitizer counts */
    assert_int_equal(submit(w, job), MU_OK);
    done(w, runs(w, 1));
    assert_true(look(w).keys <= 256);
  }
  world_close(w);
}

static void test_keys_in_use_are_pinned(void **state) {
  struct world *w = world_open(at_once(4), 1);
  struct sched_key *pinned[300];
  for (uint32_t i = 0; i < 300; i++) {
    struct sched_job *job = new_job(w, 'x', 1);
    job->key = pinned[i] = key_of(w, i);
    assert_int_equal(submit(w, job), MU_OK);
  }
  for (uint32_t i = 0; i < 1000; i++) key_of(w, 1000 + i);
  assert_int_equal(look(w).keys, 300 + 256);
  for (uint32_t i = 0; i < 300; i++) assert_ptr_equal(key_of(w, i), pinned[i]);
  add_instance(w);
  for (uint32_t i = 0; i < 300; i++) {
    struct sched_batch *batch = runs(w, 1);
    assert_ptr_equal(batch->key, pinned[i]);
    done(w, batch);
  }
  assert_int_equal(look(w).keys, 256);
  world_close(w);
}

static void test_the_least_recently_used_goes(void **state) {
  struct sched *sched = sched_create(&(struct sched_params){.keys_per_model = 2});
  struct sched_model *model = sched_add_model(sched, &(struct sched_model_params){0});
  struct sched_key *a = sched_key_get(sched, model, "a", 1);
  *sched_key_owner(a) = malloc(1);
  sched_key_get(sched, model, "b", 1);
  assert_ptr_equal(sched_key_get(sched, model, "a", 1), a);
  sched_key_get(sched, model, "c", 1); /* b leaves */
  assert_non_null(*sched_key_owner(sched_key_get(sched, model, "a", 1)));
  sched_key_get(sched, model, "b", 1); /* c leaves, a stays */
  assert_non_null(*sched_key_owner(sched_key_get(sched, model, "a", 1)));
  sched_key_get(sched, model, "c", 1);
  sched_key_get(sched, model, "d", 1);
  assert_null(*sched_key_owner(sched_key_get(sched, model, "a", 1))); /* made anew */
  sched_free(sched);
}

static void test_what_was_learned_stays_with_the_key(void **state) {
  struct world *w = world_open(at_once(4), 1);
  add_instance(w);
  for (int i = 0; i < 3; i++) {
    ask(w, 'a');
    runs_for(w, runs(w, 1), 5000);
    ask_rows(w, 'a', 3);
    runs_for(w, runs(w, 1), 9000);
  }
  struct sched_key *key = sched_key_get(w->sched, w->model, "a", 1);
  assert_int_equal(sched_key_batch_ns(key, 1), 5000);
  assert_int_equal(sched_key_batch_ns(key, 2), 7000);
  assert_int_equal(sched_key_batch_ns(key, 3), 9000);
  assert_int_equal(sched_key_batch_ns(sched_key_get(w->sched, w->model, "b", 1), 1), 0);
  world_close(w);
}

/* A batch of one row, dispatched now and seen to have ended 9 us later; the instance says that it ran from `from` to
 * `to` after the dispatch. What is learned. */
static uint64_t learned(struct world *w, int64_t from, int64_t to) {
  for (int i = 0; i < 40; i++) {
    ask(w, 'a');
    struct sched_batch *batch = runs(w, 1);
    batch->run_started_ns = w->now + (uint64_t)from;
    batch->run_ended_ns = w->now + (uint64_t)to;
    runs_for(w, batch, 9000);
  }
  return sched_key_batch_ns(sched_key_get(w->sched, w->model, "a", 1), 1);
}

static void test_the_instance_knows_best_how_long_it_ran(void **state) {
  static const struct {
    int64_t from, to;
    uint64_t learned;
  } cases[] = {
      {1000, 4000, 3000},  {0, 9000, 9000},         {-1, 4000, 9000}, /* before it was dispatched */
      {4000, 1000, 9000},  {4000, 4000, 9000},                        /* backwards */
      {1000, 9001, 9000},                                             /* in the future */
      {-1000000, 1, 9000}, {1000, INT64_MIN, 9000},                   /* anything */
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct world *w = world_open(at_once(4), 1);
    add_instance(w);
    assert_int_equal(learned(w, cases[i].from, cases[i].to), cases[i].learned);
    world_close(w);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_same_bytes_same_key),
      cmocka_unit_test(test_ten_thousand_shapes_stay_bounded),
      cmocka_unit_test(test_keys_in_use_are_pinned),
      cmocka_unit_test(test_the_least_recently_used_goes),
      cmocka_unit_test(test_what_was_learned_stays_with_the_key),
      cmocka_unit_test(test_the_instance_knows_best_how_long_it_ran),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
