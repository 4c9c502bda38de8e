/* muster bench: what a server does under load. */
#include "base/clock.h"
#include "cli/bench/echo.h"
#include "cli/bench/payload.h"
#include "cli/bench/report.h"
#include "cli/bench/server_processes.h"
#include "cli/bench/streams.h"
#include "cli/command.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A run: one target, or two to compare; the same request for both. */
struct bench {
  struct bench_settings settings;
  struct target targets[2];
  struct buffer requests[2];
  struct buffer references[2]; /* bodies of the first replies */
  struct cpu_watch watches[2];
  size_t n_targets;
  int64_t inferences; /* in one request */
  struct load_result *round;
  uint64_t *batches_before;
  struct bench_row *rows[SETTINGS_LIST_MAX];
  size_t n_rows;
  bool streams_failed; /* no frame was answered */
  struct buffer out;
};

/* ---- what to send where ------------------------------------------------------------------------------------------ */

static mu_status find_first(struct bench *bench, char method[16], mu_error *err) {
  const struct bench_settings *settings = &bench->settings;
  struct target *target = &bench->targets[0];
  bool is_url = strstr(settings->what, "://") != NULL;
  mu_status status = MU_OK;
  if (is_url) status = target_parse(settings->what, target, err);
  if (status != MU_OK) return status;
  if (settings->raw != NULL) {
    if (!is_url || target->tcp) return mu_fail(err, MU_INVALID, "--raw wants a URL like http://host:80, not a model");
    if (sscanf(settings->raw, "%15s %639s", method, target->path) != 2 || target->path[0] != '/')
      return mu_fail(err, MU_INVALID, "--raw wants 'METHOD /PATH', not '%s'", settings->raw);
    target->model[0] = '\0';
    return MU_OK;
  }
  if (is_url && target->tcp && settings->body == NULL && settings->bytes == 0)
    return mu_fail(err, MU_INVALID, "what goes to %s? --body FILE or --bytes N", settings->what);
  bool bare = is_url && target->model[0] == '\0' && (settings->body != NULL || settings->bytes > 0) &&
              (target->tcp || target->path[0] != '\0');
  return bare ? MU_OK : target_find(settings->what, settings->url, target, err);
}

/* The same request goes there; a path or model in the URL takes the place of the first target's. */
static mu_status find_second(struct bench *bench, mu_error *err) {
  struct target *first = &bench->targets[0], *second = &bench->targets[1];
  mu_status status = target_parse(bench->settings.compare, second, err);
  if (status != MU_OK || second->path[0] != '\0') return status;
  memcpy(second->path, first->path, sizeof second->path);
  if (second->tcp) return MU_OK;
  if (first->path[0] == '\0') return mu_fail(err, MU_INVALID, "a TCP target compares with another TCP target");
  return MU_OK;
}

static mu_status make_requests(struct bench *bench, mu_error *err) {
  const struct bench_settings *settings = &bench->settings;
  const struct payload_options options = {.rows = settings->rows,
                                          .shapes = settings->shapes.items,
                                          .n_shapes = settings->shapes.n,
                                          .files = settings->files.items,
                                          .n_files = settings->files.n,
                                          .headers = settings->headers.items,
                                          .n_headers = settings->headers.n,
                                          .seed = (uint64_t)settings->seed};
  struct payload payload = {0};
  char method[16] = "POST";
  mu_status status = find_first(bench, method, err);
  bench->n_targets = settings->compare != NULL ? 2 : 1;
  if (status == MU_OK && bench->n_targets == 2) status = find_second(bench, err);
  if (status != MU_OK) return status;
  bool ready = bench->targets[0].model[0] == '\0' || settings->body != NULL || settings->bytes > 0;
  status = ready ? payload_ready(method, settings->body, (uint64_t)settings->bytes, &options, &payload, err)
                 : payload_infer(&bench->targets[0], &options, &payload, err);
  bench->inferences = ready ? settings->rows : payload.rows;
  for (size_t k = 0; status == MU_OK && k < bench->n_targets; k++)
    status = payload_print(&payload, &bench->targets[k], &bench->requests[k], err);
  payload_free(&payload);
  return status;
}

