#include "cli/bench/tensor_file.h"

#include "proto/json/json_reader.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { FILE_BYTES_MAX = 1 << 30 };

mu_status file_append(const char *path, struct buffer *out, mu_error *err) {
  FILE *file = fopen(path, "re");
  if (file == NULL) return mu_fail(err, MU_IO, "%s: %s", path, strerror(errno));
  char chunk[65536];
  mu_status status = MU_OK;
  errno = 0;
  for (size_t n; status == MU_OK && (n = fread(chunk, 1, sizeof chunk, file)) > 0;)
    status = buffer_append(out, chunk, n);
  if (status != MU_OK)
    mu_fail(err, status, "%s is too large", path);
  else if (ferror(file))
    status = mu_fail(err, MU_IO, "%s: %s", path, strerror(errno));
  fclose(file);
  return status;
}

static bool has_ending(const char *path, const char *ending) {
  size_t size = strlen(path), n = strlen(ending);
  return size > n && strcmp(path + size - n, ending) == 0;
}

/* Dims that the file says, against those that the input takes; the first is the batch dimension where it varies. */
static mu_status accept_dims(const char *path, const struct target_input *input, const int64_t *said, uint32_t rank,
                             int64_t *dims, mu_error *err) {
  char wanted[128], got[128];
  bool fits = rank == input->rank;
  for (uint32_t i = 0; fits && i < rank; i++) fits = input->dims[i] < 0 || input->dims[i] == said[i];
  if (!fits)
    return mu_fail(err, MU_INVALID, "%s has the shape %s, input '%s' takes %s", path,
                   shape_text(said, rank, got, sizeof got), input->name,
                   shape_text(input->dims, input->rank, wanted, sizeof wanted));
  memcpy(dims, said, rank * sizeof *dims);
  return MU_OK;
}

/* ---- .npy (numpy.lib.format): magic, version, size of the header, the text of a Python dict, the data -------------
 */

static const struct {
  const char *descr;
  mu_dtype dtype;
} npy_types[] = {
    {"|b1", MU_BOOL}, {"|u1", MU_UINT8}, {"<u2", MU_UINT16}, {"<u4", MU_UINT32}, {"<u8", MU_UINT64},
    {"|i1", MU_INT8}, {"<i2", MU_INT16}, {"<i4", MU_INT32},  {"<i8", MU_INT64},  {"<f2", MU_FP16},
    {"<f4", MU_FP32}, {"<f8", MU_FP64},  {"<V2", MU_BF16},   {"|V2", MU_BF16},
};

static mu_dtype npy_type(const char *descr) {
  for (size_t i = 0; i < sizeof npy_types / sizeof *npy_types; i++)
    if (strcmp(npy_types[i].descr, descr) == 0) return npy_types[i].dtype;
  return MU_DTYPE_INVALID;
}

/* The text behind 'key': in the header's dict, or NULL. */
static const char *npy_value(const char *header, const char *key) {
  const char *at = strstr(header, key);
  return at != NULL ? at + strlen(key) + strspn(at + strlen(key), " ") : NULL;
}

static bool npy_shape(const char *text, int64_t *dims, uint32_t *ret_rank) {
  uint32_t rank = 0;
  if (text == NULL || *text++ != '(') return false;
  for (; *(text += strspn(text, " ,")) != ')'; rank++) {
    char *end;
    errno = 0;
    if (rank == MU_MAX_RANK) return false;
    dims[rank] = strtoll(text, &end, 10);
    if (end == text || errno != 0 || dims[rank] < 0) return false;
    text = end;
  }
  *ret_rank = rank;
  return true;
}

