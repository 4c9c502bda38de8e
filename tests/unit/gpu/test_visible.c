#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka.h needs the four above */
#include <cmocka.h>

#include "gpu/visible.h"
#include "sample_gpus.h"

static struct gpu_inventory gpus;

static const struct gpu_wish nothing = {.gpus = "auto", .gpu_ids = ""};

static mu_status choose(const struct gpu_wish *wish, struct gpu_set *ret_set, mu_error *err) {
  return gpu_set_choose(&gpus, wish, ret_set, err);
}

/* "0=0 3=1": positions and their ordinals. */
static void chosen(const struct gpu_wish *wish, const char *expected) {
  struct gpu_set set;
  mu_error err = {{0}};
  char text[512] = "";
  if (choose(wish, &set, &err) != MU_OK) fail_msg("%s is refused: %s", expected, err.message);
  for (uint32_t i = 0; i < set.n; i++)
    snprintf(text + strlen(text), sizeof text - strlen(text), "%s%u=%d", i > 0 ? " " : "", set.positions[i],
             set.ordinals[i]);
  assert_string_equal(text, expected);
  assert_int_equal(set.n == 0, set.note[0] != '\0');
}

static void refused(const struct gpu_wish *wish, const char *words) {
  struct gpu_set set = {.n = 77};
  mu_error err = {{0}};
  assert_int_equal(choose(wish, &set, &err), MU_INVALID);
  assert_int_equal(set.n, 77);
  if (strstr(err.message, words) == NULL) fail_msg("\"%s\" is not in: %s", words, err.message);
}

static struct gpu_wish visible(const char *text) { return (struct gpu_wish){"auto", "", text, NULL}; }
static struct gpu_wish named(const char *text) { return (struct gpu_wish){text, "", NULL, NULL}; }
static struct gpu_wish ids(const char *text, const char *devices) {
  return (struct gpu_wish){"auto", text, devices, NULL};
}

/* ---- CUDA_VISIBLE_DEVICES ---------------------------------------------------------------------------------------- */

static void all_where_nothing_is_said(void **state) {
  sample_alike(&gpus, 3, SAMPLE_GIB);
  chosen(&nothing, "0=0 1=1 2=2");
}

static void visible_devices_say_which_and_number_them(void **state) {
  sample_alike(&gpus, 12, SAMPLE_GIB);
  static const struct {
    const char *text, *expected;
  } cases[] = {
      {"0", "0=0"},
      {"3,1", "3=0 1=1"},
      {" 2 , 11 ", "2=0 11=1"},
      {"GPU-aaaa0004", "4=0"},
      {"GPU-aaaa0010,GPU-aaaa0002", "10=0 2=1"},
      {"GPU-aaaa001", "GPU"}, /* several begin so */
      {"1,-1,2", "1=0"},      /* as in CUDA: nothing behind a -1 is visible */
      {"", ""},
      {"  ", ""},
      {"-1", ""},
      {"NoDevFiles", ""},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct gpu_wish wish = visible(cases[i].text);
    if (strcmp(cases[i].expected, "GPU") == 0)
      refused(&wish, "several GPUs begin with \"GPU-aaaa001\"");
    else
      chosen(&wish, cases[i].expected);
  }
  struct gpu_wish prefix = visible("GPU-aaaa0011"), first = visible("GPU-aaaa0009");
  chosen(&prefix, "11=0");
  chosen(&first, "9=0");
}

static void empty_and_minus_one_say_why_there_is_no_gpu(void **state) {
  sample_alike(&gpus, 1, SAMPLE_GIB);
  struct gpu_set set;
  mu_error err;
  struct gpu_wish empty = visible(""), minus_one = visible("-1");
  assert_int_equal(choose(&empty, &set, &err), MU_OK);
  assert_non_null(strstr(set.note, "set and empty"));
  assert_int_equal(choose(&minus_one, &set, &err), MU_OK);
  assert_non_null(strstr(set.note, "=-1 hides"));
}

