/* Shared memory of clients. The table is here, not in a gateway, so that it outlives gateways: whoever comes gets all
 * descriptors before it listens. */
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "supervisor/region_file.h"
#include "supervisor/state.h"

struct region {
  struct list link; /* supervisor.regions */
  char name[REGION_NAME_MAX + 1];
  char key[2 * REGION_KEY_MAX];
  uint64_t offset, byte_size;
  bool writable;
  int fd;
};

static struct region *find(const struct supervisor *s, const char *name) {
  list_each (link, &s->regions) {
    struct region *region = list_item(link, struct region, link);
    if (strcmp(region->name, name) == 0) return region;
  }
  return NULL;
}

static void drop(struct supervisor *s, struct region *region) {
  list_remove(&region->link);
  s->n_regions--;
  close(region->fd);
  free(region);
}

void regions_free(struct supervisor *s) {
  list_each (link, &s->regions) drop(s, list_item(link, struct region, link));
}

/* ---- what gateways hear ------------------------------------------------------------------------------------------ */

static void tell(struct gateway *gateway, const struct region *region) {
  const struct control_region_set message = {region->name, region->key, region->offset, region->byte_size,
                                             region->writable};
  gateway_tell(gateway, CONTROL_REGION_SET, &message, &region->fd, 1);
}

void regions_tell(struct supervisor *s, struct gateway *gateway) {
  list_each (link, &s->regions) tell(gateway, list_item(link, struct region, link));
}

static void answer(struct gateway *gateway, uint64_t serial, mu_status status, const mu_error *err) {
  const struct control_region_changed message = {serial, status, status == MU_OK ? "" : err->message};
  gateway_tell(gateway, CONTROL_REGION_CHANGED, &message, NULL, 0);
}

/* ---- registering ------------------------------------------------------------------------------------------------- */

/* Every region costs a descriptor here and one in each gateway, where most are for connections and workers. */
static uint32_t most_regions(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur / 8 > REGIONS_MAX) return REGIONS_MAX;
  return (uint32_t)(limit.rlim_cur / 8);
}

static mu_status check_place(const struct supervisor *s, const struct control_region_register *message, mu_error *err) {
  const uint32_t most = most_regions();
  size_t name = strlen(message->name);
  if (s->options->admin == ADMIN_OFF) return mu_fail(err, MU_INVALID, "--admin=off"); /* the gateway refuses it first */
  if (name == 0 || name > REGION_NAME_MAX)
    return mu_fail(err, MU_INVALID, "the name of a shared memory region has 1 to %d bytes, not %zu", REGION_NAME_MAX,
                   name);
  if (strlen(message->key) >= sizeof((struct region *)NULL)->key)
    return mu_fail(err, MU_INVALID, "the key of shared memory region '%.200s' has more than %d bytes", message->name,
                   REGION_KEY_MAX);
  if (find(s, message->name) != NULL)
    return mu_fail(err, MU_EXISTS, "shared memory region '%.255s' already in manager", message->name);
  if (s->n_regions >= most)
    return mu_fail(err, MU_UNAVAILABLE,
                   "failed to register shared memory region '%.200s': %u are registered, which is the most that there "
                   "can be (4096, or an eighth of `ulimit -n`); unregister those that are not needed",
                   message->name, s->n_regions);
  return MU_OK;
}

static mu_status check_range(const struct control_region_register *message, uint64_t size, mu_error *err) {
  uint64_t end;
  if (message->byte_size == 0)
    return mu_fail(err, MU_INVALID, "failed to register shared memory region '%.200s': invalid args: byte_size is 0",
                   message->name);
  if (!__builtin_add_overflow(message->offset, message->byte_size, &end) && end <= size) return MU_OK;
  return mu_fail(err, MU_INVALID,
                 "failed to register shared memory region '%.200s': invalid args: offset %llu and byte_size %llu go "
                 "past the %llu bytes of key '%.100s'",
                 message->name, (unsigned long long)message->offset, (unsigned long long)message->byte_size,
                 (unsigned long long)size, message->key);
}

static mu_status open_region(struct region *region, const struct control_region_register *message, mu_error *err) {
  uint64_t size;
  mu_status status = region_file_open(message->name, message->key, &region->fd, &region->writable, &size, err);
  if (status != MU_OK) return status;
  status = check_range(message, size, err);
  if (status != MU_OK) close(region->fd);
  return status;
}

static struct region *create(const char *name, const char *key, uint64_t offset, uint64_t byte_size) {
  struct region *region = calloc(1, sizeof *region);
  if (region == NULL) return NULL;
  snprintf(region->name, sizeof region->name, "%s", name);
  snprintf(region->key, sizeof region->key, "%s", key);
  region->offset = offset;
  region->byte_size = byte_size;
  return region;
}

static void add(struct supervisor *s, struct region *region) {
  list_push_back(&s->regions, &region->link);
  s->n_regions++;
}

static mu_status add_new(struct supervisor *s, const struct control_region_register *message, mu_error *err) {
  mu_status status = check_place(s, message, err);
  if (status != MU_OK) return status;
  struct region *region = create(message->name, message->key, message->offset, message->byte_size);
  if (region == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for shared memory region '%.200s'", message->name);
  status = open_region(region, message, err);
  if (status != MU_OK) {
    free(region);
    return status;
  }
  add(s, region);
  for (size_t i = 0; i < GATEWAYS; i++) tell(&s->gateways[i], region);
  LOG_VERBOSE("shared memory region registered", LOG_STR("region", region->name), LOG_STR("key", region->key),
              LOG_INT("offset", region->offset), LOG_INT("byte_size", region->byte_size));
  return MU_OK;
}

void regions_register(struct gateway *gateway, const struct control_region_register *message) {
  mu_error err;
  mu_status status = add_new(gateway->supervisor, message, &err);
  answer(gateway, message->serial, status, &err);
}

/* ---- unregistering ----------------------------------------------------------------------------------------------- */

static void remove_region(struct supervisor *s, struct region *region) {
  const struct control_region_remove message = {region->name};
  gateways_tell(s, CONTROL_REGION_REMOVE, &message);
  LOG_VERBOSE("shared memory region unregistered", LOG_STR("region", region->name));
  drop(s, region);
}

/* One that nobody has registered is no error, as with Triton. */
void regions_unregister(struct gateway *gateway, const struct control_region_unregister *message) {
  struct supervisor *s = gateway->supervisor;
  list_each (link, &s->regions) {
    struct region *region = list_item(link, struct region, link);
    if (message->name[0] == '\0' || strcmp(region->name, message->name) == 0) remove_region(s, region);
  }
  answer(gateway, message->serial, MU_OK, NULL);
}

/* ---- upgrade ----------------------------------------------------------------------------------------------------- */

void regions_give(const struct supervisor *s, struct handover *state) {
  list_each (link, &s->regions) {
    const struct region *region = list_item(link, struct region, link);
    state->regions[state->n_regions++] = (struct handover_region){region->name,      region->key,      region->offset,
                                                                  region->byte_size, region->writable, region->fd};
  }
}

mu_status regions_take(struct supervisor *s, const struct handover *state, mu_error *err) {
  for (size_t i = 0; i < state->n_regions; i++) {
    const struct handover_region *from = &state->regions[i];
    struct region *region = create(from->name, from->key, from->offset, from->byte_size);
    if (region == NULL) return mu_fail(err, MU_NO_MEMORY, "no memory for the shared memory regions");
    region->writable = from->writable;
    region->fd = from->fd;
    add(s, region);
  }
  return MU_OK;
}
