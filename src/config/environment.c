/* The environment: MUSTER_<NAME> of every option, and the names of existing deployments. */
#include "config/option_table.h"

#include <ctype.h>
#include <stdio.h>

static const char prefix[] = "MUSTER_";
enum { PREFIX = sizeof prefix - 1 };

const char *environment_value(char **environment, const char *name) {
  size_t size = strlen(name);
  for (char **entry = environment; *entry != NULL; entry++)
    if (strncmp(*entry, name, size) == 0 && (*entry)[size] == '=')
      return (*entry)[size + 1] == '\0' ? NULL : *entry + size + 1;
  return NULL;
}

/* Kubernetes gives every container variables for the services beside it: one named "muster" becomes
 * MUSTER_SERVICE_HOST, MUSTER_PORT=tcp://…, MUSTER_PORT_8000_TCP_ADDR. Nobody set those for us. */
static bool is_service_link(const char *name, size_t size, const char *value) {
  char copy[256];
  if (size >= sizeof copy) return false;
  memcpy(copy, name, size);
  copy[size] = '\0';
  if (strstr(copy, "_SERVICE_HOST") != NULL || strstr(copy, "_SERVICE_PORT") != NULL) return true;
  const char *port = strstr(copy, "_PORT");
  if (port == NULL) return false;
  port += strlen("_PORT");
  return *port == '\0' ? strstr(value, "://") != NULL : port[0] == '_' && isdigit((unsigned char)port[1]);
}

/* What `muster launch` gives to the services that it starts, which may well be muster servers. */
static bool is_of_launch(const char *name, size_t size) {
  static const char *const names[] = {"MUSTER_GPU", "MUSTER_INDEX", "MUSTER_LAUNCH_ID", "MUSTER_SERVICE"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strlen(names[i]) == size && memcmp(names[i], name, size) == 0) return true;
  return false;
}

/* Every MUSTER_ variable has to mean something: a typing error must not go unseen. */
static mu_status check_names(char **environment, mu_error *err) {
  size_t n;
  const struct option_row *rows = option_rows(&n);
  char names[OPTION_ROWS_MAX][OPTION_NAME_MAX];
  const char *candidates[OPTION_ROWS_MAX];
  for (size_t i = 0; i < n; i++) {
    option_environment_name(&rows[i], names[i]);
    candidates[i] = names[i];
  }
  for (char **entry = environment; *entry != NULL; entry++) {
    if (strncmp(*entry, prefix, PREFIX) != 0) continue;
    size_t size = strcspn(*entry, "=");
    bool known =
        (*entry)[size] == '\0' || is_service_link(*entry, size, *entry + size + 1) || is_of_launch(*entry, size);
    for (size_t i = 0; !known && i < n; i++) known = strlen(names[i]) == size && memcmp(names[i], *entry, size) == 0;
    if (known) continue;
    char word[OPTION_NAME_MAX + 1];
    snprintf(word, sizeof word, "%.*s", (int)size, *entry);
    const char *near = nearest_word(word, candidates, n);
    return mu_fail(err, MU_INVALID, "unknown environment variable %.*s%s%s%s", (int)(size < 100 ? size : 100), *entry,
                   near != NULL ? ": did you mean " : ": MUSTER_ names are options of muster, see muster serve --help",
                   near != NULL ? near : "", near != NULL ? "?" : "");
  }
  return MU_OK;
}

/* "a,b" becomes two items. */
static mu_status set_list(struct options *options, const struct option_row *row, const char *text, const char *name,
                          mu_error *err) {
  mu_status status = MU_OK;
  while (status == MU_OK) {
    size_t size = strcspn(text, ",");
    char *item = arena_copy(&options->memory, text, size);
    if (item == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the settings");
    if (size > 0) status = option_set(options, row, item, (struct option_origin){SOURCE_ENVIRONMENT, name}, err);
    if (text[size] == '\0') break;
    text += size + 1;
  }
  return status;
}

mu_status environment_apply(struct options *options, char **environment, mu_error *err) {
  size_t n;
  const struct option_row *rows = option_rows(&n);
  mu_status status = check_names(environment, err);
  for (size_t i = 0; status == MU_OK && i < n; i++) {
    char own[OPTION_NAME_MAX];
    option_environment_name(&rows[i], own);
    const char *name = own, *value = environment_value(environment, own);
    if (value == NULL && rows[i].environment != NULL) {
      name = rows[i].environment;
      value = environment_value(environment, name);
    }
    if (value == NULL) continue;
    status = rows[i].type == OPTION_LIST
                 ? set_list(options, &rows[i], value, name, err)
                 : option_set(options, &rows[i], value, (struct option_origin){SOURCE_ENVIRONMENT, name}, err);
  }
  return status;
}
