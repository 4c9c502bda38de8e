/*
 * NVML for a command: a child process that lives as long as its reader asks it, since any of NVML's calls can block for
 * ever. Owned by the command; one thread.
 */
#ifndef CLI_GPUS_READER_H
#define CLI_GPUS_READER_H

#include "base/status.h"
#include "gpu/inventory.h"

struct gpus_reader;

/* library: as nvml_open. Starts the child, which opens NVML at the first read. MU_IO, MU_NO_MEMORY. */
MUST_CHECK mu_status gpus_reader_create(const char *library, struct gpus_reader **ret_reader, mu_error *err);

/* MU_TIMEOUT: no answer in that time, and which call it waits for; else what nvml_open and nvml_read_inventory say.
 * After a failure the reader is good for nothing but to be freed. */
MUST_CHECK mu_status gpus_reader_read(struct gpus_reader *reader, uint64_t timeout_ns,
                                      struct gpu_inventory *ret_inventory, mu_error *err);

/* Kills the child; one that the driver does not let die is left to it. Accepts NULL. */
void gpus_reader_free(struct gpus_reader *reader);

#endif
