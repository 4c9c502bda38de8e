/*
 * Any bytes as what processes of one server tell each other: control messages, options, descriptions of models. What is
 * accepted must be the same after it has been written and read again.
 *
 * First byte: 0 a control message, 1 a model's description; 2 options: the next two bytes are a place in a right
 * encoding from which on the rest of the input stands instead (so that a seed outlives a new option).
 */
#include "config/options.h"
#include "control/message.h"
#include "model/model_metadata.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
  if (!holds) abort();
}

static void control(const uint8_t *data, size_t size) {
  struct control_packet packet = {.n_fds = 0};
  if (control_decode(data, size, &packet) != MU_OK) return;
  struct buffer again;
  buffer_init(&again, CONTROL_PACKET_MAX);
  require(control_encode(packet.type, &packet.gateway_start, &again) == MU_OK);
  require(again.size == size && memcmp(again.data, data, size) == 0);
  buffer_free(&again);
  control_packet_free(&packet);
}

static void metadata(const uint8_t *data, size_t size) {
  struct model_metadata *first;
  if (model_metadata_decode(data, size, &first) != MU_OK) return;
  struct buffer again;
  buffer_init(&again, SIZE_MAX / 2);
  require(model_metadata_encode(first, &again) == MU_OK);
  require(again.size == size && memcmp(again.data, data, size) == 0);
  buffer_free(&again);
  model_metadata_free(first);
}

static void decode_options(const uint8_t *data, size_t size) {
  struct options *first;
  if (options_decode(data, size, &first) != MU_OK) return;
  struct buffer again;
  buffer_init(&again, SIZE_MAX / 2);
  require(options_encode(first, &again) == MU_OK);
  require(again.size == size && memcmp(again.data, data, size) == 0);
  buffer_clear(&again);
  require(options_print(first, &again) == MU_OK);
  buffer_free(&again);
  options_free(first);
}

static void options(const uint8_t *data, size_t size) {
  if (size < 2) return;
  struct options *defaults;
  struct buffer wire;
  buffer_init(&wire, SIZE_MAX / 2);
  require(options_create(&defaults) == MU_OK && options_encode(defaults, &wire) == MU_OK);
  options_free(defaults);
  size_t at = ((size_t)data[0] | (size_t)data[1] << 8) % (wire.size + 1), over = size - 2;
  if (over > wire.size - at) require(buffer_reserve(&wire, over - (wire.size - at)) == MU_OK);
  memcpy(wire.data + at, data + 2, over);
  if (at + over > wire.size) wire.size = at + over;
  decode_options((uint8_t *)wire.data, wire.size);
  buffer_free(&wire);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static void (*const kinds[])(const uint8_t *, size_t) = {control, metadata, options};
  if (size == 0 || data[0] >= sizeof kinds / sizeof *kinds) return -1;
  uint8_t *exact = malloc(size); /* as long as it is said to be */
  require(exact != NULL);
  memcpy(exact, data + 1, size - 1);
  kinds[data[0]](exact, size - 1);
  free(exact);
  return 0;
}
