/* The state that one supervisor hands to the next: it comes back as it was, and nothing else is believed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "supervisor/handover.h"

/* A server with two models, one of which cannot be served, three places for workers, and two gateways. */
static struct {
  struct handover_server server;
  struct handover_socket sockets[3];
  struct handover_device devices[2];
  struct handover_gateway gateways[2];
  struct handover_model models[2];
  struct handover_group groups[2];
  struct handover_worker workers[3];
  struct handover_region regions[2];
  struct handover_choice choices[2];
  struct handover_file_given given[2];
  struct handover_note notes[1];
  struct handover_gpu gpus[2];
  struct handover_xid xids[1];
  struct handover_fleet fleet[1];
  struct handover_mps mps[1];
  struct handover state;
} sample;

static int set_up(void **state) {
  memset(&sample, 0, sizeof sample);
  sample.server = (struct handover_server){.version = "0.1.0",
                                           .options = {"a\0b", 3},
                                           .started_ns = UINT64_C(1) << 60,
                                           .last_model = 9,
                                           .last_worker = 40,
                                           .last_epoch = 77,
                                           .was_ready = true,
                                           .control_socket = 5,
                                           .control_path = "/run/muster/8000.sock",
                                           .http_address = "::",
                                           .grpc_address = "127.0.0.2",
                                           .metrics_address = "127.0.0.1",
                                           .http_port = 8000,
                                           .grpc_port = 8001,
                                           .metrics_port = 65535,
                                           .n_http = 1,
                                           .n_grpc = 1,
                                           .n_metrics = 1,
                                           .gateway = 1,
                                           .upgrade_started_ns = 3,
                                           .upgrades = 2,
                                           .trace_begun = true,
                                           .trace_files = 5,
                                           .inventory = {"{}", 2}};
  for (int i = 0; i < 3; i++) sample.sockets[i].fd = 10 + i;
  sample.devices[0].name = "cpu";
  sample.devices[1].name = "gpu:0";
  sample.gateways[0] = (struct handover_gateway){1, 2, 1000, 20, 21};
  sample.gateways[1] = (struct handover_gateway){0, 3, 1001, 22, 23};
  sample.models[0] = (struct handover_model){.number = 4,
                                             .name = "magika",
                                             .version = 3,
                                             .folder = "/m/magika",
                                             .has_path = true,
                                             .path = "/m/magika/3/model.onnx",
                                             .file = 40,
                                             .text = {"max\0batch", 9},
                                             .named = true,
                                             .planned = true,
                                             .engine = "onnxruntime",
                                             .threads = 1,
                                             .overlap = true,
                                             .metadata = {"\1\2\0", 3},
                                             .state = 1,
                                             .reason = "",
                                             .was_ready = true};
  sample.models[1] =
      (struct handover_model){.number = 9, .name = "broken", .reason = "no version", .file = -1, .text = {"", 0}};
  sample.groups[0] = (struct handover_group){4, "cpu", "cpu", 2, 2};
  sample.groups[1] = (struct handover_group){4, "gpu:GPU-1", "gpu:0", 2, 1};
  for (uint32_t i = 0; i < 3; i++)
    sample.workers[i] = (struct handover_worker){.model = 4,
                                                 .place = i + (i == 2),
                                                 .number = 38 + i,
                                                 .state = 3,
                                                 .pid = 2000 + (int32_t)i,
                                                 .pidfd = 30 + 2 * (int32_t)i,
                                                 .control = 31 + 2 * (int32_t)i,
                                                 .epoch_0 = 70 + i,
                                                 .attached_1 = true,
                                                 .wish_cause = "c",
                                                 .failure = -3,
                                                 .due_ns = 99,
                                                 .reason = "killed"};
  sample.workers[2].pid = 0;
  sample.regions[0] = (struct handover_region){"a", "/k", 0, 64, true, 50};
  sample.regions[1] = (struct handover_region){"b", "/l", UINT64_C(1) << 40, 1, false, 51};
  sample.choices[0] = (struct handover_choice){"broken", {"", 0}};
  sample.choices[1] = (struct handover_choice){"magika", {"{}", 2}};
  sample.given[0] = (struct handover_file_given){1, 3, 50};
  sample.given[1] = (struct handover_file_given){1, 4, 51};
  sample.notes[0] = (struct handover_note){"ocr", 2, "unloaded"};
  sample.gpus[0] = (struct handover_gpu){"GPU-a", "NVIDIA H200", 0, 2, "Xid 95", 7, 8, 9, 1, -1};
  sample.gpus[1] = (struct handover_gpu){"GPU-b", "NVIDIA H200", 1, 0, "", 0, 0, 0, -1, 5};
  sample.fleet[0] = (struct handover_fleet){4000, 60};
  sample.xids[0] = (struct handover_xid){0, 95, 2};
  sample.mps[0] = (struct handover_mps){.uuid = "GPU-a",
                                        .label = "gpu:0",
                                        .folder = "/tmp/muster-mps-1",
                                        .error = "no device",
                                        .state = 4,
                                        .pid = 77,
                                        .pidfd = 78,
                                        .control = 79,
                                        .daemon = 80,
                                        .served = true,
                                        .restarts = 3,
                                        .asked = 81};
  sample.state =
      (struct handover){&sample.server, 1, sample.sockets, 3, sample.devices, 2, sample.gateways, 2, sample.models, 2,
                        sample.groups,  2, sample.workers, 3, sample.regions, 2, sample.choices,  2, sample.given,  2,
                        sample.notes,   1, sample.gpus,    2, sample.xids,    1, sample.fleet,    1, sample.mps,    1};
  return 0;
}

