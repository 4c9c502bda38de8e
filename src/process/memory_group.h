/*
 * Would the kernel, out of memory, kill this whole server at once? With memory.oom.group = 1 in a control group (v2) it
 * kills everything in it instead of one process, and the supervisor, which would have started that one again, is gone
 * too. Kubernetes sets this, and systemd with OOMPolicy=kill. Pure but for the files it reads; at start.
 */
#ifndef PROCESS_MEMORY_GROUP_H
#define PROCESS_MEMORY_GROUP_H

#include <stdbool.h>

enum { MEMORY_GROUP_PATH_MAX = 4096 };

/* groups: /proc/self/cgroup; mount: where v2 is mounted, /sys/fs/cgroup. true: one kill takes all; ret_group is the
 * outermost such group, as the folder below mount ("/" is the mount itself, as in a container). */
bool memory_group_dies_together(const char *groups, const char *mount, char ret_group[MEMORY_GROUP_PATH_MAX]);

/* The path in the text of /proc/self/cgroup of the line that starts with any id and then controller: "0::/a/b" for v2
 * (""), "4:memory:/a/b" for v1 ("memory"). Cuts it out of text; NULL: no such line. */
const char *memory_group_path(char *text, const char *controller);

#endif
