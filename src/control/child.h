/*
 * A child process in a role of this binary, with the link to it: started by fork and exec of /proc/self/exe.
 *
 * In the child: fd 3 is its end of the control socket, every other fd but 0 to 2 is closed by exec; standard input is
 * /dev/null; SIGINT, SIGTERM and SIGHUP are ignored (the terminal and systemd send them to the whole group, but only
 * the supervisor acts on them), SIGPIPE stays ignored; it is killed when its parent dies.
 * The parent is the supervisor, or `muster launch` (roles `mps` and `fleet`). All of it on the parent's one loop.
 */
#ifndef CONTROL_CHILD_H
#define CONTROL_CHILD_H

#include "base/log.h"
#include "control/link.h"
#include "process/process.h"

struct child_spec {
  const char *title; /* argv[0]: "muster: worker magika/1 cpu" */
  const char *role;  /* "worker" */
  struct log_settings log;
  enum log_format log_format;     /* text or JSON */
  int output;                     /* its standard error, and output; 0: this process's */
  const char *const *environment; /* "NAME=VALUE" … NULL: instead of what this process has; NULL: nothing */
};

/* All may call any function below. */
struct child_events {
  /* As control_link_events. */
  void (*message)(void *context, struct control_packet *packet);
  /* It can be spoken to no more, and nearly always its end follows. NULL: that will do. */
  void (*lost)(void *context, const mu_error *err);
  /* It has ended, its last messages were delivered, and the child is zeroed again: another may be started in it. */
  process_ended *ended;
};

/* Part of whatever keeps it; stays where it is while it runs. Zeroed: none. */
struct child {
  struct process *process;   /* NULL: none */
  struct control_link *link; /* NULL: none, or nothing is to be said and heard any more */
  const struct child_events *events;
  void *context;
};

/* Whatever fails, nothing stays behind. MU_IO, MU_NO_MEMORY. */
MUST_CHECK mu_status child_start(struct child *child, struct net_loop *loop, const struct child_spec *spec,
                                 const struct child_events *events, void *context, mu_error *err);

/* One that is there already, started by the program that this process was before. Takes pidfd and control over, also
 * when it fails; control < 0: nothing is to be said and heard any more. As child_start. */
MUST_CHECK mu_status child_adopt(struct child *child, struct net_loop *loop, pid_t pid, int pidfd, int control,
                                 const struct child_events *events, void *context, mu_error *err);

static inline bool child_runs(const struct child *child) { return child->process != NULL; }
static inline pid_t child_pid(const struct child *child) { return process_pid(child->process); } /* one that runs */

/* As control_link_send; without a link MU_CANCELED, as when it is lost. */
MUST_CHECK mu_status child_send(struct child *child, enum control_type type, const void *message, const int *fds,
                                size_t n_fds);
/* Whether it can be handed to another program in this process: nothing waits to be sent. So can none. */
bool child_flushed(const struct child *child);

/* What another program in this process adopts it with; pid 0: there is none that it could take over. */
struct child_handle {
  pid_t pid;
  int pidfd, control;
};
struct child_handle child_give(const struct child *child);

/* Tells it to leave; where that cannot be said, it hears it by the end of the link. */
void child_stop(struct child *child);
/* Closes the link: it leaves by itself. Nothing more is heard of it but its end. */
void child_hang_up(struct child *child);
/* SIGKILL. Harmless when none runs. */
void child_kill(struct child *child);
/* Only lets go of it: neither its end nor anything else is heard of it any more. Zeroes the child. */
void child_forget(struct child *child);

/* Is "NAME=VALUE" a variable that is between systemd and its main process alone? Children do not get it. */
bool child_drops_variable(const char *entry);

#endif
