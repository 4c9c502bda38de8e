/* Flags, environment, precedence, and what every type accepts. */
#include "config/option_table.h"
#include "config/options.h"
#include "config/trace_config.h"

#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define ARGS(...) ((char *[]){__VA_ARGS__, NULL})
#define NONE ((char *[]){NULL})

static mu_error error;

static mu_status load(char **args, char **environment, struct options **ret) {
  int n = 0;
  while (args[n] != NULL) n++;
  *ret = NULL;
  error.message[0] = '\0';
  return options_load(n, args, environment, ret, &error);
}

static struct options *loaded(char **args, char **environment) {
  struct options *options;
  if (load(args, environment, &options) != MU_OK) fail_msg("refused: %s", error.message);
  return options;
}

/* Refused, and the message has every one of the texts. */
static void refused(char **args, char **environment, const char *one, const char *other) {
  struct options *options;
  assert_int_equal(load(args, environment, &options), MU_INVALID);
  assert_null(options);
  if (strstr(error.message, one) == NULL || strstr(error.message, other) == NULL)
    fail_msg("'%s' lacks '%s' or '%s'", error.message, one, other);
}

static void test_defaults(void **state) {
  struct options *o;
  assert_int_equal(options_create(&o), MU_OK);
  assert_string_equal(o->address, "0.0.0.0");
  assert_string_equal(o->http_address, "0.0.0.0");
  assert_int_equal(o->http_port, 8000);
  assert_int_equal(o->grpc_port, 8001);
  assert_int_equal(o->metrics_port, 8002);
  assert_int_equal(o->body_limit, 64 << 20);
  assert_int_equal(o->max_queue_delay_us, -1);
  assert_int_equal(o->default_request_timeout_ns, 60 * NS_PER_S);
  assert_int_equal(o->load_timeout_ns, 600 * NS_PER_S);
  assert_int_equal(o->drain_delay_ns, 0);
  assert_int_equal(o->exit_on_error, TRISTATE_AUTO);
  assert_true(o->strict_readiness && o->enable_batching && o->allow_http);
  assert_int_equal(o->models.n, 0);
  const struct log_settings log = options_log_settings(o);
  assert_true(log.error && log.warning && log.info && !log.iso8601);
  assert_int_equal(log.verbose_level, 0);
  assert_false(options_is_set(o, "http-port"));
  options_free(o);
  options_free(NULL);
}

/* Every row can be found by every name it has, and no name means two rows. */
static void test_table(void **state) {
  size_t n;
  const struct option_row *rows = option_rows(&n);
  for (size_t i = 0; i < n; i++) {
    char key[OPTION_NAME_MAX];
    assert_true(strlen(rows[i].name) + strlen("MUSTER_") < OPTION_NAME_MAX);
    assert_ptr_equal(option_find(rows[i].name, strlen(rows[i].name), false), &rows[i]);
    option_key(&rows[i], key);
    assert_ptr_equal(option_find(key, strlen(key), true), &rows[i]);
    for (size_t a = 0; a < OPTION_ALIASES_MAX && rows[i].aliases[a] != NULL; a++)
      assert_ptr_equal(option_find(rows[i].aliases[a], strlen(rows[i].aliases[a]), false), &rows[i]);
    assert_null(foreign_flag_find(rows[i].name, strlen(rows[i].name)) != NULL && strncmp(rows[i].name, "grpc-", 5) != 0
                    ? rows[i].name
                    : NULL);
    assert_true(rows[i].help[0] != '\0');
  }
  const struct model_row *models = model_rows(&n);
  for (size_t i = 0; i < n; i++) assert_non_null(option_find(models[i].name, strlen(models[i].name), false));
}

static void test_flag_forms(void **state) {
  struct options *o = loaded(
      ARGS("--http-port=9000", "a.onnx", "--metrics-port", "9002", "--no-log-info", "--strict-readiness", "false",
           "--exit-on-error", "--model-store", "repo", "--load-model=x", "--load-model", "*", "--", "--odd.onnx"),
      NONE);
  assert_int_equal(o->http_port, 9000);
  assert_int_equal(o->metrics_port, 9002);
  assert_false(o->log_info);
  assert_false(o->strict_readiness);
  assert_int_equal(o->exit_on_error, TRISTATE_TRUE);
  assert_int_equal(o->models.n, 3);
  assert_string_equal(o->models.items[0], "a.onnx");
  assert_string_equal(o->models.items[1], "repo");
  assert_string_equal(o->models.items[2], "--odd.onnx");
  assert_int_equal(o->load_models.n, 2);
  assert_string_equal(o->load_models.items[1], "*");
  const struct log_settings log = options_log_settings(o);
  assert_true(log.error && log.warning && !log.info);
  assert_true(options_is_set(o, "http-port"));
  options_free(o);
}

