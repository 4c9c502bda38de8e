/*
 * One request in the hands of the gateway: which endpoint, its body, and for an inference its request, its memory and
 * its reply. Belongs to the loop of its connection; while the scheduler has it (in_sched) only the fields marked so are
 * touched by others, under the core lock.
 *
 * An inference is the same whoever asks (inference.c). Two tables say what differs: a format reads a message's bytes
 * and writes results (REST's JSON with binary tensors, protobuf), a carrier brings a reply or an error to the client
 * (the answer of an HTTP request, a message of a stream).
 */
#ifndef GATEWAY_CALL_H
#define GATEWAY_CALL_H

#include "api/grpc_methods.h"
#include "api/grpc_scan.h"
#include "api/rest_routes.h"
#include "gateway/core.h"
#include "gateway/grpc_inbox.h"

#include <stdatomic.h>

enum {
  CALL_REPLY_MAX = 1 << 30, /* bytes of text in a reply */
  CALL_HEAD_MAX = 16,       /* bytes that a carrier may put in front of it */
};

/* What other threads tell the owner of a call. */
enum call_event {
  CALL_RESERVED = 1, /* its input memory is there */
  CALL_REFUSED = 2,  /* ... or will not be: status, error */
  CALL_DONE = 4,     /* it came back from the scheduler: status, results or error */
  CALL_LATE = 8,     /* its deadline passed in flight; CALL_DONE comes later */
};

struct call;

/* Who hears of an exchange's events: what exchange.user points to begins with a pointer to one of these. As the same
 * functions of struct service; window may be NULL. */
struct exchange_handler {
  void (*body)(struct exchange *exchange, const uint8_t *data, size_t size);
  void (*end)(struct exchange *exchange);
  void (*gone)(struct exchange *exchange);
  bool (*window)(struct exchange *exchange, uint8_t **ret_data, size_t *ret_size);
  void (*writable)(struct exchange *exchange); /* may be NULL */
};

/*
 * How the bytes of one message become a request, and results become bytes. A message has a text, which describes the
 * request and is bounded by the body limit, and tensors, which go straight into the input arena. The functions run on
 * the call's loop; an error ends the call.
 */
struct format {
  /* CALL_TEXT: more of the message. Keeps what it needs with inference_stage; once all of the text is there it fills
   * call.request, sets text_size, and calls inference_reserve. */
  mu_status (*text)(struct call *call, const uint8_t *data, size_t size, mu_error *err);
  /* The message has ended in CALL_TEXT: the same with what there is. */
  mu_status (*text_end)(struct call *call, mu_error *err);
  /* Input memory is there (inputs' data is set): what stands in the text is converted into it. */
  mu_status (*fill)(struct call *call, const char *text, mu_error *err);
  /* CALL_TENSORS: what follows the text. data may be the memory that `window` gave. */
  mu_status (*tensors)(struct call *call, const uint8_t *data, size_t size, mu_error *err);
  bool (*window)(struct call *call, uint8_t **ret_data, size_t *ret_size); /* may be NULL */
  bool keeps_text; /* it may still write into the text while tensors come */
  /* The message has ended in CALL_TENSORS: is everything there? */
  mu_status (*complete)(struct call *call, mu_error *err);
  /* call.results into call.reply (text) and call.iov[1 …], *ret_n_iov of them; iov[0] is the carrier's. *ret_borrows:
   * some point into the output block. */
  mu_status (*render)(struct call *call, uint32_t *ret_n_iov, bool *ret_borrows, mu_error *err);
};
extern const struct format format_rest;            /* OIP's JSON, with Triton's binary tensors behind it */
extern const struct format format_protobuf;        /* ModelInferRequest and ModelInferResponse with its gRPC prefix */
extern const struct format format_protobuf_stream; /* the same, with ModelStreamInferResponse */

/* How a call's client is answered. Both forget call.exchange (and what else leads to the client) first. */
struct carrier {
  /* The rendered results: iov[1 … n_iov]; calls inference_reply_sent(call) once, when their memory is not needed any
   * more, which may be before it returns. */
  void (*reply)(struct call *call, uint32_t n_iov, bool borrows);
  /* The call stays the caller's. */
  void (*error)(struct call *call, mu_status status, const char *message);
  /* The call waits for input memory, or has it now: meanwhile no more of its message is read. */
  void (*pause)(struct call *call);
  void (*resume)(struct call *call);
  const struct trace_names *trace_names; /* NULL: those of HTTP */
};
extern const struct carrier carrier_http;

enum call_stage {
  CALL_TEXT,      /* collecting the text (or the whole body of an endpoint that has one) */
  CALL_RESERVING, /* waiting for input memory, reading paused */
  CALL_TENSORS,   /* what follows the text is on its way into the arena */
  CALL_QUEUED,    /* with the scheduler */
  CALL_ANSWERED,  /* nothing more to say; kept until the scheduler and the transport let go */
};

struct call {
  const struct exchange_handler *handler; /* first: exchange.user is the call of an exchange that has one */
  struct exchange *exchange;              /* NULL once answered or gone */
  const struct format *format;            /* of an inference, and so is all below but text, route and reply */
  const struct carrier *carrier;
  struct trace *trace; /* NULL: it is not traced */
  enum call_stage stage;

