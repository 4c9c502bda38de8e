/*
 * A fake of NVIDIA's MPS control program, for nothing but tests: with -f it is the daemon, in the foreground; without
 * it commands come on standard input and go to the daemon over a socket in $CUDA_MPS_PIPE_DIRECTORY.
 *
 * $FAKE_MPS names a scenario, a JSON object that is read anew for every command:
 * - control: the control socket of the muster server, or launch, whose workers on the daemon's GPU are its clients; of
 * a launch's services that is the first child of each that has one, else the service
 * - strangers: true: the daemon has no clients, whoever runs
 * - hang: a command that is never answered
 * - linger: a command whose program closes its output and stays
 * - odd: a command that is answered with other things than process numbers
 * - refuse: what the daemon says when it cannot start
 * Every command is appended to $FAKE_MPS.commands, "UUID COMMAND" a line.
 */
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TEXT_MAX = 1 << 20 };

static const char *variable(const char *name) {
  const char *value = getenv(name);
  return value != NULL ? value : "";
}

static void fail(const char *why) {
  fprintf(stderr, "fake MPS: %s\n", why);
  exit(1);
}

/* Connected, or bound and listening. -1: it is not to be had. */
static int open_socket(const char *path, int listening) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const struct sockaddr *generic = (const struct sockaddr *)&address;
  if (fd < 0) fail("no socket");
  if (listening ? bind(fd, generic, sizeof address) == 0 && listen(fd, 16) == 0
                : connect(fd, generic, sizeof address) == 0)
    return fd;
  close(fd);
  return -1;
}

static size_t read_all(int fd, char text[TEXT_MAX]) {
  size_t size = 0;
  for (ssize_t n; size < TEXT_MAX - 1 && (n = read(fd, text + size, TEXT_MAX - 1 - size)) > 0;) size += (size_t)n;
  text[size] = '\0';
  return size;
}

static void write_all(int fd, const char *text) {
  if (write(fd, text, strlen(text)) < 0) return; /* who asked has waited long enough */
}

static json_t *scenario(void) {
  json_t *found = json_load_file(variable("FAKE_MPS"), 0, NULL);
  if (found == NULL) fail("no scenario in $FAKE_MPS");
  return found;
}

static const char *say(const json_t *said, const char *key) {
  const char *text = json_string_value(json_object_get(said, key));
  return text != NULL ? text : "";
}

/* ---- the daemon -------------------------------------------------------------------------------------------------- */

static char text[TEXT_MAX];

/* A program that a shell has started is the client, not the shell. */
static long long first_child(long long pid) {
  char path[64];
  long long child = pid;
  snprintf(path, sizeof path, "/proc/%lld/task/%lld/children", pid, pid);
  FILE *file = fopen(path, "re");
  if (file != NULL && fscanf(file, "%lld", &child) != 1) child = pid;
  if (file != NULL) fclose(file);
  return child;
}

/* A launch's services on this GPU, one process number a line, into text. */
static void list_services(const json_t *services) {
  size_t i, size = 0;
  json_t *service;
  json_array_foreach(services, i, service) {
    long long pid = (long long)json_integer_value(json_object_get(service, "pid"));
    if (pid == 0 || strcmp(say(service, "uuid"), variable("CUDA_VISIBLE_DEVICES")) != 0) continue;
    size += (size_t)snprintf(text + size, TEXT_MAX - size, "%lld\n", first_child(pid));
  }
}

