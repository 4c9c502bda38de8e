#include "model/repository_model.h"

#include "model/text.h"
#include "model/text_file.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char repository_config_file[] = "config.pbtxt", repository_default_file[] = "model.onnx",
           repository_suffix[] = ".onnx";

bool model_name_valid(const char *name, size_t len) {
  if (len == 0 || len > 255 || !text_valid(name, len)) return false;
  for (size_t i = 0; i < len; i++)
    if (name[i] == '/' || (unsigned char)name[i] < 0x20 || name[i] == 0x7f) return false;
  return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

mu_status repository_no_memory(mu_error *err) {
  return mu_fail(err, MU_NO_MEMORY, "no memory for the model repository");
}

mu_status repository_io_fail(mu_error *err, const char *path) {
  return mu_fail(err,
                 errno == ENOENT   ? MU_NOT_FOUND
                 : errno == ENOMEM ? MU_NO_MEMORY
                                   : MU_IO,
                 "%s: %s", path, strerror(errno));
}

bool repository_has_suffix(const char *name) {
  size_t len = strlen(name), n = REPOSITORY_SUFFIX_LENGTH;
  return len > n && strcmp(name + len - n, repository_suffix) == 0;
}

/* folder/name, or NULL without memory. */
char *repository_join(const char *folder, const char *name) {
  char *path = NULL;
  bool slash = *folder != '\0' && folder[strlen(folder) - 1] == '/';
  return asprintf(&path, "%s%s%s", folder, slash ? "" : "/", name) < 0 ? NULL : path;
}

/* ---- folders ----------------------------------------------------------------------------------------------------- */

static int not_hidden(const struct dirent *entry) { return entry->d_name[0] != '.'; }
/* By bytes: alphasort would go by the locale. */
static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

mu_status repository_list_folder(const char *path, struct repository_listing *ret_listing, mu_error *err) {
  struct dirent **entries = NULL;
  int n = scandir(path, &entries, not_hidden, by_name);
  if (n < 0) return repository_io_fail(err, path);
  *ret_listing = (struct repository_listing){.entries = entries, .n = n};
  return MU_OK;
}

void repository_listing_free(struct repository_listing *listing) {
  for (int i = 0; i < listing->n; i++) free(listing->entries[i]);
  free(listing->entries);
}

/* The version that a folder's name stands for: a positive number as one would write it; 0 for any other name. */
static int64_t version_of(const char *name) {
  int64_t version = 0;
  if (*name == '0') return 0;
  for (; *name != '\0'; name++)
    if (*name < '0' || *name > '9' || __builtin_mul_overflow(version, 10, &version) ||
        __builtin_add_overflow(version, *name - '0', &version))
      return 0;
  return version;
}

/* ---- one model --------------------------------------------------------------------------------------------------- */

void repository_model_clear(struct repository_model *model) {
  for (size_t i = 0; i < model->n_versions; i++) free(model->versions[i].path);
  free(model->versions);
  model_config_free(model->config);
  free(model->problem);
  free(model->folder);
  free(model->place);
  free(model->name);
}

/* A failure that concerns one model becomes its problem; running out of memory concerns all. */
mu_status repository_keep_problem(struct repository_model *model, mu_status status, const mu_error *problem,
                                  mu_error *err) {
  if (status == MU_OK) return MU_OK;
  if (status == MU_NO_MEMORY) return repository_no_memory(err);
  char *text = strdup(problem->message);
  if (text == NULL) return repository_no_memory(err);
  text_mend_end(text);
  free(model->problem);
  model->problem = text;
  return MU_OK;
}

/* name of len bytes; what cannot stand in a name is shown as '?' and is a problem of the model. */
mu_status repository_model_init(struct repository_model *model, const char *name, size_t len, const char *place,
                                const char *folder, mu_error *err) {
  *model = (struct repository_model){
      .name = strndup(name, len), .place = strdup(place), .folder = strdup(folder), .problem = strdup("")};
  if (model->name == NULL || model->place == NULL || model->folder == NULL || model->problem == NULL)
    return repository_no_memory(err);
  if (model_name_valid(name, len)) return MU_OK;
  for (char *c = model->name; *c != '\0'; c++)
    if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f) *c = '?';
  mu_error problem;
  mu_status status = mu_fail(&problem, MU_INVALID, "'%s' cannot be the name of a model", model->name);
  return repository_keep_problem(model, status, &problem, err);
}

