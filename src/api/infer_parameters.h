/*
 * Parameters of an inference request, of its inputs and of its outputs, once a protocol has read a key and a value: one
 * table each. Keys that nobody knows are passed over, as in Triton. Pure.
 */
#ifndef API_INFER_PARAMETERS_H
#define API_INFER_PARAMETERS_H

#include "api/infer_shared_memory.h"
#include "request/request.h"

enum infer_value_kind {
  INFER_VALUE_NONE,
  INFER_VALUE_BOOL,
  INFER_VALUE_I64,
  INFER_VALUE_U64,
  INFER_VALUE_DOUBLE,
  INFER_VALUE_TEXT
};

struct infer_value {
  enum infer_value_kind kind;
  bool flag;
  int64_t i64;
  uint64_t u64;
  double real;
  const char *text; /* not terminated */
  size_t text_size;
};

struct infer_parameter {
  const char *key; /* not terminated */
  size_t key_size;
  struct infer_value value;
};

/* What an input's or an output's parameters come to. */
struct infer_tensor_parameters {
  uint64_t classification; /* outputs: 0, or how many classes */
  struct shared_memory_parameters shared;
};

/* priority, timeout, sequence_id, sequence_start, sequence_end into the request. MU_INVALID: a value of the wrong type
 * or range; MU_UNSUPPORTED: a request that belongs to a sequence. */
MUST_CHECK mu_status infer_request_parameter(const struct infer_parameter *parameter, struct request *request,
                                             mu_error *err);

/* shared_memory_region, shared_memory_byte_size, shared_memory_offset; classification of outputs. who: "input 'x'", for
 * messages. What is taken borrows the parameter's text. MU_INVALID. */
MUST_CHECK mu_status infer_input_parameter(const char *who, const struct infer_parameter *parameter,
                                           struct infer_tensor_parameters *into, mu_error *err);
MUST_CHECK mu_status infer_output_parameter(const char *who, const struct infer_parameter *parameter,
                                            struct infer_tensor_parameters *into, mu_error *err);

#endif
