/* The supervisor's state as it goes to the one that takes its place by execve, and how that one takes it over. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/engine.h"
#include "gpu/inventory_json.h"
#include "supervisor/inherit.h"

/* ---- giving ------------------------------------------------------------------------------------------------------ */

/* When a timer is due; 0: it does not run. */
static uint64_t due_ns(const uv_timer_t *timer) {
  if (!uv_is_active((const uv_handle_t *)timer)) return 0;
  return time_add(clock_now_ns(), uv_timer_get_due_in(timer) * NS_PER_MS) | 1;
}

static void give_server(const struct supervisor *s, struct handover_server *server) {
  const struct restart_policy *policy = &s->gateway_policy;
  *server = (struct handover_server){
      .version = MUSTER_VERSION,
      .started_ns = s->started_ns,
      .last_model = s->last_model,
      .last_worker = s->last_worker,
      .last_epoch = s->last_epoch,
      .was_ready = s->was_ready,
      .settled = s->settled,
      .control_socket = s->control_socket,
      .control_path = s->control_path,
      .http_address = s->listeners.http_address,
      .grpc_address = s->listeners.grpc_address,
      .metrics_address = s->listeners.metrics_address,
      .http_port = s->listeners.http_port,
      .grpc_port = s->listeners.grpc_port,
      .metrics_port = s->listeners.metrics_port,
      .n_http = s->listeners.n_http,
      .n_grpc = s->listeners.n_grpc,
      .n_metrics = s->listeners.n_metrics,
      .gateway = s->gateway->slot,
      .gateway_restarts = s->gateway_restarts,
      .gateway_early_deaths = policy->early_deaths,
      .gateway_was_ready = policy->ready,
      .gateway_restarted = policy->restarted,
      .gateway_ready_ns = policy->ready_ns,
      .gateway_delay_ns = policy->delay_ns,
      .options = {s->encoded_options.data, s->encoded_options.size},
      .upgrade_started_ns = s->upgrade.started_ns,
      .upgrades = s->upgrade.number,
      .trace_begun = s->trace_begun,
      .trace_files = s->trace_files,
  };
}

static void give_model(const struct served_model *model, struct handover *state) {
  const struct worker_plan *plan = &model->plan;
  state->models[state->n_models++] = (struct handover_model){
      .number = model->number,
      .name = model->name,
      .version = model->version,
      .folder = model->folder,
      .has_path = model->path != NULL,
      .path = model->path,
      .file = model->file,
      .text = {model->text, model->text_size},
      .named = model->named,
      .given = model->given,
      .planned = model->planned,
      .engine = plan->engine,
      .threads = plan->threads,
      .overlap = plan->overlap,
      .metadata = {model->metadata.data, model->metadata.size},
      .state = model->state,
      .reason = model->reason,
      .was_ready = model->was_ready,
  };
  for (uint32_t i = 0; model->planned && i < plan->n_groups; i++)
    state->groups[state->n_groups++] = (struct handover_group){.model = model->number,
                                                               .device = plan->groups[i].device,
                                                               .label = plan->groups[i].label,
                                                               .processes = plan->groups[i].processes,
                                                               .instances = plan->groups[i].instances};
}

static void give_worker(const struct worker *worker, struct handover *state) {
  const struct child_handle child = child_give(&worker->child);
  state->workers[state->n_workers++] = (struct handover_worker){
      .model = worker->model->number,
      .place = (uint32_t)(worker - worker->model->workers),
      .number = worker->number,
      .state = worker->state,
      .pid = child.pid,
      .pidfd = child.pidfd,
      .control = child.control,
      .epoch_0 = worker->attachments[0].epoch,
      .epoch_1 = worker->attachments[1].epoch,
      .attached_0 = worker->attachments[0].attached,
      .attached_1 = worker->attachments[1].attached,
      .wish = worker->wish,
      .wish_cause = worker->wish_cause,
      .failure = worker->failure,
      .early_deaths = worker->policy.early_deaths,
      .restarts = worker->restarts,
      .was_ready = worker->policy.ready,
      .restarted = worker->policy.restarted,
      .ready_ns = worker->policy.ready_ns,
      .delay_ns = worker->policy.delay_ns,
      .started_ns = worker->started_ns,
      .due_ns = due_ns(&worker->timer),
      .reason = worker->reason,
      .under_mps = worker->under_mps,
      .mps_asked = worker->mps_asked != 0,
  };
}

