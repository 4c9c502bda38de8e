#include "launch/plan.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "launch/gpu_choice.h"
#include "launch/mps.h"
#include "launch/placeholder.h"

enum { WORD_MAX = 128 << 10 };

static mu_status no_memory(mu_error *err) { return mu_fail(err, MU_NO_MEMORY, "no memory for the plan"); }

/* ---- groups ------------------------------------------------------------------------------------------------------ */

static bool is_name(const char *text) {
  size_t n = 0;
  for (; text[n] != '\0'; n++)
    if (!isalnum((unsigned char)text[n]) && strchr("._-", text[n]) == NULL) return false;
  return n > 0 && n <= 64 && text[0] != '.';
}

/* The command's own name where none was given. */
static mu_status name_group(struct plan *plan, struct plan_group *group, mu_error *err) {
  const char *command = group->settings->command.items[0], *slash = strrchr(command, '/');
  group->name = group->settings->name[0] != '\0' ? group->settings->name : slash != NULL ? slash + 1 : command;
  if (!is_name(group->name))
    return mu_fail(err, MU_INVALID, "'%.80s' is no name for services (letters, digits, . _ -): say --name",
                   group->name);
  for (const struct plan_group *other = plan->groups; other < group; other++)
    if (strcmp(other->name, group->name) == 0)
      return mu_fail(err, MU_INVALID, "two groups are called %s: give them a name each", group->name);
  return MU_OK;
}

static const struct {
  const char *word;
  bool takes_more; /* it is a prefix */
  enum ready_kind kind;
} ready_words[] = {{"none", false, READY_NONE},
                   {"tcp", false, READY_TCP},
                   {"grpc", false, READY_GRPC},
                   {"http:", true, READY_HTTP},
                   {"cmd:", true, READY_COMMAND}};

static mu_status read_ready(struct plan_group *group, mu_error *err) {
  const char *text = group->settings->ready;
  if (text[0] == '\0') text = group->ports.first != 0 ? "tcp" : "none";
  size_t i = 0, n = sizeof ready_words / sizeof *ready_words;
  for (; i < n; i++) {
    size_t size = strlen(ready_words[i].word);
    if (ready_words[i].takes_more ? strncmp(text, ready_words[i].word, size) == 0 && text[size] != '\0'
                                  : strcmp(text, ready_words[i].word) == 0)
      break;
  }
  if (i == n)
    return mu_fail(err, MU_INVALID, "%s: ready is tcp, grpc, http:/PATH, cmd:COMMAND or none, not '%.80s'", group->name,
                   text);
  group->ready = ready_words[i].kind;
  group->ready_argument = text + strlen(ready_words[i].word);
  if (group->ready == READY_HTTP && group->ready_argument[0] != '/')
    return mu_fail(err, MU_INVALID, "%s: the path of %.80s begins with /", group->name, text);
  bool needs_port = group->ready != READY_NONE && group->ready != READY_COMMAND;
  if (needs_port && group->ports.first == 0)
    return mu_fail(err, MU_INVALID, "%s: ready %.80s needs a port", group->name, text);
  return MU_OK;
}

static mu_status count_services(struct plan_group *group, mu_error *err) {
  int64_t per_gpu = group->settings->per_gpu > 0 ? group->settings->per_gpu : 1, count = group->settings->count;
  if (group->settings->per_gpu > 0 && group->n_gpus == 0)
    return mu_fail(err, MU_INVALID, "%s: so many services on each GPU (%d), but no GPUs are named", group->name,
                   (int)per_gpu);
  if (count > 0 && group->settings->per_gpu > 0 && count != per_gpu * group->n_gpus)
    return mu_fail(err, MU_INVALID, "%s: %d on each of %u GPUs are %d services, not %d", group->name, (int)per_gpu,
                   group->n_gpus, (int)(per_gpu * group->n_gpus), (int)count);
  if (count == 0) count = group->n_gpus > 0 ? per_gpu * group->n_gpus : 1;
  if (count > LAUNCH_SERVICES_MAX)
    return mu_fail(err, MU_INVALID, "%s: %d services are more than %d", group->name, (int)count, LAUNCH_SERVICES_MAX);
  group->count = (uint32_t)count;
  return MU_OK;
}

