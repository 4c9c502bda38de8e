#include "process/memory_group.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const char *memory_group_path(char *text, const char *controller) {
  size_t length = strlen(controller);
  for (char *line = text; *line != '\0';) {
    char *end = line + strcspn(line, "\n"), *name = memchr(line, ':', (size_t)(end - line));
    if (name != NULL && strncmp(name + 1, controller, length) == 0 && name[1 + length] == ':') {
      *end = '\0';
      return name + 2 + length;
    }
    line = *end == '\0' ? end : end + 1;
  }
  return NULL;
}

/* false: there is no such file, or it cannot be read. */
static bool read_file(const char *path, char *text, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n = read(fd, text, size - 1);
  close(fd);
  if (n < 0) return false;
  text[n] = '\0';
  return true;
}

static bool is_set(const char *mount, const char *group) {
  char path[2 * MEMORY_GROUP_PATH_MAX], text[16];
  snprintf(path, sizeof path, "%s%s/memory.oom.group", mount, strcmp(group, "/") == 0 ? "" : group);
  return read_file(path, text, sizeof text) && text[0] == '1';
}

/* Whether a limit of the group, of one above it, or of the machine is what runs out: the kernel kills the outermost
 * group below that limit which has the mark, so any of them may be the one. */
bool memory_group_dies_together(const char *groups, const char *mount, char ret_group[MEMORY_GROUP_PATH_MAX]) {
  char text[MEMORY_GROUP_PATH_MAX], group[MEMORY_GROUP_PATH_MAX];
  bool found = false;
  if (!read_file(groups, text, sizeof text)) return false;
  const char *own = memory_group_path(text, "");
  if (own == NULL || own[0] != '/') return false;
  snprintf(group, sizeof group, "%s", own);
  for (;;) {
    if (is_set(mount, group)) {
      found = true;
      memcpy(ret_group, group, sizeof group);
    }
    if (strcmp(group, "/") == 0) return found;
    char *slash = strrchr(group, '/');
    slash[slash == group] = '\0'; /* "/a" → "/", "/a/b" → "/a" */
  }
}
