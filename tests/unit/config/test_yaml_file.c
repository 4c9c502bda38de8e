/* muster.yaml: values, lines in messages, unknown keys, models, precedence. */
#include "config/options.h"

#include "base/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define NONE ((char *[]){NULL})

static mu_error error;

static void write_file(const char *path, const void *text, size_t size) {
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  assert_int_equal(fwrite(text, 1, size, file), size);
  assert_int_equal(fclose(file), 0);
}

static mu_status load_bytes(const void *text, size_t size, struct options **ret) {
  write_file("test.yaml", text, size);
  *ret = NULL;
  error.message[0] = '\0';
  return options_load(1, (char *[]){"--config=test.yaml", NULL}, NONE, ret, &error);
}

static struct options *loaded(const char *text) {
  struct options *options;
  if (load_bytes(text, strlen(text), &options) != MU_OK) fail_msg("refused: %s", error.message);
  return options;
}

static void refused_bytes(const void *text, size_t size, const char *one, const char *other) {
  struct options *options;
  assert_int_equal(load_bytes(text, size, &options), MU_INVALID);
  assert_null(options);
  if (strstr(error.message, one) == NULL || strstr(error.message, other) == NULL)
    fail_msg("'%s' lacks '%s' or '%s'", error.message, one, other);
}
static void refused(const char *text, const char *one, const char *other) {
  refused_bytes(text, strlen(text), one, other);
}

static void test_every_type(void **state) {
  struct options *o = loaded(
      "# a comment\n"
      "http_port: 9000\n"
      "body-limit: 1.5MiB\n"
      "max_queue_delay: 500\n"
      "exit_timeout_secs: 2.5\n"
      "log_info: off\n"
      "exit_on_error: true\n"
      "isolation: device\n"
      "address: \"127.0.0.1\"\n"
      "threads: auto\n"
      "model_repository:\n  - one\n  - two, three\n"
      "load_model: '*'\n");
  assert_int_equal(o->http_port, 9000);
  assert_int_equal(o->body_limit, 3 << 19);
  assert_int_equal(o->max_queue_delay_us, 500);
  assert_int_equal(o->exit_timeout_ns, 2500 * INT64_C(1000000));
  assert_false(o->log_info);
  assert_int_equal(o->exit_on_error, TRISTATE_TRUE);
  assert_int_equal(o->isolation, ISOLATION_DEVICE);
  assert_string_equal(o->http_address, "127.0.0.1");
  assert_int_equal(o->models.n, 2);
  assert_string_equal(o->models.items[1], "two, three");
  assert_int_equal(o->load_models.n, 1);
  assert_string_equal(o->config, "test.yaml");
  options_free(o);
}

static void test_list_as_text(void **state) {
  struct options *o = loaded("model-store: a,b\n");
  assert_int_equal(o->models.n, 1);
  assert_string_equal(o->models.items[0], "a,b");
  options_free(o);
}

static void test_empty_files(void **state) {
  const char *const texts[] = {"", "\n\n", "# only a comment\n", "---\n", "---\n...\n", "{}\n", "models: {}\n"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    struct options *o = loaded(texts[i]);
    assert_int_equal(o->http_port, 8000);
    assert_int_equal(o->n_model_options, 0);
    options_free(o);
  }
}

