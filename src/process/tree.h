/*
 * The processes of the machine as /proc shows them at one moment, and whose they are: for a parent that has to end all
 * that its children have started. A snapshot: what it says may have changed a moment later, so a signal goes only to a
 * process that is still the same (same start time). Owned by whoever read it.
 */
#ifndef PROCESS_TREE_H
#define PROCESS_TREE_H

#include <sys/types.h>

#include "base/buffer.h"
#include "base/status.h"

enum { PROCESS_UNOWNED = -1 };

struct process_entry {
  pid_t pid, parent, session;
  char state;          /* 'R', 'S', 'D', 'Z' … */
  bool exiting;        /* on its way to 'Z': its memory, and with it its environment, may have gone already */
  uint64_t start_time; /* in clock ticks since boot: with pid it names a process for ever */
  int32_t owner;       /* the caller's; PROCESS_UNOWNED after reading */
};

struct process_tree {
  struct process_entry *entries; /* in the order of pid */
  size_t n;
};

/* MU_IO: no /proc; MU_NO_MEMORY. */
MUST_CHECK mu_status process_tree_read(struct process_tree *ret_tree, mu_error *err);
void process_tree_free(struct process_tree *tree); /* accepts a zeroed one */

/* Children of an owned process, however deep, become its owner's; those that have an owner keep it. */
void process_tree_spread(struct process_tree *tree);

/* Harmless when the process has ended since. */
void process_entry_signal(const struct process_entry *entry, int signal);

/* The value of a variable in the environment that the process was started with, terminated in buffer; false: it has
 * none, or cannot be looked at (another user's, a zombie). */
bool process_environment(pid_t pid, const char *variable, struct buffer *buffer);

/* "python3" into text; "?" where it cannot be read. */
void process_name(pid_t pid, char *text, size_t size);

#endif
