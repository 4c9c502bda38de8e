/*
 * Triton's classification extension: an output's highest values as strings "value:index" or "value:index:label". Pure.
 */
#ifndef API_CLASSIFICATION_H
#define API_CLASSIFICATION_H

#include "base/buffer.h"
#include "model/model.h"

/*
 * Appends the `count` highest elements of each row of an output, highest first (equal ones by index, NaN last), to out
 * as BYTES elements in wire form. *ret_classes: how many a row has, at most its elements. Labels are those of the
 * output's label file. rows: how many the tensor's elements are to be divided into.
 * MU_UNSUPPORTED: BYTES; MU_INTERNAL: elements do not divide; MU_NO_MEMORY, MU_TOO_LARGE.
 */
MUST_CHECK mu_status classification_write(const struct model *model, uint32_t index, const mu_tensor *tensor,
                                          uint64_t rows, uint32_t count, struct buffer *out, uint64_t *ret_classes,
                                          mu_error *err);

#endif
