/* The commands that speak to a launch that runs: status, stop, restart, rolling-restart, scale, logs. */
#ifndef CLI_LAUNCH_CONTROL_H
#define CLI_LAUNCH_CONTROL_H

/* argv[0] is the command's name. Returns the exit status. */
int launch_control_run(int argc, char **argv);

#endif
