/*
 * ONNX Runtime's shared library, opened, with its function table and environment; and its failures as mu_status.
 * Each model has its own (the dynamic loader and ONNX Runtime count their users). Any thread.
 */
#ifndef ENGINE_ONNXRUNTIME_LIBRARY_H
#define ENGINE_ONNXRUNTIME_LIBRARY_H

#include <onnxruntime_c_api.h>

#include "base/status.h"

/* The interface version asked for: present in every library from 1.20 on. Nothing newer may be called. */
enum { ORT_LIBRARY_API = 20 };

struct ort_library {
  void *handle;
  const OrtApi *api;
  OrtEnv *env;
  char *version; /* "1.31.1" */
  char *folder;  /* where the library was found: its providers lie beside it */
};

/*
 * Opens the library at path, or the newest one in the folder path; NULL or "": beside the program, in what
 * script/bootstrap fetched, in the system's places. MU_NOT_FOUND (the message says where it looked and what helps),
 * MU_UNSUPPORTED (too old), MU_NO_MEMORY.
 */
MUST_CHECK mu_status ort_library_open(struct ort_library *library, const char *path, mu_error *err);
void ort_library_close(struct ort_library *library); /* accepts a zeroed one */

/* status (NULL: MU_OK) as mu_status, with `what` ("cannot load a.onnx") before its message. Releases status. */
MUST_CHECK mu_status ort_result(const struct ort_library *library, OrtStatus *status, const char *what, mu_error *err);

#endif