/* Muster's workers on this GPU, one process number a line, into text. */
static void list_clients(const json_t *said) {
  int fd = open_socket(say(said, "control"), 0);
  if (fd < 0) fail("no muster server");
  write_all(fd, "GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  read_all(fd, text);
  close(fd);
  const char *body = strstr(text, "\r\n\r\n");
  json_t *status = body != NULL ? json_loads(body + 4, 0, NULL) : NULL, *worker;
  if (status == NULL) fail("no status");
  size_t i, size = 0;
  text[0] = '\0';
  list_services(json_object_get(status, "services"));
  json_array_foreach(json_object_get(status, "workers"), i,
                     worker) if (strcmp(say(worker, "gpu"), variable("CUDA_VISIBLE_DEVICES")) == 0 &&
                                 json_is_integer(json_object_get(worker, "pid"))) size +=
      (size_t)snprintf(text + size, TEXT_MAX - size, "%lld\n",
                       (long long)json_integer_value(json_object_get(worker, "pid")));
  json_decref(status);
}

static void log_command(const char *command) {
  char path[4096];
  snprintf(path, sizeof path, "%s.commands", variable("FAKE_MPS"));
  FILE *file = fopen(path, "ae");
  if (file == NULL) fail("no log");
  fprintf(file, "%s %s\n", variable("CUDA_VISIBLE_DEVICES"), command);
  fclose(file);
}

/* Does the scenario's key name the command? Its arguments do not count. */
static int is_named(const json_t *said, const char *key, const char *command) {
  size_t length = strcspn(command, " \n");
  return strlen(say(said, key)) == length && strncmp(say(said, key), command, length) == 0;
}

/* Into text. 0: it is not to be answered. */
static int answer(const char *command, pid_t server) {
  json_t *said = scenario();
  size_t length = strcspn(command, " ");
  int answered = !is_named(said, "hang", command);
  log_command(command);
  text[0] = '\0';
  if (strcmp(command, "get_default_active_thread_percentage") == 0) strcpy(text, "100.0\n");
  if (strcmp(command, "get_server_list") == 0) snprintf(text, TEXT_MAX, "%d\n", (int)server);
  if (strncmp(command, "get_client_list", length) == 0 && !json_is_true(json_object_get(said, "strangers")))
    list_clients(said);
  if (is_named(said, "odd", command)) strcpy(text, "17\n\033[31mNo such server\377\n");
  json_decref(said);
  return answered;
}

/* The MPS server: outlives a daemon that is killed. */
static pid_t start_server(void) {
  pid_t pid = fork();
  if (pid != 0) return pid;
  for (;;) pause();
}

static void serve(const char *path) {
  json_t *said = scenario();
  if (say(said, "refuse")[0] != '\0') {
    fprintf(stderr, "%s\n", say(said, "refuse"));
    exit(1);
  }
  json_decref(said);
  signal(SIGPIPE, SIG_IGN);
  pid_t server = start_server();
  int listener = open_socket(path, 1);
  if (listener < 0) fail("cannot listen");
  for (char command[256];;) {
    int fd = accept(listener, NULL, NULL);
    ssize_t n = fd >= 0 ? read(fd, command, sizeof command - 1) : -1;
    command[n > 0 ? n : 0] = '\0';
    command[strcspn(command, "\n")] = '\0';
    if (!answer(command, server)) continue; /* its connection stays open */
    write_all(fd, text);
    close(fd);
    if (strcmp(command, "quit") == 0) break;
  }
  kill(server, SIGKILL);
  waitpid(server, NULL, 0);
}

int main(int argc, char **argv) {
  char path[256], command[256];
  snprintf(path, sizeof path, "%s/control", variable("CUDA_MPS_PIPE_DIRECTORY"));
  if (argc == 2 && strcmp(argv[1], "-f") == 0) {
    serve(path);
    return 0;
  }
  while (fgets(command, sizeof command, stdin) != NULL) {
    int fd = open_socket(path, 0);
    if (fd < 0) {
      puts("Cannot find MPS control daemon process");
      return 1;
    }
    write_all(fd, command);
    read_all(fd, text);
    close(fd);
    fputs(text, stdout);
    json_t *said = scenario();
    if (is_named(said, "linger", command)) {
      fflush(stdout);
      close(STDOUT_FILENO);
      close(STDERR_FILENO);
      pause();
    }
    json_decref(said);
  }
  return 0;
}
