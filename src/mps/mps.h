/*
 * The role `mps`: keeps the MPS control daemon of one GPU. It starts the daemon in the foreground as its child, in a
 * private folder, asks it every now and then whom it serves, passes orders of the supervisor on, and goes when the
 * daemon goes: a death of the one is a death of the other. It is a process of its own, apart from `fleet`, because that
 * one is killed whenever NVML hangs, and with a daemon all of its clients would go.
 *
 * The daemon dies with it (PDEATHSIG). It itself is not killed when the supervisor dies: the end of the control socket
 * tells it, and it ends the daemon, what that has started, and removes the folder.
 *
 * It is not fenced in by the sandbox: it runs NVIDIA's programs, and reads only their answers.
 */
#ifndef MPS_MPS_H
#define MPS_MPS_H

/* control: socket to the supervisor. Returns the exit status. */
int mps_main(int control);

#endif