static void give_gateways(const struct supervisor *s, struct handover *state) {
  for (uint32_t i = 0; i < GATEWAYS; i++) {
    const struct gateway *gateway = &s->gateways[i];
    const struct child_handle child = child_give(&gateway->child);
    if (child.pid == 0) continue;
    state->gateways[state->n_gateways++] =
        (struct handover_gateway){i, gateway->state, child.pid, child.pidfd, child.control};
  }
}

static void give_choice(const struct model_choice *choice, struct handover *state) {
  uint32_t index = (uint32_t)state->n_choices;
  state->choices[state->n_choices++] =
      (struct handover_choice){choice->name, {choice->config != NULL ? choice->config : "", choice->config_size}};
  for (size_t i = 0; i < choice->n_files; i++)
    state->given[state->n_given++] = (struct handover_file_given){index, choice->versions[i], choice->files[i]};
}

static void give_gpus(const struct gpus *gpus, struct handover *state) {
  for (uint32_t i = 0; i < gpus->n_guards; i++) {
    const struct gpu_guard *guard = &gpus->guards[i];
    for (uint32_t x = 0; x < guard->n_xids; x++)
      state->xids[state->n_xids++] = (struct handover_xid){i, guard->xids[x].xid, guard->xids[x].count};
    state->gpus[state->n_gpus++] = (struct handover_gpu){.uuid = guard->uuid,
                                                         .name = guard->name,
                                                         .index = guard->index,
                                                         .condition = guard->condition,
                                                         .reason = guard->reason,
                                                         .since_ns = guard->since_ns,
                                                         .fault_ns = guard->fault_ns,
                                                         .restart_delay_ns = guard->restart_delay_ns,
                                                         .recovery_action = guard->recovery_action,
                                                         .energy_start_mj = guard->energy_start_mj};
  }
}

static mu_status give_inventory(const struct gpus *gpus, struct arena *memory, struct handover_server *server,
                                mu_error *err) {
  server->inventory = (struct control_bytes){"", 0};
  if (!gpus->known) return MU_OK;
  json_t *json = gpu_inventory_to_json(&gpus->inventory);
  char *text = json != NULL ? json_dumps(json, JSON_COMPACT) : NULL;
  const char *kept = text != NULL ? arena_copy(memory, text, strlen(text)) : NULL;
  if (kept != NULL) server->inventory = (struct control_bytes){kept, strlen(kept)};
  json_decref(json);
  free(text);
  return kept != NULL ? MU_OK : mu_fail(err, MU_NO_MEMORY, "no memory for the GPUs");
}

static size_t count_given(const struct supervisor *s) {
  size_t n = 0;
  list_each (link, &s->choices) n += list_item(link, struct model_choice, link)->n_files;
  return n;
}

static size_t count_list(const struct list *list) {
  size_t n = 0;
  list_each (link, list) n++;
  return n;
}

