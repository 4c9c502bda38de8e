#include "cli/top/terminal.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <locale.h>
#include <ncurses.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "cli/top/view.h"

/* ---- samples, taken aside ---------------------------------------------------------------------------------------- */

/* Filled by its thread, emptied by the screen's; all but options and interval_ns under the lock. */
struct taker {
  const struct options *options;
  uint64_t interval_ns;
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t wake;
  int arrived; /* eventfd */
  bool ended;
  bool hurry; /* somebody wants to see now what has changed */
  bool full;
  struct top_sample sample;
};

static void put(struct taker *taker, const struct top_sample *sample) {
  uint64_t one = 1;
  pthread_mutex_lock(&taker->lock);
  if (taker->full) top_sample_free(&taker->sample); /* nobody looked at it */
  taker->sample = *sample;
  taker->full = true;
  pthread_mutex_unlock(&taker->lock);
  (void)!write(taker->arrived, &one, sizeof one); /* fails only where it has been told often enough */
}

/* false: the end. */
static bool pause_between(struct taker *taker) {
  uint64_t due_ns = clock_now_ns() + taker->interval_ns;
  const struct timespec due = {(time_t)(due_ns / NS_PER_S), (long)(due_ns % NS_PER_S)};
  pthread_mutex_lock(&taker->lock);
  int status = 0;
  while (!taker->ended && !taker->hurry && status != ETIMEDOUT)
    status = pthread_cond_timedwait(&taker->wake, &taker->lock, &due);
  taker->hurry = false;
  bool goes_on = !taker->ended;
  pthread_mutex_unlock(&taker->lock);
  return goes_on;
}

static void *take_samples(void *context) {
  struct taker *taker = context;
  do {
    struct top_sample sample;
    top_take(taker->options, &sample);
    put(taker, &sample);
  } while (pause_between(taker));
  return NULL;
}

static void nudge(struct taker *taker, bool end) {
  pthread_mutex_lock(&taker->lock);
  taker->ended = taker->ended || end;
  taker->hurry = true;
  pthread_cond_signal(&taker->wake);
  pthread_mutex_unlock(&taker->lock);
}

/* All signals are blocked here, so the thread gets none. */
static mu_status start_taker(struct taker *taker, mu_error *err) {
  pthread_condattr_t monotonic;
  pthread_mutex_init(&taker->lock, NULL);
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&taker->wake, &monotonic);
  pthread_condattr_destroy(&monotonic);
  taker->arrived = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (taker->arrived < 0) return mu_fail(err, MU_IO, "cannot make an eventfd: %s", strerror(errno));
  int error = pthread_create(&taker->thread, NULL, take_samples, taker);
  return error == 0 ? MU_OK : mu_fail(err, MU_NO_MEMORY, "cannot start a thread: %s", strerror(error));
}

/* It may be waiting for a server that does not answer; the process then ends without it. */
static void end_taker(struct taker *taker) {
  struct timespec due;
  nudge(taker, true);
  clock_gettime(CLOCK_REALTIME, &due);
  due.tv_sec++;
  if (pthread_timedjoin_np(taker->thread, NULL, &due) != 0) _exit(0);
  if (taker->full) top_sample_free(&taker->sample);
  close(taker->arrived);
}

/* ---- the screen -------------------------------------------------------------------------------------------------- */

struct terminal {
  struct taker taker;
  struct top_screen screen;
  struct top_page page;
  struct top_sample sample; /* what is shown */
  bool any;
  int signals; /* signalfd */
  bool over;
  mu_status status;
};

static const chtype plain_styles[] = {[TOP_PLAIN] = A_NORMAL,
                                      [TOP_TITLE] = A_BOLD,
                                      [TOP_HEADING] = A_UNDERLINE,
                                      [TOP_WARNING] = A_BOLD,
                                      [TOP_FAINT] = A_DIM};

static chtype style_of(const struct top_line *line) {
  chtype style = plain_styles[line->style];
  if (line->style == TOP_WARNING && has_colors()) style |= COLOR_PAIR(1);
  return line->selected ? style | A_REVERSE : style;
}

