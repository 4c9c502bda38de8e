/*
 * Whose processes are there. As child subreaper the launcher gets every process whose parent has ended, so from its
 * services' trees nothing is lost; whose an orphan is, its session says, or its environment. Only a look at /proc tells
 * when the last process of a service has gone.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launch/state.h"

enum { LOOK_SOON_MS = 2, LOOK_AGAIN_MS = 50, ENVIRONMENT_MAX = 1 << 20 };

/* Children that are watched by others: they are no strays. */
static bool is_own(const struct launch *launch, pid_t pid) {
  if (launch->guard != NULL && process_pid(launch->guard) == pid) return true;
  if (launch_mps_keeps(launch, pid) || gpu_watch_keeps(launch->gpus, pid)) return true;
  list_each (link, &launch->services) {
    const struct launched *service = list_item(link, struct launched, link);
    if (service->process != NULL && process_pid(service->process) == pid) return true;
    if (service->probe != NULL && probe_pid(service->probe) == pid) return true;
  }
  return false;
}

/* Services by number, for struct process_entry.owner. */
static struct launched *service_at(const struct launch *launch, int32_t number) {
  list_each (link, &launch->services)
    if (number-- == 0) return list_item(link, struct launched, link);
  return NULL;
}

static void own_sessions(const struct launch *launch, struct process_tree *tree) {
  int32_t number = 0;
  list_each (link, &launch->services) {
    const struct launched *service = list_item(link, struct launched, link);
    for (size_t i = 0; service->session != 0 && i < tree->n; i++) {
      struct process_entry *entry = &tree->entries[i];
      if (entry->session == service->session || entry->pid == service->session || entry->pid == service->adopted)
        entry->owner = number;
    }
    number++;
  }
  process_tree_spread(tree);
}

/* Does the process write into the service's log? Many a daemon keeps that when it has nothing else of its start left.
 */
static bool writes_log(pid_t pid, const struct launched *service) {
  char path[64], target[LAUNCH_PATH_MAX];
  for (int fd = STDOUT_FILENO; fd <= STDERR_FILENO; fd++) {
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n <= 0) continue;
    target[n] = '\0';
    if (strcmp(target, service->log_path) == 0) return true;
  }
  return false;
}

/* The number of the service that the orphan is of; PROCESS_UNOWNED. text: for its environment. */
static int32_t find_owner(const struct launch *launch, pid_t pid, struct buffer *text) {
  bool named = process_environment(pid, SERVICE_VARIABLE, text);
  int32_t number = 0;
  list_each (link, &launch->services) {
    const struct launched *service = list_item(link, struct launched, link);
    if (named ? strcmp(service->plan.id, text->data) == 0 : writes_log(pid, service)) return number;
    number++;
  }
  return PROCESS_UNOWNED;
}

/* A child that nobody watches: an orphan that has come to us. */
static bool is_orphan(const struct launch *launch, const struct process_entry *entry) {
  return entry->parent == getpid() && entry->owner == PROCESS_UNOWNED && entry->state != 'Z' &&
         !is_own(launch, entry->pid);
}

/* Orphans that have left their service's session: what they were started with says whose they are. */
static void own_orphans(const struct launch *launch, struct process_tree *tree) {
  struct buffer text;
  buffer_init(&text, ENVIRONMENT_MAX);
  for (size_t i = 0; i < tree->n; i++)
    if (is_orphan(launch, &tree->entries[i])) tree->entries[i].owner = find_owner(launch, tree->entries[i].pid, &text);
  buffer_free(&text);
  process_tree_spread(tree);
}

/* Zombies that nobody else waits for. The one by which a daemon lives says how the service ended. */
static void reap(struct launch *launch, const struct process_tree *tree) {
  pid_t self = getpid();
  for (size_t i = 0; i < tree->n; i++) {
    const struct process_entry *entry = &tree->entries[i];
    siginfo_t info = {.si_pid = 0};
    if (entry->parent != self || entry->state != 'Z' || is_own(launch, entry->pid)) continue;
    if (waitid(P_PID, (id_t)entry->pid, &info, WEXITED | WNOHANG) != 0 || info.si_pid == 0) continue;
    list_each (link, &launch->services) {
      struct launched *service = list_item(link, struct launched, link);
      if (service->adopted != entry->pid) continue;
      service_end_facts(service, info.si_code, info.si_status);
    }
  }
}

/* Counts the members, and finds the one by which a daemon lives: the oldest child of ours, kept while it is there. */
static void count(struct launch *launch, const struct process_tree *tree) {
  int32_t number = 0;
  list_each (link, &launch->services) {
    struct launched *service = list_item(link, struct launched, link);
    const struct process_entry *oldest = NULL;
    bool there = false;
    service->members = 0;
    for (size_t i = 0; i < tree->n; i++) {
      const struct process_entry *entry = &tree->entries[i];
      if (entry->owner != number || entry->state == 'Z') continue;
      service->members++;
      there = there || entry->pid == service->adopted;
      if (entry->parent == getpid() && (oldest == NULL || entry->start_time < oldest->start_time)) oldest = entry;
      if (service->state == SERVICE_STOPPING && service->killing) process_entry_signal(entry, SIGKILL);
    }
    if (service->process == NULL && !there && oldest != NULL) service->adopted = oldest->pid;
    number++;
  }
}

/* The process that was started has ended, and others of the service go on. */
static void go_on_without(struct launched *service) {
  if (service->facts.code == CLD_EXITED && service->facts.status == 0) {
    service->daemonised = true;
    LOG_INFO("service has become a daemon: its processes are counted as the service",
             LOG_STR("service", service->plan.id), LOG_INT("pid", service->adopted));
    launch_changed(service->launch);
    return;
  }
  LOG_WARNING("service has died and left processes behind: ended", LOG_STR("service", service->plan.id),
              LOG_INT("processes", service->members));
  service_stop(service, STOP_JUDGE);
}