mu_status inherit_give(const struct supervisor *s, struct arena *memory, struct handover *ret_state, mu_error *err) {
  size_t n_models = count_list(&s->models), n_workers = count_list(&s->workers);
  size_t n_sockets = listeners_count(&s->listeners);
  struct handover state = {
      .server = arena_alloc(memory, 1, sizeof *state.server),
      .sockets = arena_alloc(memory, n_sockets + 1, sizeof *state.sockets),
      .devices = arena_alloc(memory, s->n_devices, sizeof *state.devices),
      .gateways = arena_alloc(memory, GATEWAYS, sizeof *state.gateways),
      .models = arena_alloc(memory, n_models + 1, sizeof *state.models),
      .groups = arena_alloc(memory, n_models * PLAN_DEVICES_MAX + 1, sizeof *state.groups),
      .workers = arena_alloc(memory, n_workers + 1, sizeof *state.workers),
      .regions = arena_alloc(memory, s->n_regions + 1, sizeof *state.regions),
      .choices = arena_alloc(memory, count_list(&s->choices) + 1, sizeof *state.choices),
      .given = arena_alloc(memory, count_given(s) + 1, sizeof *state.given),
      .notes = arena_alloc(memory, count_list(&s->operations.notes) + 1, sizeof *state.notes),
      .gpus = arena_alloc(memory, s->gpus.n_guards + 1, sizeof *state.gpus),
      .fleet = arena_alloc(memory, fleet_count(s) + 1, sizeof *state.fleet),
      .mps = arena_alloc(memory, mps_count(s) + 1, sizeof *state.mps),
      .xids = arena_alloc(memory, (size_t)s->gpus.n_guards * GPU_XIDS_MAX + 1, sizeof *state.xids),
  };
  if (state.server == NULL || state.sockets == NULL || state.devices == NULL || state.gateways == NULL ||
      state.models == NULL || state.groups == NULL || state.workers == NULL || state.regions == NULL ||
      state.choices == NULL || state.given == NULL || state.notes == NULL || state.gpus == NULL || state.xids == NULL ||
      state.fleet == NULL || state.mps == NULL)
    return mu_fail(err, MU_NO_MEMORY, "no memory for the state");
  give_server(s, state.server);
  state.n_server = 1;
  for (; state.n_sockets < n_sockets; state.n_sockets++)
    state.sockets[state.n_sockets].fd = s->listeners.fds[state.n_sockets];
  for (; state.n_devices < s->n_devices; state.n_devices++)
    state.devices[state.n_devices].name = s->devices[state.n_devices];
  give_gateways(s, &state);
  list_each (link, &s->models) give_model(list_item(link, struct served_model, link), &state);
  list_each (link, &s->workers) give_worker(list_item(link, struct worker, all), &state);
  regions_give(s, &state);
  list_each (link, &s->choices) give_choice(list_item(link, struct model_choice, link), &state);
  list_each (link, &s->operations.notes) {
    const struct model_note *note = list_item(link, struct model_note, link);
    state.notes[state.n_notes++] = (struct handover_note){note->name, note->version, note->reason};
  }
  give_gpus(&s->gpus, &state);
  mps_give(s, &state);
  fleet_give(s, &state);
  mu_status status = give_inventory(&s->gpus, memory, state.server, err);
  if (status != MU_OK) return status;
  *ret_state = state;
  return MU_OK;
}

/* ---- GPUs -------------------------------------------------------------------------------------------------------- */

static mu_status take_gpu(struct gpus *gpus, const struct handover_gpu *from, mu_error *err) {
  if (gpus->n_guards == GPU_GUARDS_MAX || strlen(from->uuid) >= GPU_UUID_SIZE || from->condition > GPU_REMOVED)
    return mu_fail(err, MU_UNSUPPORTED, "the state has GPUs that this version cannot take over");
  struct gpu_guard *guard = &gpus->guards[gpus->n_guards++];
  *guard = (struct gpu_guard){.index = from->index,
                              .condition = (enum gpu_condition)from->condition,
                              .since_ns = from->since_ns,
                              .fault_ns = from->fault_ns,
                              .restart_delay_ns = from->restart_delay_ns,
                              .recovery_action = from->recovery_action,
                              .energy_start_mj = from->energy_start_mj};
  snprintf(guard->uuid, sizeof guard->uuid, "%s", from->uuid);
  snprintf(guard->name, sizeof guard->name, "%s", from->name);
  snprintf(guard->reason, sizeof guard->reason, "%s", from->reason);
  return MU_OK;
}

static mu_status take_inventory(struct gpus *gpus, const struct control_bytes *from, mu_error *err) {
  static struct gpu_inventory inventory; /* large; only one thread is here */
  if (from->size == 0) {                 /* so nobody waits for it now, either */
    snprintf(gpus->error, sizeof gpus->error, "NVML has not answered since the server was started");
    return MU_OK;
  }
  json_t *json = json_loadb(from->data, from->size, 0, NULL);
  mu_status status = json != NULL ? gpu_inventory_from_json(json, &inventory, err)
                                  : mu_fail(err, MU_INVALID, "the state's GPUs are no JSON");
  json_decref(json);
  if (status == MU_OK) gpus_take(gpus, &inventory);
  return status;
}