static void test_boolean_before_model(void **state) {
  struct options *o = loaded(ARGS("--allow-metrics", "model.onnx", "--no-exit-on-error", "--log-verbose=1"), NONE);
  assert_true(o->allow_metrics);
  assert_int_equal(o->exit_on_error, TRISTATE_FALSE);
  assert_int_equal(o->models.n, 1);
  assert_int_equal(options_log_settings(o).verbose_level, 1);
  options_free(o);
}

static void test_last_flag_wins(void **state) {
  struct options *o = loaded(ARGS("--http-port=1", "--http-port=2"), NONE);
  assert_int_equal(o->http_port, 2);
  options_free(o);
}

static void test_unknown_flags(void **state) {
  refused(ARGS("--htpp-port=1"), NONE, "--htpp-port", "--http-port");
  refused(ARGS("--max_batch_size=1"), NONE, "unknown flag", "--max-batch-size");
  refused(ARGS("--model-repositry", "x"), NONE, "unknown flag", "--model-repository");
  refused(ARGS("--utterly-unlike-anything"), NONE, "unknown flag", "--help");
  refused(ARGS("-p", "8000"), NONE, "-p", "--help");
  refused(ARGS("--"), ARGS("MUSTER_HTTP_PROT=1"), "MUSTER_HTTP_PROT", "MUSTER_HTTP_PORT");
  refused(ARGS("-"), NONE, "unknown flag -", "");
  refused(ARGS("--="), NONE, "unknown flag", "");
  refused(ARGS("--no-"), NONE, "unknown flag", "");
}

static void test_flag_values_missing(void **state) {
  refused(ARGS("--http-port"), NONE, "--http-port", "needs a value");
  refused(ARGS("--config", "--http-port=1"), NONE, "--config", "needs a value");
  refused(ARGS("--no-http-port"), NONE, "--no-http-port", "true or false");
  refused(ARGS("--no-log-info=false"), NONE, "--no-log-info", "takes no value");
  refused(ARGS("--log-info="), NONE, "log-info", "true or false");
}

/* text -> value (or refused) for one option of each type */
struct sample {
  const char *flag;
  bool accepted;
  int64_t value;
};

static void check_samples(const struct sample *samples, size_t n, size_t offset) {
  for (size_t i = 0; i < n; i++) {
    struct options *o;
    char flag[128];
    snprintf(flag, sizeof flag, "%s", samples[i].flag);
    mu_status status = load(ARGS(flag), NONE, &o);
    if ((status == MU_OK) != samples[i].accepted) fail_msg("%s: %s", flag, error.message);
    if (status != MU_OK) {
      assert_int_equal(status, MU_INVALID);
      assert_non_null(strstr(error.message, strchr(flag, '=') + 1)); /* names the value */
      assert_null(o);
      continue;
    }
    if (*(int64_t *)(void *)((char *)o + offset) != samples[i].value)
      fail_msg("%s became %lld", flag, (long long)*(int64_t *)(void *)((char *)o + offset));
    options_free(o);
  }
}
#define CHECK(samples, member) \
  check_samples(samples, sizeof samples / sizeof *samples, offsetof(struct options, member))

static void test_int_values(void **state) {
  static const struct sample ports[] = {{"--http-port=0", true, 0},      {"--http-port=65535", true, 65535},
                                        {"--http-port=65536", false, 0}, {"--http-port=-1", false, 0},
                                        {"--http-port=", false, 0},      {"--http-port=80x", false, 0},
                                        {"--http-port= 80", false, 0},   {"--http-port=+80", false, 0},
                                        {"--http-port=8.5", false, 0},   {"--http-port=0x50", false, 0},
                                        {"--http-port=auto", false, 0},  {"--http-port=99999999999999999999", false, 0},
                                        {"--http-port=080", true, 80}};
  CHECK(ports, http_port);
  static const struct sample threads[] = {
      {"--threads=auto", true, 0}, {"--threads=AUTO", true, 0}, {"--threads=4", true, 4}, {"--threads=1025", false, 0}};
  CHECK(threads, threads);
}

