/*
 * NVIDIA's Multi-Process Service (MPS), what is known of it without asking: which GPUs can, how many processes share
 * one, and what the answers of its control program mean; and what the environment has of it.
 */
#ifndef GPU_MPS_H
#define GPU_MPS_H

#include <jansson.h>
#include <stddef.h>

#include "base/status.h"
#include "gpu/inventory.h"

/* Processes that can share that GPU: 16 before Volta, 48 from there on, 60 from CUDA 13.1. cuda: gpu_inventory's. */
uint32_t mps_client_limit(const struct gpu *gpu, int32_t cuda);

/* Why that GPU cannot be shared by MPS; NULL: it can. */
const char *mps_obstacle(const struct gpu *gpu);

/* Is the control program there? A name without a slash is searched in PATH. */
bool mps_binary_found(const char *name);

/* Why so many processes cannot share that GPU by MPS with that control program, into text; "": they can. gpu: NULL is
 * not there any more; cuda: gpu_inventory's. */
void mps_find_obstacle(const struct gpu *gpu, int32_t cuda, uint32_t planned, const char *binary, char *text,
                       size_t size);

/* CUDA_MPS_PIPE_DIRECTORY: a daemon that somebody else keeps, and that is used as it is; NULL: none. */
const char *mps_inherited(void);

/* servers: of a keeper's report ([{"pid": N, "clients": [N, …]}, …]). Is the process a client of one of them? */
bool mps_has_client(const json_t *servers, int32_t pid);

/* Process numbers, one a line, as get_server_list and get_client_list (command) answer. MU_UNAVAILABLE: there are lines
 * that are something else, as when there is no such server any more; MU_TOO_LARGE: more than max. */
MUST_CHECK mu_status mps_read_pids(const char *command, const char *text, size_t size, int32_t *ret_pids, size_t max,
                                   size_t *ret_n, mu_error *err);

/* The answer to get_default_active_thread_percentage, "100.0": above 0, at most 100. false: it is none. */
bool mps_read_percentage(const char *text, size_t size, double *ret_percentage);

/* What NVIDIA's programs say, for a message: without spaces around it, other bytes than printable ASCII as '?', cut to
 * fit. */
void mps_quote(const char *said, size_t said_size, char *text, size_t size);

#endif