static void draw(struct terminal *terminal) {
  struct top_screen *screen = &terminal->screen;
  screen->height = LINES > 0 ? LINES : 24;
  screen->width = COLS > TOP_WIDTH_MAX ? TOP_WIDTH_MAX : COLS;
  erase();
  if (!terminal->any) {
    mvaddstr(0, 0, "looking for the server");
  } else {
    terminal->status = top_render(&terminal->sample, screen, &terminal->page);
    if (terminal->status != MU_OK) terminal->over = true;
  }
  for (int i = 0; terminal->any && i < (int)terminal->page.n && i < LINES; i++) {
    const struct top_line *line = &terminal->page.lines[i];
    chtype style = style_of(line);
    attrset((int)style);
    mvaddstr(i, 0, line->text);
    if (line->selected) /* the bar goes to the edge */
      for (int x = getcurx(stdscr); x < screen->width && getcury(stdscr) == i; x++) addch(' ');
  }
  attrset(A_NORMAL);
  refresh();
}

static void take_arrived(struct terminal *terminal) {
  struct taker *taker = &terminal->taker;
  struct top_sample sample;
  uint64_t n;
  (void)!read(taker->arrived, &n, sizeof n);
  pthread_mutex_lock(&taker->lock);
  bool full = taker->full;
  sample = taker->sample;
  taker->full = false;
  pthread_mutex_unlock(&taker->lock);
  if (!full) return;
  if (terminal->screen.paused && terminal->any) {
    top_sample_free(&sample);
    return;
  }
  top_compare(terminal->any ? &terminal->sample : NULL, &sample);
  top_sample_free(&terminal->sample);
  terminal->sample = sample;
  terminal->any = true;
}

/* ---- keys -------------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static void say(struct terminal *terminal, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(terminal->screen.message, sizeof terminal->screen.message, format, arguments);
  va_end(arguments);
}

/* Asks the server, and says what came of it. done: what to say then. */
static void ask(struct terminal *terminal, const char *target, const char *done) {
  char text[TOP_TEXT_SIZE];
  bool good = top_ask(terminal->taker.options, target, text);
  say(terminal, "%s", good ? done : text);
  nudge(&terminal->taker, false);
}

static void decide_gpu(struct terminal *terminal, const char *verb, const char *more, const char *done) {
  char target[512], text[TOP_TEXT_SIZE];
  const struct top_gpu *gpu = top_selected_gpu(&terminal->sample, &terminal->screen);
  if (gpu == NULL) {
    say(terminal, terminal->sample.n_gpus > 0 ? "select a GPU first (j, k)" : "this server reports no GPUs");
    return;
  }
  size_t n = (size_t)snprintf(target, sizeof target, "/gpus/%s?gpu=", verb);
  for (const char *at = gpu->uuid; *at != '\0' && n + 4 < sizeof target; at++)
    n += (size_t)snprintf(target + n, sizeof target - n, isalnum((unsigned char)*at) || *at == '-' ? "%c" : "%%%02X",
                          (unsigned char)*at);
  snprintf(target + n, sizeof target - n, "%s", more);
  snprintf(text, sizeof text, "%s is %s", gpu->uuid, done);
  ask(terminal, target, text);
}

static void on_fence(struct terminal *terminal) { decide_gpu(terminal, "fence", "&reason=muster%20top", "fenced"); }
static void on_unfence(struct terminal *terminal) { decide_gpu(terminal, "unfence", "", "unfenced"); }

static void on_drain(struct terminal *terminal) {
  char target[64], text[TOP_TEXT_SIZE];
  const struct top_worker *worker = top_selected_worker(&terminal->sample, &terminal->screen);
  if (worker == NULL) {
    say(terminal, "select a worker first (j, k)");
    return;
  }
  snprintf(target, sizeof target, "/workers/drain?worker=%" PRId64, worker->number);
  snprintf(text, sizeof text, "worker %" PRId64 " finishes what it has and is started again", worker->number);
  ask(terminal, target, text);
}

static void on_down(struct terminal *terminal) { top_move(&terminal->sample, &terminal->screen, 1); }
static void on_up(struct terminal *terminal) { top_move(&terminal->sample, &terminal->screen, -1); }
static void on_sort(struct terminal *terminal) {
  terminal->screen.sort = (enum top_sort)((terminal->screen.sort + 1) % TOP_SORTS);
}
static void on_pause(struct terminal *terminal) { terminal->screen.paused = !terminal->screen.paused; }
static void on_help(struct terminal *terminal) {
  terminal->screen.help = !terminal->screen.help;
  terminal->screen.scrolled = 0;
}
static void on_quit(struct terminal *terminal) { terminal->over = true; }
static void on_resize(struct terminal *terminal) { clear(); }

