/* Settings from everywhere at once, printed in every form and sent to a child, without memory for it. */
#include "config/control_socket.h"
#include "config/options.h"

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

static const char yaml[] =
    "models: {a: {engine: sim, max_queue_delay: learned}, b: {}, c: {device: cpu, threads: 2}}\n"
    "model_repository: [one, two]\nidle_timeout: 9s\nhttp_address: 127.0.0.1\nlog_format: json\n";
static char *arguments[] = {"--config=oom.yaml",
                            "--http-port",
                            "9000",
                            "--exit-on-error",
                            "false",
                            "--model-store",
                            "three",
                            "--grpc-infer-allocation-pool-size=1",
                            "--load-model=a",
                            "four.onnx"};
enum { N_ARGUMENTS = sizeof arguments / sizeof *arguments };
static char *environment[] = {"MUSTER_THREADS=3", "MUSTER_LOAD_MODEL=x,y,z", "PATH=/", NULL};

static int write_yaml(void **state) {
  FILE *file = fopen("oom.yaml", "w");
  return file == NULL || fputs(yaml, file) < 0 || fclose(file) != 0;
}
static int remove_yaml(void **state) { return unlink("oom.yaml"); }

static mu_status load(void *context) {
  struct options *options = NULL;
  mu_error err = {""};
  mu_status status = options_load(N_ARGUMENTS, arguments, environment, &options, &err);
  if (status == MU_OK) {
    assert_int_equal(options->http_port, 9000);
    assert_int_equal(options->threads, 3);
    assert_int_equal(options->models.n, 2);
    assert_int_equal(options->n_model_options, 3);
    assert_string_equal(options_for_model(options, "c").device, "cpu");
  } else {
    assert_null(options);
    assert_true(err.message[0] != '\0');
  }
  options_free(options);
  return status;
}

/* options_load with memory, then one of the writers without. */
static mu_status print(void *context) {
  mu_status (*const *write)(const struct options *, struct buffer *) = context;
  struct options *options = NULL;
  mu_error err = {""};
  allocations_work();
  assert_int_equal(options_load(N_ARGUMENTS, arguments, environment, &options, &err), MU_OK);
  allocations_fail();
  struct buffer out;
  buffer_init(&out, 1 << 20);
  mu_status status = (*write)(options, &out);
  assert_true(status == MU_OK ? out.size > 0 && !out.failed : true);
  allocations_work();
  buffer_clear(&out);
  assert_int_equal((*write)(options, &out), MU_OK);
  buffer_free(&out);
  options_free(options);
  return status;
}

static mu_status print_help(void *context) {
  struct buffer out;
  buffer_init(&out, 1 << 20);
  mu_status status = options_print_help(&out);
  if (status == MU_OK) status = options_print_reference(&out);
  buffer_free(&out);
  return status;
}

static mu_status decode(void *context) {
  struct options *options = NULL, *after = NULL;
  mu_error err = {""};
  struct buffer bytes;
  buffer_init(&bytes, 1 << 20);
  allocations_work();
  assert_int_equal(options_load(N_ARGUMENTS, arguments, environment, &options, &err), MU_OK);
  assert_int_equal(options_encode(options, &bytes), MU_OK);
  allocations_fail();
  mu_status status = options_decode(bytes.data, bytes.size, &after);
  if (status == MU_OK)
    assert_int_equal(after->http_port, 9000);
  else
    assert_null(after);
  options_free(after);
  options_free(options);
  buffer_free(&bytes);
  return status;
}

static void test_load(void **state) { fail_each_allocation("options_load", load, NULL); }
static void test_print(void **state) {
  static mu_status (*const writers[])(const struct options *, struct buffer *) = {options_print, options_print_json,
                                                                                  options_encode};
  static const char *const names[] = {"options_print", "options_print_json", "options_encode"};
  for (int i = 0; i < 3; i++) fail_each_allocation(names[i], print, (void *)&writers[i]);
  fail_each_allocation("options_print_help, _reference", print_help, NULL);
}
static void test_decode(void **state) { fail_each_allocation("options_decode", decode, NULL); }

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_load), cmocka_unit_test(test_print),
                                     cmocka_unit_test(test_decode)};
  return cmocka_run_group_tests(tests, write_yaml, remove_yaml);
}
