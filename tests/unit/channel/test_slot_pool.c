#include "channel/arena_space.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { ARENA = 1 << 20 };

static struct slot_reservation reserve(struct slot_pool *pool, const struct slot_need *needs, uint32_t n,
                                       uint32_t rows) {
  struct slot_reservation reservation;
  assert_int_equal(slot_pool_reserve(pool, needs, n, rows, &reservation), MU_OK);
  assert_int_equal(reservation.n, n);
  assert_int_equal(reservation.rows, rows);
  return reservation;
}

/* Requests of the same moment lie row behind row, for every input. */
static void requests_line_up(void **state) {
  struct arena_space *space = arena_space_create(ARENA, NULL);
  struct slot_pool *pool = slot_pool_create(space, 16);
  const struct slot_need needs[] = {{.size = 100}, {.size = 12}, {.size = 4096}};
  const uint32_t rows[] = {1, 3, 1, 2, 4};
  struct slot_reservation held[5];
  uint64_t next[3];
  for (int r = 0; r < 5; r++) {
    held[r] = reserve(pool, needs, 3, rows[r]);
    for (int i = 0; i < 3; i++) {
      if (r == 0)
        assert_int_equal(held[r].offsets[i] % ARENA_ALIGNMENT, 0);
      else
        assert_int_equal(held[r].offsets[i], next[i]);
      next[i] = held[r].offsets[i] + rows[r] * needs[i].size;
    }
  }
  /* What was released is filled again, the lowest run that is long enough first. */
  slot_pool_release(pool, &held[0]);
  slot_pool_release(pool, &held[3]);
  struct slot_reservation two = reserve(pool, needs, 3, 2), one = reserve(pool, needs, 3, 1);
  assert_int_equal(two.slot, 5);
  assert_int_equal(one.slot, 0);
  slot_pool_free(pool);
  assert_int_equal(arena_space_used(space), 0);
  arena_space_free(space);
}

static void other_sizes_have_other_slabs(void **state) {
  struct arena_space *space = arena_space_create(ARENA, NULL);
  struct slot_pool *pool = slot_pool_create(space, 8);
  struct slot_need a[] = {{.size = 64}, {.size = 128}}, b[] = {{.size = 128}, {.size = 64}};
  struct slot_need c[] = {{.size = 64}, {.size = 128, .apart = true}};
  struct slot_reservation ra = reserve(pool, a, 2, 1), rb = reserve(pool, b, 2, 1), rc = reserve(pool, c, 2, 1);
  assert_ptr_not_equal(ra.slab, rb.slab);
  assert_ptr_not_equal(ra.slab, rc.slab);
  assert_ptr_equal(reserve(pool, a, 2, 1).slab, ra.slab);
  assert_ptr_equal(reserve(pool, b, 2, 1).slab, rb.slab);
  struct slot_need longer[] = {{.size = 64}, {.size = 99999, .apart = true}};
  assert_ptr_equal(reserve(pool, longer, 2, 1).slab, rc.slab); /* what stands apart may have any size */
  slot_pool_free(pool);
  arena_space_free(space);
}

static void more_rows_than_typical(void **state) {
  struct arena_space *space = arena_space_create(ARENA, NULL);
  struct slot_pool *pool = slot_pool_create(space, 2);
  const struct slot_need need = {.size = 1000};
  struct slot_reservation many = reserve(pool, &need, 1, 100);
  assert_true(many.offsets[0] + 100000 <= ARENA);
  assert_int_equal(many.slot, 0);
  slot_pool_release(pool, &many);
  /* The large slab is used by small requests as well. */
  assert_ptr_equal(reserve(pool, &need, 1, 1).slab, reserve(pool, &need, 1, 99).slab);
  slot_pool_free(pool);
  arena_space_free(space);
}

static void a_slab_leaves_room_for_others(void **state) {
  struct arena_space *space = arena_space_create(ARENA, NULL);
  struct slot_pool *pool = slot_pool_create(space, 1000);
  const struct slot_need need = {.size = ARENA / 32};
  reserve(pool, &need, 1, 1);
  assert_int_equal(arena_space_used(space), ARENA / 8);
  reserve(pool, &need, 1, 6); /* more than that share, because the request needs it */
  assert_int_equal(arena_space_used(space), ARENA / 8 + 6 * ARENA / 32);
  slot_pool_free(pool);
  arena_space_free(space);
}

