#include "mps/mps.h"

#include <inttypes.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "control/message.h"
#include "gpu/mps.h"
#include "mps/keeper.h"

enum { SERVERS_MAX = 16, CLIENTS_MAX = 256 };
static const uint64_t look_ns = 2 * NS_PER_S, retry_ns = 100 * NS_PER_MS, start_poll_ns = 20 * NS_PER_MS;

/* ---- orders ------------------------------------------------------------------------------------------------------ */

static void obey(struct keeper *keeper) {
  struct control_packet packet = {.n_fds = 0};
  mu_error err;
  if (control_receive(keeper->control, &packet, &err) != MU_OK) {
    keeper->abandoned = true;
    return;
  }
  if (packet.type == CONTROL_STOP) {
    keeper->stop = true;
  } else if (packet.type == CONTROL_MPS_QUERY) {
    keeper->asked = packet.mps_query.serial;
  } else if (packet.type == CONTROL_MPS_TERMINATE) {
    /* one that finds no place is killed without this: the supervisor does not wait long for it */
    if (keeper->n_clients < KEEPER_ORDERS_MAX) keeper->clients[keeper->n_clients++] = packet.mps_terminate.client;
  } else if (packet.type == CONTROL_LOG_SETTINGS) {
    const struct log_settings settings = control_log_settings_take(&packet.log_settings);
    log_apply(&settings);
  } else {
    LOG_ERROR("the supervisor sent a message that is not for the keeper of an MPS daemon",
              LOG_STR("message", control_type_name(packet.type)));
    keeper->abandoned = true;
  }
  control_packet_free(&packet);
}

bool keeper_wait(struct keeper *keeper, int fd, uint64_t until_ns) {
  struct pollfd fds[] = {{fd, POLLIN, 0},
                         {keeper->abandoned ? -1 : keeper->control, POLLIN, 0},
                         {keeper->daemon > 0 ? keeper->daemon_fd : -1, POLLIN, 0}};
  uint64_t now = clock_now_ns();
  int ms = until_ns > now ? (int)((until_ns - now) / NS_PER_MS) + 1 : 0;
  if (poll(fds, sizeof fds / sizeof fds[0], ms) <= 0) return false;
  if (fds[1].revents != 0) obey(keeper);
  if (fds[2].revents != 0) keeper_check_daemon(keeper);
  return fds[0].revents != 0;
}

/* ---- to the supervisor ------------------------------------------------------------------------------------------- */

/* daemon: 0: it goes. servers: JSON; NULL: nobody knows. */
static void report(struct keeper *keeper, uint64_t serial, pid_t daemon, const char *servers) {
  const struct control_mps_report message = {
      .serial = serial,
      .answering = servers != NULL,
      .daemon = daemon,
      .folder = keeper->folder,
      .percentage = (uint32_t)(keeper->percentage + 0.5),
      .error = keeper->error,
      .servers = {servers != NULL ? servers : "", servers != NULL ? strlen(servers) : 0},
  };
  mu_error err;
  if (control_send(keeper->control, CONTROL_MPS_REPORT, &message, NULL, 0, &err) != MU_OK) keeper->abandoned = true;
}

/* ---- looking ----------------------------------------------------------------------------------------------------- */

/* Process numbers that the daemon answers with. As keeper_command and mps_read_pids. */
static mu_status ask_pids(struct keeper *keeper, const char *command, int32_t *ret_pids, size_t max, size_t *ret_n,
                          mu_error *err) {
  struct buffer answer;
  buffer_init(&answer, KEEPER_ANSWER_MAX);
  mu_status status = keeper_command(keeper, command, &answer, err);
  if (status == MU_OK) status = mps_read_pids(command, answer.data, answer.size, ret_pids, max, ret_n, err);
  buffer_free(&answer);
  return status;
}

static mu_status ask_clients(struct keeper *keeper, int32_t server, int32_t clients[CLIENTS_MAX], size_t *ret_n,
                             mu_error *err) {
  char command[48];
  snprintf(command, sizeof command, "get_client_list %" PRId32, server);
  return ask_pids(keeper, command, clients, CLIENTS_MAX, ret_n, err);
}

