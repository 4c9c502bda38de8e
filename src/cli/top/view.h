/*
 * A sample as lines of text, and what the keys change: selection, order, pause. Pure: no terminal, no clock.
 */
#ifndef CLI_TOP_VIEW_H
#define CLI_TOP_VIEW_H

#include "cli/top/sample.h"

enum top_sort { TOP_BY_NUMBER, TOP_BY_REQUESTS, TOP_BY_CPU, TOP_BY_MEMORY, TOP_SORTS };

enum top_kind { TOP_NOTHING, TOP_GPU, TOP_WORKER };

/* What is selected keeps its place in the order, not on the screen; it may be gone with the next sample. */
struct top_target {
  enum top_kind kind;
  char id[96]; /* UUID of a GPU, number of a worker */
};

enum { TOP_LINE_SIZE = 512, TOP_WIDTH_MIN = 80, TOP_WIDTH_MAX = 240 };

struct top_screen {
  int width, height; /* height 0: all lines, and none about keys */
  double interval;
  enum top_sort sort;
  bool paused, help;
  struct top_target selected;
  char message[TOP_TEXT_SIZE]; /* what became of the last key; "" : nothing to say */
  size_t scrolled;             /* lines of the body above the screen; kept by top_render */
};

enum top_style { TOP_PLAIN, TOP_TITLE, TOP_HEADING, TOP_WARNING, TOP_FAINT };

struct top_line {
  char text[TOP_LINE_SIZE];
  enum top_style style;
  bool selected;
};

struct top_page {
  struct top_line *lines;
  size_t n, capacity;
  bool failed; /* no memory */
};

/* The whole screen. page begins as all zeroes and can be used again; top_page_free. MU_NO_MEMORY. */
MUST_CHECK mu_status top_render(const struct top_sample *sample, struct top_screen *screen, struct top_page *page);
void top_page_free(struct top_page *page);

/* Selects the next one by so many steps down (negative: up); without a selection the first or last. */
void top_move(const struct top_sample *sample, struct top_screen *screen, int steps);

/* The GPU or worker that is selected; NULL: none, or gone. */
const struct top_gpu *top_selected_gpu(const struct top_sample *sample, const struct top_screen *screen);
const struct top_worker *top_selected_worker(const struct top_sample *sample, const struct top_screen *screen);

#endif
