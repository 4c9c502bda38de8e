/* Finding models on disk, in a folder of the test's own. */
#include "model/repository.h"

#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char root[64];

static int setup(void **state) {
  strcpy(root, "/tmp/muster-repository-XXXXXX");
  return mkdtemp(root) == NULL;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *walk) { return remove(path); }
static int teardown(void **state) { return nftw(root, remove_entry, 8, FTW_DEPTH | FTW_PHYS); }

/* The path below root; one of four buffers that take turns. */
static const char *at(const char *name) {
  static char paths[4][512];
  static int next;
  next = (next + 1) % 4;
  snprintf(paths[next], sizeof paths[next], "%s%s%s", root, *name != '\0' ? "/" : "", name);
  return paths[next];
}

static void make_folders(const char *name) {
  char path[512];
  snprintf(path, sizeof path, "%s", at(name));
  for (char *slash = path + strlen(root) + 1; (slash = strchr(slash, '/')) != NULL; *slash++ = '/') {
    *slash = '\0';
    assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
  }
}

/* "name/" is a folder, everything else a file; folders on the way are made. */
static void make(const char *name, const char *text) {
  make_folders(name);
  if (name[strlen(name) - 1] == '/') return;
  FILE *file = fopen(at(name), "we");
  assert_non_null(file);
  assert_true(fputs(text, file) >= 0);
  assert_int_equal(fclose(file), 0);
}

static struct repository scan(const char *path) {
  struct repository repository = {0};
  mu_error err = {{0}};
  if (repository_scan(&path, 1, &repository, &err) != MU_OK) fail_msg("%s: %s", path, err.message);
  return repository;
}

static void assert_fails(const char *first, const char *second, mu_status wanted, const char *expected) {
  struct repository repository = {0};
  mu_error err = {{0}};
  const char *paths[] = {first, second};
  mu_status status = repository_scan(paths, second != NULL ? 2 : 1, &repository, &err);
  if (status != wanted) fail_msg("%s: status %d: %s", first, status, err.message);
  if (strstr(err.message, expected) == NULL) fail_msg("\"%s\" has no \"%s\"", err.message, expected);
  assert_null(repository.models);
}

static void assert_problem(const struct repository_model *model, const char *expected) {
  if (strstr(model->problem, expected) == NULL)
    fail_msg("%s: \"%s\" has no \"%s\"", model->name, model->problem, expected);
}

static void test_both_layouts(void **state) {
  make("b.onnx", "");
  make("c/1/model.onnx", "");
  make("c/config.pbtxt", "max_batch_size: 4");
  make("a/2/model.onnx", "");
  make("a/labels.txt", "");
  make(".hidden/1/model.onnx", "");
  make(".x.onnx", "");
  make("README.md", "");
  make("b.onnx.bak", "");
  struct repository repository = scan(at(""));
  assert_int_equal(repository.n_models, 3);
  const struct repository_model *a = &repository.models[0], *b = &repository.models[1], *c = &repository.models[2];
  assert_string_equal(a->name, "a");
  assert_string_equal(a->folder, at("a"));
  assert_true(a->config != NULL && !a->config->has_max_batch_size && a->n_versions == 1);
  assert_string_equal(a->config->name, "a");
  assert_int_equal(a->versions[0].version, 2);
  assert_string_equal(a->versions[0].path, at("a/2/model.onnx"));
  assert_string_equal(a->problem, "");
  assert_string_equal(b->name, "b");
  assert_string_equal(b->folder, "");
  assert_string_equal(b->place, at("b.onnx"));
  assert_true(b->n_versions == 1 && b->versions[0].version == 1 && b->config != NULL && !b->named);
  assert_string_equal(b->versions[0].path, at("b.onnx"));
  assert_int_equal(c->config->max_batch_size, 4);
  repository_free(&repository);
  assert_null(repository.models);
}

static void test_named_files(void **state) {
  make("x.onnx", "");
  make("d/y.onnx", "");
  const char *paths[] = {at("x.onnx"), at("d")};
  struct repository repository = {0};
  assert_int_equal(repository_scan(paths, 2, &repository, NULL), MU_OK);
  assert_int_equal(repository.n_models, 2);
  assert_true(repository.models[0].named);
  assert_false(repository.models[1].named);
  repository_free(&repository);
}

