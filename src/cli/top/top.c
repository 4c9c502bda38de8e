#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cli/command.h"
#include "cli/top/terminal.h"
#include "cli/top/view.h"

static const double interval_usual = 2, interval_least = 0.1, interval_most = 3600;

/* Wide enough for names; whoever reads it cuts what is too long. */
enum { ONCE_WIDTH = 100 };

/* Removes --interval N or --interval=N. false: that is no interval. */
static bool take_interval(int *argc, char **argv, double *ret_seconds) {
  static const char flag[] = "--interval";
  for (int i = 0; i < *argc && strcmp(argv[i], "--") != 0; i++) {
    size_t length = sizeof flag - 1;
    if (strncmp(argv[i], flag, length) != 0 || (argv[i][length] != '\0' && argv[i][length] != '=')) continue;
    int taken = argv[i][length] == '=' ? 1 : 2;
    const char *text = taken == 1 ? argv[i] + length + 1 : argv[i + 1];
    char *end = NULL;
    double seconds = text != NULL ? strtod(text, &end) : 0;
    if (text == NULL || end == text || *end != '\0' || !(seconds >= interval_least && seconds <= interval_most))
      return false;
    *ret_seconds = seconds;
    memmove(&argv[i], &argv[i + taken], (size_t)(*argc - i - taken + 1) * sizeof *argv); /* with the NULL at the end */
    *argc -= taken;
    return true;
  }
  return true;
}

static void wait_seconds(double seconds) {
  struct timespec rest = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
  while (nanosleep(&rest, &rest) != 0 && errno == EINTR) continue;
}

/* Rates need two looks. */
static mu_status print_once(const struct options *options, double interval, struct buffer *out, mu_error *err) {
  struct top_sample before, sample;
  struct top_page page = {.lines = NULL};
  struct top_screen screen = {.width = ONCE_WIDTH, .interval = interval};
  top_take(options, &before);
  if (!before.reached) {
    mu_status status = mu_fail(err, MU_NOT_FOUND, "%s", before.error);
    top_sample_free(&before);
    return status;
  }
  wait_seconds(interval);
  top_take(options, &sample);
  top_compare(&before, &sample);
  mu_status status = sample.reached ? MU_OK : mu_fail(err, MU_NOT_FOUND, "%s", sample.error);
  if (status == MU_OK && top_render(&sample, &screen, &page) != MU_OK)
    status = mu_fail(err, MU_NO_MEMORY, "no memory for the screen");
  for (size_t i = 0; status == MU_OK && i < page.n; i++) buffer_print(out, "%s\n", page.lines[i].text);
  top_page_free(&page);
  top_sample_free(&before);
  top_sample_free(&sample);
  return status;
}

static int run_once(const struct options *options, double interval) {
  struct buffer out;
  mu_error err;
  buffer_init(&out, 16 << 20);
  if (print_once(options, interval, &out, &err) == MU_OK) return command_output(&command_top, &out);
  buffer_free(&out);
  return command_fail(&command_top, COMMAND_FAILED, err.message);
}

static int run(int argc, char **argv) {
  struct options *options;
  mu_error err;
  double interval = interval_usual;
  bool once = command_take_flag(&argc, argv, "--once");
  if (!take_interval(&argc, argv, &interval))
    return command_fail(&command_top, COMMAND_USAGE, "--interval has to be seconds from 0.1 to 3600");
  int exit_status = command_load_options(&command_top, argc, argv, &options);
  if (exit_status != COMMAND_OK) return exit_status;
  if (once)
    exit_status = run_once(options, interval);
  else if (top_run_terminal(options, interval, &err) != MU_OK)
    exit_status = command_fail(&command_top, COMMAND_FAILED, err.message);
  options_free(options);
  return exit_status;
}

const struct command command_top = {
    .name = "top",
    .usage = "muster top [--once] [--interval SECONDS] [--http-port N|--control-socket PATH]",
    .summary = "Watch a running server: GPUs, models, workers, their queues, rates and latencies",
    .details =
        "Every 2 seconds, or --interval. Keys: j, k or arrows select a GPU or a worker; f fences the GPU, u unfences\n"
        "it; d drains the worker, which is then started again; s sorts, p pauses, ? helps, q quits. While no server\n"
        "answers it goes on trying. --once prints the rates of one interval and ends; exit status 1 where no server\n"
        "answers. The server is found as by muster status.",
    .run = run};