  uint64_t message_size;          /* of the whole message, inflated; UINT64_MAX: nobody has said */
  uint64_t text_size;             /* of the text; UINT64_MAX: all of the message, or not known yet */
  uint64_t text_staged;           /* bytes taken from the budget for `text` */
  uint64_t reply_held;            /* ... and for `reply` */
  struct stream_message *message; /* of carrier_stream; NULL: the call is not of a stream, or it is answered */
  uint8_t stream_tag;             /* for the owner of the stream: how the message was framed */
  bool raw;                       /* REST without text: Inference-Header-Content-Length: 0 */
  bool body_ended;
  bool rest_staged;        /* what follows the text is in `text` too */
  enum grpc_method method; /* gRPC's, and so are these three: */
  struct grpc_inbox inbox;
  uint32_t n_messages;   /* that have begun */
  bool index_ready_only; /* RepositoryIndex */
  uint64_t deadline_ns;  /* the client's own for all of the call, 0: none */
  bool scanning;         /* format_protobuf: the message comes in pieces, through `scan` */

  struct region_change *region_change; /* what it waits for; NULL: nothing of that kind */
  struct model_control *control;       /* a request to load or unload a model is on its way; NULL: none */
  struct gateway_model *model;         /* held until call_free; NULL: none yet */
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
  struct buffer text; /* staged */
  struct grpc_scan scan;
  struct request request;
  struct slot_reservation slots;
  uint32_t order[SLOT_INPUTS_MAX]; /* inputs by their place in the binary part */
  mu_error error;
  struct infer_result *results;
  uint32_t results_capacity;
  struct buffer reply;
  struct iovec *iov;
  uint32_t iov_capacity;
  uint8_t head[CALL_HEAD_MAX]; /* the carrier's, for iov[0] */
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

/* ---- inference.c: for those who bring messages ------------------------------------------------------------------- */

/* A call whose exchange, format, carrier, message_size and text_size are set begins; REST's has its model already. The
 * call may be answered and gone after each of these; body says whether it goes on. */
void inference_begin(struct call *call);
bool inference_body(struct call *call, const uint8_t *data, size_t size);
void inference_end(struct call *call);
bool inference_window(struct call *call, uint8_t **ret_data, size_t *ret_size);
void inference_gone(struct call *call);                                        /* the client has left */
void inference_fail(struct call *call, mu_status status, const char *message); /* it cannot go on reading */
void inference_handle_events(struct call *call, unsigned events);
/* All of its message is there, but it does not run yet: it is answered so and gone. false: it stays, nothing happened.
 */
bool inference_withdraw(struct call *call, mu_status status, const char *message);

/* ---- inference.c: for formats and carriers ----------------------------------------------------------------------- */

/* call.route names the model: MU_NOT_FOUND. The call holds it then. */
MUST_CHECK mu_status inference_hold_model(struct call *call, mu_error *err);
/* The same for one that is to run, from where on it may be traced: MU_UNAVAILABLE, too. */
MUST_CHECK mu_status inference_find_model(struct call *call, mu_error *err);
/* Counts so many bytes more of call.text against the memory budget, once they are many: MU_UNAVAILABLE. */
MUST_CHECK mu_status inference_count_text(struct call *call, size_t size, mu_error *err);
/* Keeps bytes in call.text, counted against the memory budget once they are many. */
MUST_CHECK mu_status inference_stage(struct call *call, const void *data, size_t size, mu_error *err);
/* The request is filled: takes its input memory, then fill and tensors(rest) follow; or waits for it with what is here
 * kept. text: text_size bytes; rest: what came behind it. */
MUST_CHECK mu_status inference_reserve(struct call *call, const char *text, const uint8_t *rest, size_t rest_size,
                                       mu_error *err);
/* Room for n of call.iov. */
MUST_CHECK mu_status inference_reserve_iov(struct call *call, uint32_t n, mu_error *err);
void inference_reply_sent(void *call); /* of a struct carrier's reply */

/* ---- carrier_http.c ---------------------------------------------------------------------------------------------- */

/* POST …/infer: the exchange's headers say what comes. */
void http_inference_begin(struct call *call);

/* ---- call_regions.c: tensors in shared memory of the client ------------------------------------------------------ */

/* The regions that the request names, once it is understood. Released with the call. MU_NOT_FOUND, MU_INVALID,
 * MU_UNAVAILABLE. */
MUST_CHECK mu_status call_hold_regions(struct call *call, mu_error *err);
void call_release_regions(struct call *call);
/* Inputs into their memory; results out of theirs. MU_INVALID. */
MUST_CHECK mu_status call_read_regions(struct call *call, mu_error *err);
MUST_CHECK mu_status call_write_regions(struct call *call, mu_error *err);

/* endpoints.c: everything that is no inference; call->text is the body. A call that has its exchange afterwards waits
 * for somebody: it has another handler then, and is answered and freed later. */
void endpoint_answer(struct call *call);

#endif
