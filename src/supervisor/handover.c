#include "supervisor/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
  MAGIC = 0x4f48554d, /* "MUHO" */
  STATE_MAX = 256 << 20,
  RECORDS_MAX = 1 << 16, /* of a kind */
};

/* ---- the table --------------------------------------------------------------------------------------------------- */

#define FIELDS(name, ...) static const struct field name[] = {__VA_ARGS__}

#define F(member) FIELD(handover_server, member)
FIELDS(server_fields, F(version), F(options), F(started_ns), F(last_model), F(last_worker), F(last_epoch), F(was_ready),
       F(settled), F(control_socket), F(control_path), F(http_address), F(grpc_address), F(metrics_address),
       F(http_port), F(grpc_port), F(metrics_port), F(n_http), F(n_grpc), F(n_metrics), F(gateway), F(gateway_restarts),
       F(gateway_early_deaths), F(gateway_was_ready), F(gateway_restarted), F(gateway_ready_ns), F(gateway_delay_ns),
       F(upgrade_started_ns), F(upgrades), F(trace_begun), F(trace_files), F(inventory));
#undef F
#define F(member) FIELD(handover_socket, member)
FIELDS(socket_fields, F(fd));
#undef F
#define F(member) FIELD(handover_device, member)
FIELDS(device_fields, F(name));
#undef F
#define F(member) FIELD(handover_gateway, member)
FIELDS(gateway_fields, F(slot), F(state), F(pid), F(pidfd), F(control));
#undef F
#define F(member) FIELD(handover_model, member)
FIELDS(model_fields, F(number), F(name), F(version), F(folder), F(has_path), F(path), F(file), F(text), F(named),
       F(given), F(planned), F(engine), F(threads), F(overlap), F(metadata), F(state), F(reason), F(was_ready));
#undef F
#define F(member) FIELD(handover_group, member)
FIELDS(group_fields, F(model), F(device), F(label), F(processes), F(instances));
#undef F
#define F(member) FIELD(handover_worker, member)
FIELDS(worker_fields, F(model), F(place), F(number), F(state), F(pid), F(pidfd), F(control), F(epoch_0), F(epoch_1),
       F(attached_0), F(attached_1), F(wish), F(wish_cause), F(failure), F(early_deaths), F(restarts), F(was_ready),
       F(restarted), F(ready_ns), F(delay_ns), F(started_ns), F(due_ns), F(reason), F(under_mps), F(mps_asked));
#undef F
#define F(member) FIELD(handover_region, member)
FIELDS(region_fields, F(name), F(key), F(offset), F(byte_size), F(writable), F(fd));
#undef F

#define F(member) FIELD(handover_choice, member)
FIELDS(choice_fields, F(name), F(config));
#undef F
#define F(member) FIELD(handover_file_given, member)
FIELDS(given_fields, F(choice), F(version), F(fd));
#undef F
#define F(member) FIELD(handover_note, member)
FIELDS(note_fields, F(name), F(version), F(reason));
#undef F
#define F(member) FIELD(handover_gpu, member)
FIELDS(gpu_fields, F(uuid), F(name), F(index), F(condition), F(reason), F(since_ns), F(fault_ns), F(restart_delay_ns),
       F(recovery_action), F(energy_start_mj));
#undef F
#define F(member) FIELD(handover_fleet, member)
FIELDS(fleet_fields, F(pid), F(pidfd));
#undef F
#define F(member) FIELD(handover_mps, member)
FIELDS(mps_fields, F(uuid), F(label), F(folder), F(error), F(state), F(pid), F(pidfd), F(control), F(daemon),
       F(served), F(settling), F(restarts), F(since_ns), F(asked));
#undef F
#define F(member) FIELD(handover_xid, member)
FIELDS(xid_fields, F(gpu), F(xid), F(count));
#undef F

