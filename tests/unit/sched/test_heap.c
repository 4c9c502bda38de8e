/* The heap against a plain search, with random puts, moves and removals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
/* cmocka needs the above */
#include <cmocka.h>

#include "sched/heap.h"
#include "simulation.h"

enum { ELEMENTS = 200 };

struct element {
  char before;
  uint32_t at;
  uint64_t key;
};

static void *plain(void *context, size_t size) { return calloc(1, size); }

static void test_random_operations(void **state) {
  struct element elements[ELEMENTS] = {0};
  struct heap heap = {0};
  struct sched_params memory = {.allocate = plain};
  assert_null(heap_top(&heap));
  assert_true(heap_top_key(&heap) == UINT64_MAX);
  assert_true(heap_reserve(&heap, ELEMENTS, &memory));
  uint64_t random = 42;
  for (int i = 0; i < 100000; i++) {
    struct element *e = &elements[random_below(&random, ELEMENTS)];
    if (random_below(&random, 5) < 3) {
      e->key = random_below(&random, 100);
      heap_put(&heap, &e->at, e->key);
    } else {
      heap_remove(&heap, &e->at); /* also when it is not in */
      assert_int_equal(e->at, 0);
    }
    uint32_t n = 0;
    uint64_t least = UINT64_MAX;
    for (int k = 0; k < ELEMENTS; k++) {
      if (elements[k].at == 0) continue;
      n++;
      if (elements[k].key < least) least = elements[k].key;
    }
    assert_int_equal(heap.n, n);
    assert_true(heap_top_key(&heap) == least);
    if (n > 0) assert_true(heap_item(heap_top(&heap), struct element, at)->key == least);
  }
  heap_clear(&heap);
}

static void test_too_many(void **state) {
  struct heap heap = {0};
  struct sched_params memory = {.allocate = plain};
  assert_false(heap_reserve(&heap, UINT32_MAX, &memory));
  assert_null(heap.entries);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_operations), cmocka_unit_test(test_too_many)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
