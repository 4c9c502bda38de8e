/*
 * One exchange in the hands of the gateway: which endpoint, its body, and for an inference its request, its memory and
 * its reply. Belongs to the loop of its connection; while the scheduler has it (in_sched) only the fields marked so are
 * touched by others, under the core lock.
 */
#ifndef GATEWAY_CALL_H
#define GATEWAY_CALL_H

#include "api/rest_routes.h"
#include "gateway/core.h"

#include <stdatomic.h>

enum { CALL_REPLY_MAX = 1 << 30 }; /* bytes of text in a reply */

/* What other threads tell the owner of a call. */
enum call_event {
  CALL_RESERVED = 1, /* its input memory is there */
  CALL_REFUSED = 2,  /* ... or will not be: status, error */
  CALL_DONE = 4,     /* it came back from the scheduler: status, results or error */
  CALL_LATE = 8,     /* its deadline passed in flight; CALL_DONE comes later */
};

enum call_stage {
  CALL_TEXT,      /* collecting the JSON part (or the whole body of an endpoint that has one) */
  CALL_RESERVING, /* waiting for input memory, reading paused */
  CALL_TENSORS,   /* binary part on its way into the arena */
  CALL_QUEUED,    /* with the scheduler */
  CALL_ANSWERED,  /* nothing more to say; kept until the scheduler and the transport let go */
};

struct call {
  struct exchange *exchange; /* NULL once answered or gone */
  enum call_stage stage;

  uint64_t text_size;   /* of the JSON part; UINT64_MAX: the whole body, length not known yet */
  uint64_t text_staged; /* bytes taken from the budget for `text` */
  uint64_t reply_held;  /* ... and for `reply` */
  bool raw;             /* Inference-Header-Content-Length: 0 */
  bool body_ended;
  bool rest_staged; /* what follows the JSON part is in `text` too */

  struct model_control *control; /* a request to load or unload a model is on its way; NULL: none */
  struct gateway_model *model;   /* held until call_free; NULL: none yet */
  struct sched_job job;
  bool reserved;      /* `slots` are taken */
  uint64_t binary_at; /* bytes of the binary part received */
  uint32_t n_order;   /* of `order` */
  uint32_t filling;   /* position in `order` of the input whose bytes come next */
  uint64_t filling_at;

  /* from the scheduler's side, under the core lock until the event is delivered */
  bool in_sched;
  uint32_t row_at; /* first row in its batch */
  mu_status status;
  struct output_block *block;
  uint32_t n_results;
  atomic_uint events;

  /* What is above begins as zero for every exchange (call_free); what is below is written before it is read, or is
   * memory that one call hands on to the next. */
  struct gateway_loop *loop;
  struct list link; /* free list, or core.reserving (locked) */
  struct list outbox_link;
  struct net_post post;
  struct route route;
  struct buffer text; /* staged JSON part */
  struct request request;
  struct slot_reservation slots;
  uint32_t order[SLOT_INPUTS_MAX]; /* inputs by their place in the binary part */
  mu_error error;
  struct infer_result *results;
  uint32_t results_capacity;
  struct buffer reply;
  struct iovec *iov;
  uint32_t iov_capacity;
};

/* The service table for the listeners' exchanges; context is the struct gateway_loop. */
extern const struct service gateway_service;

/* Locked or not, any thread: remembers the event and puts the call into outbox unless it is already on its way. */
void call_event(struct call *call, enum call_event event, struct list *outbox);

/* On the call's loop: handles what has been told. */
void call_handle_events(struct call *call);

/* call.c: a new call for the exchange, NULL without memory; and back to the loop's free list. */
struct call *call_create(struct gateway_loop *loop, struct exchange *exchange);
void call_free(struct call *call);

/* Answers {"error": message} with an HTTP status code and forgets the exchange. The call itself stays the caller's.
 * Harmless when the client is gone. */
void call_reply_error(struct call *call, int code, const char *message);

/* inference.c */
void inference_begin(struct call *call);
void inference_body(struct call *call, const uint8_t *data, size_t size);
void inference_end(struct call *call);
bool inference_window(struct call *call, uint8_t **ret_data, size_t *ret_size);
void inference_gone(struct call *call);
void inference_handle_events(struct call *call, unsigned events);

/* endpoints.c: everything that is answered at once from what is known; call->text is the body. */
void endpoint_answer(struct call *call);
/* An answer without a body, or with an error: what a control of the server came to. */
void endpoint_answer_control(struct call *call, mu_status status, const char *text);

/* The document in call->reply, or an error. */
void endpoint_answer_document(struct call *call, mu_status status, const mu_error *err);

/* model_endpoints.c: loading, unloading, and the index; answered when the supervisor has spoken (call->control is set
 * then), or at once. */
void model_endpoint_load(struct call *call);
void model_endpoint_unload(struct call *call);
void model_endpoint_index(struct call *call);

#endif