/*
 * An orphan that is on its way out: what could say whose it is has gone with its memory, and its children are not ours
 * yet. As long as one has children, a service without a process may only seem to be one.
 */
static bool is_unclear(const struct launch *launch, const struct process_tree *tree) {
  for (size_t i = 0; i < tree->n; i++) {
    if (!tree->entries[i].exiting || !is_orphan(launch, &tree->entries[i])) continue;
    for (size_t k = 0; k < tree->n; k++)
      if (tree->entries[k].parent == tree->entries[i].pid && tree->entries[k].state != 'Z') return true;
  }
  return false;
}

/* What the count means for a service; true: look again soon. */
static bool conclude(struct launched *service) {
  if (service->process != NULL || service->session == 0) return service->state == SERVICE_STOPPING;
  if (service->state == SERVICE_FAILED) return false; /* cannot be killed */
  if (service->members == 0) {
    if (service->launch->unclear || ++service->empty_looks < 2) return true;
    service_is_empty(service);
    return false;
  }
  service->empty_looks = 0;
  if (service->state == SERVICE_STOPPING) return true;
  if (!service->daemonised) go_on_without(service);
  return service->state == SERVICE_STOPPING;
}

static void on_look(uv_timer_t *timer) {
  struct launch *launch = timer->data;
  launch->look_soon = false;
  members_look(launch);
}

static mu_status read_owned(struct launch *launch, struct process_tree *ret_tree, mu_error *err) {
  mu_status status = process_tree_read(ret_tree, err);
  if (status != MU_OK) return status;
  own_sessions(launch, ret_tree);
  own_orphans(launch, ret_tree);
  return MU_OK;
}

void members_look(struct launch *launch) {
  struct process_tree tree;
  mu_error err;
  bool again = false, soon = false;
  mu_status status = read_owned(launch, &tree, &err);
  if (status != MU_OK) {
    LOG_ERROR("cannot look at the processes", LOG_STR("error", err.message));
    again = true;
  } else {
    reap(launch, &tree);
    count(launch, &tree);
    launch->unclear = is_unclear(launch, &tree);
    process_tree_free(&tree);
    list_each (link, &launch->services) {
      struct launched *service = list_item(link, struct launched, link);
      bool empty = service->process == NULL && service->session != 0 && service->members == 0;
      if (!conclude(service)) continue; /* which may have freed it */
      again = true;
      soon = soon || empty;
    }
  }
  if (soon)
    members_look_soon(launch);
  else if (again && !launch->look_soon)
    uv_timer_start(&launch->look, on_look, LOOK_AGAIN_MS, 0);
}

void members_look_soon(struct launch *launch) {
  if (launch->look_soon) return;
  launch->look_soon = true;
  uv_timer_start(&launch->look, on_look, LOOK_SOON_MS, 0);
}

/* The session's group has had its signal; twice would be a second Ctrl-C for some. */
static bool had_signal(const struct launched *service, pid_t pid) {
  return service->grouped && getpgid(pid) == service->session;
}

void members_signal_due(struct launch *launch, int signal) {
  struct process_tree tree;
  mu_error err;
  list_each (link, &launch->services) {
    struct launched *service = list_item(link, struct launched, link);
    /* at once, also what is being forked just now; it has no group yet when it has only just been started */
    if (service->signal_due) service->grouped = service->session != 0 && kill(-service->session, signal) == 0;
  }
  mu_status status = read_owned(launch, &tree, &err);
  if (status != MU_OK) LOG_ERROR("cannot look at the processes", LOG_STR("error", err.message));
  for (size_t i = 0; status == MU_OK && i < tree.n; i++) {
    const struct process_entry *entry = &tree.entries[i];
    const struct launched *service =
        entry->owner != PROCESS_UNOWNED && entry->state != 'Z' ? service_at(launch, entry->owner) : NULL;
    if (service != NULL && service->signal_due && !had_signal(service, entry->pid)) process_entry_signal(entry, signal);
  }
  if (status == MU_OK) process_tree_free(&tree);
  list_each (link, &launch->services) list_item(link, struct launched, link)->signal_due = false;
}

void members_visit(struct launch *launch, void (*visit)(void *context, struct launched *service, pid_t pid),
                   void *context) {
  struct process_tree tree;
  mu_error err;
  if (read_owned(launch, &tree, &err) != MU_OK) {
    LOG_ERROR("cannot look at the processes", LOG_STR("error", err.message));
    return;
  }
  for (size_t i = 0; i < tree.n; i++)
    if (tree.entries[i].owner != PROCESS_UNOWNED && tree.entries[i].state != 'Z')
      visit(context, service_at(launch, tree.entries[i].owner), tree.entries[i].pid);
  process_tree_free(&tree);
}

void members_end_strays(const struct launch *launch) {
  struct process_tree tree;
  mu_error err;
  if (process_tree_read(&tree, &err) != MU_OK) {
    LOG_ERROR("cannot look at the processes", LOG_STR("error", err.message));
    return;
  }
  for (size_t i = 0; i < tree.n; i++)
    if (is_orphan(launch, &tree.entries[i])) tree.entries[i].owner = 0;
  process_tree_spread(&tree);
  for (size_t i = 0; i < tree.n; i++) {
    if (tree.entries[i].owner == PROCESS_UNOWNED) continue;
    LOG_WARNING("of no service that is known: killed", LOG_INT("pid", tree.entries[i].pid));
    process_entry_signal(&tree.entries[i], SIGKILL);
  }
  process_tree_free(&tree);
}
