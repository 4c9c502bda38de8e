/* The option rows of `muster launch`, for its flags and for `launch:` of muster.yaml. Private to config/. */
#ifndef CONFIG_LAUNCH_TABLE_H
#define CONFIG_LAUNCH_TABLE_H

#include "config/launch_settings.h"
#include "config/option_table.h"

/* What stands in a group; offsets into struct launch_group. */
const struct option_row *launch_group_rows(size_t *ret_n);

/* A group with every default. MU_NO_MEMORY. */
MUST_CHECK mu_status launch_group_init(struct launch_group *group, struct arena *memory, mu_error *err);

/* launch_file.c: the groups of the file. */
MUST_CHECK mu_status launch_file_apply(struct launch_settings *settings, const char *path, mu_error *err);

#endif
