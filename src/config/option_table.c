#include "config/option_table.h"

#include "base/clock.h"

#include <ctype.h>
#include <strings.h>

static const struct option_word control_modes[] = {
    {"none", CONTROL_MODE_NONE}, {"poll", CONTROL_MODE_POLL}, {"explicit", CONTROL_MODE_EXPLICIT}, {0}};
static const struct option_word isolations[] = {
    {"auto", ISOLATION_AUTO}, {"process", ISOLATION_PROCESS}, {"device", ISOLATION_DEVICE}, {0}};
static const struct option_word tristates[] = {{"auto", TRISTATE_AUTO},   {"true", TRISTATE_TRUE},
                                               {"false", TRISTATE_FALSE}, {"1", TRISTATE_TRUE},
                                               {"0", TRISTATE_FALSE},     {"yes", TRISTATE_TRUE},
                                               {"no", TRISTATE_FALSE},    {"on", TRISTATE_TRUE},
                                               {"off", TRISTATE_FALSE},   {0}};
static const struct option_word mps_modes[] = {
    {"auto", MPS_MODE_AUTO}, {"on", MPS_MODE_ON}, {"off", MPS_MODE_OFF}, {0}};
static const struct option_word admins[] = {{"local", ADMIN_LOCAL}, {"all", ADMIN_ALL}, {"off", ADMIN_OFF}, {0}};
static const struct option_word balances[] = {
    {"queue-depth", BALANCE_QUEUE_DEPTH}, {"round-robin", BALANCE_ROUND_ROBIN}, {0}};
/* the last two are tritonserver's formats: its users get the format that fits where the log goes */
static const struct option_word log_formats[] = {{"auto", LOG_FORMAT_AUTO},       {"text", LOG_FORMAT_TEXT},
                                                 {"json", LOG_FORMAT_JSON},       {"default", LOG_FORMAT_AUTO},
                                                 {"ISO8601", LOG_FORMAT_ISO8601}, {0}};
static const struct option_word zero_is_auto[] = {{"auto", 0}, {0}};
static const struct option_word zero_is_none[] = {{"none", 0}, {0}};
static const struct option_word zero_is_learned[] = {{"learned", 0}, {0}};
static const struct option_word negative_is_learned[] = {{"learned", -1}, {0}};

#define SERVE "What to serve"
#define LISTEN "Listeners"
#define WORKERS "Workers"
#define QUEUES "Batching and queues"
#define TIMES "Times"
#define LIMITS "Limits"
#define CONDUCT "Conduct and log"

#define AT(member) offsetof(struct options, member)
#define KIB INT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)
#define SECOND ((int64_t)NS_PER_S)
#define DAY (86400 * SECOND)

#define PORT(member, text) .type = OPTION_INT, .offset = AT(member), .max = 65535, .initial = (text)
#define BOOL(member, text) .type = OPTION_BOOL, .offset = AT(member), .initial = (text)
#define TEXT(member, text) .type = OPTION_STRING, .offset = AT(member), .initial = (text)
#define WORDS(member, list, text) .type = OPTION_ENUM, .offset = AT(member), .words = (list), .initial = (text)
#define COUNT(member, least, most, text) \
  .type = OPTION_INT, .offset = AT(member), .min = (least), .max = (most), .initial = (text)
#define SIZE(member, least, most, text) \
  .type = OPTION_BYTES, .offset = AT(member), .min = (least), .max = (most), .initial = (text)
/* stored in nanoseconds; a bare number is seconds */
#define TIME(member, least, most, text)                                                                     \
  .type = OPTION_DURATION, .offset = AT(member), .min = (least), .max = (most), .scale = 1, .unit = SECOND, \
  .initial = (text)

