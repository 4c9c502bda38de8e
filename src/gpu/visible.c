#include "gpu/visible.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what there is, in words ------------------------------------------------------------------------------------- */

void gpu_label(const struct gpu *gpu, char label[GPU_LABEL_SIZE]) {
  if (gpu->mig_index == GPU_UNKNOWN)
    snprintf(label, GPU_LABEL_SIZE, "%d", gpu->index);
  else
    snprintf(label, GPU_LABEL_SIZE, "%d:%d", gpu->index, gpu->mig_index);
}

/* A list that says how much of it did not fit. */
struct listing {
  char *text;
  size_t size, at;
  uint32_t left_out;
};

static void listing_add(struct listing *list, const char *item) {
  static const size_t tail = sizeof " and 128 more (muster gpus)";
  size_t length = strlen(item) + 2;
  if (list->left_out > 0 || list->at + length + tail > list->size) {
    list->left_out++;
    return;
  }
  list->at += (size_t)snprintf(list->text + list->at, list->size - list->at, "%s%s", list->at > 0 ? ", " : "", item);
}

static void listing_end(struct listing *list) {
  if (list->left_out > 0)
    snprintf(list->text + list->at, list->size - list->at, " and %u more (muster gpus)", list->left_out);
}

static void describe_gpu(const struct gpu *gpu, int32_t ordinal, char *text, size_t size) {
  if (ordinal != GPU_UNKNOWN)
    snprintf(text, size, "%d (%s, %s)", ordinal, gpu->name, gpu->uuid);
  else
    snprintf(text, size, "%s (%s)", gpu->uuid, gpu->name);
}

void gpu_set_describe(const struct gpu_inventory *inventory, const struct gpu_set *set, char *text, size_t size) {
  struct listing list = {.text = text, .size = size};
  text[0] = '\0';
  for (uint32_t i = 0; i < set->n; i++) {
    char item[GPU_UUID_SIZE + GPU_NAME_SIZE + 16];
    describe_gpu(&inventory->gpus[set->positions[i]], set->unordered ? GPU_UNKNOWN : set->ordinals[i], item,
                 sizeof item);
    listing_add(&list, item);
  }
  listing_end(&list);
  if (set->n == 0) snprintf(text, size, "none");
}

/* UUIDs of all that can be used, or of the MIG devices of one GPU: what to write instead. */
static void list_uuids(const struct gpu_inventory *inventory, int32_t parent, char *text, size_t size) {
  struct listing list = {.text = text, .size = size};
  text[0] = '\0';
  for (uint32_t i = 0; i < inventory->n_gpus; i++) {
    const struct gpu *gpu = &inventory->gpus[i];
    bool wanted =
        parent == GPU_UNKNOWN ? gpu_is_usable(inventory, i) : gpu->index == parent && gpu->mig_index != GPU_UNKNOWN;
    if (wanted) listing_add(&list, gpu->uuid);
  }
  listing_end(&list);
  if (list.at == 0) snprintf(text, size, "none");
}

/* Indices and UUIDs of all. */
static void list_all(const struct gpu_inventory *inventory, char *text, size_t size) {
  struct listing list = {.text = text, .size = size};
  text[0] = '\0';
  for (uint32_t i = 0; i < inventory->n_gpus; i++) {
    char label[GPU_LABEL_SIZE], item[GPU_UUID_SIZE + GPU_LABEL_SIZE + 8];
    gpu_label(&inventory->gpus[i], label);
    snprintf(item, sizeof item, "%s (%s)", label, gpu_is_uuid(inventory->gpus[i].uuid) ? inventory->gpus[i].uuid : "?");
    listing_add(&list, item);
  }
  listing_end(&list);
  if (list.at == 0) snprintf(text, size, "none");
}

/* ---- words of a list --------------------------------------------------------------------------------------------- */

enum word_kind { WORD_INDEX, WORD_UUID };

/* Where a list came from decides what may stand in it. */
struct source {
  const char *name; /* for messages */
  bool ranges;      /* "2-3", and "0:1" for MIG devices */
  bool cuda;        /* "-1" ends it */
};

