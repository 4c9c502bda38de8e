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

/*
 * Scans paths (folders are repositories, files are models) in order. Hidden entries and other files are passed over.
 * A model that is wrong becomes an entry with `problem`; what makes the call itself fail is a path that cannot be read
 * (MU_NOT_FOUND, MU_IO), a file that is not *.onnx, the same model name twice (MU_EXISTS, both places in the message),
 * or a repository without any model (MU_INVALID).
 */
MUST_CHECK mu_status repository_scan(const char *const *paths, size_t n_paths, struct repository *ret_repository,
                                     mu_error *err);
void repository_free(struct repository *repository);

/* A model name that can stand in a URL and a path: 1 to 255 bytes, no '/', no control characters, not "." or "..". */
bool model_name_valid(const char *name, size_t len);

#endif
