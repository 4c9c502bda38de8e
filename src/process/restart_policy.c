#include "process/restart_policy.h"

#include "base/clock.h"

static const uint64_t first_delay_ns = 100 * NS_PER_MS;
static const uint64_t usual_longest_delay_ns = 30 * NS_PER_S;
static const uint64_t proven_after_ns = 60 * NS_PER_S; /* ready for so long: the next death is a first one again */

void restart_policy_ready(struct restart_policy *policy, uint64_t now_ns) {
  policy->ready = true;
  policy->ready_ns = now_ns;
  policy->early_deaths = 0;
}

static uint64_t next_delay(const struct restart_policy *policy) {
  if (!policy->restarted) return 0;
  uint64_t longest_delay_ns = policy->longest_delay_ns > 0 ? policy->longest_delay_ns : usual_longest_delay_ns;
  if (policy->delay_ns == 0) return first_delay_ns;
  return policy->delay_ns >= longest_delay_ns / 2 ? longest_delay_ns : policy->delay_ns * 2;
}

bool restart_policy_death(struct restart_policy *policy, uint64_t now_ns, bool own_doing, uint64_t *ret_delay_ns) {
  if (policy->ready && !own_doing) {
    policy->ready = false;
    *ret_delay_ns = 0;
    return true;
  }
  if (!policy->ready && ++policy->early_deaths >= RESTART_EARLY_DEATHS_MAX) return false;
  if (policy->ready && now_ns - policy->ready_ns >= proven_after_ns) policy->restarted = false;
  policy->delay_ns = next_delay(policy);
  policy->restarted = true;
  policy->ready = false;
  *ret_delay_ns = policy->delay_ns;
  return true;
}
