/*
 * Runs a scenario again and again with the 1st, 2nd, 3rd … allocation failing, until a run does not reach the failing
 * one; then the same with every allocation from the k-th on failing (memory that does not come back). Each run must
 * end with an allowed status and give back every block it took: what is left over is named, with the stack of the
 * allocation that failed.
 *
 * The allocator stands in for malloc and its relatives in the whole program, so libraries (jansson, zlib, libyaml, the
 * C library) are failed too; mmap, memfd_create and pthread_create fail where muster itself calls them. It works under
 * the sanitizers. libuv is left out: it calls abort() by design where it lacks memory for its table of descriptors.
 *
 * A scenario runs with failures armed. It keeps its own set-up and what must work afterwards apart:
 *
 *   static mu_status infer(void *context) {
 *     allocations_work();                  // set-up: nothing fails here
 *     struct thing *thing = thing_create();
 *     allocations_fail();                  // from here on the k-th allocation fails
 *     mu_status status = thing_use(thing);
 *     allocations_work();
 *     if (status == MU_OK) assert_...      // right when it says so
 *     assert_int_equal(thing_use(thing), MU_OK);   // and usable again, whatever came before
 *     thing_free(thing);
 *     return status;
 *   }
 */
#ifndef TEST_FAILING_ALLOCATOR_H
#define TEST_FAILING_ALLOCATOR_H

#include <muster/muster.h>

#include <stdbool.h>

typedef mu_status (*allocation_scenario)(void *context);

/* Runs the scenario as described; allowed: MU_OK, MU_NO_MEMORY. Fails the test (cmocka) otherwise, or when the
 * scenario has no allocation at all. Prints how many there are. */
void fail_each_allocation(const char *name, allocation_scenario scenario, void *context);

/* Inside a scenario, any thread: arm and disarm. */
void allocations_fail(void);
void allocations_work(void);

/* Arming reaches forked processes too. A scenario that drives a child turns failures off in itself (true, the default,
 * is inherited: so the child turns them on again) and on before it returns. */
void allocations_fail_here(bool here);

/* Whether an allocation has been failed in this run: then a poorer result than usual is allowed. */
bool allocation_has_failed(void);

#endif
