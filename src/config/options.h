/*
 * Every setting of `muster serve`, in one struct, described by one table (options.c): name, type, range, default, help,
 * whether a reload changes it, environment names, tritonserver's name for it. Flags, muster.yaml, the environment,
 * `--help`, `muster config` and docs/options.md all come from the table. Later wins: default, muster.yaml, environment,
 * flag.
 */
#ifndef CONFIG_OPTIONS_H
#define CONFIG_OPTIONS_H

#include "base/arena.h"
#include "base/buffer.h"
#include "base/log.h"
#include "base/status.h"

enum option_source { SOURCE_DEFAULT, SOURCE_FILE, SOURCE_ENVIRONMENT, SOURCE_FLAG };

struct option_list {
  const char **items;
  size_t n;
};

enum control_mode { CONTROL_MODE_NONE, CONTROL_MODE_POLL, CONTROL_MODE_EXPLICIT };
enum isolation { ISOLATION_AUTO, ISOLATION_PROCESS, ISOLATION_DEVICE };
enum tristate { TRISTATE_AUTO, TRISTATE_TRUE, TRISTATE_FALSE };
enum balance { BALANCE_QUEUE_DEPTH, BALANCE_ROUND_ROBIN };
enum mps_mode { MPS_MODE_AUTO, MPS_MODE_ON, MPS_MODE_OFF };
enum admin { ADMIN_LOCAL, ADMIN_ALL, ADMIN_OFF };

/* Settings that a model may have of its own: `models:` in muster.yaml. What is unset (a number MODEL_OPTION_UNSET, a
 * text NULL) falls back to the server's: options_for_model. */
#define MODEL_OPTION_UNSET INT64_MIN
struct model_options {
  const char *name;
  int64_t processes, instances, threads, max_batch_size, max_queue_size, max_queue_bytes;
  int64_t max_queue_delay_us, max_execution_ns;
  int64_t processes_per_gpu;  /* 0: as processes */
  int64_t gpu_memory;         /* bytes of one process on a GPU; 0: measured, until then estimated */
  int64_t mps_active_threads; /* percent of a GPU's, of one process; 0: no cap */
  const char *engine;
  const char *device;
};

struct options {
  /* what to serve */
  struct option_list models;      /* positional arguments and --model-repository, --model-store */
  int64_t model_control_mode;     /* enum control_mode */
  int64_t repository_poll_ns;     /* 0: never */
  struct option_list load_models; /* --load-model NAME, may repeat; "*" */
  /* listeners */
  const char *address;                                       /* of all listeners */
  const char *http_address, *metrics_address, *grpc_address; /* never "": where not set, the same as address */
  int64_t http_port, metrics_port, grpc_port;
  bool allow_http, allow_metrics, allow_grpc;
  struct option_list websocket_origins; /* of pages that may open streams, beside the server's own; "*": all */
  const char *control_socket;           /* path; "" : chosen from the HTTP port */
  int64_t gateway_threads;              /* 0: chosen from the cores */
  /* workers */
  int64_t processes, instances; /* per model; instances 0: chosen */
  int64_t threads;              /* of one run; 0: chosen from the cores */
  int64_t isolation;            /* enum isolation */
  const char *engine;           /* "auto" (by the file), "onnxruntime", "sim" */
  const char *device;           /* "auto", "cpu", "gpu:0" … */
  const char *nvml_library;     /* path or name; "" : libnvidia-ml.so.1 */
  int64_t nvml_timeout_ns;
  int64_t simulate_gpus;           /* 0: those of the machine */
  const char *onnxruntime_library; /* path of libonnxruntime.so; "" : searched */
  const char *gpus;                /* gpu/visible.h: "auto", "all", "none", "0,2-3", UUIDs */
  const char *gpu_ids;             /* indices into CUDA_VISIBLE_DEVICES (GPU_IDS); "" : all of it */
  int64_t processes_per_gpu;       /* 0: as processes */
  int64_t gpu_memory;              /* bytes of one process on a GPU; 0: measured, until then estimated */
  const char *measurements;        /* file of what was measured; "" : none */
  int64_t load_parallel;           /* workers that load at once, on each device; 0: chosen */
  int64_t mps;                     /* enum mps_mode */
  const char *mps_control_binary;  /* path, or a name that is searched in PATH */
  int64_t mps_timeout_ns;          /* of one command to a daemon */
  int64_t mps_active_threads;      /* percent, of one process; 0: no cap */
  /* batching and queues */
  bool enable_batching;
  int64_t max_batch_size;     /* of models that do not say; 0: no batching */
  int64_t max_queue_size;     /* requests waiting, per model */
  int64_t max_queue_bytes;    /* per model */
  int64_t max_queue_delay_us; /* -1: learned */
  int64_t max_batch_wait_ns;  /* upper bound of the learned wait (MAX_BATCH_WAIT_TIME, seconds) */
  int64_t balance;            /* enum balance (GPU_LOAD_BALANCE_STRATEGY) */
  int64_t cpu_slots;          /* batches that may run at once on the CPU; 0: cores / threads */
  /* time */
  int64_t default_request_timeout_ns;
  int64_t load_timeout_ns;
  int64_t max_execution_ns; /* 0: learned */
  int64_t drain_delay_ns;
  int64_t exit_timeout_ns; /* --exit-timeout-secs */
  int64_t idle_timeout_ns, head_timeout_ns;
  int64_t websocket_ping_ns;
  /* limits */
  int64_t body_limit;                /* bytes; 64 MiB */
  int64_t memory_budget;             /* bytes of arenas and staged bodies; 0: half of the machine's memory */
  int64_t input_arena, output_arena; /* bytes of address space, per model and per worker */
  int64_t max_connections;
  int64_t admin;                /* enum admin: who may load and unload models, and what else changes the server */
  int64_t stream_max_in_flight; /* messages of a stream without an answer */
  /* conduct */
  int64_t exit_on_error; /* enum tristate */
  bool strict_readiness;
  bool sandbox;
  int64_t log_verbose; /* > 0: verbose */
  bool log_info, log_warning, log_error;
  bool allow_cpu_metrics, allow_gpu_metrics;
  int64_t metrics_interval_ms;
  struct option_list metrics_config; /* SETTING=VALUE: metrics/metrics_config.h */
  struct option_list trace_config;   /* [MODE,]SETTING=VALUE: config/trace_config.h */
  int64_t log_format;                /* enum log_format */
  const char *config;                /* the file that was read; "" : none */

