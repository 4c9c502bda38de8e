/* Which models there are: all of a repository, one by its name, or only the names. What one is: repository_model.c. */
#include "model/repository_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* An entry that is neither folder nor file to those who ask: a dangling link, no permission. It may have been meant as
 * a model, so it is not passed over in silence. */
static mu_status add_unreadable(struct repository *repository, const char *name, const char *path, mu_error *err) {
  mu_error problem;
  mu_status status = repository_io_fail(&problem, path);
  size_t len = strlen(name) - (repository_has_suffix(name) ? REPOSITORY_SUFFIX_LENGTH : 0);
  struct repository_model *model = repository_add_model(repository);
  if (model == NULL) return repository_no_memory(err);
  mu_status made = repository_model_init(model, name, len, path, "", err);
  return made == MU_OK ? repository_keep_problem(model, status, &problem, err) : made;
}

static mu_status add_entry(struct repository *repository, const char *folder, const char *name, mu_error *err) {
  char *path = repository_join(folder, name);
  if (path == NULL) return repository_no_memory(err);
  struct stat entry;
  mu_status status = MU_OK;
  if (stat(path, &entry) != 0)
    status = add_unreadable(repository, name, path, err);
  else if (S_ISDIR(entry.st_mode))
    status = repository_add_folder(repository, name, path, NULL, err);
  else if (S_ISREG(entry.st_mode) && repository_has_suffix(name))
    status = repository_add_file(repository, path, false, NULL, err);
  free(path);
  return status;
}

/* The likeliest mistake of all: a model's own folder instead of the one that holds it. */
static bool is_model_folder(const struct repository_listing *listing) {
  for (int i = 0; i < listing->n; i++)
    if (strcmp(listing->entries[i]->d_name, repository_config_file) == 0) return true;
  return false;
}

static mu_status scan_folder(struct repository *repository, const char *path, mu_error *err) {
  struct repository_listing listing = {0};
  mu_status status = repository_list_folder(path, &listing, err);
  if (status != MU_OK) return status;
  size_t before = repository->n_models;
  if (is_model_folder(&listing))
    status = mu_fail(err, MU_INVALID, "%s: this is a model's folder; name the folder that holds it", path);
  for (int i = 0; i < listing.n && status == MU_OK; i++)
    status = add_entry(repository, path, listing.entries[i]->d_name, err);
  if (status == MU_OK && repository->n_models == before)
    status = mu_fail(err, MU_INVALID, "%s: no model in it (NAME%s, or NAME/1/%s)", path, repository_suffix,
                     repository_default_file);
  repository_listing_free(&listing);
  return status;
}

static mu_status scan_path(struct repository *repository, const char *path, mu_error *err) {
  struct stat entry;
  if (stat(path, &entry) != 0) return repository_io_fail(err, path);
  if (S_ISDIR(entry.st_mode)) return scan_folder(repository, path, err);
  if (!S_ISREG(entry.st_mode) || !repository_has_suffix(path))
    return mu_fail(err, MU_INVALID, "%s: neither a model file (*%s) nor a folder of models", path, repository_suffix);
  return repository_add_file(repository, path, true, NULL, err);
}

static int by_model_name(const void *a, const void *b) {
  const struct repository_model *x = a, *y = b;
  return strcmp(x->name, y->name);
}

static mu_status sort_models(struct repository *repository, mu_error *err) {
  if (repository->n_models == 0) return MU_OK;
  qsort(repository->models, repository->n_models, sizeof *repository->models, by_model_name);
  for (size_t i = 1; i < repository->n_models; i++) {
    const struct repository_model *model = &repository->models[i], *previous = model - 1;
    if (strcmp(model->name, previous->name) == 0)
      return mu_fail(err, MU_EXISTS, "two models are called '%s': %s and %s", model->name, previous->place,
                     model->place);
  }
  return MU_OK;
}

mu_status repository_scan(const char *const *paths, size_t n_paths, struct repository *ret_repository, mu_error *err) {
  struct repository repository = {0};
  mu_status status = MU_OK;
  for (size_t i = 0; i < n_paths && status == MU_OK; i++) status = scan_path(&repository, paths[i], err);
  if (status == MU_OK) status = sort_models(&repository, err);
  if (status != MU_OK) {
    repository_free(&repository);
    return status;
  }
  *ret_repository = repository;
  return MU_OK;
}

/* ---- one of them ------------------------------------------------------------------------------------------------- */

/* The entry called so of a folder of models: a folder, or a file with the suffix. Appended where there is
 * one. */
static mu_status find_in_folder(struct repository *repository, const char *folder, const char *name,
                                const struct repository_config *config, mu_error *err) {
  char *path = repository_join(folder, name), *file = NULL;
  struct stat entry;
  if (path != NULL && asprintf(&file, "%s%s", path, repository_suffix) < 0) file = NULL;
  mu_status status = file != NULL ? MU_OK : repository_no_memory(err);
  if (status == MU_OK && *name != '.' && stat(path, &entry) == 0 && S_ISDIR(entry.st_mode))
    status = repository_add_folder(repository, name, path, config, err);
  if (status == MU_OK && *name != '.' && stat(file, &entry) == 0 && S_ISREG(entry.st_mode))
    status = repository_add_file(repository, file, false, config, err);
  free(file);
  free(path);
  return status;
}

