/* The worker role: one model version on one device, `instances` of it, fed through a channel. */
#ifndef WORKER_WORKER_H
#define WORKER_WORKER_H

/* Runs the role until it is told to stop or the supervisor is gone; returns the process's exit status. control: the
 * worker's end of the control socket. The log is already set up. */
int worker_main(int control);

#endif