/* config.pbtxt of the model's folder; a missing one is an empty one. */
static mu_status read_config(struct repository_model *model, mu_error *problem) {
  char *path = repository_join(model->folder, repository_config_file), *text = NULL;
  if (path == NULL) return MU_NO_MEMORY;
  size_t size = 0;
  struct stat entry;
  mu_status status = text_file_read(path, MODEL_CONFIG_TEXT_MAX, &text, &size, problem);
  if (status == MU_NOT_FOUND && lstat(path, &entry) != 0) status = MU_OK; /* not even a dangling link */
  if (status == MU_OK)
    status = model_config_parse(text != NULL ? text : "", size, path, model->name, &model->config, problem);
  free(text);
  free(path);
  return status;
}

/* A model file, or a folder of that name which holds it along with its external data. */
static mu_status find_file(char *path, char **ret_path, mu_error *problem) {
  struct stat file;
  if (stat(path, &file) != 0) return repository_io_fail(problem, path);
  if (S_ISREG(file.st_mode)) {
    *ret_path = path;
    return MU_OK;
  }
  if (!S_ISDIR(file.st_mode)) return mu_fail(problem, MU_INVALID, "%s: not a regular file", path);
  char *inner = repository_join(path, repository_default_file);
  if (inner == NULL) return MU_NO_MEMORY;
  if (stat(inner, &file) != 0 || !S_ISREG(file.st_mode)) {
    mu_fail(problem, MU_NOT_FOUND, "%s: no model file there", inner);
    free(inner);
    return MU_NOT_FOUND;
  }
  free(path);
  *ret_path = inner;
  return MU_OK;
}

static mu_status find_version_file(const struct repository_model *model, struct repository_version *version,
                                   mu_error *problem) {
  const char *file = model->config->default_model_filename;
  if (!model_config_needs_file(model->config)) return MU_OK;
  char *path = NULL;
  if (asprintf(&path, "%s/%lld/%s", model->folder, (long long)version->version,
               *file != '\0' ? file : repository_default_file) < 0)
    return MU_NO_MEMORY;
  mu_status status = find_file(path, &version->path, problem);
  if (status != MU_OK) free(path);
  return status;
}

static int by_version(const void *a, const void *b) {
  const struct repository_version *x = a, *y = b;
  return x->version < y->version ? -1 : x->version > y->version;
}

/* All version folders, ascending. */
static mu_status list_versions(struct repository_model *model, mu_error *problem) {
  struct repository_listing listing = {0};
  mu_status status = repository_list_folder(model->folder, &listing, problem);
  if (status != MU_OK) return status;
  model->versions = calloc((size_t)listing.n + 1, sizeof *model->versions);
  if (model->versions == NULL) status = MU_NO_MEMORY;
  for (int i = 0; i < listing.n && status == MU_OK; i++) {
    int64_t version = version_of(listing.entries[i]->d_name);
    if (version == 0) continue;
    struct stat entry;
    char *path = repository_join(model->folder, listing.entries[i]->d_name);
    if (path == NULL)
      status = MU_NO_MEMORY;
    else if (stat(path, &entry) != 0)
      status = repository_io_fail(problem, path);
    else if (S_ISDIR(entry.st_mode))
      model->versions[model->n_versions++].version = version;
    free(path);
  }
  repository_listing_free(&listing);
  if (status == MU_OK && model->n_versions > 0)
    qsort(model->versions, model->n_versions, sizeof *model->versions, by_version);
  return status;
}

static bool version_named(const struct model_config *config, int64_t version) {
  for (uint32_t i = 0; i < config->n_versions; i++)
    if (config->versions[i] == version) return true;
  return false;
}

static bool version_there(const struct repository_model *model, int64_t version) {
  for (size_t i = 0; i < model->n_versions; i++)
    if (model->versions[i].version == version) return true;
  return false;
}

/* Keeps the versions that the policy chooses. No path is set yet. */
static mu_status apply_policy(struct repository_model *model, mu_error *problem) {
  const struct model_config *config = model->config;
  if (model->n_versions == 0)
    return mu_fail(problem, MU_NOT_FOUND, "%s: no version folder (a number from 1, without leading zeros) in it",
                   model->place);
  size_t keep_from = 0, kept = 0;
  if (config->version_policy == VERSION_LATEST && model->n_versions > config->latest)
    keep_from = model->n_versions - config->latest;
  for (uint32_t i = 0; config->version_policy == VERSION_SPECIFIC && i < config->n_versions; i++)
    if (!version_there(model, config->versions[i]))
      return mu_fail(problem, MU_NOT_FOUND, "%s/%lld: no such folder, but the version policy names it", model->place,
                     (long long)config->versions[i]);
  for (size_t i = keep_from; i < model->n_versions; i++)
    if (config->version_policy != VERSION_SPECIFIC || version_named(config, model->versions[i].version))
      model->versions[kept++] = model->versions[i];
  model->n_versions = kept;
  return MU_OK;
}