static const struct {
  int key;
  void (*run)(struct terminal *terminal);
} keys[] = {
    {'q', on_quit},    {'j', on_down},  {KEY_DOWN, on_down}, {'k', on_up},    {KEY_UP, on_up}, {'f', on_fence},
    {'u', on_unfence}, {'d', on_drain}, {'s', on_sort},      {'p', on_pause}, {'?', on_help},  {KEY_RESIZE, on_resize},
};

/* All that were pressed; false: the terminal is gone. */
static void take_keys(struct terminal *terminal, bool readable) {
  bool any = false;
  for (int key; !terminal->over && (key = getch()) != ERR;) {
    any = true;
    terminal->screen.message[0] = '\0';
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
      if (keys[i].key == key) keys[i].run(terminal);
  }
  if (readable && !any) terminal->over = true; /* end of file */
}

static void loop(struct terminal *terminal) {
  struct pollfd waited[] = {
      {STDIN_FILENO, POLLIN, 0}, {terminal->signals, POLLIN, 0}, {terminal->taker.arrived, POLLIN, 0}};
  while (!terminal->over) {
    draw(terminal);
    if (poll(waited, sizeof waited / sizeof *waited, -1) < 0) {
      if (errno != EINTR) return;
      take_keys(terminal, false); /* SIGWINCH: a key of its own */
      continue;
    }
    if (waited[1].revents != 0) return;
    if (waited[2].revents != 0) take_arrived(terminal);
    take_keys(terminal, waited[0].revents != 0); /* also for a SIGWINCH that came while nobody waited */
  }
}

/* ---- begin and end ----------------------------------------------------------------------------------------------- */

/* Those that end the program are read as what they are, so that the terminal is restored first. */
static mu_status watch_signals(struct terminal *terminal, mu_error *err) {
  static const int ends[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
  sigset_t set, all;
  sigemptyset(&set);
  for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) sigaddset(&set, ends[i]);
  terminal->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (terminal->signals < 0) return mu_fail(err, MU_IO, "cannot watch signals: %s", strerror(errno));
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, NULL);
  mu_status status = start_taker(&terminal->taker, err);
  pthread_sigmask(SIG_SETMASK, &set, NULL);
  return status;
}

static mu_status open_screen(SCREEN **ret_screen, mu_error *err) {
  if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
    return mu_fail(err, MU_UNSUPPORTED, "this is no terminal: use --once");
  setlocale(LC_CTYPE, "");
  unsetenv("LINES"); /* where somebody has exported them, they do not change with the window */
  unsetenv("COLUMNS");
  *ret_screen = newterm(NULL, stdout, stdin);
  if (*ret_screen == NULL) {
    const char *term = getenv("TERM");
    return mu_fail(err, MU_UNSUPPORTED, "nothing is known of the terminal '%.64s' (TERM): use --once",
                   term != NULL ? term : "");
  }
  cbreak();
  noecho();
  keypad(stdscr, TRUE);
  nodelay(stdscr, TRUE);
  curs_set(0);
  set_escdelay(25);
  if (has_colors()) {
    start_color();
    use_default_colors();
    init_pair(1, COLOR_YELLOW, -1);
  }
  return MU_OK;
}

mu_status top_run_terminal(const struct options *options, double interval, mu_error *err) {
  static struct terminal terminal; /* the thread may outlive this function */
  SCREEN *screen;
  terminal.screen.interval = interval;
  terminal.taker.options = options;
  terminal.taker.interval_ns = (uint64_t)(interval * (double)NS_PER_S);
  mu_status status = open_screen(&screen, err);
  if (status != MU_OK) return status;
  status = watch_signals(&terminal, err);
  if (status == MU_OK) loop(&terminal);
  endwin();
  delscreen(screen);
  if (status != MU_OK) return status;
  end_taker(&terminal.taker);
  close(terminal.signals);
  top_page_free(&terminal.page);
  top_sample_free(&terminal.sample);
  return terminal.status == MU_OK ? MU_OK : mu_fail(err, terminal.status, "no memory for the screen");
}
