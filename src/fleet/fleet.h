/*
 * The role `fleet`: the process that speaks to NVML, whose calls can block for ever on a GPU that is lost. It says what
 * GPUs there are, how they do every now and then, and what faults they report; the supervisor decides. One thread is in
 * NVML's calls, one waits for its events, and one does neither: it tells the supervisor that the process lives, and
 * since when the others have been in a call. Where there is no NVML it says so and leaves.
 *
 * It is not fenced in by the sandbox: it reads nothing that a stranger has made, and NVML needs its devices.
 */
#ifndef FLEET_FLEET_H
#define FLEET_FLEET_H

/* control: socket to the supervisor. Returns the exit status. */
int fleet_main(int control);

#endif
