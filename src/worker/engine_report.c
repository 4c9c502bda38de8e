#include "worker/engine_report.h"

#include <string.h>

#include "base/clock.h"

enum { REPORT_MAX = 256 << 10 };
static const uint64_t interval_ns = NS_PER_S;

void engine_report_init(struct engine_report *report) {
  *report = (struct engine_report){.due_ns = 0};
  buffer_init(&report->last, REPORT_MAX);
  buffer_init(&report->now, REPORT_MAX);
}

void engine_report_free(struct engine_report *report) {
  buffer_free(&report->last);
  buffer_free(&report->now);
}

static bool has_changed(const struct engine_report *report) {
  return report->now.size != report->last.size ||
         (report->now.size > 0 && memcmp(report->now.data, report->last.data, report->now.size) != 0);
}

static mu_status send_changed(struct engine_report *report, const struct worker_model *model, int control,
                              mu_error *err) {
  buffer_clear(&report->now);
  if (model->entry->report(model->model, &report->now) != MU_OK || !has_changed(report)) return MU_OK;
  const struct control_worker_backends message = {{report->now.data, report->now.size}};
  mu_status status = control_send(control, CONTROL_WORKER_BACKENDS, &message, NULL, 0, err);
  if (status != MU_OK) return status == MU_NO_MEMORY ? MU_OK : status;
  const struct buffer sent = report->now;
  report->now = report->last;
  report->last = sent;
  return MU_OK;
}

mu_status engine_report_send(struct engine_report *report, const struct worker_model *model, int control,
                             int *ret_wait_ms, mu_error *err) {
  uint64_t now = clock_now_ns();
  mu_status status = MU_OK;
  *ret_wait_ms = -1;
  if (model->entry->report == NULL) return MU_OK;
  if (now >= report->due_ns) {
    status = send_changed(report, model, control, err);
    report->due_ns = now + interval_ns;
  }
  *ret_wait_ms = (int)((report->due_ns - now) / NS_PER_MS) + 1;
  return status;
}
