/*
 * Triton's trace extension: which requests are traced, what is known of such a one, and where that goes.
 *
 *   trace.c        settings (those of the start, global ones, those of single models) and the traces of requests
 *   trace_file.c   what is written: collected in memory, written by a thread of libuv's pool, one piece at a time
 *
 * The gateway opens no file to write: the supervisor does (CONTROL_TRACE_OPEN) and gives the descriptor. What cannot be
 * written in time is dropped and counted: no request waits for a disk.
 */
#ifndef GATEWAY_TRACE_H
#define GATEWAY_TRACE_H

#include "api/trace_settings.h"
#include "base/list.h"
#include "control/message.h"
#include "net/loop.h"

#include <pthread.h>
#include <stdatomic.h>

struct call;
struct core;

/* In the order in which they come. Named as Triton names them, the first and the last two by the protocol. */
enum trace_point {
  TRACE_RECV_START,
  TRACE_RECV_END,
  TRACE_REQUEST_START,
  TRACE_QUEUE_START,
  TRACE_COMPUTE_START,
  TRACE_COMPUTE_INPUT_END,
  TRACE_COMPUTE_OUTPUT_START,
  TRACE_COMPUTE_END,
  TRACE_RESPONSE_COMPLETE, /* the gateway has the result */
  TRACE_REQUEST_END,
  TRACE_SEND_START,
  TRACE_SEND_END,
  TRACE_POINTS
};

/* What a protocol calls the points that are its own; of a struct carrier (NULL: HTTP). */
struct trace_names {
  const char *recv_start, *recv_end, *send_start, *send_end;
};
extern const struct trace_names trace_names_http, trace_names_grpc;

/* Of one request that was chosen. The call's loop; the points of its run under the core lock. */
struct trace {
  uint64_t id;
  uint64_t ns[TRACE_POINTS]; /* clock_now_ns; 0: did not happen */
};

/* Settings in force, and which of their requests is the next one. */
struct trace_setting {
  struct trace_settings now;
  unsigned specified; /* enum trace_field: the others follow what stands above */
  uint64_t requests;
  struct buffer collected; /* with log_frequency: what goes into the next file */
  uint32_t n_collected;
};

struct trace_chunk;

struct tracer {
  _Atomic bool on;      /* some request may be chosen: all that a request looks at while nothing is traced */
  pthread_mutex_t lock; /* the innermost: nobody takes another one with it held */
  struct trace_settings initial;
  const char *file;
  struct trace_setting global;
  struct list models; /* struct trace_model: those that have settings of their own */
  size_t n_models;
  uint64_t last_id;
  struct buffer filling; /* without log_frequency: what goes into the file next */
  uint32_t n_filling;
  struct list queue;         /* struct trace_chunk: to be written, oldest first */
  uint64_t held;             /* bytes in all of these */
  uint64_t written, dropped; /* traces */
  struct net_post pump_post;
  bool pump_posted;
  /* loop 0 */
  int file_fd, numbered_fd; /* -1: not there */
  bool asked;               /* the supervisor, for one of them */
  bool said_failed;         /* that something cannot be written was logged */
  struct trace_chunk *writing;
  uv_work_t work;
  uint32_t ticks;
  void (*closed)(struct core *core); /* NULL: it is not being closed */
};

/* MU_INVALID …: as trace_config_read. */
MUST_CHECK mu_status tracer_init(struct tracer *tracer, const struct options *options, mu_error *err);

/*
 * What a client asks for. model: NULL for the global settings; the change may be empty, to look. *ret_file is static.
 * MU_INVALID: no such model, or settings that cannot trace; MU_UNAVAILABLE, MU_NO_MEMORY. Any loop; who changes
 * something has asked gateway/admin.h.
 */
MUST_CHECK mu_status gateway_change_trace(struct core *core, const char *model, const struct trace_change *change,
                                          struct trace_settings *ret_settings, const char **ret_file, mu_error *err);

/* ---- of a request: its loop -------------------------------------------------------------------------------------- */

/* The call knows its model: chosen or not. Call only while tracer.on. */
void trace_begin(struct call *call);
/* It goes: what is known of it is collected. Call only where call->trace is set. */
void trace_end(struct call *call);

/* ---- trace_file.c ------------------------------------------------------------------------------------------------ */

/* Appends one trace, as text that ends with ",\n", to what is collected. setting: of its model. Locked (tracer). */
void trace_collect(struct core *core, struct trace_setting *setting, const struct buffer *text);
/* What was collected for files that are counted goes, whole or not. Locked (tracer). */
void trace_flush(struct core *core, struct trace_setting *setting);

/* The same for all settings: trace.c. */
void trace_flush_all(struct core *core);

/* CONTROL_TRACE_FILE; takes the descriptor over. Loop 0. */
void trace_file_take(struct core *core, struct control_packet *packet);
/* Now and then, on loop 0. */
void trace_tick(struct core *core);
/* Writes all that there is, then calls closed on loop 0, which may be before it returns. */
void trace_close(struct core *core, void (*closed)(struct core *core));

#endif