static mu_status check_environment(const struct plan_group *group, mu_error *err) {
  static const char *const ours[] = {"MUSTER_LAUNCH_ID", "MUSTER_SERVICE"}; /* processes are found by them */
  for (size_t i = 0; i < group->settings->env.n; i++) {
    const char *entry = group->settings->env.items[i];
    size_t name = strcspn(entry, "=");
    if (name == 0 || entry[name] == '\0' || isdigit((unsigned char)entry[0]))
      return mu_fail(err, MU_INVALID, "%s: a variable is NAME=VALUE, not '%.80s'", group->name, entry);
    for (size_t k = 0; k < sizeof ours / sizeof *ours; k++)
      if (strlen(ours[k]) == name && memcmp(ours[k], entry, name) == 0)
        return mu_fail(err, MU_INVALID, "%s: %s is the launcher's: it finds its services by it", group->name, ours[k]);
  }
  return MU_OK;
}

static mu_status make_group(struct plan *plan, struct plan_group *group, const struct gpu_inventory *inventory,
                            mu_error *err) {
  bool unchecked = false;
  mu_status status = name_group(plan, group, err);
  if (status == MU_OK) status = gpu_choice(group, inventory, &plan->memory, &unchecked, err);
  if (status == MU_OK) status = port_range_parse(group->settings->port, &group->ports, err);
  if (status == MU_OK) status = read_ready(group, err);
  if (status == MU_OK) status = count_services(group, err);
  if (status == MU_OK) status = check_environment(group, err);
  if (status != MU_OK || !unchecked) return status;
  char text[GPU_TEXT_SIZE + 160];
  snprintf(text, sizeof text, "%s: whether these GPUs (%.60s) exist could not be checked: %s", group->name,
           group->settings->gpus, inventory != NULL ? inventory->error : "NVML was not asked");
  const char *kept = arena_copy(&plan->memory, text, strlen(text));
  if (kept == NULL) return no_memory(err);
  plan->warnings.items[plan->warnings.n++] = kept; /* at most one a group */
  return MU_OK;
}

/* ---- ports of all groups together -------------------------------------------------------------------------------- */

/* A range that is written out belongs to its group as a whole, so that it can grow into it. */
static uint32_t last_port(const struct plan_group *group, uint32_t n) {
  return group->ports.open ? (uint32_t)group->ports.first + n - 1 : group->ports.last;
}

mu_status plan_check_count(const struct plan *plan, const struct plan_group *group, uint32_t n, mu_error *err) {
  mu_error why;
  if (n > LAUNCH_SERVICES_MAX)
    return mu_fail(err, MU_INVALID, "%s: %u services are more than %d", group->name, n, LAUNCH_SERVICES_MAX);
  mu_status status = port_range_check(&group->ports, n, &why);
  if (status != MU_OK) return mu_fail(err, status, "%s: %.400s", group->name, why.message);
  if (group->ports.first == 0 || n == 0) return MU_OK;
  uint32_t last = last_port(group, n);
  for (size_t i = 0; i < plan->n_groups; i++) {
    const struct plan_group *other = &plan->groups[i];
    if (other == group || other->ports.first == 0 || other->count == 0) continue;
    uint32_t other_last = last_port(other, other->count);
    if (group->ports.first <= other_last && other->ports.first <= last)
      return mu_fail(err, MU_INVALID, "%s has the ports %u-%u and %s %u-%u: they overlap", other->name,
                     other->ports.first, other_last, group->name, group->ports.first, last);
  }
  return MU_OK;
}

/* ---- one service ------------------------------------------------------------------------------------------------- */

/* What {word} stands for, for one service. */
struct values {
  char port[8], index[16];
  struct placeholder all[5];
};
enum { N_VALUES = sizeof((struct values *)0)->all / sizeof(struct placeholder) };

