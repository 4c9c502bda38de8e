/* The reply to an inference request. */
#include "api/infer_view.h"
#include "api/rest_infer.h"
#include "proto/json/json_reader.h"

enum { ESCAPED_MAX = 6, NUMBER_MAX = 21 }; /* bytes that a byte of a string, and an integer, can take */

struct render {
  const struct model *model;
  const struct request *request;
  struct buffer *json;
  struct buffer classes; /* BYTES that classifications made: those of binary outputs, one after the other */
  struct iovec *binary;
  uint32_t n_binary;
  mu_error *err;
};

static mu_status no_room(const struct render *r, mu_status status) {
  return mu_fail(r->err, status, "no room for the reply");
}

/* {"name":…,"datatype":…,"shape":[…] and what follows is the data's. Room for all of it is made at once. */
static mu_status write_head(const struct render *r, const struct infer_view *view) {
  struct buffer *json = r->json;
  const size_t name_size = strlen(view->name);
  const mu_status status = buffer_reserve(json, 128 + ESCAPED_MAX * name_size + NUMBER_MAX * view->tensor.rank);
  if (status != MU_OK) return no_room(r, status);
  buffer_puts(json, "{\"name\":");
  json_write_string(json, view->name, name_size);
  buffer_puts(json, ",\"datatype\":\"");
  buffer_puts(json, mu_dtype_name(view->tensor.dtype));
  buffer_puts(json, "\",\"shape\":[");
  for (uint32_t i = 0; i < view->tensor.rank; i++) {
    if (i > 0) buffer_putc(json, ',');
    json_write_i64(json, view->tensor.dims[i]);
  }
  buffer_putc(json, ']');
  return MU_OK;
}

/* Fits the room that write_head has made. */
static void write_binary(struct render *r, const struct infer_view *view) {
  buffer_puts(r->json, ",\"parameters\":{\"binary_data_size\":");
  json_write_u64(r->json, view->tensor.size);
  buffer_puts(r->json, "}}");
  r->binary[r->n_binary++] = (struct iovec){view->tensor.data, view->tensor.size};
}

static mu_status write_data(struct render *r, const struct infer_view *view) {
  buffer_puts(r->json, ",\"data\":");
  mu_error why;
  const mu_tensor *tensor = &view->tensor;
  mu_status status = json_write_tensor(r->json, tensor->dtype, tensor->data, tensor->size, view->elements, &why);
  if (status != MU_OK) return mu_fail(r->err, status, "output '%.100s': %.300s", view->name, why.message);
  status = buffer_putc(r->json, '}');
  return status == MU_OK ? MU_OK : no_room(r, status);
}

static mu_status write_output(struct render *r, const struct request_output *output,
                              const struct infer_result *result) {
  struct infer_view view;
  const size_t classes_before = r->classes.size;
  mu_status status = output->classification > 0 ? infer_view_classes(r->model, r->request, output->classification,
                                                                     result, &r->classes, &view, r->err)
                                                : infer_view_tensor(r->model, result, &view, r->err);
  if (status == MU_OK) status = write_head(r, &view);
  if (status != MU_OK) return status;
  if (output->share > 0) { /* no parameters, as from Triton: NVIDIA's C++ client takes any for a binary_data_size */
    buffer_putc(r->json, '}');
    return MU_OK;
  }
  if (output->binary) {
    write_binary(r, &view);
    return MU_OK;
  }
  status = write_data(r, &view);
  r->classes.size = classes_before; /* they are in the text now */
  return status;
}

/* The classes of binary outputs move behind the JSON text, and their iovecs with them. */
static mu_status place_classes(struct render *r) {
  if (r->classes.size == 0) return MU_OK;
  const mu_status status = buffer_reserve(r->json, r->classes.size);
  if (status != MU_OK) return no_room(r, status);
  char *place = r->json->data + r->json->size;
  memcpy(place, r->classes.data, r->classes.size);
  uint32_t next = 0;
  for (uint32_t i = 0; i < r->request->n_outputs; i++) {
    const struct request_output *output = &r->request->outputs[i];
    if (!output->binary) continue;
    struct iovec *iov = &r->binary[next++];
    if (output->classification == 0) continue;
    iov->iov_base = place;
    place += iov->iov_len;
  }
  return MU_OK;
}

/* {"id":…,"model_name":…,"model_version":…,"outputs":[ */
static mu_status write_start(const struct render *r) {
  struct buffer *json = r->json;
  const char *id = r->request->id, *name = r->model->name;
  const size_t id_size = strlen(id), name_size = strlen(name);
  const mu_status status = buffer_reserve(json, 128 + ESCAPED_MAX * (id_size + name_size));
  if (status != MU_OK) return no_room(r, status);
  buffer_putc(json, '{');
  if (id_size > 0) {
    buffer_puts(json, "\"id\":");
    json_write_string(json, id, id_size);
    buffer_putc(json, ',');
  }
  buffer_puts(json, "\"model_name\":");
  json_write_string(json, name, name_size);
  buffer_puts(json, ",\"model_version\":\"");
  json_write_i64(json, r->model->version);
  buffer_puts(json, "\",\"outputs\":[");
  return MU_OK;
}

static mu_status render(struct render *r, const struct infer_result *results, uint32_t n_results) {
  mu_status status = write_start(r);
  for (uint32_t i = 0; i < r->request->n_outputs && status == MU_OK; i++) {
    const struct request_output *output = &r->request->outputs[i];
    const struct infer_result *result;
    status = infer_find_result(r->model, r->request, i, results, n_results, &result, r->err);
    if (status != MU_OK) return status;
    status = i == 0 ? MU_OK : buffer_putc(r->json, ',');
    status = status == MU_OK ? write_output(r, output, result) : no_room(r, status);
  }
  if (status != MU_OK) return status;
  status = buffer_append(r->json, "]}", 2);
  return status == MU_OK ? place_classes(r) : no_room(r, status);
}

mu_status rest_infer_render(const struct model *model, const struct request *request,
                            const struct infer_result *results, uint32_t n_results, struct buffer *json,
                            struct iovec *binary, uint32_t *ret_n_binary, mu_error *err) {
  struct render r = {.model = model, .request = request, .json = json, .binary = binary, .err = err};
  buffer_init(&r.classes, json->limit);
  const mu_status status = render(&r, results, n_results);
  buffer_free(&r.classes);
  if (status == MU_OK) *ret_n_binary = r.n_binary;
  return status;
}
