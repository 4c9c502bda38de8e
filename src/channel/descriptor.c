/*
 * Jobs and completions as records. The bytes of a record can change under the reader, so decoding is one pass over its
 * words: each is loaded once into private memory, and what is checked is the private copy. Nothing is cleared or copied
 * beyond what the record holds: for a small job that is most of the cost.
 */
#include <string.h>

#include "channel/layout.h"

/* ---- words ------------------------------------------------------------------------------------------------------- */

struct reader {
  const uint64_t *at;
  size_t left; /* words */
};

/* The caller has checked that there is one. */
static inline uint64_t get(struct reader *reader) {
  uint64_t word = __atomic_load_n(reader->at, __ATOMIC_RELAXED);
  reader->at++;
  reader->left--;
  return word;
}

static void get_words(struct reader *reader, void *to, size_t size) {
  for (size_t i = 0; i < size; i += sizeof(uint64_t)) {
    uint64_t word = get(reader);
    memcpy((char *)to + i, &word, sizeof word);
  }
}

static inline uint64_t *put_words(uint64_t *at, const void *from, size_t size) {
  memcpy(at, from, size);
  return at + size / sizeof *at;
}

static inline bool lies_within(uint64_t offset, uint64_t size, uint64_t whole) {
  return size <= whole && offset <= whole - size;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

/* The first word of a tensor and, after `between` more words, its dims. */
static mu_status get_tensor(struct reader *reader, uint64_t *between, size_t n_between,
                            struct layout_tensor *ret_tensor, int64_t *ret_dims) {
  if (reader->left < 1 + n_between) return MU_INVALID;
  uint64_t word = get(reader);
  memcpy(ret_tensor, &word, sizeof *ret_tensor);
  for (size_t i = 0; i < n_between; i++) between[i] = get(reader);
  if (ret_tensor->dtype >= MU_DTYPE_COUNT || ret_tensor->rank > MU_MAX_RANK || ret_tensor->known > 1 ||
      ret_tensor->reserved != 0 || ret_tensor->rank > reader->left)
    return MU_INVALID;
  for (uint32_t i = 0; i < ret_tensor->rank; i++) ret_dims[i] = (int64_t)get(reader);
  return MU_OK;
}

static uint64_t *put_tensor(uint64_t *at, struct layout_tensor tensor, const uint64_t *between, size_t n_between,
                            const int64_t *dims) {
  at = put_words(at, &tensor, sizeof tensor);
  for (size_t i = 0; i < n_between; i++) *at++ = between[i];
  return put_words(at, dims, tensor.rank * sizeof *dims);
}

/* Whether `size` bytes can hold exactly this shape: the product for types of fixed size; for BYTES each element has at
 * least its length in front. */
static mu_status check_size(mu_dtype dtype, const int64_t *dims, uint32_t rank, uint64_t size) {
  uint64_t elements, bytes;
  if (dtype == MU_DTYPE_INVALID || shape_size(dtype, dims, rank, &elements, &bytes) != MU_OK) return MU_INVALID;
  bool fits = dtype == MU_BYTES ? elements <= size / sizeof(uint32_t) : bytes == size;
  return fits ? MU_OK : MU_INVALID;
}

/* The bits that offsets and sizes of this type must not have: engines load elements as they are, so none may lie across
 * its natural boundary. */
static inline uint64_t loose_bits(mu_dtype dtype) {
  size_t element = mu_dtype_size(dtype);
  return element == 0 ? 0 : element - 1;
}

static inline bool is_aligned(uint64_t bits, uint64_t offset, uint64_t size) {
  return size == 0 || ((offset | size) & bits) == 0;
}

/* ---- jobs -------------------------------------------------------------------------------------------------------- */

size_t channel_job_size(const struct channel_job *job) {
  size_t words = sizeof(struct layout_job) / sizeof(uint64_t);
  for (uint32_t i = 0; i < job->n_inputs; i++) words += 1 + job->inputs[i].rank;
  for (uint32_t i = 0; i < job->n_places; i++) words += 3 + job->places[i].rank;
  return words * sizeof(uint64_t) + (size_t)job->n_members * job->n_inputs * sizeof *job->spans;
}

void channel_job_encode(const struct channel_job *job, void *record) {
  struct layout_job head = {
      .type = job->type,
      .n_members = job->n_members,
      .epoch = job->epoch,
      .batch = job->batch,
      .n_inputs = job->n_inputs,
      .n_places = job->n_places,
  };
  uint64_t *at = put_words(record, &head, sizeof head);
  for (uint32_t i = 0; i < job->n_inputs; i++) {
    const struct channel_input *input = &job->inputs[i];
    struct layout_tensor tensor = {.index = input->index, .dtype = (uint8_t)input->dtype, .rank = (uint8_t)input->rank};
    at = put_tensor(at, tensor, NULL, 0, input->dims);
  }
  for (uint32_t i = 0; i < job->n_places; i++) {
    const struct channel_place *place = &job->places[i];
    struct layout_tensor tensor = {
        .index = place->index, .dtype = (uint8_t)place->dtype, .rank = (uint8_t)place->rank, .known = place->known};
    uint64_t where[] = {place->offset, place->capacity};
    at = put_tensor(at, tensor, where, 2, place->dims);
  }
  size_t spans = (size_t)job->n_members * job->n_inputs * sizeof *job->spans;
  if (spans > 0) memcpy(at, job->spans, spans);
}

static mu_status get_input(struct reader *reader, struct channel_input *ret_input) {
  struct layout_tensor tensor;
  if (get_tensor(reader, NULL, 0, &tensor, ret_input->dims) != MU_OK || tensor.known) return MU_INVALID;
  ret_input->index = tensor.index;
  ret_input->dtype = (mu_dtype)tensor.dtype;
  ret_input->rank = tensor.rank;
  return MU_OK;
}

static mu_status get_place(struct reader *reader, uint64_t output_size, struct channel_place *ret_place) {
  struct layout_tensor tensor;
  uint64_t where[2], bytes;
  if (get_tensor(reader, where, 2, &tensor, ret_place->dims) != MU_OK) return MU_INVALID;
  if (!lies_within(where[0], where[1], output_size)) return MU_INVALID;
  mu_dtype dtype = (mu_dtype)tensor.dtype;
  if (tensor.known) {
    if (mu_dtype_size(dtype) == 0 || shape_size(dtype, ret_place->dims, tensor.rank, NULL, &bytes) != MU_OK ||
        bytes > where[1] || !is_aligned(loose_bits(dtype), where[0], bytes))
      return MU_INVALID;
  }
  ret_place->index = tensor.index;
  ret_place->dtype = dtype;
  ret_place->rank = tensor.rank;
  ret_place->known = tensor.known;
  ret_place->offset = where[0];
  ret_place->capacity = where[1];
  return MU_OK;
}

/* The spans, and that those of each input add up to its shape. */
static mu_status get_spans(struct reader *reader, uint64_t input_size, struct channel_job *job) {
  struct {
    uint64_t sum, loose_bits;
  } inputs[CHANNEL_TENSORS_MAX];
  for (uint32_t i = 0; i < job->n_inputs; i++) {
    inputs[i].sum = 0;
    inputs[i].loose_bits = loose_bits(job->inputs[i].dtype);
  }
  struct channel_span *span = job->spans;
  for (uint32_t m = 0; m < job->n_members; m++) {
    for (uint32_t i = 0; i < job->n_inputs; i++, span++) {
      span->offset = get(reader);
      span->size = get(reader);
      if (!lies_within(span->offset, span->size, input_size) ||
          !is_aligned(inputs[i].loose_bits, span->offset, span->size) ||
          __builtin_add_overflow(inputs[i].sum, span->size, &inputs[i].sum))
        return MU_INVALID;
    }
  }
  for (uint32_t i = 0; i < job->n_inputs; i++) {
    const struct channel_input *input = &job->inputs[i];
    if (check_size(input->dtype, input->dims, input->rank, inputs[i].sum) != MU_OK) return MU_INVALID;
  }
  return MU_OK;
}

/* The counts that everything else is sized by. */
static mu_status get_job_head(struct reader *reader, uint32_t max_spans, struct channel_job *ret_job) {
  struct layout_job head;
  if (reader->left < sizeof head / sizeof(uint64_t)) return MU_INVALID;
  get_words(reader, &head, sizeof head);
  if (head.n_inputs > CHANNEL_TENSORS_MAX || head.n_places > CHANNEL_TENSORS_MAX ||
      head.n_members > CHANNEL_MEMBERS_MAX || head.n_members * head.n_inputs > max_spans)
    return MU_INVALID;
  bool sound = (head.type == CHANNEL_RUN && head.n_members > 0) ||
               (head.type == CHANNEL_FETCH && head.n_members == 0 && head.n_inputs == 0);
  if (!sound) return MU_INVALID;
  ret_job->type = (enum channel_job_type)head.type;
  ret_job->epoch = head.epoch;
  ret_job->batch = head.batch;
  ret_job->n_inputs = head.n_inputs;
  ret_job->n_members = head.n_members;
  ret_job->n_places = head.n_places;
  return MU_OK;
}

mu_status channel_job_decode(const void *record, size_t size, uint32_t max_spans, uint64_t input_size,
                             uint64_t output_size, struct channel_job *ret_job) {
  struct reader reader = {.at = record, .left = size / sizeof(uint64_t)};
  if (size % sizeof(uint64_t) != 0) return MU_INVALID;
  mu_status status = get_job_head(&reader, max_spans, ret_job);
  for (uint32_t i = 0; status == MU_OK && i < ret_job->n_inputs; i++) status = get_input(&reader, &ret_job->inputs[i]);
  for (uint32_t i = 0; status == MU_OK && i < ret_job->n_places; i++)
    status = get_place(&reader, output_size, &ret_job->places[i]);
  if (status != MU_OK) return status;
  if (reader.left != (size_t)ret_job->n_members * ret_job->n_inputs * 2) return MU_INVALID;
  return get_spans(&reader, input_size, ret_job);
}

/* ---- completions ------------------------------------------------------------------------------------------------- */

/* Only an error has a status and a message; only the others have outputs. */
static bool is_error(const struct channel_completion *completion) { return completion->result == CHANNEL_ERROR; }

static uint32_t outputs_of(const struct channel_completion *completion) {
  return is_error(completion) ? 0 : completion->n_outputs;
}

static size_t message_of(const struct channel_completion *completion) {
  return is_error(completion) ? strnlen(completion->message, sizeof completion->message - 1) : 0;
}

static size_t whole_words(size_t size) { return (size + sizeof(uint64_t) - 1) / sizeof(uint64_t); }

size_t channel_completion_size(const struct channel_completion *completion) {
  size_t words = sizeof(struct layout_completion) / sizeof(uint64_t) + whole_words(message_of(completion));
  for (uint32_t i = 0; i < outputs_of(completion); i++) words += 3 + completion->outputs[i].rank;
  return words * sizeof(uint64_t);
}

static uint64_t later(uint64_t a, uint64_t b) { return a > b ? a : b; }

void channel_completion_encode(const struct channel_completion *completion, void *record) {
  size_t message_size = message_of(completion);
  struct layout_completion head = {
      .result = completion->result,
      .status = is_error(completion) ? completion->status : MU_OK,
      .epoch = completion->epoch,
      .batch = completion->batch,
      .started_ns = completion->started_ns,
      .n_outputs = outputs_of(completion),
      .message_size = (uint32_t)message_size,
  };
  /* A step that did not happen took no time. */
  head.input_ns = later(head.started_ns, completion->input_ns);
  head.infer_ns = later(head.input_ns, completion->infer_ns);
  head.ended_ns = later(head.infer_ns, completion->ended_ns);
  uint64_t *at = put_words(record, &head, sizeof head);
  if (message_size > 0) {
    at[whole_words(message_size) - 1] = 0; /* what fills up the last word */
    memcpy(at, completion->message, message_size);
    at += whole_words(message_size);
  }
  for (uint32_t i = 0; i < head.n_outputs; i++) {
    const struct channel_output *output = &completion->outputs[i];
    struct layout_tensor tensor = {
        .index = output->index, .dtype = (uint8_t)output->dtype, .rank = (uint8_t)output->rank};
    uint64_t where[] = {output->offset, output->size};
    at = put_tensor(at, tensor, where, 2, output->dims);
  }
}

static bool is_result_sound(const struct layout_completion *head) {
  if (head->result == CHANNEL_ERROR)
    return head->status < MU_OK && head->status >= MU_TOO_LARGE && head->n_outputs == 0;
  return (head->result == CHANNEL_DONE || head->result == CHANNEL_OVERFLOW) && head->status == MU_OK &&
         head->message_size == 0;
}

static mu_status get_completion_head(struct reader *reader, struct channel_completion *ret_completion) {
  struct layout_completion head;
  if (reader->left < sizeof head / sizeof(uint64_t)) return MU_INVALID;
  get_words(reader, &head, sizeof head);
  if (!is_result_sound(&head) || head.n_outputs > CHANNEL_TENSORS_MAX ||
      head.message_size >= sizeof ret_completion->message || whole_words(head.message_size) > reader->left)
    return MU_INVALID;
  if (head.started_ns > head.input_ns || head.input_ns > head.infer_ns || head.infer_ns > head.ended_ns)
    return MU_INVALID;
  ret_completion->result = (enum channel_result)head.result;
  ret_completion->status = (mu_status)head.status;
  ret_completion->epoch = head.epoch;
  ret_completion->batch = head.batch;
  ret_completion->started_ns = head.started_ns;
  ret_completion->input_ns = head.input_ns;
  ret_completion->infer_ns = head.infer_ns;
  ret_completion->ended_ns = head.ended_ns;
  ret_completion->n_outputs = head.n_outputs;
  get_words(reader, ret_completion->message, whole_words(head.message_size) * sizeof(uint64_t));
  ret_completion->message[head.message_size] = '\0';
  return MU_OK;
}

static mu_status get_output(struct reader *reader, uint64_t output_size, enum channel_result result,
                            struct channel_output *ret_output) {
  struct layout_tensor tensor;
  uint64_t where[2];
  if (get_tensor(reader, where, 2, &tensor, ret_output->dims) != MU_OK || tensor.known) return MU_INVALID;
  mu_dtype dtype = (mu_dtype)tensor.dtype;
  if (check_size(dtype, ret_output->dims, tensor.rank, where[1]) != MU_OK || where[1] > INT64_MAX) return MU_INVALID;
  bool placed = result == CHANNEL_DONE;
  if (placed && (!lies_within(where[0], where[1], output_size) || !is_aligned(loose_bits(dtype), where[0], where[1])))
    return MU_INVALID;
  ret_output->index = tensor.index;
  ret_output->dtype = dtype;
  ret_output->rank = tensor.rank;
  ret_output->offset = where[0];
  ret_output->size = where[1];
  return MU_OK;
}

mu_status channel_completion_decode(const void *record, size_t size, uint64_t output_size,
                                    struct channel_completion *ret_completion) {
  struct reader reader = {.at = record, .left = size / sizeof(uint64_t)};
  if (size % sizeof(uint64_t) != 0) return MU_INVALID;
  mu_status status = get_completion_head(&reader, ret_completion);
  for (uint32_t i = 0; status == MU_OK && i < ret_completion->n_outputs; i++)
    status = get_output(&reader, output_size, ret_completion->result, &ret_completion->outputs[i]);
  if (status != MU_OK) return status;
  return reader.left == 0 ? MU_OK : MU_INVALID;
}