/* Is that a model file whose model is called so? */
static bool file_is(const char *path, const char *name) {
  const char *slash = strrchr(path, '/'), *base = slash != NULL ? slash + 1 : path;
  size_t len = strlen(name);
  return strncmp(base, name, len) == 0 && strcmp(base + len, repository_suffix) == 0;
}

static mu_status find_in_path(struct repository *repository, const char *path, const char *name,
                              const struct repository_config *config, mu_error *err) {
  struct stat entry;
  if (stat(path, &entry) != 0) return MU_OK;
  if (S_ISDIR(entry.st_mode)) return find_in_folder(repository, path, name, config, err);
  return S_ISREG(entry.st_mode) && file_is(path, name) ? repository_add_file(repository, path, true, config, err)
                                                       : MU_OK;
}

static mu_status check_name(const char *name, mu_error *err) {
  if (model_name_valid(name, strlen(name))) return MU_OK;
  return mu_fail(err, MU_INVALID, "that cannot be the name of a model");
}

mu_status repository_find(const char *const *paths, size_t n_paths, const char *name,
                          const struct repository_config *config, struct repository *ret_repository, mu_error *err) {
  struct repository repository = {0};
  mu_status status = check_name(name, err);
  for (size_t i = 0; i < n_paths && status == MU_OK; i++)
    status = find_in_path(&repository, paths[i], name, config, err);
  if (status == MU_OK && repository.n_models == 0)
    status = mu_fail(err, MU_NOT_FOUND, "there is no model '%s' in it", name);
  if (status == MU_OK) status = sort_models(&repository, err);
  if (status == MU_OK)
    *ret_repository = repository;
  else
    repository_free(&repository);
  return status;
}

mu_status repository_given(const char *name, const struct repository_config *config, const int64_t *versions,
                           size_t n_versions, struct repository *ret_repository, mu_error *err) {
  struct repository repository = {0};
  mu_error problem;
  mu_status status = check_name(name, err);
  struct repository_model *model = status == MU_OK ? repository_add_model(&repository) : NULL;
  if (status == MU_OK && model == NULL) status = repository_no_memory(err);
  if (status == MU_OK) status = repository_model_init(model, name, strlen(name), repository_override_source, "", err);
  if (status == MU_OK)
    status = repository_keep_problem(model, repository_give_versions(model, config, versions, n_versions, &problem),
                                     &problem, err);
  if (status == MU_OK)
    *ret_repository = repository;
  else
    repository_free(&repository);
  return status;
}

/* ---- names only -------------------------------------------------------------------------------------------------- */

static mu_status add_name(struct repository *repository, const char *name, size_t len, mu_error *err) {
  if (!model_name_valid(name, len)) return MU_OK;
  struct repository_model *model = repository_add_model(repository);
  return model != NULL ? repository_model_init(model, name, len, "", "", err) : repository_no_memory(err);
}

static mu_status name_entry(struct repository *repository, const char *folder, const char *name, mu_error *err) {
  char *path = repository_join(folder, name);
  if (path == NULL) return repository_no_memory(err);
  struct stat entry;
  bool there = stat(path, &entry) == 0;
  mu_status status = MU_OK;
  if (there && S_ISDIR(entry.st_mode))
    status = add_name(repository, name, strlen(name), err);
  else if (there && S_ISREG(entry.st_mode) && repository_has_suffix(name))
    status = add_name(repository, name, strlen(name) - REPOSITORY_SUFFIX_LENGTH, err);
  free(path);
  return status;
}

static mu_status name_path(struct repository *repository, const char *path, mu_error *err) {
  struct repository_listing listing = {0};
  mu_error unread;
  mu_status status = MU_OK;
  const char *slash = strrchr(path, '/'), *base = slash != NULL ? slash + 1 : path;
  status = repository_list_folder(path, &listing, &unread);
  if (status == MU_NO_MEMORY) return repository_no_memory(err);
  if (status != MU_OK)
    return repository_has_suffix(base) ? add_name(repository, base, strlen(base) - REPOSITORY_SUFFIX_LENGTH, err)
                                       : MU_OK;
  for (int i = 0; i < listing.n && status == MU_OK; i++)
    status = name_entry(repository, path, listing.entries[i]->d_name, err);
  repository_listing_free(&listing);
  return status;
}

static void drop_repeated(struct repository *repository) {
  size_t kept = 0;
  for (size_t i = 0; i < repository->n_models; i++) {
    if (kept > 0 && strcmp(repository->models[kept - 1].name, repository->models[i].name) == 0)
      repository_model_clear(&repository->models[i]);
    else
      repository->models[kept++] = repository->models[i];
  }
  repository->n_models = kept;
}

mu_status repository_names(const char *const *paths, size_t n_paths, struct repository *ret_repository, mu_error *err) {
  struct repository repository = {0};
  mu_status status = MU_OK;
  for (size_t i = 0; i < n_paths && status == MU_OK; i++) status = name_path(&repository, paths[i], err);
  if (status != MU_OK) {
    repository_free(&repository);
    return status;
  }
  if (repository.n_models > 0) qsort(repository.models, repository.n_models, sizeof *repository.models, by_model_name);
  drop_repeated(&repository);
  *ret_repository = repository;
  return MU_OK;
}

void repository_free(struct repository *repository) {
  for (size_t i = 0; i < repository->n_models; i++) repository_model_clear(&repository->models[i]);
  free(repository->models);
  *repository = (struct repository){0};
}
