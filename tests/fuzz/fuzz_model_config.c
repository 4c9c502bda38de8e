/*
 * libFuzzer target: any bytes as a config.pbtxt. A message must name a place; what is accepted must have a JSON form.
 *
 *   clang -fsanitize=fuzzer,address,undefined … -o fuzz_model_config && fuzz_model_config corpus/model_config
 */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct model_config *config = NULL;
  mu_error err = {{0}};
  mu_status status = model_config_parse((const char *)data, size, "config.pbtxt", "m", &config, &err);
  if (status != MU_OK) {
    if (strncmp(err.message, "config.pbtxt:", 13) != 0) abort();
    return 0;
  }
  struct model model = {.name = "m", .version = 1, .config = config};
  json_t *json = model_config_json(&model);
  if (json == NULL) abort();
  json_decref(json);
  model_config_free(config);
  return 0;
}
