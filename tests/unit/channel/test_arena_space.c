#include "channel/arena_space.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint64_t rounded(uint64_t size) { return size == 0 ? ARENA_ALIGNMENT : (size + 63) / 64 * 64; }

static uint64_t take(struct arena_space *space, uint64_t size) {
  uint64_t offset;
  assert_int_equal(arena_space_take(space, size, &offset), MU_OK);
  assert_int_equal(offset % ARENA_ALIGNMENT, 0);
  return offset;
}

static mu_status try_take(struct arena_space *space, uint64_t size) {
  uint64_t offset = 12345;
  mu_status status = arena_space_take(space, size, &offset);
  if (status != MU_OK) assert_int_equal(offset, 12345);
  return status;
}

static void whole_arena_and_no_more(void **state) {
  struct arena_space *space = arena_space_create(1 << 20, NULL);
  assert_int_equal(try_take(space, (1 << 20) + 1), MU_TOO_LARGE);
  assert_int_equal(try_take(space, UINT64_MAX), MU_TOO_LARGE);
  uint64_t offset = take(space, 1 << 20);
  assert_int_equal(offset, 0);
  assert_int_equal(try_take(space, 0), MU_UNAVAILABLE);
  assert_int_equal(try_take(space, 1 << 20), MU_UNAVAILABLE);
  arena_space_give(space, offset);
  assert_int_equal(arena_space_used(space), 0);
  take(space, (1 << 20) - 1);
  arena_space_free(space);
  arena_space_free(NULL);
}

static void sizes_that_are_no_multiple(void **state) {
  struct arena_space *space = arena_space_create(64 * 10 + 63, NULL);
  assert_int_equal(arena_space_limit(space), 640);
  assert_int_equal(try_take(space, 641), MU_TOO_LARGE);
  take(space, 639);
  arena_space_free(space);
  space = arena_space_create(63, NULL);
  assert_int_equal(try_take(space, 0), MU_TOO_LARGE);
  arena_space_free(space);
}

static void nothing_has_a_place_too(void **state) {
  struct arena_space *space = arena_space_create(256, NULL);
  uint64_t a = take(space, 0), b = take(space, 0);
  assert_int_not_equal(a, b);
  assert_int_equal(arena_space_used(space), 128);
  arena_space_free(space);
}

static void what_was_freed_last_is_used_first(void **state) {
  struct arena_space *space = arena_space_create(1 << 20, NULL);
  uint64_t offsets[8];
  for (int i = 0; i < 8; i++) offsets[i] = take(space, 1000);
  arena_space_give(space, offsets[1]);
  arena_space_give(space, offsets[5]);
  arena_space_give(space, offsets[3]);
  assert_int_equal(take(space, 1000), offsets[3]);
  assert_int_equal(take(space, 1000), offsets[5]);
  assert_int_equal(take(space, 1000), offsets[1]);
  arena_space_free(space);
}

/* A block that fits must be found although others of its bin, which do not fit, stand before it. */
static void the_only_block_that_fits_is_found(void **state) {
  struct arena_space *space = arena_space_create(64 << 20, NULL);
  const uint64_t small = 512 * 64, large = 520 * 64; /* of the same bin */
  uint64_t smalls[100], wall[101], only = take(space, large), end;
  wall[0] = take(space, 1);
  for (int i = 0; i < 100; i++) {
    smalls[i] = take(space, small);
    wall[i + 1] = take(space, 1);
  }
  end = take(space, (64 << 20) - arena_space_used(space));
  arena_space_give(space, only);
  for (int i = 0; i < 100; i++) arena_space_give(space, smalls[i]);
  assert_int_equal(take(space, large), only);
  assert_int_equal(try_take(space, large), MU_UNAVAILABLE);
  for (int i = 0; i <= 100; i++) arena_space_give(space, wall[i]);
  take(space, 100 * (small + 64) + 64); /* neighbours have become one again */
  arena_space_give(space, end);
  arena_space_free(space);
}

static void budget_is_shared_and_given_back(void **state) {
  struct memory_budget budget = {.limit = 1000};
  struct arena_space *a = arena_space_create(1 << 20, &budget), *b = arena_space_create(640, &budget);
  assert_int_equal(arena_space_limit(a), 1000);
  assert_int_equal(arena_space_limit(b), 640);
  assert_int_equal(try_take(a, 1001), MU_TOO_LARGE);
  uint64_t offset = take(a, 600); /* 640 */
  assert_int_equal(budget.used, 640);
  assert_int_equal(try_take(b, 400), MU_UNAVAILABLE);
  assert_int_equal(budget.used, 640);
  take(b, 300); /* 320 */
  assert_int_equal(budget.used, 960);
  arena_space_give(a, offset);
  assert_int_equal(budget.used, 320);
  arena_space_free(b);
  assert_int_equal(budget.used, 0);
  arena_space_free(a);
}

