/*
 * The body of a request to a backend: a few bytes of text that are written here, and between them the inputs, which
 * stay where they are. Read in order by the transfer, and from its beginning again when it is sent once more. One
 * thread at a time.
 */
#ifndef ENGINE_REMOTE_REMOTE_BODY_H
#define ENGINE_REMOTE_REMOTE_BODY_H

#include "base/buffer.h"
#include "engine/remote/remote_settings.h"

enum { REMOTE_TENSORS_MAX = 64, REMOTE_PIECES_MAX = 2 * REMOTE_TENSORS_MAX + 2 };

struct remote_piece {
  const void *data; /* NULL: the text from offset on */
  size_t offset, size;
};

struct remote_body {
  struct buffer text;
  struct remote_piece pieces[REMOTE_PIECES_MAX];
  size_t n_pieces;
  uint64_t size;    /* of all pieces */
  size_t piece, at; /* read so far */
  size_t head_size; /* HTTP: of the JSON before the tensors */
};

void remote_body_init(struct remote_body *body);
void remote_body_free(struct remote_body *body); /* accepts a zeroed one */

/*
 * Writes an inference: inputs as they are, which are borrowed as long as the body is read, and the names of the
 * outputs. REST with binary tensors, or a ModelInferRequest with raw_input_contents behind gRPC's prefix.
 * MU_INVALID: an input or output that the model has not; MU_TOO_LARGE: more than gRPC can carry; MU_NO_MEMORY.
 */
MUST_CHECK mu_status remote_body_write(struct remote_body *body, const struct remote_settings *settings,
                                       const mu_model_info *info, const mu_input *inputs, size_t n_inputs,
                                       const mu_output *outputs, size_t n_outputs, mu_error *err);

/* The next bytes, at most size; 0: there are no more. */
size_t remote_body_read(struct remote_body *body, char *to, size_t size);
/* To this place of the body. false: it is shorter. */
bool remote_body_seek(struct remote_body *body, uint64_t offset);

#endif