static void all_or_nothing(void **state) {
  struct memory_budget budget = {0};
  struct arena_space *space = arena_space_create(ARENA, &budget);
  struct slot_pool *pool = slot_pool_create(space, 4);
  uint64_t wall;
  assert_int_equal(arena_space_take(space, ARENA / 2, &wall), MU_OK);
  const struct slot_need needs[] = {
      {.size = 100}, {.size = 1000, .apart = true}, {.size = ARENA / 2 - 1024, .apart = true}};
  struct slot_reservation reservation, before;
  memset(&reservation, 0x5a, sizeof reservation);
  before = reservation;
  assert_int_equal(slot_pool_reserve(pool, needs, 3, 1, &reservation), MU_UNAVAILABLE);
  assert_memory_equal(&reservation, &before, sizeof before);
  slot_pool_trim(pool);
  assert_int_equal(arena_space_used(space), ARENA / 2);
  arena_space_give(space, wall);
  reservation = reserve(pool, needs, 3, 1);
  slot_pool_release(pool, &reservation);
  slot_pool_trim(pool);
  assert_int_equal(arena_space_used(space), 0);
  assert_int_equal(budget.used, 0);
  slot_pool_free(pool);
  arena_space_free(space);
}

static void what_never_fits_is_too_large(void **state) {
  struct arena_space *space = arena_space_create(ARENA, NULL);
  struct slot_pool *pool = slot_pool_create(space, 4);
  struct slot_reservation reservation;
  const struct slot_need half[] = {{.size = ARENA / 2}, {.size = ARENA / 2, .apart = true}, {.size = 1}};
  assert_int_equal(slot_pool_reserve(pool, half, 3, 1, &reservation), MU_TOO_LARGE);
  assert_int_equal(slot_pool_reserve(pool, half, 1, 3, &reservation), MU_TOO_LARGE);
  const struct slot_need absurd[] = {{.size = UINT64_MAX / 2}, {.size = UINT64_MAX, .apart = true}};
  assert_int_equal(slot_pool_reserve(pool, absurd, 1, UINT32_MAX, &reservation), MU_TOO_LARGE);
  assert_int_equal(slot_pool_reserve(pool, absurd, 2, 1, &reservation), MU_TOO_LARGE);
  assert_int_equal(slot_pool_reserve(pool, absurd + 1, 1, 1, &reservation), MU_TOO_LARGE);
  assert_int_equal(arena_space_used(space), 0);
  reserve(pool, half, 2, 1); /* exactly everything */
  assert_int_equal(slot_pool_reserve(pool, half + 2, 1, 1, &reservation), MU_UNAVAILABLE);
  slot_pool_free(pool);
  arena_space_free(space);
}

static void a_small_budget_counts_like_a_small_arena(void **state) {
  struct memory_budget budget = {.limit = 4096};
  struct arena_space *space = arena_space_create(ARENA, &budget);
  struct slot_pool *pool = slot_pool_create(space, 64);
  const struct slot_need need = {.size = 1024}, large = {.size = 5000};
  struct slot_reservation reservation;
  assert_int_equal(slot_pool_reserve(pool, &large, 1, 1, &reservation), MU_TOO_LARGE);
  for (int i = 0; i < 4; i++) reserve(pool, &need, 1, 1);
  assert_int_equal(slot_pool_reserve(pool, &need, 1, 1, &reservation), MU_UNAVAILABLE);
  slot_pool_free(pool);
  assert_int_equal(budget.used, 0);
  arena_space_free(space);
}

static void no_bytes_and_no_inputs(void **state) {
  struct arena_space *space = arena_space_create(ARENA, NULL);
  struct slot_pool *pool = slot_pool_create(space, 4);
  const struct slot_need needs[] = {{.size = 0}, {.size = 8}, {.size = 0, .apart = true}};
  struct slot_reservation none = reserve(pool, NULL, 0, 3), zero = reserve(pool, needs, 1, 7),
                          mixed = reserve(pool, needs, 3, 2), apart = reserve(pool, needs + 2, 1, 1);
  for (int i = 0; i < 3; i++) assert_true(mixed.offsets[i] < ARENA);
  slot_pool_release(pool, &none);
  slot_pool_release(pool, &zero);
  slot_pool_release(pool, &mixed);
  slot_pool_release(pool, &apart);
  slot_pool_trim(pool);
  assert_int_equal(arena_space_used(space), 0);
  slot_pool_free(pool);
  arena_space_free(space);
}

/* A new kind of request finds the arena full of empty slabs of kinds that nobody asks for any more. */
static void empty_slabs_make_way(void **state) {
  struct arena_space *space = arena_space_create(ARENA, NULL);
  struct slot_pool *pool = slot_pool_create(space, 8);
  struct slot_reservation kept = {0};
  for (uint64_t size = 16000; size < 16200; size++) {
    const struct slot_need need = {.size = size};
    struct slot_reservation passing = reserve(pool, &need, 1, 1);
    if (size == 16100)
      kept = passing;
    else
      slot_pool_release(pool, &passing);
  }
  const struct slot_need need = {.size = ARENA * 3 / 8}; /* beside what is kept, wherever that is */
  struct slot_reservation large = reserve(pool, &need, 1, 1);
  assert_true(kept.offsets[0] + 16100 <= large.offsets[0] || large.offsets[0] + need.size <= kept.offsets[0]);
  slot_pool_release(pool, &kept);
  slot_pool_release(pool, &large);
  slot_pool_free(pool);
  arena_space_free(space);
}

