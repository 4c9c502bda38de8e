/*
 * The backends of a remote model: where they are, which of them can serve, who gets the next call. Shared by the
 * instances' threads and by threads of its own that look after the backends; all calls may come from any thread.
 */
#ifndef ENGINE_REMOTE_REMOTE_BACKENDS_H
#define ENGINE_REMOTE_REMOTE_BACKENDS_H

#include "backend/backend_list.h"
#include "backend/backend_pool.h"
#include "engine/remote/remote_ask.h"

struct remote_backends;

/* numeric: those of the settings, in the same order, by addresses that need no resolver. settings is borrowed for the
 * backends' life. MU_INVALID, MU_EXISTS, MU_NO_MEMORY. */
MUST_CHECK mu_status remote_backends_create(const struct remote_settings *settings, const char *numeric,
                                            struct remote_backends **ret_backends, mu_error *err);
void remote_backends_free(struct remote_backends *backends); /* accepts NULL; ends its threads */

size_t remote_backends_count(const struct remote_backends *backends);
const struct remote_address *remote_backends_address(const struct remote_backends *backends, size_t index);
const char *remote_backends_name(const struct remote_backends *backends, size_t index);

/*
 * Asks all of them what the model is, until at least one has answered or the settings' timeout has passed. Those that
 * answer must agree. *ret_max_batch: the least max_batch_size that one of them states; 0: none does.
 * MU_INVALID: they do not agree, err names who differs; MU_UNAVAILABLE: none answers. Before remote_backends_watch.
 */
MUST_CHECK mu_status remote_backends_learn(struct remote_backends *backends, struct remote_metadata *ret_metadata,
                                           uint32_t *ret_max_batch, mu_error *err);

/* Starts the checks. metadata: what every backend has to say of the model before it gets a call; NULL: anything will
 * do. Borrowed. MU_NO_MEMORY. */
MUST_CHECK mu_status remote_backends_watch(struct remote_backends *backends, const struct remote_metadata *metadata,
                                           mu_error *err);

/* The backend for a call, not one of tried; its call begins. BACKEND_NONE. */
size_t remote_backends_begin(struct remote_backends *backends, const size_t *tried, size_t n_tried);
void remote_backends_end(struct remote_backends *backends, size_t index, const struct remote_outcome *outcome);

/* [{"address":…,"healthy":…,"total_requests":…,"error_count":…,"error":…}] appended to out. */
MUST_CHECK mu_status remote_backends_report(struct remote_backends *backends, struct buffer *out);

#endif
