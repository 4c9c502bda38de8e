/*
 * What every reader of muster.yaml needs around libcyaml: the file's text, and libcyaml's messages as muster says them
 * (file:line: what). Private to config/.
 */
#ifndef CONFIG_YAML_TEXT_H
#define CONFIG_YAML_TEXT_H

#include <cyaml/cyaml.h>
#include <yaml.h>

#include "base/buffer.h"

/* The largest file, and one read beyond it: what the text's buffer is made with. */
enum { YAML_TEXT_MAX = 1 << 20, YAML_READ_SIZE = 4096, YAML_TEXT_LIMIT = YAML_TEXT_MAX + YAML_READ_SIZE };

/* MU_NOT_FOUND, MU_IO, MU_TOO_LARGE, MU_NO_MEMORY. The supervisor reads settings, too, so it does not wait for ever for
 * somebody to write into a pipe. */
MUST_CHECK mu_status yaml_text_read(const char *path, struct buffer *text, mu_error *err);

/* Aliases let a small file stand for a huge one, which libcyaml would write out: MU_INVALID before it does. */
MUST_CHECK mu_status yaml_check_extent(const char *path, yaml_document_t *document, mu_error *err);

/* The first line says what is wrong, "Backtrace:" follows, then the place, innermost first. */
struct yaml_complaint {
  char what[160];
  char place[160];
};

/* libcyaml's log function; context: a struct yaml_complaint. */
void yaml_complaint_take(cyaml_log_t level, void *context, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));

/* The syntax has been checked before: MU_INVALID with the line, or MU_NO_MEMORY. */
MUST_CHECK mu_status yaml_fail_value(const char *path, const struct yaml_complaint *complaint, cyaml_err_t code,
                                     mu_error *err);

MUST_CHECK mu_status yaml_fail_no_memory(const char *path, mu_error *err);

#endif
