/*
 * Content codings of HTTP: gzip and deflate, both ways. "deflate" is the zlib format (RFC 9110 section 8.4.1.2); bare
 * deflate data, which some clients send under that name, is read too. Pure; one thread at a time for each object.
 */
#ifndef NET_CONTENT_CODING_H
#define NET_CONTENT_CODING_H

#include "base/buffer.h"
#include "base/status.h"

#include <sys/uio.h>

enum content_coding { CODING_IDENTITY, CODING_GZIP, CODING_DEFLATE, CODING_COUNT };

/* "gzip", "deflate", "identity". */
const char *content_coding_name(enum content_coding coding);

/* The value of Content-Encoding (NULL: none). MU_UNSUPPORTED: unknown, or more than one. */
MUST_CHECK mu_status content_coding_parse(const char *value, enum content_coding *ret_coding);

/* The coding to answer with for a value of Accept-Encoding (NULL: none): the acceptable one with the highest q, gzip
 * before deflate; CODING_IDENTITY when neither is acceptable, when the client prefers identity by q, or when the value
 * is malformed. */
enum content_coding content_coding_choose(const char *accept);

struct content_decoder;
/* coding other than CODING_IDENTITY. NULL without memory. */
struct content_decoder *content_decoder_create(enum content_coding coding);
void content_decoder_free(struct content_decoder *decoder); /* accepts NULL */

/*
 * Decodes into room bytes (>= 1) at out. *data and *size are moved past what was taken. Until *ret_produced < room
 * there may be more to come, also with *size 0. Several gzip members after each other are one body. Errors: MU_INVALID
 * (not such data, or bytes after its end), MU_NO_MEMORY.
 */
MUST_CHECK mu_status content_decoder_run(struct content_decoder *decoder, const uint8_t **data, size_t *size,
                                         uint8_t *out, size_t room, size_t *ret_produced);

/* Was all of it there? Call after the last byte. */
bool content_decoder_complete(const struct content_decoder *decoder);

struct content_encoder;
/* coding other than CODING_IDENTITY. NULL without memory. May be used for any number of bodies. */
struct content_encoder *content_encoder_create(enum content_coding coding);
void content_encoder_free(struct content_encoder *encoder); /* accepts NULL */

/* Appends the whole body, encoded, to out. MU_TOO_LARGE (out's limit), MU_NO_MEMORY. */
MUST_CHECK mu_status content_encoder_run(struct content_encoder *encoder, const struct iovec *body, size_t n_body,
                                         struct buffer *out);

#endif