static void set_values(struct values *values, const struct plan_group *group, const struct plan_service *service,
                       uint32_t index) {
  const struct plan_gpu *gpu = service->gpu;
  snprintf(values->port, sizeof values->port, "%u", service->port);
  snprintf(values->index, sizeof values->index, "%u", index);
  const struct placeholder all[N_VALUES] = {
      {"port", service->port != 0 ? values->port : NULL, "no --port was given"},
      {"gpu", gpu != NULL ? gpu->name : NULL, "no --gpus were given"},
      {"index", values->index, NULL},
      {"uuid", gpu != NULL && gpu->uuid[0] != '\0' ? gpu->uuid : NULL,
       gpu != NULL ? "NVML is not there to say it" : "no --gpus were given"},
      {"name", group->name, NULL},
  };
  memcpy(values->all, all, sizeof all);
}

static mu_status expand(const struct plan_group *group, struct values *values, const char *text, struct arena *memory,
                        char **ret_text, mu_error *err) {
  struct buffer out;
  mu_error why;
  buffer_init(&out, WORD_MAX);
  mu_status status = placeholder_expand(text, values->all, N_VALUES, &out, &why);
  if (status == MU_OK) {
    *ret_text = arena_copy(memory, out.data != NULL ? out.data : "", out.size);
    if (*ret_text == NULL) status = no_memory(&why);
  }
  buffer_free(&out);
  return status == MU_OK ? status : mu_fail(err, status, "%s: %.400s", group->name, why.message);
}

static bool is_program(const char *path) {
  struct stat found;
  return stat(path, &found) == 0 && S_ISREG(found.st_mode) && access(path, X_OK) == 0;
}

/* As a shell would find it. */
static mu_status find_program(const char *name, struct arena *memory, const char **ret_path, mu_error *err) {
  char path[4096];
  const char *folders = getenv("PATH");
  if (strchr(name, '/') != NULL) {
    if (is_program(name)) {
      *ret_path = name;
      return MU_OK;
    }
    struct stat found;
    return mu_fail(err, MU_NOT_FOUND, "%.200s: %s", name,
                   stat(name, &found) != 0 ? strerror(errno) : "is no program that may be run");
  }
  for (const char *at = folders != NULL ? folders : ""; *at != '\0'; at += *at == ':') {
    size_t size = strcspn(at, ":");
    int n = snprintf(path, sizeof path, "%.*s%s%s", (int)size, at, size > 0 ? "/" : "./", name);
    at += size;
    if (n < 0 || (size_t)n >= sizeof path || !is_program(path)) continue;
    *ret_path = arena_copy(memory, path, strlen(path));
    return *ret_path != NULL ? MU_OK : no_memory(err);
  }
  return mu_fail(err, MU_NOT_FOUND, "there is no command '%.200s' (looked in PATH)", name);
}

static mu_status make_command(const struct plan_group *group, struct values *values, struct plan_service *service,
                              mu_error *err) {
  const struct option_list *words = &group->settings->command;
  service->argv = arena_alloc(&service->memory, words->n + 1, sizeof *service->argv);
  if (service->argv == NULL) return no_memory(err);
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < words->n; i++)
    status = expand(group, values, words->items[i], &service->memory, &service->argv[i], err);
  if (status == MU_OK) status = find_program(service->argv[0], &service->memory, &service->path, err);
  return status;
}

static mu_status add_variable(struct plan_service *service, size_t *n, const char *name, const char *value,
                              mu_error *err) {
  size_t size = strlen(name) + strlen(value) + 2;
  char *text = arena_alloc(&service->memory, size, 1);
  if (text == NULL) return no_memory(err);
  snprintf(text, size, "%s=%s", name, value);
  service->environment[(*n)++] = text;
  return MU_OK;
}