static void test_models(void **state) {
  struct options *o = loaded(
      "max_batch_size: 16\n"
      "max_queue_delay: 100\n"
      "models:\n"
      "  magika:\n"
      "    max-batch-size: 8\n"
      "    instances: 2\n"
      "    max_queue_delay: learned\n"
      "    engine: sim\n"
      "    max_queue_bytes: 1MiB\n"
      "    max_execution: 90\n"
      "  \"odd name/1\": {threads: 3, processes: 4}\n"
      "  plain: {}\n");
  assert_int_equal(o->n_model_options, 3);
  struct model_options magika = options_for_model(o, "magika");
  assert_string_equal(magika.name, "magika");
  assert_int_equal(magika.max_batch_size, 8);
  assert_int_equal(magika.instances, 2);
  assert_int_equal(magika.max_queue_delay_us, -1); /* learned is a setting, not an unset one */
  assert_string_equal(magika.engine, "sim");
  assert_string_equal(magika.device, "auto");
  assert_int_equal(magika.max_queue_bytes, 1 << 20);
  assert_int_equal(magika.max_execution_ns, 90 * NS_PER_S);
  assert_int_equal(magika.processes, 1);
  struct model_options odd = options_for_model(o, "odd name/1");
  assert_int_equal(odd.threads, 3);
  assert_int_equal(odd.processes, 4);
  assert_int_equal(odd.max_batch_size, 16);
  assert_int_equal(odd.max_queue_delay_us, 100);
  struct model_options unknown = options_for_model(o, "unknown");
  assert_int_equal(unknown.max_batch_size, 16);
  assert_string_equal(unknown.engine, "auto");
  options_free(o);
}

static void test_batching_off_for_models_too(void **state) {
  struct options *o = loaded("enable_batching: false\nmodels: {a: {max_batch_size: 8}}\n");
  assert_int_equal(options_for_model(o, "a").max_batch_size, 1);
  options_free(o);
}

static void test_unknown_keys(void **state) {
  refused("\nhtp_port: 1\n", "test.yaml:2: unknown key 'htp_port'", "http_port");
  refused("modles: {}\n", "test.yaml:1:", "did you mean models?");
  refused("quite_unlike: 1\n", "test.yaml:1: unknown key 'quite_unlike'", "");
  refused("config: other.yaml\n", "test.yaml:1: unknown key 'config'", "");
  refused("models:\n  a:\n    instance: 1\n", "test.yaml:3: unknown key 'instance'", "did you mean instances?");
  refused("models:\n  a:\n    http_port: 1\n", "test.yaml:3: unknown key 'http_port' of a model", "");
  refused("<<: {http_port: 1}\n", "test.yaml:1: unknown key '<<'", "");
}

static void test_bad_values(void **state) {
  refused("a: 1\n", "test.yaml:1", "a");
  refused("address: x\nhttp_port: many\n", "http-port: 'many'", "test.yaml:2");
  refused("http_port: 70000\n", "http-port: '70000'", "0 to 65535");
  refused("http_port:\n", "http-port: ''", "test.yaml:1");
  refused("models:\n  a:\n    threads: -1\n", "threads: '-1'", "test.yaml:3");
  refused("models:\n  a:\n    instances: 1\n    max_queue_delay: soon\n", "'soon'", "test.yaml:4");
}

static void test_wrong_shapes(void **state) {
  refused("http_port: [1]\n", "test.yaml:1: ", "'http_port'");
  refused("address: x\nhttp_port: {a: 1}\n", "test.yaml:2: ", "'http_port'");
  refused("model_repository: {a: 1}\n", "test.yaml:1: ", "'model_repository'");
  refused("model_repository:\n  - a\n  - [b]\n", "test.yaml:3: ", "STRING");
  refused("models: [a]\n", "test.yaml:1: ", "'models'");
  refused("models: a\n", "test.yaml:1: ", "MAPPING");
  refused("models:\n  a: 1\n", "test.yaml:2: ", "'a'");
  refused("models:\n  a:\n", "test.yaml:", "'a'");
  refused("models:\n  a: {instances: [1]}\n", "test.yaml:2: ", "'instances'");
  refused("- a\n", "test.yaml:1: ", "mapping");
  refused("just text\n", "test.yaml:1: ", "mapping");
  refused("[a]: 1\n", "test.yaml:1: ", "name");
  refused("'': 1\n", "test.yaml:1: ", "name");
}

