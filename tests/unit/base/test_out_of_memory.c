/* Buffers and arenas without memory: what was in them stays, and they go on when there is memory again. */
#include "base/arena.h"
#include "base/buffer.h"

#include "failing_allocator.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static mu_status fill_buffer(void *context) {
  struct buffer b;
  buffer_init(&b, 1 << 20);
  mu_status status = MU_OK;
  size_t written = 0;
  char line[300];
  memset(line, 'x', sizeof line);
  for (int i = 0; i < 20 && status == MU_OK; i++) {
    status = i % 2 == 0 ? buffer_append(&b, line, sizeof line) : buffer_print(&b, "%.*s", (int)sizeof line, line);
    if (status == MU_OK) written += sizeof line;
    assert_int_equal(b.failed, status != MU_OK);
    assert_int_equal(b.size, written);
  }
  const char *text = buffer_text(&b);
  if (text != NULL) assert_int_equal(strspn(text, "x"), written);
  if (text == NULL) status = MU_NO_MEMORY;
  allocations_work();
  buffer_clear(&b);
  assert_int_equal(buffer_puts(&b, "again"), MU_OK);
  assert_string_equal(buffer_text(&b), "again");
  buffer_free(&b);
  return status;
}

static mu_status fill_arena(void *context) {
  struct arena arena = {0};
  mu_status status = MU_OK;
  for (size_t size = 1; size < 100000 && status == MU_OK; size *= 3) {
    char *zeroed = arena_alloc(&arena, size, 1), *copy = arena_copy(&arena, "text", 4);
    if (zeroed == NULL || copy == NULL) status = MU_NO_MEMORY;
    if (zeroed != NULL) assert_int_equal(zeroed[size - 1], 0);
    if (copy != NULL) assert_string_equal(copy, "text");
  }
  allocations_work();
  assert_non_null(arena_alloc(&arena, 1, 1));
  arena_free(&arena);
  return status;
}

static void test_buffer(void **state) { fail_each_allocation("buffer", fill_buffer, NULL); }
static void test_arena(void **state) { fail_each_allocation("arena", fill_arena, NULL); }

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_buffer), cmocka_unit_test(test_arena)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
