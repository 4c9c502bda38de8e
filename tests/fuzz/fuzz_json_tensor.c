/*
 * Any bytes as JSON tensor data. The first byte chooses the type; the rest is the text. Whatever is read must be
 * measured the same way, fit the room that was measured, and come back after it has been written.
 */
#include "proto/json/json_reader.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool truth) {
  if (!truth) abort();
}

static void write_and_read_back(mu_dtype dtype, const uint8_t *tensor, uint64_t size, uint64_t elements) {
  struct buffer out;
  buffer_init(&out, SIZE_MAX / 2);
  mu_error err;
  require(json_write_tensor(&out, dtype, tensor, size, elements, &err) == MU_OK);
  uint8_t *again = malloc(size > 0 ? size : 1);
  require(again != NULL);
  struct json_reader reader;
  json_reader_init(&reader, out.data, out.size);
  uint64_t again_size;
  const int64_t dims[] = {(int64_t)elements};
  require(json_read_tensor(&reader, dtype, dims, 1, again, size, &again_size, &err) == MU_OK);
  require(json_finish(&reader, &err) == MU_OK);
  require(again_size == size && memcmp(again, tensor, size) == 0);
  free(again);
  buffer_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  const mu_dtype dtype = (mu_dtype)(MU_BOOL + data[0] % (MU_DTYPE_COUNT - 1));
  const char *text = (const char *)data + 1;
  struct json_reader reader;
  struct json_tensor_form form;
  mu_error err;
  json_reader_init(&reader, text, size - 1);
  if (!json_measure_tensor(&reader, &form)) return 0;
  require(form.at + form.size <= size - 1);
  require(json_tensor_form_fits(&form, form.dims, form.rank));

  const uint64_t room = dtype == MU_BYTES ? form.bytes : form.elements * mu_dtype_size(dtype);
  uint8_t *tensor = malloc(room > 0 ? room : 1);
  require(tensor != NULL);
  uint64_t used;
  json_reader_init_at(&reader, text, form.at, form.size);
  const mu_status status = json_read_tensor(&reader, dtype, form.dims, form.rank, tensor, room, &used, &err);
  if (status == MU_OK) {
    require(used == room);
    write_and_read_back(dtype, tensor, room, form.elements);
  }
  free(tensor);
  return 0;
}
