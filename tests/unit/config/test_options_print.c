/* What is written from the table: `muster config` can be read back, JSON is JSON, help has every option. */
#include "config/option_table.h"
#include "config/options.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static mu_error error;

static struct options *load(int argc, char *const *argv) {
  struct options *options;
  if (options_load(argc, (char **)argv, (char *[]){NULL}, &options, &error) != MU_OK) fail_msg("%s", error.message);
  return options;
}

static char *const models[] = {
    "plain.onnx", "with space, comma: \"quotes\" \\ # and ~", "-", "line\nbreak\x7f\tend", "caf\xc3\xa9", ""};
enum { N_MODELS = sizeof models / sizeof *models };

static struct options *example(void) {
  char *argv[] = {"--http-port=9000",
                  "--max-batch-wait=1500us",
                  "--body-limit=1.5KiB",
                  "--memory-budget=3GiB",
                  "--max-execution=90",
                  "--no-allow-metrics",
                  "--engine=-odd",
                  "--log-format=json",
                  "--exit-on-error=false",
                  "--",
                  models[0],
                  models[1],
                  models[2],
                  models[3],
                  models[4],
                  models[5]};
  return load(sizeof argv / sizeof *argv, argv);
}

static struct buffer text_of(const struct options *options,
                             mu_status (*print)(const struct options *, struct buffer *)) {
  struct buffer out;
  buffer_init(&out, 1 << 20);
  assert_int_equal(print(options, &out), MU_OK);
  return out;
}

static void write_file(const struct buffer *text) {
  FILE *file = fopen("print.yaml", "w");
  assert_non_null(file);
  assert_int_equal(fwrite(text->data, 1, text->size, file), text->size);
  assert_int_equal(fclose(file), 0);
}

static void test_printed_is_a_file(void **state) {
  struct options *before = example();
  struct buffer text = text_of(before, options_print);
  buffer_puts(&text, "\nmodels:\n  \"a b\": {max_queue_delay: learned, max_queue_bytes: 3KiB}\n  c: {}\n");
  write_file(&text);
  buffer_free(&text);
  struct options *after = load(1, (char *[]){"--config=print.yaml"});
  text = text_of(after, options_print); /* and once more, now with models */
  write_file(&text);
  buffer_free(&text);
  struct options *again = load(1, (char *[]){"--config=print.yaml"});

  size_t n;
  const struct option_row *rows = option_rows(&n);
  for (size_t i = 0; i < n; i++) {
    if (rows[i].not_in_file) continue;
    struct buffer one, other;
    buffer_init(&one, 4096);
    buffer_init(&other, 4096);
    option_format(&rows[i], (char *)before + rows[i].offset, &one);
    option_format(&rows[i], (char *)again + rows[i].offset, &other);
    assert_string_equal(buffer_text(&one), buffer_text(&other));
    buffer_free(&one);
    buffer_free(&other);
  }
  assert_int_equal(again->models.n, N_MODELS);
  for (size_t i = 0; i < N_MODELS; i++) assert_string_equal(again->models.items[i], models[i]);
  assert_int_equal(again->n_model_options, 2);
  assert_int_equal(options_for_model(again, "a b").max_queue_bytes, 3072);
  assert_string_equal(again->model_options[1].name, "c");
  options_free(before);
  options_free(after);
  options_free(again);
}

static void test_print_names_sources(void **state) {
  struct options *options = example();
  struct buffer out = text_of(options, options_print);
  const char *text = buffer_text(&out);
  assert_non_null(strstr(text, "\nhttp_port: 9000 "));
  assert_non_null(strstr(text, "# --http-port\n"));
  assert_non_null(strstr(text, "\nmax_queue_delay: learned "));
  assert_non_null(strstr(text, "\nload_timeout: 10m "));
  assert_non_null(strstr(text, "# default\n"));
  buffer_free(&out);
  options_free(options);
}

static void test_json(void **state) {
  struct options *options = example();
  struct buffer out = text_of(options, options_print_json);
  json_error_t problem;
  json_t *root = json_loadb(out.data, out.size, JSON_REJECT_DUPLICATES, &problem);
  if (root == NULL) fail_msg("%s in %s", problem.text, buffer_text(&out));
  json_t *rows = json_object_get(root, "options");
  size_t n;
  option_rows(&n);
  assert_int_equal(json_object_size(rows), n);
  json_t *port = json_object_get(rows, "http_port");
  assert_int_equal(json_integer_value(json_object_get(port, "value")), 9000);
  assert_string_equal(json_string_value(json_object_get(port, "source")), "flag");
  assert_string_equal(json_string_value(json_object_get(port, "origin")), "--http-port");
  json_t *wait = json_object_get(json_object_get(rows, "max_batch_wait"), "value");
  assert_true(json_number_value(wait) == 0.0015);
  assert_int_equal(json_integer_value(json_object_get(json_object_get(rows, "body_limit"), "value")), 1536);
  assert_string_equal(json_string_value(json_object_get(json_object_get(rows, "threads"), "value")), "auto");
  assert_true(json_is_false(json_object_get(json_object_get(rows, "allow_metrics"), "value")));
  json_t *list = json_object_get(json_object_get(rows, "model_repository"), "value");
  assert_int_equal(json_array_size(list), N_MODELS);
  for (size_t i = 0; i < N_MODELS; i++) assert_string_equal(json_string_value(json_array_get(list, i)), models[i]);
  json_decref(root);
  buffer_free(&out);
  options_free(options);
}

/* Help and reference name every option with its environment name; no line of help is wider than a terminal. */
static void test_help_and_reference(void **state) {
  struct buffer help, reference;
  buffer_init(&help, 1 << 20);
  buffer_init(&reference, 1 << 20);
  assert_int_equal(options_print_help(&help), MU_OK);
  assert_int_equal(options_print_reference(&reference), MU_OK);
  size_t n;
  const struct option_row *rows = option_rows(&n);
  for (size_t i = 0; i < n; i++) {
    char text[2 * OPTION_NAME_MAX];
    snprintf(text, sizeof text, "\n  --%s ", rows[i].name);
    if (strstr(buffer_text(&help), text) == NULL) fail_msg("%s", text);
    char name[OPTION_NAME_MAX];
    option_environment_name(&rows[i], name);
    assert_non_null(strstr(buffer_text(&reference), name));
  }
  for (const char *line = buffer_text(&help); *line != '\0'; line += strcspn(line, "\n") + 1)
    if (strcspn(line, "\n") > 100) fail_msg("%.*s", (int)strcspn(line, "\n"), line);
  buffer_free(&help);
  buffer_free(&reference);
}

static void test_no_room(void **state) {
  struct buffer small;
  buffer_init(&small, 64);
  assert_int_not_equal(options_print_help(&small), MU_OK);
  buffer_clear(&small);
  assert_int_not_equal(options_print_reference(&small), MU_OK);
  buffer_free(&small);
}

static char folder[] = "/tmp/muster-print-XXXXXX";
static int enter_folder(void **state) { return mkdtemp(folder) == NULL ? -1 : chdir(folder); }
static int leave_folder(void **state) {
  unlink("print.yaml");
  return chdir("/") == 0 ? rmdir(folder) : -1;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_printed_is_a_file),
      cmocka_unit_test(test_print_names_sources),
      cmocka_unit_test(test_json),
      cmocka_unit_test(test_help_and_reference),
      cmocka_unit_test(test_no_room),
  };
  return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
