#include "gateway/model_override.h"

#include "model/model_config.h"
#include "model/override_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CHUNK = 48 * 1024, SEALS = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

void model_override_free(struct model_override *override) {
  for (size_t i = 0; i < override->n_files; i++) close(override->files[i]);
  free(override->config);
  *override = (struct model_override){0};
}

static mu_status fail_parameter(mu_error *err, mu_status status, const struct model_parameter *parameter,
                                const char *why) {
  return mu_fail(err, status, "parameter '%.*s': %s", (int)(parameter->key_size < 100 ? parameter->key_size : 100),
                 parameter->key, why);
}

/* ---- a file's content -------------------------------------------------------------------------------------------- */

static mu_status write_all(int fd, const char *data, size_t size, mu_error *err) {
  while (size > 0) {
    ssize_t n = write(fd, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return mu_fail(err, MU_NO_MEMORY, "no memory for the model's file");
    data += n;
    size -= (size_t)n;
  }
  return MU_OK;
}

static int base64_digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Four digits to three bytes; false: not digits. */
static bool decode_group(const char *text, size_t digits, char out[3]) {
  uint32_t bits = 0;
  for (size_t i = 0; i < 4; i++) {
    int digit = i < digits ? base64_digit(text[i]) : 0;
    if (digit < 0) return false;
    bits = bits << 6 | (uint32_t)digit;
  }
  out[0] = (char)(bits >> 16);
  out[1] = (char)(bits >> 8);
  out[2] = (char)bits;
  return true;
}

/* RFC 4648 with its padding, which may be left out. */
static mu_status write_base64(int fd, const struct model_parameter *parameter, mu_error *err) {
  const char *text = parameter->data;
  size_t size = parameter->size, n = 0;
  char chunk[CHUNK];
  if (size > 0 && size % 4 == 0 && text[size - 1] == '=') size -= text[size - 2] == '=' ? 2 : 1;
  for (; size > 0;) {
    size_t digits = size < 4 ? size : 4;
    if (digits == 1 || !decode_group(text, digits, chunk + n))
      return fail_parameter(err, MU_INVALID, parameter, "its value is not base64");
    text += digits;
    size -= digits;
    n += digits - 1;
    if (n <= sizeof chunk - 3 && size > 0) continue;
    mu_status status = write_all(fd, chunk, n, err);
    if (status != MU_OK) return status;
    n = 0;
  }
  return MU_OK;
}

static mu_status fill(int fd, const struct model_parameter *parameter, mu_error *err) {
  mu_status status = parameter->kind == MODEL_PARAMETER_BASE64 ? write_base64(fd, parameter, err)
                                                               : write_all(fd, parameter->data, parameter->size, err);
  if (status == MU_OK && fcntl(fd, F_ADD_SEALS, SEALS) != 0)
    return mu_fail(err, MU_IO, "cannot seal the model's file: %s", strerror(errno));
  return status;
}

static mu_status add_file(struct model_override *override, const struct model_parameter *parameter, int64_t version,
                          mu_error *err) {
  for (size_t i = 0; i < override->n_files; i++)
    if (override->versions[i] == version)
      return fail_parameter(err, MU_INVALID, parameter, "this version has a model file already");
  if (override->n_files == OVERRIDE_FILES_MAX)
    return mu_fail(err, MU_INVALID, "more than %d files", OVERRIDE_FILES_MAX);
  int fd = memfd_create("muster-model", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return mu_fail(err, MU_IO, "cannot make the model's file: %s", strerror(errno));
  mu_status status = fill(fd, parameter, err);
  if (status != MU_OK) {
    close(fd);
    return status;
  }
  override->versions[override->n_files] = version;
  override->files[override->n_files++] = fd;
  return MU_OK;
}

/* ---- parameters -------------------------------------------------------------------------------------------------- */

static bool is_called(const struct model_parameter *parameter, const char *key) {
  return parameter->key_size == strlen(key) && memcmp(parameter->key, key, parameter->key_size) == 0;
}

static mu_status take_config(struct model_override *override, const struct model_parameter *parameter, mu_error *err) {
  if (parameter->kind != MODEL_PARAMETER_STRING) return fail_parameter(err, MU_INVALID, parameter, "must be a string");
  if (override->config != NULL) return fail_parameter(err, MU_INVALID, parameter, "is there twice");
  if (parameter->size == 0) return fail_parameter(err, MU_INVALID, parameter, "is empty");
  override->config = malloc(parameter->size);
  if (override->config == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the configuration");
  memcpy(override->config, parameter->data, parameter->size);
  override->config_size = parameter->size;
  return MU_OK;
}

static mu_status find_config(struct model_override *override, const struct model_parameter *parameters, size_t n,
                             mu_error *err) {
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < n; i++)
    if (is_called(&parameters[i], "config")) status = take_config(override, &parameters[i], err);
  return status;
}

/* Options of ONNX Runtime and its providers that are files or folders of this machine: nothing from the network names
 * one. */
static bool names_path(const char *key) {
  static const char *const words[] = {"path", "file", "folder", "dir"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++)
    if (strcasestr(key, words[i]) != NULL) return true;
  return false;
}

static mu_status check_options(const mu_parameter *parameters, uint32_t n, mu_error *err) {
  for (uint32_t i = 0; i < n; i++)
    if (names_path(parameters[i].key))
      return mu_fail(err, MU_INVALID, "parameter %.100s names a path: it can only be set in the repository",
                     parameters[i].key);
  return MU_OK;
}

static mu_status check_paths(const struct model_config *config, mu_error *err) {
  mu_status status = check_options(config->parameters, config->n_parameters, err);
  for (uint32_t i = 0; status == MU_OK && i < config->n_gpu_accelerators; i++)
    status = check_options(config->gpu_accelerators[i].parameters, config->gpu_accelerators[i].n_parameters, err);
  for (uint32_t i = 0; status == MU_OK && i < config->n_cpu_accelerators; i++)
    status = check_options(config->cpu_accelerators[i].parameters, config->cpu_accelerators[i].n_parameters, err);
  return status;
}

/* What a model that has no folder cannot have. */
static mu_status check_folderless(const struct model_config *config, mu_error *err) {
  for (uint32_t i = 0; i < config->n_outputs; i++)
    if (config->outputs[i].label_filename != NULL && config->outputs[i].label_filename[0] != '\0')
      return mu_fail(err, MU_UNSUPPORTED,
                     "label_filename of output '%.100s': a model whose files come with the request has no others",
                     config->outputs[i].name);
  for (uint32_t i = 0; i < config->n_warmups; i++)
    for (uint32_t k = 0; k < config->warmups[i].n_inputs; k++)
      if (config->warmups[i].inputs[k].fill == WARMUP_FILE)
        return mu_fail(err, MU_UNSUPPORTED,
                       "input_data_file of a model_warmup: a model whose files come with the request has no others");
  return MU_OK;
}

static mu_status take_file(struct model_override *override, const struct model_parameter *parameter,
                           const struct model_config *config, mu_error *err) {
  const char *wanted = config->default_model_filename[0] != '\0' ? config->default_model_filename : "model.onnx";
  const char *file;
  size_t size;
  int64_t version;
  mu_status status = override_file_parse(parameter->key, parameter->key_size, &version, &file, &size, err);
  if (status != MU_OK) return status;
  if (parameter->kind != MODEL_PARAMETER_BYTES && parameter->kind != MODEL_PARAMETER_BASE64)
    return fail_parameter(err, MU_INVALID, parameter, "must be the content of a file");
  if (version == 0 || size != strlen(wanted) || memcmp(file, wanted, size) != 0)
    return mu_fail(err, MU_UNSUPPORTED,
                   "parameter '%.*s': of the files that come with a request only the model file itself is taken "
                   "(file:VERSION/%.100s); weights of their own, labels and the like have to be in the repository",
                   (int)(parameter->key_size < 100 ? parameter->key_size : 100), parameter->key, wanted);
  return add_file(override, parameter, version, err);
}

static mu_status take_files(struct model_override *override, const struct model_parameter *parameters, size_t n,
                            const struct model_config *config, mu_error *err) {
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < n; i++) {
    const struct model_parameter *parameter = &parameters[i];
    if (is_called(parameter, "config")) continue;
    if (parameter->key_size < 5 || memcmp(parameter->key, "file:", 5) != 0)
      return mu_fail(err, MU_INVALID, "unrecognized load parameter '%.*s'",
                     (int)(parameter->key_size < 100 ? parameter->key_size : 100), parameter->key);
    if (config == NULL)
      return mu_fail(err, MU_INVALID, "files that come with a load request need its 'config' parameter, too");
    status = take_file(override, parameter, config, err);
  }
  return status;
}

mu_status model_override_create(const char *name, const struct model_parameter *parameters, size_t n,
                                struct model_override *ret_override, mu_error *err) {
  struct model_override override = {0};
  struct model_config *config = NULL;
  mu_error wrong;
  mu_status status = find_config(&override, parameters, n, err);
  if (status == MU_OK && override.config != NULL) {
    status = model_config_parse(override.config, override.config_size, "config", name, &config, &wrong);
    if (status == MU_OK) status = check_paths(config, &wrong);
    if (status != MU_OK) mu_fail(err, status, "Invalid config override: %.480s", wrong.message);
  }
  if (status == MU_OK) status = take_files(&override, parameters, n, config, err);
  if (status == MU_OK && override.n_files > 0) status = check_folderless(config, err);
  model_config_free(config);
  if (status == MU_OK)
    *ret_override = override;
  else
    model_override_free(&override);
  return status;
}