  struct model_options *model_options;
  size_t n_model_options;

  enum option_source *sources; /* by row of the table */
  const char **origins;        /* by row: "--http-port", "MUSTER_HTTP_PORT", "muster.yaml:3" */
  struct option_list warnings; /* what options_load accepted though it has no effect here; to be logged once */
  struct arena memory;
};

/* Defaults only. */
MUST_CHECK mu_status options_create(struct options **ret_options);
void options_free(struct options *options); /* accepts NULL */

/*
 * The whole way: defaults, then the file (--config FILE, else MUSTER_CONFIG, else ./muster.yaml where there is one;
 * --config= is no file), then the environment, then argv (without the program and the command). flags: --name value,
 * --name=value; booleans --name, --no-name, --name=false and tritonserver's `--name false`;
 *          "--" ends them; everything else is a model or a repository.
 *   environment: MUSTER_<NAME> and the compatible names of the table; an empty variable is one that is not set; lists
 *          are separated by commas.
 *   lists: a later source replaces the list of an earlier one, flags add up.
 * MU_INVALID: unknown flag, key or MUSTER_ variable (the message names the nearest right one), bad value (the message
 * names the option, the value, what is allowed and where it came from), settings that contradict each other.
 * MU_NOT_FOUND, MU_IO, MU_TOO_LARGE: the file. MU_NO_MEMORY.
 */
MUST_CHECK mu_status options_load(int argc, char **argv, char **environment, struct options **ret_options,
                                  mu_error *err);

/* Was the option (by the name of its flag, "http-port") set by anybody? */
bool options_is_set(const struct options *options, const char *name);

/* --log-verbose, --log-info, --log-warning, --log-error, and ISO8601 of --log-format. */
struct log_settings options_log_settings(const struct options *options);

/* The settings (without the warnings) as bytes for a child process, and back. Decoding checks everything: MU_INVALID.
 */
MUST_CHECK mu_status options_encode(const struct options *options, struct buffer *out);
MUST_CHECK mu_status options_decode(const void *bytes, size_t size, struct options **ret_options);

/* What holds for one model: its own settings over the server's, nothing unset. ENABLE_BATCHING=false holds over both.
 * Strings are borrowed from options and the argument. */
struct model_options options_for_model(const struct options *options, const char *model);

/* May a server that runs with `now` go on with `then`? MU_UNSUPPORTED: settings differ that only a start can change;
 * the message names them with both values. MU_NO_MEMORY. */
MUST_CHECK mu_status options_check_reload(const struct options *now, const struct options *then, mu_error *err);

/* Text of --help: groups, names, types, defaults, environment. */
MUST_CHECK mu_status options_print_help(struct buffer *out);
/* `muster config`: every effective value and its source, as a muster.yaml with comments; and as JSON (sizes in bytes,
 * times in seconds). */
MUST_CHECK mu_status options_print(const struct options *options, struct buffer *out);
MUST_CHECK mu_status options_print_json(const struct options *options, struct buffer *out);
/* docs/options.md. */
MUST_CHECK mu_status options_print_reference(struct buffer *out);

/* The candidate nearest to word (Damerau-Levenshtein, at most a third of its length off); NULL when none is near.
 * For flags, keys and commands. */
const char *nearest_word(const char *word, const char *const *candidates, size_t n);

#endif
