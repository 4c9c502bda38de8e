/* One model of a repository, and the steps that it is read in. Private to model/. */
#ifndef MODEL_REPOSITORY_MODEL_H
#define MODEL_REPOSITORY_MODEL_H

#include "model/repository.h"

#include <dirent.h>

enum { REPOSITORY_SUFFIX_LENGTH = 5 };
extern const char repository_config_file[], repository_default_file[], repository_suffix[];
extern const char repository_override_source[]; /* what a configuration that came with a request is called */

mu_status repository_no_memory(mu_error *err);
mu_status repository_io_fail(mu_error *err, const char *path); /* by errno */
bool repository_has_suffix(const char *name);
/* folder/name, or NULL without memory. */
char *repository_join(const char *folder, const char *name);

/* What is in a folder, but for hidden entries, by name. */
struct repository_listing {
  struct dirent **entries;
  int n;
};
MUST_CHECK mu_status repository_list_folder(const char *path, struct repository_listing *ret_listing, mu_error *err);
void repository_listing_free(struct repository_listing *listing);

/* Room for one more, zeroed; it counts from now on. NULL without memory. */
struct repository_model *repository_add_model(struct repository *repository);
/* name of len bytes; what cannot stand in a name is shown as '?' and is a problem of the model. */
MUST_CHECK mu_status repository_model_init(struct repository_model *model, const char *name, size_t len,
                                           const char *place, const char *folder, mu_error *err);
/* A failure that concerns one model becomes its problem; running out of memory concerns all. */
MUST_CHECK mu_status repository_keep_problem(struct repository_model *model, mu_status status, const mu_error *problem,
                                             mu_error *err);
void repository_model_clear(struct repository_model *model);

/* One more, from a folder or a file. config: instead of that of the folder; NULL: none. */
MUST_CHECK mu_status repository_add_folder(struct repository *repository, const char *name, const char *path,
                                           const struct repository_config *config, mu_error *err);
MUST_CHECK mu_status repository_add_file(struct repository *repository, const char *path, bool named,
                                         const struct repository_config *config, mu_error *err);
/* The versions that the policy chooses among these, of a model whose files are somewhere else than on disk. */
MUST_CHECK mu_status repository_give_versions(struct repository_model *model, const struct repository_config *config,
                                              const int64_t *versions, size_t n_versions, mu_error *problem);

#endif
