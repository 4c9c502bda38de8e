/*
 * Opens shared memory of a client: a file in /dev/shm, by the key that the client gave. Nothing here follows a link,
 * leaves that folder or waits. The gateway, which speaks to clients, may not open anything to write: it gets the
 * descriptor from here.
 */
#ifndef SUPERVISOR_REGION_FILE_H
#define SUPERVISOR_REGION_FILE_H

#include "base/status.h"

/*
 * key: as shm_open takes it, any number of '/' and then one name. *ret_writable: false where this process may only read
 * the file. *ret_size: of the file now; its owner can change it at any time.
 * MU_INVALID: no such key can be, or what it names is no regular file or not for this process; MU_NOT_FOUND;
 * MU_UNAVAILABLE: no free descriptor; MU_IO.
 */
MUST_CHECK mu_status region_file_open(const char *region, const char *key, int *ret_fd, bool *ret_writable,
                                      uint64_t *ret_size, mu_error *err);

#endif
