/*
 * gRPC on top of exchanges: which method, its messages in, its replies and errors out. Unary calls are struct calls
 * like REST's; an exchange of a streaming method belongs to grpc_stream.c.
 */
#ifndef GATEWAY_GRPC_H
#define GATEWAY_GRPC_H

#include "api/grpc_documents.h"
#include "api/grpc_methods.h"
#include "gateway/call.h"
#include "proto/grpc/grpc_headers.h"

/* Is it a call of gRPC, by its Content-Type, or meant to be one, by its path? */
bool grpc_is_call(const struct exchange *exchange);

/* An exchange of gRPC has begun; the call becomes gRPC's. */
void grpc_begin(struct call *call);

/* The whole answer is an error; forgets the exchange, the call stays the caller's. Harmless when the client is gone. */
void grpc_reply_error(struct call *call, enum grpc_code code, const char *message);

/* The whole answer: call.reply, one message behind its prefix. As grpc_reply_error. */
void grpc_reply_message(struct call *call);

/* Ends a reply in parts with a status. */
void grpc_reply_end(struct exchange *exchange, enum grpc_code code, const char *message);

/* The head of every reply that has messages, and the trailers of one that went well. */
extern const struct reply grpc_head;
extern const struct header grpc_ok;

/* What a failed call answers: the code of its status, but the end of the client's own deadline is DEADLINE_EXCEEDED. */
enum grpc_code grpc_code_for(const struct call *call, mu_status status);

/* grpc_endpoints.c: answers a unary call of call.method that is no inference; call.text is the message. The call is
 * freed when it is answered, which may be later. */
void grpc_endpoint_answer(struct call *call);

/* May its client ask for call.method? PERMISSION_DENIED where not. */
bool grpc_endpoint_allowed(struct call *call, mu_error *err);

/* How a service ("" is all of the server) or a model is. */
enum grpc_serving grpc_health_of(struct core *core, const char *service);

/* grpc_stream.c: ModelStreamInfer; grpc_talk.c: Watch, reflection. The call's exchange is theirs then, or the call has
 * been answered; the call stays the caller's. */
void grpc_stream_infer_begin(struct call *call);
void grpc_talk_begin(struct call *call);
/* The loop ends: so do its talks. ModelStreamInfer is told by streams_finish. */
void grpc_talks_finish(struct gateway_loop *loop);

extern const char grpc_going_away[];

#endif