/* Into a struct gpus that knows of none. */
static mu_status take_gpus(struct supervisor *s, const struct handover *state, mu_error *err) {
  struct gpus *gpus = &s->gpus;
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < state->n_fleet; i++) status = fleet_take(s, &state->fleet[i], err);
  for (size_t i = 0; status == MU_OK && i < state->n_gpus; i++) status = take_gpu(gpus, &state->gpus[i], err);
  for (size_t i = 0; status == MU_OK && i < state->n_xids; i++) {
    struct gpu_guard *guard = &gpus->guards[state->xids[i].gpu];
    if (guard->n_xids < GPU_XIDS_MAX)
      guard->xids[guard->n_xids++] = (struct gpu_xid_count){state->xids[i].xid, state->xids[i].count};
  }
  if (status == MU_OK) status = take_inventory(gpus, &state->server->inventory, err);
  return status;
}

/* ---- the descriptors --------------------------------------------------------------------------------------------- */

static void set_close_on_exec(int fd, bool close_on_exec) { fcntl(fd, F_SETFD, close_on_exec ? FD_CLOEXEC : 0); }

void inherit_descriptors(const struct handover *state, bool close_on_exec) {
  set_close_on_exec(state->server->control_socket, close_on_exec);
  for (size_t i = 0; i < state->n_sockets; i++) set_close_on_exec(state->sockets[i].fd, close_on_exec);
  for (size_t i = 0; i < state->n_models; i++)
    if (state->models[i].file >= 0) set_close_on_exec(state->models[i].file, close_on_exec);
  for (size_t i = 0; i < state->n_regions; i++) set_close_on_exec(state->regions[i].fd, close_on_exec);
  for (size_t i = 0; i < state->n_given; i++) set_close_on_exec(state->given[i].fd, close_on_exec);
  for (size_t i = 0; i < state->n_fleet; i++) set_close_on_exec(state->fleet[i].pidfd, close_on_exec);
  for (size_t i = 0; i < state->n_gateways; i++) {
    set_close_on_exec(state->gateways[i].pidfd, close_on_exec);
    set_close_on_exec(state->gateways[i].control, close_on_exec);
  }
  for (size_t i = 0; i < state->n_workers; i++) {
    if (state->workers[i].pid == 0) continue;
    set_close_on_exec(state->workers[i].pidfd, close_on_exec);
    set_close_on_exec(state->workers[i].control, close_on_exec);
  }
  for (size_t i = 0; i < state->n_mps; i++) {
    if (state->mps[i].pid == 0) continue;
    set_close_on_exec(state->mps[i].pidfd, close_on_exec);
    set_close_on_exec(state->mps[i].control, close_on_exec);
  }
}

/* ---- taking ------------------------------------------------------------------------------------------------------ */

/* What the format leaves to the reader: names and numbers of this version. */
mu_status inherit_check(const struct handover *state, mu_error *err) {
  const struct engine_entry *entry;
  if (state->n_devices > PLAN_DEVICES_MAX || state->n_sockets > LISTENERS_MAX)
    return mu_fail(err, MU_UNSUPPORTED, "the state has more devices or listeners than this version knows");
  for (size_t i = 0; i < state->n_gateways; i++)
    if (state->gateways[i].state > GATEWAY_BACKOFF) return mu_fail(err, MU_INVALID, "a gateway in an unknown state");
  for (size_t i = 0; i < state->n_models; i++) {
    const struct handover_model *model = &state->models[i];
    if (model->state > MODEL_UNAVAILABLE) return mu_fail(err, MU_INVALID, "a model in an unknown state");
    if (model->planned && engine_find(model->engine, NULL, &entry, err) != MU_OK) return MU_UNSUPPORTED;
  }
  for (size_t i = 0; i < state->n_workers; i++)
    if (state->workers[i].state > WORKER_FENCED || state->workers[i].wish > DEATH_DEVICE_LOST)
      return mu_fail(err, MU_INVALID, "a worker in an unknown state");
  for (size_t i = 0; i < state->n_mps; i++)
    if (state->mps[i].state > MPS_ENDING || strlen(state->mps[i].uuid) >= GPU_UUID_SIZE)
      return mu_fail(err, MU_INVALID, "the MPS of a GPU in an unknown state");
  return MU_OK;
}

