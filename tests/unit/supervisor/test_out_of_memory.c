/* What the supervisor knows and says of GPUs, without memory: a document is whole or there is none, a file is as it
 * was, and the next try works. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "failing_allocator.h"
#include "supervisor/gpu_measurements.h"
#include "supervisor/gpu_room.h"
#include "supervisor/mps.h"

static char folder[] = "/tmp/muster-memory-XXXXXX", model_folder[64], path[64];

static void put(const char *name, const char *text) {
  FILE *file = fopen(name, "w");
  assert_non_null(file);
  assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
  assert_int_equal(fclose(file), 0);
}

static int set_up(void **state) {
  tzset(); /* for the log, once */
  if (mkdtemp(folder) == NULL || chdir(folder) != 0) return -1;
  snprintf(path, sizeof path, "%s/measurements", folder);
  snprintf(model_folder, sizeof model_folder, "%s/m", folder);
  mkdir("m", 0700);
  mkdir("m/a", 0700);
  mkdir("m/a/1", 0700);
  put("m/a/1/model.sim", "");
  put("m/a/config.pbtxt",
      "backend: \"sim\" max_batch_size: 4 input { name: \"x\" data_type: TYPE_FP32 dims: [16] } "
      "output { name: \"y\" data_type: TYPE_FP32 dims: [16] } instance_group { kind: KIND_GPU count: 2 }");
  return 0;
}

