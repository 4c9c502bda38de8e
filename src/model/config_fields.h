/* The messages of Triton's ModelConfig as tables, and the rules that no table can say. Private to model/. */
#ifndef MODEL_CONFIG_FIELDS_H
#define MODEL_CONFIG_FIELDS_H

#include "model/config_decode.h"
#include "model/model_config.h"

/* Fills a struct model_config whose defaults are set. */
extern const struct config_rules config_model_rules;

/* Checks of one message, called when its fields are in the struct (config_check.c). */
mu_status config_check_tensor(struct config_decoder *decoder, void *object, const struct pbtext_message *message);
mu_status config_check_instance_group(struct config_decoder *decoder, void *object,
                                      const struct pbtext_message *message);
mu_status config_check_warmup_input(struct config_decoder *decoder, void *object, const struct pbtext_message *message);
mu_status config_check_warmup(struct config_decoder *decoder, void *object, const struct pbtext_message *message);
mu_status config_check_versions(struct config_decoder *decoder, void *object, const struct pbtext_message *message);
mu_status config_check_model(struct config_decoder *decoder, void *object, const struct pbtext_message *message);

/* "TYPE_FP32", …: the element types' names in configurations. */
extern const struct config_word config_dtypes[];
extern const size_t config_n_dtypes;

#endif
