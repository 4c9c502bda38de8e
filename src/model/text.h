/* Which names and texts may enter a model's description: they end up in JSON, log lines, URLs and paths. Pure. */
#ifndef MODEL_TEXT_H
#define MODEL_TEXT_H

#include <stdbool.h>
#include <stddef.h>

/* Valid UTF-8 (no surrogates, no overlong forms) without NUL. */
bool text_valid(const char *text, size_t len);

/* Drops what is left of a character that a bounded message was cut in: text is to be valid UTF-8 again. */
void text_mend_end(char *text);

/* A path that stays below the folder it is taken from: not empty, not absolute, no ".." in it. */
bool text_is_inner_path(const char *path);

#endif
