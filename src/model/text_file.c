#include "model/text_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static mu_status io_fail(mu_error *err, const char *path) {
  return mu_fail(err, errno == ENOENT ? MU_NOT_FOUND : MU_IO, "%s: %s", path, strerror(errno));
}

/* Up to the end of the file or until room is full. */
static mu_status read_up_to(int fd, const char *path, char *text, size_t room, size_t *ret_size, mu_error *err) {
  size_t size = 0;
  while (size < room) {
    ssize_t n = read(fd, text + size, room - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_fail(err, path);
    if (n == 0) break;
    size += (size_t)n;
  }
  *ret_size = size;
  return MU_OK;
}

static mu_status read_open(int fd, const char *path, size_t limit, char **ret_text, size_t *ret_size, mu_error *err) {
  struct stat file;
  if (fstat(fd, &file) != 0) return io_fail(err, path);
  if (!S_ISREG(file.st_mode)) return mu_fail(err, MU_IO, "%s: not a regular file", path);
  if (file.st_size > (off_t)limit) return mu_fail(err, MU_TOO_LARGE, "%s: larger than %zu bytes", path, limit);
  /* one byte more than it may have shows a file that has grown meanwhile */
  size_t room = (size_t)file.st_size + 1, size = 0;
  char *text = malloc(room + 1);
  if (text == NULL) return mu_fail(err, MU_NO_MEMORY, "%s: no memory for its content", path);
  mu_status status = read_up_to(fd, path, text, room, &size, err);
  if (status == MU_OK && size == room) status = mu_fail(err, MU_IO, "%s: changes while it is read", path);
  if (status != MU_OK) {
    free(text);
    return status;
  }
  text[size] = '\0';
  *ret_text = text;
  *ret_size = size;
  return MU_OK;
}

mu_status text_file_read(const char *path, size_t limit, char **ret_text, size_t *ret_size, mu_error *err) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return io_fail(err, path);
  mu_status status = read_open(fd, path, limit, ret_text, ret_size, err);
  close(fd);
  return status;
}