static mu_status ask_percentage(struct keeper *keeper, mu_error *err) {
  static const char command[] = "get_default_active_thread_percentage";
  struct buffer answer;
  char text[100];
  buffer_init(&answer, KEEPER_ANSWER_MAX);
  mu_status status = keeper_command(keeper, command, &answer, err);
  if (status == MU_OK && !mps_read_percentage(answer.data, answer.size, &keeper->percentage)) {
    mps_quote(answer.data, answer.size, text, sizeof text);
    status = mu_fail(err, MU_UNAVAILABLE, "the MPS daemon answers %s with \"%s\"", command, text);
  }
  buffer_free(&answer);
  return status;
}

static bool add_server(json_t *servers, int32_t pid, const int32_t *clients, size_t n_clients) {
  json_t *list = json_array(), *server = json_object();
  bool added = json_object_set_new(server, "pid", json_integer(pid)) == 0;
  for (size_t k = 0; k < n_clients; k++) added = json_array_append_new(list, json_integer(clients[k])) == 0 && added;
  added = json_object_set_new(server, "clients", list) == 0 && added;
  return json_array_append_new(servers, server) == 0 && added;
}

/* [{"pid": …, "clients": [pid, …]}, …] into servers, an array. All of it, or a failure: whoever is missing runs
 * without MPS. */
static mu_status look_at_servers(struct keeper *keeper, json_t *servers, mu_error *err) {
  int32_t pids[SERVERS_MAX], clients[CLIENTS_MAX];
  size_t n_servers = 0;
  mu_status status = ask_pids(keeper, "get_server_list", pids, SERVERS_MAX, &n_servers, err);
  for (size_t i = 0; status == MU_OK && i < n_servers; i++) {
    size_t n_clients = 0;
    status = ask_clients(keeper, pids[i], clients, &n_clients, err);
    if (status == MU_OK && !add_server(servers, pids[i], clients, n_clients))
      status = mu_fail(err, MU_NO_MEMORY, "no memory for the clients of the MPS daemon");
  }
  return status;
}

static void look(struct keeper *keeper) {
  uint64_t serial = keeper->asked;
  mu_error err;
  json_t *servers = json_array();
  mu_status status = look_at_servers(keeper, servers, &err);
  char *text = status == MU_OK ? json_dumps(servers, JSON_COMPACT) : NULL;
  json_decref(servers);
  /* A daemon that ended meanwhile was asked for nothing: its end is the reason, not what became of the question. */
  if (status == MU_CANCELED || keeper_check_daemon(keeper)) {
    free(text);
    return;
  }
  if (text != NULL) {
    keeper->failures = 0;
    keeper->error[0] = '\0';
  } else {
    keeper->failures++;
    snprintf(keeper->error, sizeof keeper->error, "%s", status == MU_OK ? "no memory for the answer" : err.message);
    LOG_WARNING("the MPS daemon does not answer", LOG_STR("error", keeper->error), LOG_INT("times", keeper->failures));
  }
  report(keeper, serial, keeper->daemon, text);
  free(text);
  keeper_trim_logs(keeper);
}

/* ---- terminating a client ---------------------------------------------------------------------------------------- */

/* The server that it is a client of; 0: none. */
static mu_status find_server(struct keeper *keeper, int32_t client, int32_t *ret_server, mu_error *err) {
  int32_t servers[SERVERS_MAX], clients[CLIENTS_MAX];
  size_t n_servers = 0, n_clients = 0;
  *ret_server = 0;
  mu_status status = ask_pids(keeper, "get_server_list", servers, SERVERS_MAX, &n_servers, err);
  for (size_t i = 0; status == MU_OK && i < n_servers; i++) {
    status = ask_clients(keeper, servers[i], clients, &n_clients, err);
    for (size_t k = 0; status == MU_OK && k < n_clients; k++)
      if (clients[k] == client) *ret_server = servers[i];
  }
  return status;
}

