/*
 * The inside of JSON strings: UTF-8 and escapes. Private to proto/json.
 */
#ifndef PROTO_JSON_TEXT_H
#define PROTO_JSON_TEXT_H

#include "proto/json/json_reader.h"

/* at: behind the opening quote. Returns the place of the closing quote; NULL when the text breaks a rule, then
 * *ret_stop is where and *ret_why which. */
const char *json_text_scan(const char *at, const char *end, struct json_text *ret_text, const char **ret_stop,
                           const char **ret_why);

bool json_utf8_valid(const char *text, size_t size);

#endif