/* When a whole slab does not fit but the request does, it gets a smaller one. */
static void a_full_arena_gives_smaller_slabs(void **state) {
  struct arena_space *space = arena_space_create(ARENA, NULL);
  struct slot_pool *pool = slot_pool_create(space, 100);
  uint64_t wall;
  assert_int_equal(arena_space_take(space, ARENA - 2048, &wall), MU_OK);
  const struct slot_need need = {.size = 1024};
  reserve(pool, &need, 1, 1);
  reserve(pool, &need, 1, 1);
  assert_int_equal(arena_space_used(space), ARENA);
  slot_pool_free(pool);
  arena_space_free(space);
}

/* ---- random runs: nothing overlaps, everything comes back -------------------------------------------------------- */

enum { HELD_MAX = 64, KINDS = 5 };

struct holding {
  struct slot_reservation reservation;
  struct slot_need needs[4];
  uint8_t mark;
};

static uint64_t bytes_of(const struct holding *holding, uint32_t i) {
  return holding->needs[i].size * (holding->needs[i].apart ? 1 : holding->reservation.rows);
}

static void draw(struct holding *holding, uint32_t *ret_n, uint32_t *ret_rows) {
  uint32_t kind = (uint32_t)rand() % KINDS;
  *ret_n = kind % 4 + 1;
  *ret_rows = (uint32_t)rand() % 10 + 1;
  for (uint32_t i = 0; i < *ret_n; i++) {
    bool apart = kind == 3 && i == 1;
    holding->needs[i] =
        (struct slot_need){.size = apart ? (uint64_t)rand() % 5000 : (kind * 37 + i * 211) % 700, .apart = apart};
  }
}

static void random_runs(void **state) {
  static uint8_t arena[1 << 18];
  for (unsigned seed = 1; seed <= 10; seed++) {
    struct memory_budget budget = {.limit = sizeof arena - 4096};
    struct arena_space *space = arena_space_create(sizeof arena, &budget);
    struct slot_pool *pool = slot_pool_create(space, 16);
    struct holding held[HELD_MAX];
    uint32_t n_held = 0, n, rows;
    srand(seed);
    for (int step = 0; step < 5000; step++) {
      if (n_held < HELD_MAX && rand() % 2 == 0) {
        struct holding *holding = &held[n_held];
        draw(holding, &n, &rows);
        mu_status status = slot_pool_reserve(pool, holding->needs, n, rows, &holding->reservation);
        if (status == MU_UNAVAILABLE) continue;
        assert_int_equal(status, MU_OK);
        holding->mark = (uint8_t)(step % 251);
        for (uint32_t i = 0; i < n; i++) {
          assert_true(holding->reservation.offsets[i] + bytes_of(holding, i) <= sizeof arena);
          memset(arena + holding->reservation.offsets[i], holding->mark, bytes_of(holding, i));
        }
        n_held++;
      } else if (n_held > 0) {
        uint32_t which = (uint32_t)rand() % n_held;
        struct holding *holding = &held[which];
        for (uint32_t i = 0; i < holding->reservation.n; i++)
          for (uint64_t k = 0; k < bytes_of(holding, i); k++)
            assert_int_equal(arena[holding->reservation.offsets[i] + k], holding->mark);
        slot_pool_release(pool, &holding->reservation);
        *holding = held[--n_held];
      }
      if (step % 1000 == 999) slot_pool_trim(pool);
    }
    while (n_held > 0) slot_pool_release(pool, &held[--n_held].reservation);
    slot_pool_trim(pool);
    assert_int_equal(arena_space_used(space), 0);
    assert_int_equal(budget.used, 0);
    slot_pool_free(pool);
    arena_space_free(space);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(requests_line_up),
      cmocka_unit_test(other_sizes_have_other_slabs),
      cmocka_unit_test(more_rows_than_typical),
      cmocka_unit_test(a_slab_leaves_room_for_others),
      cmocka_unit_test(all_or_nothing),
      cmocka_unit_test(what_never_fits_is_too_large),
      cmocka_unit_test(a_small_budget_counts_like_a_small_arena),
      cmocka_unit_test(no_bytes_and_no_inputs),
      cmocka_unit_test(empty_slabs_make_way),
      cmocka_unit_test(a_full_arena_gives_smaller_slabs),
      cmocka_unit_test(random_runs),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
