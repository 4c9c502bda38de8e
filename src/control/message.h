/*
 * What the supervisor and its children say to each other: typed, versioned messages over a SOCK_SEQPACKET socket pair,
 * one message a packet, file descriptors beside it. Described field by field in one table (message.c), from which
 * encoding, decoding and checking follow; a packet that is short, long, of another version or of an unknown type is
 * MU_INVALID.
 *
 * Pointers in a received message point into the control_packet it came in. A NULL string is sent as "".
 */
#ifndef CONTROL_MESSAGE_H
#define CONTROL_MESSAGE_H

#include "base/buffer.h"
#include "base/log.h"
#include "base/status.h"
#include "control/fields.h"

enum { CONTROL_VERSION = 8, CONTROL_FDS_MAX = 64, CONTROL_PACKET_MAX = 1 << 20 };

enum control_type {
  /* supervisor -> gateway */
  CONTROL_GATEWAY_START = 1, /* + fds: n_http sockets, n_grpc, n_metrics */
  CONTROL_MODEL_SET,         /* a model appears, or its state changes */
  CONTROL_MODEL_LOADED,      /* what a worker found it to be */
  CONTROL_MODEL_REMOVE,      /* no new request gets it; those that have it end as usual, then MODEL_REMOVED */
  CONTROL_WORKER_ATTACH,     /* a warm worker; + fd: the gateway's end of the channel socket */
  CONTROL_WORKER_RETIRE,     /* it gets no new batch; those that it has end as usual, then WORKER_RETIRED */
  CONTROL_WORKER_GONE,       /* its death is confirmed */
  CONTROL_MARK,              /* MARKED is the answer, when everything said before it holds */
  CONTROL_GATEWAY_LISTEN,    /* it knows all that it has to; + fd: where a gateway that hands over gives connections */
  CONTROL_HAND_OVER,         /* the next gateway listens; + fd: where connections are given to it */
  CONTROL_DRAIN,
  CONTROL_REGION_SET,         /* shared memory of a client can be used by its name; + fd: the file */
  CONTROL_REGION_REMOVE,      /* no new request finds it */
  CONTROL_REGION_CHANGED,     /* the answer to REGION_REGISTER and REGION_UNREGISTER, behind what they have changed */
  CONTROL_MODEL_NOTE,         /* a model that is in the repository, or was served, and is not served */
  CONTROL_MODEL_CONTROL_DONE, /* what became of MODEL_LOAD, MODEL_UNLOAD, MODEL_INDEX */
  CONTROL_TRACE_FILE,         /* + fd: where traces go; without: error says why not */
  /* gateway -> supervisor */
  CONTROL_GATEWAY_READY,   /* listening */
  CONTROL_WORKER_ATTACHED, /* the handshake is over, requests can go there */
  CONTROL_WORKER_HUNG,     /* exceeded max_execution: kill it, it is to blame */
  CONTROL_WORKER_BROKEN,   /* wrote nonsense into shared memory, or the handshake failed: kill it */
  CONTROL_WORKER_RETIRED,  /* it holds no request any more */
  CONTROL_MODEL_REMOVED,   /* no request has it any more: its workers may leave, and its memory goes with them */
  CONTROL_MARKED,
  CONTROL_REGION_REGISTER,
  CONTROL_REGION_UNREGISTER,
  CONTROL_DRAINED,      /* nothing left in flight, listeners closed */
  CONTROL_MODEL_LOAD,   /* a client asks for it; + fds: the model files that came along; MODEL_CONTROL_DONE answers */
  CONTROL_MODEL_UNLOAD, /* the same */
  CONTROL_MODEL_INDEX,  /* a client asks which models there are: MODEL_NOTEs of what is new, then MODEL_CONTROL_DONE */
  CONTROL_TRACE_OPEN,   /* it has traces to write: TRACE_FILE is the answer */
  /* gateway -> the next gateway */
  CONTROL_CONNECTION, /* + fd: a connection that is between two requests */
  /* supervisor -> worker */
  CONTROL_WORKER_START, /* + fds as it says: the model file, the simulated GPU */
  CONTROL_WORKER_PEER,  /* a gateway wants to attach; + fd: the worker's end of the channel socket */
  CONTROL_STOP,         /* leave */
  /* supervisor -> both, and gateway -> supervisor: a client has changed them */
  CONTROL_LOG_SETTINGS,
  /* supervisor -> both */
  CONTROL_OPTIONS, /* settings have changed: those that a reload can change hold from here on */
  /* worker -> supervisor */
  CONTROL_LOADED,          /* metadata; warm-up follows */
  CONTROL_READY,           /* warm */
  CONTROL_FAILED,          /* cannot serve this model; the worker leaves by itself */
  CONTROL_WORKER_BACKENDS, /* of a remote model: how they are */
  /* supervisor -> fleet */
  CONTROL_FLEET_START,
  /* fleet -> supervisor */
  CONTROL_FLEET_INVENTORY, /* what GPUs there are, and how they do: at first and then every now and then */
  CONTROL_FLEET_ALIVE,     /* a sign of life, also while NVML does not come back from a call */
  CONTROL_FLEET_EVENT,     /* a GPU has reported a fault */
  /* supervisor -> gateway */
  CONTROL_GPUS, /* how they are, and what was decided about them */
  /* supervisor -> keeper of an MPS daemon (mps/) */
  CONTROL_MPS_START,
  CONTROL_MPS_QUERY,     /* whom does it serve? MPS_REPORT with this serial or a later one answers */
  CONTROL_MPS_TERMINATE, /* that client's work is ended; MPS_TERMINATED follows, also where it could not be */
  /* keeper of an MPS daemon -> supervisor */
  CONTROL_MPS_REPORT, /* at first when the daemon answers, then every now and then; its last words, too */
  CONTROL_MPS_TERMINATED,
  CONTROL_TYPE_COUNT
};