const char repository_override_source[] = "config override";

/* The configuration of its folder, or the one that takes its place. */
static mu_status use_config(struct repository_model *model, const struct repository_config *config, mu_error *problem) {
  if (config != NULL)
    return model_config_parse(config->text, config->size, repository_override_source, model->name, &model->config,
                              problem);
  if (*model->folder == '\0') return model_config_parse("", 0, model->place, model->name, &model->config, problem);
  return read_config(model, problem);
}

static mu_status read_model_folder(struct repository_model *model, const struct repository_config *config,
                                   mu_error *problem) {
  mu_status status = use_config(model, config, problem);
  if (status == MU_OK) status = list_versions(model, problem);
  if (status == MU_OK) status = apply_policy(model, problem);
  for (size_t i = 0; i < model->n_versions && status == MU_OK; i++)
    status = find_version_file(model, &model->versions[i], problem);
  return status;
}

static mu_status read_model_file(struct repository_model *model, const struct repository_config *config,
                                 mu_error *problem) {
  mu_status status = use_config(model, config, problem);
  if (status != MU_OK) return status;
  model->versions = calloc(1, sizeof *model->versions);
  if (model->versions == NULL) return MU_NO_MEMORY;
  model->n_versions = 1;
  model->versions[0].version = 1;
  model->versions[0].path = strdup(model->place);
  return model->versions[0].path != NULL ? MU_OK : MU_NO_MEMORY;
}

/* ---- adding one -------------------------------------------------------------------------------------------------- */

/* Room for one more, zeroed; it counts from now on. NULL without memory. */
struct repository_model *repository_add_model(struct repository *repository) {
  size_t n = repository->n_models;
  if ((n & (n - 1)) == 0) { /* full at every power of two */
    struct repository_model *models = realloc(repository->models, (n == 0 ? 1 : 2 * n) * sizeof *models);
    if (models == NULL) return NULL;
    repository->models = models;
  }
  repository->models[n] = (struct repository_model){0};
  repository->n_models++;
  return &repository->models[n];
}

mu_status repository_add_folder(struct repository *repository, const char *name, const char *path,
                                const struct repository_config *config, mu_error *err) {
  struct repository_model *model = repository_add_model(repository);
  if (model == NULL) return repository_no_memory(err);
  mu_status status = repository_model_init(model, name, strlen(name), path, path, err);
  if (status != MU_OK || *model->problem != '\0') return status;
  mu_error problem;
  return repository_keep_problem(model, read_model_folder(model, config, &problem), &problem, err);
}

mu_status repository_add_file(struct repository *repository, const char *path, bool named,
                              const struct repository_config *config, mu_error *err) {
  const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
  struct repository_model *model = repository_add_model(repository);
  if (model == NULL) return repository_no_memory(err);
  mu_status status = repository_model_init(model, name, strlen(name) - REPOSITORY_SUFFIX_LENGTH, path, "", err);
  model->named = named;
  if (status != MU_OK || *model->problem != '\0') return status;
  mu_error problem;
  return repository_keep_problem(model, read_model_file(model, config, &problem), &problem, err);
}

mu_status repository_give_versions(struct repository_model *model, const struct repository_config *config,
                                   const int64_t *versions, size_t n_versions, mu_error *problem) {
  mu_status status = use_config(model, config, problem);
  if (status != MU_OK) return status;
  model->versions = calloc(n_versions + 1, sizeof *model->versions);
  if (model->versions == NULL) return MU_NO_MEMORY;
  for (; model->n_versions < n_versions; model->n_versions++)
    model->versions[model->n_versions] =
        (struct repository_version){.version = versions[model->n_versions], .given = true};
  qsort(model->versions, model->n_versions, sizeof *model->versions, by_version);
  status = apply_policy(model, problem);
  const char *file = model->config->default_model_filename;
  for (size_t i = 0; i < model->n_versions && status == MU_OK; i++) {
    struct repository_version *version = &model->versions[i];
    if (asprintf(&version->path, "file:%lld/%s", (long long)version->version,
                 *file != '\0' ? file : repository_default_file) >= 0)
      continue;
    version->path = NULL;
    status = MU_NO_MEMORY;
  }
  return status;
}
