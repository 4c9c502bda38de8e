#include "config/yaml_text.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

enum {
  PATIENCE_S = 3,         /* for all that a pipe has to say */
  DOCUMENT_MOST = 65536,  /* keys and values, those behind an alias each time */
  DOCUMENT_DEPTH_MAX = 32 /* far more than the deepest setting */
};

mu_status yaml_fail_no_memory(const char *path, mu_error *err) {
  return mu_fail(err, MU_NO_MEMORY, "no memory for %.200s", path);
}

/* Regular files always have something to say, if only their end. */
static mu_status wait_for_text(int fd, uint64_t until_ns, const char *path, mu_error *err) {
  struct pollfd waited = {.fd = fd, .events = POLLIN};
  for (;;) {
    uint64_t now = clock_now_ns();
    int n = poll(&waited, 1, now < until_ns ? (int)((until_ns - now) / NS_PER_MS + 1) : 0);
    if (n > 0) return MU_OK;
    if (n == 0) return mu_fail(err, MU_IO, "cannot read %.200s: nobody writes into it, or not to its end", path);
    if (errno != EINTR) return mu_fail(err, MU_IO, "cannot read %.200s: %s", path, strerror(errno));
  }
}

static mu_status read_all(int fd, const char *path, struct buffer *text, mu_error *err) {
  uint64_t until_ns = time_add(clock_now_ns(), PATIENCE_S * NS_PER_S);
  for (;;) {
    mu_status status = buffer_reserve(text, YAML_READ_SIZE);
    if (status == MU_TOO_LARGE) return mu_fail(err, status, "%.200s is larger than 1 MiB", path);
    if (status != MU_OK) return yaml_fail_no_memory(path, err);
    status = wait_for_text(fd, until_ns, path, err);
    if (status != MU_OK) return status;
    ssize_t got = read(fd, text->data + text->size, YAML_READ_SIZE);
    if (got < 0 && errno != EINTR && errno != EAGAIN)
      return mu_fail(err, MU_IO, "cannot read %.200s: %s", path, strerror(errno));
    if (got == 0) return MU_OK;
    if (got > 0) text->size += (size_t)got;
  }
}

mu_status yaml_text_read(const char *path, struct buffer *text, mu_error *err) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0) {
    mu_status status = errno == ENOENT ? MU_NOT_FOUND : MU_IO;
    return mu_fail(err, status, "cannot open %.200s: %s", path, strerror(errno));
  }
  mu_status status = read_all(fd, path, text, err);
  close(fd);
  return status;
}

/* ---- what the text stands for ------------------------------------------------------------------------------------ */

/* Takes a node and all below it from *left; false: there is not so much left. An alias to what it stands in, too, ends
 * by the depth. */
static bool take_extent(yaml_document_t *document, int index, unsigned depth, uint32_t *left) {
  const yaml_node_t *node = yaml_document_get_node(document, index);
  if (node == NULL) return true;
  if (*left == 0 || depth == 0) return false;
  --*left;
  bool fits = true;
  if (node->type == YAML_SEQUENCE_NODE)
    for (const yaml_node_item_t *i = node->data.sequence.items.start; fits && i < node->data.sequence.items.top; i++)
      fits = take_extent(document, *i, depth - 1, left);
  if (node->type == YAML_MAPPING_NODE)
    for (const yaml_node_pair_t *p = node->data.mapping.pairs.start; fits && p < node->data.mapping.pairs.top; p++)
      fits = take_extent(document, p->key, depth - 1, left) && take_extent(document, p->value, depth - 1, left);
  return fits;
}

mu_status yaml_check_extent(const char *path, yaml_document_t *document, mu_error *err) {
  uint32_t left = DOCUMENT_MOST;
  if (yaml_document_get_root_node(document) == NULL || take_extent(document, 1, DOCUMENT_DEPTH_MAX, &left))
    return MU_OK;
  return mu_fail(err, MU_INVALID,
                 "%.200s: more than %d keys and values with what its aliases stand for, or more than %d in each other",
                 path, DOCUMENT_MOST, DOCUMENT_DEPTH_MAX);
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