static void test_size_values(void **state) {
  static const struct sample sizes[] = {{"--body-limit=1048576", true, 1 << 20},
                                        {"--body-limit=1MiB", true, 1 << 20},
                                        {"--body-limit=1.5 MiB", true, 3 << 19},
                                        {"--body-limit=64mib", true, 64 << 20},
                                        {"--body-limit=1024B", true, 1024},
                                        {"--body-limit=1MB", false, 0},
                                        {"--body-limit=1M", false, 0},
                                        {"--body-limit=-1", false, 0},
                                        {"--body-limit=MiB", false, 0},
                                        {"--body-limit=1.MiB", false, 0},
                                        {"--body-limit=.5MiB", false, 0},
                                        {"--body-limit=9223372036854775807", false, 0},
                                        {"--body-limit=9223372036854775808", false, 0},
                                        {"--body-limit=9000000000TiB", false, 0},
                                        {"--body-limit=1MiBx", false, 0},
                                        {"--body-limit=1", false, 0}};
  CHECK(sizes, body_limit);
  static const struct sample budget[] = {{"--memory-budget=auto", true, 0}, {"--memory-budget=0", true, 0}};
  CHECK(budget, memory_budget);
}

static void test_time_values(void **state) {
  static const struct sample seconds[] = {{"--exit-timeout-secs=5", true, 5000000000},
                                          {"--exit-timeout-secs=0.25", true, 250000000},
                                          {"--exit-timeout-secs=250ms", true, 250000000},
                                          {"--exit-timeout-secs=2m", true, 120000000000},
                                          {"--exit-timeout-secs=1h", true, 3600000000000},
                                          {"--exit-timeout-secs=7us", true, 7000},
                                          {"--exit-timeout-secs=7ns", true, 7},
                                          {"--exit-timeout-secs=0.0000000019", true, 1},
                                          {"--exit-timeout-secs=1d", false, 0},
                                          {"--exit-timeout-secs=-1", false, 0},
                                          {"--exit-timeout-secs=99h", false, 0},
                                          {"--exit-timeout-secs=s", false, 0},
                                          {"--exit-timeout-secs=1e3", false, 0},
                                          {"--exit-timeout-secs=nan", false, 0}};
  CHECK(seconds, exit_timeout_ns);
  static const struct sample micros[] = {{"--max-queue-delay=500", true, 500}, {"--max-queue-delay=2ms", true, 2000},
                                         {"--max-queue-delay=0", true, 0},     {"--max-queue-delay=learned", true, -1},
                                         {"--max-queue-delay=-1", false, 0},   {"--max-queue-delay=2h", false, 0}};
  CHECK(micros, max_queue_delay_us);
}

static void test_word_values(void **state) {
  static const struct sample modes[] = {{"--model-control-mode=explicit", true, CONTROL_MODE_EXPLICIT},
                                        {"--model-control-mode=POLL", true, CONTROL_MODE_POLL},
                                        {"--model-control-mode=", false, 0},
                                        {"--model-control-mode=1", false, 0},
                                        {"--model-control-mode=explicitly", false, 0}};
  CHECK(modes, model_control_mode);
  static const struct sample formats[] = {{"--log-format=json", true, LOG_FORMAT_JSON},
                                          {"--log-format=default", true, LOG_FORMAT_AUTO},
                                          {"--log-format=ISO8601", true, LOG_FORMAT_ISO8601},
                                          {"--log-format=xml", false, 0}};
  CHECK(formats, log_format);
  static const struct sample tristates[] = {{"--exit-on-error=0", true, TRISTATE_FALSE},
                                            {"--exit-on-error=auto", true, TRISTATE_AUTO},
                                            {"--exit-on-error=maybe", false, 0}};
  CHECK(tristates, exit_on_error);
  refused(ARGS("--load-balance=random"), NONE, "queue-depth, round-robin", "--load-balance");
  refused(ARGS("--log-info=2"), NONE, "true or false", "--log-info");
}

static void test_environment_names(void **state) {
  struct options *o = loaded(NONE, ARGS("ENABLE_BATCHING=true", "MAX_BATCH_SIZE=16", "MAX_BATCH_WAIT_TIME=0.05",
                                        "GPU_LOAD_BALANCE_STRATEGY=ROUND_ROBIN", "MUSTER_HTTP_PORT=9000",
                                        "MUSTER_LOAD_MODEL=a,,b", "MUSTER_LOG_INFO=0", "PATH=/bin", "MUSTER_THREADS="));
  assert_int_equal(o->max_batch_size, 16);
  assert_int_equal(o->max_batch_wait_ns, 50 * NS_PER_MS);
  assert_int_equal(o->balance, BALANCE_ROUND_ROBIN);
  assert_int_equal(o->http_port, 9000);
  assert_int_equal(o->load_models.n, 2);
  assert_string_equal(o->load_models.items[1], "b");
  assert_false(o->log_info);
  assert_int_equal(o->threads, 0);
  assert_false(options_is_set(o, "threads"));
  options_free(o);
}