struct control_gateway_start {
  struct control_bytes options; /* options_encode */
  uint32_t n_http, n_grpc;      /* sockets: one for each loop, or none */
  uint32_t n_metrics;           /* 1 or none */
};
struct control_model_set {
  uint32_t model; /* the supervisor's number: every generation of a model version has its own, never reused */
  bool listed;    /* requests find it by name and version, instead of the one that was found so before */
  const char *name;
  int64_t version;
  const char *folder;
  struct control_bytes config; /* config.pbtxt text */
  uint32_t state;              /* enum model_state */
  const char *reason;
  /* effective options for this model (config/options.h) */
  bool batching;
  bool round_robin;
  uint32_t max_queue_requests;
  uint64_t max_queue_bytes;
  int64_t max_queue_delay_us;  /* -1: learned */
  uint64_t max_batch_wait_ns;  /* upper bound of the learned wait */
  uint64_t max_execution_ns;   /* 0: learned */
  uint64_t first_execution_ns; /* of the first run of a shape */
};
struct control_model_number { /* MODEL_REMOVE, MODEL_REMOVED */
  uint32_t model;
};
struct control_model_loaded {
  uint32_t model;
  struct control_bytes metadata; /* model_metadata_encode */
  bool was_ready;                /* it has taken requests before: they may wait for a worker */
  uint32_t batch_tokens;         /* of its device, that one batch takes */
};
struct control_worker_attach {
  uint32_t worker; /* the supervisor's number, never reused */
  uint32_t model;
  uint32_t device;        /* the supervisor's number of the device */
  uint32_t device_tokens; /* of the device; same in every message about it */
  uint32_t batch_tokens;  /* that one batch of this worker takes */
  uint32_t lanes;         /* instances in the worker */
  uint64_t epoch;
  const char *device_name; /* "cpu", "gpu:0" */
  const char *gpu_uuid;    /* "": it is on none */
  int32_t pid;
  uint64_t load_ns; /* from its start until it was warm */
};
struct control_worker_retire {
  uint32_t worker;
  uint64_t epoch;
};
struct control_worker_gone {
  uint32_t worker;
  uint64_t epoch;
  bool blamed;     /* the worker caused its death itself */
  const char *why; /* "killed by signal 11 (Segmentation fault)" */
};
struct control_mark { /* MARK, MARKED */
  uint64_t serial;
};
struct control_model_load {
  uint64_t serial; /* the gateway's, for the answer */
  const char *name;
  struct control_bytes config;   /* text of a configuration, instead of that of the repository; none where empty */
  struct control_bytes versions; /* int64_t each: those of the descriptors, in their order */
};
struct control_model_unload {
  uint64_t serial;
  const char *name;
};
struct control_model_index {
  uint64_t serial;
};
struct control_model_note {
  const char *name;
  int64_t version; /* 0: nothing more is known than the name */
  bool kept;       /* false: no longer to be listed */
  const char *reason;
};
struct control_model_control_done {
  uint64_t serial;
  int32_t status; /* mu_status */
  const char *text;
};
struct control_options {
  struct control_bytes options; /* options_encode */
};
struct control_log_settings { /* struct log_settings */
  bool error, warning, info, iso8601;
  uint32_t verbose_level;
};
struct control_trace_open {
  bool numbered; /* the next of the files that have numbers, not the common one */
};
struct control_trace_file {
  bool numbered;
  const char *error;
};
struct control_drain {
  uint64_t drain_delay_ns; /* readiness is down, everything still served */
  uint64_t deadline_ns;    /* absolute: what is in flight then is cut */
};
struct control_hand_over {
  uint64_t deadline_ns; /* absolute: what is in flight then is cut */
};
/* A region is shared memory of a client: a part of a file in /dev/shm, under a name that requests use. */
enum { REGION_NAME_MAX = 255, REGION_KEY_MAX = 255, REGIONS_MAX = 4096 };
struct control_region_register {
  uint64_t serial; /* the gateway's, for the answer */
  const char *name, *key;
  uint64_t offset, byte_size;
};
struct control_region_unregister {
  uint64_t serial;
  const char *name; /* "": all */
};
struct control_region_set {
  const char *name, *key;
  uint64_t offset, byte_size;
  bool writable; /* the descriptor */
};
struct control_region_remove {
  const char *name;
};
struct control_region_changed {
  uint64_t serial;
  int32_t status; /* mu_status; not MU_OK: nothing has changed, and why */
  const char *why;
};
struct control_connection {
  bool metrics; /* it came in on the metrics port */
};
struct control_worker_event { /* WORKER_ATTACHED, WORKER_HUNG, WORKER_BROKEN, WORKER_RETIRED */
  uint32_t worker;
  uint64_t epoch;
  const char *why;
};
struct control_worker_start {
  uint32_t worker, model;
  const char *name;
  int64_t version;
  const char *path;             /* of the model file; "" for an engine that needs none */
  const char *folder;           /* of the model */
  struct control_bytes config;  /* config.pbtxt text */
  struct control_bytes options; /* options_encode */
  const char *engine;           /* "onnxruntime", "sim" */
  const char *device;           /* "cpu", "gpu:…" */
  uint32_t threads;             /* of one run */
  uint32_t instances;
  uint32_t max_batch; /* default where the model does not say */
  const char *cores;  /* of the CPU, on which it runs: "0-7,16-23"; "": not pinned */
  bool has_file;      /* + fd: the model file, as path names another one by now */
  bool has_sim_gpu;   /* + fd: the memory of the GPU, which is simulated */
  /* Not sent: the worker's number of the latter, as text; NULL: none. */
  const char *sim_gpu;
};
struct control_worker_peer {
  uint64_t epoch;
};
struct control_failed {
  int32_t status; /* mu_status */
  const char *message;
};
struct control_loaded {
  struct control_bytes metadata;
};
struct control_fleet_start {
  struct control_bytes options; /* options_encode */
};
struct control_fleet_inventory {
  int32_t status;                 /* mu_status; not MU_OK: there is no NVML, the inventory says why, and it leaves */
  struct control_bytes inventory; /* gpu_inventory_to_json */
};
struct control_fleet_alive {
  uint64_t call_ns; /* how long it has been in a call of NVML; 0: it is in none */
  const char *call; /* which one, where that is known */
  bool opening;     /* for the first time: the driver may have to wake the GPUs */
};
struct control_fleet_event {
  const char *uuid; /* "" : the driver does not say which GPU */
  uint64_t xid;     /* 0: an ECC error without one */
};
struct control_gpus {
  struct control_bytes inventory; /* gpu_inventory_to_json; none where the readings are old */
  struct control_bytes state;     /* {"fleet": {…}, "gpus": [{…}]}: supervisor/gpus.h */
};
struct control_mps_start {
  const char *binary;  /* the control program: a path, or a name that is searched in PATH */
  const char *uuid;    /* of the GPU */
  uint64_t timeout_ns; /* of one command */
};
struct control_mps_query {
  uint64_t serial;
};
/* MPS_TERMINATE, MPS_TERMINATED */
struct control_mps_terminate {
  int32_t client; /* process */
};
struct control_mps_report {
  uint64_t serial;     /* of the last question before */
  bool answering;      /* false: nothing is known of servers, error says why */
  int32_t daemon;      /* its process; 0: it has ended */
  const char *folder;  /* where the daemon's pipe and log folders are: FOLDER/pipe */
  uint32_t percentage; /* of active threads, by default; 0: not known */
  const char *error;
  struct control_bytes servers; /* JSON: [{"pid": N, "clients": [N, …]}, …] */
};

