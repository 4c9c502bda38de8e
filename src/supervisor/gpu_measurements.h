/*
 * What worker processes of models were seen to take on a GPU, as NVML counts it: the most so far. Placement goes by it
 * instead of by estimates. Kept for the life of the server and, where the operator names a file for it
 * (--measurements), beyond: a server writes nowhere unasked.
 *
 * A model is known by its name, version and the bytes of its files: other files are another model. The supervisor's, on
 * its one thread.
 */
#ifndef SUPERVISOR_GPU_MEASUREMENTS_H
#define SUPERVISOR_GPU_MEASUREMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

struct gpu_measurement {
  char *model;
  int64_t version, file_bytes;
  int64_t process_bytes;
};

struct gpu_measurements {
  struct gpu_measurement *items;
  size_t n;
};

void gpu_measurements_free(struct gpu_measurements *table); /* accepts a zeroed one */

/* GPU_UNKNOWN: nothing is known of it. */
int64_t gpu_measurements_find(const struct gpu_measurements *table, const char *model, int64_t version,
                              int64_t file_bytes);

/* Keeps the larger one. ret_new: something has changed. MU_NO_MEMORY. */
MUST_CHECK mu_status gpu_measurements_put(struct gpu_measurements *table, const char *model, int64_t version,
                                          int64_t file_bytes, int64_t process_bytes, bool *ret_new, mu_error *err);

/* The file as JSON, into an empty table. One that is not there is no error. MU_INVALID: not such a file; MU_IO,
 * MU_NO_MEMORY. */
MUST_CHECK mu_status gpu_measurements_read(struct gpu_measurements *table, const char *path, mu_error *err);
/* Takes the file's place as a whole, or not at all. MU_IO, MU_NO_MEMORY. */
MUST_CHECK mu_status gpu_measurements_write(const struct gpu_measurements *table, const char *path, mu_error *err);

#endif
