/*
 * The screen of `muster top`: ncurses, keys, signals. Takes samples in a thread of its own, so that keys are heard
 * while a server does not answer. Only this file knows ncurses; it restores the terminal on every way out.
 */
#ifndef CLI_TOP_TERMINAL_H
#define CLI_TOP_TERMINAL_H

#include "base/status.h"

struct options;

/* Until q, a signal or the end of the terminal. options: to find the server; they stay the caller's, but in use until
 * the process ends. interval in seconds. MU_UNSUPPORTED: no terminal that ncurses knows; MU_NO_MEMORY, MU_IO. */
MUST_CHECK mu_status top_run_terminal(const struct options *options, double interval, mu_error *err);

#endif
