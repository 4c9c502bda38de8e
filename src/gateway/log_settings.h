/*
 * What is logged, changed by clients while the server runs: here at once, in the other processes through the supervisor
 * (CONTROL_LOG_SETTINGS). Any loop; they ask gateway/admin.h first.
 */
#ifndef GATEWAY_LOG_SETTINGS_H
#define GATEWAY_LOG_SETTINGS_H

#include "api/log_settings.h"
#include "gateway/core.h"

/* *ret_settings: all as they are then. Takes the lock. */
void gateway_change_log(struct core *core, const struct log_change *change, struct log_settings *ret_settings);

#endif
