/*
 * What the files of proto/json share of the reader. Private to proto/json.
 */
#ifndef PROTO_JSON_PRIVATE_H
#define PROTO_JSON_PRIVATE_H

#include "proto/json/json_number.h"
#include "proto/json/json_reader.h"

/* The reader fails where it stands; the first reason is kept. Always false. */
bool json_fail(struct json_reader *reader, const char *why);

/* The number that comes next, not yet converted. */
bool json_read_number(struct json_reader *reader, struct json_number *ret_number);

#endif