static void wrong_visible_devices_are_refused(void **state) {
  sample_alike(&gpus, 4, SAMPLE_GIB);
  static const struct {
    const char *text, *words;
  } cases[] = {
      {"4", "there is no GPU \"4\"; there are: 0 (GPU-aaaa0000), 1 "},
      {"0,99999999999999999999", "there is no GPU"},
      {"0,0", "GPU 0 (GPU-aaaa0000) is named twice"},
      {"GPU-aaaa0001,GPU-aaaa0001", "named twice"},
      {"GPU-aaaa0001,GPU-aaaa0001 ", "named twice"},
      {"0,GPU-aaaa0001", "mixes indices and UUIDs"},
      {"GPU-aaaa0001,2", "mixes indices and UUIDs"},
      {"GPU-bbbb", "there is no GPU \"GPU-bbbb\""},
      {"MIG-0", "there is no GPU \"MIG-0\""},
      {"0,,1", "\"\" is neither an index nor a UUID"},
      {"0,", "neither"},
      {"0-2", "\"0-2\" is neither"},
      {"0:1", "\"0:1\" is neither"},
      {"-2", "neither"},
      {"1x", "neither"},
      {"all", "neither"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct gpu_wish wish = visible(cases[i].text);
    refused(&wish, cases[i].words);
    refused(&wish, "CUDA_VISIBLE_DEVICES");
  }
}

/* ---- unlike GPUs ------------------------------------------------------------------------------------------------- */

static void indices_of_unlike_gpus_need_an_order(void **state) {
  memset(&gpus, 0, sizeof gpus);
  sample_add(&gpus, "GPU-0123", "NVIDIA T4", 0, SAMPLE_GIB);
  sample_add(&gpus, "GPU-4567", "NVIDIA H200", 1, SAMPLE_GIB);
  struct gpu_wish wish = visible("1");
  refused(&wish, "CUDA_DEVICE_ORDER=PCI_BUS_ID, or name UUIDs: GPU-0123, GPU-4567");
  wish.cuda_device_order = "FASTEST_FIRST";
  refused(&wish, "not all alike");
  wish.cuda_device_order = "PCI_BUS_ID";
  chosen(&wish, "1=0");
  struct gpu_wish uuid = visible("GPU-4567,GPU-0123"), index_of_uuid = ids("1", "GPU-4567,GPU-0123"),
                  index = ids("1", NULL);
  chosen(&uuid, "1=0 0=1");
  chosen(&index_of_uuid, "0=1");
  refused(&index, "not all alike");
  struct gpu_wish own = named("1"); /* --gpus counts as nvidia-smi does */
  chosen(&own, "1=1");
  /* The same name, another architecture. */
  sample_alike(&gpus, 2, SAMPLE_GIB);
  gpus.gpus[1].compute_minor = 1;
  wish = visible("0");
  refused(&wish, "not all alike");
}

static void models_cannot_number_unlike_gpus_either(void **state) {
  memset(&gpus, 0, sizeof gpus);
  sample_add(&gpus, "GPU-0123", "NVIDIA T4", 0, SAMPLE_GIB);
  sample_add(&gpus, "GPU-4567", "NVIDIA H200", 1, SAMPLE_GIB);
  struct gpu_set set;
  mu_error err;
  uint32_t position = 0;
  assert_int_equal(choose(&nothing, &set, &err), MU_OK);
  assert_int_equal(set.n, 2);
  assert_int_equal(gpu_set_find(&gpus, &set, "0", &position, &err), MU_INVALID);
  assert_non_null(strstr(err.message, "GPU-4567"));
  assert_int_equal(gpu_set_find(&gpus, &set, "GPU-45", &position, &err), MU_OK);
  assert_int_equal(position, 1);
}

/* ---- GPU_IDS ----------------------------------------------------------------------------------------------------- */

static void ids_count_in_what_is_visible(void **state) {
  sample_alike(&gpus, 4, SAMPLE_GIB);
  struct gpu_wish plain = ids("2,0", NULL), within = ids("1", "3,2"), of_uuids = ids("0", "GPU-aaaa0003");
  chosen(&plain, "2=2 0=0");
  chosen(&within, "2=1"); /* keeps the number that models know it by */
  chosen(&of_uuids, "3=0");
  struct gpu_wish outside = ids("2", "3,2"), twice = ids("0,0", NULL), uuid = ids("GPU-aaaa0001", NULL),
                  hidden = ids("0", "");
  refused(&outside, "GPU_IDS: there is no GPU 2 among those that are visible: 0 (NVIDIA H200, GPU-aaaa0003), 1 ");
  refused(&twice, "named twice");
  refused(&uuid, "no index into CUDA_VISIBLE_DEVICES");
  refused(&hidden, "visible: none");
}

/* ---- --gpus ------------------------------------------------------------------------------------------------------ */

static void own_option_overrides_the_environment(void **state) {
  sample_alike(&gpus, 6, SAMPLE_GIB);
  struct gpu_wish wish = {"0,2-4", "77", "no,list", NULL};
  chosen(&wish, "0=0 2=2 3=3 4=4");
  wish.gpus = "all";
  chosen(&wish, "0=0 1=1 2=2 3=3 4=4 5=5");
  wish.gpus = "none";
  chosen(&wish, "");
  wish.gpus = "GPU-aaaa0005,GPU-aaaa0001";
  chosen(&wish, "5=5 1=1");
  static const struct {
    const char *text, *words;
  } cases[] = {
      {"6", "there is no GPU \"6\""},
      {"4-6", "there is no GPU \"6\""},
      {"3-1", "neither an index nor a UUID (GPU-…, MIG-…) nor a range"},
      {"1-", "neither"},
      {"0-2,1", "named twice"},
      {"0,GPU-aaaa0001", "mixes"},
      {"-1", "neither"},
      {"", "neither"},
      {"0-99999999", "neither"},
      {"0:0", "there is no GPU \"0:0\""},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct gpu_wish wrong = named(cases[i].text);
    refused(&wrong, cases[i].words);
    refused(&wrong, "--gpus");
  }
}

static void a_machine_without_gpus_refuses_only_named_ones(void **state) {
  memset(&gpus, 0, sizeof gpus);
  snprintf(gpus.error, sizeof gpus.error, "no libnvidia-ml.so.1");
  struct gpu_wish cuda = visible("0"), id = ids("0", NULL), all = named("all"), one = named("0");
  chosen(&nothing, "");
  chosen(&cuda, "");
  chosen(&id, "");
  chosen(&all, "");
  refused(&one, "no GPU here: no libnvidia-ml.so.1");
}

/* ---- MIG, compute mode, lost ------------------------------------------------------------------------------------- */

static void mig_devices_stand_for_their_gpu(void **state) {
  sample_alike(&gpus, 2, SAMPLE_GIB);
  gpus.gpus[1].mig_enabled = true;
  sample_add(&gpus, "MIG-aaaa", "NVIDIA H200 MIG 1g.18gb", 1, SAMPLE_GIB)->mig_index = 0;
  sample_add(&gpus, "MIG-bbbb", "NVIDIA H200 MIG 1g.18gb", 1, SAMPLE_GIB)->mig_index = 1;
  chosen(&nothing, "0=0 2=-1 3=-1");
  struct gpu_wish devices = visible("MIG-bbbb,MIG-aaaa"), parent = visible("1"), parent_uuid = visible("GPU-aaaa0001"),
                  own = named("1:1"), beside = named("0,1:0");
  chosen(&devices, "3=0 2=1");
  chosen(&own, "3=-1");
  chosen(&beside, "0=0 2=-1");
  refused(&parent, "divided into MIG devices and cannot be used as a whole; its devices: MIG-aaaa, MIG-bbbb");
  refused(&parent_uuid, "MIG-bbbb");
}

static void what_cannot_be_used_is_left_out_or_refused(void **state) {
  sample_alike(&gpus, 3, SAMPLE_GIB);
  gpus.gpus[0].compute_mode = GPU_COMPUTE_PROHIBITED;
  gpus.readings[2].lost = true;
  chosen(&nothing, "1=1");
  struct gpu_wish prohibited = visible("0"), lost = named("2");
  refused(&prohibited, "PROHIBITED: nvidia-smi -i 0 -c DEFAULT");
  refused(&lost, "GPU 2 (GPU-aaaa0002) is lost");
  gpus.readings[1].lost = true;
  chosen(&nothing, "");
}

/* ---- members ----------------------------------------------------------------------------------------------------- */

/* GPUs that were lost before anybody could ask them, or that are closed to this process, say neither UUID nor name. */
static void nameless_ones_stand_in_nobodys_way(void **state) {
  sample_alike(&gpus, 4, SAMPLE_GIB);
  for (int i = 1; i < 3; i++) {
    gpus.gpus[i].uuid[0] = gpus.gpus[i].name[0] = '\0';
    gpus.gpus[i].compute_major = gpus.gpus[i].compute_minor = GPU_UNKNOWN;
  }
  gpus.readings[1].lost = true;
  snprintf(gpus.readings[2].error, sizeof gpus.readings[2].error, "no permission");
  chosen(&nothing, "0=0 3=3");
  struct gpu_wish three = visible("3"), lost = visible("0,1"), closed = named("2"), none = visible("7");
  chosen(&three, "3=0");
  refused(&lost, "CUDA_VISIBLE_DEVICES: GPU 1 is lost: the driver does not reach it");
  refused(&closed, "--gpus: GPU 2 cannot be read: no permission");
  refused(&none, "1 (?), 2 (?), 3 (GPU-aaaa0003)");
  snprintf(gpus.gpus[1].name, sizeof gpus.gpus[1].name, "NVIDIA T4"); /* as it was when it was last seen */
  refused(&three, "not all alike");
}

/* What a model or --device names is told as precisely as what the server is told to use. */
static void members_that_cannot_be_used_say_why(void **state) {
  static const struct {
    const char *text, *words;
  } cases[] = {{"0", "GPU 0 is divided into MIG devices and cannot be used as a whole; its devices: MIG-aaaa"},
               {"GPU-aaaa0000", "GPU GPU-aaaa0000 is divided into MIG devices"},
               {"1", "GPU 1 is lost"},
               {"GPU-aaaa", "several GPUs begin with \"GPU-aaaa\""}};
  struct gpu_set set;
  mu_error err;
  uint32_t position;
  sample_alike(&gpus, 3, SAMPLE_GIB);
  gpus.gpus[0].mig_enabled = gpus.readings[1].lost = true;
  sample_add(&gpus, "MIG-aaaa", "NVIDIA H200 MIG 1g", 0, SAMPLE_GIB)->mig_index = 0;
  assert_int_equal(choose(&nothing, &set, &err), MU_OK);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    assert_int_equal(gpu_set_find(&gpus, &set, cases[i].text, &position, &err), MU_NOT_FOUND);
    assert_non_null(strstr(err.message, cases[i].words));
  }
}

