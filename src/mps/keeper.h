/* What the keeper of one daemon knows. Private to mps/; one process, one thread. */
#ifndef MPS_KEEPER_H
#define MPS_KEEPER_H

#include <sys/types.h>

#include "base/buffer.h"
#include "base/clock.h"
#include "base/status.h"

/* The daemon's sockets have names like FOLDER/pipe/control_privileged, and an address of a socket at most 107 bytes. */
enum { KEEPER_FOLDER_SIZE = 108 - sizeof "/pipe/control_privileged" + 1, KEEPER_PATH_SIZE = KEEPER_FOLDER_SIZE + 24 };
enum { KEEPER_ORDERS_MAX = 64, KEEPER_ANSWER_MAX = 64 << 10, KEEPER_LOG_MAX = 4 << 20 };
/* So many looks in a row that come to nothing: the daemon does not answer any more, and another one is better. */
enum { KEEPER_FAILURES_MAX = 3 };
/* What was killed and is not gone after this is stuck in the kernel. */
#define KEEPER_KILL_NS (2 * NS_PER_S)
/* In the environment of the daemon and of all that it starts: whose they are. */
#define KEEPER_FOLDER_VARIABLE "MUSTER_ROLE_MPS_FOLDER"
/* What the daemon prints, in the folder. */
#define KEEPER_OUTPUT "output"

struct keeper {
  int control;
  char *binary;
  uint64_t timeout_ns;                /* of one command */
  char folder[KEEPER_FOLDER_SIZE];    /* "": none yet */
  int folder_fd;                      /* its lock */
  char error[512];                    /* why it ends, or why nothing is known */
  double percentage;                  /* the default one of active threads; 0: not known */
  pid_t daemon;                       /* 0: none */
  int daemon_fd;                      /* its pidfd */
  uint32_t failures;                  /* looks in a row that came to nothing */
  uint64_t asked;                     /* the supervisor's last question */
  int32_t clients[KEEPER_ORDERS_MAX]; /* that it wants terminated */
  size_t n_clients;
  bool stop;      /* the supervisor said so … */
  bool abandoned; /* … or is gone */
};

/* ---- folder.c ---------------------------------------------------------------------------------------------------- */

/* Makes keeper->folder and locks it. MU_IO. */
MUST_CHECK mu_status keeper_make_folder(struct keeper *keeper, mu_error *err);
/* With all that is in it. */
void keeper_remove_folder(struct keeper *keeper);
/* Folders, and processes, of keepers that were killed. */
void keeper_tidy(void);
/* Kills all children, what they have started, and whatever was started for that folder; waits for their ends,
 * KEEPER_KILL_NS at most. */
void keeper_end_processes(const char *folder);
/* NVIDIA's logs grow with every question: those past KEEPER_LOG_MAX begin anew. */
void keeper_trim_logs(const struct keeper *keeper);

/* ---- daemon.c ---------------------------------------------------------------------------------------------------- */

/* Makes the folder and starts the daemon in it; MU_IO, MU_NO_MEMORY. */
MUST_CHECK mu_status keeper_start_daemon(struct keeper *keeper, mu_error *err);
/* Has it ended? Then keeper->daemon is 0 and keeper->error says how. */
bool keeper_check_daemon(struct keeper *keeper);
/* Ends it and everything that it has started, and removes the folder. */
void keeper_end_daemon(struct keeper *keeper);

/* ---- command.c --------------------------------------------------------------------------------------------------- */

/* Gives the daemon one command and appends its answer to out. MU_TIMEOUT: none in time; MU_CANCELED: the daemon has
 * ended or the keeper is to stop; MU_UNAVAILABLE: it was refused (the message is what the program says); MU_IO,
 * MU_TOO_LARGE. Orders that arrive meanwhile are noted. */
MUST_CHECK mu_status keeper_command(struct keeper *keeper, const char *command, struct buffer *out, mu_error *err);
/* In a child between fork and exec: its own process group, so that the terminal's signals do not reach it, signals as
 * they are by default, and its end with that of parent. Leaves on failure. */
void keeper_child_begin(pid_t parent);

/* ---- mps.c ------------------------------------------------------------------------------------------------------- */

/* Waits until fd can be read (-1: nothing but the rest), an order has come or the daemon has ended; orders are noted.
 * true: fd can be read. */
bool keeper_wait(struct keeper *keeper, int fd, uint64_t until_ns);

#endif
