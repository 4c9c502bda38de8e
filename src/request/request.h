/*
 * One inference request, whatever protocol carried it: what the client asked for, checked against the model.
 *
 * Owned by the gateway loop that received it; filled by api/, its input memory by channel/, then left unchanged until
 * it has been answered. Fixed memory: a request can be reused without allocation once its arrays have grown.
 */
#ifndef REQUEST_REQUEST_H
#define REQUEST_REQUEST_H

#include "base/status.h"

/* Where the elements of an input stand in the message. */
enum input_source {
  INPUT_JSON,   /* text of a JSON array: source_at/source_size in the JSON part */
  INPUT_BINARY, /* raw bytes: after the JSON part, in order of the inputs; or a message's raw_input_contents */
  INPUT_TYPED,  /* a gRPC message's typed `contents`: source_at/source_size in the message */
  INPUT_SHARED, /* not in the message: in shared memory of the client */
};

/* A place in shared memory of the client where an input is, or where an output has to go. */
enum { REQUEST_REGION_MAX = 255 };
struct region;
struct request_share {
  char name[REQUEST_REGION_MAX + 1]; /* of the region */
  uint64_t offset, byte_size;        /* within it; of an output: room, of which the result may need less */
  bool output;
  struct region *region; /* the gateway's: held once it was looked up */
};

struct request_input {
  uint32_t index; /* into the model's inputs */
  mu_dtype dtype;
  uint32_t rank;
  int64_t dims[MU_MAX_RANK]; /* as the model wants them (after `reshape`), the batch dimension included */
  uint64_t elements;         /* product of dims */
  uint64_t size;             /* bytes in the arena; BYTES in wire form */
  enum input_source source;
  size_t source_at;   /* offset in the JSON text (INPUT_JSON) or in the binary part (INPUT_BINARY) */
  size_t source_size; /* length of that text or of those bytes */
  uint8_t *data;      /* in the input arena, `size` bytes; NULL until reserved */
  uint64_t offset;    /* the same place as an offset into the arena, for the descriptor */
  uint32_t share;     /* INPUT_SHARED: its place in `shares`, counted from 1 */
};

struct request_output {
  uint32_t index;          /* into the model's outputs */
  bool binary;             /* answer as raw bytes after the JSON part */
  uint32_t classification; /* 0, or how many classes the client wants */
  uint32_t share; /* not 0: the result goes to this place of `shares`, counted from 1, and not into the reply */
};

enum { REQUEST_ID_MAX = 256 };

struct request {
  char id[REQUEST_ID_MAX + 1];  /* "" where the client gave none */
  struct request_input *inputs; /* in order of the model's inputs; those left out (optional) are missing */
  uint32_t n_inputs, inputs_capacity;
  struct request_output *outputs; /* in the order of the request; all of the model's where it named none */
  uint32_t n_outputs, outputs_capacity;
  struct request_share *shares; /* of inputs and outputs */
  uint32_t n_shares, shares_capacity;
  uint32_t rows;         /* of the batch dimension; 1 for a model that does not batch */
  uint64_t input_bytes;  /* sum of the inputs' size */
  uint64_t binary_bytes; /* length of the binary part */
  uint64_t priority;     /* 0: the model's default */
  uint64_t timeout_us;   /* 0: none given */
  bool binary_default;   /* `binary_data_output` */
  uint64_t received_ns;  /* first byte */
  uint64_t deadline_ns;  /* from what carried it, on the monotonic clock; 0: none. timeout_us counts beside it */
};

/* Empties the request, keeping its memory. A zeroed request is an empty one. */
void request_clear(struct request *request);
void request_free(struct request *request); /* the content; not the struct itself */

/* The next input / output / share to fill, zeroed; NULL without memory. The pointer is valid until the next call. */
struct request_input *request_add_input(struct request *request);
struct request_output *request_add_output(struct request *request);
struct request_share *request_add_share(struct request *request);

#endif
