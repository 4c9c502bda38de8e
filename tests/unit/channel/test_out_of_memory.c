/* Both ends of a channel and the arenas' bookkeeping without memory. */
#include "channel/arena_space.h"
#include "channel/channel.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "failing_allocator.h"

#include "channel_fixture.h"

/* The handshake, then a job there and back. What fails on one side must end the other one's wait too. */
static mu_status attach_and_run(void *context) {
  struct channel_fixture f = {.input.fd = -1};
  struct channel_params params = fixture_params(2, 8);
  int ends[2];
  mu_error err = {""};
  allocations_work();
  fixture_sockets(ends);
  struct channel_job *job = fixture_job(8), *got = fixture_job(8);
  struct channel_completion *completion = calloc(2, sizeof *completion);
  assert_non_null(completion);
  allocations_fail();
  mu_status status = shared_memory_create("no-memory", FIXTURE_INPUT_ARENA, &f.input, &err);
  bool taken[2] = {false, false};
  if (status == MU_OK) {
    status = channel_gate_offer(&params, ends[0], &f.input, &f.gate, &err);
    taken[0] = status == MU_OK;
  }
  if (status == MU_OK) {
    status = channel_worker_accept(ends[1], &f.worker, &err);
    taken[1] = true;
    if (status != MU_OK) close(ends[1]);
    mu_error said = {""};
    mu_status heard = channel_gate_finish(f.gate, &said);
    if (status != MU_OK) assert_true(heard == MU_NO_MEMORY || heard == MU_CANCELED); /* the worker says so, or has left */
    if (status == MU_OK) status = heard;
    if (status != MU_OK) assert_true((heard == MU_OK ? err : said).message[0] != '\0');
  }
  if (status == MU_OK) {
    uint32_t lane;
    allocations_fail();
    fixture_fill_job(job, 1, 2, 0);
    assert_int_equal(channel_gate_submit(f.gate, 1, job), MU_OK); /* nothing from here on needs memory */
    channel_gate_ring(f.gate);
    assert_int_equal(channel_worker_wait(f.worker, 1, got), MU_OK);
    fixture_fill_completion(&completion[0], got);
    assert_int_equal(channel_worker_complete(f.worker, 1, &completion[0]), MU_OK);
    assert_int_equal(channel_gate_next(f.gate, &lane, &completion[1]), MU_OK);
    assert_int_equal(completion[1].batch, 1);
  }
  fixture_close(&f);
  for (int i = 0; i < 2; i++)
    if (!taken[i]) assert_int_equal(close(ends[i]), 0); /* still the caller's */
  fixture_job_free(job);
  fixture_job_free(got);
  free(completion);
  return status;
}

static mu_status reserve(void *context) {
  enum { HELD = 200 };
  struct memory_budget budget = {.limit = 1 << 30};
  struct arena_space *space = arena_space_create(1 << 26, &budget);
  struct slot_pool *pool = space != NULL ? slot_pool_create(space, 4) : NULL;
  static struct slot_reservation held[HELD];
  mu_status status = pool != NULL ? MU_OK : MU_NO_MEMORY;
  uint32_t n = 0;
  for (uint32_t i = 0; pool != NULL && i < HELD; i++) {
    struct slot_need needs[] = {{.size = 64 + 64 * (i % 7)}, {.size = 100 + i, .apart = true}, {.size = 1 << 12}};
    mu_status one = slot_pool_reserve(pool, needs, 3, 1 + i % 3, &held[n]);
    assert_true(one == MU_OK || one == MU_NO_MEMORY);
    if (one == MU_OK) n++;
    if (one != MU_OK) status = one;
    if (i % 5 == 4 && n > 0) slot_pool_release(pool, &held[--n]);
  }
  while (n > 0) slot_pool_release(pool, &held[--n]);
  if (pool != NULL) {
    slot_pool_trim(pool);
    assert_int_equal(arena_space_used(space), 0); /* nothing half taken */
    assert_int_equal(budget.used, 0);
    allocations_work();
    struct slot_need all = {.size = (1 << 26) - 4096};
    assert_int_equal(slot_pool_reserve(pool, &all, 1, 1, &held[0]), MU_OK); /* and in one piece again */
    slot_pool_release(pool, &held[0]);
  }
  slot_pool_free(pool);
  arena_space_free(space);
  assert_int_equal(budget.used, 0);
  return status;
}

static void test_attach(void **state) { fail_each_allocation("attachment", attach_and_run, NULL); }
static void test_reserve(void **state) { fail_each_allocation("slots in an arena", reserve, NULL); }

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_attach), cmocka_unit_test(test_reserve)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
