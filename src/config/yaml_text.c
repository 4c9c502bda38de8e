#include "config/yaml_text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

mu_status yaml_fail_no_memory(const char *path, mu_error *err) {
  return mu_fail(err, MU_NO_MEMORY, "no memory for %.200s", path);
}

mu_status yaml_text_read(const char *path, struct buffer *text, mu_error *err) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) {
    mu_status status = errno == ENOENT ? MU_NOT_FOUND : MU_IO;
    return mu_fail(err, status, "cannot open %.200s: %s", path, strerror(errno));
  }
  mu_status status;
  ssize_t got = 1;
  while ((status = buffer_reserve(text, YAML_READ_SIZE)) == MU_OK && got > 0) {
    got = read(fd, text->data + text->size, YAML_READ_SIZE);
    if (got < 0 && errno == EINTR) {
      got = 1;
      continue;
    }
    if (got < 0) status = mu_fail(err, MU_IO, "cannot read %.200s: %s", path, strerror(errno));
    if (got < 0) break;
    text->size += (size_t)got;
  }
  close(fd);
  if (status == MU_TOO_LARGE) return mu_fail(err, status, "%.200s is larger than 1 MiB", path);
  return status == MU_NO_MEMORY ? yaml_fail_no_memory(path, err) : status;
}

/* ---- libcyaml's messages ----------------------------------------------------------------------------------------- */

void yaml_complaint_take(cyaml_log_t level, void *context, const char *format, va_list args) {
  struct yaml_complaint *complaint = context;
  char line[160];
  vsnprintf(line, sizeof line, format, args);
  line[strcspn(line, "\n")] = '\0';
  const char *text = strncmp(line, "Load: ", 6) == 0 ? line + 6 : line;
  text += strspn(text, " ");
  if (complaint->what[0] == '\0')
    snprintf(complaint->what, sizeof complaint->what, "%s", text);
  else if (complaint->place[0] == '\0' && strstr(text, "(line: ") != NULL)
    snprintf(complaint->place, sizeof complaint->place, "%s", text);
}

mu_status yaml_fail_value(const char *path, const struct yaml_complaint *complaint, cyaml_err_t code, mu_error *err) {
  unsigned line = 0;
  const char *at = strstr(complaint->place, "(line: ");
  /* the syntax has been checked: all that can fail in libyaml now is memory */
  if (code == CYAML_ERR_OOM || code == CYAML_ERR_LIBYAML_PARSER || code == CYAML_ERR_LIBYAML_PARSER_INIT)
    return yaml_fail_no_memory(path, err);
  const char *what = complaint->what[0] != '\0' ? complaint->what : cyaml_strerror(code);
  if (at == NULL || sscanf(at, "(line: %u", &line) != 1) return mu_fail(err, MU_INVALID, "%.200s: %s", path, what);
  return mu_fail(err, MU_INVALID, "%.200s:%u: %s, %.*s", path, line, what, (int)(at - complaint->place),
                 complaint->place);
}
