/* Finds the backends of a remote model in the network: see struct engine_entry. Blocks while the resolver does. */
#ifndef ENGINE_REMOTE_REMOTE_NETWORK_H
#define ENGINE_REMOTE_REMOTE_NETWORK_H

#include "engine/engine.h"

/* As struct engine_entry says. */
MUST_CHECK mu_status remote_network_find(const mu_parameter *parameters, size_t n, struct engine_network *ret_network,
                                         mu_error *err);

/* As struct engine_entry says. Asks nobody. */
MUST_CHECK mu_status remote_network_instances(const mu_parameter *parameters, size_t n, size_t *ret_instances,
                                              mu_error *err);

#endif
