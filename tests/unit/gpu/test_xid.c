#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include "gpu/xid.h"

/* The policy that was agreed on, written down a second time. */
static void every_xid_has_its_action(void **state) {
  static const struct {
    enum xid_action action;
    int xids[20];
  } wanted[] = {
      {XID_RESTART, {13, 31, 32, 69, 94}},
      {XID_RESTART_IF_DEAD, {43}},
      {XID_FOLLOW, {45}},
      {XID_LOG, {63, 92, 61, 1, 12345}},
      {XID_DRAIN, {48}},
      {XID_FENCE, {46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 158}},
      {XID_FENCE_NVLINK, {74, 144, 145, 146, 147, 148, 149, 150}},
      {XID_REMOVE, {79}},
      {XID_RECOVERY, {154}},
  };
  for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
    for (const int *xid = wanted[i].xids; *xid != 0; xid++) {
      const struct xid_policy *policy = xid_find((uint64_t)*xid);
      if (policy->action != wanted[i].action) fail_msg("Xid %d: %d, not %d", *xid, policy->action, wanted[i].action);
      assert_true(policy->meaning[0] != '\0' && xid_action_text(policy->action)[0] != '\0');
    }
  assert_int_equal(xid_find(0)->action, XID_DRAIN); /* a double-bit ECC error that came without a number */
  assert_int_equal(xid_find(UINT64_MAX)->action, XID_LOG);
}

static void recovery_actions(void **state) {
  static const enum xid_action wanted[] = {XID_LOG, XID_FENCE, XID_REMOVE, XID_DRAIN, XID_FENCE};
  const char *meaning;
  for (int i = 0; i < 5; i++) assert_int_equal(gpu_recovery_action(i, &meaning), wanted[i]);
  assert_int_equal(gpu_recovery_action(-1, &meaning), XID_LOG);
  assert_int_equal(gpu_recovery_action(5, &meaning), XID_LOG);
  assert_string_equal(meaning, "");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_xid_has_its_action),
      cmocka_unit_test(recovery_actions),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
