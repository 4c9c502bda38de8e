/*
 * Finding models on disk. Supervisor only. Two layouts: Triton's NAME/VERSION/model.onnx with an optional
 * NAME/config.pbtxt, and flat NAME.onnx (version 1). A single file can be named too.
 */
#ifndef MODEL_REPOSITORY_H
#define MODEL_REPOSITORY_H

#include "model/model_config.h"

struct repository_version {
  int64_t version;
  char *path; /* the model file (default_model_filename); NULL for an engine that needs none */
  bool given; /* path only names it: the file did not come from the disk (repository_given) */
};

/* With a problem, versions may be incomplete and their paths NULL. */
struct repository_model {
  char *name;
  char *place;                 /* the folder or file that it was found as, for messages */
  char *folder;                /* of the model (labels, warmup); "" for a flat file */
  struct model_config *config; /* NULL when its config.pbtxt is wrong; then `problem` says why */
  char *problem;               /* "" or why this model cannot be served: it is listed as UNAVAILABLE with that reason */
  struct repository_version *versions; /* those the version policy chooses, ascending */
  size_t n_versions;
  bool named; /* given as a file on the command line */
};

struct repository {
  struct repository_model *models; /* by name */
  size_t n_models;
};

struct repository_config {
  const char *text;
  size_t size;
};

/*
 * Scans paths (folders are repositories, files are models) in order. Hidden entries and other files are passed over.
 * A model that is wrong becomes an entry with `problem`; what makes the call itself fail is a path that cannot be read
 * (MU_NOT_FOUND, MU_IO), a file that is not *.onnx, the same model name twice (MU_EXISTS, both places in the message),
 * or a repository without any model (MU_INVALID), unless it may be empty.
 */
MUST_CHECK mu_status repository_scan(const char *const *paths, size_t n_paths, struct repository *ret_repository,
                                     mu_error *err);
/*
 * One model of those paths, by its name, which may come from a stranger: only an entry that is called so is looked at.
 * config: a configuration instead of that of its folder; NULL: none. ret_repository holds that one model, which may
 * have a problem. MU_NOT_FOUND: there is none; MU_INVALID: that cannot be the name of a model; MU_EXISTS: two are
 * called so; MU_NO_MEMORY.
 */
MUST_CHECK mu_status repository_find(const char *const *paths, size_t n_paths, const char *name,
                                     const struct repository_config *config, struct repository *ret_repository,
                                     mu_error *err);

/* A model that is made of a configuration and model files of these versions alone, which are somewhere else than on
 * disk; of the paths' models none is looked at. The version policy holds. As above. */
MUST_CHECK mu_status repository_given(const char *name, const struct repository_config *config, const int64_t *versions,
                                      size_t n_versions, struct repository *ret_repository, mu_error *err);

/* The names of all that may be models of those paths (folders, *.onnx), without a look inside: ascending, each once, to
 * be freed with repository_free; only name and place of each entry are filled. Paths that cannot be read are passed
 * over. MU_NO_MEMORY. */
MUST_CHECK mu_status repository_names(const char *const *paths, size_t n_paths, struct repository *ret_repository,
                                      mu_error *err);
void repository_free(struct repository *repository);

/* A model name that can stand in a URL and a path: 1 to 255 bytes, no '/', no control characters, not "." or "..". */
bool model_name_valid(const char *name, size_t len);

#endif
