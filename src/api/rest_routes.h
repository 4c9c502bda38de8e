/*
 * The HTTP surface as one table: method and path to endpoint. Pure.
 */
#ifndef API_REST_ROUTES_H
#define API_REST_ROUTES_H

#include "base/status.h"

enum endpoint {
  ENDPOINT_NONE,               /* unknown path (404), or one of Triton's that muster does not serve (501) */
  ENDPOINT_SERVER_LIVE,        /* GET v2/health/live */
  ENDPOINT_SERVER_READY,       /* GET v2/health/ready */
  ENDPOINT_SERVER_METADATA,    /* GET v2 */
  ENDPOINT_MODEL_METADATA,     /* GET v2/models/M[/versions/V] */
  ENDPOINT_MODEL_READY,        /* GET v2/models/M[/versions/V]/ready */
  ENDPOINT_MODEL_CONFIG,       /* GET v2/models/M[/versions/V]/config */
  ENDPOINT_MODEL_STATS,        /* GET v2/models/M[/versions/V]/stats and v2/models/stats */
  ENDPOINT_MODEL_INFER,        /* POST v2/models/M[/versions/V]/infer */
  ENDPOINT_STREAM,             /* GET v2/models/M[/versions/V]/stream and v2/stream: a WebSocket */
  ENDPOINT_REPOSITORY_INDEX,   /* POST v2/repository/index */
  ENDPOINT_MODEL_LOAD,         /* POST v2/repository/models/M/load */
  ENDPOINT_MODEL_UNLOAD,       /* POST v2/repository/models/M/unload */
  ENDPOINT_REGION_STATUS,      /* GET v2/systemsharedmemory[/region/R]/status */
  ENDPOINT_REGION_REGISTER,    /* POST v2/systemsharedmemory/region/R/register */
  ENDPOINT_REGION_UNREGISTER,  /* POST v2/systemsharedmemory[/region/R]/unregister */
  ENDPOINT_CUDA_REGION_STATUS, /* the same for CUDA shared memory, of which there is none */
  ENDPOINT_CUDA_REGION_REGISTER,
  ENDPOINT_CUDA_REGION_UNREGISTER,
  ENDPOINT_TRACE_SETTING, /* GET and POST v2[/models/M]/trace/setting */
  ENDPOINT_LOGGING,       /* GET and POST v2/logging */
  ENDPOINT_STREAM_DEMO,   /* GET stream-demo */
  ENDPOINT_HEALTH,        /* GET health */
  ENDPOINT_STATS,         /* GET stats */
  ENDPOINT_METRICS,       /* GET metrics */
  ENDPOINT_COUNT
};

struct route {
  enum endpoint endpoint;
  char model[256];   /* percent-decoded; "" where the path has none */
  char region[256];  /* the same, of shared memory */
  int64_t version;   /* -1 where the path has none */
  bool guarded;      /* it changes the server: --admin says who may */
  const char *allow; /* for 405: the methods that the path takes, "GET, HEAD"; else NULL */
};

/*
 * HEAD is taken wherever GET is; one slash at the end of the path is passed over. ret_route is filled in any case (with
 * ENDPOINT_NONE on failure). MU_OK; MU_NOT_FOUND: no such path (404); MU_UNSUPPORTED: wrong method (405,
 * ret_route->allow is set), or a path of Triton's that muster does not serve (501, allow is NULL, the message names the
 * feature); MU_INVALID: bad escape, model or region name that cannot be one, version that is no positive number (400).
 */
MUST_CHECK mu_status route_find(const char *method, const char *path, struct route *ret_route, mu_error *err);

/* The HTTP status for a failed call: INVALID 400, NOT_FOUND 404, EXISTS 409, UNAVAILABLE 503, UNSUPPORTED 501,
 * TOO_LARGE 413, TIMEOUT and NO_MEMORY 503 (as Triton: UNAVAILABLE), CANCELED 499, the rest 500. From one table. */
int http_status_of(mu_status status);

#endif
