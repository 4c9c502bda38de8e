#include "metrics/metrics_config.h"

#include <stdlib.h>
#include <string.h>

void metrics_config_init(struct metrics_config *config) {
  *config =
      (struct metrics_config){.counter_latencies = true, .quantiles = {0.5, 0.9, 0.95, 0.99, 0.999}, .n_quantiles = 5};
}

static mu_status set_truth(bool *field, const char *name, const char *value, mu_error *err) {
  bool truth = strcmp(value, "true") == 0;
  if (!truth && strcmp(value, "false") != 0)
    return mu_fail(err, MU_INVALID, "%s is true or false, not '%.100s'", name, value);
  *field = truth;
  return MU_OK;
}

/* A decimal number from 0 to 1 at *text, which is moved behind it. */
static bool take_share(const char **text, double *ret_share) {
  if (**text != '.' && (**text < '0' || **text > '9')) return false;
  char *end;
  double share = strtod(*text, &end);
  if (end == *text || !(share >= 0 && share <= 1)) return false;
  *text = end;
  *ret_share = share;
  return true;
}

/* QUANTILE:ERROR, with commas or blanks between. The error is read and not needed: what is printed is always within a
 * hundredth of the value. */
static mu_status set_quantiles(struct metrics_config *config, const char *value, mu_error *err) {
  struct metrics_config made = {.n_quantiles = 0};
  const char *at = value;
  for (at += strspn(at, ", "); *at != '\0'; at += strspn(at, ", ")) {
    double quantile, error;
    if (made.n_quantiles == METRICS_QUANTILES_MAX)
      return mu_fail(err, MU_INVALID, "summary_quantiles takes at most %d quantiles", METRICS_QUANTILES_MAX);
    if (!take_share(&at, &quantile) || *at++ != ':' || !take_share(&at, &error) || strchr(", ", *at) == NULL)
      return mu_fail(
          err, MU_INVALID,
          "summary_quantiles is QUANTILE:ERROR, each from 0 to 1, with commas between (0.5:0.05,0.99:0.001), "
          "not '%.100s'",
          value);
    made.quantiles[made.n_quantiles++] = quantile;
  }
  if (made.n_quantiles == 0) return mu_fail(err, MU_INVALID, "summary_quantiles names no quantile");
  memcpy(config->quantiles, made.quantiles, sizeof made.quantiles);
  config->n_quantiles = made.n_quantiles;
  return MU_OK;
}

static const struct {
  const char *name;
  size_t offset;
} truths[] = {
    {"counter_latencies", offsetof(struct metrics_config, counter_latencies)},
    {"histogram_latencies", offsetof(struct metrics_config, histogram_latencies)},
    {"summary_latencies", offsetof(struct metrics_config, summary_latencies)},
};

mu_status metrics_config_set(struct metrics_config *config, const char *text, mu_error *err) {
  const char *equals = strchr(text, '=');
  if (equals == NULL || equals == text || equals[1] == '\0')
    return mu_fail(err, MU_INVALID, "'%.100s' is not SETTING=VALUE", text);
  size_t size = (size_t)(equals - text);
  for (size_t i = 0; i < sizeof truths / sizeof *truths; i++)
    if (strlen(truths[i].name) == size && memcmp(truths[i].name, text, size) == 0)
      return set_truth((bool *)(void *)((char *)config + truths[i].offset), truths[i].name, equals + 1, err);
  static const char quantiles[] = "summary_quantiles";
  if (size == sizeof quantiles - 1 && memcmp(text, quantiles, size) == 0) return set_quantiles(config, equals + 1, err);
  return mu_fail(err, MU_INVALID,
                 "there is no setting '%.*s': there are counter_latencies, histogram_latencies, summary_latencies and "
                 "summary_quantiles",
                 (int)(size < 100 ? size : 100), text);
}