static mu_status take_listeners(struct supervisor *s, const struct handover *state, mu_error *err) {
  const struct handover_server *server = state->server;
  struct listeners *listeners = &s->listeners;
  if (strlen(server->http_address) >= ADDRESS_MAX || strlen(server->grpc_address) >= ADDRESS_MAX ||
      strlen(server->metrics_address) >= ADDRESS_MAX)
    return mu_fail(err, MU_INVALID, "an address that is too long");
  strcpy(listeners->http_address, server->http_address);
  strcpy(listeners->grpc_address, server->grpc_address);
  strcpy(listeners->metrics_address, server->metrics_address);
  listeners->http_port = (uint16_t)server->http_port;
  listeners->grpc_port = (uint16_t)server->grpc_port;
  listeners->metrics_port = (uint16_t)server->metrics_port;
  listeners->n_http = server->n_http;
  listeners->n_grpc = server->n_grpc;
  listeners->n_metrics = server->n_metrics;
  for (size_t i = 0; i < state->n_sockets; i++) listeners->fds[i] = state->sockets[i].fd;
  return MU_OK;
}

static void take_server(struct supervisor *s, const struct handover *state) {
  const struct handover_server *server = state->server;
  s->started_ns = server->started_ns;
  s->last_epoch = server->last_epoch;
  s->trace_begun = server->trace_begun;
  s->trace_files = server->trace_files;
  s->was_ready = server->was_ready;
  s->settled = server->settled;
  s->phase = server->was_ready ? PHASE_SERVING : PHASE_STARTING;
  s->gateway = &s->gateways[server->gateway];
  s->gateway_restarts = server->gateway_restarts;
  s->gateway_policy = (struct restart_policy){.early_deaths = server->gateway_early_deaths,
                                              .ready = server->gateway_was_ready,
                                              .restarted = server->gateway_restarted,
                                              .longest_delay_ns = s->gateway_policy.longest_delay_ns,
                                              .ready_ns = server->gateway_ready_ns,
                                              .delay_ns = server->gateway_delay_ns};
  s->n_devices = 0;
  for (size_t i = 0; i < state->n_devices; i++)
    snprintf(s->devices[s->n_devices++], PLAN_DEVICE_NAME, "%s", state->devices[i].name);
}

static void take_plan(const struct handover *state, const struct handover_model *from, struct served_model *model) {
  const struct engine_entry *entry;
  struct worker_plan *plan = &model->plan;
  mu_error err;
  model->planned = from->planned;
  if (!from->planned || engine_find(from->engine, NULL, &entry, &err) != MU_OK) return;
  plan->engine = entry->engine->name;
  plan->threads = from->threads;
  plan->overlap = from->overlap;
  for (size_t i = 0; i < state->n_groups && plan->n_groups < PLAN_DEVICES_MAX; i++) {
    if (state->groups[i].model != from->number) continue;
    struct worker_group *group = &plan->groups[plan->n_groups++];
    snprintf(group->device, sizeof group->device, "%s", state->groups[i].device);
    snprintf(group->label, sizeof group->label, "%s", state->groups[i].label);
    group->processes = state->groups[i].processes;
    group->instances = state->groups[i].instances;
  }
}

