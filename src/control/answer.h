/*
 * What every control socket has, the supervisor's and that of `muster launch`: HTTP and JSON on a Unix socket for a few
 * commands of the same user.
 */
#ifndef CONTROL_ANSWER_H
#define CONTROL_ANSWER_H

#include <jansson.h>

#include "net/exchange.h"
#include "net/http_server.h"

extern const struct http_limits control_limits;

/* Takes document over; NULL: there was no memory for it, which is answered then. */
void control_answer(struct exchange *exchange, int status, json_t *document);

#endif
