/*
 * tritonserver's flags that muster has no use for. A deployment's command line should go on working where nothing is
 * lost (a warning says what became of the flag) and must not where the answers, the limits or the protection would be
 * others than asked for (refused).
 */
#include "config/option_table.h"

static const struct foreign_flag flags[] = {
    /* models */
    {"strict-model-config", .why = "what config.pbtxt leaves out is always read off the model"},
    {"disable-auto-complete-config", .why = "what config.pbtxt leaves out is always read off the model",
     .takes_no_value = true},
    {"model-load-thread-count", .why = "all workers are started at the same time"},
    {"model-load-retry-count", .why = "a worker that dies is started again with growing pauses"},
    {"model-load-gpu-limit", .why = "the memory of a GPU cannot be limited for one model", .refused = true},
    {"model-namespacing", .why = "models of all repositories share one space of names", .refused = true},
    {"backend-directory", .why = "engines are part of the program; --onnxruntime-library names ONNX Runtime"},
    {"repoagent-directory", .why = "there are no repository agents"},
    {"backend-config", .why = "set --threads, --max-batch-size or the model's config.pbtxt instead", .refused = true},
    {"host-policy", .why = "workers are placed by --device and --threads"},
    /* memory and devices */
    {"cuda-memory-pool-byte-size", .why = "there is no such pool"},
    {"cuda-virtual-address-size", .why = "there is no such pool"},
    {"pinned-memory-pool-byte-size", .why = "there is no such pool; --memory-budget bounds tensors on their way"},
    {"min-supported-compute-capability",
     .why = "a device that the engine cannot use is an error when a model is loaded"},
    {"enable-peer-access", .why = "workers do not share GPU memory"},
    {"buffer-manager-thread-count", .why = "tensors are not copied by threads of their own"},
    {"rate-limit", .why = "executions are bounded by --instances and --cpu-slots", .refused = true},
    {"rate-limit-resource", .why = "executions are bounded by --instances and --cpu-slots", .refused = true},
    {"response-cache-byte-size", .why = "responses are not cached, every request is computed"},
    {"cache-config", .why = "responses are not cached, every request is computed"},
    {"cache-directory", .why = "responses are not cached, every request is computed"},
    /* protocols */
    {"http-restricted-api", .why = "access cannot be restricted by header; leave it out knowingly", .refused = true},
    {"http-header-forward-pattern", .why = "no engine looks at headers"},
    {"reuse-http-port", .why = "a port belongs to one server; its own threads share it"},
    {"reuse-grpc-port", .why = "a port belongs to one server; its own threads share it"},
    {"grpc-restricted-protocol", .why = "access cannot be restricted by header; leave it out knowingly",
     .refused = true},
    {"grpc-use-ssl*", .why = "this version has no TLS", .refused = true},
    {"grpc-*", .why = "HTTP/2 connections have limits of their own"},
    {"allow-sagemaker", .why = "there is no such endpoint", .refused = true},
    {"sagemaker-*", .why = "there is no such endpoint", .refused = true},
    {"allow-vertex-ai", .why = "there is no such endpoint", .refused = true},
    {"vertex-ai-*", .why = "there is no such endpoint", .refused = true},
    /* what is observed */
    {"log-file", .why = "the log goes to standard error"},
    {"id", .why = "the server is called muster"},
};

const struct foreign_flag *foreign_flag_find(const char *name, size_t size) {
  for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
    size_t length = strlen(flags[i].name);
    bool prefix = flags[i].name[length - 1] == '*';
    if (prefix ? size >= length - 1 && memcmp(flags[i].name, name, length - 1) == 0
               : size == length && memcmp(flags[i].name, name, size) == 0)
      return &flags[i];
  }
  return NULL;
}