static const struct option_row rows[] = {
    {"model-repository",
     {"model-store"},
     .group = SERVE,
     .reloadable = true,
     .type = OPTION_LIST,
     .offset = AT(models),
     .placeholder = "PATH",
     .help = "A model repository (folders NAME/VERSION/model.onnx), a folder of NAME.onnx files, "
             "or a model file. May repeat; the same as an argument without a flag."},
    {"model-control-mode", .group = SERVE, WORDS(model_control_mode, control_modes, "none"),
     .help =
         "When models are loaded: all at start (none), also when the repository changes (poll), or only those asked "
         "for (explicit)."},
    {"repository-poll-secs", .group = SERVE, TIME(repository_poll_ns, 0, DAY, "15s"),
     .help = "With --model-control-mode=poll: how often the repository is looked at; 0 is never."},
    {"load-model", .group = SERVE, .type = OPTION_LIST, .offset = AT(load_models), .placeholder = "NAME",
     .help = "With --model-control-mode=explicit: a model to load at start; * is all. May repeat."},
    {"config", .group = SERVE, .reloadable = true, TEXT(config, ""), .placeholder = "FILE", .not_in_file = true,
     .help =
         "The file of settings to read. Without it ./muster.yaml is read where there is one; --config= reads none."},

    {"address", .group = LISTEN, TEXT(address, "0.0.0.0"), .placeholder = "ADDRESS",
     .help = "Address of every listener that has none of its own. 0.0.0.0 is reachable from other machines; 127.0.0.1 "
             "is not."},
    {"allow-http", .group = LISTEN, BOOL(allow_http, "true"), .help = "Listen for HTTP."},
    {"http-address", .group = LISTEN, TEXT(http_address, ""), .placeholder = "ADDRESS", .help = "Address for HTTP."},
    {"http-port", .group = LISTEN, PORT(http_port, "8000"), .help = "Port for HTTP; 0 is any free one."},
    {"allow-grpc", .group = LISTEN, BOOL(allow_grpc, "true"), .help = "Listen on the port for gRPC."},
    {"grpc-address", .group = LISTEN, TEXT(grpc_address, ""), .placeholder = "ADDRESS", .help = "Address for gRPC."},
    {"grpc-port", .group = LISTEN, PORT(grpc_port, "8001"), .help = "Port for gRPC; 0 is any free one."},
    {"allow-metrics", .group = LISTEN, BOOL(allow_metrics, "true"), .help = "Listen for Prometheus."},
    {"metrics-address", .group = LISTEN, TEXT(metrics_address, ""), .placeholder = "ADDRESS",
     .help = "Address for Prometheus."},
    {"metrics-port", .group = LISTEN, PORT(metrics_port, "8002"), .help = "Port for Prometheus; 0 is any free one."},
    {"websocket-origins", .group = LISTEN, .type = OPTION_LIST, .offset = AT(websocket_origins),
     .placeholder = "ORIGIN",
     .help =
         "Origin of web pages that may open WebSocket streams (https://app.example), beside pages of this server; * "
         "is every page. May repeat. Clients that are no browsers send no origin and are not asked."},
    {"allow-cpu-metrics", .group = LISTEN, BOOL(allow_cpu_metrics, "true"),
     .help = "Metrics of the whole machine: nv_cpu_utilization, nv_cpu_memory_total_bytes, nv_cpu_memory_used_bytes."},
    {"allow-gpu-metrics", .group = LISTEN, BOOL(allow_gpu_metrics, "true"),
     .help = "Metrics of GPUs: nv_gpu_*, nv_energy_consumption, muster_gpu_*."},
    {"metrics-interval-ms", .group = LISTEN, COUNT(metrics_interval_ms, 1, 3600000, "2000"),
     .help =
         "How old a reading of the machine's figures may be, in milliseconds, when somebody asks for the metrics; and "
         "how often GPUs are read."},
    {"metrics-config", .group = LISTEN, .type = OPTION_LIST, .offset = AT(metrics_config),
     .placeholder = "SETTING=VALUE",
     .help = "Which metrics of times there are: counter_latencies (true), histogram_latencies (false), "
             "summary_latencies (false), summary_quantiles (0.5:0.05,0.9:0.01,0.95:0.001,0.99:0.001,0.999:0.001; the "
             "second number is read but not needed). May repeat."},
    {"control-socket", .group = LISTEN, TEXT(control_socket, ""), .placeholder = "PATH",
     .help = "Unix socket for muster status, reload, upgrade and stop. Without it PORT.sock (the HTTP port) in "
             "$XDG_RUNTIME_DIR/muster, or where that is not set in /tmp/muster-UID."},
    {"gateway-threads",
     {"http-thread-count"},
     .group = LISTEN,
     COUNT(gateway_threads, 0, 256, "auto"),
     .words = zero_is_auto,
     .help = "Threads that serve connections; auto fits the cores."},

    {"processes", .group = WORKERS, .reloadable = true, COUNT(processes, 1, 256, "1"),
     .help = "Worker processes of each model on each device that it runs on."},
    {"processes-per-gpu", .group = WORKERS, .reloadable = true, COUNT(processes_per_gpu, 0, 256, "auto"),
     .words = zero_is_auto, .help = "Worker processes of each model on each GPU that it runs on; auto is --processes."},
    {"instances", .group = WORKERS, .reloadable = true, COUNT(instances, 0, 256, "auto"), .words = zero_is_auto,
     .help = "Runs of a model that one worker process has at the same time; they share its weights."},
    {"threads", .group = WORKERS, .reloadable = true, COUNT(threads, 0, 1024, "auto"), .words = zero_is_auto,
     .help = "Threads of one run on the CPU; auto fits the cores."},
    {"isolation", .group = WORKERS, .reloadable = true, WORDS(isolation, isolations, "auto"),
     .help = "Own processes for each model (process), shared by the models of a device (device), or as memory allows "
             "(auto)."},
    {"engine", .group = WORKERS, .reloadable = true, TEXT(engine, "auto"), .placeholder = "NAME",
     .help = "What runs the models: onnxruntime, sim, or auto (by the model's files)."},
    {"device", .group = WORKERS, .reloadable = true, TEXT(device, "auto"), .placeholder = "DEVICE",
     .help = "Where models run: cpu, gpu (on every GPU), gpu:INDEX, gpu:UUID, or auto (as instance_group says; without "
             "one on every GPU that the engine can use, else on the CPU). A device that is not there is an error."},
    {"gpus", .group = WORKERS, .reloadable = true, TEXT(gpus, "auto"), .placeholder = "LIST",
     .help = "GPUs that the server may use: indices as nvidia-smi shows them (0,2-3; 0:1 is a MIG device), UUIDs or "
             "beginnings of them, all, none, or auto (what CUDA_VISIBLE_DEVICES and --gpu-ids leave)."},
    {"gpu-ids", .environment = "GPU_IDS", .group = WORKERS, .reloadable = true, TEXT(gpu_ids, ""),
     .placeholder = "LIST",
     .help = "Of the GPUs in CUDA_VISIBLE_DEVICES those with these places (0,1); all of them where not given. --gpus "
             "overrides it."},
    {"gpu-memory", .group = WORKERS, .reloadable = true, SIZE(gpu_memory, 0, 16 * TIB, "auto"), .words = zero_is_auto,
     .help = "What one worker process of a model takes on a GPU, for the check whether all fit; auto is what was "
             "measured, until then an estimate (muster plan placement)."},
    {"measurements", .group = WORKERS, TEXT(measurements, ""), .placeholder = "FILE",
     .help = "Where the server remembers what worker processes were seen to take on a GPU, for its next start; without "
             "it only for its life."},
    {"load-parallel", .group = WORKERS, .reloadable = true, COUNT(load_parallel, 0, 4096, "auto"),
     .words = zero_is_auto,
     .help = "Workers that load at the same time on each GPU, and on the CPU; auto is 4 on a GPU, and on the CPU twice "
             "the cores, at least 16."},
    {"mps", .group = WORKERS, WORDS(mps, mps_modes, "auto"),
     .help = "NVIDIA's Multi-Process Service, so that worker processes run on a GPU at the same time: on (wherever "
             "workers run), off, or auto (where several processes share a GPU that can, and its control program is "
             "there)."},
    {"mps-active-threads", .group = WORKERS, .reloadable = true, COUNT(mps_active_threads, 0, 100, "none"),
     .words = zero_is_none,
     .help = "With MPS: the most of a GPU's threads that one worker process may use, in percent. none is no cap: what "
             "one leaves idle the others use."},
    {"mps-control-binary", .group = WORKERS, TEXT(mps_control_binary, "nvidia-cuda-mps-control"), .placeholder = "FILE",
     .help = "MPS's control program; a name without a slash is searched in PATH."},
    {"mps-timeout", .group = WORKERS, TIME(mps_timeout_ns, 10 * NS_PER_MS, 3600 * SECOND, "5s"),
     .help = "How long an MPS daemon may take to answer a command, and half of what it may take to start; one that "
             "does not answer three times in a row is started again, and its workers with it."},
    {"nvml-library", .group = WORKERS, TEXT(nvml_library, ""), .placeholder = "FILE",
     .help = "NVIDIA's management library, which says what GPUs there are; libnvidia-ml.so.1 where not given."},
    {"nvml-timeout", .group = WORKERS, TIME(nvml_timeout_ns, 10 * NS_PER_MS, 3600 * SECOND, "10s"),
     .help = "A call of NVML that takes longer is reported and its process is started again; models on GPUs wait so "
             "long at start for what it says."},
    {"simulate-gpus", .group = WORKERS, COUNT(simulate_gpus, 0, 64, "0"),
     .help = "So many simulated GPUs instead of the machine's: only models of the engine sim run there."},
    {"onnxruntime-library", .group = WORKERS, .reloadable = true, TEXT(onnxruntime_library, ""), .placeholder = "FILE",
     .help = "The shared library of ONNX Runtime; searched for where not given."},

    {"enable-batching", .environment = "ENABLE_BATCHING", .group = QUEUES, .reloadable = true,
     BOOL(enable_batching, "true"), .help = "Run requests together. false is a largest batch of 1 for every model."},
    {"max-batch-size", .environment = "MAX_BATCH_SIZE", .group = QUEUES, .reloadable = true,
     COUNT(max_batch_size, 0, 1 << 20, "64"),
     .help = "Largest batch of models that do not say; 0 for models without a batch dimension."},
    {"max-queue-size", .group = QUEUES, .reloadable = true, COUNT(max_queue_size, 1, 1 << 24, "4096"),
     .help = "Requests that may wait for one model; more are refused with 503."},
    {"max-queue-bytes", .group = QUEUES, .reloadable = true, SIZE(max_queue_bytes, KIB, TIB, "512MiB"),
     .help = "Input bytes that may wait for one model; more are refused with 503."},
    {"max-queue-delay", .group = QUEUES, .reloadable = true, .type = OPTION_DURATION, .offset = AT(max_queue_delay_us),
     .max = 3600000000, .scale = NS_PER_US, .unit = NS_PER_US, .initial = "learned", .words = negative_is_learned,
     .help = "How long a request may wait for others to share its batch; learned waits only where measurements say "
             "that it raises throughput, or costs little and leaves nobody behind."},
    {"max-batch-wait", .environment = "MAX_BATCH_WAIT_TIME", .group = QUEUES, .reloadable = true,
     TIME(max_batch_wait_ns, 0, 3600 * SECOND, "10ms"), .help = "Upper bound of the learned wait; 0 switches it off."},
    {"load-balance", .environment = "GPU_LOAD_BALANCE_STRATEGY", .group = QUEUES, .reloadable = true,
     WORDS(balance, balances, "queue-depth"),
     .help = "Which instance gets a batch: an idle one, then the one with the least to do, both by the measured speed "
             "of their GPUs (queue-depth), or each in turn (round-robin)."},
    {"cpu-slots", .group = QUEUES, COUNT(cpu_slots, 0, 4096, "auto"), .words = zero_is_auto,
     .help = "Batches that may run on the CPU at the same time; auto is the cores over --threads."},

    {"default-request-timeout", .group = TIMES, .reloadable = true,
     TIME(default_request_timeout_ns, NS_PER_MS, DAY, "60s"),
     .help = "After this a request without a timeout of its own is answered with an error."},
    {"load-timeout", .group = TIMES, .reloadable = true, TIME(load_timeout_ns, NS_PER_MS, DAY, "600s"),
     .help = "Bound for loading, warm-up and the first run of a shape; past it the worker is restarted."},
    {"max-execution", .group = TIMES, .reloadable = true, TIME(max_execution_ns, 0, DAY, "learned"),
     .words = zero_is_learned,
     .help =
         "A batch that runs longer is hung and its worker is restarted; learned is 100 times the slow runs seen, at "
         "least a minute."},
    {"drain-delay", .group = TIMES, .reloadable = true, TIME(drain_delay_ns, 0, 3600 * SECOND, "0"),
     .help = "On stop: how long to serve on after readiness has gone down."},
    {"exit-timeout-secs",
     {"exit-timeout"},
     .group = TIMES,
     .reloadable = true,
     TIME(exit_timeout_ns, 0, DAY, "30s"),
     .help = "On stop: how long requests in flight may take to finish."},
    {"idle-timeout", .group = TIMES, TIME(idle_timeout_ns, NS_PER_MS, DAY, "75s"),
     .help = "A connection without a request is closed after this."},
    {"head-timeout", .group = TIMES, TIME(head_timeout_ns, NS_PER_MS, 3600 * SECOND, "30s"),
     .help = "The head of a request has to arrive within this. A message on a stream must bring 1 KiB/s meanwhile (at "
             "most 10s)."},
    {"websocket-ping", .group = TIMES, TIME(websocket_ping_ns, 10 * NS_PER_MS, 3600 * SECOND, "20s"),
     .help = "How often a silent WebSocket client is asked for a sign of life; without two in a row it is cut."},

    {"body-limit",
     {"http-max-input-size"},
     .group = LIMITS,
     SIZE(body_limit, KIB, 64 * GIB, "64MiB"),
     .help = "Largest body of a request, also after decompression."},
    {"memory-budget", .group = LIMITS, SIZE(memory_budget, 0, 1024 * TIB, "auto"), .words = zero_is_auto,
     .help = "Memory for tensors and bodies on their way; auto is half of the machine's."},
    {"input-arena", .group = LIMITS, SIZE(input_arena, MIB, TIB, "1GiB"),
     .help = "Address space for the inputs of each model; memory is taken only as it is used."},
    {"output-arena", .group = LIMITS, SIZE(output_arena, MIB, TIB, "1GiB"),
     .help = "Address space for the outputs of each worker; memory is taken only as it is used."},
    {"max-connections", .group = LIMITS, COUNT(max_connections, 1, 1 << 20, "10000"),
     .help = "Connections open at the same time."},
    {"admin", .group = LIMITS, WORDS(admin, admins, "local"),
     .help = "Whose requests may change the server (load and unload models, shared memory, trace and log settings): "
             "those of clients on this machine (local), everybody's (all), or nobody's (off)."},
    {"stream-max-in-flight", .group = LIMITS, COUNT(stream_max_in_flight, 1, 65536, "64"),
     .help = "Messages of one stream without an answer; at it no more is read. A stream may ask for less "
             "(max_in_flight)."},

    {"exit-on-error", .group = CONDUCT, .reloadable = true, .type = OPTION_TRISTATE, .offset = AT(exit_on_error),
     .words = tristates, .initial = "auto",
     .help = "Leave when a model cannot be loaded at start; auto is true for model files, false for a "
             "repository."},
    {"strict-readiness", .group = CONDUCT, .reloadable = true, BOOL(strict_readiness, "true"),
     .help = "Ready needs every model; false: any."},
    {"sandbox", .group = CONDUCT, BOOL(sandbox, "true"),
     .help = "Fence gateway and workers in: only the system calls that they need, no new privileges, hidden from other "
             "processes. off is for debuggers, core files and kernels that cannot."},
    {"trace-config", .group = CONDUCT, .type = OPTION_LIST, .offset = AT(trace_config), .placeholder = "SETTING=VALUE",
     .help = "Which requests are traced: level (OFF, TIMESTAMPS), rate (1000: every 1000th), count (-1: without end), "
             "mode (triton), triton,file (where to), triton,log-frequency (0: all in that file, else so many in each "
             "of FILE.0, FILE.1 …). Clients may change all but mode and file (v2/trace/setting). May repeat."},
    {"log-verbose", .group = CONDUCT, .reloadable = true, COUNT(log_verbose, 0, 100, "0"),
     .help = "Above 0: log details."},
    {"log-info", .group = CONDUCT, .reloadable = true, BOOL(log_info, "true"), .help = "Log what happens."},
    {"log-warning", .group = CONDUCT, .reloadable = true, BOOL(log_warning, "true"), .help = "Log what may be wrong."},
    {"log-error", .group = CONDUCT, .reloadable = true, BOOL(log_error, "true"), .help = "Log errors."},
    {"log-format", .group = CONDUCT, WORDS(log_format, log_formats, "auto"),
     .help = "text or json; auto is text on a terminal, else json. ISO8601: as auto, and lines of text carry the date "
             "too."},
};

