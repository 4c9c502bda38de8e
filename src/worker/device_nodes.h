/* The device files of NVIDIA's driver, which it makes on first use by executing a program: in the sandbox too late. */
#ifndef WORKER_DEVICE_NODES_H
#define WORKER_DEVICE_NODES_H

/* Where they lack, runs nvidia-modprobe and waits for it. Whether that was of use shows when the device is opened. For
 * a worker on a GPU, before sandbox_enter: no_new_privs would take the program's own privileges away. */
void device_nodes_make(void);

#endif