/* Whose CPU is counted: the server's processes, and this one. */
static mu_status watch_processes(struct bench *bench, mu_error *err) {
  const struct bench_settings *settings = &bench->settings;
  mu_status status = MU_OK;
  for (size_t k = 0; k < bench->n_targets && status == MU_OK; k++) {
    const struct pid_list *pids = k == 0 ? &settings->pids : &settings->compare_pids;
    for (size_t i = 0; i < pids->n && status == MU_OK; i++)
      status = cpu_watch_add(&bench->watches[k], pids->items[i], NULL, err);
    if (status == MU_OK && pids->n == 0 && !bench->targets[k].tcp)
      status = server_processes_watch(&bench->targets[k], k == 0 ? settings->control_socket : settings->compare_socket,
                                      &bench->watches[k], err);
    if (status == MU_OK) status = cpu_watch_add(&bench->watches[k], getpid(), "bench", err);
  }
  return status;
}

/* ---- one row ----------------------------------------------------------------------------------------------------- */

static void show_progress(void *context, double seconds, double rate) {
  const struct bench_row *row = context;
  fprintf(stderr, "\r\033[K%s %g: %.0f s, %.0f requests/s", row->open ? "rate" : "concurrency", row->level, seconds,
          rate);
}

static mu_status run_round(struct bench *bench, struct bench_row *row, size_t k, mu_error *err) {
  enum { NEXT_WARMUP_MS = 200 }; /* of further rounds: what is warm by then cools little */
  const struct bench_settings *settings = &bench->settings;
  struct bench_side *side = row->sides[k];
  double rounds = (double)settings->rounds, warmup_s = settings->warmup_s;
  if (side->n_rounds > 0 && warmup_s > NEXT_WARMUP_MS / 1e3) warmup_s = NEXT_WARMUP_MS / 1e3;
  uint64_t requests = (uint64_t)settings->requests / (uint64_t)settings->rounds;
  if (settings->requests > 0 && requests == 0) requests = 1;
  struct load_options options = {.connections = row->open ? (uint32_t)settings->connections : (uint32_t)row->level,
                                 .rate = row->open ? row->level : 0,
                                 .arrivals = settings->arrivals,
                                 .seed = (uint64_t)settings->seed + side->n_rounds,
                                 .warmup_ns = (uint64_t)(warmup_s * 1e9),
                                 .duration_ns = (uint64_t)(settings->duration_s / rounds * 1e9),
                                 .requests = requests,
                                 .timeout_ns = (uint64_t)(settings->timeout_s * 1e9),
                                 .reply_bytes = (uint64_t)settings->reply_bytes,
                                 .check = settings->check,
                                 .watch = &side->watch,
                                 .progress = isatty(STDERR_FILENO) ? show_progress : NULL,
                                 .context = row};
  if (settings->check || settings->save_reply != NULL) options.reference = &bench->references[k];
  mu_error ignored; /* statistics are there to be had or not: no other server has to know them */
  bool counted =
      side->target->model[0] != '\0' && target_batches(side->target, bench->batches_before, &ignored) == MU_OK;
  mu_status status = load_run(side->target, &bench->requests[k], &options, bench->round, err);
  if (options.progress != NULL) fputs("\r\033[K", stderr);
  if (status != MU_OK) return status;
  bench_side_add(side, bench->round);
  for (uint32_t i = 0; counted && i <= TARGET_BATCH_MAX; i++) side->batches[i] -= bench->batches_before[i];
  if (!counted || target_batches(side->target, bench->batches_before, &ignored) != MU_OK)
    memset(side->batches, 0, sizeof side->batches);
  for (uint32_t i = 0; counted && i <= TARGET_BATCH_MAX; i++) side->batches[i] += bench->batches_before[i];
  return MU_OK;
}

/* A B, B A, A B …: whatever drifts on the machine meets both alike. */
static mu_status run_row(struct bench *bench, struct bench_row *row, mu_error *err) {
  mu_status status = MU_OK;
  bool interrupted = false;
  for (int64_t round = 0; round < bench->settings.rounds && status == MU_OK; round++)
    for (size_t i = 0; i < row->n_sides && status == MU_OK && !interrupted; i++) {
      status = run_round(bench, row, round % 2 == 0 ? i : row->n_sides - 1 - i, err);
      interrupted = status == MU_OK && bench->round->interrupted;
    }
  return status;
}