static struct buffer encode(void) {
  struct buffer out;
  buffer_init(&out, 1 << 20);
  assert_int_equal(handover_encode(&sample.state, &out), MU_OK);
  return out;
}

static mu_status decode(const void *bytes, size_t size) {
  struct handover state;
  mu_error err = {{0}};
  mu_status status = handover_decode(bytes, size, &state, &err);
  if (status == MU_OK)
    handover_free(&state);
  else
    assert_true(err.message[0] != '\0');
  return status;
}

/* What the sample is now. */
static mu_status judge(void) {
  struct buffer out = encode();
  mu_status status = decode(out.data, out.size);
  buffer_free(&out);
  return status;
}

static void comes_back(void **state) {
  struct handover_file file = {0};
  mu_error err;
  int fd = -1;
  assert_int_equal(handover_write(&sample.state, &fd, &err), MU_OK);
  assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  assert_int_equal(write(fd, "x", 1), -1); /* sealed */
  assert_int_equal(handover_open(fd, &file, &err), MU_OK);
  close(fd);
  const struct handover *got = &file.state;
  assert_int_equal(got->n_server, 1);
  assert_string_equal(got->server->control_path, sample.server.control_path);
  assert_true(got->server->started_ns == sample.server.started_ns);
  assert_int_equal(got->server->metrics_port, 65535);
  assert_string_equal(got->server->grpc_address, "127.0.0.2");
  assert_int_equal(got->server->grpc_port, 8001);
  assert_int_equal(got->server->n_grpc, 1);
  assert_true(got->server->was_ready && !got->server->settled);
  assert_int_equal(got->n_sockets, 3);
  assert_int_equal(got->sockets[2].fd, 12);
  assert_int_equal(got->n_devices, 2);
  assert_string_equal(got->devices[1].name, "gpu:0");
  assert_int_equal(got->gateways[1].control, 23);
  assert_int_equal(got->n_models, 2);
  assert_int_equal(got->models[0].text.size, 9);
  assert_memory_equal(got->models[0].text.data, "max\0batch", 9);
  assert_int_equal(got->models[0].metadata.size, 3);
  assert_string_equal(got->models[1].reason, "no version");
  assert_int_equal(got->groups[0].instances, 2);
  assert_int_equal(got->n_workers, 3);
  assert_int_equal(got->workers[1].pidfd, 32);
  assert_int_equal(got->workers[2].failure, -3);
  assert_true(got->workers[0].attached_1 && !got->workers[0].attached_0);
  assert_int_equal(got->n_regions, 2);
  assert_string_equal(got->regions[0].key, "/k");
  assert_true(got->regions[1].offset == UINT64_C(1) << 40 && !got->regions[1].writable);
  assert_int_equal(got->regions[1].fd, 51);
  assert_int_equal(got->n_choices, 2);
  assert_string_equal(got->choices[1].name, "magika");
  assert_int_equal(got->choices[1].config.size, 2);
  assert_true(got->n_given == 2 && got->given[1].version == 4 && got->given[1].fd == 51);
  assert_true(got->n_notes == 1 && got->notes[0].version == 2);
  assert_int_equal(got->n_gpus, 2);
  assert_string_equal(got->gpus[0].reason, "Xid 95");
  assert_true(got->gpus[0].condition == 2 && got->gpus[0].energy_start_mj == -1 && got->gpus[1].index == 1);
  assert_true(got->n_mps == 1 && got->mps[0].daemon == 80 && got->mps[0].served && !got->mps[0].settling);
  assert_true(got->mps[0].state == 4 && got->mps[0].restarts == 3 && got->mps[0].asked == 81);
  assert_string_equal(got->mps[0].folder, "/tmp/muster-mps-1");
  assert_string_equal(got->mps[0].error, "no device");
  assert_true(got->n_xids == 1 && got->xids[0].xid == 95 && got->xids[0].count == 2);
  handover_close(&file);
  handover_close(&file);
}

static void another_version_is_named(void **state) {
  struct buffer out = encode();
  struct handover got;
  mu_error err;
  ((uint32_t *)(void *)out.data)[1]++;
  assert_int_equal(handover_decode(out.data, out.size, &got, &err), MU_UNSUPPORTED);
  assert_non_null(strstr(err.message, "version"));
  ((uint32_t *)(void *)out.data)[1]--;
  ((uint32_t *)(void *)out.data)[2]--;
  assert_int_equal(handover_decode(out.data, out.size, &got, &err), MU_UNSUPPORTED);
  assert_non_null(strstr(err.message, "control messages"));
  buffer_free(&out);
}