static mu_status append_npy(const char *path, const struct target_input *input, int64_t *dims, struct buffer *file,
                            struct buffer *out, mu_error *err) {
  enum { HEADER_MAX = 65536 };
  const uint8_t *bytes = (const uint8_t *)file->data;
  char header[HEADER_MAX], descr[16] = "";
  if (file->size < 12 || memcmp(bytes, "\x93NUMPY", 6) != 0)
    return mu_fail(err, MU_INVALID, "%s is no .npy file", path);
  size_t start = bytes[6] == 1 ? 10 : 12, size = bytes[8] | (size_t)bytes[9] << 8;
  if (bytes[6] > 1) size |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
  if (size >= HEADER_MAX || start + size > file->size) return mu_fail(err, MU_INVALID, "%s is cut off", path);
  memcpy(header, bytes + start, size);
  header[size] = '\0';
  int64_t said[MU_MAX_RANK];
  uint32_t rank;
  const char *type = npy_value(header, "'descr':"), *order = npy_value(header, "'fortran_order':");
  if (type == NULL || order == NULL || !npy_shape(npy_value(header, "'shape':"), said, &rank) ||
      sscanf(type, "'%15[^']'", descr) != 1)
    return mu_fail(err, MU_INVALID, "the header of %s cannot be understood: an array of one plain type is wanted",
                   path);
  if (npy_type(descr) != input->dtype)
    return mu_fail(err, MU_INVALID, "%s holds '%s', input '%s' takes %s", path, descr, input->name,
                   mu_dtype_name(input->dtype));
  if (strncmp(order, "False", 5) != 0)
    return mu_fail(err, MU_INVALID, "%s is in Fortran order: save it with numpy.ascontiguousarray", path);
  mu_status status = accept_dims(path, input, said, rank, dims, err);
  if (status != MU_OK) return status;
  return buffer_append(out, bytes + start + size, file->size - start - size) == MU_OK
             ? MU_OK
             : mu_fail(err, MU_NO_MEMORY, "no memory for %s", path);
}

/* ---- .json ------------------------------------------------------------------------------------------------------- */

static mu_status append_json(const char *path, const struct target_input *input, int64_t *dims, struct buffer *file,
                             struct buffer *out, mu_error *err) {
  struct json_reader reader;
  struct json_tensor_form form;
  mu_error why;
  uint64_t elements, bytes, used;
  json_reader_init(&reader, file->data != NULL ? file->data : "", file->size);
  if (!json_measure_tensor(&reader, &form) || json_finish(&reader, &why) != MU_OK)
    return mu_fail(err, MU_INVALID, "%s: %s", path, reader.failed ? reader.error.message : why.message);
  mu_status status =
      form.rank > 1 || input->rank == 1 ? accept_dims(path, input, form.dims, form.rank, dims, err) : MU_OK;
  if (status != MU_OK) return status;
  if (shape_size(input->dtype, dims, input->rank, &elements, &bytes) != MU_OK || elements != form.elements)
    return mu_fail(err, MU_INVALID,
                   "%s holds %llu elements, which do not fill input '%s': nest them, or say its --shape", path,
                   (unsigned long long)form.elements, input->name);
  if (input->dtype == MU_BYTES) bytes = form.bytes;
  if (buffer_reserve(out, bytes) != MU_OK) return mu_fail(err, MU_NO_MEMORY, "no memory for %s", path);
  json_reader_init(&reader, file->data, file->size);
  status =
      json_read_tensor(&reader, input->dtype, dims, input->rank, (uint8_t *)out->data + out->size, bytes, &used, &why);
  if (status != MU_OK) return mu_fail(err, status, "%s: %s", path, why.message);
  out->size += used;
  return MU_OK;
}

mu_status tensor_file_append(const char *path, const struct target_input *input, int64_t *dims, struct buffer *out,
                             mu_error *err) {
  struct buffer file;
  size_t before = out->size;
  uint64_t elements, bytes;
  char shape[256];
  buffer_init(&file, FILE_BYTES_MAX);
  mu_status status = file_append(path, &file, err);
  if (status == MU_OK && has_ending(path, ".npy"))
    status = append_npy(path, input, dims, &file, out, err);
  else if (status == MU_OK && has_ending(path, ".json"))
    status = append_json(path, input, dims, &file, out, err);
  else if (status == MU_OK && buffer_append(out, file.data, file.size) != MU_OK)
    status = mu_fail(err, MU_NO_MEMORY, "no memory for %s", path);
  buffer_free(&file);
  if (status != MU_OK) return status;
  shape_text(dims, input->rank, shape, sizeof shape);
  if (shape_size(input->dtype, dims, input->rank, &elements, &bytes) != MU_OK)
    return mu_fail(err, MU_INVALID, "input '%s' has the shape %s: say its varying dims with --shape %s:…", input->name,
                   shape, input->name);
  if (input->dtype != MU_BYTES && out->size - before != bytes)
    return mu_fail(err, MU_INVALID, "%s has %zu bytes, input '%s' with the shape %s takes %llu", path,
                   out->size - before, input->name, shape, (unsigned long long)bytes);
  return MU_OK;
}