static mu_status add_row(struct bench *bench, double level, mu_error *err) {
  struct bench_row *row = calloc(1, sizeof *row);
  if (row == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  bench->rows[bench->n_rows++] = row;
  *row = (struct bench_row){
      .level = level, .open = bench->settings.rate.n > 0, .inferences = bench->inferences, .n_sides = bench->n_targets};
  for (size_t k = 0; k < bench->n_targets; k++) {
    if ((row->sides[k] = calloc(1, sizeof *row->sides[k])) == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
    row->sides[k]->target = &bench->targets[k];
    row->sides[k]->watch = bench->watches[k];
  }
  return MU_OK;
}

/* ---- what comes out ---------------------------------------------------------------------------------------------- */

static mu_status write_file(const char *path, const char *data, size_t size, mu_error *err) {
  FILE *file = fopen(path, "we");
  if (file == NULL) return mu_fail(err, MU_IO, "%s: %s", path, strerror(errno));
  bool written = fwrite(data, 1, size, file) == size;
  return fclose(file) == 0 && written ? MU_OK : mu_fail(err, MU_IO, "%s cannot be written", path);
}

/* FILE for the only row of one target; else FILE.c16 or FILE.r100, the second target's FILE.compare. */
static mu_status write_histogram(struct bench *bench, const struct bench_row *row, size_t k, mu_error *err) {
  char path[4096], level[32] = "";
  struct buffer text;
  const struct bench_settings *settings = &bench->settings;
  if (settings->concurrency.n + settings->rate.n > 1)
    snprintf(level, sizeof level, ".%c%g", row->open ? 'r' : 'c', row->level);
  snprintf(path, sizeof path, "%s%s%s", settings->histogram, level, k == 0 ? "" : ".compare");
  buffer_init(&text, SIZE_MAX / 2);
  mu_status status = histogram_print(&row->sides[k]->result.latencies, &text);
  status =
      status == MU_OK ? write_file(path, text.data, text.size, err) : mu_fail(err, status, "no memory for %s", path);
  buffer_free(&text);
  return status;
}

static mu_status show_row(struct bench *bench, const struct bench_row *row, mu_error *err) {
  mu_status status = MU_OK;
  for (size_t k = 0; bench->settings.histogram != NULL && k < row->n_sides && status == MU_OK; k++)
    status = write_histogram(bench, row, k, err);
  if (status != MU_OK || bench->settings.json) return status;
  if (row == bench->rows[0]) report_print_head(row, &bench->out);
  report_print_row(row, &bench->out);
  fwrite(bench->out.data, 1, bench->out.size, stdout); /* each row as soon as it is known */
  fflush(stdout);
  buffer_clear(&bench->out);
  return MU_OK;
}

static mu_status sweep(struct bench *bench, mu_error *err) {
  const struct bench_settings *settings = &bench->settings;
  const struct number_list *levels = settings->rate.n > 0 ? &settings->rate : &settings->concurrency;
  bool interrupted = false;
  bench->round = calloc(1, sizeof *bench->round);
  bench->batches_before = calloc(TARGET_BATCH_MAX + 1, sizeof *bench->batches_before);
  if (bench->round == NULL || bench->batches_before == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  mu_status status = make_requests(bench, err);
  if (status == MU_OK) status = watch_processes(bench, err);
  for (size_t i = 0; i < levels->n && status == MU_OK && !interrupted; i++) {
    status = add_row(bench, levels->items[i], err);
    if (status == MU_OK) status = run_row(bench, bench->rows[i], err);
    if (status == MU_OK) status = show_row(bench, bench->rows[i], err);
    interrupted = bench->round->interrupted;
  }
  if (status == MU_OK && settings->save_reply != NULL)
    status = write_file(settings->save_reply, bench->references[0].data != NULL ? bench->references[0].data : "",
                        bench->references[0].size, err);
  if (status == MU_OK && settings->json)
    status = report_print_json((const struct bench_row *const *)bench->rows, bench->n_rows, &bench->out);
  return status;
}

/* ---- streams ----------------------------------------------------------------------------------------------------- */

static mu_status make_message(const struct payload *payload, struct buffer *out, mu_error *err) {
  for (int i = 0; i < 4; i++) buffer_putc(out, (char)(payload->json_size >> 8 * i));
  buffer_append(out, payload->body.data, payload->body.size);
  return out->failed ? mu_fail(err, MU_NO_MEMORY, "no memory for the message") : MU_OK;
}

static void print_streams(const struct bench_settings *settings, const struct streams_result *r, struct buffer *out) {
  double due = r->due > 0 ? (double)r->due : 1;
  uint64_t p50 = histogram_percentile(&r->latencies, 50), p99 = histogram_percentile(&r->latencies, 99);
  if (settings->json) {
    buffer_print(out,
                 "{\"streams\":%lld,\"fps\":%g,\"deadline_ms\":%g,\"due\":%llu,\"in_time\":%llu,\"late\":%llu,"
                 "\"dropped\":%llu,\"unsent\":%llu,\"failed\":%llu,\"open\":%llu,\"p50_us\":%llu,\"p99_us\":%llu}\n",
                 (long long)settings->streams, settings->fps, settings->deadline_s * 1e3, (unsigned long long)r->due,
                 (unsigned long long)r->in_time, (unsigned long long)r->late, (unsigned long long)r->dropped,
                 (unsigned long long)r->unsent, (unsigned long long)r->failed, (unsigned long long)r->open,
                 (unsigned long long)(p50 / NS_PER_US), (unsigned long long)(p99 / NS_PER_US));
    return;
  }
  buffer_print(out, "%lld streams at %g frames/s, deadline %g ms: %llu frames due, %.3f %% not answered in time\n",
               (long long)settings->streams, settings->fps, settings->deadline_s * 1e3, (unsigned long long)r->due,
               100 * ((double)r->due - (double)r->in_time) / due);
  buffer_print(out, "  in time %llu, late %llu, dropped %llu, unsent %llu, errors %llu, no answer %llu\n",
               (unsigned long long)r->in_time, (unsigned long long)r->late, (unsigned long long)r->dropped,
               (unsigned long long)r->unsent, (unsigned long long)r->failed, (unsigned long long)r->open);
  buffer_print(out, "  latency from when a frame was due: p50 %.2f ms, p99 %.2f ms, max %.2f ms\n", (double)p50 / 1e6,
               (double)p99 / 1e6, (double)r->latencies.max / 1e6);
  if (r->failed > 0) buffer_print(out, "  first error: %s\n", r->error);
}

static mu_status run_streams(struct bench *bench, mu_error *err) {
  const struct bench_settings *settings = &bench->settings;
  const struct payload_options options = {.rows = settings->rows,
                                          .shapes = settings->shapes.items,
                                          .n_shapes = settings->shapes.n,
                                          .files = settings->files.items,
                                          .n_files = settings->files.n,
                                          .seed = (uint64_t)settings->seed};
  struct payload payload = {0};
  struct streams_result *result = calloc(1, sizeof *result);
  if (result == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory");
  mu_status status = target_find(settings->what, settings->url, &bench->targets[0], err);
  if (status == MU_OK) status = payload_infer(&bench->targets[0], &options, &payload, err);
  if (status == MU_OK) status = make_message(&payload, &bench->requests[0], err);
  payload_free(&payload);
  const struct streams_options streams = {.streams = (uint32_t)settings->streams,
                                          .fps = settings->fps,
                                          .deadline_ns = (uint64_t)(settings->deadline_s * 1e9),
                                          .warmup_ns = (uint64_t)(settings->warmup_s * 1e9),
                                          .duration_ns = (uint64_t)(settings->duration_s * 1e9),
                                          .message = &bench->requests[0]};
  if (status == MU_OK) status = streams_run(&bench->targets[0], &streams, result, err);
  if (status == MU_OK) print_streams(settings, result, &bench->out);
  bench->streams_failed = result->in_time + result->late == 0;
  free(result);
  return status;
}

/* A server that answers nothing right has failed the test, and with --check a single wrong reply has. */
static int verdict(const struct bench *bench) {
  if (bench->streams_failed) return COMMAND_FAILED;
  for (size_t i = 0; i < bench->n_rows; i++)
    for (size_t k = 0; k < bench->rows[i]->n_sides; k++) {
      const struct bench_side *side = bench->rows[i]->sides[k];
      const struct load_result *result = &side->result;
      if (result->interrupted && result->sent == 0) continue; /* its turn did not come */
      if (result->answered == 0 || (bench->settings.check && result->failed > 0)) return COMMAND_FAILED;
    }
  return COMMAND_OK;
}

static void bench_free(struct bench *bench) {
  for (size_t k = 0; k < 2; k++) {
    buffer_free(&bench->requests[k]);
    buffer_free(&bench->references[k]);
  }
  for (size_t i = 0; i < bench->n_rows; i++) {
    free(bench->rows[i]->sides[0]);
    free(bench->rows[i]->sides[1]);
    free(bench->rows[i]);
  }
  free(bench->round);
  free(bench->batches_before);
  buffer_free(&bench->out);
  free(bench);
}

static int run(int argc, char **argv) {
  mu_error err;
  struct bench *bench = calloc(1, sizeof *bench);
  if (bench == NULL) return command_fail(&command_bench, COMMAND_FAILED, "no memory");
  for (size_t k = 0; k < 2; k++) {
    buffer_init(&bench->requests[k], SIZE_MAX / 2);
    buffer_init(&bench->references[k], SIZE_MAX / 2);
  }
  buffer_init(&bench->out, SIZE_MAX / 2);
  signal(SIGPIPE, SIG_IGN);
  int exit_status = COMMAND_OK;
  if (settings_read(argc, argv, &bench->settings, &err) != MU_OK)
    exit_status = command_fail(&command_bench, COMMAND_USAGE, err.message);
  else if (bench->settings.streams > 0 && bench->settings.echo == NULL)
    exit_status = run_streams(bench, &err) == MU_OK ? command_output(&command_bench, &bench->out)
                                                    : command_fail(&command_bench, COMMAND_FAILED, err.message);
  else if ((bench->settings.echo != NULL ? echo_serve(bench->settings.echo, (size_t)bench->settings.bytes, &err)
                                         : sweep(bench, &err)) != MU_OK)
    exit_status = command_fail(&command_bench, COMMAND_FAILED, err.message);
  else
    exit_status = command_output(&command_bench, &bench->out);
  if (exit_status == COMMAND_OK) exit_status = verdict(bench);
  bench_free(bench);
  return exit_status;
}

const struct command command_bench = {
    .name = "bench",
    .usage = "muster bench [flags] MODEL|URL [URL]",
    .summary = "Load a served model: throughput, percentiles, batch sizes, CPU per request, errors",
    .details =
        "MODEL is a name on --url; a URL is http://HOST:PORT[/v2/models/NAME[/versions/V]], with --raw any HTTP "
        "server,\n"
        "or tcp://HOST:PORT, where as many bytes are waited for as are sent. Inputs are random, by the model's "
        "metadata,\n"
        "or read from files.\n"
        "\n"
        "Load, one row of the report for each number\n"
        "  --concurrency LIST     closed loop: so many connections, one request on its way in each; 1,4,16 or\n"
        "                         START:END:STEP (default 1,2,4,8,16,32,64)\n"
        "  --rate LIST            open loop: so many requests a second, whether the server keeps up or not; latencies\n"
        "                         count from when a request was due\n"
        "  --arrivals KIND        poisson (default) or constant\n"
        "  --connections N        most of them in an open loop (default 256); what finds none in time is 'not sent'\n"
        "  --seconds SECONDS      measured time of each row (default 5); also 500ms, 2m\n"
        "  --warm-up SECONDS      before it, not measured (default 1)\n"
        "  --requests N           end a row after N requests instead of a time\n"
        "  --timeout SECONDS      of one request (default 60)\n"
        "  --seed N               of random inputs and arrivals (default 1)\n"
        "\n"
        "Live streams: WebSockets with frames at a fixed rate instead of requests\n"
        "  --streams N            so many, their beats spread evenly\n"
        "  --fps F                frames a second of each (default 25)\n"
        "  --deadline TIME        from when a frame is due to its answer (default 200ms); the server drops late ones\n"
        "\n"
        "Request\n"
        "  --url URL              the server of MODEL (default http://127.0.0.1:8000)\n"
        "  -b, --rows N           rows of one request, for a model that batches (default 1)\n"
        "  --shape NAME:2,3       varying dims of an input, behind the batch dimension; may repeat\n"
        "  --input NAME=FILE      an input from a file: .npy, .json (an array), else raw bytes; may repeat\n"
        "  --body FILE            the whole body instead\n"
        "  --header 'NAME: VALUE' a further header; may repeat\n"
        "  --raw 'METHOD /PATH'   to any HTTP server, with --body or without\n"
        "  --bytes N              N random bytes as the body\n"
        "  --reply-bytes N        what a tcp:// target sends back (default: as much as it gets)\n"
        "\n"
        "Comparison\n"
        "  --compare URL          the same requests to a second target (the second URL means that too), in turns with\n"
        "                         the first; a path in the URL replaces that of the request\n"
        "  --rounds N             turns into which --seconds or --requests are divided (default 6)\n"
        "\n"
        "Result\n"
        "  --check                a reply with another body than the first one's is an error; exit status 1 on any\n"
        "  --save-reply FILE      the body of the first reply\n"
        "  --histogram FILE       all percentiles, in HdrHistogram's text format (.hgrm), microseconds; one file for\n"
        "                         each row\n"
        "  --server-pid PID,…     processes whose CPU time is shown; else those of a muster on this machine\n"
        "  --control-socket PATH  of that muster, where it is not the one that its port gives\n"
        "  --compare-pid, --compare-control-socket   the same for the second target\n"
        "  --json                 the whole result as JSON\n"
        "\n"
        "Ctrl-C ends it early and prints what was measured. --echo [HOST:]PORT is the bare TCP peer for comparisons:\n"
        "it sends back what it gets, with --bytes N not before N bytes have come.\n",
    .run = run,
};