static mu_status take_model(struct supervisor *s, const struct handover *state, const struct handover_model *from,
                            mu_error *err) {
  struct model_config config = {.text = from->text.data, .text_size = from->text.size};
  const struct repository_model found = {.name = (char *)(uintptr_t)from->name,
                                         .folder = (char *)(uintptr_t)from->folder,
                                         .config = &config,
                                         .named = from->named};
  const struct repository_version version = {from->version, from->has_path ? (char *)(uintptr_t)from->path : NULL,
                                             from->given};
  struct served_model *model = served_model_create(s->options, &found, &version);
  if (model == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the models");
  list_push_back(&s->models, &model->link);
  if (model->file >= 0) close(model->file); /* what its path names now */
  model->file = from->file;
  take_plan(state, from, model);
  model->state = (enum model_state)from->state;
  snprintf(model->reason, sizeof model->reason, "%s", from->reason);
  model->was_ready = from->was_ready;
  mu_status status = buffer_append(&model->metadata, from->metadata.data, from->metadata.size);
  if (status != MU_OK) return mu_fail(err, status, "no memory for the models");
  status = served_model_enroll(s, model, s->options, err);
  model->number = from->number;
  return status;
}

/* Its descriptors are taken over: a choice duplicates what it is given. */
static mu_status take_choice(struct supervisor *s, const struct handover *state, uint32_t index, mu_error *err) {
  const struct handover_choice *from = &state->choices[index];
  int64_t versions[CONTROL_FDS_MAX] = {0};
  int files[CONTROL_FDS_MAX] = {0};
  size_t n = 0;
  for (size_t i = 0; i < state->n_given; i++) {
    if (state->given[i].choice != index) continue;
    if (n == CONTROL_FDS_MAX) return mu_fail(err, MU_UNSUPPORTED, "a model with more than %zu files", n);
    versions[n] = state->given[i].version;
    files[n++] = state->given[i].fd;
  }
  struct model_choice *choice = model_choice_create(from->name, &from->config, versions, files, n);
  if (choice == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the models that were chosen");
  for (size_t i = 0; i < n; i++) close(files[i]);
  model_choice_put(&s->choices, choice);
  return MU_OK;
}

static mu_status take_choices(struct supervisor *s, const struct handover *state, mu_error *err) {
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < state->n_choices; i++) status = take_choice(s, state, (uint32_t)i, err);
  for (size_t i = 0; status == MU_OK && i < state->n_notes; i++)
    model_note(s, state->notes[i].name, state->notes[i].version, state->notes[i].reason);
  return status;
}

static struct served_model *find_model(const struct supervisor *s, uint32_t number) {
  list_each (link, &s->models) {
    struct served_model *model = list_item(link, struct served_model, link);
    if (model->number == number) return model;
  }
  return NULL;
}

static mu_status take_workers(struct supervisor *s, const struct handover *state, mu_error *err) {
  mu_status status = MU_OK;
  for (size_t i = 0; status == MU_OK && i < state->n_workers; i++) {
    const struct handover_worker *from = &state->workers[i];
    struct served_model *model = find_model(s, from->model);
    if (model == NULL || from->place >= model->n_workers)
      return mu_fail(err, MU_INVALID, "a worker has no place in the plan of its model");
    status = worker_adopt(&model->workers[from->place], from, err);
  }
  return status;
}

mu_status inherit_take(struct supervisor *s, const struct handover *state, mu_error *err) {
  mu_status status = inherit_check(state, err);
  if (status != MU_OK) return status;
  inherit_descriptors(state, true);
  take_server(s, state);
  status = take_gpus(s, state, err);
  if (status == MU_OK) status = take_listeners(s, state, err);
  for (size_t i = 0; status == MU_OK && i < state->n_models; i++) status = take_model(s, state, &state->models[i], err);
  for (size_t i = 0; status == MU_OK && i < state->n_mps; i++) status = mps_take(s, &state->mps[i], err);
  if (status == MU_OK) status = take_workers(s, state, err);
  if (status == MU_OK) status = regions_take(s, state, err);
  if (status == MU_OK) status = take_choices(s, state, err);
  for (size_t i = 0; status == MU_OK && i < state->n_gateways; i++) status = gateway_adopt(s, &state->gateways[i], err);
  s->last_model = state->server->last_model;
  s->last_worker = state->server->last_worker;
  if (status != MU_OK) return status;
  return control_socket_adopt(s, state->server->control_socket, state->server->control_path, err);
}