static mu_status make_environment(const struct plan_group *group, struct values *values, struct plan_service *service,
                                  mu_error *err) {
  const struct plan_gpu *gpu = service->gpu;
  const struct option_list *more = &group->settings->env;
  const struct {
    const char *name, *value; /* NULL: not set */
  } own[] = {
      {"CUDA_VISIBLE_DEVICES", gpu != NULL      ? gpu->uuid[0] != '\0' ? gpu->uuid : gpu->name
                               : group->no_gpus ? ""
                                                : NULL},
      {"MUSTER_GPU", gpu != NULL ? gpu->name : NULL},
      {"MUSTER_INDEX", values->index},
      {"MUSTER_SERVICE", service->id},
      {"PORT", service->port != 0 ? values->port : NULL},
  };
  enum { N_OWN = sizeof own / sizeof *own };
  size_t n = 0;
  mu_status status = MU_OK;
  service->environment = arena_alloc(&service->memory, N_OWN + more->n + 1, sizeof *service->environment);
  if (service->environment == NULL) return no_memory(err);
  for (size_t i = 0; status == MU_OK && i < N_OWN; i++)
    if (own[i].value != NULL) status = add_variable(service, &n, own[i].name, own[i].value, err);
  for (size_t i = 0; status == MU_OK && i < more->n; i++)
    status = expand(group, values, more->items[i], &service->memory, &service->environment[n++], err);
  return status;
}

mu_status plan_service(const struct plan *plan, const struct plan_group *group, uint32_t index,
                       struct plan_service *ret_service, mu_error *err) {
  struct plan_service service = {0};
  struct values values;
  char *ready;
  snprintf(service.id, sizeof service.id, "%s/%u", group->name, index);
  if (group->ports.first != 0) service.port = (uint16_t)(group->ports.first + index);
  if (group->n_gpus > 0) service.gpu = &group->gpus[index % group->n_gpus];
  set_values(&values, group, &service, index);
  mu_status status = make_command(group, &values, &service, err);
  if (status == MU_OK) status = make_environment(group, &values, &service, err);
  if (status == MU_OK) status = expand(group, &values, group->ready_argument, &service.memory, &ready, err);
  if (status == MU_OK && group->ready == READY_HTTP && strlen(ready) > READY_PATH_MAX)
    status = mu_fail(err, MU_INVALID, "%s: the path of http: is longer than %d bytes", group->name, READY_PATH_MAX);
  if (status != MU_OK) {
    plan_service_free(&service);
    return status;
  }
  service.ready_argument = ready;
  *ret_service = service;
  return MU_OK;
}

void plan_service_free(struct plan_service *service) { arena_free(&service->memory); }

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static mu_status make_all(struct plan *plan, const struct gpu_inventory *inventory, mu_error *err) {
  const struct launch_settings *settings = plan->settings;
  mu_status status = MU_OK;
  plan->cuda = inventory != NULL ? inventory->cuda : GPU_UNKNOWN;
  plan->groups = arena_alloc(&plan->memory, settings->n_groups, sizeof *plan->groups);
  plan->warnings.items = arena_alloc(&plan->memory, settings->n_groups, sizeof *plan->warnings.items);
  if (plan->groups == NULL || plan->warnings.items == NULL) return no_memory(err);
  for (size_t i = 0; status == MU_OK && i < settings->n_groups; i++) {
    struct plan_group *group = &plan->groups[i];
    group->settings = &settings->groups[i];
    status = make_group(plan, group, inventory, err);
    if (status == MU_OK) status = plan_check_count(plan, group, group->count, err);
    plan->n_groups = i + 1;
  }
  if (status == MU_OK) status = launch_mps_plan_check(plan, err);
  for (size_t i = 0; status == MU_OK && i < plan->n_groups; i++)
    for (uint32_t k = 0; status == MU_OK && k < plan->groups[i].count; k++) {
      struct plan_service service;
      status = plan_service(plan, &plan->groups[i], k, &service, err);
      if (status == MU_OK) plan_service_free(&service);
    }
  return status;
}

mu_status plan_create(const struct launch_settings *settings, const struct gpu_inventory *inventory,
                      struct plan **ret_plan, mu_error *err) {
  struct plan *plan = calloc(1, sizeof *plan);
  if (plan == NULL) return no_memory(err);
  plan->settings = settings;
  mu_status status = make_all(plan, inventory, err);
  if (status == MU_OK)
    *ret_plan = plan;
  else
    plan_free(plan);
  return status;
}

void plan_free(struct plan *plan) {
  if (plan == NULL) return;
  arena_free(&plan->memory);
  free(plan);
}
