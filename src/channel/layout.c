#include "channel/layout.h"

#include <unistd.h>

/* Rings are this many times their largest record: a record never lies across the end, so up to one of them is lost
 * there, and three of the largest still fit. */
enum { SUBMISSIONS_OF_LARGEST = 4 };

static uint64_t job_max(uint32_t max_spans) {
  return sizeof(struct layout_record) + sizeof(struct layout_job) +
         (uint64_t)2 * CHANNEL_TENSORS_MAX * LAYOUT_TENSOR_MAX + max_spans * sizeof(struct channel_span);
}

static uint64_t power_of_two(uint64_t at_least) {
  uint64_t power = LAYOUT_PAGE;
  while (power < at_least) power *= 2;
  return power;
}

static uint64_t round_up(uint64_t offset, uint64_t to) { return (offset + to - 1) / to * to; }

mu_status layout_plan(enum layout_side side, uint32_t lanes, uint32_t max_spans, struct layout_plan *ret_plan) {
  if (lanes < 1 || lanes > CHANNEL_LANES_MAX || max_spans > CHANNEL_MEMBERS_MAX * CHANNEL_TENSORS_MAX)
    return MU_INVALID;
  struct layout_plan plan = {.side = side, .lanes = lanes, .max_spans = max_spans};
  if (side == LAYOUT_GATEWAY) {
    plan.sleepers = 1;
    plan.ring_size = power_of_two(SUBMISSIONS_OF_LARGEST * job_max(max_spans));
  } else {
    plan.sleepers = lanes;
    plan.ring_size =
        power_of_two((LAYOUT_OUTSTANDING + 1) * (sizeof(struct layout_record) + (uint64_t)LAYOUT_COMPLETION_MAX));
  }
  plan.sleepers_at = sizeof(struct layout_header);
  plan.lanes_at = plan.sleepers_at + plan.sleepers * sizeof(struct layout_word);
  plan.rings_at = round_up(plan.lanes_at + lanes * sizeof(struct layout_lane), LAYOUT_PAGE);
  plan.size = plan.rings_at + lanes * plan.ring_size;
  *ret_plan = plan;
  return MU_OK;
}

void layout_write(const struct layout_plan *plan, uint64_t epoch, struct shared_memory *memory) {
  *(struct layout_header *)(void *)memory->data = (struct layout_header){
      .magic = LAYOUT_MAGIC,
      .major = LAYOUT_MAJOR,
      .minor = LAYOUT_MINOR,
      .side = plan->side,
      .epoch = epoch,
      .size = plan->size,
      .lanes = plan->lanes,
      .max_spans = plan->max_spans,
      .sleepers = plan->sleepers,
      .pid = (uint32_t)getpid(),
      .sleepers_at = plan->sleepers_at,
      .lanes_at = plan->lanes_at,
      .rings_at = plan->rings_at,
      .ring_size = plan->ring_size,
  };
}

union header_copy {
  uint64_t words[sizeof(struct layout_header) / sizeof(uint64_t)];
  struct layout_header header;
};

/* The header in private memory, each word read once. */
static union header_copy copy_header(const struct shared_memory *memory) {
  const uint64_t *from = (const uint64_t *)(const void *)memory->data;
  union header_copy copy;
  for (size_t i = 0; i < sizeof copy.words / sizeof *copy.words; i++)
    copy.words[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
  return copy;
}

mu_status layout_read(const struct shared_memory *memory, enum layout_side side, struct layout_plan *ret_plan,
                      uint64_t *ret_epoch, mu_error *err) {
  if (memory->size < sizeof(struct layout_header)) return mu_fail(err, MU_INVALID, "channel: the file is too short");
  union header_copy copy = copy_header(memory);
  const struct layout_header *header = &copy.header;
  struct layout_plan plan;
  if (header->magic != LAYOUT_MAGIC) return mu_fail(err, MU_INVALID, "channel: the file is not a channel");
  if (header->major != LAYOUT_MAJOR)
    return mu_fail(err, MU_UNSUPPORTED, "channel: the peer speaks version %u.%u, this is %d.%d", header->major,
                   header->minor, LAYOUT_MAJOR, LAYOUT_MINOR);
  if (header->side != (uint32_t)side || layout_plan(side, header->lanes, header->max_spans, &plan) != MU_OK ||
      header->sleepers != plan.sleepers || header->sleepers_at != plan.sleepers_at ||
      header->lanes_at != plan.lanes_at || header->rings_at != plan.rings_at || header->ring_size != plan.ring_size ||
      header->size != plan.size || plan.size > memory->size)
    return mu_fail(err, MU_INVALID, "channel: the header of the peer's file contradicts itself");
  *ret_plan = plan;
  *ret_epoch = header->epoch;
  return MU_OK;
}
