/*
 * JSON of a ModelConfig, as Triton's clients send it with a load request, into the tree that the text format has: both
 * are decoded by the same tables. Private to model/.
 */
#ifndef MODEL_CONFIG_JSON_H
#define MODEL_CONFIG_JSON_H

#include "proto/pbtext/pbtext.h"

/*
 * As protobuf maps JSON to messages: an object is a message (or, for a field that is a map, an entry for each member,
 * with `key` and `value`), an array the values of a repeated field; null, and an array without elements, is a field
 * that is not there. Names may be written likeThis or like_this. Numbers and words that are quoted stay strings:
 * the decoder knows what they should be. Errors as pbtext_parse.
 */
MUST_CHECK mu_status config_json_parse(const char *text, size_t len, const char *source, struct arena *arena,
                                       const struct pbtext_message **ret_message, mu_error *err);

#endif