static void terminate(struct keeper *keeper, int32_t client) {
  int32_t server;
  char command[64];
  struct buffer answer;
  mu_error err;
  buffer_init(&answer, KEEPER_ANSWER_MAX);
  mu_status status = find_server(keeper, client, &server, &err);
  if (status == MU_OK && server != 0) {
    snprintf(command, sizeof command, "terminate_client %" PRId32 " %" PRId32, server, client);
    status = keeper_command(keeper, command, &answer, &err);
  }
  buffer_free(&answer);
  if (status != MU_OK)
    LOG_WARNING("an MPS client is killed without having been terminated", LOG_INT("pid", client),
                LOG_STR("error", err.message));
  const struct control_mps_terminate done = {client};
  if (control_send(keeper->control, CONTROL_MPS_TERMINATED, &done, NULL, 0, &err) != MU_OK) keeper->abandoned = true;
}

/* ---- its life ---------------------------------------------------------------------------------------------------- */

static bool goes_on(const struct keeper *keeper) { return !keeper->stop && !keeper->abandoned && keeper->daemon > 0; }

static mu_status receive_start(struct keeper *keeper, mu_error *err) {
  struct control_packet packet = {.n_fds = 0};
  mu_status status = control_receive(keeper->control, &packet, err);
  if (status != MU_OK) return status;
  const struct control_mps_start *start = &packet.mps_start;
  if (packet.type == CONTROL_MPS_START) {
    keeper->binary = strdup(start->binary);
    keeper->timeout_ns = start->timeout_ns;
    if (keeper->binary == NULL || setenv("CUDA_VISIBLE_DEVICES", start->uuid, 1) != 0)
      status = mu_fail(err, MU_NO_MEMORY, "no memory to start a daemon");
  } else {
    status = mu_fail(err, MU_INVALID, "the first message is not the start");
  }
  control_packet_free(&packet);
  return status;
}

/* It is there when it answers. */
static mu_status await_answer(struct keeper *keeper, mu_error *err) {
  uint64_t until_ns = clock_now_ns() + 2 * keeper->timeout_ns;
  for (;;) {
    mu_status status = ask_percentage(keeper, err);
    if (status == MU_OK || !goes_on(keeper)) return status;
    if (clock_now_ns() >= until_ns) return status;
    keeper_wait(keeper, -1, clock_now_ns() + start_poll_ns);
    if (!goes_on(keeper)) return mu_fail(err, MU_CANCELED, "%s", keeper->error);
  }
}

static void serve(struct keeper *keeper) {
  uint64_t answered = 0, next_ns = 0;
  while (goes_on(keeper)) {
    if (keeper->n_clients > 0) {
      terminate(keeper, keeper->clients[--keeper->n_clients]);
    } else if (keeper->asked > answered || clock_now_ns() >= next_ns) {
      answered = keeper->asked;
      look(keeper);
      next_ns = clock_now_ns() + (keeper->failures == 0 ? look_ns : retry_ns);
      if (keeper->failures >= KEEPER_FAILURES_MAX) return;
    } else {
      keeper_wait(keeper, -1, next_ns);
    }
  }
}

static mu_status begin(struct keeper *keeper, mu_error *err) {
  mu_status status = receive_start(keeper, err);
  if (status == MU_CANCELED) keeper->abandoned = true;
  if (status != MU_OK) return status;
  keeper_tidy();
  status = keeper_start_daemon(keeper, err);
  if (status != MU_OK) return status;
  report(keeper, 0, keeper->daemon, NULL); /* where the folder is */
  return await_answer(keeper, err);
}

static void live(struct keeper *keeper) {
  mu_error err = {{0}};
  if (begin(keeper, &err) == MU_OK)
    serve(keeper);
  else if (keeper->error[0] == '\0')
    snprintf(keeper->error, sizeof keeper->error, "%s", err.message);
}

int mps_main(int control) {
  static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
  struct keeper keeper = {.control = control, .daemon_fd = -1};
  for (size_t i = 0; i < sizeof ignored / sizeof ignored[0]; i++) signal(ignored[i], SIG_IGN);
  prctl(PR_SET_PDEATHSIG, 0); /* the end of the control socket says it: there is something to tidy up */
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_NAME, "muster-mps");
  live(&keeper);
  bool asked = keeper.stop || keeper.abandoned;
  if (!asked) {
    LOG_ERROR("no MPS any more", LOG_STR("error", keeper.error));
    report(&keeper, 0, 0, NULL); /* before its clients see it */
  }
  keeper_end_daemon(&keeper);
  free(keeper.binary);
  return asked ? EXIT_SUCCESS : EXIT_FAILURE;
}
