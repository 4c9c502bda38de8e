/*
 * A model's configuration: config.pbtxt (Triton's ModelConfig in protobuf text format) as a struct.
 *
 * The text is the form in which a configuration travels between processes: each parses the same text with
 * model_config_parse. JSON of a ModelConfig (text that begins with a brace) is such a text, too: what a load request
 * brings along. Immutable after parsing; all memory belongs to the config. Any thread may read.
 */
#ifndef MODEL_MODEL_CONFIG_H
#define MODEL_MODEL_CONFIG_H

#include "base/arena.h"
#include "base/buffer.h"
#include "base/status.h"

#include <jansson.h>

/* Bounds of what a configuration may hold. The scheduler has room for these numbers of sizes and levels. */
enum {
  MODEL_CONFIG_TEXT_MAX = 128 * 1024, /* bytes: a configuration travels in one control message */
  MODEL_TENSORS_MAX = 64,             /* inputs, and as many outputs */
  MODEL_PREFERRED_SIZES_MAX = 16,
  MODEL_PRIORITY_LEVELS_MAX = 64,
};

enum tensor_format { FORMAT_NONE, FORMAT_NHWC, FORMAT_NCHW };

struct model_tensor_config {
  const char *name;
  uint32_t line;  /* in the text, for messages */
  mu_dtype dtype; /* MU_DTYPE_INVALID when not given */
  bool has_dims;  /* false: taken from the model */
  uint32_t rank;
  int64_t dims[MU_MAX_RANK]; /* without the batch dimension when max_batch_size > 0, as in Triton */
  bool has_reshape;
  uint32_t reshape_rank;
  int64_t reshape[MU_MAX_RANK];
  bool optional;
  enum tensor_format format;  /* inputs; for clients to know, nothing is converted */
  const char *label_filename; /* outputs; NULL when none */
  const char *const *labels;  /* lines of that file, NULL until model_config_read_labels */
  uint32_t n_labels;
};

enum version_policy { VERSION_LATEST, VERSION_ALL, VERSION_SPECIFIC };
enum instance_kind { INSTANCE_AUTO, INSTANCE_GPU, INSTANCE_CPU };

struct instance_group {
  const char *name;
  enum instance_kind kind;
  int32_t count; /* 0: default */
  const int32_t *gpus;
  uint32_t n_gpus;
};

struct queue_policy {
  bool delay; /* timeout_action DELAY instead of REJECT */
  uint64_t default_timeout_us;
  bool allow_timeout_override;
  uint32_t max_queue_size; /* 0: muster's own limit */
};

struct priority_queue_policy {
  uint64_t level;
  struct queue_policy policy;
};

enum warmup_fill { WARMUP_ZERO, WARMUP_RANDOM, WARMUP_FILE };

struct warmup_input {
  const char *name;
  mu_dtype dtype;
  uint32_t rank;
  int64_t dims[MU_MAX_RANK]; /* without the batch dimension */
  enum warmup_fill fill;
  const char *file; /* below the model's `warmup` folder */
};

struct model_warmup {
  const char *name;
  uint32_t batch_size;
  uint32_t count;
  const struct warmup_input *inputs;
  uint32_t n_inputs;
};

/* optimization.execution_accelerators: an execution provider and its options, in the order of the text. */
struct model_accelerator {
  const char *name; /* "tensorrt" */
  const mu_parameter *parameters;
  uint32_t n_parameters;
};

struct model_config {
  const char *source;             /* where the text came from, for messages */
  const char *name;               /* as written, or the folder's */
  const char *platform, *backend; /* "" when not given */
  bool has_max_batch_size;
  int32_t max_batch_size;
  struct model_tensor_config *inputs, *outputs;
  uint32_t n_inputs, n_outputs;

  enum version_policy version_policy;
  uint32_t latest;         /* VERSION_LATEST: how many; default 1 */
  const int64_t *versions; /* VERSION_SPECIFIC */
  uint32_t n_versions;

  const struct instance_group *instance_groups;
  uint32_t n_instance_groups;

  bool has_dynamic_batching;
  const int32_t *preferred_batch_sizes;
  uint32_t n_preferred_batch_sizes;
  bool has_max_queue_delay;
  uint64_t max_queue_delay_us;
  bool preserve_ordering;
  uint64_t priority_levels, default_priority_level;
  bool has_default_queue_policy;
  struct queue_policy default_queue_policy;
  const struct priority_queue_policy *priority_queue_policies; /* of each level at most one */
  uint32_t n_priority_queue_policies;

  const struct model_warmup *warmups;
  uint32_t n_warmups;
  const mu_parameter *parameters; /* parameters { key value { string_value } } */
  uint32_t n_parameters;
  const char *default_model_filename; /* "" when not given */
  bool has_graph_level;
  int32_t graph_level; /* optimization.graph.level */
  const struct model_accelerator *gpu_accelerators, *cpu_accelerators;
  uint32_t n_gpu_accelerators, n_cpu_accelerators;

  const char *const *warnings; /* unsupported fields that may be ignored: "config.pbtxt:12: …" */
  uint32_t n_warnings;
  const char *text; /* what was parsed, for the other processes */
  size_t text_size;
  struct arena memory; /* of all of the above */
};

/*
 * Parses len bytes of text. source ("repo/magika/config.pbtxt") and the line lead every message. name: what the model
 * is called when the text does not say (its folder); a text that says otherwise is MU_INVALID. An empty text is valid.
 * Errors: MU_INVALID (syntax, unknown field, wrong type, out of range), MU_UNSUPPORTED (a field that cannot be ignored
 * without changing results: ensemble_scheduling, sequence_batching, …), MU_NO_MEMORY.
 */
MUST_CHECK mu_status model_config_parse(const char *text, size_t len, const char *source, const char *name,
                                        struct model_config **ret_config, mu_error *err);
void model_config_free(struct model_config *config); /* accepts NULL */

/* Whether that text is JSON: no text of the other form begins with a brace. */
bool model_config_is_json(const char *text, size_t len);

/* Reads the label files of the outputs below folder. MU_NOT_FOUND, MU_IO, MU_NO_MEMORY. */
MUST_CHECK mu_status model_config_read_labels(struct model_config *config, const char *folder, mu_error *err);

/* The engine that `platform` and `backend` name: "onnxruntime", "sim", "remote", or "" when neither is given. */
const char *model_config_engine(const struct model_config *config);

/* Whether a version of the model is a file; the engines sim and remote have none. */
bool model_config_needs_file(const struct model_config *config);

/* "TYPE_FP32", as configurations name element types; "TYPE_STRING" for MU_BYTES. */
const char *model_config_dtype_name(mu_dtype dtype);

/* The value of a parameter; NULL where it is not given. */
const char *model_config_parameter(const struct model_config *config, const char *key);

#endif
