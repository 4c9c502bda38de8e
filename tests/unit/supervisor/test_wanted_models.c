/* What settings and repository want served, and when two generations of a model are the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "supervisor/state.h"

static char folder[] = "/tmp/muster-wanted-XXXXXX";

static void put(const char *path, const char *text) {
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
  assert_int_equal(fclose(file), 0);
}

/* Two models: flat `b`, and `a` with a configuration, labels, weights beside the model file. */
static int set_up(void **state) {
  if (mkdtemp(folder) == NULL || chdir(folder) != 0) return -1;
  mkdir("m", 0700);
  mkdir("m/a", 0700);
  mkdir("m/a/1", 0700);
  mkdir("m/a/1/deeper", 0700);
  put("m/a/config.pbtxt", "max_batch_size: 4");
  put("m/a/labels.txt", "cat");
  put("m/a/1/model.onnx", "model");
  put("m/a/1/weights", "weights");
  put("m/b.onnx", "flat");
  return 0;
}

static int tear_down(void **state) {
  char command[128];
  snprintf(command, sizeof command, "rm -r %s", folder);
  strcpy(folder, "/tmp/muster-wanted-XXXXXX");
  return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

static const struct gpus no_gpus = {.known = true};
static const struct planning planning = {.cores = 8, .gpus = &no_gpus};

/* With one further argument; NULL: none. */
static void find_wanted(struct list *models, char *argument) {
  struct options *options;
  mu_error err;
  char *argv[] = {"m", argument, NULL};
  list_init(models);
  if (options_load(argument != NULL ? 2 : 1, argv, (char *[]){NULL}, &options, &err) != MU_OK)
    fail_msg("%s", err.message);
  if (wanted_models_find(options, &planning, NULL, models, &err) != MU_OK) fail_msg("%s", err.message);
  options_free(options); /* the models have what they need of them */
}

static const struct served_model *model_of(const struct list *models, size_t index) {
  const struct list *link = models->next;
  while (index-- > 0) link = link->next;
  assert_ptr_not_equal(link, models);
  return list_item(link, struct served_model, link);
}

static void assert_same(char *argument, bool a_same, bool b_same, void (*change)(void)) {
  struct list before, after;
  find_wanted(&before, NULL);
  change();
  find_wanted(&after, argument);
  assert_true(fingerprint_same(model_of(&before, 0), model_of(&after, 0)) == a_same);
  assert_true(fingerprint_same(model_of(&before, 1), model_of(&after, 1)) == b_same);
  served_models_free(&before);
  served_models_free(&after);
}

static void nothing(void) {}
static void change_config(void) { put("m/a/config.pbtxt", "max_batch_size: 5"); }
static void change_labels(void) { put("m/a/labels.txt", "horse"); }
static void change_weights(void) { put("m/a/1/weights", "other weights"); }
static void change_flat(void) { put("m/b.onnx", "another one"); }
static void change_hidden(void) { put("m/a/1/.model.onnx.swp", "x"); }
static void change_deeper(void) { put("m/a/1/deeper/file", "x"); }
static void add_a_model(void) { put("m/c.onnx", "x"); }

/* The same size and time, another file. */
static void replace_file(void) {
  struct stat old;
  assert_int_equal(stat("m/a/1/model.onnx", &old), 0);
  put("m/a/1/new", "model");
  const struct timespec times[] = {old.st_atim, old.st_mtim};
  assert_int_equal(utimensat(AT_FDCWD, "m/a/1/new", times, 0), 0);
  assert_int_equal(rename("m/a/1/new", "m/a/1/model.onnx"), 0);
}

/* The same file and size, written once more. */
static void touch_file(void) {
  const struct timespec times[] = {{1, 1}, {1, 1}};
  assert_int_equal(utimensat(AT_FDCWD, "m/a/1/model.onnx", times, 0), 0);
}

static void nothing_has_changed(void **state) { assert_same(NULL, true, true, nothing); }
static void a_configuration(void **state) { assert_same(NULL, false, true, change_config); }
static void labels(void **state) { assert_same(NULL, false, true, change_labels); }
static void weights_beside_the_model(void **state) { assert_same(NULL, false, true, change_weights); }
static void another_file(void **state) { assert_same(NULL, false, true, replace_file); }
static void the_same_file_rewritten(void **state) { assert_same(NULL, false, true, touch_file); }
static void a_flat_file(void **state) { assert_same(NULL, true, false, change_flat); }
static void not_what_is_hidden(void **state) { assert_same(NULL, true, true, change_hidden); }
static void not_what_lies_deeper(void **state) { assert_same(NULL, true, true, change_deeper); }
static void not_a_neighbour_of_a_flat_file(void **state) { assert_same(NULL, true, true, add_a_model); }
static void settings_of_all(void **state) { assert_same("--instances=3", false, false, nothing); }
static void a_queue_limit(void **state) { assert_same("--max-queue-size=9", false, false, nothing); }
static void the_learned_wait(void **state) { assert_same("--max-batch-wait=1ms", false, false, nothing); }
static void the_choice_of_an_instance(void **state) {
  assert_same("--load-balance=round-robin", false, false, nothing);
}
static void not_the_log(void **state) { assert_same("--log-verbose=1", true, true, nothing); }
static void not_a_timeout_of_loading(void **state) { assert_same("--load-timeout=1s", true, true, nothing); }

static void a_wrong_configuration_is_the_model_s_own_problem(void **state) {
  put("m/a/config.pbtxt", "max_batch_size: many");
  struct list models;
  find_wanted(&models, NULL);
  assert_string_equal(model_of(&models, 0)->name, "a");
  assert_false(model_of(&models, 0)->planned);
  assert_non_null(strstr(model_of(&models, 0)->reason, "max_batch_size"));
  assert_true(model_of(&models, 1)->planned);
  served_models_free(&models);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      TEST(nothing_has_changed),
      TEST(a_configuration),
      TEST(labels),
      TEST(weights_beside_the_model),
      TEST(another_file),
      TEST(the_same_file_rewritten),
      TEST(a_flat_file),
      TEST(not_what_is_hidden),
      TEST(not_what_lies_deeper),
      TEST(not_a_neighbour_of_a_flat_file),
      TEST(settings_of_all),
      TEST(a_queue_limit),
      TEST(the_learned_wait),
      TEST(the_choice_of_an_instance),
      TEST(not_the_log),
      TEST(not_a_timeout_of_loading),
      TEST(a_wrong_configuration_is_the_model_s_own_problem),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
