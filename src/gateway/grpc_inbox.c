#include "gateway/grpc_inbox.h"

#include <stdlib.h>

void grpc_inbox_free(struct grpc_inbox *inbox) {
  content_decoder_free(inbox->decoder);
  inbox->decoder = NULL;
}

/* Who hears of it, and whether anybody still does. */
struct hearer {
  const struct grpc_inbox_events *events;
  void *context;
  struct grpc_scratch *scratch;
  bool on;
};

enum { SCRATCH_SIZE = 64 * 1024 };

static bool have_scratch(struct grpc_scratch *scratch) {
  if (scratch->data == NULL) *scratch = (struct grpc_scratch){malloc(SCRATCH_SIZE), SCRATCH_SIZE};
  return scratch->data != NULL;
}

static mu_status begin(struct grpc_inbox *inbox, struct hearer *hearer, mu_error *err) {
  inbox->inflated = 0;
  if (inbox->framer.compressed) {
    inbox->decoder = have_scratch(hearer->scratch) ? content_decoder_create(inbox->coding) : NULL;
    if (inbox->decoder == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory to inflate the message");
  }
  hearer->on = hearer->events->begin(hearer->context, inbox->framer.compressed ? UINT64_MAX : inbox->framer.size);
  return MU_OK;
}

static mu_status inflate_some(struct grpc_inbox *inbox, struct hearer *hearer, const uint8_t *data, size_t size,
                              mu_error *err) {
  size_t produced;
  do {
    mu_status status =
        content_decoder_run(inbox->decoder, &data, &size, hearer->scratch->data, hearer->scratch->size, &produced);
    if (status != MU_OK)
      return mu_fail(err, status,
                     status == MU_NO_MEMORY ? "no memory to inflate the message" : "the message is not valid %s data",
                     content_coding_name(inbox->coding));
    inbox->inflated += produced;
    if (inbox->framer.limit > 0 && inbox->inflated > inbox->framer.limit)
      return mu_fail(err, MU_TOO_LARGE, "the message has more than %llu bytes when it is inflated (--body-limit)",
                     (unsigned long long)inbox->framer.limit);
    if (produced > 0) hearer->on = hearer->events->data(hearer->context, hearer->scratch->data, produced);
  } while (hearer->on && (size > 0 || produced == hearer->scratch->size));
  return MU_OK;
}

static mu_status end(struct grpc_inbox *inbox, struct hearer *hearer, mu_error *err) {
  if (inbox->decoder != NULL && !content_decoder_complete(inbox->decoder))
    return mu_fail(err, MU_INVALID, "the compressed message ends too early");
  grpc_inbox_free(inbox);
  hearer->on = hearer->events->end(hearer->context);
  return MU_OK;
}

mu_status grpc_inbox_feed(struct grpc_inbox *inbox, const uint8_t **data, size_t *size, struct grpc_scratch *scratch,
                          const struct grpc_inbox_events *events, void *context, mu_error *err) {
  struct hearer hearer = {events, context, scratch, true};
  mu_status status = MU_OK;
  while (status == MU_OK && hearer.on) {
    enum grpc_frame_event event;
    const uint8_t *piece;
    size_t piece_size;
    status =
        grpc_frame_next(&inbox->framer, inbox->coding != CODING_IDENTITY, data, size, &event, &piece, &piece_size, err);
    if (status != MU_OK || event == GRPC_FRAME_MORE) return status;
    if (event == GRPC_FRAME_BEGIN)
      status = begin(inbox, &hearer, err);
    else if (event == GRPC_FRAME_END)
      status = end(inbox, &hearer, err);
    else if (inbox->decoder != NULL)
      status = inflate_some(inbox, &hearer, piece, piece_size, err);
    else
      hearer.on = events->data(context, piece, piece_size);
  }
  return status;
}

mu_status grpc_inbox_finish(const struct grpc_inbox *inbox, mu_error *err) {
  return grpc_frame_finish(&inbox->framer, err);
}