enum { INDEX_MAX = 999999999 }; /* more than there can be: larger numbers stand for none, too */

static bool read_index(const char **at, long *ret_index) {
  if (**at < '0' || **at > '9') return false;
  char *end;
  long index = strtol(*at, &end, 10);
  *ret_index = index < INDEX_MAX ? index : INDEX_MAX;
  *at = end;
  return true;
}

/* "0", "2-3", "0:1". A single index is a range of one. */
static bool read_range(const struct source *source, const char *word, long *ret_first, long *ret_last, long *ret_mig) {
  const char *at = word;
  *ret_mig = GPU_UNKNOWN;
  if (!read_index(&at, ret_first)) return false;
  *ret_last = *ret_first;
  if (source->ranges && *at == '-') {
    at++;
    if (!read_index(&at, ret_last) || *ret_last < *ret_first) return false;
  } else if (source->ranges && *at == ':') {
    at++;
    if (!read_index(&at, ret_mig)) return false;
  }
  return *at == '\0';
}

/* ---- one GPU ----------------------------------------------------------------------------------------------------- */

enum { OBSTACLE_SIZE = 360 };

/* Why that GPU cannot be used, "is lost: …", into text; false: it can. */
static bool find_obstacle(const struct gpu_inventory *inventory, uint32_t position, char text[OBSTACLE_SIZE]) {
  const struct gpu *gpu = &inventory->gpus[position];
  const struct gpu_reading *reading = &inventory->readings[position];
  const char *why = reading->error[0] != '\0' ? reading->error : "the driver does not reach it";
  char uuids[256];
  if (gpu_is_usable(inventory, position)) return false;
  if (gpu->mig_enabled) {
    list_uuids(inventory, gpu->index, uuids, sizeof uuids);
    snprintf(text, OBSTACLE_SIZE, "is divided into MIG devices and cannot be used as a whole; its devices: %s", uuids);
  } else if (gpu->compute_mode == GPU_COMPUTE_PROHIBITED) {
    snprintf(text, OBSTACLE_SIZE, "is in compute mode PROHIBITED: nvidia-smi -i %d -c DEFAULT", gpu->index);
  } else {
    snprintf(text, OBSTACLE_SIZE, reading->lost ? "is lost: %s" : "cannot be read: %s", why);
  }
  return true;
}

static mu_status check_usable(const struct source *source, const struct gpu_inventory *inventory, uint32_t position,
                              const char *word, mu_error *err) {
  const char *uuid = inventory->gpus[position].uuid;
  char obstacle[OBSTACLE_SIZE];
  if (!find_obstacle(inventory, position, obstacle)) return MU_OK;
  if (!gpu_is_uuid(uuid) || gpu_is_uuid(word))
    return mu_fail(err, MU_INVALID, "%s: GPU %s %s", source->name, word, obstacle);
  return mu_fail(err, MU_INVALID, "%s: GPU %s (%s) %s", source->name, word, uuid, obstacle);
}

static mu_status add(const struct source *source, const struct gpu_inventory *inventory, const char *word,
                     int32_t position, int32_t ordinal, struct gpu_set *set, mu_error *err) {
  if (position == GPU_UNKNOWN && gpu_is_uuid(word) && gpu_is_ambiguous(inventory, word))
    return mu_fail(err, MU_INVALID, "%s: several GPUs begin with \"%s\": more of the UUID is needed", source->name,
                   word);
  if (position == GPU_UNKNOWN) {
    char all[320];
    list_all(inventory, all, sizeof all);
    return mu_fail(err, MU_INVALID, "%s: there is no GPU \"%s\"; there are: %s", source->name, word, all);
  }
  for (uint32_t i = 0; i < set->n; i++)
    if (set->positions[i] == (uint32_t)position)
      return mu_fail(err, MU_INVALID, "%s: GPU %s (%s) is named twice", source->name, word,
                     inventory->gpus[position].uuid);
  mu_status status = check_usable(source, inventory, (uint32_t)position, word, err);
  if (status != MU_OK) return status;
  set->positions[set->n] = (uint32_t)position;
  set->ordinals[set->n++] = ordinal;
  return MU_OK;
}