static void members_are_found_by_what_they_are_called(void **state) {
  sample_alike(&gpus, 4, SAMPLE_GIB);
  struct gpu_wish wish = visible("3,1");
  struct gpu_set set;
  mu_error err;
  uint32_t position = 9;
  assert_int_equal(choose(&wish, &set, &err), MU_OK);
  assert_int_equal(gpu_set_find(&gpus, &set, "0", &position, &err), MU_OK);
  assert_int_equal(position, 3);
  assert_int_equal(gpu_set_find(&gpus, &set, "GPU-aaaa0001", &position, &err), MU_OK);
  assert_int_equal(position, 1);
  static const struct {
    const char *text;
    mu_status status;
  } cases[] = {{"2", MU_NOT_FOUND}, {"GPU-aaaa0000", MU_NOT_FOUND}, {"99999999999", MU_NOT_FOUND}, {"x", MU_INVALID},
               {"", MU_INVALID},    {"0:0", MU_NOT_FOUND}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    assert_int_equal(gpu_set_find(&gpus, &set, cases[i].text, &position, &err), cases[i].status);
    if (cases[i].status == MU_NOT_FOUND) assert_non_null(strstr(err.message, "GPU-aaaa0003"));
  }
  assert_int_equal(position, 1);
}

static void long_lists_say_that_they_are_cut(void **state) {
  sample_alike(&gpus, GPUS_MAX, SAMPLE_GIB);
  struct gpu_wish wish = visible("128");
  refused(&wish, "more (muster gpus)");
  struct gpu_set set;
  mu_error err;
  char text[100];
  assert_int_equal(choose(&nothing, &set, &err), MU_OK);
  assert_int_equal(set.n, GPUS_MAX);
  gpu_set_describe(&gpus, &set, text, sizeof text);
  assert_string_equal(text, "0 (NVIDIA H200, GPU-aaaa0000), 1 (NVIDIA H200, GPU-aaaa0001) and 126 more (muster gpus)");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(all_where_nothing_is_said),
      cmocka_unit_test(visible_devices_say_which_and_number_them),
      cmocka_unit_test(empty_and_minus_one_say_why_there_is_no_gpu),
      cmocka_unit_test(wrong_visible_devices_are_refused),
      cmocka_unit_test(indices_of_unlike_gpus_need_an_order),
      cmocka_unit_test(models_cannot_number_unlike_gpus_either),
      cmocka_unit_test(ids_count_in_what_is_visible),
      cmocka_unit_test(own_option_overrides_the_environment),
      cmocka_unit_test(a_machine_without_gpus_refuses_only_named_ones),
      cmocka_unit_test(mig_devices_stand_for_their_gpu),
      cmocka_unit_test(what_cannot_be_used_is_left_out_or_refused),
      cmocka_unit_test(nameless_ones_stand_in_nobodys_way),
      cmocka_unit_test(members_that_cannot_be_used_say_why),
      cmocka_unit_test(members_are_found_by_what_they_are_called),
      cmocka_unit_test(long_lists_say_that_they_are_cut),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