struct control_worker_backends {
  struct control_bytes json; /* an array, of the engine's making */
};

/* A received message. */
struct control_packet {
  enum control_type type;
  union {
    struct control_gateway_start gateway_start;
    struct control_model_set model_set;
    struct control_model_loaded model_loaded;
    struct control_model_number model_number;
    struct control_worker_attach worker_attach;
    struct control_worker_retire worker_retire;
    struct control_worker_gone worker_gone;
    struct control_mark mark;
    struct control_options options;
    struct control_log_settings log_settings;
    struct control_trace_open trace_open;
    struct control_trace_file trace_file;
    struct control_drain drain;
    struct control_hand_over hand_over;
    struct control_connection connection;
    struct control_region_register region_register;
    struct control_region_unregister region_unregister;
    struct control_region_set region_set;
    struct control_region_remove region_remove;
    struct control_region_changed region_changed;
    struct control_worker_event worker_event;
    struct control_worker_start worker_start;
    struct control_worker_peer worker_peer;
    struct control_failed failed;
    struct control_loaded loaded;
    struct control_worker_backends worker_backends;
    struct control_model_load model_load;
    struct control_model_unload model_unload;
    struct control_model_index model_index;
    struct control_model_note model_note;
    struct control_model_control_done model_control_done;
    struct control_fleet_start fleet_start;
    struct control_fleet_inventory fleet_inventory;
    struct control_fleet_alive fleet_alive;
    struct control_fleet_event fleet_event;
    struct control_gpus gpus;
    struct control_mps_start mps_start;
    struct control_mps_query mps_query;
    struct control_mps_terminate mps_terminate;
    struct control_mps_report mps_report;
  };
  int fds[CONTROL_FDS_MAX]; /* CLOEXEC; those still >= 0 are closed by control_packet_free */
  size_t n_fds;
  void *memory;
};
void control_packet_free(struct control_packet *packet); /* accepts a zeroed one with n_fds 0 */