static void test_version_policies(void **state) {
  static const struct {
    const char *policy;
    size_t n;
    int64_t versions[4];
  } cases[] = {
      {"", 1, {10}},
      {"version_policy { latest { num_versions: 2 } }", 2, {2, 10}},
      {"version_policy { latest { num_versions: 9 } }", 3, {1, 2, 10}},
      {"version_policy { all { } }", 3, {1, 2, 10}},
      {"version_policy { specific { versions: [ 10, 1 ] } }", 2, {1, 10}},
      {"version_policy { specific { versions: [ 2, 2 ] } }", 1, {2}},
  };
  make("m/1/model.onnx", "");
  make("m/2/model.onnx", "");
  make("m/10/model.onnx", "");
  /* none of these is a version */
  make("m/03/model.onnx", "");
  make("m/0/model.onnx", "");
  make("m/-1/model.onnx", "");
  make("m/4x/model.onnx", "");
  make("m/99999999999999999999/model.onnx", "");
  make("m/11", "a file");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    make("m/config.pbtxt", cases[i].policy);
    struct repository repository = scan(at(""));
    const struct repository_model *m = &repository.models[0];
    assert_string_equal(m->problem, "");
    assert_int_equal(m->n_versions, cases[i].n);
    for (size_t v = 0; v < m->n_versions; v++) assert_int_equal(m->versions[v].version, cases[i].versions[v]);
    repository_free(&repository);
  }
}

static void test_other_files(void **state) {
  make("named/1/net.bin", "");
  make("named/config.pbtxt", "default_model_filename: 'net.bin'");
  make("parts/1/model.onnx/model.onnx", "");
  make("simulated/3/", "");
  make("simulated/config.pbtxt",
       "backend: 'sim' input { name: 'x' data_type: TYPE_FP32 dims: 1 } "
       "output { name: 'y' data_type: TYPE_FP32 dims: 1 }");
  assert_int_equal(symlink("named", at("linked")), 0);
  struct repository repository = scan(at(""));
  assert_int_equal(repository.n_models, 4);
  for (size_t i = 0; i < 4; i++) assert_string_equal(repository.models[i].problem, "");
  assert_string_equal(repository.models[0].name, "linked");
  assert_string_equal(repository.models[0].versions[0].path, at("linked/1/net.bin"));
  assert_string_equal(repository.models[2].versions[0].path, at("parts/1/model.onnx/model.onnx"));
  assert_int_equal(repository.models[3].versions[0].version, 3);
  assert_null(repository.models[3].versions[0].path);
  repository_free(&repository);
}

static void test_problems(void **state) {
  make("a-good/1/model.onnx", "");
  make("b-config/1/model.onnx", "");
  make("b-config/config.pbtxt", "\nmax_batch: 1");
  make("c-empty/", "");
  make("d-file/1/", "");
  make("e-name/1/model.onnx", "");
  make("e-name/config.pbtxt", "name: 'other'");
  make("f-specific/1/model.onnx", "");
  make("f-specific/config.pbtxt", "version_policy { specific { versions: 7 } }");
  make("g-parts/1/model.onnx/other", "");
  make("h-\x01/1/model.onnx", "");
  make("i-link/1/model.onnx", "");
  make("k-fifo/1/", "");
  assert_int_equal(symlink("nowhere", at("i-link/config.pbtxt")), 0);
  assert_int_equal(symlink("nowhere", at("j-dangling.onnx")), 0);
  assert_int_equal(mkfifo(at("k-fifo/1/model.onnx"), 0600), 0);
  static const char *const expected[] = {
      "",
      "/b-config/config.pbtxt:2:1: ModelConfig has no field 'max_batch'",
      "/c-empty: no version folder",
      "/d-file/1/model.onnx: No such file or directory",
      "/e-name/config.pbtxt:1:7: the name is 'other', but the model's folder is 'e-name'",
      "/f-specific/7: no such folder, but the version policy names it",
      "/g-parts/1/model.onnx/model.onnx: no model file there",
      "'h-?' cannot be the name of a model",
      "/i-link/config.pbtxt: No such file or directory",
      "/j-dangling.onnx: No such file or directory",
      "/k-fifo/1/model.onnx: not a regular file",
  };
  struct repository repository = scan(at(""));
  assert_int_equal(repository.n_models, sizeof expected / sizeof *expected);
  assert_string_equal(repository.models[0].problem, "");
  for (size_t i = 1; i < repository.n_models; i++) assert_problem(&repository.models[i], expected[i]);
  assert_null(repository.models[1].config);
  assert_non_null(repository.models[2].config);
  assert_string_equal(repository.models[9].name, "j-dangling");
  repository_free(&repository);
}

