/* --metrics-config: what it takes, and what it refuses with a word that helps. */
#include "metrics/metrics_config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void test_defaults(void **state) {
  struct metrics_config config;
  metrics_config_init(&config);
  assert_true(config.counter_latencies && !config.histogram_latencies && !config.summary_latencies);
  assert_int_equal(config.n_quantiles, 5);
  assert_true(config.quantiles[0] == 0.5 && config.quantiles[4] == 0.999);
}

static void test_settings(void **state) {
  struct metrics_config config;
  metrics_config_init(&config);
  mu_error err;
  assert_int_equal(metrics_config_set(&config, "counter_latencies=false", &err), MU_OK);
  assert_int_equal(metrics_config_set(&config, "summary_latencies=true", &err), MU_OK);
  assert_int_equal(metrics_config_set(&config, "histogram_latencies=true", &err), MU_OK);
  assert_true(!config.counter_latencies && config.histogram_latencies && config.summary_latencies);
  static const char *const spellings[] = {"summary_quantiles=0.25:0.05,1:0.001", "summary_quantiles=0.25:0.05 1:0.001",
                                          "summary_quantiles=.25:0, 1.0:1"};
  for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
    metrics_config_init(&config);
    assert_int_equal(metrics_config_set(&config, spellings[i], &err), MU_OK);
    assert_int_equal(config.n_quantiles, 2);
    assert_true(config.quantiles[0] == 0.25 && config.quantiles[1] == 1);
  }
}

static void test_refused(void **state) {
  static const struct {
    const char *text, *says;
  } cases[] = {
      {"", "SETTING=VALUE"},
      {"summary_latencies", "SETTING=VALUE"},
      {"=true", "SETTING=VALUE"},
      {"summary_latencies=", "SETTING=VALUE"},
      {"summary_latencies=yes", "true or false"},
      {"summary_latency=true", "there is no setting 'summary_latency'"},
      {"summary_quantiles=0.5", "QUANTILE:ERROR"},
      {"summary_quantiles=0.5:", "QUANTILE:ERROR"},
      {"summary_quantiles=1.5:0.1", "QUANTILE:ERROR"},
      {"summary_quantiles=-0.5:0.1", "QUANTILE:ERROR"},
      {"summary_quantiles=nan:0.1", "QUANTILE:ERROR"},
      {"summary_quantiles=0.5:0.1x", "QUANTILE:ERROR"},
      {"summary_quantiles=0.5:0.1:0.2", "QUANTILE:ERROR"},
      {"summary_quantiles=,", "names no quantile"},
      {"summary_quantiles=0:0 0:0 0:0 0:0 0:0 0:0 0:0 0:0 0:0 0:0 0:0 0:0 0:0 0:0 0:0 0:0 0:0", "at most 16"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct metrics_config config, before;
    mu_error err = {""};
    metrics_config_init(&config);
    metrics_config_init(&before);
    assert_int_equal(metrics_config_set(&config, cases[i].text, &err), MU_INVALID);
    if (strstr(err.message, cases[i].says) == NULL) fail_msg("'%s': %s", cases[i].text, err.message);
    assert_memory_equal(&config, &before, sizeof config);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_defaults), cmocka_unit_test(test_settings),
                                     cmocka_unit_test(test_refused)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
