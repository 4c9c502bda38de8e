/* The gateway role: listeners, requests, scheduling, replies. */
#ifndef GATEWAY_GATEWAY_H
#define GATEWAY_GATEWAY_H

/* Runs the role until it is drained or the supervisor is gone; returns the process's exit status. control: the
 * gateway's end of the control socket. The log is already set up. */
int gateway_main(int control);

#endif