/* Each option has its MUSTER_ name: its own default is accepted under it. */
static void test_every_environment_name(void **state) {
  size_t n;
  const struct option_row *rows = option_rows(&n);
  for (size_t i = 0; i < n; i++) {
    char name[OPTION_NAME_MAX], entry[256];
    if (rows[i].initial == NULL || *rows[i].initial == '\0') continue;
    option_environment_name(&rows[i], name);
    snprintf(entry, sizeof entry, "%s=%s", name, rows[i].initial);
    struct options *o = loaded(NONE, ARGS(entry));
    assert_true(options_is_set(o, rows[i].name));
    options_free(o);
  }
}

static void test_environment_own_name_first(void **state) {
  struct options *o = loaded(NONE, ARGS("MAX_BATCH_SIZE=16", "MUSTER_MAX_BATCH_SIZE=8"));
  assert_int_equal(o->max_batch_size, 8);
  options_free(o);
  refused(NONE, ARGS("MAX_BATCH_SIZE=many"), "max-batch-size: 'many'", "MAX_BATCH_SIZE");
}

static void test_environment_of_kubernetes(void **state) {
  struct options *o =
      loaded(NONE, ARGS("MUSTER_SERVICE_HOST=10.0.0.1", "MUSTER_SERVICE_PORT=8000", "MUSTER_SERVICE_PORT_HTTP=8000",
                        "MUSTER_PORT=tcp://10.0.0.1:8000", "MUSTER_PORT_8000_TCP=tcp://10.0.0.1:8000",
                        "MUSTER_PORT_8000_TCP_ADDR=10.0.0.1"));
  assert_int_equal(o->http_port, 8000);
  options_free(o);
  refused(NONE, ARGS("MUSTER_PORT=8000"), "MUSTER_PORT", "unknown");
}

static void test_batching_switched_off(void **state) {
  struct options *o = loaded(ARGS("--max-batch-size=32"), ARGS("ENABLE_BATCHING=false"));
  assert_int_equal(o->max_batch_size, 1);
  assert_int_equal(options_for_model(o, "any").max_batch_size, 1);
  options_free(o);
  o = loaded(ARGS("--max-batch-size=0"), ARGS("ENABLE_BATCHING=false"));
  assert_int_equal(o->max_batch_size, 0);
  options_free(o);
}

static void test_addresses(void **state) {
  struct options *o = loaded(ARGS("--address", "127.0.0.1", "--metrics-address=10.1.1.1"), NONE);
  assert_string_equal(o->http_address, "127.0.0.1");
  assert_string_equal(o->metrics_address, "10.1.1.1");
  assert_int_equal(o->warnings.n, 0);
  options_free(o);
}

static void test_ports_that_meet(void **state) {
  refused(ARGS("--metrics-port=8000"), NONE, "http-port", "metrics-port");
  refused(ARGS("--http-port=8001"), NONE, "http-port", "grpc-port");
  struct options *o = loaded(ARGS("--http-port=0", "--metrics-port=0"), NONE);
  options_free(o);
  o = loaded(ARGS("--metrics-port=8000", "--metrics-address=127.0.0.2"), NONE);
  options_free(o);
  o = loaded(ARGS("--metrics-port=8000", "--allow-metrics=false"), NONE);
  options_free(o);
}

static void test_grpc(void **state) {
  struct options *o = loaded(ARGS("--address=127.0.0.1"), NONE);
  assert_true(o->allow_grpc);
  assert_string_equal(o->grpc_address, "127.0.0.1");
  options_free(o);
  o = loaded(ARGS("--http-port=8001", "--allow-grpc=false", "--log-error=false"), NONE);
  assert_int_equal(o->warnings.n, 0);
  assert_false(options_log_settings(o).error);
  options_free(o);
}

static void test_foreign_flags(void **state) {
  struct options *o =
      loaded(ARGS("--backend-directory", "/opt", "--disable-auto-complete-config", "m.onnx",
                  "--pinned-memory-pool-byte-size=1", "--host-policy", "0,cpu-cores=0-1", "--grpc-keepalive-time", "1"),
             NONE);
  assert_int_equal(o->models.n, 1); /* values of foreign flags are no models, and the one without a value took none */
  assert_string_equal(o->models.items[0], "m.onnx");
  assert_int_equal(o->warnings.n, 5);
  assert_non_null(strstr(o->warnings.items[0], "tritonserver's --backend-directory has no counterpart: "));
  assert_non_null(strstr(o->warnings.items[2], "--pinned-memory-pool-byte-size has"));
  options_free(o);
  refused(ARGS("--backend-config=onnxruntime,default-max-batch-size=5"), NONE, "tritonserver's --backend-config", "");
  refused(ARGS("--http-restricted-api=inference:k=v"), NONE, "--http-restricted-api", "no counterpart");
  refused(ARGS("--grpc-use-ssl=1"), NONE, "--grpc-use-ssl", "no TLS");
}

