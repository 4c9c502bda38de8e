/*
 * Decoding of jobs and completions from any bytes. What is accepted must stay within the arenas, and encoding it again
 * must give a record that decodes to the same.
 *
 * First byte: 0 (even) a job, 1 (odd) a completion; the rest is the record.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "channel/channel.h"

enum { INPUT = 1 << 20, OUTPUT = 1 << 20, SPANS = 1024, RECORD_MAX = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
  if (!holds) abort();
}

static void *allocate(size_t size) {
  void *memory = malloc(size == 0 ? 1 : size);
  require(memory != NULL);
  return memory;
}

static void job(const void *record, size_t size) {
  struct channel_span spans[SPANS], spans_again[SPANS];
  struct channel_job *first = allocate(sizeof *first), *again = allocate(sizeof *again);
  first->spans = spans;
  again->spans = spans_again;
  if (channel_job_decode(record, size, SPANS, INPUT, OUTPUT, first) == MU_OK) {
    for (uint32_t i = 0; i < first->n_members * first->n_inputs; i++)
      require(spans[i].size <= INPUT && spans[i].offset <= INPUT - spans[i].size);
    for (uint32_t i = 0; i < first->n_places; i++)
      require(first->places[i].capacity <= OUTPUT && first->places[i].offset <= OUTPUT - first->places[i].capacity);
    require(channel_job_size(first) == size);
    void *copy = allocate(size);
    channel_job_encode(first, copy);
    require(memcmp(copy, record, size) == 0);
    require(channel_job_decode(copy, size, SPANS, INPUT, OUTPUT, again) == MU_OK);
    free(copy);
  }
  free(first);
  free(again);
}

static void completion(const void *record, size_t size) {
  struct channel_completion *first = allocate(sizeof *first), *again = allocate(sizeof *again);
  if (channel_completion_decode(record, size, OUTPUT, first) == MU_OK) {
    for (uint32_t i = 0; first->result == CHANNEL_DONE && i < first->n_outputs; i++)
      require(first->outputs[i].size <= OUTPUT && first->outputs[i].offset <= OUTPUT - first->outputs[i].size);
    /* A message may hold a terminator and is then shorter the second time. */
    size_t size_again = channel_completion_size(first);
    require(size_again <= size);
    void *copy = allocate(size_again);
    channel_completion_encode(first, copy);
    require(channel_completion_decode(copy, size_again, OUTPUT, again) == MU_OK);
    require(strcmp(first->message, again->message) == 0 && first->n_outputs == again->n_outputs);
    free(copy);
  }
  free(first);
  free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0 || size > RECORD_MAX) return -1;
  /* Exactly as large as it is, and aligned. */
  void *record = allocate(size - 1);
  memcpy(record, data + 1, size - 1);
  (data[0] % 2 == 0 ? job : completion)(record, size - 1);
  free(record);
  return 0;
}
