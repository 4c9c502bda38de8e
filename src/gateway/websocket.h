/*
 * WebSocket streams (docs/websocket.md): the handshake, frames on a struct stream, pings and the end of a connection.
 * Each belongs to the loop of its connection.
 */
#ifndef GATEWAY_WEBSOCKET_H
#define GATEWAY_WEBSOCKET_H

#include "gateway/call.h"

/* An exchange for ENDPOINT_STREAM, call.route says which model: becomes a stream or is refused. The call goes. */
void websocket_begin(struct call *call);

#endif
