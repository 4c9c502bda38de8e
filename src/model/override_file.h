/*
 * Names of files that come with a request to load a model: "file:1/model.onnx". They are a stranger's; nothing here or
 * behind it opens a path that was made of one.
 */
#ifndef MODEL_OVERRIDE_FILE_H
#define MODEL_OVERRIDE_FILE_H

#include "base/status.h"

#include <stdint.h>

/*
 * name of size bytes, which may be any: "file:VERSION/FILENAME", or "file:FILENAME" (*ret_version is 0). ret_file
 * points into name. MU_INVALID: not of that form (absolute, "..", an empty part, a further folder, control characters,
 * a version that is no positive number).
 */
MUST_CHECK mu_status override_file_parse(const char *name, size_t size, int64_t *ret_version, const char **ret_file,
                                         size_t *ret_file_size, mu_error *err);

#endif
