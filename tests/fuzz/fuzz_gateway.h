/*
 * A gateway for fuzz targets: the core with its loop, and models that are ready though nobody runs them, so that a good
 * inference waits in the queue until its client leaves. Included by one target each.
 */
#ifndef FUZZ_GATEWAY_H
#define FUZZ_GATEWAY_H

#include "gateway/call.h"
#include "net/http_server.h"

#include <stdlib.h>
#include <string.h>

enum { GATEWAY_MEMORY = 1 << 20, GATEWAY_QUEUE = 16 };

static void require(bool holds) {
  if (!holds) abort();
}

/* ---- the gateway, once ------------------------------------------------------------------------------------------- */

static struct core core;
static struct gateway_loop *loop;
static struct http_server *server;

static struct model_tensor tensor(const char *name, mu_dtype dtype, uint32_t rank, const int64_t *dims, bool optional) {
  struct model_tensor made = {
      .info = {.name = (char *)(uintptr_t)name, .dtype = dtype, .rank = rank, .optional = optional},
      .rank = rank,
      .served = true};
  memcpy(made.info.dims, dims, rank * sizeof *dims);
  memcpy(made.dims, dims, rank * sizeof *dims);
  return made;
}

/* A model that is ready, though nobody runs it. */
static void add_model(uint32_t number, const char *name, struct model_tensor *tensors, uint32_t n) {
  static const char config[] = "max_batch_size: 4";
  struct control_model_set set = {.model = number,
                                  .listed = true,
                                  .name = name,
                                  .version = 1,
                                  .folder = "",
                                  .config = {config, sizeof config - 1},
                                  .state = MODEL_READY,
                                  .reason = "",
                                  .batching = true,
                                  .max_queue_delay_us = -1,
                                  .max_queue_requests = GATEWAY_QUEUE,
                                  .max_queue_bytes = GATEWAY_MEMORY};
  struct model_metadata metadata = {.inputs = tensors,
                                    .outputs = tensors,
                                    .n_inputs = n,
                                    .n_outputs = n,
                                    .max_batch = 4,
                                    .batch_note = "",
                                    .runtime = "",
                                    .platform = ""};
  struct buffer wire;
  buffer_init(&wire, GATEWAY_MEMORY);
  require(model_metadata_encode(&metadata, &wire) == MU_OK);
  core_set_model(&core, &set);
  core_model_loaded(&core,
                    &(struct control_model_loaded){
                        .model = number, .metadata = {wire.data, wire.size}, .was_ready = true, .batch_tokens = 1});
  buffer_free(&wire);
  require(core_model_by_number(&core, number)->sched != NULL);
}

#endif
