/* Between the files that answer what is no inference. On the loop of the call. */
#ifndef GATEWAY_ENDPOINTS_H
#define GATEWAY_ENDPOINTS_H

#include "gateway/call.h"

/* Answers with call->reply as JSON, or with the error. */
void endpoint_answer_document(struct call *call, mu_status status, const mu_error *err);
/* The same where there is nothing to say but that it has been done. */
void endpoint_answer_empty(struct call *call, mu_status status, const mu_error *err);

/* model_endpoints.c: loading, unloading, and the index; answered when the supervisor has spoken, or at once. */
void model_endpoint_load(struct call *call);
void model_endpoint_unload(struct call *call);
void model_endpoint_index(struct call *call);

/* region_endpoints.c */
void endpoint_region_status(struct call *call);
void endpoint_region_change(struct call *call); /* register, unregister: answers later */
void endpoint_cuda_region_status(struct call *call);
void endpoint_cuda_region_register(struct call *call);
void endpoint_cuda_region_unregister(struct call *call);

#endif