static void test_twice(void **state) {
  refused("http_port: 1\nlog_info: true\nhttp-port: 2\n", "test.yaml:3: 'http-port'", "line 1");
  refused("model_store: a\nmodel_repository: b\n", "test.yaml:2: 'model_repository'", "line 1");
  refused("models: {}\nmodels: {}\n", "test.yaml:2: 'models'", "line 1");
  refused("models:\n  a: {}\n  a: {}\n", "test.yaml:3: 'a'", "line 2");
}

static void test_syntax(void **state) {
  refused("http_port: 1\n  x: y: z\n", "test.yaml:2: ", "");
  refused("a: [1, 2\n", "test.yaml:", "");
  refused("\t- x\n", "test.yaml:1: ", "");
  refused("a: 'open\n", "test.yaml:", "");
  refused("http_port: 1\n---\nhttp_port: 2\n", "test.yaml:3: ", "second document");
  refused("http_port: *nowhere\n", "test.yaml:1: ", "undefined alias");
  refused("address: \"a\\0b\"\n", "test.yaml:1: ", "NUL");
  refused_bytes("address: \xff\xfe\n", 12, "test.yaml:", "");
  refused_bytes("\0\0\0\0", 4, "test.yaml:", "");
}

static void test_anchors(void **state) {
  struct options *o = loaded(
      "address: &a 127.0.0.1\nmetrics_address: *a\n"
      "models:\n  x: &m {instances: 3}\n  y: *m\n");
  assert_string_equal(o->metrics_address, "127.0.0.1");
  assert_int_equal(options_for_model(o, "y").instances, 3);
  options_free(o);
}

/* A kilobyte that libcyaml would write out as gigabytes; an alias to what it stands in; and depth without any. */
static void test_anchors_that_stand_for_too_much(void **state) {
  for (int at = 0; at < 2; at++) {
    char text[2048];
    size_t n = (size_t)snprintf(text, sizeof text, "%s:\n  a: &a [x,x,x,x,x,x,x,x,x]\n", at == 0 ? "launch" : "models");
    for (char c = 'b'; c <= 'i'; c++)
      n += (size_t)snprintf(text + n, sizeof text - n, "  %c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", c, c, c - 1,
                            c - 1, c - 1, c - 1, c - 1, c - 1, c - 1, c - 1, c - 1);
    refused(text, "test.yaml: more than 65536 keys and values", "aliases");
  }
  refused("launch: &a [*a]\n", "test.yaml: more than", "in each other");
  refused("launch: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[x]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]\n", "test.yaml: more than",
          "in each other");
}

/* Whatever bytes the file has: refused with its name, or read. */
static void test_random_bytes(void **state) {
  static const char *const pieces[] = {
      "http_port", ": ", "\n", "  ", "models",    "- ",   "[",      "]",   "{",
      "}",         "'",  "\"", "a",  "&x ",       "*x",   "1",      "#",   "--",
      "? ",        "|",  "\t", ",",  "instances", "\xff", "!!str ", "<<:", "model_repository"};
  srand(7);
  for (int round = 0; round < 3000; round++) {
    char text[256] = "";
    for (int i = rand() % 20; i > 0; i--) strcat(text, pieces[rand() % (int)(sizeof pieces / sizeof *pieces)]);
    struct options *o;
    mu_status status = load_bytes(text, strlen(text), &o);
    if (status == MU_OK) {
      options_free(o);
    } else {
      assert_int_equal(status, MU_INVALID);
      if (strstr(error.message, "test.yaml") == NULL) fail_msg("%s", error.message);
    }
  }
}

static mu_status load_path(const char *flag) {
  struct options *o = NULL;
  mu_status status = options_load(1, (char *[]){(char *)flag, NULL}, NONE, &o, &error);
  assert_null(o);
  return status;
}

