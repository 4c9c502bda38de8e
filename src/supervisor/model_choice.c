/* Which models are loaded with --model-control-mode=explicit, and what each is made of. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "supervisor/state.h"

struct model_choice *model_choice_create(const char *name, const struct control_bytes *config, const int64_t *versions,
                                         const int *files, size_t n_files) {
  struct model_choice *choice = calloc(1, sizeof *choice);
  if (choice == NULL) return NULL;
  list_init(&choice->link);
  choice->name = strdup(name);
  if (choice->name == NULL) goto fail;
  if (config != NULL && config->size > 0) {
    choice->config = malloc(config->size);
    if (choice->config == NULL) goto fail;
    memcpy(choice->config, config->data, config->size);
    choice->config_size = config->size;
  }
  for (; choice->n_files < n_files; choice->n_files++) {
    int copy = fcntl(files[choice->n_files], F_DUPFD_CLOEXEC, 0);
    if (copy < 0) goto fail;
    choice->files[choice->n_files] = copy;
    choice->versions[choice->n_files] = versions[choice->n_files];
  }
  return choice;

fail:
  model_choice_free(choice);
  return NULL;
}

void model_choice_free(struct model_choice *choice) {
  if (choice == NULL) return;
  list_remove(&choice->link);
  for (size_t i = 0; i < choice->n_files; i++) close(choice->files[i]);
  free(choice->config);
  free(choice->name);
  free(choice);
}

struct model_choice *model_choice_find(const struct list *choices, const char *name) {
  list_each (link, choices) {
    struct model_choice *choice = list_item(link, struct model_choice, link);
    if (strcmp(choice->name, name) == 0) return choice;
  }
  return NULL;
}

void model_choice_put(struct list *choices, struct model_choice *choice) {
  model_choice_free(model_choice_find(choices, choice->name));
  struct list *at = choices->next;
  while (at != choices && strcmp(list_item(at, struct model_choice, link)->name, choice->name) < 0) at = at->next;
  list_insert_before(at, &choice->link);
}

void model_choices_free(struct list *choices) {
  list_each (link, choices) model_choice_free(list_item(link, struct model_choice, link));
}

const struct list *model_choices(const struct supervisor *s) {
  return s->options->model_control_mode == CONTROL_MODE_EXPLICIT ? &s->choices : NULL;
}

/* ---- --load-model ------------------------------------------------------------------------------------------------ */

static mu_status unknown_model(const struct repository *repository, const char *name, mu_error *err) {
  const char **names = calloc(repository->n_models + 1, sizeof *names);
  if (names == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the models");
  for (size_t i = 0; i < repository->n_models; i++) names[i] = repository->models[i].name;
  const char *near = nearest_word(name, names, repository->n_models);
  free(names);
  if (near == NULL) return mu_fail(err, MU_NOT_FOUND, "--load-model %s: there is no such model", name);
  return mu_fail(err, MU_NOT_FOUND, "--load-model %s: there is no such model; did you mean %s?", name, near);
}

static mu_status choose(struct list *choices, const char *name, mu_error *err) {
  struct model_choice *choice = model_choice_create(name, NULL, NULL, NULL, 0);
  if (choice == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the models");
  model_choice_put(choices, choice);
  return MU_OK;
}

static mu_status choose_named(struct list *choices, const struct repository *repository, const char *name,
                              mu_error *err) {
  bool all = strcmp(name, "*") == 0, found = all;
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < repository->n_models; i++) {
    if (!all && strcmp(repository->models[i].name, name) != 0) continue;
    found = true;
    status = choose(choices, repository->models[i].name, err);
  }
  return status != MU_OK || found ? status : unknown_model(repository, name, err);
}

static mu_status check_paths(const struct options *options, mu_error *err) {
  struct stat entry;
  for (size_t i = 0; i < options->models.n; i++)
    if (stat(options->models.items[i], &entry) != 0)
      return mu_fail(err, errno == ENOENT ? MU_NOT_FOUND : MU_IO, "%s: %s", options->models.items[i], strerror(errno));
  return MU_OK;
}

mu_status model_choices_read(struct supervisor *s, mu_error *err) {
  const struct options *options = s->options;
  struct repository repository = {0};
  if (options->model_control_mode != CONTROL_MODE_EXPLICIT) return MU_OK;
  mu_status status = wanted_models_check(options, err);
  if (status == MU_OK) status = check_paths(options, err);
  if (status == MU_OK) status = repository_names(options->models.items, options->models.n, &repository, err);
  for (size_t i = 0; status == MU_OK && i < options->load_models.n; i++)
    status = choose_named(&s->choices, &repository, options->load_models.items[i], err);
  repository_free(&repository);
  return status;
}
