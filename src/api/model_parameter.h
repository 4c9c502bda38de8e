/*
 * A parameter of a request to load or unload a model, as a protocol brought it: what it means is for
 * gateway/model_control.h to say. Borrowed memory.
 */
#ifndef API_MODEL_PARAMETER_H
#define API_MODEL_PARAMETER_H

#include "base/status.h"

enum model_parameter_kind {
  MODEL_PARAMETER_STRING,
  MODEL_PARAMETER_BYTES,
  MODEL_PARAMETER_BASE64, /* bytes, in that coding */
  MODEL_PARAMETER_BOOL,
  MODEL_PARAMETER_INT,
};

enum { MODEL_PARAMETERS_MAX = 64 };

struct model_parameter {
  const char *key;
  size_t key_size;
  enum model_parameter_kind kind;
  const char *data; /* STRING, BYTES, BASE64 */
  size_t size;
  int64_t number; /* BOOL, INT */
};

#endif
