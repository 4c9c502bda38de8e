/*
 * A JSON document in protobuf's own field names as a message in wire form, by the descriptor that protobuf-c made of
 * the .proto file. So what the HTTP surface says of models is written once, and gRPC says the same. Pure.
 */
#ifndef API_PROTOBUF_JSON_H
#define API_PROTOBUF_JSON_H

#include "base/buffer.h"

#include <jansson.h>
#include <protobuf-c/protobuf-c.h>

/*
 * Appends it. Objects are messages and maps, enums the names of their values, numbers of any width numbers. Keys that
 * the message does not have are left out: they are muster's additions to the HTTP document.
 * MU_INTERNAL: a value that is not of its field's type (the message names the field); MU_NO_MEMORY, MU_TOO_LARGE.
 */
MUST_CHECK mu_status protobuf_write_json(const ProtobufCMessageDescriptor *descriptor, json_t *document,
                                         struct buffer *out, mu_error *err);

#endif
