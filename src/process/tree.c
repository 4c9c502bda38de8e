#include "process/tree.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/pidfd.h>
#include <unistd.h>

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* A small file of /proc/PID, terminated; -1: the process has gone or is not ours to look at. */
static ssize_t read_file(pid_t pid, const char *name, char *text, size_t size) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t n = read(fd, text, size - 1);
  close(fd);
  if (n >= 0) text[n] = '\0';
  return n;
}

/* The name stands in parentheses and may hold any character, further ones too: what counts follows the last ')'. */
static bool read_entry(pid_t pid, struct process_entry *ret_entry) {
  enum { EXITING = 0x4 }; /* the kernel's PF_EXITING */
  char text[1024];
  int parent, session;
  unsigned flags;
  unsigned long long start_time;
  char state;
  if (read_file(pid, "stat", text, sizeof text) <= 0) return false;
  const char *at = strrchr(text, ')');
  if (at == NULL || sscanf(at + 1, " %c %d %*d %d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                           &state, &parent, &session, &flags, &start_time) != 5)
    return false;
  *ret_entry = (struct process_entry){.pid = pid,
                                      .parent = parent,
                                      .session = session,
                                      .state = state,
                                      .exiting = (flags & EXITING) != 0,
                                      .start_time = start_time,
                                      .owner = PROCESS_UNOWNED};
  return true;
}

static mu_status append(struct process_tree *tree, size_t *capacity, const struct process_entry *entry) {
  if (tree->n == *capacity) {
    size_t larger = *capacity == 0 ? 256 : *capacity * 2;
    struct process_entry *entries = reallocarray(tree->entries, larger, sizeof *entries);
    if (entries == NULL) return MU_NO_MEMORY;
    tree->entries = entries;
    *capacity = larger;
  }
  tree->entries[tree->n++] = *entry;
  return MU_OK;
}

static int compare(const void *a, const void *b) {
  pid_t left = ((const struct process_entry *)a)->pid, right = ((const struct process_entry *)b)->pid;
  return (left > right) - (left < right);
}

mu_status process_tree_read(struct process_tree *ret_tree, mu_error *err) {
  struct process_tree tree = {0};
  size_t capacity = 0;
  mu_status status = MU_OK;
  DIR *folder = opendir("/proc");
  if (folder == NULL) return mu_fail(err, MU_IO, "cannot open /proc: %s", strerror(errno));
  for (const struct dirent *entry; status == MU_OK && (entry = readdir(folder)) != NULL;) {
    struct process_entry found;
    if (!isdigit((unsigned char)entry->d_name[0])) continue;
    if (read_entry((pid_t)atoi(entry->d_name), &found)) status = append(&tree, &capacity, &found);
  }
  closedir(folder);
  if (status != MU_OK) {
    process_tree_free(&tree);
    return mu_fail(err, status, "no memory for the list of processes");
  }
  if (tree.n > 0) qsort(tree.entries, tree.n, sizeof *tree.entries, compare);
  *ret_tree = tree;
  return MU_OK;
}

void process_tree_free(struct process_tree *tree) {
  free(tree->entries);
  *tree = (struct process_tree){0};
}

/* ---- whose ------------------------------------------------------------------------------------------------------- */

static const struct process_entry *find(const struct process_tree *tree, pid_t pid) {
  const struct process_entry wanted = {.pid = pid};
  return tree->n > 0 ? bsearch(&wanted, tree->entries, tree->n, sizeof *tree->entries, compare) : NULL;
}

void process_tree_spread(struct process_tree *tree) {
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t i = 0; i < tree->n; i++) {
      struct process_entry *entry = &tree->entries[i];
      if (entry->owner != PROCESS_UNOWNED) continue;
      const struct process_entry *parent = find(tree, entry->parent);
      if (parent == NULL || parent->owner == PROCESS_UNOWNED) continue;
      entry->owner = parent->owner;
      changed = true;
    }
  }
}

void process_entry_signal(const struct process_entry *entry, int signal) {
  struct process_entry now;
  int pidfd = pidfd_open(entry->pid, 0);
  if (pidfd < 0) return;
  /* the descriptor holds on to whoever has the number now: is that still the one? */
  if (read_entry(entry->pid, &now) && now.start_time == entry->start_time)
    (void)pidfd_send_signal(pidfd, signal, NULL, 0);
  close(pidfd);
}

bool process_environment(pid_t pid, const char *variable, struct buffer *buffer) {
  char path[64];
  size_t size = strlen(variable);
  snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  buffer_clear(buffer);
  ssize_t got = 1;
  while (got > 0 && buffer_reserve(buffer, 4096) == MU_OK) {
    got = read(fd, buffer->data + buffer->size, 4096);
    if (got > 0) buffer->size += (size_t)got;
  }
  close(fd);
  const char *text = buffer_text(buffer), *end = text + buffer->size;
  if (text == NULL) return false;
  for (const char *at = text; at < end; at += strlen(at) + 1) {
    if (strncmp(at, variable, size) != 0 || at[size] != '=') continue;
    buffer_consume(buffer, (size_t)(at - text) + size + 1);
    return true;
  }
  return false;
}

void process_name(pid_t pid, char *text, size_t size) {
  if (read_file(pid, "comm", text, size) <= 0) snprintf(text, size, "?");
  text[strcspn(text, "\n")] = '\0';
}