static void test_files_that_cannot_be_read(void **state) {
  assert_int_equal(load_path("--config=missing.yaml"), MU_NOT_FOUND);
  assert_non_null(strstr(error.message, "missing.yaml"));
  assert_int_equal(load_path("--config=/"), MU_IO);
  char *large = malloc(2 << 20);
  assert_non_null(large);
  memset(large, '#', 2 << 20);
  write_file("large.yaml", large, 2 << 20);
  free(large);
  assert_int_equal(load_path("--config=large.yaml"), MU_TOO_LARGE);
  unlink("large.yaml");
}

/* Nobody writes into the first pipe, as when a file is replaced by one; the second one is `--config <(…)`. */
static void test_pipes(void **state) {
  assert_int_equal(mkfifo("pipe.yaml", 0600), 0);
  assert_int_equal(load_path("--config=pipe.yaml"), MU_IO);
  assert_non_null(strstr(error.message, "pipe.yaml: nobody writes into it"));
  unlink("pipe.yaml");
  int ends[2];
  char flag[64];
  struct options *o;
  assert_int_equal(pipe(ends), 0);
  assert_int_equal(write(ends[1], "http_port: 7\n", 13), 13);
  close(ends[1]);
  snprintf(flag, sizeof flag, "--config=/dev/fd/%d", ends[0]);
  if (options_load(1, (char *[]){flag, NULL}, NONE, &o, &error) != MU_OK) fail_msg("%s", error.message);
  assert_int_equal(o->http_port, 7);
  options_free(o);
  close(ends[0]);
}

static int64_t port_of(int argc, char **argv, char **environment) {
  struct options *o;
  if (options_load(argc, argv, environment, &o, &error) != MU_OK) fail_msg("%s", error.message);
  int64_t port = o->http_port;
  options_free(o);
  return port;
}

static void test_precedence(void **state) {
  char *variable[] = {"MUSTER_HTTP_PORT=2", NULL};
  assert_int_equal(port_of(0, NONE, NONE), 8000);
  write_file("muster.yaml", "http_port: 1\n", 13);
  assert_int_equal(port_of(0, NONE, NONE), 1); /* found in the folder */
  assert_int_equal(port_of(0, NONE, variable), 2);
  assert_int_equal(port_of(1, (char *[]){"--http-port=3", NULL}, variable), 3);
  write_file("env.yaml", "http_port: 4\n", 13);
  write_file("flag.yaml", "http_port: 5\n", 13);
  char *named[] = {"MUSTER_CONFIG=env.yaml", NULL};
  assert_int_equal(port_of(0, NONE, named), 4);
  assert_int_equal(port_of(1, (char *[]){"--config=flag.yaml", NULL}, named), 5);
  assert_int_equal(port_of(1, (char *[]){"--config=", NULL}, named), 8000); /* no file at all */
  unlink("muster.yaml");
  unlink("env.yaml");
  unlink("flag.yaml");
}

static char folder[] = "/tmp/muster-yaml-XXXXXX";

static int enter_folder(void **state) { return mkdtemp(folder) == NULL ? -1 : chdir(folder); }
static int leave_folder(void **state) {
  unlink("test.yaml");
  return chdir("/") == 0 ? rmdir(folder) : -1;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_type),
      cmocka_unit_test(test_list_as_text),
      cmocka_unit_test(test_empty_files),
      cmocka_unit_test(test_models),
      cmocka_unit_test(test_batching_off_for_models_too),
      cmocka_unit_test(test_unknown_keys),
      cmocka_unit_test(test_bad_values),
      cmocka_unit_test(test_wrong_shapes),
      cmocka_unit_test(test_twice),
      cmocka_unit_test(test_syntax),
      cmocka_unit_test(test_anchors),
      cmocka_unit_test(test_anchors_that_stand_for_too_much),
      cmocka_unit_test(test_random_bytes),
      cmocka_unit_test(test_files_that_cannot_be_read),
      cmocka_unit_test(test_pipes),
      cmocka_unit_test(test_precedence),
  };
  return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