/* ---- lists ------------------------------------------------------------------------------------------------------- */

/* The next word of text, without the blanks around it; "" where there is nothing between two commas. false: the end. */
static bool next_word(const char **text, char word[GPU_UUID_SIZE]) {
  if (*text == NULL) return false;
  const char *begin = *text + strspn(*text, " ");
  const char *comma = strchr(begin, ',');
  size_t length = comma != NULL ? (size_t)(comma - begin) : strlen(begin);
  *text = comma != NULL ? comma + 1 : NULL;
  while (length > 0 && begin[length - 1] == ' ') length--;
  snprintf(word, GPU_UUID_SIZE, "%.*s", (int)length, begin);
  return true;
}

/* One that is lost, or closed to this process, does not say what it is; what is known of it counts. */
static bool differ(const struct gpu *one, const struct gpu *other) {
  bool named = one->name[0] != '\0' && other->name[0] != '\0';
  bool capable = one->compute_major != GPU_UNKNOWN && other->compute_major != GPU_UNKNOWN;
  return (named && strcmp(one->name, other->name) != 0) ||
         (capable && (one->compute_major != other->compute_major || one->compute_minor != other->compute_minor));
}

/* Whole GPUs that are not all alike: CUDA puts the fastest first, NVML does not. */
static bool is_mixed(const struct gpu_inventory *inventory) {
  for (uint32_t i = 0; i < inventory->n_gpus; i++)
    for (uint32_t k = 0; k < i; k++)
      if (inventory->gpus[i].mig_index == GPU_UNKNOWN && inventory->gpus[k].mig_index == GPU_UNKNOWN &&
          differ(&inventory->gpus[i], &inventory->gpus[k]))
        return true;
  return false;
}

static bool is_cuda_order_known(const struct gpu_inventory *inventory, const struct gpu_wish *wish) {
  return !is_mixed(inventory) ||
         (wish->cuda_device_order != NULL && strcmp(wish->cuda_device_order, "PCI_BUS_ID") == 0);
}

static mu_status fail_mixed(const struct gpu_inventory *inventory, const char *name, mu_error *err) {
  char uuids[300];
  list_uuids(inventory, GPU_UNKNOWN, uuids, sizeof uuids);
  return mu_fail(err, MU_INVALID,
                 "%s: these GPUs are not all alike, so an index may mean another one to CUDA: "
                 "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name UUIDs: %s",
                 name, uuids);
}

static mu_status add_range(const struct source *source, const struct gpu_inventory *inventory, const char *word,
                           struct gpu_set *set, mu_error *err) {
  long first, last, mig;
  if (!read_range(source, word, &first, &last, &mig) || last - first >= 1000)
    return mu_fail(err, MU_INVALID, "%s: \"%s\" is neither an index nor a UUID (GPU-…, MIG-…)%s", source->name, word,
                   source->ranges ? " nor a range (2-3)" : "");
  mu_status status = MU_OK;
  for (long index = first; status == MU_OK && index <= last; index++) {
    char name[GPU_LABEL_SIZE + 24];
    snprintf(name, sizeof name, mig == GPU_UNKNOWN ? "%ld" : "%ld:%ld", index, mig);
    int32_t ordinal = source->cuda ? (int32_t)set->n : mig == GPU_UNKNOWN ? (int32_t)index : GPU_UNKNOWN;
    const char *said = first == last ? word : name;
    status = add(source, inventory, said, gpu_find(inventory, name), ordinal, set, err);
  }
  return status;
}

static mu_status add_uuid(const struct source *source, const struct gpu_inventory *inventory, const char *word,
                          struct gpu_set *set, mu_error *err) {
  int32_t position = gpu_find(inventory, word);
  const struct gpu *gpu = position != GPU_UNKNOWN ? &inventory->gpus[position] : NULL;
  int32_t ordinal = source->cuda                                   ? (int32_t)set->n
                    : gpu != NULL && gpu->mig_index == GPU_UNKNOWN ? gpu->index
                                                                   : GPU_UNKNOWN;
  return add(source, inventory, word, position, ordinal, set, err);
}

