/* Produced outputs as clients get them: which one a request asked for, its shape, its classes. Pure. */
#ifndef API_INFER_VIEW_H
#define API_INFER_VIEW_H

#include "api/rest_infer.h" /* struct infer_result */

struct infer_view {
  const char *name;
  mu_tensor tensor; /* dims are the client's */
  uint64_t elements;
};

/* The result for the request's output number `position`. MU_INTERNAL: it was not produced. */
MUST_CHECK mu_status infer_find_result(const struct model *model, const struct request *request, uint32_t position,
                                       const struct infer_result *results, uint32_t n_results,
                                       const struct infer_result **ret_result, mu_error *err);

/* The tensor where it lies. MU_INTERNAL: its bytes are not its shape's, or cannot be reshaped. */
MUST_CHECK mu_status infer_view_tensor(const struct model *model, const struct infer_result *result,
                                       struct infer_view *ret_view, mu_error *err);

/* Its `count` highest classes as BYTES [rows, classes] (without the rows where the model does not batch), appended to
 * classes: the view's data is valid until that grows. As classification_write. */
MUST_CHECK mu_status infer_view_classes(const struct model *model, const struct request *request, uint32_t count,
                                        const struct infer_result *result, struct buffer *classes,
                                        struct infer_view *ret_view, mu_error *err);

#endif
