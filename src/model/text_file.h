/* Reading a whole small file. */
#ifndef MODEL_TEXT_FILE_H
#define MODEL_TEXT_FILE_H

#include "base/status.h"

/* The content of a regular file of at most limit bytes, terminated, for free(). MU_NOT_FOUND, MU_IO, MU_TOO_LARGE,
 * MU_NO_MEMORY; the message names the path. Never blocks on what only looks like a file (a FIFO). */
MUST_CHECK mu_status text_file_read(const char *path, size_t limit, char **ret_text, size_t *ret_size, mu_error *err);

#endif
