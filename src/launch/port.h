/* Ports of services: ranges as people write them (pure), and who has a port that is not free. */
#ifndef LAUNCH_PORT_H
#define LAUNCH_PORT_H

#include "base/status.h"

/* first 0: no ports at all. */
struct port_range {
  uint16_t first, last;
  bool open; /* "50051+": as far as services need it */
};

/* "50051+", "50051-50066", "50051", "" (none). MU_INVALID. */
MUST_CHECK mu_status port_range_parse(const char *text, struct port_range *ret_range, mu_error *err);

/* Has the range a port for each of n services? MU_INVALID with a sum that shows it. */
MUST_CHECK mu_status port_range_check(const struct port_range *range, uint32_t n, mu_error *err);

/* Can somebody listen on the port, on all addresses? MU_EXISTS: in use; the message names the process where that can be
 * seen. MU_IO. */
MUST_CHECK mu_status port_check_free(uint16_t port, mu_error *err);

#endif