static int tear_down(void **state) {
  char command[128];
  snprintf(command, sizeof command, "rm -r %s", folder);
  return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

/* ---- a supervisor with two GPUs, of which one has MPS -------------------------------------------------------------
 */

static struct supervisor s; /* large */

static void begin(void) {
  char *argv[] = {model_folder, "--mps=on", NULL};
  mu_error err;
  memset(&s, 0, sizeof s);
  list_init(&s.models);
  list_init(&s.workers);
  list_init(&s.mps);
  list_init(&s.fleet.processes);
  assert_int_equal(options_load(2, argv, (char *[]){NULL}, &s.options, &err), MU_OK);
  s.loop = net_loop_create();
  assert_non_null(s.loop);
  gpus_simulate(&s.gpus, 2);
  gpu_guard_count(&s.gpus.guards[1], 13);
  s.fleet.state = FLEET_ANSWERING;
}

static void end(void) {
  net_loop_free(s.loop);
  mps_free(&s);
  options_free(s.options);
}

static void add_mps(void) {
  struct mps_gpu *mps = mps_add(&s, s.gpus.inventory.gpus[0].uuid, "gpu:0");
  assert_non_null(mps);
  mps->daemon = 17;
  mps->servers = json_loads("[{\"pid\": 18, \"clients\": [19, 20]}, {\"pid\": 21, \"clients\": []}]", 0, NULL);
  assert_non_null(mps->servers);
}

static json_t *make_gpus(void) { return gpus_json(&s.gpus); }
static json_t *make_mps(void) { return mps_json(&s); }
static json_t *make_fleet(void) { return fleet_json(&s); }

/* context: a function that makes a document. */
static mu_status say(void *context) {
  json_t *(*make)(void) = *(json_t * (**)(void)) context;
  allocations_work();
  begin();
  add_mps();
  json_t *whole = make();
  assert_non_null(whole);
  allocations_fail();
  json_t *said = make();
  allocations_work();
  mu_status status = said != NULL ? MU_OK : MU_NO_MEMORY;
  assert_true(said == NULL || json_equal(said, whole) || make == make_mps);
  if (said != NULL && make == make_mps) { /* where a time is in it */
    json_t *gpus[] = {json_array_get(json_object_get(said, "gpus"), 0),
                      json_array_get(json_object_get(whole, "gpus"), 0)};
    assert_true(json_equal(json_object_get(gpus[0], "servers"), json_object_get(gpus[1], "servers")));
    assert_int_equal(json_object_size(gpus[0]), json_object_size(gpus[1]));
  }
  json_decref(said);
  json_decref(whole);
  end();
  return status;
}

/* Gateways hear all of it or nothing; which of both is logged. */
static mu_status tell(void *context) {
  allocations_work();
  begin();
  allocations_fail();
  gpus_tell(&s);
  allocations_work();
  end();
  return MU_OK;
}

/* ---- a worker that wants to start ----------------------------------------------------------------------------------
 */

static mu_status admit(void *context) {
  struct served_model model = {.name = "a", .supervisor = &s};
  struct worker_group group = {.device = "gpu:GPU-simulated-1", .label = "gpu:1"};
  struct worker worker = {.supervisor = &s, .model = &model, .group = &group};
  allocations_work();
  begin();
  uv_timer_init(net_loop_uv(s.loop), &worker.timer);
  list_push_back(&s.workers, &worker.all);
  allocations_fail();
  bool admitted = mps_admit(&worker);
  allocations_work();
  assert_true(admitted || worker.state == WORKER_FAILED);
  worker.state = WORKER_STARTING;
  assert_true(mps_admit(&worker)); /* the next one */
  assert_int_equal(mps_count(&s), 1);
  list_remove(&worker.all);
  end();
  return admitted ? MU_OK : MU_NO_MEMORY;
}

/* ---- plans ---------------------------------------------------------------------------------------------------------
 */

static mu_status plan(void *context) {
  struct list wanted;
  struct placement_room rooms[GPUS_MAX];
  mu_error err = {{0}};
  allocations_work();
  begin();
  s.cores = 4;
  const struct planning planning = supervisor_planning(&s);
  list_init(&wanted);
  allocations_fail();
  mu_status status = wanted_models_find(s.options, &planning, NULL, &wanted, &err);
  allocations_work();
  if (status == MU_OK) {
    const struct served_model *model = list_item(wanted.next, struct served_model, link);
    allocations_fail();
    gpu_room_check(&planning, &wanted, false, rooms);
    allocations_work();
    if (!model->planned && allocation_has_failed())
      status = MU_NO_MEMORY; /* and it says why */
    else
      assert_true(model->planned && model->plan.n_groups == 2);
    assert_true(model->planned || model->reason[0] != '\0');
  }
  served_models_free(&wanted);
  end();
  return status;
}

/* ---- measurements --------------------------------------------------------------------------------------------------
 */

static void check_kept(const struct gpu_measurements *table, int64_t of_b) {
  assert_int_equal(gpu_measurements_find(table, "a", 1, 10), 1000);
  assert_int_equal(gpu_measurements_find(table, "b", 2, 20), of_b);
}

static mu_status measure(void *context) {
  struct gpu_measurements table = {.n = 0}, kept = {.n = 0};
  mu_error err = {{0}};
  bool is_new = false;
  allocations_work();
  assert_int_equal(gpu_measurements_put(&table, "a", 1, 10, 1000, &is_new, &err), MU_OK);
  assert_int_equal(gpu_measurements_write(&table, path, &err), MU_OK);
  allocations_fail();
  mu_status status = gpu_measurements_put(&table, "b", 2, 20, 2000, &is_new, &err);
  if (status == MU_OK) status = gpu_measurements_write(&table, path, &err);
  bool written = status == MU_OK;
  if (written) status = gpu_measurements_read(&kept, path, &err);
  allocations_work();
  if (status == MU_OK) check_kept(&kept, 2000);
  gpu_measurements_free(&kept);
  assert_int_equal(gpu_measurements_read(&kept, path, &err), MU_OK);
  check_kept(&kept, written ? 2000 : GPU_UNKNOWN); /* as it was, or whole */
  gpu_measurements_free(&kept);
  gpu_measurements_free(&table);
  return status;
}

static void documents(void **state) {
  static json_t *(*const makers[])(void) = {make_gpus, make_mps, make_fleet};
  static const char *const names[] = {"GPUs", "MPS", "the fleet"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) fail_each_allocation(names[i], say, (void *)&makers[i]);
}
static void what_gateways_hear(void **state) { fail_each_allocation("what gateways hear", tell, NULL); }
static void who_may_start(void **state) { fail_each_allocation("who may start", admit, NULL); }
static void plans(void **state) { fail_each_allocation("a plan", plan, NULL); }
static void measurements(void **state) { fail_each_allocation("measurements", measure, NULL); }

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(documents), cmocka_unit_test(what_gateways_hear), cmocka_unit_test(who_may_start),
      cmocka_unit_test(plans),     cmocka_unit_test(measurements),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
