/* Lists and pools of backends without memory. */
#include "backend/backend_list.h"
#include "backend/backend_pool.h"

#include "failing_allocator.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static mu_status make_list(void *context) {
  struct backend_list list = {0};
  struct backend_pool pool = {0};
  mu_error err;
  mu_status status = backend_list_parse(&list, "127.0.0.1:1-40,[::1]:9", &err);
  if (status == MU_OK) status = backend_list_resolve(&list, &err);
  if (status == MU_OK) status = backend_pool_init(&pool, list.n, &backend_pool_defaults, 0, &err);
  allocations_work();
  if (status == MU_OK) assert_int_equal(pool.n, 41);
  if (list.n == 0) assert_int_equal(backend_list_parse(&list, "127.0.0.1:1-40", &err), MU_OK);
  assert_int_equal(backend_list_resolve(&list, &err), MU_OK);
  backend_pool_free(&pool);
  backend_list_free(&list);
  return status;
}

static void test_list(void **state) { fail_each_allocation("list", make_list, NULL); }

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_list)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