static void test_failures(void **state) {
  make("d/x.onnx", "");
  make("e/x.onnx", "");
  make("e/y/1/model.onnx", "");
  make("empty/", "");
  make("model/config.pbtxt", "");
  make("model/1/model.onnx", "");
  make("notes.txt", "");
  assert_fails(at("none"), NULL, MU_NOT_FOUND, "/none: No such file or directory");
  assert_fails(at("notes.txt"), NULL, MU_INVALID, "/notes.txt: neither a model file (*.onnx) nor a folder");
  assert_fails(at("empty"), NULL, MU_INVALID, "/empty: no model in it");
  assert_fails(at("model"), NULL, MU_INVALID, "/model: this is a model's folder");
  assert_fails(at("d"), at("e"), MU_EXISTS, "two models are called 'x': ");
  assert_fails(at("d/x.onnx"), at("e"), MU_EXISTS, "/d/x.onnx");
  assert_fails(at("d/x.onnx"), at("e"), MU_EXISTS, "/e/x.onnx");
  make("e/y.onnx", "");
  assert_fails(at("e"), NULL, MU_EXISTS, "two models are called 'y'");
  assert_int_equal(symlink("loop", at("loop")), 0);
  assert_fails(at("loop"), NULL, MU_IO, "/loop: Too many levels of symbolic links");
  assert_fails(at("notes.txt/x"), NULL, MU_IO, "/notes.txt/x: Not a directory");
}

static void test_unreadable(void **state) {
  if (geteuid() == 0) skip(); /* to root everything is readable */
  make("repo/m/1/model.onnx", "");
  assert_int_equal(chmod(at("repo/m"), 0), 0);
  struct repository repository = scan(at("repo"));
  assert_problem(&repository.models[0], "/repo/m");
  repository_free(&repository);
  assert_int_equal(chmod(at("repo"), 0), 0);
  assert_fails(at("repo"), NULL, MU_IO, "/repo: Permission denied");
  assert_int_equal(chmod(at("repo"), 0700), 0);
  assert_int_equal(chmod(at("repo/m"), 0700), 0);
}

static void test_no_paths(void **state) {
  struct repository repository = {0};
  assert_int_equal(repository_scan(NULL, 0, &repository, NULL), MU_OK);
  assert_int_equal(repository.n_models, 0);
  repository_free(&repository);
}

static void test_names(void **state) {
  static const char *const good[] = {"m", "..m", "a b", "caf\xc3\xa9", "a.b-c_d:e"};
  static const char *const bad[] = {"", ".", "..", "a/b", "a\nb", "a\x7f", "a\xff", "\xc0\xaf", "\xed\xa0\x80"};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) assert_true(model_name_valid(good[i], strlen(good[i])));
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(model_name_valid(bad[i], strlen(bad[i])));
  assert_false(model_name_valid("a\0b", 3));
  char longest[256];
  memset(longest, 'a', sizeof longest);
  assert_true(model_name_valid(longest, 255));
  assert_false(model_name_valid(longest, 256));
}

/* ---- one of them ------------------------------------------------------------------------------------------------- */

static mu_status find(const char *name, const char *config, struct repository *ret_repository, mu_error *err) {
  const char *paths[] = {root, at("nowhere")};
  const struct repository_config text = {config, config != NULL ? strlen(config) : 0};
  return repository_find(paths, 2, name, config != NULL ? &text : NULL, ret_repository, err);
}

