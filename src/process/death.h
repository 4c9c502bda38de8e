/*
 * What the end of a child process means: did it cause its death itself, and how is that said. Pure but for the counter
 * of out-of-memory kills, which is read from the process's control group.
 */
#ifndef PROCESS_DEATH_H
#define PROCESS_DEATH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the supervisor had done to it before. */
enum death_wish {
  DEATH_UNASKED,
  DEATH_STOPPED,     /* told to leave, or killed because the server stops */
  DEATH_HUNG,        /* killed: a batch took too long */
  DEATH_BROKEN,      /* killed: it broke a protocol */
  DEATH_TIMEOUT,     /* killed: not ready in time */
  DEATH_UNREACHABLE, /* killed: the supervisor could not speak to it */
  DEATH_GPU,         /* killed: its GPU had a fault, or is fenced */
  DEATH_DEVICE_LOST, /* not killed: it has said that its device is lost, and leaves for that */
};

struct death_facts {
  int code, status;       /* si_code (CLD_EXITED, CLD_KILLED, CLD_DUMPED) and si_status of waitid */
  bool out_of_memory;     /* the kernel killed a process of the control group for lack of memory */
  enum death_wish wish;   /* only what was asked before it died */
  const char *wish_cause; /* of HUNG and those after it */
};

struct death {
  bool blamed; /* by DESIGN's rule: it caused its death itself */
  char why[512];
};

struct death death_judge(const struct death_facts *facts);

/* Out-of-memory kills in this process's control group (v2 or v1). */
struct oom_watch {
  int fd; /* -1: the system does not tell */
  uint64_t kills;
};
void oom_watch_open(struct oom_watch *watch);
/* true when there were kills since the last call. */
bool oom_watch_poll(struct oom_watch *watch);
void oom_watch_close(struct oom_watch *watch);

/* The number after "oom_kill " at the start of a line of a terminated text; 0 where there is none. */
uint64_t oom_kills_parse(const char *text);

#endif
