/*
 * One request at a time to a backend, over connections that are kept (libcurl): HTTP/1.1 or, for gRPC, HTTP/2 with
 * prior knowledge. Bounded in time and in what it takes of an answer; can be stopped. Owned by one thread, which makes
 * all calls but remote_transfer_stop.
 */
#ifndef ENGINE_REMOTE_REMOTE_TRANSFER_H
#define ENGINE_REMOTE_REMOTE_TRANSFER_H

#include "base/buffer.h"
#include "engine/remote/remote_body.h"

struct remote_transfer;

/* Where a backend is. */
struct remote_address {
  const char *url;  /* "http://127.0.0.1:8000": always a numeric address */
  const char *host; /* "Host: name:8000" */
};

/* Of the head of an answer. */
struct remote_head {
  int64_t json_size; /* Inference-Header-Content-Length; -1: none */
};

struct remote_call {
  const struct remote_address *address;
  const char *path;         /* "/v2/models/m/infer" */
  struct remote_body *body; /* NULL: GET */
  enum remote_protocol protocol;
  uint64_t deadline_ns;
  /* What reads a good answer (status 200): its beginning, the next bytes of its body, its end. Other than MU_OK:
   * nothing more of it is wanted, and the outcome is REMOTE_MALFORMED. begin may come again, when the answer does. */
  mu_status (*begin)(void *context, const struct remote_head *head, mu_error *err);
  mu_status (*take)(void *context, const char *data, size_t size, mu_error *err);
  mu_status (*finish)(void *context, mu_error *err); /* it is whole */
  void *context;
};

/* What became of a call. */
enum remote_end {
  REMOTE_ANSWERED,
  REMOTE_DECLINED,    /* the backend answered that it will not: status says why */
  REMOTE_REFUSED,     /* no connection: nobody is there */
  REMOTE_BROKEN,      /* the connection broke: there is no whole answer */
  REMOTE_MALFORMED,   /* take, or HTTP, could not make sense of the answer */
  REMOTE_LATE,        /* the deadline has passed */
  REMOTE_STOPPED,     /* remote_transfer_stop */
  REMOTE_FAILED_HERE, /* no memory, no descriptor: says nothing of the backend */
};

struct remote_outcome {
  enum remote_end end;
  bool elsewhere;   /* REMOTE_DECLINED: for a reason that another backend need not have */
  bool unfit;       /* REMOTE_DECLINED: for one that speaks against the backend: it cannot serve now */
  mu_status status; /* what it means to whoever waits; MU_OK: REMOTE_ANSWERED */
  mu_error error;   /* why, without the backend's name */
};

/* backends: how many connections are worth keeping. MU_NO_MEMORY, MU_IO. */
MUST_CHECK mu_status remote_transfer_create(size_t backends, struct remote_transfer **ret_transfer, mu_error *err);
void remote_transfer_free(struct remote_transfer *transfer); /* accepts NULL */

/* Makes the call and says how it ended. */
void remote_transfer_run(struct remote_transfer *transfer, const struct remote_call *call,
                         struct remote_outcome *ret_outcome);

/* Any thread: the call in progress, and those until remote_transfer_resume, end with REMOTE_STOPPED. */
void remote_transfer_stop(struct remote_transfer *transfer);
void remote_transfer_resume(struct remote_transfer *transfer);
/* Waits so long. false: stopped. */
bool remote_transfer_wait(struct remote_transfer *transfer, uint64_t ns);

#endif