static void test_find(void **state) {
  struct repository found = {0};
  mu_error err;
  make("a/1/model.onnx", "");
  make("a/2/model.onnx", "");
  make("a/config.pbtxt", "version_policy { all {} }");
  make("b.onnx", "");
  make("broken/config.pbtxt", "what");
  assert_int_equal(find("a", NULL, &found, &err), MU_OK);
  assert_true(found.n_models == 1 && found.models[0].n_versions == 2);
  repository_free(&found);
  assert_int_equal(find("a", "{\"version_policy\": {\"specific\": {\"versions\": [1]}}}", &found, &err), MU_OK);
  assert_true(found.models[0].n_versions == 1 && found.models[0].versions[0].version == 1);
  repository_free(&found);
  assert_int_equal(find("b", NULL, &found, &err), MU_OK);
  assert_string_equal(found.models[0].versions[0].path, at("b.onnx"));
  repository_free(&found);
  assert_int_equal(find("broken", NULL, &found, &err), MU_OK); /* with a problem */
  assert_problem(&found.models[0], "config.pbtxt:1:5");
  repository_free(&found);
}

static void test_find_nothing(void **state) {
  static const char *const names[] = {"..", ".", "", "a/1", "../a", "/etc", "x\n", ".hidden", "b.onnx", "missing"};
  struct repository found = {0};
  make("a/1/model.onnx", "");
  make(".hidden/1/model.onnx", "");
  make("b.onnx", "");
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    mu_error err = {""};
    mu_status status = find(names[i], NULL, &found, &err);
    if (status != MU_NOT_FOUND && status != MU_INVALID) fail_msg("'%s' was found", names[i]);
    assert_null(found.models);
  }
  make("a.onnx", "");
  assert_int_equal(find("a", NULL, &found, NULL), MU_EXISTS);
}

static void test_given(void **state) {
  const struct repository_config all = {"{\"version_policy\": {\"all\": {}}}", 31}, newest = {"{}", 2};
  struct repository found = {0};
  mu_error err;
  assert_int_equal(repository_given("g", &all, (const int64_t[]){7, 2}, 2, &found, &err), MU_OK);
  assert_true(found.models[0].n_versions == 2 && found.models[0].versions[0].version == 2);
  assert_true(found.models[0].versions[1].given);
  assert_string_equal(found.models[0].versions[1].path, "file:7/model.onnx");
  repository_free(&found);
  assert_int_equal(repository_given("g", &newest, (const int64_t[]){7, 2}, 2, &found, &err), MU_OK);
  assert_true(found.models[0].n_versions == 1 && found.models[0].versions[0].version == 7);
  repository_free(&found);
  assert_int_equal(repository_given("../g", &newest, (const int64_t[]){1}, 1, &found, &err), MU_INVALID);
}

static void test_listed_names(void **state) {
  struct repository found = {0};
  make("c/", "");
  make("b.onnx", "");
  make("notes.txt", "");
  make(".hidden/", "");
  const char *paths[] = {root, at("nowhere"), at("b.onnx")};
  assert_int_equal(repository_names(paths, 3, &found, NULL), MU_OK);
  assert_int_equal(found.n_models, 2);
  assert_string_equal(found.models[0].name, "b");
  assert_string_equal(found.models[1].name, "c");
  repository_free(&found);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_both_layouts, setup, teardown),
      cmocka_unit_test_setup_teardown(test_named_files, setup, teardown),
      cmocka_unit_test_setup_teardown(test_version_policies, setup, teardown),
      cmocka_unit_test_setup_teardown(test_other_files, setup, teardown),
      cmocka_unit_test_setup_teardown(test_problems, setup, teardown),
      cmocka_unit_test_setup_teardown(test_failures, setup, teardown),
      cmocka_unit_test_setup_teardown(test_unreadable, setup, teardown),
      cmocka_unit_test_setup_teardown(test_find, setup, teardown),
      cmocka_unit_test_setup_teardown(test_find_nothing, setup, teardown),
      cmocka_unit_test(test_given),
      cmocka_unit_test_setup_teardown(test_listed_names, setup, teardown),
      cmocka_unit_test(test_no_paths),
      cmocka_unit_test(test_names),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