#define KIND(list, fields)                                                                                         \
  {                                                                                                                \
    offsetof(struct handover, list), offsetof(struct handover, n_##list), sizeof *((struct handover *)NULL)->list, \
        fields, sizeof(fields) / sizeof(struct field)                                                              \
  }

static const struct kind {
  size_t items, n; /* in struct handover */
  size_t size;     /* of a record's struct */
  const struct field *fields;
  size_t n_fields;
} kinds[] = {
    KIND(server, server_fields),    KIND(sockets, socket_fields), KIND(devices, device_fields),
    KIND(gateways, gateway_fields), KIND(models, model_fields),   KIND(groups, group_fields),
    KIND(workers, worker_fields),   KIND(regions, region_fields), KIND(choices, choice_fields),
    KIND(given, given_fields),      KIND(notes, note_fields),     KIND(gpus, gpu_fields),
    KIND(xids, xid_fields),         KIND(fleet, fleet_fields),    KIND(mps, mps_fields),
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static void **items_of(const struct handover *state, const struct kind *kind) {
  return (void **)(void *)((char *)(uintptr_t)state + kind->items);
}

static size_t *count_of(const struct handover *state, const struct kind *kind) {
  return (size_t *)(void *)((char *)(uintptr_t)state + kind->n);
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

struct head {
  uint32_t magic, version, control_version;
};

static const struct field head_fields[] = {FIELD(head, magic), FIELD(head, version), FIELD(head, control_version)};
enum { N_HEAD_FIELDS = sizeof head_fields / sizeof *head_fields };

mu_status handover_encode(const struct handover *state, struct buffer *out) {
  const struct head head = {MAGIC, HANDOVER_VERSION, CONTROL_VERSION};
  mu_status status = fields_put(head_fields, N_HEAD_FIELDS, &head, out);
  for (size_t k = 0; status == MU_OK && k < N_KINDS; k++) {
    const struct kind *kind = &kinds[k];
    uint32_t n = (uint32_t)*count_of(state, kind);
    const char *items = *items_of(state, kind);
    status = n <= RECORDS_MAX ? buffer_append(out, &n, sizeof n) : MU_TOO_LARGE;
    for (uint32_t i = 0; status == MU_OK && i < n; i++)
      status = fields_put(kind->fields, kind->n_fields, items + i * kind->size, out);
  }
  return status;
}

static mu_status take_head(struct field_reader *reader, mu_error *err) {
  struct head head;
  if (fields_take(reader, head_fields, N_HEAD_FIELDS, &head) != MU_OK || head.magic != MAGIC)
    return mu_fail(err, MU_INVALID, "that is no state of a muster server");
  if (head.version != HANDOVER_VERSION)
    return mu_fail(err, MU_UNSUPPORTED, "the state has version %u; muster " MUSTER_VERSION " understands version %d",
                   head.version, HANDOVER_VERSION);
  if (head.control_version != CONTROL_VERSION)
    return mu_fail(err, MU_UNSUPPORTED,
                   "the server's processes speak version %u of the control messages; muster " MUSTER_VERSION
                   " speaks version %d",
                   head.control_version, CONTROL_VERSION);
  return MU_OK;
}

static mu_status take_kind(struct field_reader *reader, const struct kind *kind, struct handover *state) {
  static const struct field count[] = {{FIELD_U32, 0}};
  uint32_t n = 0;
  if (fields_take(reader, count, 1, &n) != MU_OK || n > RECORDS_MAX) return MU_INVALID;
  char *items = calloc(n + 1, kind->size);
  if (items == NULL) return MU_NO_MEMORY;
  *items_of(state, kind) = items;
  *count_of(state, kind) = n;
  mu_status status = MU_OK;
  for (uint32_t i = 0; status == MU_OK && i < n; i++)
    status = fields_take(reader, kind->fields, kind->n_fields, items + i * kind->size);
  return status;
}

/* ---- does it add up? --------------------------------------------------------------------------------------------- */

static const struct handover_model *find_model(const struct handover *state, uint32_t number) {
  for (size_t i = 0; i < state->n_models; i++)
    if (state->models[i].number == number) return &state->models[i];
  return NULL;
}

static size_t count_groups(const struct handover *state, uint32_t model) {
  size_t n = 0;
  for (size_t i = 0; i < state->n_groups; i++) n += state->groups[i].model == model;
  return n;
}

static uint64_t count_processes(const struct handover *state, uint32_t model) {
  uint64_t n = 0;
  for (size_t i = 0; i < state->n_groups; i++)
    if (state->groups[i].model == model) n += state->groups[i].processes;
  return n;
}

/* 0, 1 and 2 are standard descriptors. */
static bool is_process(int32_t pid, int32_t pidfd, int32_t control) { return pid > 1 && pidfd > 2 && control > 2; }

static bool check_server(const struct handover *state) {
  const struct handover_server *server = state->server;
  uint64_t listeners = (uint64_t)server->n_http + server->n_grpc + server->n_metrics;
  for (size_t i = 0; i < state->n_sockets; i++)
    if (state->sockets[i].fd <= 2) return false;
  return listeners == state->n_sockets && server->n_metrics <= 1 && server->http_port <= UINT16_MAX &&
         server->grpc_port <= UINT16_MAX && server->metrics_port <= UINT16_MAX && server->control_socket > 2 &&
         server->gateway < HANDOVER_GATEWAYS;
}

static bool check_gateways(const struct handover *state) {
  bool present = false;
  for (size_t i = 0; i < state->n_gateways; i++) {
    const struct handover_gateway *gateway = &state->gateways[i];
    if (gateway->slot >= HANDOVER_GATEWAYS || !is_process(gateway->pid, gateway->pidfd, gateway->control)) return false;
    if (i > 0 && gateway->slot == state->gateways[0].slot) return false;
    present = present || gateway->slot == state->server->gateway;
  }
  return present;
}

static bool check_models(const struct handover *state) {
  for (size_t i = 0; i < state->n_models; i++) {
    const struct handover_model *model = &state->models[i];
    size_t groups = count_groups(state, model->number);
    if (find_model(state, model->number) != model || model->number > state->server->last_model) return false;
    if (model->file < -1 || (model->file >= 0 && model->file <= 2)) return false;
    if (model->planned != (groups > 0)) return false;
  }
  for (size_t i = 0; i < state->n_groups; i++)
    if (find_model(state, state->groups[i].model) == NULL || state->groups[i].instances == 0 ||
        state->groups[i].processes == 0)
      return false;
  return true;
}

static bool check_workers(const struct handover *state) {
  for (size_t i = 0; i < state->n_workers; i++) {
    const struct handover_worker *worker = &state->workers[i];
    const struct handover_model *model = find_model(state, worker->model);
    if (model == NULL || worker->number > state->server->last_worker) return false;
    if (worker->place >= count_processes(state, model->number)) return false;
    if (worker->pid != 0 && !is_process(worker->pid, worker->pidfd, worker->control)) return false;
    for (size_t k = 0; k < i; k++)
      if (state->workers[k].model == worker->model && state->workers[k].place == worker->place) return false;
  }
  return true;
}

static bool check_regions(const struct handover *state) {
  for (size_t i = 0; i < state->n_regions; i++) {
    const struct handover_region *region = &state->regions[i];
    uint64_t end;
    if (region->fd <= 2 || region->name[0] == '\0' || region->byte_size == 0) return false;
    if (__builtin_add_overflow(region->offset, region->byte_size, &end) || end > INT64_MAX) return false;
  }
  return state->n_regions <= REGIONS_MAX;
}

static bool check_choices(const struct handover *state) {
  for (size_t i = 0; i < state->n_choices; i++)
    for (size_t k = 0; k < i; k++)
      if (strcmp(state->choices[i].name, state->choices[k].name) == 0) return false;
  for (size_t i = 0; i < state->n_given; i++) {
    const struct handover_file_given *given = &state->given[i];
    if (given->choice >= state->n_choices || given->version <= 0 || given->fd <= 2) return false;
    if (state->choices[given->choice].config.size == 0) return false;
  }
  return true;
}

static bool check_gpus(const struct handover *state) {
  for (size_t i = 0; i < state->n_gpus; i++) {
    if (state->gpus[i].uuid[0] == '\0') return false;
    for (size_t k = 0; k < i; k++)
      if (strcmp(state->gpus[i].uuid, state->gpus[k].uuid) == 0) return false;
  }
  for (size_t i = 0; i < state->n_xids; i++)
    if (state->xids[i].gpu >= state->n_gpus) return false;
  for (size_t i = 0; i < state->n_fleet; i++)
    if (state->fleet[i].pid <= 1 || state->fleet[i].pidfd <= 2) return false;
  return true;
}

static bool check_mps(const struct handover *state) {
  for (size_t i = 0; i < state->n_mps; i++) {
    const struct handover_mps *mps = &state->mps[i];
    if (mps->uuid[0] == '\0' || (mps->pid != 0 && !is_process(mps->pid, mps->pidfd, mps->control))) return false;
  }
  return true;
}

static bool adds_up(const struct handover *state) {
  return state->n_server == 1 && check_server(state) && check_gateways(state) && check_models(state) &&
         check_workers(state) && check_regions(state) && check_choices(state) && check_gpus(state) && check_mps(state);
}

mu_status handover_decode(const void *bytes, size_t size, struct handover *ret_state, mu_error *err) {
  struct field_reader reader = {bytes, (const char *)bytes + size};
  struct handover state = {0};
  mu_status status = take_head(&reader, err);
  if (status != MU_OK) return status;
  for (size_t k = 0; status == MU_OK && k < N_KINDS; k++) status = take_kind(&reader, &kinds[k], &state);
  if (status == MU_OK && (reader.at != reader.end || !adds_up(&state))) status = MU_INVALID;
  if (status == MU_OK) {
    *ret_state = state;
    return MU_OK;
  }
  handover_free(&state);
  return mu_fail(err, status, status == MU_NO_MEMORY ? "no memory for the state" : "the state does not add up");
}

void handover_free(struct handover *state) {
  for (size_t k = 0; k < N_KINDS; k++) {
    free(*items_of(state, &kinds[k]));
    *items_of(state, &kinds[k]) = NULL;
    *count_of(state, &kinds[k]) = 0;
  }
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

enum { SEALS = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW };

static bool write_all(int fd, const char *data, size_t size) {
  for (size_t at = 0; at < size;) {
    ssize_t n = write(fd, data + at, size - at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += (size_t)n;
  }
  return true;
}

mu_status handover_write(const struct handover *state, int *ret_fd, mu_error *err) {
  struct buffer encoded;
  buffer_init(&encoded, STATE_MAX);
  mu_status status = handover_encode(state, &encoded);
  if (status != MU_OK) {
    mu_fail(err, status, "cannot encode the server's state (%s)", status_name(status));
  } else {
    int fd = memfd_create("muster-state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd >= 0 && write_all(fd, encoded.data, encoded.size) && fcntl(fd, F_ADD_SEALS, SEALS) == 0) {
      *ret_fd = fd;
    } else {
      status = mu_fail(err, MU_IO, "cannot write the server's state: %s", strerror(errno));
      if (fd >= 0) close(fd);
    }
  }
  buffer_free(&encoded);
  return status;
}

mu_status handover_open(int fd, struct handover_file *ret_file, mu_error *err) {
  struct stat found;
  int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &found) != 0 || found.st_size <= 0 ||
      found.st_size > STATE_MAX)
    return mu_fail(err, MU_INVALID, "that is no state of a muster server");
  struct handover_file file = {.size = (size_t)found.st_size};
  file.bytes = mmap(NULL, file.size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (file.bytes == MAP_FAILED) return mu_fail(err, MU_IO, "cannot map the server's state: %s", strerror(errno));
  mu_status status = handover_decode(file.bytes, file.size, &file.state, err);
  if (status == MU_OK)
    *ret_file = file;
  else
    munmap(file.bytes, file.size);
  return status;
}

void handover_close(struct handover_file *file) {
  if (file->bytes == NULL) return;
  handover_free(&file->state);
  munmap(file->bytes, file->size);
  *file = (struct handover_file){0};
}
