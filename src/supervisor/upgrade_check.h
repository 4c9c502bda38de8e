/*
 * A binary proves that it can take this server over: it is started as a child with the server's own options,
 * environment and state, and has to say so in time. Supervisor only, on its loop.
 */
#ifndef SUPERVISOR_UPGRADE_CHECK_H
#define SUPERVISOR_UPGRADE_CHECK_H

#include "base/status.h"
#include "net/loop.h"

struct upgrade_check;

/* What a binary that can says on standard output, before its version. */
#define UPGRADE_CHECK_PROOF "muster can take over: "

/* Called once; then the check is gone. version: of the binary; NULL: it cannot, and why (one line). */
typedef void upgrade_checked(void *context, const char *version, const char *why);

/* argv: of `muster serve`, behind the command. state: a descriptor, borrowed. MU_IO, MU_NO_MEMORY. */
MUST_CHECK mu_status upgrade_check_start(struct net_loop *loop, const char *binary, int argc, char **argv, int state,
                                         upgrade_checked *checked, void *context, struct upgrade_check **ret_check,
                                         mu_error *err);
/* Ends it without a word; accepts NULL. */
void upgrade_check_cancel(struct upgrade_check *check);

#endif