/* All words of a list. order_known: whether indices mean what they seem to. */
static mu_status add_list(const struct source *source, const struct gpu_inventory *inventory, const char *text,
                          bool order_known, struct gpu_set *set, mu_error *err) {
  char word[GPU_UUID_SIZE];
  bool any[2] = {false, false};
  mu_status status = MU_OK;
  while (status == MU_OK && next_word(&text, word)) {
    if (source->cuda && (strcmp(word, "-1") == 0 || strcmp(word, "NoDevFiles") == 0)) break;
    enum word_kind kind = gpu_is_uuid(word) ? WORD_UUID : WORD_INDEX;
    any[kind] = true;
    if (any[WORD_INDEX] && any[WORD_UUID])
      return mu_fail(err, MU_INVALID, "%s mixes indices and UUIDs: name all GPUs in one way", source->name);
    status =
        kind == WORD_UUID ? add_uuid(source, inventory, word, set, err) : add_range(source, inventory, word, set, err);
  }
  return status == MU_OK && any[WORD_INDEX] && !order_known ? fail_mixed(inventory, source->name, err) : status;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

static void add_all(const struct gpu_inventory *inventory, struct gpu_set *set) {
  for (uint32_t i = 0; i < inventory->n_gpus; i++) {
    const struct gpu *gpu = &inventory->gpus[i];
    if (!gpu_is_usable(inventory, i)) continue;
    set->positions[set->n] = i;
    set->ordinals[set->n++] = gpu->mig_index == GPU_UNKNOWN ? gpu->index : GPU_UNKNOWN;
  }
  set->by_index = true;
  if (set->n == 0)
    snprintf(set->note, sizeof set->note,
             "none of the %u GPUs can be used (lost, prohibited, divided by MIG, or closed to this process: muster "
             "gpus)",
             inventory->n_gpus);
}

static mu_status choose_named(const struct gpu_inventory *inventory, const char *gpus, struct gpu_set *set,
                              mu_error *err) {
  static const struct source source = {.name = "--gpus", .ranges = true};
  if (strcmp(gpus, "none") == 0) {
    snprintf(set->note, sizeof set->note, "--gpus=none");
    return MU_OK;
  }
  if (strcmp(gpus, "all") == 0) {
    if (inventory->n_gpus == 0) return MU_OK;
    add_all(inventory, set);
    return MU_OK;
  }
  if (inventory->n_gpus == 0)
    return mu_fail(err, MU_INVALID, "--gpus=%.64s, but there is no GPU here%s%s", gpus,
                   inventory->error[0] != '\0' ? ": " : "", inventory->error);
  set->by_index = true;
  return add_list(&source, inventory, gpus, true, set, err);
}

static mu_status choose_visible(const struct gpu_inventory *inventory, const struct gpu_wish *wish, struct gpu_set *set,
                                mu_error *err) {
  static const struct source source = {.name = "CUDA_VISIBLE_DEVICES", .cuda = true};
  const char *visible = wish->cuda_visible_devices;
  bool known = is_cuda_order_known(inventory, wish);
  if (visible == NULL) {
    add_all(inventory, set);
    set->unordered = !known;
    return MU_OK;
  }
  if (visible[strspn(visible, " ")] == '\0') {
    snprintf(set->note, sizeof set->note,
             "CUDA_VISIBLE_DEVICES is set and empty, which hides every GPU: unset it to use all");
    return MU_OK;
  }
  mu_status status = add_list(&source, inventory, visible, known, set, err);
  if (set->n == 0) snprintf(set->note, sizeof set->note, "CUDA_VISIBLE_DEVICES=%.64s hides every GPU", visible);
  return status;
}

/* GPU_IDS chooses among what is visible; the members keep their ordinals. */
static mu_status choose_ids(const struct gpu_inventory *inventory, const char *ids, struct gpu_set *set,
                            mu_error *err) {
  struct gpu_set all = *set;
  char word[GPU_UUID_SIZE];
  if (all.unordered) return fail_mixed(inventory, "GPU_IDS", err);
  set->n = 0;
  for (const char *text = ids; next_word(&text, word);) {
    static const struct source source = {.name = "GPU_IDS"};
    long first, last, mig;
    uint32_t i = 0;
    if (!read_range(&source, word, &first, &last, &mig))
      return mu_fail(err, MU_INVALID, "GPU_IDS: \"%s\" is no index into CUDA_VISIBLE_DEVICES", word);
    while (i < all.n && all.ordinals[i] != first) i++;
    if (i == all.n) {
      char text_of_all[320];
      gpu_set_describe(inventory, &all, text_of_all, sizeof text_of_all);
      return mu_fail(err, MU_INVALID, "GPU_IDS: there is no GPU %s among those that are visible: %s", word,
                     text_of_all);
    }
    mu_status status = add(&source, inventory, word, (int32_t)all.positions[i], all.ordinals[i], set, err);
    if (status != MU_OK) return status;
  }
  return MU_OK;
}

mu_status gpu_set_choose(const struct gpu_inventory *inventory, const struct gpu_wish *wish, struct gpu_set *ret_set,
                         mu_error *err) {
  struct gpu_set set = {.n = 0};
  mu_status status = MU_OK;
  if (strcmp(wish->gpus, "auto") != 0) {
    status = choose_named(inventory, wish->gpus, &set, err);
  } else if (inventory->n_gpus > 0) {
    status = choose_visible(inventory, wish, &set, err);
    if (status == MU_OK && wish->gpu_ids[0] != '\0') status = choose_ids(inventory, wish->gpu_ids, &set, err);
  }
  if (status != MU_OK) return status;
  if (set.n == 0 && set.note[0] == '\0')
    snprintf(set.note, sizeof set.note, "%s", inventory->error[0] != '\0' ? inventory->error : "the machine has none");
  *ret_set = set;
  return MU_OK;
}

/* ---- finding a member -------------------------------------------------------------------------------------------- */

static mu_status fail_member(const struct gpu_inventory *inventory, const struct gpu_set *set, const char *text,
                             int32_t position, mu_error *err) {
  char all[320], obstacle[OBSTACLE_SIZE];
  if (position == GPU_UNKNOWN && set->by_index) position = gpu_find(inventory, text);
  if (position == GPU_UNKNOWN && gpu_is_uuid(text) && gpu_is_ambiguous(inventory, text))
    return mu_fail(err, MU_NOT_FOUND, "several GPUs begin with \"%.96s\": more of the UUID is needed", text);
  if (position != GPU_UNKNOWN && find_obstacle(inventory, (uint32_t)position, obstacle))
    return mu_fail(err, MU_NOT_FOUND, "GPU %.96s %s", text, obstacle);
  if (set->n == 0)
    return mu_fail(err, MU_NOT_FOUND, "there is no GPU %.96s: no GPU can be used here (%s)", text, set->note);
  gpu_set_describe(inventory, set, all, sizeof all);
  return mu_fail(err, MU_NOT_FOUND, "there is no GPU %.96s that the server may use; it may use: %s", text, all);
}

mu_status gpu_set_find(const struct gpu_inventory *inventory, const struct gpu_set *set, const char *text,
                       uint32_t *ret_position, mu_error *err) {
  int32_t position = GPU_UNKNOWN, ordinal = GPU_UNKNOWN;
  const char *at = text;
  long index;
  if (gpu_is_uuid(text)) {
    position = gpu_find(inventory, text);
  } else if (read_index(&at, &index) && *at == '\0') {
    if (set->unordered) return fail_mixed(inventory, "the index of a GPU", err);
    ordinal = index <= INT32_MAX ? (int32_t)index : GPU_UNKNOWN;
  } else if (*at == ':') {
    position = gpu_find(inventory, text);
  } else {
    return mu_fail(err, MU_INVALID, "\"%.96s\" is neither the index of a GPU nor a UUID (GPU-…, MIG-…)", text);
  }
  for (uint32_t i = 0; i < set->n; i++) {
    if (position != GPU_UNKNOWN ? set->positions[i] != (uint32_t)position
                                : ordinal == GPU_UNKNOWN || set->ordinals[i] != ordinal)
      continue;
    *ret_position = set->positions[i];
    return MU_OK;
  }
  return fail_member(inventory, set, text, position, err);
}
