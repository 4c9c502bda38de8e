/* What a load request brings along instead of what is in the repository. */
#ifndef GATEWAY_MODEL_OVERRIDE_H
#define GATEWAY_MODEL_OVERRIDE_H

#include "api/model_parameter.h"
#include "control/message.h"

enum { OVERRIDE_FILES_MAX = 32 };

struct model_override {
  char *config; /* NULL: none */
  size_t config_size;
  int64_t versions[OVERRIDE_FILES_MAX];
  int files[OVERRIDE_FILES_MAX]; /* sealed memfds, one for each of the versions */
  size_t n_files;
};

/* name: of the model, checked. As model_control_load says. */
MUST_CHECK mu_status model_override_create(const char *name, const struct model_parameter *parameters, size_t n,
                                           struct model_override *ret_override, mu_error *err);
void model_override_free(struct model_override *override); /* accepts a zeroed one */

#endif
