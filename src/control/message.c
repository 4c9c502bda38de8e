#include "control/message.h"

#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

/* A packet: version, type (u16 each), then the fields of the type in the order of the table. */

enum { FIELDS_MAX = 20 };

struct message_type {
  const char *name;
  size_t min_fds, max_fds;
  struct field fields[FIELDS_MAX];
  size_t n_fields;
};

#define ROW_FDS(type, min, max, ...) \
  [CONTROL_##type] = {#type, min, max, {__VA_ARGS__}, sizeof((struct field[]){__VA_ARGS__}) / sizeof(struct field)}
#define ROW(type, ...) ROW_FDS(type, 0, 0, __VA_ARGS__)
#define EMPTY_FDS(type, min, max) [CONTROL_##type] = {#type, min, max, {{0}}, 0}
#define EMPTY(type) EMPTY_FDS(type, 0, 0)

#define EVENT_FIELDS \
  FIELD(control_worker_event, worker), FIELD(control_worker_event, epoch), FIELD(control_worker_event, why)

static const struct message_type message_types[CONTROL_TYPE_COUNT] = {
    ROW_FDS(GATEWAY_START, 0, CONTROL_FDS_MAX, FIELD(control_gateway_start, options),
            FIELD(control_gateway_start, n_http), FIELD(control_gateway_start, n_grpc),
            FIELD(control_gateway_start, n_metrics)),
    ROW(MODEL_SET, FIELD(control_model_set, model), FIELD(control_model_set, listed), FIELD(control_model_set, name),
        FIELD(control_model_set, version), FIELD(control_model_set, folder), FIELD(control_model_set, config),
        FIELD(control_model_set, state), FIELD(control_model_set, reason), FIELD(control_model_set, batching),
        FIELD(control_model_set, round_robin), FIELD(control_model_set, max_queue_requests),
        FIELD(control_model_set, max_queue_bytes), FIELD(control_model_set, max_queue_delay_us),
        FIELD(control_model_set, max_batch_wait_ns), FIELD(control_model_set, max_execution_ns),
        FIELD(control_model_set, first_execution_ns)),
    ROW(MODEL_LOADED, FIELD(control_model_loaded, model), FIELD(control_model_loaded, metadata),
        FIELD(control_model_loaded, was_ready), FIELD(control_model_loaded, batch_tokens)),
    ROW(MODEL_REMOVE, FIELD(control_model_number, model)),
    ROW_FDS(WORKER_ATTACH, 1, 1, FIELD(control_worker_attach, worker), FIELD(control_worker_attach, model),
            FIELD(control_worker_attach, device), FIELD(control_worker_attach, device_tokens),
            FIELD(control_worker_attach, batch_tokens), FIELD(control_worker_attach, lanes),
            FIELD(control_worker_attach, epoch), FIELD(control_worker_attach, device_name),
            FIELD(control_worker_attach, gpu_uuid), FIELD(control_worker_attach, pid),
            FIELD(control_worker_attach, load_ns)),
    ROW(WORKER_RETIRE, FIELD(control_worker_retire, worker), FIELD(control_worker_retire, epoch)),
    ROW(WORKER_GONE, FIELD(control_worker_gone, worker), FIELD(control_worker_gone, epoch),
        FIELD(control_worker_gone, blamed), FIELD(control_worker_gone, why)),
    ROW(MARK, FIELD(control_mark, serial)),
    EMPTY_FDS(GATEWAY_LISTEN, 0, 1),
    ROW_FDS(HAND_OVER, 1, 1, FIELD(control_hand_over, deadline_ns)),
    ROW_FDS(CONNECTION, 1, 1, FIELD(control_connection, metrics)),
    ROW(DRAIN, FIELD(control_drain, drain_delay_ns), FIELD(control_drain, deadline_ns)),
    ROW_FDS(REGION_SET, 1, 1, FIELD(control_region_set, name), FIELD(control_region_set, key),
            FIELD(control_region_set, offset), FIELD(control_region_set, byte_size),
            FIELD(control_region_set, writable)),
    ROW(REGION_REMOVE, FIELD(control_region_remove, name)),
    ROW(REGION_CHANGED, FIELD(control_region_changed, serial), FIELD(control_region_changed, status),
        FIELD(control_region_changed, why)),
    ROW_FDS(TRACE_FILE, 0, 1, FIELD(control_trace_file, numbered), FIELD(control_trace_file, error)),
    ROW(TRACE_OPEN, FIELD(control_trace_open, numbered)),
    EMPTY(GATEWAY_READY),
    ROW(WORKER_ATTACHED, EVENT_FIELDS),
    ROW(WORKER_HUNG, EVENT_FIELDS),
    ROW(WORKER_BROKEN, EVENT_FIELDS),
    ROW(WORKER_RETIRED, EVENT_FIELDS),
    ROW(MODEL_REMOVED, FIELD(control_model_number, model)),
    ROW(MARKED, FIELD(control_mark, serial)),
    EMPTY(DRAINED),
    ROW(REGION_REGISTER, FIELD(control_region_register, serial), FIELD(control_region_register, name),
        FIELD(control_region_register, key), FIELD(control_region_register, offset),
        FIELD(control_region_register, byte_size)),
    ROW(REGION_UNREGISTER, FIELD(control_region_unregister, serial), FIELD(control_region_unregister, name)),
    ROW_FDS(MODEL_LOAD, 0, CONTROL_FDS_MAX, FIELD(control_model_load, serial), FIELD(control_model_load, name),
            FIELD(control_model_load, config), FIELD(control_model_load, versions)),
    ROW(MODEL_UNLOAD, FIELD(control_model_unload, serial), FIELD(control_model_unload, name)),
    ROW(MODEL_INDEX, FIELD(control_model_index, serial)),
    ROW(MODEL_NOTE, FIELD(control_model_note, name), FIELD(control_model_note, version),
        FIELD(control_model_note, kept), FIELD(control_model_note, reason)),
    ROW(MODEL_CONTROL_DONE, FIELD(control_model_control_done, serial), FIELD(control_model_control_done, status),
        FIELD(control_model_control_done, text)),
    ROW_FDS(WORKER_START, 0, 2, FIELD(control_worker_start, worker), FIELD(control_worker_start, model),
            FIELD(control_worker_start, name), FIELD(control_worker_start, version), FIELD(control_worker_start, path),
            FIELD(control_worker_start, folder), FIELD(control_worker_start, config),
            FIELD(control_worker_start, options), FIELD(control_worker_start, engine),
            FIELD(control_worker_start, device), FIELD(control_worker_start, threads),
            FIELD(control_worker_start, instances), FIELD(control_worker_start, max_batch),
            FIELD(control_worker_start, cores), FIELD(control_worker_start, has_file),
            FIELD(control_worker_start, has_sim_gpu)),
    ROW_FDS(WORKER_PEER, 1, 1, FIELD(control_worker_peer, epoch)),
    EMPTY(STOP),
    ROW(LOG_SETTINGS, FIELD(control_log_settings, error), FIELD(control_log_settings, warning),
        FIELD(control_log_settings, info), FIELD(control_log_settings, iso8601),
        FIELD(control_log_settings, verbose_level)),
    ROW(OPTIONS, FIELD(control_options, options)),
    ROW(LOADED, FIELD(control_loaded, metadata)),
    ROW(WORKER_BACKENDS, FIELD(control_worker_backends, json)),
    EMPTY(READY),
    ROW(FAILED, FIELD(control_failed, status), FIELD(control_failed, message)),
    ROW(FLEET_START, FIELD(control_fleet_start, options)),
    ROW(FLEET_INVENTORY, FIELD(control_fleet_inventory, status), FIELD(control_fleet_inventory, inventory)),
    ROW(FLEET_ALIVE, FIELD(control_fleet_alive, call_ns), FIELD(control_fleet_alive, call),
        FIELD(control_fleet_alive, opening)),
    ROW(FLEET_EVENT, FIELD(control_fleet_event, uuid), FIELD(control_fleet_event, xid)),
    ROW(GPUS, FIELD(control_gpus, inventory), FIELD(control_gpus, state)),
    ROW(MPS_START, FIELD(control_mps_start, binary), FIELD(control_mps_start, uuid),
        FIELD(control_mps_start, timeout_ns)),
    ROW(MPS_QUERY, FIELD(control_mps_query, serial)),
    ROW(MPS_TERMINATE, FIELD(control_mps_terminate, client)),
    ROW(MPS_REPORT, FIELD(control_mps_report, serial), FIELD(control_mps_report, answering),
        FIELD(control_mps_report, daemon), FIELD(control_mps_report, folder), FIELD(control_mps_report, percentage),
        FIELD(control_mps_report, error), FIELD(control_mps_report, servers)),
    ROW(MPS_TERMINATED, FIELD(control_mps_terminate, client)),
};

/* Every message's struct stands at the same place of the packet: decoding needs no table of members. */
#define MESSAGE_OFFSET offsetof(struct control_packet, gateway_start)

static const struct message_type *find_type(unsigned type) {
  if (type >= CONTROL_TYPE_COUNT || message_types[type].name == NULL) return NULL;
  return &message_types[type];
}

const char *control_type_name(enum control_type type) {
  const struct message_type *found = find_type((unsigned)type);
  return found != NULL ? found->name : "UNKNOWN";
}

bool control_type_takes(enum control_type type, size_t n_fds) {
  const struct message_type *found = find_type((unsigned)type);
  return found != NULL && n_fds >= found->min_fds && n_fds <= found->max_fds;
}

struct control_log_settings control_log_settings_of(const struct log_settings *settings) {
  return (struct control_log_settings){.error = settings->error,
                                       .warning = settings->warning,
                                       .info = settings->info,
                                       .iso8601 = settings->iso8601,
                                       .verbose_level = settings->verbose_level};
}

struct log_settings control_log_settings_take(const struct control_log_settings *message) {
  return (struct log_settings){.error = message->error,
                               .warning = message->warning,
                               .info = message->info,
                               .iso8601 = message->iso8601,
                               .verbose_level = message->verbose_level};
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

mu_status control_encode(enum control_type type, const void *message, struct buffer *out) {
  const struct message_type *row = find_type((unsigned)type);
  if (row == NULL || (message == NULL && row->n_fields > 0)) return MU_INVALID;
  size_t start = out->size;
  uint16_t header[2] = {CONTROL_VERSION, (uint16_t)type};
  mu_status status = buffer_append(out, header, sizeof header);
  if (status == MU_OK) status = fields_put(row->fields, row->n_fields, message, out);
  if (status == MU_OK && out->size - start > CONTROL_PACKET_MAX) status = MU_TOO_LARGE;
  if (status != MU_OK) out->size = start;
  return status;
}

mu_status control_decode_taken(void *bytes, size_t size, struct control_packet *ret_packet) {
  uint16_t header[2];
  struct control_packet packet = {.memory = bytes};
  mu_status status = MU_INVALID;
  if (size < sizeof header || size > CONTROL_PACKET_MAX) goto fail;
  memcpy(header, bytes, sizeof header);
  const struct message_type *row = find_type(header[1]);
  if (header[0] != CONTROL_VERSION || row == NULL) goto fail;
  packet.type = (enum control_type)header[1];
  struct field_reader reader = {(const char *)bytes + sizeof header, (const char *)bytes + size};
  status = fields_take(&reader, row->fields, row->n_fields, (char *)&packet + MESSAGE_OFFSET);
  if (status == MU_OK && reader.at != reader.end) status = MU_INVALID;
  if (status != MU_OK) goto fail;
  *ret_packet = packet;
  return MU_OK;

fail:
  free(bytes);
  return status;
}

mu_status control_decode(const void *bytes, size_t size, struct control_packet *ret_packet) {
  if (size == 0 || size > CONTROL_PACKET_MAX) return MU_INVALID;
  void *copy = malloc(size);
  if (copy == NULL) return MU_NO_MEMORY;
  memcpy(copy, bytes, size);
  return control_decode_taken(copy, size, ret_packet);
}

void control_packet_free(struct control_packet *packet) {
  for (size_t i = 0; i < packet->n_fds; i++)
    if (packet->fds[i] >= 0) close(packet->fds[i]);
  packet->n_fds = 0;
  free(packet->memory);
  packet->memory = NULL;
}