/* What is taken from a share is taken from the whole as well, or from neither. */
static void a_budget_within_another(void **state) {
  struct memory_budget whole = {.limit = 1000}, share = {.limit = 800, .within = &whole};
  struct arena_space *space = arena_space_create(1 << 20, &share);
  assert_int_equal(arena_space_limit(space), 800);
  uint64_t offset = take(space, 640);
  assert_int_equal(whole.used, 640);
  assert_true(memory_budget_take(&whole, 300));
  assert_int_equal(try_take(space, 128), MU_UNAVAILABLE); /* the share has it, the whole has not */
  assert_int_equal(share.used, 640);
  assert_int_equal(whole.used, 940);
  whole.limit = 500;
  assert_int_equal(arena_space_limit(space), 500);
  arena_space_give(space, offset);
  assert_int_equal(share.used, 0);
  assert_int_equal(whole.used, 300);
  arena_space_free(space);
}

static void budget_arithmetic(void **state) {
  struct memory_budget bounded = {.limit = 10}, unbounded = {0};
  assert_true(memory_budget_take(&bounded, 10));
  assert_false(memory_budget_take(&bounded, 1));
  assert_false(memory_budget_take(&bounded, UINT64_MAX));
  assert_int_equal(bounded.used, 10);
  memory_budget_give(&bounded, 4);
  assert_true(memory_budget_take(&bounded, 4));
  assert_true(memory_budget_take(&unbounded, UINT64_MAX));
  assert_false(memory_budget_take(&unbounded, 1));
}

/* ---- against a map of granules ----------------------------------------------------------------------------------- */

enum { GRANULES = 4096, HELD_MAX = 512 };

struct model {
  bool taken[GRANULES];
  uint64_t offsets[HELD_MAX], sizes[HELD_MAX], used;
  uint32_t n;
};

static uint64_t largest_hole(const struct model *model) {
  uint64_t largest = 0, run = 0;
  for (int i = 0; i < GRANULES; i++) {
    run = model->taken[i] ? 0 : run + 1;
    if (run > largest) largest = run;
  }
  return largest * ARENA_ALIGNMENT;
}

static void model_take(struct model *model, struct arena_space *space, uint64_t size) {
  uint64_t offset;
  mu_status status = arena_space_take(space, size, &offset);
  if (rounded(size) > largest_hole(model)) {
    assert_int_equal(status, MU_UNAVAILABLE);
    return;
  }
  assert_int_equal(status, MU_OK);
  assert_int_equal(offset % ARENA_ALIGNMENT, 0);
  for (uint64_t i = offset / 64; i < (offset + rounded(size)) / 64; i++) {
    assert_true(i < GRANULES);
    assert_false(model->taken[i]);
    model->taken[i] = true;
  }
  model->offsets[model->n] = offset;
  model->sizes[model->n++] = rounded(size);
  model->used += rounded(size);
}

static void model_give(struct model *model, struct arena_space *space, uint32_t which) {
  uint64_t offset = model->offsets[which], size = model->sizes[which];
  arena_space_give(space, offset);
  memset(&model->taken[offset / 64], 0, size / 64);
  model->used -= size;
  model->n--;
  model->offsets[which] = model->offsets[model->n];
  model->sizes[which] = model->sizes[model->n];
}

static void random_runs_against_a_map(void **state) {
  for (unsigned seed = 1; seed <= 20; seed++) {
    struct memory_budget budget = {0};
    struct arena_space *space = arena_space_create(GRANULES * 64, &budget);
    struct model model = {.n = 0};
    srand(seed);
    for (int step = 0; step < 3000; step++) {
      bool wants = model.n == 0 || (model.n < HELD_MAX && rand() % 100 < (step / 500 % 2 == 0 ? 60 : 40));
      uint64_t size = (uint64_t)rand() % (rand() % 8 == 0 ? 60000 : 4000);
      if (wants)
        model_take(&model, space, size);
      else
        model_give(&model, space, (uint32_t)rand() % model.n);
      assert_int_equal(arena_space_used(space), model.used);
      assert_int_equal(budget.used, model.used);
    }
    while (model.n > 0) model_give(&model, space, model.n - 1);
    take(space, GRANULES * 64); /* nothing is left in pieces */
    arena_space_free(space);
    assert_int_equal(budget.used, 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(whole_arena_and_no_more),           cmocka_unit_test(sizes_that_are_no_multiple),
      cmocka_unit_test(nothing_has_a_place_too),           cmocka_unit_test(what_was_freed_last_is_used_first),
      cmocka_unit_test(the_only_block_that_fits_is_found), cmocka_unit_test(budget_is_shared_and_given_back),
      cmocka_unit_test(a_budget_within_another),           cmocka_unit_test(budget_arithmetic),
      cmocka_unit_test(random_runs_against_a_map),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
