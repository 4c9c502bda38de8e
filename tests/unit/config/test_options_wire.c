/* The settings as bytes: what goes in comes out, what is damaged is refused. */
#include "config/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static char *const arguments[] = {"--config=wire.yaml",    "one.onnx",        "two",
                                  "--load-model=*",        "--http-port=0",   "--exit-timeout-secs=1.5",
                                  "--max-queue-delay=7ms", "--exit-on-error", "--address=::1",
                                  "--no-strict-readiness"};
enum { N_ARGUMENTS = sizeof arguments / sizeof *arguments };

static const char yaml[] =
    "models:\n  a: {engine: sim, max_queue_delay: learned}\n  b: {}\n  c: {device: cpu, threads: 2}\nidle_timeout: "
    "9s\n";

static struct options *example(void) {
  struct options *options;
  mu_error error;
  FILE *file = fopen("wire.yaml", "w");
  assert_non_null(file);
  assert_true(fputs(yaml, file) >= 0);
  assert_int_equal(fclose(file), 0);
  mu_status status =
      options_load(N_ARGUMENTS, (char **)arguments, (char *[]){"MUSTER_THREADS=3", NULL}, &options, &error);
  unlink("wire.yaml");
  if (status != MU_OK) fail_msg("%s", error.message);
  return options;
}

static struct buffer printed(const struct options *options) {
  struct buffer out;
  buffer_init(&out, 1 << 20);
  assert_int_equal(options_print(options, &out), MU_OK);
  return out;
}

static struct buffer encoded(const struct options *options) {
  struct buffer out;
  buffer_init(&out, 1 << 20);
  assert_int_equal(options_encode(options, &out), MU_OK);
  return out;
}

static void test_round_trip(void **state) {
  struct options *before = example(), *after;
  struct buffer bytes = encoded(before);
  assert_int_equal(options_decode(bytes.data, bytes.size, &after), MU_OK);
  struct buffer one = printed(before), other = printed(after), again = encoded(after);
  assert_int_equal(one.size, other.size);
  assert_memory_equal(one.data, other.data, one.size); /* every value and every origin */
  assert_int_equal(bytes.size, again.size);
  assert_memory_equal(bytes.data, again.data, bytes.size);
  assert_int_equal(options_for_model(after, "a").max_queue_delay_us, -1);
  assert_int_equal(options_for_model(after, "b").max_queue_delay_us, 7000);
  assert_int_equal(options_for_model(after, "c").threads, 2);
  assert_true(options_is_set(after, "threads"));
  assert_false(options_is_set(after, "processes"));
  buffer_free(&one);
  buffer_free(&other);
  buffer_free(&again);
  buffer_free(&bytes);
  options_free(before);
  options_free(after);
}

static void test_cut_short_or_long(void **state) {
  struct options *before = example(), *after = NULL;
  struct buffer bytes = encoded(before);
  for (size_t size = 0; size < bytes.size; size++) {
    char *exact = malloc(size + 1); /* so that a read past the end is seen */
    assert_non_null(exact);
    memcpy(exact, bytes.data, size);
    assert_int_equal(options_decode(exact, size, &after), MU_INVALID);
    free(exact);
  }
  buffer_putc(&bytes, 0);
  assert_int_equal(options_decode(bytes.data, bytes.size, &after), MU_INVALID);
  assert_null(after);
  buffer_free(&bytes);
  options_free(before);
}

/* Any damage: refused, or decoded to something that encodes again. */
static void test_damage(void **state) {
  struct options *before = example();
  struct buffer bytes = encoded(before);
  srand(11);
  for (int round = 0; round < 20000; round++) {
    struct options *after = NULL;
    size_t at = (size_t)rand() % bytes.size;
    char kept = bytes.data[at];
    bytes.data[at] = (char)(rand() % 3 == 0 ? 0xff : rand());
    if (options_decode(bytes.data, bytes.size, &after) == MU_OK) {
      struct buffer again = encoded(after);
      buffer_free(&again);
      options_free(after);
    } else {
      assert_null(after);
    }
    bytes.data[at] = kept;
  }
  buffer_free(&bytes);
  options_free(before);
}

/* A number out of an option's range does not come through. */
static void test_numbers_are_checked(void **state) {
  struct options *before = example(), *after = NULL;
  before->http_port = 65536;
  struct buffer bytes = encoded(before);
  assert_int_equal(options_decode(bytes.data, bytes.size, &after), MU_INVALID);
  buffer_free(&bytes);
  before->http_port = 1;
  before->isolation = 3;
  bytes = encoded(before);
  assert_int_equal(options_decode(bytes.data, bytes.size, &after), MU_INVALID);
  buffer_free(&bytes);
  options_free(before);
}

static void test_no_room(void **state) {
  struct options *options = example();
  struct buffer small;
  buffer_init(&small, 100);
  assert_int_not_equal(options_encode(options, &small), MU_OK);
  assert_true(small.failed);
  buffer_free(&small);
  options_free(options);
}

static char folder[] = "/tmp/muster-wire-XXXXXX";
static int enter_folder(void **state) { return mkdtemp(folder) == NULL ? -1 : chdir(folder); }
static int leave_folder(void **state) { return chdir("/") == 0 ? rmdir(folder) : -1; }

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_round_trip), cmocka_unit_test(test_cut_short_or_long),
      cmocka_unit_test(test_damage),     cmocka_unit_test(test_numbers_are_checked),
      cmocka_unit_test(test_no_room),
  };
  return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