/* What tritonserver takes for --trace-config by older names. */
static void test_former_flags(void **state) {
  struct options *o = loaded(ARGS("--trace-file=/t/x", "--trace-level", "TIMESTAMPS", "--trace-config", "rate=2",
                                  "--trace-count=3", "--trace-log-frequency", "4", "m.onnx"),
                             NONE);
  assert_int_equal(o->models.n, 1);
  struct trace_config config;
  mu_error err;
  assert_int_equal(trace_config_read(o, &config, &err), MU_OK);
  assert_string_equal(config.file, "/t/x");
  assert_true(config.settings.timestamps);
  assert_int_equal(config.settings.rate, 2);
  assert_int_equal(config.settings.count, 3);
  assert_int_equal(config.settings.log_frequency, 4);
  options_free(o);
  o = loaded(ARGS("m.onnx"), ARGS("MUSTER_TRACE_CONFIG=file=/t/y,level=OFF"));
  assert_int_equal(trace_config_read(o, &config, &err), MU_OK);
  assert_string_equal(config.file, "/t/y");
  assert_int_equal(config.settings.rate, 1000);
  assert_int_equal(config.settings.count, -1);
  options_free(o);
  refused(ARGS("--trace-rate"), NONE, "--trace-rate", "needs a value");
  refused(ARGS("--trace-rate=fast"), NONE, "--trace-rate", "Unable to parse 'rate', got: fast");
  refused(ARGS("--trace-level=TENSORS"), NONE, "--trace-level", "not supported");
}

static void test_environment_beats_nothing_but_file(void **state) {
  struct options *o = loaded(ARGS("--http-port=3"), ARGS("MUSTER_HTTP_PORT=2", "MUSTER_MODEL_REPOSITORY=env"));
  assert_int_equal(o->http_port, 3);
  assert_int_equal(o->models.n, 1);
  options_free(o);
  o = loaded(ARGS("flag"), ARGS("MUSTER_MODEL_REPOSITORY=env,env2"));
  assert_int_equal(o->models.n, 1); /* replaced, not added to */
  assert_string_equal(o->models.items[0], "flag");
  options_free(o);
}

static void test_many_models(void **state) {
  char *args[1001];
  for (size_t i = 0; i < 1000; i++) args[i] = "m.onnx";
  args[1000] = NULL;
  struct options *o = loaded(args, NONE);
  assert_int_equal(o->models.n, 1000);
  assert_string_equal(o->models.items[999], "m.onnx");
  options_free(o);
}

/* No test may see a muster.yaml of the folder it is started in. */
static int enter_empty_folder(void **state) {
  char path[] = "/tmp/muster-options-XXXXXX";
  if (mkdtemp(path) == NULL || chdir(path) != 0) return -1;
  return rmdir(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_defaults),
      cmocka_unit_test(test_table),
      cmocka_unit_test(test_flag_forms),
      cmocka_unit_test(test_boolean_before_model),
      cmocka_unit_test(test_last_flag_wins),
      cmocka_unit_test(test_unknown_flags),
      cmocka_unit_test(test_flag_values_missing),
      cmocka_unit_test(test_int_values),
      cmocka_unit_test(test_size_values),
      cmocka_unit_test(test_time_values),
      cmocka_unit_test(test_word_values),
      cmocka_unit_test(test_environment_names),
      cmocka_unit_test(test_every_environment_name),
      cmocka_unit_test(test_environment_own_name_first),
      cmocka_unit_test(test_environment_of_kubernetes),
      cmocka_unit_test(test_batching_switched_off),
      cmocka_unit_test(test_addresses),
      cmocka_unit_test(test_ports_that_meet),
      cmocka_unit_test(test_grpc),
      cmocka_unit_test(test_foreign_flags),
      cmocka_unit_test(test_former_flags),
      cmocka_unit_test(test_environment_beats_nothing_but_file),
      cmocka_unit_test(test_many_models),
  };
  return cmocka_run_group_tests(tests, enter_empty_folder, NULL);
}