/* message points at the struct of that type (NULL for types without one). Appends to out. MU_INVALID: unknown type, or
 * a string or run of bytes without memory; MU_TOO_LARGE: past CONTROL_PACKET_MAX; MU_NO_MEMORY. */
MUST_CHECK mu_status control_encode(enum control_type type, const void *message, struct buffer *out);
/* The bytes are copied; the packet has no fds. MU_INVALID, MU_NO_MEMORY. */
MUST_CHECK mu_status control_decode(const void *bytes, size_t size, struct control_packet *ret_packet);

/* The same without a copy: takes bytes, which are malloc'ed, over in every case. Needs no memory. MU_INVALID. */
MUST_CHECK mu_status control_decode_taken(void *bytes, size_t size, struct control_packet *ret_packet);

struct control_log_settings control_log_settings_of(const struct log_settings *settings);
struct log_settings control_log_settings_take(const struct control_log_settings *message);

/* "WORKER_ATTACH"; "UNKNOWN" for what is none. */
const char *control_type_name(enum control_type type);

/* Whether a message of that type goes with n_fds file descriptors. */
bool control_type_takes(enum control_type type, size_t n_fds);

/* A connected pair for control messages, CLOEXEC, blocking. A packet must fit the sender's socket buffer: it is made as
 * large as the machine allows. [0] is the supervisor's end, [1] the child's. MU_IO. */
MUST_CHECK mu_status control_socket_pair(int ret_sockets[2], mu_error *err);

/* Blocking send of one message; fds stay the caller's. MU_CANCELED: the peer is gone; MU_TOO_LARGE: it does not fit the
 * socket's buffer; MU_INVALID: as control_encode, or fds that do not belong to this type; MU_UNAVAILABLE: no room now
 * (non-blocking socket); MU_NO_MEMORY; MU_IO. For workers. */
MUST_CHECK mu_status control_send(int socket, enum control_type type, const void *message, const int *fds, size_t n_fds,
                                  mu_error *err);
/* The same with a message that is encoded already. */
MUST_CHECK mu_status control_send_encoded(int socket, const struct buffer *encoded, const int *fds, size_t n_fds,
                                          mu_error *err);

/* MU_UNAVAILABLE: nothing there (non-blocking socket); MU_CANCELED: the peer is gone; MU_INVALID: not a valid message,
 * or not with the fds that belong to it (fds that came along are closed); MU_NO_MEMORY: the message is still there, to
 * be received when there is memory; MU_IO. A process that has no room for all of the fds (EMFILE) gets the message
 * without any: n_fds is 0 then, whatever the type wants. */
MUST_CHECK mu_status control_receive(int socket, struct control_packet *ret_packet, mu_error *err);

#endif