_Static_assert(sizeof rows / sizeof *rows <= OPTION_ROWS_MAX, "raise OPTION_ROWS_MAX");

#define MODEL(key, member) \
  { key, offsetof(struct model_options, member) }
static const struct model_row model_settings[] = {
    MODEL("processes", processes),
    MODEL("processes-per-gpu", processes_per_gpu),
    MODEL("gpu-memory", gpu_memory),
    MODEL("mps-active-threads", mps_active_threads),
    MODEL("instances", instances),
    MODEL("threads", threads),
    MODEL("max-batch-size", max_batch_size),
    MODEL("max-queue-size", max_queue_size),
    MODEL("max-queue-bytes", max_queue_bytes),
    MODEL("max-queue-delay", max_queue_delay_us),
    MODEL("max-execution", max_execution_ns),
    MODEL("engine", engine),
    MODEL("device", device),
};

const struct option_row *option_rows(size_t *ret_n) {
  *ret_n = sizeof rows / sizeof *rows;
  return rows;
}

const struct model_row *model_rows(size_t *ret_n) {
  *ret_n = sizeof model_settings / sizeof *model_settings;
  return model_settings;
}

static bool name_equal(const char *name, const char *with, size_t size, bool loose) {
  if (name == NULL || strlen(name) != size) return false;
  for (size_t i = 0; i < size; i++)
    if (with[i] != name[i] && !(loose && name[i] == '-' && with[i] == '_')) return false;
  return true;
}

const struct option_row *option_find(const char *name, size_t size, bool loose) {
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    if (name_equal(rows[i].name, name, size, loose)) return &rows[i];
    for (size_t a = 0; a < OPTION_ALIASES_MAX; a++)
      if (name_equal(rows[i].aliases[a], name, size, loose)) return &rows[i];
  }
  return NULL;
}

void option_key(const struct option_row *row, char text[OPTION_NAME_MAX]) {
  size_t i = 0;
  for (; row->name[i] != '\0' && i < OPTION_NAME_MAX - 1; i++) text[i] = row->name[i] == '-' ? '_' : row->name[i];
  text[i] = '\0';
}

void option_environment_name(const struct option_row *row, char text[OPTION_NAME_MAX]) {
  static const char prefix[] = "MUSTER_";
  char key[OPTION_NAME_MAX];
  option_key(row, key);
  memcpy(text, prefix, sizeof prefix - 1);
  size_t at = sizeof prefix - 1;
  for (size_t i = 0; key[i] != '\0' && at < OPTION_NAME_MAX - 1; i++) text[at++] = (char)toupper((unsigned char)key[i]);
  text[at] = '\0';
}
