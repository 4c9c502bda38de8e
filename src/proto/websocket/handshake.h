/*
 * The opening handshake of WebSocket (RFC 6455, section 4.2) on the side of the server, and who may open one. Pure.
 */
#ifndef PROTO_WEBSOCKET_HANDSHAKE_H
#define PROTO_WEBSOCKET_HANDSHAKE_H

#include "base/status.h"

/* What the client sent; NULL where it did not. */
struct websocket_offer {
  const char *method, *upgrade, *connection, *key, *version, *host, *origin;
};

enum { WEBSOCKET_ACCEPT_SIZE = 29 }; /* with its terminator */

/*
 * May the connection become a WebSocket? ret_accept: for the header Sec-WebSocket-Accept. origins: as
 * below.
 * MU_INVALID where not, with *ret_http_status: 400 (a broken handshake), 426 (none, or another version: the answer has
 * Upgrade and Sec-WebSocket-Version: 13), 403 (a page of a foreign origin).
 */
MUST_CHECK mu_status websocket_accept(const struct websocket_offer *offer, const char *const *origins, size_t n_origins,
                                      char ret_accept[WEBSOCKET_ACCEPT_SIZE], int *ret_http_status, mu_error *err);

/*
 * Browsers let any page open a WebSocket to any server and tell that page's origin; other clients send none, and have
 * no need to. Allowed are: no origin, one whose host and port are those of the Host header, and what `origins` has
 * ("https://app.example", "http://localhost:3000"; "*" for all).
 */
bool websocket_origin_allowed(const char *origin, const char *host, const char *const *origins, size_t n_origins);

/* Is token one of the comma-separated ones in value, in any case of letters? value NULL: no. */
bool header_has_token(const char *value, const char *token);

#endif