static void every_cut_is_refused(void **state) {
  struct buffer out = encode();
  for (size_t size = 0; size < out.size; size++) {
    char *exact = malloc(size + 1); /* so that a sanitizer sees a read past the end */
    assert_non_null(exact);
    memcpy(exact, out.data, size);
    exact = realloc(exact, size > 0 ? size : 1);
    assert_int_equal(decode(exact, size), MU_INVALID);
    free(exact);
  }
  assert_int_equal(buffer_putc(&out, 'x'), MU_OK);
  assert_int_equal(decode(out.data, out.size), MU_INVALID);
  buffer_free(&out);
}

/* Whatever byte is wrong: no crash, no leak. */
static void no_byte_is_trusted(void **state) {
  struct buffer out = encode();
  static const uint8_t values[] = {0, 1, 0x7f, 0x80, 0xff};
  for (size_t at = 0; at < out.size; at++) {
    char before = out.data[at];
    for (size_t i = 0; i < sizeof values; i++) {
      out.data[at] = (char)values[i];
      (void)!decode(out.data, out.size);
    }
    out.data[at] = before;
  }
  assert_int_equal(decode(out.data, out.size), MU_OK);
  buffer_free(&out);
}

static void what_contradicts_itself_is_refused(void **state) {
#define REFUSED(change)                    \
  do {                                     \
    set_up(state);                         \
    assert_int_equal(judge(), MU_OK);      \
    change;                                \
    assert_int_equal(judge(), MU_INVALID); \
  } while (0)
  REFUSED(sample.state.n_server = 0);
  REFUSED(sample.state.n_sockets = 2);
  REFUSED(sample.server.n_http = UINT32_MAX);
  REFUSED(sample.server.n_grpc = 2);
  REFUSED(sample.server.grpc_port = 65536);
  REFUSED(sample.server.http_port = 65536);
  REFUSED(sample.server.gateway = 2);
  REFUSED(sample.server.control_socket = -1);
  REFUSED(sample.sockets[1].fd = 2);
  REFUSED(sample.state.n_gateways = 0);
  REFUSED(sample.gateways[1].slot = 1);
  REFUSED(sample.gateways[0].slot = 7);
  REFUSED(sample.gateways[0].pid = 1);
  REFUSED(sample.gateways[0].pidfd = 0);
  REFUSED(sample.models[1].number = 4);
  REFUSED(sample.models[1].number = 10);
  REFUSED(sample.models[1].planned = true);
  REFUSED(sample.groups[0].processes = 0);
  REFUSED(sample.models[0].file = 0);
  REFUSED(sample.models[1].file = -2);
  REFUSED(sample.groups[1].model = 5);
  REFUSED(sample.groups[1].instances = 0);
  REFUSED(sample.workers[0].model = 5);
  REFUSED(sample.workers[0].place = 4);
  REFUSED(sample.workers[0].place = 1);
  REFUSED(sample.workers[0].number = 41);
  REFUSED(sample.workers[0].pid = -2000);
  REFUSED(sample.workers[0].control = 1);
  REFUSED(sample.regions[0].fd = 2);
  REFUSED(sample.regions[0].name = "");
  REFUSED(sample.regions[0].byte_size = 0);
  REFUSED(sample.regions[1].byte_size = INT64_MAX);
  REFUSED(sample.regions[1].offset = UINT64_MAX);
  REFUSED(sample.choices[1].name = "broken");
  REFUSED(sample.given[0].choice = 2);
  REFUSED(sample.given[0].choice = 0); /* which has no configuration */
  REFUSED(sample.given[1].version = 0);
  REFUSED(sample.given[1].fd = 2);
  REFUSED(sample.gpus[0].uuid = "");
  REFUSED(sample.gpus[1].uuid = "GPU-a");
  REFUSED(sample.xids[0].gpu = 2);
  REFUSED(sample.fleet[0].pid = 1);
  REFUSED(sample.fleet[0].pidfd = 2);
  REFUSED(sample.mps[0].uuid = "");
  REFUSED(sample.mps[0].pidfd = 2);
#undef REFUSED
}

static void other_files_are_refused(void **state) {
  struct handover_file file;
  mu_error err;
  char text[] = "a file of somebody else";
  int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  assert_int_equal(write(fd, text, sizeof text), sizeof text);
  assert_int_equal(handover_open(fd, &file, &err), MU_INVALID); /* it could still change */
  assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW), 0);
  assert_int_equal(handover_open(fd, &file, &err), MU_INVALID);
  close(fd);
  assert_int_equal(handover_open(STDIN_FILENO, &file, &err), MU_INVALID);
  assert_int_equal(handover_open(-1, &file, &err), MU_INVALID);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(comes_back, set_up),
      cmocka_unit_test_setup(another_version_is_named, set_up),
      cmocka_unit_test_setup(every_cut_is_refused, set_up),
      cmocka_unit_test_setup(no_byte_is_trusted, set_up),
      cmocka_unit_test_setup(what_contradicts_itself_is_refused, set_up),
      cmocka_unit_test_setup(other_files_are_refused, set_up),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
